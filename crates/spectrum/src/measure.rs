//! What a spectrum is summed up by. Singular values are not negative and do not increase, as [`crate::Update::values`].

/// `exp` of the Shannon entropy, in nats, of the singular values divided by their sum: from 1, all in one, to their number, all
/// equal. None for an update of zeros. O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007, definition 1.
pub fn effective_rank(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    (sum > 0.0).then(|| {
        let shares = values.iter().map(|v| v / sum).filter(|p| *p > 0.0);
        (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
    })
}

/// `||M||_F^2 / ||M||_2^2`, from 1 to the rank. None for an update of zeros. M. Rudelson and R. Vershynin, "Sampling from large
/// matrices", J. ACM 54 (2007).
pub fn stable_rank(values: &[f64]) -> Option<f64> {
    let largest = values.first().copied().filter(|v| *v > 0.0)?;
    // Squares of shares: those of tiny values themselves would vanish.
    Some(values.iter().map(|v| (v / largest).powi(2)).sum())
}

/// The part of `||M||_F^2` in the `top` largest singular values, from 0 to 1. None for an update of zeros.
pub fn energy(values: &[f64], top: usize) -> Option<f64> {
    let all = stable_rank(values)?;
    Some(stable_rank(values.get(..top).unwrap_or(values)).unwrap_or(0.0) / all)
}

/// `||M||_F`.
pub fn frobenius(values: &[f64]) -> f64 {
    match (values.first(), stable_rank(values)) {
        (Some(largest), Some(rank)) => largest * rank.sqrt(),
        _ => 0.0,
    }
}

/// The mean squared cosine of principal angles, from 0 (orthogonal) to 1 (one subspace holds the other); for two updates the
/// similarity phi of LoRA (arXiv 2106.09685, section 7.2, equation 4) where all their dimensions are taken. Two random subspaces
/// of k dimensions among n have k / n on average. None without angles.
pub fn overlap(angles: &[f64]) -> Option<f64> {
    let sum: f64 = angles.iter().map(|angle| angle.cos().powi(2)).sum();
    (!angles.is_empty()).then(|| sum / angles.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    /// The definitions on spectra whose measures are known in closed form.
    #[test]
    fn closed_forms() {
        near(effective_rank(&[3.0; 5]), 5.0);
        near(effective_rank(&[2.0, 0.0, 0.0]), 1.0);
        // p = 1/2, 1/4, 1/4 has 1.5 bits.
        near(effective_rank(&[4.0, 2.0, 2.0]), 2f64.powf(1.5));
        near(stable_rank(&[2.0, 1.0, 1.0]), 1.5);
        near(energy(&[2.0, 1.0, 1.0], 1), 2.0 / 3.0);
        near(energy(&[2.0, 1.0, 1.0], 2), 5.0 / 6.0);
        near(energy(&[2.0, 1.0], 9), 1.0);
        near(energy(&[2.0, 1.0], 0), 0.0);
        near(Some(frobenius(&[4.0, 3.0])), 5.0);
        near(overlap(&[0.0, std::f64::consts::FRAC_PI_3]), 0.625);
    }

    /// An adapter that has not been trained has `B = 0`; sizes near the ends of f64 must not overflow either.
    #[test]
    fn zeros_have_no_measure_and_extremes_do() {
        for values in [&[] as &[f64], &[0.0, 0.0]] {
            assert_eq!(effective_rank(values), None);
            assert_eq!(stable_rank(values), None);
            assert_eq!(energy(values, 1), None);
            assert_eq!(frobenius(values), 0.0);
        }
        assert_eq!(overlap(&[]), None);
        for size in [1e-200, 1e200] {
            near(stable_rank(&[size, size]), 2.0);
            near(energy(&[size, size], 1), 0.5);
            near(Some(frobenius(&[4.0 * size, 3.0 * size]) / size), 5.0);
        }
    }
}
