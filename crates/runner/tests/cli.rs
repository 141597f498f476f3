//! The binary as a shell sees it: output, exit codes, files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const EXPERIMENT: &str = r#"
title = "Small"
[model]
name = "tiny"
config = "file:tiny/config.json"
tokenizer = "file:tiny/tokenizer.json"
weights = ["file:tiny/model.safetensors"]
[adapter]
rank = 4
alpha = 8
targets = ["all_linear"]
[train]
task = "pocket"
steps = 2
batch_size = 2
learning_rate = 1e-3
[[evaluate]]
task = "pocket"
[axes]
method = ["base", "lora", "share_a"]
"#;

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true}"#;

/// A project with one experiment and the configuration, but not the weights, of its model.
fn project() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("experiments/small.toml", EXPERIMENT),
        ("tiny/config.json", CONFIG),
    ] {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// Runs the binary in `root` with nothing of this machine's settings.
fn sharelora(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sharelora"))
        .args(arguments)
        .current_dir(root)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", root)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_plan_is_shown_without_weights() {
    let root = project();
    let output = sharelora(root.path(), &["sweep", "small", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    for part in [
        "base",
        "lora-seed0",
        "share_a-seed0",
        "to do",
        "3 runs: 0 done, 3 to do",
        "lora-seed0, micro-batches of at most 2 x 768 tokens: base ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !root.path().join("results").exists(),
        "a dry run leaves nothing behind"
    );
    let only = out(&sharelora(
        root.path(),
        &["sweep", "small", "--dry-run", "--only", "^share_.-seed0$"],
    ));
    assert!(
        only.contains("share_a-seed0") && !only.contains("lora-seed0 "),
        "{only}"
    );
    let sparing = [
        "train.batch_size=1",
        "train.padded=true",
        "train.gradient_checkpointing=true",
        "model.dtype=bf16",
    ];
    let sets = sparing.iter().flat_map(|set| ["--set", *set]);
    let arguments: Vec<&str> = ["plan", "small"].into_iter().chain(sets).collect();
    let shown = out(&sharelora(root.path(), &arguments));
    assert!(
        shown.contains("at most 1 x 768 tokens, padded, gradient checkpointing: base "),
        "{shown}"
    );
    // Below the project too.
    assert_eq!(
        sharelora(&root.path().join("tiny"), &["plan", "small"])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn the_plan_as_json_is_all_of_it() {
    let root = project();
    let output = sharelora(
        root.path(),
        &["plan", "small", "--json", "--set", "train.steps=7"],
    );
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lora = &plan["runs"][1];
    assert_eq!(lora["label"], "lora-seed0");
    assert_eq!(lora["run"]["train"]["steps"], 7);
    // 3 layers, rank 4; in + out of q 16+16, k and v 16+8, o 16+16, gate and up 16+32, down 32+16.
    assert_eq!(
        lora["estimate"]["trainable_parameters"],
        3 * 4 * (32 + 24 + 24 + 32 + 48 + 48 + 48)
    );
    assert_eq!(plan["runs"][0]["estimate"]["trainable_parameters"], 0);
}

/// The exit codes that `--help` promises, and one line that says what is wrong.
#[test]
fn exit_codes() {
    let root = project();
    let cases: [(&[&str], i32, &str); 11] = [
        (&["--help"], 0, ""),
        (&["sweep"], 2, "NAME"),
        (&["sweep", "smal"], 2, "did you mean `small`?"),
        (
            &["sweep", "small", "--set", "train.stps=3"],
            2,
            "did you mean `steps`?",
        ),
        (&["sweep", "small", "--only", "nothing"], 2, "lora-seed0"),
        (&["sweep", "small", "--backend", "cuda"], 2, "flex"),
        (
            &["run", "small", "lora-seed1"],
            2,
            "did you mean `lora-seed0`?",
        ),
        (&["sweep", "small"], 3, "tiny/tokenizer.json"),
        (&["fetch", "small"], 3, "tiny/tokenizer.json"),
        (&["report", "small"], 3, "sharelora sweep small"),
        (
            &["export", "nowhere", "--format", "peft", "--out", "x"],
            3,
            "run.json",
        ),
    ];
    for (arguments, code, text) in cases {
        let output = sharelora(root.path(), arguments);
        let message = err(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(text), "{arguments:?}: {message}");
        assert!(
            !message.contains("panicked") && !message.contains('\u{1b}'),
            "{message}"
        );
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let output = sharelora(elsewhere.path(), &["plan", "small"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(err(&output).contains("SHARELORA_ROOT"), "{}", err(&output));
    assert!(out(&sharelora(root.path(), &["--help"])).contains("Exit codes:"));
}

/// A run that cannot be done (the weights are no weights) is recorded, the others are tried, and the code is 1.
#[test]
fn a_failed_run_is_recorded_and_tried_again() {
    let root = project();
    for name in ["tokenizer.json", "model.safetensors"] {
        std::fs::write(root.path().join("tiny").join(name), "not one").unwrap();
    }
    for _ in 0..2 {
        let output = sharelora(root.path(), &["sweep", "small", "--quiet"]);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{}{}",
            out(&output),
            err(&output)
        );
        assert!(
            err(&output)
                .contains("failed (the same command tries again): base, lora-seed0, share_a-seed0")
        );
    }
    assert!(root.path().join("reports/small/report.md").is_file());
    let plan = out(&sharelora(root.path(), &["plan", "small"]));
    assert!(plan.contains("failed before"), "{plan}");
}

#[test]
fn saved_answers_are_graded_again() {
    let root = project();
    let path = root.path().join("samples-pocket.jsonl");
    // Both grades were saved wrong.
    let line = |reference: &str| {
        format!(
            "{{\"id\":\"0\",\"prompt\":\"p\",\"reference\":\"{reference}\",\"group\":null,\
             \"answer\":{{\"text\":\" so #### 12\"}},\"tokens\":3,\"grades\":{{}}}}\n"
        )
    };
    std::fs::write(&path, line("#### 12") + &line("#### 13")).unwrap();
    let output = sharelora(
        root.path(),
        &["score", "samples-pocket.jsonl", "--task", "pocket"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        out(&output).contains("2 of 2 grades differ"),
        "{}",
        out(&output)
    );
    std::fs::write(&path, line("#### 12") + "{\n").unwrap();
    let output = sharelora(
        root.path(),
        &["score", "samples-pocket.jsonl", "--task", "pocket"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("samples-pocket.jsonl:2"),
        "{}",
        err(&output)
    );
}

#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let root = project();
    let output = sharelora(root.path(), &["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(
        text.contains("small") && text.contains("lacks file:tiny/tokenizer.json"),
        "{text}"
    );
    assert!(text.contains("HF_HUB_OFFLINE is set"), "{text}");
}

#[test]
fn completions_are_printed() {
    let root = project();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            out(&sharelora(root.path(), &["completions", shell])).contains("share"),
            "{shell}"
        );
    }
}

/// A sharded model: `fetch` reads the index and brings the shards that it names, each once.
#[test]
fn shards_behind_an_index_are_fetched() {
    let root = project();
    let tiny = root.path().join("tiny");
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;
    let files = [
        ("tokenizer.json", "{}"),
        ("model.safetensors.index.json", index),
        ("one.safetensors", "1"),
    ];
    for (name, text) in files {
        std::fs::write(tiny.join(name), text).unwrap();
    }
    let weights = "model.weights=[\"file:tiny/model.safetensors.index.json\"]";
    let output = sharelora(root.path(), &["fetch", "small", "--set", weights]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        err(&output).contains("tiny/two.safetensors"),
        "{}",
        err(&output)
    );
    std::fs::write(tiny.join("two.safetensors"), "2").unwrap();
    let output = sharelora(root.path(), &["fetch", "small", "--set", weights]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output).matches("file:tiny/one.safetensors").count(),
        1,
        "{}",
        out(&output)
    );
}

/// The folder of stored hub files, where this machine has one.
fn mirror() -> Option<PathBuf> {
    let sibling = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/hub");
    let dir =
        std::env::var_os("SHARELORA_MIRROR").map_or_else(|| PathBuf::from(sibling), PathBuf::from);
    dir.is_dir().then_some(dir)
}

/// The counts of the paper's table for LLaMA-7B at rank 64, from `config.json` alone.
#[test]
fn parameters_of_llama_7b() {
    let Some(mirror) = mirror() else {
        println!("skipped: no mirror folder (SHARELORA_MIRROR)");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mirror = mirror.to_string_lossy();
    let output = sharelora(&root, &["params", "llama7b", "--mirror", &mirror]);
    let text = out(&output);
    for (method, count) in [
        ("lora", "159,907,840"),
        ("share_a", "89,309,184"),
        ("share_b", "75,595,776"),
        ("share_ab", "4,997,120"),
    ] {
        let line = text
            .lines()
            .find(|l| l.split_whitespace().next() == Some(method))
            .unwrap_or_default();
        assert!(line.contains(count), "{method}: {text}{}", err(&output));
    }
    let plan = sharelora(
        &root,
        &["sweep", "llama7b", "--dry-run", "--mirror", &mirror],
    );
    assert_eq!(plan.status.code(), Some(0), "{}", err(&plan));
    assert!(out(&plan).contains("share_a_qkv-seed0"), "{}", out(&plan));
}

/// RoBERTa-base on GLUE, from `config.json` alone: the table's counts, without the head; and the settings of the protocol, MRPC
/// behind the MNLI run that it starts from.
#[test]
fn the_glue_protocol_is_planned() {
    let Some(mirror) = mirror() else {
        println!("skipped: no mirror folder (SHARELORA_MIRROR)");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mirror = mirror.to_string_lossy();
    let plan = ["plan", "glue-roberta-base", "--json", "--mirror", &mirror];
    let output = sharelora(&root, &plan);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let plan: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let runs = plan["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 5 * 5 * 8);
    let find = |label: &str| {
        let place = runs.iter().position(|run| run["label"] == label);
        (place.unwrap(), &runs[place.unwrap()])
    };
    for (method, count) in [
        ("lora", 294_912),
        ("share_a", 159_744),
        ("share_b", 159_744),
        ("share_ab", 24_576),
    ] {
        let (_, run) = find(&format!("{method}-seed0-tasksst2"));
        assert_eq!(run["estimate"]["trainable_parameters"], count);
        // A dense layer of 768 x 768 and one of 2 x 768, with their biases.
        assert_eq!(run["estimate"]["head_parameters"], 768 * 769 + 2 * 769);
    }
    let (mnli, origin) = find("share_a-seed3-taskmnli");
    let (mrpc, run) = find("share_a-seed3-taskmrpc");
    assert!(mnli < mrpc);
    assert_eq!(run["run"]["init_from"]["hash"], origin["hash"]);
    let train = &run["run"]["train"];
    assert_eq!(
        (
            &train["learning_rate"],
            &train["epochs"],
            &train["warmup_ratio"]
        ),
        (&4e-4.into(), &30.into(), &0.06.into())
    );
    let (_, full) = find("full-seed0-taskmrpc");
    assert_eq!(full["run"]["init_from"], serde_json::Value::Null);
    let paper = [
        "plan",
        "glue-roberta-base-paper",
        "--json",
        "--mirror",
        &mirror,
    ];
    let paper: serde_json::Value = serde_json::from_str(&out(&sharelora(&root, &paper))).unwrap();
    assert_eq!(paper["runs"][0]["run"]["adapter"]["alpha"], 8.0);
}

/// The real MiniLM: token ids, segments, hidden states and pooler as transformers has them
/// (`scripts/minilm_reference.py`).
#[test]
fn minilm_is_that_of_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = root.join("crates/runner/tests/fixtures/minilm.json");
    let file = file.to_string_lossy();
    // With this machine's cache, and without the network.
    let output = Command::new(env!("CARGO_BIN_EXE_sharelora"))
        .args(["parity", &file, "--model-of", "minilm-glue"])
        .current_dir(&root)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    if output.status.code() == Some(3) {
        println!("skipped: MiniLM is not in the cache (`sharelora fetch minilm-glue` brings it)");
        return;
    }
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        out(&output),
        err(&output)
    );
    assert_eq!(
        out(&output).matches("pooled").count(),
        6,
        "{}",
        out(&output)
    );
}
