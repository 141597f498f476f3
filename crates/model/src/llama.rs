//! LLaMA 1 to 3 and models of the same architecture (SmolLM2): arXiv 2302.13971, 2307.09288, 2407.21783.
//!
//! Reference: `transformers/models/llama/modeling_llama.py`. Deviations: none in the values; weights stay
//! [out, in] as they are stored, RMSNorm weights are kept as (1, C), and rows of a batch are laid end to end,
//! (B * T, C), between the attention blocks.

use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use serde::Deserialize;
use sharelora_adapters::{Bank, Dropout, Site};

use crate::weights::Checkpoint;
use crate::{Cache, Input, ModelError};

/// The part of Hugging Face's `config.json` that decides the forward pass.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LlamaConfig {
    #[serde(default)]
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Absent: as many as there are attention heads.
    pub num_key_value_heads: Option<usize>,
    /// Absent or null: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Where transformers 4 keeps it.
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    /// Where transformers 5 keeps both.
    rope_parameters: Option<RopeParameters>,
    pub bos_token_id: Option<u32>,
    /// One id or a list.
    #[serde(default)]
    eos_token_id: serde_json::Value,
    pub pad_token_id: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name; files that were saved again carry both.
    #[serde(rename = "type")]
    older_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

fn default_eps() -> f64 {
    1e-6
}
fn default_act() -> String {
    "silu".into()
}
fn default_positions() -> usize {
    2048
}

/// How the frozen base is kept in memory. The arithmetic is f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    #[default]
    F32,
    /// Half the memory; a weight is widened for each product that it takes part in.
    Bf16,
}

/// A weight for arithmetic: widened where it is stored in less.
pub(crate) fn widened(weight: &Tensor<2>) -> Tensor<2> {
    match weight.dtype() {
        DType::F32 => weight.clone(),
        _ => weight.clone().cast(DType::F32),
    }
}

/// Bounds far above any model's, so that its size in bytes is always a 64-bit number.
const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 24;

/// Names of the projections of a block, in the model's order.
const PROJECTIONS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

