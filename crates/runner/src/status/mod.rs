//! How the runs of a sweep stand, from the files of their folders alone, so of any executor and any machine on one file system.
//!
//! `tail` follows a growing `steps.jsonl`, `curve` keeps its losses, `view` draws them in a terminal. A [`Sweep`] is looked at again
//! and again: what has not changed is not read again, and of what has grown the end alone.

pub mod curve;
pub mod tail;
#[cfg(unix)]
pub mod view;

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde::Serialize;
use sharelora_report::{Record, Status};

use crate::plan::ResolvedRun;
use crate::store::{State, Store, lock_line};
use crate::{Plan, host};
use curve::Curve;
use tail::Tail;

/// Another machine's lock cannot be asked from here; a run of which nothing was written for so long is shown as interrupted.
/// A guess, since a step may take any time; the reason says so.
const SILENT: Duration = Duration::from_secs(15 * 60);

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    ToDo,
    Running,
    /// Begun, and nobody works on it: the next sweep goes on from its checkpoint.
    Interrupted,
    Done,
    Diverged,
    Failed,
    /// Its files do not hold together; it will be done again.
    Broken,
}

impl Stage {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::ToDo => "to do",
            Stage::Running => "running",
            Stage::Interrupted => "interrupted",
            Stage::Done => "done",
            Stage::Diverged => "diverged",
            Stage::Failed => "failed",
            Stage::Broken => "broken",
        }
    }

    /// Whether somebody should look at it.
    pub fn needs_attention(self) -> bool {
        matches!(self, Stage::Diverged | Stage::Failed | Stage::Broken)
    }
}

/// One run as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunStatus {
    pub label: String,
    pub hash: String,
    pub folder: String,
    pub stage: Stage,
    /// Why it failed, diverged or is broken; of an interrupted run what is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who works on it, `process 12 on HOST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// What is answered of a task that is being scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<(String, usize)>,
    /// Optimizer steps done.
    pub step: u64,
    /// Of how many; `None` where epochs are not counted yet, 0 for the untouched base.
    pub steps: Option<u64>,
    /// Training loss of the last step, nats a token.
    pub loss: Option<f64>,
    /// The last held-out loss, nats a token.
    pub held_out_loss: Option<f64>,
    /// Over the last steps; of a finished run over all.
    pub tokens_per_second: Option<f64>,
    /// Until its last step, at the rate of the last steps; scoring not counted.
    pub seconds_left: Option<f64>,
    /// Seconds since anything was written, where somebody works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u64>,
    /// Training losses, in steps of equal number.
    #[serde(skip)]
    pub losses: Vec<f64>,
}

/// A file as it was looked at last.
type Seen = Option<(SystemTime, u64)>;

/// What is known of one run between two looks.
struct Followed {
    run: ResolvedRun,
    label: String,
    hash: String,
    folder: String,
    dir: PathBuf,
    /// Of `run.json` and `record.json`, and the state that they gave.
    seen: (Seen, Seen),
    state: State,
    tail: Tail,
    curve: Curve,
    /// An answers log as it was seen, and the answers in it.
    answers: HashMap<PathBuf, (Seen, usize)>,
}

/// The runs of a plan, followed.
pub struct Sweep {
    pub experiment: String,
    pub title: String,
    runs: Vec<Followed>,
    store: Store,
}

impl Sweep {
    pub fn new(plan: Plan, store: Store) -> Self {
        let follow = |run: ResolvedRun| {
            let (label, hash) = (run.label(), run.hash());
            let folder = format!("{label}-{}", &hash[..8]);
            Followed {
                dir: store.experiment_dir(&run.experiment).join(&folder),
                label,
                hash,
                folder,
                run,
                seen: (None, None),
                state: State::New,
                tail: Tail::default(),
                curve: Curve::default(),
                answers: HashMap::new(),
            }
        };
        Sweep {
            experiment: plan.experiment.name,
            title: plan.experiment.title,
            runs: plan.runs.into_iter().map(follow).collect(),
            store,
        }
    }

    /// Looks at every folder again.
    pub fn look(&mut self) -> Vec<RunStatus> {
        let held = held_inodes();
        let here = host::name();
        let store = &self.store;
        let mut all: Vec<RunStatus> = self
            .runs
            .par_iter_mut()
            .map(|run| run.look(store, held.as_ref(), &here))
            .collect();
        self.count_epochs(&mut all);
        all
    }

