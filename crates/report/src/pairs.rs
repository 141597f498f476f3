//! All settings of a table on one metric: the estimate of each, and every pair's difference.
//!
//! Two settings are paired where the samples of all their runs are there, with the same questions, and their grades' mean is
//! the metric; several seeds count as the mean of their grades, question by question. All resamples of a table are the same
//! ones. p-values are Holm-corrected in two families: the pairs with the reference, and all others.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::bootstrap::{self, FEWEST, SEED, percentile_interval, resampled_means};
use crate::difference::{
    Difference, Resampled, Test, binary, bootstrapped, holm, of_corpora, unpaired,
};
use crate::record::{Metric, Run};
use crate::samples::Grades;
use crate::statistics::{self, Estimate};

/// Names of metrics whose grade is called otherwise, without the split that may follow.
const GRADES: [(&str, &str); 2] = [("accuracy", "correct"), ("pass@1", "passed")];

/// The differences of the rows of a table.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    /// By rows `(a, b)`, `a < b`: `a` less `b`.
    differences: BTreeMap<(usize, usize), Difference>,
    /// For each row the one it is compared with.
    reference: Vec<Option<usize>>,
    /// For each row the number of questions behind its grades.
    questions: Vec<Option<usize>>,
}

impl Pairs {
    /// Row `a` less row `b`; `None` where one has no value.
    pub fn difference(&self, a: usize, b: usize) -> Option<Difference> {
        let stored = self.differences.get(&(a.min(b), a.max(b)))?;
        Some(if a < b {
            stored.clone()
        } else {
            stored.reversed()
        })
    }

    /// A row less the row that it is compared with, and which that is.
    pub fn to_reference(&self, row: usize) -> Option<(usize, Difference)> {
        let reference = (*self.reference.get(row)?)?;
        Some((reference, self.difference(row, reference)?))
    }

    /// How the pairs were judged, each test once.
    pub fn tests(&self) -> Vec<Test> {
        let mut tests: Vec<Test> = self.differences.values().map(|d| d.test).collect();
        tests.sort_unstable();
        tests.dedup();
        tests
    }

    /// The number of questions behind a row's grades.
    pub fn questions(&self, row: usize) -> Option<usize> {
        *self.questions.get(row)?
    }

    /// Number of comparisons with a reference that have a p-value.
    pub fn corrected(&self) -> usize {
        let with_reference = (0..self.reference.len()).filter_map(|row| self.to_reference(row));
        with_reference.filter(|(_, d)| d.p.is_some()).count()
    }

    /// All pairs of estimates that are `comparable`, taken as independent.
    pub fn unpaired(
        estimates: &[Option<&Estimate>],
        comparable: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let all = pairs(estimates.len()).filter(|(a, b)| comparable(*a, *b));
        let differences = all.filter_map(|(a, b)| {
            let difference = unpaired(estimates[a]?, estimates[b]?);
            Some(((a, b), difference))
        });
        Self {
            differences: differences.collect(),
            ..Self::default()
        }
    }

    fn correct(&mut self) {
        let with_reference =
            |&(a, b): &(usize, usize)| self.reference[a] == Some(b) || self.reference[b] == Some(a);
        for family in [true, false] {
            let mut tested: Vec<&mut Difference> = self
                .differences
                .iter_mut()
                .filter(|(pair, _)| with_reference(pair) == family)
                .map(|(_, difference)| difference)
                .filter(|difference| difference.p.is_some())
                .collect();
            let p: Vec<f64> = tested
                .iter()
                .filter_map(|difference| difference.p)
                .collect();
            for (difference, corrected) in tested.iter_mut().zip(holm(&p)) {
                difference.corrected = Some(corrected);
            }
        }
    }
}

fn pairs(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |a| (a + 1..rows).map(move |b| (a, b)))
}

/// A setting's grades behind one metric.
struct Graded<'a> {
    /// The questions, of all its runs the same.
    questions: &'a BTreeMap<String, u64>,
    /// Mean over the runs, in the questions' order.
    values: Vec<f64>,
    /// Whether it is one run whose every grade is 0 or 1.
    binary: bool,
}

