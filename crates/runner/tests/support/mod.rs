//! A project with a model of some ten thousand parameters, made here and from a seed, and the binary in it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sharelora_model::weights::{TensorDtype, write_safetensors};
use sharelora_model::{Model, ModelConfig, Storage};
use sharelora_tasks::corpus::pretraining_text;
use sharelora_tasks::train_pocket_tokenizer;

/// Everything that could make two runs differ is on: dropout, accumulation, the best weights kept.
pub const EXPERIMENT: &str = r#"
title = "Tiny"
[model]
name = "tiny"
config = "file:models/tiny/config.json"
tokenizer = "file:models/tiny/tokenizer.json"
weights = ["file:models/tiny/model.safetensors"]
[adapter]
rank = 4
alpha = 8
dropout = 0.1
targets = ["all_linear"]
[train]
task = "pocket"
steps = 8
batch_size = 4
accumulation = 2
learning_rate = 1e-2
schedule = "linear"
warmup_steps = 1
weight_decay = 0.01
clip_norm = 1.0
max_source = 48
max_target = 24
group_by_length = true
held_out = 8
evaluate_every = 2
checkpoint_every = 2
keep_best = true
[[evaluate]]
task = "pocket"
options = { limit = 6, max_new_tokens = 8 }
batch_size = 4
[axes]
method = ["base", "lora", "share_a"]
seed = [0]
"#;

const DATASET: &str = r#"
name = "pocket"
version = 1
license = "MIT OR Apache-2.0"
format = "pocket"
columns = ["question", "answer"]
[splits.train]
pocket = { kind = "word_problems_held", seed = 1, rows = 64 }
[splits.test]
pocket = { kind = "word_problems_held", seed = 3, rows = 8 }
"#;

const VOCABULARY: usize = 320;

/// `config.json` of the model.
pub fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "tie_word_embeddings": true, "eos_token_id": 0,
    })
}

/// Values of a weight: 1 for norms, else uniform with a deviation that keeps activations near 1.
pub fn weight(rng: &mut ChaCha8Rng, name: &str, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let bound = if name.contains("embed") {
        0.3
    } else {
        (3.0 / columns as f32).sqrt()
    };
    (0..rows * columns)
        .map(|_| {
            if name.contains("norm") {
                1.0
            } else {
                rng.random_range(-bound..bound)
            }
        })
        .collect()
}

/// `config.json` and weights in bf16 of a model with random values.
pub fn write_model(project: &Project, folder: &str, config: &Value) {
    project.write(&format!("{folder}/config.json"), config.to_string());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let model = ModelConfig::from_json(&config.to_string()).unwrap();
    let read = |name: &str, shape| Ok(weight(&mut rng, name, shape));
    let model = Model::build(model, Storage::F32, &Device::flex(), read).unwrap();
    let path = project.path(&format!("{folder}/model.safetensors"));
    write_safetensors(&path, &model.values(), TensorDtype::BF16, &BTreeMap::new()).unwrap();
}

/// A temporary project; it goes away with the value.
pub struct Project {
    folder: tempfile::TempDir,
}

/// What a command gave.
pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Project {
    /// `experiments/tiny.toml`, `datasets/pocket.toml` and `models/tiny`, the weights in bf16.
    pub fn new() -> Self {
        let project = Project {
            folder: tempfile::tempdir().unwrap(),
        };
        project.write("experiments/tiny.toml", EXPERIMENT);
        project.write("datasets/pocket.toml", DATASET);
        let tokenizer = train_pocket_tokenizer(pretraining_text(1, 300), VOCABULARY).unwrap();
        project.write(
            "models/tiny/tokenizer.json",
            tokenizer.to_string(false).unwrap(),
        );
        write_model(&project, "models/tiny", &config());
        project
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Replaces a text that is there in a file of the project.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.read(name)).unwrap();
        assert!(text.contains(from), "{name} has no `{from}`");
        self.write(name, text.replacen(from, to, 1));
    }

    /// The binary in the project, with nothing of this machine's settings and without the network.
    pub fn command(&self, arguments: &[&str]) -> Command {
        command(self.root(), self.root(), arguments)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        output(&mut self.command(arguments))
    }

    /// As [`Project::run`], where only success will do.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert_eq!(
            output.code,
            Some(0),
            "{arguments:?}\n{}{}",
            output.out,
            output.err
        );
        output
    }
}

