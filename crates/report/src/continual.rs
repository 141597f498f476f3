//! Continual fine-tuning: what each stage does to every task, and what is kept and lost along a sequence.
//!
//! A run with the axis `stages`, `alpaca+gsm8k`, is the model behind that many stages. Of one method, setting and seed they
//! make the matrix `R[k][j]`: the score on task `j` behind stage `k`, the untouched model at `k = 0`. From it, with `n` stages:
//!
//! - average: the mean of `R[n][j]` over the tasks (D. Lopez-Paz and M. Ranzato, arXiv 1706.08840, equation 2)
//! - backward transfer: the mean of `R[n][j] - R[l(j)][j]` over the tasks that are not learnt last, `l(j)` being the last stage that
//!   learns `j` (the same, equation 3)
//! - forward transfer: the mean of `R[f(j) - 1][j] - R[0][j]` over the tasks that are not learnt first, `f(j)` being the first stage
//!   that learns `j` (the same, equation 4; there the reference is a random start, here the untouched model)
//! - forgetting: the mean of the best of `R[1..n][j]` minus `R[n][j]`, over the tasks that are not learnt last (A. Chaudhry et al., arXiv
//!   1801.10112, section 4.1)
//! - intransigence: the mean of `S[j] - R[f(j)][j]` over the tasks that are not learnt first, `S[j]` being the score of a model that learns `j`
//!   alone (the same, section 4.2; there the reference learns all tasks up to `j` at once)
//!
//! A task that comes twice has its `f` and `l` at different stages, which the sources do not treat. A loss enters with its sign
//! turned, so that transfers above 0 are gains, and forgetting and intransigence above 0 are losses, whatever the score.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::comparison::{axis_values, is_headline, label, lower_is_better, varying_axes};
use crate::difference::{Difference, Test};
use crate::figure::{Entry, Figure, Line, Mark, Panel, RGBColor, range};
use crate::number::{fixed, signed};
use crate::record::{Record, Run, Status};
use crate::spectrum_figure::lighter;
use crate::statistics::{self, Estimate};
use crate::style::{self, Marker};
use crate::table::{Cell, Column, Table};

/// The axis that names a run's stages.
pub(crate) const STAGES: &str = "stages";

/// The scores behind every stage of one seed: by stage, from 0, and by metric.
pub type Matrix = Vec<BTreeMap<String, f64>>;

/// One sequence of one method and setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The method's name in records.
    pub method: String,
    /// The name for readers, with the values of other axes.
    pub label: String,
    /// Values of the other axes that vary.
    pub values: Vec<String>,
    /// Names of the stages.
    pub stages: Vec<String>,
    /// Tasks of the stages, as metrics name them.
    pub tasks: Vec<String>,
    /// Every seed that has finished every stage.
    pub seeds: Vec<Seed>,
}

/// One seed of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    pub seed: u64,
    pub matrix: Matrix,
    /// The scores of tasks that were learnt alone, by their own metrics, where such runs are there.
    pub alone: BTreeMap<String, f64>,
}

/// The numbers of one seed; `None` where the sequence does not define them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Numbers {
    pub average: Option<f64>,
    pub backward: Option<f64>,
    pub forward: Option<f64>,
    pub forgetting: Option<f64>,
    pub intransigence: Option<f64>,
}

/// One of them.
type Number = fn(&Numbers) -> Option<f64>;

/// Their names, in the order of the table.
const NUMBERS: [(&str, Number); 5] = [
    ("Average", |n| n.average),
    ("Backward transfer", |n| n.backward),
    ("Forward transfer", |n| n.forward),
    ("Forgetting", |n| n.forgetting),
    ("Intransigence", |n| n.intransigence),
];

/// The number that is called so in a file, `backward_transfer` say.
pub(crate) fn number(name: &str) -> Option<fn(&Numbers) -> Option<f64>> {
    let mut all = number_names().into_iter().zip(NUMBERS);
    all.find_map(|(key, (_, number))| (key == name).then_some(number))
}

