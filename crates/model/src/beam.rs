//! Beam search, batched, over one key-value cache that is reordered and never computed again.
//!
//! Two sets of rules, which differ in more than their names say:
//!
//! | | [`Rules::Transformers`] | [`Rules::Lora`] |
//! |---|---|---|
//! | source | `transformers/generation/utils.py`, `_beam_search` (v5), `early_stopping = False` | microsoft/LoRA, `examples/NLG/src/gpt2_beam.py` |
//! | a repeated n-gram | is looked for in prompt and answer; its log-probability becomes -inf | in the answer alone; its logit becomes -inf, and the others are renormalised |
//! | candidates of a step | twice as many as beams (more with several end tokens): those that end are kept if among the first, the others go on | as many as beams, ended or not |
//! | score of an ended beam | log-probability / length^penalty, the end token counted | the same |
//! | stops | once no running beam would beat the worst of as many ended ones as beams, at its present length | when the best ended one cannot be beaten (the source runs to the limit, with the same result) |

use std::collections::HashMap;

use rayon::prelude::*;

use crate::generate::last_states;
use crate::ops::read;
use crate::{Adapter, Cache, Input, Model};

/// Whose beam search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    Transformers,
    Lora,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BeamOptions {
    pub rules: Rules,
    pub beams: usize,
    pub max_new_tokens: usize,
    /// Tokens that end a beam; they are not part of the answer.
    pub eos: Vec<u32>,
    /// Exponent of the length that a log-probability is divided by.
    pub length_penalty: f64,
    /// No run of this many tokens twice; 0: allowed.
    pub no_repeat_ngram: usize,
}

/// A beginning of an answer.
#[derive(Debug, Clone)]
struct Beam {
    /// Of the answer.
    tokens: Vec<u32>,
    log_prob: f64,
}

/// The search of one prompt.
struct Search<'a> {
    prompt: &'a [u32],
    running: Vec<Beam>,
    /// Answers with their scores, the best first; with the token that ended them.
    ended: Vec<(Vec<u32>, f64)>,
    done: bool,
}

/// The best answer to each prompt, without the token that ended it. `progress(steps)` is told after each step.
///
/// An empty prompt has nothing to continue: its answer is empty.
pub fn beam_search(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    prompts: &[&[u32]],
    options: &BeamOptions,
    mut progress: impl FnMut(usize),
) -> Vec<Vec<u32>> {
    let beams = options.beams.max(1);
    let mut searches: Vec<Search> = prompts
        .iter()
        .map(|prompt| Search {
            prompt,
            running: vec![Beam {
                tokens: Vec::new(),
                log_prob: 0.0,
            }],
            ended: Vec::new(),
            done: prompt.is_empty() || options.max_new_tokens == 0,
        })
        .collect();
    // The search of each row of the cache; rows of one search follow each other.
    let mut rows: Vec<usize> = (0..prompts.len()).filter(|&p| !searches[p].done).collect();
    if rows.is_empty() {
        return vec![Vec::new(); prompts.len()];
    }
    let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
    let capacity = longest + options.max_new_tokens;
    let mut cache = Cache::with_slots(model.layers(), rows.len(), rows.len() * beams, capacity);
    let first: Vec<&[u32]> = rows.iter().map(|&p| prompts[p]).collect();
    let mut input = Input::packed(&first);
    for step in 0..options.max_new_tokens {
        let hidden = model.hidden(&input, adapter, Some(&mut cache)); // (N, C)
        let last = last_states(&hidden, &input);
        let logits = model.logits(last).without_autodiff(); // (rows, V)
        let width = logits.dims()[1];
        let values = read(logits);
        // Of each search, where its rows begin.
        let starts: Vec<usize> = (0..rows.len())
            .filter(|&i| i == 0 || rows[i] != rows[i - 1])
            .collect();
        let parents: Vec<Vec<usize>> = {
            let mut parents = Vec::with_capacity(starts.len());
            for &start in &starts {
                let search = &mut searches[rows[start]];
                let of_search = &values[start * width..(start + search.running.len()) * width];
                parents.push(search.step(of_search, width, step + 1, options));
            }
            parents
        };
        progress(step + 1);
        let mut kept = Vec::new();
        let mut next: Vec<u32> = Vec::new();
        let mut searched = Vec::new();
        for (&start, parents) in starts.iter().zip(&parents) {
            let search = &searches[rows[start]];
            if search.done {
                continue;
            }
            kept.extend(parents.iter().map(|p| start + p));
            next.extend(search.running.iter().filter_map(|b| b.tokens.last()));
            searched.extend(parents.iter().map(|_| rows[start]));
        }
        if kept.is_empty() {
            break;
        }
        cache.select(&kept);
        rows = searched;
        let ids: Vec<&[u32]> = next.chunks(1).collect();
        input = Input::packed(&ids);
    }
    searches
        .into_iter()
        .map(|search| search.answer(options))
        .collect()
}

