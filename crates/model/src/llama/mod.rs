//! LLaMA 1 to 3 and models of the same architecture (SmolLM2): arXiv 2302.13971, 2307.09288, 2407.21783.
//!
//! Reference: `transformers/models/llama/modeling_llama.py`. Deviations: none in the values; weights stay
//! [out, in] as they are stored, RMSNorm weights are kept as (1, C), and the sequences of a batch are laid end to end, (N, C), from
//! the embedding to the head.

mod config;

use std::ops::Range;

use burn::tensor::Tensor;

pub use config::LlamaConfig;
use config::PROJECTIONS;

use crate::model::{Attention, Pass, Weights, updates};
use crate::ops;

/// Weights before those of the first block.
const FIRST: usize = 1;
/// Weights of a block: two norms, then the projections.
const LAYER: usize = 9;

fn base(layer: usize) -> usize {
    FIRST + LAYER * layer
}

/// q, k, v and gate, up.
pub(crate) fn joined(layer: usize) -> [Range<usize>; 2] {
    let base = base(layer);
    [base + 2..base + 5, base + 6..base + 8]
}

/// What the first block reads, (N, C).
pub(crate) fn embed(weights: &Weights, pass: &Pass<'_>) -> Tensor<2> {
    weights.rows(0, &pass.input.ids)
}

/// One block, (N, C) -> (N, C).
pub(crate) fn block(
    config: &LlamaConfig,
    weights: &Weights,
    layer: usize,
    x: Tensor<2>,
    pass: &Pass<'_>,
    attention: Attention<'_>,
) -> Tensor<2> {
    let base = base(layer);
    let eps = config.rms_norm_eps;
    let linear = |x: Tensor<2>, range: Range<usize>, names: &[&str]| {
        let weights = weights.slice(range);
        let updates = updates(pass.adapter, layer, names, weights);
        ops::linear(x, weights, None, updates)
    };
    let rotated = config.num_attention_heads + config.kv_heads();

    let h = ops::rms_norm(x.clone(), weights.vector(base), eps);
    let qkv = linear(h, base + 2..base + 5, &PROJECTIONS[..3]); // (N, (H + 2 Hkv) D)
    let qkv = match &pass.rotary {
        Some(rotary) => ops::rope(qkv, rotated, rotary),
        None => qkv,
    };
    let y = attention(qkv); // (N, H D)
    let x = x + linear(y, base + 5..base + 6, &PROJECTIONS[3..4]);

    let h = ops::rms_norm(x.clone(), weights.vector(base + 1), eps);
    let h = linear(h, base + 6..base + 8, &PROJECTIONS[4..6]); // (N, 2 F)
    let h = ops::swiglu(h); // (N, F)
    x + linear(h, base + 8..base + 9, &PROJECTIONS[6..])
}

/// The norm behind the last block, (N, C) -> (N, C).
pub(crate) fn final_norm(config: &LlamaConfig, weights: &Weights, x: Tensor<2>) -> Tensor<2> {
    let norm = weights.vector(base(config.num_hidden_layers));
    ops::rms_norm(x, norm, config.rms_norm_eps)
}

/// Index of the output head's weight, (V, C).
pub(crate) fn head(config: &LlamaConfig) -> usize {
    match config.tie_word_embeddings {
        true => 0,
        false => base(config.num_hidden_layers) + 1,
    }
}
