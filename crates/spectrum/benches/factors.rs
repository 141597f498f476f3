//! Singular values of `s B A` from the factors against those of the dense matrix, at LLaMA-7B's shapes, both by faer in f64 on one
//! thread.
//!
//! The factors are sampled by criterion. A dense SVD of these shapes takes minutes, so criterion samples it at 1024 x 1024, and
//! at the real shapes it is timed once, behind the samples; the ratio of each shape and rank is printed at the end, with how far
//! the two spectra are apart.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use faer::Mat;
use sharelora_spectrum::{Factors, singular_values};

/// (out, in) of LLaMA-7B's attention and of its gate and up projections.
const SHAPES: [[usize; 2]; 2] = [[4096, 4096], [11008, 4096]];
const RANKS: [usize; 3] = [8, 16, 64];

/// Values between -0.5 and 0.5 from a counter: the time depends on the sizes alone.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mixed = |i: u64| (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..n as u64)
        .map(|i| mixed(i) as f32 / (1u64 << 24) as f32 - 0.5)
        .collect()
}

struct Update {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    shape: [usize; 2],
}

impl Update {
    fn new([outputs, inputs]: [usize; 2], rank: usize) -> Self {
        Self {
            a: values(rank * inputs, 1),
            b: values(outputs * rank, 2),
            rank,
            shape: [outputs, inputs],
        }
    }

    fn spectrum(&self) -> Vec<f64> {
        let factors = Factors::new(&self.a, &self.b, self.rank, self.shape, 2.0).unwrap();
        singular_values(&factors).unwrap()
    }

    /// `s B A`
    fn dense(&self) -> Mat<f64> {
        let [outputs, inputs] = self.shape;
        let b = Mat::from_fn(outputs, self.rank, |i, k| {
            f64::from(self.b[i * self.rank + k])
        });
        let a = Mat::from_fn(self.rank, inputs, |k, j| f64::from(self.a[k * inputs + j]));
        b * a * faer::Scale(2.0)
    }
}

/// Seconds of one call, the mean over `time` of calls: what else the machine does falls on these as on one long call.
fn mean(time: Duration, mut call: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < time {
        call();
        calls += 1;
    }
    begun.elapsed().as_secs_f64() / f64::from(calls)
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("factors");
    for shape in SHAPES {
        for rank in RANKS {
            let update = Update::new(shape, rank);
            let id = BenchmarkId::new(format!("{}x{}", shape[0], shape[1]), format!("r{rank}"));
            group.bench_function(id, |b| b.iter(|| black_box(&update).spectrum()));
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("dense");
    let dense = Update::new([1024, 1024], 8).dense();
    group.bench_function("1024x1024", |b| {
        b.iter(|| black_box(&dense).singular_values())
    });
    group.finish();
    criterion.final_summary();

    // `cargo test --benches` asks only whether everything runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for shape in SHAPES {
        let update = Update::new(shape, 8);
        let dense = update.dense();
        let begun = Instant::now();
        let expected = dense.singular_values().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let found = update.spectrum();
        let apart = found
            .iter()
            .zip(&expected)
            .map(|(f, e)| (f / e - 1.0).abs());
        let apart = apart.fold(0.0, f64::max);
        println!(
            "\n{}x{}: dense, once: {seconds:.1} s; r 8 within {apart:.1e} relative",
            shape[0], shape[1]
        );
        for rank in RANKS {
            let update = Update::new(shape, rank);
            let factors = mean(Duration::from_secs(2), || {
                black_box(update.spectrum());
            });
            println!(
                "  r {rank}: factors {:.2} ms, {:.0} times as fast",
                factors * 1e3,
                seconds / factors
            );
        }
    }
}
