//! The whole comparison: this program and the peer's scripts by turns, each in a process of its own.
//!
//! Peak memory and start-up are then those of the process, and what the machine does to one side it does to the other.
//! Processes that are compared make up a block and run directly one after the other. A block that was cut off, or in which
//! something failed, is run again as a whole by the next call; one that is whole is never run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::builder::RangedU64ValueParser;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sharelora_hub::{Progress, sha256_file};
use sharelora_report::Host;
use sharelora_tasks::DatasetSpec;

use crate::bench::measurement::{self, Measurement};
use crate::bench::{DTYPES, ModelArguments, ModelFiles, existing, report, version};
use crate::error::{AbsentError, FAILED, UsageError};
use crate::{Context, host};

/// The methods that are compared.
pub const METHODS: [&str; 4] = ["lora", "share_a", "share_b", "share_ab"];

/// The peer's side of a block.
pub const PEER: &str = "peer";

const TRAIN: &str = "scripts/peer_train.py";
const GENERATE: &str = "scripts/peer_generate.py";
const REQUIREMENTS: &str = "scripts/peer_requirements.txt";

const GIB: u64 = 1 << 30;

#[derive(Debug, Clone, clap::Args)]
pub struct PeerArguments {
    /// A Python that has what scripts/peer_requirements.txt lists
    #[arg(long, value_name = "PYTHON")]
    pub python: PathBuf,
    #[command(flatten)]
    pub model: ModelArguments,
    /// Training questions and answers [default: those of the dataset gsm8k]
    #[arg(long, value_name = "FILE.parquet")]
    pub gsm8k: Option<PathBuf>,
    /// Test questions, the prompts of the generation [default: those of the dataset gsm8k]
    #[arg(long, value_name = "FILE.parquet")]
    pub prompts: Option<PathBuf>,
    /// Times that every block is run
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub rounds: usize,
    /// This program, built with `--features libtorch`: the other backend
    #[arg(long, value_name = "PROGRAM")]
    pub libtorch: Option<PathBuf>,
    /// Threads of every process [default: one a core]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub threads: Option<usize>,
    /// Only the blocks whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// One short round, to see that everything works; too short to judge by
    #[arg(long)]
    pub quick: bool,
}

/// The folder of the measurements and of the report.
pub fn folder(reports: &Path, quick: bool) -> PathBuf {
    reports.join(match quick {
        false => "performance",
        true => "performance-quick",
    })
}

/// `measurements.jsonl` of such a folder.
pub fn measurements(folder: &Path) -> PathBuf {
    folder.join("measurements.jsonl")
}

/// One process of a block.
#[derive(Debug, Clone)]
struct Process {
    part: String,
    side: String,
    program: PathBuf,
    arguments: Vec<String>,
    version: String,
}

/// Processes that run directly one after the other.
#[derive(Debug, Clone)]
struct Block {
    name: &'static str,
    processes: Vec<Process>,
    /// Free bytes without which its largest process would be killed, or would take others along.
    memory: u64,
}

/// Does what is not done of the comparison, then writes the report.
///
/// # Errors
/// A program, file or package that is not there. A process that fails is no error: the others still run, its part is not
/// measured, and the exit code is 1.
pub fn peer(arguments: &PeerArguments, context: &Context, reports: &Path) -> Result<u8> {
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let host = host::host();
    let programs = Programs::find(arguments, context)?;
    let blocks = programs.blocks(arguments.quick, threads);
    let wanted: Vec<&Block> = blocks
        .iter()
        .filter(|b| {
            arguments
                .only
                .as_ref()
                .is_none_or(|only| b.name.contains(only))
        })
        .collect();
    if wanted.is_empty() {
        let names: Vec<&str> = blocks.iter().map(|b| b.name).collect();
        let text = format!("--only: no block has that name: {}", names.join(", "));
        return Err(UsageError(text).into());
    }
    let folder = folder(reports, arguments.quick);
    let session = Session {
        setup: programs.setup(&host, threads, arguments.quick)?,
        lines: measurements(&folder),
        root: &context.root,
        quiet: context.quiet,
        quick: arguments.quick,
        threads,
        host,
    };

    let mut failed: Vec<&str> = Vec::new();
    let mut begun = false;
    let roofline = |part: &str| session.run(&programs.machine(part));
    for round in 1..=rounds {
        for &block in &wanted {
            if session.complete(block)? >= round {
                continue;
            }
            let free = host::meminfo("MemAvailable");
            if free > 0 && free < block.memory {
                eprintln!(
                    "  {} is left out: it needs {} GiB of free memory, there are {}",
                    block.name,
                    block.memory / GIB,
                    free / GIB
                );
                failed.push(block.name);
                continue;
            }
            if !begun {
                begun = true;
                roofline("before")?;
            }
            if !session.block(block, round)? {
                failed.push(block.name);
            }
        }
    }
    if begun {
        roofline("after")?;
    }
    let readme = report::write(&folder)?;
    crate::commands::print(&readme.display().to_string())?;
    if failed.is_empty() {
        return Ok(0);
    }
    failed.dedup();
    eprintln!(
        "not measured (the same command tries again): {}",
        failed.join(", ")
    );
    Ok(FAILED)
}

