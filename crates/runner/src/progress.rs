//! What a person sees while something takes long: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// Seconds between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(15);

/// Between two reports to a parent.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// How far a piece of work is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub name: String,
    pub total: u64,
    pub done: u64,
    pub message: String,
}

/// What a process without a screen of its own has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A line for the person.
    Said(String),
    Progress(Report),
}

type Listener = Box<dyn Fn(Told) + Send + Sync>;

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// From now on every [`Progress`] of this process goes to `listener` instead of standard error.
pub fn tell(listener: impl Fn(Told) + Send + Sync + 'static) {
    // A process has one parent.
    let _ = LISTENER.set(Box::new(listener));
}

/// Progress of one piece of work, counted in steps, on standard error.
pub enum Progress {
    Quiet,
    Told {
        listener: &'static Listener,
        name: String,
        total: u64,
        told: Option<Instant>,
    },
    Bar(ProgressBar),
    Lines {
        name: String,
        total: u64,
        done: u64,
        begun: Instant,
        said: Instant,
    },
}

impl Progress {
    pub fn new(name: &str, total: u64, quiet: bool) -> Self {
        if quiet {
            return Progress::Quiet;
        }
        if let Some(listener) = LISTENER.get() {
            return Progress::Told {
                listener,
                name: name.into(),
                total,
                told: None,
            };
        }
        if !std::io::stderr().is_terminal() {
            let now = Instant::now();
            return Progress::Lines {
                name: name.into(),
                total,
                done: 0,
                begun: now,
                said: now,
            };
        }
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(
            "  {prefix:<10} {bar:30} {pos}/{len} {per_sec} {eta} left {wide_msg}",
        ) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Progress::Bar(bar)
    }

    /// `done` steps are done; `message` says what the last one gave.
    pub fn set(&mut self, now_done: u64, message: &str) {
        match self {
            Progress::Quiet => {}
            Progress::Told {
                listener,
                name,
                total,
                told,
            } => {
                if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                    *told = Some(Instant::now());
                    listener(Told::Progress(Report {
                        name: name.clone(),
                        total: *total,
                        done: now_done,
                        message: message.to_owned(),
                    }));
                }
            }
            Progress::Bar(bar) => {
                bar.set_message(message.to_owned());
                bar.set_position(now_done);
            }
            Progress::Lines {
                name,
                total,
                done,
                begun,
                said,
            } => {
                *done = now_done;
                if said.elapsed() >= EVERY && now_done > 0 {
                    *said = Instant::now();
                    let left = begun.elapsed().as_secs_f64() / now_done as f64
                        * total.saturating_sub(now_done) as f64;
                    eprintln!("  {name} {now_done}/{total} {message} ({left:.0} s left)");
                }
            }
        }
    }

    /// The bar goes away without a word.
    pub fn clear(self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    /// The work is done: the bar goes away, the last line stays.
    pub fn finish(self, message: &str) {
        match self {
            Progress::Quiet => {}
            Progress::Told { listener, name, .. } => {
                listener(Told::Said(format!("{name} {message}")));
            }
            Progress::Bar(bar) => {
                let name = bar.prefix();
                bar.finish_and_clear();
                eprintln!("  {name} {message}");
            }
            Progress::Lines { name, .. } => eprintln!("  {name} {message}"),
        }
    }
}

/// The progress of several pieces of work at a time, and lines between.
pub struct Screen {
    /// Where there is a terminal.
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        let bars = !quiet && std::io::stderr().is_terminal();
        Screen {
            bars: bars.then(MultiProgress::new),
            quiet,
        }
    }

    /// As [`Progress::new`], below the others.
    pub fn progress(&self, name: &str, total: u64) -> Progress {
        match (Progress::new(name, total, self.quiet), &self.bars) {
            (Progress::Bar(bar), Some(bars)) => Progress::Bar(bars.add(bar)),
            (progress, _) => progress,
        }
    }

    /// Prints a line above all progress.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}
