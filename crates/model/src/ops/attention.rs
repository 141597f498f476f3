//! Attention (arXiv 1706.03762) of sequences that lie end to end, each to itself, with grouped key heads (arXiv 2305.13245):
//! softmax(q k^T / sqrt(D)) v. (N, (H + 2 Hkv) D), queries before keys before values -> (N, H D).

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData, activation};
use sharelora_kernels::attention::{Heads, Span};

#[cfg(feature = "flex")]
use super::host;
#[cfg(feature = "libtorch")]
use super::torch::{self, TchTensor};
use super::{Kernels, bridge, kernels};
use crate::cache::{Cache, Slots};

/// Attention of each span to itself; `causal`: to what is not after it.
pub fn attention(qkv: Tensor<2>, heads: Heads, spans: &Arc<[Span]>, causal: bool) -> Tensor<2> {
    match kernels(&qkv.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => {
            let spans = spans.clone();
            let op = PackedAttention {
                heads,
                spans,
                causal,
            };
            bridge::apply::<burn::backend::Flex, _, 1>(op, [qkv])
        }
        #[cfg(feature = "libtorch")]
        Kernels::Torch => {
            let spans = spans.clone();
            let op = PackedAttention {
                heads,
                spans,
                causal,
            };
            bridge::apply::<burn::backend::LibTorch, _, 1>(op, [qkv])
        }
        Kernels::Composed => attention_composed(qkv, heads, spans, causal),
    }
}

/// [`attention`] of burn's primitives; the spans have to cover the rows in their order.
pub fn attention_composed(qkv: Tensor<2>, heads: Heads, spans: &[Span], causal: bool) -> Tensor<2> {
    let device = qkv.device().inner();
    let parts: Vec<Tensor<2>> = spans
        .iter()
        .filter(|s| s.len > 0)
        .map(|span| {
            let rows = qkv.clone().narrow(0, span.start, span.len);
            let (q, k, v) = split(rows, heads);
            let mask = causal.then(|| causal_mask(span.len, 0, &device));
            dense(q, k, v, heads, mask)
        })
        .collect();
    Tensor::cat(parts, 0)
}

/// (T, (H + 2 Hkv) D) -> q (T, H D), k and v (T, Hkv D)
fn split(qkv: Tensor<2>, heads: Heads) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let (q, k) = (heads.query * heads.size, heads.key * heads.size);
    (
        qkv.clone().narrow(1, 0, q),
        qkv.clone().narrow(1, q, k),
        qkv.narrow(1, q + k, k),
    )
}

/// 0 where query t, at position past + t, may look, a large negative number where not. (T, past + T)
fn causal_mask(length: usize, past: usize, device: &Device) -> Tensor<2> {
    let keys = past + length;
    let mut values = vec![-1e30f32; length * keys];
    for t in 0..length {
        values[t * keys..t * keys + past + t + 1].fill(0.0);
    }
    Tensor::from_data(TensorData::new(values, [length, keys]), device)
}

/// Queries (T, H D) over keys and values (S, Hkv D); mask (T, S). -> (T, H D)
fn dense(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: Heads,
    mask: Option<Tensor<2>>,
) -> Tensor<2> {
    let Heads { query, key, size } = heads;
    let ([t, _], [s, _]) = (q.dims(), k.dims());
    let scale = 1.0 / (size as f64).sqrt();
    // The queries of the heads that share a key head become one longer list of queries: (Hkv, G T, D)
    let q = q
        .mul_scalar(scale)
        .reshape([t, query, size])
        .swap_dims(0, 1)
        .reshape([key, query / key * t, size]);
    let k = k.reshape([s, key, size]).swap_dims(0, 1); // (Hkv, S, D)
    let v = v.reshape([s, key, size]).swap_dims(0, 1);
    let mut scores = q.matmul(k.swap_dims(1, 2)).reshape([query, t, s]);
    if let Some(mask) = mask {
        scores = scores + mask.unsqueeze();
    }
    let weights = activation::softmax(scores, 2).reshape([key, query / key * t, s]);
    let y = weights.matmul(v).reshape([query, t, size]);
    y.swap_dims(0, 1).reshape([t, query * size])
}