impl LlamaConfig {
    /// # Errors
    /// [`ModelError::Config`] for a malformed file or one that asks for something that is not computed here.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let config: LlamaConfig =
            serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ModelError> {
        let bad = |text: String| Err(ModelError::Config(text));
        if !self.model_type.is_empty() && self.model_type != "llama" {
            return bad(format!(
                "`model_type` is `{}`: `llama` is what is built",
                self.model_type
            ));
        }
        if self.hidden_act != "silu" {
            return bad(format!(
                "`hidden_act` is `{}`: `silu` is what is built",
                self.hidden_act
            ));
        }
        if self.attention_bias || self.mlp_bias {
            return bad("`attention_bias` and `mlp_bias` must be false".into());
        }
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("head_dim", self.head_dim()),
            (
                "num_attention_heads * head_dim",
                self.num_attention_heads.saturating_mul(self.head_dim()),
            ),
        ] {
            if value == 0 {
                return bad(format!("`{key}` is 0"));
            }
            // A file that lies must not be believed to the last byte of memory.
            let most = if key == "num_hidden_layers" {
                MAX_LAYERS
            } else {
                MAX_WIDTH
            };
            if value > most {
                return bad(format!("`{key}` is {value}: at most {most} is read"));
            }
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(format!(
                "`hidden_size` = {} is no multiple of `num_attention_heads` = {}, and `head_dim` is not given",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            return bad(format!(
                "`num_attention_heads` = {} is no multiple of `num_key_value_heads` = {}",
                self.num_attention_heads,
                self.kv_heads()
            ));
        }
        if !self.head_dim().is_multiple_of(2) {
            return bad(format!("`head_dim` = {} is odd", self.head_dim()));
        }
        self.inverse_frequencies().map(|_| ())
    }

    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// The tokens that end a generation.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        match &self.eos_token_id {
            serde_json::Value::Array(list) => list
                .iter()
                .filter_map(|v| v.as_u64())
                .map(|v| v as u32)
                .collect(),
            value => value.as_u64().map(|v| v as u32).into_iter().collect(),
        }
    }

    /// RoPE's frequencies, `head_dim / 2` of them (arXiv 2104.09864; LLaMA-3's scaling as
    /// `transformers/modeling_rope_utils.py` `_compute_llama3_parameters`).
    ///
    /// # Errors
    /// [`ModelError::Config`] for a type of scaling that is not built or a parameter that is missing.
    pub fn inverse_frequencies(&self) -> Result<Vec<f64>, ModelError> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = rope
            .and_then(|r| r.rope_theta)
            .or(self.rope_theta)
            .unwrap_or(10_000.0);
        let dim = self.head_dim();
        let plain: Vec<f64> = (0..dim / 2)
            .map(|i| theta.powf(-2.0 * i as f64 / dim as f64))
            .collect();
        let need = |value: Option<f64>, key: &str| {
            value.ok_or_else(|| ModelError::Config(format!("rope: `{key}` is missing")))
        };
        match rope
            .and_then(|r| r.rope_type.as_deref().or(r.older_type.as_deref()))
            .unwrap_or("default")
        {
            "default" => Ok(plain),
            "linear" => {
                let factor = need(rope.and_then(|r| r.factor), "factor")?;
                Ok(plain.into_iter().map(|f| f / factor).collect())
            }
            "llama3" => {
                let Some(r) = rope else { return Ok(plain) };
                let factor = need(r.factor, "factor")?;
                let low = need(r.low_freq_factor, "low_freq_factor")?;
                let high = need(r.high_freq_factor, "high_freq_factor")?;
                let old = need(
                    r.original_max_position_embeddings.map(|n| n as f64),
                    "original_max_position_embeddings",
                )?;
                Ok(plain
                    .into_iter()
                    .map(|f| {
                        let wavelength = 2.0 * std::f64::consts::PI / f;
                        if wavelength < old / high {
                            f
                        } else if wavelength > old / low {
                            f / factor
                        } else {
                            let smooth = (old / wavelength - low) / (high - low);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    })
                    .collect())
            }
            other => Err(ModelError::Config(format!(
                "`rope_type` is `{other}`: `default`, `linear` and `llama3` are built"
            ))),
        }
    }

    /// (out, in) of a projection.
    fn shape(&self, projection: &str) -> [usize; 2] {
        let q = self.num_attention_heads * self.head_dim();
        let kv = self.kv_heads() * self.head_dim();
        let (c, f) = (self.hidden_size, self.intermediate_size);
        match projection {
            "q_proj" => [q, c],
            "k_proj" | "v_proj" => [kv, c],
            "o_proj" => [c, q],
            "down_proj" => [c, f],
            _ => [f, c],
        }
    }

    /// Every linear layer that an adapter can update, layer by layer.
    pub fn sites(&self) -> Vec<Site> {
        (0..self.num_hidden_layers)
            .flat_map(|layer| {
                PROJECTIONS.iter().map(move |&projection| {
                    let [out_features, in_features] = self.shape(projection);
                    Site {
                        layer,
                        projection: projection.into(),
                        path: module_path(layer, projection),
                        in_features,
                        out_features,
                    }
                })
            })
            .collect()
    }

    /// Names and shapes of all weights, a vector as (1, n).
    pub fn weights(&self) -> Vec<(String, [usize; 2])> {
        let (v, c) = (self.vocab_size, self.hidden_size);
        let mut list = vec![("model.embed_tokens.weight".to_string(), [v, c])];
        for layer in 0..self.num_hidden_layers {
            list.push((
                format!("model.layers.{layer}.input_layernorm.weight"),
                [1, c],
            ));
            list.push((
                format!("model.layers.{layer}.post_attention_layernorm.weight"),
                [1, c],
            ));
            for projection in PROJECTIONS {
                list.push((
                    format!("{}.weight", module_path(layer, projection)),
                    self.shape(projection),
                ));
            }
        }
        list.push(("model.norm.weight".into(), [1, c]));
        if !self.tie_word_embeddings {
            list.push(("lm_head.weight".into(), [v, c]));
        }
        list
    }

    /// Number of parameters of the base model; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.weights()
            .iter()
            .map(|(_, [a, b])| (a * b) as u64)
            .sum()
    }
}

