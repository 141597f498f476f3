//! From stored samples to paired comparisons: the statistics against scipy's, the files, the report, lm_eval's layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use sharelora_report::difference::{Test, binary, holm, mcnemar, newcombe_paired};
use sharelora_report::*;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/statistics.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

#[track_caller]
fn assert_near(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (a, b) in found.iter().zip(wanted) {
        assert!((a - b).abs() <= tolerance, "{found:?} is not {wanted:?}");
    }
}

/// Closed forms give the numbers of scipy and statsmodels (`scripts/statistics_reference.py`).
#[test]
fn closed_forms_match_the_reference() {
    let fixture = fixture();
    for case in list(&fixture, "wilson") {
        let (count, n) = (case["count"].as_f64().unwrap(), case["n"].as_u64().unwrap());
        let (low, high) = statistics::wilson(count / n as f64, n);
        assert_near(&[low, high], &numbers(&case["interval"]), 1e-9);
    }
    for case in list(&fixture, "mcnemar") {
        let of = |key: &str| case[key].as_u64().unwrap();
        let (p, wanted) = (
            mcnemar(of("first"), of("second")),
            case["p"].as_f64().unwrap(),
        );
        assert!((p - wanted).abs() <= 1e-9 * wanted, "{p} is not {wanted}");
    }
    for case in list(&fixture, "newcombe_paired") {
        let table: Vec<u64> = numbers(&case["table"]).iter().map(|n| *n as u64).collect();
        let (low, high) = newcombe_paired(table[0], table[1], table[2], table[3]).unwrap();
        assert_near(&[low, high], &numbers(&case["interval"]), 1e-9);
    }
    for case in list(&fixture, "holm") {
        assert_near(
            &holm(&numbers(&case["p"])),
            &numbers(&case["corrected"]),
            1e-9,
        );
    }
    // Newcombe 1998, Statistics in Medicine 17:2635, table II.
    let (low, high) = newcombe_paired(36, 12, 2, 0).unwrap();
    assert_near(&[low, high], &[0.0569, 0.3404], 5e-5);
}

/// The bootstrap agrees with scipy's of ten times as many resamples, within what its own number of resamples leaves open.
#[test]
fn the_bootstrap_matches_the_reference() {
    let fixture = fixture();
    let case = &fixture["bootstrap"];
    let (first, second) = (numbers(&case["first"]), numbers(&case["second"]));
    let means = bootstrap::resampled_means(&[&first, &second], 0);
    let (low, high) = bootstrap::percentile_interval(&means[0]).unwrap();
    let wanted = numbers(&case["mean"]);
    assert_near(&[low, high], &wanted, 0.04 * (wanted[1] - wanted[0]));

    let value = statistics::mean(&first).unwrap() - statistics::mean(&second).unwrap();
    let found = bootstrapped([&first, &second], &[]);
    assert!((found.value - value).abs() < 1e-12);
    let (low, high) = found.interval.unwrap();
    let wanted = numbers(&case["difference"]);
    assert_near(&[low, high], &wanted, 0.04 * (wanted[1] - wanted[0]));
    let (p, wanted) = (found.p.unwrap(), case["p"].as_f64().unwrap());
    assert!(
        (p - wanted).abs() < 0.2 * wanted + 0.002,
        "{p} is not {wanted}"
    );

    // The general form draws the same questions.
    let pairs: Vec<(f64, f64)> = first.into_iter().zip(second).collect();
    let difference = bootstrap::resample(pairs.len(), 0, |questions| {
        let sum: f64 = questions.iter().map(|q| pairs[*q].0 - pairs[*q].1).sum();
        Some(sum / questions.len() as f64)
    });
    let (other_low, other_high) = bootstrap::percentile_interval(&difference).unwrap();
    assert_near(&[low, high], &[other_low, other_high], 1e-12);
}

/// A report must not depend on the machine it is made on.
#[test]
fn threads_do_not_change_the_bootstrap() {
    let values: Vec<f64> = (0..60).map(|i| f64::from(i * i % 17)).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().unwrap();
        pool.install(|| bootstrap::resampled_means(&[&values], 3))
    };
    assert!(with(1) == with(3));
}

