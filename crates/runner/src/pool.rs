//! A sweep by several worker processes on one machine.
//!
//! The parent decides which run comes next and gives it to a worker; the worker takes the run's folder and writes its results, as a
//! sweep in one process does. Processes and not threads: a run that takes all memory, or is killed, takes no other with it, and
//! its folder is unlocked by the kernel. A worker that dies is replaced, and its run goes on from its last checkpoint.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::interrupt;
use crate::progress::{Progress, Report, Screen, Told};
use crate::queue::{Ended, Next, Queue};
use crate::sweep::{Folders, Outcome, bar, line, queue};
use crate::worker::{Event, Request};
use crate::{Context, ResolvedRun, Store};

/// Workers that a run may kill one after the other without getting any further.
const DEATHS: usize = 5;

/// Between two looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// Does `runs`, all of one plan, by up to `jobs` workers at a time.
///
/// # Errors
/// As [`crate::sweep::sweep`]; also where no worker can be started.
pub fn sweep(
    context: &Context,
    folders: &Folders,
    runs: &[&ResolvedRun],
    jobs: usize,
) -> Result<Outcome> {
    let store = folders.store();
    let (sender, events) = channel();
    let mut pool = Pool {
        context,
        folders,
        queue: queue(&store, runs),
        store,
        runs,
        jobs,
        workers: BTreeMap::new(),
        started: 0,
        deaths: vec![Deaths::default(); runs.len()],
        screen: Screen::new(context.quiet),
        sender,
        refused: None,
    };
    pool.run(&events)?;
    pool.dismiss();
    match pool.refused {
        Some(reason) => bail!(reason),
        None => Ok(pool.queue.outcome()),
    }
}

/// How often a run's workers died since it last got further.
#[derive(Debug, Clone, Copy, Default)]
struct Deaths {
    count: usize,
    all: usize,
    reached: (usize, u64, usize),
}

struct Worker {
    child: Child,
    input: ChildStdin,
    run: Option<usize>,
    shown: Option<(String, Progress)>,
}

/// What comes from a worker.
enum Heard {
    Event(Event),
    /// A line on its standard error.
    Line(String),
    Gone,
}

struct Pool<'a> {
    context: &'a Context,
    folders: &'a Folders,
    store: Store,
    runs: &'a [&'a ResolvedRun],
    jobs: usize,
    queue: Queue<'a>,
    /// By the order in which they were started.
    workers: BTreeMap<usize, Worker>,
    started: usize,
    deaths: Vec<Deaths>,
    screen: Screen,
    sender: Sender<(usize, Heard)>,
    refused: Option<String>,
}