fn module_path(layer: usize, projection: &str) -> String {
    let block = match projection {
        "gate_proj" | "up_proj" | "down_proj" => "mlp",
        _ => "self_attn",
    };
    format!("model.layers.{layer}.{block}.{projection}")
}

struct Block {
    input_norm: Tensor<2>, // (1, C)
    q: Tensor<2>,          // (H D, C)
    k: Tensor<2>,          // (Hkv D, C)
    v: Tensor<2>,          // (Hkv D, C)
    o: Tensor<2>,          // (C, H D)
    post_norm: Tensor<2>,  // (1, C)
    gate: Tensor<2>,       // (F, C)
    up: Tensor<2>,         // (F, C)
    down: Tensor<2>,       // (C, F)
}

/// The frozen base. It never contains an adapter: the forward pass takes one.
pub struct Llama {
    pub config: LlamaConfig,
    embed: Tensor<2>, // (V, C)
    blocks: Vec<Block>,
    norm: Tensor<2>, // (1, C)
    /// (V, C); `None` where it is tied to the embedding.
    head: Option<Tensor<2>>,
    frequencies: Vec<f64>,
    /// (D, D): x R has -x2 in its first half and x1 in its second, RoPE's `rotate_half`.
    rotation: Tensor<2>,
    device: Device,
}

/// An adapter for one forward pass.
#[derive(Clone, Copy)]
pub struct Adapter<'a> {
    pub bank: &'a Bank,
    /// The masks of a training pass; `None` in evaluation.
    pub dropout: Option<Dropout>,
}

impl Llama {
    /// Reads the weights one tensor at a time; the model never exists twice in memory.
    ///
    /// # Errors
    /// A tensor that is missing or does not fit the configuration, by name and both shapes.
    pub fn load(
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        storage: Storage,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::build(config, storage, device, |name, shape| {
            // Some checkpoints repeat the tied embedding, others leave `lm_head` to be tied.
            let found = checkpoint.shape(name).ok_or_else(|| {
                ModelError::Mismatch(format!("tensor `{name}` is missing from the checkpoint"))
            })?;
            let flat = if found.len() == 1 {
                vec![1, found[0]]
            } else {
                found.clone()
            };
            if flat != shape {
                return Err(ModelError::Mismatch(format!(
                    "tensor `{name}` is {found:?} in the checkpoint, config.json needs {shape:?}"
                )));
            }
            Ok(checkpoint.read_f32(name)?)
        })
    }

