//! Tables across experiments, as the paper has them: which experiment, method and value stands where is data, a
//! [`TableSpec`]; every number is one of [`crate::comparison`] or [`crate::continual`], and nothing is tested here again.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::comparison::{Comparison, Row, compare, is_headline, lower_is_better};
use crate::continual::{self, Sequence};
use crate::difference::{Difference, Test, differs};
use crate::error::{Error, Result};
use crate::number::{fixed, thousands};
use crate::record::{Run, Status};
use crate::statistics::{self, Estimate};
use crate::style;
use crate::table::{Cell, Column, Table};

/// The method without axes of training.
const UNTOUCHED: &str = "base";

/// The stored results of one experiment.
#[derive(Debug, Clone)]
pub struct Study {
    /// Its runs.
    pub runs: Vec<Run>,
    /// Their comparison.
    pub comparison: Comparison,
    /// Their sequences of stages.
    pub sequences: Vec<Sequence>,
}

/// Stored results by the name of their experiment; one without results is absent.
pub type Studies = BTreeMap<String, Study>;

impl Study {
    /// Compares the runs of an experiment.
    pub fn new(title: &str, runs: Vec<Run>) -> Self {
        Self {
            comparison: compare(title, &runs),
            sequences: continual::sequences(&runs),
            runs,
        }
    }

    /// The row of a method at these values of axes; `None` where nothing of it has run.
    ///
    /// # Errors
    /// Several rows fit: an axis is not named.
    pub fn row(&self, method: &str, axes: &Axes) -> Result<Option<usize>> {
        let fits = |row: &Row| {
            row.method == method
                && axes.iter().all(|(key, value)| {
                    let place = self.comparison.axes.iter().position(|axis| axis == key);
                    let found = place.and_then(|place| row.axes.get(place));
                    found.is_none_or(|found| found == value || method == UNTOUCHED && found == "-")
                })
        };
        if self.of(method, axes).next().is_none() {
            return Ok(None);
        }
        let rows = || {
            (0..)
                .zip(&self.comparison.rows)
                .filter(|(_, row)| fits(row))
        };
        let labels: Vec<&str> = rows().map(|(_, row)| row.label.as_str()).collect();
        if labels.len() > 1 {
            let names = self.comparison.axes.join(", ");
            let text = format!(
                "{} fit: {}; name the axes in `where`: {names}",
                labels.len(),
                labels.join("; ")
            );
            return Err(Error::Spec(text));
        }
        Ok(rows().next().map(|(place, _)| place))
    }

    /// The finished runs of a method at these values of axes.
    fn of<'a>(&'a self, method: &'a str, axes: &'a Axes) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| {
            let record = &run.record;
            record.status == Status::Finished
                && record.method == method
                && axes.iter().all(|(key, value)| match record.axes.get(key) {
                    Some(found) => found == value,
                    None => method == UNTOUCHED,
                })
        })
    }

    /// Peaks of memory in bytes of a method's finished runs.
    pub(crate) fn peaks(&self, method: &str, axes: &Axes) -> Vec<f64> {
        let runs = self.of(method, axes);
        runs.map(|run| run.record.peak_memory_bytes as f64)
            .collect()
    }

    /// The sequence of a method, of the stages that `axes` names where it does.
    fn sequence(&self, method: &str, axes: &Axes) -> Result<Option<&Sequence>> {
        let stages = axes.get("stages");
        let fits = |s: &&Sequence| {
            s.method == method && stages.is_none_or(|path| s.stages.join("+") == *path)
        };
        let found: Vec<&Sequence> = self.sequences.iter().filter(fits).collect();
        match found[..] {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            _ => {
                let text = format!(
                    "{} sequences of {method} fit: name `stages` in `where`",
                    found.len()
                );
                Err(Error::Spec(text))
            }
        }
    }
}

/// Values of axes by dotted key.
pub type Axes = BTreeMap<String, String>;

