//! `experiments/pocket-glue.toml`, shortened: tasks with labels, their heads, the best epoch by a metric, and runs that start from
//! another's adapter, on the pocket RoBERTa and generated sentences.

mod support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use burn::tensor::Device;
use serde_json::Value;
use sharelora::batch::{Batches, Fill};
use sharelora::gradients::{Learner, Running, held_out_loss};
use sharelora::{base, data, plan};
use sharelora_adapters::load_native;
use sharelora_hub::{Hub, Progress};
use sharelora_model::{Classifier, Labels};
use sharelora_report::{Record, Status, Step};
use sharelora_tasks::Encoded;
use support::{Output, command, files, leftovers, output, run_dirs};

const SETS: [&str; 3] = [
    "train.rows=64",
    "train.epochs=2",
    "evaluate.0.options.limit=40",
];
const METHODS: [&str; 5] = ["full", "lora", "share_a", "share_ab", "share_b"];
const HEAD: [&str; 4] = [
    "classifier.dense.weight",
    "classifier.dense.bias",
    "classifier.out_proj.weight",
    "classifier.out_proj.bias",
];

struct Project {
    home: tempfile::TempDir,
    root: PathBuf,
}

impl Project {
    /// None, and a line that says so, where the pocket RoBERTa has not been made.
    fn new() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().unwrap();
        if !root
            .join("models/pocket-roberta/model.safetensors")
            .is_file()
        {
            println!("skipped: no models/pocket-roberta (made by `sharelora pretrain-pocket`)");
            return None;
        }
        Some(Project {
            home: tempfile::tempdir().unwrap(),
            root,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `NAME pocket-glue MORE` with the shortening settings, its output kept out of the repository.
    fn command(&self, name: &str, results: &str, more: &[&str]) -> std::process::Command {
        let sets = SETS.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = [name, "pocket-glue"].into_iter().chain(sets).collect();
        let mut command = command(&self.root, self.home.path(), &arguments);
        command
            .args(more)
            .args(["--results".as_ref(), self.path(results).as_os_str()])
            .args(["--reports".as_ref(), self.path("reports").as_os_str()]);
        command
    }

    #[track_caller]
    fn succeed(&self, name: &str, results: &str, more: &[&str]) -> Output {
        let output = output(&mut self.command(name, results, more));
        assert_eq!(
            output.code,
            Some(0),
            "{more:?}\n{}{}",
            output.out,
            output.err
        );
        output
    }

    /// The runs' folders by label.
    fn runs(&self, results: &str) -> BTreeMap<String, PathBuf> {
        run_dirs(&self.path(results).join("pocket-glue"))
    }
}

fn label(method: &str, task: &str) -> String {
    format!("{method}-seed0-task{task}")
}

fn record(dir: &Path) -> Record {
    serde_json::from_slice(&std::fs::read(dir.join("record.json")).unwrap()).unwrap()
}

fn steps(dir: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(dir.join("steps.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// All of a run that must come out again to the last bit.
fn bits(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut bits = BTreeMap::new();
    for (path, bytes) in files(dir) {
        let name = path.to_string_lossy().into_owned();
        let of_machine: &[&str] = match name.as_str() {
            "steps.jsonl" => &["tokens_per_second", "memory_bytes"],
            "record.json" => &[
                "started_at",
                "finished_at",
                "seconds",
                "tokens_per_second",
                "peak_memory_bytes",
                "git_commit",
            ],
            _ if name.starts_with("samples-") || name.starts_with("adapter/") => {
                let bytes: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                bits.insert(path, bytes.concat());
                continue;
            }
            _ => continue,
        };
        // A record is one document, steps are one a line.
        let documents = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        let kept = documents.map(|document| {
            let mut document = document.unwrap();
            let map = document.as_object_mut().unwrap();
            map.retain(|key, _| !of_machine.contains(&key.as_str()));
            document.to_string()
        });
        bits.insert(path, kept.collect::<Vec<_>>().join("\n"));
    }
    bits
}

/// A user's way through the tasks with labels, from the sweep to the report and the export.
#[test]
fn from_labels_to_a_report() {
    let Some(project) = Project::new() else {
        return;
    };
    let sweep = project.succeed("sweep", "results", &[]);
    let runs = project.runs("results");
    let tasks: [(&str, &[&str], u64); 3] = [
        ("cola", &["cola/matthews"], 16_770),
        ("mrpc", &["mrpc/accuracy", "mrpc/f1"], 16_770),
        ("stsb", &["stsb/pearson", "stsb/spearman"], 16_641),
    ];
    assert_eq!(runs.len(), METHODS.len() * tasks.len());
    for method in METHODS {
        for (task, metrics, head) in tasks {
            let dir = &runs[&label(method, task)];
            let record = record(dir);
            assert_eq!(record.status, Status::Finished, "{:?}", record.message);
            assert!(record.metrics.keys().eq(metrics), "{:?}", record.metrics);
            assert!(record.metrics.values().all(|m| m.n == 40));
            // 4 blocks, two projections of 128 x 128, rank 8; the head is counted apart.
            let trained = match method {
                "lora" => 16 * 8 * 128,
                "share_ab" => 4 * 8 * 128,
                "full" => record.base_parameters,
                _ => 10 * 8 * 128,
            };
            assert_eq!(
                (record.trainable_parameters, record.head_parameters),
                (trained, head)
            );
            best_epoch_is_kept(dir, &record, metrics[0]);
            head_is_saved(dir, method);
            // Whose data it was is in the record.
            let data = format!("pocket-{task}");
            assert!(record.data.contains_key(&data), "{:?}", record.data);
            let version = format!("task {task}/standard_{data}");
            assert!(
                record.versions.contains_key(&version),
                "{:?}",
                record.versions
            );
        }
        let starts = |task: &str| {
            sweep
                .err
                .find(&format!("] {}", label(method, task)))
                .unwrap()
        };
        assert!(method == "full" || starts("stsb") > starts("mrpc"));
    }
    starts_from_the_other_adapter(&project, &runs);
    exports_its_head(&project, &runs[&label("share_a", "stsb")]);

    let report = std::fs::read_to_string(project.path("reports/pocket-glue/report.md")).unwrap();
    for metric in tasks.iter().flat_map(|(_, metrics, _)| *metrics) {
        assert!(report.contains(metric), "no {metric}: {report}");
    }
    assert_eq!(leftovers(&project.path("results")), Vec::<PathBuf>::new());
}

/// What is scored in the end is what scored best between the epochs, the first of equals.
fn best_epoch_is_kept(dir: &Path, record: &Record, headline: &str) {
    let measured: Vec<(u64, f64)> = steps(dir)
        .iter()
        .filter_map(|step| Some((step.step, step.metric?)))
        .collect();
    let ends: Vec<u64> = measured.iter().map(|(step, _)| *step).collect();
    assert_eq!(ends, [8, 16], "one evaluation an epoch");
    let best = measured
        .iter()
        .copied()
        .reduce(|a, b| if b.1 > a.1 { b } else { a });
    let (step, value) = best.unwrap();
    assert_eq!(record.best_step, Some(step));
    assert_eq!(record.metrics[headline].value, value, "{}", record.run);
}

fn head_is_saved(dir: &Path, method: &str) {
    if method == "full" {
        let bytes = std::fs::read(dir.join("adapter/model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert!(HEAD.iter().all(|name| file.tensor(name).is_ok()));
        return;
    }
    let (_, modules) =
        load_native(&dir.join("adapter/adapter.safetensors"), &Device::flex()).unwrap();
    let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, HEAD);
}

/// The first loss of a run that starts from another is that of the other's adapter under a new head, and not that of a fresh
/// start, which full fine-tuning has.
fn starts_from_the_other_adapter(project: &Project, runs: &BTreeMap<String, PathBuf>) {
    let first = |label: String| steps(&runs[&label])[1].loss.unwrap();
    let fresh = first(label("full", "stsb"));
    let text = std::fs::read_to_string(runs[&label("lora", "stsb")].join("run.json")).unwrap();
    let mut run: Value = serde_json::from_str(&text).unwrap();
    run.as_object_mut().unwrap().remove("hash");
    let run: plan::ResolvedRun = serde_json::from_value(run).unwrap();
    let hub = Hub::from_vars(&project.root, |name| {
        (name == "SHARELORA_CACHE").then(|| project.path("cache").display().to_string())
    });
    let device = Device::flex();
    let base = base::load(&run.model, run.model.dtype, &hub, &device, Progress::Quiet).unwrap();
    let spec = run.train.as_ref().unwrap();
    let config = &base.model.config;
    let data = data::prepare(spec, config, &base.encoder, &project.root, &hub).unwrap();
    let lengths = data.train.iter().map(|row| row.ids.len()).collect();
    let mut batches = Batches::new(lengths, Fill::Examples(8), run.seed, false);
    let rows: Vec<&Encoded> = batches
        .get(0)
        .into_iter()
        .map(|row| &data.train[row])
        .collect();
    for method in ["lora", "share_a", "share_b", "share_ab"] {
        let file = runs[&label(method, "mrpc")].join("adapter/adapter.safetensors");
        let (bank, _) = load_native(&file, &device).unwrap();
        let head = Classifier::init(config, Labels::Number, run.seed, &device);
        let mut learner = Learner::new(base.model.clone(), Some(bank));
        learner.head = Some(head);
        let expected = held_out_loss(&learner, &rows, Fill::Examples(8), Running::default());
        let found = first(label(method, "stsb"));
        assert!(
            (found - expected).abs() < 1e-4,
            "{method}: {found} {expected}"
        );
        assert!((found - fresh).abs() > 1e-3, "{method}: {found} {fresh}");
    }
    // Without one, MRPC's first loss is that of the untouched base for every method.
    let unadapted = first(label("full", "mrpc"));
    for method in METHODS {
        assert!((first(label(method, "mrpc")) - unadapted).abs() < 1e-4);
    }
}

/// PEFT finds the head where it looks for what is trained in full.
fn exports_its_head(project: &Project, run: &Path) {
    let out = project.path("peft");
    let mut export = command(&project.root, project.home.path(), &["export"]);
    export
        .arg(run)
        .args(["--format", "peft", "--out"])
        .arg(&out);
    let done = output(&mut export);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let text = std::fs::read_to_string(out.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    assert_eq!(config["task_type"], "SEQ_CLS");
    let bytes = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in HEAD {
        assert!(file.tensor(&format!("base_model.model.{name}")).is_ok());
    }
}

/// A run that started from another, was killed and went on ends with the bits of one that was left alone on another number of
/// threads: head, moments, the best epoch and its metric are all in the checkpoint.
#[test]
fn kills_leave_no_trace() {
    let Some(project) = Project::new() else {
        return;
    };
    let sets = [
        "--set",
        "train.epochs=8",
        "--set",
        "train.checkpoint_every=3",
    ];
    let (origin, label) = (label("share_a", "mrpc"), label("share_a", "stsb"));
    let arguments = |label: &str| -> Vec<String> {
        let label = [label.to_owned()].into_iter();
        label.chain(sets.map(str::to_owned)).collect()
    };
    let run = |results: &str, label: &str| {
        let arguments = arguments(label);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        project.command("run", results, &arguments)
    };
    let done = |mut command: std::process::Command| {
        let output = output(&mut command);
        assert_eq!(output.code, Some(0), "{}", output.err);
        output
    };
    done(run("alone", &origin));
    done(run("alone", &label));
    let alone = project.runs("alone");

    let mut other = run("killed", &origin);
    other.env("RAYON_NUM_THREADS", "1");
    done(other);
    let killed = project
        .path("killed/pocket-glue")
        .join(alone[&label].file_name().unwrap());
    let log = killed.join("steps.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.matches('\n').count());
    let mut kills = 0;
    for at in [4, 9, 16] {
        let mut child = run("killed", &label)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() && lines() < at {
            std::thread::yield_now();
        }
        let _ = child.kill();
        kills += usize::from(child.wait().unwrap().signal() == Some(9));
    }
    // On a machine that does other work a run may end before it is killed.
    assert!(kills > 0, "no kill came before the end");
    let last = done(run("killed", &label));
    if kills == 3 {
        assert!(
            last.err.contains("goes on from its checkpoint"),
            "{}",
            last.err
        );
    }

    let again = project.runs("killed");
    assert_eq!(bits(&again[&origin]), bits(&alone[&origin]));
    assert_eq!(bits(&killed), bits(&alone[&label]));
    assert_eq!(bits(&killed).len(), 4, "steps, adapter, samples, record");
}

/// A run whose origin has not been done says so, and which one; a dataset that does not exist is found before anything is done.
#[test]
fn mistakes_are_named() {
    let Some(project) = Project::new() else {
        return;
    };
    let label = label("lora", "stsb");
    let alone = output(&mut project.command("run", "results", &[&label]));
    assert_eq!(alone.code, Some(1), "{}", alone.err);
    assert!(
        alone.err.contains("lora-seed0-taskmrpc-") && alone.err.contains("has to be done first"),
        "{}",
        alone.err
    );
    let set = ["--set", "train.task_options.dataset=pocket-mrcp"];
    let unknown = output(&mut project.command("plan", "results", &set));
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
    assert!(
        unknown.err.contains("did you mean `pocket-mrpc`") && unknown.err.contains("glue-mrpc"),
        "{}",
        unknown.err
    );
    // One with other columns cannot be read as this task's.
    let set = [
        "--set",
        "train.task_options.dataset=pocket",
        "--only",
        "lora.*mrpc",
    ];
    let wrong = output(&mut project.command("sweep", "results", &set));
    assert_eq!(wrong.code, Some(1), "{}", wrong.err);
    assert!(wrong.err.contains("`sentence1`"), "{}", wrong.err);
}
