//! `sharelora bench`, through the binary, on a model of some ten thousand parameters.

mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use support::{Output, Project};

const WEIGHTS: &str = "models/tiny/model.safetensors";

/// A project with questions and answers of different lengths.
fn project() -> Project {
    let project = Project::new();
    let mut lines = String::new();
    for i in 0..12 {
        let more = "and one more ".repeat(i % 4);
        lines +=
            &format!("{{\"question\": \"How many is {i} {more}?\", \"answer\": \"It is {i}.\"}}\n");
    }
    project.write("questions.jsonl", lines);
    project
}

fn fields(output: &Output) -> Value {
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert_eq!(output.out.trim_end().lines().count(), 1, "{}", output.out);
    serde_json::from_str(&output.out).unwrap()
}

/// The comparison reads these names from both programs.
const PEER_FIELDS: [&str; 9] = [
    "strategy",
    "trainable",
    "ms_per_step",
    "ms_min",
    "tokens_per_s",
    "real_tokens",
    "start_to_first_step_s",
    "peak_rss_mib",
    "loss_first_last",
];

#[test]
fn training_prints_the_fields_of_the_peer() {
    let project = project();
    let train = [
        "bench", "train", "--model", WEIGHTS, "--steps", "4", "--rank", "2", "--json",
    ];
    let dense = [
        &train[..],
        &["--batch", "2", "--seq", "16", "--method", "share_a"],
    ]
    .concat();
    let found = fields(&project.run(&dense));
    for name in PEER_FIELDS {
        assert!(found.get(name).is_some(), "{name}: {found}");
    }
    assert_eq!(found["strategy"], "share_a");
    // q (32 -> 32) and v (32 -> 16) of 3 layers at rank 2, one A each for all layers.
    assert_eq!(found["trainable"], 2 * (32 + 32) + 3 * 2 * (32 + 16));
    assert_eq!(found["real_tokens"], 4 * 2 * 16);
    let speed = |found: &Value, tokens: f64| 1e3 * tokens / found["ms_per_step"].as_f64().unwrap();
    let stated = found["tokens_per_s"].as_f64().unwrap();
    let near = speed(&found, 32.0);
    // Milliseconds are rounded to a tenth.
    assert!((stated / near - 1.0).abs() < 0.1, "{stated} {near}");

    let real = [&train[..], &["--batch", "3", "--gsm8k", "questions.jsonl"]].concat();
    let found = fields(&project.run(&real));
    // Every row of the file, whatever its length.
    assert!(found["real_tokens"].as_u64().unwrap() > 12 * 20, "{found}");
    assert!(found["product_gflop"].is_null(), "{found}");
    let again = fields(&project.run(&real));
    assert_eq!(found["loss_first_last"], again["loss_first_last"]);
    // The experiment's name stands for its model.
    let mut named = real.clone();
    named[3] = "tiny";
    assert_eq!(
        fields(&project.run(&named))["loss_first_last"],
        found["loss_first_last"]
    );
}

/// Packed or padded, kept or computed again: the same losses, or the price of a switch is that of other work.
#[test]
fn switches_do_not_change_the_work() {
    let project = project();
    let train = [
        "bench", "train", "--model", WEIGHTS, "--steps", "4", "--batch", "3", "--json",
    ];
    let train = [&train[..], &["--gsm8k", "questions.jsonl"]].concat();
    let losses = |flags: &[&str]| {
        let found = fields(&project.run(&[&train[..], flags].concat()));
        [0, 1].map(|i| found["loss_first_last"][i].as_f64().unwrap())
    };
    let plain = losses(&[]);
    for flags in [
        &["--padded"][..],
        &["--gradient-checkpointing"],
        &["--dtype", "stored"],
    ] {
        for (plain, switched) in plain.iter().zip(losses(flags)) {
            assert!(
                (plain - switched).abs() < 2e-4,
                "{flags:?}: {plain} {switched}"
            );
        }
    }
}

#[test]
fn people_get_a_table() {
    let project = project();
    let output = project.succeed(&["bench", "machine", "--size", "64", "--mib", "1"]);
    assert!(
        output.out.contains("gemm_gflops") && !output.out.contains('{'),
        "{}",
        output.out
    );
}

#[test]
fn generation_and_loading_are_measured() {
    let project = project();
    let generate = [
        "bench",
        "generate",
        "--model",
        WEIGHTS,
        "--prompts",
        "questions.jsonl",
    ];
    let found =
        fields(&project.run(&[&generate[..], &["--n", "5", "--new", "7", "--json"]].concat()));
    // The end-of-text token ends nothing here.
    assert_eq!(found["new_tokens"], 5 * 7);
    assert!(found["prompt_tokens"].as_u64().unwrap() > 5 * 5, "{found}");
    let found = fields(&project.run(&["bench", "load", "--model", WEIGHTS, "--json"]));
    assert!(found["parameters"].as_u64().unwrap() > 10_000, "{found}");
}

