//! One run: base, data, training, evaluation, record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use sharelora_adapters::{Bank, Layout, Method, load_native, save_native};
use sharelora_hub::Progress;
use sharelora_model::weights::{Checkpoint, TensorDtype, write_safetensors};
use sharelora_model::{Classifier, Labels, Model, ModelConfig, Smoothing, Storage};
use sharelora_report::{Metric, Record, Status};
use sharelora_sandbox::Sandbox;
use sharelora_tasks::{Encoder, Request, RequestKind, Task, prompt_hash, task};

use crate::base::{Base, Bases};
use crate::device::device;
use crate::error::{ABSENT, AbsentError, exit_code};
use crate::evaluate::Engine;
use crate::experiment::{BestBy, EvaluateSpec};
use crate::gradients::Learner;
use crate::held_out::{self, HeldOut};
use crate::interrupt;
use crate::meteor::meteor;
use crate::plan::Origin;
use crate::samples::{self, Log};
use crate::store::{ADAPTER_FILE, read_run};
use crate::sweep::blank_record;
use crate::train::train;
use crate::{Context, ResolvedRun, RunDir, checkpoint, data, host, programs, spectra, twins};

/// Name of fully fine-tuned weights in the folder `adapter`.
const FULL_FILE: &str = "model.safetensors";

