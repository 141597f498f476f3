//! What training does to a small model: gradients, batches, masks, clipping, divergence.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora::batch::Fill;
use sharelora::data::{self, Data};
use sharelora::gradients::{Gradients, Learner, Running, gradients, held_out_loss};
use sharelora::train::{Trained, train};
use sharelora::{Experiment, ResolvedRun, RunDir, Store, base};
use sharelora_adapters::{AdapterConfig, Bank, Layout, Method};
use sharelora_hub::{Hub, Progress};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Adapter, Input, Model, ModelConfig, Storage, log_likelihoods};
use sharelora_tasks::Encoded;
use support::{Project, config, run_dirs, weight};

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .clone()
        .without_autodiff()
        .try_to_vec_as::<f32>()
        .unwrap()
}

fn model() -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let config = ModelConfig::from_json(&config().to_string()).unwrap();
    Model::build(config, Storage::F32, &Device::flex(), |name, shape| {
        Ok(weight(&mut rng, name, shape))
    })
    .unwrap()
}

fn layout(model: &Model, method: &str, dropout: f64) -> Arc<Layout> {
    let config = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        dropout,
        targets: vec!["all_linear".into()],
        scaling: Default::default(),
        init: Default::default(),
    };
    let method = Method::named(method).unwrap();
    Arc::new(Layout::new(&model.config.sites(), method.sharing().unwrap(), &config).unwrap())
}

/// A learner whose `B` is not 0, so that every matrix has a gradient.
fn learner(method: &str) -> Learner {
    let model = model();
    let layout = layout(&model, method, 0.0);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut start = model.bank(layout.clone(), 0).values();
    for v in start.iter_mut().skip(layout.a.len()).flatten() {
        *v = rng.random_range(-0.2..0.2);
    }
    let bank = Bank::from_values(layout, start, &Device::flex()).unwrap();
    Learner::new(model, Some(bank))
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

fn of_one_batch(learner: &mut Learner, rows: &[Encoded]) -> Gradients {
    gradients(learner, &[rows.iter().collect()], 0, 0, Running::default())
}

/// Largest difference over the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().chain(b).fold(0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest.max(f32::MIN_POSITIVE)
}

#[track_caller]
fn close(a: &Gradients, b: &Gradients) {
    assert!((a.loss - b.loss).abs() < 1e-5, "{} {}", a.loss, b.loss);
    for (a, b) in a.matrices.iter().zip(&b.matrices) {
        let (a, b) = (values(a), values(b));
        assert!(
            a.iter().any(|v| *v != 0.0),
            "a gradient that is 0 agrees with anything"
        );
        assert!(difference(&a, &b) < 1e-5, "{}", difference(&a, &b));
    }
}

/// What makes ShareLoRA: the shared matrix exists once and gets what all layers' own ones would have got.
#[test]
fn a_shared_matrix_gets_the_sum_of_its_layers_gradients() {
    let mut shared = learner("share_a");
    let mut own = learner("lora");
    let (from, to) = {
        let (Some(shared), Some(own)) = (&shared.bank, &own.bank) else {
            unreachable!()
        };
        (shared.layout().clone(), own.layout().clone())
    };
    assert_eq!((from.a.len(), to.a.len(), from.b.len()), (7, 21, 21));
    // The same values at every site.
    let start = shared.bank.as_ref().unwrap().values();
    let mut spread: Vec<Vec<f32>> = vec![Vec::new(); to.a.len() + to.b.len()];
    for (slot, other) in to.slots.iter().zip(&from.slots) {
        spread[slot.a] = start[other.a].clone();
        spread[to.a.len() + slot.b] = start[from.a.len() + other.b].clone();
    }
    own.bank = Some(Bank::from_values(to.clone(), spread, &Device::flex()).unwrap());

    let rows = rows(6);
    let one = of_one_batch(&mut shared, &rows);
    let each = of_one_batch(&mut own, &rows);
    assert!((one.loss - each.loss).abs() < 1e-6);
    for (index, gradient) in one.matrices.iter().take(from.a.len()).enumerate() {
        let mut sum = vec![0f32; from.a[index].shape.iter().product()];
        for (slot, _) in to
            .slots
            .iter()
            .zip(&from.slots)
            .filter(|(_, other)| other.a == index)
        {
            sum.iter_mut()
                .zip(values(&each.matrices[slot.a]))
                .for_each(|(s, g)| *s += g);
        }
        assert!(
            difference(&values(gradient), &sum) < 1e-5,
            "{}",
            from.a[index].name
        );
    }
}

