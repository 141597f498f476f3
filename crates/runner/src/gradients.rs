//! The gradient of one effective batch with respect to what is trained.

use burn::tensor::{Int, Tensor, TensorData};
use sharelora_adapters::{Bank, Dropout};
use sharelora_model::{Adapter, Input, Llama, cross_entropy};
use sharelora_tasks::Encoded;

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
            model: self.model.share(),
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

/// Positions of the hidden states (row-major, B * T) that predict a labelled token, and those tokens. The
/// state at t predicts the token at t + 1; the tokens of the prompt carry no label.
fn labelled(rows: &[&Encoded], length: usize) -> (Vec<i64>, Vec<u32>) {
    let mut places = Vec::new();
    let mut targets = Vec::new();
    for (b, row) in rows.iter().enumerate() {
        for t in row.prompt_len.max(1)..row.ids.len() {
            places.push((b * length + t - 1) as i64);
            targets.push(row.ids[t]);
        }
    }
    (places, targets)
}

/// Number of labelled tokens.
pub fn labels(rows: &[&Encoded]) -> usize {
    rows.iter()
        .map(|r| r.ids.len().saturating_sub(r.prompt_len.max(1)))
        .sum()
}

/// Sum of the negative log-likelihoods of the labelled tokens, and with `weight` a surrogate scalar for the
/// backward pass.
fn loss(
    learner: &Learner,
    rows: &[&Encoded],
    dropout: Option<Dropout>,
    weight: Option<f64>,
) -> (f64, Option<Tensor<1>>) {
    let ids: Vec<&[u32]> = rows.iter().map(|r| r.ids.as_slice()).collect();
    let input = Input::right_padded(&ids, 0);
    let (places, targets) = labelled(rows, input.length);
    if targets.is_empty() {
        return (0.0, None);
    }
    let hidden = learner.model.hidden(&input, learner.adapter(dropout), None);
    let count = places.len();
    let places =
        Tensor::<1, Int>::from_data(TensorData::new(places, [count]), learner.model.device());
    let hidden = hidden.select(0, places); // (N, C)
    let loss = cross_entropy(&hidden, learner.model.head(), &targets, weight);
    (loss.sum, loss.surrogate)
}

/// Splits rows into at most `parts` parts of neighbouring lengths, so that each is padded to its own longest.
fn split<'a>(rows: &[&'a Encoded], parts: usize) -> Vec<Vec<&'a Encoded>> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|r| r.ids.len());
    // Work grows with tokens: the boundary falls where half of them are reached.
    let total: usize = sorted.iter().map(|r| r.ids.len()).sum();
    let mut out: Vec<Vec<&Encoded>> = vec![Vec::new()];
    let mut seen = 0;
    for row in sorted {
        let full = out.len() < parts && seen * parts >= total * out.len();
        if full && !out[out.len() - 1].is_empty() {
            out.push(Vec::new());
        }
        seen += row.ids.len();
        if let Some(last) = out.last_mut() {
            last.push(row);
        }
    }
    out
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
    parts: usize,
) -> Gradients {
    let total: usize = micro.iter().map(|rows| labels(rows)).sum();
    let weight = 1.0 / total.max(1) as f64;
    let mut sum = 0.0;
    let mut summed: Vec<Option<Tensor<2>>> = learner.matrices().iter().map(|_| None).collect();
    for (i, rows) in micro.iter().enumerate() {
        let pieces = split(rows, parts);
        let shared: &Learner = learner;
        let work = |(part, rows): (usize, &Vec<&Encoded>)| {
            let mut learner = shared.tracked();
            // Each part draws masks of its own.
            let dropout = Dropout {
                seed,
                pass: (pass + i as u64) * parts as u64 + part as u64,
            };
            let (sum, surrogate) = loss(&learner, rows, Some(dropout), Some(weight));
            let grads: Vec<Option<Tensor<2>>> = match surrogate {
                None => learner.matrices().iter().map(|_| None).collect(),
                Some(surrogate) => {
                    let mut grads = surrogate.backward();
                    learner
                        .matrices()
                        .iter()
                        .map(|m| m.grad_remove(&mut grads))
                        .collect()
                }
            };
            (sum, grads)
        };
        // Summed in the order of the parts, whichever ends first: the same bits every time.
        for (part_sum, grads) in in_parallel(&pieces, work) {
            sum += part_sum;
            for (total, grad) in summed.iter_mut().zip(grads) {
                if let Some(grad) = grad {
                    *total = Some(match total.take() {
                        Some(t) => t + grad,
                        None => grad,
                    });
                }
            }
        }
    }
    let matrices = learner
        .matrices()
        .into_iter()
        .zip(summed)
        .map(|(m, grad)| grad.unwrap_or_else(|| m.clone().without_autodiff().zeros_like()))
        .collect();
    Gradients {
        loss: sum * weight,
        matrices,
    }
}

/// Mean loss over the labelled tokens of `rows`, without gradients; `size` rows at a time.
pub fn held_out_loss(learner: &Learner, rows: &[&Encoded], size: usize, parts: usize) -> f64 {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|r| r.ids.len());
    let mut sum = 0.0;
    for batch in sorted.chunks(size.max(1)) {
        let pieces = split(batch, parts);
        let work = |(_, rows): (usize, &Vec<&Encoded>)| loss(learner, rows, None, None).0;
        sum += in_parallel(&pieces, work).into_iter().sum::<f64>();
    }
    sum / labels(rows).max(1) as f64
}

/// Runs `work` on every piece, each on a thread of its own, and gives the results in the pieces' order.
fn in_parallel<T: Send, P: Sync>(pieces: &[P], work: impl Fn((usize, &P)) -> T + Sync) -> Vec<T> {
    if let [one] = pieces {
        return vec![work((0, one))];
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = pieces
            .iter()
            .enumerate()
            .map(|piece| {
                let work = &work;
                scope.spawn(move || work(piece))
            })
            .collect();
        handles
            .into_iter()
            .map(|h| {
                h.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
