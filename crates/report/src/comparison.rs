//! The main table of an experiment: one row a method (and a value of every other axis that varies).

use std::collections::{BTreeMap, BTreeSet};

use crate::difference::{Difference, Test, differs};
use crate::number::{fixed, mebibytes, percent, thousands};
use crate::pairs::{self, Pairs};
use crate::record::{Record, Run, Status, natural};
use crate::statistics::{self, Estimate};
use crate::style;
use crate::table::{Cell, Column, Table};

/// The runs of one setting over its seeds.
#[derive(Debug, Clone)]
pub struct Row {
    /// The method's name in records.
    pub method: String,
    /// Values of the axes in [`Comparison::axes`]; `-` where a record lacks one.
    pub axes: Vec<String>,
    /// The name for readers, with the axes: `ShareA, rank 8`.
    pub label: String,
    /// Trained parameters.
    pub trainable_parameters: u64,
    /// Held-out loss after training, finished runs only.
    pub held_out_loss: Option<Estimate>,
    /// Which rows that loss is of: losses of other rows are not compared.
    pub held_out_rows: String,
    /// Mean held-out loss before training.
    pub held_out_loss_before: Option<f64>,
    /// Headline metrics, finished runs only.
    pub metrics: BTreeMap<String, Estimate>,
    /// Mean training speed, tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Largest peak of memory in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Number of runs by how they ended: finished, diverged, failed.
    pub ended: [usize; 3],
}

/// What [`differs`] says about one column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The row that differs from the second best and is better.
    pub best: Option<usize>,
    /// Pairs of rows that differ, better first.
    pub pairs: Vec<(usize, usize)>,
    /// Whether every pair could be judged; without an interval none can.
    pub judged: bool,
    /// The rows with a value, best first.
    pub ranked: Vec<usize>,
}

/// An experiment's results, row by row, and the table made of them.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Axes, beside the method and the seed, on which the runs differ.
    pub axes: Vec<String>,
    /// Rows in the order of methods, then of axes.
    pub rows: Vec<Row>,
    /// Headline metrics: the keys of the form `task/metric`.
    pub metrics: Vec<String>,
    /// Metrics that are shown in percent: all values lie in 0..=1.
    pub percent: BTreeSet<String>,
    /// The differences between rows, by headline metric.
    pub pairs: BTreeMap<String, Pairs>,
    /// The table.
    pub table: Table,
}

/// The heading of the losses, also their name in sentences.
const LOSS: &str = "Held-out loss";

/// What is said of a metric where no difference counts.
pub(crate) const NO_DIFFERENCE: &str = "no difference counts";

/// A p-value for readers: `p = 0.453`, `p < 0.001`.
pub fn p_value(p: f64) -> String {
    if p < 0.001 {
        "p < 0.001".into()
    } else {
        format!("p = {}", fixed(p, 3))
    }
}

/// Axes on which `records` differ, but for those that name the method or the seed.
pub fn varying_axes<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Vec<String> {
    let keys: BTreeSet<&String> = records.clone().flat_map(|r| r.axes.keys()).collect();
    let varies = |key: &str| {
        let values: BTreeSet<_> = records.clone().map(|r| r.axes.get(key)).collect();
        values.len() > 1
    };
    let names_method = |key: &str| {
        last(key) == "method"
            || records
                .clone()
                .all(|r| r.axes.get(key).is_none_or(|value| *value == r.method))
    };
    keys.into_iter()
        .filter(|key| varies(key) && last(key) != "seed" && !names_method(key))
        .cloned()
        .collect()
}

/// Whether the values of an axis have no headline metric in common, as tasks have none: then its runs are columns of one row and
/// no rows of their own.
fn divides_metrics(axis: &str, runs: &[Run]) -> bool {
    let mut by_value: BTreeMap<Option<&String>, BTreeSet<&String>> = BTreeMap::new();
    for run in runs {
        let found = by_value.entry(run.record.axes.get(axis)).or_default();
        found.extend(run.record.metrics.keys().filter(|key| is_headline(key)));
    }
    let total: usize = by_value.values().map(BTreeSet::len).sum();
    let all: BTreeSet<_> = by_value.values().flatten().collect();
    by_value.len() > 1 && by_value.values().all(|found| !found.is_empty()) && all.len() == total
}

/// A metric of a table: its key has the form `task/metric`.
pub(crate) fn is_headline(key: &str) -> bool {
    key.matches('/').count() == 1
}

