//! What a run leaves behind: `record.json`, one [`Record`], and `steps.jsonl`, one [`Step`] a line. Its graded answers are read
//! by [`crate::samples`].
//!
//! The runner writes both; this crate reads them. JSON has no NaN, so a loss that is not finite is
//! stored as `null` and read as `None` (or NaN where a field is always a number).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::samples::{self, Grades};
use crate::stored_spectrum::{self, StoredSpectrum};
use crate::{file, style};

/// The schema this version writes, and the newest it reads.
pub const SCHEMA: u32 = 1;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It ran to its end.
    Finished,
    /// The loss left the finite numbers.
    Diverged,
    /// An error ended it; `message` says which.
    Failed,
}

impl Status {
    /// The name in records: `finished`, `diverged` or `failed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
        }
    }
}

/// One score of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The score; proportions are in `0..=1`.
    #[serde(deserialize_with = "number_or_nan")]
    pub value: f64,
    /// Standard error of `value`, in its unit. For proportions the binomial one.
    pub stderr: Option<f64>,
    /// Number of examples scored.
    pub n: u64,
}

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Model name of the processor.
    pub cpu: String,
    /// Logical cores.
    pub cores: u64,
    /// Installed memory in bytes.
    pub memory_bytes: u64,
    /// Name and version of the operating system.
    pub os: String,
}

/// Everything a report needs to know of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Name of the experiment.
    pub experiment: String,
    /// Name of the run, for example `share_a-seed0`.
    pub run: String,
    /// Content hash of the resolved configuration.
    pub hash: String,
    /// How it ended.
    pub status: Status,
    /// Why it ended so, when it did not finish.
    pub message: Option<String>,
    /// Name of the base model.
    pub model: String,
    /// `base`, `full`, `lora`, `share_a`, `share_a_qkv`, `share_b`, `share_ab`, or another.
    pub method: String,
    /// Seed of initial values and data order.
    pub seed: u64,
    /// Tensor backend.
    pub backend: String,
    /// The sweep's axes: key and this run's value.
    pub axes: BTreeMap<String, String>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// Number of trained parameters; 0 for the untouched model.
    pub trainable_parameters: u64,
    /// Number of parameters of a head that is trained in full beside the adapter; not counted above, as in the paper's
    /// tables.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub head_parameters: u64,
    /// Size of the saved adapter in bytes.
    pub adapter_bytes: u64,
    /// Number of frozen parameters of the base model.
    pub base_parameters: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// Training loss at the end, nats a token.
    pub train_loss: Option<f64>,
    /// Held-out loss of the weights that were evaluated, nats a token.
    pub held_out_loss: Option<f64>,
    /// Held-out loss before training, nats a token.
    pub held_out_loss_before: Option<f64>,
    /// Step of the weights that were evaluated, when the best were kept.
    pub best_step: Option<u64>,
    /// Scores by `task/metric`; deeper keys (`mmlu/accuracy/law`) are details that tables leave out.
    pub metrics: BTreeMap<String, Metric>,
    /// Why something that was asked for has no score, by the name of its samples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_measured: BTreeMap<String, String>,
    /// Texts that were longer than allowed and lost tokens, by name; those without any are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub truncated: BTreeMap<String, u64>,
    /// Hashes of the data by name.
    pub data: BTreeMap<String, String>,
    /// Versions by name.
    pub versions: BTreeMap<String, String>,
    /// Commit of the program.
    pub git_commit: Option<String>,
    /// The machine.
    pub host: Host,
    /// Start, RFC 3339 in UTC.
    pub started_at: String,
    /// End, RFC 3339 in UTC.
    pub finished_at: String,
    /// Seconds by part: `load`, `data`, `train` and in it `steps`, `spectrum`, `evaluate` and in it `evaluate TASK`.
    pub seconds: BTreeMap<String, f64>,
    /// Training speed, real (unpadded) tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Peak resident memory in bytes.
    pub peak_memory_bytes: u64,
}

impl Record {
    /// Seconds of the whole run. `steps` is a part of `train`, and `evaluate TASK` of `evaluate`.
    pub fn total_seconds(&self) -> f64 {
        let parts = ["load", "data", "train", "spectrum", "evaluate"].iter();
        parts.filter_map(|part| self.seconds.get(*part)).sum()
    }
}

/// One optimizer step, one line of `steps.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step, from 1; 0 is the evaluation before training.
    pub step: u64,
    /// Training loss, nats a token.
    pub loss: Option<f64>,
    /// Learning rate of this step.
    #[serde(deserialize_with = "number_or_nan")]
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Speed of this step.
    #[serde(deserialize_with = "number_or_nan")]
    pub tokens_per_second: f64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Held-out loss, where this step was followed by an evaluation.
    pub held_out_loss: Option<f64>,
    /// Score of that evaluation, where the best is chosen by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
}

