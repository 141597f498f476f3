//! BERT (arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): bidirectional encoders with norms behind each addition.
//!
//! Reference: `transformers/models/bert/modeling_bert.py` and `roberta/modeling_roberta.py`. Deviations: none in the values; the
//! model's own dropout is not applied. RoBERTa counts positions from `pad_token_id + 1`. BERT's pooler is a part of the base
//! (PEFT leaves it frozen); RoBERTa has none under a classification head.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;
use sharelora_adapters::Site;

use crate::ModelError;
use crate::config::{WeightSpec, check_heads, check_sizes};
use crate::model::{Attention, Pass, Weights, updates};
use crate::ops;

/// The part of Hugging Face's `config.json` that decides the forward pass.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BertConfig {
    /// `bert` or `roberta`.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "default_types")]
    pub type_vocab_size: usize,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default = "default_positions")]
    pub position_embedding_type: String,
    pub pad_token_id: Option<u32>,
    pub bos_token_id: Option<u32>,
    #[serde(default)]
    pub eos_token_id: Value,
}

fn default_types() -> usize {
    2
}
fn default_eps() -> f64 {
    1e-12
}
fn default_act() -> String {
    "gelu".into()
}
fn default_positions() -> String {
    "absolute".into()
}

/// Weights before those of the first block: three embeddings and their norm (2).
const FIRST: usize = 5;
/// Weights of a block: q, k, v, their biases, attention's output (2) and norm (2), intermediate (2), output (2) and norm (2).
const LAYER: usize = 16;

fn base(layer: usize) -> usize {
    FIRST + LAYER * layer
}

/// Names of the projections of a block with their modules, in the model's order.
const PROJECTIONS: [(&str, &str); 6] = [
    ("query", "attention.self.query"),
    ("key", "attention.self.key"),
    ("value", "attention.self.value"),
    ("attention.output.dense", "attention.output.dense"),
    ("intermediate.dense", "intermediate.dense"),
    ("output.dense", "output.dense"),
];

impl BertConfig {
    /// # Errors
    /// [`ModelError::Config`] for a malformed file or one that asks for something that is not computed here.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let config: BertConfig =
            serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ModelError> {
        if self.hidden_act != "gelu" {
            return Err(ModelError::Config(format!(
                "`hidden_act` is `{}`: `gelu` is what is built",
                self.hidden_act
            )));
        }
        if self.position_embedding_type != "absolute" {
            return Err(ModelError::Config(format!(
                "`position_embedding_type` is `{}`: `absolute` is what is built",
                self.position_embedding_type
            )));
        }
        let widths = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        check_sizes(("num_hidden_layers", self.num_hidden_layers), &widths)?;
        if self.max_positions() == 0 {
            return Err(ModelError::Config(format!(
                "`max_position_embeddings` = {} leaves no position behind `pad_token_id`",
                self.max_position_embeddings
            )));
        }
        check_heads(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )
    }

    pub(crate) fn is_roberta(&self) -> bool {
        self.model_type == "roberta"
    }

    /// The position of a sequence's first token.
    fn first_position(&self) -> usize {
        match self.is_roberta() {
            true => self.pad_token_id.unwrap_or(1) as usize + 1,
            false => 0,
        }
    }

    /// Tokens of the longest sequence.
    pub(crate) fn max_positions(&self) -> usize {
        self.max_position_embeddings
            .saturating_sub(self.first_position())
    }

