//! Every run of a plan that is not done, one after the other; then the report. A run that fails is recorded and
//! the sweep goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use serde_json::Value;
use sharelora_adapters::Method;
use sharelora_report::bootstrap::resampled_scores;
use sharelora_report::{Paths, Record, ReportSpec, Status};
use sharelora_tasks::task;

use crate::base::Bases;
use crate::execute::execute;
use crate::plan::RESULT_VERSION;
use crate::store::{State, StoreError};
use crate::{Context, Plan, ResolvedRun, Store, held_out, host};

/// Where results are kept and reports written.
#[derive(Debug, Clone)]
pub struct Folders {
    pub results: PathBuf,
    pub reports: PathBuf,
}

impl Folders {
    pub fn store(&self) -> Store {
        Store::new(&self.results)
    }
}

/// How the runs of a sweep ended, by label.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub done_before: Vec<String>,
    pub finished: Vec<String>,
    pub diverged: Vec<String>,
    pub failed: Vec<String>,
    /// Taken by another process.
    pub busy: Vec<String>,
}

/// Does `runs`, all of one plan. What happens is told on standard error, unless the context is quiet.
///
/// # Errors
/// Only what would stop every further run too: the results' folder cannot be written.
pub fn sweep(context: &Context, store: &Store, runs: &[&ResolvedRun]) -> Result<Outcome> {
    let bases = Bases::default();
    sweep_with(context, store, runs, |run, dir, context| {
        execute(run, dir, &bases, context)
    })
}

/// As [`sweep`], with another way to execute a run.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_with(
    context: &Context,
    store: &Store,
    runs: &[&ResolvedRun],
    execute: impl Fn(&ResolvedRun, &crate::RunDir, &Context) -> Result<Record>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let say = |text: String| {
        if !context.quiet {
            eprintln!("{text}");
        }
    };
    for (i, run) in runs.iter().enumerate() {
        let label = run.label();
        if matches!(store.state(run), State::Done(_)) {
            outcome.done_before.push(label);
            continue;
        }
        let before = store.state(run);
        let dir = match store.open(run) {
            Ok(dir) => dir,
            Err(e @ StoreError::Busy { .. }) => {
                say(format!("[{}/{}] {label}: left out: {e}", i + 1, runs.len()));
                outcome.busy.push(label);
                continue;
            }
            Err(e) => return Err(e).with_context(|| format!("run {label}")),
        };
        // Another sweep may have finished it between the look and the lock.
        if matches!(dir.state(), State::Done(_)) {
            outcome.done_before.push(label);
            continue;
        }
        match before {
            State::Broken(reason) => say(format!(
                "[{}/{}] {label}: done again: {reason}",
                i + 1,
                runs.len()
            )),
            State::Unfinished(reason) => {
                say(format!("[{}/{}] {label}: {reason}", i + 1, runs.len()))
            }
            State::New | State::Done(_) => say(format!("[{}/{}] {label}", i + 1, runs.len())),
        }
        let started_at = host::now();
        crate::allocator::release();
        host::reset_peak();
        // A tensor library reports some mistakes, and a lack of memory, by a panic: the other runs may yet succeed.
        let result = catch_unwind(AssertUnwindSafe(|| execute(run, &dir, context))).unwrap_or_else(
            |panic| Err(anyhow::anyhow!("panicked: {}", panic_text(panic.as_ref()))),
        );
        let record = match result {
            Ok(record) => record,
            Err(e) => {
                let causes: Vec<String> = e.chain().map(ToString::to_string).collect();
                eprintln!(
                    "[{}/{}] {label}: failed: {}",
                    i + 1,
                    runs.len(),
                    causes.join(": ")
                );
                let mut record = blank_record(run, context, &started_at);
                record.message = Some(causes.join(": "));
                record
            }
        };
        dir.write_record(&record)
            .with_context(|| format!("run {label}"))?;
        match record.status {
            Status::Finished => outcome.finished.push(label),
            Status::Failed => outcome.failed.push(label),
            Status::Diverged => {
                say(format!(
                    "[{}/{}] {label}: the loss left the finite numbers",
                    i + 1,
                    runs.len()
                ));
                outcome.diverged.push(label);
            }
        }
    }
    Ok(outcome)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// A record of `run` with all that is known without running it, status `failed`: the start of every record.
pub fn blank_record(run: &ResolvedRun, context: &Context, started_at: &str) -> Record {
    Record {
        schema: sharelora_report::record::SCHEMA,
        experiment: run.experiment.clone(),
        run: run.label(),
        hash: run.hash(),
        status: Status::Failed,
        message: None,
        model: run.model.name.clone(),
        method: run.method.name().to_owned(),
        seed: run.seed,
        backend: run.backend.clone(),
        axes: run.axes.clone(),
        config: serde_json::to_value(run).unwrap_or(Value::Null),
        trainable_parameters: 0,
        head_parameters: 0,
        adapter_bytes: 0,
        base_parameters: 0,
        steps: 0,
        train_loss: None,
        held_out_loss: None,
        held_out_loss_before: None,
        best_step: None,
        metrics: BTreeMap::new(),
        not_measured: BTreeMap::new(),
        truncated: BTreeMap::new(),
        data: run
            .tasks
            .values()
            .map(|t| (t.dataset.clone(), t.rows.clone()))
            .collect(),
        versions: versions(run),
        git_commit: git_commit(&context.root),
        host: host::host(),
        started_at: started_at.to_owned(),
        finished_at: host::now(),
        seconds: BTreeMap::new(),
        tokens_per_second: None,
        peak_memory_bytes: host::peak_resident_bytes(),
    }
}

