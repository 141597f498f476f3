//! The baselines beside LoRA and ShareLoRA: what is frozen, how many parameters are trained, initial values, DoRA's norms, and
//! which settings exclude each other.

mod common;

use common::{
    Projection, config, custom, distance, init, layout, random, random_bank, sharing, sites,
    tensor, values,
};
use proptest::prelude::*;
use serde_json::json;
use sharelora_adapters::{
    AdapterConfig, Bank, Init, Layout, Method, Scaling, Sharing, delta, merge, unmerge,
};

const BLOCK: [Projection<'static>; 3] =
    [("q_proj", 10, 12), ("k_proj", 10, 6), ("down_proj", 14, 10)];

fn with_init(rank: usize, init: Init) -> AdapterConfig {
    AdapterConfig {
        init,
        ..config(rank)
    }
}

/// The weight of a site of [`BLOCK`], the same at every call.
fn weight(site: &sharelora_adapters::Site) -> Vec<f32> {
    let seed = site.path.bytes().map(u64::from).sum();
    random(site.in_features * site.out_features, seed)
}

fn beside(sharing: &Sharing, config: &AdapterConfig, seed: u64) -> Bank {
    let layout = layout(&sites(3, &BLOCK), sharing, config);
    Bank::init(layout, seed, &burn::tensor::Device::flex(), &weight)
}

/// By hand, in LLaMA-7B with r 64: LoRA-FA trains B alone, ShareA with a frozen A the same B, DoRA one number for each
/// output beside LoRA's, rsLoRA as many as LoRA.
#[test]
fn baselines_train_what_their_papers_say() {
    let seven: [Projection<'_>; 7] = [
        ("q_proj", 4096, 4096),
        ("k_proj", 4096, 4096),
        ("v_proj", 4096, 4096),
        ("o_proj", 4096, 4096),
        ("gate_proj", 4096, 11_008),
        ("up_proj", 4096, 11_008),
        ("down_proj", 11_008, 4096),
    ];
    let sites = sites(32, &seven);
    let count = |method: &str| layout(&sites, &sharing(method), &config(64)).trainable_parameters();
    let outputs: u64 = 32 * (5 * 4096 + 2 * 11_008);
    assert_eq!(count("lora_fa"), 64 * outputs);
    assert_eq!(count("share_a_frozen"), 64 * outputs);
    assert_eq!(count("rslora"), count("lora"));
    assert_eq!(count("dora"), count("lora") + outputs);
    assert_eq!(count("vera"), outputs + 32 * 7 * 64);
    // Its file has the frozen A and B as well, each once.
    let vera = layout(&sites, &sharing("vera"), &config(64));
    let frozen = 2 * 64 * 11_008;
    assert_eq!(vera.adapter_bytes(), 4 * (count("vera") + frozen));
    assert_eq!((vera.a.len(), vera.b.len()), (1, 1));
}

proptest! {
    /// VeRA, arXiv 2310.11454, section 3.2: `L (d_out + r)` for every adapted projection, whatever their widths.
    #[test]
    fn vera_trains_a_rank_and_an_output_for_each_site(
        layers in 1usize..5,
        rank in 1usize..9,
        widths in prop::collection::vec((1usize..30, 1usize..30), 1..5),
    ) {
        let names = ["q_proj", "k_proj", "v_proj", "o_proj"];
        let block: Vec<Projection<'_>> = names.iter().zip(&widths).map(|(n, w)| (*n, w.0, w.1)).collect();
        let vera = layout(&sites(layers, &block), &sharing("vera"), &config(rank));
        let by_hand: usize = layers * widths.iter().map(|w| w.1 + rank).sum::<usize>();
        prop_assert_eq!(vera.trainable_parameters(), by_hand as u64);
        let widest = [widths.iter().map(|w| w.0).max().unwrap(), widths.iter().map(|w| w.1).max().unwrap()];
        prop_assert_eq!(vera.a[0].shape, [rank, widest[0]]);
        prop_assert_eq!(vera.b[0].shape, [widest[1], rank]);
    }

    /// DoRA's factor without a matrix of the weight's size against the norms of `W + s B A`, for every sharing of A and B.
    #[test]
    fn doras_norms_are_those_of_the_dense_weight(
        method in prop::sample::select(vec!["lora", "share_a", "share_ab", "lora_fa", "vera"]),
        rank in 1usize..5,
        seed in 0u64..1000,
    ) {
        let sharing = Sharing { magnitude: true, ..sharing(method) };
        let layout = layout(&sites(3, &BLOCK), &sharing, &config(rank));
        let bank = random_bank(&layout, seed);
        for (index, site) in layout.sites.iter().enumerate() {
            let shape = [site.out_features, site.in_features];
            let dense = tensor(weight(site), shape);
            let squares = || dense.clone().square().sum_dim(1).transpose();
            let product = |a: burn::tensor::Tensor<2>| a.matmul(dense.clone().transpose());
            let gain = bank.gain(index, squares, product).unwrap();
            let merged = dense.clone() + delta(&bank, index);
            let norms = merged.clone().square().sum_dim(1).sqrt().transpose();
            let at = layout.extra(index, sharelora_adapters::Extra::Magnitude).unwrap();
            let expected = bank.matrices()[at].clone() / norms;
            prop_assert!(distance(&values(&expected), &values(&gain)) < 1e-5);
            // A merge is that factor times the merged rows.
            let rows = merged * gain.transpose();
            let found = merge(&bank, index, dense);
            prop_assert!(distance(&values(&rows), &values(&found)) < 1e-5);
            prop_assert!(unmerge(&bank, index, found).is_err());
        }
    }

    /// PiSSA, arXiv 2404.02948: `s B A` is the best approximation of W of rank r, so what is left of W has no direction in which
    /// it is longer than the next singular value, and is orthogonal to A and B; the update is 0.
    #[test]
    fn pissa_takes_the_largest_singular_values(rank in 1usize..6, rslora: bool, seed in 0u64..100) {
        let scaling = if rslora { Scaling::Rslora } else { Scaling::Standard };
        let config = AdapterConfig { scaling, ..with_init(rank, Init::Pissa) };
        let bank = beside(&sharing("lora"), &config, seed);
        for (index, site) in bank.layout().sites.iter().enumerate() {
            let [out, into] = [site.out_features, site.in_features];
            let (a, b) = bank.site(index);
            let principal = b.clone().matmul(a.clone()).mul_scalar(bank.layout().scale());
            let rest = tensor(weight(site), [out, into]) - principal.clone();
            let zero = vec![0.0; rank * rank.max(out).max(into)];
            let left = values(&rest.clone().matmul(a.clone().transpose()));
            prop_assert!(distance(&left, &zero[..out * rank]) < 1e-4);
            let right = values(&b.clone().transpose().matmul(rest.clone()));
            prop_assert!(distance(&right, &zero[..rank * into]) < 1e-4);
            let matrix = |t: &burn::tensor::Tensor<2>| {
                let values = values(t);
                faer::Mat::from_fn(out, into, |i, j| f64::from(values[i * into + j]))
            };
            let next = matrix(&rest).singular_values().unwrap()[0];
            let last = matrix(&principal).singular_values().unwrap()[rank - 1];
            prop_assert!(next <= last * (1.0 + 1e-5), "{} {}", next, last);
            let update = values(&delta(&bank, index));
            prop_assert!(distance(&update, &vec![0.0; out * into]) < 1e-5);
        }
    }

    /// PEFT's `orthogonal`: neither A nor B is 0, and `B A` is, under any sharing.
    #[test]
    fn orthogonal_matrices_cancel(
        method in prop::sample::select(vec!["lora", "share_a", "share_b", "share_ab", "lora_fa"]),
        half in 1usize..5,
        seed in 0u64..100,
    ) {
        let bank = beside(&sharing(method), &with_init(2 * half, Init::Orthogonal), seed);
        for index in 0..bank.layout().sites.len() {
            let (a, b) = bank.site(index);
            prop_assert!(values(a).iter().chain(&values(b)).all(|v| *v != 0.0));
            let update = values(&delta(&bank, index));
            prop_assert!(update.iter().all(|v| v.abs() < 1e-5));
        }
    }
}

/// PEFT's `gaussian`: A has mean 0 and deviation 1 / r whatever its width, B is 0.
#[test]
fn gaussian_values_have_the_deviation_of_one_over_the_rank() {
    let config = with_init(8, Init::Gaussian);
    let layout = layout(&sites(1, &[("q_proj", 5000, 3)]), &sharing("lora"), &config);
    let all = init(&layout, 7).values();
    assert!(all[1].iter().all(|v| *v == 0.0));
    let n = all[0].len() as f64;
    let mean = all[0].iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = all[0].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
    // Five standard errors of each.
    assert!(mean.abs() < 5.0 / 8.0 / n.sqrt(), "{mean}");
    assert!(
        (64.0 * variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
        "{variance}"
    );
}

/// PEFT's VeRA: A and B are `U(-sqrt(6 / n), sqrt(6 / n))` with n their columns, d is 0.1, b is 0; so nothing is changed at first.
#[test]
fn vera_starts_as_peft_starts_it() {
    let layout = layout(
        &sites(2, &[("q_proj", 300, 400)]),
        &sharing("vera"),
        &config(50),
    );
    let bank = init(&layout, 3);
    let all = bank.values();
    for (list, columns) in [(&all[0], 300f32), (&all[1], 50.0)] {
        let bound = (6.0 / columns).sqrt();
        let largest = list.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(
            largest <= bound && largest > 0.99 * bound,
            "{largest} {bound}"
        );
    }
    assert!(all[2].iter().all(|v| *v == 0.1) && all[3].iter().all(|v| *v == 0.0));
    assert!(values(&delta(&bank, 1)).iter().all(|v| *v == 0.0));
}

/// DoRA begins as the base: its magnitudes are the norms of W, whatever A and B start as.
#[test]
fn doras_magnitudes_start_as_the_norms_of_the_weight() {
    for init in [Init::Kaiming, Init::Orthogonal, Init::Pissa] {
        let bank = beside(&sharing("dora"), &with_init(4, init), 5);
        for (index, site) in bank.layout().sites.iter().enumerate() {
            let dense = tensor(weight(site), [site.out_features, site.in_features]);
            let merged = values(&merge(&bank, index, dense.clone()));
            assert!(distance(&values(&dense), &merged) < 1e-5, "{init:?}");
        }
    }
}

/// A frozen matrix is in no list that an optimizer walks; what the optimizer writes is seen at every site.
#[test]
fn frozen_matrices_are_not_handed_out() {
    for (method, trained) in [
        ("lora", 18),
        ("lora_fa", 9),
        ("share_a_frozen", 9),
        ("vera", 18),
        ("dora", 27),
    ] {
        let mut bank = beside(&sharing(method), &config(2), 1);
        let before = bank.values();
        assert_eq!(bank.trained_mut().len(), trained, "{method}");
        for matrix in bank.trained_mut() {
            *matrix = matrix.clone().add_scalar(1.0);
        }
        let layout = bank.layout().clone();
        for ((matrix, before), after) in layout.matrices().zip(before).zip(bank.values()) {
            assert_eq!(before != after, matrix.trained, "{method}: {}", matrix.name);
        }
    }
}

/// Every refusal names both settings.
#[test]
fn settings_that_exclude_each_other_are_named() {
    let message = |sharing: &Sharing, config: AdapterConfig| {
        let refused = Layout::new(&sites(2, &BLOCK), sharing, &config);
        refused.unwrap_err().to_string()
    };
    let pissa = with_init(2, Init::Pissa);
    for (text, parts) in [
        (
            message(&sharing("share_a"), pissa.clone()),
            ["`adapter.init` = \"pissa\"", "shares `a`"],
        ),
        (
            message(&sharing("share_b"), pissa.clone()),
            ["`adapter.init` = \"pissa\"", "shares `b`"],
        ),
        (
            message(&sharing("vera"), pissa.clone()),
            ["`adapter.init` = \"pissa\"", "`vectors` (VeRA)"],
        ),
        (
            message(
                &sharing("lora"),
                AdapterConfig {
                    dropout: 0.1,
                    ..pissa.clone()
                },
            ),
            ["`adapter.init` = \"pissa\"", "`adapter.dropout` = 0.1"],
        ),
        (
            message(
                &sharing("lora"),
                AdapterConfig {
                    rank: 7,
                    ..pissa.clone()
                },
            ),
            ["`adapter.init` = \"pissa\"", "`adapter.rank` = 7"],
        ),
        (
            message(&sharing("lora"), with_init(3, Init::Orthogonal)),
            ["`adapter.init` = \"orthogonal\"", "`adapter.rank` = 3"],
        ),
        (
            message(&sharing("vera"), with_init(2, Init::Gaussian)),
            ["`adapter.init` = \"gaussian\"", "`vectors` (VeRA)"],
        ),
        (
            message(
                &custom(
                    json!("per_layer"),
                    json!({"scope": "all_layers", "frozen": true}),
                ),
                config(2),
            ),
            ["`adapter.init` = \"kaiming\"", "frozen `b`"],
        ),
        (
            message(
                &custom(
                    json!({"scope": "per_layer", "frozen": true}),
                    json!({"scope": "per_layer", "frozen": true}),
                ),
                config(2),
            ),
            ["`a` and `b` are frozen", "nothing is trained"],
        ),
    ] {
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
    // LoRA-FA has both matrices per layer.
    Layout::new(&sites(2, &BLOCK), &sharing("lora_fa"), &pissa).unwrap();
}

/// A matrix of all sites serves projections of other widths by its first rows or columns, trained or not.
#[test]
fn one_matrix_may_serve_all_projections() {
    let sharing = custom(json!("all_sites"), json!("per_layer"));
    let layout = layout(&sites(2, &BLOCK), &sharing, &config(3));
    assert_eq!(
        (layout.a[0].name.as_str(), layout.a[0].shape),
        ("shared.a", [3, 14])
    );
    assert_eq!(
        layout.trainable_parameters(),
        3 * 14 + 2 * 3 * (12 + 6 + 10)
    );
    let bank = random_bank(&layout, 1);
    let wide = values(bank.site(0).0);
    let (a, _) = bank.effective(0);
    let cut: Vec<f32> = wide.chunks(14).flat_map(|row| row[..10].to_vec()).collect();
    assert_eq!(values(&a), cut);
}

/// `rslora` is a method of its own, and a configuration's `scaling` holds for the others.
#[test]
fn a_method_may_bring_its_scaling() {
    let scale = |method: &str, scaling| {
        let config = AdapterConfig {
            alpha: 16.0,
            scaling,
            ..config(4)
        };
        layout(&sites(1, &BLOCK), &sharing(method), &config).scale()
    };
    assert_eq!(scale("lora", Scaling::Standard), 4.0);
    assert_eq!(scale("lora", Scaling::Rslora), 8.0);
    assert_eq!(scale("rslora", Scaling::Standard), 8.0);
    assert_eq!(scale("vera", Scaling::Rslora), 1.0);
    assert_eq!(Method::named("dora").unwrap().name(), "dora");
}
