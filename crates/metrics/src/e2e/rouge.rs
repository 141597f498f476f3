//! ROUGE-L of one segment.
//!
//! Source: Lin 2004; e2e-metrics' `pycocoevalcap/rouge/rouge.py`. The matches are the longest common subsequence. The
//! score is F (beta 1.2) of the best precision and the best recall over the references, each of its own.

use super::Segment;

const BETA: f64 = 1.2;

/// Of the words' numbers; a text without words has one, the empty word. In 0..=1.
pub(super) fn score(segment: &Segment<Vec<u32>>) -> f64 {
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in &segment.references {
        let common = longest_common_subsequence(&segment.system, reference) as f64;
        precision = precision.max(common / segment.system.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[u32], b: &[u32]) -> usize {
    // lengths[j]: of the words of `a` so far and the first j of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(lengths[j])
            };
            diagonal = above;
        }
    }
    lengths[b.len()]
}