fn versions(run: &ResolvedRun) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([
        ("sharelora".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("result".to_owned(), run.result_version.to_string()),
    ]);
    versions.extend(
        run.tasks
            .iter()
            .map(|(name, info)| (format!("task {name}"), info.version.to_string())),
    );
    versions
}

/// The commit of the project's folder, where that is a git checkout and git is here.
fn git_commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .stderr(std::process::Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", "HEAD"]).filter(|text| !text.is_empty())?;
    // Results and reports are written by the run itself.
    let changed = git(&[
        "status",
        "--porcelain",
        "-uno",
        "--",
        ".",
        ":!results",
        ":!reports",
    ])?;
    Some(match changed.is_empty() {
        true => commit,
        false => format!("{commit} with changes"),
    })
}

/// A report and the table that it opens with.
pub struct Written {
    pub paths: Paths,
    /// For a terminal.
    pub table: String,
}

/// Writes `reports/EXPERIMENT` from the stored results of the plan's runs.
///
/// Only these: the folder may also hold runs of earlier settings (`--set`), which are no further seeds of the same.
/// So the report is made of a view of the folder, with records, steps and samples of the plan's runs alone.
///
/// # Errors
/// No run has a record yet, or a file cannot be read or written.
pub fn report(plan: &Plan, folders: &Folders, command: &str) -> Result<Written> {
    let store = folders.store();
    let experiment = &plan.experiment;
    let view = tempfile::tempdir().context("a temporary folder for the report cannot be made")?;
    let results = view.path().join(&experiment.name);
    std::fs::create_dir_all(&results)?;
    let mut records = 0;
    for run in &plan.runs {
        let from = store.run_dir(run);
        let to = results.join(run.folder());
        let state = store.state(run);
        let readable = match state {
            State::Done(_) => true,
            State::Unfinished(_) => from.join("record.json").exists(),
            State::New | State::Broken(_) => false,
        };
        records += usize::from(readable);
        let mut files = vec![(from.join("steps.jsonl"), true)];
        files.push((from.join("record.json"), readable));
        if readable {
            let samples = sharelora_report::samples::files(&from)?;
            files.extend(samples.into_values().map(|path| (path, true)));
        }
        for (path, wanted) in files {
            if wanted && path.is_file() {
                std::fs::create_dir_all(&to)?;
                std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))
                    .with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
    }
    if records == 0 {
        let dir = store.experiment_dir(&experiment.name);
        let others = std::fs::read_dir(&dir).map_or(0, |entries| {
            entries.flatten().filter(|e| e.path().is_dir()).count()
        });
        let hint = if others == 0 {
            String::new()
        } else {
            format!(
                " ({others} folders there belong to other settings: give the same --set and --backend as when they were made; \
                 runs of another result version than {RESULT_VERSION} are done again)"
            )
        };
        return Err(crate::error::AbsentError(format!(
            "{}: no run of this plan has a record{hint}; next: sharelora sweep {}",
            dir.display(),
            experiment.name
        ))
        .into());
    }
    let spec = ReportSpec {
        title: experiment.title.clone(),
        description: experiment.description.clone(),
        caveat: experiment.caveat.clone(),
        command: command.to_owned(),
    };
    let mut runs = sharelora_report::read_experiment(&results)?;
    runs.par_iter_mut().try_for_each(|run| {
        match plan.runs.iter().find(|p| p.folder() == folder_of(run)) {
            Some(planned) => resample_corpora(run, planned),
            None => Ok(()),
        }
    })?;
    let out = folders.reports.join(&experiment.name);
    let paths = sharelora_report::write_report_of(&runs, &results, &out, &spec)?;
    let table = sharelora_report::compare(&spec.title, &runs)
        .table
        .render(sharelora_report::Format::Terminal);
    Ok(Written { paths, table })
}

