//! What a run will need, from `config.json` alone: parameters, bytes of the adapter, memory in parts.

use serde::Serialize;
use sharelora_adapters::{AdapterError, Layout, Method};
use sharelora_hub::Hub;
use sharelora_model::{Classifier, ModelConfig};
use sharelora_tasks::task;

use crate::batch::Fill;
use crate::experiment::{Dtype, ModelSpec};
use crate::plan::ResolvedRun;
use crate::{base, data};

/// Numbers of one run. Counts are exact; memory is an estimate of the largest moment of training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub base_parameters: u64,
    pub trainable_parameters: u64,
    /// Of a head that is trained beside it; not counted above, as in the paper's tables.
    pub head_parameters: u64,
    /// The adapter on disk in its native format, each matrix once, f32; 0 without adapter.
    pub adapter_bytes: u64,
    pub memory: Memory,
}

/// Bytes, by what holds them.
///
/// With `N` tokens of a micro-batch (`batch_tokens`, or `batch_size` rows of `S = max_source + max_target`: a bound
/// either way, since real rows are shorter; what `padded` adds to a token budget is not counted), hidden width `h`,
/// feed-forward width `f`, `q` and `k` the widths of all query and all key heads, `H` heads, `L` layers, vocabulary
/// `V`, rank `r`, `t` adapted projections of a layer, `T` trainable parameters, a head's included, and `P` base parameters:
///
/// - `base`: `4 P` in f32, `2 P` in bf16 and f16; stored as in its files, the size of these, or `2 P` while they are
///   not on this machine; in NF4 4.5 bits a value of the blocks' linear layers (4 and the f32 scale of 64), which libtorch has in f32, and
///   2 bytes of the others
/// - `adapter`: 4 bytes a value, frozen matrices (LoRA-FA, VeRA, PiSSA's first ones) included; 0 where the base itself is trained
/// - `gradients`: `4 T`
/// - `optimizer`: `8 T`, AdamW's two moments in f32
/// - `activations`: `4 N L a`, or with gradient checkpointing `4 N (L h + a)`: what the backward pass keeps in f32, all
///   of one layer or each layer's input and all of one. The untouched base keeps none. Of a layer beside an adapter
///
///   `a = 2 h + [qkv] h + [gate, up] h + (q + 2 k) + q + H + 2 f + [down] f + r t`:
///
///   the inputs of both norms (2 h); their outputs, each only where an adapted projection with a trained A reads it; queries, keys and
///   values as attention reads them (q + 2 k), its output (q) and its log-sum-exp (H); gate and up (2 f) and their
///   product where `down_proj` is adapted by a trained A (f); the rank-wide inner results (r t, twice that with PiSSA). DoRA keeps the outputs of
///   the adapted projections too, before their factors, and under dropout twice, with their dropped inputs. GPT-2 and BERT have f in place of 2 f. Where the base itself is trained,
///   through plain autodiff, `a = 4 h + 2 q + 3 k + 4 f + H S`: norms and residual stream, everything before and after
///   rotation, gate, up, silu and product, and the attention probabilities.
/// - `logits`: 0, since they are computed by tiles that are gone before the next; `12 N V` where the head is trained
///   too: logits, exponentials and a temporary.
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
        self.parts()
            .iter()
            .fold(0, |sum: u64, (_, part)| sum.saturating_add(*part))
    }

    /// The parts by name.
    pub fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("base", self.base),
            ("adapter", self.adapter),
            ("gradients", self.gradients),
            ("AdamW", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
        ]
    }
}

/// Size of a model's weight files in bytes; `None` unless all of them are on this machine.
pub fn weight_bytes(model: &ModelSpec, hub: &Hub) -> Option<u64> {
    let mut bytes = 0;
    for source in &model.weights {
        let shards = base::shards(hub, source).ok()?;
        let files = if shards.is_empty() {
            std::slice::from_ref(source)
        } else {
            &shards
        };
        for file in files {
            let (path, _) = hub.locate(file)?;
            bytes += std::fs::metadata(path).ok()?.len();
        }
    }
    Some(bytes)
}

