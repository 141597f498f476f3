//! CIDEr of one segment.
//!
//! Source: Vedantam et al. 2015; e2e-metrics' `pycocoevalcap/cider/cider_scorer.py`, which is CIDEr-D under CIDEr's name: 10
//! times the mean over references and over n of 1 to 4 of the clipped cosine of tf-idf vectors, times a Gaussian (sigma 6)
//! of the difference in length. As there, a document is the set of one segment's references, words are not stemmed, the
//! length is counted in *bigrams*, and a corpus of one segment scores 0, as every n-gram is in all of its documents.

use std::collections::HashMap;

use super::Segment;
use super::ngrams::{Words, count, counts, tally};

const ORDER: usize = 4;
const SIGMA: f64 = 6.0;

/// A token with a space in it, such as `3 1/2`, counts as several words.
pub(super) fn words(treebank: &[String]) -> Vec<&str> {
    treebank
        .iter()
        .flat_map(|token| token.split_whitespace())
        .collect()
}

/// In how many segments an n-gram is in a reference.
pub(super) struct Frequencies<'a> {
    counts: HashMap<&'a [u32], u32>,
    segments: usize,
}

impl<'a> Frequencies<'a> {
    pub fn of(segments: &'a [Segment<Words>]) -> Self {
        let different = |segment: &'a Segment<Words>| {
            let references = segment.references.iter();
            let grams = references.flat_map(|words| (1..=ORDER).flat_map(|n| words.windows(n)));
            let mut grams: Vec<_> = grams.collect();
            grams.sort_unstable();
            grams.dedup();
            grams
        };
        Self {
            counts: tally(segments, different),
            segments: segments.len(),
        }
    }

    /// log(segments / segments with the n-gram), where one that is in no reference counts as in one.
    fn inverse(&self, gram: &[u32]) -> f64 {
        let frequency = self.counts.get(gram).copied().unwrap_or(1);
        (self.segments as f64 / f64::from(frequency)).ln()
    }

    /// In 0..=10.
    pub fn score(&self, segment: &Segment<Words>) -> f64 {
        let orders = (1..=ORDER).map(|n| self.similarity(segment, n));
        10.0 * orders.sum::<f64>() / ORDER as f64
    }

    /// Mean over the references, of n-grams of one length.
    fn similarity(&self, segment: &Segment<Words>, n: usize) -> f64 {
        let system = counts(&segment.system, n);
        let norm = self.norm(&system);
        let similarities = segment.references.iter().map(|words| {
            let reference = counts(words, n);
            let norms = norm * self.norm(&reference);
            if norms == 0.0 {
                return 0.0;
            }
            let product = |&(gram, times): &(&[u32], u32)| {
                let other = f64::from(count(&reference, gram));
                f64::from(times).min(other) * other * self.inverse(gram).powi(2)
            };
            let cosine = system.iter().map(product).sum::<f64>() / norms;
            let bigrams = |words: &[u32]| words.len().saturating_sub(1) as f64;
            let difference = bigrams(&segment.system) - bigrams(words);
            cosine * (-difference.powi(2) / (2.0 * SIGMA * SIGMA)).exp()
        });
        similarities.sum::<f64>() / segment.references.len() as f64
    }

    fn norm(&self, counts: &[(&[u32], u32)]) -> f64 {
        let weights = counts
            .iter()
            .map(|(gram, times)| f64::from(*times) * self.inverse(gram));
        weights.map(|weight| weight * weight).sum::<f64>().sqrt()
    }
}