    /// The steps of runs with epochs, where a finished run on the same data says how many they are.
    fn count_epochs(&self, all: &mut [RunStatus]) {
        let of = |run: &ResolvedRun| {
            let train = run.train.as_ref()?;
            train.epochs?;
            let data = (&train.task, &train.task_options, train.rows, train.held_out);
            let batch = (train.epochs, train.batch_size, train.accumulation);
            serde_json::to_string(&(data, batch)).ok()
        };
        let mut known: HashMap<String, u64> = HashMap::new();
        for run in &self.runs {
            if let (State::Done(record), Some(key)) = (&run.state, of(&run.run))
                && record.status == Status::Finished
            {
                known.insert(key, record.steps);
            }
        }
        for (run, status) in self.runs.iter().zip(all) {
            if status.steps.is_none() {
                status.steps = of(&run.run).and_then(|key| known.get(&key).copied());
                status.seconds_left = run.seconds_left(status);
            }
        }
    }
}

fn seen(path: &Path) -> Seen {
    let file = std::fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

impl Followed {
    fn look(&mut self, store: &Store, held: Option<&HashSet<u64>>, here: &str) -> RunStatus {
        let now = (
            seen(&self.dir.join("run.json")),
            seen(&self.dir.join("record.json")),
        );
        if now != self.seen || matches!(self.state, State::New | State::Broken(_)) {
            self.state = store.state_of(&self.run.experiment, &self.folder, &self.hash);
            self.seen = now;
        }
        let steps = self.dir.join("steps.jsonl");
        // A file that is missing was never there, or its run begins again.
        let read = self.tail.read(&steps).unwrap_or_default();
        if read.anew {
            self.curve = Curve::default();
        }
        for step in &read.steps {
            if let Some(loss) = step.loss {
                self.curve.push(loss);
            }
        }
        let mut status = RunStatus {
            label: self.label.clone(),
            hash: self.hash.clone(),
            folder: self.folder.clone(),
            stage: Stage::ToDo,
            reason: None,
            holder: None,
            answered: None,
            step: self.tail.last.as_ref().map_or(0, |s| s.step),
            steps: match &self.run.train {
                Some(train) => train.steps.map(|n| n as u64),
                None => Some(0),
            },
            loss: self.tail.last.as_ref().and_then(|s| s.loss),
            held_out_loss: self.tail.held_out_loss,
            tokens_per_second: None,
            seconds_left: None,
            silent_seconds: None,
            losses: self.curve.values(),
        };
        match &self.state {
            State::Done(record) => ended(&mut status, record),
            State::New => {}
            State::Broken(reason) => {
                status.stage = Stage::Broken;
                status.reason = Some(reason.clone());
            }
            State::Unfinished(reason) => {
                status.stage = match self.seen.1 {
                    Some(_) => Stage::Failed,
                    None => Stage::Interrupted,
                };
                status.reason = Some(reason.trim_start_matches("failed before: ").to_owned());
            }
        }
        if !matches!(self.state, State::Done(_)) {
            self.look_for_worker(&mut status, held, here);
        }
        status
    }

    fn look_for_worker(&mut self, status: &mut RunStatus, held: Option<&HashSet<u64>>, here: &str) {
        let Some(line) = lock_line(&self.dir) else {
            return;
        };
        let is_here = line.host.as_deref().is_none_or(|host| host == here);
        let silent = silent(&self.dir);
        let working = is_held(&self.dir, is_here, held, silent);
        if !working {
            if status.stage == Stage::Interrupted && !is_here {
                let since = silent.map_or(0, |s| s.as_secs() / 60);
                status.reason = Some(format!("{}: nothing written for {since} min", line.who));
            }
            return;
        }
        status.stage = Stage::Running;
        status.reason = None;
        status.holder = Some(line.who);
        status.silent_seconds = silent.map(|s| s.as_secs());
        status.tokens_per_second = self.tail.tokens_per_second();
        status.seconds_left = self.seconds_left(status);
        status.answered = self.answered();
    }

    fn seconds_left(&self, status: &RunStatus) -> Option<f64> {
        if status.stage != Stage::Running {
            return None;
        }
        let left = status.steps?.saturating_sub(status.step);
        Some(left as f64 * self.tail.seconds_per_step()?)
    }

    /// The task that is being scored and its answers so far: of the log that was written last.
    fn answered(&mut self) -> Option<(String, usize)> {
        let mut latest: Option<(SystemTime, String, usize)> = None;
        for spec in &self.run.evaluate {
            let name = spec.samples_name();
            let path = self.dir.join(format!("answers-{name}.log.zst"));
            let Some(now) = seen(&path) else { continue };
            let known = self.answers.entry(path.clone()).or_insert((None, 0));
            if known.0 != Some(now) {
                *known = (Some(now), answers(&path));
            }
            if latest.as_ref().is_none_or(|(at, ..)| *at <= now.0) {
                latest = Some((now.0, name, known.1));
            }
        }
        latest.map(|(_, name, n)| (name, n))
    }
}

/// Whole lines of an answers log behind its head; a torn end is not there yet.
fn answers(path: &Path) -> usize {
    let decoder = std::fs::File::open(path).and_then(zstd::Decoder::new);
    decoder.map_or(0, |decoder| {
        let lines = BufReader::new(decoder).lines().map_while(Result::ok);
        lines.count().saturating_sub(1)
    })
}

fn ended(status: &mut RunStatus, record: &Record) {
    status.stage = match record.status {
        Status::Finished => Stage::Done,
        Status::Diverged => Stage::Diverged,
        Status::Failed => Stage::Failed,
    };
    status.reason = record.message.clone();
    status.step = record.steps;
    status.steps = status.steps.or(Some(record.steps));
    status.loss = record.train_loss;
    status.held_out_loss = record.held_out_loss;
    status.tokens_per_second = record.tokens_per_second;
}

/// Inodes of locked files, as this kernel knows them; `None` where it does not tell (`/proc/locks`, proc(5)).
///
/// Only looked at: to try a lock would take it for a moment, and a worker that comes then would leave the run out.
pub fn held_inodes() -> Option<HashSet<u64>> {
    let text = std::fs::read_to_string("/proc/locks").ok()?;
    Some(inodes_of(&text))
}

/// Who works on a run's folder now, as far as that can be seen: see [`SILENT`].
pub fn holder(dir: &Path, held: Option<&HashSet<u64>>) -> Option<String> {
    let line = lock_line(dir)?;
    let is_here = line.host.as_deref().is_none_or(|host| host == host::name());
    is_held(dir, is_here, held, silent(dir)).then_some(line.who)
}

/// Time since anything was written in a run's folder.
fn silent(dir: &Path) -> Option<Duration> {
    let names = ["lock", "steps.jsonl", "run.json", "checkpoint"];
    let files = names.into_iter().map(|name| dir.join(name));
    let logs = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let logs = logs.filter(|e| e.file_name().as_encoded_bytes().starts_with(b"answers-"));
    files
        .chain(logs.map(|e| e.path()))
        .filter_map(|path| age(&path))
        .min()
}

/// Time since a file was written.
fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).ok()?.modified().ok()?;
    // A clock that is behind another machine's: just now.
    Some(
        SystemTime::now()
            .duration_since(written)
            .unwrap_or_default(),
    )
}

