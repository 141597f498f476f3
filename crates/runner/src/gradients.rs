//! The gradient of one effective batch with respect to what is trained.

use burn::tensor::{Int, Tensor, TensorData};
use sharelora_adapters::{Bank, Dropout};
use sharelora_model::{Adapter, Input, Llama, Loss, cross_entropy};
use sharelora_tasks::Encoded;

use crate::batch::Fill;

/// What is trained: a bank beside a frozen base, or the base itself.
pub struct Learner {
    pub model: Llama,
    /// `None`: full fine-tuning.
    pub bank: Option<Bank>,
}

impl Learner {
    /// The trained matrices, in a fixed order.
    pub fn matrices(&mut self) -> Vec<&mut Tensor<2>> {
        match &mut self.bank {
            Some(bank) => bank.matrices_mut().iter_mut().collect(),
            None => self
                .model
                .weights_mut()
                .into_iter()
                .map(|(_, t)| t)
                .collect(),
        }
    }

    /// The same values under autodiff, as leaves of a graph of their own; what is frozen stays outside it.
    fn tracked(&self) -> Learner {
        let mut copy = Learner {
            model: self.model.clone(),
            bank: self.bank.clone(),
        };
        for matrix in copy.matrices() {
            *matrix = matrix.clone().without_autodiff().autodiff().require_grad();
        }
        copy
    }

    fn adapter(&self, dropout: Option<Dropout>) -> Option<Adapter<'_>> {
        self.bank.as_ref().map(|bank| Adapter { bank, dropout })
    }
}

/// How a micro-batch is run. None of it changes the result by more than rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Running {
    /// Every row padded to the longest, instead of rows end to end.
    pub padded: bool,
    /// Each block computed again in the backward pass, instead of keeping its activations.
    pub gradient_checkpointing: bool,
}

/// A micro-batch, ready to be run.
struct Batch {
    input: Input,
    /// Rows of the hidden states that predict a labelled token. The state at t predicts the token at t + 1; the tokens of
    /// the prompt carry no label.
    places: Vec<i64>,
    /// Those tokens.
    targets: Vec<u32>,
}

impl Batch {
    fn new(rows: &[&Encoded], padded: bool) -> Self {
        let ids: Vec<&[u32]> = rows.iter().map(|r| r.ids.as_slice()).collect();
        let input = match padded {
            true => Input::padded(&ids, 0),
            false => Input::packed(&ids),
        };
        let mut places = Vec::new();
        let mut targets = Vec::new();
        for (span, row) in input.spans.iter().zip(rows) {
            for t in row.prompt_len.max(1)..row.ids.len() {
                places.push((span.start + t - 1) as i64);
                targets.push(row.ids[t]);
            }
        }
        Batch {
            input,
            places,
            targets,
        }
    }

    /// The loss of hidden states (N, C), and with `weight` a surrogate scalar for the backward pass.
    fn loss(&self, learner: &Learner, hidden: Tensor<2>, weight: Option<f64>) -> Loss {
        let places = TensorData::new(self.places.clone(), [self.places.len()]);
        let places = Tensor::<1, Int>::from_data(places, learner.model.device());
        let hidden = hidden.select(0, places); // (labels, C)
        cross_entropy(&hidden, learner.model.head(), &self.targets, weight)
    }
}

/// Number of labelled tokens.
pub fn labels(rows: &[&Encoded]) -> usize {
    rows.iter()
        .map(|r| r.ids.len().saturating_sub(r.prompt_len.max(1)))
        .sum()
}

/// Gradients of the mean loss over the labelled tokens of an effective batch.
pub struct Gradients {
    /// Mean negative log-likelihood in nats.
    pub loss: f64,
    /// One for each trained matrix.
    pub matrices: Vec<Tensor<2>>,
}

/// The loss and its gradients, summed over micro-batches: the mean is over all labelled tokens of the effective
/// batch, however it is cut. `pass` counts micro-batches from the start of training and `seed` is dropout's.
pub fn gradients(
    learner: &mut Learner,
    micro: &[Vec<&Encoded>],
    seed: u64,
    pass: u64,
    running: Running,
) -> Gradients {
    let total: usize = micro.iter().map(|rows| labels(rows)).sum();
    let weight = 1.0 / total.max(1) as f64;
    let mut sum = 0.0;
    let mut summed = Summed(learner.matrices().iter().map(|_| None).collect());
    for (i, rows) in micro.iter().enumerate() {
        let batch = Batch::new(rows, running.padded);
        if batch.targets.is_empty() {
            continue;
        }
        let dropout = Dropout {
            seed,
            pass: pass + i as u64,
        };
        let mut tracked = learner.tracked();
        sum += match running.gradient_checkpointing {
            false => kept(&mut tracked, &batch, dropout, weight, &mut summed),
            true => recomputed(learner, &mut tracked, &batch, dropout, weight, &mut summed),
        };
    }
    let matrices = learner
        .matrices()
        .into_iter()
        .zip(summed.0)
        .map(|(m, grad)| grad.unwrap_or_else(|| m.clone().without_autodiff().zeros_like()))
        .collect();
    Gradients {
        loss: sum * weight,
        matrices,
    }
}

