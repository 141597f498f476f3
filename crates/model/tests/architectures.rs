//! GPT-2, BERT and RoBERTa: what holds for every architecture, and what is peculiar to one. That the values are those of
//! transformers is shown by `sharelora parity`.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Device;
use common::{distance, prompts, random, slices, values, weight};
use serde_json::{Value, json};
use sharelora_adapters::{AdapterConfig, Bank, Layout, Method, Scaling};
use sharelora_model::weights::{Checkpoint, TensorDtype, write_safetensors};
use sharelora_model::{
    Adapter, Cache, Classifier, Input, Labels, Model, ModelConfig, Storage, classification_loss,
};

fn gpt2() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32,
        "n_inner": 40, "bos_token_id": 1, "eos_token_id": 2,
    })
}

fn bert(kind: &str) -> Value {
    json!({
        "model_type": kind, "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 34, "type_vocab_size": if kind == "bert" { 2 } else { 1 },
        "pad_token_id": if kind == "bert" { 0 } else { 1 },
    })
}

fn config(json: &Value) -> ModelConfig {
    ModelConfig::from_json(&json.to_string()).unwrap()
}

fn build(json: &Value) -> Model {
    let mut part = 0u64;
    let read = |name: &str, shape: [usize; 2]| {
        // Parts of one tensor have one name.
        part += 1;
        Ok(weight(&format!("{name}{part}"), shape))
    };
    Model::build(config(json), Storage::F32, &Device::flex(), read).unwrap()
}

fn all() -> [Value; 3] {
    [gpt2(), bert("bert"), bert("roberta")]
}

fn adapted(model: &Model, targets: &[&str], fill: impl Fn(usize, usize) -> Vec<f32>) -> Bank {
    let config = AdapterConfig {
        rank: 3,
        alpha: 3.0,
        dropout: 0.0,
        targets: targets.iter().map(|t| (*t).into()).collect(),
        scaling: Scaling::Standard,
        init: Default::default(),
    };
    let lora = Method::named("lora").unwrap();
    let layout = Layout::new(&model.config.sites(), lora.sharing().unwrap(), &config).unwrap();
    let sizes: Vec<usize> = layout.matrices().map(|m| m.shape[0] * m.shape[1]).collect();
    let values = sizes.iter().enumerate().map(|(i, n)| fill(i, *n)).collect();
    Bank::from_values(Arc::new(layout), values, model.device()).unwrap()
}

fn hidden(model: &Model, input: &Input, bank: Option<&Bank>) -> Vec<f32> {
    let adapter = bank.map(|bank| Adapter {
        bank,
        dropout: None,
    });
    values(&model.hidden(input, adapter, None))
}

/// No token sees padding or another sequence, in an encoder least of all, where no mask of causality would hide it.
#[test]
fn packed_padded_and_single_sequences_agree() {
    for json in all() {
        let model = build(&json);
        let rows = prompts(&[9, 4, 7]);
        let seconds = vec![5, 2, 7];
        let packed = Input::packed(&slices(&rows)).with_seconds(seconds.clone());
        let padded = Input::padded(&slices(&rows), 3).with_seconds(seconds.clone());
        let (found, other) = (hidden(&model, &packed, None), hidden(&model, &padded, None));
        for (i, row) in rows.iter().enumerate() {
            let alone = Input::packed(&[row]).with_seconds(vec![seconds[i]]);
            let alone = hidden(&model, &alone, None);
            for (input, all) in [(&packed, &found), (&padded, &other)] {
                let span = input.spans[i];
                let there = &all[span.start * 24..(span.start + span.len) * 24];
                assert!(distance(&alone, there) < 1e-5, "{json}");
            }
        }
    }
}

/// BERT tells two texts apart by their types; RoBERTa, which has one type, does not.
#[test]
fn segments_are_seen_where_there_are_types() {
    let model = build(&bert("bert"));
    let row = prompts(&[8]).remove(0);
    let of = |second: usize| {
        hidden(
            &model,
            &Input::packed(&[&row]).with_seconds(vec![second]),
            None,
        )
    };
    assert!(distance(&of(8), &of(4)) > 1e-3);
    assert_eq!(of(8), of(99));
}

/// The cache of a model with learned positions: each new token is at the position behind what is stored.
#[test]
fn gpt2_decodes_as_it_reads() {
    let model = build(&gpt2());
    let rows = prompts(&[9, 5]);
    let full = hidden(&model, &Input::packed(&slices(&rows)), None);
    let mut cache = Cache::new(model.layers(), 2, 9);
    let heads: Vec<&[u32]> = rows.iter().map(|r| &r[..4]).collect();
    model.hidden(&Input::packed(&heads), None, Some(&mut cache));
    let next: Vec<&[u32]> = rows.iter().map(|r| &r[4..5]).collect();
    let found = values(&model.hidden(&Input::packed(&next), None, Some(&mut cache)));
    for (i, start) in [0, 9].into_iter().enumerate() {
        let expected = &full[(start + 4) * 24..(start + 5) * 24];
        assert!(distance(expected, &found[i * 24..(i + 1) * 24]) < 1e-5);
    }
}

