//! The E2E challenge from end to end: a sweep by its recipe, and any system's texts from the command line.

mod support;

use serde_json::Value;
use sharelora_model::weights::Checkpoint;
use support::{Project, run_dirs};

/// A GPT-2 of some ten thousand parameters takes the place of the project's LLaMA: q and v are parts of its `c_attn`.
fn gpt2() -> Project {
    let project = Project::new();
    let config = serde_json::json!({
        "model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "eos_token_id": 0,
    });
    support::write_model(&project, "models/gpt2", &config);
    project.edit(
        "experiments/tiny.toml",
        "models/tiny/config",
        "models/gpt2/config",
    );
    project.edit(
        "experiments/tiny.toml",
        "models/tiny/model",
        "models/gpt2/model",
    );
    project.edit(
        "experiments/tiny.toml",
        "[\"all_linear\"]",
        "[\"q\", \"v\"]",
    );
    project.edit(
        "experiments/tiny.toml",
        "task = \"pocket\"\nsteps = 8",
        "task = \"e2e\"\ntask_options = { dataset = \"pocket_descriptions\" }\nlabel_smoothing = 0.1\nrows = 80\nepochs = 2",
    );
    project.edit(
        "experiments/tiny.toml",
        "task = \"pocket\"\noptions = { limit = 6, max_new_tokens = 8 }",
        "task = \"e2e\"\noptions = { dataset = \"pocket_descriptions\", limit = 4, max_new_tokens = 6 }",
    );
    project.edit(
        "experiments/tiny.toml",
        "[\"base\", \"lora\", \"share_a\"]",
        "[\"share_a\", \"full\"]",
    );
    project
}

fn record(project: &Project, label: &str) -> Value {
    let dir = &run_dirs(&project.path("results/tiny"))[label];
    serde_json::from_slice(&std::fs::read(dir.join("record.json")).unwrap()).unwrap()
}

/// Smoothed labels, epochs, dropout, sites that are parts of a module, full fine-tuning, beam search and the scores, with the reason
/// for the one that cannot be had here.
#[test]
fn the_recipe_runs_and_is_scored() {
    let project = gpt2();
    project.succeed(&["sweep", "tiny"]);
    for label in ["share_a-seed0", "full-seed0"] {
        let record = record(&project, label);
        for metric in ["bleu", "nist", "rouge_l", "cider", "exact_match"] {
            let found = &record["metrics"][format!("e2e/{metric}")];
            assert_eq!(found["n"], 4, "{label} {metric}: {record}");
        }
        // 72 rows that are not held out, in batches of 4, two to a step: 9 steps an epoch.
        assert_eq!(record["steps"], 18);
        // No network here: METEOR's program is not in this cache, or there is no Java.
        let reason = record["not_measured"]["e2e/meteor"].as_str().unwrap();
        assert!(reason.contains("METEOR"), "{reason}");
        assert!(
            record["held_out_loss"].as_f64() < record["held_out_loss_before"].as_f64(),
            "{record}"
        );
    }
    // A (4 x 32) shared by q and v each, B (32 x 4) of both in two layers.
    assert_eq!(
        record(&project, "share_a-seed0")["trainable_parameters"],
        2 * 128 + 4 * 128
    );
    let report = String::from_utf8(project.read("reports/tiny/report.md")).unwrap();
    assert!(report.contains("Not measured: e2e/meteor"), "{report}");

    // One adapter of the fused module for PEFT.
    let dir = &run_dirs(&project.path("results/tiny"))["share_a-seed0"];
    let dir = dir.to_string_lossy();
    project.succeed(&["export", &dir, "--format", "peft", "--out", "peft"]);
    let config: Value = serde_json::from_slice(&project.read("peft/adapter_config.json")).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&8.into(), &16.into())
    );
    assert_eq!(config["target_modules"], serde_json::json!(["c_attn"]));
    assert_eq!(config["fan_in_fan_out"], true);
    let weights = Checkpoint::open(&[project.path("peft/adapter_model.safetensors")]).unwrap();
    let b = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight";
    assert_eq!(weights.shape(b), Some(vec![96, 8]));
}

/// Positions are learned in a GPT-2: an answer that would take all of them is refused before anything is trained.
#[test]
fn an_answer_leaves_room_for_its_prompt() {
    let project = gpt2();
    let set = "evaluate.0.options.max_new_tokens=128";
    let found = project.run(&["sweep", "tiny", "--set", set]);
    assert_ne!(found.code, Some(0));
    let wanted = "`evaluate.options.max_new_tokens` = 128 leaves no room for a prompt: the model has 128 positions";
    assert!(found.err.contains(wanted), "{}", found.err);
    for dir in run_dirs(&project.path("results/tiny")).values() {
        assert!(!dir.join("steps.jsonl").exists(), "{}", dir.display());
    }
}

const SYSTEM: &str = "The Vaults is a pub near Café Adriatic.\n\nBlue Spice serves cheap food.\n";
const REFERENCES: &str = "The Vaults is a pub close to Café Adriatic.\nNear Café Adriatic is The Vaults.\n\n\
                          Nothing is known.\n\nBlue Spice is cheap.\n";

/// An empty line of a system is an answer without words; everything else that does not fit is an error.
#[test]
fn any_systems_texts_are_scored() {
    let project = Project::new();
    project.write("system.txt", SYSTEM);
    project.write("references.txt", REFERENCES);
    let score = |system: &str, references: &str| {
        let arguments = [
            "score",
            "e2e",
            "--system",
            system,
            "--references",
            references,
        ];
        project.run(&arguments)
    };
    let found = score("system.txt", "references.txt");
    assert_eq!(found.code, Some(0), "{}", found.err);
    for part in [
        "BLEU",
        "NIST",
        "ROUGE-L",
        "CIDEr",
        "METEOR",
        "1 of 3 texts of the system are empty",
    ] {
        assert!(
            found.out.contains(part),
            "`{part}` is not in: {}",
            found.out
        );
    }
    project.write("short.txt", "One.\n");
    project.write("none.txt", "");
    for (system, references, code, part) in [
        (
            "short.txt",
            "references.txt",
            2,
            "the system has 1 outputs, but there are references for 3 segments",
        ),
        ("none.txt", "references.txt", 2, "none.txt"),
        ("system.txt", "lost.txt", 3, "lost.txt: no such file"),
    ] {
        let found = score(system, references);
        assert_eq!(found.code, Some(code), "{}{}", found.out, found.err);
        assert!(
            found.err.contains(part),
            "`{part}` is not in: {}",
            found.err
        );
    }
    let found = project.run(&[
        "score",
        "system.txt",
        "--system",
        "system.txt",
        "--references",
        "references.txt",
    ]);
    assert!(
        found.code == Some(2) && found.err.contains("score e2e"),
        "{}",
        found.err
    );
}
