//! Attention at the sizes of SmolLM2-135M; beside it the composed form that stores the scores, plainly written and on one thread.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sharelora_kernels::attention::{CachedRow, Heads, Span, backward, cached, forward};
use sharelora_kernels::product::{View, multiply};
use std::hint::black_box;

const HEADS: Heads = Heads {
    query: 9,
    key: 3,
    size: 64,
};
const WIDTH: usize = (9 + 2 * 3) * 64;
const OUT: usize = 9 * 64;

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0)
        .collect()
}

fn pack(lens: &[usize]) -> (Vec<Span>, usize) {
    let mut rows = 0;
    let spans = lens.iter().map(|&len| {
        rows += len;
        Span {
            start: rows - len,
            len,
        }
    });
    (spans.collect(), rows)
}

/// Scores, softmax and sum of one span after the other, the matrix of scores of all heads being kept for a backward pass.
fn composed(qkv: &[f32], spans: &[Span], out: &mut [f32]) -> Vec<Vec<f32>> {
    let mut kept = Vec::new();
    for span in spans {
        for head in 0..HEADS.query {
            let key = head / (HEADS.query / HEADS.key);
            let at = |column: usize| {
                let data = &qkv[span.start * WIDTH + column * HEADS.size..];
                View::new(data, span.len, HEADS.size, WIDTH)
            };
            let mut scores = vec![0.0; span.len * span.len];
            let k = at(HEADS.query + key).t();
            multiply(&mut scores, span.len, at(head), k, 0.125, 0.0);
            for (i, row) in scores.chunks_exact_mut(span.len).enumerate() {
                row[i + 1..].fill(f32::NEG_INFINITY);
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                row.iter_mut()
                    .for_each(|score| *score = (*score - max).exp());
                let total: f32 = row.iter().sum();
                row.iter_mut().for_each(|score| *score /= total);
            }
            let p = View::new(&scores, span.len, span.len, span.len);
            let v = at(HEADS.query + HEADS.key + key);
            let out = &mut out[span.start * OUT + head * HEADS.size..];
            multiply(out, OUT, p, v, 1.0, 0.0);
            kept.push(scores);
        }
    }
    kept
}

fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (name, lens) in [
        ("4x128", vec![128; 4]),
        ("8x100-350", vec![100, 135, 170, 210, 245, 280, 315, 350]),
        ("1x2048", vec![2048]),
    ] {
        let (spans, rows) = pack(&lens);
        let qkv = values(rows * WIDTH);
        let dout = values(rows * OUT);
        let mut out = vec![0.0; rows * OUT];
        let mut dqkv = vec![0.0; rows * WIDTH];
        group.bench_function(BenchmarkId::new("forward", name), |b| {
            b.iter(|| forward(black_box(&qkv), HEADS, &spans, true, &mut out));
        });
        let lse = forward(&qkv, HEADS, &spans, true, &mut out);
        group.bench_function(BenchmarkId::new("backward", name), |b| {
            b.iter(|| {
                let qkv = black_box(&qkv);
                backward(qkv, HEADS, &spans, true, &out, &lse, &dout, &mut dqkv);
            });
        });
        group.bench_function(BenchmarkId::new("composed forward", name), |b| {
            b.iter(|| composed(black_box(&qkv), &spans, &mut out));
        });
    }
    group.finish();
}

fn generation(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let (slots, capacity) = (32, 320);
    let mut keys = values(slots * capacity * HEADS.key * HEADS.size);
    let mut memory = keys.clone();
    for (name, len, past) in [
        ("decode 32 rows, past 300", 1, 300),
        ("prefill 32x300", 300, 0),
    ] {
        let (spans, rows) = pack(&vec![len; slots]);
        let step: Vec<CachedRow> = spans
            .into_iter()
            .enumerate()
            .map(|(slot, span)| CachedRow { span, slot, past })
            .collect();
        let qkv = values(rows * WIDTH);
        let mut out = vec![0.0; rows * OUT];
        group.bench_function(BenchmarkId::new("cached", name), |b| {
            b.iter(|| {
                let (keys, memory) = (&mut keys, &mut memory);
                cached(
                    black_box(&qkv),
                    HEADS,
                    &step,
                    keys,
                    memory,
                    capacity,
                    &mut out,
                );
            });
        });
    }
    group.finish();
}

criterion_group!(benches, training, generation);
criterion_main!(benches);