/// The estimates of `rows` on `metric`, each the finished runs of one setting, and their differences; `reference` has for each
/// row the one it is compared with.
pub fn estimate(
    metric: &str,
    rows: &[Vec<&Run>],
    reference: Vec<Option<usize>>,
) -> (Vec<Option<Estimate>>, Pairs) {
    let scored: Vec<Vec<(&Run, &Metric)>> = rows.iter().map(|runs| scored(metric, runs)).collect();
    let graded: Vec<Option<Graded>> = scored.iter().map(|runs| graded(metric, runs)).collect();
    let resampled = resampled(&graded);
    let corpora: Vec<Option<Corpus>> = scored.iter().map(|runs| corpus(metric, runs)).collect();

    let estimates: Vec<Option<Estimate>> = scored
        .iter()
        .zip(&resampled)
        .zip(&corpora)
        .map(|((runs, resampled), corpus)| {
            let values: Vec<_> = runs.iter().map(|(_, m)| (m.value, m.stderr, m.n)).collect();
            let of_corpus = corpus.as_ref().map(|corpus| corpus.scores.as_slice());
            let resampled = resampled.as_deref().or(of_corpus);
            statistics::metric(&values, resampled.and_then(percentile_interval))
        })
        .collect();

    let difference = |(a, b): (usize, usize)| {
        let (of_a, of_b) = (estimates[a].as_ref()?, estimates[b].as_ref()?);
        let paired = graded[a]
            .as_ref()
            .zip(graded[b].as_ref())
            .filter(|(a, b)| a.questions == b.questions);
        let seeds = [of_a, of_b].map(|e| Some((e.deviation?, e.seeds)));
        let seeds: Vec<(f64, usize)> = seeds.into_iter().flatten().collect();
        let difference = match (paired, &resampled[a], &resampled[b]) {
            (Some((a, b)), ..) if a.binary && b.binary => Some(binary(&a.values, &b.values)),
            (Some((first, second)), Some(a), Some(b)) => {
                let first = Resampled {
                    grades: &first.values,
                    means: a,
                };
                let second = Resampled {
                    grades: &second.values,
                    means: b,
                };
                bootstrapped(first, second, &seeds)
            }
            _ => {
                let corpora = corpora[a].as_ref().zip(corpora[b].as_ref());
                let paired = corpora.filter(|(a, b)| a.questions == b.questions);
                paired.and_then(|(a, b)| {
                    let value = of_a.mean - of_b.mean;
                    of_corpora(value, &a.scores, &b.scores, a.questions.len(), &seeds)
                })
            }
        };
        Some(((a, b), difference.unwrap_or_else(|| unpaired(of_a, of_b))))
    };
    let all: Vec<(usize, usize)> = pairs(rows.len()).collect();
    let mut pairs = Pairs {
        differences: all.into_par_iter().filter_map(difference).collect(),
        reference,
        questions: graded
            .iter()
            .zip(&corpora)
            .map(|(graded, corpus)| match (graded, corpus) {
                (Some(graded), _) => Some(graded.values.len()),
                (None, corpus) => Some(corpus.as_ref()?.questions.len()),
            })
            .collect(),
    };
    pairs.correct();
    (estimates, pairs)
}

/// Those of `runs` that have a value of `metric`.
fn scored<'a>(metric: &str, runs: &[&'a Run]) -> Vec<(&'a Run, &'a Metric)> {
    let scores = runs
        .iter()
        .filter_map(|run| Some((*run, run.record.metrics.get(metric)?)));
    scores
        .filter(|(_, score)| score.value.is_finite())
        .collect()
}

/// The grade behind `metric` of every question, its mean over `runs`, and the name of the samples file. `None` where
/// [`estimate`] could pair nothing by grades.
pub fn question_grades<'a>(
    metric: &str,
    runs: &[&'a Run],
) -> Option<(&'a str, BTreeMap<&'a str, f64>)> {
    let scored = scored(metric, runs);
    let (file, ..) = samples_of(metric, scored.first()?.0)?;
    let graded = graded(metric, &scored)?;
    let questions = graded.questions.keys().map(String::as_str);
    Some((file, questions.zip(graded.values).collect()))
}

/// The resampled mean of every row with enough questions, wherever one with the same questions needs it.
fn resampled(graded: &[Option<Graded>]) -> Vec<Option<Vec<f64>>> {
    let mut resampled: Vec<Option<Vec<f64>>> = graded.iter().map(|_| None).collect();
    let mut done = vec![false; graded.len()];
    for row in 0..graded.len() {
        let Some(first) = graded[row]
            .as_ref()
            .filter(|g| !done[row] && g.values.len() >= FEWEST)
        else {
            continue;
        };
        let same: Vec<(usize, &Graded)> = graded
            .iter()
            .enumerate()
            .filter_map(|(place, other)| Some((place, other.as_ref()?)))
            .filter(|(_, other)| other.questions == first.questions)
            .collect();
        same.iter().for_each(|(place, _)| done[*place] = true);
        if same.iter().all(|(_, g)| g.binary) {
            continue;
        }
        let values: Vec<&[f64]> = same.iter().map(|(_, g)| g.values.as_slice()).collect();
        for ((place, _), means) in same.iter().zip(resampled_means(&values, SEED)) {
            resampled[*place] = Some(means);
        }
    }
    resampled
}

