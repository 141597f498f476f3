//! GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").
//!
//! Reference: `transformers/models/gpt2/modeling_gpt2.py`. Deviations: none in the values. Linear weights, which `Conv1D`
//! stores [in, out], are kept [out, in], and the fused `c_attn` as its three parts q, k and v. An adapter may take `c_attn` as one
//! site (PEFT) or q, k and v as sites of their own (loralib's `MergedLinear`). The model's own dropout is not applied.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;
use sharelora_adapters::{Part, Site};

use crate::ModelError;
use crate::config::{Conv1d, WeightSpec, check_heads, check_sizes};
use crate::model::{Adapter, Attention, Pass, Weights, updates};
use crate::ops::{self, Update};
use crate::weight::Weight;

/// The part of Hugging Face's `config.json` that decides the forward pass.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    #[serde(alias = "n_ctx")]
    pub n_positions: usize,
    /// Absent or null: `4 n_embd`.
    pub n_inner: Option<usize>,
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "default_act")]
    pub activation_function: String,
    #[serde(default = "yes")]
    pub scale_attn_weights: bool,
    #[serde(default)]
    pub scale_attn_by_inverse_layer_idx: bool,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    /// One id or a list.
    #[serde(default)]
    pub eos_token_id: Value,
}

fn default_eps() -> f64 {
    1e-5
}
fn default_act() -> String {
    "gelu_new".into()
}
fn yes() -> bool {
    true
}

/// Weights before those of the first block: token and position embeddings.
const FIRST: usize = 2;
/// Weights of a block: ln_1 (2), q, k, v, c_attn's bias, c_proj (2), ln_2 (2), c_fc (2), c_proj (2).
const LAYER: usize = 14;

fn base(layer: usize) -> usize {
    FIRST + LAYER * layer
}

impl Gpt2Config {
    /// # Errors
    /// [`ModelError::Config`] for a malformed file or one that asks for something that is not computed here.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let config: Gpt2Config =
            serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ModelError> {
        let act = self.activation_function.as_str();
        if !["gelu_new", "gelu_pytorch_tanh", "gelu"].contains(&act) {
            return Err(ModelError::Config(format!(
                "`activation_function` is `{act}`: `gelu_new`, `gelu_pytorch_tanh` and `gelu` are built"
            )));
        }
        if !self.scale_attn_weights || self.scale_attn_by_inverse_layer_idx {
            return Err(ModelError::Config(
                "`scale_attn_weights` must be true and `scale_attn_by_inverse_layer_idx` false"
                    .into(),
            ));
        }
        let widths = [
            ("vocab_size", self.vocab_size),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_positions", self.n_positions),
            ("n_inner", self.inner()),
        ];
        check_sizes(("n_layer", self.n_layer), &widths)?;
        check_heads(("n_embd", self.n_embd), ("n_head", self.n_head))
    }

    pub(crate) fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// A block's modules and, behind `c_attn`, its parts.
    pub fn sites(&self) -> Vec<Site> {
        let (c, f) = (self.n_embd, self.inner());
        let modules = [
            ("c_attn", "attn.c_attn", c, 3 * c, None),
            ("q", "attn.c_attn", c, c, Some(0)),
            ("k", "attn.c_attn", c, c, Some(c)),
            ("v", "attn.c_attn", c, c, Some(2 * c)),
            ("attn.c_proj", "attn.c_proj", c, c, None),
            ("c_fc", "mlp.c_fc", c, f, None),
            ("mlp.c_proj", "mlp.c_proj", f, c, None),
        ];
        (0..self.n_layer)
            .flat_map(|layer| {
                modules.map(
                    |(projection, module, in_features, out_features, start)| Site {
                        layer,
                        projection: projection.into(),
                        path: format!("transformer.h.{layer}.{module}"),
                        in_features,
                        out_features,
                        part: start.map(|start| Part { start, of: 3 * c }),
                    },
                )
            })
            .collect()
    }

