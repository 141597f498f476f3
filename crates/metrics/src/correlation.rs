//! Correlations of two series of numbers: Pearson's, and Spearman's with average ranks for ties.
//!
//! Formulas are those of SciPy (`pearsonr`, `spearmanr`). `None` stands for a correlation that is not defined: fewer
//! than two pairs (an error or NaN in SciPy), a constant series, or a NaN anywhere (NaN in SciPy).

/// Pearson's correlation coefficient of pairs (x, y), in -1..=1.
///
/// `None` where it is not defined, see the module's text; also where a value is infinite.
pub fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = unit(pairs.iter().map(|pair| pair.0).collect())?;
    let y = unit(pairs.iter().map(|pair| pair.1).collect())?;
    let sum: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
    Some(sum.clamp(-1.0, 1.0))
}

/// Spearman's rank correlation of pairs (x, y), in -1..=1: Pearson's over ranks.
///
/// `None` where it is not defined, see the module's text. Infinite values have ranks like others.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = ranks(pairs.iter().map(|pair| pair.0).collect())?;
    let y = ranks(pairs.iter().map(|pair| pair.1).collect())?;
    let ranked: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
    pearson(&ranked)
}

/// The series without its mean and of length 1. `None` for fewer than two values, equal values, values not finite.
///
/// The mean comes first, in a pass of its own: sums of squares less the square of the sum would cancel. Deviations are
/// scaled by the largest before they are squared, so that neither huge nor tiny ones leave the range of f64.
fn unit(mut values: Vec<f64>) -> Option<Vec<f64>> {
    let first = values.first()?;
    if values.iter().all(|value| value == first) {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|value| *value -= mean);
    let largest = values.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
    values.iter_mut().for_each(|value| *value /= largest);
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.iter_mut().for_each(|value| *value /= length);
    // NaN here is a value that was not finite, or a mean out of range.
    length.is_finite().then_some(values)
}

/// Ranks from 1, equal values sharing the mean of theirs. `None` where a value is NaN.
fn ranks(values: Vec<f64>) -> Option<Vec<f64>> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    // By `==`: 0 and -0 are neighbours in the order, and tied.
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = start as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&index| ranks[index] = mean);
        start += tied.len();
    }
    Some(ranks)
}