/// The binary in the project `root`; caches and all else that is private go to `home`.
pub fn command(root: &Path, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sharelora"));
    command
        .args(arguments)
        .current_dir(root)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("SHARELORA_ROOT", root)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

pub fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    Output {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The folders of the runs in `results/EXPERIMENT`, by label.
pub fn run_dirs(experiment: &Path) -> BTreeMap<String, PathBuf> {
    std::fs::read_dir(experiment)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // What belongs to the sweep and to no run is hidden.
            if name.starts_with('.') {
                return None;
            }
            let (label, _hash) = name.rsplit_once('-').unwrap();
            Some((label.to_owned(), path))
        })
        .collect()
}

/// All of a run that must come out again to the last bit.
#[derive(Debug, PartialEq)]
pub struct Bits {
    /// Of each line of `steps.jsonl` what is no measure of the machine.
    pub steps: Vec<Value>,
    pub adapter: Option<Vec<u8>>,
    pub samples: String,
    pub record: Value,
}

fn some_of(value: &Value, keys: &[&str]) -> Value {
    keys.iter()
        .map(|key| ((*key).to_owned(), value[*key].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub fn bits(dir: &Path) -> Bits {
    let text = |name: &str| std::fs::read_to_string(dir.join(name));
    let record: Value = serde_json::from_str(&text("record.json").unwrap()).unwrap();
    Bits {
        steps: text("steps.jsonl")
            .unwrap_or_default()
            .lines()
            .map(|line| {
                let step: Value = serde_json::from_str(line).unwrap();
                some_of(
                    &step,
                    &[
                        "step",
                        "loss",
                        "learning_rate",
                        "grad_norm",
                        "tokens",
                        "held_out_loss",
                    ],
                )
            })
            .collect(),
        adapter: std::fs::read(dir.join("adapter/adapter.safetensors")).ok(),
        samples: unpacked(&dir.join("samples-pocket.jsonl.zst")),
        record: some_of(
            &record,
            &[
                "hash",
                "status",
                "message",
                "steps",
                "train_loss",
                "held_out_loss",
                "held_out_loss_before",
                "best_step",
                "metrics",
                "data",
                "trainable_parameters",
                "adapter_bytes",
            ],
        ),
    }
}

/// The lines of a samples file.
pub fn unpacked(path: &Path) -> String {
    let packed = std::fs::read(path).unwrap();
    String::from_utf8(zstd::decode_all(packed.as_slice()).unwrap()).unwrap()
}

/// Every file below a folder, by its path in it.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(dir).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

/// Files that a write in progress leaves where it is cut off.
pub fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let partial = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with('.') || name.ends_with(".partial")
    };
    files(dir).into_keys().filter(partial).collect()
}

/// Time that a child may take before something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// Looks every few milliseconds until `found` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lines of the `steps.jsonl` of all runs of an experiment.
pub fn lines(experiment: &Path) -> usize {
    let runs = std::fs::read_dir(experiment)
        .into_iter()
        .flatten()
        .flatten();
    let lines = |run: std::fs::DirEntry| {
        let steps = std::fs::read(run.path().join("steps.jsonl")).unwrap_or_default();
        steps.iter().filter(|b| **b == b'\n').count()
    };
    runs.map(lines).sum()
}

/// The child processes of a process, by `/proc`.
pub fn children(parent: u32) -> Vec<u32> {
    let of_parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; behind it stand the state and the parent.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or(vec![], |(_, rest)| rest.split_whitespace().collect());
        matches!(fields[..], [state, of, ..] if state != "Z" && of == parent.to_string())
    };
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(of_parent).collect()
}

/// `kill -s SIGNAL TARGET`; a target below 0 is a process group.
pub fn signal(signal: &str, target: i64) {
    let command = format!("kill -s {signal} -- {target}");
    let status = Command::new("sh")
        .args(["-c", &command])
        .stderr(Stdio::null())
        .status();
    status.unwrap();
}

/// Starts a command in a process group of its own, as a shell does, and reads what it says.
pub fn start(command: &mut Command) -> Child {
    use std::os::unix::process::CommandExt;
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Waits for the end of what [`start`] gave.
pub fn ended(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
