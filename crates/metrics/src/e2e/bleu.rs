//! BLEU with up to four words and the closest reference length.
//!
//! Source: Papineni et al. 2002; `BLEUScore` in e2e-metrics' `metrics/pymteval.py`, which this follows to the letter: a
//! text of fewer than n - 1 words has a *negative* number of n-grams, so that a corpus with many very short outputs can
//! score more than 1; and no match at all is 1e-15 matches.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Segment;
use super::ngrams::Ngrams;

const LONGEST: usize = 4;
/// In place of no matches.
const TINY: f64 = 1e-15;
/// In place of no n-grams.
const SMALL: f64 = 1e-9;

/// N-grams of one segment or of several, by length 1 to 4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    matches: [usize; LONGEST],
    ngrams: [i64; LONGEST],
    /// Words of the reference whose length is closest to the system's, the shorter of two.
    reference: usize,
}

impl Counts {
    /// From the matched n-grams of each length.
    pub(super) fn new(segment: &Segment<Ngrams>, matches: &[Vec<(u32, usize)>]) -> Self {
        let length = segment.system.len();
        let references = segment.references.iter().map(Ngrams::len);
        let closest = references.min_by_key(|reference| (reference.abs_diff(length), *reference));
        Self {
            matches: std::array::from_fn(|i| matches[i].iter().map(|(_, times)| times).sum()),
            ngrams: std::array::from_fn(|i| length as i64 - i as i64),
            reference: closest.unwrap_or(0),
        }
    }

    /// exp(min(0, 1 - r / c)) times the geometric mean of the four precisions.
    pub fn score(&self) -> f64 {
        let length = self.ngrams[0] as f64;
        let brevity = (1.0 - self.reference as f64 / length).min(0.0);
        let precisions = self
            .matches
            .iter()
            .zip(self.ngrams)
            .map(|(&matches, ngrams)| {
                ((matches as f64).max(TINY) / (ngrams as f64).max(SMALL)).ln()
            });
        (brevity + precisions.sum::<f64>() / LONGEST as f64).exp()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for i in 0..LONGEST {
            self.matches[i] += other.matches[i];
            self.ngrams[i] += other.ngrams[i];
        }
        self.reference += other.reference;
    }
}