/// Estimates `run` on a model of this configuration; `weight_bytes` as [`weight_bytes`] has it.
///
/// # Errors
/// An adapter that does not fit the model: an unknown target, or a sharing that joins different widths.
pub fn estimate(
    run: &ResolvedRun,
    config: &ModelConfig,
    weight_bytes: Option<u64>,
) -> Result<Estimate, AdapterError> {
    let base_parameters = config.parameters();
    let layout = match (&run.method, &run.adapter) {
        (Method::Adapter { sharing, .. }, Some(adapter)) => {
            Some(Layout::new(&config.sites(), sharing, adapter)?)
        }
        _ => None,
    };
    let labels = run.train.as_ref().and_then(|train| {
        let task = task(&train.task, &train.task_options).ok()?;
        data::labels(task.as_ref())
    });
    let head_parameters = labels.map_or(0, |labels| Classifier::parameters(config, labels));
    let trainable_parameters = match (&run.method, &layout) {
        (Method::Full, _) => base_parameters,
        (_, Some(layout)) => layout.trainable_parameters(),
        _ => 0,
    };
    let adapter_bytes = layout.as_ref().map_or(0, Layout::adapter_bytes);
    let full = run.method == Method::Full;

    let base = match run.model.dtype {
        Dtype::F32 => 4 * base_parameters,
        Dtype::Bf16 | Dtype::F16 => 2 * base_parameters,
        Dtype::Stored => weight_bytes.unwrap_or(2 * base_parameters),
        Dtype::Nf4 => {
            let linear = linear_parameters(config);
            let quantised = match run.backend.as_str() {
                "flex" => linear * 36 / 64,
                _ => 4 * linear,
            };
            quantised + 2 * (base_parameters - linear)
        }
    };
    let (activations, logits) = match &run.train {
        Some(train) => {
            // A text with a label has no answer behind it.
            let length = match labels {
                Some(_) => data::text_length(train, config),
                None => train.max_length(),
            };
            let tokens = match train.fill() {
                Fill::Examples(size) => wide(size) * wide(length),
                Fill::Tokens(budget) => wide(budget),
            };
            let layers = wide(config.layers()).max(1);
            let hidden = wide(config.hidden_size());
            let layer = match &layout {
                Some(layout) => beside_adapter(config, layout),
                None => trained(config, length),
            };
            let kept = if train.gradient_checkpointing {
                layers * hidden + layer
            } else {
                layers * layer
            };
            let logits = if full && labels.is_none() {
                12 * tokens * wide(config.vocab_size())
            } else {
                0
            };
            (narrow(4 * tokens * kept), narrow(logits))
        }
        None => (0, 0),
    };
    Ok(Estimate {
        base_parameters,
        trainable_parameters,
        head_parameters,
        adapter_bytes,
        memory: Memory {
            base,
            adapter: adapter_bytes + 4 * head_parameters,
            gradients: 4 * (trainable_parameters + head_parameters),
            optimizer: 8 * (trainable_parameters + head_parameters),
            activations,
            logits,
        },
    })
}

/// Parameters of the linear layers of the blocks.
fn linear_parameters(config: &ModelConfig) -> u64 {
    let linear = config.linear_weights();
    let weights = config.weights().into_iter();
    let of_linear = weights.filter(|weight| linear.contains(&weight.name));
    of_linear
        .map(|weight| weight.shape[0] as u64 * weight.shape[1] as u64)
        .sum()
}

/// Values of a token that the backward pass of one layer beside an adapter keeps.
fn beside_adapter(config: &ModelConfig, layout: &Layout) -> u128 {
    // The gradient of A alone needs what a projection reads.
    let frozen = layout.sharing.a.frozen && !layout.sharing.vectors;
    let adapted = |projections: &[&str], width: usize| {
        let any = !frozen
            && layout
                .sites
                .iter()
                .any(|site| projections.contains(&site.projection.as_str()));
        if any { wide(width) } else { 0 }
    };
    let (h, f) = (config.hidden_size(), config.intermediate_size());
    let (q, k) = heads(config);
    let t = wide(layout.sites.len()) / wide(config.layers()).max(1);
    // What the projections are called that read the first norm, the second, and the activation; and what the activation reads.
    let (first, second, third, inner): (&[&str], &[&str], &[&str], usize) = match config {
        ModelConfig::Llama(_) => (
            &["q_proj", "k_proj", "v_proj"],
            &["gate_proj", "up_proj"],
            &["down_proj"],
            2,
        ),
        ModelConfig::Gpt2(_) => (&["c_attn", "q", "k", "v"], &["c_fc"], &["mlp.c_proj"], 1),
        ModelConfig::Bert(_) => (
            &["query", "key", "value"],
            &["intermediate.dense"],
            &["output.dense"],
            1,
        ),
    };
    2 * wide(h)
        + adapted(first, h)
        + adapted(second, h)
        + (q + 2 * k)
        + q
        + wide(config.heads().query)
        + wide(inner) * wide(f)
        + adapted(third, f)
        + wide(layout.update_rank()) * t
        + scaled(config, layout)
}