/// What is run, and on what.
struct Programs {
    ours: PathBuf,
    backend: String,
    libtorch: Option<PathBuf>,
    python: PathBuf,
    /// Versions of the peer's packages.
    packages: String,
    /// Of this program and of libtorch's: two builds of one version differ.
    builds: [String; 2],
    scripts: [PathBuf; 2],
    model: ModelFiles,
    gsm8k: PathBuf,
    prompts: PathBuf,
}

impl Programs {
    fn find(arguments: &PeerArguments, context: &Context) -> Result<Self> {
        let backend = context.backend.clone();
        if arguments.libtorch.is_some() && backend == "libtorch" {
            let text = "--libtorch names the other backend's program, and this one runs on libtorch already";
            return Err(UsageError(text.into()).into());
        }
        let scripts = [TRAIN, GENERATE].map(|name| context.root.join(name));
        for file in scripts.iter().chain(&arguments.libtorch) {
            existing(file)?;
        }
        let python = program(&arguments.python)?;
        let packages = packages(&python, &context.root)?;
        let model = arguments.model.files(context)?;
        if !matches!(&model.weights[..], [one] if one.extension().is_some_and(|e| e == "gguf")) {
            let text = format!(
                "--model {}: the peer reads one GGUF file alone",
                arguments.model.model
            );
            return Err(UsageError(text).into());
        }
        let dataset = DatasetSpec::named("gsm8k", Some(&context.root.join("datasets")))?;
        let data = |given: &Option<PathBuf>, split: &str| -> Result<PathBuf> {
            if let Some(path) = given {
                existing(path)?;
                return Ok(path.clone());
            }
            let split = dataset.splits.get(split);
            let (source, checksum) = split
                .and_then(|s| Some((s.source.as_ref()?, s.sha256.as_deref())))
                .context("the dataset gsm8k has no such file")?;
            Ok(context.hub.fetch(source, checksum, Progress::Quiet)?.path)
        };
        let ours = std::env::current_exe().context("this program's own file is not known")?;
        let libtorch = arguments.libtorch.as_deref().map(program).transpose()?;
        let builds = [build(&ours)?, build(libtorch.as_ref().unwrap_or(&ours))?];
        Ok(Programs {
            ours,
            backend,
            libtorch,
            builds,
            python,
            packages,
            scripts,
            model,
            gsm8k: data(&arguments.gsm8k, "train")?,
            prompts: data(&arguments.prompts, "test")?,
        })
    }