impl Pool<'_> {
    fn run(&mut self, events: &Receiver<(usize, Heard)>) -> Result<()> {
        let mut stopping = false;
        loop {
            if !stopping && (interrupt::asked() || self.refused.is_some()) {
                stopping = true;
                self.workers
                    .values_mut()
                    .for_each(|w| w.ask(&Request::Stop));
            }
            if !stopping {
                self.hand_out()?;
            }
            if self.workers.values().all(|w| w.run.is_none()) {
                return Ok(());
            }
            match events.recv_timeout(LOOK) {
                Ok((worker, heard)) => self.hear(worker, heard, stopping)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Gives every idle worker a run, and starts workers while there are runs for them.
    fn hand_out(&mut self) -> Result<()> {
        while self.workers.values().filter(|w| w.run.is_some()).count() < self.jobs
            && let Some(next) = self.queue.take()
        {
            let run = match next {
                Next::Run(run) => run,
                Next::Barred(run, ended, reason) => {
                    self.bar(run, ended, &reason)?;
                    continue;
                }
            };
            let idle = self.workers.iter().find(|(_, w)| w.run.is_none());
            let id = match idle.map(|(id, _)| *id) {
                Some(id) => id,
                None => self.start()?,
            };
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.run = Some(run);
                worker.ask(&Request::Run(Box::new(self.runs[run].clone())));
            }
        }
        Ok(())
    }

    fn bar(&mut self, run: usize, ended: Ended, reason: &str) -> Result<()> {
        let say = |text: &str| self.screen.say(&line(self.runs, run, text));
        let ended = bar(
            self.context,
            &self.store,
            self.runs[run],
            ended,
            reason,
            &say,
        )?;
        self.queue.end(run, ended);
        Ok(())
    }

    fn hear(&mut self, id: usize, heard: Heard, stopping: bool) -> Result<()> {
        let Some(worker) = self.workers.get_mut(&id) else {
            return Ok(());
        };
        let say = |run: Option<usize>, text: &str| match run {
            Some(run) => self.screen.say(&line(self.runs, run, text)),
            None => self.screen.say(text),
        };
        match heard {
            Heard::Line(text) => say(worker.run, text.trim()),
            Heard::Event(Event::Told(Told::Said(text))) => {
                worker.hide();
                say(worker.run, text.trim());
            }
            Heard::Event(Event::Told(Told::Progress(report))) => {
                if let Some(run) = worker.run {
                    worker.show(&self.screen, line(self.runs, run, &report.name), &report);
                }
            }
            Heard::Event(Event::Ended(ended)) => {
                worker.hide();
                if let Some(run) = worker.run.take() {
                    // Killed between its record and the telling of it.
                    let again = self.deaths[run].all > 0;
                    let ended = match ended {
                        Ended::Before if again => Ended::Finished,
                        Ended::DivergedBefore if again => Ended::Diverged,
                        ended => ended,
                    };
                    self.queue.end(run, ended);
                }
            }
            Heard::Event(Event::Stopped) => {
                worker.hide();
                // Alone, it was asked by somebody else: another one goes on.
                if let Some(run) = worker.run.take().filter(|_| !stopping) {
                    self.queue.give_back(run);
                }
                self.dismiss_one(id);
            }
            Heard::Event(Event::Refused(reason)) => {
                worker.run = None;
                self.refused = Some(reason);
            }
            Heard::Gone => {
                worker.hide();
                let status = worker.child.wait().context("a worker's end is not known")?;
                let run = worker.run;
                self.workers.remove(&id);
                if let Some(run) = run.filter(|_| !stopping) {
                    self.died(run, &status.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// The run of a worker that died is given to another, or given up.
    fn died(&mut self, run: usize, how: &str) -> Result<()> {
        let reached = self.store.reached(self.runs[run]);
        let deaths = &mut self.deaths[run];
        deaths.all += 1;
        if reached > deaths.reached {
            *deaths = Deaths {
                count: 0,
                reached,
                ..*deaths
            };
        }
        deaths.count += 1;
        if deaths.count < DEATHS {
            let text = format!("its worker died ({how}): another one goes on");
            self.screen.say(&line(self.runs, run, &text));
            self.queue.give_back(run);
            return Ok(());
        }
        let reason = format!(
            "{DEATHS} workers died of it one after the other without getting further, the last by {how}; where memory ran out, \
             fewer --jobs help"
        );
        self.bar(run, Ended::Failed, &reason)
    }

    /// Starts a worker and two threads that listen to it.
    fn start(&mut self) -> Result<usize> {
        let mut child = command(self.context, self.folders, self.jobs)
            .spawn()
            .context("a worker cannot be started")?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(out), Some(err)) = pipes else {
            bail!("a worker was started without its pipes");
        };
        let id = self.started;
        self.started += 1;
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            lines(out, |line| {
                let heard = serde_json::from_str(&line).map_or(Heard::Line(line), Heard::Event);
                // The pool has ended: nobody listens any more.
                let _ = sender.send((id, heard));
            });
            let _ = sender.send((id, Heard::Gone));
        });
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            lines(err, |line| drop(sender.send((id, Heard::Line(line)))));
        });
        let worker = Worker {
            child,
            input,
            run: None,
            shown: None,
        };
        self.workers.insert(id, worker);
        Ok(id)
    }

    /// A worker without a run ends when its input does.
    fn dismiss_one(&mut self, id: usize) {
        if let Some(Worker {
            mut child, input, ..
        }) = self.workers.remove(&id)
        {
            drop(input);
            let _ = child.wait();
        }
    }

    fn dismiss(&mut self) {
        let workers: Vec<usize> = self.workers.keys().copied().collect();
        workers.into_iter().for_each(|id| self.dismiss_one(id));
    }
}

impl Worker {
    /// A worker that cannot be asked is about to be heard as gone.
    fn ask(&mut self, request: &Request) {
        let _ = serde_json::to_string(request)
            .map_err(std::io::Error::from)
            .and_then(|line| self.input.write_all(format!("{line}\n").as_bytes()))
            .and_then(|()| self.input.flush());
    }

    fn show(&mut self, screen: &Screen, name: String, report: &Report) {
        if self.shown.as_ref().is_none_or(|(shown, _)| *shown != name) {
            self.hide();
            let progress = screen.progress(&name, report.total);
            self.shown = Some((name, progress));
        }
        if let Some((_, progress)) = &mut self.shown {
            progress.set(report.done, &report.message);
        }
    }

    fn hide(&mut self) {
        if let Some((_, progress)) = self.shown.take() {
            progress.clear();
        }
    }
}

fn lines(pipe: impl Read, mut heard: impl FnMut(String)) {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        heard(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        bytes.clear();
    }
}

/// This program as a worker: the parent's settings, and its share of the cores.
fn command(context: &Context, folders: &Folders, jobs: usize) -> Command {
    let threads = (rayon::current_num_threads() / jobs).max(1).to_string();
    let mut command = Command::new(program());
    command
        .arg("worker")
        .arg("--results")
        .arg(&folders.results)
        .args(["--backend", &context.backend])
        .env("SHARELORA_ROOT", &context.root)
        .env("RAYON_NUM_THREADS", &threads)
        // libtorch's.
        .env("OMP_NUM_THREADS", &threads)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(mirror) = &context.hub.mirror {
        command.arg("--mirror").arg(mirror);
    }
    if context.quiet {
        command.arg("--quiet");
    }
    if context.unsafe_no_sandbox {
        command.arg("--unsafe-no-sandbox");
    }
    command
}

/// The file of this program. One that was built anew meanwhile is another program; Linux still has ours.
fn program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => "/proc/self/exe".into(),
    }
}