proptest! {
    #[test]
    fn mcnemar_is_a_symmetric_probability(a in 0u64..3000, b in 0u64..3000) {
        let p = mcnemar(a, b);
        prop_assert!((0.0..=1.0).contains(&p));
        prop_assert_eq!(p, mcnemar(b, a));
    }

    #[test]
    fn newcombe_holds_the_difference_and_turns_with_it(table in prop::array::uniform4(0u64..400)) {
        let [both, first, second, neither] = table;
        let n = table.iter().sum::<u64>() as f64;
        prop_assume!(n > 0.0);
        let (low, high) = newcombe_paired(both, first, second, neither).unwrap();
        let value = (first as f64 - second as f64) / n;
        prop_assert!(low <= value + 1e-12 && value <= high + 1e-12, "{} {} {}", low, value, high);
        prop_assert!(low >= -1.0 - 1e-12 && high <= 1.0 + 1e-12);
        let (other_low, other_high) = newcombe_paired(both, second, first, neither).unwrap();
        prop_assert!((low + other_high).abs() < 1e-12 && (high + other_low).abs() < 1e-12);
    }

    #[test]
    fn holm_is_between_the_value_and_bonferroni(p in prop::collection::vec(0.0f64..=1.0, 1..12)) {
        for (raw, corrected) in p.iter().zip(holm(&p)) {
            prop_assert!(*raw <= corrected && corrected <= (raw * p.len() as f64).min(1.0) + 1e-12);
        }
    }

    #[test]
    fn percentiles_hold_the_middle(values in prop::collection::vec(-9.0f64..9.0, 1..80)) {
        let (low, high) = bootstrap::percentile_interval(&values).unwrap();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        prop_assert!(sorted[0] <= low && low <= middle && middle <= high && high <= sorted[sorted.len() - 1]);
    }
}

fn bootstrapped(grades: [&[f64]; 2], seeds: &[(f64, usize)]) -> Difference {
    let means = bootstrap::resampled_means(&grades, 0);
    let side = |place: usize| difference::Resampled {
        grades: grades[place],
        means: &means[place],
    };
    difference::bootstrapped(side(0), side(1), seeds).unwrap()
}

/// No call of two methods different against the interval or the corrected p-value.
#[test]
fn one_function_decides() {
    let with = |interval, p, corrected| Difference {
        value: 0.1,
        interval,
        p,
        corrected,
        test: Test::McNemar,
    };
    assert_eq!(differs(&with(None, Some(0.001), None)), None);
    assert_eq!(
        differs(&with(Some((0.01, 0.2)), Some(0.01), Some(0.04))),
        Some(true)
    );
    assert_eq!(
        differs(&with(Some((0.01, 0.2)), Some(0.01), Some(0.06))),
        Some(false)
    );
    assert_eq!(
        differs(&with(Some((-0.01, 0.2)), Some(0.01), Some(0.01))),
        Some(false)
    );
    assert_eq!(differs(&with(Some((-0.2, -0.01)), None, None)), Some(true));
    // Ten more right, none less; five are too few for the test though Newcombe's interval leaves out 0.
    let grades = |right: usize| -> Vec<f64> { (0..50).map(|i| f64::from(i < right)).collect() };
    assert_eq!(differs(&binary(&grades(20), &grades(10))), Some(true));
    assert_eq!(differs(&binary(&grades(15), &grades(10))), Some(false));
    // Seeds that scatter make a difference of questions uncertain; seeds that agree do not.
    let over = |seeds| differs(&bootstrapped([&grades(20), &grades(10)], seeds));
    assert_eq!(over(&[]), Some(true));
    assert_eq!(over(&[(0.01, 2), (0.02, 3)]), Some(true));
    assert_eq!(over(&[(0.1, 2), (0.1, 2)]), Some(false));
    // Five differing questions are too few for a bootstrap too.
    let few = bootstrapped([&grades(15), &grades(10)], &[]);
    assert_eq!((few.p, differs(&few)), (Some(0.0625), Some(false)));
    let same = bootstrapped([&grades(10), &grades(10)], &[]);
    assert_eq!((same.p, differs(&same)), (Some(1.0), Some(false)));
}

/// One line of a samples file.
fn line(id: &str, grades: Value) -> String {
    let answer = json!({"text": format!("answer {id}")});
    let sample = json!({
        "id": id, "prompt": format!("question {id}"), "reference": format!("right {id}"), "group": null,
        "answer": answer, "tokens": 3, "grades": grades,
    });
    sample.to_string() + "\n"
}

