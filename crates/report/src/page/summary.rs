//! What the numbers say, in sentences: who is best at what and by how much, what sharing costs against LoRA, and what is missing.
//!
//! Every judgement is the one of the table: [`crate::difference::differs`] and [`Comparison`]'s pairs.

use crate::comparison::{Comparison, Verdict, lower_is_better, p_value};
use crate::difference::{Difference, differs};
use crate::number::{fixed, thousands};
use crate::pairs::Pairs;
use crate::record::{Record, Status};
use crate::section::Text;
use crate::statistics::Estimate;

/// Settings that a sentence names; more would not be read.
const MOST: usize = 8;
/// Settings with an item of their own.
const MOST_ITEMS: usize = 5;

/// The parts of a summary.
pub struct Summary {
    /// One item for the loss and one for each metric.
    pub best: Vec<Text>,
    /// One item for each trained setting: its size and its differences from the one it is compared with.
    pub against: Vec<Text>,
    /// What has no value, and why.
    pub missing: Vec<Text>,
}

/// A column of the comparison: the held-out loss or a metric.
struct Column<'a> {
    name: &'a str,
    metric: Option<&'a str>,
    pairs: Pairs,
    verdict: Verdict,
}

impl<'a> Column<'a> {
    fn all(comparison: &'a Comparison) -> Vec<Self> {
        let loss = Self {
            name: "held-out loss",
            metric: None,
            pairs: comparison.loss_pairs(),
            verdict: comparison.judge_loss(),
        };
        let metrics = comparison.metrics.iter().map(|metric| Self {
            name: metric,
            metric: Some(metric),
            pairs: comparison.pairs.get(metric).cloned().unwrap_or_default(),
            verdict: comparison.judge_metric(metric),
        });
        std::iter::once(loss)
            .chain(metrics)
            .filter(|column| !column.verdict.ranked.is_empty())
            .collect()
    }

    fn estimate<'b>(&self, comparison: &'b Comparison, row: usize) -> Option<&'b Estimate> {
        let row = comparison.rows.get(row)?;
        match self.metric {
            Some(metric) => row.metrics.get(metric),
            None => row.held_out_loss.as_ref(),
        }
    }

    fn show(&self, comparison: &Comparison, value: f64) -> String {
        let text = match self.metric {
            Some(metric) => comparison.show(metric, value),
            None => fixed(value, 4),
        };
        text.replacen('-', "−", 1)
    }

    fn is_percent(&self, comparison: &Comparison) -> bool {
        self.metric
            .is_some_and(|metric| comparison.percent.contains(metric))
    }

    fn lower(&self) -> bool {
        self.metric.is_none_or(lower_is_better)
    }

    /// `4.2 % (95 % interval 2.4 to 7.1)`.
    fn value(&self, comparison: &Comparison, estimate: &Estimate) -> String {
        let unit = if self.is_percent(comparison) {
            " %"
        } else {
            ""
        };
        let value = self.show(comparison, estimate.mean);
        let interval = estimate.interval.map_or_else(String::new, |(low, high)| {
            let (low, high) = (self.show(comparison, low), self.show(comparison, high));
            format!(" (95 % interval {low} to {high})")
        });
        format!("{value}{unit}{interval}")
    }

    /// `1.3 points (−0.7 to 3.4)`, from the first side.
    fn size(&self, comparison: &Comparison, difference: &Difference) -> String {
        let unit = if self.is_percent(comparison) {
            " points"
        } else {
            ""
        };
        let interval = difference.interval.map_or_else(String::new, |(low, high)| {
            let (low, high) = (self.show(comparison, low), self.show(comparison, high));
            format!(" (95 % interval {low} to {high})")
        });
        format!(
            "{}{unit}{interval}",
            self.show(comparison, difference.value)
        )
    }
}

/// What the test says of a difference.
fn says(difference: &Difference) -> String {
    let p = difference.corrected.or(difference.p).map(p_value);
    match (differs(difference), p) {
        (Some(true), Some(p)) => format!("the paired test tells them apart ({p})"),
        (Some(false), Some(p)) => format!("the paired test does not tell them apart ({p})"),
        (Some(true), None) => "the interval leaves out 0, so it counts".into(),
        (Some(false), None) => "the interval has 0 in it, so this is no finding".into(),
        (None, _) => "with a single seed there is no interval, so this is no finding".into(),
    }
}

