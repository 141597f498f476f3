//! `plan`, `sweep --dry-run` and `params`: what would run, and what it would cost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sharelora_hub::{Progress, Source};
use sharelora_model::ModelConfig;
use sharelora_report::number::thousands;
use sharelora_report::{Cell, Column, Format, Table};

use crate::batch::Fill;
use crate::cli::Named;
use crate::cost::{self, Cost, Measurements, duration, training_bytes};
use crate::error::AbsentError;
use crate::estimate::{Estimate, bytes, estimate, weight_bytes};
use crate::experiment::TrainSpec;
use crate::store::State;
use crate::sweep::{Folders, as_lora};
use crate::{Context, Plan, ResolvedRun};

/// The configurations of `runs`' models, fetched where they are not here. What cannot be had is asked for once: without
/// a network each try costs many seconds.
#[derive(Default)]
struct Configs {
    read: BTreeMap<String, ModelConfig>,
    absent: BTreeMap<String, String>,
    /// Sizes of weights on this machine, by their sources.
    weights: BTreeMap<String, Option<u64>>,
}

impl Configs {
    fn get(&mut self, context: &Context, source: &Source) -> Result<&ModelConfig> {
        let key = source.to_string();
        if let Some(reason) = self.absent.get(&key) {
            return Err(AbsentError(reason.clone()).into());
        }
        if !self.read.contains_key(&key) {
            let path = match context.hub.fetch(source, None, Progress::Quiet) {
                Ok(file) => file.path,
                Err(e) => {
                    let e = anyhow::Error::from(e);
                    if crate::error::exit_code(&e) == crate::error::ABSENT {
                        self.absent.insert(key, format!("{e:#}"));
                    }
                    return Err(e);
                }
            };
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let config = ModelConfig::from_json(&text).with_context(|| source.to_string())?;
            self.read.insert(key.clone(), config);
        }
        self.read
            .get(&key)
            .context("a configuration that was just read is gone")
    }

    fn estimate(&mut self, context: &Context, run: &ResolvedRun) -> Result<Estimate> {
        let sources: Vec<String> = run.model.weights.iter().map(ToString::to_string).collect();
        let weights = *self
            .weights
            .entry(sources.join(" "))
            .or_insert_with(|| weight_bytes(&run.model, &context.hub));
        Ok(estimate(
            run,
            self.get(context, &run.model.config)?,
            weights,
        )?)
    }
}

/// A run of a plan with all that is shown of it; its hash is computed once.
struct Row<'a> {
    run: &'a ResolvedRun,
    label: String,
    hash: String,
    state: State,
    /// The other experiment that has finished this run, where this one has not: it is taken over from there.
    elsewhere: Option<String>,
    estimate: Option<Estimate>,
    cost: Cost,
}

impl Row<'_> {
    fn done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    fn to_do(&self) -> bool {
        !self.done() && self.elsewhere.is_none()
    }

    fn state_word(&self) -> String {
        match (&self.state, &self.elsewhere) {
            (State::Done(record), _) => record.status.name().into(),
            (_, Some(experiment)) => format!("done in {experiment}"),
            (State::New, None) => "to do".into(),
            (State::Unfinished(reason), None) => format!("to do ({reason})"),
            (State::Broken(reason), None) => format!("to do again ({reason})"),
        }
    }

    /// Adapter, checkpoint and samples; without samples where these were not measured.
    fn disk_bytes(&self) -> Option<u64> {
        let (trained, checkpoint) = training_bytes(self.run, self.estimate.as_ref()?);
        Some(trained + checkpoint + self.cost.samples_bytes.unwrap_or(0))
    }
}

