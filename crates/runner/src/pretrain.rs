//! The recipe of the pocket model: a small LLaMA, its tokenizer and its text, all made here and from a seed.
//!
//! `models/pocket` holds what `sharelora pretrain-pocket` wrote; the same seed and backend write the same bytes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use sharelora_model::weights::{TensorDtype, write_safetensors};
use sharelora_model::{Llama, LlamaConfig, Storage};
use sharelora_tasks::corpus::pretraining_text;
use sharelora_tasks::{Encoded, Encoder, train_pocket_tokenizer};

use crate::Context;
use crate::batch::Fill;
use crate::device::device;
use crate::experiment::Schedule;
use crate::gradients::{Learner, Running, gradients, held_out_loss};
use crate::optimizer::{AdamWOptions, Optimizer};
use crate::progress::Progress;
use crate::schedule::learning_rate;
use crate::store::write_atomic;

const SEED: u64 = 20240616;
const VOCABULARY: usize = 768;
const STEPS: usize = 1500;
/// Sequences of an optimizer step.
const BATCH: usize = 16;
/// Tokens of a sequence; documents follow each other, divided by the end-of-text token.
const LENGTH: usize = 128;
const LEARNING_RATE: f64 = 4e-3;
const WARMUP: usize = 100;
/// Documents that the tokenizer is trained on.
const TOKENIZER_TEXTS: usize = 4000;
/// Sequences that are measured and never trained on.
const HELD_OUT: usize = 64;

/// Pretrains the pocket model and writes its configuration, tokenizer and weights (bf16).
///
/// # Errors
/// Writing failed.
pub fn pretrain_pocket(context: &Context) -> Result<()> {
    let folder = context.root.join("models/pocket");
    let config = json!({
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
    });
    let tokenizer = train_pocket_tokenizer(pretraining_text(SEED, TOKENIZER_TEXTS), VOCABULARY)?;
    let encoder = Encoder::from_tokenizer(&tokenizer, None, 0)?;
    let sequences = sequences(&encoder, HELD_OUT + STEPS * BATCH)?;
    let (held_out, train) = sequences.split_at(HELD_OUT);
    let held_out: Vec<&Encoded> = held_out.iter().collect();

    let text = serde_json::to_string_pretty(&config)?;
    let mut learner = Learner {
        model: random(LlamaConfig::from_json(&text)?, &device(&context.backend)?)?,
        bank: None,
    };
    let mut optimizer = Optimizer::new(
        AdamWOptions {
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.1,
        },
        learner.matrices().len(),
    );
    let mut progress = Progress::new("pretrain", STEPS as u64, context.quiet);
    let begun = Instant::now();
    for (step, rows) in train.chunks_exact(BATCH).enumerate() {
        let rate = learning_rate(Schedule::Cosine, LEARNING_RATE, WARMUP, STEPS, step);
        let gradients = gradients(
            &mut learner,
            &[rows.iter().collect()],
            SEED,
            step as u64,
            Running::default(),
        );
        for (i, (matrix, gradient)) in learner
            .matrices()
            .into_iter()
            .zip(gradients.matrices)
            .enumerate()
        {
            *matrix = optimizer.step(i, rate, matrix.clone(), gradient);
        }
        progress.set(step as u64 + 1, &format!("loss {:.4}", gradients.loss));
    }
    let loss = held_out_loss(
        &learner,
        &held_out,
        Fill::Examples(BATCH),
        Running::default(),
    );
    progress.finish(&format!(
        "{} parameters, {STEPS} steps in {:.0} s, held-out loss {loss:.4}",
        learner.model.config.parameters(),
        begun.elapsed().as_secs_f64()
    ));

    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let weights = crate::execute::weights(&learner.model);
    write_safetensors(
        &folder.join("model.safetensors"),
        &weights,
        TensorDtype::BF16,
        &Default::default(),
    )?;
    write_atomic(&folder.join("config.json"), (text + "\n").as_bytes())?;
    let tokenizer = tokenizer
        .to_string(true)
        .map_err(|e| anyhow::anyhow!("cannot write the tokenizer: {e}"))?;
    Ok(write_atomic(
        &folder.join("tokenizer.json"),
        (tokenizer + "\n").as_bytes(),
    )?)
}

/// `count` sequences of [`LENGTH`] + 1 tokens, every token after the first a label.
fn sequences(encoder: &Encoder, count: usize) -> Result<Vec<Encoded>> {
    let mut all = Vec::with_capacity(count);
    let mut ids = Vec::new();
    // The corpus is made as it is read: there are always enough documents.
    for text in pretraining_text(SEED + 4, usize::MAX) {
        ids.extend(encoder.encode(&text, false)?);
        ids.push(encoder.eos_id());
        while ids.len() > LENGTH {
            let rest = ids.split_off(LENGTH);
            // The last token of one sequence is the first of the next: each is predicted once.
            let mut row = std::mem::replace(&mut ids, rest);
            row.push(ids[0]);
            all.push(Encoded {
                ids: row,
                prompt_len: 0,
            });
            if all.len() == count {
                return Ok(all);
            }
        }
    }
    Ok(all)
}

/// Initial weights as GPT-2 has them (Radford et al. 2019): N(0, 0.02^2), and 1 / sqrt(2 L) of that where a block
/// writes into the residual stream; norms at 1.
fn random(config: LlamaConfig, device: &burn::tensor::Device) -> Result<Llama> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let residual = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
    let model = Llama::build(config, Storage::F32, device, |name, [rows, columns]| {
        if name.contains("norm") {
            return Ok(vec![1.0; rows * columns]);
        }
        let deviation = 0.02
            * if name.contains("o_proj") || name.contains("down_proj") {
                residual
            } else {
                1.0
            };
        Ok((0..rows * columns)
            .map(|_| {
                // Box and Muller's transform of two uniform numbers.
                let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                (deviation * (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
            })
            .collect())
    })?;
    Ok(model)
}
