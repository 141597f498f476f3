//! Means and intervals of one setting; whether two differ is in [`crate::difference`].

use serde::Serialize;

/// The two-sided 95 % point of the normal distribution.
pub const Z95: f64 = 1.959_963_984_540_054;

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation (divisor n - 1); `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    (values.len() > 1).then(|| {
        let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
        (squares / (values.len() - 1) as f64).sqrt()
    })
}

/// The 95 % score interval of a proportion `p` of `n` trials (E. B. Wilson, JASA 22, 1927).
pub fn wilson(p: f64, n: u64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let n = n as f64;
    let z2 = Z95 * Z95;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At 0 and 1 the end is exact; rounding must not move it past the estimate.
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}

/// The two-sided 95 % point of Student's t with `freedom` degrees of freedom; the normal one above 30.
pub fn student95(freedom: usize) -> f64 {
    const POINTS: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    freedom
        .checked_sub(1)
        .and_then(|index| POINTS.get(index))
        .copied()
        .unwrap_or(Z95)
}

/// A result over the seeds of one setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Mean over the seeds.
    pub mean: f64,
    /// What stands behind `±`: a standard deviation over seeds (losses) or a standard error (metrics).
    pub spread: Option<f64>,
    /// 95 % interval of the mean, where there is one.
    pub interval: Option<(f64, f64)>,
    /// Examples scored; 0 for losses.
    pub n: u64,
    /// Number of seeds.
    pub seeds: usize,
    /// Standard deviation over the seeds, of more than one.
    pub deviation: Option<f64>,
}

/// A loss over seeds. One seed has no interval: its own noise cannot be told.
pub fn loss(values: &[f64]) -> Option<Estimate> {
    let mean = mean(values)?;
    let spread = standard_deviation(values);
    Some(Estimate {
        mean,
        spread,
        interval: spread.map(|spread| seed_interval(mean, spread, values.len())),
        n: 0,
        seeds: values.len(),
        deviation: spread,
    })
}

fn seed_interval(mean: f64, deviation: f64, seeds: usize) -> (f64, f64) {
    let half = student95(seeds.saturating_sub(1)) * deviation / (seeds as f64).sqrt();
    (mean - half, mean + half)
}

/// Whether a standard error is the binomial one of proportion `p` of `n` (divisor n or n - 1).
pub fn is_binomial(p: f64, stderr: f64, n: u64) -> bool {
    if n == 0 || !(0.0..=1.0).contains(&p) {
        return false;
    }
    let binomial = (p * (1.0 - p) / n as f64).sqrt();
    let other = (p * (1.0 - p) / (n.max(2) - 1) as f64).sqrt();
    let near = |expected: f64| (stderr - expected).abs() <= 1e-3 * expected + 1e-9;
    near(binomial) || near(other)
}

/// A sum of independent variances with their degrees of freedom: the variance, and the 95 % point of Student's t with the
/// degrees of freedom that F. E. Satterthwaite gives the sum (Biometrics Bulletin 2, 1946), rounded down.
pub fn satterthwaite(parts: &[(f64, f64)]) -> (f64, f64) {
    let variance: f64 = parts.iter().map(|(variance, _)| variance).sum();
    let scaled: f64 = parts
        .iter()
        .map(|(variance, freedom)| variance * variance / freedom)
        .sum();
    let freedom = if scaled > 0.0 {
        variance * variance / scaled
    } else {
        f64::INFINITY
    };
    (variance, student95(freedom as usize))
}

/// A metric over seeds, from `(value, standard error, n)` of each.
///
/// Every seed answers the same questions, so the error from their choice does not shrink with more
/// seeds: the variance is the questions' (the mean standard error, squared) and the seeds' own (deviation squared / k), and the
/// interval has both by [`satterthwaite`]. From the choice of questions proportions get [`wilson`]'s interval, other scores
/// `resampled`, that of a bootstrap of the questions, or where there is none the normal one of their standard error (which
/// for scores of a whole corpus, such as BLEU and F1, is a bootstrap's too).
pub fn metric(
    values: &[(f64, Option<f64>, u64)],
    resampled: Option<(f64, f64)>,
) -> Option<Estimate> {
    let scores: Vec<f64> = values.iter().map(|&(value, ..)| value).collect();
    let mean_score = mean(&scores)?;
    let n = values.iter().map(|&(.., n)| n).min().unwrap_or(0);
    let errors: Vec<f64> = values.iter().filter_map(|&(_, error, _)| error).collect();
    let question_error = (errors.len() == values.len())
        .then(|| mean(&errors))
        .flatten();
    let deviation = standard_deviation(&scores);
    let seed_error = deviation.map(|deviation| deviation / (scores.len() as f64).sqrt());

    let proportion = values
        .iter()
        .all(|&(value, error, n)| error.is_some_and(|error| is_binomial(value, error, n)));
    let question_interval = if proportion {
        Some(wilson(mean_score, n))
    } else {
        let normal = |error| (mean_score - Z95 * error, mean_score + Z95 * error);
        resampled.or(question_error.map(normal))
    };
    let (spread, interval) = match (question_error, question_interval, deviation, seed_error) {
        (Some(of_questions), Some((low, high)), _, Some(of_seeds)) => {
            let parts = [
                (of_questions.powi(2), n.saturating_sub(1) as f64),
                (of_seeds.powi(2), (scores.len() - 1) as f64),
            ];
            let (variance, t) = satterthwaite(&parts);
            let half = |question_half: f64| (question_half * t / Z95).hypot(t * of_seeds);
            let low = mean_score - half(mean_score - low);
            let high = mean_score + half(high - mean_score);
            let interval = if proportion {
                (low.max(0.0), high.min(1.0))
            } else {
                (low, high)
            };
            (Some(variance.sqrt()), Some(interval))
        }
        (None, None, Some(deviation), of_seeds) => {
            let interval = seed_interval(mean_score, deviation, scores.len());
            (of_seeds, Some(interval))
        }
        (of_questions, interval, ..) => (of_questions, interval),
    };
    Some(Estimate {
        mean: mean_score,
        spread,
        interval,
        n,
        seeds: scores.len(),
        deviation,
    })
}
