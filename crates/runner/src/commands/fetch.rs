//! `fetch`: every file of an experiment.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sharelora_hub::{Hub, Progress, Source};
use sharelora_tasks::{DatasetSpec, task};

use crate::cli::Named;
use crate::{Context, ResolvedRun};

/// A file and the checksum that it must have, where one is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub source: Source,
    pub sha256: Option<String>,
}

/// Fetches everything that the experiment's runs read, and prints where each file lies.
///
/// # Errors
/// A file that is neither here nor to be had.
pub fn fetch(context: &Context, named: &Named) -> Result<u8> {
    let plan = super::load(context, named)?;
    let runs: Vec<&ResolvedRun> = plan.runs.iter().collect();
    for (source, path) in fetch_all(context, &runs)? {
        super::print(&format!("{source}\n  {path}"))?;
    }
    Ok(0)
}

/// Brings every file of `runs` here; gives source and path of each.
///
/// # Errors
/// The first file that is neither here nor to be had.
pub fn fetch_all(context: &Context, runs: &[&ResolvedRun]) -> Result<Vec<(String, String)>> {
    let progress = if context.quiet {
        Progress::Quiet
    } else {
        Progress::Bar
    };
    let mut out = Vec::new();
    let mut queue = wanted(context, runs)?;
    queue.reverse();
    while let Some(Wanted { source, sha256 }) = queue.pop() {
        let path = context
            .hub
            .fetch(&source, sha256.as_deref(), progress)?
            .path;
        // The index is here now, so its shards are known.
        queue.extend(shards(&context.hub, &source)?);
        out.push((source.to_string(), path.display().to_string()));
    }
    Ok(out)
}

/// The weight files of a run on this machine, a safetensors index replaced by its shards.
///
/// # Errors
/// As [`fetch_all`].
pub fn weight_files(context: &Context, run: &ResolvedRun) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for source in &run.model.weights {
        let path = context.hub.fetch(source, None, Progress::Quiet)?.path;
        let shards = shards(&context.hub, source)?;
        if shards.is_empty() {
            out.push(path);
        }
        for shard in shards {
            out.push(
                context
                    .hub
                    .fetch(&shard.source, None, Progress::Quiet)?
                    .path,
            );
        }
    }
    Ok(out)
}

/// The files that `runs` name, each once; the shards behind a safetensors index only once that is here.
///
/// # Errors
/// A dataset whose description is wrong.
pub fn wanted(context: &Context, runs: &[&ResolvedRun]) -> Result<Vec<Wanted>> {
    let mut out: Vec<Wanted> = Vec::new();
    let mut add = |source: &Source, sha256: Option<String>| {
        if !out.iter().any(|w| w.source == *source) {
            out.push(Wanted {
                source: source.clone(),
                sha256,
            });
        }
    };
    for run in runs {
        for source in run.model_sources() {
            add(source, None);
        }
        let training = run.train.iter().map(|t| (&t.task, &t.task_options, true));
        let scoring = run.evaluate.iter().map(|e| (&e.task, &e.options, false));
        for (name, options, train) in training.chain(scoring) {
            let task = task(name, options)?;
            let spec = DatasetSpec::named(task.dataset(), Some(&context.root.join("datasets")))?;
            let splits: &[&str] = if train {
                &[task.train_split()]
            } else {
                &[task.train_split(), task.eval_split()]
            };
            for split in splits {
                if let Some(split) = spec.splits.get(*split)
                    && let Some(source) = &split.source
                {
                    add(source, split.sha256.clone());
                }
            }
        }
    }
    Ok(out)
}

/// The files that a safetensors index names; none for any other source, or while the index is not here.
///
/// # Errors
/// The index is here and cannot be read as one.
pub fn shards(hub: &Hub, source: &Source) -> Result<Vec<Wanted>> {
    if !source.file().ends_with(".safetensors.index.json") {
        return Ok(Vec::new());
    }
    let Some((path, _)) = hub.locate(source) else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let index: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a safetensors index", path.display()))?;
    let map = index
        .get("weight_map")
        .and_then(|m| m.as_object())
        .with_context(|| format!("{} has no table `weight_map`", path.display()))?;
    let mut files: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    Ok(files
        .into_iter()
        .map(|file| Wanted {
            source: source.sibling(file),
            sha256: None,
        })
        .collect())
}
