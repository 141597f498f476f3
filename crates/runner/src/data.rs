//! The token ids that a run trains on and those that it holds out.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};
use sharelora_hub::Hub;
use sharelora_model::{Labels, ModelConfig};
use sharelora_tasks::{
    DatasetSpec, Encoded, Encoder, Row, Task, cache, load_split, rows_hash, task,
};

use crate::experiment::TrainSpec;

/// Encoded examples of one training split.
pub struct Data {
    pub train: Vec<Encoded>,
    /// Never trained on.
    pub held_out: Vec<Encoded>,
    /// SHA-256 of the split's rows.
    pub hash: String,
    /// Rows that were longer than allowed and lost tokens.
    pub truncated: usize,
}

/// The rows of a task's split.
///
/// # Errors
/// A file that is neither here nor to be had, a missing column, an empty split.
pub fn rows(task: &dyn Task, split: &str, root: &Path, hub: &Hub) -> Result<Vec<Row>> {
    let spec = DatasetSpec::named(task.dataset(), Some(&root.join("datasets")))?;
    Ok(load_split(&spec, split, hub)?)
}

/// What a head has to predict for a task; `None` where its answers are texts.
pub fn labels(task: &dyn Task) -> Option<Labels> {
    Some(match task.labels()? {
        sharelora_tasks::Labels::Classes(names) => Labels::Classes(names.len()),
        sharelora_tasks::Labels::Regression => Labels::Number,
    })
}

/// Rotary positions go on for ever; a table of learned ones ends.
pub fn has_last_position(config: &ModelConfig) -> bool {
    !matches!(config, ModelConfig::Llama(_))
}

/// Tokens of a text with a label that are kept: as many as asked for, and as the model has positions for.
pub fn text_length(spec: &TrainSpec, config: &ModelConfig) -> usize {
    spec.max_source.min(config.max_positions())
}

/// Places of the rows that are held out: spread evenly over the split, the same for every seed and method.
pub fn held_out_places(held_out: usize, rows: usize) -> impl Iterator<Item = usize> {
    (0..held_out).map(move |i| i * rows / held_out)
}

/// Reads, encodes and splits the training rows.
///
/// # Errors
/// As [`rows`]; also more held-out rows than there are rows, and answers that learned positions do not reach.
pub fn prepare(
    spec: &TrainSpec,
    config: &ModelConfig,
    encoder: &Encoder,
    root: &Path,
    hub: &Hub,
) -> Result<Data> {
    let task = task(&spec.task, &spec.task_options)?;
    let max_source = match task.labels() {
        Some(_) => text_length(spec, config),
        None => spec.max_source,
    };
    let positions = config.max_positions();
    if has_last_position(config) && task.labels().is_none() && spec.max_length() > positions {
        bail!(
            "`train.max_source` + `train.max_target` = {}: the model has {positions} positions",
            spec.max_length()
        );
    }
    let mut rows = rows(task.as_ref(), task.train_split(), root, hub)?;
    if let Some(limit) = spec.rows {
        rows.truncate(limit);
    }
    let hash = rows_hash(&rows);
    let key = cache::key(encoder, task.as_ref(), &hash, max_source, spec.max_target);
    let all = cache::encoded(&hub.cache.join("tokens"), &key, || {
        encoder.encode_examples(&task.examples(&rows)?, max_source, spec.max_target)
    })?;
    if spec.held_out >= all.len() {
        bail!(
            "`train.held_out` = {} leaves nothing to train on: task `{}` has {} rows",
            spec.held_out,
            spec.task,
            all.len()
        );
    }
    let chosen: BTreeSet<usize> = held_out_places(spec.held_out, all.len()).collect();
    let mut data = Data {
        train: Vec::new(),
        held_out: Vec::new(),
        hash,
        truncated: all.iter().filter(|example| example.truncated).count(),
    };
    for (i, example) in all.into_iter().enumerate() {
        if chosen.contains(&i) {
            data.held_out.push(example);
        } else {
            data.train.push(example);
        }
    }
    Ok(data)
}