/// Shows the plan of an experiment and what it costs; the time with `jobs` runs at once.
///
/// # Errors
/// The experiment is wrong. A configuration that cannot be had is a note, not an error.
pub fn plan(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
    jobs: usize,
    json: bool,
) -> Result<u8> {
    if json {
        let plan = super::load(context, named)?;
        let runs = super::sweep::select(&plan.runs, only)?;
        let (rows, _) = rows(context, folders, &runs)?;
        let list: Vec<_> = rows
            .iter()
            .map(|row| {
                let disk = row.disk_bytes();
                json!({
                    "label": row.label, "hash": row.hash, "folder": folder(row),
                    "state": row.state_word(), "estimate": row.estimate,
                    "cost": row.cost, "disk_bytes": disk, "run": row.run,
                })
            })
            .collect();
        let experiment = &plan.experiment;
        let all = json!({ "experiment": experiment.name, "title": experiment.title, "runs": list });
        super::print(&serde_json::to_string_pretty(&all)?)?;
        return Ok(0);
    }
    super::print(&planned_table(context, folders, named, only, jobs)?)?;
    Ok(0)
}

/// What [`plan`] prints without `json`.
///
/// # Errors
/// As [`plan`].
pub fn planned_table(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
    jobs: usize,
) -> Result<String> {
    let plan = super::load(context, named)?;
    let runs = super::sweep::select(&plan.runs, only)?;
    let (rows, note) = rows(context, folders, &runs)?;
    Ok(whole_table(context, &plan, named, &rows, note, jobs))
}

fn whole_table(
    context: &Context,
    plan: &Plan,
    named: &Named,
    rows: &[Row],
    note: Option<String>,
    jobs: usize,
) -> String {
    let mut table = plan_table(&plan.experiment.title, rows);
    table.notes.extend(note);
    table.notes.extend(totals(context, named, rows, jobs));
    table.render(Format::Terminal)
}

/// State, estimate and cost of each run, and a note where sizes cannot be known.
fn rows<'a>(
    context: &Context,
    folders: &Folders,
    runs: &[&'a ResolvedRun],
) -> Result<(Vec<Row<'a>>, Option<String>)> {
    let store = folders.store();
    let others = store.folders();
    let mut configs = Configs::default();
    let mut estimates: HashMap<String, Option<Estimate>> = HashMap::new();
    let mut measured = Measurements::read(&folders.results);
    let mut rows = Vec::with_capacity(runs.len());
    let mut note = None;
    for run in runs {
        let (label, hash) = (run.label(), run.hash());
        let kind = cost::kind(run);
        let estimate = match estimates.get(&kind) {
            Some(known) => known.clone(),
            // An adapter that does not fit the model is an error here, before any work; an absent file is not.
            None => {
                let found = match configs.estimate(context, run) {
                    Ok(found) => Some(found),
                    Err(e) if crate::error::exit_code(&e) == crate::error::ABSENT => {
                        note = Some(format!("sizes are unknown: {e:#}"));
                        None
                    }
                    Err(e) => return Err(e.context(format!("run {label}"))),
                };
                estimates.insert(kind.clone(), found.clone());
                found
            }
        };
        let folder = format!("{label}-{}", &hash[..8]);
        let state = store.state_of(&run.experiment, &folder, &hash);
        let twin = match state {
            State::Done(_) => None,
            _ => store.done_elsewhere(run, &others),
        };
        rows.push(Row {
            run,
            state,
            elsewhere: twin.as_deref().and_then(experiment_of),
            label,
            hash,
            estimate,
            cost: measured.cost(run, kind),
        });
    }
    Ok((rows, note))
}

/// The experiment that a run's folder is in.
fn experiment_of(dir: &Path) -> Option<String> {
    let experiment = dir.parent()?.file_name()?;
    Some(experiment.to_string_lossy().into_owned())
}

fn folder(row: &Row) -> String {
    format!("{}-{}", row.label, &row.hash[..8])
}

