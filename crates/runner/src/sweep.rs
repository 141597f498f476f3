//! Every run of a plan that is not done, one after the other. A run that fails is recorded and the sweep goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sharelora_adapters::Method;
use sharelora_report::{Record, Status};

use crate::base::Bases;
use crate::execute::execute;
use crate::interrupt::{self, Interrupted};
use crate::queue::{Ended, Next, Queue};
use crate::store::{State, StoreError};
use crate::{Context, ResolvedRun, Store, host};

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
    /// Not ended, since the sweep was asked to stop.
    pub stopped: Vec<String>,
}

/// Does `runs`, all of one plan, one after the other in this process. What happens is told on standard error, unless the
/// context is quiet.
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
    let mut queue = queue(store, runs);
    while !interrupt::asked()
        && let Some(next) = queue.take()
    {
        let (Next::Run(i) | Next::Barred(i, ..)) = next;
        let say = |text: &str| eprintln!("{}", line(runs, i, text));
        let ended = match next {
            Next::Run(i) => do_run(context, store, runs[i], &execute, &say)?,
            Next::Barred(i, ended, reason) => {
                Some(bar(context, store, runs[i], ended, &reason, &say)?)
            }
        };
        match ended {
            Some(ended) => queue.end(i, ended),
            None => break,
        }
    }
    Ok(queue.outcome())
}

/// The runs of a sweep without those that are done.
pub fn queue<'a>(store: &Store, runs: &'a [&'a ResolvedRun]) -> Queue<'a> {
    let mut queue = Queue::new(runs);
    for (i, run) in runs.iter().enumerate() {
        if let State::Done(record) = store.state(run) {
            queue.end(i, before(&record));
        }
    }
    queue
}

fn before(record: &Record) -> Ended {
    match record.status {
        Status::Diverged => Ended::DivergedBefore,
        Status::Finished | Status::Failed => Ended::Before,
    }
}

/// What is told of a run of a sweep: `[3/9] LABEL: TEXT`.
pub fn line(runs: &[&ResolvedRun], i: usize, text: &str) -> String {
    let colon = if text.is_empty() { "" } else { ": " };
    let (place, all) = (i + 1, runs.len());
    format!("[{place}/{all}] {}{colon}{text}", runs[i].label())
}

/// Does one run, from taking its folder to its record. What a person should know is said, an empty text where nothing is worth
/// more than that the run begins. `None`: asked to stop, before its end.
///
/// # Errors
/// As [`sweep`].
pub fn do_run(
    context: &Context,
    store: &Store,
    run: &ResolvedRun,
    execute: impl Fn(&ResolvedRun, &crate::RunDir, &Context) -> Result<Record>,
    say: &dyn Fn(&str),
) -> Result<Option<Ended>> {
    let say_aloud = say;
    let say = |text: &str| {
        if !context.quiet {
            say_aloud(text);
        }
    };
    let found = store.state(run);
    let dir = match store.open(run) {
        Ok(dir) => dir,
        Err(e @ StoreError::Busy { .. }) => {
            say(&format!("left out: {e}"));
            return Ok(Some(Ended::Busy));
        }
        Err(e) => return Err(e).with_context(|| format!("run {}", run.label())),
    };
    // Another experiment has done it, or another sweep between the look and the lock.
    if let State::Done(record) = dir.state() {
        if let Some(twin) = dir.taken_from() {
            say(&format!("taken over from {}", twin.display()));
        }
        return Ok(Some(before(&record)));
    }
    match found {
        State::Broken(reason) => say(&format!("done again: {reason}")),
        State::Unfinished(reason) => say(&reason),
        State::New | State::Done(_) => say(""),
    }
    let started_at = host::now();
    crate::allocator::release();
    host::reset_peak();
    // A tensor library reports some mistakes, and a lack of memory, by a panic: the other runs may yet succeed.
    let result = catch_unwind(AssertUnwindSafe(|| execute(run, &dir, context)))
        .unwrap_or_else(|panic| Err(anyhow::anyhow!("panicked: {}", panic_text(panic.as_ref()))));
    let record = match result {
        Ok(record) => record,
        Err(e) if e.is::<Interrupted>() => return Ok(None),
        Err(e) => {
            let causes: Vec<String> = e.chain().map(ToString::to_string).collect();
            let reason = causes.join(": ");
            say_aloud(&format!("failed: {reason}"));
            failed(run, context, &started_at, reason)
        }
    };
    dir.write_record(&record)
        .with_context(|| format!("run {}", run.label()))?;
    Ok(Some(match record.status {
        Status::Finished => Ended::Finished,
        Status::Failed => Ended::Failed,
        Status::Diverged => {
            say("the loss left the finite numbers");
            Ended::Diverged
        }
    }))
}

/// Ends a run that cannot begin, or cannot go on, for a reason: a failure is recorded.
///
/// # Errors
/// As [`sweep`].
pub fn bar(
    context: &Context,
    store: &Store,
    run: &ResolvedRun,
    ended: Ended,
    reason: &str,
    say: &dyn Fn(&str),
) -> Result<Ended> {
    if ended != Ended::Failed {
        if !context.quiet {
            say(&format!("left out: {reason}"));
        }
        return Ok(ended);
    }
    let execute = |_: &ResolvedRun, _: &crate::RunDir, _: &Context| bail!("{reason}");
    // Never stopped: the reason is there at once.
    Ok(do_run(context, store, run, execute, say)?.unwrap_or(ended))
}

fn failed(run: &ResolvedRun, context: &Context, started_at: &str, reason: String) -> Record {
    Record {
        message: Some(reason),
        ..blank_record(run, context, started_at)
    }
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

/// The commit of the project's folder, where that is a git checkout and git is here. Looked up once: this process is the program
/// as it was then, and starting git costs more than all else around a run.
fn git_commit(root: &Path) -> Option<String> {
    static FOUND: Mutex<BTreeMap<PathBuf, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let commit = found.entry(root.to_owned());
    commit.or_insert_with(|| look_up_commit(root)).clone()
}

fn look_up_commit(root: &Path) -> Option<String> {
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
}
