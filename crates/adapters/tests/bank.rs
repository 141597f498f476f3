//! The matrices: their initial values, their sharing under autodiff, their effect on activations and weights.

mod common;

use burn::tensor::{Device, Tensor};
use common::{config, distance, init, layout, random, random_bank, sharing, sites, tensor, values};
use proptest::prelude::*;
use sharelora_adapters::{AdapterConfig, Bank, Dropout, Scaling, merge, unmerge};

/// `A ~ U(-1/sqrt(in), 1/sqrt(in))`: within the bound, close to it, and with a uniform's variance; `B = 0`, so
/// that training starts at the base model.
#[test]
fn initial_values_are_kaiming_uniform_and_zero() {
    let layout = layout(
        &sites(2, &[("q_proj", 400, 30)]),
        &sharing("lora"),
        &config(16),
    );
    let bank = init(&layout, 7);
    for (matrix, values) in layout.matrices().zip(bank.values()) {
        if matrix.name.ends_with(".b") {
            assert!(values.iter().all(|v| *v == 0.0), "{}", matrix.name);
            continue;
        }
        let bound = 1.0 / 400f32.sqrt();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(
            largest <= bound && largest > 0.999 * bound,
            "{largest} {bound}"
        );
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / n;
        // Five standard errors of each.
        assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{mean}");
        assert!(
            (3.0 * variance / (bound * bound) - 1.0).abs() < 5.0 * (0.8 / n).sqrt(),
            "{variance}"
        );
    }
    let other = init(&layout, 8);
    assert_ne!(bank.values()[0], other.values()[0]);
    assert_ne!(
        bank.values()[0],
        bank.values()[1],
        "each layer has values of its own"
    );
}

/// The paper shares the matrix of layer 0, so methods of one seed start from the same A there.
#[test]
fn a_shared_a_starts_as_layer_zeros() {
    let sites = sites(4, &[("q_proj", 24, 24), ("v_proj", 24, 12)]);
    let bank = |method| init(&layout(&sites, &sharing(method), &config(4)), 3);
    let (lora, share_a, share_ab) = (bank("lora"), bank("share_a"), bank("share_ab"));
    for site in 0..sites.len() {
        let first = values(lora.site(site % 2).0);
        assert_eq!(values(share_a.site(site).0), first);
        assert_eq!(values(share_ab.site(site).0), first);
    }
}

/// A toy network in which every layer depends on the one before. Returns the gradients of its matrices.
fn toy_gradients(bank: &mut Bank, x: &Tensor<2>, weight: &Tensor<2>) -> (Vec<Tensor<2>>, bool) {
    for matrix in bank.trained_mut() {
        *matrix = matrix.clone().autodiff().require_grad();
    }
    let layers = bank.layout().sites.len();
    // Under autodiff but frozen.
    let weight = weight.clone().autodiff();
    let mut h = x.clone();
    for layer in 0..layers {
        let y = h.clone().matmul(weight.clone().transpose());
        h = (y + bank.update(layer, "q_proj", &h, None).unwrap()).tanh();
    }
    let grads = h.square().sum().backward();
    let list = bank
        .matrices()
        .iter()
        .map(|m| m.grad(&grads).unwrap())
        .collect();
    (list, weight.grad(&grads).is_none())
}