/// Of a token in one layer, what DoRA's factors need: the outputs before them, and where the inputs are dropped these, and the
/// outputs once more.
fn scaled(config: &ModelConfig, layout: &Layout) -> u128 {
    if !layout.sharing.magnitude {
        return 0;
    }
    let widths = layout.sites.iter().map(|site| {
        let (into, out) = (wide(site.in_features), wide(site.out_features));
        if layout.config.dropout > 0.0 {
            into + 2 * out
        } else {
            out
        }
    });
    widths.sum::<u128>() / wide(config.layers()).max(1)
}

/// Values of a token that plain autodiff keeps of one layer whose weights are trained, in rows of `length` tokens.
fn trained(config: &ModelConfig, length: usize) -> u128 {
    let (h, f) = (wide(config.hidden_size()), wide(config.intermediate_size()));
    let (q, k) = heads(config);
    4 * h + 2 * q + 3 * k + 4 * f + wide(config.heads().query) * wide(length)
}

/// Widths of all query heads and of all key heads.
fn heads(config: &ModelConfig) -> (u128, u128) {
    let heads = config.heads();
    let width = wide(heads.size);
    (wide(heads.query) * width, wide(heads.key) * width)
}

// The largest batch of the largest model is more than 64 bits of bytes.
fn wide(n: usize) -> u128 {
    n as u128
}

