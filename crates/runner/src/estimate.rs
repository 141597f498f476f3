//! What a run will need, from `config.json` alone: parameters, bytes of the adapter, memory in parts.

use serde::Serialize;
use sharelora_adapters::{AdapterError, Layout, Method};
use sharelora_model::llama::LlamaConfig;

use crate::plan::ResolvedRun;

/// Numbers of one run. Counts are exact; memory is an estimate of the largest moment of training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub base_parameters: u64,
    pub trainable_parameters: u64,
    /// The adapter on disk in its native format, each matrix once, f32; 0 without adapter.
    pub adapter_bytes: u64,
    pub memory: Memory,
}

/// Bytes, by what holds them.
///
/// With `B` rows of `S` tokens (`S = max_source + max_target`, so a bound: real rows are shorter), hidden width
/// `h`, feed-forward width `f`, `q` and `k` the widths of all query and all key heads, `H` heads, `L` layers,
/// vocabulary `V`, rank `r`, `T` trainable and `P` base parameters:
///
/// - `base`: `P` x bytes of the base's dtype (f32 when every weight is trained)
/// - `adapter`: `4 T`, 0 where the base itself is trained
/// - `gradients`: `4 T`
/// - `optimizer`: `8 T`, AdamW's two moments in f32
/// - `activations`: `4 B S L (4 h + 2 q + 3 k + 4 f + H S + r t)`: what the backward pass of a layer keeps in
///   f32 without recomputation. Residual stream and norms (4 h), queries before and after rotation (2 q), keys
///   likewise and values (3 k), gate, up, silu and product (4 f), attention probabilities (H S), and the rank-wide
///   inner results of the `t` adapted projections.
/// - `logits`: `12 min(B S, 256) V`: logits, exponentials and a temporary of at most 128 rows in each of two parts,
///   f32; `12 B S V` where the head is trained too. The untouched base keeps no activations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    pub base: u64,
    pub adapter: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub activations: u64,
    pub logits: u64,
}

impl Memory {
    /// Sum of the parts.
    pub fn total(&self) -> u64 {
        self.base + self.adapter + self.gradients + self.optimizer + self.activations + self.logits
    }
}

/// Estimates `run` on a model of this configuration.
///
/// # Errors
/// An adapter that does not fit the model: an unknown target, or a sharing that joins different widths.
pub fn estimate(run: &ResolvedRun, config: &LlamaConfig) -> Result<Estimate, AdapterError> {
    let base_parameters = config.parameters();
    let layout = match (&run.method, &run.adapter) {
        (Method::Adapter { sharing, .. }, Some(adapter)) => {
            Some(Layout::new(&config.sites(), sharing, adapter)?)
        }
        _ => None,
    };
    let trainable_parameters = match (&run.method, &layout) {
        (Method::Full, _) => base_parameters,
        (_, Some(layout)) => layout.trainable_parameters(),
        _ => 0,
    };
    let adapter_bytes = layout.as_ref().map_or(0, Layout::adapter_bytes);
    let full = run.method == Method::Full;

    let wide = |n: usize| n as u64;
    let (activations, logits) = match &run.train {
        Some(train) => {
            let sequence = wide(train.max_length());
            let tokens = wide(train.batch_size) * sequence;
            let (h, f) = (wide(config.hidden_size), wide(config.intermediate_size));
            let heads = wide(config.num_attention_heads);
            let (q, k) = (
                heads * wide(config.head_dim()),
                wide(config.kv_heads() * config.head_dim()),
            );
            let layers = wide(config.num_hidden_layers).max(1);
            let (rank, sites) = layout
                .as_ref()
                .map_or((0, 0), |l| (wide(l.config.rank), wide(l.sites.len())));
            let layer = 4 * h + 2 * q + 3 * k + 4 * f + heads * sequence;
            let kept = tokens * (layers * layer + rank * sites);
            let rows = if full { tokens } else { tokens.min(256) };
            (4 * kept, 12 * rows * wide(config.vocab_size))
        }
        None => (0, 0),
    };
    Ok(Estimate {
        base_parameters,
        trainable_parameters,
        adapter_bytes,
        memory: Memory {
            base: base_parameters * if full { 4 } else { run.model.dtype.bytes() },
            adapter: adapter_bytes,
            gradients: 4 * trainable_parameters,
            optimizer: 8 * trainable_parameters,
            activations,
            logits,
        },
    })
}

/// `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}
