//! The LLaMA family: its configuration, its weights and its forward pass. That the values are those of
//! transformers is shown by the fixture of `scripts/peft_roundtrip.py`, whose base model has grouped keys.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use common::{bank, build, config, config_json, distance, prompts, slices, values, weight};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sharelora_adapters::import_peft;
use sharelora_model::weights::{Checkpoint, TensorDtype, write_safetensors};
use sharelora_model::{
    Adapter, Cache, Input, LlamaConfig, Model, ModelConfig, Storage, cross_entropy,
};

/// PEFT's own folder beside its own base: the logits are PEFT's. One adapter of another program and the whole
/// forward pass, without Python.
#[test]
fn a_lora_adapter_saved_by_peft_gives_its_logits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters/tests/fixtures/peft_lora");
    let text = std::fs::read_to_string(folder.join("base/config.json")).unwrap();
    let checkpoint = Checkpoint::open(&[folder.join("base/model.safetensors")]).unwrap();
    let config = ModelConfig::from_json(&text).unwrap();
    let model = Model::load(config, &checkpoint, Storage::F32, &Device::flex()).unwrap();
    let (bank, _) = import_peft(&folder, &model.config.sites(), model.device()).unwrap();

    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    let (batch, length) = (ids.shape()[0], ids.shape()[1]);
    let tokens: Vec<u32> = ids
        .data()
        .chunks_exact(8)
        .map(|b| u32::from(b[0]) | u32::from(b[1]) << 8)
        .collect();
    assert_eq!(tokens.len(), batch * length);
    let rows: Vec<&[u32]> = tokens.chunks(length).collect();
    let input = Input::packed(&rows);
    let expected: Vec<f32> = file
        .tensor("logits")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let logits = |adapter| values(&model.logits(model.hidden(&input, adapter, None)));
    let adapted = logits(Some(Adapter {
        bank: &bank,
        dropout: None,
    }));
    assert!(
        distance(&expected, &adapted) < 1e-5,
        "{}",
        distance(&expected, &adapted)
    );
    assert!(
        distance(&expected, &logits(None)) > 0.01,
        "the adapter changes nothing"
    );
}