fn narrow(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;

    /// h 8, f 20, two query heads and one key head of 4, so q 8 and k 4; 3 layers, V 50.
    fn config() -> ModelConfig {
        let text = r#"{ "model_type": "llama", "vocab_size": 50, "hidden_size": 8, "intermediate_size": 20,
            "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 0 }"#;
        ModelConfig::from_json(text).unwrap()
    }

    fn memory(sets: &[&str], weight_bytes: Option<u64>) -> Memory {
        let run = planned(SMALL, sets).unwrap().runs.remove(0);
        estimate(&run, &config(), weight_bytes).unwrap().memory
    }

    /// The documented formula, by hand: a term that is missing, or counted where nothing keeps it, tells a researcher
    /// that a run fits which does not, or the other way round.
    #[test]
    fn activations_follow_the_projections_that_are_adapted() {
        let lora = "axes.method=[\"lora\"]";
        let tokens = 4 * 768; // batch_size * (max_source + max_target)
        // r 4: x of both norms, the first norm's output, q + 2 k, q, H, gate and up, r t.
        let qv = 2 * 8 + 8 + (8 + 2 * 4) + 8 + 2 + 2 * 20 + 4 * 2;
        let targets = "adapter.targets=[\"q_proj\", \"v_proj\"]";
        assert_eq!(
            memory(&[lora, targets], None).activations,
            4 * tokens * 3 * qv
        );
        // The second norm's output, gate * up, and five more sites.
        let all = qv + 8 + 20 + 4 * 5;
        assert_eq!(memory(&[lora], None).activations, 4 * tokens * 3 * all);
        let down = "adapter.targets=[\"down_proj\"]";
        assert_eq!(
            memory(&[lora, down], None).activations,
            4 * tokens * 3 * (qv - 8 + 20 - 4)
        );
        let recomputed = memory(&[lora, "train.gradient_checkpointing=true"], None);
        assert_eq!(recomputed.activations, 4 * tokens * (3 * 8 + all));
        assert_eq!(recomputed.logits, 0);
        // A frozen A needs no input: neither the norm's output nor, for down_proj, gate * up.
        let frozen = memory(&["axes.method=[\"lora_fa\"]"], None);
        let inputs = 8 + 8 + 20;
        assert_eq!(frozen.activations, 4 * tokens * 3 * (all - inputs));
        // q and v are 8 and 4 wide: their outputs before the factors, with dropout twice and their inputs of 8.
        let dora = ["axes.method=[\"dora\"]", targets];
        let scaled = |more: &[&str]| memory(&[&dora[..], more].concat(), None).activations;
        assert_eq!(
            scaled(&["adapter.dropout=0"]),
            4 * tokens * 3 * (qv + 8 + 4)
        );
        let dropped = 2 * 8 + 2 * (8 + 4);
        assert_eq!(
            scaled(&["adapter.dropout=0.1"]),
            4 * tokens * 3 * (qv + dropped)
        );
        let pissa = ["adapter.init=pissa", "adapter.dropout=0", lora, targets];
        assert_eq!(
            memory(&pissa, None).activations,
            4 * tokens * 3 * (qv + 4 * 2)
        );
    }

    /// VeRA trains some vectors, and holds its frozen matrices all the same.
    #[test]
    fn what_is_frozen_has_no_gradient_and_no_moments() {
        let vera = memory(&["axes.method=[\"vera\"]"], None);
        // r 4, of all linear layers of three blocks: q, k, v, o, gate, up and down.
        let trained = 3 * ((8 + 4 + 4 + 8 + 20 + 20 + 8) + 7 * 4);
        let frozen = 2 * 4 * 20;
        assert_eq!((vera.gradients, vera.optimizer), (4 * trained, 8 * trained));
        assert_eq!(vera.adapter, 4 * (trained + frozen));
    }

    #[test]
    fn what_is_trained_decides_the_rest() {
        let full = memory(&["axes.method=[\"full\"]"], None);
        let tokens = 4 * 768;
        let layer = 4 * 8 + 2 * 8 + 3 * 4 + 4 * 20 + 2 * 768;
        assert_eq!(full.activations, 4 * tokens * 3 * layer);
        assert_eq!(full.logits, 12 * tokens * 50);
        let p = config().parameters();
        assert_eq!((full.base, full.adapter, full.optimizer), (4 * p, 0, 8 * p));
        let base = memory(&[], None);
        assert_eq!(base.total(), 4 * p);
        assert_eq!(
            base.total(),
            base.parts().iter().map(|(_, n)| n).sum::<u64>()
        );
    }

    #[test]
    fn a_token_budget_bounds_the_batch() {
        let text = SMALL.replace("batch_size = 4", "batch_tokens = 1000");
        let of = |text: &str| {
            let run = planned(text, &["axes.method=[\"lora\"]"])
                .unwrap()
                .runs
                .remove(0);
            estimate(&run, &config(), None).unwrap().memory.activations
        };
        assert_eq!(of(&text) * (4 * 768), of(SMALL) * 1000);
        // The largest that an experiment may ask for is a number, too.
        let huge = "max_source = 1048576\nmax_target = 1048576\nbatch_size = 65536";
        assert!(of(&SMALL.replace("batch_size = 4", huge)) > 1 << 40);
    }

    #[test]
    fn the_base_is_as_large_as_it_is_stored() {
        let p = config().parameters();
        // q and o, k and v, gate, up and down of three layers.
        let linear = 3 * (2 * 8 * 8 + 2 * 4 * 8 + 3 * 20 * 8);
        for (dtype, files, expected) in [
            ("f32", Some(7), 4 * p),
            ("bf16", Some(7), 2 * p),
            ("f16", None, 2 * p),
            ("stored", Some(7), 7),
            ("stored", None, 2 * p),
            ("nf4", Some(7), linear * 36 / 64 + 2 * (p - linear)),
        ] {
            let found = memory(&[&format!("model.dtype={dtype}")], files).base;
            assert_eq!(found, expected, "{dtype} {files:?}");
        }
    }

    /// All files or no number: half of a model's shards would be a wrong one.
    #[test]
    fn weight_files_are_measured_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        let hub = Hub::from_vars(root.path(), |_| None);
        let sets = ["model.weights=[\"file:a.safetensors\", \"file:b.safetensors\"]"];
        let model = planned(SMALL, &sets).unwrap().runs.remove(0).model;
        std::fs::write(root.path().join("a.safetensors"), [0; 5]).unwrap();
        assert_eq!(weight_bytes(&model, &hub), None);
        std::fs::write(root.path().join("b.safetensors"), [0; 6]).unwrap();
        assert_eq!(weight_bytes(&model, &hub), Some(11));
    }
}