#[test]
fn how_a_batch_is_run_does_not_change_the_gradient() {
    let mut learner = learner("share_ab");
    let rows = rows(8);
    let whole = of_one_batch(&mut learner, &rows);
    for (padded, gradient_checkpointing) in [(true, false), (false, true), (true, true)] {
        let running = Running {
            padded,
            gradient_checkpointing,
        };
        let batch = [rows.iter().collect()];
        close(&gradients(&mut learner, &batch, 0, 0, running), &whole);
    }
    // Rows have different numbers of labels: a mean of means would not pass.
    let micro: Vec<Vec<&Encoded>> = rows.chunks(4).map(|c| c.iter().collect()).collect();
    close(
        &gradients(&mut learner, &micro, 0, 0, Running::default()),
        &whole,
    );
}

/// The loss is the mean over answer tokens alone; what the prompt's own tokens would cost is not in it.
#[test]
fn prompt_tokens_carry_no_label() {
    let mut learner = learner("lora");
    let rows = rows(5);
    let (mut sum, mut count) = (0.0, 0);
    for row in &rows {
        let adapter = learner.bank.as_ref().map(|bank| Adapter {
            bank,
            dropout: None,
        });
        let hidden = learner
            .model
            .hidden(&Input::packed(&[&row.ids]), adapter, None);
        let answer = &row.ids[row.prompt_len..];
        let states = hidden.narrow(0, row.prompt_len - 1, answer.len());
        sum += log_likelihoods(&states, learner.model.head(), answer)
            .iter()
            .sum::<f64>();
        count += answer.len();
    }
    let wanted = -sum / count as f64;
    assert!((of_one_batch(&mut learner, &rows).loss - wanted).abs() < 1e-5);
    let all: Vec<&Encoded> = rows.iter().collect();
    assert!(
        (held_out_loss(&learner, &all, Fill::Examples(3), Running::default()) - wanted).abs()
            < 1e-5
    );
    let moved: Vec<Encoded> = rows
        .iter()
        .map(|r| Encoded {
            prompt_len: r.prompt_len + 1,
            ..r.clone()
        })
        .collect();
    assert!((of_one_batch(&mut learner, &moved).loss - wanted).abs() > 1e-3);
}

/// A run of the tiny experiment, loaded and about to be trained.
struct Ready {
    run: ResolvedRun,
    learner: Learner,
    data: Data,
    dir: RunDir,
    _project: Project,
}

fn ready(label: &str, sets: &[&str]) -> Ready {
    let project = Project::new();
    let root = project.root().to_owned();
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let experiment = Experiment::load(&root, "tiny", &sets).unwrap();
    let plan = sharelora::plan::plan(&root, experiment, "flex").unwrap();
    let run = plan.runs.into_iter().find(|r| r.label() == label).unwrap();
    let hub = Hub::from_vars(&root, |name| {
        (name == "SHARELORA_CACHE").then(|| root.join("cache").display().to_string())
    });
    let device = Device::flex();
    let base::Base { model, encoder } =
        base::load(&run.model, run.model.dtype, &hub, &device, Progress::Quiet).unwrap();
    let bank = run.adapter.as_ref().map(|config| {
        let layout =
            Layout::new(&model.config.sites(), run.method.sharing().unwrap(), config).unwrap();
        model.bank(Arc::new(layout), run.seed)
    });
    let spec = run.train.as_ref().unwrap();
    let data = data::prepare(spec, &model.config, &encoder, &root, &hub).unwrap();
    let dir = Store::new(root.join("results")).open(&run).unwrap();
    Ready {
        learner: Learner::new(model, bank),
        run,
        data,
        dir,
        _project: project,
    }
}

impl Ready {
    fn train(&mut self) -> Trained {
        let spec = self.run.train.as_ref().unwrap();
        train(
            &mut self.learner,
            &self.data,
            spec,
            self.run.seed,
            &self.dir,
            true,
            |_| Ok(None),
        )
        .unwrap()
    }

    fn base_bits(&self) -> Vec<Vec<u32>> {
        let all = self.learner.model.values().into_iter();
        all.map(|(_, _, values)| values.into_iter().map(f32::to_bits).collect())
            .collect()
    }
}

