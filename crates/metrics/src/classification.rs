//! Scores of predicted classes: accuracy, F1 of one class, Matthews correlation.
//!
//! Formulas and degenerate values are those of scikit-learn (`accuracy_score`, binary `f1_score`,
//! `matthews_corrcoef`): a score whose denominator is zero is 0. Deviation: without examples, where
//! scikit-learn raises an error, a score is `None`.
//!
//! All take pairs (true class, predicted class). A class is any number; there is no list of classes to give, as a
//! class that is neither true nor predicted changes no score.

use std::collections::HashMap;

/// Share of examples whose class is predicted, in 0..=1. `None` without examples.
pub fn accuracy(pairs: &[(usize, usize)]) -> Option<f64> {
    let correct = pairs.iter().filter(|(truth, found)| truth == found).count();
    (!pairs.is_empty()).then(|| correct as f64 / pairs.len() as f64)
}

/// F1 of class `positive`, 2 TP / (2 TP + FP + FN), in 0..=1. `None` without examples; 0 where `positive` is neither
/// true nor predicted.
pub fn f1(pairs: &[(usize, usize)], positive: usize) -> Option<f64> {
    let count = |wanted: fn(bool, bool) -> bool| {
        pairs
            .iter()
            .filter(|(truth, found)| wanted(*truth == positive, *found == positive))
            .count() as f64
    };
    let both = count(|truth, found| truth && found);
    let either = count(|truth, found| truth || found);
    (!pairs.is_empty()).then(|| quotient(2.0 * both, both + either))
}

/// Matthews correlation over any number of classes (Gorodkin's R_K), in -1..=1. `None` without examples; 0 where all
/// examples are of one class or all predictions are.
///
/// With n examples, c of them right, t_k true and p_k predicted of class k:
/// (c n - sum t_k p_k) / sqrt((n² - sum p_k²) (n² - sum t_k²)).
pub fn matthews(pairs: &[(usize, usize)]) -> Option<f64> {
    let mut counts: HashMap<usize, [u128; 2]> = HashMap::new();
    for (truth, found) in pairs {
        counts.entry(*truth).or_default()[0] += 1;
        counts.entry(*found).or_default()[1] += 1;
    }
    // Whole numbers: the order of the classes changes no bit, and cancellation loses none.
    let dot = |a: usize, b: usize| counts.values().map(|k| k[a] * k[b]).sum::<u128>();
    let n = pairs.len() as u128;
    let correct = pairs.iter().filter(|(truth, found)| truth == found).count() as u128;
    let covariance = (correct * n) as f64 - dot(0, 1) as f64;
    let spread = (n * n - dot(0, 0)) as f64 * (n * n - dot(1, 1)) as f64;
    (!pairs.is_empty()).then(|| quotient(covariance, spread.sqrt()))
}

fn quotient(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}
