//! The pocket models: a small LLaMA, RoBERTa and GPT-2, their tokenizers and their text, all made here and from a seed.
//!
//! `models/pocket*` hold what `sharelora pretrain-pocket` wrote; the same seed and backend write the same bytes.

mod initial;
mod recipe;
mod rows;

use std::time::Instant;

use anyhow::{Context as _, Result};
use burn::tensor::{Int, Tensor, TensorData};
use clap::ValueEnum;
use sharelora_model::weights::{TensorDtype, write_safetensors};
use sharelora_model::{Input, Loss, Model, ModelConfig, cross_entropy};

use crate::Context;
use crate::device::device;
use crate::experiment::Schedule;
use crate::optimizer::{AdamWOptions, Optimizer};
use crate::progress::Progress;
use crate::schedule::learning_rate;
use crate::store::write_atomic;
use recipe::Recipe;
use rows::Row;

const SEED: u64 = 20240616;
const WARMUP: usize = 100;
/// Sequences that are measured and never trained on.
const HELD_OUT: usize = 64;

/// A pocket model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pocket {
    /// models/pocket, for the quickstart
    Llama,
    /// models/pocket-roberta, an encoder for tasks with labels
    Roberta,
    /// models/pocket-gpt2
    Gpt2,
}

/// Pretrains a pocket model, or all of them, and writes configuration, tokenizer and weights (bf16) of each.
///
/// # Errors
/// Writing failed.
pub fn pretrain_pocket(context: &Context, which: Option<Pocket>) -> Result<()> {
    let all = Pocket::value_variants();
    for pocket in all.iter().filter(|p| which.is_none_or(|w| w == **p)) {
        pretrain(context, &Recipe::of(*pocket)?)?;
    }
    Ok(())
}

fn pretrain(context: &Context, recipe: &Recipe) -> Result<()> {
    let count = HELD_OUT + recipe.steps * recipe.batch;
    let sequences = rows::rows(recipe, &recipe.encoder()?, count)?;
    let (held_out, train) = sequences.split_at(HELD_OUT);

    let config = ModelConfig::from_json(&recipe.config)?;
    let device = device(&context.backend)?;
    let mut model = initial::model(config, recipe.deviation, &device)?;
    let options = AdamWOptions {
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        weight_decay: 0.1,
    };
    let mut optimizer = Optimizer::new(options, vec![true; model.weights_mut().len()]);
    let mut progress = Progress::new(recipe.folder, recipe.steps as u64, context.quiet);
    let begun = Instant::now();
    for (step, rows) in train.chunks_exact(recipe.batch).enumerate() {
        let (rate, steps) = (recipe.learning_rate, recipe.steps);
        let rate = learning_rate(Schedule::Cosine, rate, WARMUP, steps, step);
        let loss = update(&mut model, &mut optimizer, rate, rows);
        progress.set(step as u64 + 1, &format!("loss {loss:.4}"));
    }
    progress.finish(&format!(
        "{} parameters, {} steps in {:.0} s, held-out loss {:.4}",
        model.config.parameters(),
        recipe.steps,
        begun.elapsed().as_secs_f64(),
        mean_loss(&model, held_out)
    ));
    write(context, recipe, &model)
}

/// One step of the optimizer on the mean loss of all targets, which is returned.
fn update(model: &mut Model, optimizer: &mut Optimizer, rate: f64, rows: &[Row]) -> f64 {
    let mut tracked = model.clone();
    for weight in tracked.weights_mut() {
        *weight = weight.clone().without_autodiff().autodiff().require_grad();
    }
    let share = 1.0 / targets(rows).max(1) as f64;
    let loss = loss(&tracked, rows, Some(share));
    if let Some(surrogate) = loss.surrogate {
        let mut gradients = surrogate.backward();
        let weights = model.weights_mut().into_iter().zip(tracked.weights_mut());
        for (i, (weight, tracked)) in weights.enumerate() {
            if let Some(gradient) = tracked.grad_remove(&mut gradients) {
                *weight = optimizer.step(i, rate, weight.clone(), gradient);
            }
        }
    }
    loss.sum * share
}

/// The loss of the rows' targets, whose scores are the hidden states' products with the word embeddings.
fn loss(model: &Model, rows: &[Row], weight: Option<f64>) -> Loss {
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let input = Input::packed(&ids);
    let mut places = Vec::new();
    let mut targets = Vec::new();
    for (span, row) in input.spans.iter().zip(rows) {
        places.extend(row.places.iter().map(|place| (span.start + place) as i64));
        targets.extend(&row.targets);
    }
    let places = TensorData::new(places, [targets.len()]);
    let places = Tensor::<1, Int>::from_data(places, model.device());
    let hidden = model.hidden(&input, None, None).select(0, places); // (targets, C)
    cross_entropy(&hidden, model.embedding(), &targets, weight, None)
}

/// Mean loss, without gradients.
fn mean_loss(model: &Model, rows: &[Row]) -> f64 {
    let batches = rows.chunks(16);
    let sum: f64 = batches.map(|rows| loss(model, rows, None).sum).sum();
    sum / targets(rows).max(1) as f64
}

fn targets(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.targets.len()).sum()
}

fn write(context: &Context, recipe: &Recipe, model: &Model) -> Result<()> {
    let folder = context.root.join("models").join(recipe.folder);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let weights = folder.join("model.safetensors");
    write_safetensors(
        &weights,
        &model.values(),
        TensorDtype::BF16,
        &Default::default(),
    )?;
    for (file, text) in [
        ("config.json", &recipe.config),
        ("tokenizer.json", &recipe.tokenizer),
    ] {
        write_atomic(&folder.join(file), format!("{text}\n").as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use sharelora_model::Storage;
    use sharelora_model::weights::Checkpoint;

    use super::*;

    /// The files that ship are those of the recipes: configuration and tokenizer to the last byte, and weights that know the
    /// text as well as they did when they were made.
    #[test]
    fn shipped_models_are_the_recipes() {
        for (pocket, loss) in [
            (Pocket::Llama, 0.5113),
            (Pocket::Roberta, 0.1397),
            (Pocket::Gpt2, 0.4215),
        ] {
            let recipe = Recipe::of(pocket).unwrap();
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
            let folder = root.join(recipe.folder);
            if !folder.is_dir() {
                println!("skipped: no {}", folder.display());
                continue;
            }
            let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(text("config.json"), format!("{}\n", recipe.config));
            assert!(text("tokenizer.json") == format!("{}\n", recipe.tokenizer));
            let checkpoint = Checkpoint::open(&[folder.join("model.safetensors")]).unwrap();
            let config = ModelConfig::from_json(&recipe.config).unwrap();
            let model = Model::load(config, &checkpoint, Storage::F32, &Device::flex()).unwrap();
            let rows = rows::rows(&recipe, &recipe.encoder().unwrap(), HELD_OUT).unwrap();
            let found = mean_loss(&model, &rows);
            assert!((found - loss).abs() < 0.01, "{pocket:?}: {found}");
        }
    }
}
