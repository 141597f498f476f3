//! What a person sees while something takes long: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Seconds between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(15);

/// Progress of one piece of work, counted in steps, on standard error.
pub enum Progress {
    Quiet,
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

    /// The work is done: the bar goes away, the last line stays.
    pub fn finish(self, message: &str) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) => {
                let name = bar.prefix();
                bar.finish_and_clear();
                eprintln!("  {name} {message}");
            }
            Progress::Lines { name, .. } => eprintln!("  {name} {message}"),
        }
    }
}