/// How the numbers are called in files.
pub(crate) fn number_names() -> Vec<String> {
    let names = NUMBERS.iter();
    names
        .map(|(name, _)| name.to_lowercase().replace(' ', "_"))
        .collect()
}

fn finished(run: &&Run) -> bool {
    run.record.status == Status::Finished
}

/// Headline metrics of a record.
fn scores(record: &Record) -> BTreeMap<String, f64> {
    let headline = record.metrics.iter().filter(|(key, _)| is_headline(key));
    headline
        .map(|(key, metric)| (key.clone(), metric.value))
        .collect()
}

/// The task that a record was trained on, as metrics name it: with its variant, where one is given.
pub(crate) fn trained_on(record: &Record) -> Option<String> {
    let train = record.config.get("train")?;
    let task = train.get("task")?.as_str()?;
    let variant = train
        .get("task_options")
        .and_then(|options| options.get("variant"));
    Some(match variant.and_then(|variant| variant.as_str()) {
        Some(variant) => format!("{task}_{variant}"),
        None => task.to_owned(),
    })
}

/// Every sequence of at least two stages among `runs`, in the order of methods.
pub fn sequences(runs: &[Run]) -> Vec<Sequence> {
    let staged: Vec<&Run> = (runs.iter().filter(finished))
        .filter(|run| run.record.axes.contains_key(STAGES))
        .collect();
    let mut axes = varying_axes(staged.iter().map(|run| &run.record));
    axes.retain(|axis| axis != STAGES);
    let untouched = runs
        .iter()
        .find(|run| finished(run) && run.record.method == "base");
    let untouched = untouched.map(|run| scores(&run.record)).unwrap_or_default();
    let path = |run: &Run| -> Vec<String> {
        let text = run.record.axes.get(STAGES).map_or("", String::as_str);
        text.split('+').map(str::to_owned).collect()
    };
    // Of one method and setting, by path and seed.
    type Setting = ((usize, String), Vec<String>);
    type Paths<'a> = BTreeMap<Vec<String>, BTreeMap<u64, &'a Run>>;
    let mut settings: BTreeMap<Setting, Paths> = BTreeMap::new();
    for run in staged {
        let method = style::method_order(&run.record.method);
        let paths = settings
            .entry((method, axis_values(&run.record, &axes)))
            .or_default();
        paths
            .entry(path(run))
            .or_default()
            .insert(run.record.seed, run);
    }
    let mut settings: Vec<(Setting, Paths)> = settings.into_iter().collect();
    settings.sort_by(|((a, a_values), _), ((b, b_values), _)| {
        a.cmp(b).then_with(|| by_size(a_values, b_values))
    });
    let mut found = Vec::new();
    for (((_, method), values), paths) in &settings {
        let whole = |path: &&Vec<String>| {
            let goes_on = |other: &Vec<String>| other.len() > path.len() && other.starts_with(path);
            path.len() > 1 && !paths.keys().any(goes_on)
        };
        for stages in paths.keys().filter(whole) {
            let behind = |k: usize, seed: u64| paths.get(&stages[..k])?.get(&seed).copied();
            let tasks: Vec<String> = (1..=stages.len())
                .filter_map(|k| paths.get(&stages[..k])?.values().next().copied())
                .filter_map(|run| trained_on(&run.record))
                .collect();
            if tasks.len() < stages.len() {
                continue;
            }
            let mut sequence = Sequence {
                method: method.clone(),
                label: label(method, &axes, values),
                values: values.clone(),
                stages: stages.clone(),
                tasks,
                seeds: Vec::new(),
            };
            for &seed in paths[stages].keys() {
                let rows: Option<Matrix> = (1..=stages.len())
                    .map(|k| Some(scores(&behind(k, seed)?.record)))
                    .collect();
                let Some(mut matrix) = rows else { continue };
                matrix.insert(0, untouched.clone());
                let alone = paths.iter().filter(|(path, _)| path.len() == 1);
                let alone = alone.filter_map(|(_, seeds)| seeds.get(&seed).copied());
                let own = |run: &Run| {
                    let task = trained_on(&run.record).unwrap_or_default();
                    let of_task = move |key: &String| key.split('/').next() == Some(&task);
                    scores(&run.record)
                        .into_iter()
                        .filter(move |(key, _)| of_task(key))
                };
                let alone = alone.flat_map(own).collect();
                sequence.seeds.push(Seed {
                    seed,
                    matrix,
                    alone,
                });
            }
            if !sequence.seeds.is_empty() {
                found.push(sequence);
            }
        }
    }
    found
}

