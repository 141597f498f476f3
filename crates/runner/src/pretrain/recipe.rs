//! What distinguishes the pocket models: architecture, tokenizer, objective and length of training.

use anyhow::{Result, anyhow};
use serde_json::json;
use sharelora_model::ModelConfig;
use sharelora_tasks::corpus::pretraining_text;
use sharelora_tasks::{Encoder, train_pocket_roberta_tokenizer, train_pocket_tokenizer};

use super::{Pocket, SEED};

const VOCABULARY: usize = 768;
/// Documents that a tokenizer is trained on.
const TOKENIZER_TEXTS: usize = 4000;

/// The deviation of BERT's and GPT-2's initial weights, 0.02, is one of width 768. At width 128 the masked model ends with a loss of
/// 0.52 by it, and of 0.14 by this.
const DEVIATION: f64 = 0.05;

/// What is learnt of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Each token from those before it.
    Causal,
    /// Hidden tokens from all others.
    Masked,
}

/// How a pocket model is made.
pub struct Recipe {
    /// In `models`.
    pub folder: &'static str,
    /// The text of `config.json`.
    pub config: String,
    /// The text of `tokenizer.json`.
    pub tokenizer: String,
    /// Standard deviation of the initial weights.
    pub deviation: f64,
    pub objective: Objective,
    /// Tokens of a sequence, the longest where they differ.
    pub length: usize,
    /// Sequences of an optimizer step.
    pub batch: usize,
    pub steps: usize,
    pub learning_rate: f64,
}

impl Recipe {
    /// # Errors
    /// The tokenizer could not be trained.
    pub fn of(pocket: Pocket) -> Result<Self> {
        let texts = pretraining_text(SEED, TOKENIZER_TEXTS);
        let tokenizer = match pocket {
            Pocket::Roberta => train_pocket_roberta_tokenizer(texts, VOCABULARY)?,
            Pocket::Llama | Pocket::Gpt2 => train_pocket_tokenizer(texts, VOCABULARY)?,
        };
        let tokenizer = tokenizer
            .to_string(true)
            .map_err(|e| anyhow!("cannot write the tokenizer: {e}"))?;
        let config = |value| serde_json::to_string_pretty(&value);
        Ok(match pocket {
            Pocket::Llama => Recipe {
                folder: "pocket",
                config: config(json!({
                    "architectures": ["LlamaForCausalLM"],
                    "model_type": "llama",
                    "vocab_size": VOCABULARY,
                    "hidden_size": 128,
                    "intermediate_size": 352,
                    "num_hidden_layers": 5,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "max_position_embeddings": 512,
                    "rms_norm_eps": 1e-5,
                    "rope_theta": 10000.0,
                    "hidden_act": "silu",
                    "tie_word_embeddings": true,
                    "bos_token_id": null,
                    "eos_token_id": 0,
                    "pad_token_id": 0,
                }))?,
                tokenizer,
                deviation: 0.02,
                objective: Objective::Causal,
                length: 129,
                batch: 16,
                steps: 1500,
                learning_rate: 4e-3,
            },
            Pocket::Roberta => Recipe {
                folder: "pocket-roberta",
                config: config(json!({
                    "architectures": ["RobertaForMaskedLM"],
                    "model_type": "roberta",
                    "vocab_size": VOCABULARY,
                    "hidden_size": 128,
                    "intermediate_size": 512,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    // Positions are counted from `pad_token_id` + 1.
                    "max_position_embeddings": 130,
                    "type_vocab_size": 1,
                    "layer_norm_eps": 1e-5,
                    "hidden_act": "gelu",
                    "position_embedding_type": "absolute",
                    "tie_word_embeddings": true,
                    "bos_token_id": 0,
                    "eos_token_id": 2,
                    "pad_token_id": 1,
                }))?,
                tokenizer,
                deviation: DEVIATION,
                objective: Objective::Masked,
                length: 128,
                batch: 32,
                steps: 2000,
                learning_rate: 2e-3,
            },
            Pocket::Gpt2 => Recipe {
                folder: "pocket-gpt2",
                config: config(json!({
                    "architectures": ["GPT2LMHeadModel"],
                    "model_type": "gpt2",
                    "vocab_size": VOCABULARY,
                    "n_embd": 128,
                    "n_layer": 4,
                    "n_head": 4,
                    "n_positions": 256,
                    "layer_norm_epsilon": 1e-5,
                    "activation_function": "gelu_new",
                    "tie_word_embeddings": true,
                    "bos_token_id": 0,
                    "eos_token_id": 0,
                }))?,
                tokenizer,
                deviation: DEVIATION,
                objective: Objective::Causal,
                // Every position is learnt.
                length: 256,
                batch: 8,
                steps: 1500,
                learning_rate: 4e-3,
            },
        })
    }

    /// The tokenizer, with the tokens that the configuration names.
    ///
    /// # Errors
    /// The two do not fit.
    pub fn encoder(&self) -> Result<Encoder> {
        let config = ModelConfig::from_json(&self.config)?;
        let eos = config.eos_token_ids().first().copied().unwrap_or(0);
        let bytes = self.tokenizer.as_bytes();
        Ok(Encoder::from_bytes(bytes, config.bos_token_id(), eos)?)
    }
}
