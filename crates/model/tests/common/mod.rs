//! Tiny random models.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sharelora_adapters::{AdapterConfig, Bank, Layout, Method, Scaling};
use sharelora_model::{Model, ModelConfig, ModelError, Storage};

pub const VOCABULARY: usize = 61;

/// `config.json` of a model with grouped keys, changed by `change`.
pub fn config_json(change: impl FnOnce(&mut Value)) -> String {
    let mut json = json!({
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    });
    change(&mut json);
    json.to_string()
}

pub fn config() -> ModelConfig {
    ModelConfig::from_json(&config_json(|_| ())).unwrap()
}

pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The values of a named weight of the random models: large enough for logits that differ clearly.
pub fn weight(name: &str, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(17u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let values = random(rows * columns, seed);
    match name.contains("norm") {
        true => values.iter().map(|v| 1.0 + 0.5 * v).collect(),
        false => values.iter().map(|v| 0.6 * v).collect(),
    }
}

pub fn build(config: ModelConfig) -> Model {
    let read = |name: &str, shape| Ok::<_, ModelError>(weight(name, shape));
    Model::build(config, Storage::F32, &Device::flex(), read).unwrap()
}

/// An adapter on every projection with random `A` and `B`.
pub fn bank(model: &Model, method: &str) -> Bank {
    let config = AdapterConfig {
        rank: 3,
        alpha: 3.0,
        dropout: 0.0,
        targets: vec!["all_linear".into()],
        scaling: Scaling::Standard,
        init: Default::default(),
    };
    let method = Method::named(method).unwrap();
    let layout = Layout::new(&model.config.sites(), method.sharing().unwrap(), &config).unwrap();
    let values = layout
        .matrices()
        .enumerate()
        .map(|(i, m)| {
            random(m.shape[0] * m.shape[1], i as u64)
                .iter()
                .map(|v| 0.3 * v)
                .collect()
        })
        .collect();
    Bank::from_values(Arc::new(layout), values, model.device()).unwrap()
}

/// Prompts of these lengths.
pub fn prompts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    lengths
        .iter()
        .map(|&n| {
            (0..n)
                .map(|_| rng.random_range(4..VOCABULARY as u32))
                .collect()
        })
        .collect()
}

pub fn slices(rows: &[Vec<u32>]) -> Vec<&[u32]> {
    rows.iter().map(Vec::as_slice).collect()
}

pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor
        .clone()
        .without_autodiff()
        .try_into_vec_as::<f32>()
        .unwrap()
}

/// The largest difference, as a part of the largest value where that is above 1; infinite where one is NaN.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(1f32, |m, v| m.max(v.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest);
    // `max` would pass over a NaN.
    differences.fold(
        0f32,
        |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) },
    )
}
