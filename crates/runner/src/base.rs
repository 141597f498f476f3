//! The base model of a run, from its sources to tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use serde::Deserialize;
use sharelora_hub::{Hub, Progress, Source};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Model, ModelConfig, Storage};
use sharelora_tasks::Encoder;

use crate::experiment::{Dtype, ModelSpec};

/// A model and its tokenizer. A clone shares both.
#[derive(Clone)]
pub struct Base {
    pub model: Model,
    pub encoder: Arc<Encoder>,
}

/// The bases of a sweep: each is read once, and one in memory serves all runs on it, on any number of threads.
#[derive(Default)]
pub struct Bases(Mutex<Option<(Key, Base)>>);

/// What decides a base.
type Key = (ModelSpec, Dtype, Device);

impl Bases {
    /// As [`load`], unless the base that was asked for last is the one. Only that one is kept.
    ///
    /// # Errors
    /// As [`load`].
    pub fn get(
        &self,
        spec: &ModelSpec,
        dtype: Dtype,
        hub: &Hub,
        device: &Device,
        progress: Progress,
    ) -> Result<Base> {
        let key = (spec.clone(), dtype, device.clone());
        // A run that panicked while it loaded has left nothing half-made in here.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, base)) = last.as_ref().filter(|(k, _)| *k == key) {
            return Ok(base.clone());
        }
        *last = None;
        let base = load(spec, dtype, hub, device, progress)?;
        *last = Some((key, base.clone()));
        Ok(base)
    }
}

/// The files that a safetensors index names; none for any other source, or while the index is not here.
///
/// # Errors
/// The index is here and cannot be read as one.
pub fn shards(hub: &Hub, source: &Source) -> Result<Vec<Source>> {
    if !source.file().ends_with(".safetensors.index.json") {
        return Ok(Vec::new());
    }
    let Some((path, _)) = hub.locate(source) else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let index: Index = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a safetensors index", path.display()))?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    Ok(files
        .into_iter()
        .map(|file| hub.sibling(source, file))
        .collect())
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of a model's weights: an index stands for its shards.
///
/// # Errors
/// A file that is neither here nor to be had, or an index that is malformed.
pub fn weight_files(spec: &ModelSpec, hub: &Hub, progress: Progress) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for source in &spec.weights {
        let path = hub.fetch(source, spec.checksum(source), progress)?.path;
        let shards = shards(hub, source)?;
        if shards.is_empty() {
            files.push(path);
        }
        for shard in &shards {
            files.push(hub.fetch(shard, spec.checksum(shard), progress)?.path);
        }
    }
    Ok(files)
}

/// `config.json` of a model.
///
/// # Errors
/// A file that is neither here nor to be had, or that this program cannot compute.
pub fn config(spec: &ModelSpec, hub: &Hub, progress: Progress) -> Result<ModelConfig> {
    let path = hub
        .fetch(&spec.config, spec.checksum(&spec.config), progress)?
        .path;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    ModelConfig::from_json(&text).with_context(|| path.display().to_string())
}

/// The token that ends a text. An encoder generates none, so that any will do: BERT's configuration names only its padding.
fn end_of_text(spec: &ModelSpec, config: &ModelConfig) -> Result<u32> {
    let named = config.eos_token_ids().first().copied();
    match (named, config) {
        (Some(id), _) => Ok(id),
        (None, ModelConfig::Bert(bert)) => Ok(bert.pad_token_id.unwrap_or(0)),
        (None, _) => bail!("{}: `eos_token_id` is missing", spec.config),
    }
}

/// The tokenizer of a model, with the tokens that its configuration names.
///
/// # Errors
/// As [`config`]; also a configuration without an end-of-text token, or with fewer tokens than the tokenizer.
pub fn encoder(
    spec: &ModelSpec,
    config: &ModelConfig,
    hub: &Hub,
    progress: Progress,
) -> Result<Encoder> {
    let path = hub
        .fetch(&spec.tokenizer, spec.checksum(&spec.tokenizer), progress)?
        .path;
    let encoder = Encoder::from_file(&path, config.bos_token_id(), end_of_text(spec, config)?)?;
    // An id without a row in the embedding would only be noticed by the tensor library, at the first such text.
    if encoder.vocab_size() > config.vocab_size() {
        bail!(
            "{}: {} tokens, but `vocab_size` is {} in {}: are both of the same model?",
            path.display(),
            encoder.vocab_size(),
            config.vocab_size(),
            spec.config
        );
    }
    Ok(encoder)
}

/// Everything of a model, on `device`, its weights kept as `dtype` says.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn load(
    spec: &ModelSpec,
    dtype: Dtype,
    hub: &Hub,
    device: &Device,
    progress: Progress,
) -> Result<Base> {
    let config = config(spec, hub, progress)?;
    let encoder = encoder(spec, &config, hub, progress)?;
    let files = weight_files(spec, hub, progress)?;
    let checkpoint = Checkpoint::open(&files)?;
    let names = || {
        files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let storage = match dtype {
        Dtype::F32 => Storage::F32,
        Dtype::Bf16 => Storage::Bf16,
        Dtype::F16 => Storage::F16,
        Dtype::Stored => Storage::Stored,
        Dtype::Nf4 => Storage::Nf4,
    };
    let model = Model::load(config, &checkpoint, storage, device).with_context(names)?;
    Ok(Base {
        model,
        encoder: Arc::new(encoder),
    })
}