/// Attention of new tokens to themselves and to all that `cache` holds of their sequence, span i being row i of the cache; their keys
/// and values are stored. Causal, without gradients.
pub fn cached_attention(
    qkv: Tensor<2>,
    heads: Heads,
    spans: &[Span],
    cache: &mut Cache,
    layer: usize,
) -> Tensor<2> {
    let qkv = qkv.without_autodiff();
    let slots = cache.slots(layer, heads, &qkv.device());
    match slots {
        #[cfg(feature = "flex")]
        Slots::Host(keys, values, rows, capacity) => {
            use burn::backend::Flex;
            use sharelora_kernels::attention::{CachedRow, cached};
            let x = qkv.try_into_primitive::<Flex>();
            let x = host::dense(x.expect("the cache is the host's"));
            let [n, _] = host::dims(&x);
            let width = heads.query * heads.size;
            let mut out = host::buffer(n * width);
            let rows: Vec<CachedRow> = spans
                .iter()
                .zip(rows)
                .map(|(&span, row)| CachedRow {
                    span,
                    slot: row.slot,
                    past: row.length,
                })
                .collect();
            cached(
                host::slice(&x),
                heads,
                &rows,
                keys,
                values,
                capacity,
                &mut out,
            );
            Tensor::from_primitive::<Flex>(host::tensor(out, n, width))
        }
        Slots::Device(keys, values, rows) => {
            let device = qkv.device();
            let wide = heads.key * heads.size;
            let mut parts = Vec::new();
            // (slots, capacity, Hkv D), written in place: nothing else holds the buffers.
            let (mut k_all, mut v_all) = (take(keys), take(values));
            for (span, row) in spans.iter().zip(rows).filter(|(span, _)| span.len > 0) {
                let (q, k, v) = split(qkv.clone().narrow(0, span.start, span.len), heads);
                let end = row.length + span.len;
                let place = [row.slot..row.slot + 1, row.length..end, 0..wide];
                k_all = k_all.slice_assign(place.clone(), k.unsqueeze());
                v_all = v_all.slice_assign(place, v.unsqueeze());
                let all = |t: &Tensor<3>| {
                    let rows = t.clone().slice([row.slot..row.slot + 1, 0..end, 0..wide]);
                    rows.reshape([end, wide])
                };
                let mask = (span.len > 1).then(|| causal_mask(span.len, row.length, &device));
                parts.push(dense(q, all(&k_all), all(&v_all), heads, mask));
            }
            *keys = Some(k_all);
            *values = Some(v_all);
            Tensor::cat(parts, 0)
        }
    }
}

fn take(tensor: &mut Option<Tensor<3>>) -> Tensor<3> {
    tensor.take().expect("put back after each layer")
}

#[derive(Debug, Clone)]
struct PackedAttention {
    heads: Heads,
    spans: Arc<[Span]>,
    causal: bool,
}

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 1> for PackedAttention {
    /// qkv, the output, and the logarithm of each row's sum of exponentials.
    type Saved = (host::FlexTensor, host::FlexTensor, Vec<f32>);

    fn forward(&self, inputs: [host::FlexTensor; 1]) -> (host::FlexTensor, Self::Saved) {
        let [qkv] = inputs.map(host::dense);
        let [n, _] = host::dims(&qkv);
        let width = self.heads.query * self.heads.size;
        let mut out = host::buffer(n * width);
        let lse = sharelora_kernels::attention::forward(
            host::slice(&qkv),
            self.heads,
            &self.spans,
            self.causal,
            &mut out,
        );
        let out = host::tensor(out, n, width);
        (out.clone(), (qkv, out, lse))
    }

    fn backward(
        &self,
        (qkv, out, lse): Self::Saved,
        gradient: host::FlexTensor,
        _wanted: [bool; 1],
    ) -> [Option<host::FlexTensor>; 1] {
        let dout = host::dense(gradient);
        let [n, width] = host::dims(&qkv);
        let mut dqkv = host::buffer(n * width);
        sharelora_kernels::attention::backward(
            host::slice(&qkv),
            self.heads,
            &self.spans,
            self.causal,
            host::slice(&out),
            &lse,
            host::slice(&dout),
            &mut dqkv,
        );
        [Some(host::tensor(dqkv, n, width))]
    }
}

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 1> for PackedAttention {
    /// qkv, the output, and on a CPU the logarithm of each row's sum of exponentials.
    type Saved = (TchTensor, TchTensor, Option<TchTensor>);

    fn forward(&self, [qkv]: [TchTensor; 1]) -> (TchTensor, Self::Saved) {
        let (out, sums) =
            torch::attention::forward(&qkv.tensor, self.heads, &self.spans, self.causal);
        let out = TchTensor::new(out);
        (out.clone(), (qkv, out, sums.map(TchTensor::new)))
    }

    fn backward(
        &self,
        (qkv, out, sums): Self::Saved,
        dout: TchTensor,
        _wanted: [bool; 1],
    ) -> [Option<TchTensor>; 1] {
        let d = torch::attention::backward(
            &qkv.tensor,
            self.heads,
            &self.spans,
            self.causal,
            &out.tensor,
            sums.as_ref().map(|s| &s.tensor),
            &dout.tensor,
        );
        [Some(TchTensor::new(d))]
    }
}
