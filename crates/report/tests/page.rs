//! The page of a report: what it says, what it keeps, and how it behaves in a real Chromium.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::{Value, json};
use sharelora_report::page::{answers, summary};
use sharelora_report::*;

const METHODS: [(&str, u64); 5] = [
    ("base", 0),
    ("lora", 294_912),
    ("share_a", 159_744),
    ("share_b", 159_744),
    ("share_ab", 24_576),
];

/// What a model may answer, to take a page over or to break it.
const HOSTILE: &str = "</script><script>globalThis.hostile = 1</script><img src=x onerror='globalThis.hostile = 2'>\
                       <!-- <svg/onload=globalThis.hostile=3> \u{2028}\u{2029}\u{0}\r\n\u{202e}\u{feff}\u{fffe} é 漢 🦀 ]]> \\u003c \"'`&lt; ${1}";

fn record(method: &str, seed: u64, trainable: u64, rank: u64) -> Record {
    let loss = 2.5 - 0.1 * (1.0 + trainable as f64).ln() + 0.002 * seed as f64;
    let text = |pairs: &[(&str, String)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect()
    };
    let axes = [
        ("method", method.into()),
        ("seed", seed.to_string()),
        ("adapter.rank", rank.to_string()),
    ];
    let record = json!({
        "schema": 1, "experiment": "made-up", "run": format!("{method}-rank{rank}-seed{seed}"),
        "hash": format!("{:016x}", trainable * 1_000_003 + rank * 1009 + seed), "status": "finished", "message": null,
        "model": "SmolLM2-135M", "method": method, "seed": seed, "backend": "flex", "axes": text(&axes),
        "config": {"method": method, "seed": seed, "adapter": {"rank": rank, "alpha": 16}, "train": {"batch_size": 4, "steps": 40}},
        "trainable_parameters": trainable, "adapter_bytes": trainable * 4, "base_parameters": 134_515_008,
        "steps": if trainable > 0 { 40 } else { 0 }, "train_loss": loss, "held_out_loss": loss, "held_out_loss_before": 2.5,
        "best_step": null, "metrics": {}, "data": {"gsm8k": "feedc0ffee123456789"}, "versions": {"sharelora": "0.1.0"},
        "git_commit": "abc1234", "host": {"cpu": "Some CPU", "cores": 2, "memory_bytes": 8u64 << 30, "os": "Linux"},
        "started_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T11:00:00Z",
        "seconds": {"load": 2.0, "train": 100.0}, "tokens_per_second": 191.4, "peak_memory_bytes": 1592u64 << 20,
    });
    serde_json::from_value(record).unwrap()
}

/// A run's folder with 40 steps and graded answers: `right` of `questions`, the hostile text among them.
fn store(results: &Path, mut record: Record, questions: u64, right: u64) {
    let folder = results.join(&record.run);
    let p = right as f64 / questions as f64;
    let metric = Metric {
        value: p,
        stderr: Some((p * (1.0 - p) / questions as f64).sqrt()),
        n: questions,
    };
    record
        .metrics
        .insert("gsm8k/exact_match_strict".into(), metric);
    write_record(&folder.join("record.json"), &record).unwrap();
    if record.trainable_parameters > 0 {
        let lines = (1..=record.steps).map(|step| {
            let loss = 2.5 - step as f64 / 60.0;
            let held_out = (step % 10 == 0).then_some(loss);
            let line = json!({
                "step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens": 512, "tokens_per_second": 190.0,
                "memory_bytes": 1 << 30, "held_out_loss": held_out,
            });
            line.to_string() + "\n"
        });
        fs::write(folder.join("steps.jsonl"), lines.collect::<String>()).unwrap();
    }
    let lines = (0..questions).map(|id| {
        let correct = f64::from((id * 7 + record.seed) % questions < right);
        let sample = json!({
            "id": id.to_string(), "prompt": format!("What is {id} and one?"), "reference": (id + 1).to_string(), "group": null,
            "answer": {"text": if id == 0 { HOSTILE.into() } else { format!("It is {}.", id + 1) }}, "tokens": 5,
            "grades": {"exact_match_strict": correct},
        });
        sample.to_string() + "\n"
    });
    fs::write(
        folder.join("samples-gsm8k.jsonl"),
        lines.collect::<String>(),
    )
    .unwrap();
}

