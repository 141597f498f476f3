//! Whether two settings differ: the difference, its 95 % interval, its p-value, and the one rule that decides.
//!
//! On the same questions the comparison is paired: with 0/1 grades McNemar's exact test (Q. McNemar, Psychometrika 12, 1947,
//! in its binomial form) and the interval of R. G. Newcombe, Statistics in Medicine 17:2635, 1998, method 10; with any other
//! grade, or means over seeds, a bootstrap of the questions ([`crate::bootstrap`]). Without common questions the two are taken
//! as independent ([`unpaired`]).

use serde::Serialize;

use crate::bootstrap;
use crate::statistics::{Estimate, Z95, mean, satterthwaite, standard_deviation, wilson};

/// How a [`Difference`] was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// McNemar's exact test on the same questions.
    McNemar,
    /// Paired bootstrap over the same questions.
    PairedBootstrap,
    /// The same of a mean that weighs its questions, a loss a token.
    WeightedBootstrap,
    /// The same of a score that is no mean at all.
    CorpusBootstrap,
    /// The interval of a difference of independent results; no p-value.
    Unpaired,
}

/// A difference of two settings in one score: the first less the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The difference.
    pub value: f64,
    /// Its 95 % interval; `None` where a side has none.
    pub interval: Option<(f64, f64)>,
    /// p-value of the paired test, for this difference alone.
    pub p: Option<f64>,
    /// The same after Holm's correction for all differences that are judged together.
    pub corrected: Option<f64>,
    /// How it was judged.
    pub test: Test,
}

/// The level at which a difference counts.
pub const LEVEL: f64 = 0.05;

/// Whether a difference is one: its interval leaves out 0 and, where there is a test, its corrected p-value is below
/// [`LEVEL`]. `None` without an interval. Every table and sentence asks this function.
pub fn differs(difference: &Difference) -> Option<bool> {
    let (low, high) = difference.interval?;
    let p = difference.corrected.or(difference.p);
    Some((low > 0.0 || high < 0.0) && p.is_none_or(|p| p < LEVEL))
}

/// The difference of two estimates taken as independent. Its interval is recovered from those of its ends (R. G. Newcombe,
/// Statistics in Medicine 17:873, 1998, method 10; G. Y. Zou and A. Donner, the same 27, 2008).
pub fn unpaired(a: &Estimate, b: &Estimate) -> Difference {
    let value = a.mean - b.mean;
    let interval = a.interval.zip(b.interval).map(|(of_a, of_b)| {
        let low = value - (a.mean - of_a.0).hypot(of_b.1 - b.mean);
        let high = value + (of_a.1 - a.mean).hypot(b.mean - of_b.0);
        (low, high)
    });
    Difference {
        value,
        interval,
        p: None,
        corrected: None,
        test: Test::Unpaired,
    }
}

/// The difference of two proportions on the same questions, from their 0/1 grades in the same order.
pub fn binary(a: &[f64], b: &[f64]) -> Difference {
    let (mut both, mut first, mut second, mut neither) = (0, 0, 0, 0);
    for (a, b) in a.iter().zip(b) {
        match (*a > 0.5, *b > 0.5) {
            (true, true) => both += 1,
            (true, false) => first += 1,
            (false, true) => second += 1,
            (false, false) => neither += 1,
        }
    }
    let n = (both + first + second + neither) as f64;
    Difference {
        value: (first as f64 - second as f64) / n,
        interval: newcombe_paired(both, first, second, neither),
        p: Some(mcnemar(first, second)),
        corrected: None,
        test: Test::McNemar,
    }
}

/// A setting's grades by question, and their mean in each resample.
#[derive(Debug, Clone, Copy)]
pub struct Resampled<'a> {
    /// One grade a question.
    pub grades: &'a [f64],
    /// Of [`bootstrap::resampled_means`]; both sides of a difference from the same resamples.
    pub means: &'a [f64],
}

/// The difference of two means on the same questions.
///
/// `seeds` has the standard deviation over seeds and their number, for each side with more than one. Their variance counts
/// too: the resampled differences are stretched around the difference until they have both, by [`satterthwaite`], so that
/// interval and p-value stay those of one sample. A side with one seed stands for that seed alone.
///
/// The p-value is at least `2^(1 - m)` for `m` questions whose grades differ, the least that an exact test of signs can give: a
/// resample leaves out a handful of questions too seldom.
///
/// `None` where the questions do not vary but the seeds do: nothing can be stretched then.
pub fn bootstrapped(a: Resampled, b: Resampled, seeds: &[(f64, usize)]) -> Option<Difference> {
    let questions = a.grades.len();
    let value = mean(a.grades)? - mean(b.grades)?;
    let differing = a
        .grades
        .iter()
        .zip(b.grades)
        .filter(|(a, b)| a != b)
        .count();
    let least = 2.0 * 0.5f64.powi(i32::try_from(differing).unwrap_or(i32::MAX));
    let differences = a.means.iter().zip(b.means).map(|(a, b)| a - b).collect();
    let found = stretched(value, differences, questions, seeds)?;
    Some(Difference {
        p: found.p.map(|p| p.max(least).min(1.0)),
        ..found
    })
}

