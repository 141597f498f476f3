//! `config.json` of a LLaMA: what it decides, and what it must not ask for.

use serde::Deserialize;
use sharelora_adapters::Site;

use crate::ModelError;
use crate::config::{WeightSpec, check_sizes, token_ids};

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

/// Names of the projections of a block, in the model's order.
pub(super) const PROJECTIONS: [&str; 7] = [
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
        let widths = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("head_dim", self.head_dim()),
            (
                "num_attention_heads * head_dim",
                self.num_attention_heads.saturating_mul(self.head_dim()),
            ),
        ];
        check_sizes(("num_hidden_layers", self.num_hidden_layers), &widths)?;
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
        token_ids(&self.eos_token_id)
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
                        part: None,
                    }
                })
            })
            .collect()
    }

    /// All weights, in the model's order: the embedding, [`LAYER`] of each block, the norm, the head where it is not tied.
    pub fn weights(&self) -> Vec<WeightSpec> {
        let (v, c) = (self.vocab_size, self.hidden_size);
        let mut list = vec![WeightSpec::new("model.embed_tokens.weight", [v, c])];
        for layer in 0..self.num_hidden_layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                let name = format!("model.layers.{layer}.{norm}.weight");
                list.push(WeightSpec::vector(name, c));
            }
            for projection in PROJECTIONS {
                let name = format!("{}.weight", module_path(layer, projection));
                list.push(WeightSpec::new(name, self.shape(projection)));
            }
        }
        list.push(WeightSpec::vector("model.norm.weight", c));
        if !self.tie_word_embeddings {
            list.push(WeightSpec::new("lm_head.weight", [v, c]));
        }
        list
    }
}

fn module_path(layer: usize, projection: &str) -> String {
    let block = match projection {
        "gate_proj" | "up_proj" | "down_proj" => "mlp",
        _ => "self_attn",
    };
    format!("model.layers.{layer}.{block}.{projection}")
}
