//! Two runs, or two sets of runs, against each other: settings, scores, losses, size, speed, memory, and the answers that differ.
//!
//! The runs of each side are grouped by setting, as a report's rows are. One setting on a side is set against every setting of the
//! other; otherwise those of the same method and axes are, and the rest is named. Differences are `b` less `a`, by the estimates,
//! tests and corrections of [`crate::pairs`], over all pairs of settings together; losses are taken as independent.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::comparison::{self, Row, axis_values, finished, headlines, row_axes};
use crate::difference::{Difference, Test, differs, unpaired};
use crate::error::Result;
use crate::page::answers;
use crate::pairs::{self, Pairs};
use crate::record::{Record, Run, natural};
use crate::samples;
use crate::statistics::Estimate;

/// What is compared: a name for readers, and runs.
#[derive(Debug, Clone)]
pub struct Side {
    /// What the user called it.
    pub name: String,
    /// At least one.
    pub runs: Vec<Run>,
}

/// The comparison of two sides.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    /// Name and labels of the runs of the first side.
    pub a: Named,
    /// The same of the second.
    pub b: Named,
    /// Settings, data and machines that are not the same on both sides.
    pub settings: Vec<Setting>,
    /// Settings against each other.
    pub pairs: Vec<Pair>,
    /// Settings of the first side that have no counterpart.
    pub only_a: Vec<String>,
    /// The same of the second.
    pub only_b: Vec<String>,
}

/// A side, named.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// What the user called it.
    pub name: String,
    /// `EXPERIMENT/LABEL` of its runs.
    pub runs: Vec<String>,
}

/// One dotted key and the values that it has on each side; none where it is left out there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `adapter.rank`, `evaluate.0.options.limit`, `data.gsm8k`, `host.cpu`, ...
    pub key: String,
    /// Values on the first side, each once.
    pub a: Vec<String>,
    /// Values on the second.
    pub b: Vec<String>,
}

/// The same quantity on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Both<T> {
    /// On the first side.
    pub a: T,
    /// On the second.
    pub b: T,
}

/// Two settings.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Their names for readers: `ShareA, rank 8`.
    pub labels: Both<String>,
    /// Labels of their runs.
    pub runs: Both<Vec<String>>,
    /// Number of runs by how they ended: finished, diverged, failed.
    pub ended: Both<[usize; 3]>,
    /// Trained parameters.
    pub trainable_parameters: Both<u64>,
    /// Held-out loss, in the loss's unit.
    pub held_out_loss: Measure,
    /// Headline metrics of either.
    pub metrics: BTreeMap<String, Measure>,
    /// Mean training speed.
    pub tokens_per_second: Both<Option<f64>>,
    /// Largest peak of memory in bytes.
    pub peak_memory_bytes: Both<Option<u64>>,
    /// How many questions were graded how, one entry a samples file.
    pub graded: Vec<Graded>,
}

/// An estimate on each side and their difference.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measure {
    /// On the first side.
    pub a: Option<Estimate>,
    /// On the second.
    pub b: Option<Estimate>,
    /// The second less the first.
    pub difference: Option<Difference>,
    /// Whether the difference counts, by [`differs`].
    pub counts: Option<bool>,
    /// Whether readers see percent.
    pub percent: bool,
    /// Questions behind a paired difference.
    pub questions: Option<usize>,
}

/// The questions of one samples file by their grades on both sides, means over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Graded {
    /// The metric whose grades these are.
    pub metric: String,
    /// Questions with the higher grade on the first side.
    pub higher_a: usize,
    /// Questions with the higher grade on the second.
    pub higher_b: usize,
    /// Questions with the same grade.
    pub same: usize,
    /// Those of the differing ones that were asked for, the largest differences first, then by id.
    pub shown: Vec<Question>,
}

/// One question with the answers of both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Question {
    /// Its id.
    pub id: String,
    /// What the models were given; of the first side where they differ.
    pub prompt: String,
    /// What the answers were compared with.
    pub reference: String,
    /// Grade, mean over the runs.
    pub grade: Both<f64>,
    /// The first answer of every run.
    pub answers: Both<Vec<Answer>>,
}

