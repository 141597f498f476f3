//! Generation: an answer does not depend on its batch, and sampling draws from the distribution it names.

mod common;

use std::collections::HashSet;
use std::ops::ControlFlow;

use burn::tensor::Device;
use common::{bank, build, config, prompts, slices};
use sharelora_model::{
    Adapter, Event, GenerateOptions, Model, ModelConfig, Sampling, Storage, generate,
};

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions::greedy(max_new_tokens, Vec::new())
}

fn run(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    rows: &[Vec<u32>],
    options: &GenerateOptions,
) -> Vec<Vec<u32>> {
    generate(
        model,
        adapter,
        &slices(rows),
        options,
        |_, _| false,
        |_| ControlFlow::Continue(()),
    )
}

/// Each prompt in a batch of its own.
fn one_by_one(
    model: &Model,
    adapter: Option<Adapter<'_>>,
    rows: &[Vec<u32>],
    options: &GenerateOptions,
) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| run(model, adapter, std::slice::from_ref(row), options).remove(0))
        .collect()
}

/// Greedy decoding by a full forward pass for each token: no cache, no batch, no padding.
fn plainly(model: &Model, adapter: Option<Adapter<'_>>, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..tokens {
        let input = sharelora_model::Input::packed(&[&ids]);
        let logits = common::values(&model.logits(model.hidden(&input, adapter, None)));
        let last = &logits[logits.len() - common::VOCABULARY..];
        let best = (0..last.len())
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn batches_give_what_each_prompt_gives_alone() {
    let model = build(config());
    let bank = bank(&model, "share_ab");
    let rows = prompts(&[3, 9, 1, 6, 9]);
    let mut answers = Vec::new();
    for adapter in [
        None,
        Some(Adapter {
            bank: &bank,
            dropout: None,
        }),
    ] {
        let expected: Vec<_> = rows
            .iter()
            .map(|row| plainly(&model, adapter, row, 16))
            .collect();
        assert_eq!(run(&model, adapter, &rows, &greedy(16)), expected);
        assert_eq!(one_by_one(&model, adapter, &rows, &greedy(16)), expected);
        answers.push(expected);
    }
    assert_ne!(answers[0], answers[1], "the adapter is not asked");
    assert!(
        answers[0].iter().collect::<HashSet<_>>().len() > 1,
        "all prompts have one answer"
    );
}

#[test]
fn the_order_of_the_batch_does_not_matter() {
    let model = build(config());
    let rows = prompts(&[5, 2, 8, 3]);
    let forward = run(&model, None, &rows, &greedy(10));
    let turned: Vec<_> = rows.iter().rev().cloned().collect();
    let mut backward = run(&model, None, &turned, &greedy(10));
    backward.reverse();
    assert_eq!(forward, backward);
}

/// Rows that end early leave the batch; those that stay go on as if nothing happened.
#[test]
fn rows_that_end_early_leave_the_others_alone() {
    let model = build(config());
    let rows = prompts(&[4, 7, 2, 5, 3, 6, 1, 8]);
    let whole = run(&model, None, &rows, &greedy(14));

    // By the callback, each row after a number of tokens of its own; it sees the row and all its tokens.
    let limits = [1, 14, 3, 2, 9, 14, 5, 20];
    let mut steps = 0;
    let stopped = generate(
        &model,
        None,
        &slices(&rows),
        &greedy(14),
        |row, tokens| {
            assert_eq!(tokens, &whole[row][..tokens.len()]);
            tokens.len() >= limits[row]
        },
        |event| {
            if let Event::Step(n) = event {
                steps = n;
            }
            ControlFlow::Continue(())
        },
    );
    assert_eq!(steps, 14);
    for (row, answer) in stopped.iter().enumerate() {
        assert_eq!(answer, &whole[row][..limits[row].min(14)], "row {row}");
    }

    // By end tokens: some that these answers really have, at different places.
    let eos = vec![whole[0][1], whole[3][4], whole[5][8]];
    let options = GenerateOptions {
        eos: eos.clone(),
        ..greedy(14)
    };
    let ended = run(&model, None, &rows, &options);
    for (answer, whole) in ended.iter().zip(&whole) {
        let end = whole.iter().position(|t| eos.contains(t)).unwrap_or(14);
        assert_eq!(answer, &whole[..end]);
    }
    assert_eq!(ended, one_by_one(&model, None, &rows, &options));
    let lengths: HashSet<usize> = ended.iter().map(Vec::len).collect();
    assert!(lengths.len() > 1, "{lengths:?}");

    // When all have ended, so does the work.
    let mut steps = 0;
    generate(
        &model,
        None,
        &slices(&rows),
        &greedy(14),
        |_, t| t.len() == 3,
        |event| {
            if let Event::Step(n) = event {
                steps = n;
            }
            ControlFlow::Continue(())
        },
    );
    assert_eq!(steps, 3);
}

/// With fewer places than prompts, the next prompt takes the place of a finished one: the answers are the same, each is told once,
/// and no more passes are made than the places need.
#[test]
fn places_are_filled_again() {
    let model = build(config());
    let bank = bank(&model, "share_a");
    let adapter = Some(Adapter {
        bank: &bank,
        dropout: None,
    });
    let rows = prompts(&[4, 7, 2, 5, 0, 3, 6, 1, 8]);
    let limits = [1, 9, 3, 2, 0, 9, 4, 5, 6];
    let all = |places: usize| {
        let mut told = Vec::new();
        let mut steps = 0;
        let options = GenerateOptions {
            rows: places,
            ..greedy(9)
        };
        let answers = generate(
            &model,
            adapter,
            &slices(&rows),
            &options,
            |row, tokens| tokens.len() >= limits[row],
            |event| {
                match event {
                    Event::Step(n) => steps = n,
                    Event::Finished(row, answer) => told.push((row, answer.to_vec())),
                }
                ControlFlow::Continue(())
            },
        );
        told.sort();
        let expected: Vec<_> = answers.iter().cloned().enumerate().collect();
        assert_eq!(told, expected);
        (answers, steps)
    };
    let (expected, steps) = all(0);
    assert_eq!(steps, 9);
    for places in 1..=4 {
        let (answers, steps) = all(places);
        assert_eq!(answers, expected, "{places} places");
        let total: usize = limits.iter().sum();
        assert!(steps >= total.div_ceil(places) && steps < total.div_ceil(places) + 9);
        assert!(places > 1 || steps == total);
    }
}

/// What prompts begin with is computed once and read by all; the answers are those of whole prompts.
#[test]
fn a_common_beginning_is_shared() {
    let model = build(config());
    let beginning = prompts(&[24]).remove(0);
    let rows: Vec<Vec<u32>> = prompts(&[3, 1, 5, 2, 0])
        .into_iter()
        .map(|rest| [beginning.clone(), rest].concat())
        .collect();
    let expected: Vec<_> = rows
        .iter()
        .map(|row| plainly(&model, None, row, 8))
        .collect();
    for places in [0, 1, 2] {
        let options = GenerateOptions {
            rows: places,
            ..greedy(8)
        };
        assert_eq!(run(&model, None, &rows, &options), expected);
    }
    // One prompt twice: its last token is still computed for each.
    let twice = [rows[0].clone(), rows[0].clone()];
    let answers = run(&model, None, &twice, &greedy(8));
    assert_eq!(answers, [expected[0].clone(), expected[0].clone()]);
}

/// A prompt draws the same tokens alone as among others.
#[test]
fn draws_belong_to_their_prompt() {
    let model = build(config());
    let rows = prompts(&[3, 5, 4]);
    let all = run(&model, None, &rows, &sampled(3.0, 1.0, 7, 10));
    for (index, row) in rows.iter().enumerate() {
        let options = GenerateOptions {
            streams: vec![index as u64],
            rows: 1,
            ..sampled(3.0, 1.0, 7, 10)
        };
        let alone = run(&model, None, std::slice::from_ref(row), &options);
        assert_eq!(alone[0], all[index]);
    }
}

#[test]
fn nothing_to_do_gives_empty_answers() {
    let model = build(config());
    assert!(run(&model, None, &[], &greedy(3)).is_empty());
    assert_eq!(run(&model, None, &prompts(&[2]), &greedy(0)), [[0u32; 0]]);
    // An empty prompt has nothing to continue, and does not disturb the others.
    assert_eq!(run(&model, None, &prompts(&[0]), &greedy(3)), [[0u32; 0]]);
    let rows = prompts(&[0, 4]);
    let answers = run(&model, None, &rows, &greedy(5));
    assert_eq!(answers, [vec![], plainly(&model, None, &rows[1], 5)]);
}

fn sampled(temperature: f64, top_p: f64, seed: u64, max_new_tokens: usize) -> GenerateOptions {
    let sampling = Some(Sampling {
        temperature,
        top_p,
        seed,
    });
    GenerateOptions {
        sampling,
        ..greedy(max_new_tokens)
    }
}

#[test]
fn cold_or_narrow_sampling_is_greedy() {
    let model = build(config());
    let rows = prompts(&[3, 5]);
    let expected = run(&model, None, &rows, &greedy(12));
    for (temperature, top_p) in [(0.0, 1.0), (1e-4, 1.0), (1.0, 0.0), (2.0, 1e-9)] {
        let options = sampled(temperature, top_p, 3, 12);
        assert_eq!(
            run(&model, None, &rows, &options),
            expected,
            "{temperature} {top_p}"
        );
    }
}

#[test]
fn a_seed_fixes_the_draws() {
    let model = build(config());
    let rows = prompts(&[3, 5]);
    let with = |seed| run(&model, None, &rows, &sampled(3.0, 1.0, seed, 12));
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
    // Two rows of one prompt are two draws.
    let twice = vec![rows[0].clone(), rows[0].clone()];
    let answers = run(&model, None, &twice, &sampled(3.0, 1.0, 1, 12));
    assert_ne!(answers[0], answers[1]);
}

/// A model whose logits are `ln p` whatever its input: every embedding is one vector of ones, no block adds
/// anything, and the head holds the logarithms.
fn distribution(p: [f64; 4]) -> Model {
    let json = r#"{"vocab_size": 4, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "rms_norm_eps": 1e-12}"#;
    let config = ModelConfig::from_json(json).unwrap();
    Model::build(
        config,
        Storage::F32,
        &Device::flex(),
        |name, [rows, columns]| {
            Ok(match name {
                "lm_head.weight" => p.iter().flat_map(|p| [(p.ln() / 4.0) as f32; 4]).collect(),
                "model.embed_tokens.weight" | "model.norm.weight" => vec![1.0; rows * columns],
                _ => vec![0.0; rows * columns],
            })
        },
    )
    .unwrap()
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.1, 0.5, 0.15, 0.25];
    let model = distribution(p);
    let rows = vec![vec![0u32]; 100];
    let squares: f64 = p.iter().map(|p| p * p).sum();
    let cases = [
        (1.0, 1.0, p),
        // A temperature of one half squares.
        (0.5, 1.0, p.map(|p| p * p / squares)),
        // The nucleus of 0.7 is the tokens of 0.5 and 0.25; that of 0.76 takes the next, 0.15.
        (1.0, 0.7, [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]),
        (1.0, 0.76, [0.0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]),
    ];
    for (temperature, top_p, expected) in cases {
        let answers = run(&model, None, &rows, &sampled(temperature, top_p, 5, 60));
        let mut counts = [0f64; 4];
        answers
            .iter()
            .flatten()
            .for_each(|&token| counts[token as usize] += 1.0);
        let n = 6000.0;
        assert_eq!(counts.iter().sum::<f64>(), n);
        let mut chi_square = 0.0;
        for (count, p) in counts.iter().zip(expected) {
            if p == 0.0 {
                assert_eq!(*count, 0.0, "a token outside the nucleus");
            } else {
                chi_square += (count - n * p).powi(2) / (n * p);
            }
        }
        // The 0.9999 quantile with three degrees of freedom.
        assert!(chi_square < 21.1, "{temperature} {top_p}: {counts:?}");
    }
}
