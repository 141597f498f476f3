//! The token ids that a run trains on and those that it holds out.

use std::path::Path;

use anyhow::{Result, bail};
use sharelora_hub::Hub;
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
}

/// The rows of a task's split.
///
/// # Errors
/// A file that is neither here nor to be had, a missing column, an empty split.
pub fn rows(task: &dyn Task, split: &str, root: &Path, hub: &Hub) -> Result<Vec<Row>> {
    let spec = DatasetSpec::named(task.dataset(), Some(&root.join("datasets")))?;
    Ok(load_split(&spec, split, hub)?)
}

/// Reads, encodes and splits the training rows. The held-out rows are spread evenly over the split, the same for
/// every seed and method.
///
/// # Errors
/// As [`rows`]; also more held-out rows than there are rows.
pub fn prepare(spec: &TrainSpec, encoder: &Encoder, root: &Path, hub: &Hub) -> Result<Data> {
    let task = task(&spec.task, &spec.task_options)?;
    let mut rows = rows(task.as_ref(), task.train_split(), root, hub)?;
    if let Some(limit) = spec.rows {
        rows.truncate(limit);
    }
    let hash = rows_hash(&rows);
    let key = cache::key(
        encoder,
        task.as_ref(),
        &hash,
        spec.max_source,
        spec.max_target,
    );
    let all = cache::encoded(&hub.cache.join("tokens"), &key, || {
        encoder.encode_examples(&task.examples(&rows)?, spec.max_source, spec.max_target)
    })?;
    if spec.held_out >= all.len() {
        bail!(
            "`train.held_out` = {} leaves nothing to train on: task `{}` has {} rows",
            spec.held_out,
            spec.task,
            all.len()
        );
    }
    let chosen: std::collections::BTreeSet<usize> = (0..spec.held_out)
        .map(|i| i * all.len() / spec.held_out)
        .collect();
    let mut data = Data {
        train: Vec::new(),
        held_out: Vec::new(),
        hash,
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