/// The order of values of axes: numbers by size, words by letters.
fn by_size(a: &[String], b: &[String]) -> Ordering {
    let one = |(a, b): (&String, &String)| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    };
    let orders = a.iter().zip(b).map(one);
    orders.fold(Ordering::Equal, Ordering::then)
}

impl Sequence {
    /// All metrics that every stage has, those of the stages' tasks first.
    pub fn metrics(&self) -> Vec<String> {
        let mut rows = self
            .seeds
            .iter()
            .flat_map(|seed| seed.matrix.iter().skip(1));
        let Some(first) = rows.next() else {
            return Vec::new();
        };
        let mut shared: BTreeSet<&String> = first.keys().collect();
        rows.for_each(|row| shared.retain(|key| row.contains_key(*key)));
        let place = |key: &str| {
            let task = key.split('/').next().unwrap_or(key);
            self.tasks
                .iter()
                .position(|t| t == task)
                .unwrap_or(usize::MAX)
        };
        let mut all: Vec<String> = shared.into_iter().cloned().collect();
        all.sort_by_key(|key| place(key));
        all
    }

    /// The metrics of the stages' own tasks that are of one kind: losses, or else scores that are better when higher.
    pub fn own_metrics(&self, losses: bool) -> Vec<String> {
        let of_a_stage = |key: &String| {
            let task = key.split('/').next().unwrap_or(key);
            self.tasks.iter().any(|t| t == task)
        };
        let all = self.metrics().into_iter().filter(of_a_stage);
        all.filter(|key| lower_is_better(key) == losses).collect()
    }

    /// A metric behind stage `k` over seeds; `None` where it was not measured.
    pub fn behind(&self, k: usize, metric: &str) -> Option<Estimate> {
        let values: Option<Vec<f64>> = (self.seeds.iter())
            .map(|seed| seed.matrix.get(k)?.get(metric).copied())
            .collect();
        statistics::loss(&values?)
    }

    /// The numbers of the module's text over `metrics`, which are of one kind, for one seed.
    pub fn numbers(&self, seed: &Seed, metrics: &[String]) -> Numbers {
        let n = self.stages.len();
        let sign = |metric: &str| if lower_is_better(metric) { -1.0 } else { 1.0 };
        let at = |k: usize, metric: &str| Some(sign(metric) * seed.matrix.get(k)?.get(metric)?);
        // The first and the last stage that learns a metric's task, from 1.
        let places = |metric: &String| {
            let task = metric.split('/').next()?;
            let first = self.tasks.iter().position(|t| t == task)?;
            let last = self.tasks.iter().rposition(|t| t == task)?;
            Some((first + 1, last + 1))
        };
        type Value<'a> = &'a dyn Fn(&str, usize, usize) -> Option<f64>;
        let mean = |counts: fn(usize, usize, usize) -> bool, value: Value| {
            let values: Option<Vec<f64>> = (metrics.iter())
                .filter_map(|metric| Some((metric, places(metric)?)))
                .filter(|(_, (first, last))| counts(*first, *last, n))
                .map(|(metric, (first, last))| value(metric, first, last))
                .collect();
            statistics::mean(&values?)
        };
        let not_last = |_: usize, last: usize, n: usize| last < n;
        let not_first = |first: usize, _: usize, _: usize| first > 1;
        Numbers {
            average: mean(|_, _, _| true, &|m, _, _| Some(at(n, m)? * sign(m))),
            backward: mean(not_last, &|m, _, last| Some(at(n, m)? - at(last, m)?)),
            forward: mean(not_first, &|m, first, _| {
                Some(at(first - 1, m)? - at(0, m)?)
            }),
            forgetting: mean(not_last, &|m, _, _| {
                let before: Option<Vec<f64>> = (1..n).map(|k| at(k, m)).collect();
                let best = before?.into_iter().fold(f64::NEG_INFINITY, f64::max);
                Some(best - at(n, m)?)
            }),
            intransigence: mean(not_first, &|m, first, _| {
                Some(sign(m) * seed.alone.get(m)? - at(first, m)?)
            }),
        }
    }

