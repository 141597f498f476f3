//! Sequences of the generated text, and what is to be told of them.
//!
//! The masking is BERT's (arXiv 1810.04805, appendix A.1). RoBERTa (arXiv 1907.11692, section 4.1) draws it anew each time, which
//! is the same here, since no sequence is seen twice. Deviation: it packs sentences of several documents into a sequence; here
//! each document is one, so that positions mean something to a model this small.

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora_tasks::corpus::pretraining_text;
use sharelora_tasks::{Encoder, ROBERTA_TOKENS};

use super::SEED;
use super::recipe::{Objective, Recipe};

/// A sequence, and the token that each of some hidden states should tell.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub ids: Vec<u32>,
    /// Places of these states in the sequence.
    pub places: Vec<usize>,
    pub targets: Vec<u32>,
}

/// `count` sequences.
///
/// # Errors
/// A text that the tokenizer refuses.
pub fn rows(recipe: &Recipe, encoder: &Encoder, count: usize) -> Result<Vec<Row>> {
    match recipe.objective {
        Objective::Causal => causal(recipe.length, encoder, count),
        Objective::Masked => masked(recipe.length, encoder, count),
    }
}

/// The corpus is made as it is read: there are always enough documents.
fn documents() -> impl Iterator<Item = String> {
    pretraining_text(SEED + 4, usize::MAX)
}

/// Documents end to end, divided by the end-of-text token and cut; each token is told by the state of the one before it.
fn causal(length: usize, encoder: &Encoder, count: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(count);
    let mut ids = Vec::new();
    for text in documents() {
        ids.extend(encoder.encode(&text, false)?);
        ids.push(encoder.eos_id());
        while ids.len() >= length {
            if rows.len() == count {
                return Ok(rows);
            }
            // The last token of one sequence is the first of the next: each is told once.
            let rest = ids.split_off(length - 1);
            let mut row = std::mem::replace(&mut ids, rest);
            row.push(ids[0]);
            rows.push(Row {
                places: (0..length - 1).collect(),
                targets: row[1..].to_vec(),
                ids: row,
            });
        }
    }
    Ok(rows)
}

/// A document each, between its special tokens. Of 15 % of the others it is told which they were: 80 % of these are hidden
/// and 10 % replaced by any token.
fn masked(length: usize, encoder: &Encoder, count: usize) -> Result<Vec<Row>> {
    let special = ROBERTA_TOKENS.len() as u32;
    let (mask, vocabulary) = (special - 1, encoder.vocab_size() as u32);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let row = |text: String| {
        let mut ids = encoder.encode_text(&text, None, length)?.ids;
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (place, id) in ids.iter_mut().enumerate() {
            if *id < special || rng.random::<f64>() >= 0.15 {
                continue;
            }
            places.push(place);
            targets.push(*id);
            match rng.random_range(0..10) {
                0..8 => *id = mask,
                8 => *id = rng.random_range(special..vocabulary),
                _ => {}
            }
        }
        Ok(Row {
            ids,
            places,
            targets,
        })
    };
    documents().take(count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Pocket;
    use super::*;

    fn made(pocket: Pocket, count: usize) -> (Recipe, Encoder, Vec<Row>) {
        let recipe = Recipe::of(pocket).unwrap();
        let encoder = recipe.encoder().unwrap();
        let rows = rows(&recipe, &encoder, count).unwrap();
        (recipe, encoder, rows)
    }

    /// Every token of the text is told once and from the state before it, and no sequence is longer than the model has
    /// positions for.
    #[test]
    fn causal_rows_tell_each_token_once() {
        for pocket in [Pocket::Llama, Pocket::Gpt2] {
            let (recipe, encoder, rows) = made(pocket, 20);
            let mut text = Vec::new();
            for document in documents().take(200) {
                text.extend(encoder.encode(&document, false).unwrap());
                text.push(0);
            }
            let told: Vec<u32> = rows.iter().flat_map(|row| row.targets.clone()).collect();
            assert_eq!(told, text[1..=told.len()]);
            for row in &rows {
                assert_eq!(row.ids.len(), recipe.length);
                let after = row.places.iter().map(|place| row.ids[place + 1]);
                assert!(after.eq(row.targets.iter().copied()));
            }
        }
    }

    /// The rates are those of the paper; special tokens are never hidden, and what is not chosen stays.
    #[test]
    fn masked_rows_hide_robertas_share() {
        let (recipe, encoder, rows) = made(Pocket::Roberta, 1000);
        let (mut tokens, mut chosen, mut hidden, mut kept) = (0, 0, 0, 0);
        for (row, text) in rows.iter().zip(documents()) {
            tokens += row.ids.len() - 2;
            chosen += row.places.len();
            let mut ids = row.ids.clone();
            for (place, target) in row.places.iter().zip(&row.targets) {
                hidden += usize::from(ids[*place] == 4);
                kept += usize::from(ids[*place] == *target);
                ids[*place] = *target;
            }
            let whole = encoder.encode_text(&text, None, recipe.length).unwrap();
            assert_eq!(ids, whole.ids);
        }
        let share = |part: usize, whole: usize| part as f64 / whole as f64;
        assert!((share(chosen, tokens) - 0.15).abs() < 0.01);
        assert!((share(hidden, chosen) - 0.8).abs() < 0.02);
        assert!((share(kept, chosen) - 0.1).abs() < 0.02);
    }
}