/// The last part of a dotted key, which is what readers call it.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A record's values of `axes`.
pub fn axis_values(record: &Record, axes: &[String]) -> Vec<String> {
    axes.iter()
        .map(|key| record.axes.get(key).cloned().unwrap_or_else(|| "-".into()))
        .collect()
}

/// A setting's name for readers: `ShareA, rank 8`.
pub fn label(method: &str, axes: &[String], values: &[String]) -> String {
    let mut label = style::method_name(method).to_owned();
    for (key, value) in axes.iter().zip(values).filter(|(_, value)| *value != "-") {
        label += &format!(", {} {value}", last(key));
    }
    label
}

/// Whether less is better, by the metric's name.
pub fn lower_is_better(metric: &str) -> bool {
    let name = metric.rsplit('/').next().unwrap_or(metric);
    ["loss", "perplexity", "error"]
        .iter()
        .any(|word| name.contains(word))
}

/// Judges a column: `estimates` by row, `None` where a row has no value, and their differences.
pub fn judge(estimates: &[Option<&Estimate>], pairs: &Pairs, lower_is_better: bool) -> Verdict {
    let mut ranked: Vec<(usize, &Estimate)> = estimates
        .iter()
        .enumerate()
        .filter_map(|(row, estimate)| Some((row, (*estimate)?)))
        .collect();
    ranked.sort_by(|(_, a), (_, b)| {
        let order = a.mean.total_cmp(&b.mean);
        if lower_is_better {
            order
        } else {
            order.reverse()
        }
    });
    let mut verdict = Verdict {
        judged: true,
        ranked: ranked.iter().map(|(row, _)| *row).collect(),
        ..Verdict::default()
    };
    for (place, &(better, _)) in ranked.iter().enumerate() {
        for &(worse, _) in ranked.iter().skip(place + 1) {
            // Without a difference they are not to be compared.
            let Some(difference) = pairs.difference(better, worse) else {
                continue;
            };
            match differs(&difference) {
                Some(true) => verdict.pairs.push((better, worse)),
                Some(false) => {}
                None => verdict.judged = false,
            }
        }
    }
    if let [(first, _), (second, _), ..] = ranked[..]
        && verdict.pairs.contains(&(first, second))
    {
        verdict.best = Some(first);
    }
    verdict
}

/// Compares the runs of an experiment.
pub fn compare(title: &str, runs: &[Run]) -> Comparison {
    let axes = row_axes(runs);
    let groups = settings(runs, &axes);
    let (metrics, percent) = headlines(runs.iter());
    let mut rows: Vec<Row> = groups.iter().filter_map(|runs| row(runs, &axes)).collect();
    let scored: Vec<Vec<&Run>> = groups.into_iter().map(finished).collect();
    let mut pairs = BTreeMap::new();
    for metric in &metrics {
        let (estimates, differences) = pairs::estimate(metric, &scored, references(&rows));
        for (row, estimate) in rows.iter_mut().zip(estimates) {
            row.metrics
                .extend(estimate.map(|estimate| (metric.clone(), estimate)));
        }
        pairs.insert(metric.clone(), differences);
    }
    let mut comparison = Comparison {
        axes,
        rows,
        metrics,
        percent,
        pairs,
        table: Table::default(),
    };
    comparison.table = comparison.main_table(title, runs);
    comparison
}

/// The axes that make rows of `runs`: those that vary, but for those that divide the metrics.
pub(crate) fn row_axes(runs: &[Run]) -> Vec<String> {
    let mut axes = varying_axes(runs.iter().map(|run| &run.record));
    axes.retain(|axis| !divides_metrics(axis, runs));
    axes
}

/// The runs of each setting, a method and its values of `axes`, in the order of methods, then of axes.
pub(crate) fn settings<'a>(runs: &'a [Run], axes: &[String]) -> Vec<Vec<&'a Run>> {
    let mut groups: BTreeMap<_, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let record = &run.record;
        let values = axis_values(record, axes);
        let places: Vec<_> = values.iter().map(|value| natural(value)).collect();
        let key = (style::method_order(&record.method), places);
        groups.entry(key).or_default().push(run);
    }
    groups.into_values().collect()
}

/// Those of `runs` that finished.
pub(crate) fn finished(mut runs: Vec<&Run>) -> Vec<&Run> {
    runs.retain(|run| run.record.status == Status::Finished);
    runs
}