    pub(crate) fn prefix(&self) -> &'static str {
        match self.is_roberta() {
            true => "roberta.",
            false => "bert.",
        }
    }

    /// (out, in) of a projection.
    fn shape(&self, projection: &str) -> [usize; 2] {
        let (c, f) = (self.hidden_size, self.intermediate_size);
        match projection {
            "intermediate.dense" => [f, c],
            "output.dense" => [c, f],
            _ => [c, c],
        }
    }

    /// Every linear layer that an adapter can update, layer by layer.
    pub fn sites(&self) -> Vec<Site> {
        let prefix = self.prefix();
        (0..self.num_hidden_layers)
            .flat_map(|layer| {
                PROJECTIONS.map(|(projection, module)| {
                    let [out_features, in_features] = self.shape(projection);
                    Site {
                        layer,
                        projection: projection.into(),
                        path: format!("{prefix}encoder.layer.{layer}.{module}"),
                        in_features,
                        out_features,
                        part: None,
                    }
                })
            })
            .collect()
    }

    /// All weights, in the model's order: the embeddings, [`LAYER`] of each block, BERT's pooler.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (c, prefix) = (self.hidden_size, self.prefix());
        let embedding = |name: &str, rows: usize| {
            WeightSpec::new(format!("{prefix}embeddings.{name}.weight"), [rows, c])
        };
        let norm = |list: &mut Vec<WeightSpec>, name: String| {
            list.push(WeightSpec::vector(format!("{name}.weight"), c));
            list.push(WeightSpec::vector(format!("{name}.bias"), c));
        };
        let mut list = vec![
            embedding("word_embeddings", self.vocab_size),
            embedding("position_embeddings", self.max_position_embeddings),
            embedding("token_type_embeddings", self.type_vocab_size),
        ];
        norm(&mut list, format!("{prefix}embeddings.LayerNorm"));
        for layer in 0..self.num_hidden_layers {
            let name = |module: &str| format!("{prefix}encoder.layer.{layer}.{module}");
            let [q, k, v, output, intermediate, down] =
                PROJECTIONS.map(|(projection, module)| (name(module), self.shape(projection)));
            for (module, shape) in [&q, &k, &v] {
                list.push(WeightSpec::new(format!("{module}.weight"), *shape));
            }
            for (module, shape) in [&q, &k, &v] {
                list.push(WeightSpec::vector(format!("{module}.bias"), shape[0]));
            }
            let linear = |list: &mut Vec<WeightSpec>, (module, shape): &(String, [usize; 2])| {
                list.push(WeightSpec::new(format!("{module}.weight"), *shape));
                list.push(WeightSpec::vector(format!("{module}.bias"), shape[0]));
            };
            linear(&mut list, &output);
            norm(&mut list, name("attention.output.LayerNorm"));
            linear(&mut list, &intermediate);
            linear(&mut list, &down);
            norm(&mut list, name("output.LayerNorm"));
        }
        if !self.is_roberta() {
            list.push(WeightSpec::new(
                format!("{prefix}pooler.dense.weight"),
                [c, c],
            ));
            list.push(WeightSpec::vector(format!("{prefix}pooler.dense.bias"), c));
        }
        list
    }
}

/// q, k, v.
pub(crate) fn joined(layer: usize) -> Range<usize> {
    let base = base(layer);
    base..base + 3
}

/// The sum of token, position and type embeddings, normed, (N, C).
pub(crate) fn embed(config: &BertConfig, weights: &Weights, pass: &Pass<'_>) -> Tensor<2> {
    let first = config.first_position() as u32;
    let positions: Vec<u32> = pass.positions.iter().map(|p| first + p).collect();
    // RoBERTa has one type, whatever the texts are.
    let last = config.type_vocab_size as u32 - 1;
    let types: Vec<u32> = pass.input.types().iter().map(|t| *t.min(&last)).collect();
    let sum =
        weights.rows(0, &pass.input.ids) + weights.rows(1, &positions) + weights.rows(2, &types);
    norm(config, weights, sum, 3)
}

fn norm(config: &BertConfig, weights: &Weights, x: Tensor<2>, at: usize) -> Tensor<2> {
    let (weight, bias) = (weights.vector(at), weights.vector(at + 1));
    ops::layer_norm(x, weight, bias, config.layer_norm_eps)
}

/// One block, (N, C) -> (N, C).
pub(crate) fn block(
    config: &BertConfig,
    weights: &Weights,
    layer: usize,
    x: Tensor<2>,
    pass: &Pass<'_>,
    attention: Attention<'_>,
) -> Tensor<2> {
    let base = base(layer);
    let module = |x: Tensor<2>, at: usize, name: &str| {
        let bias = weights.vector(at + 1).clone();
        let weight = weights.slice(at..at + 1);
        let updates = updates(pass.adapter, layer, &[name], weight);
        ops::linear(x, weight, Some(bias), updates)
    };

    let biases = (3..6).map(|i| weights.vector(base + i).clone()).collect();
    let joined = weights.slice(base..base + 3);
    let qkv = ops::linear(
        x.clone(),
        joined,
        Some(Tensor::cat(biases, 1)), // (1, 3 C)
        updates(pass.adapter, layer, &["query", "key", "value"], joined),
    ); // (N, 3 C)
    let y = attention(qkv); // (N, C)
    let y = module(y, base + 6, "attention.output.dense");
    let x = norm(config, weights, x + y, base + 8);

    let h = module(x.clone(), base + 10, "intermediate.dense"); // (N, F)
    let h = module(ops::gelu(h, false), base + 12, "output.dense");
    norm(config, weights, x + h, base + 14)
}

/// BERT's pooler of first tokens, (B, C) -> (B, C); RoBERTa's are as they are.
pub(crate) fn pool(config: &BertConfig, weights: &Weights, x: Tensor<2>) -> Tensor<2> {
    if config.is_roberta() {
        return x;
    }
    let at = base(config.num_hidden_layers);
    let bias = weights.vector(at + 1).clone();
    ops::linear(x, weights.slice(at..at + 1), Some(bias), Vec::new()).tanh()
}
