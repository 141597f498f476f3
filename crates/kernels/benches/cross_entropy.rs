//! The loss of a training batch, its gradient, and greedy decoding, each next to the bare product that it contains.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use sharelora_kernels::cross_entropy;
use sharelora_kernels::matrix::{Format, Matrix};
use sharelora_kernels::product::{View, multiply};

/// SmolLM2-135M's head.
const V: usize = 49_152;
const C: usize = 576;

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5)
        .collect()
}

/// The roofline: the products of one pass (logits; with `gradient` also probabilities times head), nothing in between.
fn products(hidden: &[f32], head: &[f32], n: usize, gradient: bool, out: &mut [f32]) {
    const TILE: usize = 512;
    out.par_chunks_mut(n * TILE)
        .zip(head.par_chunks(TILE * C))
        .for_each_init(
            || vec![0.0; n * C],
            |sum, (logits, head)| {
                let rows = head.len() / C;
                let head = View::new(head, rows, C, C);
                multiply(logits, rows, View::new(hidden, n, C, C), head.t(), 1.0, 0.0);
                if gradient {
                    multiply(sum, C, View::new(logits, n, rows, rows), head, 1.0, 1.0);
                }
            },
        );
}

fn bench(criterion: &mut Criterion) {
    let head = Matrix::from_f32(V, C, values(V * C));
    let plain = head.values();
    let mut group = criterion.benchmark_group("cross_entropy");
    group.sample_size(10);
    for n in [1, 8, 32, 508, 900] {
        let hidden = values(n * C);
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 97 % V as u32).collect();
        let mut gradient = vec![0.0; n * C];
        let mut out = vec![0.0; n * V];
        let flops = (2 * n * C * V) as u64;
        group.throughput(Throughput::Elements(flops));
        let mut run = |name: &str, f: &mut dyn FnMut()| {
            group.bench_function(BenchmarkId::new(name, n), |bencher| bencher.iter(&mut *f));
        };
        run("product", &mut || {
            products(&hidden, &plain, n, false, &mut out)
        });
        run("argmax", &mut || {
            drop(cross_entropy::argmax(&hidden, &head))
        });
        run("forward", &mut || {
            drop(cross_entropy::forward(&hidden, &head, &targets, None))
        });
        group.throughput(Throughput::Elements(2 * flops));
        let mut run = |name: &str, head: &Matrix| {
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| {
                    cross_entropy::forward(&hidden, head, &targets, Some((&mut gradient, 1.0)))
                })
            });
        };
        if n >= 500 {
            run("gradient", &head);
            run("gradient_q8_0", &head.to_format(Format::Q8_0));
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