    /// Hash of everything that a measurement depends on and that may change between two calls.
    fn setup(&self, host: &Host, threads: usize, quick: bool) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_string(host)?);
        hash.update(format!(
            "{threads} {quick} {} {}",
            self.backend, self.packages
        ));
        hash.update(self.builds.concat());
        for file in [&self.gsm8k, &self.prompts]
            .into_iter()
            .chain(&self.scripts)
            .chain(&self.model.weights)
        {
            hash.update(sha256_file(file)?);
        }
        let digest = hash.finalize();
        Ok(digest
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn process(&self, side: &str, part: &str, arguments: Vec<String>) -> Process {
        let program = match (side, &self.libtorch) {
            (PEER, _) => &self.python,
            ("libtorch", Some(libtorch)) => libtorch,
            _ => &self.ours,
        };
        Process {
            part: part.into(),
            side: side.into(),
            program: program.clone(),
            arguments,
            version: match side {
                PEER => self.packages.clone(),
                side => {
                    let other = side == "libtorch" && self.libtorch.is_some();
                    let build = &self.builds[usize::from(other)];
                    format!("sharelora {}, {side}, build {build}", version())
                }
            },
        }
    }

    fn ours(&self, side: &str, part: &str, command: &str, rest: &[&str]) -> Process {
        let mut arguments = words(&["bench", command, "--json", "--backend", side]);
        let files = [
            ("--model", self.model.weights.first()),
            ("--config", self.model.config.as_ref()),
            ("--tokenizer", self.model.tokenizer.as_ref()),
        ];
        for (flag, file) in files {
            if let Some(file) = file {
                arguments.extend([flag.to_owned(), text(file)]);
            }
        }
        arguments.extend(words(rest));
        self.process(side, part, arguments)
    }

    fn peer(&self, part: &str, script: &str, threads: usize, rest: &[&str]) -> Process {
        let gguf = self
            .model
            .weights
            .first()
            .map_or(String::new(), |f| text(f));
        let threads = threads.to_string();
        let mut arguments = words(&[script, "--gguf", &gguf, "--threads", &threads]);
        arguments.extend(words(rest));
        self.process(PEER, part, arguments)
    }

    /// The peer between our backends: ours, peer, ours, ours, peer, ours ...
    fn sides(&self) -> Vec<&str> {
        let mut sides = vec![self.backend.as_str(), PEER];
        if self.libtorch.is_some() {
            sides.push("libtorch");
        }
        sides
    }

    fn machine(&self, part: &str) -> Block {
        let arguments = words(&["bench", "machine", "--json", "--backend", &self.backend]);
        Block {
            name: "machine",
            processes: vec![self.process(&self.backend, part, arguments)],
            memory: 0,
        }
    }

    fn blocks(&self, quick: bool, threads: usize) -> Vec<Block> {
        let steps = if quick { "3" } else { "12" };
        let real_steps = if quick { "3" } else { "8" };
        let (prompts, new) = if quick { ("8", "16") } else { ("32", "64") };
        let gsm8k = text(&self.gsm8k);
        let questions = text(&self.prompts);
        let shape = ["--batch", "4", "--seq", "128", "--steps", steps];
        let real = ["--batch", "8", "--steps", real_steps, "--gsm8k", &gsm8k];
        let generated = ["--prompts", &questions, "--n", prompts, "--new", new];
        let side = self.backend.as_str();

        let mut dense = Vec::new();
        for method in METHODS {
            for side in self.sides() {
                dense.push(match side {
                    PEER => {
                        let rest = [&["--strategy", method], &shape[..]].concat();
                        self.peer(method, TRAIN, threads, &rest)
                    }
                    side => {
                        let rest = [&["--method", method], &shape[..]].concat();
                        self.ours(side, method, "train", &rest)
                    }
                });
            }
        }
        let each_side = |part: &str, command: &str, script: &str, rest: &[&str]| {
            self.sides()
                .into_iter()
                .map(|side| match side {
                    PEER => self.peer(part, script, threads, rest),
                    side => self.ours(side, part, command, rest),
                })
                .collect::<Vec<Process>>()
        };
        let with = |part: &str, rest: &[&str], flags: &[&str]| {
            self.ours(side, part, "train", &[rest, flags].concat())
        };
        vec![
            Block {
                name: "dense",
                processes: dense,
                memory: 4 * GIB,
            },
            Block {
                name: "gsm8k",
                processes: each_side("lora", "train", TRAIN, &real),
                // The peer pads to the longest row and keeps the logits of every position.
                memory: 14 * GIB,
            },
            Block {
                name: "generation",
                processes: each_side("greedy", "generate", GENERATE, &generated),
                memory: 4 * GIB,
            },
            Block {
                name: "checkpointing",
                processes: vec![
                    with("off", &shape, &[]),
                    with("on", &shape, &["--gradient-checkpointing"]),
                ],
                memory: 4 * GIB,
            },
            Block {
                name: "padding",
                processes: vec![
                    with("packed", &real, &[]),
                    with("padded", &real, &["--padded"]),
                ],
                memory: 8 * GIB,
            },
            Block {
                name: "storage",
                processes: DTYPES
                    .iter()
                    .map(|dtype| with(dtype, &shape, &["--dtype", dtype]))
                    .collect(),
                memory: 4 * GIB,
            },
            Block {
                name: "loading",
                processes: DTYPES
                    .iter()
                    .map(|dtype| self.ours(side, dtype, "load", &["--dtype", dtype]))
                    .collect(),
                memory: 4 * GIB,
            },
        ]
    }
}

