//! Optimizer steps as the peer's script takes them: the same batches, the same adapter, the same AdamW, the same fields.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::builder::RangedU64ValueParser;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sharelora_adapters::{AdapterConfig, Layout, Method, Scaling};
use sharelora_model::ModelConfig;
use sharelora_tasks::{Encoded, Encoder};

use crate::bench::{self, DTYPES, ModelArguments, rounded};
use crate::device::device;
use crate::error::UsageError;
use crate::gradients::{Learner, Running, gradients};
use crate::optimizer::{AdamWOptions, Optimizer};
use crate::{Context, host};

const LEARNING_RATE: f64 = 2e-4;

/// Steps before the first that counts for the speed.
const WARM_UP: usize = 2;

/// Ids below are special tokens in most vocabularies.
const FIRST_ID: u32 = 5;

#[derive(Debug, Clone, clap::Args)]
pub struct TrainArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// How the frozen weights are kept
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(DTYPES))]
    pub dtype: String,
    /// Sequences of a batch
    #[arg(long, default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    pub batch: usize,
    /// Tokens of a sequence, where batches are random
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(2..=1 << 20))]
    pub seq: usize,
    /// Rank of the adapter; alpha is twice that
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Adapted projections
    #[arg(long, default_value = "q_proj,v_proj", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// How the adapter's matrices are shared
    #[arg(long, default_value = "lora")]
    pub method: String,
    /// Optimizer steps; the first two do not count for the speed
    #[arg(long, default_value_t = 12, value_parser = RangedU64ValueParser::<usize>::new().range(3..))]
    pub steps: usize,
    /// Real batches in the order of this file instead of random dense ones
    #[arg(long, value_name = "FILE.parquet")]
    pub gsm8k: Option<PathBuf>,
    /// Pad the sequences of a batch to the longest instead of packing them
    #[arg(long)]
    pub padded: bool,
    /// Keep the input of each layer alone and compute the rest again in the backward pass
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was measured. The names are those of the peer's script.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Training {
    pub version: &'static str,
    pub backend: String,
    pub threads: Option<usize>,
    pub dtype: String,
    pub padded: bool,
    pub gradient_checkpointing: bool,
    pub strategy: String,
    pub trainable: u64,
    /// Median, without the first two steps.
    pub ms_per_step: f64,
    pub ms_min: f64,
    /// Of a median step where batches are dense, else the real tokens of the steps that count over their time.
    pub tokens_per_s: f64,
    /// Of all steps, without padding.
    pub real_tokens: usize,
    /// From the kernel's start of this process; the peer's clock starts with its first line.
    pub start_to_first_step_s: Option<f64>,
    pub peak_rss_mib: u64,
    pub loss_first_last: [f64; 2],
    /// 10^9 floating-point operations of a dense step's products with weights, see [`product_gflop`].
    pub product_gflop: Option<f64>,
}

