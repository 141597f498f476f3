//! A sweep as job arrays of Slurm: what is missing is submitted, followed and, when all has ended, told by the records.
//!
//! Slurm decides where and when a task runs; what a run's result is, and whether there is one, the store alone says. So a
//! cluster without accounts, one that has forgotten a job, or one that was down for a while changes nothing but the words
//! for a run that is missing. One call submits a run at most once; what was cancelled or failed, the next call submits.

mod client;
mod manifest;
mod queue;
mod script;
mod spec;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};
use sharelora_report::Status;

pub use spec::SlurmSpec;

use crate::plan::hex;
use crate::progress::Progress;
use crate::store::{State, StoreError};
use crate::sweep::Outcome;
use crate::{ResolvedRun, Store, host};
use manifest::Submission;
use queue::Row;
use script::Script;
use tasks::{Task, levels};

/// How long the record of a task that Slurm calls completed may take to be seen: shared file systems tell late of new files.
const SETTLING: Duration = Duration::from_secs(60);

/// A sweep to be done by Slurm.
pub struct SlurmSweep<'a> {
    pub store: Store,
    /// The project's folder.
    pub root: PathBuf,
    pub experiment: &'a str,
    /// All of one plan.
    pub runs: &'a [&'a ResolvedRun],
    pub spec: &'a SlurmSpec,
    /// Most tasks that run at once.
    pub jobs: Option<usize>,
    /// The program and its arguments up to the labels: `sharelora run NAME`.
    pub command: Vec<String>,
    /// Its arguments behind them.
    pub options: Vec<String>,
    pub quiet: bool,
}

/// How following ended.
pub enum Followed {
    /// Nothing is in the queue any more. With the runs that have no record, each with what became of its task.
    Ended(Outcome, Vec<(String, String)>),
    /// The user stopped it; the jobs go on.
    Left,
}

/// What was submitted, and what is left for lack of room.
#[derive(Default)]
struct Submitted {
    jobs: Vec<u64>,
    tasks: usize,
    runs: usize,
    waiting: usize,
}

