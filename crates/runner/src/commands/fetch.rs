//! `fetch`: every file of an experiment.

use anyhow::Result;
use sharelora_hub::{Progress, Source};
use sharelora_tasks::{DatasetSpec, task};

use crate::base::shards;
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
        queue.extend(
            shards(&context.hub, &source)?
                .into_iter()
                .map(|source| Wanted {
                    source,
                    sha256: None,
                }),
        );
        out.push((source.to_string(), path.display().to_string()));
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
            add(source, run.model.checksum(source).map(str::to_owned));
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