fn plan_table(title: &str, rows: &[Row]) -> Table {
    let mut table = Table {
        title: title.to_owned(),
        columns: vec![
            Column::left("Run"),
            Column::left("Hash"),
            Column::right("Trainable"),
            Column::right("Adapter"),
            Column::right("Memory"),
            Column::right("Disk"),
            Column::right("Time"),
            Column::left("State"),
        ],
        ..Table::default()
    };
    for row in rows {
        let shown = |text: fn(&Estimate) -> String| {
            row.estimate
                .as_ref()
                .map_or_else(Cell::none, |e| Cell::text(text(e)))
        };
        let time = row.cost.seconds();
        let at_most = if row.cost.bound { "< " } else { "" };
        table.rows.push(vec![
            Cell::text(row.label.as_str()),
            Cell::text(&row.hash[..8]),
            shown(|e| thousands(e.trainable_parameters)),
            shown(|e| bytes(e.adapter_bytes)),
            shown(|e| bytes(e.memory.total())),
            row.disk_bytes()
                .map_or_else(Cell::none, |n| Cell::text(bytes(n))),
            time.map_or_else(
                || Cell::text("unknown"),
                |t| Cell::text(format!("{at_most}{}", duration(t))),
            ),
            Cell::text(row.state_word()),
        ]);
    }
    let done = rows.iter().filter(|row| row.done()).count();
    let to_do = rows.iter().filter(|row| row.to_do()).count();
    let elsewhere = match rows.len() - done - to_do {
        0 => String::new(),
        n => format!("{n} done in other experiments, "),
    };
    table.notes.push(format!(
        "{} runs: {done} done, {elsewhere}{to_do} to do.",
        rows.len()
    ));
    // The largest run, in parts: what to change where it does not fit.
    if let Some((row, e)) = rows
        .iter()
        .filter_map(|row| Some((row, row.estimate.as_ref()?)))
        .max_by_key(|(_, e)| e.memory.total())
    {
        let parts: Vec<String> = e
            .memory
            .parts()
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {}", bytes(n)))
            .collect();
        table.notes.push(format!(
            "Memory is an estimate. {}{}: {}.",
            row.label,
            row.run.train.as_ref().map_or_else(String::new, batch),
            parts.join(", ")
        ));
    }
    table
}

