//! N-grams as slices of word numbers, and their counts.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Segment;

/// A text's words as numbers.
pub type Words = Vec<u32>;

/// Numbers words in the order in which they are met.
#[derive(Default)]
pub struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    pub fn numbers<S: AsRef<str>>(&mut self, words: &[S]) -> Words {
        let number = |word: &S| {
            let word = word.as_ref();
            if let Some(&number) = self.0.get(word) {
                return number;
            }
            let number = self.0.len() as u32;
            self.0.insert(word.to_string(), number);
            number
        };
        words.iter().map(number).collect()
    }
}

/// Each different n-gram of a text and how often it occurs, sorted.
pub fn counts(words: &[u32], n: usize) -> Vec<(&[u32], u32)> {
    let mut grams: Vec<_> = words.windows(n).collect();
    grams.sort_unstable();
    let same = grams.chunk_by(|a, b| a == b);
    same.map(|same| (same[0], same.len() as u32)).collect()
}

/// Looks up an n-gram in what [`counts`] gave: 0 if it does not occur.
pub fn count(counts: &[(&[u32], u32)], gram: &[u32]) -> u32 {
    let place = counts.binary_search_by_key(&gram, |(gram, _)| gram);
    place.map_or(0, |place| counts[place].1)
}

/// The n-grams that the system shares with its references. Each counts as often as the system has it, but no more often than
/// the reference that has it most.
pub fn matches(segment: &Segment<Words>, n: usize) -> Vec<(&[u32], u32)> {
    let references: Vec<_> = segment
        .references
        .iter()
        .map(|words| counts(words, n))
        .collect();
    let mut shared = counts(&segment.system, n);
    for (gram, times) in &mut shared {
        let most = references.iter().map(|counts| count(counts, gram)).max();
        *times = most.unwrap_or(0).min(*times);
    }
    shared.retain(|(_, times)| *times > 0);
    shared
}

/// How often each n-gram is among those that `grams` gives for each segment.
pub fn tally<'a, I: IntoIterator<Item = &'a [u32]>>(
    segments: &'a [Segment<Words>],
    grams: impl Fn(&'a Segment<Words>) -> I + Sync,
) -> HashMap<&'a [u32], u32> {
    let add = |mut counts: HashMap<&'a [u32], u32>, segment| {
        for gram in grams(segment) {
            *counts.entry(gram).or_default() += 1;
        }
        counts
    };
    let parts = segments.par_iter().fold(HashMap::new, add);
    parts.reduce(HashMap::new, |a, b| {
        let (mut all, part) = if a.len() < b.len() { (b, a) } else { (a, b) };
        for (gram, count) in part {
            *all.entry(gram).or_default() += count;
        }
        all
    })
}
