//! One TOML file a sweep: its types, its checks, and error messages that name the file, the key and the choices.
//!
//! The file becomes one JSON document, `--set` and then each run's axes and overrides write into it by dotted key,
//! and every section is read from the result with unknown keys denied. So whatever a key is called in the file,
//! it is called the same on the command line, in `[axes]` and in `[[override]]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sharelora_adapters::{AdapterConfig, Method};
use sharelora_hub::Source;
use sharelora_tasks::{TaskOptions, task};

use crate::batch::Fill;
use crate::slurm::SlurmSpec;
use crate::stages::Stage;

/// What can be wrong with an experiment: always the user's to mend, and found before any work begins.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    #[error("no experiment `{name}` in {dir}{near}: choices: {choices}")]
    UnknownExperiment {
        name: String,
        dir: PathBuf,
        near: String,
        choices: String,
    },
    #[error("{file}: not valid TOML: {reason}")]
    Toml { file: String, reason: String },
    #[error("{file}: {section} unknown key `{key}`{near}: choices: {choices}")]
    UnknownKey {
        file: String,
        section: String,
        key: String,
        near: String,
        choices: String,
    },
    #[error("{file}: {section} `{key}`: {reason}")]
    Value {
        file: String,
        section: String,
        key: String,
        reason: String,
    },
    #[error("{file}: {section} {reason}")]
    Section {
        file: String,
        section: String,
        reason: String,
    },
    #[error("--set {text}: {reason}")]
    Set { text: String, reason: String },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// How the frozen base is stored in memory. The arithmetic is f32 with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    #[default]
    F32,
    Bf16,
    F16,
    /// As the file has it: bf16 or f16 of a safetensors file, Q8_0 and Q4_1 of a GGUF file, dequantised tile by tile
    /// inside the products.
    Stored,
    /// As QLoRA has it: the linear layers of the blocks in NF4 with double quantisation, all else in bf16.
    Nf4,
}

impl Dtype {
    /// The name in experiments.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::Stored => "stored",
            Dtype::Nf4 => "nf4",
        }
    }
}

/// `[model]`: where the base model comes from. Every file is a hub source in its text form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name in tables and labels.
    pub name: String,
    /// `config.json` in the Hugging Face layout.
    pub config: Source,
    /// `tokenizer.json`.
    pub tokenizer: Source,
    /// One GGUF or safetensors file, all shards, or the safetensors index that names the shards.
    pub weights: Vec<Source>,
    #[serde(default)]
    pub dtype: Dtype,
    /// SHA-256 of files, by source; what is listed is checked when it is fetched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

impl ModelSpec {
    /// The checksum that the experiment gives for one of the model's files.
    pub fn checksum(&self, source: &Source) -> Option<&str> {
        self.sha256.get(&source.to_string()).map(String::as_str)
    }
}

/// How the learning rate moves after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    #[default]
    Constant,
    /// To 0 at the last step, in a straight line.
    Linear,
    /// To 0 at the last step, along half a cosine.
    Cosine,
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    pub task: String,
    #[serde(default)]
    pub task_options: TaskOptions,
    /// Optimizer steps. Exactly one of this and `epochs` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Passes over the training rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Examples of a micro-batch, one forward and backward pass. Exactly one of this and `batch_tokens` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// A micro-batch is filled with whole examples up to this many tokens, padding not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Micro-batches of one optimizer step.
    #[serde(default = "one")]
    pub accumulation: usize,
    pub learning_rate: f64,
    /// LoRA+ (arXiv 2402.12354): the learning rate of every `B` over that of `A`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b_learning_rate_ratio: Option<f64>,
    /// Learning rate of the head beside the adapter; absent: the adapter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_learning_rate: Option<f64>,
    #[serde(default)]
    pub schedule: Schedule,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warmup_steps: usize,
    /// Warm-up as a share of the steps; instead of `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    #[serde(default)]
    pub weight_decay: f64,
    #[serde(default = "adamw_betas")]
    pub betas: [f64; 2],
    #[serde(default = "adamw_epsilon")]
    pub epsilon: f64,
    /// Largest norm of the whole gradient; absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Label smoothing: `(1 - x) nll + x mean(-log p)`. Held-out losses are without.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub label_smoothing: f64,
    /// Start from the adapter of another run of this sweep, the one with these values of its axes; a head starts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<Map<String, Value>>,
    /// Tokens of the prompt, or of a text with a label, that are kept.
    #[serde(default = "max_source")]
    pub max_source: usize,
    /// Tokens of the answer that are kept.
    #[serde(default = "max_target")]
    pub max_target: usize,
    #[serde(default)]
    pub group_by_length: bool,
    /// Pad every row to the longest of its micro-batch, as the protocols do, instead of packing the rows end to end.
    /// The results agree within 1e-5.
    // Left out of files where it is false, as in all runs of result version 1: their hashes must stay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub padded: bool,
    /// Compute each layer again in the backward pass instead of keeping its activations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gradient_checkpointing: bool,
    /// Rows of the training split that are never trained on, chosen without the seed.
    #[serde(default)]
    pub held_out: usize,
    /// Steps between two evaluations; 0: one an epoch where `epochs` are given, else only before and after.
    #[serde(default)]
    pub evaluate_every: usize,
    /// Steps between two checkpoints; 0: none.
    #[serde(default)]
    pub checkpoint_every: usize,
    /// Score the adapter of the best evaluation instead of the last.
    #[serde(default)]
    pub keep_best: bool,
    /// What is best.
    #[serde(default, skip_serializing_if = "is_default")]
    pub best_by: BestBy,
    /// Limit on training rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
}

/// Which evaluation of a run is its best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum BestBy {
    /// The lowest loss of the held-out rows.
    #[default]
    HeldOutLoss,
    /// The highest headline metric of the first `[[evaluate]]`.
    Metric,
}

impl TrainSpec {
    /// Steps over which the learning rate rises from 0, of `steps` in all, whichever way they were given.
    pub fn warmup(&self, steps: usize) -> usize {
        match self.warmup_ratio {
            // As transformers does: `math.ceil(num_training_steps * warmup_ratio)`.
            Some(ratio) => (steps as f64 * ratio).ceil() as usize,
            None => self.warmup_steps,
        }
    }