/// A shared matrix is one tensor: its gradient is the sum of what LoRA's copies of equal value get, it is one
/// entry of the optimizer's list, and what the optimizer writes there is seen at every site.
#[test]
fn a_shared_matrix_is_one_tensor() {
    const LAYERS: usize = 4;
    let sites = sites(LAYERS, &[("q_proj", 6, 6)]);
    let (x, weight) = (tensor(random(18, 1), [3, 6]), tensor(random(36, 2), [6, 6]));
    for method in ["share_a", "share_b", "share_ab"] {
        let layout_shared = layout(&sites, &sharing(method), &config(2));
        let mut shared = random_bank(&layout_shared, 5);
        // LoRA with the values of the shared bank at each site.
        let slots = &layout_shared.slots;
        let held = shared.values();
        let copies = slots
            .iter()
            .map(|s| held[s.a].clone())
            .chain(
                slots
                    .iter()
                    .map(|s| held[layout_shared.a.len() + s.b].clone()),
            )
            .collect();
        let layout_lora = layout(&sites, &sharing("lora"), &config(2));
        let mut lora = Bank::from_values(layout_lora, copies, &Device::flex()).unwrap();

        let (grads, frozen) = toy_gradients(&mut shared, &x, &weight);
        assert!(frozen, "a frozen weight got a gradient");
        let (per_layer, _) = toy_gradients(&mut lora, &x, &weight);
        assert_eq!(grads.len(), layout_shared.matrices().count());
        let mut summed: Vec<Option<Tensor<2>>> = vec![None; grads.len()];
        for (site, slot) in slots.iter().enumerate() {
            for (i, g) in [
                (slot.a, site),
                (layout_shared.a.len() + slot.b, LAYERS + site),
            ] {
                let g = per_layer[g].clone();
                summed[i] = Some(match summed[i].take() {
                    Some(sum) => sum + g,
                    None => g,
                });
            }
        }
        for (grad, sum) in grads.iter().zip(&summed) {
            let (grad, sum) = (values(grad), values(sum.as_ref().unwrap()));
            assert!(
                grad.iter().any(|v| v.abs() > 1e-3),
                "{method}: a gradient of nothing"
            );
            assert!(
                distance(&sum, &grad) < 1e-5,
                "{method}: {}",
                distance(&sum, &grad)
            );
        }

        // A step of plain gradient descent, in the way that the optimizer writes.
        for (matrix, grad) in shared.trained_mut().into_iter().zip(grads) {
            *matrix = matrix.clone().without_autodiff() - grad.mul_scalar(0.1);
        }
        let now = shared.values();
        for (site, slot) in slots.iter().enumerate() {
            let (a, b) = shared.site(site);
            assert_eq!(values(a), now[slot.a]);
            assert_eq!(values(b), now[layout_shared.a.len() + slot.b]);
        }
        assert_ne!(now[0], held[0]);
    }
}

