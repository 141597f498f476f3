//! NIST with up to five words.
//!
//! Source: Doddington 2002; `NISTScore` in e2e-metrics' `metrics/pymteval.py`. Sum over n of the information of matched
//! n-grams per n-gram of the system, times a length penalty. As there, the information of an n-gram is taken from all
//! references of the corpus, log2(count of its first n-1 words / its count), the length penalty compares with the *mean*
//! length of a segment's references, and a text of fewer than n - 1 words has a negative number of n-grams.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Segment;
use super::ngrams::{EMPTY, Ngrams, Numbers};

pub(super) const LONGEST: usize = 5;

/// How often each n-gram occurs in all references of a corpus.
pub(super) struct Information<'a> {
    counts: Vec<u32>,
    numbers: &'a Numbers,
}

impl<'a> Information<'a> {
    pub fn new(segments: &[Segment<Ngrams>], numbers: &'a Numbers) -> Self {
        let mut counts = vec![0; numbers.len()];
        for reference in segments.iter().flat_map(|segment| &segment.references) {
            counts[EMPTY as usize] += reference.len() as u32;
            for ngram in reference.iter() {
                counts[ngram as usize] += 1;
            }
        }
        Self { counts, numbers }
    }

    /// In bits, of an n-gram that occurs.
    fn of(&self, ngram: u32) -> f64 {
        let count = |ngram: u32| f64::from(self.counts[ngram as usize]);
        (count(self.numbers.prefix(ngram)) / count(ngram)).log2()
    }
}

/// Sums of one segment or of several, by length of n-gram 1 to 5.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Bits of the matched n-grams.
    information: [f64; LONGEST],
    ngrams: [i64; LONGEST],
    /// Mean length of a segment's references, in words.
    reference: f64,
}

impl Sums {
    /// From the matched n-grams of each length.
    pub(super) fn new(
        segment: &Segment<Ngrams>,
        matches: &[Vec<(u32, usize)>],
        information: &Information,
    ) -> Self {
        let length = segment.system.len();
        let references: usize = segment.references.iter().map(Ngrams::len).sum();
        let bits = |&(ngram, times): &(u32, usize)| information.of(ngram) * times as f64;
        Self {
            information: std::array::from_fn(|i| matches[i].iter().map(bits).sum()),
            ngrams: std::array::from_fn(|i| length as i64 - i as i64),
            reference: references as f64 / segment.references.len() as f64,
        }
    }

    /// Bits per n-gram of each length, added up, times the length penalty. From 0 on.
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
        for i in 0..LONGEST {
            self.information[i] += other.information[i];
            self.ngrams[i] += other.ngrams[i];
        }
        self.reference += other.reference;
    }
}