    /// How a micro-batch is filled.
    pub fn fill(&self) -> Fill {
        match self.batch_tokens {
            Some(tokens) => Fill::Tokens(tokens),
            None => Fill::Examples(self.batch_size.unwrap_or(1)),
        }
    }

    /// The most tokens of one row.
    pub fn max_length(&self) -> usize {
        self.max_source + self.max_target
    }

    /// The key that is out of range, and what is expected of it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let at_least_one = [
            ("steps", self.steps.unwrap_or(1)),
            ("epochs", self.epochs.unwrap_or(1)),
            ("batch_size", self.batch_size.unwrap_or(1)),
            ("batch_tokens", self.batch_tokens.unwrap_or(1)),
            ("accumulation", self.accumulation),
            ("max_source", self.max_source),
            ("max_target", self.max_target),
            ("rows", self.rows.unwrap_or(1)),
        ];
        if let Some((key, value)) = at_least_one.into_iter().find(|(_, v)| *v == 0) {
            return Err((
                key,
                format!("{value} is out of range: a whole number of at least 1"),
            ));
        }
        match (self.steps, self.epochs) {
            (None, None) => {
                let reason = "is missing: give `steps`, or `epochs`, passes over the training rows";
                return Err(("steps", reason.into()));
            }
            (Some(_), Some(_)) => {
                let reason = "given together with `steps`: keep one of the two";
                return Err(("epochs", reason.into()));
            }
            (None, Some(_)) if self.batch_tokens.is_some() => {
                let reason = "needs `batch_size`: a token budget makes epochs of different lengths";
                return Err(("epochs", reason.into()));
            }
            _ => {}
        }
        // Far above any use: a slip, and memory that is not to be had.
        let at_most = [
            ("batch_size", self.batch_size.unwrap_or(1), 1 << 16),
            ("batch_tokens", self.batch_tokens.unwrap_or(1), 1 << 26),
            ("accumulation", self.accumulation, 1 << 16),
            ("max_source", self.max_source, 1 << 20),
            ("max_target", self.max_target, 1 << 20),
        ];
        if let Some((key, value, most)) = at_most.into_iter().find(|(_, v, most)| v > most) {
            return Err((
                key,
                format!("{value} is out of range: a whole number of at most {most}"),
            ));
        }
        match (self.batch_size, self.batch_tokens) {
            (None, None) => {
                return Err((
                    "batch_size",
                    "is missing: give `batch_size`, the examples of a micro-batch, or `batch_tokens`, its tokens".into(),
                ));
            }
            (Some(_), Some(_)) => {
                return Err((
                    "batch_tokens",
                    "given together with `batch_size`: keep one of the two".into(),
                ));
            }
            (None, Some(tokens)) if tokens < self.max_length() => {
                return Err((
                    "batch_tokens",
                    format!(
                        "{tokens} is less than max_source + max_target = {}: every example has to fit into a micro-batch",
                        self.max_length()
                    ),
                ));
            }
            _ => {}
        }
        let range = |key, value: f64, ok: bool, expected: &str| {
            if ok {
                Ok(())
            } else {
                Err((key, format!("{value} is out of range: {expected}")))
            }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let rate = self.learning_rate;
        range("learning_rate", rate, positive(rate), "a positive number")?;
        for (key, value) in [
            ("b_learning_rate_ratio", self.b_learning_rate_ratio),
            ("head_learning_rate", self.head_learning_rate),
        ] {
            let value = value.unwrap_or(1.0);
            range(key, value, positive(value), "a positive number")?;
        }
        range(
            "epsilon",
            self.epsilon,
            positive(self.epsilon),
            "a positive number",
        )?;
        let decay = self.weight_decay;
        range(
            "weight_decay",
            decay,
            decay.is_finite() && decay >= 0.0,
            "at least 0",
        )?;
        for beta in self.betas {
            range(
                "betas",
                beta,
                (0.0..1.0).contains(&beta),
                "two numbers, each at least 0 and below 1",
            )?;
        }
        if let Some(clip) = self.clip_norm {
            range(
                "clip_norm",
                clip,
                positive(clip),
                "a positive number (leave the key out for no clipping)",
            )?;
        }
        if let Some(ratio) = self.warmup_ratio {
            range(
                "warmup_ratio",
                ratio,
                (0.0..1.0).contains(&ratio),
                "at least 0 and below 1",
            )?;
            if self.warmup_steps > 0 {
                return Err((
                    "warmup_ratio",
                    "given together with `warmup_steps`: keep one of the two".into(),
                ));
            }
        }
        if let Some(steps) = self.steps.filter(|steps| self.warmup(*steps) > *steps) {
            let warmup = self.warmup(steps);
            let reason = format!("{warmup} is more than the {steps} steps of the run");
            return Err(("warmup_steps", reason));
        }
        let smoothing = self.label_smoothing;
        range(
            "label_smoothing",
            smoothing,
            (0.0..1.0).contains(&smoothing),
            "at least 0 and below 1",
        )?;
        if self.keep_best && self.best_by == BestBy::HeldOutLoss && self.held_out == 0 {
            return Err((
                "keep_best",
                "needs held-out rows to know the best: set `held_out`, or best_by = \"metric\", or keep_best = false".into(),
            ));
        }
        Ok(())
    }
}

fn one() -> usize {
    1
}
fn is_zero(n: &usize) -> bool {
    *n == 0
}
fn is_false(on: &bool) -> bool {
    !*on
}
fn is_nothing(x: &f64) -> bool {
    *x == 0.0
}
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn adamw_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn adamw_epsilon() -> f64 {
    1e-8
}
fn max_source() -> usize {
    512
}
fn max_target() -> usize {
    256
}
fn evaluation_batch() -> usize {
    32
}

/// Which rows of a task's training split are held out, and how much of them is read: as the same keys of `[train]` say it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSpec {
    pub held_out: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    #[serde(default = "max_source")]
    pub max_source: usize,
    #[serde(default = "max_target")]
    pub max_target: usize,
}

