//! What a run will take, from what others took: time from measured runs, disk from its matrices.
//!
//! Only runs of the same model, backend, result version and machine (processor and cores) are compared with: their records,
//! and the steps of runs that are under way here. Nothing is guessed: what nothing like it was measured for is unknown.
//!
//! - Tokens of a step: those of runs on the same data, by examples or by token budget. Where there are none, the bound
//!   `batch_size * (max_source + max_target)` or `batch_tokens`, times `accumulation`.
//! - Time of training: `steps * tokens / rate`. The rate is that of the nearest runs: the same method first, then the number of
//!   tokens of a step. Evaluations between steps take what they took there, each and by held-out row.
//! - Time of scoring: that of the nearest runs with the same task and options; by `limit` where both have one.
//! - Disk: the adapter; the checkpoint, whose tensors are the matrices, AdamW's two moments and, with `keep_best`, the best
//!   matrices; samples, by `limit` too.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sharelora_adapters::Method;
use sharelora_report::{Host, Status};
use sharelora_tasks::TaskOptions;

use crate::batch::Fill;
use crate::estimate::Estimate;
use crate::experiment::{EvaluateSpec, TrainSpec};
use crate::host;
use crate::plan::{RESULT_VERSION, ResolvedRun};
use crate::store::{lock_line, read_run};

/// What a run will take.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Training, with evaluations between steps; 0 for the untouched base.
    pub train_seconds: Option<f64>,
    /// All of `[[evaluate]]`.
    pub evaluate_seconds: Option<f64>,
    /// Bytes of the samples files; `None`: not measured.
    pub samples_bytes: Option<u64>,
    /// The tokens of a step are a bound and no measurement.
    pub bound: bool,
    /// The measured runs that this comes from, `EXPERIMENT/LABEL`.
    pub sources: BTreeSet<String>,
}

impl Cost {
    /// Seconds of the whole run, where all of it is known.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.train_seconds? + self.evaluate_seconds?)
    }
}

/// Bytes that training leaves on the disk: what was trained, and the checkpoint.
pub fn training_bytes(run: &ResolvedRun, estimate: &Estimate) -> (u64, u64) {
    let Some(train) = &run.train else {
        return (0, 0);
    };
    let trained = 4 * (estimate.trainable_parameters + estimate.head_parameters);
    let kept = match run.method {
        Method::Full => trained,
        _ => estimate.adapter_bytes + 4 * estimate.head_parameters,
    };
    (kept, trained * (3 + u64::from(train.keep_best)))
}

/// What decides how long a run takes, as text: runs that differ in seed, learning rates and the like have one.
pub fn kind(run: &ResolvedRun) -> String {
    let mut run = ResolvedRun {
        experiment: String::new(),
        axes: Default::default(),
        seed: 0,
        init_from: None,
        ..run.clone()
    };
    run.model.sha256.clear();
    run.model.name.clear();
    if let Some(adapter) = &mut run.adapter {
        adapter.alpha = 1.0;
    }
    if let Some(train) = &mut run.train {
        train.learning_rate = 1.0;
        train.warmup_steps = 0;
        train.warmup_ratio = None;
        train.weight_decay = 0.0;
    }
    serde_json::to_string(&run).unwrap_or_default()
}

/// A measured run: how fast it was.
#[derive(Debug, Clone)]
struct Measured {
    /// `EXPERIMENT/LABEL`.
    name: String,
    method: Method,
    train: Option<Trained>,
    evaluate: Vec<Scored>,
}

#[derive(Debug, Clone)]
struct Trained {
    spec: TrainSpec,
    steps: f64,
    /// Real tokens of a step, the mean.
    tokens: f64,
    /// Tokens a second of optimizer steps.
    rate: f64,
    /// Seconds beside optimizer steps; `None` of a run under way.
    beside: Option<f64>,
}

#[derive(Debug, Clone)]
struct Scored {
    spec: EvaluateSpec,
    seconds: Option<f64>,
    bytes: Option<u64>,
}

