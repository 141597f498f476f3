//! `sweep`, `run` and `report`.

use anyhow::{Context as _, Result};
use sharelora_hub::Progress;
use sharelora_report::Record;

use crate::cli::Named;
use crate::error::{FAILED, UsageError};
use crate::experiment::did_you_mean;
use crate::store::State;
use crate::sweep::{Folders, Outcome};
use crate::{Context, Plan, ResolvedRun, Store};

/// Does what is not done of an experiment and writes its report.
///
/// # Errors
/// The experiment is wrong, a file cannot be had, or results cannot be written. A failed run is no error but code 1.
pub fn sweep(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
) -> Result<u8> {
    let plan = super::load(context, named)?;
    let runs = select(&plan.runs, only)?;
    if !context.quiet {
        super::plan(context, folders, named, only, false)?;
    }
    let outcome = do_runs(context, folders, &runs)?;
    if outcome == Outcome::default() {
        return Ok(0);
    }
    write_report(&plan, folders, named)?;
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
    let outcome = do_runs(context, folders, &runs)?;
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

fn do_runs(context: &Context, folders: &Folders, runs: &[&ResolvedRun]) -> Result<Outcome> {
    let store = folders.store();
    prepare(context, &store, runs)?;
    crate::sweep::sweep(context, &store, runs)
}

/// Everything that is missing, or an adapter that does not fit, is missed before the first step, not after hours of it.
pub(super) fn prepare(context: &Context, store: &Store, runs: &[&ResolvedRun]) -> Result<()> {
    let to_do: Vec<&ResolvedRun> = runs
        .iter()
        .copied()
        .filter(|run| !matches!(store.state(run), State::Done(_)))
        .collect();
    super::fetch_all(context, &to_do)?;
    for run in &to_do {
        let config = crate::base::config(&run.model, &context.hub, Progress::Quiet)?;
        crate::estimate::estimate(run, &config, None)
            .with_context(|| format!("run {}", run.label()))?;
    }
    Ok(())
}

pub(super) fn write_report(plan: &Plan, folders: &Folders, named: &Named) -> Result<()> {
    let mut command = format!("sharelora sweep {}", named.name);
    for set in &named.sets {
        command.push_str(&format!(" --set '{}'", set.replace('\'', r"'\''")));
    }
    let written = crate::sweep::report(plan, folders, &command)?;
    super::print(&written.table)?;
    super::print(&format!("report: {}", written.paths.report.display()))?;
    for (svg, _) in [&written.paths.loss, &written.paths.accuracy]
        .into_iter()
        .flatten()
    {
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
    if outcome.failed.is_empty() { 0 } else { FAILED }
}