impl LossSpec {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let all = [
            ("held_out", self.held_out),
            ("rows", self.rows.unwrap_or(1)),
            ("max_source", self.max_source),
            ("max_target", self.max_target),
        ];
        match all
            .into_iter()
            .find(|(_, value)| !(1..=1 << 20).contains(value))
        {
            Some((key, value)) => Err((
                key,
                format!(
                    "{value} is out of range: a whole number from 1 to {}",
                    1 << 20
                ),
            )),
            None => Ok(()),
        }
    }

    /// A training on the task whose loss is measured has to hold out the same rows.
    fn is_held_out(&self, task: &str, train: &TrainSpec) -> Result<(), (&'static str, String)> {
        if train.task == task && (train.held_out, train.rows) != (self.held_out, self.rows) {
            return Err((
                "held_out",
                format!(
                    "{} of {} rows of `{task}`, and [train] holds out {} of {}: rows that are trained on would be measured",
                    self.held_out,
                    self.rows.map_or("all".into(), |n| n.to_string()),
                    train.held_out,
                    train.rows.map_or("all".into(), |n| n.to_string()),
                ),
            ));
        }
        Ok(())
    }
}

/// One `[[evaluate]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSpec {
    pub task: String,
    /// Measure the loss of these rows instead of asking the task's questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossSpec>,
    #[serde(default)]
    pub options: TaskOptions,
    #[serde(default = "evaluation_batch")]
    pub batch_size: usize,
}

impl EvaluateSpec {
    /// Name of a task whose loss is measured: with its variant, where another than the task's first is asked for.
    pub fn measured(&self) -> String {
        match &self.options.variant {
            Some(variant) => format!("{}_{variant}", self.task),
            None => self.task.clone(),
        }
    }

    /// Name of the samples in a run's folder: the task, and the split where another than its own is scored, or `loss`.
    pub fn samples_name(&self) -> String {
        match (&self.loss, &self.options.split) {
            (Some(_), _) => format!("{}-loss", self.measured()),
            (None, Some(split)) => format!("{}-{split}", self.task),
            (None, None) => self.task.clone(),
        }
    }
}

/// One `[[override]]`: where every key of `when` has its value, `set` is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    pub when: Map<String, Value>,
    pub set: Map<String, Value>,
}

/// The sections that an override can write into.
const OVERRIDDEN: [&str; 4] = ["model", "adapter", "train", "evaluate"];

/// The file as a whole; sections stay JSON until a run's axes have been written into them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read for their names: unknown keys are errors")]
struct Document {
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    caveat: Option<String>,
    model: Value,
    adapter: Value,
    train: Value,
    #[serde(default)]
    evaluate: Vec<Value>,
    #[serde(default)]
    stage: Vec<Value>,
    #[serde(default)]
    sequence: Value,
    #[serde(default)]
    axes: Map<String, Value>,
    #[serde(default, rename = "override")]
    overrides: Vec<Value>,
    #[serde(default)]
    slurm: Value,
}

/// A sweep as its file and `--set` describe it.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// The file's stem.
    pub name: String,
    /// The file as messages name it, `experiments/NAME.toml`.
    pub file: String,
    pub title: String,
    pub description: String,
    pub caveat: Option<String>,
    /// Axes in the file's order with their values; `method` first and `seed` second.
    pub axes: Vec<(String, Vec<Value>)>,
    pub overrides: Vec<Override>,
    document: Value,
}

/// The sections of one run, after axes and overrides.
#[derive(Debug, Clone)]
pub struct Sections {
    pub model: ModelSpec,
    pub adapter: AdapterConfig,
    pub train: TrainSpec,
    pub evaluate: Vec<EvaluateSpec>,
}

impl Experiment {
    /// Reads `experiments/NAME.toml` under the project root, over the file that it `extends` where it does, and writes `sets`
    /// (`key=value`) into it.
    ///
    /// # Errors
    /// An unknown name, key or value, with the nearest and the choices.
    pub fn load(root: &Path, name: &str, sets: &[String]) -> Result<Self, ExperimentError> {
        let document = whole_document(root, name, &mut Vec::new())?;
        Self::from_document(name, &file_of(name), document, sets)
    }

    /// As [`Experiment::load`], from the text of the file.
    ///
    /// # Errors
    /// As [`Experiment::load`].
    pub fn parse(
        name: &str,
        file: &str,
        text: &str,
        sets: &[String],
    ) -> Result<Self, ExperimentError> {
        Self::from_document(name, file, read_toml(file, text)?, sets)
    }

    fn from_document(
        name: &str,
        file: &str,
        mut document: Value,
        sets: &[String],
    ) -> Result<Self, ExperimentError> {
        for set in sets {
            apply_set(&mut document, set)?;
        }
        let head: Document = read_section(file, "the file:", &document)?;
        let mut experiment = Experiment {
            name: name.into(),
            file: file.into(),
            title: head.title,
            description: head.description,
            caveat: head.caveat,
            axes: Vec::new(),
            overrides: Vec::new(),
            document: Value::Null,
        };
        for value in &head.overrides {
            let rule: Override = read_section(file, "[[override]]", value)?;
            // A key of another section would be written and never read.
            for (key, _) in flatten_axes(rule.set.clone()) {
                let section = key.split('.').next().unwrap_or_default();
                if !OVERRIDDEN.contains(&section) {
                    return Err(ExperimentError::UnknownKey {
                        file: file.into(),
                        section: "[[override]] set:".into(),
                        near: did_you_mean(section, OVERRIDDEN.into_iter()),
                        choices: format!("dotted keys of {}", OVERRIDDEN.join(", ")),
                        key,
                    });
                }
            }
            experiment.overrides.push(rule);
        }
        experiment.document = document;
        experiment.axes = experiment.read_axes(head.axes)?;
        // The file itself must hold, also where every run overrides a wrong value; each stage too.
        let stages = crate::stages::stages(&experiment.document)
            .map_err(|wrong| experiment.wrong_stage(wrong))?;
        for stage in &stages {
            experiment.sections(&at_stage(&experiment.document, stage))?;
        }
        if stages.is_empty() {
            experiment.sections(&experiment.document)?;
        }
        SlurmSpec::check(&experiment)?;
        Ok(experiment)
    }

    /// The document into which a run's axes and overrides are written.
    pub fn document(&self) -> &Value {
        &self.document
    }