/// The headline metrics of the finished runs, and those of them that are shown in percent: all values lie in 0..=1.
pub(crate) fn headlines<'a>(
    runs: impl Iterator<Item = &'a Run> + Clone,
) -> (Vec<String>, BTreeSet<String>) {
    let records = runs.map(|run| &run.record);
    let finished = records.filter(|record| record.status == Status::Finished);
    let metrics: BTreeSet<String> = finished
        .clone()
        .flat_map(|record| &record.metrics)
        .filter(|(key, metric)| is_headline(key) && metric.value.is_finite())
        .map(|(key, _)| key.clone())
        .collect();
    let in_percent = |key: &&String| {
        let mut values = finished
            .clone()
            .filter_map(|record| record.metrics.get(*key));
        values.all(|metric| !metric.value.is_finite() || (0.0..=1.0).contains(&metric.value))
    };
    let percent = metrics.iter().filter(in_percent).cloned().collect();
    (metrics.into_iter().collect(), percent)
}

/// [`Comparison::references`].
fn references(rows: &[Row]) -> Vec<Option<usize>> {
    let trained = || rows.iter().filter(|row| row.trainable_parameters > 0);
    let method = trained()
        .find(|row| row.method == "lora")
        .or_else(|| trained().next())
        .map(|row| row.method.as_str());
    let candidates: Vec<usize> = (0..rows.len())
        .filter(|place| Some(rows[*place].method.as_str()) == method)
        .collect();
    let same_axes = |row: &Row| {
        candidates
            .iter()
            .find(|place| rows[**place].axes == row.axes)
    };
    (0..rows.len())
        .map(|place| {
            let found = match (same_axes(&rows[place]), candidates.as_slice()) {
                (Some(found), _) | (None, [found]) => Some(*found),
                _ => None,
            };
            found.filter(|found| *found != place)
        })
        .collect()
}

/// The row of one setting's runs, without its metrics; `None` of no runs.
pub(crate) fn row(runs: &[&Run], axes: &[String]) -> Option<Row> {
    let records: Vec<&Record> = runs.iter().map(|run| &run.record).collect();
    let first = records.first()?;
    let finished: Vec<&&Record> = records
        .iter()
        .filter(|record| record.status == Status::Finished)
        .collect();
    let finite = |value: fn(&Record) -> Option<f64>| -> Vec<f64> {
        finished
            .iter()
            .filter_map(|record| value(record))
            .filter(|value| value.is_finite())
            .collect()
    };
    let values = axis_values(first, axes);
    let ended = [Status::Finished, Status::Diverged, Status::Failed]
        .map(|status| records.iter().filter(|r| r.status == status).count());
    Some(Row {
        label: label(&first.method, axes, &values),
        method: first.method.clone(),
        axes: values,
        trainable_parameters: first.trainable_parameters,
        held_out_loss: statistics::loss(&finite(|record| record.held_out_loss)),
        held_out_rows: held_out_rows(first),
        held_out_loss_before: statistics::mean(&finite(|record| record.held_out_loss_before)),
        metrics: BTreeMap::new(),
        tokens_per_second: statistics::mean(&finite(|record| record.tokens_per_second)),
        peak_memory_bytes: finished.iter().map(|record| record.peak_memory_bytes).max(),
        ended,
    })
}

/// What decides the rows that a run holds out, and how they are cut.
fn held_out_rows(record: &Record) -> String {
    let train = &record.config["train"];
    let keys = [
        "task",
        "task_options",
        "held_out",
        "rows",
        "max_source",
        "max_target",
    ];
    let parts = keys.map(|key| train[key].to_string());
    parts.join(" ")
}

impl Comparison {
    fn losses(&self) -> Vec<Option<&Estimate>> {
        self.rows.iter().map(|r| r.held_out_loss.as_ref()).collect()
    }

    /// The differences in held-out loss between rows that hold out the same rows of data.
    pub fn loss_pairs(&self) -> Pairs {
        let same = |a: usize, b: usize| self.rows[a].held_out_rows == self.rows[b].held_out_rows;
        Pairs::unpaired(&self.losses(), same)
    }

    /// Whether all rows have the loss of the same held-out rows.
    pub fn one_held_out_loss(&self) -> bool {
        let with_loss = self.rows.iter().filter(|row| row.held_out_loss.is_some());
        let mut of = with_loss.map(|row| &row.held_out_rows);
        let first = of.next();
        of.all(|rows| Some(rows) == first)
    }

    /// What the intervals say about the held-out loss.
    pub fn judge_loss(&self) -> Verdict {
        judge(&self.losses(), &self.loss_pairs(), true)
    }

