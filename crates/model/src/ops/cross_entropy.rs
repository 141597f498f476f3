//! Cross-entropy that computes logits only where there is a label, some at a time, and takes the gradient in the forward pass.
//!
//! With a vocabulary of 49,152 the logits and their copies under autodiff would be the largest tensors of a step. The head is frozen, so
//! the gradient with respect to the hidden states, `(softmax(h W^T) - onehot) W`, has a closed form; it is taken while the logits of a
//! tile exist, as in flash attention. Autodiff starts from the scalar `<h, gradient>`, whose gradient is the loss's and whose value means
//! nothing. A head that is trained (full fine-tuning) takes the plain path through autodiff.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use sharelora_kernels::matrix::Matrix;

#[cfg(feature = "flex")]
use super::host;
use super::{Kernels, kernels};
use crate::weight::Weight;

/// Rows whose logits exist at the same time: 128 x 49,152 floats are 25 MB.
const ROWS: usize = 128;

/// Label smoothing (arXiv 1512.00567, section 7) as the E2E recipe has it: `(1 - amount) nll + amount mean(-log p)` over the
/// vocabulary.
///
/// With logits `h W^T` this is `nll + amount <h, W_target - mean row of W>`: the sum of exponentials is the same in both
/// terms. So a frozen head needs one more product of width C for each position, and no second look at the vocabulary.
#[derive(Debug, Clone)]
pub struct Smoothing {
    amount: f64,
    /// Mean row of the head, (1, C).
    mean: Tensor<2>,
}

