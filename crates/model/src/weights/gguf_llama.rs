//! LLaMA models in GGUF files as Hugging Face sees them: tensor names, row order and `config.json`.
//! The reverse of llama.cpp's `convert_hf_to_gguf.py` (`LlamaModel`, names from `gguf-py/gguf/tensor_mapping.py`).
//!
//! ggml's rotary embedding turns neighbouring rows of a head together, Hugging Face's turns row `i` with row
//! `i + head_dim / 2`; the converter therefore reorders the rows of q and k, which is undone on reading.
//! Files of other architectures keep their names and rows.

use std::path::Path;

use serde_json::{Value, json};

use super::gguf::Metadata;
use super::{Checkpoint, MetadataValue, TensorHeader, WeightsError};

const ARCHITECTURE: &str = "general.architecture";
const HEADS: &str = "llama.attention.head_count";
const KEY_VALUE_HEADS: &str = "llama.attention.head_count_kv";

/// A tensor's Hugging Face name and, where its rows are in ggml's rotary order, its number of heads.
pub(super) fn translate(
    path: &Path,
    metadata: &Metadata,
    header: &TensorHeader,
) -> Result<(String, Option<usize>), WeightsError> {
    let is_llama = metadata.get(ARCHITECTURE).and_then(MetadataValue::as_str) == Some("llama");
    let Some((name, module)) = hugging_face_name(&header.name).filter(|_| is_llama) else {
        return Ok((header.name.clone(), None));
    };
    let keys = Keys { path, metadata };
    let heads = match module {
        "attn_q" => keys.count(HEADS)?,
        "attn_k" => keys.key_value_heads()?,
        _ => return Ok((name, None)),
    };
    let rows = header.shape.first().copied().unwrap_or(1);
    // Rows are moved whole, so a row has to be whole blocks: a bias (rows of one value) only in a plain type.
    let row = header
        .shape
        .get(1..)
        .unwrap_or_default()
        .iter()
        .product::<usize>();
    if heads == 0
        || u32::try_from(rows).is_err()
        || !rows.is_multiple_of(2 * heads)
        || !row.is_multiple_of(header.dtype.block_values())
    {
        let (shape, dtype) = (&header.shape, header.dtype);
        let message =
            format!("shape {shape:?} ({dtype}) is not {heads} heads of an even number of rows");
        return Err(WeightsError::tensor(path, &header.name, message));
    }
    Ok((name, Some(heads)))
}

/// The row of the file that is row `row` of the Hugging Face tensor, for heads of `head_dim` rows: of the
/// file's (head_dim / 2, 2) rows of a head, Hugging Face has the transpose.
pub(super) fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, row) = (row / head_dim, row % head_dim);
    let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
    head * head_dim + pair * 2 + half
}