impl Block {
    /// Its processes, each round beginning with the next part: what runs first on a machine that was idle is no method's gain.
    fn order(&self, round: usize) -> impl Iterator<Item = &Process> {
        let mut starts: Vec<usize> = Vec::new();
        for (at, process) in self.processes.iter().enumerate() {
            if at == 0 || self.processes[at - 1].part != process.part {
                starts.push(at);
            }
        }
        let start = starts.get(round % starts.len().max(1)).copied();
        let (last, first) = self.processes.split_at(start.unwrap_or(0));
        first.iter().chain(last)
    }
}

/// What the processes of one call share.
struct Session<'a> {
    setup: String,
    lines: PathBuf,
    root: &'a Path,
    quiet: bool,
    quick: bool,
    threads: usize,
    host: Host,
}

impl Session<'_> {
    /// Tries of a block in which every process did its work.
    fn complete(&self, block: &Block) -> Result<usize> {
        let mut tries: BTreeMap<String, Vec<Measurement>> = BTreeMap::new();
        for line in measurement::read(&self.lines)? {
            if line.setup == self.setup && line.block == block.name {
                tries.entry(line.attempt.clone()).or_default().push(line);
            }
        }
        let did = |lines: &[Measurement], process: &Process| {
            lines
                .iter()
                .any(|l| l.part == process.part && l.side == process.side && l.succeeded())
        };
        Ok(tries
            .values()
            .filter(|lines| block.processes.iter().all(|process| did(lines, process)))
            .count())
    }

    fn run(&self, block: &Block) -> Result<bool> {
        self.block(block, 0)
    }

    /// Runs every process of a block; whether all did their work.
    fn block(&self, block: &Block, round: usize) -> Result<bool> {
        let attempt = format!("{} {} {}", host::now(), std::process::id(), block.name);
        let mut all = true;
        for process in block.order(round) {
            let load_average = host::load_average();
            let started = host::now();
            let clock = Instant::now();
            let output = Command::new(&process.program)
                .args(&process.arguments)
                .current_dir(self.root)
                .env("RAYON_NUM_THREADS", self.threads.to_string())
                .env("OMP_NUM_THREADS", self.threads.to_string())
                .env("MKL_NUM_THREADS", self.threads.to_string())
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("cannot run {}", process.program.display()))?;
            let line = Measurement {
                setup: self.setup.clone(),
                attempt: attempt.clone(),
                block: block.name.into(),
                round,
                part: process.part.clone(),
                side: process.side.clone(),
                command: process.shown(),
                started,
                seconds: clock.elapsed().as_secs_f64(),
                load_average,
                exit: output.status.code(),
                version: process.version.clone(),
                threads: self.threads,
                quick: self.quick,
                host: self.host.clone(),
                output: last_object(&output.stdout),
            };
            measurement::append(&self.lines, &line)?;
            let name = format!("{} {}, {}", block.name, process.part, process.side);
            if !line.succeeded() {
                all = false;
                let said = String::from_utf8_lossy(&output.stderr);
                let last: Vec<&str> = said.trim_end().lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                eprintln!("  {name}: failed: {}", last.join("\n    "));
            } else if !self.quiet {
                eprintln!("  {name}: {:.1} s, {}", line.seconds, headline(&line));
            }
        }
        Ok(all)
    }
}

