//! One run: base, data, training, evaluation, record.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use sharelora_adapters::{Bank, Layout, Method, save_native};
use sharelora_hub::Progress;
use sharelora_model::Llama;
use sharelora_model::weights::{TensorDtype, write_safetensors};
use sharelora_report::{Metric, Record, Status};
use sharelora_tasks::{prompt_hash, task};

use crate::base::{Base, Bases};
use crate::device::device;
use crate::evaluate::Engine;
use crate::gradients::Learner;
use crate::store::write_atomic;
use crate::sweep::blank_record;
use crate::train::train;
use crate::{Context, ResolvedRun, RunDir, data, host};

/// Does a run from what its folder holds to its record, which the caller writes.
///
/// # Errors
/// A file that is neither here nor to be had, data that does not fit, or a failure to write. A diverged run is a
/// record, not an error.
pub fn execute(
    run: &ResolvedRun,
    dir: &RunDir,
    bases: &Bases,
    context: &Context,
) -> Result<Record> {
    let mut record = blank_record(run, context, &host::now());
    let shown = if context.quiet {
        Progress::Quiet
    } else {
        Progress::Bar
    };
    let mut clock = Instant::now();
    let mut lap = |record: &mut Record, name: &str| {
        record
            .seconds
            .insert(name.into(), clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };

    let device = device(&run.backend)?;
    let Base { model, encoder } =
        bases.get(&run.model, run.model.dtype, &context.hub, &device, shown)?;
    record.base_parameters = model.config.parameters();
    let bank = match (run.method.sharing(), &run.adapter) {
        (Some(sharing), Some(config)) => {
            let layout = Layout::new(&model.config.sites(), sharing, config)?;
            record.trainable_parameters = layout.trainable_parameters();
            record.adapter_bytes = layout.adapter_bytes();
            Some(Bank::init(Arc::new(layout), run.seed, &device))
        }
        _ => None,
    };
    let mut learner = Learner { model, bank };
    if run.method == Method::Full {
        record.trainable_parameters = record.base_parameters;
        record.adapter_bytes = 4 * record.base_parameters;
    }
    record
        .data
        .insert("tokenizer".into(), encoder.hash().into());
    lap(&mut record, "load");

    if let Some(spec) = &run.train {
        let data = data::prepare(spec, &encoder, &context.root, &context.hub)?;
        record
            .data
            .insert(format!("{} training rows", spec.task), data.hash.clone());
        lap(&mut record, "data");
        let trained = train(&mut learner, &data, spec, run.seed, dir, context.quiet)?;
        let state = trained.progressed;
        record.steps = state.step;
        record.train_loss = state.last_loss;
        record.held_out_loss_before = state.held_out_before;
        record.held_out_loss = state.best.as_ref().map(|b| b.loss).or(state.held_out);
        record.best_step = state.best.as_ref().map(|b| b.step);
        record.tokens_per_second =
            (state.seconds > 0.0).then(|| state.tokens as f64 / state.seconds);
        lap(&mut record, "train");
        record.seconds.insert("steps".into(), state.seconds);
        if let Some(reason) = trained.diverged {
            record.status = Status::Diverged;
            record.message = Some(reason);
            record.peak_memory_bytes = host::peak_resident_bytes();
            record.finished_at = host::now();
            return Ok(record);
        }
        save(&learner, dir)?;
    }

    for spec in &run.evaluate {
        let task = task(&spec.task, &spec.options)?;
        let eval = data::rows(
            task.as_ref(),
            task.eval_split(),
            &context.root,
            &context.hub,
        )?;
        let shots = match spec.options.shots {
            Some(0) => Vec::new(),
            _ => data::rows(
                task.as_ref(),
                task.train_split(),
                &context.root,
                &context.hub,
            )?,
        };
        let requests = task.requests(&eval, &shots)?;
        let name = format!("{}/{}", task.name(), task.variant());
        record
            .data
            .insert(format!("{name} prompts"), prompt_hash(&requests));
        let engine = Engine {
            learner: &learner,
            encoder: &encoder,
            task: task.as_ref(),
            batch_size: spec.batch_size,
            seed: run.seed,
        };
        let samples = engine.evaluate(&requests, context.quiet)?;
        let mut lines = String::new();
        for sample in &samples {
            lines.push_str(&serde_json::to_string(sample)?);
            lines.push('\n');
        }
        write_atomic(&dir.samples(task.name()), lines.as_bytes())?;
        for (grade, metric) in sharelora_tasks::metrics(&samples) {
            record.metrics.insert(
                format!("{}/{grade}", task.name()),
                Metric {
                    value: metric.value,
                    stderr: metric.stderr,
                    n: metric.n as u64,
                },
            );
        }
    }
    lap(&mut record, "evaluate");
    record.status = Status::Finished;
    record.peak_memory_bytes = host::peak_resident_bytes();
    record.finished_at = host::now();
    Ok(record)
}

/// What was trained: the adapter in the native format, or all weights.
fn save(learner: &Learner, dir: &RunDir) -> Result<()> {
    if let Some(bank) = &learner.bank {
        return Ok(save_native(bank, &dir.adapter_file())?);
    }
    let weights = weights(&learner.model);
    let path = dir.adapter().join("model.safetensors");
    std::fs::create_dir_all(dir.adapter())
        .with_context(|| format!("cannot make {}", dir.adapter().display()))?;
    Ok(write_safetensors(
        &path,
        &weights,
        TensorDtype::F32,
        &Default::default(),
    )?)
}

/// Name, shape and values of a weight.
pub type Weight = (String, Vec<usize>, Vec<f32>);

/// All weights, as a checkpoint has them.
pub fn weights(model: &Llama) -> Vec<Weight> {
    model
        .values()
        .into_iter()
        .map(|(name, [rows, columns], values)| {
            // A vector is (1, n) here and (n) in a checkpoint.
            let shape = if name.contains("norm") {
                vec![columns]
            } else {
                vec![rows, columns]
            };
            (name, shape, values)
        })
        .collect()
}
