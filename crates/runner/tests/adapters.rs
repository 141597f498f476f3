//! Baselines beside LoRA and ShareLoRA: the losses and final matrices that PEFT has, what is frozen stays, what starts as the
//! base does, and each goes through a whole run.

mod support;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora::batch::Fill;
use sharelora::gradients::{Learner, Running, gradients, held_out_loss};
use sharelora::optimizer::{AdamWOptions, Optimizer};
use sharelora::parity::parity;
use sharelora_adapters::{
    AdapterConfig, Bank, Init, Layout, Method, Sharing, import_peft, load_native, merge,
};
use sharelora_model::{Model, ModelConfig, Storage};
use sharelora_tasks::Encoded;
use support::{Project, bits, config, run_dirs, weight};

/// Every method that is no paper's of ShareLoRA, and every initialisation.
const STRATEGIES: [&str; 7] = [
    "lora_fa",
    "share_a_frozen",
    "vera",
    "rslora",
    "dora",
    "orthogonal",
    "pissa",
];

/// `scripts/adapter_reference.py`: eight AdamW steps of PEFT with each, and with LoRA+'s rates.
#[test]
fn losses_and_matrices_are_those_of_peft() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    let checks = parity(&folder, Storage::F32, &Device::flex()).unwrap();
    for strategy in STRATEGIES.iter().chain(&["lora_plus"]) {
        let of = |check: &&sharelora::parity::Check| check.name.starts_with(strategy);
        assert!(checks.iter().filter(of).count() >= 3, "{strategy}");
    }
    for check in &checks {
        println!("{}: {:.1e}", check.name, check.difference);
        let note = format!("{}: {:e}", check.name, check.difference);
        assert!(check.passed(), "{note}");
        // No first update of these is left to rounding.
        assert!(!check.name.contains("undetermined"), "{note}");
    }
}

/// `scripts/nf4_reference.py`: a base in NF4 trains as bitsandbytes' dequantised weights train under PEFT.
#[test]
fn beside_an_nf4_base_losses_are_those_of_bitsandbytes_and_peft() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4");
    let checks = parity(&folder, Storage::Nf4, &Device::flex()).unwrap();
    for strategy in ["lora", "share_a"] {
        let of = |check: &&sharelora::parity::Check| check.name.starts_with(strategy);
        assert!(checks.iter().filter(of).count() >= 3, "{strategy}");
    }
    for check in &checks {
        let note = format!("{}: {:e}", check.name, check.difference);
        println!("{note}");
        assert!(check.passed(), "{note}");
    }
    // Without quantisation they are others.
    let checks = parity(&folder, Storage::Stored, &Device::flex()).unwrap();
    assert!(!checks.iter().all(sharelora::parity::Check::passed));
}

fn model(config: &serde_json::Value) -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let config = ModelConfig::from_json(&config.to_string()).unwrap();
    Model::build(config, Storage::F32, &Device::flex(), |name, shape| {
        Ok(weight(&mut rng, name, shape))
    })
    .unwrap()
}

fn gpt2() -> serde_json::Value {
    serde_json::json!({
        "model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "bos_token_id": 0, "eos_token_id": 0,
    })
}

/// A method's sharing and initial values by a strategy's name.
fn strategy(name: &str) -> (Sharing, Init) {
    let init = Init::named(name).unwrap_or_default();
    let method = if Init::named(name).is_some() {
        "lora"
    } else {
        name
    };
    let method = Method::named(method).unwrap();
    (method.sharing().unwrap().clone(), init)
}

fn learner(model: &Model, sharing: &Sharing, init: Init, dropout: f64) -> Learner {
    let config = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        dropout,
        targets: vec!["all_linear".into()],
        scaling: Default::default(),
        init,
    };
    let layout = Layout::new(&model.config.sites(), sharing, &config).unwrap();
    let bank = model.bank(Arc::new(layout), 1);
    Learner::new(model.clone(), Some(bank))
}

/// Moves every trained matrix a little, so that none is at a value of no effect.
fn stirred(mut learner: Learner) -> Learner {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for matrix in learner.matrices() {
        let shape = matrix.dims();
        let values = (0..shape[0] * shape[1]).map(|_| rng.random_range(-0.4..0.4));
        let data = burn::tensor::TensorData::new(values.collect::<Vec<f32>>(), shape);
        *matrix = matrix.clone() + Tensor::from_data(data, &Device::flex());
    }
    learner
}