/// Trains and measures.
///
/// # Errors
/// A model, file or adapter that does not fit, or a loss that is no number.
pub fn train(arguments: &TrainArguments, context: &Context) -> Result<Training> {
    let device = device(&context.backend)?;
    let method = Method::named(&arguments.method)?;
    let Some(sharing) = method.sharing() else {
        let text = format!("--method {}: it has no adapter to train", arguments.method);
        return Err(UsageError(text).into());
    };
    let files = arguments.model.files(context)?;
    let config = files.config()?;
    let adapter = AdapterConfig {
        rank: arguments.rank,
        alpha: 2.0 * arguments.rank as f64,
        dropout: 0.0,
        targets: targets(&arguments.targets),
        scaling: Scaling::Standard,
        init: Default::default(),
    };
    adapter.check()?;
    let layout = Arc::new(Layout::new(&config.sites(), sharing, &adapter)?);
    let batches = match &arguments.gsm8k {
        None => dense(&config, arguments)?,
        Some(path) => {
            let count = arguments.steps * arguments.batch;
            let rows = bench::questions(path, count, context)?;
            real(&rows, &files.encoder(&config)?, arguments.batch)?
        }
    };

    let model = files.load(&arguments.dtype, &device)?;
    let bank = model.bank(layout.clone(), 0);
    let mut learner = Learner::new(model, Some(bank));
    let options = AdamWOptions {
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    let mut optimizer = Optimizer::new(options, learner.decays());
    let running = Running {
        padded: arguments.padded,
        gradient_checkpointing: arguments.gradient_checkpointing,
    };
    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    let mut first_step = None;
    for (pass, batch) in (0u64..).zip(&batches) {
        let begun = Instant::now();
        let micro: Vec<Vec<&Encoded>> = vec![batch.iter().collect()];
        let found = gradients(&mut learner, &micro, 0, pass, running);
        for (i, (matrix, gradient)) in learner
            .matrices()
            .into_iter()
            .zip(found.matrices)
            .enumerate()
        {
            *matrix = optimizer.step(i, LEARNING_RATE, matrix.clone(), gradient);
        }
        device
            .sync()
            .map_err(|e| anyhow::anyhow!("the device did not finish step {}: {e}", pass + 1))?;
        seconds.push(begun.elapsed().as_secs_f64());
        if pass == 0 {
            first_step = host::process_age();
        }
        if !found.loss.is_finite() {
            bail!("step {}: the loss is {}", pass + 1, found.loss);
        }
        losses.push(found.loss);
    }

    let real: Vec<usize> = batches
        .iter()
        .map(|batch| batch.iter().map(|row| row.ids.len()).sum())
        .collect();
    let counted = seconds.get(WARM_UP..).unwrap_or_default();
    let median = bench::median(counted);
    let tokens_per_s = match arguments.gsm8k {
        None => (arguments.batch * arguments.seq) as f64 / median,
        Some(_) => real.iter().skip(WARM_UP).sum::<usize>() as f64 / counted.iter().sum::<f64>(),
    };
    let least = counted.iter().copied().fold(f64::INFINITY, f64::min);
    let (Some(first), Some(last)) = (losses.first(), losses.last()) else {
        bail!("no step was taken");
    };
    Ok(Training {
        version: bench::version(),
        threads: bench::threads(&context.backend),
        backend: context.backend.clone(),
        dtype: arguments.dtype.clone(),
        padded: arguments.padded,
        gradient_checkpointing: arguments.gradient_checkpointing,
        strategy: arguments.method.clone(),
        trainable: layout.trainable_parameters(),
        ms_per_step: rounded(1e3 * median, 1),
        ms_min: rounded(1e3 * least, 1),
        tokens_per_s: rounded(tokens_per_s, 1),
        real_tokens: real.iter().sum(),
        start_to_first_step_s: first_step.map(|s| rounded(s, 2)),
        peak_rss_mib: bench::peak_rss_mib(),
        loss_first_last: [rounded(*first, 4), rounded(*last, 4)],
        product_gflop: arguments
            .gsm8k
            .is_none()
            .then(|| rounded(product_gflop(&config, arguments.batch * arguments.seq), 1)),
    })
}

/// `all` is what the peer's script calls every linear layer.
fn targets(names: &[String]) -> Vec<String> {
    names
        .iter()
        .map(|name| match name.as_str() {
            "all" => "all_linear".into(),
            other => other.into(),
        })
        .collect()
}

/// Random sequences, a label at every token but the first: one list of rows a step.
fn dense(config: &ModelConfig, arguments: &TrainArguments) -> Result<Vec<Vec<Encoded>>> {
    let ids = FIRST_ID..u32::try_from(config.vocab_size()).unwrap_or(u32::MAX);
    if ids.is_empty() {
        bail!(
            "a vocabulary of {} has no ids for random batches",
            config.vocab_size()
        );
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut row = || Encoded {
        ids: (0..arguments.seq)
            .map(|_| rng.random_range(ids.clone()))
            .collect(),
        ..Encoded::default()
    };
    Ok((0..arguments.steps)
        .map(|_| (0..arguments.batch).map(|_| row()).collect())
        .collect())
}

/// Prompt without a label, then ` {answer}` and the end-of-text token; `batch` rows a step, in order.
fn real(rows: &[(String, String)], encoder: &Encoder, batch: usize) -> Result<Vec<Vec<Encoded>>> {
    let encoded = rows
        .iter()
        .map(|(question, answer)| {
            let mut ids = encoder.encode(&bench::prompt(question), false)?;
            let prompt_len = ids.len();
            ids.extend(encoder.encode(&format!(" {answer}"), false)?);
            ids.push(encoder.eos_id());
            Ok(Encoded {
                ids,
                prompt_len,
                ..Encoded::default()
            })
        })
        .collect::<Result<Vec<_>>>()
        .context("a row cannot be encoded")?;
    Ok(encoded.chunks(batch).map(<[Encoded]>::to_vec).collect())
}

/// 10^9 floating-point operations of one step's products of activations with frozen weights: `2 P` a token and pass, of
/// which there are two, forward and the gradient of the activations; `P` counts the weights of the linear layers and
/// of the head. Attention, the adapter and what is not a product come on top.
fn product_gflop(config: &ModelConfig, tokens: usize) -> f64 {
    let linear: usize = config
        .sites()
        .iter()
        .filter(|site| site.part.is_none())
        .map(|site| site.in_features * site.out_features)
        .sum();
    let head = config.vocab_size() * config.hidden_size();
    4.0 * tokens as f64 * (linear + head) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of the roofline in the report stands on this count: 2 layers of 4 x 8^2 and 3 x 8 x 16 weights, a
    /// head of 10 x 8.
    #[test]
    fn operations_of_a_step() {
        let config = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true}"#;
        let config = ModelConfig::from_json(config).unwrap();
        let expected = 4.0 * 5.0 * (2 * (4 * 64 + 3 * 128) + 80) as f64 / 1e9;
        assert!((product_gflop(&config, 5) - expected).abs() < 1e-15);
    }
}
