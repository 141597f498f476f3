//! Measurements of this program, and their comparison with a peer's program on the same machine.
//!
//! `train`, `generate`, `evaluate`, `load`, `plan` and `machine` each measure one thing in the process that calls them and return plain
//! fields. `peer` runs them and the peer's scripts by turns, each in a process of its own, and keeps a line for each
//! (`measurement`); `report` turns the lines into tables and a figure.

pub mod evaluate;
pub mod generate;
pub mod load;
pub mod machine;
pub mod measurement;
pub mod peer;
pub mod plan;
pub mod report;
pub mod train;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;
use sharelora_hub::{Progress, Source};
use sharelora_model::weights::{Checkpoint, gguf_llama_config};
use sharelora_model::{Model, ModelConfig, Storage};
use sharelora_report::{Cell, Column, Format, Table};
use sharelora_tasks::{DatasetSpec, Encoder, Rows, Split, load_split};

use crate::error::{AbsentError, UsageError};
use crate::{Context, Experiment, base, host};

/// How the frozen weights are kept: widened or rounded to one type, or as the file stores them.
pub const DTYPES: [&str; 5] = ["f32", "bf16", "f16", "stored", "nf4"];

/// The model of the comparison.
const MODEL: &str = "smollm2-gsm8k";

/// The model that a bench works on.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArguments {
    /// A GGUF or safetensors file, or the name of an experiment, which stands for its model
    #[arg(long, value_name = "FILE_OR_ID", default_value = MODEL)]
    pub model: String,
    /// config.json of the model [default: beside the file; a GGUF file does without]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// tokenizer.json of the model [default: beside the file]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// The files of a model on this machine.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    pub weights: Vec<PathBuf>,
    /// Absent: the GGUF file describes itself.
    pub config: Option<PathBuf>,
    /// Absent: texts cannot be encoded.
    pub tokenizer: Option<PathBuf>,
}

impl ModelArguments {
    /// The model's files; those of an experiment's model are fetched where that is needed.
    ///
    /// # Errors
    /// No such file or experiment, or a file that is neither here nor to be had.
    pub fn files(&self, context: &Context) -> Result<ModelFiles> {
        for file in [&self.config, &self.tokenizer].into_iter().flatten() {
            existing(file)?;
        }
        let path = Path::new(&self.model);
        let mut files = if path.is_file() {
            let beside = |name: &str| Some(path.with_file_name(name)).filter(|p| p.is_file());
            ModelFiles {
                weights: vec![path.to_owned()],
                config: beside("config.json"),
                tokenizer: beside("tokenizer.json"),
            }
        } else if path.components().count() > 1 || path.extension().is_some() {
            return Err(AbsentError(format!("--model {}: no such file", self.model)).into());
        } else {
            let experiment = Experiment::load(&context.root, &self.model, &[])?;
            let spec = experiment.sections(experiment.document())?.model;
            let fetch = |source: &Source| -> Result<PathBuf> {
                let checksum = spec.checksum(source);
                Ok(context.hub.fetch(source, checksum, Progress::Quiet)?.path)
            };
            ModelFiles {
                config: Some(fetch(&spec.config)?),
                tokenizer: Some(fetch(&spec.tokenizer)?),
                weights: base::weight_files(&spec, &context.hub, Progress::Quiet)?,
            }
        };
        files.config = self.config.clone().or(files.config);
        files.tokenizer = self.tokenizer.clone().or(files.tokenizer);
        Ok(files)
    }
}

impl ModelFiles {
    /// # Errors
    /// A configuration that is missing, malformed, or not one that this program can compute.
    pub fn config(&self) -> Result<ModelConfig> {
        let Some(path) = &self.config else {
            let checkpoint = Checkpoint::open(&self.weights)?;
            if !checkpoint.is_gguf() {
                let text = format!(
                    "no config.json beside {}: name it with --config",
                    self.names()
                );
                return Err(AbsentError(text).into());
            }
            let config = gguf_llama_config(&checkpoint)?;
            return ModelConfig::from_json(&config.to_string()).with_context(|| self.names());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        ModelConfig::from_json(&text).with_context(|| path.display().to_string())
    }

    /// # Errors
    /// A tokenizer that is missing or malformed, or a configuration without an end-of-text token.
    pub fn encoder(&self, config: &ModelConfig) -> Result<Encoder> {
        let Some(path) = &self.tokenizer else {
            let text = format!(
                "no tokenizer.json beside {}: name it with --tokenizer",
                self.names()
            );
            return Err(AbsentError(text).into());
        };
        let eos = config.eos_token_ids();
        let Some(&eos) = eos.first() else {
            bail!(
                "the configuration of {} has no `eos_token_id`",
                self.names()
            );
        };
        Ok(Encoder::from_file(path, config.bos_token_id(), eos)?)
    }

    /// The model on `device`, its weights kept as `dtype` (one of [`DTYPES`]) says.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(&self, dtype: &str, device: &Device) -> Result<Model> {
        let checkpoint = Checkpoint::open(&self.weights)?;
        let storage = storage(dtype)?;
        Model::load(self.config()?, &checkpoint, storage, device).with_context(|| self.names())
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .weights
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    }
}