#[test]
fn the_frozen_base_stays_as_it_was_and_the_loss_falls() {
    for label in ["lora-seed0", "share_a-seed0"] {
        let mut ready = ready(label, &["train.keep_best=false"]);
        let before = ready.base_bits();
        let start = ready.learner.bank.as_ref().unwrap().values();
        let trained = ready.train();
        assert_eq!(ready.base_bits(), before);
        let bank = ready.learner.bank.as_ref().unwrap();
        assert_eq!(bank.values().len(), start.len());
        assert!(
            bank.values().iter().zip(&start).all(|(a, b)| a != b),
            "a matrix was not trained"
        );
        let progressed = trained.progressed;
        assert_eq!((progressed.step, trained.diverged), (8, None));
        let (from, to) = (
            progressed.held_out_before.unwrap(),
            progressed.held_out.unwrap(),
        );
        assert!(to < from - 0.05, "{label}: {from} {to}");
    }
}

/// With AdamW's epsilon far above the gradient its first update is the clipped gradient times rate over epsilon.
#[test]
fn clipping_bounds_the_norm_of_the_whole_gradient() {
    let moved = |clip: &[&str]| -> (f64, f64) {
        let sets = [
            "train.steps=1",
            "train.warmup_steps=0",
            "train.schedule=constant",
            "train.epsilon=1e4",
            "train.learning_rate=1e4",
            "train.weight_decay=0.0",
            "train.keep_best=false",
        ];
        let mut ready = ready("lora-seed0", &[&sets, clip].concat());
        let before = ready.learner.bank.as_ref().unwrap().values();
        ready.train();
        let after = ready.learner.bank.as_ref().unwrap().values();
        let square: f64 = before
            .iter()
            .flatten()
            .zip(after.iter().flatten())
            .map(|(a, b)| f64::from(b - a).powi(2))
            .sum();
        let log = std::fs::read_to_string(ready.dir.steps()).unwrap();
        let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        (square.sqrt(), last["grad_norm"].as_f64().unwrap())
    };
    let (update, norm) = moved(&["train.clip_norm=1e6"]);
    assert!(
        norm > 0.1 && (update / norm - 1.0).abs() < 1e-3,
        "{update} {norm}"
    );
    let (update, logged) = moved(&["train.clip_norm=0.05"]);
    assert!((update / 0.05 - 1.0).abs() < 1e-3, "{update}");
    assert_eq!(logged, norm, "the log has the norm before clipping");
}

#[test]
fn a_weight_that_is_no_number_is_divergence_not_a_result() {
    let mut ready = ready("lora-seed0", &[]);
    let model = &mut ready.learner.model;
    let names = model.config.weights().into_iter().map(|w| w.name);
    for (name, tensor) in names.zip(model.weights_mut()) {
        if name == "model.layers.1.mlp.up_proj.weight" {
            *tensor = tensor.clone().mul_scalar(f32::NAN);
        }
    }
    let trained = ready.train();
    assert_eq!(trained.progressed.step, 0);
    let reason = trained.diverged.unwrap();
    assert!(
        reason.contains("step 1") && reason.contains("NaN"),
        "{reason}"
    );
    // No state that a later attempt would go on from.
    assert!(!ready.dir.checkpoint().exists());
}

/// The last update has no later step that would notice it.
#[test]
fn a_last_step_that_diverges_is_noticed_by_the_held_out_loss() {
    let sets = [
        "train.steps=1",
        "train.warmup_steps=0",
        "train.schedule=constant",
        "train.learning_rate=1e38",
    ];
    for keep_best in ["train.keep_best=false", "train.keep_best=true"] {
        let mut ready = ready("lora-seed0", &[&sets[..], &[keep_best]].concat());
        let reason = ready.train().diverged.unwrap();
        assert!(reason.contains("held-out loss"), "{reason}");
        assert!(!ready.dir.checkpoint().exists());
    }
}

