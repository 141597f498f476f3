//! Log-probabilities of continuations: of each prompt's choices, with shared beginnings computed once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};

use crate::ops::log_likelihoods;
use crate::prefix::{Group, groups};
use crate::{Adapter, Cache, Input, Model};

/// A prompt and what may follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    pub prompt: Vec<u32>,
    pub choices: Vec<Vec<u32>>,
}

/// How much is computed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreOptions {
    /// Tokens of a pass, about; one text may be longer.
    pub tokens: usize,
    /// Whether beginnings that texts have in common are computed once.
    pub share: bool,
}

/// Tokens that a cache holds at most, all rows together; one row may be longer.
const CACHED: usize = 16_384;

/// A text to compute: a prompt and all but the last token of some of its choices.
struct Text {
    question: usize,
    ids: Vec<u32>,
    /// Choices that end with one more token.
    choices: Vec<usize>,
}

/// The log-probability in nats of each choice of each question, summed over the choice's tokens. An empty choice has 0, one behind an
/// empty prompt is not a number: nothing predicts its first token.
///
/// A choice's last token is predicted and never read, so choices of one token are scored by one pass over the prompt. The
/// head is asked at the positions that are scored alone. `finished(question, scores)` is told as soon as a question is done, in
/// an order that shares most; where it breaks, the work ends behind this pass. A question's scores do not depend on what is asked beside it, up to rounding.
pub fn score(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    questions: &[Question],
    options: ScoreOptions,
    mut finished: impl FnMut(usize, &[f64]) -> ControlFlow<()>,
) {
    let mut scores: Vec<Vec<f64>> = questions
        .iter()
        .map(|q| match q.prompt.is_empty() {
            true => q.choices.iter().map(|c| undefined(c)).collect(),
            false => vec![0.0; q.choices.len()],
        })
        .collect();
    let mut texts: Vec<Text> = Vec::new();
    let mut open: Vec<usize> = Vec::with_capacity(questions.len());
    for (index, question) in questions.iter().enumerate() {
        let of_question = self::texts(index, question);
        if of_question.is_empty() {
            // No pass was needed.
            let _ = finished(index, &scores[index]);
        }
        open.push(of_question.len());
        texts.extend(of_question);
    }
    let ids: Vec<&[u32]> = texts.iter().map(|t| t.ids.as_slice()).collect();
    // The state of the prompt's last token predicts the choice's first.
    let prompt_end = |t: &Text| questions[t.question].prompt.len() - 1;
    let limits: Vec<usize> = texts.iter().map(prompt_end).collect();
    let groups = match options.share {
        true => groups(&ids, &limits),
        false => vec![Group {
            texts: (0..texts.len()).collect(),
            shared: 0,
        }],
    };
    // Texts that share nothing with others make batches together.
    let (alone, together): (Vec<Group>, Vec<Group>) =
        groups.into_iter().partition(|g| g.shared == 0);
    let alone = Group {
        texts: alone.into_iter().flat_map(|g| g.texts).collect(),
        shared: 0,
    };
    for Group { texts: of, shared } in together.into_iter().chain([alone]) {
        let batches = batches(&of, |t| texts[t].ids.len() - shared, shared, options.tokens);
        let mut cache = (shared > 0).then(|| {
            let rows = batches.iter().map(|b| b.len()).max().unwrap_or(0);
            let longest = of.iter().map(|&t| texts[t].ids.len()).max().unwrap_or(0);
            let mut cache = Cache::with_slots(model.layers(), 1, rows, longest);
            let prefix = Input::packed(&[&texts[of[0]].ids[..shared]]);
            model.hidden(&prefix, adapter, Some(&mut cache));
            cache.select(&vec![0; rows]);
            cache
        });
        for batch in batches {
            let mut rows: Vec<&[u32]> = batch.iter().map(|&t| &texts[t].ids[shared..]).collect();
            if let Some(cache) = &mut cache {
                (0..cache.lengths().len()).for_each(|row| cache.rewind(row, shared));
                // Rows that the last batch has no use for are empty sequences.
                rows.resize(cache.lengths().len(), &[]);
            }
            let input = Input::packed(&rows);
            let hidden = model.hidden(&input, adapter, cache.as_mut());
            let mut positions: Vec<i64> = Vec::new();
            let mut targets: Vec<u32> = Vec::new();
            let mut owners: Vec<(usize, usize)> = Vec::new();
            for (&text, span) in batch.iter().zip(input.spans.iter()) {
                let first = span.start + limits[text] - shared;
                let question = texts[text].question;
                for &choice in &texts[text].choices {
                    for (offset, &token) in questions[question].choices[choice].iter().enumerate() {
                        positions.push((first + offset) as i64);
                        targets.push(token);
                        owners.push((question, choice));
                    }
                }
            }
            let index = TensorData::new(positions, [targets.len()]);
            let index = Tensor::<1, Int>::from_data(index, &hidden.device());
            let states = hidden.select(0, index); // (scored positions, C)
            let found = log_likelihoods(&states, model.head(), &targets);
            for ((question, choice), value) in owners.into_iter().zip(found) {
                scores[question][choice] += value;
            }
            let mut broken = false;
            for &text in &batch {
                let question = texts[text].question;
                open[question] -= 1;
                if open[question] == 0 {
                    broken |= finished(question, &scores[question]).is_break();
                }
            }
            if broken {
                return;
            }
        }
    }
}

/// The texts that a question needs computed; choices that differ in their last token alone need one.
fn texts(index: usize, question: &Question) -> Vec<Text> {
    if question.prompt.is_empty() {
        return Vec::new();
    }
    let mut by_beginning: BTreeMap<&[u32], Vec<usize>> = BTreeMap::new();
    for (choice, ids) in question.choices.iter().enumerate() {
        if let Some((_, beginning)) = ids.split_last() {
            by_beginning.entry(beginning).or_default().push(choice);
        }
    }
    let text = |(beginning, choices): (&[u32], Vec<usize>)| Text {
        question: index,
        ids: [&question.prompt, beginning].concat(),
        choices,
    };
    by_beginning.into_iter().map(text).collect()
}

fn undefined(choice: &[u32]) -> f64 {
    if choice.is_empty() { 0.0 } else { f64::NAN }
}

/// Cuts texts into passes of about `tokens` tokens and rows that a cache has room for.
fn batches(
    texts: &[usize],
    length: impl Fn(usize) -> usize,
    shared: usize,
    tokens: usize,
) -> Vec<Vec<usize>> {
    let longest = texts.iter().map(|&t| length(t)).max().unwrap_or(0);
    let rows = match shared {
        0 => usize::MAX,
        shared => (CACHED / (shared + longest)).max(1),
    };
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut sum = 0;
    for &text in texts {
        let length = length(text);
        match batches.last_mut() {
            Some(batch) if sum + length <= tokens && batch.len() < rows => {
                sum += length;
                batch.push(text);
            }
            _ => {
                sum = length;
                batches.push(vec![text]);
            }
        }
    }
    batches
}
