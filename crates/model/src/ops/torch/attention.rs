//! Scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1) of sequences laid end to end, with grouped
//! heads (Ainslie et al., arXiv 2305.13245); scores are scaled by 1/sqrt(D).
//!
//! On a CPU this is torch's flash attention, forward and backward. Elsewhere torch chooses the kernel, and the backward
//! pass is torch's own derivative of a second forward pass.

use sharelora_kernels::attention::{Heads, Span};
use tch::{Device, Kind, Tensor, no_grad, with_grad};

/// Neighbouring sequences of one length.
struct Batch {
    start: i64,
    count: i64,
    len: i64,
}

impl Batch {
    fn of(spans: &[Span]) -> Vec<Batch> {
        let mut out: Vec<Batch> = Vec::new();
        for span in spans.iter().filter(|span| span.len > 0) {
            let (start, len) = (span.start as i64, span.len as i64);
            match out.last_mut() {
                Some(b) if b.len == len && b.start + b.count * b.len == start => b.count += 1,
                _ => out.push(Batch {
                    start,
                    count: 1,
                    len,
                }),
            }
        }
        out
    }

    /// These rows of (N, heads D): a view (count, heads, len, D) of `heads` heads from `first` on.
    fn heads(&self, rows: &Tensor, size: i64, first: i64, heads: i64) -> Tensor {
        let rows = rows.narrow(0, self.start, self.count * self.len);
        let rows = rows.view([self.count, self.len, -1, size]);
        rows.narrow(2, first, heads).transpose(1, 2)
    }

    /// Queries, keys and values, or their gradients.
    fn split(&self, qkv: &Tensor, heads: Heads) -> [Tensor; 3] {
        let (query, key, size) = numbers(heads);
        [(0, query), (query, key), (query + key, key)]
            .map(|(first, n)| self.heads(qkv, size, first, n))
    }

    /// These rows of (N, H): a view (count, heads, len).
    fn sums(&self, rows: &Tensor) -> Tensor {
        let rows = rows.narrow(0, self.start, self.count * self.len);
        rows.view([self.count, self.len, -1]).transpose(1, 2)
    }
}

/// `qkv` (N, (H + 2 Hkv) D) -> out (N, H D) and, on a CPU, the log-sum-exp of the scaled scores (N, H). Rows of no span
/// are 0.
pub fn forward(
    qkv: &Tensor,
    heads: Heads,
    spans: &[Span],
    causal: bool,
) -> (Tensor, Option<Tensor>) {
    no_grad(|| {
        let qkv = &qkv.contiguous();
        let (query, _, size) = numbers(heads);
        let zeros = |width, kind| Tensor::zeros([qkv.size()[0], width], (kind, qkv.device()));
        let out = zeros(query * size, qkv.kind());
        let sums = (qkv.device() == Device::Cpu).then(|| zeros(query, Kind::Float));
        for batch in Batch::of(spans) {
            let [q, k, v] = batch.split(qkv, heads);
            let o = match &sums {
                None => own(&q, &k, &v, causal),
                Some(sums) => {
                    let (o, sum) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu::<
                        &Tensor,
                    >(&q, &k, &v, 0.0, causal, None, None);
                    batch.sums(sums).copy_(&sum);
                    o
                }
            };
            batch.heads(&out, size, 0, query).copy_(&o);
        }
        (out, sums)
    })
}

/// `out` and `sums` are what [`forward`] gave, `dout` (N, H D) -> the gradient of `qkv`.
pub fn backward(
    qkv: &Tensor,
    heads: Heads,
    spans: &[Span],
    causal: bool,
    out: &Tensor,
    sums: Option<&Tensor>,
    dout: &Tensor,
) -> Tensor {
    no_grad(|| {
        let (query, _, size) = numbers(heads);
        let (qkv, out, dout) = (&qkv.contiguous(), &out.contiguous(), &dout.contiguous());
        let d = qkv.zeros_like();
        for batch in Batch::of(spans) {
            let parts = batch.split(qkv, heads);
            let dout = batch.heads(dout, size, 0, query);
            let gradients = match sums {
                None => derivative(parts, &dout, causal),
                Some(sums) => {
                    let [q, k, v] = parts;
                    Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward::<&Tensor>(
                        &dout,
                        &q,
                        &k,
                        &v,
                        &batch.heads(out, size, 0, query),
                        &batch.sums(sums),
                        0.0,
                        causal,
                        None,
                        None,
                    )
                    .into()
                }
            };
            for (mut to, from) in batch.split(&d, heads).into_iter().zip(gradients) {
                to.copy_(&from);
            }
        }
        d
    })
}

