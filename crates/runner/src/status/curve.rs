//! The losses of a run in bounded memory, for a line of some characters: means over steps of equal number.

/// Means that are kept; twice as many steps a mean once they are full.
const KEPT: usize = 256;

/// Means over `width` values each; the last may be of fewer.
#[derive(Debug, Clone)]
pub struct Curve {
    width: usize,
    means: Vec<(f64, usize)>,
}

impl Default for Curve {
    fn default() -> Self {
        Curve {
            width: 1,
            means: Vec::new(),
        }
    }
}

impl Curve {
    /// Takes a value; one that is not finite is no height and left out.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        match self.means.last_mut() {
            Some((mean, n)) if *n < self.width => {
                *mean += (value - *mean) / (*n + 1) as f64;
                *n += 1;
            }
            _ => self.means.push((value, 1)),
        }
        if self.means.len() > KEPT {
            self.width *= 2;
            self.means = self.means.chunks(2).map(join).collect();
        }
    }

    /// The means, oldest first.
    pub fn values(&self) -> Vec<f64> {
        self.means.iter().map(|(mean, _)| *mean).collect()
    }
}

fn join(pair: &[(f64, usize)]) -> (f64, usize) {
    let n = pair.iter().map(|(_, n)| n).sum();
    let sum: f64 = pair.iter().map(|(mean, n)| mean * *n as f64).sum();
    (sum / n as f64, n)
}

/// `values` as a line of at most `width` characters, ▁ the lowest and █ the highest.
pub fn line(values: &[f64], width: usize) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = width.min(values.len());
    let means: Vec<f64> = (0..shown)
        .map(|i| {
            let part = &values[i * values.len() / shown..(i + 1) * values.len() / shown];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    means
        .iter()
        .map(|mean| {
            let height = (mean - low) / (high - low);
            // Of equal values the height is 0 / 0, which becomes 0.
            HEIGHTS[(height * 7.0).round() as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However long a run is: the mean of all is kept, and the memory is bounded.
        #[test]
        fn means_of_equal_parts(values in prop::collection::vec(-5.0f64..5.0, 1..3000)) {
            let mut curve = Curve::default();
            values.iter().for_each(|v| curve.push(*v));
            prop_assert!(curve.means.len() <= KEPT);
            let n: usize = curve.means.iter().map(|(_, n)| n).sum();
            prop_assert_eq!(n, values.len());
            let sum: f64 = curve.means.iter().map(|(mean, n)| mean * *n as f64).sum();
            prop_assert!((sum - values.iter().sum::<f64>()).abs() < 1e-6);
            let text = line(&curve.values(), 20);
            prop_assert_eq!(text.chars().count(), values.len().min(20));
        }
    }

    #[test]
    fn lines() {
        assert_eq!(
            line(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8),
            "█▇▆▅▄▃▂▁"
        );
        assert_eq!(line(&[4.0, 2.0, 0.0, 0.0], 2), "█▁");
        assert_eq!(line(&[2.0, 2.0], 5), "▁▁");
        assert_eq!(line(&[], 5), "");
    }
}