    /// One number over the seeds; `None` where any lacks it.
    fn over_seeds(&self, metrics: &[String], number: Number) -> Option<Estimate> {
        let of = |seed: &Seed| number(&self.numbers(seed, metrics));
        let values: Option<Vec<f64>> = self.seeds.iter().map(of).collect();
        statistics::loss(&values?)
    }

    /// One number minus that of `other`, over the seeds that both have.
    fn against(&self, other: &Sequence, metrics: &[String], number: Number) -> Option<Estimate> {
        let pairs = self.seeds.iter().filter_map(|seed| {
            let same = other.seeds.iter().find(|o| o.seed == seed.seed)?;
            Some((seed, same))
        });
        let of = |(seed, same): (&Seed, &Seed)| {
            Some(number(&self.numbers(seed, metrics))? - number(&other.numbers(same, metrics))?)
        };
        let values: Option<Vec<f64>> = pairs.map(of).collect();
        statistics::loss(&values?)
    }

    /// A number by its name in files, over the seeds.
    pub(crate) fn named(&self, name: &str, losses: bool) -> Option<Estimate> {
        self.over_seeds(&self.own_metrics(losses), number(name)?)
    }

    /// The same minus that of `other`, paired by seed.
    pub(crate) fn named_against(
        &self,
        other: &Sequence,
        name: &str,
        losses: bool,
    ) -> Option<Difference> {
        let found = self.against(other, &self.own_metrics(losses), number(name)?)?;
        Some(Difference {
            value: found.mean,
            interval: found.interval,
            p: None,
            corrected: None,
            test: Test::Unpaired,
        })
    }

    /// `alpaca, gsm8k`.
    fn order(&self) -> String {
        self.stages.join(", ")
    }
}

fn shown(estimate: &Estimate, number: fn(f64, usize) -> String) -> Cell {
    let spread = estimate.spread.map(|s| format!(" ± {}", fixed(s, 3)));
    Cell {
        text: format!("{}{}", number(estimate.mean, 3), spread.unwrap_or_default()),
        value: Some(estimate.mean),
        spread: estimate.spread,
        interval: estimate.interval,
        ..Cell::default()
    }
}

fn with_interval(estimate: Option<Estimate>, number: fn(f64, usize) -> String) -> Cell {
    let Some(estimate) = estimate else {
        return Cell::none();
    };
    let interval = estimate.interval.map_or_else(String::new, |(low, high)| {
        format!(" ({} to {})", number(low, 3), number(high, 3))
    });
    Cell {
        text: format!("{}{interval}", number(estimate.mean, 3)),
        value: Some(estimate.mean),
        interval: estimate.interval,
        ..Cell::default()
    }
}

