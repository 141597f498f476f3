//! Batched generation, greedy or sampled, with a key-value cache.

use burn::tensor::{Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ops::read;
use crate::{Adapter, Cache, Input, Model};

/// How the next token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    pub temperature: f64,
    /// The smallest set of tokens whose probability reaches this (nucleus sampling, arXiv 1904.09751).
    pub top_p: f64,
    pub seed: u64,
}

/// What ends a generation, and how tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// Tokens that end a row; they are not part of the answer.
    pub eos: Vec<u32>,
    /// `None`: greedy.
    pub sampling: Option<Sampling>,
}

/// Continues every prompt; returns the new tokens of each, without the one that ended it.
///
/// `stop(row, tokens)` is asked after each token and ends a row by returning true (that token is kept);
/// `progress(steps)` is told after each step. Finished rows leave the batch once they are a quarter of it.
/// An empty prompt has nothing to continue: its answer is empty.
/// The answers of a row do not depend on which other rows are in the batch, up to rounding.
pub fn generate(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    mut stop: impl FnMut(usize, &[u32]) -> bool,
    mut progress: impl FnMut(usize),
) -> Vec<Vec<u32>> {
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    if prompts.iter().all(|p| p.is_empty()) || options.max_new_tokens == 0 {
        return answers;
    }
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    let capacity = longest + options.max_new_tokens;
    // The row of `prompts` that each row of the batch is; an empty prompt has nothing to continue.
    let mut rows: Vec<usize> = (0..prompts.len())
        .filter(|&r| !prompts[r].is_empty())
        .collect();
    let mut cache = Cache::new(model.layers(), rows.len(), capacity);
    let first: Vec<&[u32]> = rows.iter().map(|&r| prompts[r]).collect();
    let mut input = Input::packed(&first);
    let mut done = vec![false; prompts.len()];
    let mut streams: Vec<ChaCha8Rng> = (0..prompts.len())
        .map(|row| {
            let mut rng = ChaCha8Rng::seed_from_u64(options.sampling.map_or(0, |s| s.seed));
            rng.set_stream(row as u64);
            rng
        })
        .collect();

    for step in 0..options.max_new_tokens {
        let hidden = model.hidden(&input, adapter, Some(&mut cache)); // (N, C)
        let last = last_states(&hidden, &input); // (B, C)
        let next = match options.sampling {
            None => model.most_likely(last),
            Some(sampling) => {
                let logits = model.logits(last).without_autodiff(); // (B, V)
                let width = logits.dims()[1];
                let values = read(logits);
                rows.iter()
                    .zip(values.chunks(width))
                    .map(|(&row, logits)| sample(logits, sampling, &mut streams[row]))
                    .collect()
            }
        };
        for (&row, &token) in rows.iter().zip(&next) {
            if done[row] {
                continue;
            }
            if options.eos.contains(&token) {
                done[row] = true;
            } else {
                answers[row].push(token);
                done[row] = stop(row, &answers[row]);
            }
        }
        progress(step + 1);
        let alive: Vec<usize> = (0..rows.len()).filter(|&i| !done[rows[i]]).collect();
        if alive.is_empty() {
            break;
        }
        let mut ids = next;
        if 4 * alive.len() <= 3 * rows.len() {
            cache.select(&alive);
            ids = alive.iter().map(|&i| ids[i]).collect();
            rows = alive.iter().map(|&i| rows[i]).collect();
        }
        let ids: Vec<&[u32]> = ids.chunks(1).collect();
        input = Input::packed(&ids);
    }
    answers
}

/// The hidden state of the last token of each sequence, (N, C) -> (B, C).
pub(crate) fn last_states(hidden: &Tensor<2>, input: &Input) -> Tensor<2> {
    let ends = input.spans.iter().map(|s| (s.start + s.len - 1) as i64);
    let ends = TensorData::new(ends.collect::<Vec<_>>(), [input.spans.len()]);
    let index = Tensor::<1, Int>::from_data(ends, &hidden.device());
    hidden.clone().select(0, index)
}

fn sample(logits: &[f32], sampling: Sampling, rng: &mut ChaCha8Rng) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let temperature = sampling.temperature.max(1e-6);
    let mut weights: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(i, &l)| (i as u32, (f64::from(l - largest) / temperature).exp()))
        .collect();
    let total: f64 = weights.iter().map(|w| w.1).sum();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut kept = 0.0;
    let mut n = 0;
    while n < weights.len() && (n == 0 || kept < sampling.top_p * total) {
        kept += weights[n].1;
        n += 1;
    }
    let mut point = rng.random::<f64>() * kept;
    for &(token, weight) in &weights[..n] {
        point -= weight;
        if point <= 0.0 {
            return token;
        }
    }
    weights[n - 1].0
}