    /// For each row the one it is compared with: LoRA, or where there is none the first trained method, with the same other
    /// axes; the only such row where none has them.
    pub fn references(&self) -> Vec<Option<usize>> {
        references(&self.rows)
    }

    /// What the intervals say about a headline metric.
    pub fn judge_metric(&self, metric: &str) -> Verdict {
        let scores: Vec<_> = self.rows.iter().map(|r| r.metrics.get(metric)).collect();
        let none = Pairs::default();
        let pairs = self.pairs.get(metric).unwrap_or(&none);
        judge(&scores, pairs, lower_is_better(metric))
    }

    /// A row less the row that it is compared with and that row, where the metric has any paired comparison.
    pub fn against(&self, metric: &str, row: usize) -> Option<(usize, Difference)> {
        let pairs = self.pairs.get(metric)?;
        (pairs.corrected() > 0).then(|| pairs.to_reference(row))?
    }

    /// The method that rows are compared with, for readers, where the metric has any paired comparison.
    pub fn reference(&self, metric: &str) -> Option<&str> {
        let (reference, _) = (0..self.rows.len()).find_map(|row| self.against(metric, row))?;
        Some(style::method_name(&self.rows.get(reference)?.method))
    }

    /// A difference as readers see it: `+1.0 (−0.9 to 2.9), p = 0.453`, with the corrected p-value, without a unit.
    pub fn show_difference(&self, metric: &str, difference: &Difference) -> String {
        show_difference(difference, |value| self.show(metric, value))
    }

    /// Whether training made a difference but no trained setting differs from another.
    pub fn only_over_untrained(&self, verdict: &Verdict) -> bool {
        let trained = |row: &usize| {
            let row = self.rows.get(*row);
            row.is_some_and(|row| row.trainable_parameters > 0)
        };
        let among_trained = |(better, worse): &(usize, usize)| trained(better) && trained(worse);
        self.rows
            .iter()
            .filter(|row| row.trainable_parameters > 0)
            .count()
            > 1
            && !verdict.pairs.is_empty()
            && !verdict.pairs.iter().any(among_trained)
    }

    /// A metric's value as readers see it, without a unit: in percent, or as it is.
    pub fn show(&self, metric: &str, value: f64) -> String {
        show(value, self.percent.contains(metric))
    }

    /// What a metric's values are multiplied with to be shown.
    fn scale(&self, metric: &str) -> f64 {
        if self.percent.contains(metric) {
            100.0
        } else {
            1.0
        }
    }

    /// Trained parameters against those of LoRA with the same other axes.
    fn share_of_lora(&self, row: &Row) -> Option<f64> {
        let lora = self
            .rows
            .iter()
            .find(|other| other.method == "lora" && other.axes == row.axes)?;
        (lora.trainable_parameters > 0 && row.trainable_parameters > 0)
            .then(|| row.trainable_parameters as f64 / lora.trainable_parameters as f64)
    }

    /// The number of examples, when every row has the same.
    fn common_n(&self, metric: &str) -> Option<u64> {
        let mut sizes = self.rows.iter().filter_map(|row| row.metrics.get(metric));
        let n = sizes.next()?.n;
        sizes.all(|estimate| estimate.n == n).then_some(n)
    }

