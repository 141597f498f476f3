//! One run: base, data, training, evaluation, record.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use sharelora_adapters::{Bank, Layout, Method, load_native, save_native};
use sharelora_hub::Progress;
use sharelora_model::weights::{TensorDtype, write_safetensors};
use sharelora_model::{Classifier, Labels, ModelConfig, Smoothing};
use sharelora_report::{Metric, Record, Status};
use sharelora_tasks::{Encoder, Request, Task, prompt_hash, task};

use crate::base::{Base, Bases};
use crate::device::device;
use crate::error::{ABSENT, AbsentError, exit_code};
use crate::evaluate::{Engine, Evaluated};
use crate::experiment::{BestBy, EvaluateSpec};
use crate::gradients::Learner;
use crate::meteor::meteor;
use crate::plan::Origin;
use crate::store::{ADAPTER_FILE, write_atomic};
use crate::sweep::blank_record;
use crate::train::train;
use crate::{Context, ResolvedRun, RunDir, data, host};

/// Does a run from what its folder holds to its record, which the caller writes.
///
/// # Errors
/// A file that is neither here nor to be had, data that does not fit, or a failure to write. A diverged run is a
/// record, not an error.
pub fn execute(
    run: &ResolvedRun,
    dir: &RunDir,
    bases: &Bases,
    context: &Context,
) -> Result<Record> {
    let mut record = blank_record(run, context, &host::now());
    let shown = if context.quiet {
        Progress::Quiet
    } else {
        Progress::Bar
    };
    let mut clock = Instant::now();
    let mut lap = |record: &mut Record, name: &str| {
        record
            .seconds
            .insert(name.into(), clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };

    let device = device(&run.backend)?;
    let Base { model, encoder } =
        bases.get(&run.model, run.model.dtype, &context.hub, &device, shown)?;
    record.base_parameters = model.config.parameters();
    let bank = match (run.method.sharing(), &run.adapter) {
        (Some(sharing), Some(config)) => {
            let layout = Layout::new(&model.config.sites(), sharing, config)?;
            record.trainable_parameters = layout.trainable_parameters();
            record.adapter_bytes = layout.adapter_bytes();
            Some(Bank::init(Arc::new(layout), run.seed, &device))
        }
        _ => None,
    };
    let mut learner = Learner::new(model, bank);
    if run.method == Method::Full {
        record.trainable_parameters = record.base_parameters;
        record.adapter_bytes = 4 * record.base_parameters;
    }
    let config = learner.model.config.clone();
    if let Some(labels) = labels(run, &config)? {
        record.head_parameters = Classifier::parameters(&config, labels);
        learner.head = Some(Classifier::init(&config, labels, run.seed, &device));
    }
    if let (Some(origin), Some(bank)) = (&run.init_from, &mut learner.bank) {
        *bank = start(origin, bank, dir, &device)?;
    }
    record
        .data
        .insert("tokenizer".into(), encoder.hash().into());
    lap(&mut record, "load");

    if let Some(spec) = &run.train {
        let data = data::prepare(spec, &config, &encoder, &context.root, &context.hub)?;
        if data.truncated > 0 {
            let name = format!("{} training rows", spec.task);
            record.truncated.insert(name, data.truncated as u64);
        }
        if spec.label_smoothing > 0.0 && learner.head.is_none() {
            let head = learner.model.head();
            learner.smoothing = Some(Smoothing::new(spec.label_smoothing, head, &device));
        }
        record
            .data
            .insert(format!("{} training rows", spec.task), data.hash.clone());
        lap(&mut record, "data");
        // Best by metric: the first evaluation's headline, as it stands between steps.
        let watched = match (spec.best_by, run.evaluate.first()) {
            (BestBy::Metric, Some(first)) => Some(Questions::new(first, context)?),
            _ => None,
        };
        let length = data::text_length(spec, &config);
        let metric = |learner: &Learner| -> Result<Option<f64>> {
            let Some(questions) = &watched else {
                return Ok(None);
            };
            let found = questions.ask(learner, &encoder, run.seed, length, true)?;
            let metrics = questions.task.metrics(&found.samples);
            Ok(metrics.get(questions.task.headline()).map(|m| m.value))
        };
        let trained = train(
            &mut learner,
            &data,
            spec,
            run.seed,
            dir,
            context.quiet,
            metric,
        )?;
        let state = trained.progressed;
        record.steps = state.step;
        record.train_loss = state.last_loss;
        record.held_out_loss_before = state.held_out_before;
        record.held_out_loss = state.kept_loss(spec.best_by);
        record.best_step = state.best.as_ref().map(|b| b.step);
        record.tokens_per_second =
            (state.seconds > 0.0).then(|| state.tokens as f64 / state.seconds);
        lap(&mut record, "train");
        record.seconds.insert("steps".into(), state.seconds);
        if let Some(reason) = trained.diverged {
            record.status = Status::Diverged;
            record.message = Some(reason);
            record.peak_memory_bytes = host::peak_resident_bytes();
            record.finished_at = host::now();
            return Ok(record);
        }
        save(&learner, dir)?;
    }

    let text_length = match &run.train {
        Some(spec) => data::text_length(spec, &config),
        None => config.max_positions(),
    };
    for spec in &run.evaluate {
        let questions = match Questions::new(spec, context) {
            Ok(questions) => questions,
            // A split that was asked for beside the task's own may be missing from a mirror.
            Err(e) if spec.options.split.is_some() && exit_code(&e) == ABSENT => {
                eprintln!("  {} is not scored: {e:#}", spec.samples_name());
                record
                    .not_measured
                    .insert(spec.samples_name(), format!("{e:#}"));
                continue;
            }
            Err(e) => return Err(e),
        };
        let task = questions.task.as_ref();
        let name = format!("{}/{}", task.name(), task.variant());
        let hash = prompt_hash(&questions.requests);
        record.data.insert(format!("{name} prompts"), hash);
        let found = questions.ask(&learner, &encoder, run.seed, text_length, context.quiet)?;
        if found.truncated > 0 {
            let name = format!("{name} prompts");
            record.truncated.insert(name, found.truncated as u64);
        }
        let mut lines = String::new();
        for sample in &found.samples {
            lines.push_str(&serde_json::to_string(sample)?);
            lines.push('\n');
        }
        write_atomic(&dir.samples(&spec.samples_name()), lines.as_bytes())?;
        for (grade, metric) in task.metrics(&found.samples) {
            record.metrics.insert(
                format!("{}/{grade}", task.name()),
                Metric {
                    value: metric.value,
                    stderr: metric.stderr,
                    n: metric.n as u64,
                },
            );
        }
        if let Some(corpus) = task.corpus(&found.samples) {
            match meteor(&corpus, &context.hub, shown) {
                Ok(metric) => {
                    let name = format!("{}/meteor", task.name());
                    record.metrics.insert(name, metric);
                }
                Err(reason) => {
                    let name = format!("{}/meteor", spec.samples_name());
                    record.not_measured.insert(name, reason);
                }
            }
        }
    }
    lap(&mut record, "evaluate");
    record.status = Status::Finished;
    record.peak_memory_bytes = host::peak_resident_bytes();
    record.finished_at = host::now();
    Ok(record)
}

/// What an `[[evaluate]]` asks.
struct Questions {
    task: Box<dyn Task>,
    requests: Vec<Request>,
    batch_size: usize,
}

impl Questions {
    fn new(spec: &EvaluateSpec, context: &Context) -> Result<Self> {
        let task = task(&spec.task, &spec.options)?;
        let rows = |split: &str| data::rows(task.as_ref(), split, &context.root, &context.hub);
        let eval = rows(task.eval_split())?;
        let shots = match spec.options.shots {
            Some(0) => Vec::new(),
            // Nothing is shown to a model whose answers are labels.
            _ if task.labels().is_some() => Vec::new(),
            _ => rows(task.train_split())?,
        };
        Ok(Questions {
            requests: task.requests(&eval, &shots)?,
            task,
            batch_size: spec.batch_size,
        })
    }

    fn ask(
        &self,
        learner: &Learner,
        encoder: &Encoder,
        seed: u64,
        text_length: usize,
        quiet: bool,
    ) -> Result<Evaluated> {
        let engine = Engine {
            learner,
            encoder,
            task: self.task.as_ref(),
            batch_size: self.batch_size,
            seed,
            text_length,
        };
        engine.evaluate(&self.requests, quiet)
    }
}

/// What the run's head has to predict; `None` where its tasks are answered by text.
fn labels(run: &ResolvedRun, config: &ModelConfig) -> Result<Option<Labels>> {
    let trained = run.train.iter().map(|t| (&t.task, &t.task_options));
    let scored = run.evaluate.iter().map(|e| (&e.task, &e.options));
    let mut found: Option<(String, Option<Labels>)> = None;
    for (name, options) in trained.chain(scored) {
        let labels = data::labels(task(name, options)?.as_ref());
        if labels.is_none() && !config.is_causal() {
            bail!(
                "task `{name}` is answered by text, and this model is an encoder: it labels texts"
            );
        }
        match &found {
            Some((first, other)) if *other != labels => {
                bail!(
                    "tasks `{first}` and `{name}` have different labels: one head cannot serve both"
                );
            }
            _ => found = Some((name.clone(), labels)),
        }
    }
    let labels = found.and_then(|(_, labels)| labels);
    if labels.is_some() && run.method == Method::Base {
        bail!("the method `base` trains nothing, and a head has to be trained: leave it out");
    }
    Ok(labels)
}

/// The adapter of the run that this one starts from.
fn start(origin: &Origin, bank: &Bank, dir: &RunDir, device: &Device) -> Result<Bank> {
    let file = dir
        .sibling(&origin.folder)
        .join("adapter")
        .join(ADAPTER_FILE);
    if !file.is_file() {
        return Err(AbsentError(format!(
            "{}: not there: this run starts from the adapter of `{}`, which has to be done first",
            file.display(),
            origin.folder
        ))
        .into());
    }
    let (found, _) = load_native(&file, device)?;
    if found.layout().sites != bank.layout().sites || found.layout().a != bank.layout().a {
        bail!("{}: another adapter than this run's", file.display());
    }
    Ok(Bank::from_values(
        bank.layout().clone(),
        found.values(),
        device,
    )?)
}

/// What was trained: the adapter and the head in the native format, or all weights.
fn save(learner: &Learner, dir: &RunDir) -> Result<()> {
    let modules = learner
        .head
        .as_ref()
        .map_or(Vec::new(), Classifier::modules);
    if let Some(bank) = &learner.bank {
        return Ok(save_native(bank, &modules, &dir.adapter_file())?);
    }
    let mut weights = learner.model.values();
    weights.extend(modules.into_iter().map(|m| (m.name, m.shape, m.values)));
    let path = dir.adapter().join("model.safetensors");
    std::fs::create_dir_all(dir.adapter())
        .with_context(|| format!("cannot make {}", dir.adapter().display()))?;
    Ok(write_safetensors(
        &path,
        &weights,
        TensorDtype::F32,
        &Default::default(),
    )?)
}