/// A gradient for each trained matrix, as far as there is one.
struct Summed(Vec<Option<Tensor<2>>>);

impl Summed {
    fn add(&mut self, tracked: &mut Learner, grads: &mut burn::tensor::Gradients) {
        for (total, matrix) in self.0.iter_mut().zip(tracked.matrices()) {
            if let Some(grad) = matrix.grad_remove(grads) {
                *total = Some(match total.take() {
                    Some(t) => t + grad,
                    None => grad,
                });
            }
        }
    }
}

/// One graph from the embedding to the loss. Returns the sum of the losses.
fn kept(
    tracked: &mut Learner,
    batch: &Batch,
    dropout: Dropout,
    weight: f64,
    summed: &mut Summed,
) -> f64 {
    let hidden = (tracked.model).hidden(&batch.input, tracked.adapter(Some(dropout)), None);
    let loss = batch.loss(tracked, hidden, Some(weight));
    if let Some(surrogate) = loss.surrogate {
        summed.add(tracked, &mut surrogate.backward());
    }
    loss.sum
}

/// One graph a block (arXiv 1604.06174): the forward pass keeps only what goes into each block, and the backward
/// pass runs the block again. Returns the sum of the losses.
fn recomputed(
    plain: &Learner,
    tracked: &mut Learner,
    batch: &Batch,
    dropout: Dropout,
    weight: f64,
    summed: &mut Summed,
) -> f64 {
    let layers = plain.model.layers();
    // Nothing below the lowest adapted block has a gradient.
    let lowest = plain.bank.as_ref().map_or(0, |bank| {
        let sites = bank.layout().sites.iter();
        sites.map(|s| s.layer).min().unwrap_or(layers)
    });
    let pass = (plain.model).pass(&batch.input, plain.adapter(Some(dropout)), &[]);
    let mut inputs = vec![plain.model.embed(&pass).without_autodiff()];
    for layer in 0..layers {
        let x = inputs[layer].clone();
        inputs.push(plain.model.block(layer, x, &pass, None));
    }
    let leaf = |x: Tensor<2>| x.autodiff().require_grad();

    let x = leaf(inputs.pop().expect("one more than there are blocks"));
    let hidden = tracked.model.final_norm(x.clone());
    let loss = batch.loss(tracked, hidden, Some(weight));
    let Some(surrogate) = loss.surrogate else {
        return loss.sum;
    };
    let mut grads = surrogate.backward();
    let mut gradient = x.grad_remove(&mut grads);
    summed.add(tracked, &mut grads);
    let backward = |y: Tensor<2>, gradient: Tensor<2>| (y * gradient).sum().backward();
    for layer in (lowest..layers).rev() {
        let (Some(x), Some(dy)) = (inputs.pop(), gradient.take()) else {
            break;
        };
        let trained = layer > lowest || plain.bank.is_none();
        let x = if trained { leaf(x) } else { x };
        let pass = (tracked.model).pass(&batch.input, tracked.adapter(Some(dropout)), &[]);
        let y = tracked.model.block(layer, x.clone(), &pass, None);
        drop(pass);
        let mut grads = backward(y, dy);
        gradient = trained.then(|| x.grad_remove(&mut grads)).flatten();
        summed.add(tracked, &mut grads);
    }
    if let (None, Some(gradient)) = (&plain.bank, gradient) {
        let pass = tracked.model.pass(&batch.input, None, &[]);
        let x = tracked.model.embed(&pass);
        drop(pass);
        summed.add(tracked, &mut backward(x, gradient));
    }
    loss.sum
}

/// Mean loss over the labelled tokens of `rows`, without gradients, in batches of neighbouring lengths.
pub fn held_out_loss(learner: &Learner, rows: &[&Encoded], fill: Fill, running: Running) -> f64 {
    let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    let mut sum = 0.0;
    for places in fill.cut(&order, &lengths) {
        let batch: Vec<&Encoded> = places.into_iter().map(|i| rows[i]).collect();
        let batch = Batch::new(&batch, running.padded);
        if !batch.targets.is_empty() {
            let hidden = (learner.model).hidden(&batch.input, learner.adapter(None), None);
            sum += batch.loss(learner, hidden, None).sum;
        }
    }
    sum / labels(rows).max(1) as f64
}
