//! Cross-entropy of a large vocabulary, part by part: no (N, V) of all rows is ever made.

use tch::{Kind, Tensor, no_grad};

/// Rows whose logits exist at a time. More read the head less often and take more memory.
const ROWS: i64 = 512;
/// Tokens of the vocabulary whose logits are made, and read again, while they are in the caches.
const PART: i64 = 1024;

/// `hidden` (N, C), `head` (V, C) in any float type, `targets` (N) int64 -> -ln p(target) in nats, (N), and with
/// `weight` the gradient (N, C) of their sum times it: weight (softmax(h W^T) - onehot) W, while those logits exist.
///
/// The softmax of a part is off by a factor, its share of the whole, which is known once all parts are.
pub fn forward(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weight: Option<f64>,
) -> (Tensor, Option<Tensor>) {
    no_grad(|| {
        let n = hidden.size()[0];
        let losses = Tensor::empty([n], (hidden.kind(), hidden.device()));
        let gradient = weight.map(|_| hidden.empty_like());
        let mut start = 0;
        while start < n {
            let rows = ROWS.min(n - start);
            let of = |t: &Tensor| t.narrow(0, start, rows);
            let h = of(hidden);
            let mut parts = Vec::new();
            let mut sums = Vec::new();
            for w in head.split(PART, 0) {
                let (p, sum) = softmax(&h, &w);
                sums.push(sum);
                if weight.is_some() {
                    parts.push((p, w));
                }
            }
            let sums = Tensor::cat(&sums, 1);
            let total = sums.logsumexp([1i64].as_slice(), true);
            let target = head.index_select(0, &of(targets)).to_kind(h.kind());
            let score = Tensor::linalg_vecdot(&h, &target, 1);
            of(&losses).copy_(&(total.squeeze_dim(1) - score));
            if let (Some(gradient), Some(weight)) = (&gradient, weight) {
                let shares = (sums - total).exp();
                let mut sum = -target;
                for (part, (mut p, w)) in (0..).zip(parts) {
                    let _ = p.g_mul_(&shares.narrow(1, part, 1));
                    let _ = sum.addmm_(&p, &w.to_kind(h.kind()));
                }
                of(gradient).copy_(&(sum * weight));
            }
            start += rows;
        }
        (losses, gradient)
    })
}

/// softmax(h W^T) (N, V) of a part, and the log-sum-exp of its logits (N, 1).
fn softmax(h: &Tensor, w: &Tensor) -> (Tensor, Tensor) {
    let largest = |t: &Tensor| t.amax([1i64].as_slice(), true);
    let p = h.mm(&w.to_kind(h.kind()).tr());
    let logit = largest(&p);
    // In place: each row is read whole before it is written.
    let _ = p.internal_softmax_out(&p, 1, false);
    // ln p = logit - sum; the largest p is the one that no rounding to 0 can hit.
    let sum = logit - largest(&p).log();
    (p, sum)
}

/// The first of the largest logits of each row, (N) int64: greedy generation.
pub fn argmax(hidden: &Tensor, head: &Tensor) -> Tensor {
    no_grad(|| {
        if hidden.size()[0] == 0 {
            return Tensor::empty([0], (Kind::Int64, hidden.device()));
        }
        let head = head.to_kind(hidden.kind()).tr();
        let chunks = hidden.split(ROWS, 0);
        let best: Vec<Tensor> = chunks
            .iter()
            .map(|h| h.mm(&head).argmax(1, false))
            .collect();
        Tensor::cat(&best, 0)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// More rows and tokens than are taken at a time, against torch's own loss and its derivative; logits of some 300 show
    /// that nothing overflows and that an unlikely target has a finite loss.
    #[test]
    fn equals_torch() {
        let (n, c, v) = (ROWS + 5, 6, 2 * PART + 37);
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