    fn read_axes(
        &self,
        axes: Map<String, Value>,
    ) -> Result<Vec<(String, Vec<Value>)>, ExperimentError> {
        let bad = |key: &str, reason: String| self.value_error("[axes]", key, reason);
        let mut out = vec![
            ("method".to_owned(), vec![Value::from("lora")]),
            ("seed".to_owned(), vec![Value::from(0)]),
        ];
        for (key, values) in flatten_axes(axes) {
            let Value::Array(values) = values else {
                return Err(bad(&key, "an axis is a list of values, [4, 8] say".into()));
            };
            if values.is_empty() {
                return Err(bad(
                    &key,
                    "the list is empty: an axis needs at least one value".into(),
                ));
            }
            match key.as_str() {
                "method" => {
                    for value in &values {
                        Method::try_from(value.clone())
                            .map_err(|e| bad("method", e.to_string()))?;
                    }
                    out[0].1 = values;
                }
                "seed" => {
                    if let Some(value) = values.iter().find(|v| v.as_u64().is_none()) {
                        return Err(bad(
                            "seed",
                            format!("{value} is no seed: a whole number of at least 0"),
                        ));
                    }
                    out[1].1 = values;
                }
                _ => {
                    if !["model", "adapter", "train", "evaluate", "stage"]
                        .contains(&key.split('.').next().unwrap_or(""))
                    {
                        return Err(ExperimentError::UnknownKey {
                            file: self.file.clone(),
                            section: "[axes]".into(),
                            near: did_you_mean(&key, ["method", "seed"].into_iter()),
                            key,
                            choices: "method, seed, or a dotted key of model, adapter, train, evaluate or stage, \
                                      \"adapter.rank\" say"
                                .into(),
                        });
                    }
                    out.push((key, values));
                }
            }
        }
        Ok(out)
    }

    /// Reads and checks the sections of `document`, this experiment's with values written into it.
    ///
    /// # Errors
    /// The key that is unknown or out of range.
    pub fn sections(&self, document: &Value) -> Result<Sections, ExperimentError> {
        let part = |key: &str| document.get(key).cloned().unwrap_or(Value::Null);
        let model: ModelSpec = read_section(&self.file, "[model]", &part("model"))?;
        let adapter: AdapterConfig = read_section(&self.file, "[adapter]", &part("adapter"))?;
        let train: TrainSpec = read_section(&self.file, "[train]", &part("train"))?;
        let evaluate = part("evaluate")
            .as_array()
            .into_iter()
            .flatten()
            .map(|value| read_section(&self.file, "[[evaluate]]", value))
            .collect::<Result<Vec<EvaluateSpec>, _>>()?;
        if model.weights.is_empty() {
            return Err(self.value_error(
                "[model]",
                "weights",
                "the list is empty: name at least one file".into(),
            ));
        }
        // The shards behind an index are not known here; everything else is.
        let indexed = model
            .weights
            .iter()
            .any(|s| s.file().ends_with(".index.json"));
        let files: Vec<String> = [&model.config, &model.tokenizer]
            .into_iter()
            .chain(&model.weights)
            .map(ToString::to_string)
            .collect();
        let known =
            |key: &String| files.contains(key) || (indexed && key.ends_with(".safetensors"));
        if let Some(key) = model.sha256.keys().find(|key| !known(key)) {
            return Err(self.value_error(
                "[model]",
                "sha256",
                format!(
                    "`{key}` is no file of this model: choices: {}",
                    files.join(", ")
                ),
            ));
        }
        adapter
            .check()
            .map_err(|e| self.section_error("[adapter]", e.to_string()))?;
        train
            .check()
            .map_err(|(key, reason)| self.value_error("[train]", key, reason))?;
        task(&train.task, &train.task_options)
            .map_err(|e| self.value_error("[train]", "task", e.to_string()))?;
        for each in &evaluate {
            if each.batch_size == 0 {
                let reason = "0 is out of range: a whole number of at least 1".into();
                return Err(self.value_error("[[evaluate]]", "batch_size", reason));
            }
            task(&each.task, &each.options)
                .map_err(|e| self.value_error("[[evaluate]]", "task", e.to_string()))?;
            if let Some(loss) = &each.loss {
                let found = loss
                    .check()
                    .and_then(|()| loss.is_held_out(&each.task, &train));
                found
                    .map_err(|(key, reason)| self.value_error("[[evaluate]] loss:", key, reason))?;
            }
        }
        Ok(Sections {
            model,
            adapter,
            train,
            evaluate,
        })
    }

    pub(crate) fn value_error(&self, section: &str, key: &str, reason: String) -> ExperimentError {
        ExperimentError::Value {
            file: self.file.clone(),
            section: section.into(),
            key: key.into(),
            reason,
        }
    }

    pub(crate) fn wrong_stage(&self, wrong: crate::stages::Wrong) -> ExperimentError {
        let (section, key, reason) = wrong;
        self.value_error(&section, &key, reason)
    }

    pub(crate) fn section_error(&self, section: &str, reason: String) -> ExperimentError {
        ExperimentError::Section {
            file: self.file.clone(),
            section: section.into(),
            reason,
        }
    }
}

/// The document with a stage's keys in `[train]`.
pub(crate) fn at_stage(document: &Value, stage: &Stage) -> Value {
    let mut document = document.clone();
    let over = serde_json::json!({ "train": stage.train });
    lay_over(&mut document, over);
    document
}

/// The names of the experiments of a project, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<String>, ExperimentError> {
    let dir = root.join("experiments");
    let io = |source| ExperimentError::Io {
        path: dir.clone(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "toml")
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// ` (did you mean `x`?)`, or nothing where no choice is near.
pub fn did_you_mean<'a>(name: &str, choices: impl Iterator<Item = &'a str>) -> String {
    choices
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .min()
        .filter(|(distance, c)| *distance <= 2.max(c.len() / 3))
        .map(|(_, c)| format!(" (did you mean `{c}`?)"))
        .unwrap_or_default()
}