/// The table of all matrices, and for each kind of metric the table of what is kept and lost; empty without a sequence.
pub fn tables(runs: &[Run]) -> Vec<Table> {
    let sequences = sequences(runs);
    if sequences.is_empty() {
        return Vec::new();
    }
    let mut tables = vec![matrices(&sequences)];
    for losses in [true, false] {
        let rows: Vec<Vec<Cell>> = (sequences.iter())
            .filter(|sequence| sequence.own_metrics(losses).len() > 1)
            .map(|sequence| row(sequence, losses))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let kind = if losses { "held-out losses" } else { "scores" };
        let mut columns = vec![
            Column::left("Method"),
            Column::left("Stages"),
            Column::right("Seeds"),
        ];
        columns.extend(NUMBERS.iter().map(|(name, _)| Column::right(*name)));
        let mut notes = vec![
            "Transfers above 0 are gains; forgetting (the best score behind an earlier stage, minus that behind the last) and intransigence \
             (the score of the task learnt alone, minus that in its stage) above 0 are losses. Forward transfer is against the untouched \
             model. Means over tasks and seeds, in brackets the 95 % interval over seeds (Student's t)."
                .to_owned(),
        ];
        notes.extend(differences(&sequences, losses));
        tables.push(Table {
            title: format!("What is kept and lost, by {kind}"),
            columns,
            rows,
            notes,
        });
    }
    tables
}

/// What forgetting and the average of each method are against LoRA's on the same sequence and seeds, in words.
fn differences(sequences: &[Sequence], losses: bool) -> Vec<String> {
    let mut said = Vec::new();
    for sequence in sequences.iter().filter(|s| s.method != "lora") {
        let same = |other: &&Sequence| {
            other.method == "lora"
                && other.stages == sequence.stages
                && other.values == sequence.values
        };
        let Some(lora) = sequences.iter().find(same) else {
            continue;
        };
        let metrics = sequence.own_metrics(losses);
        for (name, number) in NUMBERS
            .into_iter()
            .filter(|(name, _)| ["Average", "Forgetting"].contains(name))
        {
            let Some(found) = sequence.against(lora, &metrics, number) else {
                continue;
            };
            let verdict = match found.interval {
                Some((low, high)) if low > 0.0 || high < 0.0 => "different",
                Some(_) => "not different",
                None => "one seed, cannot be judged",
            };
            let interval = found.interval.map_or_else(String::new, |(low, high)| {
                format!(" ({} to {})", signed(low, 3), signed(high, 3))
            });
            said.push(format!(
                "{} {} against {} on {}: {}{interval}, {verdict}.",
                sequence.label,
                name.to_lowercase(),
                lora.label,
                sequence.order(),
                signed(found.mean, 3)
            ));
        }
    }
    if !said.is_empty() {
        said.push(
            "Differences are paired by seed, with their 95 % interval over seeds, one comparison at a time.".into(),
        );
    }
    said
}

fn row(sequence: &Sequence, losses: bool) -> Vec<Cell> {
    let metrics = sequence.own_metrics(losses);
    let seeds = sequence.seeds.len();
    let mut row = vec![
        Cell::text(&sequence.label),
        Cell::text(sequence.order()),
        Cell::number(seeds.to_string(), seeds as f64),
    ];
    row.extend(NUMBERS.iter().map(|(name, number)| {
        let show = if *name == "Average" { fixed } else { signed };
        with_interval(sequence.over_seeds(&metrics, *number), show)
    }));
    row
}

