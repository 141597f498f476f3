//! `status`: how a sweep stands, from its files alone; see [`crate::status`].

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::Result;
use serde_json::json;
use sharelora_report::{Cell, Column, Format, Table};

use crate::Context;
use crate::cli::Named;
use crate::cost::{self, Measurements, duration};
use crate::error::UsageError;
use crate::experiment;
use crate::status::{RunStatus, Stage, Sweep, counts};
use crate::sweep::Folders;

/// How `status` is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Table,
    Json,
    Live,
}

/// Shows the runs of one experiment, or how many of each stand where for all that have results.
///
/// # Errors
/// The experiment is wrong, or there is no terminal to watch in.
pub fn status(
    context: &Context,
    folders: &Folders,
    name: Option<String>,
    sets: Vec<String>,
    shown: Shown,
) -> Result<u8> {
    let Some(name) = name else {
        if shown == Shown::Live {
            return Err(UsageError("--watch follows one experiment: give its NAME".into()).into());
        }
        return overview(context, folders, shown == Shown::Json);
    };
    if shown == Shown::Live {
        let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if !is_terminal {
            let text = "--watch needs a terminal, and standard input or output is none: leave it out, or use --json";
            return Err(UsageError(text.into()).into());
        }
    }
    let named = Named { name, sets };
    let plan = super::load(context, &named)?;
    if shown == Shown::Live {
        let mut measured = Measurements::read(&folders.results);
        let costs = plan.runs.iter().filter_map(|run| {
            let cost = measured.cost(run, cost::kind(run));
            Some((run.label(), cost.seconds()?))
        });
        let costs: HashMap<String, f64> = costs.collect();
        return watch(Sweep::new(plan, folders.store()), costs);
    }
    let mut sweep = Sweep::new(plan, folders.store());
    let runs = sweep.look();
    let text = match shown {
        Shown::Json => serde_json::to_string_pretty(&json!({
            "experiment": sweep.experiment, "title": sweep.title, "runs": runs,
        }))?,
        _ => table(&sweep, &runs).render(Format::Terminal),
    };
    super::print(&text)?;
    Ok(0)
}

#[cfg(unix)]
fn watch(sweep: Sweep, costs: HashMap<String, f64>) -> Result<u8> {
    let colour = sharelora_report::terminal::takes_colour();
    crate::status::view::watch(sweep, costs, colour)?;
    Ok(0)
}

#[cfg(not(unix))]
fn watch(_: Sweep, _: HashMap<String, f64>) -> Result<u8> {
    Err(UsageError("--watch works on Unix alone: leave it out".into()).into())
}

fn table(sweep: &Sweep, runs: &[RunStatus]) -> Table {
    let mut table = Table {
        title: format!("{}: {}", sweep.experiment, sweep.title),
        columns: vec![
            Column::left("Run"),
            Column::left("State"),
            Column::right("Step"),
            Column::right("Loss"),
            Column::right("Held-out"),
            Column::right("Tokens/s"),
            Column::right("Left"),
            Column::left("By, or why"),
        ],
        ..Table::default()
    };
    for run in runs {
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(Cell::none, |v| Cell::text(format!("{v:.decimals$}")))
        };
        let steps = match run.steps {
            Some(0) => Cell::none(),
            Some(steps) => Cell::text(format!("{}/{steps}", run.step)),
            None => Cell::text(format!("{}/?", run.step)),
        };
        table.rows.push(vec![
            Cell::text(run.label.as_str()),
            Cell::text(run.stage.name()),
            steps,
            number(run.loss, 4),
            number(run.held_out_loss, 4),
            number(run.tokens_per_second, 0),
            run.seconds_left
                .map_or_else(Cell::none, |s| Cell::text(duration(s))),
            Cell::text(note(run)),
        ]);
    }
    table.notes.push(summary(runs));
    table
}

/// Who works on it and what he does, or why it stands still.
fn note(run: &RunStatus) -> String {
    let mut parts: Vec<String> = run.holder.iter().cloned().collect();
    if let Some((task, n)) = &run.answered {
        parts.push(format!("scoring {task}, {n} answers"));
    }
    // A minute of silence is a step or two; more is worth knowing.
    if let Some(seconds) = run.silent_seconds.filter(|s| *s > 60) {
        parts.push(format!("nothing written for {}", duration(seconds as f64)));
    }
    parts.extend(run.reason.clone());
    parts.join("; ")
}

/// `9 runs: 3 done, 6 to do.`
fn summary(runs: &[RunStatus]) -> String {
    let parts: Vec<String> = counts(runs)
        .into_iter()
        .map(|(stage, n)| format!("{n} {}", stage.name()))
        .collect();
    format!("{} runs: {}.", runs.len(), parts.join(", "))
}

fn overview(context: &Context, folders: &Folders, json: bool) -> Result<u8> {
    let stages = [
        Stage::Done,
        Stage::Running,
        Stage::Interrupted,
        Stage::ToDo,
        Stage::Diverged,
        Stage::Failed,
        Stage::Broken,
    ];
    let mut table = Table {
        title: format!("Experiments with results in {}", folders.results.display()),
        columns: std::iter::once(Column::left("Experiment"))
            .chain(stages.iter().map(|s| Column::right(s.name())))
            .collect(),
        ..Table::default()
    };
    let mut all = serde_json::Map::new();
    for name in experiment::list(&context.root)? {
        if !folders.results.join(&name).is_dir() {
            continue;
        }
        let named = Named {
            name: name.clone(),
            sets: Vec::new(),
        };
        let plan = match super::load(context, &named) {
            Ok(plan) => plan,
            // One wrong file must not hide the others.
            Err(e) => {
                table.notes.push(format!("{name}: {e:#}"));
                continue;
            }
        };
        let runs = Sweep::new(plan, folders.store()).look();
        let counts: HashMap<Stage, usize> = counts(&runs).into_iter().collect();
        let of = |stage: &Stage| counts.get(stage).copied().unwrap_or(0);
        let cells = stages.iter().map(|stage| match of(stage) {
            0 => Cell::none(),
            n => Cell::text(n.to_string()),
        });
        table.rows.push(
            std::iter::once(Cell::text(name.as_str()))
                .chain(cells)
                .collect(),
        );
        let numbers = stages.iter().map(|s| (s.name().to_owned(), of(s).into()));
        all.insert(name, serde_json::Value::Object(numbers.collect()));
    }
    match json {
        true => super::print(&serde_json::to_string_pretty(&all)?)?,
        false => super::print(&table.render(Format::Terminal))?,
    }
    Ok(0)
}