/// A run's folder, read.
#[derive(Debug, Clone)]
pub struct Run {
    /// `record.json`.
    pub record: Record,
    /// `steps.jsonl`; empty when there is none (the untouched model).
    pub steps: Vec<Step>,
    /// What was dropped from a torn `steps.jsonl`.
    pub torn: Option<String>,
    /// The grades of its answers, by the name of the samples file: a task, or a task and its split. Empty where the folder has
    /// none.
    pub grades: BTreeMap<String, Grades>,
    /// By metric, the scores of [`crate::bootstrap::resampled_scores`] over its questions in the order of their ids, for metrics that
    /// are no means of grades. Reading leaves it empty: whoever knows the tasks fills it.
    pub resampled: BTreeMap<String, Vec<f64>>,
    /// `spectrum.json.zst`, where its adapter has left one.
    pub spectrum: Option<StoredSpectrum>,
    /// The folder.
    pub dir: PathBuf,
}

/// The steps of a file and, when its last line was cut off by a crash, a sentence that says so.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// The whole lines.
    pub steps: Vec<Step>,
    /// What was dropped.
    pub torn: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Reads a `record.json`. Errors name the file and the line.
pub fn read_record(path: &Path) -> Result<Record> {
    let text = file::read(path)?;
    let parse = |cause: serde_json::Error| Error::Parse {
        what: "record",
        path: path.to_owned(),
        line: cause.line(),
        message: cause.to_string(),
    };
    // The schema first: a newer record may lack any other field.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(parse)?;
    if let Some(found) = value.get("schema").and_then(serde_json::Value::as_u64)
        && found > u64::from(SCHEMA)
    {
        return Err(Error::Schema {
            path: path.to_owned(),
            found: u32::try_from(found).unwrap_or(u32::MAX),
            supported: SCHEMA,
        });
    }
    serde_json::from_str(&text).map_err(parse)
}

/// Writes a `record.json` atomically.
pub fn write_record(path: &Path, record: &Record) -> Result<()> {
    let mut text = serde_json::to_string_pretty(record).map_err(|cause| Error::Parse {
        what: "record",
        path: path.to_owned(),
        line: 0,
        message: cause.to_string(),
    })?;
    text.push('\n');
    file::write(path, text.as_bytes())
}

/// Reads a `steps.jsonl`. A last line without its newline that does not parse was torn by a crash: it
/// is dropped and [`Steps::torn`] says so. Any other bad line is an error that names it.
pub fn read_steps(path: &Path) -> Result<Steps> {
    // A crash may tear a line inside a character.
    let bytes = fs::read(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let mut read = Steps::default();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(step) => read.steps.push(step),
            Err(_) if !line.ends_with('\n') => {
                read.torn = Some(format!(
                    "line {} of steps.jsonl was cut off while it was written and is left out",
                    index + 1
                ));
            }
            Err(cause) => {
                return Err(Error::Parse {
                    what: "step",
                    path: path.to_owned(),
                    line: index + 1,
                    message: cause.to_string(),
                });
            }
        }
    }
    Ok(read)
}

/// The folders of an experiment, in order of name; hidden ones are skipped.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::Io {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// Reads `dir`, `results/EXPERIMENT`: every folder with a `record.json`, by method, axes and seed.
pub fn read_experiment(dir: &Path) -> Result<Vec<Run>> {
    let recorded = folders(dir)?
        .into_iter()
        .filter(|folder| folder.join("record.json").is_file());
    // Samples are most of the bytes: a thread a run.
    let runs: Result<Vec<Run>> = recorded
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(read_run)
        .collect();
    let mut runs = runs?;
    runs.sort_by_cached_key(|run| order(&run.record));
    Ok(runs)
}

/// Reads one run's folder.
///
/// # Errors
/// It has no readable `record.json`, a line of its steps or samples is damaged, or its spectrum is.
pub fn read_run(dir: PathBuf) -> Result<Run> {
    let steps = dir.join("steps.jsonl");
    let Steps { steps, torn } = if steps.is_file() {
        read_steps(&steps)?
    } else {
        Steps::default()
    };
    Ok(Run {
        record: read_record(&dir.join("record.json"))?,
        steps,
        torn,
        grades: samples::read_run_grades(&dir)?,
        resampled: BTreeMap::new(),
        spectrum: stored_spectrum::read(&dir)?,
        dir,
    })
}

/// The runs of `dir` that began (they have a `steps.jsonl`) and have no record yet.
pub fn unfinished_runs(dir: &Path) -> Result<Vec<String>> {
    Ok(folders(dir)?
        .iter()
        .filter(|run| run.join("steps.jsonl").is_file() && !run.join("record.json").is_file())
        .filter_map(|run| Some(run.file_name()?.to_string_lossy().into_owned()))
        .collect())
}

/// Sorts records: method, axes (numbers by value), seed, name.
pub(crate) fn order(record: &Record) -> impl Ord + use<> {
    let axes: Vec<_> = record
        .axes
        .iter()
        .map(|(key, value)| (key.clone(), natural(value)))
        .collect();
    (
        style::method_order(&record.method),
        axes,
        record.seed,
        record.run.clone(),
    )
}

/// A key that sorts `8` before `16` and numbers before words.
pub(crate) fn natural(value: &str) -> (bool, u64, String) {
    match value.parse::<f64>() {
        // The bits of floats, sign handled, sort as the numbers do.
        Ok(number) => {
            let bits = number.to_bits();
            let key = if bits >> 63 == 1 {
                !bits
            } else {
                bits | (1 << 63)
            };
            (false, key, value.to_owned())
        }
        Err(_) => (true, 0, value.to_owned()),
    }
}