    /// A model from a function that gives the values of each named weight, [out, in] or (1, n).
    ///
    /// # Errors
    /// What the function returns.
    pub fn build(
        config: LlamaConfig,
        storage: Storage,
        device: &Device,
        mut values: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let c = config.hidden_size;
        let mut read = |name: &str, shape: [usize; 2]| -> Result<Tensor<2>, ModelError> {
            let data = TensorData::new(values(name, shape)?, shape);
            let tensor = Tensor::from_data(data, device);
            Ok(match storage {
                Storage::F32 => tensor,
                Storage::Bf16 => tensor.cast(DType::BF16),
            })
        };
        let embed = read("model.embed_tokens.weight", [config.vocab_size, c])?;
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| {
                let mut linear = |projection: &str| {
                    read(
                        &format!("{}.weight", module_path(layer, projection)),
                        config.shape(projection),
                    )
                };
                let (q, k, v, o) = (
                    linear("q_proj")?,
                    linear("k_proj")?,
                    linear("v_proj")?,
                    linear("o_proj")?,
                );
                let (gate, up, down) = (
                    linear("gate_proj")?,
                    linear("up_proj")?,
                    linear("down_proj")?,
                );
                let mut norm =
                    |name: &str| read(&format!("model.layers.{layer}.{name}.weight"), [1, c]);
                Ok(Block {
                    input_norm: norm("input_layernorm")?,
                    post_norm: norm("post_attention_layernorm")?,
                    q,
                    k,
                    v,
                    o,
                    gate,
                    up,
                    down,
                })
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let norm = read("model.norm.weight", [1, c])?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(read("lm_head.weight", [config.vocab_size, c])?),
        };
        let d = config.head_dim();
        let mut rotation = vec![0f32; d * d];
        for i in 0..d / 2 {
            rotation[(i + d / 2) * d + i] = -1.0;
            rotation[i * d + i + d / 2] = 1.0;
        }
        Ok(Llama {
            frequencies: config.inverse_frequencies()?,
            rotation: Tensor::from_data(TensorData::new(rotation, [d, d]), device),
            embed,
            blocks,
            norm,
            head,
            device: device.clone(),
            config,
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The output head: (V, C), tied or not.
    pub fn head(&self) -> &Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// All weights by name, for full fine-tuning, pretraining and merging; a tied head is the embedding.
    pub fn weights_mut(&mut self) -> Vec<(String, &mut Tensor<2>)> {
        let mut list = vec![("model.embed_tokens.weight".to_string(), &mut self.embed)];
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            list.push((
                format!("model.layers.{layer}.input_layernorm.weight"),
                &mut block.input_norm,
            ));
            list.push((
                format!("model.layers.{layer}.post_attention_layernorm.weight"),
                &mut block.post_norm,
            ));
            let matrices = [
                &mut block.q,
                &mut block.k,
                &mut block.v,
                &mut block.o,
                &mut block.gate,
                &mut block.up,
                &mut block.down,
            ];
            for (projection, matrix) in PROJECTIONS.iter().zip(matrices) {
                list.push((format!("{}.weight", module_path(layer, projection)), matrix));
            }
        }
        list.push(("model.norm.weight".into(), &mut self.norm));
        if let Some(head) = &mut self.head {
            list.push(("lm_head.weight".into(), head));
        }
        list
    }

    /// A second handle on the same weights: no tensor is copied until it is replaced.
    pub fn share(&self) -> Self {
        Llama {
            config: self.config.clone(),
            embed: self.embed.clone(),
            blocks: self
                .blocks
                .iter()
                .map(|b| Block {
                    input_norm: b.input_norm.clone(),
                    q: b.q.clone(),
                    k: b.k.clone(),
                    v: b.v.clone(),
                    o: b.o.clone(),
                    post_norm: b.post_norm.clone(),
                    gate: b.gate.clone(),
                    up: b.up.clone(),
                    down: b.down.clone(),
                })
                .collect(),
            norm: self.norm.clone(),
            head: self.head.clone(),
            frequencies: self.frequencies.clone(),
            rotation: self.rotation.clone(),
            device: self.device.clone(),
        }
    }

    /// cos and sin of the rotary angles, each (B or 1, T, 1, D).
    fn rope(&self, input: &Input, past: usize) -> (Tensor<4>, Tensor<4>) {
        let positions = input.positions(past);
        let rows = positions.len() / input.length.max(1);
        let d = self.config.head_dim();
        let table = |f: fn(f32) -> f32| {
            let mut values = Vec::with_capacity(positions.len() * d);
            for &p in &positions {
                for _ in 0..2 {
                    // The angle in f32, as the reference computes it.
                    values.extend(self.frequencies.iter().map(|&w| f(p as f32 * w as f32)));
                }
            }
            Tensor::from_data(
                TensorData::new(values, [rows, input.length, 1, d]),
                &self.device,
            )
        };
        (table(f32::cos), table(f32::sin))
    }

    /// Hidden states after the final norm, (B * T, C). With a cache, `input` continues what it holds.
    pub fn hidden(
        &self,
        input: &Input,
        adapter: Option<Adapter<'_>>,
        mut cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let (b, t) = (input.batch, input.length);
        let (heads, kv, d) = (
            self.config.num_attention_heads,
            self.config.kv_heads(),
            self.config.head_dim(),
        );
        let group = heads / kv;
        let past = cache.as_ref().map_or(0, |c| c.len());
        let (cos, sin) = self.rope(input, past);
        // A single query of an unpadded batch sees everything.
        let mask =
            (t > 1 || !input.left_padding.is_empty()).then(|| input.mask(past, &self.device));
        let scale = 1.0 / (d as f64).sqrt();

        let mut x = widened(&self.embed.clone().select(0, input.tensor(&self.device))); // (B T, C)
        for (layer, block) in self.blocks.iter().enumerate() {
            let linear = |x: &Tensor<2>, weight: &Tensor<2>, projection: &str| {
                let y = x.clone().matmul(widened(weight).transpose());
                match adapter.and_then(|a| a.bank.update(layer, projection, x, a.dropout)) {
                    Some(update) => y + update,
                    None => y,
                }
            };
            let rotate = |x: Tensor<2>, n: usize| {
                let turned = x
                    .clone()
                    .reshape([b * t * n, d])
                    .matmul(self.rotation.clone());
                let (x, turned) = (x.reshape([b, t, n, d]), turned.reshape([b, t, n, d]));
                x * cos.clone() + turned * sin.clone()
            };

            let h = self.rms_norm(&x, &block.input_norm);
            let q = rotate(linear(&h, &block.q, "q_proj"), heads).mul_scalar(scale); // (B, T, H, D)
            let k = rotate(linear(&h, &block.k, "k_proj"), kv).swap_dims(1, 2); // (B, Hkv, T, D)
            let v = linear(&h, &block.v, "v_proj")
                .reshape([b, t, kv, d])
                .swap_dims(1, 2);
            let (k, v) = match cache.as_deref_mut() {
                Some(cache) => cache.append(layer, k, v),
                None => (k, v),
            };
            let keys = past + t;
            // The queries of the heads that share a key head become one longer list of queries.
            let q = q.swap_dims(1, 2).reshape([b, kv, group * t, d]); // (B, H, T, D) -> (B, Hkv, G T, D)
            let mut scores = q.matmul(k.swap_dims(2, 3)).reshape([b, heads, t, keys]);
            if let Some(mask) = &mask {
                scores = scores + mask.clone();
            }
            let weights = activation::softmax(scores, 3).reshape([b, kv, group * t, keys]);
            let y = weights.matmul(v).reshape([b, heads, t, d]).swap_dims(1, 2); // (B, T, H, D)
            x = x + linear(&y.reshape([b * t, heads * d]), &block.o, "o_proj");

            let h = self.rms_norm(&x, &block.post_norm);
            let gate = activation::silu(linear(&h, &block.gate, "gate_proj"));
            let h = gate * linear(&h, &block.up, "up_proj"); // (B T, F)
            x = x + linear(&h, &block.down, "down_proj");
        }
        if let Some(cache) = cache {
            cache.advance(t);
        }
        self.rms_norm(&x, &self.norm)
    }

    /// RMSNorm, arXiv 1910.07467. (N, C) -> (N, C)
    fn rms_norm(&self, x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
        let mean = x.clone().square().mean_dim(1); // (N, 1)
        let inverse = mean.add_scalar(self.config.rms_norm_eps).sqrt().recip();
        x.clone() * inverse * widened(weight)
    }

    /// Logits of hidden states, (N, C) -> (N, V).
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.matmul(widened(self.head()).transpose())
    }
}