/// A table as its file describes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Heading.
    pub title: String,
    /// What it shows and what it does not; plain text.
    pub description: String,
    /// Heading of the names of the blocks.
    #[serde(default = "model")]
    pub blocks: String,
    /// Blocks of rows.
    pub rows: Vec<RowsSpec>,
    /// Columns.
    pub columns: Vec<ColumnSpec>,
}

fn model() -> String {
    "Model".into()
}

/// A block of rows, one a method, that are compared with one another.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsSpec {
    /// What they have in common, a model say.
    #[serde(default)]
    pub name: String,
    /// Where their results are from, unless a column says.
    pub experiment: Option<String>,
    /// Methods as records name them.
    pub methods: Vec<String>,
    /// Values of axes.
    #[serde(default, rename = "where")]
    pub axes: Axes,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSpec {
    /// Heading, with its unit.
    pub name: String,
    /// What it shows.
    pub value: Quantity,
    /// Where its results are from, unless the rows say.
    pub experiment: Option<String>,
    /// Values of axes, beside those of the rows.
    #[serde(default, rename = "where")]
    pub axes: Axes,
    /// Decimals that are shown.
    #[serde(default)]
    pub decimals: usize,
    /// Shown in percent.
    #[serde(default)]
    pub percent: bool,
    /// Which value is set in bold; absent: as the metric's name says, and none of what is no metric.
    pub best: Option<Best>,
}

/// Which values are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Best {
    High,
    Low,
}

/// What a cell shows of a setting, over its seeds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Quantity {
    /// A headline metric, `task/metric`.
    Metric(String),
    /// Nats a token.
    HeldOutLoss,
    /// Trained parameters.
    Parameters,
    /// The saved adapter in MiB.
    AdapterFile,
    /// Peak of resident memory in MiB.
    PeakMemory,
    /// Seconds of training, evaluations between steps included.
    TrainingSeconds,
    /// Tokens of a training step a second.
    TokensPerSecond,
    /// The mean of the table's metrics, seed by seed.
    Average,
    /// A number of [`continual`], by losses or by scores.
    Continual { name: String, losses: bool },
}

const QUANTITIES: [(&str, Quantity); 7] = [
    ("held_out_loss", Quantity::HeldOutLoss),
    ("parameters", Quantity::Parameters),
    ("adapter_mib", Quantity::AdapterFile),
    ("peak_memory_mib", Quantity::PeakMemory),
    ("training_seconds", Quantity::TrainingSeconds),
    ("tokens_per_second", Quantity::TokensPerSecond),
    ("average", Quantity::Average),
];

impl TryFrom<String> for Quantity {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if let Some((_, found)) = QUANTITIES.into_iter().find(|(name, _)| *name == text) {
            return Ok(found);
        }
        for (kind, losses) in [("losses", true), ("scores", false)] {
            let name = text
                .strip_prefix("continual.")
                .and_then(|rest| rest.strip_prefix(kind)?.strip_prefix('.'));
            if let Some(name) = name.filter(|name| continual::number(name).is_some()) {
                let name = name.to_owned();
                return Ok(Self::Continual { name, losses });
            }
        }
        if is_headline(&text) {
            return Ok(Self::Metric(text));
        }
        let names: Vec<&str> = QUANTITIES.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "no value `{text}`: choices: a metric (gsm8k/exact_match_flexible, say), {}, continual.losses.NUMBER and \
             continual.scores.NUMBER with NUMBER one of {}",
            names.join(", "),
            continual::number_names().join(", ")
        ))
    }
}

impl Quantity {
    /// Whether an untrained model has none.
    fn of_training(&self) -> bool {
        matches!(
            self,
            Self::HeldOutLoss
                | Self::Parameters
                | Self::AdapterFile
                | Self::TrainingSeconds
                | Self::TokensPerSecond
                | Self::Continual { .. }
        )
    }
}

