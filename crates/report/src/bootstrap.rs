//! Resampling of questions: percentile intervals and p-values without an assumed distribution.
//!
//! B. Efron, Annals of Statistics 7, 1979; percentile intervals and paired differences as in Efron and R. Tibshirani, An
//! Introduction to the Bootstrap, 1993, chapter 13. The two-sided p-value inverts the interval; its `+ 1` is that of
//! A. Davison and D. Hinkley, Bootstrap Methods and their Application, 1997, section 4.2. Plain percentiles rather than BCa:
//! the means and differences of means here are nearly symmetric, and interval and p-value then come from one sample.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

/// Resamples behind every interval and p-value.
pub const RESAMPLES: usize = 10_000;

/// Below this many questions the percentile interval of a mean is too narrow to be trusted.
pub const FEWEST: usize = 20;

/// Resamples that share a stream of the generator: fixed, so that the number of threads decides nothing.
const CHUNK: usize = 250;

/// `statistic` of [`RESAMPLES`] draws of `n` indices below `n`, with replacement. The same `seed` gives the same bits,
/// whatever the number of threads. Resamples without a finite statistic are left out.
///
/// For paired comparisons the statistic is a difference: of the two scores of the drawn questions.
pub fn resample(
    n: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Vec<f64> {
    let of = |indices: &[usize]| statistic(indices).filter(|value| value.is_finite());
    draws(n, seed, of).into_iter().flatten().collect()
}

/// Resamples of a score of a whole corpus, which costs more than a mean.
pub const CORPUS_RESAMPLES: usize = 1_000;

/// Seed of all resampling in reports; a constant, since they have no other chance in them.
pub const SEED: u64 = 0;

/// A score of the chosen of `n` questions in each of [`CORPUS_RESAMPLES`] resamples, the same ones for every run; NaN where it has none.
/// The difference of two runs, resample by resample, is then the paired bootstrap of their difference.
pub fn resampled_scores(n: usize, score: impl Fn(&[usize]) -> Option<f64> + Sync) -> Vec<f64> {
    let of = |indices: &[usize]| score(indices).unwrap_or(f64::NAN);
    some_draws(CORPUS_RESAMPLES, n, SEED, of)
}

/// The same of a weighted mean, which is cheap: in each of [`RESAMPLES`] resamples.
pub fn resampled_weighted(n: usize, mean: impl Fn(&[usize]) -> Option<f64> + Sync) -> Vec<f64> {
    let of = |indices: &[usize]| mean(indices).unwrap_or(f64::NAN);
    some_draws(RESAMPLES, n, SEED, of)
}

/// Means of every row of `rows` (all of the same length, the number of questions) over the same resamples: `[row][resample]`.
/// The difference of two rows, resample by resample, is then the paired bootstrap of their difference.
pub fn resampled_means(rows: &[&[f64]], seed: u64) -> Vec<Vec<f64>> {
    let n = rows.first().map_or(0, |row| row.len());
    // By question: a resample then reads whole cache lines.
    let width = rows.len();
    let mut by_question = vec![0.0; n * width];
    for (place, row) in rows.iter().enumerate() {
        for (question, value) in row.iter().enumerate() {
            by_question[question * width + place] = *value;
        }
    }
    let means = draws(n, seed, |indices| {
        let mut sums = vec![0.0; width];
        for index in indices {
            let values = &by_question[index * width..(index + 1) * width];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= n as f64);
        sums
    });
    (0..width)
        .map(|row| means.iter().map(|of_rows| of_rows[row]).collect())
        .collect()
}

/// What `of` makes of each resample's indices, in order.
fn draws<T: Send>(n: usize, seed: u64, of: impl Fn(&[usize]) -> T + Sync) -> Vec<T> {
    some_draws(RESAMPLES, n, seed, of)
}

fn some_draws<T: Send>(
    count: usize,
    n: usize,
    seed: u64,
    of: impl Fn(&[usize]) -> T + Sync,
) -> Vec<T> {
    if n == 0 {
        return Vec::new();
    }
    let chunks: Vec<Vec<T>> = (0..count / CHUNK)
        .into_par_iter()
        .map(|chunk| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(chunk as u64);
            let mut indices = vec![0; n];
            (0..CHUNK)
                .map(|_| {
                    for index in &mut indices {
                        // Uniform but for a bias of n / 2^32.
                        *index = ((u64::from(random.next_u32()) * n as u64) >> 32) as usize;
                    }
                    of(&indices)
                })
                .collect()
        })
        .collect();
    chunks.into_iter().flatten().collect()
}

/// The 95 % percentile interval of resampled statistics, with linear interpolation between ranks; `None` of nothing.
pub fn percentile_interval(resampled: &[f64]) -> Option<(f64, f64)> {
    let mut values = resampled.to_vec();
    values.retain(|value| value.is_finite());
    let mut quantile = |q: f64| {
        let place = q * values.len().checked_sub(1)? as f64;
        let (_, low, above) = values.select_nth_unstable_by(place as usize, f64::total_cmp);
        let low = *low;
        let high = above.iter().copied().fold(f64::INFINITY, f64::min);
        let high = if high.is_finite() { high } else { low };
        Some(low + (high - low) * place.fract())
    };
    Some((quantile(0.025)?, quantile(0.975)?))
}

/// Two-sided p-value of "the difference is 0" from resampled differences: `2 (1 + k) / (resamples + 1)`, at most 1, where `k`
/// counts the resamples on the rarer side of 0, zeros included.
pub fn p_value(resampled: &[f64]) -> f64 {
    let not_above = resampled.iter().filter(|value| **value <= 0.0).count();
    let not_below = resampled.iter().filter(|value| **value >= 0.0).count();
    let rarer = not_above.min(not_below) as f64;
    (2.0 * (1.0 + rarer) / (resampled.len() as f64 + 1.0)).min(1.0)
}
