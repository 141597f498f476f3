//! Wrong files and settings, through the binary: one clear message, the promised exit code, nothing half-written.

mod support;

use std::path::{Path, PathBuf};

use support::{Output, Project, bits, command, config, files, leftovers, output, run_dirs};

const WEIGHTS: &str = "models/tiny/model.safetensors";
const CONFIG: &str = "models/tiny/config.json";

#[track_caller]
fn says(what: &str, output: &Output, parts: &[&str]) {
    let text = &output.err;
    for part in parts {
        assert!(text.contains(part), "{what}: no `{part}` in: {text}");
    }
    for never in ["panicked at", "RUST_BACKTRACE", "\u{1b}", "stack backtrace"] {
        assert!(!text.contains(never), "{what}: {text}");
    }
}

/// Found before any run: `code`, the message, and a project that is as it was.
#[track_caller]
fn refused(what: &str, project: &Project, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = project.run(arguments);
    assert_eq!(
        output.code,
        Some(code),
        "{what}: {}{}",
        output.out,
        output.err
    );
    says(what, &output, parts);
    let left = files(&project.path("results"));
    assert!(left.is_empty(), "{what}: {:?}", left.keys());
}

/// Found while running: the record of every one of `labels` says so, the code is 1, and the run is not done.
#[track_caller]
fn failed(what: &str, project: &Project, arguments: &[&str], labels: &[&str], parts: &[&str]) {
    let output = project.run(arguments);
    assert_eq!(output.code, Some(1), "{what}: {}{}", output.out, output.err);
    says(what, &output, parts);
    let dirs = run_dirs(&project.path("results/tiny"));
    for label in labels {
        let text = std::fs::read_to_string(dirs[*label].join("record.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let message = record["message"].as_str().unwrap_or_default();
        assert_eq!(record["status"], "failed", "{what}: {text}");
        for part in parts {
            assert!(
                message.contains(part),
                "{what}: no `{part}` in the record: {message}"
            );
        }
        assert!(!dirs[*label].join("adapter").exists(), "{what}");
    }
    assert_eq!(
        leftovers(&project.path("results")),
        Vec::<PathBuf>::new(),
        "{what}"
    );
    let plan = project.succeed(&[&["plan"], &arguments[1..]].concat());
    assert!(plan.out.contains("failed before"), "{what}: {}", plan.out);
    std::fs::remove_dir_all(project.path("results")).unwrap();
}

const ALL: [&str; 3] = ["base", "lora-seed0", "share_a-seed0"];

#[test]
fn settings() {
    let project = Project::new();
    let file = "experiments/tiny.toml";
    let cases: [(&str, &[&str]); 8] = [
        (
            "train.stpes=3",
            &[file, "`stpes`", "did you mean `steps`?", "choices: task"],
        ),
        ("axes.method=[\"loar\"]", &[file, "`loar`", "share_ab"]),
        ("adapter.targets=[\"q_prj\"]", &["q_prj", "q_proj"]),
        (
            "evaluate.0.task=poket",
            &[file, "`poket`", "choices: alpaca"],
        ),
        ("train.learning_rate=nan", &[file, "`learning_rate`"]),
        (
            "adapter.rank=1000000000",
            &[file, "`rank`", "at most 65536"],
        ),
        (
            "train.accumulation=1000000000000",
            &[file, "`accumulation`", "at most 65536"],
        ),
        (
            "train.max_target=1000000000000",
            &[file, "`max_target`", "at most 1048576"],
        ),
    ];
    for (set, parts) in cases {
        // What is found does not depend on how much is shown.
        for quiet in [&[][..], &["--quiet"]] {
            let arguments = [&["sweep", "tiny", "--set", set], quiet].concat();
            refused(set, &project, &arguments, 2, parts);
        }
    }
    let arguments = ["sweep", "tiny", "--set", "train.held_out=64"];
    let parts = ["`train.held_out` = 64", "64 rows"];
    failed("held out", &project, &arguments, &ALL[1..], &parts);
    project.write(file, "title = \"Tiny");
    let parts = [file, "not valid TOML"];
    refused("TOML", &project, &["sweep", "tiny"], 2, &parts);
}

#[test]
fn datasets() {
    let project = Project::new();
    let whole = String::from_utf8(project.read("datasets/pocket.toml")).unwrap();
    project.edit("datasets/pocket.toml", "columns", "colums");
    refused(
        "key",
        &project,
        &["sweep", "tiny"],
        2,
        &["datasets/pocket.toml", "`colums`", "`columns`"],
    );

    // The same task from a file of rows.
    let row = "{\"question\": \"How many?\", \"answer\": \"#### 3\"}\n";
    let toml = "name = \"pocket\"\nversion = 1\nlicense = \"MIT\"\nformat = \"jsonl\"\ncolumns = [\"question\", \"answer\"]\n\
                [splits.train]\nsource = \"file:rows.jsonl\"\n[splits.test]\nsource = \"file:rows.jsonl\"\n";
    project.write("datasets/pocket.toml", toml);
    refused(
        "absent",
        &project,
        &["sweep", "tiny"],
        3,
        &["file:rows.jsonl", "there is no file"],
    );
    project.write("rows.jsonl", row.replace("answer", "reply").repeat(20));
    failed(
        "column",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &[
            "rows.jsonl",
            "no column `answer`",
            "columns present: question, reply",
        ],
    );
    project.write("rows.jsonl", "");
    failed(
        "empty",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &["rows.jsonl", "no rows"],
    );
    project.write("rows.jsonl", row.repeat(20) + &row[..20]);
    failed(
        "torn",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &["rows.jsonl", "jsonl"],
    );
    project.write("rows.jsonl", row.replace("\"#### 3\"", "3").repeat(20));
    failed("type", &project, &["sweep", "tiny"], &ALL, &["`answer`"]);

    project.write(
        "datasets/pocket.toml",
        toml.replace(
            "rows.jsonl\"",
            &format!("rows.jsonl\"\nsha256 = \"{}\"", "0".repeat(64)),
        ),
    );
    let output = project.run(&["sweep", "tiny"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    says("checksum", &output, &["rows.jsonl", "expected 0000"]);

    project.write(
        "datasets/pocket.toml",
        whole.replace("rows = 64", "rows = 0"),
    );
    failed(
        "none made",
        &project,
        &["sweep", "tiny"],
        &ALL[1..],
        &["dataset `pocket`, split `train`", "no rows"],
    );
}

#[test]
fn weights() {
    let project = Project::new();
    let whole = project.read(WEIGHTS);
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let with_header = |edit: &dyn Fn(&str) -> String| -> Vec<u8> {
        let text = edit(std::str::from_utf8(&whole[8..8 + header]).unwrap());
        [
            &(text.len() as u64).to_le_bytes()[..],
            text.as_bytes(),
            &whole[8 + header..],
        ]
        .concat()
    };
    let shorter = |count: &str| count.replacen("[320,32]", "[320,16]", 1);
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("cut", whole[..whole.len() - 100].to_vec(), "complete"),
        (
            "cut in its header",
            whole[..header / 2].to_vec(),
            "complete",
        ),
        ("empty", Vec::new(), "model.safetensors"),
        ("text", b"not one".to_vec(), "model.safetensors"),
        (
            "header longer than the file",
            [&(50_000_000u64).to_le_bytes()[..], &whole[8..]].concat(),
            "does not fit",
        ),
        (
            "shape that lies",
            with_header(&shorter),
            "model.embed_tokens.weight",
        ),
        (
            "offsets beyond the end",
            with_header(&|t| t.replacen("[0,20480]", "[0,999999999]", 1)),
            "model.embed_tokens.weight",
        ),
        (
            "a tensor missing",
            with_header(&|t| t.replacen("model.norm.weight", "model.nrom.weight", 1)),
            "model.norm.weight",
        ),
    ];
    for (what, bytes, part) in cases {
        assert_ne!(bytes, whole, "{what}");
        project.write(WEIGHTS, bytes);
        failed(
            what,
            &project,
            &["sweep", "tiny"],
            &ALL,
            &["model.safetensors", part],
        );
    }

    // GGUF: magic, version 3, numbers of tensors and of metadata entries.
    let gguf = |tensors: u64, entries: u64, rest: &[u8]| {
        [
            &b"GGUF"[..],
            &3u32.to_le_bytes(),
            &tensors.to_le_bytes(),
            &entries.to_le_bytes(),
            rest,
        ]
        .concat()
    };
    // One entry, `a`: a string of 2^60 bytes.
    let long = [
        &1u64.to_le_bytes()[..],
        b"a",
        &8u32.to_le_bytes(),
        &(1u64 << 60).to_le_bytes(),
    ]
    .concat();
    let cases = [
        ("GGUF of four bytes", b"GGUF".to_vec()),
        ("GGUF cut in its counts", gguf(1, 1, &[])[..14].to_vec()),
        ("GGUF of 2^64 tensors", gguf(u64::MAX, 0, &[])),
        ("GGUF of 2^60 entries", gguf(0, 1 << 60, &[])),
        ("GGUF with a long string", gguf(0, 1, &long)),
        ("GGUF without tensors", gguf(0, 0, &[])),
    ];
    for (what, bytes) in cases {
        project.write("models/tiny/model.gguf", bytes);
        let arguments = [
            "sweep",
            "tiny",
            "--set",
            "model.weights=[\"file:models/tiny/model.gguf\"]",
        ];
        failed(what, &project, &arguments, &ALL, &["model.gguf"]);
    }
}

#[test]
fn tokenizers() {
    let project = Project::new();
    let whole = project.read("models/tiny/tokenizer.json");
    for (what, bytes) in [
        ("cut", &whole[..whole.len() / 2]),
        ("empty", b""),
        ("other JSON", b"{}"),
        ("bytes", b"\xff\xfe\x00"),
    ] {
        project.write("models/tiny/tokenizer.json", bytes);
        failed(
            what,
            &project,
            &["sweep", "tiny"],
            &ALL,
            &["models/tiny/tokenizer.json"],
        );
    }
    project.write("models/tiny/tokenizer.json", &whole);
    project.edit(CONFIG, "\"vocab_size\":320", "\"vocab_size\":300");
    failed(
        "another model's",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &[
            "models/tiny/tokenizer.json",
            "320 tokens",
            "`vocab_size` is 300",
        ],
    );
    project.edit(CONFIG, "\"vocab_size\":300", "\"vocab_size\":320");
    project.edit(CONFIG, "\"eos_token_id\":0", "\"eos_token_id\":5000");
    failed(
        "end of text",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &["models/tiny/tokenizer.json", "eos id 5000"],
    );
}

#[test]
fn configurations() {
    let project = Project::new();
    let text = config().to_string();
    let cases: [(&str, &str, &str, &[&str]); 9] = [
        (
            "cut",
            ",\"tie_word_embeddings\":true,\"eos_token_id\":0}",
            "",
            &["EOF"],
        ),
        (
            "type",
            "\"hidden_size\":32",
            "\"hidden_size\":\"wide\"",
            &["wide"],
        ),
        ("missing", "\"hidden_size\":32,", "", &["hidden_size"]),
        (
            "heads",
            "\"num_key_value_heads\":2",
            "\"num_key_value_heads\":3",
            &["`num_attention_heads` = 4", "`num_key_value_heads` = 3"],
        ),
        (
            "width",
            "\"hidden_size\":32",
            "\"hidden_size\":33",
            &["`hidden_size` = 33", "`num_attention_heads` = 4"],
        ),
        (
            "zero",
            "\"num_attention_heads\":4",
            "\"num_attention_heads\":0",
            &["`num_attention_heads` is 0"],
        ),
        (
            "architecture",
            "\"llama\"",
            "\"mistral\"",
            &["`model_type` is `mistral`", "llama, gpt2, roberta, bert"],
        ),
        (
            "layers",
            "\"num_hidden_layers\":3",
            "\"num_hidden_layers\":1000000000000000",
            &["`num_hidden_layers` is 1000000000000000"],
        ),
        (
            "vocabulary",
            "\"vocab_size\":320",
            "\"vocab_size\":18446744073709551615",
            &["`vocab_size` is 18446744073709551615"],
        ),
    ];
    for (what, from, to, parts) in cases {
        assert!(text.contains(from), "{from}");
        project.write(CONFIG, text.replacen(from, to, 1));
        let parts = [&["models/tiny/config.json"], parts].concat();
        for arguments in [
            &["sweep", "tiny"][..],
            &["sweep", "tiny", "--quiet"],
            &["run", "tiny", "base"],
        ] {
            refused(what, &project, arguments, 2, &parts);
        }
    }
    // Right in itself, but not of these weights.
    project.write(
        CONFIG,
        text.replacen("\"intermediate_size\":64", "\"intermediate_size\":96", 1),
    );
    failed(
        "other weights",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &[WEIGHTS, "mlp.gate_proj.weight` is [64, 32]", "[96, 32]"],
    );
    project.write(
        CONFIG,
        text.replacen("\"num_hidden_layers\":3", "\"num_hidden_layers\":4", 1),
    );
    failed(
        "a layer more",
        &project,
        &["sweep", "tiny"],
        &ALL,
        &[WEIGHTS, "model.layers.3.", "missing"],
    );
}

#[test]
fn files_that_are_not_here_and_no_network() {
    let project = Project::new();
    let set = "model.weights=[\"hf:someone/something:model.safetensors\"]";
    let parts = [
        "hf:someone/something:model.safetensors",
        "HF_HUB_OFFLINE is set",
        "put the file at",
    ];
    refused("hub", &project, &["sweep", "tiny", "--set", set], 3, &parts);
    refused(
        "file",
        &project,
        &[
            "sweep",
            "tiny",
            "--set",
            "model.weights=[\"file:models/none\"]",
        ],
        3,
        &["file:models/none", "there is no file"],
    );
    refused(
        "mirror",
        &project,
        &["sweep", "tiny", "--mirror", "nowhere"],
        3,
        &["--mirror nowhere: no such folder"],
    );
    project.write("taken", "");
    let output = project.run(&["sweep", "tiny", "--results", "taken"]);
    assert_eq!(output.code, Some(1), "{}", output.err);
    says("results is a file", &output, &["taken"]);
}

/// The results' disk is full, at several moments; with space the same command goes on, and to the same bits.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    // A mount of its own, seen by these processes alone and gone with them.
    let script = r#"
        mount -t tmpfs -o "size=$1" tmpfs "$2" || exit 77
        "$4" sweep tiny --results "$2" --reports "$3/reports"; echo "code $?"
        cp -a "$2" "$3/full" && mount -o remount,size=16m "$2" || exit 77
        "$4" sweep tiny --results "$2" --reports "$3/reports"; echo "code $?"
        cp -a "$2" "$3/after"
    "#;
    let project = Project::new();
    project.succeed(&["sweep", "tiny", "--results", "wanted"]);
    let wanted = run_dirs(&project.path("wanted/tiny"));
    for size in ["4k", "12k", "24k", "48k", "112k"] {
        let (disk, copies) = (
            project.path(&format!("disk-{size}")),
            project.path(&format!("copies-{size}")),
        );
        for dir in [&disk, &copies] {
            std::fs::create_dir(dir).unwrap();
        }
        let mut shell = std::process::Command::new("unshare");
        // The binary's environment, without its path and arguments.
        let plain = command(project.root(), project.root(), &[]);
        shell.current_dir(project.root()).env_clear();
        shell.envs(plain.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.args(["--mount", "--map-root-user", "sh", "-c", script, "sh", size]);
        let output = match shell
            .args([&disk, &copies, Path::new(env!("CARGO_BIN_EXE_sharelora"))])
            .output()
        {
            Ok(found) if found.status.success() => Output {
                code: Some(0),
                out: String::from_utf8_lossy(&found.stdout).into_owned(),
                err: String::from_utf8_lossy(&found.stderr).into_owned(),
            },
            _ => {
                println!("skipped: a file system cannot be mounted here");
                return;
            }
        };
        says(size, &output, &[&disk.display().to_string()]);
        assert!(
            output.err.to_lowercase().contains("no space left"),
            "{size}: {}",
            output.err
        );
        let codes: Vec<&str> = output
            .out
            .lines()
            .filter(|l| l.starts_with("code "))
            .collect();
        assert_eq!(
            codes,
            ["code 1", "code 0"],
            "{size}: {}{}",
            output.out,
            output.err
        );
        // What counts as done on the full disk is whole.
        for (label, dir) in run_dirs_or_none(&copies.join("full/tiny")) {
            let text = std::fs::read_to_string(dir.join("record.json")).unwrap_or_default();
            if text.contains("\"status\": \"finished\"") {
                assert_eq!(bits(&dir), bits(&wanted[&label]), "{size}, {label}");
            }
        }
        assert_eq!(
            leftovers(&copies.join("full")),
            Vec::<PathBuf>::new(),
            "{size}"
        );
        let after = run_dirs(&copies.join("after/tiny"));
        assert_eq!(after.len(), 3);
        for (label, dir) in after {
            assert_eq!(bits(&dir), bits(&wanted[&label]), "{size}, {label}");
        }
    }
}

fn run_dirs_or_none(dir: &Path) -> std::collections::BTreeMap<String, PathBuf> {
    if dir.is_dir() {
        run_dirs(dir)
    } else {
        Default::default()
    }
}

/// Standard output that cannot be written is an error with a code, not a panic.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full() {
    let project = Project::new();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = project.command(&["plan", "tiny"]);
    let output = output(command.stdout(full));
    assert_eq!(output.code, Some(1), "{}", output.err);
    says("stdout", &output, &["No space left"]);
}
