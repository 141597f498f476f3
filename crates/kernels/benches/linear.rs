//! The projections of SmolLM2-135M beside the largest rate that `gemm` reaches in one big product on each thread: the roofline.
//!
//! Criterion prints multiply-adds a second; twice that is FLOP/s. `RAYON_NUM_THREADS` sets the threads.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use sharelora_kernels::linear::{Update, backward, forward};
use sharelora_kernels::matrix::{Format, Matrix};
use sharelora_kernels::product::{View, multiply};

/// (name, in, out of the projections that read it)
const SITES: [(&str, usize, &[usize]); 4] = [
    ("qkv", 576, &[576, 192, 192]),
    ("o", 576, &[576]),
    ("gate_up", 576, &[1536, 1536]),
    ("down", 1536, &[576]),
];

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0)
        .collect()
}

fn weights(input: usize, outs: &[usize], format: Format) -> Vec<Matrix> {
    let matrix = |&out: &usize| Matrix::from_f32(out, input, values(out * input)).to_format(format);
    outs.iter().map(matrix).collect()
}

fn roofline(c: &mut Criterion) {
    let (m, k, n) = (512, 576, 1536);
    let (a, b) = (values(m * k), values(k * n));
    let threads = rayon::current_num_threads();
    let mut out = vec![0.0; threads * m * n];
    let mut group = c.benchmark_group("roofline");
    group.throughput(Throughput::Elements((threads * m * k * n) as u64));
    group.bench_function(BenchmarkId::new("gemm on each thread", threads), |bench| {
        bench.iter(|| {
            out.par_chunks_mut(m * n).for_each(|out| {
                multiply(
                    out,
                    n,
                    View::new(&a, m, k, k),
                    View::new(&b, k, n, n),
                    1.0,
                    0.0,
                );
            });
            black_box(&out);
        })
    });
}

fn projections(c: &mut Criterion) {
    for (name, input, outs) in SITES {
        let out: usize = outs.iter().sum();
        let mut group = c.benchmark_group(name);
        for n in [1, 4, 32, 512, 1600] {
            let (x, dy) = (values(n * input), values(n * out));
            let (mut y, mut dx) = (vec![0.0; n * out], vec![0.0; n * input]);
            group.throughput(Throughput::Elements((n * input * out) as u64));
            for format in [Format::F32, Format::Bf16, Format::Q8_0, Format::Nf4] {
                let weights = weights(input, outs, format);
                let weights: Vec<&Matrix> = weights.iter().collect();
                let id = |pass: &str| BenchmarkId::new(format!("{pass} {format}"), n);
                group.bench_function(id("forward"), |bench| {
                    bench.iter(|| forward(black_box(&x), n, &weights, &[], &mut y))
                });
                group.bench_function(id("backward"), |bench| {
                    bench.iter(|| {
                        backward(None, n, black_box(&dy), &weights, &[], &[], Some(&mut dx))
                    })
                });
            }
            let (a, weights) = (values(8 * input), weights(input, outs, Format::F32));
            let weights: Vec<&Matrix> = weights.iter().collect();
            let bs: Vec<Vec<f32>> = outs.iter().map(|out| values(out * 8)).collect();
            let update = |(projection, b)| Update {
                projection,
                a: &a,
                b,
                rank: 8,
                scale: 2.0,
                mask: None,
            };
            let updates: Vec<Update> = bs
                .iter()
                .map(Vec::as_slice)
                .enumerate()
                .map(update)
                .collect();
            let lows = forward(&x, n, &weights, &updates, &mut y);
            group.bench_function(BenchmarkId::new("forward F32, rank 8", n), |bench| {
                bench.iter(|| forward(black_box(&x), n, &weights, &updates, &mut y))
            });
            group.bench_function(BenchmarkId::new("backward F32, rank 8", n), |bench| {
                bench.iter(|| {
                    let dy = black_box(&dy);
                    backward(Some(&x), n, dy, &weights, &updates, &lows, Some(&mut dx))
                })
            });
        }
    }
}

fn head(c: &mut Criterion) {
    let (vocabulary, width) = (49152, 576);
    let mut group = c.benchmark_group("head");
    for format in [Format::F32, Format::Bf16] {
        let head = &weights(width, &[vocabulary], format)[0];
        for n in [1, 4, 32] {
            let (x, mut y) = (values(n * width), vec![0.0; n * vocabulary]);
            group.throughput(Throughput::Elements((n * width * vocabulary) as u64));
            group.bench_function(BenchmarkId::new(format.to_string(), n), |bench| {
                bench.iter(|| forward(black_box(&x), n, &[head], &[], &mut y))
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(100))
        .measurement_time(std::time::Duration::from_millis(400));
    targets = roofline, projections, head
}
criterion_main!(benches);
