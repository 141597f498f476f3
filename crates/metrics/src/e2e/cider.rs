//! CIDEr of one segment.
//!
//! Source: Vedantam et al. 2015; e2e-metrics' `pycocoevalcap/cider/cider_scorer.py`, which is CIDEr-D by CIDEr's name:
//! 10 times the mean over references and over n of 1 to 4 of the clipped cosine of tf-idf vectors, times a Gaussian of
//! the difference in length (sigma 6). As there, a document is the set of one segment's references, words are not
//! stemmed, the length is counted in *bigrams*, and a corpus of one segment scores 0, as every n-gram is in all of its
//! documents.

use super::Segment;
use super::ngrams::{Ngrams, Numbers};

pub(super) const LONGEST: usize = 4;
const SIGMA: f64 = 6.0;

/// log(segments / segments with the n-gram in a reference), by its number. An n-gram that the system alone has counts as
/// if it were in one segment.
pub(super) fn weights(segments: &[Segment<Ngrams>], numbers: &Numbers) -> Vec<f64> {
    let mut frequencies = vec![0; numbers.len()];
    let mut last_seen = vec![0; numbers.len()];
    for (segment, place) in segments.iter().zip(1..) {
        for ngram in segment.references.iter().flat_map(Ngrams::iter) {
            let seen = &mut last_seen[ngram as usize];
            if *seen != place {
                *seen = place;
                frequencies[ngram as usize] += 1;
            }
        }
    }
    // Few frequencies, many n-grams.
    let all = segments.len();
    let logarithms = (0..=all).map(|frequency| (all as f64 / frequency.max(1) as f64).ln());
    let logarithms: Vec<_> = logarithms.collect();
    frequencies
        .iter()
        .map(|&frequency| logarithms[frequency])
        .collect()
}

/// In 0..=10.
pub(super) fn score(segment: &Segment<Ngrams>, weights: &[f64]) -> f64 {
    let lengths = (1..=LONGEST).map(|n| similarity(segment, n, weights));
    10.0 * lengths.sum::<f64>() / LONGEST as f64
}

/// Of n-grams of one length, mean over the references.
fn similarity(segment: &Segment<Ngrams>, n: usize, weights: &[f64]) -> f64 {
    let weight = |ngram: u32| weights[ngram as usize];
    let norm = |text: &Ngrams| {
        let values = text
            .counts(n)
            .map(|(ngram, times)| times as f64 * weight(ngram));
        values.map(|value| value * value).sum::<f64>().sqrt()
    };
    let system = &segment.system;
    let system_norm = norm(system);
    let similarities = segment.references.iter().map(|reference| {
        let norms = system_norm * norm(reference);
        if norms == 0.0 {
            return 0.0;
        }
        let products = system
            .beside(reference, n)
            .map(|(ngram, times, other)| (times.min(other) * other) as f64 * weight(ngram).powi(2));
        let difference = bigrams(system) - bigrams(reference);
        products.sum::<f64>() / norms * (-difference.powi(2) / (2.0 * SIGMA * SIGMA)).exp()
    });
    similarities.sum::<f64>() / segment.references.len() as f64
}

fn bigrams(text: &Ngrams) -> f64 {
    text.len().saturating_sub(1) as f64
}