impl Search<'_> {
    /// Takes one step, after which answers have `length` tokens, given the logits that follow each running beam. Returns
    /// which beam each of the new running ones continues.
    fn step(
        &mut self,
        logits: &[f32],
        width: usize,
        length: usize,
        options: &BeamOptions,
    ) -> Vec<usize> {
        let beams = options.beams.max(1);
        let count = match options.rules {
            Rules::Transformers => (1 + options.eos.len()).max(2) * beams,
            Rules::Lora => beams,
        };
        let mut candidates: Vec<(usize, u32, f64)> = logits
            .par_chunks(width)
            .zip(self.running.par_iter())
            .enumerate()
            .flat_map_iter(|(beam, (logits, running))| {
                let banned = self.banned(running, options);
                best(logits, &banned, options.rules, count)
                    .into_iter()
                    .map(move |(token, log_prob)| (beam, token, running.log_prob + log_prob))
            })
            .collect();
        // The first of equals, as in a flat list of all beams' tokens.
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        candidates.truncate(count);

        let at_limit = length == options.max_new_tokens;
        let score = |log_prob: f64| log_prob / (length as f64).powf(options.length_penalty);
        let mut running = Vec::new();
        let mut parents = Vec::new();
        for (rank, (beam, token, log_prob)) in candidates.into_iter().enumerate() {
            let mut tokens = self.running[beam].tokens.clone();
            tokens.push(token);
            if at_limit || options.eos.contains(&token) {
                if rank < beams {
                    self.ended.push((tokens, score(log_prob)));
                }
            } else if running.len() < beams {
                running.push(Beam { tokens, log_prob });
                parents.push(beam);
            }
        }
        self.running = running;
        // Stable: of equals, the one that ended first.
        self.ended.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.ended.truncate(beams);
        let best = self.running.first().map(|b| b.log_prob);
        self.done = match (best, options.rules) {
            (None, _) => true,
            (Some(best), Rules::Transformers) => {
                self.ended.len() == beams && score(best) <= self.ended[beams - 1].1
            }
            (Some(best), Rules::Lora) => {
                let most = (options.max_new_tokens as f64).powf(options.length_penalty);
                self.ended.first().is_some_and(|(_, s)| best / most <= *s)
            }
        };
        parents
    }

    /// Tokens that would complete an n-gram which is there already.
    fn banned(&self, beam: &Beam, options: &BeamOptions) -> Vec<u32> {
        let n = options.no_repeat_ngram;
        if n == 0 {
            return Vec::new();
        }
        let text = match options.rules {
            Rules::Transformers => [self.prompt, &beam.tokens].concat(),
            Rules::Lora => beam.tokens.clone(),
        };
        if text.len() + 1 < n {
            return Vec::new();
        }
        let mut followers: HashMap<&[u32], Vec<u32>> = HashMap::new();
        for gram in text.windows(n) {
            followers
                .entry(&gram[..n - 1])
                .or_default()
                .push(gram[n - 1]);
        }
        let last = &text[text.len() + 1 - n..];
        followers.remove(last).unwrap_or_default()
    }

    fn answer(self, options: &BeamOptions) -> Vec<u32> {
        let mut tokens = self.ended.into_iter().next().map_or(Vec::new(), |e| e.0);
        if tokens.last().is_some_and(|t| options.eos.contains(t)) {
            tokens.pop();
        }
        tokens
    }
}

/// The `count` most likely tokens with their log-probabilities, the most likely first; of equals the lower id.
fn best(logits: &[f32], banned: &[u32], rules: Rules, count: usize) -> Vec<(u32, f64)> {
    let is_banned = |id: usize| banned.contains(&(id as u32));
    let counted = |id: usize| rules == Rules::Transformers || !is_banned(id);
    let values = || logits.iter().enumerate().filter(|(id, _)| counted(*id));
    let largest = values().fold(f32::NEG_INFINITY, |m, (_, v)| m.max(*v));
    let sum: f64 = values().map(|(_, v)| f64::from(v - largest).exp()).sum();
    let normaliser = f64::from(largest) + sum.ln();
    // A small sorted list: `count` is some tens, the vocabulary some ten thousands.
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, &value) in logits.iter().enumerate() {
        let enters = top.len() < count || top.last().is_some_and(|(_, v)| value > *v);
        if !enters || (!banned.is_empty() && is_banned(id)) {
            continue;
        }
        let place = top.partition_point(|(_, v)| *v >= value);
        top.insert(place, (id as u32, value));
        top.truncate(count);
    }
    top.into_iter()
        .map(|(id, value)| (id, f64::from(value) - normaliser))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(prompt: &[u32], tokens: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let search = Search {
            prompt,
            running: Vec::new(),
            ended: Vec::new(),
            done: false,
        };
        let beam = Beam {
            tokens: tokens.to_vec(),
            log_prob: 0.0,
        };
        let banned = |rules| {
            let options = BeamOptions {
                rules,
                beams: 1,
                max_new_tokens: 9,
                eos: Vec::new(),
                length_penalty: 1.0,
                no_repeat_ngram: 3,
            };
            search.banned(&beam, &options)
        };
        (banned(Rules::Transformers), banned(Rules::Lora))
    }

    /// The two rules differ in where they look for the n-gram: an E2E answer may repeat its prompt.
    #[test]
    fn repeated_ngrams_are_looked_for_in_the_answer_or_everywhere() {
        assert_eq!(search(&[1, 2, 3], &[1, 2]), (vec![3], vec![]));
        assert_eq!(search(&[9], &[1, 2, 3, 1, 2]), (vec![3], vec![3]));
        assert_eq!(search(&[1, 2], &[]), (vec![], vec![]));
    }

    /// A banned token keeps its share of the probability in one, and loses it in the other.
    #[test]
    fn bans_renormalise_under_loras_rules_alone() {
        let logits = [1.0, 1.0, 1.0, 1.0];
        for (rules, expected) in [
            (Rules::Transformers, (0.25f64).ln()),
            (Rules::Lora, (1.0f64 / 3.0).ln()),
        ] {
            let top = best(&logits, &[0], rules, 2);
            assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
            assert!((top[0].1 - expected).abs() < 1e-9);
        }
    }
}