impl SlurmSweep<'_> {
    fn dir(&self) -> PathBuf {
        self.store.experiment_dir(self.experiment).join(".slurm")
    }

    /// What the names of its jobs begin with.
    fn name(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "_.-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let experiment: String = self.experiment.chars().map(plain).collect();
        format!("sharelora-{experiment}")
    }

    fn logs(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// The scripts that a call would submit now. Writes nothing.
    ///
    /// # Errors
    /// The manifest cannot be read, or Slurm not be asked about the jobs in it.
    pub fn dry_run(&self) -> Result<String> {
        let submissions = manifest::read(&self.dir())?;
        let rows = client::squeue(&names(&submissions))?;
        let live = live(&place(&submissions, &rows));
        let missing = self.missing(&live, &BTreeSet::new());
        let mut scripts = String::new();
        let mut below = Vec::new();
        for (level, tasks) in self.levels(&missing, &live).iter().enumerate() {
            let mut jobs = Vec::new();
            for part in tasks.chunks(client::max_array_size().max(1)) {
                let after = waits_for(part, &live, &below);
                let number = format!("<job {}.{} of this sweep>", level + 1, jobs.len() + 1);
                scripts.push_str(&format!(
                    "# {number}\n{}\n",
                    self.script(&self.name(), part, &after)
                ));
                jobs.push(number);
            }
            below = jobs;
        }
        Ok(scripts)
    }

    /// Submits what is missing, follows it, and tells how every run ended; `None` where it does not `wait`.
    ///
    /// # Errors
    /// Slurm is not here or refuses a job, or the results' folder cannot be written.
    pub fn sweep(&self, wait: bool) -> Result<Option<Followed>> {
        self.take_over()?;
        let done_before: BTreeSet<String> = self
            .runs
            .iter()
            .filter(|run| matches!(self.store.state(run), State::Done(_)))
            .map(|run| run.folder())
            .collect();
        let mut tried = BTreeSet::new();
        let mut submitted = Submitted::default();
        if done_before.len() < self.runs.len() {
            submitted = self.submit(&mut tried)?;
            self.tell(&submitted, tried.len());
        }
        if !wait {
            if submitted.waiting > 0 {
                self.say(&format!(
                    "{} runs are for a later call: the queue has no room for them",
                    submitted.waiting
                ));
            }
            return Ok(None);
        }
        let mut seen = BTreeMap::new();
        let any = !tried.is_empty() || submitted.waiting > 0;
        if any && !self.follow(submitted.waiting, &mut tried, &mut seen)? {
            return Ok(Some(Followed::Left));
        }
        Ok(Some(self.ended(&done_before, &seen)))
    }

    /// Fills the folders of runs that other experiments have done: no job is needed for these.
    fn take_over(&self) -> Result<()> {
        let others = self.store.folders();
        for run in self.runs {
            let done = matches!(self.store.state(run), State::Done(_));
            if done || self.store.done_elsewhere(run, &others).is_none() {
                continue;
            }
            match self.store.open(run) {
                // A task of an earlier call is at it.
                Ok(_) | Err(StoreError::Busy { .. }) => {}
                Err(e) => return Err(e).with_context(|| format!("run {}", run.label())),
            }
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// How to go on without this program.
    fn tell(&self, submitted: &Submitted, tried: usize) {
        if submitted.jobs.is_empty() {
            self.say(&format!(
                "{tried} runs are in the queue already, none is submitted"
            ));
            return;
        }
        let jobs: Vec<String> = submitted.jobs.iter().map(u64::to_string).collect();
        self.say(&format!(
            "{} runs submitted as {} tasks of job {}; `scancel {}` cancels them",
            submitted.runs,
            submitted.tasks,
            jobs.join(", "),
            jobs.join(" ")
        ));
    }

    /// Runs that are neither done, nor in the queue, nor tried by this call.
    fn missing(&self, live: &BTreeMap<String, u64>, tried: &BTreeSet<String>) -> Vec<&ResolvedRun> {
        let others = self.store.folders();
        let open = |run: &&ResolvedRun| {
            let folder = run.folder();
            !live.contains_key(&folder)
                && !tried.contains(&folder)
                && !matches!(self.store.state(run), State::Done(_))
                && self.store.done_elsewhere(run, &others).is_none()
        };
        self.runs.iter().copied().filter(open).collect()
    }

    fn levels<'r>(
        &self,
        missing: &[&'r ResolvedRun],
        live: &BTreeMap<String, u64>,
    ) -> Vec<Vec<Task<'r>>> {
        levels(missing, self.spec.runs_per_task, |folder| {
            live.contains_key(folder)
        })
    }

    fn script(&self, name: &str, tasks: &[Task], after: &[String]) -> String {
        let labels: Vec<Vec<String>> = tasks
            .iter()
            .map(|task| task.iter().map(|run| run.label()).collect())
            .collect();
        Script {
            name,
            root: &self.root,
            logs: &self.logs(),
            spec: self.spec,
            tasks: &labels,
            jobs: self.jobs,
            after,
            command: &self.command,
            options: &self.options,
        }
        .text()
    }

    /// Submits what is missing, as far as the queue has room, while no other process does. What is submitted, or was in the
    /// queue before, is from now on `tried`.
    fn submit(&self, tried: &mut BTreeSet<String>) -> Result<Submitted> {
        let dir = self.dir();
        let _lock = manifest::lock(&dir)?;
        let logs = self.logs();
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        let mut submissions = manifest::read(&dir)?;
        let rows = client::squeue(&names(&submissions))?;
        submissions.retain(|s| rows.iter().any(|row| row.name == s.name && row.is_live()));
        let live = live(&place(&submissions, &rows));
        let ours = self.runs.iter().map(|run| run.folder());
        tried.extend(ours.filter(|folder| live.contains_key(folder)));
        let missing = self.missing(&live, tried);
        let mut room = match [self.spec.max_submit, client::max_submit()]
            .into_iter()
            .flatten()
            .min()
        {
            Some(most) => most.saturating_sub(client::queued()?),
            None => usize::MAX,
        };
        let mut submitted = Submitted {
            waiting: missing.len(),
            ..Submitted::default()
        };
        let largest = client::max_array_size().max(1);
        let mut below = Vec::new();
        for tasks in self.levels(&missing, &live) {
            let tasks = &tasks[..tasks.len().min(room)];
            room -= tasks.len();
            let mut jobs = Vec::new();
            for part in tasks.chunks(largest) {
                let job =
                    self.submit_array(&mut submissions, part, &waits_for(part, &live, &below))?;
                jobs.push(job.to_string());
                submitted.jobs.push(job);
                submitted.tasks += part.len();
                for run in part.iter().flatten() {
                    tried.insert(run.folder());
                    submitted.runs += 1;
                    submitted.waiting -= 1;
                }
            }
            below = jobs;
        }
        Ok(submitted)
    }

    fn submit_array(
        &self,
        submissions: &mut Vec<Submission>,
        tasks: &[Task],
        after: &[String],
    ) -> Result<u64> {
        let submission = Submission {
            name: format!("{}-{}", self.name(), token()),
            job: None,
            submitted_at: host::now(),
            tasks: tasks
                .iter()
                .map(|task| task.iter().map(|run| run.folder()).collect())
                .collect(),
        };
        let script = self.script(&submission.name, tasks, after);
        let dir = self.dir();
        submissions.push(submission);
        manifest::write(&dir, submissions)?;
        let job = client::sbatch(&script);
        match (&job, submissions.last_mut()) {
            (Ok(job), Some(last)) => last.job = Some(*job),
            _ => drop(submissions.pop()),
        }
        manifest::write(&dir, submissions)?;
        job
    }

    /// Looks at the queue until none of the runs is in it; false where the user does not wait for that.
    fn follow(
        &self,
        mut waiting: usize,
        tried: &mut BTreeSet<String>,
        seen: &mut BTreeMap<String, Row>,
    ) -> Result<bool> {
        let stopped = Arc::new(AtomicBool::new(false));
        // A second Ctrl-C, while Slurm does not answer say, ends the program as ever.
        signal_hook::flag::register_conditional_default(
            signal_hook::consts::SIGINT,
            Arc::clone(&stopped),
        )?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stopped))?;
        let mut progress = Progress::new("runs", self.runs.len() as u64, self.quiet);
        let begun = Instant::now();
        let mut open: Vec<&ResolvedRun> = self.runs.to_vec();
        let mut unanswered = false;
        let mut completed = None;
        loop {
            // Often at first, and then no more often than an administrator likes.
            let pause =
                (begun.elapsed() / 20).clamp(Duration::from_secs(1), Duration::from_secs(30));
            let until = Instant::now() + pause;
            while Instant::now() < until && !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let submissions = manifest::read(&self.dir())?;
            if stopped.load(Ordering::Relaxed) {
                self.say_left(&submissions);
                return Ok(false);
            }
            let rows = match client::squeue(&names(&submissions)) {
                Ok(rows) => rows,
                Err(e) => {
                    if !unanswered && !stopped.load(Ordering::Relaxed) {
                        eprintln!("{e}; asked again until there is an answer");
                    }
                    unanswered = true;
                    continue;
                }
            };
            unanswered = false;
            let placed = place(&submissions, &rows);
            seen.extend(placed.iter().map(|(f, row)| (f.clone(), row.clone())));
            open.retain(|run| {
                let ended = self.store.run_dir(run).join("record.json").exists();
                !(ended && matches!(self.store.state(run), State::Done(_)))
            });
            let live: Vec<&Row> = open
                .iter()
                .filter_map(|run| placed.get(&run.folder()))
                .filter(|row| row.is_live())
                .collect();
            progress.set((self.runs.len() - open.len()) as u64, &told(&live));
            if waiting > 0 {
                let more = self.submit(tried)?;
                waiting = more.waiting;
                if !more.jobs.is_empty() {
                    self.tell(&more, tried.len());
                    continue;
                }
            }
            if !live.is_empty() || waiting > 0 {
                continue;
            }
            let late = open.iter().any(|run| {
                let row = seen.get(&run.folder());
                row.is_some_and(|row| row.state == "COMPLETED")
            });
            let since = *completed.get_or_insert_with(Instant::now);
            if !late || since.elapsed() > SETTLING {
                break;
            }
        }
        progress.finish(&format!(
            "{} of {} done",
            self.runs.len() - open.len(),
            self.runs.len()
        ));
        Ok(true)
    }

    fn say_left(&self, submissions: &[Submission]) {
        let jobs: Vec<String> = submissions
            .iter()
            .filter_map(|s| Some(s.job?.to_string()))
            .collect();
        eprintln!(
            "the jobs go on without this program: the same command follows them and collects, `scancel {}` cancels them",
            jobs.join(" ")
        );
    }

    /// How every run ended, by its record.
    fn ended(&self, done_before: &BTreeSet<String>, seen: &BTreeMap<String, Row>) -> Followed {
        let mut outcome = Outcome::default();
        let mut absent: Vec<(&ResolvedRun, Option<Row>)> = Vec::new();
        for run in self.runs {
            let (label, folder) = (run.label(), run.folder());
            let row = seen.get(&folder);
            let record =
                sharelora_report::read_record(&self.store.run_dir(run).join("record.json"));
            match (self.store.state(run), record) {
                (State::Done(_), _) if done_before.contains(&folder) => {
                    outcome.done_before.push(label)
                }
                (State::Done(record), _) if record.status == Status::Diverged => {
                    outcome.diverged.push(label);
                }
                (State::Done(_), _) => outcome.finished.push(label),
                // The record may be that of an earlier attempt.
                (_, Ok(record)) if row.is_none_or(Row::may_have_a_record) => {
                    let why = record.message.unwrap_or_default();
                    eprintln!("{label}: failed: {why}");
                    outcome.failed.push(label);
                }
                _ => absent.push((run, row.cloned())),
            }
        }
        self.ask_accounts(&mut absent);
        let absent = absent
            .into_iter()
            .map(|(run, row)| (run.label(), self.fate(row.as_ref())))
            .collect();
        Followed::Ended(outcome, absent)
    }

    /// Where squeue has forgotten how a task ended, the accounts may know.
    fn ask_accounts(&self, absent: &mut [(&ResolvedRun, Option<Row>)]) {
        let forgotten: BTreeSet<String> = absent
            .iter()
            .filter_map(|(_, row)| Some(row.as_ref().filter(|row| row.is_live())?.name.clone()))
            .collect();
        if forgotten.is_empty() {
            return;
        }
        let names: Vec<&str> = forgotten.iter().map(String::as_str).collect();
        let known = client::sacct(&names);
        for (_, row) in absent {
            let found = row.as_ref().and_then(|row| {
                known
                    .iter()
                    .find(|k| k.job == row.job && k.index == row.index)
            });
            if let Some(found) = found {
                *row = Some(found.clone());
            }
        }
    }

    fn fate(&self, row: Option<&Row>) -> String {
        let Some(row) = row else {
            return "its task left the queue unseen".into();
        };
        let ended = if row.is_live() {
            "left the queue".into()
        } else {
            row.text()
        };
        let index = row.index.map(|i| format!("_{i}")).unwrap_or_default();
        let log = self.logs().join(format!("{}{index}.log", row.job));
        format!("task {}{index}: {ended}; {}", row.job, log.display())
    }
}

