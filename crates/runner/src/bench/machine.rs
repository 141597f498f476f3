//! What this machine can do at most: the rates that every other measurement is held against.

use std::time::Instant;

use clap::builder::RangedU64ValueParser;
use rayon::prelude::*;
use serde::Serialize;
use sharelora_kernels::product::{View, multiply};

use crate::bench::rounded;
use crate::host;

/// The best of so many tries counts.
const TRIES: usize = 7;

#[derive(Debug, Clone, clap::Args)]
pub struct MachineArguments {
    /// Rows and columns of the matrices
    #[arg(long, default_value_t = 2048, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 14))]
    pub size: usize,
    /// Size of the copied memory in MiB; should be larger than every cache
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 14))]
    pub mib: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// This machine and its rates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: u64,
    /// Vector instructions that the arithmetic may use.
    pub flags: Vec<&'static str>,
    pub memory_gib: f64,
    pub os: String,
    /// Work that was waiting or running in the last minute, this measurement not included.
    pub load_average: Option<f64>,
    pub threads: usize,
    /// 10^9 floating-point operations a second of a square f32 product, on all threads and on one.
    pub gemm_gflops: f64,
    pub gemm_gflops_one_thread: f64,
    /// 10^9 bytes a second that a copy reads and writes, on all threads and on one.
    pub copy_gb_s: f64,
    pub copy_gb_s_one_thread: f64,
}

/// Measures the machine.
pub fn machine(arguments: &MachineArguments) -> Machine {
    let load_average = host::load_average();
    let threads = rayon::current_num_threads();
    let host = host::host();
    Machine {
        cpu: host.cpu,
        cores: host.cores,
        flags: flags(),
        memory_gib: rounded(host.memory_bytes as f64 / f64::from(1 << 30), 1),
        os: host.os,
        load_average,
        threads,
        gemm_gflops: rounded(gemm(arguments.size, threads), 1),
        gemm_gflops_one_thread: rounded(gemm(arguments.size, 1), 1),
        copy_gb_s: rounded(copy(arguments.mib << 20, threads), 1),
        copy_gb_s_one_thread: rounded(copy(arguments.mib << 20, 1), 1),
    }
}

/// 10^9 operations a second of an (n, n) x (n, n) product, its rows cut into one piece a thread.
fn gemm(n: usize, threads: usize) -> f64 {
    let values = |seed: usize| -> Vec<f32> {
        (0..n * n)
            .map(|i| ((i * 7919 + seed) % 23) as f32 / 11.0 - 1.0)
            .collect()
    };
    let (lhs, rhs) = (values(0), values(5));
    let mut out = vec![0f32; n * n];
    let rows = n.div_ceil(threads);
    let seconds = best(|| {
        out.par_chunks_mut(rows * n)
            .zip(lhs.par_chunks(rows * n))
            .for_each(|(out, lhs)| {
                let lhs = View::new(lhs, lhs.len() / n, n, n);
                multiply(out, n, lhs, View::new(&rhs, n, n, n), 1.0, 0.0);
            });
    });
    2.0 * (n as f64).powi(3) / seconds / 1e9
}

/// 10^9 bytes a second, read and written, of copying `bytes`.
fn copy(bytes: usize, threads: usize) -> f64 {
    let from = vec![1u8; bytes];
    // Written once, so that no page is asked for while the clock runs.
    let mut to = vec![2u8; bytes];
    let piece = bytes.div_ceil(threads);
    let seconds = best(|| {
        to.par_chunks_mut(piece)
            .zip(from.par_chunks(piece))
            .for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&to);
    });
    2.0 * bytes as f64 / seconds / 1e9
}

/// Seconds of the fastest of some tries, after one that warms up.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        let begun = Instant::now();
        work();
        least = least.min(begun.elapsed().as_secs_f64());
    }
    least
}

/// Those of the vector instructions in use here that the processor has.
fn flags() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&'static str, bool); 0] = [];
    known
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}
