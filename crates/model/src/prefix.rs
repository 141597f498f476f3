//! Which texts to compute behind a beginning that they share, so that it is computed once.
//!
//! The texts of an evaluation are cut into groups so that the fewest tokens are computed. A group's beginning goes through the model once,
//! its keys and values are copied to the rows of a cache, and each batch rewinds the rows to it. So no task plans batches, and none knows
//! that others are asked.

/// Texts with a common beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Indices of the texts; the order of their tokens.
    pub texts: Vec<usize>,
    /// Tokens that all of them begin with and that are computed once; 0: nothing is shared.
    pub shared: usize,
}

/// A common beginning shorter than this is not worth a pass of its own.
pub(crate) const SHORTEST: usize = 16;

/// Cuts `texts` into groups so that as few tokens as possible are computed: a group of n texts that share s tokens saves
/// (n - 1) s. Of text i at most `limits[i]` tokens may be shared, since the states behind them are read.
///
/// In the order of their tokens, texts with a common beginning are neighbours, so that the best cut is found from left to
/// right: quadratic in the longest run of neighbours that share at least 16 tokens.
pub fn groups(texts: &[&[u32]], limits: &[usize]) -> Vec<Group> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by(|&a, &b| texts[a].cmp(texts[b]).then(a.cmp(&b)));
    let common = |a: usize, b: usize| {
        let same = texts[a].iter().zip(texts[b]).take_while(|(a, b)| a == b);
        same.count().min(limits[a]).min(limits[b])
    };
    let mut found = Vec::new();
    let mut begin = 0;
    while begin < order.len() {
        // With the one before it, of each text of the run but the first.
        let shared: Vec<usize> = order[begin..]
            .windows(2)
            .map(|pair| common(pair[0], pair[1]))
            .take_while(|&length| length >= SHORTEST)
            .collect();
        let run = &order[begin..=begin + shared.len()];
        for (from, to, length) in cut(&shared) {
            let texts = run[from..to].to_vec();
            let shared = if texts.len() > 1 { length } else { 0 };
            found.push(Group { texts, shared });
        }
        begin += run.len();
    }
    found
}

/// The cut of a run of `shared.len() + 1` texts that saves most: (from, to, tokens in common).
fn cut(shared: &[usize]) -> Vec<(usize, usize, usize)> {
    let count = shared.len() + 1;
    // What the first n texts save at best, and where their last group begins.
    let mut best = vec![(0usize, 0usize, 0usize); count + 1];
    for end in 1..=count {
        let mut length = usize::MAX;
        let mut choice = (best[end - 1].0, end - 1, 0);
        for from in (0..end - 1).rev() {
            length = length.min(shared[from]);
            let saved = best[from].0 + (end - 1 - from) * length;
            if saved > choice.0 {
                choice = (saved, from, length);
            }
        }
        best[end] = choice;
    }
    let mut parts = Vec::new();
    let mut end = count;
    while end > 0 {
        let (_, from, length) = best[end];
        parts.push((from, end, length));
        end = from;
    }
    parts.reverse();
    parts
}
