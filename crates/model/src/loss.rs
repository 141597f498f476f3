//! Cross-entropy that computes logits only where there is a label, some rows at a time.

use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::llama::widened;

/// Rows whose logits exist at the same time: 128 x 49,152 floats are 25 MB.
const ROWS: usize = 128;

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
/// fine-tuning) takes the plain path through autodiff. `weight`: `None` where no gradient is wanted.
pub fn cross_entropy(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    targets: &[u32],
    weight: Option<f64>,
) -> Loss {
    let device = hidden.device().inner();
    if weight.is_some() && head.is_tracked() {
        return through_autodiff(hidden, head, targets, weight.unwrap_or(1.0), &device);
    }
    let values = hidden.clone().without_autodiff();
    let head = widened(head).without_autodiff();
    let channels = head.dims()[1];
    let mut sum = 0f64;
    let mut gradients = Vec::new();
    for start in (0..targets.len()).step_by(ROWS) {
        let n = ROWS.min(targets.len() - start);
        let rows = values.clone().narrow(0, start, n);
        let of_targets = head
            .clone()
            .select(0, ids(&targets[start..start + n], &device)); // (n, C)
        let logits = rows.clone().matmul(head.clone().transpose()); // (n, V)
        let largest = logits.clone().max_dim(1);
        let exponents = (logits - largest.clone()).exp();
        let total = exponents.clone().sum_dim(1); // (n, 1)
        let log_total = total.clone().log() + largest;
        let loss = log_total - (rows * of_targets.clone()).sum_dim(1);
        sum += read(loss).into_iter().map(f64::from).sum::<f64>();
        if let Some(weight) = weight {
            let expected = exponents.matmul(head.clone()) / total; // (n, C)
            gradients.push((expected - of_targets).mul_scalar(weight));
        }
    }
    let surrogate = match gradients.is_empty() {
        true => None,
        false => {
            let gradient = Tensor::cat(gradients, 0);
            debug_assert_eq!(gradient.dims(), [targets.len(), channels]);
            Some((hidden.clone() * gradient).sum())
        }
    };
    Loss {
        sum,
        count: targets.len(),
        surrogate,
    }
}

/// Log-likelihood of each target, in nats, under `hidden [N, C]` and the head `[V, C]`.
pub fn log_likelihoods(hidden: &Tensor<2>, head: &Tensor<2>, targets: &[u32]) -> Vec<f64> {
    let device = hidden.device().inner();
    let hidden = hidden.clone().without_autodiff();
    let head = widened(head).without_autodiff();
    let of_targets = head.clone().select(0, ids(targets, &device));
    let logits = hidden.clone().matmul(head.transpose()); // (N, V)
    let largest = logits.clone().max_dim(1);
    let log_total = (logits - largest.clone()).exp().sum_dim(1).log() + largest;
    let likelihood = (hidden * of_targets).sum_dim(1) - log_total;
    read(likelihood).into_iter().map(f64::from).collect()
}

fn through_autodiff(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    targets: &[u32],
    weight: f64,
    device: &Device,
) -> Loss {
    let logits = hidden.clone().matmul(head.clone().transpose());
    let index = ids(targets, device).reshape([targets.len(), 1]);
    let picked = activation::log_softmax(logits, 1).gather(1, index);
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