    fn main_table(&self, title: &str, runs: &[Run]) -> Table {
        let mut columns = vec![Column::left("Method")];
        columns.extend(self.axes.iter().map(|key| Column::right(last(key))));
        columns.push(Column::right("Trainable parameters"));
        columns.push(Column::right("of LoRA (%)"));
        columns.push(Column::right(LOSS));
        for metric in &self.metrics {
            let mut unit = Vec::new();
            if self.percent.contains(metric) {
                unit.push("%".to_owned());
            }
            if let Some(n) = self.common_n(metric) {
                unit.push(format!("n = {}", thousands(n)));
            }
            columns.push(Column::right(if unit.is_empty() {
                metric.clone()
            } else {
                format!("{metric} ({})", unit.join(", "))
            }));
            if let Some(reference) = self.reference(metric) {
                columns.push(Column::right(self.difference_heading(metric, reference)));
            }
        }
        columns.push(Column::right("Tokens/s"));
        columns.push(Column::right("Peak memory (MiB)"));
        columns.push(Column::left("Runs"));

        let mut rows: Vec<Vec<Cell>> = (0..)
            .zip(&self.rows)
            .map(|(place, row)| self.cells(place, row))
            .collect();
        let mut embolden = |column: usize, best: Option<usize>| {
            let row = best.and_then(|best| rows.get_mut(best));
            if let Some(cell) = row.and_then(|row| row.get_mut(column)) {
                cell.bold = true;
            }
        };
        let loss_column = 3 + self.axes.len();
        let loss = self.judge_loss();
        embolden(loss_column, loss.best);
        let mut notes = Vec::new();
        if loss.ranked.len() > 1 && !loss.judged {
            notes.push(format!(
                "{LOSS}: a setting with one seed has no interval, so differences cannot be told from the seed's noise."
            ));
        } else if loss.ranked.len() > 1 && loss.pairs.is_empty() {
            notes.push(format!("{LOSS}: {NO_DIFFERENCE}."));
        }
        let mut column = loss_column;
        for metric in &self.metrics {
            let verdict = self.judge_metric(metric);
            column += 1;
            embolden(column, verdict.best);
            column += usize::from(self.reference(metric).is_some());
            if verdict.ranked.len() < 2 || !verdict.judged {
                continue;
            }
            if verdict.pairs.is_empty() {
                notes.push(format!("{metric}: {NO_DIFFERENCE}."));
            } else if self.only_over_untrained(&verdict) {
                notes.push(format!(
                    "{metric}: among the trained methods {NO_DIFFERENCE}."
                ));
            }
        }
        notes.extend(self.test_notes());
        if rows.iter().flatten().any(|cell| cell.bold) {
            notes.push("Bold: better than the second best, and the difference counts.".into());
        }
        if self
            .rows
            .iter()
            .any(|row| row.metrics.values().any(|e| e.spread.is_some()))
        {
            notes.push(
                "± of a metric is its standard error, in brackets stands the 95 % interval.".into(),
            );
        }
        if self.rows.iter().any(|row| row.ended[0] > 1) {
            notes.push(
                "Values are means over seeds; ± of the held-out loss is the standard deviation over seeds."
                    .into(),
            );
        }
        for run in runs
            .iter()
            .filter(|run| run.record.status != Status::Finished)
        {
            let mut note = format!(
                "{} {} after {} steps and is in no mean",
                run.record.run,
                run.record.status.name(),
                thousands(run.record.steps),
            );
            if let Some(message) = &run.record.message {
                note += &format!(": {message}");
            }
            notes.push(note.trim_end_matches('.').to_owned() + ".");
        }
        for run in runs {
            if let Some(torn) = &run.torn {
                notes.push(format!("{}: {torn}.", run.record.run));
            }
        }
        Table {
            title: title.to_owned(),
            columns,
            rows,
            notes,
        }
    }

    fn difference_heading(&self, metric: &str, reference: &str) -> String {
        if self.percent.contains(metric) {
            format!("{metric} − {reference} (points)")
        } else {
            format!("{metric} − {reference}")
        }
    }

    /// How the differences of the metrics were judged.
    fn test_notes(&self) -> Vec<String> {
        let mut paired: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut unpaired = Vec::new();
        for metric in &self.metrics {
            let Some(pairs) = self.pairs.get(metric) else {
                continue;
            };
            let Some(reference) = self.reference(metric) else {
                if !pairs.tests().is_empty() {
                    unpaired.push(metric.as_str());
                }
                continue;
            };
            let tested = (0..self.rows.len()).filter(|row| {
                self.against(metric, *row)
                    .is_some_and(|(_, d)| d.p.is_some())
            });
            let mut questions: Vec<usize> = tested.filter_map(|row| pairs.questions(row)).collect();
            questions.sort_unstable();
            questions.dedup();
            let questions: Vec<String> = questions.iter().map(|n| thousands(*n as u64)).collect();
            let tests = pairs
                .tests()
                .into_iter()
                .filter(|test| *test != Test::Unpaired);
            let tests: Vec<String> = tests.map(pairs::name).collect();
            let mut how = format!(
                "difference on the same {} questions with its 95 % interval; p by {}, Holm-corrected for {} with \
                 {reference}. It counts where the interval leaves out 0 and p is below 0.05.",
                questions.join(" or "),
                tests.join(" or "),
                match pairs.corrected() {
                    1 => "1 comparison".to_owned(),
                    n => format!("{n} comparisons"),
                },
            );
            let unpaired = |row| {
                self.against(metric, row)
                    .is_some_and(|(_, d)| d.p.is_none())
            };
            if (0..self.rows.len()).any(unpaired) {
                how += " Not paired: samples of the same questions are missing; the interval is that of a difference of \
                        independent results.";
            }
            let heading = self.difference_heading(metric, reference);
            paired.entry(how).or_default().push(heading);
        }
        let mut notes: Vec<String> = paired
            .into_iter()
            .map(|(how, headings)| format!("{}: {how}", headings.join(", ")))
            .collect();
        if !unpaired.is_empty() {
            notes.push(format!(
                "Not paired, for want of samples of the same questions: {}. A difference there counts where it is larger \
                 than the 95 % interval of a difference of independent results.",
                unpaired.join(", ")
            ));
        }
        notes
    }