fn storage(dtype: &str) -> Result<Storage> {
    match dtype {
        "f32" => Ok(Storage::F32),
        "bf16" => Ok(Storage::Bf16),
        "f16" => Ok(Storage::F16),
        "stored" => Ok(Storage::Stored),
        "nf4" => Ok(Storage::Nf4),
        other => Err(UsageError(format!("--dtype {other}: not a storage type")).into()),
    }
}

/// Question and answer of each of the first `count` rows of a parquet, JSON-lines or JSON file.
fn questions(path: &Path, count: usize, context: &Context) -> Result<Vec<(String, String)>> {
    let mut rows = read(path, context).with_context(|| path.display().to_string())?;
    if rows.len() < count {
        let text = format!(
            "{}: {} rows, and {count} are needed: fewer steps, or smaller batches",
            path.display(),
            rows.len()
        );
        return Err(UsageError(text).into());
    }
    rows.truncate(count);
    rows.iter()
        .map(|row| {
            Ok((
                row.text("question")?.to_owned(),
                row.text("answer")?.to_owned(),
            ))
        })
        .collect()
}

fn read(path: &Path, context: &Context) -> Result<Rows> {
    existing(path)?;
    let format = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => sharelora_tasks::Format::Jsonl,
        Some("json") => sharelora_tasks::Format::Json,
        _ => sharelora_tasks::Format::Parquet,
    };
    let split = Split {
        source: Some(Source::File(std::path::absolute(path)?)),
        sha256: None,
        pocket: None,
        last: None,
        except_last: None,
    };
    let spec = DatasetSpec {
        name: "questions".into(),
        version: 1,
        license: String::new(),
        note: String::new(),
        format,
        columns: vec!["question".into(), "answer".into()],
        splits: BTreeMap::from([("all".into(), split)]),
    };
    Ok(load_split(&spec, "all", &context.hub)?)
}

fn existing(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    Err(AbsentError(format!("{}: no such file", path.display())).into())
}

/// The prompt of a question, of both this program and the peer.
fn prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// Threads that do the arithmetic; `None` on a GPU.
fn threads(backend: &str) -> Option<usize> {
    match backend {
        #[cfg(feature = "libtorch")]
        "libtorch" => usize::try_from(tch::get_num_threads()).ok(),
        "flex" => Some(rayon::current_num_threads()),
        _ => None,
    }
}

/// The most resident memory of this process in MiB, rounded down as the peer's scripts do.
fn peak_rss_mib() -> u64 {
    host::peak_resident_bytes() >> 20
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// `value` to `decimals` places.
fn rounded(value: f64, decimals: i32) -> f64 {
    let power = 10f64.powi(decimals);
    (value * power).round() / power
}

/// The middle of `values`, the mean of the two middle ones of an even number; NaN of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied();
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
    match (lower, upper) {
        (Some(lower), Some(upper)) => (lower + upper) / 2.0,
        _ => f64::NAN,
    }
}

/// The fields of a measurement: one JSON object on one line, or a table for people.
///
/// # Errors
/// Fields that are no JSON object.
pub fn render(title: &str, fields: &impl Serialize, json: bool) -> Result<String> {
    let fields = serde_json::to_value(fields)?;
    if json {
        return Ok(fields.to_string());
    }
    let mut table = Table {
        title: title.into(),
        columns: vec![Column::left("Field"), Column::right("Value")],
        ..Table::default()
    };
    for (name, value) in fields.as_object().context("a measurement without fields")? {
        table
            .rows
            .push(vec![Cell::text(name.as_str()), Cell::text(plain(value))]);
    }
    Ok(table.render(Format::Terminal))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every ratio of the comparison is a median.
    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
