//! Means, intervals and whether two results differ.

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
#[derive(Debug, Clone, PartialEq)]
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

/// A metric over seeds, from `(value, standard error, n)` of each.
///
/// Every seed answers the same questions, so the error from their choice does not shrink with more
/// seeds: the spread is the larger of the mean standard error and the seeds' own (deviation / sqrt k),
/// and the interval covers both. Proportions get [`wilson`]'s interval.
pub fn metric(values: &[(f64, Option<f64>, u64)]) -> Option<Estimate> {
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
        question_error.map(|error| (mean_score - Z95 * error, mean_score + Z95 * error))
    };
    let seeds_interval =
        deviation.map(|deviation| seed_interval(mean_score, deviation, scores.len()));
    let interval = match (question_interval, seeds_interval) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    };
    let spread = match (question_error, seed_error) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    Some(Estimate {
        mean: mean_score,
        spread,
        interval,
        n,
        seeds: scores.len(),
    })
}

/// Whether the difference of two estimates is larger than its own 95 % interval; `None` when one has
/// no interval. The interval of a difference is recovered from those of its ends (R. G. Newcombe,
/// Statistics in Medicine 17, 1998, method 10; G. Y. Zou and A. Donner, the same 27, 2008), taken as
/// independent: a paired comparison over the same questions would usually be sharper.
pub fn differs(a: &Estimate, b: &Estimate) -> Option<bool> {
    let (high, low) = if a.mean >= b.mean { (a, b) } else { (b, a) };
    let (high_interval, low_interval) = (high.interval?, low.interval?);
    let half = (high.mean - high_interval.0).hypot(low_interval.1 - low.mean);
    Some(high.mean - low.mean > half)
}
