//! Batched generation, greedy or sampled, with a key-value cache whose rows are refilled as answers end.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ops::read;
use crate::{Adapter, Cache, Input, Model, prefix};

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
    /// Prompts that are continued at the same time; 0: all.
    pub rows: usize,
    /// The random stream of each prompt; empty: its index. With it a prompt draws the same tokens whatever is asked beside it.
    pub streams: Vec<u64>,
}

impl GenerateOptions {
    /// The most likely token each time, until one of `eos`, all prompts at once.
    pub fn greedy(max_new_tokens: usize, eos: Vec<u32>) -> Self {
        GenerateOptions {
            max_new_tokens,
            eos,
            sampling: None,
            rows: 0,
            streams: Vec::new(),
        }
    }
}

/// What a generation tells of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many passes are done.
    Step(usize),
    /// The answer to this prompt is complete.
    Finished(usize, &'a [u32]),
}

/// Prompt tokens that join a pass together: more of them would make the pass's activations large and it no faster.
const JOINING: usize = 4096;

/// Continues every prompt; returns the new tokens of each, without the one that ended it.
///
/// `stop(prompt, tokens)` is asked after each token and ends an answer by returning true (that token is kept). Where more
/// prompts are given than `options.rows`, the next one takes the place of one that is finished, and its tokens are
/// computed in the pass that gives the others their next. What all prompts begin with is computed once.
/// An empty prompt has nothing to continue: its answer is empty.
/// The answer to a prompt does not depend on which others are asked, up to rounding.
/// Where `event` breaks, the work ends behind this pass, and answers that are not finished are cut short.
pub fn generate(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    mut stop: impl FnMut(usize, &[u32]) -> bool,
    mut event: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Vec<Vec<u32>> {
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut queue: VecDeque<usize> = VecDeque::new();
    for (prompt, ids) in prompts.iter().enumerate() {
        if ids.is_empty() || options.max_new_tokens == 0 {
            // Nothing is to be cut short yet.
            let _ = event(Event::Finished(prompt, &[]));
        } else {
            queue.push_back(prompt);
        }
    }
    let asked: Vec<&[u32]> = queue.iter().map(|&p| prompts[p]).collect();
    let longest = asked.iter().map(|p| p.len()).max().unwrap_or(0);
    let count = match options.rows {
        0 => asked.len(),
        rows => rows.min(asked.len()),
    };
    let shared = match common_prefix(&asked) {
        short if short < prefix::SHORTEST || asked.len() < 2 => 0,
        length => length,
    };
    let capacity = longest + options.max_new_tokens;
    let mut cache = Cache::with_slots(model.layers(), count.min(1), count, capacity);
    if shared > 0 {
        let beginning = Input::packed(&[&asked[0][..shared]]);
        model.hidden(&beginning, adapter, Some(&mut cache));
    }
    cache.select(&vec![0; count]);

    // The prompt of each row of the cache, and the tokens that its next pass reads.
    let mut rows: Vec<Option<(usize, Vec<u32>)>> = vec![None; count];
    let mut streams: HashMap<usize, ChaCha8Rng> = HashMap::new();
    let mut steps = 0;
    loop {
        let mut joining = 0;
        for (row, entry) in rows.iter_mut().enumerate() {
            let Some(&prompt) = queue.front().filter(|_| entry.is_none()) else {
                continue;
            };
            let rest = &prompts[prompt][shared..];
            if joining > 0 && joining + rest.len() > JOINING {
                break;
            }
            joining += rest.len();
            queue.pop_front();
            cache.rewind(row, shared);
            *entry = Some((prompt, rest.to_vec()));
        }
        // A row without a prompt is an empty sequence: nothing is computed for it.
        let ids = |row: &Option<(usize, Vec<u32>)>| row.as_ref().map_or(vec![], |r| r.1.clone());
        let ids: Vec<Vec<u32>> = rows.iter().map(ids).collect();
        let input = Input::packed(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if input.ids.is_empty() {
            return answers;
        }
        let hidden = model.hidden(&input, adapter, Some(&mut cache)); // (N, C)
        let last = last_states(&hidden, &input); // (B, C)
        let next = match options.sampling {
            None => model.most_likely(last),
            Some(sampling) => {
                let logits = model.logits(last).without_autodiff(); // (B, V)
                let width = logits.dims()[1];
                let values = read(logits);
                let prompts = rows.iter().flatten().map(|(prompt, _)| *prompt);
                let drawn = prompts.zip(values.chunks(width)).map(|(prompt, logits)| {
                    let stream = streams.entry(prompt).or_insert_with(|| {
                        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
                        rng.set_stream(options.streams.get(prompt).map_or(prompt as u64, |&s| s));
                        rng
                    });
                    sample(logits, sampling, stream)
                });
                drawn.collect()
            }
        };
        let mut broken = false;
        for (row, token) in rows.iter_mut().filter(|row| row.is_some()).zip(next) {
            let Some((prompt, ids)) = row else { continue };
            let (prompt, answer) = (*prompt, &mut answers[*prompt]);
            let ended = options.eos.contains(&token) || {
                answer.push(token);
                let stopped = stop(prompt, answer);
                stopped || answer.len() >= options.max_new_tokens
            };
            *ids = vec![token];
            if ended {
                broken |= event(Event::Finished(prompt, answer)).is_break();
                streams.remove(&prompt);
                *row = None;
            }
        }
        steps += 1;
        broken |= event(Event::Step(steps)).is_break();
        if broken {
            return answers;
        }
    }
}

/// Tokens that all prompts begin with, short of the whole of any: the last token's state has to be computed.
fn common_prefix(prompts: &[&[u32]]) -> usize {
    let Some((first, others)) = prompts.split_first() else {
        return 0;
    };
    let short_of_all = |length: usize, other: &&[u32]| {
        let same = first.iter().zip(*other).take_while(|(a, b)| a == b).count();
        length.min(same).min(other.len().saturating_sub(1))
    };
    others
        .iter()
        .fold(first.len().saturating_sub(1), short_of_all)
}

/// The hidden state of the last token of each sequence that has any, (N, C) -> (B, C).
pub fn last_states(hidden: &Tensor<2>, input: &Input) -> Tensor<2> {
    let filled = input.spans.iter().filter(|s| s.len > 0);
    let ends: Vec<i64> = filled.map(|s| (s.start + s.len - 1) as i64).collect();
    let count = ends.len();
    let ends = TensorData::new(ends, [count]);
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
