//! The kernels that are bound by memory, with the copy bandwidth of the machine beside them: `copy` of as many bytes is
//! the time to aim at. Shapes of one layer of SmolLM2-135M at 512 tokens.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use sharelora_kernels::{activation, norm, rope};

const N: usize = 512;
const C: usize = 576;
const F: usize = 1536;
/// 9 query heads, 3 key heads and 3 value heads, of which RoPE turns 12.
const WIDTH: usize = 960;
const SIZE: usize = 64;

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919) % 2003) as f32 / 500.0 - 2.0)
        .collect()
}

fn elementwise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("elementwise");
    // Bytes that each kernel has to read and write.
    let mut bench = |name: &str, values: usize, kernel: &mut dyn FnMut()| {
        group.throughput(Throughput::Bytes(4 * values as u64));
        group.bench_function(name, |b| b.iter(&mut *kernel));
    };

    let (x, w, dy) = (values(N * C), values(C), values(N * C));
    let (mut y, mut dw, mut db) = (vec![0.0; N * C], vec![0.0; C], vec![0.0; C]);
    let inverse = norm::rms_forward(&x, C, &w, 1e-5, &mut y);
    bench("rms_forward", 2 * N * C, &mut || {
        norm::rms_forward(&x, C, &w, 1e-5, &mut y);
    });
    bench("rms_backward/dx", 3 * N * C, &mut || {
        norm::rms_backward(&x, C, &w, &inverse, &dy, Some(&mut y), None);
    });
    bench("rms_backward/dweight", 2 * N * C, &mut || {
        norm::rms_backward(&x, C, &w, &inverse, &dy, None, Some(&mut dw));
    });
    let (mean, inverse) = norm::layer_forward(&x, C, &w, &w, 1e-5, &mut y);
    bench("layer_forward", 2 * N * C, &mut || {
        norm::layer_forward(&x, C, &w, &w, 1e-5, &mut y);
    });
    bench("layer_backward/dx", 3 * N * C, &mut || {
        norm::layer_backward(&x, C, &w, &mean, &inverse, &dy, Some(&mut y), None, None);
    });
    bench("layer_backward/dweight and dbias", 4 * N * C, &mut || {
        let sums = (Some(&mut dw[..]), Some(&mut db[..]));
        norm::layer_backward(&x, C, &w, &mean, &inverse, &dy, None, sums.0, sums.1);
    });

    let mut qkv = values(N * WIDTH);
    let angles = (0..N * SIZE / 2).map(|i| i as f32);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
    bench("rope", 2 * N * 12 * SIZE, &mut || {
        rope::rotate(&mut qkv, WIDTH, 12, SIZE, &cos, &sin, false);
    });

    let (gate_up, dy) = (values(2 * N * F), values(N * F));
    let (mut y, mut dgate_up) = (vec![0.0; N * F], vec![0.0; 2 * N * F]);
    bench("swiglu_forward", 3 * N * F, &mut || {
        activation::swiglu_forward(&gate_up, F, &mut y);
    });
    bench("swiglu_backward", 5 * N * F, &mut || {
        activation::swiglu_backward(&gate_up, F, &dy, &mut dgate_up);
    });
    let x = values(N * F);
    bench("gelu_forward", 2 * N * F, &mut || {
        activation::gelu_forward(&x, &mut y);
    });
    bench("gelu_backward", 3 * N * F, &mut || {
        activation::gelu_backward(&x, &dy, &mut y);
    });
    bench("gelu_tanh_forward", 2 * N * F, &mut || {
        activation::gelu_tanh_forward(&x, &mut y);
    });
    bench("gelu_tanh_backward", 3 * N * F, &mut || {
        activation::gelu_tanh_backward(&x, &dy, &mut y);
    });
    group.finish();

    let mut group = criterion.benchmark_group("copy");
    // The second is larger than the caches.
    for values in [N * C, N * F, 1 << 26] {
        let (from, mut to) = (vec![1.0f32; values], vec![0.0f32; values]);
        group.throughput(Throughput::Bytes(8 * values as u64));
        group.bench_function(BenchmarkId::from_parameter(values), |b| {
            b.iter(|| {
                to.par_chunks_mut(1 << 14)
                    .zip(from.par_chunks(1 << 14))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = elementwise
}
criterion_main!(benches);