/// Scores of whole corpora, as BLEU and Matthews's coefficient, over resamples of the questions: for intervals and paired tests.
///
/// # Errors
/// A samples file cannot be read, or a task does not exist.
pub fn resample_corpora(run: &mut sharelora_report::Run, planned: &ResolvedRun) -> Result<()> {
    let files = sharelora_report::samples::files(&run.dir)?;
    for spec in &planned.evaluate {
        let task = task(&spec.task, &spec.options)?;
        if spec.loss.is_some() {
            if let Some(file) = files.get(&spec.samples_name()) {
                let mut samples = crate::samples::read(file)?;
                samples.sort_by(|a, b| a.id.cmp(&b.id));
                let rows = samples.len();
                let scores =
                    resampled_scores(rows, |chosen: &[usize]| held_out::loss(&samples, chosen));
                let name = format!("{}/{}", spec.measured(), held_out::METRIC);
                run.resampled.insert(name, scores);
            }
            continue;
        }
        let file = files.get(&spec.samples_name());
        let Some(file) = file.filter(|_| !task.corpus_scores(&[]).is_empty()) else {
            continue;
        };
        let mut samples = crate::samples::read(file)?;
        samples.sort_by(|a, b| a.id.cmp(&b.id));
        for (name, score) in task.corpus_scores(&samples) {
            let scores = resampled_scores(samples.len(), score);
            let name = format!("{}/{name}", task.name());
            run.resampled.insert(name, scores);
        }
    }
    Ok(())
}

fn folder_of(run: &sharelora_report::Run) -> String {
    let name = run.dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The method that parameters are compared with.
pub fn as_lora(run: &ResolvedRun) -> Option<ResolvedRun> {
    let lora = Method::named("lora").ok()?;
    run.adapter.is_some().then(|| ResolvedRun {
        method: lora,
        ..run.clone()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;
    use std::cell::RefCell;

    pub(crate) fn context(root: &Path) -> Context {
        Context {
            root: root.to_owned(),
            hub: sharelora_hub::Hub::from_vars(root, |_| None),
            backend: "flex".into(),
            quiet: true,
            unsafe_no_sandbox: false,
        }
    }

    pub(crate) fn finished(run: &ResolvedRun, context: &Context) -> Record {
        Record {
            status: Status::Finished,
            ..blank_record(run, context, &host::now())
        }
    }

    /// Finished and diverged runs are never done again; failed ones are, and do not stop the others.
    #[test]
    fn every_run_is_done_once() {
        let folder = tempfile::tempdir().unwrap();
        let (store, context) = (Store::new(folder.path()), context(folder.path()));
        let plan = planned(
            SMALL,
            &["axes.method=[\"base\", \"lora\", \"share_a\", \"share_b\"]"],
        )
        .unwrap();
        let runs: Vec<&ResolvedRun> = plan.runs.iter().collect();
        let tried = RefCell::new(Vec::new());
        let outcome = sweep_with(&context, &store, &runs, |run, _, context| {
            tried.borrow_mut().push(run.label());
            match run.method.name() {
                "base" => panic!("a matrix of the wrong shape"),
                "lora" => anyhow::bail!("out of luck"),
                "share_a" => Ok(Record {
                    status: Status::Diverged,
                    ..finished(run, context)
                }),
                _ => Ok(finished(run, context)),
            }
        })
        .unwrap();
        assert_eq!(outcome.failed, ["base", "lora-seed0"]);
        assert_eq!((outcome.diverged.len(), outcome.finished.len()), (1, 1));
        let State::Unfinished(reason) = store.state(runs[0]) else {
            panic!()
        };
        assert!(reason.contains("a matrix of the wrong shape"), "{reason}");
        let State::Unfinished(reason) = store.state(runs[1]) else {
            panic!()
        };
        assert!(reason.contains("out of luck"), "{reason}");

        tried.borrow_mut().clear();
        let held = store.open(runs[1]).unwrap();
        let outcome = sweep_with(&context, &store, &runs, |run, _, context| {
            tried.borrow_mut().push(run.label());
            Ok(finished(run, context))
        })
        .unwrap();
        assert_eq!(*tried.borrow(), ["base"]);
        assert_eq!(
            (outcome.busy, outcome.done_before.len()),
            (vec!["lora-seed0".to_owned()], 2)
        );
        drop(held);
    }

    /// Results of other settings lie in the same folder; they are not further seeds of this one.
    #[test]
    fn a_report_is_of_its_plan_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders {
            results: folder.path().join("results"),
            reports: folder.path().join("reports"),
        };
        let context = context(folder.path());
        for sets in [&["train.steps=3"][..], &[]] {
            let plan = planned(SMALL, sets).unwrap();
            let runs: Vec<&ResolvedRun> = plan.runs.iter().collect();
            sweep_with(&context, &folders.store(), &runs, |run, _, context| {
                Ok(finished(run, context))
            })
            .unwrap();
        }
        let plan = planned(SMALL, &[]).unwrap();
        let written = report(&plan, &folders, "sharelora sweep x").unwrap();
        let text = std::fs::read_to_string(&written.paths.report).unwrap();
        let other = planned(SMALL, &["train.steps=3"]).unwrap();
        // The base is the same run in both.
        assert!(
            text.contains(&plan.runs[1].short_hash()) || text.contains("lora-seed0"),
            "{text}"
        );
        assert!(!text.contains(&other.runs[1].short_hash()), "{text}");
        let none = report(
            &planned(SMALL, &["train.steps=4", "axes.method=[\"lora\"]"]).unwrap(),
            &folders,
            "",
        )
        .err()
        .unwrap();
        assert!(
            none.to_string().contains("belong to other settings"),
            "{none}"
        );
    }
}
