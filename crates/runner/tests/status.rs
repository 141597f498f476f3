//! `status`, `retry`, `gc`, `new ablation` and the costs of `plan`, as a shell sees them.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Project, run_dirs};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A sweep of two runs that is done: an untouched base and a LoRA of 8 steps.
fn swept() -> (Project, PathBuf, PathBuf) {
    let project = Project::new();
    project.edit(
        "experiments/tiny.toml",
        r#"["base", "lora", "share_a"]"#,
        r#"["base", "lora"]"#,
    );
    project.succeed(&["sweep", "tiny", "--quiet"]);
    let dirs = run_dirs(&project.path("results/tiny"));
    (project, dirs["base"].clone(), dirs["lora-seed0"].clone())
}

/// Makes a finished run's record one of another end.
fn ended(dir: &Path, status: &str, message: &str) {
    let path = dir.join("record.json");
    let mut record = json(&std::fs::read_to_string(&path).unwrap());
    record["status"] = status.into();
    record["message"] = message.into();
    std::fs::write(&path, record.to_string()).unwrap();
}

#[test]
fn a_sweep_is_followed_retried_and_costed() {
    let (project, _, lora) = swept();
    let shown = project.succeed(&["status", "tiny"]).out;
    assert!(shown.contains("2 runs: 2 done."), "{shown}");
    let all = json(&project.succeed(&["status", "tiny", "--json"]).out);
    let run = &all["runs"][1];
    assert_eq!(
        (&run["stage"], &run["step"], &run["steps"]),
        (&"done".into(), &8.into(), &8.into())
    );
    assert!(run["loss"].is_f64() && run["tokens_per_second"].is_f64());
    let overview = project.succeed(&["status"]).out;
    assert!(overview.contains("tiny"), "{overview}");

    // No terminal, no live view: a pipe would be filled with escapes.
    let refused = project.run(&["status", "tiny", "--watch"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.err.contains("--watch needs a terminal"),
        "{}",
        refused.err
    );
    assert_eq!(refused.out, "");

    // What a longer run takes is known from the one that was done, and said so.
    let longer = ["plan", "tiny", "--jobs", "2", "--set", "train.steps=80"];
    let plan = project.succeed(&longer).out;
    for part in [
        "Time to do: ",
        "with --jobs 2 at least ",
        ": tiny/lora-seed0.",
        "Disk to do: ",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let cost = |arguments: &[&str]| {
        let plan = json(&project.succeed(arguments).out);
        plan["runs"][1]["cost"].clone()
    };
    let long = cost(&[
        "plan",
        "tiny",
        "--json",
        "--set",
        "train.steps=80",
        "--set",
        "train.evaluate_every=0",
    ]);
    let record = json(&std::fs::read_to_string(lora.join("record.json")).unwrap());
    let steps = record["seconds"]["steps"].as_f64().unwrap();
    assert!(
        long["train_seconds"].as_f64().unwrap() >= 10.0 * steps * 0.99,
        "{long} {steps}"
    );
    assert_eq!(long["sources"], serde_json::json!(["tiny/lora-seed0"]));
    let other = project
        .succeed(&["plan", "tiny", "--set", "model.dtype=bf16"])
        .out;
    assert!(
        other.contains("unknown: nothing measured yet for this model, backend and machine; to measure: sharelora run tiny base"),
        "{other}"
    );

    // A failed run is done again from its checkpoint, a diverged one only where that is asked for, from the start.
    assert!(
        project
            .succeed(&["retry", "tiny"])
            .out
            .contains("no run failed")
    );
    let whole = support::bits(&lora);
    ended(&lora, "failed", "no memory");
    let shown = project.succeed(&["status", "tiny"]).out;
    assert!(
        shown.contains("failed") && shown.contains("no memory"),
        "{shown}"
    );
    let said = project.succeed(&["retry", "tiny", "--dry-run"]).out;
    assert!(
        said.contains("lora-seed0, from its checkpoint: failed before: no memory"),
        "{said}"
    );
    assert!(
        project
            .succeed(&["retry", "tiny", "--only", "base"])
            .out
            .contains("no run failed")
    );
    project.succeed(&["retry", "tiny", "--quiet"]);
    assert_eq!(support::bits(&lora), whole);
    ended(&lora, "diverged", "step 3: loss NaN");
    assert!(
        project
            .succeed(&["retry", "tiny"])
            .out
            .contains("no run failed")
    );
    let said = project
        .succeed(&["retry", "tiny", "--diverged", "--quiet"])
        .out;
    assert!(
        said.contains("lora-seed0, from the start: diverged: step 3: loss NaN"),
        "{said}"
    );
    assert_eq!(support::bits(&lora), whole);
}

/// What is planned or reported stays; all else is shown, and goes only after a yes; what somebody works on is left alone.
#[test]
fn nothing_cited_is_removed() {
    let (project, base, lora) = swept();
    let shown = project.succeed(&["gc", "tiny"]).out;
    assert!(
        shown.contains("lora-seed0") && shown.contains("checkpoint"),
        "{shown}"
    );
    assert!(shown.contains("nothing was removed") && lora.join("checkpoint").exists());

    // Two runs of other settings. The first is reported, so its records cite it; then the report is of the file again.
    let set = "train.steps=2";
    project.succeed(&["sweep", "tiny", "--set", set, "--quiet"]);
    std::fs::create_dir_all(project.path("reports/kept")).unwrap();
    for file in ["records.parquet", "report.md"] {
        std::fs::rename(
            project.path("reports/tiny").join(file),
            project.path("reports/kept").join(file),
        )
        .unwrap();
    }
    project.succeed(&["sweep", "tiny", "--set", "train.steps=3", "--quiet"]);
    project.succeed(&["report", "tiny"]);
    let found = |steps: u64| -> PathBuf {
        let all = std::fs::read_dir(project.path("results/tiny")).unwrap();
        all.map(|e| e.unwrap().path())
            .find(|dir| {
                let run = std::fs::read_to_string(dir.join("run.json")).unwrap_or_default();
                run.contains("lora") && run.contains(&format!("\"steps\": {steps},"))
            })
            .unwrap()
    };
    let (cited, loose) = (found(2), found(3));
    std::fs::remove_file(project.path("reports/kept/report.md")).unwrap();
    // What kills left behind.
    std::fs::write(lora.join(".new-x1"), "torn").unwrap();
    std::fs::create_dir(project.path("results/tiny/.gc-1-x")).unwrap();
    std::fs::write(base.join("answers-pocket.log.zst"), "x").unwrap();
    std::fs::create_dir(project.path("results/tiny/notes")).unwrap();

    let held = std::fs::File::options()
        .write(true)
        .open(loose.join("lock"))
        .unwrap();
    held.lock().unwrap();
    let shown = project.succeed(&["gc", "tiny"]).out;
    assert!(shown.contains("left alone, in use by process"), "{shown}");
    drop(held);

    let before = support::bits(&lora);
    let all = project.succeed(&["gc", "--yes"]).out;
    assert!(all.contains("removed") && all.contains(".tokens"), "{all}");
    assert!(
        !loose.exists() && cited.join("record.json").exists() && cited.join("adapter").exists()
    );
    let gone = [
        lora.join("checkpoint"),
        lora.join(".new-x1"),
        cited.join("checkpoint"),
        base.join("answers-pocket.log.zst"),
        project.path("results/tiny/.gc-1-x"),
    ];
    assert!(gone.iter().all(|path| !path.exists()), "{all}");
    assert!(project.path("results/tiny/notes").exists());
    assert_eq!(support::bits(&lora), before);
    let again = project.succeed(&["gc"]).out;
    assert!(again.contains("0 things to remove"), "{again}");
    assert!(project.succeed(&["status", "tiny"]).out.contains("2 done"));

    // An experiment that cannot be read plans who knows what.
    project.edit("experiments/tiny.toml", "steps = 8", "stpes = 8");
    let said = project.succeed(&["gc", "--yes"]).out;
    assert!(said.contains("tiny: none of its runs is removed"), "{said}");
    assert!(lora.exists() && base.exists());
}

#[test]
fn a_new_ablation_is_planned_at_once() {
    let project = Project::new();
    let said = project
        .succeed(&["new", "ablation", "mine", "--model", "tiny"])
        .out;
    assert!(
        said.contains("experiments/mine.toml: 10 runs; next: sharelora plan mine"),
        "{said}"
    );
    let text = String::from_utf8(project.read("experiments/mine.toml")).unwrap();
    // The projections are this model's.
    assert!(
        text.contains("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
        "{text}"
    );
    let plan = project.succeed(&["plan", "mine"]).out;
    assert!(plan.contains("share_a_groups2-seed1"), "{plan}");
    for (name, why) in [
        ("mine", "is there already"),
        ("../x", "is no name"),
        ("", "is no name"),
    ] {
        let refused = project.run(&["new", "ablation", name, "--model", "tiny"]);
        assert_eq!(refused.code, Some(2), "{name}");
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    assert_eq!(
        String::from_utf8(project.read("experiments/mine.toml")).unwrap(),
        text
    );
}