/// The grades behind `metric` of all runs; `None` where a run has none, or other questions than the first.
fn graded<'a>(metric: &str, runs: &[(&'a Run, &Metric)]) -> Option<Graded<'a>> {
    let of_runs: Option<Vec<(&Grades, &BTreeMap<String, f64>)>> = runs
        .iter()
        .map(|(run, score)| grades(metric, run, score))
        .collect();
    let of_runs = of_runs?;
    let questions = &of_runs.first()?.0.questions;
    if of_runs
        .iter()
        .any(|(grades, _)| grades.questions != *questions)
    {
        return None;
    }
    let mut values = vec![0.0; questions.len()];
    for (_, grades) in &of_runs {
        for (sum, value) in values.iter_mut().zip(grades.values()) {
            *sum += value;
        }
    }
    values
        .iter_mut()
        .for_each(|sum| *sum /= of_runs.len() as f64);
    Some(Graded {
        questions,
        binary: of_runs.len() == 1 && values.iter().all(|value| *value == 0.0 || *value == 1.0),
        values,
    })
}

/// A setting's scores of a whole corpus.
struct Corpus<'a> {
    /// The questions, of all its runs the same.
    questions: &'a BTreeMap<String, u64>,
    /// Mean over the runs, resample by resample; NaN where one has none.
    scores: Vec<f64>,
}

/// The resampled scores of all runs; `None` where a run has none, or other questions than the first, or few.
fn corpus<'a>(metric: &str, runs: &[(&'a Run, &Metric)]) -> Option<Corpus<'a>> {
    let of_runs: Option<Vec<(&Grades, &Vec<f64>)>> = runs
        .iter()
        .map(|(run, _)| Some((samples_of(metric, run)?.1, run.resampled.get(metric)?)))
        .collect();
    let of_runs = of_runs?;
    let (first, scores) = of_runs.first()?;
    let questions = &first.questions;
    let same = |(grades, of_run): &(&Grades, &Vec<f64>)| {
        grades.questions == *questions && of_run.len() == scores.len()
    };
    if questions.len() < FEWEST || !of_runs.iter().all(same) {
        return None;
    }
    let mean = |place: usize| {
        let sum: f64 = of_runs.iter().map(|(_, scores)| scores[place]).sum();
        sum / of_runs.len() as f64
    };
    Some(Corpus {
        questions,
        scores: (0..scores.len()).map(mean).collect(),
    })
}

/// The samples behind `metric`, `TASK/NAME`, those of the task or of the split that the name ends with: the name of their file,
/// they themselves, and the metric's name without the split.
fn samples_of<'a, 'b>(metric: &'b str, run: &'a Run) -> Option<(&'a str, &'a Grades, &'b str)> {
    let (task, name) = metric.split_once('/')?;
    run.grades.iter().find_map(|(file, grades)| {
        let name = match file.strip_prefix(task)? {
            "" => name,
            split => name
                .strip_suffix(split.strip_prefix('-')?)?
                .strip_suffix('_')?,
        };
        Some((file.as_str(), grades, name))
    })
}

/// One run's grades behind `metric`, `TASK/NAME`: those of the samples of the task, or of the split that the name ends with,
/// which have the metric's name and, every question graded, its value as their mean.
fn grades<'a>(
    metric: &str,
    run: &'a Run,
    score: &Metric,
) -> Option<(&'a Grades, &'a BTreeMap<String, f64>)> {
    let (_, grades, name) = samples_of(metric, run)?;
    let called = GRADES
        .iter()
        .find(|(metric, _)| *metric == name)
        .map_or(name, |(_, grade)| grade);
    let values = grades
        .by_name
        .get(name)
        .or_else(|| grades.by_name.get(called))?;
    let mean = values.values().sum::<f64>() / values.len() as f64;
    let whole = values.len() == grades.questions.len();
    (whole && (mean - score.value).abs() < 1e-9).then_some((grades, values))
}

/// How a test is called in notes, over `questions`.
pub fn name(test: Test) -> String {
    match test {
        Test::McNemar => "McNemar's exact test".to_owned(),
        Test::PairedBootstrap => format!(
            "a paired bootstrap of {} resamples of the questions",
            crate::number::thousands(bootstrap::RESAMPLES as u64)
        ),
        Test::WeightedBootstrap => name(Test::PairedBootstrap),
        Test::CorpusBootstrap => format!(
            "a paired bootstrap of {} resamples of the questions",
            crate::number::thousands(bootstrap::CORPUS_RESAMPLES as u64)
        ),
        Test::Unpaired => "the interval of a difference of independent results".to_owned(),
    }
}