/// The Hugging Face name and the GGUF name of the module.
fn hugging_face_name(name: &str) -> Option<(String, &str)> {
    let (place, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some(block) = place.strip_prefix("blk.") {
        let (layer, module) = block.split_once('.')?;
        if layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let translated = match module {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        return Some((format!("model.layers.{layer}.{translated}.{kind}"), module));
    }
    let translated = match place {
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        _ => return None,
    };
    Some((format!("{translated}.{kind}"), place))
}

/// The `config.json` that Hugging Face would have for a GGUF checkpoint of a LLaMA model.
///
/// The vocabulary size is that of the embedding; a file without an output matrix has tied embeddings. A
/// `rope_freqs` tensor becomes Llama 3's `rope_scaling` if it has exactly those frequencies.
///
/// # Errors
/// A file that is not GGUF or not of architecture `llama`; a missing metadata key; a rotary scaling that
/// cannot be expressed.
pub fn gguf_llama_config(checkpoint: &Checkpoint) -> Result<Value, WeightsError> {
    let path = checkpoint
        .files
        .first()
        .map_or(Path::new(""), |file| &file.path);
    let metadata = checkpoint.metadata();
    let keys = Keys { path, metadata };
    if !checkpoint.is_gguf() {
        return Err(WeightsError::file(
            path,
            "is not a GGUF file; its configuration is its config.json",
        ));
    }
    let architecture = keys.get(ARCHITECTURE)?;
    if architecture.as_str() != Some("llama") {
        let message = format!("{architecture:?} is not supported in GGUF files; supported: llama");
        return Err(WeightsError::metadata(path, ARCHITECTURE, message));
    }
    let hidden = keys.count("llama.embedding_length")?;
    let heads = keys.count(HEADS)?;
    let head_dim = match keys.optional_count("llama.attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden
            .checked_div(heads)
            .ok_or_else(|| WeightsError::metadata(path, HEADS, "is 0"))?,
    };
    let embedding = checkpoint
        .shape("model.embed_tokens.weight")
        .unwrap_or_default();
    let &[vocabulary, _] = embedding.as_slice() else {
        let message = format!("has shape {embedding:?} where [vocabulary, hidden] is needed");
        return Err(WeightsError::tensor(path, "token_embd.weight", message));
    };
    let rope_theta = match metadata.get("llama.rope.freq_base") {
        Some(_) => keys.float("llama.rope.freq_base")?,
        None => 10_000.0,
    };
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": keys.count("llama.feed_forward_length")?,
        "num_hidden_layers": keys.count("llama.block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.key_value_heads()?,
        "head_dim": head_dim,
        "max_position_embeddings": keys.count("llama.context_length")?,
        "rms_norm_eps": keys.float("llama.attention.layer_norm_rms_epsilon")?,
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling(checkpoint, &keys, rope_theta, head_dim)?,
        "vocab_size": vocabulary,
        "bos_token_id": keys.optional_count("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": keys.optional_count("tokenizer.ggml.eos_token_id")?,
        "pad_token_id": keys.optional_count("tokenizer.ggml.padding_token_id")?,
        "attention_bias": checkpoint.contains("model.layers.0.self_attn.q_proj.bias"),
        "mlp_bias": checkpoint.contains("model.layers.0.mlp.gate_proj.bias"),
        "tie_word_embeddings": !checkpoint.contains("lm_head.weight"),
    }))
}

fn rope_scaling(
    checkpoint: &Checkpoint,
    keys: &Keys,
    theta: f64,
    head_dim: usize,
) -> Result<Value, WeightsError> {
    const TYPE: &str = "llama.rope.scaling.type";
    const FACTORS: &str = "rope_freqs.weight";
    if checkpoint.contains(FACTORS) {
        let factors = checkpoint.read_f32(FACTORS)?;
        return llama3_scaling(&factors, theta, head_dim).ok_or_else(|| {
            let message = "its rotary factors are not those of Llama 3's rope scaling, and no others are supported";
            WeightsError::tensor(keys.path, FACTORS, message)
        });
    }
    match keys.metadata.get(TYPE) {
        None => Ok(Value::Null),
        Some(kind) if kind.as_str() == Some("none") => Ok(Value::Null),
        Some(kind) if kind.as_str() == Some("linear") => {
            let factor = keys.float("llama.rope.scaling.factor")?;
            Ok(json!({ "rope_type": "linear", "factor": factor }))
        }
        Some(kind) => {
            let message = format!(
                "{kind:?} is not supported; supported: none, linear, Llama 3's rope_freqs tensor"
            );
            Err(WeightsError::metadata(keys.path, TYPE, message))
        }
    }
}

/// Llama 3.1 and later: wavelengths above 8192 positions are stretched by `factor`, those below 8192 / 4 are
/// kept, with a linear passage between (transformers, `modeling_rope_utils.py`,
/// `_compute_llama3_parameters`). The factor is the largest of the stored ones; the others have to follow.
fn llama3_scaling(factors: &[f32], theta: f64, head_dim: usize) -> Option<Value> {
    const ORIGINAL: f64 = 8192.0;
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    if factors.len() != head_dim / 2 {
        return None;
    }
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let expected = (0..factors.len()).map(|i| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let kept = ((ORIGINAL / wavelength - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - kept) / factor + kept)
    });
    let follows =
        |(&stored, expected): (&f32, f64)| (f64::from(stored) - expected).abs() <= 1e-3 * expected;
    factors.iter().zip(expected).all(follows).then(|| {
        json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL as u64,
        })
    })
}

/// Metadata look-ups whose errors name the key.
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Result<&'a MetadataValue, WeightsError> {
        let found = self.metadata.get(key);
        found.ok_or_else(|| {
            WeightsError::metadata(self.path, key, "is missing, but a LLaMA model needs it")
        })
    }

    fn count(&self, key: &str) -> Result<usize, WeightsError> {
        let value = self.get(key)?;
        // 2^31 bounds every count of a model, and keeps products of two counts in range.
        let count = value
            .as_u64()
            .filter(|&count| count < 1 << 31)
            .and_then(|count| count.try_into().ok());
        count.ok_or_else(|| {
            WeightsError::metadata(
                self.path,
                key,
                format!("{value:?} is not a count below 2^31"),
            )
        })
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        let present = self.metadata.contains_key(key);
        present.then(|| self.count(key)).transpose()
    }

    /// Grouped-query heads; without the key every query head has its own.
    fn key_value_heads(&self) -> Result<usize, WeightsError> {
        match self.optional_count(KEY_VALUE_HEADS)? {
            Some(heads) => Ok(heads),
            None => self.count(HEADS),
        }
    }

    fn float(&self, key: &str) -> Result<f64, WeightsError> {
        let value = self.get(key)?;
        let float = value.as_f64().filter(|float| float.is_finite());
        float.ok_or_else(|| {
            WeightsError::metadata(self.path, key, format!("{value:?} is not a finite number"))
        })
    }
}