/// Reads one section, and turns what serde says of a wrong one into a message that names the key.
pub(crate) fn read_section<T: DeserializeOwned>(
    file: &str,
    section: &str,
    value: &Value,
) -> Result<T, ExperimentError> {
    let Value::Object(map) = value else {
        return Err(ExperimentError::Section {
            file: file.into(),
            section: section.into(),
            reason: "is missing, or no table".into(),
        });
    };
    let error = match T::deserialize(value) {
        Ok(section) => return Ok(section),
        Err(e) => e.to_string(),
    };
    // serde's texts are "unknown field `x`, expected one of `a`, `b`" and "unknown variant `x`, expected ...".
    let mut names = error.split('`').skip(1).step_by(2);
    let first = names.next().unwrap_or_default().to_owned();
    let choices: Vec<&str> = names.collect();
    if error.starts_with("unknown field") && map.contains_key(&first) {
        let near = match first.as_str() {
            "method" | "seed" | "methods" | "seeds" => {
                format!(" (did you mean `axes.{}`?)", first.trim_end_matches('s'))
            }
            _ => did_you_mean(&first, choices.iter().copied()),
        };
        return Err(ExperimentError::UnknownKey {
            file: file.into(),
            section: section.into(),
            near,
            key: first,
            choices: choices.join(", "),
        });
    }
    if error.starts_with("missing field") {
        return Err(ExperimentError::Section {
            file: file.into(),
            section: section.into(),
            reason: format!("lacks the key `{first}`"),
        });
    }
    // serde names no key for a value of the wrong type: it is the one without which the error goes away.
    let culprit = map.keys().find(|key| {
        let mut rest = map.clone();
        rest.remove(*key);
        T::deserialize(Value::Object(rest))
            .err()
            .map(|e| e.to_string())
            != Some(error.clone())
    });
    let near = did_you_mean(&first, choices.iter().copied());
    let reason = if error.starts_with("unknown variant") {
        format!(
            "unknown value `{first}`{near}: choices: {}",
            choices.join(", ")
        )
    } else if error.starts_with("unknown field") {
        format!(
            "unknown key `{first}`{near}: choices: {}",
            choices.join(", ")
        )
    } else {
        // serde speaks of Rust's types.
        error
            .replace("expected usize", "expected a whole number of at least 0")
            .replace("expected u32", "expected a whole number of at least 0")
            .replace("expected f64", "expected a number")
            .replace("expected a boolean", "expected true or false")
    };
    Err(match culprit {
        Some(key) => ExperimentError::Value {
            file: file.into(),
            section: section.into(),
            key: key.clone(),
            reason,
        },
        None => ExperimentError::Section {
            file: file.into(),
            section: section.into(),
            reason,
        },
    })
}

/// `[axes]` may say `"adapter.rank" = [4]` or `adapter.rank = [4]`: TOML makes a table of the second.
fn flatten_axes(axes: Map<String, Value>) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (key, value) in axes {
        match value {
            Value::Object(inner) => {
                out.extend(
                    flatten_axes(inner)
                        .into_iter()
                        .map(|(k, v)| (format!("{key}.{k}"), v)),
                );
            }
            other => out.push((key, other)),
        }
    }
    out
}

/// The value at a dotted key; a number is an index into a list.
pub fn get<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(document, |at, part| match at {
        Value::Object(map) => map.get(part),
        Value::Array(list) => part.parse::<usize>().ok().and_then(|i| list.get(i)),
        _ => None,
    })
}

/// The parts of a dotted key; a part in double quotes may have dots of its own, as in TOML.
fn parts(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in key.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("one is there").push(c),
        }
    }
    parts
}

/// Writes at a dotted key, making tables on the way; a number is an index into a list that is there.
///
/// # Errors
/// The part of the key at which there is neither table nor such an element.
pub fn set(document: &mut Value, key: &str, value: Value) -> Result<(), String> {
    let mut at = document;
    let mut seen = String::new();
    for part in parts(key) {
        if part.is_empty() {
            return Err(format!("`{key}` has an empty part"));
        }
        at = match at {
            Value::Object(map) => map
                .entry(part.clone())
                .or_insert_with(|| Value::Object(Map::new())),
            Value::Array(list) => {
                let len = list.len();
                part.parse::<usize>()
                    .ok()
                    .and_then(|i| list.get_mut(i))
                    .ok_or_else(|| {
                        format!("`{seen}` is a list of {len}: `{part}` is none of its elements")
                    })?
            }
            _ => return Err(format!("`{seen}` is no table, so it has no `{part}`")),
        };
        if !seen.is_empty() {
            seen.push('.');
        }
        seen.push_str(&part);
    }
    *at = value;
    Ok(())
}

fn file_of(name: &str) -> String {
    format!("experiments/{name}.toml")
}

pub(crate) fn read_toml(file: &str, text: &str) -> Result<Value, ExperimentError> {
    toml::from_str(text).map_err(|e| ExperimentError::Toml {
        file: file.into(),
        reason: e.to_string().trim_end().into(),
    })
}

/// The document of an experiment, laid over the one that it extends. `above`: the files that led here.
fn whole_document(
    root: &Path,
    name: &str,
    above: &mut Vec<String>,
) -> Result<Value, ExperimentError> {
    let names = list(root)?;
    if !names.iter().any(|n| n == name) {
        return Err(ExperimentError::UnknownExperiment {
            name: name.into(),
            dir: PathBuf::from("experiments"),
            near: did_you_mean(name, names.iter().map(String::as_str)),
            choices: if names.is_empty() {
                "none yet".into()
            } else {
                names.join(", ")
            },
        });
    }
    let file = file_of(name);
    let path = root.join(&file);
    let text =
        std::fs::read_to_string(&path).map_err(|source| ExperimentError::Io { path, source })?;
    let mut document = read_toml(&file, &text)?;
    let Value::Object(map) = &mut document else {
        return Ok(document);
    };
    let Some(base) = map.remove("extends") else {
        return Ok(document);
    };
    let bad = |reason: String| ExperimentError::Value {
        file: file.clone(),
        section: "the file:".into(),
        key: "extends".into(),
        reason,
    };
    let Value::String(base) = base else {
        return Err(bad(format!("{base} is no name of an experiment")));
    };
    above.push(name.into());
    if above.contains(&base) {
        return Err(bad(format!("`{base}` extends this file itself")));
    }
    let mut whole = whole_document(root, &base, above)?;
    lay_over(&mut whole, document);
    Ok(whole)
}