/// By the kernel's list of locks for this machine, by what was written last for others.
fn is_held(
    dir: &Path,
    is_here: bool,
    held: Option<&HashSet<u64>>,
    silent: Option<Duration>,
) -> bool {
    match held {
        Some(held) if is_here => {
            std::fs::metadata(dir.join("lock")).is_ok_and(|m| held.contains(&inode(&m)))
        }
        // A record that is newer than all else ended the work.
        _ => silent.is_some_and(|silent| {
            let ended = age(&dir.join("record.json")).is_some_and(|ended| ended <= silent);
            silent < SILENT && !ended
        }),
    }
}

fn inodes_of(locks: &str) -> HashSet<u64> {
    // `1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF`; a waiting one has `->` behind its number and is not held.
    locks
        .lines()
        .filter(|line| !line.contains("->"))
        .filter_map(|line| {
            line.split_whitespace()
                .nth(5)?
                .rsplit(':')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(unix)]
fn inode(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// How many runs stand where, in the order of [`Stage`], those without any left out.
pub fn counts(runs: &[RunStatus]) -> Vec<(Stage, usize)> {
    use Stage::{Broken, Diverged, Done, Failed, Interrupted, Running, ToDo};
    [Done, Running, Interrupted, ToDo, Diverged, Failed, Broken]
        .into_iter()
        .map(|stage| (stage, runs.iter().filter(|r| r.stage == stage).count()))
        .filter(|(_, n)| *n > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;
    use crate::sweep::tests::{context, finished};

    fn step(n: u64) -> serde_json::Value {
        serde_json::json!({"step": n, "loss": 2.0 / n as f64, "learning_rate": 0.1, "grad_norm": 1.0, "tokens": 100 * n,
            "tokens_per_second": 50.0, "memory_bytes": 1, "held_out_loss": null})
    }

    fn stages(runs: &[RunStatus]) -> Vec<(&str, Option<&str>)> {
        runs.iter()
            .map(|r| (r.stage.name(), r.reason.as_deref()))
            .collect()
    }

    /// A sweep from its first run to its end: each stage is told from files alone, also when they change between two looks.
    #[test]
    fn runs_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path());
        let plan = planned(SMALL, &["axes.seed=[0, 1]"]).unwrap();
        let runs = plan.runs.clone();
        let mut sweep = Sweep::new(plan, store.clone());
        assert!(sweep.look().iter().all(|r| r.stage == Stage::ToDo));

        let dir = store.open(&runs[1]).unwrap();
        for n in 1..=4 {
            dir.append_step(&step(n)).unwrap();
        }
        let look = sweep.look();
        let running = &look[1];
        assert_eq!(running.stage, Stage::Running);
        assert!(running.holder.as_ref().unwrap().starts_with("process "));
        assert_eq!(
            (running.step, running.steps, running.loss),
            (4, Some(10), Some(0.5))
        );
        // 100 tokens a step at 50 a second; 6 steps are left.
        assert_eq!(
            (running.tokens_per_second, running.seconds_left),
            (Some(50.0), Some(12.0))
        );
        assert_eq!(running.losses.len(), 4);

        // Cut off in the middle of a line, then resumed from a checkpoint at step 2.
        drop(dir);
        assert_eq!(sweep.look()[1].stage, Stage::Interrupted);
        let dir = store.open(&runs[1]).unwrap();
        dir.truncate_after(2).unwrap();
        let again = &sweep.look()[1];
        assert_eq!(
            (again.stage, again.step, again.losses.len()),
            (Stage::Running, 2, 2)
        );

        let mut record = finished(&runs[1], &context(root.path()));
        record.status = Status::Failed;
        record.message = Some("no memory".into());
        dir.write_record(&record).unwrap();
        drop(dir);
        assert_eq!(stages(&sweep.look())[1], ("failed", Some("no memory")));
        record.status = Status::Diverged;
        record.message = Some("step 3: loss NaN".into());
        store.open(&runs[1]).unwrap().write_record(&record).unwrap();
        assert_eq!(
            stages(&sweep.look())[1],
            ("diverged", Some("step 3: loss NaN"))
        );
        let dir = store.open(&runs[0]).unwrap();
        dir.write_record(&finished(&runs[0], &context(root.path())))
            .unwrap();
        std::fs::write(dir.path().join("run.json"), "{").unwrap();
        drop(dir);
        assert_eq!(sweep.look()[0].stage, Stage::Broken);
    }

    /// The kernel's own lines: a lock that somebody waits for is not his.
    #[test]
    fn locks_are_read_from_the_kernels_list() {
        let text = "1: FLOCK  ADVISORY  WRITE 2114 fe:00:53 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 2115 fe:00:54 0 EOF\n\
                    2: POSIX  ADVISORY  READ  7 00:2b:99 0 0\n";
        assert_eq!(inodes_of(text), HashSet::from([53, 99]));
    }

    /// Answers of a log that grows while it is read.
    #[test]
    fn answers_are_counted_up_to_a_torn_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("answers-x.log.zst");
        let mut bytes = zstd::encode_all(&b"head\n1\n2\n"[..], 1).unwrap();
        let more = zstd::encode_all(&b"3\n"[..], 1).unwrap();
        bytes.extend(&more[..more.len() / 2]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(answers(&path), 2);
    }
}