/// The measured runs that a plan's runs can be compared with, by model.
#[derive(Debug, Default)]
pub struct Measurements {
    /// Every measured run of a model, by [`model`].
    by_model: HashMap<String, Vec<Measured>>,
    /// What was found for a [`kind`].
    known: HashMap<String, Cost>,
}

/// The parts of `record.json` that say how long what took.
#[derive(Deserialize)]
struct Timed {
    status: Status,
    experiment: String,
    run: String,
    config: ResolvedRun,
    steps: u64,
    host: Host,
    seconds: HashMap<String, f64>,
    tokens_per_second: Option<f64>,
}

/// What has to be the same for one run to say anything of another.
fn model(run: &ResolvedRun) -> String {
    let sources: Vec<String> = run.model_sources().map(ToString::to_string).collect();
    format!(
        "{} {} {}",
        sources.join(" "),
        run.model.dtype.name(),
        run.backend
    )
}

impl Measurements {
    /// Reads every run under `results` that was made on this machine. What cannot be read is no measurement.
    pub fn read(results: &Path) -> Self {
        let here = host::host();
        let folders: Vec<PathBuf> = entries(results).iter().flat_map(|e| entries(e)).collect();
        let found: Vec<(String, Measured)> = folders
            .par_iter()
            .filter_map(|dir| measured(dir, &here))
            .collect();
        let mut all = Measurements::default();
        for (model, run) in found {
            all.by_model.entry(model).or_default().push(run);
        }
        all
    }

    /// What `run`, of this [`kind`], will take.
    pub fn cost(&mut self, run: &ResolvedRun, kind: String) -> Cost {
        if let Some(cost) = self.known.get(&kind) {
            return cost.clone();
        }
        let empty = Vec::new();
        let cost = cost(run, self.by_model.get(&model(run)).unwrap_or(&empty));
        self.known.insert(kind, cost.clone());
        cost
    }
}

/// The folders in a folder, hidden ones left out, in order of name.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|e| e.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn measured(dir: &Path, here: &Host) -> Option<(String, Measured)> {
    let Ok(text) = std::fs::read_to_string(dir.join("record.json")) else {
        return under_way(dir);
    };
    let timed: Timed = serde_json::from_str(&text).ok()?;
    let run = timed.config;
    let same_machine = timed.host.cpu == here.cpu && timed.host.cores == here.cores;
    if timed.status != Status::Finished || run.result_version != RESULT_VERSION || !same_machine {
        return None;
    }
    let steps = timed.steps as f64;
    let train = run.train.clone().and_then(|spec| {
        let rate = timed.tokens_per_second?;
        let seconds = *timed.seconds.get("steps")?;
        Some(Trained {
            spec,
            steps,
            tokens: rate * seconds / steps.max(1.0),
            rate,
            beside: timed.seconds.get("train").map(|all| all - seconds),
        })
    });
    let evaluate = run.evaluate.iter().map(|spec| {
        let name = spec.samples_name();
        let own = timed.seconds.get(&format!("evaluate {name}"));
        // Of a single evaluation the whole is its own time, unless it went on from a log.
        let whole = timed.seconds.get("evaluate");
        let files = ["jsonl.zst", "jsonl"].map(|end| dir.join(format!("samples-{name}.{end}")));
        let bytes = files
            .iter()
            .find_map(|f| Some(std::fs::metadata(f).ok()?.len()));
        Scored {
            spec: spec.clone(),
            seconds: own.or(whole.filter(|_| run.evaluate.len() == 1)).copied(),
            bytes,
        }
    });
    let measured = Measured {
        name: format!("{}/{}", timed.experiment, timed.run),
        evaluate: evaluate.collect(),
        method: run.method.clone(),
        train,
    };
    Some((model(&run), measured))
}