/// What the runs in the queue do, in few words.
fn told(live: &[&Row]) -> String {
    let running = live.iter().filter(|row| row.is_running()).count();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for row in live.iter().filter(|row| !row.is_running()) {
        *reasons.entry(row.reason.as_str()).or_default() += 1;
    }
    let pending = live.len() - running;
    let why = reasons
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map(|(reason, _)| reason)
        .filter(|reason| !["", "None"].contains(reason))
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    format!("{running} running, {pending} waiting{why}")
}

fn names(submissions: &[Submission]) -> Vec<&str> {
    submissions.iter().map(|s| s.name.as_str()).collect()
}

/// What Slurm says of each run, by its folder; of several tasks for one run the one that lives, or the last.
fn place(submissions: &[Submission], rows: &[Row]) -> BTreeMap<String, Row> {
    let known: BTreeMap<(&str, Option<usize>), &Row> = rows
        .iter()
        .map(|row| ((row.name.as_str(), row.index), row))
        .collect();
    let mut placed: BTreeMap<String, Row> = BTreeMap::new();
    for submission in submissions {
        let name = submission.name.as_str();
        for (i, task) in submission.tasks.iter().enumerate() {
            // A row without a place speaks of all tasks that have none of their own.
            let row = known
                .get(&(name, Some(i)))
                .or_else(|| known.get(&(name, None)));
            let Some(row) = row else { continue };
            for folder in task {
                if row.is_live() || !placed.get(folder).is_some_and(Row::is_live) {
                    placed.insert(folder.clone(), (*row).clone());
                }
            }
        }
    }
    placed
}