#[test]
fn samples_of_a_question_are_averaged() {
    let folder = tempfile::tempdir().unwrap();
    let text = line("17#0", json!({"right": 1.0}))
        + &line("3", json!({"right": 1.0, "other": null}))
        + "\n"
        + &line("17#1", json!({"right": 0.0}));
    fs::write(folder.path().join("samples-a.jsonl"), &text).unwrap();
    let found = &read_run_grades(folder.path()).unwrap()["a"];
    assert_eq!(found.answers, 3);
    assert_eq!(found.questions.keys().collect::<Vec<_>>(), ["17", "3"]);
    assert_eq!(
        found.by_name["right"].values().collect::<Vec<_>>(),
        [&0.5, &1.0]
    );
    assert!(found.by_name["other"].is_empty());
    assert_eq!(samples::question("17#x"), "17#x");
    assert_eq!(samples::question("a#"), "a#");
    let whole = read_samples(&folder.path().join("samples-a.jsonl")).unwrap();
    assert_eq!(whole.len(), 3);
    assert_eq!(whole[1].grades["other"], None);
}

/// Compressed samples, of one frame or several, are read as the plain ones are.
#[test]
fn zstd_frames_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..50)
        .map(|i| line(&i.to_string(), json!({"right": i % 2})))
        .collect();
    let frame = |lines: &[String]| zstd::encode_all(lines.concat().as_bytes(), 3).unwrap();
    let mut frames = frame(&lines[..20]);
    frames.extend(frame(&lines[20..]));
    fs::write(folder.path().join("samples-two.jsonl.zst"), &frames).unwrap();
    fs::write(folder.path().join("samples-one.jsonl.zst"), frame(&lines)).unwrap();
    fs::write(folder.path().join("samples-plain.jsonl"), lines.concat()).unwrap();
    let found = read_run_grades(folder.path()).unwrap();
    assert_eq!(found.len(), 3);
    assert!(found["two"] == found["plain"] && found["one"] == found["plain"]);

    frames.truncate(frames.len() - 9);
    fs::write(folder.path().join("samples-two.jsonl.zst"), &frames).unwrap();
    let error = read_run_grades(folder.path()).unwrap_err().to_string();
    assert!(error.contains("samples-two.jsonl.zst:"), "{error}");
}

#[test]
fn a_damaged_samples_file_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples-a.jsonl");
    let good = line("0", json!({"right": 1.0}));
    for bad in [
        "{\"id\": \"1\"",
        "{\"id\": \"1\"}",
        "\u{1}",
        "{\"id\": 1, \"grades\": {}}",
    ] {
        fs::write(&path, format!("{good}{bad}\n{good}")).unwrap();
        let error = read_run_grades(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("samples-a.jsonl:2: not a valid sample"),
            "{error}"
        );
    }
}

/// A run's folder with a record and, where there are grades, a samples file.
fn store(
    results: &Path,
    method: &str,
    seed: u64,
    metric: &str,
    value: f64,
    grades: Option<&[f64]>,
) -> PathBuf {
    let n = grades.map_or(300, <[f64]>::len);
    let error = grades
        .and_then(statistics::standard_deviation)
        .unwrap_or((value * (1.0 - value)).sqrt())
        / (n as f64).sqrt();
    let record = json!({
        "schema": 1, "experiment": "made-up", "run": format!("{method}-seed{seed}"), "hash": "00", "status": "finished",
        "message": null, "model": "Tiny", "method": method, "seed": seed, "backend": "flex",
        "axes": {"method": method}, "trainable_parameters": if method == "base" { 0 } else { 100 },
        "config": {"evaluate": [{"task": "gsm8k", "options": {"shots": 0, "limit": 300}, "batch_size": 4}]},
        "adapter_bytes": 0, "base_parameters": 1000, "steps": 1, "train_loss": null, "held_out_loss": null,
        "held_out_loss_before": null, "best_step": null,
        "metrics": {format!("gsm8k/{metric}"): {
    "value": value, "stderr": error, "n": n,
        }},
        "data": {}, "versions": {"task gsm8k/zero_shot": "1"}, "git_commit": "abc",
        "host": {"cpu": "", "cores": 1, "memory_bytes": 1, "os": ""},
        "started_at": "2026-11-23T21:40:27Z", "finished_at": "2026-11-23T21:44:17Z", "seconds": {"evaluate": 2.5},
        "tokens_per_second": null, "peak_memory_bytes": 1048576,
    });
    let folder = results.join(format!("{method}-seed{seed}"));
    let record: Record = serde_json::from_value(record).unwrap();
    write_record(&folder.join("record.json"), &record).unwrap();
    if let Some(grades) = grades {
        let lines: String = (0..n)
            .map(|i| line(&i.to_string(), json!({metric: grades[i]})))
            .collect();
        fs::write(folder.join("samples-gsm8k.jsonl"), lines).unwrap();
    }
    folder
}

