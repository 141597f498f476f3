//! The training loop: batches in, a trained learner and a log of its steps out.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::Tensor;
use sharelora_report::Step;
use sharelora_tasks::Encoded;

use crate::batch::Batches;
use crate::checkpoint::{self, Best, Progressed};
use crate::data::Data;
use crate::experiment::{BestBy, TrainSpec};
use crate::gradients::{Learner, Running, gradients, held_out_loss};
use crate::interrupt::{self, Interrupted};
use crate::optimizer::{AdamWOptions, Optimizer};
use crate::progress::Progress;
use crate::schedule::learning_rate;
use crate::{RunDir, host};

/// How training ended.
#[derive(Debug, Clone)]
pub struct Trained {
    pub progressed: Progressed,
    /// A loss or a gradient left the finite numbers here.
    pub diverged: Option<String>,
}

/// Optimizer steps of a run, and how many of them are an epoch.
fn steps(spec: &TrainSpec, batches: &Batches) -> (usize, usize) {
    let epoch = batches.in_epoch().div_ceil(spec.accumulation).max(1);
    let all = match (spec.steps, spec.epochs) {
        (Some(steps), _) => steps,
        (None, epochs) => epochs.unwrap_or(1) * epoch,
    };
    (all, epoch)
}

/// What is measured between steps.
#[derive(Debug, Clone, Copy)]
struct Evaluation {
    held_out_loss: Option<f64>,
    metric: Option<f64>,
}

impl Evaluation {
    /// What decides which is best.
    fn value(self, by: BestBy) -> Option<f64> {
        match by {
            BestBy::HeldOutLoss => self.held_out_loss,
            BestBy::Metric => self.metric,
        }
    }
}

