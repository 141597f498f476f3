//! NIST with up to five words.
//!
//! Source: Doddington 2002; `NISTScore` in e2e-metrics' `metrics/pymteval.py`. Sum over n of the information of matched
//! n-grams per n-gram of the system, times a length penalty. As there, the information of an n-gram is taken from all
//! references of the corpus, log2(count of its first n-1 words / its count), the length penalty compares with the *mean*
//! length of a segment's references, and a text of fewer than n words has a negative number of n-grams.

use std::collections::HashMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Segment;
use super::ngrams::{Words, matches, tally};

const ORDER: usize = 5;

/// How often each n-gram occurs in all references of a corpus.
pub(super) struct Information<'a> {
    counts: HashMap<&'a [u32], u32>,
    words: usize,
}

impl<'a> Information<'a> {
    pub fn of(segments: &'a [Segment<Words>]) -> Self {
        let grams = |segment: &'a Segment<Words>| {
            let references = segment.references.iter();
            references.flat_map(|words| (1..=ORDER).flat_map(|n| words.windows(n)))
        };
        let references = segments.iter().flat_map(|segment| &segment.references);
        Self {
            counts: tally(segments, grams),
            words: references.map(Vec::len).sum(),
        }
    }

    /// In bits, of an n-gram that occurs.
    fn bits(&self, gram: &[u32]) -> f64 {
        let before = match &gram[..gram.len() - 1] {
            [] => self.words as f64,
            before => f64::from(self.counts[before]),
        };
        (before / f64::from(self.counts[gram])).log2()
    }
}

/// Sums of one segment or of several, by length of n-gram 1 to 5.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Bits of the matched n-grams.
    information: [f64; ORDER],
    ngrams: [i64; ORDER],
    /// Mean length of a segment's references, in words.
    reference: f64,
}

impl Sums {
    pub(super) fn of(segment: &Segment<Words>, information: &Information) -> Self {
        let length = segment.system.len();
        let lengths: usize = segment.references.iter().map(Vec::len).sum();
        let bits = |&(gram, times): &(&[u32], u32)| information.bits(gram) * f64::from(times);
        Self {
            information: std::array::from_fn(|i| matches(segment, i + 1).iter().map(bits).sum()),
            ngrams: std::array::from_fn(|i| length as i64 - i as i64),
            reference: lengths as f64 / segment.references.len() as f64,
        }
    }

    pub fn score(&self) -> f64 {
        let terms = self.information.iter().zip(self.ngrams);
        let terms = terms.filter(|&(_, ngrams)| ngrams != 0);
        let sum: f64 = terms
            .map(|(information, ngrams)| information / ngrams as f64)
            .sum();
        sum * length_penalty(self.ngrams[0] as f64 / self.reference)
    }
}

/// 1 from a ratio of 1 on, 1/2 at a ratio of 2/3.
fn length_penalty(ratio: f64) -> f64 {
    let beta = 0.5f64.ln() / 1.5f64.ln().powi(2);
    (beta * ratio.min(1.0).ln().powi(2)).exp()
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        for i in 0..ORDER {
            self.information[i] += other.information[i];
            self.ngrams[i] += other.ngrams[i];
        }
        self.reference += other.reference;
    }
}
