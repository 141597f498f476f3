//! Every operation with a hand-derived backward pass equals the same composed of the tensor library's primitives: values and
//! gradients. (That the kernels equal their formulas in double precision is tested beside them.)

mod common;

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use common::{distance, random, tensor, values};
use proptest::prelude::*;
use sharelora_adapters::{AdapterConfig, Bank, Dropout, Layout, Mask, Method, Scaling, Site};
use sharelora_kernels::attention::{Heads, Span};
use sharelora_kernels::matrix::{Format, Matrix};
use sharelora_model::Weight;
use sharelora_model::ops::{self, Rotary, Update};

fn leaf(n: usize, c: usize, seed: u64) -> Tensor<2> {
    tensor(random(n * c, seed), [n, c])
        .autodiff()
        .require_grad()
}

/// The output of `f`, and the gradient of `<output, random>` with respect to each input.
fn run(inputs: &[Tensor<2>], f: impl Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Vec<f32>> {
    let inputs: Vec<Tensor<2>> = inputs
        .iter()
        .map(|t| t.clone().without_autodiff().autodiff().require_grad())
        .collect();
    let y = f(&inputs);
    let [n, c] = y.dims();
    let grads = (y.clone() * tensor(random(n * c, 77), [n, c]))
        .sum()
        .backward();
    let mut all = vec![values(&y)];
    all.extend(inputs.iter().map(|x| values(&x.grad(&grads).unwrap())));
    all
}

fn same(
    inputs: &[Tensor<2>],
    ours: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    composed: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) -> Result<(), TestCaseError> {
    let (ours_found, expected) = (run(inputs, &ours), run(inputs, composed));
    for (i, (a, b)) in ours_found.iter().zip(&expected).enumerate() {
        prop_assert!(distance(b, a) < 2e-5, "{i}: {}", distance(b, a));
    }
    // Without autodiff, the same values.
    let plain: Vec<Tensor<2>> = inputs
        .iter()
        .map(|t| t.clone().without_autodiff())
        .collect();
    prop_assert_eq!(values(&ours(&plain)), ours_found[0].clone());
    Ok(())
}

/// Sequences of these lengths, end to end.
fn spans(lengths: &[usize]) -> Arc<[Span]> {
    let mut start = 0;
    lengths
        .iter()
        .map(|&len| {
            start += len;
            Span {
                start: start - len,
                len,
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn norms(n in 1usize..40, c in 2usize..70, seed in 0u64..1000) {
        let (x, w, b) = (leaf(n, c, seed), leaf(1, c, seed + 1), leaf(1, c, seed + 2));
        same(
            &[x.clone(), w.clone()],
            |t| ops::rms_norm(t[0].clone(), &t[1], 1e-5),
            |t| ops::rms_norm_composed(t[0].clone(), &t[1], 1e-5),
        )?;
        same(
            &[x, w, b],
            |t| ops::layer_norm(t[0].clone(), &t[1], &t[2], 1e-5),
            |t| ops::layer_norm_composed(t[0].clone(), &t[1], &t[2], 1e-5),
        )?;
    }

    #[test]
    fn activations(n in 1usize..40, f in 1usize..70, seed in 0u64..1000) {
        let x = leaf(n, 2 * f, seed) * 4.0;
        let one = [x];
        same(&one, |t| ops::swiglu(t[0].clone()), |t| ops::swiglu_composed(t[0].clone()))?;
        for approximate in [false, true] {
            same(
                &one,
                |t| ops::gelu(t[0].clone(), approximate),
                |t| ops::gelu_composed(t[0].clone(), approximate),
            )?;
        }
    }

    #[test]
    fn rotation(n in 1usize..40, heads in 1usize..5, rest in 0usize..9, half in 1usize..20, seed in 0u64..1000) {
        let positions: Vec<usize> = (0..n).map(|i| i * 3).collect();
        let frequencies: Vec<f64> = (0..half).map(|i| 100f64.powf(-(i as f64) / half as f64)).collect();
        let rotary = Rotary::new(&positions, &frequencies, &Device::flex());
        let x = leaf(n, heads * 2 * half + rest, seed);
        same(
            &[x],
            |t| ops::rope(t[0].clone(), heads, &rotary),
            |t| ops::rope_composed(t[0].clone(), heads, &rotary),
        )?;
    }

    #[test]
    fn packed_attention(lengths in prop::collection::vec(1usize..40, 1..5), key in 1usize..4, group in 1usize..4, size in 1usize..20, causal: bool, seed in 0u64..1000) {
        let heads = Heads { query: key * group, key, size };
        let n = lengths.iter().sum();
        let x = leaf(n, (key * group + 2 * key) * size, seed);
        let spans = spans(&lengths);
        same(
            &[x],
            |t| ops::attention(t[0].clone(), heads, &spans, causal),
            |t| ops::attention_composed(t[0].clone(), heads, &spans, causal),
        )?;
    }

    /// All three projections of one input with an update each, in every storage format, with and without dropout and bias.
    #[test]
    fn projections(n in 1usize..60, blocks in 1usize..3, rank in 1usize..10, which in 0usize..8, dropout: bool, format in 0usize..5, seed in 0u64..1000) {
        let inputs = 64 * blocks;
        let widths = [40, 24, 24];
        let format = [Format::F32, Format::Bf16, Format::F16, Format::Q8_0, Format::Nf4][format];
        let weights: Vec<Weight> = widths.iter().enumerate().map(|(i, &out)| {
            let values = random(out * inputs, seed + i as u64);
            Weight::Host(Matrix::from_f32(out, inputs, values).to_format(format))
        }).collect();
        let bank = bank(inputs, &widths, rank, if dropout { 0.3 } else { 0.0 });
        let mut tensors = vec![leaf(n, inputs, seed + 5)];
        let chosen: Vec<usize> = (0..3).filter(|i| which >> i & 1 == 1).collect();
        for &i in &chosen {
            tensors.push(leaf(rank, inputs, seed + 6 + i as u64));
            tensors.push(leaf(widths[i], rank, seed + 9 + i as u64));
        }
        let bias = || (seed % 2 == 0).then(|| tensor(random(88, seed + 20), [1, 88]));
        let updates = |t: &[Tensor<2>]| -> Vec<Update> {
            chosen.iter().enumerate().map(|(k, &projection)| Update {
                projection,
                a: t[1 + 2 * k].clone(),
                b: t[2 + 2 * k].clone(),
                scale: 0.7,
                mask: bank.mask(projection, Some(Dropout { seed: 3, pass: 2 })),
                gain: None,
            }).collect()
        };
        same(
            &tensors,
            |t| ops::linear(t[0].clone(), &weights, bias(), updates(t)),
            |t| ops::linear_composed(t[0].clone(), &weights, bias(), updates(t)),
        )?;
    }

    /// Full fine-tuning: the gradients of the weights and of their bias.
    #[test]
    fn trained_projections(n in 1usize..200, inputs in 1usize..40, widths in prop::collection::vec(1usize..40, 1..4), seed in 0u64..1000) {
        let mut tensors = vec![leaf(n, inputs, seed)];
        tensors.extend(widths.iter().zip(1..).map(|(&w, i)| leaf(w, inputs, seed + i)));
        let n = widths.len();
        tensors.push(leaf(1, widths.iter().sum(), seed + 9));
        let weights = |t: &[Tensor<2>]| -> Vec<Weight> { t[1..=n].iter().cloned().map(Weight::Tensor).collect() };
        let bias = |t: &[Tensor<2>]| Some(t[n + 1].clone());
        same(
            &tensors,
            |t| ops::linear(t[0].clone(), &weights(t), bias(t), Vec::new()),
            |t| ops::linear_composed(t[0].clone(), &weights(t), bias(t), Vec::new()),
        )?;
    }
}

/// Only for its dropout masks.
fn bank(inputs: usize, widths: &[usize], rank: usize, dropout: f64) -> Bank {
    let sites: Vec<Site> = widths
        .iter()
        .zip(["q_proj", "k_proj", "v_proj"])
        .map(|(&out_features, name)| Site {
            layer: 0,
            projection: name.into(),
            path: name.into(),
            in_features: inputs,
            out_features,
            part: None,
        })
        .collect();
    let config = AdapterConfig {
        rank,
        alpha: 1.0,
        dropout,
        targets: vec!["q_proj".into(), "k_proj".into(), "v_proj".into()],
        scaling: Scaling::Standard,
        init: Default::default(),
    };
    let method = Method::named("lora").unwrap();
    let layout = Layout::new(&sites, method.sharing().unwrap(), &config).unwrap();
    Bank::init(Arc::new(layout), 0, &Device::flex(), &|_| Vec::new())
}

/// LoRA-FA keeps no input for A's gradient: those of x and B are the same without it, dropout or not.
#[test]
fn a_frozen_a_changes_no_other_gradient() {
    let weight = [Weight::Host(Matrix::from_f32(4, 3, random(12, 1)))];
    let mask = bank(3, &[4, 4, 4], 2, 0.3).mask(0, Some(Dropout { seed: 3, pass: 2 }));
    let gradients = |trained: bool, mask: Option<Mask>| {
        let (x, b) = (leaf(5, 3, 4), leaf(4, 2, 3));
        let a = match trained {
            true => leaf(2, 3, 2),
            false => tensor(random(6, 2), [2, 3]),
        };
        let update = Update {
            projection: 0,
            a: a.clone(),
            b: b.clone(),
            scale: 0.7,
            mask,
            gain: None,
        };
        let y = ops::linear(x.clone(), &weight, None, vec![update]);
        let grads = y.square().sum().backward();
        assert_eq!(a.grad(&grads).is_some(), trained);
        [x, b].map(|t| values(&t.grad(&grads).unwrap()))
    };
    for mask in [None, mask] {
        assert_eq!(gradients(true, mask.clone()), gradients(false, mask));
    }
}

/// What no gradient is wanted of gets none: the lowest adapted projection's input is not differentiated.
#[test]
fn an_untracked_input_is_a_constant() {
    let weight = [Weight::Host(Matrix::from_f32(4, 3, random(12, 1)))];
    let (a, b) = (leaf(2, 3, 2), leaf(4, 2, 3));
    let x = tensor(random(15, 4), [5, 3]);
    let update = Update {
        projection: 0,
        a: a.clone(),
        b: b.clone(),
        scale: 1.0,
        mask: None,
        gain: None,
    };
    let y = ops::linear(x, &weight, None, vec![update]);
    assert!(y.is_tracked());
    let grads = y.sum().backward();
    assert!(a.grad(&grads).is_some() && b.grad(&grads).is_some());
    let plain = ops::linear(tensor(random(15, 4), [5, 3]), &weight, None, Vec::new());
    assert!(!plain.is_tracked());
}
