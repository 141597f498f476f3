//! The commands that read stored results, as a shell sees them.

#[path = "../../report/tests/made_up/mod.rs"]
mod made_up;

use std::path::Path;
use std::process::{Command, Output};

use made_up::experiment;
use serde_json::Value;

/// Runs the binary outside a project, on the results in `folder`.
fn sharelora(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sharelora"))
        .args(arguments)
        .arg("--results")
        .arg(folder.join("results"))
        .current_dir(folder)
        .env_clear()
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for run in experiment("made-up", 8) {
        run.store(&folder.path().join("results"));
    }
    folder
}

/// A beginning of labels stands for all seeds; a piped comparison is plain; JSON has what the text has.
#[test]
fn runs_are_compared() {
    let folder = folder();
    let arguments = [
        "compare",
        "made-up/lora",
        "made-up/share_a",
        "--samples",
        "1",
    ];
    let text = out(&sharelora(folder.path(), &arguments));
    for part in [
        "A  made-up/lora: made-up/lora-seed0, made-up/lora-seed1",
        "ShareA (B) against LoRA (A)",
        "Trainable parameters",
        "Question 0: A 1, B 0",
        "yes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    let json = out(&sharelora(
        folder.path(),
        &[&arguments[..], &["--json"]].concat(),
    ));
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["pairs"][0]["labels"]["b"], "ShareA");
    let measure = &found["pairs"][0]["metrics"]["gsm8k/exact_match_strict"];
    assert_eq!(measure["difference"]["test"], "paired_bootstrap");

    let none = sharelora(
        folder.path(),
        &["compare", "made-up/lora", "made-up/share_b"],
    );
    assert_eq!(none.status.code(), Some(3));
    assert!(
        err(&none).contains("there are lora-seed0"),
        "{}",
        err(&none)
    );
    let none = sharelora(folder.path(), &["compare", "made-app", "made-up"]);
    assert!(
        err(&none).contains("did you mean `made-up`"),
        "{}",
        err(&none)
    );
}

/// One query, each way to write its answer; a wrong one is a wrong argument.
#[test]
fn results_are_asked() {
    let folder = folder();
    let sql = "SELECT run, held_out_loss FROM records ORDER BY held_out_loss LIMIT 1";
    let ask = |more: &[&str]| out(&sharelora(folder.path(), &[&["query", sql], more].concat()));
    assert_eq!(ask(&["--csv"]), "run,held_out_loss\nlora-seed0,1.5\n");
    let found: Value = serde_json::from_str(&ask(&["--json"])).unwrap();
    assert_eq!(found[0]["held_out_loss"], 1.5);
    assert!(
        ask(&[]).contains("lora-seed0            1.5"),
        "{}",
        ask(&[])
    );
    ask(&["--parquet", "found.parquet"]);
    assert!(folder.path().join("found.parquet").is_file());

    let wrong = sharelora(folder.path(), &["query", "SELECT metod FROM records"]);
    assert_eq!(wrong.status.code(), Some(2));
    let text = err(&wrong);
    for part in [
        "did you mean `method`",
        "columns of records: experiment, run",
        "\"metric:gsm8k/exact_match_strict\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Event files lie beside the run, or below `--out` under the run's name; the second time nothing is new.
#[test]
fn event_files_are_written() {
    let folder = folder();
    let first = out(&sharelora(folder.path(), &["tensorboard", "made-up"]));
    assert_eq!(first.lines().count(), 4);
    for line in first.lines() {
        assert!(
            Path::new(line).is_file() && line.contains("/tensorboard/events.out.tfevents"),
            "{line}"
        );
    }
    assert_eq!(
        out(&sharelora(folder.path(), &["tensorboard", "made-up"])),
        ""
    );
    let arguments = ["tensorboard", "made-up/lora-seed0", "--out", "logs"];
    let other = out(&sharelora(folder.path(), &arguments));
    let beside = first.lines().next().unwrap();
    assert_eq!(
        other.trim(),
        "logs/made-up/lora-seed0/events.out.tfevents.sharelora"
    );
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert!(bytes(&folder.path().join(other.trim())) == bytes(Path::new(beside)));
}

/// PEFT's layout from a run's folder; what stays null is told.
#[test]
fn a_run_is_exported_to_method_comparison() {
    let folder = folder();
    let run = folder.path().join("results/made-up/lora-seed0-00000080");
    let run = run.to_str().unwrap();
    let arguments = [
        "export",
        run,
        "--format",
        "method-comparison",
        "--out",
        "peft",
    ];
    let output = sharelora(folder.path(), &arguments);
    assert_eq!(out(&output).trim(), "peft/lora--made-up-lora-seed0.json");
    assert!(
        err(&output).contains("Not stored, so null: run_info.peft_branch"),
        "{}",
        err(&output)
    );
    let text = std::fs::read_to_string(folder.path().join(out(&output).trim())).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["train_info"]["status"], "success");
}