fn spec() -> ReportSpec {
    ReportSpec {
        title: "Made-up <i>comparison</i> & \"more\"".into(),
        description: "Numbers made up for `a <test>`.\n\nSecond paragraph.".into(),
        caveat: Some("This shows the pipeline & proves nothing.".into()),
        command: "sharelora sweep made-up".into(),
    }
}

/// Base and four methods, two seeds, 60 questions.
fn experiment(results: &Path) {
    for (place, (method, trainable)) in (0..).zip(METHODS) {
        for seed in 0..if trainable > 0 { 2 } else { 1 } {
            let right = [2, 40, 39, 20, 10][place] + seed;
            store(results, record(method, seed, trainable, 8), 60, right);
        }
    }
}

fn page(results: &Path, out: &Path) -> String {
    let paths = write_report(results, out, &spec()).unwrap();
    fs::read_to_string(paths.page).unwrap()
}

fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

/// Runs the script on a page; says so and passes where there is no Python or no Chromium. Takes pictures for eyes into `name` of the
/// folder named by `SHARELORA_FIGURES`.
fn in_chromium(page: &Path, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/page_in_chromium.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(page);
    if let Some(folder) = std::env::var_os("SHARELORA_FIGURES") {
        command.arg("--screens").arg(Path::new(&folder).join(name));
    }
    let Ok(output) = command.output() else {
        println!("skipped: no python3");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The sentences follow from the numbers and from the tests of the tables: who is best, by how much, and whether it counts.
#[test]
fn the_summary_in_words() {
    let folder = tempfile::tempdir().unwrap();
    experiment(folder.path());
    let runs = read_experiment(folder.path()).unwrap();
    let records: Vec<&Record> = runs.iter().map(|run| &run.record).collect();
    let summary = summary::summary(&compare("", &runs), &records, &["lora-seed9".into()]);
    let lines = [&summary.best, &summary.against, &summary.missing];
    let lines = lines.map(|items| {
        items
            .iter()
            .map(markdown::text)
            .collect::<Vec<_>>()
            .join("\n")
    });
    assert_snapshot!(lines.join("\n\n").replace('\\', ""), @"
    LoRA has the lowest held-out loss, 1.2416 (95 % interval 1.2289 to 1.2543). ShareA is next, behind by 0.0613 (95 % interval 0.0433 to 0.0793); the interval leaves out 0, so it counts. Further behind, by differences that count: ShareB and ShareAB.
    LoRA has the highest gsm8k/exact_match_strict, 67.5 % (95 % interval 54.8 to 78.1). ShareA is next, behind by 1.7 points (95 % interval −0.6 to 6.1); the paired test does not tell them apart (p = 1.000). Further behind, by differences that count: ShareB and ShareAB. All trained methods are better than the untouched model.

    ShareA trains 159,744 parameters, 54.2 % of those of LoRA. Its held-out loss is higher by 0.0613 (95 % interval 0.0433 to 0.0793); the interval leaves out 0, so it counts. Its gsm8k/exact_match_strict is lower by 1.7 points (95 % interval −0.6 to 6.1); the paired test does not tell them apart (p = 1.000).
    ShareB trains 159,744 parameters, 54.2 % of those of LoRA. Its held-out loss is higher by 0.0613 (95 % interval 0.0433 to 0.0793); the interval leaves out 0, so it counts. Its gsm8k/exact_match_strict is lower by 33.3 points (95 % interval 21.4 to 45.2); the paired test tells them apart (p < 0.001).
    ShareAB trains 24,576 parameters, 8.3 % of those of LoRA. Its held-out loss is higher by 0.2485 (95 % interval 0.2305 to 0.2665); the interval leaves out 0, so it counts. Its gsm8k/exact_match_strict is lower by 50.0 points (95 % interval 36.4 to 61.9); the paired test tells them apart (p < 0.001).

    1 run began and has no record yet.
    ");
}

/// A result's text can neither end the script element nor be markup, comes out of the JSON as it went in, and the page asks
/// nobody for anything.
#[test]
fn hostile_texts_stay_texts() {
    let folder = tempfile::tempdir().unwrap();
    experiment(&folder.path().join("results"));
    let html = page(&folder.path().join("results"), &folder.path().join("out"));
    assert_eq!(html.matches("<script").count(), 2);
    assert_eq!(html.matches("</script").count(), 2);
    assert!(!html.contains("<img") && !html.contains("<i>comparison") && !html.contains("<test>"));
    assert!(html.contains("default-src 'none'"));
    for outside in ["src=\"", "url(", "@import", "href=\"http"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let shown = &data(&html)["answers"][0]["shown"][0];
    assert_eq!(shown["answers"][0][1], json!(HOSTILE));
}

/// The same results give the same page, and nothing of the place where they lie is in it.
#[test]
fn the_same_bytes_from_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    experiment(&results);
    let moved = folder.path().join("moved");
    let first = page(&results, &folder.path().join("first"));
    fs::rename(&results, &moved).unwrap();
    assert!(first == page(&moved, &folder.path().join("second")));
    assert!(!first.contains(&*folder.path().to_string_lossy()));
}

/// Both writings of a report have the same sections, and every run has its own.
#[test]
fn the_page_has_every_section_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let (results, out) = (folder.path().join("results"), folder.path().join("out"));
    experiment(&results);
    let html = page(&results, &out);
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    let titles = report.lines().filter_map(|line| line.strip_prefix("## "));
    for title in titles {
        assert!(html.contains(&format!("-title\">{title}</h2>")), "{title}");
    }
    let data = data(&html);
    let runs = data["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 9);
    assert_eq!(html.matches("<details class=\"run\"").count(), 9);
    let text = |place: &Value| {
        data["strings"][place.as_u64().unwrap() as usize]
            .as_str()
            .unwrap()
    };
    let facts: Vec<&str> = runs[1]["facts"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    assert_eq!(
        facts[facts.len() - 2..],
        [
            "Command",
            "sharelora sweep made-up --only '^lora-rank8-seed0$'"
        ]
    );
    for fact in ["abc1234", "gsm8k feedc0ffee123456789", "sharelora 0.1.0"] {
        assert!(facts.contains(&fact), "{fact}");
    }
    // Every point of a curve that is short enough is there.
    assert_eq!(runs[1]["curves"]["steps"].as_array().unwrap().len(), 40);
    assert_eq!(runs[1]["curves"]["held_out"].as_array().unwrap().len(), 4);
}

/// Questions on which runs differ and others come in equal parts, and the page says how many there are.
#[test]
fn answers_are_chosen_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    experiment(folder.path());
    let runs = read_experiment(folder.path()).unwrap();
    let chosen = answers::choose(&runs).unwrap();
    assert_snapshot!(chosen[0].words(), @"gsm8k: 24 of 60 questions, 12 of them the first that were graded differently from run to run, the others the first of the rest");
    assert_eq!(chosen[0].shown.len(), answers::MOST_QUESTIONS);
}

#[test]
fn a_page_in_chromium() {
    let folder = tempfile::tempdir().unwrap();
    experiment(&folder.path().join("results"));
    page(&folder.path().join("results"), &folder.path().join("out"));
    in_chromium(&folder.path().join("out/report.html"), "page");
}

/// A thousand runs, 200 settings of five seeds: the page stays small enough to open, and works.
#[test]
fn a_page_of_a_thousand_runs_in_chromium() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    for (method, trainable) in &METHODS[1..] {
        for rank in 1..=50 {
            for seed in 0..5 {
                let record = record(method, seed, trainable / 8 * rank, rank);
                store(&results, record, 30, 5 + (rank + seed) % 20);
            }
        }
    }
    let html = page(&results, &folder.path().join("out"));
    println!("{} bytes for 1,000 runs", html.len());
    assert!(html.len() < 8_000_000, "{} bytes", html.len());
    in_chromium(&folder.path().join("out/report.html"), "page-1000");
}

/// How long the page of 100 runs takes: `cargo test --release -p sharelora-report --test page -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: prints how long the report and the page of 100 runs take"]
fn time_of_a_hundred_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (method, trainable) in &METHODS[1..] {
        for rank in 1..=5 {
            for seed in 0..5 {
                let record = record(method, seed, trainable / 8 * rank, rank);
                store(folder.path(), record, 1319, 200 + rank + seed);
            }
        }
    }
    let start = std::time::Instant::now();
    let runs = read_experiment(folder.path()).unwrap();
    println!("read in {:.2?}", start.elapsed());
    let start = std::time::Instant::now();
    compare("", &runs);
    println!("compared in {:.2?}", start.elapsed());
    let start = std::time::Instant::now();
    answers::choose(&runs).unwrap();
    println!("answers chosen and read in {:.2?}", start.elapsed());
    let start = std::time::Instant::now();
    let html = page(folder.path(), &folder.path().join(".out"));
    println!(
        "whole report in {:.2?}, page of {} bytes",
        start.elapsed(),
        html.len()
    );
}