/// What is known of a cell.
pub(crate) enum Found {
    /// No finished run has it.
    NotRun,
    /// It was asked for and could not be measured.
    NotMeasured,
    /// There is no such thing, as parameters of an untrained model.
    Nothing,
    /// The value over seeds, and how it differs from LoRA's where a paired test says something of it.
    Value(Estimate, Option<Difference>),
}

fn exact(value: f64, seeds: usize) -> Estimate {
    Estimate {
        mean: value,
        spread: None,
        interval: None,
        n: 0,
        seeds,
        deviation: None,
    }
}

/// A quantity of a method in a study; `metrics` are those of an [`Quantity::Average`].
///
/// # Errors
/// As [`Study::row`].
pub(crate) fn find(
    study: &Study,
    method: &str,
    axes: &Axes,
    quantity: &Quantity,
    metrics: &[&str],
) -> Result<Found> {
    if let Quantity::Continual { name, losses } = quantity {
        if method == UNTOUCHED {
            return Ok(Found::Nothing);
        }
        let Some(sequence) = study.sequence(method, axes)? else {
            return Ok(Found::NotRun);
        };
        let Some(estimate) = sequence.named(name, *losses) else {
            return Ok(Found::Nothing);
        };
        let lora = study.sequences.iter();
        let mut lora = lora.filter(|s| s.method == "lora" && s.stages == sequence.stages);
        let other = lora.next().filter(|_| method != "lora");
        let difference = other.and_then(|lora| sequence.named_against(lora, name, *losses));
        return Ok(Found::Value(estimate, difference));
    }
    let Some(place) = study.row(method, axes)? else {
        return Ok(Found::NotRun);
    };
    let Some(row) = study.comparison.rows.get(place) else {
        return Ok(Found::NotRun);
    };
    if row.trainable_parameters == 0 && quantity.of_training() {
        return Ok(Found::Nothing);
    }
    let runs: Vec<&Run> = study.of(method, axes).collect();
    let over_seeds = |value: &dyn Fn(&Run) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
        statistics::loss(&values)
    };
    const MEBIBYTE: f64 = 1024.0 * 1024.0;
    let estimate = match quantity {
        Quantity::Metric(key) => {
            let Some(estimate) = row.metrics.get(key).cloned() else {
                let task = key.split('/').next().unwrap_or(key);
                let refused = |run: &&Run| {
                    let missing = &run.record.not_measured;
                    missing.keys().any(|name| name.starts_with(task))
                };
                return Ok(match runs.iter().any(refused) {
                    true => Found::NotMeasured,
                    false => Found::NotRun,
                });
            };
            let difference = study.comparison.against(key, place);
            let paired = difference.map(|(_, difference)| difference);
            let paired = paired.filter(|difference| difference.test != Test::Unpaired);
            return Ok(Found::Value(estimate, paired));
        }
        Quantity::HeldOutLoss => row.held_out_loss.clone(),
        Quantity::Parameters => Some(exact(row.trainable_parameters as f64, runs.len())),
        Quantity::AdapterFile => runs
            .first()
            .map(|run| exact(run.record.adapter_bytes as f64 / MEBIBYTE, runs.len())),
        Quantity::PeakMemory => {
            over_seeds(&|run| Some(run.record.peak_memory_bytes as f64 / MEBIBYTE))
        }
        Quantity::TrainingSeconds => over_seeds(&|run| run.record.seconds.get("train").copied()),
        Quantity::TokensPerSecond => over_seeds(&|run| run.record.tokens_per_second),
        Quantity::Average => average(&runs, metrics),
        Quantity::Continual { .. } => None,
    };
    Ok(estimate.map_or(Found::NotRun, |estimate| Found::Value(estimate, None)))
}