/// Tables key by key; overrides behind those that are there; everything else replaces what was there.
pub(crate) fn lay_over(under: &mut Value, over: Value) {
    let (Value::Object(under), Value::Object(over)) = (under, over) else {
        return;
    };
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Array(list)), Value::Array(more)) if key == "override" => {
                list.extend(more);
            }
            (Some(inner @ Value::Object(_)), value @ Value::Object(_)) => lay_over(inner, value),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Writes one `key=value` of the command line: the value in TOML, or a bare word as a string.
fn apply_set(document: &mut Value, text: &str) -> Result<(), ExperimentError> {
    let bad = |reason: String| ExperimentError::Set {
        text: text.into(),
        reason,
    };
    let (key, raw) = text
        .split_once('=')
        .ok_or_else(|| bad("write KEY=VALUE, train.steps=20 say".into()))?;
    let (key, raw) = (key.trim(), raw.trim());
    let value = match toml::from_str::<BTreeMap<String, Value>>(&format!("value = {raw}")) {
        // One key: a value that smuggles in a second line is no value.
        Ok(mut map) if map.len() == 1 => map.remove("value").unwrap_or_default(),
        _ if is_bare_word(raw) => Value::from(raw),
        _ => {
            return Err(bad(format!(
                "`{raw}` is no TOML value: 3, 2e-4, \"text\", true, [1, 2]"
            )));
        }
    };
    // An axis' own name may have dots, so `axes.` takes the rest of the key as it is.
    if let Some(axis) = key.strip_prefix("axes.") {
        let Value::Object(map) = document else {
            return Err(bad("the file is no table".into()));
        };
        let axes = map
            .entry("axes")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(axes) = axes {
            let nested = axis.contains('.')
                && !axes.contains_key(axis)
                && get(&Value::Object(axes.clone()), axis).is_some();
            if !nested {
                axes.insert(axis.into(), value);
                return Ok(());
            }
        }
        return set(axes, axis, value).map_err(bad);
    }
    if let Some(Value::Object(axes)) = document.get("axes")
        && flatten_axes(axes.clone())
            .iter()
            .any(|(axis, _)| axis == key)
    {
        return Err(bad(format!(
            "`{key}` is an axis of this experiment: set `axes.{key}` to a list"
        )));
    }
    set(document, key, value).map_err(bad)
}