/// `x (s B A)^T` in double precision.
fn reference(
    x: &[f32],
    a: &[f32],
    b: &[f32],
    [t, rank, inputs, outputs]: [usize; 4],
    scale: f64,
) -> Vec<f32> {
    let mut y = Vec::with_capacity(t * outputs);
    for row in x.chunks(inputs) {
        for out in 0..outputs {
            let mut sum = 0.0;
            for r in 0..rank {
                let low: f64 = (0..inputs)
                    .map(|i| f64::from(row[i]) * f64::from(a[r * inputs + i]))
                    .sum();
                sum += low * f64::from(b[out * rank + r]);
            }
            y.push((scale * sum) as f32);
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The update by activations is the update of the weight, and a merge can be undone.
    #[test]
    fn update_and_merge_are_the_same_map(
        t in 1usize..6,
        inputs in 1usize..20,
        outputs in 1usize..20,
        rank in 1usize..9,
        alpha in 0.5f64..32.0,
        rslora: bool,
        seed in 0u64..1000,
    ) {
        let scaling = if rslora { Scaling::Rslora } else { Scaling::Standard };
        let config = AdapterConfig { alpha, scaling, ..config(rank) };
        let scale = alpha / if rslora { (rank as f64).sqrt() } else { rank as f64 };
        let layout = layout(&sites(2, &[("q_proj", inputs, outputs)]), &sharing("share_a"), &config);
        let bank = random_bank(&layout, seed);
        let x = tensor(random(t * inputs, seed + 1), [t, inputs]);
        let (a, b) = bank.site(1);
        let expected = reference(&values(&x), &values(a), &values(b), [t, rank, inputs, outputs], scale);
        let update = bank.update(1, "q_proj", &x, None).unwrap();
        prop_assert_eq!(update.dims(), [t, outputs]);
        prop_assert!(distance(&expected, &values(&update)) < 1e-5);

        let weight = tensor(random(outputs * inputs, seed + 2), [outputs, inputs]);
        let plain = x.clone().matmul(weight.clone().transpose());
        let merged = merge(&bank, 1, weight.clone());
        let through = x.matmul(merged.clone().transpose());
        prop_assert!(distance(&values(&(plain + update)), &values(&through)) < 1e-5);
        // Rounding is in proportion to the merged values.
        let back = unmerge(&bank, 1, merged.clone()).unwrap();
        let largest = values(&merged).iter().fold(1f32, |m, v| m.max(v.abs()));
        for (before, after) in values(&weight).iter().zip(values(&back)) {
            prop_assert!((before - after).abs() <= 1e-6 * largest, "{} {}", before, after);
        }
    }
}

#[test]
fn rslora_divides_by_the_root_of_the_rank() {
    let scale = |scaling| {
        AdapterConfig {
            alpha: 16.0,
            scaling,
            ..config(64)
        }
        .scale()
    };
    assert_eq!(scale(Scaling::Standard), 0.25);
    assert_eq!(scale(Scaling::Rslora), 2.0);
}

#[test]
fn only_adapted_sites_have_an_update() {
    let sites = sites(2, &[("q_proj", 4, 4), ("k_proj", 4, 4)]);
    let config = AdapterConfig {
        targets: vec!["q_proj".into()],
        ..config(2)
    };
    let bank = random_bank(&layout(&sites, &sharing("lora"), &config), 1);
    let x = tensor(random(4, 1), [1, 4]);
    assert!(bank.update(1, "q_proj", &x, None).is_some());
    assert!(bank.update(1, "k_proj", &x, None).is_none());
    assert!(bank.update(2, "q_proj", &x, None).is_none());
}

/// With A = B = 1 and a scale of 1 the update of a matrix of ones is the mask itself.
fn mask(p: f64, layer: usize, dropout: Option<Dropout>) -> Vec<f32> {
    const WIDTH: usize = 64;
    let config = AdapterConfig {
        alpha: WIDTH as f64,
        dropout: p,
        ..config(WIDTH)
    };
    let layout = layout(
        &sites(2, &[("q_proj", WIDTH, WIDTH)]),
        &sharing("share_ab"),
        &config,
    );
    let one: Vec<f32> = (0..WIDTH * WIDTH)
        .map(|i| f32::from(i % (WIDTH + 1) == 0))
        .collect();
    let bank = Bank::from_values(layout, vec![one.clone(), one], &Device::flex()).unwrap();
    let x = tensor(vec![1.0; 300 * WIDTH], [300, WIDTH]);
    values(&bank.update(layer, "q_proj", &x, dropout).unwrap())
}

/// Masks are a function of the seed, the pass and the site, so that a resumed run draws the same; they keep the
/// mean; without dropout, or in evaluation, nothing is changed.
#[test]
fn dropout_masks_are_reproducible_and_unbiased() {
    let pass = |seed, pass| Some(Dropout { seed, pass });
    let p = 0.1;
    let first = mask(p, 0, pass(1, 0));
    assert_eq!(first, mask(p, 0, pass(1, 0)));
    assert_ne!(first, mask(p, 0, pass(1, 1)), "another pass");
    assert_ne!(first, mask(p, 0, pass(2, 0)), "another seed");
    assert_ne!(first, mask(p, 1, pass(1, 0)), "another layer");
    let (one, two) = (&first[..64], &first[64..128]);
    assert_ne!(one, two, "another row");

    let keep = (1.0 / (1.0 - p)) as f32;
    assert!(first.iter().all(|v| *v == 0.0 || *v == keep));
    let n = first.len() as f64;
    let mean = first.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    // Five standard errors.
    assert!(
        (mean - 1.0).abs() < 5.0 * (p / (1.0 - p) / n).sqrt(),
        "{mean}"
    );

    assert!(mask(0.0, 0, pass(1, 0)).iter().all(|v| *v == 1.0));
    assert!(mask(p, 0, None).iter().all(|v| *v == 1.0));
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let layout = layout(&sites(1, &[("q_proj", 4, 3)]), &sharing("lora"), &config(2));
    let message = |values| {
        Bank::from_values(layout.clone(), values, &Device::flex())
            .err()
            .unwrap()
            .to_string()
    };
    assert!(message(vec![vec![0.0; 8]]).contains("1 matrices given, the layout has 2"));
    assert!(message(vec![vec![0.0; 8], vec![0.0; 7]]).contains("`layers.0.q_proj.b`"));
}
