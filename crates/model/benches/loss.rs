//! Cross-entropy over a large vocabulary: the chunked surrogate against the composed path through autodiff, loss
//! and gradient with respect to the hidden states, both in one run. `cargo bench -p sharelora-model --bench loss`
//!
//! The work is two products of N x C x V, so 4 N C V floating-point operations; criterion prints them as elements.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sharelora_model::{Weight, cross_entropy};

/// SmolLM2's width and vocabulary, half a batch of GSM8K answers.
const N: usize = 512;
const C: usize = 576;
const V: usize = 49_152;

fn loss(criterion: &mut Criterion) {
    let device = Device::flex();
    device.seed(0);
    let hidden = Tensor::<2>::random([N, C], Distribution::Normal(0.0, 1.0), &device);
    let head = Tensor::<2>::random([V, C], Distribution::Normal(0.0, 0.02), &device);
    let frozen = Weight::Host(sharelora_kernels::matrix::Matrix::from_f32(
        V,
        C,
        head.to_data().try_to_vec().expect("a tensor of f32"),
    ));
    let targets: Vec<u32> = (0..N as u32).map(|i| i * 7919 % V as u32).collect();
    let leaf = || hidden.clone().autodiff().require_grad();

    let mut group = criterion.benchmark_group("cross_entropy");
    group.sample_size(10);
    group.throughput(Throughput::Elements((4 * N * C * V) as u64));
    group.bench_function("surrogate", |b| {
        b.iter(|| {
            let hidden = leaf();
            let loss = cross_entropy(&hidden, &frozen, &targets, Some(1.0), None);
            let mut gradients = loss.surrogate.map(|s| s.backward());
            gradients.as_mut().and_then(|g| hidden.grad_remove(g))
        });
    });
    group.bench_function("composed", |b| {
        let ids: Vec<i64> = targets.iter().map(|&t| i64::from(t)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [N, 1]), &device);
        b.iter(|| {
            let hidden = leaf();
            let logits = hidden.clone().matmul(head.clone().transpose());
            let loss = activation::log_softmax(logits, 1)
                .gather(1, ids.clone())
                .neg()
                .sum();
            hidden.grad_remove(&mut loss.backward())
        });
    });
    group.finish();
}

criterion_group!(benches, loss);
criterion_main!(benches);
