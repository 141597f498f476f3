//! Scores of continuations: those of whole texts computed plainly, whatever is shared and whatever is asked beside them.

mod common;

use std::ops::ControlFlow;

use common::{bank, build, config, prompts};
use proptest::prelude::*;
use sharelora_model::prefix::{Group, groups};
use sharelora_model::{Adapter, Input, Model, Question, ScoreOptions, log_likelihoods, score};

/// Each choice behind its prompt in a pass of its own.
fn plainly(model: &Model, adapter: Option<Adapter<'_>>, question: &Question) -> Vec<f64> {
    let of_choice = |choice: &Vec<u32>| {
        let ids = [&question.prompt[..], choice].concat();
        let hidden = model.hidden(&Input::packed(&[&ids]), adapter, None);
        let states = hidden.narrow(0, question.prompt.len() - 1, choice.len());
        log_likelihoods(&states, model.head(), choice).iter().sum()
    };
    let choices = question.choices.iter();
    choices
        .map(|c| if c.is_empty() { 0.0 } else { of_choice(c) })
        .collect()
}

fn scored(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    questions: &[Question],
    options: ScoreOptions,
) -> Vec<Vec<f64>> {
    let mut found = vec![None; questions.len()];
    score(model, adapter, questions, options, |question, scores| {
        assert!(found[question].is_none(), "told twice");
        found[question] = Some(scores.to_vec());
        ControlFlow::Continue(())
    });
    found.into_iter().map(Option::unwrap).collect()
}

fn near(a: &[Vec<f64>], b: &[Vec<f64>]) {
    for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// Two subjects with worked examples of their own, choices of one token, of several and of none.
#[test]
fn scores_are_those_of_whole_texts() {
    let model = build(config());
    let bank = bank(&model, "share_a");
    let beginnings = prompts(&[30, 21]);
    let rests = prompts(&[3, 1, 6, 2, 4, 8]);
    let choices = [
        vec![vec![5], vec![9], vec![7]],
        vec![vec![5, 6], vec![5, 7], vec![8, 1, 2], vec![]],
        vec![vec![4]],
    ];
    let questions: Vec<Question> = rests
        .iter()
        .enumerate()
        .map(|(i, rest)| Question {
            prompt: [&beginnings[i % 2][..], rest].concat(),
            choices: choices[i % 3].clone(),
        })
        .collect();
    for adapter in [
        None,
        Some(Adapter {
            bank: &bank,
            dropout: None,
        }),
    ] {
        let expected: Vec<_> = questions
            .iter()
            .map(|q| plainly(&model, adapter, q))
            .collect();
        for share in [true, false] {
            for tokens in [1, 7, 1000] {
                let options = ScoreOptions { tokens, share };
                near(&scored(&model, adapter, &questions, options), &expected);
                let mut turned = questions.clone();
                turned.reverse();
                let mut found = scored(&model, adapter, &turned, options);
                found.reverse();
                near(&found, &expected);
            }
        }
    }
}

#[test]
fn nothing_to_score() {
    let model = build(config());
    let options = ScoreOptions {
        tokens: 64,
        share: true,
    };
    assert!(scored(&model, None, &[], options).is_empty());
    let question = |prompt: &[u32], choices: &[&[u32]]| Question {
        prompt: prompt.to_vec(),
        choices: choices.iter().map(|c| c.to_vec()).collect(),
    };
    let questions = [
        question(&[3, 4], &[]),
        question(&[3, 4], &[&[]]),
        question(&[], &[&[], &[5]]),
    ];
    let found = scored(&model, None, &questions, options);
    assert_eq!((&found[0][..], &found[1][..]), (&[][..], &[0.0][..]));
    assert!(found[2][0] == 0.0 && found[2][1].is_nan());
}

fn saved(groups: &[Group]) -> usize {
    groups.iter().map(|g| (g.texts.len() - 1) * g.shared).sum()
}

/// The most that any division into neighbours saves, by trying all.
fn best(texts: &[&[u32]], limits: &[usize]) -> usize {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by(|&a, &b| texts[a].cmp(texts[b]).then(a.cmp(&b)));
    let common = |a: usize, b: usize| {
        let same = texts[a].iter().zip(texts[b]).take_while(|(a, b)| a == b);
        same.count().min(limits[a]).min(limits[b])
    };
    (0..1u32 << (order.len() - 1))
        .map(|cuts| {
            let mut sum = 0;
            let mut from = 0;
            for at in 1..=order.len() {
                if at < order.len() && cuts & (1 << (at - 1)) == 0 {
                    continue;
                }
                let group = &order[from..at];
                let shared = group.windows(2).map(|p| common(p[0], p[1])).min();
                // Less than 16 tokens are not shared.
                let shared = shared.filter(|&s| s >= 16).unwrap_or(0);
                sum += (group.len() - 1) * shared;
                from = at;
            }
            sum
        })
        .max()
        .unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every text is in one group, what a group shares is really common and below every limit, and no other cut saves more.
    #[test]
    fn the_best_groups(
        parts in prop::collection::vec((0u32..3, 0u32..3, 0usize..6, 0usize..40), 1..9)
    ) {
        // Beginnings of 20 tokens, second parts of 18, and an end.
        let texts: Vec<Vec<u32>> = parts
            .iter()
            .map(|&(first, second, end, _)| {
                [vec![first; 20], vec![second; 18], vec![7; end + 1]].concat()
            })
            .collect();
        let slices: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let limits: Vec<usize> = parts
            .iter()
            .zip(&texts)
            .map(|(part, text)| (text.len() - 1).min(part.3 + 10))
            .collect();
        let found = groups(&slices, &limits);
        let mut seen: Vec<usize> = found.iter().flat_map(|g| g.texts.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..texts.len()).collect::<Vec<_>>());
        for group in &found {
            let first = group.texts[0];
            for &text in &group.texts {
                prop_assert!(group.shared <= limits[text]);
                prop_assert_eq!(&texts[text][..group.shared], &texts[first][..group.shared]);
            }
        }
        prop_assert_eq!(saved(&found), best(&slices, &limits));
    }
}
