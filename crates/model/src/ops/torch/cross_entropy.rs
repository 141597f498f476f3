//! Cross-entropy of a large vocabulary, a few rows at a time: no (N, V) is ever made.

use tch::{Kind, Tensor, no_grad};

/// Rows whose logits exist at a time. More read the head less often, fewer stay nearer to the caches.
const ROWS: i64 = 256;

/// `hidden` (N, C), `head` (V, C), `targets` (N) int64 -> -ln p(target) in nats, (N), and with `weight` the gradient
/// (N, C) of their sum times it: weight (softmax(h W^T) - onehot) W, while those logits exist.
pub fn forward(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weight: Option<f64>,
) -> (Tensor, Option<Tensor>) {
    no_grad(|| {
        let (n, v) = (hidden.size()[0], head.size()[0]);
        let head = head.to_kind(hidden.kind());
        let losses = Tensor::empty([n], (hidden.kind(), hidden.device()));
        let gradient = weight.map(|_| hidden.empty_like());
        let buffer = Tensor::empty([ROWS.min(n), v], (hidden.kind(), hidden.device()));
        for start in (0..n).step_by(ROWS as usize) {
            let rows = ROWS.min(n - start);
            let mut logits = buffer.narrow(0, 0, rows);
            let _ = hidden.narrow(0, start, rows).mm_out(&logits, &head.tr());
            // In place: each row is read whole before it is written.
            let _ = logits.internal_log_softmax_out(&logits, 1, false);
            let index = targets.narrow(0, start, rows).unsqueeze(1);
            losses
                .narrow(0, start, rows)
                .copy_(&-logits.gather(1, &index, false).squeeze_dim(1));
            if let Some(gradient) = &gradient {
                let _ = logits.exp_();
                let one = Tensor::full([rows, 1], -1.0, (logits.kind(), logits.device()));
                let _ = logits.scatter_add_(1, &index, &one);
                let _ = logits.mm_out(&gradient.narrow(0, start, rows), &head);
            }
        }
        let gradient = gradient.zip(weight).map(|(mut gradient, weight)| {
            let _ = gradient.g_mul_scalar_(weight);
            gradient
        });
        (losses, gradient)
    })
}

/// The first of the largest logits of each row, (N) int64: greedy generation.
pub fn argmax(hidden: &Tensor, head: &Tensor) -> Tensor {
    no_grad(|| {
        let head = head.to_kind(hidden.kind());
        let chunks: Vec<Tensor> = hidden
            .split(ROWS, 0)
            .iter()
            .map(|h| h.mm(&head.tr()).argmax(1, false))
            .collect();
        if chunks.is_empty() {
            return Tensor::empty([0], (Kind::Int64, hidden.device()));
        }
        Tensor::cat(&chunks, 0)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// More rows than a chunk holds, against torch's own loss and its derivative; a logit of 300 shows that nothing
    /// overflows and that an unlikely target has a finite loss.
    #[test]
    fn equals_torch() {
        let (n, c, v) = (2 * ROWS + 5, 6, 37);
        let (hidden, head) = (random(&[n, c], 1), random(&[v, c], 2));
        let _ = hidden.get(3).g_mul_scalar_(100.0);
        let targets = Tensor::arange(n, (Kind::Int64, tch::Device::Cpu)).remainder(v);
        let own = |x: &[Tensor]| {
            x[0].mm(&head.tr()).cross_entropy_loss::<&Tensor>(
                &targets,
                None,
                tch::Reduction::None,
                -100,
                0.0,
            )
        };
        let dy = Tensor::full([n], 0.25, (Kind::Float, tch::Device::Cpu));
        let (expected, d) = gradients(&[&hidden], &dy, own);
        let (losses, gradient) = forward(&hidden, &head, &targets, Some(0.25));
        assert_close(&losses, &expected, 1e-4);
        assert_close(&gradient.unwrap(), &d[0], 1e-5);
        let (alone, none) = forward(&hidden, &head, &targets, None);
        assert_close(&alone, &losses, 0.0);
        assert!(none.is_none());
        assert_eq!(
            argmax(&hidden, &head),
            hidden.mm(&head.tr()).argmax(1, false)
        );
    }

    /// A micro-batch may hold no labelled row.
    #[test]
    fn takes_no_rows() {
        let targets = Tensor::empty([0], (Kind::Int64, tch::Device::Cpu));
        let (losses, gradient) = forward(
            &random(&[0, 6], 1),
            &random(&[9, 6], 2),
            &targets,
            Some(1.0),
        );
        assert_eq!(losses.size(), [0]);
        assert_eq!(gradient.unwrap().size(), [0, 6]);
    }
}
