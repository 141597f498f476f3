//! Standard error of a score that is no mean, by the bootstrap (Efron 1979).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const RESAMPLES: usize = 1000;

/// Standard deviation of `score` over 1,000 resamples of `values`, drawn with replacement from one fixed seed: the same
/// values in the same order give the same bits. Resamples without a score are left out.
///
/// `None` for fewer than two values, or where more than half of the resamples have no score.
pub fn standard_error<T: Copy>(values: &[T], score: impl Fn(&[T]) -> Option<f64>) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut index = || ((u128::from(random.next_u64()) * values.len() as u128) >> 64) as usize;
    let scores: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let resample: Vec<T> = values.iter().map(|_| values[index()]).collect();
            score(&resample)
        })
        .collect();
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (scores.len() > RESAMPLES / 2).then(|| (squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> Option<f64> {
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Of a mean the answer is known: s / sqrt(n). A thousand resamples give it to some per cent.
    #[test]
    fn of_a_mean() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 5)).collect();
        let found = standard_error(&values, mean).unwrap();
        let wanted = (2.0f64 / 400.0).sqrt();
        assert!((found / wanted - 1.0).abs() < 0.08, "{found} {wanted}");
        assert_eq!(standard_error(&values, mean), Some(found));
    }

    #[test]
    fn where_there_is_none() {
        assert_eq!(standard_error(&[1.0], mean), None);
        assert_eq!(standard_error(&[1.0, 2.0], |_| None), None);
        assert_eq!(standard_error(&[1.0, 1.0], mean), Some(0.0));
    }
}