fn is_bare_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./:=,@".contains(c))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest file with every section, on the task that needs no files.
    pub(crate) const SMALL: &str = r#"
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
        steps = 10
        batch_size = 4
        learning_rate = 1e-3
        [[evaluate]]
        task = "pocket"
        [axes]
        method = ["base", "lora", "share_a"]
    "#;

    pub(crate) fn parse(text: &str, sets: &[&str]) -> Result<Experiment, ExperimentError> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Experiment::parse("x", "experiments/x.toml", text, &sets)
    }

    fn message(from: &str, to: &str) -> String {
        assert!(SMALL.contains(from), "{from}");
        parse(&SMALL.replace(from, to), &[])
            .unwrap_err()
            .to_string()
    }

    fn set_message(text: &str) -> String {
        parse(SMALL, &[text]).unwrap_err().to_string()
    }

    /// A misspelt key must never be ignored: the message names the file, the section, the nearest key, the choices.
    #[test]
    fn unknown_keys() {
        insta::assert_snapshot!(message("steps = 10", "stpes = 10"), @r#"experiments/x.toml: [train] unknown key `stpes` (did you mean `steps`?): choices: task, task_options, steps, epochs, batch_size, batch_tokens, accumulation, learning_rate, b_learning_rate_ratio, head_learning_rate, schedule, warmup_steps, warmup_ratio, weight_decay, betas, epsilon, clip_norm, label_smoothing, init_from, max_source, max_target, group_by_length, padded, gradient_checkpointing, held_out, evaluate_every, checkpoint_every, keep_best, best_by, rows"#);
        insta::assert_snapshot!(message("rank = 4", "rnak = 4"), @r#"experiments/x.toml: [adapter] unknown key `rnak` (did you mean `rank`?): choices: rank, alpha, dropout, targets, scaling, init"#);
        insta::assert_snapshot!(message("title = \"Small\"", "title = \"Small\"\nseeds = [1]"), @r#"experiments/x.toml: the file: unknown key `seeds` (did you mean `axes.seed`?): choices: title, description, caveat, model, adapter, train, evaluate, stage, sequence, axes, override, slurm"#);
        insta::assert_snapshot!(message("[axes]", "[axes]\nsead = [1]"), @r#"experiments/x.toml: [axes] unknown key `sead` (did you mean `seed`?): choices: method, seed, or a dotted key of model, adapter, train, evaluate or stage, "adapter.rank" say"#);
        insta::assert_snapshot!(message("[[evaluate]]", "[[evaluate]]\noptions = { shot = 1 }"), @r#"experiments/x.toml: [[evaluate]] `options`: unknown key `shot` (did you mean `shots`?): choices: variant, shots, max_new_tokens, limit, split, dataset, samples, temperature"#);
    }

    /// A value of the wrong type or out of range names its key, though serde does not.
    #[test]
    fn wrong_values() {
        insta::assert_snapshot!(message("\"share_a\"", "\"sharea\""), @r#"experiments/x.toml: [axes] `method`: unknown method `sharea` (did you mean `share_a`?): choose one of lora, share_a, share_b, share_ab, share_a_qkv, lora_fa, share_a_frozen, vera, rslora, dora, full, base, or give a table { name, a, b }"#);
        insta::assert_snapshot!(message("steps = 10", "steps = 0"), @r#"experiments/x.toml: [train] `steps`: 0 is out of range: a whole number of at least 1"#);
        insta::assert_snapshot!(message("steps = 10", "steps = \"ten\""), @r#"experiments/x.toml: [train] `steps`: invalid type: string "ten", expected a whole number of at least 0"#);
        insta::assert_snapshot!(message("steps = 10", "steps = 10\nschedule = \"cosin\""), @r#"experiments/x.toml: [train] `schedule`: unknown value `cosin` (did you mean `cosine`?): choices: constant, linear, cosine"#);
        insta::assert_snapshot!(message("learning_rate = 1e-3", "learning_rate = -1"), @r#"experiments/x.toml: [train] `learning_rate`: -1 is out of range: a positive number"#);
        insta::assert_snapshot!(message("learning_rate = 1e-3", ""), @r#"experiments/x.toml: [train] lacks the key `learning_rate`"#);
        insta::assert_snapshot!(message("rank = 4", "rank = 0"), @r#"experiments/x.toml: [adapter] `rank` = 0 is out of range: a whole number of at least 1"#);
        insta::assert_snapshot!(message("task = \"pocket\"\n        steps", "task = \"poket\"\n        steps"), @r#"experiments/x.toml: [train] `task`: unknown task `poket` (did you mean `pocket`?); choices: alpaca, codealpaca, cola, e2e, gsm8k, humaneval, mmlu, mmlu_pro, mnli, mrpc, pocket, qnli, qqp, rte, sst2, stsb"#);
        insta::assert_snapshot!(message("file:tiny/config.json", "tiny/config.json"), @r#"experiments/x.toml: [model] `config`: `tiny/config.json` is not a source: it has no scheme; valid forms: hf:ORG/NAME[@REVISION]:FILE, hf:datasets/ORG/NAME[@REVISION]:FILE, github:OWNER/REPO[@REVISION]:FILE, pypi:PACKAGE==VERSION:MEMBER, file:PATH"#);
        insta::assert_snapshot!(message("steps = 10", "steps = 10\nkeep_best = true"), @r#"experiments/x.toml: [train] `keep_best`: needs held-out rows to know the best: set `held_out`, or best_by = "metric", or keep_best = false"#);
        insta::assert_snapshot!(message("steps = 10", "steps = 10\nwarmup_steps = 11"), @r#"experiments/x.toml: [train] `warmup_steps`: 11 is more than the 10 steps of the run"#);
        insta::assert_snapshot!(message("method = [", "seed = 3\n        method = ["), @r#"experiments/x.toml: [axes] `seed`: an axis is a list of values, [4, 8] say"#);
    }

    /// A micro-batch has one measure, and one that every example fits into.
    #[test]
    fn batches_are_given_one_way() {
        insta::assert_snapshot!(message("batch_size = 4", ""), @r#"experiments/x.toml: [train] `batch_size`: is missing: give `batch_size`, the examples of a micro-batch, or `batch_tokens`, its tokens"#);
        insta::assert_snapshot!(message("batch_size = 4", "batch_size = 4\nbatch_tokens = 4096"), @r#"experiments/x.toml: [train] `batch_tokens`: given together with `batch_size`: keep one of the two"#);
        insta::assert_snapshot!(message("batch_size = 4", "batch_tokens = 767"), @r#"experiments/x.toml: [train] `batch_tokens`: 767 is less than max_source + max_target = 768: every example has to fit into a micro-batch"#);
        insta::assert_snapshot!(message("batch_size = 4", "batch_tokens = 0"), @r#"experiments/x.toml: [train] `batch_tokens`: 0 is out of range: a whole number of at least 1"#);
        insta::assert_snapshot!(message("batch_size = 4", "batch_size = 4\npadded = 1"), @r#"experiments/x.toml: [train] `padded`: invalid type: integer `1`, expected true or false"#);
        let train = |batch: &str| {
            let experiment = parse(&SMALL.replace("batch_size = 4", batch), &[]).unwrap();
            experiment.sections(experiment.document()).unwrap().train
        };
        assert_eq!(train("batch_tokens = 768").fill(), Fill::Tokens(768));
        let plain = train("batch_size = 4");
        assert_eq!(plain.fill(), Fill::Examples(4));
        assert!(!plain.padded && !plain.gradient_checkpointing);
        let other = train("batch_size = 4\npadded = true\ngradient_checkpointing = true");
        assert!(other.padded && other.gradient_checkpointing);
    }

    #[test]
    fn the_base_is_stored_in_one_of_these() {
        for dtype in [
            Dtype::F32,
            Dtype::Bf16,
            Dtype::F16,
            Dtype::Stored,
            Dtype::Nf4,
        ] {
            let experiment = parse(SMALL, &[&format!("model.dtype={}", dtype.name())]).unwrap();
            let sections = experiment.sections(experiment.document()).unwrap();
            assert_eq!(sections.model.dtype, dtype);
        }
        insta::assert_snapshot!(set_message("model.dtype=fp16"), @r#"experiments/x.toml: [model] `dtype`: unknown value `fp16` (did you mean `f16`?): choices: f32, bf16, f16, stored, nf4"#);
    }

    #[test]
    fn wrong_sets() {
        insta::assert_snapshot!(set_message("train.stpes=3"), @r#"experiments/x.toml: [train] unknown key `stpes` (did you mean `steps`?): choices: task, task_options, steps, epochs, batch_size, batch_tokens, accumulation, learning_rate, b_learning_rate_ratio, head_learning_rate, schedule, warmup_steps, warmup_ratio, weight_decay, betas, epsilon, clip_norm, label_smoothing, init_from, max_source, max_target, group_by_length, padded, gradient_checkpointing, held_out, evaluate_every, checkpoint_every, keep_best, best_by, rows"#);
        insta::assert_snapshot!(set_message("train.steps"), @r#"--set train.steps: write KEY=VALUE, train.steps=20 say"#);
        insta::assert_snapshot!(set_message("train.steps=[1"), @r#"--set train.steps=[1: `[1` is no TOML value: 3, 2e-4, "text", true, [1, 2]"#);
        insta::assert_snapshot!(set_message("train.steps.more=1"), @r#"--set train.steps.more=1: `train.steps` is no table, so it has no `more`"#);
        insta::assert_snapshot!(set_message("evaluate.1.batch_size=1"), @r#"--set evaluate.1.batch_size=1: `evaluate` is a list of 1: `1` is none of its elements"#);
        insta::assert_snapshot!(
            parse(SMALL, &["axes.adapter.rank=[4]", "adapter.rank=8"]).unwrap_err(),
            @r#"--set adapter.rank=8: `adapter.rank` is an axis of this experiment: set `axes.adapter.rank` to a list"#
        );
    }

    #[test]
    fn an_unknown_experiment_lists_those_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("experiments")).unwrap();
        for name in ["quickstart", "other"] {
            std::fs::write(root.path().join(format!("experiments/{name}.toml")), SMALL).unwrap();
        }
        insta::assert_snapshot!(Experiment::load(root.path(), "quikstart", &[]).unwrap_err(), @r#"no experiment `quikstart` in experiments (did you mean `quickstart`?): choices: other, quickstart"#);
        // A name is no path.
        assert!(Experiment::load(root.path(), "../experiments/other", &[]).is_err());
        assert_eq!(
            Experiment::load(root.path(), "other", &[]).unwrap().title,
            "Small"
        );
    }

    /// An ablation is the lines in which it differs. Overrides add up, tables are merged, lists are replaced; a file that
    /// extends itself, or one that is not there, is an error and no endless loop.
    #[test]
    fn an_experiment_extends_another() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("experiments")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join(file_of(name)), text).unwrap();
        };
        let rule = |rank: usize| {
            format!(
                "[[override]]\nwhen = {{ method = \"lora\" }}\nset = {{ \"adapter.rank\" = {rank} }}\n"
            )
        };
        write(
            "base",
            &SMALL.replace("[axes]", &format!("{}[axes]", rule(2))),
        );
        let small = "extends = \"base\"\ntitle = \"Other\"\n[train]\nsteps = 3\n[axes]\nmethod = [\"lora\"]\n";
        write("other", &format!("{small}{}", rule(3)));
        let other = Experiment::load(root.path(), "other", &["adapter.alpha=4".into()]).unwrap();
        let sections = other.sections(other.document()).unwrap();
        assert_eq!((other.title.as_str(), other.overrides.len()), ("Other", 2));
        assert_eq!(
            (sections.train.steps, sections.train.batch_size),
            (Some(3), Some(4))
        );
        assert_eq!(sections.adapter.alpha, 4.0);
        assert_eq!(other.axes[0].1, ["lora"]);
        write("loop", "extends = \"loop2\"");
        write("loop2", "extends = \"loop\"");
        insta::assert_snapshot!(Experiment::load(root.path(), "loop", &[]).unwrap_err(), @"experiments/loop2.toml: the file: `extends`: `loop` extends this file itself");
        write("lost", "extends = \"bas\"");
        let lost = Experiment::load(root.path(), "lost", &[])
            .unwrap_err()
            .to_string();
        assert!(lost.contains("did you mean `base`?"), "{lost}");
    }

    /// What no section reads must not be written in silence.
    #[test]
    fn an_override_writes_into_sections_alone() {
        let rule =
            "[[override]]\nwhen = { method = \"lora\" }\nset = { \"trian.steps\" = 2 }\n[axes]";
        insta::assert_snapshot!(message("[axes]", rule), @"experiments/x.toml: [[override]] set: unknown key `trian.steps` (did you mean `train`?): choices: dotted keys of model, adapter, train, evaluate");
    }

    /// The keys of an override are dotted themselves: quoted, they are one part of a longer key.
    #[test]
    fn a_quoted_part_of_a_key_keeps_its_dots() {
        let rule =
            "[[override]]\nwhen = { method = \"lora\" }\nset = { \"adapter.rank\" = 2 }\n[axes]";
        let text = SMALL.replace("[axes]", rule);
        let set = |sets: &[&str]| parse(&text, sets).unwrap().overrides[0].set.clone();
        assert_eq!(set(&[])["adapter.rank"], 2);
        let changed = set(&["override.0.set.\"adapter.rank\"=8"]);
        assert_eq!(
            (changed.len(), &changed["adapter.rank"]),
            (1, &Value::from(8))
        );
    }

    /// `--set` wins over the file, in TOML's syntax, with a bare word for a string.
    #[test]
    fn sets_replace_values() {
        let sets = [
            "train.steps=20",
            "train.schedule=cosine",
            "adapter.targets=[\"q_proj\"]",
            "axes.seed=[3, 4]",
            "evaluate.0.options.limit=7",
            "axes.adapter.rank=[1, 2]",
        ];
        let experiment = parse(SMALL, &sets).unwrap();
        let sections = experiment.sections(experiment.document()).unwrap();
        assert_eq!(sections.train.steps, Some(20));
        assert_eq!(sections.train.schedule, Schedule::Cosine);
        assert_eq!(sections.adapter.targets, ["q_proj"]);
        assert_eq!(sections.evaluate[0].options.limit, Some(7));
        assert_eq!(
            experiment.axes[1],
            ("seed".into(), vec![Value::from(3), Value::from(4)])
        );
        assert_eq!(experiment.axes[2].0, "adapter.rank");
    }

    #[test]
    fn warm_up_is_given_either_way() {
        let train = |set: &[&str]| {
            let experiment = parse(SMALL, set).unwrap();
            experiment.sections(experiment.document()).unwrap().train
        };
        assert_eq!(train(&[]).warmup(10), 0);
        assert_eq!(train(&["train.warmup_steps=3"]).warmup(10), 3);
        // Rounded up, as transformers does.
        assert_eq!(train(&["train.warmup_ratio=0.06"]).warmup(10), 1);
    }

    /// The files that ship must be valid, or the first command a reader tries fails.
    #[test]
    fn shipped_experiments_hold() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let names = list(&root).unwrap();
        assert!(names.contains(&"quickstart".to_owned()), "{names:?}");
        for name in names {
            let experiment = Experiment::load(&root, &name, &[]).unwrap();
            assert!(
                !crate::plan::plan(&root, experiment, "flex")
                    .unwrap()
                    .runs
                    .is_empty()
            );
        }
    }

    proptest! {
        /// Nothing that a user types may panic.
        #[test]
        fn any_text_is_an_experiment_or_an_error(text in "\\PC{0,60}", key in "[a-z.0-9]{0,20}", value in "\\PC{0,10}") {
            let _ = parse(&text, &[]);
            let _ = parse(SMALL, &[&format!("{key}={value}")]);
            let _ = parse(SMALL, &[&text]);
        }
    }
}
