//! What a model's `config.json` decides, whichever its architecture.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;
use sharelora_adapters::Site;
use sharelora_kernels::attention::Heads;

use crate::ModelError;
use crate::bert::BertConfig;
use crate::gpt2::Gpt2Config;
use crate::llama::LlamaConfig;

/// A weight of a model, and where its checkpoint has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name of the tensor in the checkpoint.
    pub name: String,
    /// (out, in); a vector is (1, n).
    pub shape: [usize; 2],
    /// The checkpoint keeps the tensor as [in, all out], and this is a part of it.
    pub conv1d: Option<Conv1d>,
}

/// Which outputs of a `Conv1D` (GPT-2's linear layer, stored [in, out]) a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv1d {
    /// The first of them.
    pub start: usize,
    /// Outputs of the whole tensor.
    pub of: usize,
}

impl WeightSpec {
    pub(crate) fn new(name: impl Into<String>, shape: [usize; 2]) -> Self {
        WeightSpec {
            name: name.into(),
            shape,
            conv1d: None,
        }
    }

    pub(crate) fn vector(name: impl Into<String>, n: usize) -> Self {
        Self::new(name, [1, n])
    }

    /// Is it a bias or a norm's weight, which optimizers leave out of weight decay?
    pub fn is_vector(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        self.shape[0] == 1
            && ["bias", "norm", "ln_"]
                .iter()
                .any(|part| name.contains(part))
    }
}

/// The configuration of a model of any architecture that is built.
#[allow(clippy::large_enum_variant, reason = "there is one for each model")]
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    Llama(LlamaConfig),
    Gpt2(Gpt2Config),
    Bert(BertConfig),
}

/// The values of `model_type` that are built.
pub const ARCHITECTURES: [&str; 4] = ["llama", "gpt2", "roberta", "bert"];

/// Calls one function of whichever configuration it is.
macro_rules! each {
    ($self:expr, $config:ident => $call:expr) => {
        match $self {
            ModelConfig::Llama($config) => $call,
            ModelConfig::Gpt2($config) => $call,
            ModelConfig::Bert($config) => $call,
        }
    };
}