/// One method of a sweep diverges: it is recorded as that, the others are done, the report has all of them.
#[test]
fn a_sweep_goes_on_behind_a_diverged_run() {
    let project = Project::new();
    let toml = String::from_utf8(project.read("experiments/tiny.toml")).unwrap();
    let toml = toml
        + "\n[[override]]\nwhen = { method = \"lora\" }\nset = { train = { learning_rate = 1e30 } }\n";
    project.write("experiments/tiny.toml", toml);
    let output = project.succeed(&[
        "sweep",
        "tiny",
        "--set",
        "train.keep_best=false",
        "--set",
        "train.clip_norm=1e9",
    ]);
    assert!(
        output.err.contains("diverged: lora-seed0"),
        "{}",
        output.err
    );
    assert!(!output.err.contains("panicked"), "{}", output.err);
    let status: BTreeMap<String, String> = run_dirs(&project.path("results/tiny"))
        .into_iter()
        .map(|(label, dir)| {
            let text = std::fs::read_to_string(dir.join("record.json")).unwrap();
            let record: serde_json::Value = serde_json::from_str(&text).unwrap();
            (label, record["status"].as_str().unwrap().to_owned())
        })
        .collect();
    let wanted = [
        ("base", "finished"),
        ("lora-seed0", "diverged"),
        ("share_a-seed0", "finished"),
    ];
    assert_eq!(
        status,
        wanted.map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    );
    let lora = &run_dirs(&project.path("results/tiny"))["lora-seed0"];
    assert!(
        !lora.join("adapter").exists(),
        "no adapter of a diverged run"
    );
    let report = String::from_utf8(project.read("reports/tiny/report.md")).unwrap();
    assert!(
        report.contains("diverged") && report.contains("ShareA"),
        "{report}"
    );
    // Done is done: nothing is tried again.
    assert!(
        !project
            .succeed(&[
                "sweep",
                "tiny",
                "--set",
                "train.keep_best=false",
                "--set",
                "train.clip_norm=1e9"
            ])
            .err
            .contains("[2/3]")
    );
}

/// Weights that are stored as bf16 lose nothing when they are kept so: the arithmetic is f32 either way.
#[test]
fn bf16_storage_computes_the_same() {
    let loss = |dtype: &str| {
        let ready = ready("lora-seed0", &[&format!("model.dtype={dtype}")]);
        let rows: Vec<&Encoded> = ready.data.held_out.iter().collect();
        held_out_loss(&ready.learner, &rows, Fill::Examples(4), Running::default())
    };
    assert_eq!(loss("f32").to_bits(), loss("bf16").to_bits());
}

/// As above, for the model that ships.
#[test]
fn bf16_storage_of_the_pocket_model_computes_the_same() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !root.join("models/pocket/model.safetensors").exists() {
        println!("skipped: no models/pocket (made by `sharelora pretrain-pocket`)");
        return;
    }
    let text = std::fs::read_to_string(root.join("models/pocket/config.json")).unwrap();
    let checkpoint = Checkpoint::open(&[root.join("models/pocket/model.safetensors")]).unwrap();
    let rows = rows(6);
    let rows: Vec<&Encoded> = rows.iter().collect();
    let loss = |storage| {
        let model = Model::load(
            ModelConfig::from_json(&text).unwrap(),
            &checkpoint,
            storage,
            &Device::flex(),
        )
        .unwrap();
        held_out_loss(
            &Learner::new(model, None),
            &rows,
            Fill::Examples(3),
            Running::default(),
        )
    };
    assert_eq!(loss(Storage::F32).to_bits(), loss(Storage::Bf16).to_bits());
}

#[test]
fn full_fine_tuning_trains_and_saves_every_weight() {
    let project = Project::new();
    project.succeed(&[
        "sweep",
        "tiny",
        "--set",
        "axes.method=[\"full\"]",
        "--set",
        "train.learning_rate=1e-3",
    ]);
    let dir = &run_dirs(&project.path("results/tiny"))["full-seed0"];
    let text = std::fs::read_to_string(dir.join("record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["trainable_parameters"], record["base_parameters"]);
    assert!(
        record["held_out_loss"].as_f64() < record["held_out_loss_before"].as_f64(),
        "{text}"
    );
    let open = |path| Checkpoint::open(&[path]).unwrap();
    let (saved, base) = (
        open(dir.join("adapter/model.safetensors")),
        open(project.path("models/tiny/model.safetensors")),
    );
    for weight in ModelConfig::from_json(&config().to_string())
        .unwrap()
        .weights()
    {
        let name = weight.name;
        assert_eq!(saved.shape(&name), base.shape(&name), "{name}");
        assert_ne!(
            saved.read_f32(&name).unwrap(),
            base.read_f32(&name).unwrap(),
            "{name} was not trained"
        );
    }
}