fn matrices(sequences: &[Sequence]) -> Table {
    let mut metrics: Vec<String> = Vec::new();
    for metric in sequences.iter().flat_map(Sequence::metrics) {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let mut rows = Vec::new();
    for sequence in sequences {
        for k in 0..=sequence.stages.len() {
            let behind = match k {
                0 => "untouched".to_owned(),
                k => format!("{k}. {}", sequence.stages[k - 1]),
            };
            let mut row = vec![Cell::text(&sequence.label), Cell::text(behind)];
            row.extend(metrics.iter().map(|metric| {
                let mut cell = match sequence.behind(k, metric) {
                    Some(estimate) => shown(&estimate, fixed),
                    None => Cell::none(),
                };
                let task = metric.split('/').next();
                cell.bold = k > 0 && task == sequence.tasks.get(k - 1).map(String::as_str);
                cell
            }));
            rows.push(row);
        }
    }
    let mut columns = vec![Column::left("Method"), Column::left("Behind stage")];
    columns.extend(metrics.iter().map(Column::right));
    Table {
        title: "Every task behind every stage".into(),
        columns,
        rows,
        notes: vec![
            "Means over seeds ± their standard deviation; bold: the task that the stage has learnt.".into(),
        ],
    }
}

/// A panel for each metric of the stages' tasks, its values along the stages, the methods beside one another; of the sequence that
/// most methods have. `None` without a sequence.
pub fn figure(title: &str, runs: &[Run]) -> Option<Figure> {
    let sequences = sequences(runs);
    let mut orders: Vec<(&Vec<String>, usize)> = Vec::new();
    for sequence in &sequences {
        match orders
            .iter_mut()
            .find(|(stages, _)| **stages == sequence.stages)
        {
            Some((_, count)) => *count += 1,
            None => orders.push((&sequence.stages, 1)),
        }
    }
    let most = orders.iter().map(|(_, count)| *count).max()?;
    let (stages, _) = orders.into_iter().find(|(_, count)| *count == most)?;
    let drawn: Vec<&Sequence> = sequences.iter().filter(|s| s.stages == *stages).collect();
    let first = drawn.first()?;
    let own: Vec<String> = [first.own_metrics(true), first.own_metrics(false)].concat();
    let panels = own.iter().map(|metric| panel(metric, &drawn)).collect();
    let legend = drawn.iter().map(|sequence| {
        let (colour, marker) = look(sequence, &drawn);
        Entry {
            label: sequence.label.clone(),
            colour,
            marker: Some(marker),
            dashed: false,
        }
    });
    Some(Figure {
        title: format!("{title}: stage by stage"),
        panels,
        columns: own.len().clamp(1, 3),
        legend: legend.collect(),
    })
}

/// The colour and marker of a sequence: of those of one method the first is the darkest.
fn look(sequence: &Sequence, among: &[&Sequence]) -> (RGBColor, Marker) {
    let (colour, marker) = style::method_look(&sequence.method);
    let alike = among.iter().filter(|s| s.method == sequence.method);
    let alike: Vec<&&Sequence> = alike.collect();
    let place = alike.iter().position(|s| s.values == sequence.values);
    let share = 0.65 * place.unwrap_or(0) as f64 / alike.len().max(2) as f64;
    (lighter(colour, share), marker)
}

fn panel(metric: &str, sequences: &[&Sequence]) -> Panel {
    let stages = &sequences[0].stages;
    let mut lines = Vec::new();
    let mut marks = Vec::new();
    let mut ends = Vec::new();
    for (place, sequence) in sequences.iter().enumerate() {
        let (colour, marker) = look(sequence, sequences);
        // Beside one another, so that bars do not lie on bars.
        let aside = 0.016 * (place as f64 - (sequences.len() - 1) as f64 / 2.0);
        let behind = |k: usize| Some((k as f64, sequence.behind(k, metric)?));
        let points: Vec<(f64, Estimate)> = (0..=stages.len()).filter_map(behind).collect();
        lines.push(Line {
            points: points
                .iter()
                .map(|(x, estimate)| (*x, estimate.mean))
                .collect(),
            colour,
            opacity: 1.0,
            width: 3,
            dashed: false,
        });
        for (x, estimate) in points {
            let bar = estimate
                .spread
                .map(|s| (estimate.mean - s, estimate.mean + s));
            ends.extend(bar.map_or([estimate.mean; 2], |(low, high)| [low, high]));
            marks.push(Mark {
                at: (x, estimate.mean),
                aside,
                colour,
                marker,
                bar,
            });
        }
    }
    let names = std::iter::once("untouched").chain(stages.iter().map(String::as_str));
    Panel {
        title: metric.into(),
        x_label: "Behind stage (bars: standard deviation over seeds)".into(),
        y_label: if lower_is_better(metric) {
            "Loss (nats per token)"
        } else {
            "Score"
        }
        .into(),
        x_range: (-0.4, stages.len() as f64 + 0.4),
        x_names: (0..).map(f64::from).zip(names.map(str::to_owned)).collect(),
        y_range: range(ends.into_iter()),
        lines,
        marks,
        ..Panel::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three stages a, b, a; scores are losses. By hand, with the sign turned:
    /// behind 0: a 3, b 4; 1: a 1, b 3.5; 2: a 2, b 1; 3: a 0.5, b 1.25; alone: a 1, b 0.75.
    fn sequence() -> Sequence {
        let row = |a: f64, b: f64| BTreeMap::from([("a/loss".into(), a), ("b/loss".into(), b)]);
        let matrix = vec![row(3.0, 4.0), row(1.0, 3.5), row(2.0, 1.0), row(0.5, 1.25)];
        let names = |list: [&str; 3]| list.map(str::to_owned).to_vec();
        Sequence {
            method: "lora".into(),
            label: "LoRA".into(),
            values: Vec::new(),
            stages: names(["a", "b", "a"]),
            tasks: names(["a", "b", "a"]),
            seeds: vec![Seed {
                seed: 0,
                matrix,
                alone: row(1.0, 0.75),
            }],
        }
    }

    /// The definitions of the module's text, on numbers that can be followed.
    #[test]
    fn the_numbers_are_those_of_their_definitions() {
        let sequence = sequence();
        let losses = sequence.own_metrics(true);
        assert_eq!(losses, ["a/loss", "b/loss"]);
        let found = sequence.numbers(&sequence.seeds[0], &losses);
        assert_eq!(found.average, Some((0.5 + 1.25) / 2.0));
        // Only b is not learnt last: from 1 to 1.25 is a loss of a quarter, forgotten from its best, 1.
        assert_eq!(found.backward, Some(-0.25));
        assert_eq!(found.forgetting, Some(0.25));
        // Only b is not learnt first: a's stage brought it from 4 to 3.5.
        assert_eq!(found.forward, Some(0.5));
        // Learnt alone b has 0.75, in its stage 1.
        assert_eq!(found.intransigence, Some(0.25));
    }

    /// A method is compared with LoRA of its own rank, and with none where there is no such.
    #[test]
    fn other_ranks_are_not_compared() {
        let of = |method: &str, rank: &str| Sequence {
            method: method.into(),
            values: vec![rank.into()],
            ..sequence()
        };
        let all = [of("lora", "2"), of("share_a", "2"), of("share_a", "32")];
        let notes = differences(&all, true);
        let without = differences(&all[..2], true);
        assert_eq!(notes, without);
        let mut ranks = ["32", "8", "2"].map(|rank| vec![rank.to_owned()]);
        ranks.sort_by(|a, b| by_size(a, b));
        assert_eq!(ranks.concat(), ["2", "8", "32"]);
    }

    /// The sign of a score decides nothing: the same numbers as accuracies say the same.
    #[test]
    fn losses_and_scores_say_the_same() {
        let losses = sequence();
        let mut scores = losses.clone();
        let turned = |row: &BTreeMap<String, f64>| {
            let row = row.iter();
            row.map(|(key, value)| (key.replace("loss", "accuracy"), -value))
                .collect()
        };
        for seed in &mut scores.seeds {
            seed.matrix = seed.matrix.iter().map(turned).collect();
            seed.alone = turned(&seed.alone);
        }
        let of_losses = losses.numbers(&losses.seeds[0], &losses.own_metrics(true));
        let of_scores = scores.numbers(&scores.seeds[0], &scores.own_metrics(false));
        let same = Numbers {
            average: of_losses.average.map(|x| -x),
            ..of_losses
        };
        assert_eq!(of_scores, same);
    }

    /// What a sequence does not have is no number, and no zero.
    #[test]
    fn what_is_not_defined_is_left_out() {
        let mut sequence = sequence();
        sequence.seeds[0].alone.clear();
        let found = sequence.numbers(&sequence.seeds[0], &sequence.own_metrics(true));
        assert_eq!(found.intransigence, None);
        sequence.seeds[0].matrix[0].clear();
        let found = sequence.numbers(&sequence.seeds[0], &sequence.own_metrics(true));
        assert!(found.forward.is_none() && found.forgetting.is_some());
    }
}