impl ModelConfig {
    /// Reads a `config.json`; without `model_type` it is a LLaMA's.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a malformed file or one that asks for something that is not computed here.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(default)]
            model_type: String,
        }
        let kind: Kind =
            serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        Ok(match kind.model_type.as_str() {
            "" | "llama" => Self::Llama(LlamaConfig::from_json(text)?),
            "gpt2" => Self::Gpt2(Gpt2Config::from_json(text)?),
            "roberta" | "bert" => Self::Bert(BertConfig::from_json(text)?),
            other => {
                return Err(ModelError::Config(format!(
                    "`model_type` is `{other}`: choices: {}",
                    ARCHITECTURES.join(", ")
                )));
            }
        })
    }

    /// Rows of the embedding: the largest token id and one more.
    pub fn vocab_size(&self) -> usize {
        each!(self, c => c.vocab_size)
    }

    /// C, the width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Llama(c) => c.hidden_size,
            Self::Gpt2(c) => c.n_embd,
            Self::Bert(c) => c.hidden_size,
        }
    }

    /// F, the width inside the feed-forward part.
    pub fn intermediate_size(&self) -> usize {
        match self {
            Self::Llama(c) => c.intermediate_size,
            Self::Gpt2(c) => c.inner(),
            Self::Bert(c) => c.intermediate_size,
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        match self {
            Self::Llama(c) => c.num_hidden_layers,
            Self::Gpt2(c) => c.n_layer,
            Self::Bert(c) => c.num_hidden_layers,
        }
    }

    /// Attention's heads.
    pub fn heads(&self) -> Heads {
        let plain = |heads: usize| Heads {
            query: heads,
            key: heads,
            size: self.hidden_size() / heads.max(1),
        };
        match self {
            Self::Llama(c) => Heads {
                query: c.num_attention_heads,
                key: c.kv_heads(),
                size: c.head_dim(),
            },
            Self::Gpt2(c) => plain(c.n_head),
            Self::Bert(c) => plain(c.num_attention_heads),
        }
    }

    /// Tokens of the longest sequence.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(c) => c.max_position_embeddings,
            Self::Gpt2(c) => c.n_positions,
            Self::Bert(c) => c.max_positions(),
        }
    }

    /// Does a token see only what is before it? Then the model generates.
    pub fn is_causal(&self) -> bool {
        !matches!(self, Self::Bert(_))
    }

    /// The token that begins a text, where the model has one.
    pub fn bos_token_id(&self) -> Option<u32> {
        each!(self, c => c.bos_token_id)
    }

    /// The tokens that end a text.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        match self {
            Self::Llama(c) => c.eos_token_ids(),
            Self::Gpt2(c) => token_ids(&c.eos_token_id),
            // BERT's own file names none; a text ends in `[SEP]`, which is nothing to generate.
            Self::Bert(c) => token_ids(&c.eos_token_id),
        }
    }

    /// Every linear layer that an adapter can update, layer by layer.
    pub fn sites(&self) -> Vec<Site> {
        each!(self, c => c.sites())
    }

    /// Paths of all linear modules, as Hugging Face transformers names them.
    pub fn modules(&self) -> Vec<String> {
        let sites = self.sites().into_iter();
        sites.filter(|s| s.part.is_none()).map(|s| s.path).collect()
    }

    /// Names of the tensors of all linear layers of the blocks: what QLoRA quantises.
    pub fn linear_weights(&self) -> HashSet<String> {
        let sites = self.sites().into_iter();
        sites.map(|s| format!("{}.weight", s.path)).collect()
    }

    /// All weights, in the order in which a [`Model`](crate::Model) keeps them.
    pub fn weights(&self) -> Vec<WeightSpec> {
        each!(self, c => c.weights())
    }

    /// Number of parameters of the base model; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        let counts = self.weights().into_iter().map(|w| w.shape);
        counts.map(|[a, b]| a as u64 * b as u64).sum()
    }

    /// Does the checkpoint keep linear weights as [in, out] (PEFT's `fan_in_fan_out`)?
    pub fn fan_in_fan_out(&self) -> bool {
        matches!(self, Self::Gpt2(_))
    }

    /// The first part of the names of the base's tensors, which some checkpoints leave out.
    pub(crate) fn prefix(&self) -> &'static str {
        match self {
            Self::Llama(_) => "model.",
            Self::Gpt2(_) => "transformer.",
            Self::Bert(c) => c.prefix(),
        }
    }

    /// Runs of neighbouring weights that read one input and are one product where they lie one below the other.
    pub(crate) fn joined(&self) -> Vec<std::ops::Range<usize>> {
        let layers = 0..self.layers();
        match self {
            Self::Llama(_) => layers.flat_map(crate::llama::joined).collect(),
            Self::Gpt2(_) => layers.map(crate::gpt2::joined).collect(),
            Self::Bert(_) => layers.map(crate::bert::joined).collect(),
        }
    }
}

/// One id or a list of them.
pub(crate) fn token_ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        value => id(value).into_iter().collect(),
    }
}

/// Bounds far above any model's, so that its size in bytes is always a 64-bit number.
const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 24;

/// Checks that none of the numbers is 0 or beyond any model's: a file that lies must not be believed to the last byte of
/// memory.
///
/// # Errors
/// [`ModelError::Config`] names the key.
pub(crate) fn check_sizes(
    layers: (&str, usize),
    widths: &[(&str, usize)],
) -> Result<(), ModelError> {
    let all = widths.iter().map(|w| (*w, MAX_WIDTH));
    for ((key, value), most) in all.chain([(layers, MAX_LAYERS)]) {
        if value == 0 {
            return Err(ModelError::Config(format!("`{key}` is 0")));
        }
        if value > most {
            return Err(ModelError::Config(format!(
                "`{key}` is {value}: at most {most} is read"
            )));
        }
    }
    Ok(())
}

/// Checks that the heads divide the hidden width.
pub(crate) fn check_heads(hidden: (&str, usize), heads: (&str, usize)) -> Result<(), ModelError> {
    if hidden.1.is_multiple_of(heads.1) {
        return Ok(());
    }
    Err(ModelError::Config(format!(
        "`{}` = {} is no multiple of `{}` = {}",
        hidden.0, hidden.1, heads.0, heads.1
    )))
}
