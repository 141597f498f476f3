//! A process that does the runs it is given, one after the other: requests come as lines of JSON, events go as lines of JSON.
//!
//! It keeps the base model between runs. Weights are mapped from their file, so all workers of a machine share the pages of one base.

use std::io::{BufRead, Write};
use std::sync::{Mutex, PoisonError, mpsc};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::base::Bases;
use crate::execute::execute;
use crate::progress::{self, Told};
use crate::queue::Ended;
use crate::sweep::do_run;
use crate::{Context, ResolvedRun, Store, interrupt};

/// What a worker is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Run(Box<ResolvedRun>),
    /// To stop where nothing is lost. The end of the input asks the same, and behind this it ends the worker at once.
    Stop,
}

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Told(Told),
    /// The run that it was given has ended.
    Ended(Ended),
    /// Asked to stop, before the run's end.
    Stopped,
    /// What keeps every further run from being done too.
    Refused(String),
}

/// Does the runs that come on standard input, until that ends.
///
/// # Errors
/// The system refuses to watch for signals.
pub fn work(context: &Context, store: &Store) -> Result<u8> {
    interrupt::listen_as_worker()?;
    progress::tell(|told| send(&Event::Told(told)));
    let (runs, given) = mpsc::channel();
    std::thread::spawn(move || read(&runs));
    let bases = Bases::default();
    let say = |text: &str| send(&Event::Told(Told::Said(text.to_owned())));
    for run in given {
        let done = do_run(
            context,
            store,
            &run,
            |run, dir, context| execute(run, dir, &bases, context),
            &say,
        );
        send(&match done {
            Ok(Some(ended)) => Event::Ended(ended),
            Ok(None) => Event::Stopped,
            Err(e) => Event::Refused(format!("{e:#}")),
        });
    }
    Ok(0)
}

/// Takes requests until the parent has no more, or is gone.
fn read(runs: &mpsc::Sender<ResolvedRun>) {
    let mut told_to_stop = false;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Request::Run(run)) => drop(runs.send(*run)),
            Ok(Request::Stop) => {
                told_to_stop = true;
                interrupt::ask();
            }
            Err(e) => {
                eprintln!("not a request: {e}");
                break;
            }
        }
    }
    if told_to_stop {
        interrupt::exit_at_once();
    }
    interrupt::ask();
}

/// A parent that is gone hears nothing: the end of the input tells of it too.
fn send(event: &Event) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _line = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, event)
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}