/// RoPE's frequencies are those of transformers (`scripts/rope_frequencies.py`), wherever the configuration
/// keeps their parameters.
#[test]
fn rope_frequencies_are_those_of_transformers() {
    let cases: Value =
        serde_json::from_str(include_str!("fixtures/rope_frequencies.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(
        cases
            .iter()
            .any(|c| c["config"]["rope_parameters"]["rope_type"] == "llama3")
    );
    for case in cases {
        let expected: Vec<f64> =
            serde_json::from_value(case["inverse_frequencies"].clone()).unwrap();
        let new = case["config"].clone();
        // transformers 4: theta outside, the rest in `rope_scaling`; a file saved again has both names.
        let mut old = new.clone();
        let object = old.as_object_mut().unwrap();
        let mut rope = object.remove("rope_parameters").unwrap();
        object.insert(
            "rope_theta".into(),
            rope.as_object_mut().unwrap().remove("rope_theta").unwrap(),
        );
        object.insert("rope_scaling".into(), rope);
        let mut oldest = old.clone();
        oldest["rope_scaling"]["type"] = old["rope_scaling"]["rope_type"].clone();
        let both = oldest.clone();
        oldest["rope_scaling"]
            .as_object_mut()
            .unwrap()
            .remove("rope_type");
        for form in [new, old, both, oldest] {
            let found = LlamaConfig::from_json(&form.to_string())
                .unwrap()
                .inverse_frequencies()
                .unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                // The reference is computed in f32.
                assert!(
                    (found / expected - 1.0).abs() < 2e-6,
                    "{}: {found} {expected}",
                    case["name"]
                );
            }
        }
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    type Change = (&'static str, Value, &'static [&'static str]);
    let changes: [Change; 13] = [
        (
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 2.0}),
            &["`yarn`", "`llama3`"],
        ),
        (
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0}),
            &["`dynamic`"],
        ),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 2.0}),
            &["`low_freq_factor` is missing"],
        ),
        (
            "num_key_value_heads",
            json!(3),
            &["`num_attention_heads` = 4", "`num_key_value_heads` = 3"],
        ),
        (
            "num_key_value_heads",
            json!(0),
            &["`num_key_value_heads` is 0"],
        ),
        (
            "num_attention_heads",
            json!(0),
            &["`num_attention_heads` is 0"],
        ),
        ("head_dim", json!(5), &["`head_dim` = 5 is odd"]),
        ("attention_bias", json!(true), &["`attention_bias`"]),
        ("mlp_bias", json!(true), &["`mlp_bias`"]),
        (
            "hidden_act",
            json!("gelu"),
            &["`hidden_act` is `gelu`", "`silu`"],
        ),
        (
            "model_type",
            json!("mistral"),
            &["`model_type` is `mistral`", "`llama`"],
        ),
        ("vocab_size", Value::Null, &["invalid type: null"]),
        ("hidden_size", json!(-1), &["-1"]),
    ];
    for (key, value, parts) in changes {
        let text = config_json(|c| c[key] = value.clone());
        let message = LlamaConfig::from_json(&text).unwrap_err().to_string();
        for part in parts.iter().chain(&["config.json"]) {
            assert!(
                message.contains(part),
                "{key} = {value}: `{part}` is not in: {message}"
            );
        }
    }
    let text = config_json(|c| {
        c["head_dim"] = Value::Null;
        c["hidden_size"] = json!(26);
    });
    let message = LlamaConfig::from_json(&text).unwrap_err().to_string();
    assert!(
        message.contains("`hidden_size` = 26 is no multiple of `num_attention_heads` = 4"),
        "{message}"
    );
    let text = config_json(|c| drop(c.as_object_mut().unwrap().remove("vocab_size")));
    assert!(
        LlamaConfig::from_json(&text)
            .unwrap_err()
            .to_string()
            .contains("vocab_size")
    );
}

/// Absent keys mean what they mean in transformers.
#[test]
fn defaults_and_token_ids() {
    let text = config_json(|c| {
        let c = c.as_object_mut().unwrap();
        for key in [
            "head_dim",
            "num_key_value_heads",
            "rope_theta",
            "tie_word_embeddings",
            "eos_token_id",
        ] {
            c.remove(key);
        }
    });
    let config = LlamaConfig::from_json(&text).unwrap();
    assert_eq!(
        (
            config.head_dim(),
            config.kv_heads(),
            config.tie_word_embeddings
        ),
        (6, 4, false)
    );
    assert_eq!(config.eos_token_ids(), [0u32; 0]);
    assert_eq!(
        config.inverse_frequencies().unwrap()[1],
        10_000f64.powf(-1.0 / 3.0)
    );
    let eos =
        |value: Value| LlamaConfig::from_json(&config_json(|c| c["eos_token_id"] = value)).unwrap();
    assert_eq!(eos(json!(7)).eos_token_ids(), [7]);
    assert_eq!(eos(json!([7, 9])).eos_token_ids(), [7, 9]);
}