#[test]
fn wrong_arguments_are_refused() {
    let project = project();
    let train =
        |rest: &[&str]| project.run(&[&["bench", "train", "--model", WEIGHTS][..], rest].concat());
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--steps", "2"], 2, "--steps"),
        (&["--method", "full"], 2, "no adapter"),
        (&["--method", "share_c"], 2, "did you mean"),
        (&["--targets", "q_prj"], 2, "q_proj"),
        (
            &["--gsm8k", "questions.jsonl"],
            2,
            "12 rows, and 48 are needed",
        ),
        (&["--gsm8k", "absent.parquet"], 3, "absent.parquet"),
        (&["--config", "absent.json"], 3, "absent.json"),
    ];
    for (rest, code, text) in cases {
        let output = train(rest);
        assert_eq!(output.code, Some(code), "{rest:?}: {}", output.err);
        assert!(
            output.err.contains(text) && !output.err.contains("panicked"),
            "{}",
            output.err
        );
    }
    let output = project.run(&["bench", "train", "--model", "absent.gguf"]);
    assert_eq!(output.code, Some(3), "{}", output.err);
    let output = project.run(&["bench", "train", "--model", "tny"]);
    assert_eq!(output.code, Some(2), "{}", output.err);
    assert!(
        output.err.contains("did you mean `tiny`?"),
        "{}",
        output.err
    );
    let output = project.run(&["bench", "report"]);
    assert_eq!(output.code, Some(3), "{}", output.err);
}

/// Stands for Python: answers the question for versions, trains and generates in no time, and fails while a file is there.
const PYTHON: &str = r#"#!/bin/sh
case "$1" in
-c) echo "torch 0.0.0" ;;
*generate*)
    test ! -e fails || { echo "no memory" >&2; exit 1; }
    echo '{"prompt_tokens": 1, "new_tokens_per_s": 10.0, "peak_rss_mib": 1000}' ;;
*)
    echo "a warning"
    echo '{"tokens_per_s": 10.0, "peak_rss_mib": 1000, "start_to_first_step_s": 100.0, "ms_per_step": 1.0}' ;;
esac
"#;

/// What failed is said, left out of the report and run again; what is done is not.
#[test]
fn the_comparison_goes_on_where_it_stopped() {
    let project = project();
    project.write("venv/python", PYTHON);
    let python = project.path("venv/python");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["train.py", "generate.py", "requirements.txt"] {
        project.write(&format!("scripts/peer_{name}"), "torch==0.0.0\n");
    }
    // Told by content, but the peer's scripts read GGUF alone, and that is looked at by name.
    std::fs::copy(project.path(WEIGHTS), project.path("models/tiny/tiny.gguf")).unwrap();
    let quick = |only: &str| {
        project.run(&[
            "bench",
            "peer",
            "--quick",
            "--python",
            "venv/python",
            "--model",
            "models/tiny/tiny.gguf",
            "--gsm8k",
            "questions.jsonl",
            "--prompts",
            "questions.jsonl",
            "--only",
            only,
        ])
    };
    let lines = || -> Vec<Value> {
        let text = String::from_utf8(project.read("reports/performance-quick/measurements.jsonl"))
            .unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let done = |block: &str| lines().iter().filter(|l| l["block"] == block).count();
    let output = project.run(&[
        "bench",
        "peer",
        "--python",
        "venv/python",
        "--only",
        "densest",
    ]);
    assert_eq!(output.code, Some(2), "{}", output.err);

    project.write("fails", "");
    let output = quick("gener");
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(output.err.contains("no memory"), "{}", output.err);
    assert_eq!((done("generation"), done("machine")), (2, 2));
    std::fs::remove_file(project.path("fails")).unwrap();
    let output = quick("gener");
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert_eq!(done("generation"), 4);
    assert_eq!(quick("gener").code, Some(0));
    assert_eq!((done("generation"), done("machine")), (4, 4));

    let readme = String::from_utf8(project.read("reports/performance-quick/README.md")).unwrap();
    for part in [
        "too short to judge",
        "not measured",
        "torch 0.0.0",
        "A quick run",
    ] {
        assert!(readme.contains(part), "{part}: {readme}");
    }
    let root = project.root().to_string_lossy().into_owned();
    for line in lines() {
        assert!(!line.to_string().contains(&root), "{line}");
    }
}