/// The first `right` of 300 right, but that `turned` of the first are wrong.
fn right(right: usize, turned: usize) -> Vec<f64> {
    (0..300)
        .map(|i| f64::from(i >= turned && i < right + turned))
        .collect()
}

fn mean(grades: &[f64]) -> f64 {
    statistics::mean(grades).unwrap()
}

/// 0/1 grades of one seed: McNemar's test against LoRA decides in table, words and CSV, and finds what independent intervals do
/// not.
#[test]
fn one_seed_is_compared_by_mcnemar() {
    let folder = tempfile::tempdir().unwrap();
    for (method, grades) in [
        ("lora", right(90, 0)),
        ("share_a", right(88, 1)),
        ("share_b", right(76, 0)),
    ] {
        store(
            folder.path(),
            method,
            0,
            "exact_match_strict",
            mean(&grades),
            Some(&grades),
        );
    }
    let runs = read_experiment(folder.path()).unwrap();
    let found = compare("", &runs);
    insta::assert_snapshot!(found.table.render(Format::Markdown), @r#"
| Method | Trainable parameters | of LoRA (%) | Held-out loss | gsm8k/exact\_match\_strict (%, n = 300) | gsm8k/exact\_match\_strict − LoRA (points) | Tokens/s | Peak memory (MiB) | Runs |
| :-- | --: | --: | --: | --: | --: | --: | --: | :-- |
| LoRA | 100 | 100.0 | - | 30.0 ± 2.7 (25.1 to 35.4) | - | - | 1 | 1 finished |
| ShareA | 100 | 100.0 | - | 29.3 ± 2.6 (24.5 to 34.7) | −0.7 (−1.9 to 0.6), p = 0.500 | - | 1 | 1 finished |
| ShareB | 100 | 100.0 | - | 25.3 ± 2.5 (20.7 to 30.5) | −4.7 (−7.2 to −2.2), p \< 0.001 | - | 1 | 1 finished |

- gsm8k/exact\_match\_strict − LoRA (points): difference on the same 300 questions with its 95 % interval; p by McNemar's exact test, Holm-corrected for 2 comparisons with LoRA. It counts where the interval leaves out 0 and p is below 0.05.
- ± of a metric is its standard error, in brackets stands the 95 % interval.
"#);
    insta::assert_snapshot!(found.table.render(Format::Csv), @r#"
Method,Trainable parameters,of LoRA (%),Held-out loss,"gsm8k/exact_match_strict (%, n = 300)","gsm8k/exact_match_strict (%, n = 300) ±","gsm8k/exact_match_strict (%, n = 300) low","gsm8k/exact_match_strict (%, n = 300) high",gsm8k/exact_match_strict − LoRA (points),gsm8k/exact_match_strict − LoRA (points) low,gsm8k/exact_match_strict − LoRA (points) high,gsm8k/exact_match_strict − LoRA (points) p,Tokens/s,Peak memory (MiB),Runs
LoRA,100,100,-,30,2.6501719513,25.0939663785,35.4117524705,,,,,-,1,1 finished
ShareA,100,100,-,29.3333333333,2.6330094491,24.4686340828,34.7206087278,-0.6666666667,-1.9134082314,0.5546565023,0.5,-,1,1 finished
ShareB,100,100,-,25.3333333333,2.5152082938,20.7449750205,30.54541156,-4.6666666667,-7.229515838,-2.1848696821,0.0002441406,-,1,1 finished
"#);
    let verdict = found.judge_metric("gsm8k/exact_match_strict");
    assert!(verdict.judged && verdict.best.is_none());
    assert_eq!(verdict.pairs, [(0, 2), (1, 2)]);

    let spec = ReportSpec::default();
    let paths = write_report(folder.path(), &folder.path().join(".out"), &spec).unwrap();
    let text = fs::read_to_string(paths.report).unwrap();
    let words = text
        .lines()
        .find(|line| line.starts_with("gsm8k/"))
        .unwrap();
    insta::assert_snapshot!(words, @r#"gsm8k/exact\_match\_strict: LoRA 30.0 % (95 % interval 25.1 to 35.4); ShareA 29.3 % (95 % interval 24.5 to 34.7); ShareB 25.3 % (95 % interval 20.7 to 30.5). Against LoRA, in points: ShareA −0.7 (−1.9 to 0.6), p = 0.500, not different; ShareB −4.7 (−7.2 to −2.2), p \< 0.001, different. In gsm8k/exact\_match\_strict these differences count: LoRA over ShareB; ShareA over ShareB."#);
    assert!(text.contains("McNemar's exact test") && !text.contains("paired bootstrap"));
}

/// Several seeds, and grades between 0 and 1, are compared by a bootstrap over questions; settings without samples as independent.
#[test]
fn seeds_are_paired_by_question() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..3 {
        let few = seed as usize;
        for (method, grades) in [
            ("lora", right(90 + few, 0)),
            ("share_a", right(60 + few, 3)),
            ("share_b", right(91 + few, 0)),
        ] {
            let kept = (method != "share_b" || seed > 0).then_some(grades.as_slice());
            store(
                folder.path(),
                method,
                seed,
                "exact_match_strict",
                mean(&grades),
                kept,
            );
        }
    }
    let found = compare("", &read_experiment(folder.path()).unwrap());
    insta::assert_snapshot!(found.table.render(Format::Markdown), @r#"
| Method | Trainable parameters | of LoRA (%) | Held-out loss | gsm8k/exact\_match\_strict (%, n = 300) | gsm8k/exact\_match\_strict − LoRA (points) | Tokens/s | Peak memory (MiB) | Runs |
| :-- | --: | --: | --: | --: | --: | --: | --: | :-- |
| LoRA | 100 | 100.0 | - | 30.3 ± 2.7 (25.4 to 35.8) | - | - | 1 | 3 finished |
| ShareA | 100 | 100.0 | - | 20.3 ± 2.3 (16.2 to 25.3) | −10.0 (−13.6 to −6.6), p \< 0.001 | - | 1 | 3 finished |
| ShareB | 100 | 100.0 | - | 30.7 ± 2.7 (25.7 to 36.1) | +0.3 (−7.0 to 7.7), not paired | - | 1 | 3 finished |

- gsm8k/exact\_match\_strict − LoRA (points): difference on the same 300 questions with its 95 % interval; p by a paired bootstrap of 10,000 resamples of the questions, Holm-corrected for 1 comparison with LoRA. It counts where the interval leaves out 0 and p is below 0.05. Not paired: samples of the same questions are missing; the interval is that of a difference of independent results.
- ± of a metric is its standard error, in brackets stands the 95 % interval.
- Values are means over seeds; ± of the held-out loss is the standard deviation over seeds.
"#);
    let pairs = &found.pairs["gsm8k/exact_match_strict"];
    let (reference, share_a) = pairs.to_reference(1).unwrap();
    assert_eq!((reference, share_a.test), (0, Test::PairedBootstrap));
    assert_eq!(pairs.to_reference(2).unwrap().1.test, Test::Unpaired);
    // By hand: 30 of 300 less, 33 changed; the seeds' deviation is 1 of 300 on both sides.
    assert!((share_a.value + 0.1).abs() < 1e-12);
    let (low, high) = share_a.interval.unwrap();
    let of_questions = (33.0f64 / 300.0 - 0.01) / 300.0;
    let error = (of_questions + 2.0 / 300f64.powi(2) / 3.0).sqrt();
    assert_near(
        &[low, high],
        &[-0.1 - 1.96 * error, -0.1 + 1.96 * error],
        0.005,
    );
}

/// Grades between 0 and 1 have a bootstrapped interval, and too few questions are not paired.
#[test]
fn graded_answers_are_bootstrapped() {
    let grades = |shift: f64, n: usize| -> Vec<f64> {
        (0..n)
            .map(|i| (i * 7 % 10) as f64 / 10.0 * 0.8 + shift * f64::from(i % 3 != 0))
            .collect()
    };
    for (n, test) in [(300, Test::PairedBootstrap), (15, Test::Unpaired)] {
        let folder = tempfile::tempdir().unwrap();
        for (method, shift) in [("lora", 0.1), ("share_a", 0.15)] {
            let grades = grades(shift, n);
            store(
                folder.path(),
                method,
                0,
                "word_f1",
                mean(&grades),
                Some(&grades),
            );
        }
        let found = compare("", &read_experiment(folder.path()).unwrap());
        let (_, difference) = found.pairs["gsm8k/word_f1"].to_reference(1).unwrap();
        assert_eq!(difference.test, test);
        if test == Test::PairedBootstrap {
            // A constant shift on two thirds of the questions: certain when paired, lost when not.
            assert_eq!(differs(&difference), Some(true));
            let lora = &found.rows[0].metrics["gsm8k/word_f1"];
            let error =
                statistics::standard_deviation(&grades(0.1, n)).unwrap() / (n as f64).sqrt();
            let (low, high) = lora.interval.unwrap();
            assert_near(
                &[low, high],
                &[lora.mean - 1.96 * error, lora.mean + 1.96 * error],
                0.15 * error,
            );
        }
    }
}

/// Answers to other questions, or grades that are not what the metric is the mean of, are not paired.
#[test]
fn other_questions_are_not_paired() {
    let folder = tempfile::tempdir().unwrap();
    let lora = right(90, 0);
    store(
        folder.path(),
        "lora",
        0,
        "exact_match_strict",
        mean(&lora),
        Some(&lora),
    );
    store(
        folder.path(),
        "share_a",
        0,
        "exact_match_strict",
        mean(&lora[..299]),
        Some(&lora[..299]),
    );
    store(
        folder.path(),
        "share_b",
        0,
        "exact_match_strict",
        mean(&lora) + 0.01,
        Some(&lora),
    );
    let found = compare("", &read_experiment(folder.path()).unwrap());
    assert_eq!(
        found.pairs["gsm8k/exact_match_strict"].tests(),
        [Test::Unpaired]
    );
    assert_eq!(found.reference("gsm8k/exact_match_strict"), None);
    let note = "Not paired, for want of samples of the same questions: gsm8k/exact_match_strict.";
    assert!(
        found.table.notes.iter().any(|n| n.starts_with(note)),
        "{:?}",
        found.table.notes
    );
}

/// The layout of lm_eval 0.4.13; `scripts/statistics_reference.py lm-eval FOLDER` reads what this test writes into the folder
/// that `SHARELORA_LM_EVAL` names.
#[test]
fn a_run_in_the_layout_of_lm_eval() {
    let folder = tempfile::tempdir().unwrap();
    let grades = right(90, 0);
    let run = store(
        folder.path(),
        "lora",
        0,
        "exact_match_strict",
        mean(&grades),
        Some(&grades),
    );
    let record = read_record(&run.join("record.json")).unwrap();
    let out =
        std::env::var_os("SHARELORA_LM_EVAL").map_or(folder.path().join("out"), PathBuf::from);
    let written = write_lm_eval(&record, &run, &out).unwrap();
    let names: Vec<String> = written
        .iter()
        .map(|path| path.strip_prefix(&out).unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "Tiny__lora-seed0/results_2026-11-23T21-40-27.json",
            "Tiny__lora-seed0/samples_gsm8k_2026-11-23T21-40-27.jsonl"
        ]
    );
    let results: Value = serde_json::from_str(&fs::read_to_string(&written[0]).unwrap()).unwrap();
    let task = &results["results"]["gsm8k"];
    assert_eq!(task["exact_match,strict-match"], json!(0.3));
    assert_eq!(task["sample_len"], json!(300));
    assert_eq!(results["n-shot"]["gsm8k"], json!(0));
    assert_eq!(results["n-samples"]["gsm8k"], json!({"effective": 300}));
    assert_eq!(results["versions"]["gsm8k"], json!(1));
    assert_eq!(
        results["higher_is_better"]["gsm8k"]["exact_match"],
        json!(true)
    );
    assert_eq!(results["date"], json!(1_795_470_027.0));
    let samples = fs::read_to_string(&written[1]).unwrap();
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert_eq!(first["resps"], json!([["answer 0"]]));
    assert_eq!(first["filter"], json!("strict-match"));
    assert_eq!(
        (first["doc_id"].as_u64(), first["exact_match"].as_f64()),
        (Some(0), Some(1.0))
    );
    assert_eq!(samples.lines().count(), 300);
}

/// Metrics of groups become tasks of lm_eval's group, and answers that are numbers requests of their own.
#[test]
fn groups_and_choices_in_the_layout_of_lm_eval() {
    let folder = tempfile::tempdir().unwrap();
    let run = store(folder.path(), "lora", 0, "x", 0.5, None);
    let mut record = read_record(&run.join("record.json")).unwrap();
    let metric = Metric {
        value: 0.5,
        stderr: Some(0.1),
        n: 8,
    };
    record.metrics = [
        "mmlu/accuracy",
        "mmlu/accuracy/college_law",
        "humaneval/pass@1",
        "cola/matthews",
    ]
    .map(|key| (key.to_owned(), metric.clone()))
    .into();
    record.metrics.get_mut("cola/matthews").unwrap().value = f64::NAN;
    let results = lm_eval(&record, &BTreeMap::new());
    assert_eq!(
        results["group_subtasks"],
        json!({"mmlu": ["mmlu_college_law"]})
    );
    assert_eq!(
        results["results"]["mmlu_college_law"]["alias"],
        json!("college law")
    );
    assert_eq!(results["groups"]["mmlu"]["acc,none"], json!(0.5));
    assert_eq!(
        results["results"]["humaneval"]["pass@1_stderr,create_test"],
        json!(0.1)
    );
    assert_eq!(results["results"]["cola"]["mcc,none"], json!("N/A"));

    let sample: Sample = serde_json::from_value(json!({
        "id": "4", "prompt": "p", "reference": "B", "group": "law", "answer": {"choice": {"log_probs": [-1.5, null]}},
        "tokens": 0, "grades": {"accuracy": 0.0},
    }))
    .unwrap();
    let lines = lm_eval_samples("mmlu", &[sample]);
    assert_eq!(lines[0]["resps"], json!([[["-1.5"]], [["nan"]]]));
    assert_eq!(lines[0]["arguments"]["gen_args_1"], json!({"arg_0": "p"}));
    assert_eq!(lines[0]["acc"], json!(0.0));
}

/// The committed runs of the present and of the first settings give their reports; into the folder that `SHARELORA_FIGURES` names,
/// for eyes, if it names one.
#[test]
fn committed_results_give_their_report() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/smollm2-gsm8k");
    let folder = tempfile::tempdir().unwrap();
    for version in [1, 2] {
        let view = folder.path().join(version.to_string());
        let mut runs = 0;
        for entry in fs::read_dir(&results).into_iter().flatten() {
            let from = entry.unwrap().path();
            let Ok(record) = read_record(&from.join("record.json")) else {
                continue;
            };
            if record.config["result_version"] == json!(version) {
                let to = view.join(from.file_name().unwrap());
                fs::create_dir_all(&to).unwrap();
                for file in fs::read_dir(&from)
                    .unwrap()
                    .map(|file| file.unwrap().path())
                {
                    if file.is_file() {
                        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
                    }
                }
                runs += 1;
            }
        }
        if runs < 2 {
            println!(
                "skipped: {} has no two runs of result version {version}",
                results.display()
            );
            continue;
        }
        let name = format!("smollm2-gsm8k-{version}");
        let out =
            std::env::var_os("SHARELORA_FIGURES").map_or(folder.path().join("out"), PathBuf::from);
        // Its samples' means are its results, by lm_eval's names.
        for run in read_experiment(&view).unwrap() {
            let out = std::env::var_os("SHARELORA_LM_EVAL")
                .map_or(folder.path().join("lm"), PathBuf::from);
            let out = out.join(version.to_string());
            let written = write_lm_eval(&run.record, &run.dir, &out).unwrap();
            let read = |path: &Path| fs::read_to_string(path).unwrap();
            let results: Value = serde_json::from_str(&read(&written[0])).unwrap();
            let lines = read(&written[1]);
            let lines: Vec<Value> = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            for filter in ["strict-match", "flexible-extract"] {
                let of_filter = lines.iter().filter(|line| line["filter"] == json!(filter));
                let values: Vec<f64> = of_filter
                    .map(|line| line["exact_match"].as_f64().unwrap())
                    .collect();
                let stored = results["results"]["gsm8k"][format!("exact_match,{filter}")]
                    .as_f64()
                    .unwrap();
                assert!((mean(&values) - stored).abs() < 1e-12);
            }
        }
        let paths = write_report(&view, &out.join(name), &ReportSpec::default()).unwrap();
        let text = fs::read_to_string(paths.report).unwrap();
        assert!(
            text.contains("exact\\_match\\_strict − LoRA (points)") && !text.contains("NaN"),
            "{text}"
        );
    }
}

/// 100 runs of 1,319 questions: `cargo test --release -p sharelora-report --test paired -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: prints how long a report of 100 runs takes"]
fn time_of_a_hundred_runs() {
    for (what, seeds) in [
        ("50 settings of two seeds", 2),
        ("100 settings of one seed", 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for run in 0..100u64 {
            let method = format!("method{:03}", run / seeds);
            let grades: Vec<f64> = (0..1319)
                .map(|i| f64::from((i * 31 + run * 17 + i * i % 7 * run) % 100 < 30))
                .collect();
            let dir = store(
                folder.path(),
                &method,
                run % seeds,
                "exact_match_strict",
                mean(&grades),
                Some(&grades),
            );
            // About the size of a real answer.
            let path = dir.join("samples-gsm8k.jsonl");
            let long = fs::read_to_string(&path)
                .unwrap()
                .replace("answer ", &"answer ".repeat(120));
            fs::write(&path, long).unwrap();
        }
        let start = std::time::Instant::now();
        let runs = read_experiment(folder.path()).unwrap();
        let read = start.elapsed();
        let rows = compare("", &runs).rows.len();
        println!(
            "{what}: read in {read:.2?}, {rows} rows compared in {:.2?}",
            start.elapsed() - read
        );
    }
}

/// Satterthwaite's degrees of freedom: of equal variances they add up, and a part without variance counts for nothing.
#[test]
fn degrees_of_freedom_of_a_sum() {
    let (variance, t) = statistics::satterthwaite(&[(2.0, 4.0), (2.0, 4.0)]);
    assert_eq!((variance, t), (4.0, statistics::student95(8)));
    assert_eq!(
        statistics::satterthwaite(&[(0.0, 299.0), (1.0, 1.0)]),
        (1.0, 12.706)
    );
    assert_eq!(
        statistics::satterthwaite(&[(0.0, 299.0)]),
        (0.0, statistics::Z95)
    );
}

/// Two seeds of the same proportion: the interval of the questions, a little wider, and never outside of 0 and 1.
#[test]
fn seeds_add_their_variance_to_the_questions() {
    let of = |values: &[f64]| {
        let values: Vec<_> = values
            .iter()
            .map(|p| (*p, Some((p * (1.0 - p) / 300.0).sqrt()), 300))
            .collect();
        statistics::metric(&values, None).unwrap()
    };
    let (one, two) = (of(&[0.03]), of(&[0.03, 0.03]));
    assert_near(&[two.spread.unwrap()], &[one.spread.unwrap()], 1e-12);
    let (low, high) = two.interval.unwrap();
    assert_near(
        &[low, high],
        &[one.interval.unwrap().0, one.interval.unwrap().1],
        1e-3,
    );
    let apart = of(&[0.0, 0.06]);
    assert!(apart.spread.unwrap() > 0.03);
    let (low, high) = apart.interval.unwrap();
    assert!(low == 0.0 && high > 0.1 && high <= 1.0);
}

/// A score of a whole corpus is compared on the same resamples of the questions, and its interval is that of the resamples; the
/// grades, which are no means of it, decide nothing.
#[test]
fn scores_of_a_corpus_are_paired() {
    let folder = tempfile::tempdir().unwrap();
    let right = |wrong: usize| -> Vec<f64> {
        let is_right = |i: usize| !i.is_multiple_of(3) && i >= wrong;
        (0..300).map(|i| f64::from(u8::from(is_right(i)))).collect()
    };
    // F1 where every question has the truth yes, and a wrong answer is no.
    let f1 = |grades: &[f64], chosen: &[usize]| {
        let right: f64 = chosen.iter().map(|&i| grades[i]).sum();
        (right > 0.0).then(|| 2.0 * right / (right + chosen.len() as f64))
    };
    let all: Vec<usize> = (0..300).collect();
    let answers = [
        ("lora", right(0)),
        ("share_a", right(30)),
        ("share_b", right(3)),
    ];
    for (method, grades) in &answers {
        let value = f1(grades, &all).unwrap();
        store(folder.path(), method, 0, "f1", value, Some(grades));
    }
    let mut runs = read_experiment(folder.path()).unwrap();
    let unpaired = compare("", &runs);
    for run in &mut runs {
        let (_, grades) = answers
            .iter()
            .find(|(m, _)| *m == run.record.method)
            .unwrap();
        let scores = bootstrap::resampled_scores(300, |chosen| f1(grades, chosen));
        run.resampled.insert("gsm8k/f1".into(), scores);
    }
    let paired = compare("", &runs);
    let of = |found: &Comparison, row: usize| found.pairs["gsm8k/f1"].to_reference(row).unwrap().1;
    let loss = of(&paired, 1);
    assert_eq!(loss.test, Test::CorpusBootstrap);
    assert_eq!(of(&unpaired, 1).test, Test::Unpaired);
    let value = f1(&answers[1].1, &all).unwrap() - f1(&answers[0].1, &all).unwrap();
    assert!((loss.value - value).abs() < 1e-12);
    assert_eq!(differs(&loss), Some(true), "{loss:?}");
    // 20 questions of 300 lost is beyond the noise of independent results only barely, and far beyond that of pairs.
    let width = |d: &Difference| d.interval.map(|(low, high)| high - low).unwrap();
    assert!(width(&loss) < 0.7 * width(&of(&unpaired, 1)));
    assert_eq!(
        differs(&of(&paired, 2)),
        Some(false),
        "two questions are no finding"
    );
    assert_ne!(
        paired.rows[0].metrics["gsm8k/f1"].interval,
        unpaired.rows[0].metrics["gsm8k/f1"].interval
    );
}