/// A checkpoint with the random weights of a model, some changed.
fn checkpoint(
    config: &ModelConfig,
    change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>),
) -> Checkpoint {
    let mut shapes: BTreeMap<String, Vec<usize>> = config
        .weights()
        .into_iter()
        .map(|w| match w.shape {
            [1, columns] => (w.name, vec![columns]),
            shape => (w.name, shape.to_vec()),
        })
        .collect();
    change(&mut shapes);
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = weight(&name, [1, shape.iter().product()]);
            (name, shape, values)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors, TensorDtype::F32, &BTreeMap::new()).unwrap();
    Checkpoint::from_bytes(&path, std::fs::read(&path).unwrap()).unwrap()
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let load =
        |checkpoint: &Checkpoint| Model::load(config(), checkpoint, Storage::F32, &Device::flex());
    assert!(load(&checkpoint(&config(), |_| ())).is_ok());
    type Shapes = BTreeMap<String, Vec<usize>>;
    let message = |change: &dyn Fn(&mut Shapes)| {
        load(&checkpoint(&config(), change))
            .err()
            .unwrap()
            .to_string()
    };
    for name in [
        "model.embed_tokens.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.weight",
    ] {
        let missing = message(&|shapes| drop(shapes.remove(name)));
        assert!(
            missing.contains(&format!("`{name}` is missing")),
            "{missing}"
        );
    }
    let k = "model.layers.1.self_attn.k_proj.weight";
    let wide = message(&|shapes| drop(shapes.insert(k.into(), vec![24, 24])));
    for part in [k, "[24, 24]", "[12, 24]"] {
        assert!(wide.contains(part), "`{part}` is not in: {wide}");
    }
    let norm = "model.norm.weight";
    let long = message(&|shapes| drop(shapes.insert(norm.into(), vec![25])));
    assert!(long.contains(norm) && long.contains("[25]"), "{long}");
}

/// A tied head is the embedding and needs no weight of its own; an untied one is read, and missed.
#[test]
fn a_tied_head_is_the_embedding() {
    let tied =
        ModelConfig::from_json(&config_json(|c| c["tie_word_embeddings"] = json!(true))).unwrap();
    let without_head = checkpoint(&tied, |_| ());
    assert!(!without_head.contains("lm_head.weight"));
    let message = Model::load(config(), &without_head, Storage::F32, &Device::flex())
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("`lm_head.weight` is missing"), "{message}");

    let mut tied = Model::load(tied, &without_head, Storage::F32, &Device::flex()).unwrap();
    let mut untied = build(config());
    assert_eq!(
        untied.config.parameters() - tied.config.parameters(),
        61 * 24
    );
    let embed = weight("model.embed_tokens.weight", [61, 24]);
    assert_eq!(tied.head().values(), embed);
    assert_eq!(untied.head().values(), weight("lm_head.weight", [61, 24]));
    // Every weight is handed out once, in the order of their names.
    for model in [&mut tied, &mut untied] {
        let expected: Vec<[usize; 2]> = model.config.weights().iter().map(|w| w.shape).collect();
        let found: Vec<[usize; 2]> = model.weights_mut().iter().map(|t| t.dims()).collect();
        assert_eq!(found, expected);
    }
    // A replaced embedding is the new head.
    let weight = tied.weights_mut().remove(0);
    *weight = weight.clone().mul_scalar(2.0);
    let doubled: Vec<f32> = embed.iter().map(|v| 2.0 * v).collect();
    assert_eq!(tied.head().values(), doubled);
}

/// The sites of an adapter are the linear weights, with their shapes.
#[test]
fn sites_are_the_linear_weights() {
    let config = config();
    let weights: BTreeMap<String, [usize; 2]> = config
        .weights()
        .into_iter()
        .map(|w| (w.name, w.shape))
        .collect();
    let sites = config.sites();
    assert_eq!(sites.len(), 7 * 3);
    for site in sites {
        let shape = weights[&format!("{}.weight", site.path)];
        assert_eq!(
            shape,
            [site.out_features, site.in_features],
            "{}",
            site.path
        );
    }
}