/// The difference of two scores of the same `questions` that are no means of grades, from the scores of the same resamples of both;
/// `seeds` as in [`bootstrapped`]. Resamples in which a side has no score are left out.
pub fn of_corpora(
    value: f64,
    a: &[f64],
    b: &[f64],
    questions: usize,
    seeds: &[(f64, usize)],
) -> Option<Difference> {
    let differences = a.iter().zip(b).map(|(a, b)| a - b);
    let differences: Vec<f64> = differences.filter(|d| d.is_finite()).collect();
    // As with a standard error: a score that most resamples lack has no distribution.
    if 2 * differences.len() <= a.len() {
        return None;
    }
    let found = stretched(value, differences, questions, seeds)?;
    let test = match a.len() {
        bootstrap::RESAMPLES => Test::WeightedBootstrap,
        _ => Test::CorpusBootstrap,
    };
    Some(Difference { test, ..found })
}

/// Interval and p-value of `value` from resampled differences, with the variance of the seeds.
fn stretched(
    value: f64,
    mut differences: Vec<f64>,
    questions: usize,
    seeds: &[(f64, usize)],
) -> Option<Difference> {
    let of_questions = standard_deviation(&differences)?.powi(2);
    let mut parts = vec![(of_questions, questions as f64 - 1.0)];
    parts.extend(
        seeds
            .iter()
            .map(|(deviation, k)| (deviation * deviation / *k as f64, *k as f64 - 1.0)),
    );
    let (variance, t) = satterthwaite(&parts);
    if variance > of_questions {
        if of_questions == 0.0 {
            return None;
        }
        let stretch = (variance / of_questions).sqrt() * t / Z95;
        for difference in &mut differences {
            *difference = value + (*difference - value) * stretch;
        }
    }
    Some(Difference {
        value,
        interval: bootstrap::percentile_interval(&differences),
        p: Some(bootstrap::p_value(&differences)),
        corrected: None,
        test: Test::PairedBootstrap,
    })
}

impl Difference {
    /// The same difference from the other side.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            value: -self.value,
            interval: self.interval.map(|(low, high)| (-high, -low)),
            ..self.clone()
        }
    }
}

/// Two-sided p-value of McNemar's exact test from the questions that only the first, and only the second, has right: twice the
/// smaller tail of a binomial with probability 1/2, at most 1.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let n = only_first + only_second;
    let k = only_first.min(only_second);
    // The largest term by logarithms, since 2^-n leaves the floating-point numbers; the others by their ratio to it.
    let largest: f64 = (1..=k)
        .map(|i| ((n - k + i) as f64 / i as f64).ln())
        .sum::<f64>()
        - n as f64 * std::f64::consts::LN_2;
    let (mut sum, mut term) = (1.0, 1.0);
    for i in (1..=k).rev() {
        term *= i as f64 / (n - i + 1) as f64;
        sum += term;
    }
    (2.0 * largest.exp() * sum).min(1.0)
}

/// Newcombe's 95 % interval of a difference of paired proportions (method 10): the Wilson intervals of both, combined with
/// the correlation of the grades, continuity-corrected. `None` without questions.
pub fn newcombe_paired(both: u64, first: u64, second: u64, neither: u64) -> Option<(f64, f64)> {
    let n = both + first + second + neither;
    if n == 0 {
        return None;
    }
    let p = |count: u64| count as f64 / n as f64;
    let (p1, p2) = (p(both + first), p(both + second));
    let ((low1, high1), (low2, high2)) = (wilson(p1, n), wilson(p2, n));
    let margins = [
        both + first,
        second + neither,
        both + second,
        first + neither,
    ];
    let product: f64 = margins.iter().map(|margin| *margin as f64).product();
    let raw = both as f64 * neither as f64 - first as f64 * second as f64;
    let corrected = if raw > 0.0 {
        (raw - n as f64 / 2.0).max(0.0)
    } else {
        raw
    };
    let phi = if product > 0.0 {
        corrected / product.sqrt()
    } else {
        0.0
    };
    let half = |a: f64, b: f64| (a * a - 2.0 * phi * a * b + b * b).max(0.0).sqrt();
    let value = p1 - p2;
    Some((
        value - half(p1 - low1, high2 - p2),
        value + half(high1 - p1, p2 - low2),
    ))
}

/// Holm's correction of `p` values that are judged together (S. Holm, Scandinavian Journal of Statistics 6, 1979), in their order.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - rank) as f64).min(1.0);
        corrected[index] = largest;
    }
    corrected
}