/// Does a run from what its folder holds to its record, which the caller writes.
///
/// # Errors
/// A file that is neither here nor to be had, data that does not fit, or a failure to write; [`interrupt::Interrupted`], from which the run
/// can go on. A diverged run is a record, not an error.
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

    let sandbox = sandbox(run, context)?;
    let device = device(&run.backend)?;
    let Base { model, encoder } =
        bases.get(&run.model, run.model.dtype, &context.hub, &device, shown)?;
    record.base_parameters = model.config.parameters();
    let bank = match (run.method.sharing(), &run.adapter) {
        (Some(sharing), Some(config)) => {
            let layout = Layout::new(&model.config.sites(), sharing, config)?;
            record.trainable_parameters = layout.trainable_parameters();
            record.adapter_bytes = layout.adapter_bytes();
            Some(model.bank(Arc::new(layout), run.seed))
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
    if let Some(origin) = &run.init_from {
        match &mut learner.bank {
            Some(bank) => *bank = start(origin, bank, dir, &device)?,
            None => start_full(origin, &mut learner.model, dir, &device)?,
        }
        if origin.optimizer {
            carry_optimizer(origin, &mut learner, dir)?;
        }
    }
    record
        .data
        .insert("tokenizer".into(), encoder.hash().into());
    // What cannot be asked should be known before anything is trained.
    let held_out = held_out_rows(run, &config, &encoder, context)?;
    let evaluations = evaluations(run, &config, context, &mut record)?;
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
        let watched = match spec.best_by {
            BestBy::Metric => {
                let first = run.evaluate.first();
                let asked = evaluations
                    .iter()
                    .find(|(spec, _)| first.is_some_and(|first| std::ptr::eq(*spec, first)));
                if let (Some(first), None) = (first, asked) {
                    let name = first.samples_name();
                    bail!(
                        "`train.best_by` = \"metric\" needs `{name}`, whose questions are not here"
                    );
                }
                asked.map(|(_, questions)| questions)
            }
            BestBy::HeldOutLoss => None,
        };
        let length = data::text_length(spec, &config);
        let metric = |learner: &Learner| -> Result<Option<f64>> {
            let Some(questions) = watched else {
                return Ok(None);
            };
            let engine = questions.engine(learner, &encoder, run.seed, length);
            let found = engine.evaluate(&questions.requests, None, Vec::new(), true)?;
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
        if spectra::has_spectrum(run) {
            // What was trained is whole without it, and `sharelora spectrum` can make it later.
            if let Err(error) = spectra::leave(run, dir.path(), &context.hub) {
                eprintln!("  no spectrum was stored: {error:#}");
            }
            lap(&mut record, "spectrum");
        }
    }

    let text_length = match &run.train {
        Some(spec) => data::text_length(spec, &config),
        None => config.max_positions(),
    };
    // Kept until all are done: a run that is stopped in its second evaluation does not ask the first again.
    let mut logs = Vec::new();
    for (spec, questions) in &evaluations {
        let task = questions.task.as_ref();
        let name = format!("{}/{}", task.name(), task.variant());
        let hash = prompt_hash(&questions.requests);
        let (mut log, known) = Log::open(&dir.answers(&spec.samples_name()), &hash)?;
        record.data.insert(format!("{name} prompts"), hash);
        if let Some(note) = &questions.note {
            record.data.insert(format!("{name} note"), note.clone());
        }
        let engine = questions.engine(&learner, &encoder, run.seed, text_length);
        let requests = &questions.requests;
        let asked = requests.len() - known.len();
        let begun = Instant::now();
        let mut found = engine.evaluate(requests, Some(&mut log), known, context.quiet)?;
        // An evaluation that goes on from its log has no time of its own.
        if asked == requests.len() {
            let name = format!("evaluate {}", spec.samples_name());
            record.seconds.insert(name, begun.elapsed().as_secs_f64());
        }
        if found.truncated > 0 {
            let name = format!("{name} prompts");
            record.truncated.insert(name, found.truncated as u64);
        }
        if let Some(sandbox) = sandbox.as_ref().filter(|_| task.runs_programs()) {
            programs::grade(task, &mut found.samples, sandbox.as_ref(), context.quiet)?;
        }
        samples::write(&dir.samples(&spec.samples_name()), &found.samples)?;
        logs.push(log);
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
    for (spec, rows) in &held_out {
        let begun = Instant::now();
        let task = spec.measured();
        let found = rows.measure(&learner, &task, context.quiet);
        let name = format!("{task} held-out rows");
        if rows.truncated > 0 {
            record.truncated.insert(name.clone(), rows.truncated as u64);
        }
        record.data.insert(name, rows.hash.clone());
        samples::write(&dir.samples(&spec.samples_name()), &found)?;
        let elapsed = begun.elapsed().as_secs_f64();
        record
            .seconds
            .insert(format!("evaluate {}", spec.samples_name()), elapsed);
        if let Some(metric) = held_out::metric(&found) {
            let metric = Metric {
                value: metric.value,
                stderr: metric.stderr,
                n: metric.n as u64,
            };
            record
                .metrics
                .insert(format!("{task}/{}", held_out::METRIC), metric);
        }
    }
    // Ctrl-C at a terminal also reaches the programs that grade: what they said then is not to be trusted.
    interrupt::check()?;
    logs.into_iter().for_each(Log::remove);
    lap(&mut record, "evaluate");
    record.status = Status::Finished;
    record.peak_memory_bytes = host::peak_resident_bytes();
    record.finished_at = host::now();
    Ok(record)
}

/// What the run's evaluations ask; of a split that is not to be had the record says so.
///
/// # Errors
/// Data that is missing or does not fit, and answers that leave no room for a prompt.
fn evaluations<'a>(
    run: &'a ResolvedRun,
    config: &ModelConfig,
    context: &Context,
    record: &mut Record,
) -> Result<Vec<(&'a EvaluateSpec, Questions)>> {
    let mut found = Vec::new();
    for spec in run.evaluate.iter().filter(|spec| spec.loss.is_none()) {
        match Questions::new(spec, context) {
            Ok(questions) => {
                leave_room(&questions.requests, config)?;
                found.push((spec, questions));
            }
            // A split that was asked for beside the task's own may be missing from a mirror.
            Err(e) if spec.options.split.is_some() && exit_code(&e) == ABSENT => {
                let (name, reason) = (spec.samples_name(), format!("{e:#}"));
                eprintln!("  {name} is not scored: {reason}");
                record.not_measured.insert(name, reason);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// The rows whose loss the run's evaluations measure.
///
/// # Errors
/// As [`held_out::rows`], and rows that learned positions do not reach.
fn held_out_rows<'a>(
    run: &'a ResolvedRun,
    config: &ModelConfig,
    encoder: &Encoder,
    context: &Context,
) -> Result<Vec<(&'a EvaluateSpec, HeldOut)>> {
    let asked = run
        .evaluate
        .iter()
        .filter_map(|spec| Some((spec, spec.loss.as_ref()?)));
    asked
        .map(|(spec, loss)| {
            let task = task(&spec.task, &spec.options)?;
            let (length, positions) = (loss.max_source + loss.max_target, config.max_positions());
            if data::has_last_position(config) && length > positions {
                bail!(
                    "`evaluate.loss` of `{}`: max_source + max_target = {length}: the model has {positions} positions",
                    spec.task
                );
            }
            Ok((spec, held_out::rows(task.as_ref(), loss, encoder, context)?))
        })
        .collect()
}

/// Where positions are learned, a prompt and its answer have to fit into them.
fn leave_room(requests: &[Request], config: &ModelConfig) -> Result<()> {
    let limit = config.max_positions();
    let longest = requests.iter().filter_map(|request| match &request.kind {
        RequestKind::Generate { max_new_tokens, .. } => Some(*max_new_tokens),
        RequestKind::Choose { .. } | RequestKind::Classify { .. } => None,
    });
    if let Some(longest) = longest.max().filter(|&n| n >= limit)
        && data::has_last_position(config)
    {
        bail!(
            "`evaluate.options.max_new_tokens` = {longest} leaves no room for a prompt: the model has {limit} positions"
        );
    }
    Ok(())
}

/// The sandbox of programs that the run's evaluations may write: looked for before anything is trained.
fn sandbox(run: &ResolvedRun, context: &Context) -> Result<Option<Box<dyn Sandbox>>> {
    for spec in &run.evaluate {
        if task(&spec.task, &spec.options)?.runs_programs() {
            return programs::sandbox(context.unsafe_no_sandbox).map(Some);
        }
    }
    Ok(None)
}

/// What an `[[evaluate]]` asks.
struct Questions {
    task: Box<dyn Task>,
    requests: Vec<Request>,
    batch_size: usize,
    /// What the variant's name does not say of the worked examples.
    note: Option<String>,
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
            _ => match rows(task.train_split()) {
                // The task goes on without worked examples, and says so.
                Err(e) if exit_code(&e) == ABSENT && task.note(&[]).is_some() => Vec::new(),
                found => found?,
            },
        };
        Ok(Questions {
            requests: task.requests(&eval, &shots)?,
            note: task.note(&shots),
            task,
            batch_size: spec.batch_size,
        })
    }

    fn engine<'a>(
        &'a self,
        learner: &'a Learner,
        encoder: &'a Encoder,
        seed: u64,
        text_length: usize,
    ) -> Engine<'a> {
        Engine {
            learner,
            encoder,
            task: self.task.as_ref(),
            batch_size: self.batch_size,
            seed,
            text_length,
            share: true,
        }
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

/// What the run that this one starts from has left under `name`.
fn left_by(origin: &Origin, name: &str, dir: &RunDir) -> Result<PathBuf> {
    let file = dir.sibling(&origin.folder).join(name);
    if !file.is_file() {
        return Err(AbsentError(format!(
            "{}: not there: this run starts from `{}`, which has to be done first",
            file.display(),
            origin.folder
        ))
        .into());
    }
    Ok(file)
}

/// Lets training begin with AdamW's moments at the last step of the run that this one starts from: as a checkpoint of step 0.
fn carry_optimizer(origin: &Origin, learner: &mut Learner, dir: &RunDir) -> Result<()> {
    let sizes: Vec<usize> = (learner.matrices().iter())
        .map(|m| m.shape().num_elements())
        .collect();
    if let Ok(Some(_)) = checkpoint::load(&dir.checkpoint(), &sizes) {
        return Ok(());
    }
    let folder = match left_by(origin, "checkpoint/state", dir) {
        Ok(_) => dir.sibling(&origin.folder),
        // What is taken over from another experiment comes without its checkpoint, which is large and seldom asked for.
        Err(e) => twin_with_checkpoint(origin, dir).ok_or(e)?,
    };
    let folder = folder.join("checkpoint");
    let found = checkpoint::load(&folder, &sizes)?;
    let found = found.with_context(|| format!("{}: no state of AdamW", folder.display()))?;
    checkpoint::begin(&dir.checkpoint(), learner, found.moments)
}

/// The folder of another experiment that has done the same run and kept its checkpoint.
fn twin_with_checkpoint(origin: &Origin, dir: &RunDir) -> Option<PathBuf> {
    let results = dir.path().parent()?.parent()?;
    let twins = twins::folders(results, |short| origin.hash.starts_with(short));
    let kept = |path: &PathBuf| {
        path.join("checkpoint/state").is_file()
            && read_run(path).is_ok_and(|run| run.hash() == origin.hash)
    };
    twins.into_values().flatten().find(kept)
}

/// The weights of the fully fine-tuned run that this one starts from.
fn start_full(origin: &Origin, model: &mut Model, dir: &RunDir, device: &Device) -> Result<()> {
    let file = left_by(origin, &format!("adapter/{FULL_FILE}"), dir)?;
    let found = Checkpoint::open(std::slice::from_ref(&file))?;
    *model = Model::load(model.config.clone(), &found, Storage::F32, device)?;
    Ok(())
}

/// The adapter of the run that this one starts from.
fn start(origin: &Origin, bank: &Bank, dir: &RunDir, device: &Device) -> Result<Bank> {
    let file = left_by(origin, &format!("adapter/{ADAPTER_FILE}"), dir)?;
    let (found, _) = load_native(&file, device)?;
    let same = found.layout().matrices().eq(bank.layout().matrices());
    if found.layout().sites != bank.layout().sites || !same {
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
    let path = dir.adapter().join(FULL_FILE);
    std::fs::create_dir_all(dir.adapter())
        .with_context(|| format!("cannot make {}", dir.adapter().display()))?;
    Ok(write_safetensors(
        &path,
        &weights,
        TensorDtype::F32,
        &Default::default(),
    )?)
}
