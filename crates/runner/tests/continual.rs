//! Sequences of stages, end to end: what a stage takes over is what the one before it left.

mod support;

use serde_json::Value;
use support::{Project, run_dirs};

const STAGES: &str = r#"
[[stage]]
name = "first"
steps = 3
[[stage]]
name = "second"
steps = 3
carry = "CARRY"
[[evaluate]]
task = "pocket"
loss = { held_out = 8, max_source = 48, max_target = 24 }
[axes]
method = ["base", "lora", "full"]
"#;

fn project(carry: &str) -> Project {
    let project = Project::new();
    project.edit(
        "experiments/tiny.toml",
        "keep_best = true",
        "keep_best = false",
    );
    project.edit("experiments/tiny.toml", "dropout = 0.1", "dropout = 0.0");
    let text = String::from_utf8(project.read("experiments/tiny.toml")).unwrap();
    let (head, _) = text.split_once("[[evaluate]]").unwrap();
    project.write(
        "experiments/tiny.toml",
        format!("{head}{}", STAGES.replace("CARRY", carry)),
    );
    project.succeed(&["sweep", "tiny"]);
    project
}

fn record(project: &Project, label: &str) -> Value {
    let dir = &run_dirs(&project.path("results/tiny"))[label];
    serde_json::from_slice(&std::fs::read(dir.join("record.json")).unwrap()).unwrap()
}

fn losses(project: &Project, label: &str) -> Vec<f64> {
    let dir = &run_dirs(&project.path("results/tiny"))[label];
    let text = std::fs::read_to_string(dir.join("steps.jsonl")).unwrap();
    let steps = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    steps.filter_map(|step| step["loss"].as_f64()).collect()
}

/// The loss that a stage ends with, measured as an evaluation, is the loss that the next begins with: by an adapter and by all
/// weights. And it is the loss that training itself measures.
#[test]
fn a_stage_begins_where_the_last_one_ended() {
    let project = project("adapter");
    let ended =
        |label: &str| record(&project, label)["metrics"]["pocket/held_out_loss"]["value"].clone();
    let near = |a: &Value, b: &Value| {
        let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    };
    for method in ["lora", "full"] {
        let (first, second) = (
            format!("{method}-seed0-first"),
            format!("{method}-seed0-first+second"),
        );
        near(
            &ended("base"),
            &record(&project, &first)["held_out_loss_before"],
        );
        near(&ended(&first), &record(&project, &first)["held_out_loss"]);
        near(
            &ended(&first),
            &record(&project, &second)["held_out_loss_before"],
        );
        assert_ne!(ended(&first), ended("base"));
    }
    let report = String::from_utf8(project.read("reports/tiny/report.md")).unwrap();
    assert!(report.contains("Every task behind every stage"), "{report}");
}

/// AdamW's moments make no difference to the first gradient, and one to what is done with it.
#[test]
fn moments_are_carried_where_they_are_asked_for() {
    let [anew, carried] = ["adapter", "adapter_and_optimizer"].map(project);
    for method in ["lora", "full"] {
        let label = format!("{method}-seed0-first+second");
        let [anew, carried] = [&anew, &carried].map(|project| losses(project, &label));
        // The first step's learning rate is 0, that of a warm-up.
        assert_eq!(anew[..2], carried[..2]);
        assert_ne!(anew[2], carried[2]);
    }
}