/// The summary of a comparison of `records`; `unfinished` are runs without a record.
pub fn summary(comparison: &Comparison, records: &[&Record], unfinished: &[String]) -> Summary {
    let columns = Column::all(comparison);
    // There is no best one among the losses of different rows.
    let one = |column: &&Column| column.metric.is_some() || comparison.one_held_out_loss();
    Summary {
        best: columns
            .iter()
            .filter(one)
            .map(|column| best(comparison, column).into())
            .collect(),
        against: against(comparison, &columns),
        missing: missing(records, unfinished),
    }
}

fn label(comparison: &Comparison, row: usize) -> &str {
    comparison
        .rows
        .get(row)
        .map_or("", |row| row.label.as_str())
}

/// `A, B and 3 more`.
fn names(comparison: &Comparison, rows: &[usize]) -> String {
    let mut names: Vec<String> = rows
        .iter()
        .take(MOST)
        .map(|row| label(comparison, *row).to_owned())
        .collect();
    if rows.len() > MOST {
        names.push(format!("{} more", rows.len() - MOST));
    }
    // A label may have commas in it.
    let separator = match names.iter().any(|name| name.contains(',')) {
        true => "; ",
        false => ", ",
    };
    match names.as_slice() {
        [all @ .., last] if !all.is_empty() => {
            format!("{} and {last}", all.join(separator))
        }
        _ => names.concat(),
    }
}

/// Which setting is best in a column, by how much, and whether that counts.
fn best(comparison: &Comparison, column: &Column) -> String {
    let verdict = &column.verdict;
    let Some((&first, others)) = verdict.ranked.split_first() else {
        return String::new();
    };
    let Some(estimate) = column.estimate(comparison, first) else {
        return String::new();
    };
    let value = column.value(comparison, estimate);
    let name = column.name;
    let Some(&second) = others.first() else {
        return format!(
            "{}: {name} {value}. There is nothing to compare it with.",
            label(comparison, first)
        );
    };
    let means = verdict
        .ranked
        .iter()
        .map(|row| column.estimate(comparison, *row));
    if means.flatten().all(|other| other.mean == estimate.mean) {
        let them = names(comparison, &verdict.ranked);
        return format!("{them} have the same {name}, {value}.");
    }
    let extreme = if column.lower() { "lowest" } else { "highest" };
    let mut text = format!(
        "{} has the {extreme} {name}, {value}.",
        label(comparison, first)
    );
    let difference = if column.lower() {
        column.pairs.difference(second, first)
    } else {
        column.pairs.difference(first, second)
    };
    if let Some(difference) = difference {
        let next = label(comparison, second);
        text += &if difference.value == 0.0 {
            format!(" {next} has the same.")
        } else {
            let size = column.size(comparison, &difference);
            format!(" {next} is next, behind by {size}; {}.", says(&difference))
        };
    }
    let untrained = over_untrained(comparison, verdict);
    // The last sentence is of the untouched model.
    let base = untouched(comparison, verdict).filter(|_| !untrained.is_empty());
    let counts = |better: usize| -> Vec<usize> {
        let pairs = verdict.pairs.iter().filter(|(b, _)| *b == better);
        pairs
            .map(|(_, worse)| *worse)
            .filter(|worse| *worse != second && Some(*worse) != base)
            .collect()
    };
    let behind = counts(first);
    if !behind.is_empty() {
        text += &format!(
            " Further behind, by differences that count: {}.",
            names(comparison, &behind)
        );
    }
    text + &untrained
}

fn is_trained(comparison: &Comparison, row: usize) -> bool {
    let row = comparison.rows.get(row);
    row.is_some_and(|row| row.trainable_parameters > 0)
}

/// The row of the untouched model, where there is one of them.
fn untouched(comparison: &Comparison, verdict: &Verdict) -> Option<usize> {
    let mut rows = verdict
        .ranked
        .iter()
        .filter(|row| !is_trained(comparison, **row));
    match (rows.next(), rows.next()) {
        (Some(&base), None) => Some(base),
        _ => None,
    }
}

/// Which trained settings are better than the untouched model.
fn over_untrained(comparison: &Comparison, verdict: &Verdict) -> String {
    let Some(base) = untouched(comparison, verdict) else {
        return String::new();
    };
    let trained = |row: usize| is_trained(comparison, row);
    let of_trained = verdict.ranked.iter().filter(|row| trained(**row)).count();
    let over: Vec<usize> = verdict
        .pairs
        .iter()
        .filter(|(better, worse)| *worse == base && trained(*better))
        .map(|(better, _)| *better)
        .collect();
    match over.len() {
        _ if of_trained == 0 => String::new(),
        0 if verdict.judged => {
            " No trained method is shown to be better than the untouched model.".into()
        }
        0 => String::new(),
        n if n == of_trained && n > 1 => {
            " All trained methods are better than the untouched model.".into()
        }
        1 => format!(
            " {} alone is shown to be better than the untouched model.",
            names(comparison, &over)
        ),
        _ => format!(
            " {} are shown to be better than the untouched model.",
            names(comparison, &over)
        ),
    }
}