/// The mean of `metrics`, seed by seed; `None` unless every seed has all of them.
fn average(runs: &[&Run], metrics: &[&str]) -> Option<Estimate> {
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.record.seed).collect();
    let of_seed = |seed: &u64| -> Option<f64> {
        let value = |metric: &&str| {
            let mut of_seed = runs.iter().filter(|run| run.record.seed == *seed);
            of_seed.find_map(|run| run.record.metrics.get(*metric).map(|m| m.value))
        };
        let values: Option<Vec<f64>> = metrics.iter().map(value).collect();
        statistics::mean(&values?)
    };
    let values: Option<Vec<f64>> = seeds.iter().map(of_seed).collect();
    statistics::loss(&values?)
}

/// The text of a cell that nothing has run for.
pub const NOT_RUN: &str = "not run";
const NOT_MEASURED: &str = "not measured";
/// Stands behind a value whose difference from LoRA counts.
const MARK: &str = "*";

/// A number with thousands where it is whole.
pub(crate) fn shown(value: f64, decimals: usize) -> String {
    if decimals == 0 && value.is_finite() && value >= 0.0 {
        thousands(value.round() as u64)
    } else {
        fixed(value, decimals)
    }
}

fn cell(column: &ColumnSpec, found: &Found) -> Cell {
    let (estimate, difference) = match found {
        Found::NotRun => return Cell::text(NOT_RUN),
        Found::NotMeasured => return Cell::text(NOT_MEASURED),
        Found::Nothing => return Cell::none(),
        Found::Value(estimate, difference) => (estimate, difference.as_ref()),
    };
    let scale = if column.percent { 100.0 } else { 1.0 };
    let show = |value: f64| shown(scale * value, column.decimals);
    let mut text = show(estimate.mean);
    if let Some(deviation) = estimate.deviation {
        text += &format!(" ± {}", show(deviation));
    }
    if difference.and_then(differs) == Some(true) {
        text += MARK;
    }
    Cell {
        text,
        value: Some(scale * estimate.mean),
        spread: estimate.deviation.map(|deviation| scale * deviation),
        interval: estimate
            .interval
            .map(|(low, high)| (scale * low, scale * high)),
        p: difference.and_then(|d| d.corrected.or(d.p)),
        bold: false,
    }
}

impl ColumnSpec {
    fn best(&self) -> Option<Best> {
        let by_name = || match &self.value {
            Quantity::Metric(key) if lower_is_better(key) => Some(Best::Low),
            Quantity::Metric(_) => Some(Best::High),
            Quantity::HeldOutLoss => Some(Best::Low),
            Quantity::Average => Some(Best::High),
            _ => None,
        };
        self.best.or_else(by_name)
    }
}

impl TableSpec {
    /// Every experiment that the table names.
    pub fn experiments(&self) -> BTreeSet<&str> {
        let of_rows = self
            .rows
            .iter()
            .filter_map(|rows| rows.experiment.as_deref());
        let of_columns = self.columns.iter().filter_map(|c| c.experiment.as_deref());
        of_rows.chain(of_columns).collect()
    }