impl Process {
    /// The command line without the folders of this machine.
    fn shown(&self) -> String {
        let name = |path: &Path| -> String {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let mut shown = vec![name(&self.program)];
        for argument in &self.arguments {
            let path = Path::new(argument);
            shown.push(if path.is_absolute() {
                name(path)
            } else {
                argument.clone()
            });
        }
        shown.join(" ")
    }
}

/// The one number that a person watching wants to see.
fn headline(line: &Measurement) -> String {
    let fields = [
        ("tokens_per_s", "tokens/s"),
        ("new_tokens_per_s", "new tokens/s"),
        ("gemm_gflops", "GFLOP/s"),
        ("seconds", "s to load"),
    ];
    fields
        .iter()
        .find_map(|(field, unit)| Some(format!("{} {unit}", line.number(field)?)))
        .unwrap_or_default()
}

/// The JSON object on the last line of what a process printed, else null.
fn last_object(stdout: &[u8]) -> Value {
    let text = String::from_utf8_lossy(stdout);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .and_then(|line| serde_json::from_str::<Value>(line).ok())
        .filter(Value::is_object)
        .unwrap_or(Value::Null)
}

/// The start of a file's SHA-256.
fn build(file: &Path) -> Result<String> {
    Ok(sha256_file(file)?.chars().take(12).collect())
}

/// A program by its path from here, since processes run in the project's folder, or by its name.
fn program(given: &Path) -> Result<PathBuf> {
    if given.components().count() < 2 {
        return Ok(given.to_owned());
    }
    existing(given)?;
    Ok(std::path::absolute(given)?)
}

/// Names and versions of the packages that the peer's scripts import.
fn packages(python: &Path, root: &Path) -> Result<String> {
    let path = root.join(REQUIREMENTS);
    let requirements = std::fs::read_to_string(&path)
        .map_err(|_| AbsentError(format!("{}: no such file", path.display())))?;
    let names: Vec<&str> = requirements
        .lines()
        .filter_map(|line| line.split("==").next())
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect();
    let code = "import sys; from importlib.metadata import version; \
                print(' / '.join(f'{p} {version(p)}' for p in sys.argv[1:]))";
    let output = Command::new(python)
        .arg("-c")
        .arg(code)
        .args(&names)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| AbsentError(format!("--python {}: {e}", python.display())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said
            .trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        let text = format!(
            "--python {}: {reason}; next: {0} -m pip install -r {REQUIREMENTS}",
            python.display()
        );
        return Err(AbsentError(text).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        Programs {
            ours: "/here/target/sharelora".into(),
            backend: "flex".into(),
            libtorch: Some("/there/sharelora".into()),
            python: "/venv/bin/python".into(),
            packages: "torch 2.9.0".into(),
            builds: ["one".into(), "two".into()],
            scripts: [TRAIN, GENERATE].map(PathBuf::from),
            model: ModelFiles {
                weights: vec!["/hub/model.gguf".into()],
                config: Some("/hub/config.json".into()),
                tokenizer: Some("/hub/tokenizer.json".into()),
            },
            gsm8k: "/hub/train.parquet".into(),
            prompts: "/hub/test.parquet".into(),
        }
    }

    /// The measurements are published: they must not tell the folders of whoever made them.
    #[test]
    fn commands_are_shown_without_folders() {
        for block in programs().blocks(false, 2) {
            for process in block.processes {
                let shown = process.shown().replace("scripts/peer_", "");
                assert!(!shown.contains('/'), "{shown}");
            }
        }
        let block = &programs().blocks(false, 2)[1];
        assert_eq!(
            block.processes[1].shown(),
            "python scripts/peer_train.py --gguf model.gguf --threads 2 --batch 8 --steps 8 --gsm8k train.parquet"
        );
    }

    /// Ours and the peer by turns, and both of every method.
    #[test]
    fn a_block_alternates() {
        let dense = &programs().blocks(false, 2)[0];
        let sides: Vec<&str> = dense.processes.iter().map(|p| p.side.as_str()).collect();
        assert_eq!(sides, ["flex", PEER, "libtorch"].repeat(METHODS.len()));
        assert_eq!(
            dense.processes[2].program,
            PathBuf::from("/there/sharelora")
        );
    }

    /// A library may print warnings before the fields.
    /// Every method begins one round in four, its sides stay together, and a block of one part keeps its order.
    #[test]
    fn rounds_begin_with_another_method() {
        let blocks = programs().blocks(false, 2);
        let order = |block: &Block, round| -> Vec<(String, String)> {
            let of = |p: &Process| (p.part.clone(), p.side.clone());
            block.order(round).map(of).collect()
        };
        let dense = &blocks[0];
        let firsts: Vec<String> = (0..4).map(|r| order(dense, r)[0].0.clone()).collect();
        assert_eq!(firsts, METHODS);
        let sides: Vec<String> = order(dense, 1).into_iter().map(|p| p.1).collect();
        let unrotated: Vec<String> = order(dense, 0).into_iter().map(|p| p.1).collect();
        assert_eq!(sides, unrotated);
        let mut sorted = [order(dense, 0), order(dense, 3)];
        sorted.iter_mut().for_each(|o| o.sort());
        assert_eq!(sorted[0], sorted[1]);
        assert_eq!(order(&blocks[1], 0), order(&blocks[1], 1));
    }

    #[test]
    fn fields_are_on_the_last_line() {
        assert_eq!(last_object(b"warning\n{\"a\": 1}\n\n")["a"], 1);
        assert_eq!(last_object(b"{\"a\": 1}\nTraceback"), Value::Null);
    }
}
