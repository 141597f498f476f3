//! `plan`, `sweep --dry-run` and `params`: what would run, and what it would need.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::json;
use sharelora_hub::{Progress, Source};
use sharelora_model::ModelConfig;
use sharelora_report::number::thousands;
use sharelora_report::{Cell, Column, Format, Table};

use crate::batch::Fill;
use crate::cli::Named;
use crate::error::AbsentError;
use crate::estimate::{Estimate, bytes, estimate, weight_bytes};
use crate::experiment::TrainSpec;
use crate::store::State;
use crate::sweep::{Folders, as_lora};
use crate::{Context, ResolvedRun, Store};

/// The configurations of `runs`' models, fetched where they are not here. What cannot be had is asked for once: without
/// a network each try costs many seconds.
#[derive(Default)]
struct Configs {
    read: BTreeMap<String, ModelConfig>,
    absent: BTreeMap<String, String>,
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
        let weights = weight_bytes(&run.model, &context.hub);
        Ok(estimate(
            run,
            self.get(context, &run.model.config)?,
            weights,
        )?)
    }
}

/// Shows the plan of an experiment.
///
/// # Errors
/// The experiment is wrong. A configuration that cannot be had is a note, not an error.
pub fn plan(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
    json: bool,
) -> Result<u8> {
    let plan = super::load(context, named)?;
    let runs = super::sweep::select(&plan.runs, only)?;
    let store = folders.store();
    let mut configs = Configs::default();
    let mut estimates = Vec::new();
    let mut note = None;
    for run in &runs {
        // An adapter that does not fit the model is an error here, before any work; an absent file is not.
        match configs.estimate(context, run) {
            Ok(found) => estimates.push(Some(found)),
            Err(e) if crate::error::exit_code(&e) == crate::error::ABSENT => {
                note = Some(format!("sizes are unknown: {e:#}"));
                estimates.push(None);
            }
            Err(e) => return Err(e.context(format!("run {}", run.label()))),
        }
    }
    if json {
        let list: Vec<_> = runs
            .iter()
            .zip(&estimates)
            .map(|(run, estimate)| {
                json!({
                    "label": run.label(), "hash": run.hash(), "folder": run.folder(),
                    "state": state_word(&store, run), "estimate": estimate, "run": run,
                })
            })
            .collect();
        let experiment = &plan.experiment;
        let all = json!({ "experiment": experiment.name, "title": experiment.title, "runs": list });
        super::print(&serde_json::to_string_pretty(&all)?)?;
        return Ok(0);
    }
    let mut table = plan_table(&plan.experiment.title, &store, &runs, &estimates);
    table.notes.extend(note);
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}

fn state_word(store: &Store, run: &ResolvedRun) -> String {
    match store.state(run) {
        State::New => "to do".into(),
        State::Unfinished(reason) => format!("to do ({reason})"),
        State::Broken(reason) => format!("to do again ({reason})"),
        State::Done(record) => record.status.name().into(),
    }
}

fn plan_table(
    title: &str,
    store: &Store,
    runs: &[&ResolvedRun],
    estimates: &[Option<Estimate>],
) -> Table {
    let mut table = Table {
        title: title.to_owned(),
        columns: vec![
            Column::left("Run"),
            Column::left("Hash"),
            Column::right("Trainable"),
            Column::right("Adapter"),
            Column::right("Memory"),
            Column::left("State"),
        ],
        ..Table::default()
    };
    for (run, estimate) in runs.iter().zip(estimates) {
        let shown = |text: fn(&Estimate) -> String| {
            estimate
                .as_ref()
                .map_or_else(Cell::none, |e| Cell::text(text(e)))
        };
        table.rows.push(vec![
            Cell::text(run.label()),
            Cell::text(run.short_hash()),
            shown(|e| thousands(e.trainable_parameters)),
            shown(|e| bytes(e.adapter_bytes)),
            shown(|e| bytes(e.memory.total())),
            Cell::text(state_word(store, run)),
        ]);
    }
    let done = runs
        .iter()
        .filter(|run| matches!(store.state(run), State::Done(_)))
        .count();
    table.notes.push(format!(
        "{} runs: {done} done, {} to do.",
        runs.len(),
        runs.len() - done
    ));
    // The largest run, in parts: what to change where it does not fit.
    if let Some((run, e)) = runs
        .iter()
        .zip(estimates)
        .filter_map(|(run, e)| Some((run, e.as_ref()?)))
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
            run.label(),
            run.train.as_ref().map_or_else(String::new, batch),
            parts.join(", ")
        ));
    }
    table
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

/// Counts trainable parameters, each setting once whatever its seeds.
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
                .filter(|(k, _)| *k != "seed")
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