/// What each trained setting costs and loses against the one it is compared with.
fn against(comparison: &Comparison, columns: &[Column]) -> Vec<Text> {
    let references = comparison.references();
    let mut items: Vec<Text> = Vec::new();
    let mut left_out = 0;
    for (place, row) in comparison.rows.iter().enumerate() {
        let Some(reference) = references
            .get(place)
            .copied()
            .flatten()
            .filter(|_| row.trainable_parameters > 0)
        else {
            continue;
        };
        if items.len() == MOST_ITEMS {
            left_out += 1;
            continue;
        }
        let Some(other) = comparison.rows.get(reference) else {
            continue;
        };
        let share =
            100.0 * row.trainable_parameters as f64 / other.trainable_parameters.max(1) as f64;
        let mut text = format!(
            "{} trains {} parameters, {} % of those of {}.",
            row.label,
            thousands(row.trainable_parameters),
            fixed(share, 1),
            other.label
        );
        for column in columns {
            let Some(difference) = column.pairs.difference(place, reference) else {
                continue;
            };
            let way = if difference.value > 0.0 {
                "higher"
            } else {
                "lower"
            };
            let shown = if difference.value < 0.0 {
                difference.reversed()
            } else {
                difference
            };
            let name = column.name;
            text += &if shown.value == 0.0 {
                format!(" Its {name} is the same.")
            } else {
                format!(
                    " Its {name} is {way} by {}; {}.",
                    column.size(comparison, &shown),
                    says(&shown)
                )
            };
        }
        items.push(text.into());
    }
    if left_out > 0 {
        let more = match left_out {
            1 => "One more setting is".to_owned(),
            n => format!("{n} more settings are"),
        };
        items.push(format!("{more} in the table.").into());
    }
    items
}

/// What has no value, and what limits all that has one.
fn missing(records: &[&Record], unfinished: &[String]) -> Vec<Text> {
    let mut items: Vec<Text> = Vec::new();
    let mut reasons: Vec<(&String, &String, usize)> = Vec::new();
    for (name, why) in records.iter().flat_map(|record| &record.not_measured) {
        match reasons.iter_mut().find(|(n, w, _)| *n == name && *w == why) {
            Some((.., count)) => *count += 1,
            None => reasons.push((name, why, 1)),
        }
    }
    let runs = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 run {one}"),
        n => format!("{n} runs {many}"),
    };
    for (name, why, count) in reasons {
        let of_runs = runs(count, "", "");
        items.push(format!("{name} was not measured in {}: {why}.", of_runs.trim_end()).into());
    }
    for (status, ended) in [(Status::Diverged, "diverged"), (Status::Failed, "failed")] {
        let of_status = records.iter().filter(|record| record.status == status);
        let of_status: Vec<&str> = of_status.map(|record| record.run.as_str()).collect();
        if !of_status.is_empty() {
            let mut listed = of_status[..of_status.len().min(MOST)].join(", ");
            if of_status.len() > MOST {
                listed += &format!(" and {} more", of_status.len() - MOST);
            }
            let left_out = runs(
                of_status.len(),
                &format!("{ended} and is in no mean"),
                &format!("{ended} and are in no mean"),
            );
            items.push(format!("{left_out}: {listed}.").into());
        }
    }
    if !unfinished.is_empty() {
        let began = runs(
            unfinished.len(),
            "began and has no record yet",
            "began and have no record yet",
        );
        items.push(format!("{began}.").into());
    }
    if items.is_empty() {
        items.push(
            "Every run with a record finished, and no score that was asked for is missing.".into(),
        );
    }
    let seeds = |record: &Record| {
        (
            record.method.clone(),
            record
                .axes
                .iter()
                .filter(|(key, _)| !key.ends_with("seed"))
                .map(|(_, v)| v.clone())
                .collect::<Vec<_>>(),
        )
    };
    let mut counts = std::collections::BTreeMap::new();
    for record in records
        .iter()
        .filter(|r| r.trainable_parameters > 0 && r.status == Status::Finished)
    {
        *counts.entry(seeds(record)).or_insert(0usize) += 1;
    }
    if !counts.is_empty() && counts.values().all(|count| *count == 1) {
        items.push("Each setting was trained with one seed: what is said of a method is said of that seed.".into());
    }
    items
}