/// One run's answer.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Label of the run.
    pub run: String,
    /// The answer for readers.
    pub text: String,
    /// Grade name to value.
    pub grades: BTreeMap<String, Option<f64>>,
}

/// Compares two sides; of each samples file at most `most_samples` questions are shown.
///
/// # Errors
/// A samples file cannot be read again.
pub fn against(a: &Side, b: &Side, most_samples: usize) -> Result<Against> {
    let mut axes = row_axes(&a.runs);
    for axis in row_axes(&b.runs) {
        if !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    let groups = Both {
        a: comparison::settings(&a.runs, &axes),
        b: comparison::settings(&b.runs, &axes),
    };
    let (matched, only_a, only_b) = matched(&groups, &axes);
    let label = |runs: &Vec<&Run>| comparison::row(runs, &axes).map(|row| row.label);
    let rows: Vec<Vec<&Run>> = matched
        .iter()
        .flat_map(|(a, b)| [groups.a[*a].clone(), groups.b[*b].clone()])
        .collect();
    let made: Vec<Row> = rows
        .iter()
        .filter_map(|runs| comparison::row(runs, &axes))
        .collect();
    let rows: Vec<Vec<&Run>> = rows.into_iter().map(finished).collect();
    let (metrics, percent) = headlines(a.runs.iter().chain(&b.runs));
    let estimated: Vec<(&String, Vec<Option<Estimate>>, Pairs)> = metrics
        .iter()
        .map(|metric| {
            // Of each pair the first is what the second is compared with.
            let reference = (0..rows.len()).map(|row| (row % 2 == 1).then(|| row - 1));
            let (estimates, pairs) = pairs::estimate(metric, &rows, reference.collect());
            (metric, estimates, pairs)
        })
        .collect();

    let mut pairs = Vec::new();
    for (place, both) in made.chunks_exact(2).enumerate() {
        let [first, second] = both else { continue };
        let (at_a, at_b) = (2 * place, 2 * place + 1);
        let mut of_metrics = BTreeMap::new();
        for (metric, estimates, differences) in &estimated {
            let difference = differences.difference(at_b, at_a);
            let measure = Measure {
                counts: difference.as_ref().and_then(differs),
                questions: differences.questions(at_a).filter(|_| {
                    let test = difference.as_ref().map(|d| d.test);
                    test.is_some_and(|test| test != Test::Unpaired)
                }),
                difference,
                a: estimates[at_a].clone(),
                b: estimates[at_b].clone(),
                percent: percent.contains(*metric),
            };
            if measure.a.is_some() || measure.b.is_some() {
                of_metrics.insert((*metric).clone(), measure);
            }
        }
        let names = of_metrics.keys().cloned().collect::<Vec<String>>();
        pairs.push(Pair {
            labels: both_of(first, second, |row| row.label.clone()),
            runs: Both {
                a: labels(&groups.a[matched[place].0]),
                b: labels(&groups.b[matched[place].1]),
            },
            ended: both_of(first, second, |row| row.ended),
            trainable_parameters: both_of(first, second, |row| row.trainable_parameters),
            held_out_loss: loss(first, second),
            metrics: of_metrics,
            tokens_per_second: both_of(first, second, |row| row.tokens_per_second),
            peak_memory_bytes: both_of(first, second, |row| row.peak_memory_bytes),
            graded: graded(&names, &rows[at_a], &rows[at_b], most_samples)?,
        });
    }
    Ok(Against {
        a: named(a),
        b: named(b),
        settings: settings_that_differ(&a.runs, &b.runs),
        pairs,
        only_a: only_a
            .iter()
            .filter_map(|place| label(&groups.a[*place]))
            .collect(),
        only_b: only_b
            .iter()
            .filter_map(|place| label(&groups.b[*place]))
            .collect(),
    })
}

fn both_of<T>(a: &Row, b: &Row, of: impl Fn(&Row) -> T) -> Both<T> {
    Both { a: of(a), b: of(b) }
}

fn named(side: &Side) -> Named {
    let runs = side.runs.iter().map(|run| &run.record);
    Named {
        name: side.name.clone(),
        runs: runs
            .map(|r| format!("{}/{}", r.experiment, r.run))
            .collect(),
    }
}

fn labels(runs: &[&Run]) -> Vec<String> {
    runs.iter().map(|run| run.record.run.clone()).collect()
}

type Places = Vec<usize>;

/// Places of the settings that are set against each other, and of those without a counterpart.
fn matched(
    groups: &Both<Vec<Vec<&Run>>>,
    axes: &[String],
) -> (Vec<(usize, usize)>, Places, Places) {
    let same_runs = |a: &[&Run], b: &[&Run]| {
        let dirs = |runs: &[&Run]| {
            runs.iter()
                .map(|run| run.dir.clone())
                .collect::<BTreeSet<_>>()
        };
        dirs(a) == dirs(b)
    };
    let key = |runs: &[&Run]| {
        let record = runs.first().map(|run| &run.record);
        record.map(|record| (record.method.clone(), axis_values(record, axes)))
    };
    let one = groups.a.len() == 1 || groups.b.len() == 1;
    let mut found = Vec::new();
    let mut used = (BTreeSet::new(), BTreeSet::new());
    for (at_a, a) in groups.a.iter().enumerate() {
        for (at_b, b) in groups.b.iter().enumerate() {
            if one || key(a) == key(b) {
                used.0.insert(at_a);
                used.1.insert(at_b);
                // A run has nothing to say against itself.
                if !same_runs(a, b) {
                    found.push((at_a, at_b));
                }
            }
        }
    }
    let rest =
        |all: usize, used: &BTreeSet<usize>| (0..all).filter(|p| !used.contains(p)).collect();
    let (rest_a, rest_b) = (rest(groups.a.len(), &used.0), rest(groups.b.len(), &used.1));
    (found, rest_a, rest_b)
}

fn loss(a: &Row, b: &Row) -> Measure {
    let both = b.held_out_loss.as_ref().zip(a.held_out_loss.as_ref());
    let difference = both.map(|(b, a)| unpaired(b, a));
    Measure {
        a: a.held_out_loss.clone(),
        b: b.held_out_loss.clone(),
        counts: difference.as_ref().and_then(differs),
        difference,
        ..Measure::default()
    }
}

/// The grades of both, by the first of `metrics` that has any in each samples file.
fn graded(metrics: &[String], a: &[&Run], b: &[&Run], most: usize) -> Result<Vec<Graded>> {
    let mut files = BTreeSet::new();
    let mut all = Vec::new();
    for metric in metrics {
        let both = pairs::question_grades(metric, a).zip(pairs::question_grades(metric, b));
        let Some(((file, of_a), (_, of_b))) = both else {
            continue;
        };
        if of_a.keys().ne(of_b.keys()) || !files.insert(file) {
            continue;
        }
        let grades = of_a.iter().zip(of_b.values());
        let mut differing: Vec<(&str, f64, f64)> = grades
            .map(|((question, a), b)| (*question, *a, *b))
            .filter(|(_, a, b)| a != b)
            .collect();
        let higher_a = differing.iter().filter(|(_, a, b)| a > b).count();
        let mut found = Graded {
            metric: metric.clone(),
            higher_a,
            higher_b: differing.len() - higher_a,
            same: of_a.len() - differing.len(),
            shown: Vec::new(),
        };
        differing.sort_by(|(x, a, b), (y, c, d)| {
            let larger_first = (c - d).abs().total_cmp(&(a - b).abs());
            larger_first.then_with(|| natural(x).cmp(&natural(y)))
        });
        differing.truncate(most);
        found.shown = questions(file, &differing, a, b)?;
        all.push(found);
    }
    Ok(all)
}

/// `wanted` questions, with their grades, and what the runs answered.
fn questions(
    file: &str,
    wanted: &[(&str, f64, f64)],
    a: &[&Run],
    b: &[&Run],
) -> Result<Vec<Question>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let ids: BTreeSet<String> = wanted.iter().map(|(id, ..)| (*id).to_owned()).collect();
    let of_runs = |runs: &[&Run]| -> Result<Vec<(String, BTreeMap<String, samples::Sample>)>> {
        let mut all = Vec::new();
        for run in runs {
            if let Some(path) = samples::files(&run.dir)?.get(file) {
                all.push((run.record.run.clone(), samples::read_wanted(path, &ids)?));
            }
        }
        Ok(all)
    };
    let (of_a, of_b) = (of_runs(a)?, of_runs(b)?);
    let answers_to = |id: &str, runs: &[(String, BTreeMap<String, samples::Sample>)]| {
        let found = runs
            .iter()
            .filter_map(|(run, found)| Some((run, found.get(id)?)));
        let answer = |(run, sample): (&String, &samples::Sample)| Answer {
            run: run.clone(),
            text: answers::answer(&sample.answer),
            grades: sample.grades.clone(),
        };
        found.map(answer).collect()
    };
    let question = |&(id, grade_a, grade_b): &(&str, f64, f64)| {
        let mut found = of_a
            .iter()
            .chain(&of_b)
            .filter_map(|(_, found)| found.get(id));
        let sample = found.next()?;
        Some(Question {
            id: id.to_owned(),
            prompt: sample.prompt.clone(),
            reference: sample.reference.clone(),
            grade: Both {
                a: grade_a,
                b: grade_b,
            },
            answers: Both {
                a: answers_to(id, &of_a),
                b: answers_to(id, &of_b),
            },
        })
    };
    Ok(wanted.iter().filter_map(question).collect())
}