/// One adapter of the fused `c_attn` and adapters of q, k and v that have its A and its rows of B are the same update.
#[test]
fn the_fused_module_and_its_parts_agree() {
    let model = build(&gpt2());
    let input = Input::packed(&slices(&prompts(&[7, 5])));
    let (c, r) = (24, 3);
    let a = |layer: usize| random(r * c, layer as u64);
    let b = |layer: usize| random(3 * c * r, 10 + layer as u64);
    // Every A, then every B, layer by layer.
    let whole = adapted(
        &model,
        &["c_attn"],
        |i, _| if i < 2 { a(i) } else { b(i - 2) },
    );
    let parts = adapted(&model, &["q", "k", "v"], |i, _| match i {
        0..6 => a(i / 3),
        _ => b((i - 6) / 3)[(i - 6) % 3 * c * r..][..c * r].to_vec(),
    });
    let (found, expected) = (
        hidden(&model, &input, Some(&parts)),
        hidden(&model, &input, Some(&whole)),
    );
    assert!(distance(&expected, &found) < 1e-5);
    assert!(distance(&expected, &hidden(&model, &input, None)) > 1e-2);
}

/// A model that is written is the model that is read: names, Conv1D's transposed weights and the fused parts.
#[test]
fn checkpoints_come_back_with_and_without_their_prefix() {
    for (json, prefix) in all().iter().zip(["transformer.", "bert.", "roberta."]) {
        let model = build(json);
        let input = Input::packed(&slices(&prompts(&[6, 3])));
        let expected = hidden(&model, &input, None);
        for strip in [false, true] {
            let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = model
                .values()
                .into_iter()
                .map(|(name, shape, values)| match name.strip_prefix(prefix) {
                    Some(bare) if strip => (bare.to_owned(), shape, values),
                    _ => (name, shape, values),
                })
                .collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.safetensors");
            write_safetensors(&path, &tensors, TensorDtype::F32, &BTreeMap::new()).unwrap();
            let checkpoint = Checkpoint::open(&[path]).unwrap();
            for storage in [Storage::F32, Storage::Stored] {
                let device = Device::flex();
                let back = Model::load(config(json), &checkpoint, storage, &device).unwrap();
                assert_eq!(hidden(&back, &input, None), expected, "{json} {strip}");
            }
            if prefix == "transformer." {
                let name = if strip {
                    "h.1.attn.c_attn.weight"
                } else {
                    "transformer.h.1.attn.c_attn.weight"
                };
                assert_eq!(checkpoint.shape(name), Some(vec![24, 72]));
            }
        }
    }
}

/// The heads of transformers, layer by layer, and their two losses.
#[test]
fn heads_read_the_token_that_transformers_reads() {
    for (json, names, last) in [
        (gpt2(), vec!["score.weight"], true),
        (
            bert("bert"),
            vec!["classifier.weight", "classifier.bias"],
            false,
        ),
        (
            bert("roberta"),
            vec![
                "classifier.dense.weight",
                "classifier.dense.bias",
                "classifier.out_proj.weight",
                "classifier.out_proj.bias",
            ],
            false,
        ),
    ] {
        let model = build(&json);
        let head = Classifier::init(&model.config, Labels::Classes(3), 7, model.device());
        let modules = head.modules();
        assert_eq!(
            modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            names
        );
        let counted: usize = modules.iter().map(|m| m.values.len()).sum();
        assert_eq!(
            Classifier::parameters(&model.config, Labels::Classes(3)),
            counted as u64
        );
        let mut rows = prompts(&[6, 4]);
        let scores = |rows: &[Vec<u32>]| {
            let input = Input::packed(&slices(rows));
            values(&head.scores(&model, model.hidden(&input, None, None), &input))
        };
        let before = scores(&rows);
        assert_eq!(before.len(), 6);
        // A causal model's first token knows of no other, its last of all; an encoder's first of all.
        rows[1][3] = (rows[1][3] + 1) % 61;
        let after = scores(&rows);
        assert_eq!(before[..3], after[..3]);
        assert!(distance(&before[3..], &after[3..]) > 1e-7, "{last}");
        let back =
            Classifier::from_modules(&model.config, head.labels, &modules, model.device()).unwrap();
        let input = Input::packed(&slices(&rows));
        let again = values(&back.scores(&model, model.hidden(&input, None, None), &input));
        assert_eq!(again, after);
    }
}

/// By hand: two classes with scores 0 and 0 cost ln 2; a number that is off by 3 costs 9.
#[test]
fn losses_of_labels_by_hand() {
    let scores = common::tensor(vec![0.0, 0.0, 1.0, 3.0], [2, 2]);
    let loss = classification_loss(scores, Labels::Classes(2), &[1.0, 0.0], Some(1.0));
    let expected = 2f64.ln() + (1.0 + 2f64.exp()).ln();
    assert!((loss.sum - expected).abs() < 1e-5 && loss.count == 2);
    let scores = common::tensor(vec![5.0, 1.0], [2, 1]);
    let loss = classification_loss(scores, Labels::Number, &[2.0, 1.0], None);
    assert_eq!((loss.sum, loss.surrogate.is_none()), (9.0, true));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        (gpt2(), "activation_function", json!("relu"), "`relu`"),
        (
            gpt2(),
            "scale_attn_weights",
            json!(false),
            "`scale_attn_weights`",
        ),
        (
            gpt2(),
            "n_head",
            json!(5),
            "`n_embd` = 24 is no multiple of `n_head` = 5",
        ),
        (gpt2(), "n_layer", json!(0), "`n_layer` is 0"),
        (bert("bert"), "hidden_act", json!("relu"), "`gelu`"),
        (
            bert("bert"),
            "position_embedding_type",
            json!("relative_key"),
            "`absolute`",
        ),
        (
            bert("roberta"),
            "max_position_embeddings",
            json!(2),
            "`max_position_embeddings` = 2",
        ),
        (bert("bert"), "hidden_size", json!(1u64 << 40), "at most"),
        (
            bert("bert"),
            "model_type",
            json!("deberta"),
            "llama, gpt2, roberta, bert",
        ),
    ];
    for (mut json, key, value, part) in cases {
        json[key] = value;
        let message = ModelConfig::from_json(&json.to_string())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}