/// A run without a record on which this machine has worked: its steps are measured, too.
fn under_way(dir: &Path) -> Option<(String, Measured)> {
    if lock_line(dir)?.host.as_deref() != Some(host::name().as_str()) {
        return None;
    }
    let run = read_run(dir).ok()?;
    let steps = sharelora_report::read_steps(&dir.join("steps.jsonl"))
        .ok()?
        .steps;
    let spec = run.train.clone()?;
    let last = steps
        .last()
        .filter(|last| last.step > 0 && run.result_version == RESULT_VERSION)?;
    // `tokens` counts from the start.
    let seconds: f64 = steps
        .windows(2)
        .map(|w| w[1].tokens.saturating_sub(w[0].tokens) as f64 / w[1].tokens_per_second)
        .filter(|s| s.is_finite())
        .sum();
    let measured = Measured {
        name: format!("{}/{}", run.experiment, run.label()),
        method: run.method.clone(),
        evaluate: Vec::new(),
        train: Some(Trained {
            spec,
            steps: last.step as f64,
            tokens: last.tokens as f64 / last.step as f64,
            rate: last.tokens as f64 / seconds,
            beside: None,
        }),
    };
    (seconds > 0.0).then(|| (model(&run), measured))
}

fn cost(run: &ResolvedRun, measured: &[Measured]) -> Cost {
    let mut cost = Cost::default();
    cost.train_seconds = match &run.train {
        Some(train) => training(&run.method, train, measured, &mut cost),
        None => Some(0.0),
    };
    let mut seconds = Some(0.0);
    let mut bytes = Some(0.0);
    for spec in &run.evaluate {
        let same: Vec<(&Measured, &Scored, f64)> = measured
            .iter()
            .flat_map(|m| m.evaluate.iter().map(move |s| (m, s)))
            .filter_map(|(m, s)| Some((m, s, questions(spec, &s.spec)?)))
            .collect();
        let near = |has: fn(&Scored) -> bool| {
            let with = same.iter().filter(|(_, s, _)| has(s));
            nearest(
                with.map(|each @ (m, _, ratio)| ((m.method != run.method, ratio.ln().abs()), each)),
            )
        };
        let timed = near(|s| s.seconds.is_some());
        let took = mean(
            timed
                .iter()
                .filter_map(|(_, s, ratio)| Some(s.seconds? * ratio)),
        );
        cost.sources
            .extend(timed.iter().map(|(m, ..)| m.name.clone()));
        let kept = near(|s| s.bytes.is_some());
        let size = mean(
            kept.iter()
                .filter_map(|(_, s, ratio)| Some(s.bytes? as f64 * ratio)),
        );
        seconds = seconds.zip(took).map(|(sum, took)| sum + took);
        bytes = bytes.zip(size).map(|(sum, size)| sum + size);
    }
    cost.evaluate_seconds = seconds;
    cost.samples_bytes = bytes.map(|bytes| bytes as u64);
    cost
}

/// Seconds of training; names its sources in `cost`.
fn training(
    method: &Method,
    wanted: &TrainSpec,
    measured: &[Measured],
    cost: &mut Cost,
) -> Option<f64> {
    let trained: Vec<(&Measured, &Trained)> = measured
        .iter()
        .filter_map(|m| Some((m, m.train.as_ref()?)))
        .collect();
    let batch = batch(wanted);
    let same_data = |t: &Trained| {
        let spec = &t.spec;
        let data = |s: &TrainSpec| (s.task.clone(), s.max_source, s.max_target);
        data(spec) == data(wanted)
            && same_but_limit(&spec.task_options, &wanted.task_options)
            && wanted.batch_tokens.is_some() == spec.batch_tokens.is_some()
    };
    let like = nearest(
        trained
            .iter()
            .filter(|(_, t)| same_data(t))
            .map(|each @ (_, t)| ((false, (batch / self::batch(&t.spec)).ln().abs()), each)),
    );
    let tokens = mean(
        like.iter()
            .map(|(_, t)| t.tokens * batch / self::batch(&t.spec)),
    );
    cost.bound = tokens.is_none();
    let tokens = tokens.unwrap_or_else(|| match wanted.fill() {
        Fill::Examples(_) => batch * wanted.max_length() as f64,
        Fill::Tokens(_) => batch,
    });
    let fast = nearest(
        trained
            .iter()
            .map(|each @ (m, t)| ((m.method != *method, (tokens / t.tokens).ln().abs()), each)),
    );
    let rate = mean(fast.iter().map(|(_, t)| t.rate))?;
    let steps = match wanted.steps {
        Some(steps) => steps as f64,
        // The rows are counted where an epoch was measured.
        None => mean(
            like.iter()
                .filter(|(_, t)| t.spec.rows == wanted.rows)
                .filter_map(|(_, t)| {
                    let epochs = t.spec.epochs? as f64;
                    let per_epoch = t.steps / epochs * self::batch(&t.spec) / batch;
                    Some(per_epoch * wanted.epochs.unwrap_or(1) as f64)
                }),
        )?,
    };
    let evaluations = |spec: &TrainSpec, steps: f64| {
        let every = match (spec.evaluate_every, spec.epochs) {
            (0, Some(epochs)) => steps / epochs as f64,
            (0, None) => steps,
            (every, _) => every as f64,
        };
        1.0 + (steps / every.max(1.0)).ceil()
    };
    let beside = mean(fast.iter().filter_map(|(_, t)| {
        let rows = wanted.held_out as f64 / t.spec.held_out.max(1) as f64;
        Some(t.beside? / evaluations(&t.spec, t.steps) * evaluations(wanted, steps) * rows)
    }));
    let names = like.iter().chain(&fast).map(|(m, _)| m.name.clone());
    cost.sources.extend(names);
    Some(steps * tokens / rate + beside.unwrap_or(0.0))
}