/// Torch's own choice of kernel: (B, H, T, D), (B, Hkv, T, D) twice -> (B, H, T, D).
fn own(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Tensor {
    let grouped = q.size()[1] != k.size()[1];
    Tensor::scaled_dot_product_attention::<&Tensor>(q, k, v, None, 0.0, causal, None, grouped)
}

/// The gradients of [`own`] with respect to q, k and v.
fn derivative(inputs: [Tensor; 3], dout: &Tensor, causal: bool) -> [Tensor; 3] {
    with_grad(|| {
        let leaves = inputs.map(|t| t.detach().set_requires_grad(true));
        let out = own(&leaves[0], &leaves[1], &leaves[2], causal);
        let gradients =
            Tensor::run_backward(&[(out * dout).sum(None::<Kind>)], &leaves, false, false);
        gradients.try_into().expect("one for each leaf")
    })
}

fn numbers(heads: Heads) -> (i64, i64, i64) {
    (heads.query as i64, heads.key as i64, heads.size as i64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// Softmax of the scores, written out.
    fn plain(qkv: &Tensor, heads: Heads, spans: &[Span], causal: bool) -> Tensor {
        let (query, key, size) = numbers(heads);
        let mut rows = Vec::new();
        let mut at = 0;
        for span in spans {
            let (start, len) = (span.start as i64, span.len as i64);
            rows.push(Tensor::zeros(
                [start - at, query * size],
                (Kind::Float, Device::Cpu),
            ));
            at = start + len;
            let x = qkv
                .narrow(0, start, len)
                .reshape([len, -1, size])
                .transpose(0, 1);
            let repeat = |t: Tensor| t.repeat_interleave_self_int(query / key, 0, None);
            let (q, k, v) = (
                x.narrow(0, 0, query),
                repeat(x.narrow(0, query, key)),
                repeat(x.narrow(0, query + key, key)),
            );
            let mut scores = q.bmm(&k.transpose(1, 2)) / (size as f64).sqrt();
            if causal {
                let later = Tensor::ones([len, len], (Kind::Bool, Device::Cpu)).triu(1);
                scores = scores.masked_fill(&later, f64::NEG_INFINITY);
            }
            rows.push(
                scores
                    .softmax(2, None::<Kind>)
                    .bmm(&v)
                    .transpose(0, 1)
                    .reshape([len, query * size]),
            );
        }
        rows.push(Tensor::zeros(
            [qkv.size()[0] - at, query * size],
            (Kind::Float, Device::Cpu),
        ));
        Tensor::cat(&rows, 0)
    }

    /// Both ways of computing it (the second is what a GPU takes), grouped heads and not, sequences of equal and other
    /// lengths with rows of none between them.
    #[test]
    fn follows_the_formula() {
        let span = |start, len| Span { start, len };
        let spans = [
            span(0, 5),
            span(5, 5),
            span(12, 40),
            span(52, 1),
            span(53, 1),
        ];
        for heads in [
            Heads {
                query: 6,
                key: 2,
                size: 8,
            },
            Heads {
                query: 3,
                key: 3,
                size: 16,
            },
        ] {
            let (query, key, size) = numbers(heads);
            let qkv = random(&[56, (query + 2 * key) * size], 1);
            let dout = random(&[56, query * size], 2);
            for causal in [true, false] {
                let (expected, d) =
                    gradients(&[&qkv], &dout, |x| plain(&x[0], heads, &spans, causal));
                let (out, sums) = forward(&qkv, heads, &spans, causal);
                assert_close(&out, &expected, 1e-5);
                assert_close(
                    &backward(&qkv, heads, &spans, causal, &out, sums.as_ref(), &dout),
                    &d[0],
                    1e-5,
                );
                assert_close(
                    &backward(&qkv, heads, &spans, causal, &out, None, &dout),
                    &d[0],
                    1e-5,
                );
            }
        }
    }
}