    fn cells(&self, place: usize, row: &Row) -> Vec<Cell> {
        let mut cells = vec![Cell::text(style::method_name(&row.method))];
        cells.extend(row.axes.iter().map(Cell::text));
        let trainable = row.trainable_parameters;
        cells.push(Cell::number(thousands(trainable), trainable as f64));
        cells.push(self.share_of_lora(row).map_or_else(Cell::none, |share| {
            Cell::number(percent(share), 100.0 * share)
        }));
        cells.push(row.held_out_loss.as_ref().map_or_else(Cell::none, |loss| {
            estimate_cell(loss, 1.0, |value| fixed(value, 4))
        }));
        for metric in &self.metrics {
            cells.push(row.metrics.get(metric).map_or_else(Cell::none, |score| {
                let mut cell =
                    estimate_cell(score, self.scale(metric), |value| self.show(metric, value));
                if self.common_n(metric).is_none() {
                    cell.text += &format!(" (n = {})", thousands(score.n));
                }
                cell
            }));
            if self.reference(metric).is_some() {
                let against = self.against(metric, place);
                cells.push(against.map_or_else(Cell::none, |(_, difference)| {
                    let scale = self.scale(metric);
                    Cell {
                        value: Some(scale * difference.value),
                        interval: difference
                            .interval
                            .map(|(low, high)| (scale * low, scale * high)),
                        p: difference.corrected,
                        ..Cell::text(self.show_difference(metric, &difference))
                    }
                }));
            }
        }
        cells.push(row.tokens_per_second.map_or_else(Cell::none, |speed| {
            let text = if speed < 100.0 {
                fixed(speed, 1)
            } else {
                thousands(speed.round() as u64)
            };
            Cell::number(text, speed)
        }));
        cells.push(row.peak_memory_bytes.map_or_else(Cell::none, |bytes| {
            let mebibytes = mebibytes(bytes);
            Cell::number(thousands(mebibytes as u64), mebibytes)
        }));
        let ended: Vec<String> = row
            .ended
            .iter()
            .zip(["finished", "diverged", "failed"])
            .filter(|(count, _)| **count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        cells.push(Cell::text(ended.join(", ")));
        cells
    }
}

/// A metric's value as readers see it, without a unit.
pub(crate) fn show(value: f64, in_percent: bool) -> String {
    if in_percent {
        percent(value)
    } else {
        fixed(value, 3)
    }
}

/// A difference as readers see it: `+1.0 (−0.9 to 2.9), p = 0.453`, with the corrected p-value.
pub(crate) fn show_difference(difference: &Difference, show: impl Fn(f64) -> String) -> String {
    let signed = |value: f64| {
        let text = show(value);
        let is_zero = !text.contains(|c: char| c.is_ascii_digit() && c != '0');
        match text.strip_prefix('-') {
            Some(digits) if is_zero => digits.to_owned(),
            Some(digits) => format!("−{digits}"),
            None => text,
        }
    };
    let mut text = signed(difference.value);
    if difference.value > 0.0 {
        text.insert(0, '+');
    }
    if let Some((low, high)) = difference.interval {
        text += &format!(" ({} to {})", signed(low), signed(high));
    }
    match difference.corrected {
        Some(p) => format!("{text}, {}", p_value(p)),
        None => text + ", not paired",
    }
}

/// An estimate with what stands behind `±` and its interval, in the unit that `scale` gives.
pub(crate) fn estimate_cell(estimate: &Estimate, scale: f64, show: impl Fn(f64) -> String) -> Cell {
    let mut text = show(estimate.mean);
    if let Some(spread) = estimate.spread {
        text += &format!(" ± {}", show(spread));
    }
    if let Some((low, high)) = estimate.interval {
        text += &format!(" ({} to {})", show(low), show(high));
    }
    Cell {
        text,
        value: Some(scale * estimate.mean),
        spread: estimate.spread.map(|spread| scale * spread),
        interval: estimate
            .interval
            .map(|(low, high)| (scale * low, scale * high)),
        ..Cell::default()
    }
}