/// The keys whose values are not the same on both sides, in order.
fn settings_that_differ(a: &[Run], b: &[Run]) -> Vec<Setting> {
    let values = |runs: &[Run]| {
        let mut found: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        for run in runs {
            for (key, value) in settings_of(&run.record) {
                found.entry(key).or_default().insert(natural(&value));
            }
        }
        found
    };
    let (of_a, of_b) = (values(a), values(b));
    let keys: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let texts = |of: &BTreeMap<String, BTreeSet<(bool, u64, String)>>, key: &String| {
        let values = of.get(key).into_iter().flatten();
        values.map(|(.., text)| text.clone()).collect()
    };
    keys.into_iter()
        .filter(|key| of_a.get(*key) != of_b.get(*key))
        .map(|key| Setting {
            key: key.clone(),
            a: texts(&of_a, key),
            b: texts(&of_b, key),
        })
        .collect()
}

/// Everything that a run was made with, by dotted key.
fn settings_of(record: &Record) -> Vec<(String, String)> {
    let mut found = Vec::new();
    flatten("", &record.config, &mut found);
    // The names of experiment and axes say nothing that their keys do not.
    found.retain(|(key, _)| key != "experiment" && !key.starts_with("axes."));
    let data = record
        .data
        .iter()
        .map(|(name, hash)| (format!("data.{name}"), hash.clone()));
    found.extend(data);
    found.push(("host.cpu".into(), record.host.cpu.clone()));
    found.push(("host.cores".into(), record.host.cores.to_string()));
    if let Some(commit) = &record.git_commit {
        found.push(("git_commit".into(), commit.clone()));
    }
    found
}

/// Lists of plain values are one value, lists of tables are numbered.
fn flatten(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let dotted = |key: &str| match prefix {
        "" => key.to_owned(),
        _ => format!("{prefix}.{key}"),
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&dotted(key), value, found);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (place, value) in list.iter().enumerate() {
                flatten(&dotted(&place.to_string()), value, found);
            }
        }
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(plain).collect();
            found.push((prefix.to_owned(), format!("[{}]", texts.join(", "))));
        }
        Value::Null => {}
        _ => found.push((prefix.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