/// The job of every run that is in the queue.
fn live(placed: &BTreeMap<String, Row>) -> BTreeMap<String, u64> {
    placed
        .iter()
        .filter(|(_, row)| row.is_live())
        .map(|(folder, row)| (folder.clone(), row.job))
        .collect()
}

/// The jobs that the tasks of an array wait for: those below, and those of an earlier call that they start from.
fn waits_for(tasks: &[Task], live: &BTreeMap<String, u64>, below: &[String]) -> Vec<String> {
    let earlier: BTreeSet<u64> = tasks
        .iter()
        .flatten()
        .filter_map(|run| live.get(&run.init_from.as_ref()?.folder).copied())
        .collect();
    let earlier = earlier.iter().map(u64::to_string);
    below.iter().cloned().chain(earlier).collect()
}

/// Eight digits that no other submission has.
fn token() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let seed = format!("{} {}", since.as_nanos(), std::process::id());
    hex(&Sha256::digest(seed.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, index: Option<usize>, state: &str) -> Row {
        Row {
            name: name.into(),
            job: 1,
            index,
            state: state.into(),
            reason: "None".into(),
        }
    }

    /// A run that was cancelled once and is in the queue again counts as queued; a row of a whole array leaves alone the
    /// tasks that have rows of their own, and a place that the array does not have is nothing.
    #[test]
    fn the_task_that_lives_counts() {
        let submission = |name: &str, tasks: &[&str]| Submission {
            name: name.into(),
            job: None,
            submitted_at: String::new(),
            tasks: tasks.iter().map(|t| vec![(*t).to_owned()]).collect(),
        };
        let submissions = [
            submission("old", &["a", "b"]),
            submission("new", &["a", "c", "d"]),
        ];
        let rows = [
            row("old", Some(0), "CANCELLED"),
            row("old", Some(1), "RUNNING"),
            row("old", Some(7), "RUNNING"),
            row("new", Some(0), "RUNNING"),
            row("new", Some(2), "COMPLETED"),
            row("new", None, "PENDING"),
            row("other", Some(0), "RUNNING"),
        ];
        let placed = place(&submissions, &rows);
        let states: Vec<(&str, &str)> = placed
            .iter()
            .map(|(folder, row)| (folder.as_str(), row.state.as_str()))
            .collect();
        assert_eq!(
            states,
            [
                ("a", "RUNNING"),
                ("b", "RUNNING"),
                ("c", "PENDING"),
                ("d", "COMPLETED")
            ]
        );
        let live: Vec<&Row> = placed.values().filter(|row| row.is_live()).collect();
        assert_eq!(told(&live), "2 running, 1 waiting");
    }
}
