//! What the tests of this crate build their adapters from.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora_adapters::{AdapterConfig, Bank, Layout, Method, Scaling, Sharing, Site};

/// The four methods of the paper's tables.
pub const METHODS: [&str; 4] = ["lora", "share_a", "share_b", "share_ab"];

/// A projection of every block: its name, in and out.
pub type Projection<'a> = (&'a str, usize, usize);

pub fn sites(layers: usize, projections: &[Projection<'_>]) -> Vec<Site> {
    (0..layers)
        .flat_map(|layer| {
            projections
                .iter()
                .map(move |&(projection, in_features, out_features)| Site {
                    layer,
                    projection: projection.into(),
                    path: format!("model.layers.{layer}.self_attn.{projection}"),
                    in_features,
                    out_features,
                    part: None,
                })
        })
        .collect()
}

/// Every projection adapted, alpha twice the rank, no dropout.
pub fn config(rank: usize) -> AdapterConfig {
    AdapterConfig {
        rank,
        alpha: 2.0 * rank as f64,
        dropout: 0.0,
        targets: vec!["all_linear".into()],
        scaling: Scaling::Standard,
        init: Default::default(),
    }
}

pub fn sharing(method: &str) -> Sharing {
    Method::named(method).unwrap().sharing().unwrap().clone()
}

/// A sharing in the words of an experiment's file.
pub fn custom(a: serde_json::Value, b: serde_json::Value) -> Sharing {
    serde_json::from_value(serde_json::json!({ "a": a, "b": b })).unwrap()
}

pub fn layout(sites: &[Site], sharing: &Sharing, config: &AdapterConfig) -> Arc<Layout> {
    Arc::new(Layout::new(sites, sharing, config).unwrap())
}

pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// A bank as it starts, beside weights that are not asked for.
pub fn init(layout: &Arc<Layout>, seed: u64) -> Bank {
    let none = |site: &Site| unreachable!("{}: no weight is needed", site.path);
    Bank::init(layout.clone(), seed, &Device::flex(), &none)
}

/// A bank whose `A` and `B` are both random.
pub fn random_bank(layout: &Arc<Layout>, seed: u64) -> Bank {
    let values = layout
        .matrices()
        .enumerate()
        .map(|(i, m)| random(m.shape[0] * m.shape[1], seed * 1000 + i as u64))
        .collect();
    Bank::from_values(layout.clone(), values, &Device::flex()).unwrap()
}

pub fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .clone()
        .without_autodiff()
        .try_to_vec_as::<f32>()
        .unwrap()
}

pub fn bits(lists: &[Vec<f32>]) -> Vec<Vec<u32>> {
    lists
        .iter()
        .map(|l| l.iter().map(|v| v.to_bits()).collect())
        .collect()
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
