//! Prompts against lm-evaluation-harness: hashes of what its own code builds from the same rows, made by
//! `scripts/lm_eval_prompts.py`.

use serde_json::Value as Json;

use crate::table::{Row, Rows, Value};
use crate::testing::{mirror, mirrored};
use crate::{Request, RequestKind, TaskOptions, hash, mmlu, task};

/// The fixture.
pub fn fixture() -> Json {
    serde_json::from_str(include_str!("../tests/fixtures/lm_eval_prompts.json")).unwrap()
}

/// Last five rows of every category with a made-up `cot_content`, as the script puts them in place of the validation split.
fn made_up(test: &[Row]) -> Rows {
    let mut counts = std::collections::BTreeMap::new();
    let mut rows: Rows = test
        .iter()
        .rev()
        .filter(|row| {
            let count: &mut usize = counts.entry(row.text("category").unwrap()).or_default();
            *count += 1;
            *count <= 5
        })
        .cloned()
        .collect();
    rows.reverse();
    for row in &mut rows {
        let thoughts = format!(
            "A: Let's think step by step. Made up. The answer is ({}).",
            row.text("answer").unwrap()
        );
        row.0.insert("cot_content".into(), Value::Text(thoughts));
    }
    rows
}

/// Every prompt, stop, limit and choice that lm-eval 0.4.13 has for these questions.
fn compare(name: &str, requests: &[Request]) {
    let found = &fixture()["prompts"][name];
    let wanted = found["sha256"].as_object().unwrap();
    assert!(wanted.len() >= 50, "{name}");
    let (first, text) = (&found["first"][0], &found["first"][1]);
    let mut seen = 0;
    for request in requests {
        if request.id == first.as_str().unwrap() {
            assert_eq!(request.prompt, text.as_str().unwrap(), "{name}");
        }
        let Some(hash) = wanted.get(&request.id) else {
            continue;
        };
        seen += 1;
        let own = hash::of_bytes(request.prompt.as_bytes());
        assert_eq!(own, hash.as_str().unwrap(), "{name} {}", request.id);
        match &request.kind {
            RequestKind::Generate {
                stop,
                max_new_tokens,
            } => {
                assert_eq!(Json::from(stop.clone()), found["stop"], "{name}");
                // Where the task file has no limit, lm-eval's models take 256.
                let wanted = found["max_gen_toks"].as_u64().unwrap_or(256);
                assert_eq!(*max_new_tokens as u64, wanted, "{name}");
            }
            RequestKind::Choose { choices } => {
                let wanted = found["choices"].as_array().unwrap();
                let wanted: Vec<String> = wanted
                    .iter()
                    .map(|choice| format!(" {}", choice.as_str().unwrap()))
                    .collect();
                assert_eq!(*choices, wanted, "{name}");
            }
            RequestKind::Classify { .. } => panic!("{name} is not classified"),
        }
    }
    assert_eq!(seen, wanted.len(), "{name}");
}

/// A prompt that differs by a space gives other numbers than the ones it is compared with.
#[test]
fn prompts_are_those_of_lm_eval() {
    let Some(mirror) = mirror() else { return };
    let rows = |dataset: &str, file: &str| {
        mirrored(
            &mirror,
            dataset,
            &format!("datasets/{file}-00000-of-00001.parquet"),
        )
    };
    let asked = |name: &str, variant: &str, shots, test: &[Row], shown: &[Row]| {
        let options = TaskOptions {
            variant: Some(variant.into()),
            shots: Some(shots),
            ..TaskOptions::default()
        };
        task(name, &options).unwrap().requests(test, shown).unwrap()
    };
    let gsm8k = rows("gsm8k", "openai/gsm8k/main/test");
    compare("gsm8k", &asked("gsm8k", "zero_shot", 0, &gsm8k, &[]));
    compare("gsm8k_cot", &asked("gsm8k", "cot", 8, &gsm8k, &[]));
    let humaneval = rows("humaneval", "openai/openai_humaneval/openai_humaneval/test");
    compare(
        "humaneval",
        &asked("humaneval", "lm_eval", 0, &humaneval, &[]),
    );
    let [dev, test] = ["dev", "test"].map(|split| rows("mmlu", &format!("cais/mmlu/all/{split}")));
    compare("mmlu", &asked("mmlu", "lm_eval", 5, &test, &dev));
    let test = rows("mmlu_pro", "TIGER-Lab/MMLU-Pro/data/test");
    compare("mmlu_pro", &asked("mmlu_pro", "cot", 0, &test, &[]));
    let shown = made_up(&test);
    compare(
        "mmlu_pro_5_shot",
        &asked("mmlu_pro", "cot", 5, &test, &shown),
    );
}

/// Every subject is in the area that lm-eval counts it to.
#[test]
fn areas_are_those_of_lm_eval() {
    let fixture = fixture();
    let wanted = fixture["mmlu_areas"].as_object().unwrap();
    let mut count = 0;
    for (area, subjects) in mmlu::AREAS {
        for subject in subjects {
            assert_eq!(wanted[*subject], area, "{subject}");
            count += 1;
        }
    }
    assert_eq!((count, wanted.len()), (57, 57));
}