/// Time and disk of what is to do, and where the times come from.
fn totals(context: &Context, named: &Named, rows: &[Row], jobs: usize) -> Vec<String> {
    let to_do: Vec<&Row> = rows.iter().filter(|row| row.to_do()).collect();
    if to_do.is_empty() {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let times: Vec<f64> = to_do.iter().filter_map(|row| row.cost.seconds()).collect();
    let all: f64 = times.iter().sum();
    let unknown: Vec<&&Row> = to_do
        .iter()
        .filter(|row| row.cost.seconds().is_none())
        .collect();
    if !times.is_empty() {
        let mut text = format!("Time to do: {}", duration(all));
        if jobs > 1 {
            // The longest run is one worker's, however many there are.
            let longest = times.iter().copied().fold(0.0, f64::max);
            let least = longest.max(all / jobs as f64);
            text.push_str(&format!(
                ", with --jobs {jobs} at least {} (each as fast as alone)",
                duration(least)
            ));
        }
        if !unknown.is_empty() {
            text.push_str(&format!(
                ", and {} runs whose time is unknown",
                unknown.len()
            ));
        }
        notes.push(format!("{text}."));
        let sources: BTreeSet<&String> = to_do.iter().flat_map(|row| &row.cost.sources).collect();
        let first: Vec<&str> = sources.iter().take(6).map(|s| s.as_str()).collect();
        let more = match sources.len().saturating_sub(6) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let host = crate::host::host();
        notes.push(format!(
            "Times come from what these runs took on this machine ({}, {} cores, {}): {}{more}.",
            host.cpu,
            host.cores,
            context.backend,
            first.join(", ")
        ));
        if to_do
            .iter()
            .any(|row| row.cost.bound && row.cost.seconds().is_some())
        {
            notes.push(
                "< is a bound: the tokens of such rows were not measured, so all are taken as the longest allowed.".into(),
            );
        }
    }
    if let Some(row) = unknown.first() {
        notes.push(how_to_measure(named, row));
    }
    let mut disk = [0; 3];
    for row in &to_do {
        if let Some(estimate) = &row.estimate {
            let (trained, checkpoint) = training_bytes(row.run, estimate);
            let samples = row.cost.samples_bytes.unwrap_or(0);
            for (sum, part) in disk.iter_mut().zip([trained, checkpoint, samples]) {
                *sum += part;
            }
        }
    }
    let [trained, checkpoints, samples] = disk;
    let unmeasured = to_do.iter().any(|row| row.cost.samples_bytes.is_none());
    notes.push(format!(
        "Disk to do: {}: adapters {}, checkpoints {}, samples {}{}.",
        bytes(trained + checkpoints + samples),
        bytes(trained),
        bytes(checkpoints),
        bytes(samples),
        if unmeasured {
            " where they were measured"
        } else {
            ""
        }
    ));
    notes
}

/// What to do where a time is unknown: a short run of the same kind is enough.
fn how_to_measure(named: &Named, row: &Row) -> String {
    let what = match (row.cost.train_seconds, row.cost.evaluate_seconds) {
        (Some(_), None) if row.run.train.is_some() => "scoring",
        (None, Some(_)) => "training",
        _ => "nothing",
    };
    let short = match &row.run.train {
        Some(train) => match train.steps {
            Some(steps) => format!(" --set train.steps={}", steps.min(train.warmup(steps) + 20)),
            None => String::new(),
        },
        None => String::new(),
    };
    let reason = match what {
        "nothing" => "nothing measured yet for this model, backend and machine".to_owned(),
        "scoring" => "its training was measured here, its scoring was not".to_owned(),
        _ => "its scoring was measured here, its training was not".to_owned(),
    };
    format!(
        "unknown: {reason}; to measure: sharelora run {} {}{short}",
        named.name, row.label
    )
}

/// What of a run's training decides its memory, in words.
fn batch(train: &TrainSpec) -> String {
    let length = train.max_length();
    let mut text = match train.fill() {
        Fill::Examples(size) => format!(", micro-batches of at most {size} x {length} tokens"),
        Fill::Tokens(budget) => format!(", micro-batches of at most {budget} tokens"),
    };
    if train.padded {
        text.push_str(", padded");
    }
    if train.gradient_checkpointing {
        text.push_str(", gradient checkpointing");
    }
    text
}

/// Counts trainable parameters, each setting once whatever its seeds and how its base is kept.
///
/// # Errors
/// The model's `config.json` cannot be had, or an adapter does not fit it.
pub fn params(context: &Context, named: &Named) -> Result<u8> {
    let plan = super::load(context, named)?;
    let mut configs = Configs::default();
    let mut table = Table {
        title: format!("{}: trainable parameters", plan.experiment.title),
        columns: vec![
            Column::left("Run"),
            Column::right("Trainable"),
            Column::right("Of the base"),
            Column::right("Of LoRA"),
            Column::right("Adapter"),
        ],
        ..Table::default()
    };
    let mut seen = Vec::new();
    for run in &plan.runs {
        let one_seed = ResolvedRun {
            seed: 0,
            axes: run
                .axes
                .iter()
                .filter(|(k, _)| !["seed", "model.dtype"].contains(&k.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            ..run.clone()
        };
        let label = one_seed.label().replacen("-seed0", "", 1);
        if seen.contains(&label) {
            continue;
        }
        let found = configs
            .estimate(context, run)
            .with_context(|| format!("run {}", run.label()))?;
        let lora = match as_lora(run) {
            Some(lora) => Some(configs.estimate(context, &lora)?.trainable_parameters),
            None => None,
        };
        let share = |of: u64| {
            let percent = 100.0 * found.trainable_parameters as f64 / of.max(1) as f64;
            Cell::number(format!("{percent:.1} %"), percent)
        };
        table.rows.push(vec![
            Cell::text(label.as_str()),
            Cell::number(
                thousands(found.trainable_parameters),
                found.trainable_parameters as f64,
            ),
            share(found.base_parameters),
            lora.map_or_else(Cell::none, share),
            if found.adapter_bytes == 0 {
                Cell::none()
            } else {
                Cell::text(bytes(found.adapter_bytes))
            },
        ]);
        seen.push(label);
    }
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}
