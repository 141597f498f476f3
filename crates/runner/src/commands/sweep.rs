//! `sweep`, `run` and `report`.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result};
use sharelora_hub::Progress;
use sharelora_report::Record;

use crate::cli::Named;
use crate::error::{FAILED, STOPPED, UsageError};
use crate::estimate::{bytes, estimate, weight_bytes};
use crate::experiment::did_you_mean;
use crate::store::State;
use crate::sweep::{Folders, Outcome};
use crate::{Context, Plan, ResolvedRun, Store, host, interrupt, pool};

/// Does what is not done of an experiment and writes its report.
///
/// # Errors
/// The experiment is wrong, a file cannot be had, or results cannot be written. A failed run is no error but code 1.
pub fn sweep(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
    jobs: NonZeroUsize,
) -> Result<u8> {
    let plan = super::load(context, named)?;
    let runs = select(&plan.runs, only)?;
    if !context.quiet {
        super::plan(context, folders, named, only, jobs.get(), false)?;
    }
    sweep_runs(context, folders, named, &plan, &runs, jobs)
}

/// Does `runs` of `plan`, `jobs` at a time, and writes the report.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_runs(
    context: &Context,
    folders: &Folders,
    named: &Named,
    plan: &Plan,
    runs: &[&ResolvedRun],
    jobs: NonZeroUsize,
) -> Result<u8> {
    let outcome = do_runs(context, folders, runs, jobs)?;
    if outcome == Outcome::default() || !outcome.stopped.is_empty() {
        return Ok(ended(&outcome));
    }
    write_report(plan, folders, named)?;
    Ok(ended(&outcome))
}

/// Does runs in the order of their labels, each label whole.
///
/// # Errors
/// As [`sweep`], and a label that no run has.
pub fn run(context: &Context, folders: &Folders, named: &Named, labels: &[String]) -> Result<u8> {
    let plan = super::load(context, named)?;
    let known: Vec<String> = plan.runs.iter().map(ResolvedRun::label).collect();
    let mut runs = Vec::new();
    for label in labels {
        let Some(i) = known.iter().position(|k| k == label) else {
            let near = did_you_mean(label, known.iter().map(String::as_str));
            return Err(UsageError(format!(
                "{}: no run `{label}`{near}: choices: {}",
                plan.experiment.file,
                known.join(", ")
            ))
            .into());
        };
        runs.push(&plan.runs[i]);
    }
    let outcome = do_runs(context, folders, &runs, NonZeroUsize::MIN)?;
    let store = folders.store();
    for run in runs {
        if let State::Done(record) = store.state(run) {
            tell_record(&record)?;
        }
        super::print(&store.run_dir(run).display().to_string())?;
    }
    Ok(ended(&outcome))
}

fn tell_record(record: &Record) -> Result<()> {
    super::print(&format!("{}: {}", record.run, record.status.name()))?;
    for (name, metric) in &record.metrics {
        let error = metric
            .stderr
            .map(|e| format!(" ± {e:.4}"))
            .unwrap_or_default();
        super::print(&format!(
            "  {name} {:.4}{error} (n = {})",
            metric.value, metric.n
        ))?;
    }
    if let Some(loss) = record.held_out_loss {
        super::print(&format!("  held-out loss {loss:.4}"))?;
    }
    Ok(())
}

/// Writes the report of an experiment from what is stored.
///
/// # Errors
/// Nothing is stored yet.
pub fn report(context: &Context, folders: &Folders, named: &Named) -> Result<u8> {
    let plan = super::load(context, named)?;
    write_report(&plan, folders, named)?;
    Ok(0)
}