impl Smoothing {
    /// `amount`: from 0 to 1. `head`: (V, C), which has to stay as it is, or else be trained itself.
    pub fn new(amount: f64, head: &Weight, device: &Device) -> Self {
        let [v, c] = head.dims();
        let mut sum = vec![0f64; c];
        for row in head.values().chunks_exact(c.max(1)) {
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        let mean = sum.iter().map(|s| (s / v as f64) as f32).collect();
        Smoothing {
            amount,
            mean: Tensor::from_data(TensorData::new::<f32, _>(mean, [1, c]), device),
        }
    }

    /// What is added to each loss, and the gradient of that, (N, C).
    fn correction(
        &self,
        hidden: Tensor<2>,
        head: &Weight,
        targets: &[u32],
    ) -> (Vec<f32>, Tensor<2>) {
        let of_targets = head.rows(targets, &hidden.device()).without_autodiff();
        let gradient = (of_targets - self.mean.clone()).mul_scalar(self.amount); // (N, C)
        let added = (hidden * gradient.clone()).sum_dim(1); // (N, 1)
        (read(added), gradient)
    }
}

/// The loss of some labelled positions.
pub struct Loss {
    /// Sum of the negative log-likelihoods, in nats.
    pub sum: f64,
    /// Number of labelled positions.
    pub count: usize,
    /// A scalar, (1), whose gradient with respect to everything behind `hidden` is that of `sum * weight`.
    /// Its value means nothing.
    pub surrogate: Option<Tensor<1>>,
}

/// Cross-entropy of `hidden [N, C]` under the head `[V, C]` against `targets`, N ids.
///
/// With a frozen head the gradient of the sum with respect to `hidden`, `(softmax(h W^T) - onehot) W`, is
/// taken while the logits are there, so that no logit outlives its chunk and autodiff never sees the
/// vocabulary: `surrogate = <hidden, that gradient * weight>`. A head that is itself trained (full
/// fine-tuning) takes the plain path through autodiff. `weight`: `None` where no gradient is wanted. `smoothing`: `None` for
/// labels as they are.
pub fn cross_entropy(
    hidden: &Tensor<2>,
    head: &Weight,
    targets: &[u32],
    weight: Option<f64>,
    smoothing: Option<&Smoothing>,
) -> Loss {
    let device = hidden.device().inner();
    if let (Weight::Tensor(head), Some(weight)) = (head, weight)
        && head.is_tracked()
    {
        let amount = smoothing.map_or(0.0, |s| s.amount);
        return through_autodiff(hidden, head, targets, weight, amount, &device);
    }
    let values = hidden.clone().without_autodiff();
    let smoothed = smoothing.map(|s| s.correction(values.clone(), head, targets));
    let (mut losses, mut gradient) = match (kernels(&device), head) {
        #[cfg(feature = "flex")]
        (Kernels::Host, Weight::Host(head)) => on_host(values, head, targets, weight),
        #[cfg(feature = "libtorch")]
        (Kernels::Torch, Weight::Tensor(head)) => on_torch(values, head, targets, weight),
        _ => composed(values, head, targets, weight),
    };
    if let Some((added, of_added)) = smoothed {
        losses.iter_mut().zip(added).for_each(|(l, a)| *l += a);
        gradient = gradient.map(|g| g + of_added.mul_scalar(weight.unwrap_or(0.0)));
    }
    Loss {
        sum: losses.into_iter().map(f64::from).sum(),
        count: targets.len(),
        surrogate: gradient.map(|g| (hidden.clone() * g).sum()),
    }
}

/// Losses, and their gradient times the weight.
type Losses = (Vec<f32>, Option<Tensor<2>>);

#[cfg(feature = "flex")]
fn on_host(hidden: Tensor<2>, head: &Matrix, targets: &[u32], weight: Option<f64>) -> Losses {
    use burn::backend::Flex;
    let [n, c] = hidden.dims();
    let hidden = hidden.try_into_primitive::<Flex>();
    let hidden = host::dense(hidden.expect("the backend was asked for before"));
    let mut gradient = weight.map(|_| host::buffer(n * c));
    let losses = sharelora_kernels::cross_entropy::forward(
        host::slice(&hidden),
        head,
        targets,
        gradient.as_deref_mut().zip(weight.map(|w| w as f32)),
    );
    let tensor = |g| Tensor::from_primitive::<Flex>(host::tensor(g, n, c));
    (losses, gradient.filter(|_| n > 0).map(tensor))
}

#[cfg(feature = "libtorch")]
fn on_torch(hidden: Tensor<2>, head: &Tensor<2>, targets: &[u32], weight: Option<f64>) -> Losses {
    use super::torch::{TchTensor, cross_entropy};
    use burn::backend::LibTorch;
    let inner = |t: Tensor<2>| {
        let t = t.without_autodiff().try_into_primitive::<LibTorch>();
        t.expect("the backend was asked for before")
    };
    let (hidden, head) = (inner(hidden), inner(head.clone()));
    let ids: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
    let ids = tch::Tensor::from_slice(&ids).to_device(hidden.tensor.device());
    let (losses, gradient) = cross_entropy::forward(&hidden.tensor, &head.tensor, &ids, weight);
    let losses = Vec::<f32>::try_from(losses.to_device(tch::Device::Cpu));
    let gradient = gradient.filter(|_| !targets.is_empty());
    let gradient = gradient.map(|g| Tensor::from_primitive::<LibTorch>(TchTensor::new(g)));
    (losses.expect("f32 on the host"), gradient)
}

fn composed(hidden: Tensor<2>, head: &Weight, targets: &[u32], weight: Option<f64>) -> Losses {
    let device = hidden.device();
    let head = head.tensor(&device).without_autodiff();
    let mut losses = Vec::with_capacity(targets.len());
    let mut gradients = Vec::new();
    for start in (0..targets.len()).step_by(ROWS) {
        let n = ROWS.min(targets.len() - start);
        let rows = hidden.clone().narrow(0, start, n);
        let of_targets = head
            .clone()
            .select(0, ids(&targets[start..start + n], &device)); // (n, C)
        let logits = rows.clone().matmul(head.clone().transpose()); // (n, V)
        let largest = logits.clone().max_dim(1);
        let exponents = (logits - largest.clone()).exp();
        let total = exponents.clone().sum_dim(1); // (n, 1)
        let log_total = total.clone().log() + largest;
        losses.extend(read(log_total - (rows * of_targets.clone()).sum_dim(1)));
        if let Some(weight) = weight {
            let expected = exponents.matmul(head.clone()) / total; // (n, C)
            gradients.push((expected - of_targets).mul_scalar(weight));
        }
    }
    let gradient = (!gradients.is_empty()).then(|| Tensor::cat(gradients, 0));
    (losses, gradient)
}

/// Log-likelihood of each target, in nats, under `hidden [N, C]` and the head `[V, C]`.
pub fn log_likelihoods(hidden: &Tensor<2>, head: &Weight, targets: &[u32]) -> Vec<f64> {
    let values = hidden.clone().without_autodiff();
    let (losses, _) = match (kernels(&values.device()), head) {
        #[cfg(feature = "flex")]
        (Kernels::Host, Weight::Host(head)) => on_host(values, head, targets, None),
        #[cfg(feature = "libtorch")]
        (Kernels::Torch, Weight::Tensor(head)) => on_torch(values, head, targets, None),
        _ => composed(values, head, targets, None),
    };
    losses.into_iter().map(|loss| -f64::from(loss)).collect()
}

/// The most likely token under each of `hidden [N, C]`; the first of equals.
pub fn argmax(hidden: Tensor<2>, head: &Weight) -> Vec<u32> {
    let hidden = hidden.without_autodiff();
    match (kernels(&hidden.device()), head) {
        #[cfg(feature = "flex")]
        (Kernels::Host, Weight::Host(head)) => {
            let hidden = hidden.try_into_primitive::<burn::backend::Flex>();
            let hidden = host::dense(hidden.expect("the backend was asked for before"));
            sharelora_kernels::cross_entropy::argmax(host::slice(&hidden), head)
        }
        _ => {
            let head = head.tensor(&hidden.device()).without_autodiff();
            let logits = hidden.matmul(head.transpose());
            let width = logits.dims()[1];
            let best = |row: &[f32]| {
                let first = (0, f32::NEG_INFINITY);
                let rows = row.iter().enumerate();
                rows.fold(
                    first,
                    |best, (i, &v)| if v > best.1 { (i, v) } else { best },
                )
            };
            let rows = read(logits);
            rows.chunks(width).map(|row| best(row).0 as u32).collect()
        }
    }
}

fn through_autodiff(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    targets: &[u32],
    weight: f64,
    smoothing: f64,
    device: &Device,
) -> Loss {
    let logits = hidden.clone().matmul(head.clone().transpose());
    let index = ids(targets, device).reshape([targets.len(), 1]);
    let log_probs = activation::log_softmax(logits, 1); // (N, V)
    let mut picked = log_probs.clone().gather(1, index); // (N, 1)
    if smoothing > 0.0 {
        let mean = log_probs.mean_dim(1);
        picked = picked.mul_scalar(1.0 - smoothing) + mean.mul_scalar(smoothing);
    }
    let loss = picked.neg().sum();
    Loss {
        sum: read(loss.clone().without_autodiff().reshape([1, 1]))
            .into_iter()
            .map(f64::from)
            .sum(),
        count: targets.len(),
        surrogate: Some(loss.mul_scalar(weight)),
    }
}

fn ids(targets: &[u32], device: &Device) -> Tensor<1, Int> {
    let list: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
    Tensor::from_data(TensorData::new(list, [targets.len()]), device)
}

pub(crate) fn read(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .try_into_vec_as::<f32>()
        .expect("a float tensor that exists can be read as f32")
}