/// Examples, or tokens, of an optimizer step.
fn batch(spec: &TrainSpec) -> f64 {
    let micro = match spec.fill() {
        Fill::Examples(n) | Fill::Tokens(n) => n,
    };
    (micro * spec.accumulation) as f64
}

fn same_but_limit(a: &TaskOptions, b: &TaskOptions) -> bool {
    let unlimited = |options: &TaskOptions| TaskOptions {
        limit: None,
        ..options.clone()
    };
    unlimited(a) == unlimited(b)
}

/// How many questions are `wanted` for each that was measured; `None`: that is not known, or it is another task.
fn questions(wanted: &EvaluateSpec, measured: &EvaluateSpec) -> Option<f64> {
    // All that an evaluation says, a measured loss too, but for how many questions and how many at once.
    let asked = |spec: &EvaluateSpec| EvaluateSpec {
        options: Default::default(),
        batch_size: 1,
        ..spec.clone()
    };
    let same =
        asked(wanted) == asked(measured) && same_but_limit(&wanted.options, &measured.options);
    match (wanted.options.limit, measured.options.limit) {
        _ if !same => None,
        (Some(wanted), Some(measured)) => Some(wanted as f64 / measured.max(1) as f64),
        (None, None) => Some(1.0),
        _ => None,
    }
}