/// The runs that `only` keeps, by text or regular expression.
///
/// # Errors
/// It keeps none; the message lists the labels.
pub fn select<'a>(runs: &'a [ResolvedRun], only: Option<&str>) -> Result<Vec<&'a ResolvedRun>> {
    let Some(only) = only else {
        return Ok(runs.iter().collect());
    };
    let pattern = regex::Regex::new(only);
    let kept: Vec<&ResolvedRun> = runs
        .iter()
        .filter(|run| {
            let label = run.label();
            label.contains(only) || pattern.as_ref().is_ok_and(|p| p.is_match(&label))
        })
        .collect();
    if kept.is_empty() {
        let labels: Vec<String> = runs.iter().map(ResolvedRun::label).collect();
        let why = match pattern {
            Ok(_) => String::new(),
            Err(e) => format!(" (and it is no regular expression: {e})"),
        };
        return Err(UsageError(format!(
            "--only {only}: fits no run{why}; the runs: {}",
            labels.join(", ")
        ))
        .into());
    }
    Ok(kept)
}

fn do_runs(
    context: &Context,
    folders: &Folders,
    runs: &[&ResolvedRun],
    jobs: NonZeroUsize,
) -> Result<Outcome> {
    let store = folders.store();
    let needs = at_once(prepare(context, &store, runs)?, jobs.get());
    let free = host::meminfo("MemAvailable");
    if jobs.get() > 1 && free > 0 && needs > free {
        eprintln!(
            "{jobs} runs at a time may need up to {} of memory, and {} are free; bases mapped from one file count once",
            bytes(needs),
            bytes(free)
        );
    }
    interrupt::listen().context("signals cannot be watched for")?;
    match jobs.get() {
        1 => crate::sweep::sweep(context, &store, runs),
        jobs => pool::sweep(context, folders, runs, jobs),
    }
}

/// Everything that is missing, or an adapter that does not fit, is missed before the first step, not after hours of it. Gives the memory that
/// each run to do may need.
pub(super) fn prepare(context: &Context, store: &Store, runs: &[&ResolvedRun]) -> Result<Vec<u64>> {
    let others = store.folders();
    let to_do: Vec<&ResolvedRun> = runs
        .iter()
        .copied()
        .filter(|run| !matches!(store.state(run), State::Done(_)))
        .filter(|run| store.done_elsewhere(run, &others).is_none())
        .collect();
    super::fetch_all(context, &to_do)?;
    let mut needs = Vec::new();
    for run in &to_do {
        let config = crate::base::config(&run.model, &context.hub, Progress::Quiet)?;
        let weights = weight_bytes(&run.model, &context.hub);
        let estimate =
            estimate(run, &config, weights).with_context(|| format!("run {}", run.label()))?;
        needs.push(estimate.memory.total());
    }
    Ok(needs)
}

/// The most that so many runs need together.
fn at_once(mut needs: Vec<u64>, jobs: usize) -> u64 {
    needs.sort_unstable_by_key(|need| std::cmp::Reverse(*need));
    needs.iter().take(jobs).sum()
}

pub(super) fn write_report(plan: &Plan, folders: &Folders, named: &Named) -> Result<()> {
    let mut command = format!("sharelora sweep {}", named.name);
    for set in &named.sets {
        command.push_str(&format!(" --set '{}'", set.replace('\'', r"'\''")));
    }
    let written = crate::report::report(plan, folders, &command)?;
    super::print(&written.table)?;
    super::print(&format!("report: {}", written.paths.report.display()))?;
    super::print(&format!("page: {}", written.paths.page.display()))?;
    for (svg, _) in &written.paths.figures {
        super::print(&format!("figure: {}", svg.display()))?;
    }
    Ok(())
}

/// Tells what needs attention, and gives the exit code.
pub(super) fn ended(outcome: &Outcome) -> u8 {
    let tell = |what: &str, labels: &[String]| {
        if !labels.is_empty() {
            eprintln!("{what}: {}", labels.join(", "));
        }
    };
    tell("diverged", &outcome.diverged);
    tell("in use by another process", &outcome.busy);
    tell("failed (the same command tries again)", &outcome.failed);
    tell("stopped; the same command goes on with", &outcome.stopped);
    match outcome {
        outcome if !outcome.stopped.is_empty() => STOPPED,
        outcome if !outcome.failed.is_empty() => FAILED,
        _ => 0,
    }
}