/// Trains `learner` as `spec` says, from the last checkpoint in `dir` where there is one. `metric` scores what has been
/// learnt so far; it is asked only where `spec` chooses by it.
///
/// # Errors
/// Writing failed, or `metric` did; [`Interrupted`], behind a checkpoint. Divergence is no error.
pub fn train(
    learner: &mut Learner,
    data: &Data,
    spec: &TrainSpec,
    seed: u64,
    dir: &RunDir,
    quiet: bool,
    metric: impl Fn(&Learner) -> Result<Option<f64>>,
) -> Result<Trained> {
    let running = Running {
        padded: spec.padded,
        gradient_checkpointing: spec.gradient_checkpointing,
    };
    let shapes: Vec<[usize; 2]> = learner.matrices().iter().map(|m| m.dims()).collect();
    let sizes: Vec<usize> = shapes.iter().map(|[a, b]| a * b).collect();
    let mut optimizer = Optimizer::new(
        AdamWOptions {
            betas: spec.betas,
            epsilon: spec.epsilon,
            weight_decay: spec.weight_decay,
        },
        learner.decays(),
    );
    let head = spec.head_learning_rate;
    let rates = learner.rates(
        spec.b_learning_rate_ratio.unwrap_or(1.0),
        head.map_or(1.0, |rate| rate / spec.learning_rate),
    );
    let mut state = Progressed::default();
    let mut best: Option<Vec<Vec<f32>>> = None;
    match checkpoint::load(&dir.checkpoint(), &sizes) {
        Ok(Some(saved)) => {
            let device = learner.model.device().clone();
            checkpoint::set_values(learner, saved.matrices);
            optimizer.restore(saved.moments, &shapes, &device);
            state = saved.progressed;
            best = saved.best;
        }
        Ok(None) => {}
        Err(e) => eprintln!("  training starts again: {e:#}"),
    }
    let held_out: Vec<&Encoded> = data.held_out.iter().collect();
    let measure = |learner: &Learner| {
        (!held_out.is_empty()).then(|| held_out_loss(learner, &held_out, spec.fill(), running))
    };
    let lengths = data.train.iter().map(|e| e.ids.len()).collect();
    let mut batches = Batches::new(lengths, spec.fill(), seed, spec.group_by_length);
    let (total, epoch) = steps(spec, &batches);
    let every = match (spec.evaluate_every, spec.epochs) {
        (0, Some(_)) => epoch,
        (every, _) => every,
    };
    dir.truncate_after(state.step)?;
    let fresh = state.step == 0;
    if fresh {
        dir.truncate_after(0)?;
        let _ = std::fs::remove_file(dir.steps());
        state.held_out_before = measure(learner);
        state.held_out = state.held_out_before;
        // A head that has learnt nothing has no score.
        if spec.keep_best
            && spec.best_by == BestBy::HeldOutLoss
            && let Some(value) = state.held_out
        {
            state.best = Some(Best { step: 0, value });
            best = Some(checkpoint::values(learner));
        }
        let measured = Evaluation {
            held_out_loss: state.held_out,
            metric: None,
        };
        log(dir, &state, None, 0.0, None, 0.0, measured)?;
    }

    let mut progress = Progress::new("train", total as u64, quiet);
    while (state.step as usize) < total {
        let begun = Instant::now();
        let first = state.step * spec.accumulation as u64;
        let micro: Vec<Vec<&Encoded>> = (0..spec.accumulation as u64)
            .map(|i| {
                batches
                    .get(first + i)
                    .into_iter()
                    .map(|row| &data.train[row])
                    .collect()
            })
            .collect();
        let tokens: usize = micro.iter().flatten().map(|e| e.ids.len()).sum();
        let rate = learning_rate(
            spec.schedule,
            spec.learning_rate,
            spec.warmup(total),
            total,
            state.step as usize,
        );
        let step = gradients(learner, &micro, seed, first, running);
        let norm = norm(&step.matrices);
        if !(step.loss.is_finite() && norm.is_finite()) {
            let reason = format!(
                "step {}: loss {}, gradient norm {norm}",
                state.step + 1,
                step.loss
            );
            state.last_loss = Some(step.loss);
            progress.finish(&format!("diverged at {reason}"));
            return Ok(Trained {
                progressed: state,
                diverged: Some(reason),
            });
        }
        let factor = match spec.clip_norm {
            // As PyTorch's `clip_grad_norm_`.
            Some(limit) if norm > limit => limit / (norm + 1e-6),
            _ => 1.0,
        };
        for (i, (matrix, gradient)) in learner
            .matrices()
            .into_iter()
            .zip(step.matrices)
            .enumerate()
        {
            let gradient = if factor == 1.0 {
                gradient
            } else {
                gradient.mul_scalar(factor)
            };
            *matrix = optimizer.step(i, rate * rates[i], matrix.clone(), gradient);
        }
        let seconds = begun.elapsed().as_secs_f64();
        state.step += 1;
        state.tokens += tokens as u64;
        state.seconds += seconds;
        state.last_loss = Some(step.loss);

        let last = state.step as usize == total;
        let due = every > 0 && (state.step as usize).is_multiple_of(every);
        let mut measured = Evaluation {
            held_out_loss: None,
            metric: None,
        };
        if due || last {
            measured.held_out_loss = measure(learner);
            if spec.best_by == BestBy::Metric {
                measured.metric = metric(learner)?;
            }
            state.held_out = measured.held_out_loss.or(state.held_out);
            let better = |value: f64, than: f64| match spec.best_by {
                BestBy::HeldOutLoss => value < than,
                BestBy::Metric => value > than,
            };
            if spec.keep_best
                && let Some(value) = measured.value(spec.best_by)
                && state.best.as_ref().is_none_or(|b| better(value, b.value))
            {
                state.best = Some(Best {
                    step: state.step,
                    value,
                });
                best = Some(checkpoint::values(learner));
            }
        }
        let speed = tokens as f64 / seconds;
        log(
            dir,
            &state,
            Some(step.loss),
            rate,
            Some(norm),
            speed,
            measured,
        )?;
        if let Some(loss) = measured.held_out_loss.filter(|l| !l.is_finite()) {
            let reason = format!("step {}: held-out loss {loss}", state.step);
            progress.finish(&format!("diverged at {reason}"));
            return Ok(Trained {
                progressed: state,
                diverged: Some(reason),
            });
        }
        progress.set(
            state.step,
            &format!("loss {:.4} {speed:.0} tokens/s", step.loss),
        );
        let stopped = !last && interrupt::asked();
        if last
            || stopped
            || (spec.checkpoint_every > 0
                && (state.step as usize).is_multiple_of(spec.checkpoint_every))
        {
            checkpoint::save(
                &dir.checkpoint(),
                learner,
                &optimizer,
                &state,
                best.as_ref(),
            )?;
        }
        if stopped {
            return Err(Interrupted.into());
        }
    }
    let text = |loss: Option<f64>| loss.map_or("-".into(), |l| format!("{l:.4}"));
    progress.finish(&format!(
        "{} steps, held-out loss {} -> {}",
        state.step,
        text(state.held_out_before),
        text(state.kept_loss(spec.best_by))
    ));
    if let Some(best) = best {
        checkpoint::set_values(learner, best);
    }
    Ok(Trained {
        progressed: state,
        diverged: None,
    })
}

fn log(
    dir: &RunDir,
    state: &Progressed,
    loss: Option<f64>,
    learning_rate: f64,
    grad_norm: Option<f64>,
    tokens_per_second: f64,
    measured: Evaluation,
) -> Result<()> {
    Ok(dir.append_step(&Step {
        step: state.step,
        loss,
        learning_rate,
        grad_norm,
        tokens: state.tokens,
        tokens_per_second,
        memory_bytes: host::resident_bytes(),
        held_out_loss: measured.held_out_loss,
        metric: measured.metric,
    })?)
}

/// Euclidean norm of all gradients together.
fn norm(gradients: &[Tensor<2>]) -> f64 {
    gradients
        .iter()
        .map(|g| {
            let square = g.clone().square().sum();
            f64::from(
                square
                    .try_into_vec_as::<f32>()
                    .ok()
                    .and_then(|v| v.first().copied())
                    .unwrap_or(f32::NAN),
            )
        })
        .sum::<f64>()
        .sqrt()
}
