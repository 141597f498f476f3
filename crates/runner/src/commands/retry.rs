//! `retry`: failed runs again, and diverged ones where that is asked for.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};
use sharelora_report::Status;

use crate::cli::Named;
use crate::store::State;
use crate::sweep::Folders;
use crate::{Context, ResolvedRun};

/// Which ended runs are done again.
#[derive(Debug, Clone)]
pub struct Again {
    pub only: Option<String>,
    pub diverged: bool,
    /// Runs at once.
    pub jobs: NonZeroUsize,
    /// Say it and stop.
    pub dry_run: bool,
}

/// Does the failed runs of an experiment again, from their last checkpoints, and with `diverged` those that diverged, from the
/// start; then writes the report.
///
/// # Errors
/// As [`super::sweep()`].
pub fn retry(context: &Context, folders: &Folders, named: &Named, again: &Again) -> Result<u8> {
    let plan = super::load(context, named)?;
    let store = folders.store();
    let mut runs: Vec<&ResolvedRun> = Vec::new();
    let mut restarted: Vec<&ResolvedRun> = Vec::new();
    let mut lines = Vec::new();
    for run in super::sweep::select(&plan.runs, again.only.as_deref())? {
        match store.state(run) {
            // Without a record it was interrupted, which `sweep` goes on with.
            State::Unfinished(reason) if store.run_dir(run).join("record.json").exists() => {
                let from = match store.run_dir(run).join("checkpoint").exists() {
                    true => "from its checkpoint",
                    false => "from the start",
                };
                lines.push(format!("{}, {from}: {reason}", run.label()));
                runs.push(run);
            }
            State::Done(record) if again.diverged && record.status == Status::Diverged => {
                let why = record.message.as_deref().unwrap_or("no reason was kept");
                lines.push(format!("{}, from the start: diverged: {why}", run.label()));
                restarted.push(run);
            }
            _ => {}
        }
    }
    if lines.is_empty() {
        let what = if again.diverged {
            "failed or diverged"
        } else {
            "failed"
        };
        super::print(&format!("{}: no run {what}", plan.experiment.name))?;
        return Ok(0);
    }
    super::print(&format!("done again:\n  {}", lines.join("\n  ")))?;
    if again.dry_run {
        return Ok(0);
    }
    for run in &restarted {
        let dir = store
            .open(run)
            .with_context(|| format!("run {}", run.label()))?;
        // From its checkpoint it would diverge as before.
        dir.clear()?;
    }
    runs.extend(restarted);
    // In the plan's order: a run comes behind the one that it starts from.
    let runs: Vec<&ResolvedRun> = plan
        .runs
        .iter()
        .filter(|run| runs.iter().any(|other| std::ptr::eq(*other, *run)))
        .collect();
    super::sweep::sweep_runs(context, folders, named, &plan, &runs, again.jobs)
}