    /// The table, filled from `studies`.
    ///
    /// # Errors
    /// A cell without an experiment, or one that several rows of its experiment fit.
    pub fn fill(&self, studies: &Studies) -> Result<Table> {
        let named = self.rows.iter().any(|rows| !rows.name.is_empty());
        let metrics: Vec<&str> = self
            .columns
            .iter()
            .filter_map(|column| match &column.value {
                Quantity::Metric(key) => Some(key.as_str()),
                _ => None,
            })
            .collect();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let mut rows = Vec::new();
        for block in &self.rows {
            let mut cells: Vec<Vec<Cell>> = Vec::new();
            for method in &block.methods {
                let mut line = Vec::new();
                for column in &self.columns {
                    let failed = |message: String| {
                        let place = format!("column `{}`, {} {method}", column.name, block.name);
                        Error::Spec(format!("{place}: {message}"))
                    };
                    let experiment = column.experiment.as_ref().or(block.experiment.as_ref());
                    let Some(experiment) = experiment else {
                        return Err(failed(
                            "neither the rows nor the column name an experiment".into(),
                        ));
                    };
                    let Some(study) = studies.get(experiment) else {
                        line.push(Cell::text(NOT_RUN));
                        continue;
                    };
                    used.insert(experiment);
                    let mut axes = block.axes.clone();
                    axes.extend(column.axes.clone());
                    let found = find(study, method, &axes, &column.value, &metrics)
                        .map_err(|e| failed(e.to_string()))?;
                    line.push(cell(column, &found));
                }
                cells.push(line);
            }
            for (place, column) in self.columns.iter().enumerate() {
                embolden(&mut cells, place, column.best());
            }
            for (method, line) in block.methods.iter().zip(cells) {
                let mut row = Vec::new();
                if named {
                    row.push(Cell::text(&block.name));
                }
                row.push(Cell::text(style::method_name(method)));
                row.extend(line);
                rows.push(row);
            }
        }
        let mut columns = Vec::new();
        if named {
            columns.push(Column::left(&self.blocks));
        }
        columns.push(Column::left("Method"));
        columns.extend(
            self.columns
                .iter()
                .map(|column| Column::right(&column.name)),
        );
        let notes = notes(&rows, &used, studies);
        Ok(Table {
            title: self.title.clone(),
            columns,
            rows,
            notes,
        })
    }
}

/// The best value of a column of a block, and all that equal it, where there are two to choose from.
fn embolden(rows: &mut [Vec<Cell>], place: usize, best: Option<Best>) {
    let Some(best) = best else { return };
    let values: Vec<f64> = rows.iter().filter_map(|row| row[place].value).collect();
    let found = values.iter().copied().reduce(match best {
        Best::High => f64::max,
        Best::Low => f64::min,
    });
    let Some(found) = found.filter(|_| values.len() > 1) else {
        return;
    };
    for row in rows {
        row[place].bold = row[place].value == Some(found);
    }
}

fn notes(rows: &[Vec<Cell>], used: &BTreeSet<&str>, studies: &Studies) -> Vec<String> {
    let cells = || rows.iter().flatten();
    let mut notes = Vec::new();
    let seeds = used.iter().filter_map(|name| {
        let rows = studies.get(*name)?.comparison.rows.iter();
        let seeds = rows.filter(|row| row.trainable_parameters > 0);
        let seeds = seeds.flat_map(|row| row.metrics.values().chain(&row.held_out_loss));
        let (least, most) = seeds.fold((usize::MAX, 0), |(least, most), estimate| {
            (least.min(estimate.seeds), most.max(estimate.seeds))
        });
        let count = match (least, most) {
            (_, 0) => return None,
            (1, 1) => "1 seed".to_owned(),
            (least, most) if least == most => format!("{most} seeds"),
            (least, most) => format!("{least} to {most} seeds"),
        };
        Some(format!("{name} with {count}"))
    });
    let seeds: Vec<String> = seeds.collect();
    if !seeds.is_empty() {
        notes.push(format!(
            "From {}. Means over seeds ± their standard deviation.",
            seeds.join(", ")
        ));
    }
    if cells().any(|cell| cell.bold) {
        notes.push("Bold: the best mean of its block, which alone is no finding.".into());
    }
    if cells().any(|cell| cell.text.ends_with(MARK)) {
        notes.push(
            "*: differs from LoRA in the same setting by the paired test of the experiment's report (its 95 % interval leaves out 0 and its \
             Holm-corrected p is below 0.05; numbers of sequences: the interval over seeds alone)."
                .into(),
        );
    } else if cells().any(|cell| cell.p.is_some()) {
        notes.push(
            "No difference from LoRA counts by the paired test of the experiments' reports.".into(),
        );
    }
    if cells().any(|cell| cell.text == NOT_MEASURED) {
        notes.push("Not measured: the runs' records say why.".into());
    }
    if cells().any(|cell| cell.text == NOT_RUN) {
        notes.push("Not run: no finished run of it is stored.".into());
    }
    notes
}
