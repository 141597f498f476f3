//! Beam search: the cache that is reordered, the batch and the early stop change no answer.

mod common;

use common::{build, config, prompts, slices, values};
use sharelora_model::{BeamOptions, Input, Model, Rules, beam_search};

fn options(rules: Rules) -> BeamOptions {
    BeamOptions {
        rules,
        beams: 3,
        max_new_tokens: 7,
        eos: vec![2, 5, 9, 14, 20, 27, 33, 41, 52],
        length_penalty: 0.8,
        no_repeat_ngram: 3,
    }
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
    logits.iter().map(|l| l - largest - sum.ln()).collect()
}

/// The rules of the E2E recipe, written down plainly: no cache, a full forward pass for each beam, always to the limit.
fn plainly(model: &Model, prompt: &[u32], options: &BeamOptions) -> Vec<u32> {
    let width = common::VOCABULARY;
    let mut beams: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 0.0)];
    let mut best: Option<(Vec<u32>, f64)> = None;
    for step in 1..=options.max_new_tokens {
        let mut all = Vec::new();
        for (tokens, score) in &beams {
            let text = [prompt, tokens].concat();
            let input = Input::packed(&[&text]);
            let logits = values(&model.logits(model.hidden(&input, None, None)));
            let mut last: Vec<f64> = logits[logits.len() - width..]
                .iter()
                .map(|l| f64::from(*l))
                .collect();
            let n = options.no_repeat_ngram;
            for gram in tokens.windows(n) {
                if tokens.ends_with(&gram[..n - 1]) {
                    last[gram[n - 1] as usize] = f64::NEG_INFINITY;
                }
            }
            for (id, log_prob) in log_softmax(&last).into_iter().enumerate() {
                all.push(([&tokens[..], &[id as u32]].concat(), score + log_prob));
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(options.beams);
        let ends = |tokens: &[u32]| {
            step == options.max_new_tokens || tokens.last().is_some_and(|t| options.eos.contains(t))
        };
        for (tokens, score) in all.iter().filter(|(tokens, _)| ends(tokens)) {
            let score = score / (tokens.len() as f64).powf(options.length_penalty);
            if best.as_ref().is_none_or(|(_, other)| score > *other) {
                best = Some((tokens.clone(), score));
            }
        }
        beams = all
            .into_iter()
            .filter(|(tokens, _)| !ends(tokens))
            .collect();
    }
    let mut tokens = best.unwrap().0;
    if options.eos.contains(tokens.last().unwrap()) {
        tokens.pop();
    }
    tokens
}

/// Every beam of every step has to read its own keys and values; a beam that reads another's gives other answers.
#[test]
fn the_recipe_is_what_a_plain_search_finds() {
    let model = build(config());
    let rows = prompts(&[4, 9, 6, 1, 7, 3]);
    for options in [
        options(Rules::Lora),
        BeamOptions {
            beams: 1,
            ..options(Rules::Lora)
        },
        BeamOptions {
            beams: 6,
            no_repeat_ngram: 2,
            length_penalty: 2.0,
            ..options(Rules::Lora)
        },
    ] {
        let expected: Vec<_> = rows.iter().map(|r| plainly(&model, r, &options)).collect();
        let mut steps = 0;
        let found = beam_search(&model, None, &slices(&rows), &options, |n| steps = n);
        assert_eq!(found, expected);
        assert!(steps <= options.max_new_tokens);
        assert!(expected.iter().any(|a| a.len() < 7) && expected.iter().any(|a| a.len() > 1));
    }
}

#[test]
fn batches_give_what_each_prompt_gives_alone() {
    let model = build(config());
    let rows = prompts(&[5, 8, 2, 8, 3]);
    for rules in [Rules::Transformers, Rules::Lora] {
        let options = options(rules);
        let together = beam_search(&model, None, &slices(&rows), &options, |_| {});
        for (row, expected) in rows.iter().zip(&together) {
            let alone = beam_search(&model, None, &[row], &options, |_| {});
            assert_eq!(&alone[0], expected);
        }
    }
}

#[test]
fn nothing_to_continue_is_an_empty_answer() {
    let model = build(config());
    let rows = [Vec::new(), prompts(&[4]).remove(0)];
    let endless = BeamOptions {
        eos: Vec::new(),
        ..options(Rules::Lora)
    };
    let answers = beam_search(&model, None, &slices(&rows), &endless, |_| {});
    assert!(answers[0].is_empty() && !answers[1].is_empty());
    let none = BeamOptions {
        max_new_tokens: 0,
        ..options(Rules::Transformers)
    };
    assert_eq!(
        beam_search(&model, None, &slices(&rows), &none, |_| {}),
        [[0u32; 0]; 2]
    );
}