fn rows(count: usize) -> Vec<Encoded> {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    (0..count)
        .map(|_| {
            let length = rng.random_range(6..20);
            Encoded {
                ids: (0..length).map(|_| rng.random_range(1..320)).collect(),
                prompt_len: rng.random_range(1..length - 2),
                ..Encoded::default()
            }
        })
        .collect()
}

fn loss(learner: &Learner, rows: &[Encoded]) -> f64 {
    let rows: Vec<&Encoded> = rows.iter().collect();
    held_out_loss(learner, &rows, Fill::Examples(4), Running::default())
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().without_autodiff().try_to_vec_as().unwrap()
}

/// Every adapter begins as the untouched model: PiSSA's loss is its loss but for rounding, the others' too.
#[test]
fn every_strategy_starts_at_the_untouched_model() {
    let rows = rows(6);
    for model in [model(&config()), model(&gpt2())] {
        let base = loss(&Learner::new(model.clone(), None), &rows);
        for name in STRATEGIES {
            let (sharing, init) = strategy(name);
            let found = loss(&learner(&model, &sharing, init, 0.0), &rows);
            assert!((found - base).abs() < 1e-5, "{name}: {found} {base}");
        }
    }
}

/// Steps of AdamW with weight decay, which would move anything that the optimizer sees.
#[test]
fn frozen_matrices_do_not_move_by_a_bit() {
    let (model, rows) = (model(&config()), rows(4));
    for name in STRATEGIES {
        let (sharing, init) = strategy(name);
        let mut learner = learner(&model, &sharing, init, 0.0);
        let start = learner.bank.as_ref().unwrap().values();
        let options = AdamWOptions {
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let mut optimizer = Optimizer::new(options, learner.decays());
        for step in 0..3 {
            let batch = [rows.iter().collect()];
            let found = gradients(&mut learner, &batch, 0, step, Running::default());
            let matrices = learner.matrices().into_iter().zip(found.matrices);
            for (i, (matrix, gradient)) in matrices.enumerate() {
                *matrix = optimizer.step(i, 1e-2, matrix.clone(), gradient);
            }
        }
        let bank = learner.bank.as_ref().unwrap();
        let (mut moved, mut kept) = (0, 0);
        for ((matrix, before), after) in bank.layout().matrices().zip(start).zip(bank.values()) {
            let same = before
                .iter()
                .zip(&after)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert_eq!(same, !matrix.trained, "{name}: {}", matrix.name);
            *if same { &mut kept } else { &mut moved } += 1;
        }
        let frozen = !["rslora", "dora", "orthogonal"].contains(&name);
        assert!(moved > 0 && (kept > 0) == frozen, "{name}: {moved} {kept}");
    }
}

/// Blocks computed again, rows padded, dropout or not: the same gradients.
#[test]
fn how_a_batch_is_run_does_not_change_the_gradient() {
    let rows = rows(5);
    for model in [model(&config()), model(&gpt2())] {
        for (name, dropout) in [
            ("vera", 0.0),
            ("dora", 0.0),
            ("dora", 0.2),
            ("pissa", 0.0),
            ("lora_fa", 0.2),
        ] {
            let (sharing, init) = strategy(name);
            let mut learner = stirred(learner(&model, &sharing, init, dropout));
            let mut run = |running| {
                let batch = [rows.iter().collect()];
                let found = gradients(&mut learner, &batch, 1, 0, running);
                (
                    found.loss,
                    found.matrices.iter().flat_map(values).collect::<Vec<f32>>(),
                )
            };
            let (loss, whole) = run(Running::default());
            assert!(whole.iter().any(|g| *g != 0.0));
            let recomputed = Running {
                gradient_checkpointing: true,
                ..Running::default()
            };
            let (other, found) = run(recomputed);
            assert!((loss - other).abs() < 1e-5, "{name}: {loss} {other}");
            let largest = whole.iter().fold(0f32, |m, g| m.max(g.abs()));
            for (a, b) in whole.iter().zip(&found) {
                assert!((a - b).abs() < 1e-5 * largest, "{name}: {a} {b}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What a pass computes beside the weights is what the merged weights compute, for DoRA and for VeRA with magnitudes (DVoRA) too; GPT-2's
    /// fused module, whole and in parts, among them.
    #[test]
    fn a_pass_is_that_of_the_merged_weights(
        name in prop::sample::select(vec!["lora", "share_a", "vera", "pissa"]),
        magnitude: bool,
        fused: bool,
        parts: bool,
    ) {
        let json = if fused { gpt2() } else { config() };
        let model = model(&json);
        let (sharing, init) = strategy(name);
        let sharing = Sharing { magnitude, ..sharing };
        let targets = match fused && parts {
            true => vec!["q".into(), "v".into(), "c_fc".into()],
            false => vec!["all_linear".into()],
        };
        let config = AdapterConfig { rank: 4, alpha: 8.0, dropout: 0.0, targets, scaling: Default::default(), init };
        let layout = Layout::new(&model.config.sites(), &sharing, &config).unwrap();
        let bank = model.bank(Arc::new(layout), 1);
        let learner = stirred(Learner::new(model.clone(), Some(bank)));
        let rows = rows(4);
        let found = loss(&learner, &rows);

        let bank = learner.bank.as_ref().unwrap();
        let mut merged = model.clone();
        let names: Vec<_> = merged.config.weights().into_iter().collect();
        for (index, site) in bank.layout().sites.iter().enumerate() {
            let shape = [site.out_features, site.in_features];
            let data = burn::tensor::TensorData::new(model.site_weight(site), shape);
            let weight = values(&merge(bank, index, Tensor::from_data(data, &Device::flex())));
            let mut start = 0;
            let mut tensors = merged.weights_mut();
            for (spec, tensor) in names.iter().zip(tensors.iter_mut()) {
                let first = spec.conv1d.as_ref().map(|c| c.start);
                let own = site.part.is_none_or(|p| first == Some(p.start));
                if spec.name == format!("{}.weight", site.path) && own {
                    let [rows, columns] = spec.shape;
                    let part = weight[start..start + rows * columns].to_vec();
                    start += rows * columns;
                    let data = burn::tensor::TensorData::new(part, spec.shape);
                    **tensor = Tensor::from_data(data, &Device::flex());
                }
            }
            assert_eq!(start, weight.len());
        }
        let expected = loss(&Learner::new(merged, None), &rows);
        let base = loss(&Learner::new(model, None), &rows);
        prop_assert!((found - expected).abs() < 2e-5, "{} {}", found, expected);
        // How much an update of some projections moves the loss of a random model is chance; that it does is not.
        prop_assert!(found != base, "an adapter that changes nothing agrees with anything: {}", found);
    }
}

/// Planned, trained, saved, scored, resumed and exported like any other method.
#[test]
fn baselines_go_through_a_whole_run() {
    let project = Project::new();
    let methods = "axes.method=[\"lora_fa\", \"share_a_frozen\", \"vera\", \"rslora\", \"dora\"]";
    project.succeed(&["sweep", "tiny", "--set", methods, "--set", "train.steps=4"]);
    let inits = [
        "axes.method=[\"lora\", \"lora_fa\", \"dora\"]",
        "axes.adapter.init=[\"gaussian\", \"orthogonal\", \"pissa\"]",
        "adapter.dropout=0",
        "train.steps=4",
    ];
    let inits: Vec<&str> = inits.iter().flat_map(|set| ["--set", set]).collect();
    project.succeed(&[&["sweep", "tiny", "--results", "inits"], &inits[..]].concat());
    let mut runs = run_dirs(&project.path("results/tiny"));
    runs.extend(run_dirs(&project.path("inits/tiny")));
    assert_eq!(runs.len(), 5 + 9);
    let sites = ModelConfig::from_json(&config().to_string())
        .unwrap()
        .sites();
    for (label, dir) in &runs {
        let text = std::fs::read_to_string(dir.join("record.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["status"], "finished", "{label}");
        assert!(
            record["held_out_loss"].as_f64() < record["held_out_loss_before"].as_f64(),
            "{label}"
        );
        let (bank, _) =
            load_native(&dir.join("adapter/adapter.safetensors"), &Device::flex()).unwrap();
        let trained = bank.layout().trainable_parameters();
        assert_eq!(
            record["trainable_parameters"].as_u64(),
            Some(trained),
            "{label}"
        );
        assert_eq!(
            record["adapter_bytes"].as_u64(),
            Some(bank.layout().adapter_bytes()),
            "{label}"
        );
        let out = project.path("peft").join(label);
        project.succeed(&[
            "export",
            dir.to_str().unwrap(),
            "--format",
            "peft",
            "--out",
            out.to_str().unwrap(),
        ]);
        let (back, _) = import_peft(&out, &sites, &Device::flex()).unwrap();
        let model = model(&config());
        let [native, peft] =
            [bank, back].map(|bank: Bank| loss(&Learner::new(model.clone(), Some(bank)), &rows(4)));
        assert!((native - peft).abs() < 1e-5, "{label}: {native} {peft}");
    }
}

/// A run that was cut off goes on to the same bits: what is frozen comes from the seed again, what is trained from the checkpoint.
#[test]
fn a_run_that_goes_on_ends_the_same() {
    let project = Project::new();
    for (method, init) in [
        ("vera", "kaiming"),
        ("dora", "orthogonal"),
        ("lora", "pissa"),
    ] {
        let arguments = |results: &str, steps: usize| -> Vec<String> {
            let sets = [
                format!("axes.method=[\"{method}\"]"),
                format!("adapter.init={init}"),
                "adapter.dropout=0".into(),
                "train.schedule=constant".into(),
                format!("train.steps={steps}"),
            ];
            let mut all: Vec<String> = ["sweep", "tiny", "--results", results]
                .map(String::from)
                .into();
            all.extend(sets.into_iter().flat_map(|set| ["--set".into(), set]));
            all
        };
        let run = |results: &str, steps: usize| {
            let arguments = arguments(results, steps);
            project.succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
            let runs = run_dirs(&project.path(results).join("tiny"));
            runs[&format!("{method}-seed0")].clone()
        };
        let whole = run(&format!("whole-{method}"), 8);
        // The checkpoint of 4 steps in the folder of the run of 8, as a kill would have left it.
        let short = run(&format!("short-{method}"), 4);
        let again = project
            .path(&format!("again-{method}"))
            .join("tiny")
            .join(whole.file_name().unwrap());
        std::fs::create_dir_all(again.join("checkpoint")).unwrap();
        for file in ["steps.jsonl", "checkpoint/state"] {
            std::fs::copy(short.join(file), again.join(file)).unwrap();
        }
        std::fs::copy(whole.join("run.json"), again.join("run.json")).unwrap();
        let resumed = run(&format!("again-{method}"), 8);
        assert_eq!(resumed, again);
        let log = std::fs::read_to_string(resumed.join("steps.jsonl")).unwrap();
        let first = std::fs::read_to_string(short.join("steps.jsonl")).unwrap();
        // The lines of the short run are its own, times and all: it did go on.
        assert!(log.starts_with(&first), "{method} began again");
        assert_eq!(bits(&resumed), bits(&whole), "{method}");
    }
}

/// Axes that cannot combine are refused before anything runs, by both names.
#[test]
fn axes_that_exclude_each_other_are_refused_by_name() {
    let project = Project::new();
    for (sets, parts) in [
        (
            vec![
                "axes.method=[\"lora\", \"share_a\"]",
                "axes.adapter.init=[\"pissa\"]",
                "adapter.dropout=0",
            ],
            ["share_a", "`adapter.init` = \"pissa\""],
        ),
        (
            vec!["axes.method=[\"lora\"]", "adapter.init=pissa"],
            ["`adapter.init` = \"pissa\"", "`adapter.dropout` = 0.1"],
        ),
        (
            vec!["axes.method=[\"vera\"]", "adapter.init=gaussian"],
            ["vera", "`adapter.init` = \"gaussian\""],
        ),
    ] {
        let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        let output = project.run(&[&["plan", "tiny"], &sets[..]].concat());
        assert_eq!(output.code, Some(2), "{}", output.err);
        for part in parts {
            assert!(
                output.err.contains(part),
                "`{part}` is not in: {}",
                output.err
            );
        }
    }
}