/// All that are nearest; the first key is whether another method was measured, the second a distance.
fn nearest<T>(all: impl Iterator<Item = ((bool, f64), T)>) -> Vec<T> {
    let all: Vec<((bool, f64), T)> = all.collect();
    let order = |a: &(bool, f64), b: &(bool, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    let Some(best) = all.iter().map(|(key, _)| *key).min_by(order) else {
        return Vec::new();
    };
    // Batches of one setting differ from seed to seed by some per cent.
    let near = |key: &(bool, f64)| key.0 == best.0 && key.1 <= best.1 + 0.05;
    all.into_iter()
        .filter(|(key, _)| near(key))
        .map(|(_, each)| each)
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

/// `40 s`, `25 min`, `3 h 05 min`, `2 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let minutes = (seconds.max(0.0) / 60.0).round() as u64;
    match (whole, minutes) {
        (0..90, _) => format!("{whole} s"),
        (_, 0..60) => format!("{minutes} min"),
        (_, 60..1440) => format!("{} h {:02} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;
    use crate::store::Store;
    use crate::sweep::tests::{context, finished};

    /// A store with one finished LoRA run: 100 tokens a step, 50 tokens a second, 5 s of evaluations, 8 s of scoring.
    fn store(root: &Path) -> Store {
        let store = Store::new(root.join("results"));
        let run = lora(&["evaluate.0.options.limit=4", "train.held_out=2"]);
        let dir = store.open(&run).unwrap();
        let mut record = finished(&run, &context(root));
        record.steps = 10;
        record.tokens_per_second = Some(50.0);
        record.seconds = [("steps", 20.0), ("train", 25.0), ("evaluate", 8.0)]
            .map(|(name, s)| (name.to_owned(), s))
            .into();
        dir.write_record(&record).unwrap();
        std::fs::write(dir.samples("pocket"), [0; 40]).unwrap();
        store
    }

    fn cost_of(measured: &mut Measurements, run: &ResolvedRun) -> Cost {
        measured.cost(run, kind(run))
    }

    fn lora(sets: &[&str]) -> ResolvedRun {
        let sets: Vec<&str> = sets
            .iter()
            .copied()
            .chain(["axes.method=[\"lora\"]"])
            .collect();
        planned(SMALL, &sets).unwrap().runs.remove(0)
    }

    /// Each part by hand: a wrong scale is a week of a researcher's machine.
    #[test]
    fn times_scale_with_steps_batches_and_questions() {
        let root = tempfile::tempdir().unwrap();
        store(root.path());
        let results = root.path().join("results");
        let mut measured = Measurements::read(&results);
        let base = ["evaluate.0.options.limit=4", "train.held_out=2"];
        let same = cost_of(&mut measured, &lora(&base));
        assert_eq!(
            (same.train_seconds, same.evaluate_seconds),
            (Some(25.0), Some(8.0))
        );
        assert_eq!((same.samples_bytes, same.bound), (Some(40), false));
        assert_eq!(same.sources.iter().collect::<Vec<_>>(), ["x/lora-seed0"]);
        // Three times the steps, twice the batch, half the questions; 2 evaluations as before.
        let more = [
            "train.steps=30",
            "train.batch_size=8",
            "evaluate.0.options.limit=2",
            "train.held_out=2",
        ];
        let more = cost_of(&mut measured, &lora(&more));
        assert_eq!(
            (more.train_seconds, more.evaluate_seconds),
            (Some(125.0), Some(4.0))
        );
        // Other lengths: nothing says how many tokens a step has, but for the bound of 4 * (64 + 256).
        let bound = cost_of(&mut measured, &lora(&["train.max_source=64"]));
        assert!(bound.bound);
        assert_eq!(bound.train_seconds, Some(10.0 * 4.0 * 320.0 / 50.0));
        // All questions: how many that is was not measured.
        assert_eq!(bound.evaluate_seconds, None);
        // Another model, and a record of another machine.
        let other = cost_of(&mut measured, &lora(&["model.weights=[\"file:other\"]"]));
        assert_eq!((other.seconds(), other.sources.len()), (None, 0));
        let path = results
            .join("x")
            .join(lora(&base).folder())
            .join("record.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let cores = format!("\"cores\": {}", host::host().cores);
        std::fs::write(&path, text.replace(&cores, "\"cores\": 999")).unwrap();
        assert_eq!(
            cost_of(&mut Measurements::read(&results), &lora(&base)).seconds(),
            None
        );
    }

    /// A sweep's first run is a measurement for the rest before it has ended.
    #[test]
    fn a_run_under_way_here_is_measured() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path());
        let run = lora(&[]);
        let dir = store.open(&run).unwrap();
        for (step, tokens) in [(0, 0), (1, 100), (2, 300)] {
            let line = format!(
                r#"{{"step":{step},"loss":1.0,"learning_rate":0.1,"grad_norm":1.0,"tokens":{tokens},"tokens_per_second":50.0,"memory_bytes":1,"held_out_loss":null}}"#
            );
            crate::store::append_line(&dir.steps(), &line).unwrap();
        }
        let cost = cost_of(&mut Measurements::read(root.path()), &run);
        assert_eq!(cost.train_seconds, Some(10.0 * 150.0 / 50.0));
        assert_eq!(cost.evaluate_seconds, None);
    }

    #[test]
    fn durations_read_well() {
        let all: Vec<String> = [0.4, 89.0, 90.0, 3_599.0, 3_600.0, 18_300.0, 187_000.0]
            .into_iter()
            .map(duration)
            .collect();
        insta::assert_snapshot!(all.join(", "), @"0 s, 89 s, 2 min, 1 h 00 min, 1 h 00 min, 5 h 05 min, 2 d 3 h");
    }
}