/// Prefill and decoding, in steps of several sizes and on rows of different lengths, give the hidden states of one full
/// pass; so does a row among others.
#[test]
fn the_cache_and_the_batch_change_nothing() {
    let model = build(config());
    let bank = bank(&model, "share_a");
    let adapter = Some(Adapter {
        bank: &bank,
        dropout: None,
    });
    let rows = prompts(&[11, 7, 9]);
    let logits = |input: &Input, cache: Option<&mut Cache>| {
        values(&model.logits(model.hidden(input, adapter, cache)))
    };
    let full = logits(&Input::packed(&slices(&rows)), None);
    let width = full.len() / 27;
    let starts = [0, 11, 18];
    let at = |row: usize, t: usize| &full[(starts[row] + t) * width..][..width];
    // Each row for itself.
    for (i, row) in rows.iter().enumerate() {
        let alone = logits(&Input::packed(&[row]), None);
        let there = &full[starts[i] * width..][..row.len() * width];
        assert!(distance(there, &alone) < 1e-4);
    }
    for steps in [vec![11], vec![5, 1, 1, 1, 3], vec![1; 11]] {
        let mut cache = Cache::new(model.layers(), 3, 11);
        // The row of `rows` that each row of the batch is, and how much of it has been read.
        let mut batch = vec![0, 1, 2];
        let mut read = 0;
        for n in &steps {
            let keep: Vec<usize> = (0..batch.len())
                .filter(|&i| rows[batch[i]].len() > read)
                .collect();
            if keep.len() < batch.len() {
                // In another order, too.
                let keep: Vec<usize> = keep.into_iter().rev().collect();
                cache.select(&keep);
                batch = keep.iter().map(|&i| batch[i]).collect();
            }
            let parts: Vec<&[u32]> = batch
                .iter()
                .map(|&r| &rows[r][read..rows[r].len().min(read + n)])
                .collect();
            let input = Input::packed(&parts);
            let found = logits(&input, Some(&mut cache));
            for (span, &row) in input.spans.iter().zip(&batch) {
                for t in 0..span.len {
                    let found = &found[(span.start + t) * width..][..width];
                    let error = distance(at(row, read + t), found);
                    assert!(error < 1e-4, "row {row}, token {}: {error}", read + t);
                }
            }
            read += n;
            let lengths: Vec<usize> = batch.iter().map(|&r| rows[r].len().min(read)).collect();
            assert_eq!(cache.lengths(), lengths);
        }
    }
}

/// No token sees padding, and packing gives what padding gives: to rounding of the last place.
#[test]
fn padding_is_not_seen() {
    let model = build(config());
    let rows = prompts(&[9, 4, 7]);
    let hidden = |input: &Input| values(&model.hidden(input, None, None));
    let packed = Input::packed(&slices(&rows));
    let expected = hidden(&packed);
    let (padded, other) = (
        Input::padded(&slices(&rows), 0),
        Input::padded(&slices(&rows), 5),
    );
    let (found, again) = (hidden(&padded), hidden(&other));
    assert_eq!(found.len(), 3 * 9 * 24);
    for (from, to) in packed.spans.iter().zip(padded.spans.iter()) {
        assert_eq!(from.len, to.len);
        let real = to.start * 24..(to.start + to.len) * 24;
        let expected = &expected[from.start * 24..(from.start + from.len) * 24];
        assert!(distance(expected, &found[real.clone()]) < 1e-5);
        assert_eq!(found[real.clone()], again[real]);
    }
}

/// A base kept in bf16 computes what an f32 base with the rounded weights computes, to the last bit: the weights
/// are rounded once and the arithmetic is the same.
#[test]
fn bf16_storage_rounds_the_weights_and_nothing_else() {
    let model = |storage, round: bool| {
        Model::build(config(), storage, &Device::flex(), |name, shape| {
            let values = weight(name, shape);
            Ok(match round {
                true => values
                    .iter()
                    .map(|v| half::bf16::from_f32(*v).to_f32())
                    .collect(),
                false => values,
            })
        })
        .unwrap()
    };
    let input = Input::packed(&slices(&prompts(&[7, 4])));
    let logits = |model: &Model| {
        let bank = bank(model, "share_b");
        let adapter = Adapter {
            bank: &bank,
            dropout: None,
        };
        let hidden = model.hidden(&input, Some(adapter), None);
        let targets = vec![5; 11];
        let loss = cross_entropy(&hidden, model.head(), &targets, None, None).sum;
        (values(&model.logits(hidden)), loss)
    };
    let (narrow, rounded) = (model(Storage::Bf16, false), model(Storage::F32, true));
    assert_eq!(logits(&narrow), logits(&rounded));
    assert_ne!(logits(&narrow).0, logits(&model(Storage::F32, false)).0);
}
