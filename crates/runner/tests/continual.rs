//! Sequences of stages, end to end: what a stage takes over is what the one before it left.

mod support;

use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;
use sharelora_adapters::{delta, load_native};
use sharelora_report::stored_spectrum;
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

/// A dense update, row-major.
fn dense(dir: &Path, index: usize) -> Vec<f32> {
    let (bank, _) = load_native(&dir.join("adapter/adapter.safetensors"), &Device::flex()).unwrap();
    delta(&bank, index).try_into_vec_as::<f32>().unwrap()
}

/// What a stage leaves of its adapter: the change is that of the dense weights, from the run that it started from. A later call finds
/// nothing to do, makes a lost or damaged file anew, to the same bytes, and shows the stored values where the adapter is gone.
#[test]
fn a_stage_leaves_the_spectrum_of_its_change() {
    let project = project("adapter");
    let dirs = run_dirs(&project.path("results/tiny"));
    let (first, second) = (&dirs["lora-seed0-first"], &dirs["lora-seed0-first+second"]);
    let stored = |dir: &Path| stored_spectrum::read(dir).unwrap();
    let [before, after] = [first, second].map(|dir| stored(dir).unwrap());
    assert_eq!(before.from, None);
    assert!(before.sites.iter().all(|site| site.change.is_none()));
    let hash = record(&project, "lora-seed0-first")["hash"].clone();
    assert_eq!(after.from.as_deref(), hash.as_str());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let of = |values: &[f32]| norm(&mut values.iter().map(|v| f64::from(*v)));
    for (index, site) in after.sites.iter().enumerate() {
        let (old, new) = (dense(first, index), dense(second, index));
        let changed = norm(&mut new.iter().zip(&old).map(|(a, b)| f64::from(a - b)));
        let change = site.change.as_ref().unwrap();
        assert!((of(&change.values) / changed - 1.0).abs() < 1e-5);
        assert!((of(&site.values) / of(&new) - 1.0).abs() < 1e-5);
        assert_eq!((change.values.len(), site.values.len()), (8, 4));
        assert!(
            change
                .output_overlap
                .is_some_and(|o| (0.0..=1.0).contains(&o))
        );
        assert!(site.weight_norm.is_some_and(|norm| norm > 0.0));
    }
    for label in ["base", "full-seed0-first"] {
        assert_eq!(stored(&dirs[label]), None, "{label}");
    }

    let path = second.join(stored_spectrum::FILE);
    let whole = std::fs::read(&path).unwrap();
    let output = project.succeed(&["spectrum", "tiny"]);
    assert!(!output.err.contains("stored"), "{}", output.err);
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    std::fs::remove_file(first.join(stored_spectrum::FILE)).unwrap();
    let output = project.succeed(&["spectrum", "tiny", "--json", "--out", "here"]);
    assert!(
        output.err.contains("stored spectra of 2 of 2 runs"),
        "{}",
        output.err
    );
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert_eq!(stored(first), Some(before));
    let here: Value = serde_json::from_str(&output.out).unwrap();

    for dir in [first, second] {
        std::fs::remove_dir_all(dir.join("adapter")).unwrap();
    }
    let text = project.succeed(&["spectrum", "tiny"]).out;
    assert!(
        text.contains("without angles: lora-seed0-first+second, lora-seed0-first."),
        "{text}"
    );
    assert!(!text.contains("Principal angles"), "{text}");
    let there = project.succeed(&["spectrum", "tiny", "--json", "--out", "there"]);
    let there: Value = serde_json::from_str(&there.out).unwrap();
    let value = |spectra: &Value| {
        spectra["adapters"][1]["sites"][3]["effective_rank"]
            .as_f64()
            .unwrap()
    };
    assert!((value(&here) / value(&there) - 1.0).abs() < 1e-5);
    assert_eq!(there["angles"], serde_json::json!([]));
    // Without an adapter a damaged file cannot be made anew.
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let output = project.run(&["spectrum", "tiny"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(
        output
            .err
            .contains("spectrum.json.zst: not a valid spectrum"),
        "{}",
        output.err
    );
}

/// Two tasks, in both orders: what the second stage forgets of the first is set against its spectrum in the report.
#[test]
fn a_report_sets_spectra_against_forgetting() {
    let project = Project::new();
    project.write("datasets/pocket_descriptions.toml", DESCRIPTIONS);
    let text = String::from_utf8(project.read("experiments/tiny.toml")).unwrap();
    let (head, _) = text.split_once("[[evaluate]]").unwrap();
    let head = head.replace("keep_best = true", "keep_best = false");
    project.write("experiments/tiny.toml", format!("{head}{TWO_TASKS}"));
    project.succeed(&["sweep", "tiny"]);
    let report = String::from_utf8(project.read("reports/tiny/report.md")).unwrap();
    assert!(report.contains("## Spectrum and forgetting"), "{report}");
    assert!(report.contains("Of 4 stages of 4 chains"), "{report}");
}

const DESCRIPTIONS: &str = r#"
name = "pocket_descriptions"
version = 1
license = "MIT OR Apache-2.0"
format = "pocket"
columns = ["source", "target"]
[splits.train]
pocket = { kind = "descriptions_held", seed = 1, rows = 64 }
[splits.test]
pocket = { kind = "descriptions_held", seed = 3, rows = 8 }
"#;

const TWO_TASKS: &str = r#"
[[stage]]
name = "words"
task = "pocket"
steps = 2
[[stage]]
name = "descriptions"
task = "pocket"
task_options = { variant = "descriptions" }
steps = 2
[sequence]
orders = "all"
[[evaluate]]
task = "pocket"
loss = { held_out = 8, max_source = 48, max_target = 24 }
[[evaluate]]
task = "pocket"
options = { variant = "descriptions" }
loss = { held_out = 8, max_source = 48, max_target = 24 }
[axes]
method = ["base", "lora", "share_a"]
"#;

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

/// A first stage that is taken over from another experiment comes without its checkpoint; a second one that goes on with its moments finds
/// them where it was trained, and ends as it would have there.
#[test]
fn moments_are_found_behind_a_stage_that_was_taken_over() {
    let project = project("adapter_and_optimizer");
    let text = String::from_utf8(project.read("experiments/tiny.toml")).unwrap();
    let text = text.replace(
        "carry = \"adapter_and_optimizer\"",
        "carry = \"adapter_and_optimizer\"\nlearning_rate = 2e-3",
    );
    project.write("experiments/other.toml", &text);
    project.succeed(&["sweep", "other"]);
    let other = run_dirs(&project.path("results/other"));
    assert!(!other["lora-seed0-first"].join("checkpoint").exists());
    project.write("experiments/tiny.toml", &text);
    project.succeed(&["sweep", "tiny", "--results", "alone"]);
    let alone = run_dirs(&project.path("alone/tiny"));
    for (method, file) in [("lora", "adapter"), ("full", "model")] {
        let label = format!("{method}-seed0-first+second");
        let trained = |runs: &std::collections::BTreeMap<String, std::path::PathBuf>| {
            std::fs::read(runs[&label].join(format!("adapter/{file}.safetensors"))).unwrap()
        };
        assert!(trained(&other) == trained(&alone), "{label}");
    }
}
