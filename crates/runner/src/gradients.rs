//! The gradient of one effective batch with respect to what is trained.

use burn::tensor::{Int, Tensor, TensorData};
use sharelora_adapters::{Bank, Dropout, Matrix};
use sharelora_model::{
    Adapter, Classifier, Input, Loss, Model, Smoothing, classification_loss, cross_entropy,
};
use sharelora_tasks::Encoded;

use crate::batch::Fill;

/// What is trained: a bank beside a frozen base, or the base itself; and where texts are labelled, a head.
pub struct Learner {
    pub model: Model,
    /// `None`: full fine-tuning.
    pub bank: Option<Bank>,
    /// `None`: the model generates.
    pub head: Option<Classifier>,
    /// Of the labels that are trained on; held-out losses are without.
    pub smoothing: Option<Smoothing>,
}

impl Learner {
    /// A model that generates, beside a bank or itself trained.
    pub fn new(model: Model, bank: Option<Bank>) -> Self {
        Learner {
            model,
            bank,
            head: None,
            smoothing: None,
        }
    }

    /// The trained matrices, in a fixed order: those of the bank that are not frozen, or all weights, then the head's.
    pub fn matrices(&mut self) -> Vec<&mut Tensor<2>> {
        let mut matrices: Vec<&mut Tensor<2>> = match &mut self.bank {
            Some(bank) => bank.trained_mut(),
            None => self.model.weights_mut(),
        };
        let heads = self.head.iter_mut().flat_map(Classifier::tensors_mut);
        matrices.extend(heads.map(|(_, tensor)| tensor));
        matrices
    }

    /// Which of them weight decay is for: not biases and norms (transformers' `Trainer.get_decay_parameter_names`).
    pub fn decays(&mut self) -> Vec<bool> {
        let mut decays: Vec<bool> = match &mut self.bank {
            Some(bank) => vec![true; bank.trained_mut().len()],
            None => {
                let weights = self.model.config.weights();
                weights.iter().map(|w| !w.is_vector()).collect()
            }
        };
        let heads = self.head.iter_mut().flat_map(Classifier::tensors_mut);
        decays.extend(heads.map(|(name, _)| !name.ends_with("bias")));
        decays
    }

    /// What the learning rate of each of them is multiplied by: `b` for a `B` (LoRA+'s ratio), `head` for the head's.
    pub fn rates(&mut self, b: f64, head: f64) -> Vec<f64> {
        let mut rates: Vec<f64> = match &self.bank {
            Some(bank) => {
                let layout = bank.layout();
                let of = |list: &[Matrix], rate: f64| -> Vec<f64> {
                    let trained = list.iter().filter(|matrix| matrix.trained);
                    trained.map(|_| rate).collect()
                };
                [
                    of(&layout.a, 1.0),
                    of(&layout.b, b),
                    of(&layout.extras, 1.0),
                ]
                .concat()
            }
            None => vec![1.0; self.model.config.weights().len()],
        };
        rates.resize(self.matrices().len(), head);
        rates
    }

    /// The same values under autodiff, as leaves of a graph of their own; what is frozen stays outside it.
    fn tracked(&self) -> Learner {
        let mut copy = Learner {
            model: self.model.clone(),
            bank: self.bank.clone(),
            head: self.head.clone(),
            smoothing: self.smoothing.clone(),
        };
        for matrix in copy.matrices() {
            *matrix = matrix.clone().without_autodiff().autodiff().require_grad();
        }
        copy
    }

    /// The adapter, as a forward pass takes it.
    pub fn adapter(&self, dropout: Option<Dropout>) -> Option<Adapter<'_>> {
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
    goal: Goal,
}

/// What a micro-batch should say.
enum Goal {
    /// Tokens, and the rows of the hidden states that predict them. The state at t predicts the token at t + 1; the tokens
    /// of the prompt carry no label.
    Tokens { places: Vec<i64>, targets: Vec<u32> },
    /// A class or number of each row.
    Labels(Vec<f32>),
}

impl Batch {
    fn new(rows: &[&Encoded], padded: bool) -> Self {
        let input = input(rows, padded);
        let labels: Vec<f32> = rows.iter().filter_map(|row| row.label).collect();
        if !labels.is_empty() {
            return Batch {
                input,
                goal: Goal::Labels(labels),
            };
        }
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
            goal: Goal::Tokens { places, targets },
        }
    }

    fn is_empty(&self) -> bool {
        match &self.goal {
            Goal::Tokens { targets, .. } => targets.is_empty(),
            Goal::Labels(labels) => labels.is_empty(),
        }
    }

    /// The loss of hidden states (N, C), and with `weight` a surrogate scalar for the backward pass. Labels are smoothed only
    /// where there is one.
    fn loss(&self, learner: &Learner, hidden: Tensor<2>, weight: Option<f64>) -> Loss {
        match (&self.goal, &learner.head) {
            (Goal::Labels(labels), Some(head)) => {
                let scores = head.scores(&learner.model, hidden, &self.input);
                classification_loss(scores, head.labels, labels, weight)
            }
            (Goal::Labels(_), None) => unreachable!("a task with labels gets a head"),
            (Goal::Tokens { places, targets }, _) => {
                let places = TensorData::new(places.clone(), [places.len()]);
                let places = Tensor::<1, Int>::from_data(places, learner.model.device());
                let hidden = hidden.select(0, places); // (labels, C)
                let smoothing = weight.and(learner.smoothing.as_ref());
                cross_entropy(&hidden, learner.model.head(), targets, weight, smoothing)
            }
        }
    }
}

/// The rows as the model reads them.
pub fn input(rows: &[&Encoded], padded: bool) -> Input {
    let ids: Vec<&[u32]> = rows.iter().map(|r| r.ids.as_slice()).collect();
    let input = match padded {
        true => Input::padded(&ids, 0),
        false => Input::packed(&ids),
    };
    let second = |row: &&Encoded| row.segment.unwrap_or(row.ids.len());
    input.with_seconds(rows.iter().map(second).collect())
}

/// Number of labels: labelled tokens, or labelled texts.
pub fn labels(rows: &[&Encoded]) -> usize {
    let of_row = |row: &&Encoded| match row.label {
        Some(_) => 1,
        None => row.ids.len().saturating_sub(row.prompt_len.max(1)),
    };
    rows.iter().map(of_row).sum()
}

/// Gradients of the mean loss over the labels of an effective batch.
pub struct Gradients {
    /// Mean negative log-likelihood in nats, or mean squared error.
    pub loss: f64,
    /// One for each trained matrix.
    pub matrices: Vec<Tensor<2>>,
}

/// The loss and its gradients, summed over micro-batches: the mean is over all labels of the effective
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
        if batch.is_empty() {
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

/// Mean loss over the labels of `rows`, without gradients, in batches of neighbouring lengths.
pub fn held_out_loss(learner: &Learner, rows: &[&Encoded], fill: Fill, running: Running) -> f64 {
    let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    let mut sum = 0.0;
    for places in fill.cut(&order, &lengths) {
        let batch: Vec<&Encoded> = places.into_iter().map(|i| rows[i]).collect();
        let batch = Batch::new(&batch, running.padded);
        if !batch.is_empty() {
            let hidden = (learner.model).hidden(&batch.input, learner.adapter(None), None);
            sum += batch.loss(learner, hidden, None).sum;
        }
    }
    sum / labels(rows).max(1) as f64
}