    /// All weights, in the model's order: the embeddings, [`LAYER`] of each block, the norm, the head where it is not tied.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (v, c, f) = (self.vocab_size, self.n_embd, self.inner());
        let conv = |name: String, shape: [usize; 2], start: usize, of: usize| WeightSpec {
            name,
            shape,
            conv1d: Some(Conv1d { start, of }),
        };
        let mut list = vec![
            WeightSpec::new("transformer.wte.weight", [v, c]),
            WeightSpec::new("transformer.wpe.weight", [self.n_positions, c]),
        ];
        for layer in 0..self.n_layer {
            let name = |part: &str| format!("transformer.h.{layer}.{part}");
            let norm = |list: &mut Vec<WeightSpec>, part: &str| {
                list.push(WeightSpec::vector(name(&format!("{part}.weight")), c));
                list.push(WeightSpec::vector(name(&format!("{part}.bias")), c));
            };
            let linear = |list: &mut Vec<WeightSpec>, part: &str, [out, into]: [usize; 2]| {
                list.push(conv(name(&format!("{part}.weight")), [out, into], 0, out));
                list.push(WeightSpec::vector(name(&format!("{part}.bias")), out));
            };
            norm(&mut list, "ln_1");
            for part in 0..3 {
                list.push(conv(name("attn.c_attn.weight"), [c, c], part * c, 3 * c));
            }
            list.push(WeightSpec::vector(name("attn.c_attn.bias"), 3 * c));
            linear(&mut list, "attn.c_proj", [c, c]);
            norm(&mut list, "ln_2");
            linear(&mut list, "mlp.c_fc", [f, c]);
            linear(&mut list, "mlp.c_proj", [c, f]);
        }
        for part in ["weight", "bias"] {
            list.push(WeightSpec::vector(format!("transformer.ln_f.{part}"), c));
        }
        if !self.tie_word_embeddings {
            list.push(WeightSpec::new("lm_head.weight", [v, c]));
        }
        list
    }
}

/// q, k, v.
pub(crate) fn joined(layer: usize) -> Range<usize> {
    let base = base(layer);
    base + 2..base + 5
}

/// Token and position embeddings, (N, C).
pub(crate) fn embed(weights: &Weights, pass: &Pass<'_>) -> Tensor<2> {
    weights.rows(0, &pass.input.ids) + weights.rows(1, &pass.positions)
}

/// One block, (N, C) -> (N, C).
pub(crate) fn block(
    config: &Gpt2Config,
    weights: &Weights,
    layer: usize,
    x: Tensor<2>,
    pass: &Pass<'_>,
    attention: Attention<'_>,
) -> Tensor<2> {
    let base = base(layer);
    let norm = |x: Tensor<2>, at: usize| {
        let (weight, bias) = (weights.vector(at), weights.vector(at + 1));
        ops::layer_norm(x, weight, bias, config.layer_norm_epsilon)
    };
    let linear = |x: Tensor<2>, range: Range<usize>, updates: Vec<Update>| {
        let bias = weights.vector(range.end).clone();
        ops::linear(x, weights.slice(range), Some(bias), updates)
    };
    let module = |x: Tensor<2>, at: usize, name: &str| {
        let weight = weights.slice(at..at + 1);
        let updates = updates(pass.adapter, layer, &[name], weight);
        linear(x, at..at + 1, updates)
    };

    let h = norm(x.clone(), base);
    let qkv = linear(
        h,
        base + 2..base + 5,
        of_c_attn(pass.adapter, layer, weights.slice(base + 2..base + 5)),
    ); // (N, 3 C)
    let y = attention(qkv); // (N, C)
    let x = x + module(y, base + 6, "attn.c_proj");

    let h = norm(x.clone(), base + 8);
    let h = module(h, base + 10, "c_fc"); // (N, F)
    let h = ops::gelu(h, config.activation_function != "gelu");
    x + module(h, base + 12, "mlp.c_proj")
}

/// The updates of q, k and v: their own, or their rows of the update of the whole module.
fn of_c_attn(adapter: Option<Adapter<'_>>, layer: usize, weights: &[Weight]) -> Vec<Update> {
    let whole = updates(adapter, layer, &["c_attn"], weights).pop();
    let Some(whole) = whole else {
        return updates(adapter, layer, &["q", "k", "v"], weights);
    };
    let width = weights[0].dims()[0];
    let part = |projection: usize| Update {
        projection,
        b: whole.b.clone().narrow(0, projection * width, width),
        gain: (whole.gain.as_ref()).map(|g| g.clone().narrow(1, projection * width, width)),
        ..whole.clone()
    };
    (0..3).map(part).collect()
}

/// The norm behind the last block, (N, C) -> (N, C).
pub(crate) fn final_norm(config: &Gpt2Config, weights: &Weights, x: Tensor<2>) -> Tensor<2> {
    let at = base(config.n_layer);
    let (weight, bias) = (weights.vector(at), weights.vector(at + 1));
    ops::layer_norm(x, weight, bias, config.layer_norm_epsilon)
}

/// Index of the output head's weight, (V, C).
pub(crate) fn head(config: &Gpt2Config) -> usize {
    match config.tie_word_embeddings {
        true => 0,
        false => base(config.n_layer) + 2,
    }
}
