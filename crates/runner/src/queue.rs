//! In which order runs are done: that of the plan, but a run that starts from another's adapter waits for it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::ResolvedRun;
use crate::sweep::Outcome;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Finished,
    /// By divergence: it has a record and no adapter.
    Diverged,
    /// It had ended before, or was done elsewhere, and left an adapter where it trains one.
    Before,
    /// It had diverged before.
    DivergedBefore,
    Failed,
    /// Taken by another process.
    Busy,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This run can begin.
    Run(usize),
    /// This run ends so without having begun, for the reason in words.
    Barred(usize, Ended, String),
}

/// Runs of one plan and how far they are. A run is named by its place in the list.
pub struct Queue<'a> {
    runs: &'a [&'a ResolvedRun],
    /// The run in the list that each one starts from.
    from: Vec<Option<usize>>,
    given: Vec<bool>,
    ended: Vec<Option<Ended>>,
}

impl<'a> Queue<'a> {
    pub fn new(runs: &'a [&'a ResolvedRun]) -> Self {
        let hashes = runs.iter().enumerate().map(|(i, run)| (run.hash(), i));
        let places: HashMap<String, usize> = hashes.collect();
        let from = |run: &&ResolvedRun| places.get(&run.init_from.as_ref()?.hash).copied();
        Queue {
            runs,
            from: runs.iter().map(from).collect(),
            given: vec![false; runs.len()],
            ended: vec![None; runs.len()],
        }
    }

    /// The first run that can begin, or cannot any more. `None` while all that are left wait, and when none is left.
    ///
    /// A run whose start is not in the list can begin; whether the adapter is there is seen then.
    pub fn take(&mut self) -> Option<Next> {
        let mut open = (0..self.runs.len()).filter(|&run| !self.given[run]);
        let next = open.find_map(|run| self.look(run))?;
        let (Next::Run(run) | Next::Barred(run, ..)) = next;
        self.given[run] = true;
        Some(next)
    }

    /// Whether a run can begin, or never will; `None` while that is open.
    fn look(&self, run: usize) -> Option<Next> {
        let Some(from) = self.from[run] else {
            return Some(Next::Run(run));
        };
        let (ended, why) = match self.ended[from]? {
            Ended::Finished | Ended::Before => return Some(Next::Run(run)),
            Ended::Diverged | Ended::DivergedBefore => (Ended::Failed, "diverged"),
            Ended::Failed => (Ended::Failed, "failed"),
            Ended::Busy => (Ended::Busy, "is in use by another process"),
        };
        let label = self.runs[from].label();
        let reason = format!("it starts from the adapter of `{label}`, which {why}");
        Some(Next::Barred(run, ended, reason))
    }

    /// A run that was given has ended, or was found to have ended before.
    pub fn end(&mut self, run: usize, ended: Ended) {
        self.given[run] = true;
        self.ended[run] = Some(ended);
    }

    /// A run that was given is to be given again.
    pub fn give_back(&mut self, run: usize) {
        self.given[run] = false;
    }

    /// Runs that have neither ended nor been given.
    pub fn waiting(&self) -> usize {
        self.given.iter().filter(|given| !**given).count()
    }

    /// How all ended, by label in the order of the list.
    pub fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        for (run, ended) in self.runs.iter().zip(&self.ended) {
            let list = match ended {
                None => &mut outcome.stopped,
                Some(Ended::Finished) => &mut outcome.finished,
                Some(Ended::Diverged) => &mut outcome.diverged,
                Some(Ended::Before | Ended::DivergedBefore) => &mut outcome.done_before,
                Some(Ended::Failed) => &mut outcome.failed,
                Some(Ended::Busy) => &mut outcome.busy,
            };
            list.push(run.label());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::Origin;
    use crate::plan::tests::planned;

    /// Five seeds of which 1 starts from 0, 2 from 1, and 4 from 3.
    fn chain() -> Vec<ResolvedRun> {
        let sets = ["axes.method=[\"lora\"]", "axes.seed=[0, 1, 2, 3, 4]"];
        let mut runs = planned(SMALL, &sets).unwrap().runs;
        for (run, from) in [(1, 0), (2, 1), (4, 3)] {
            let (folder, hash) = (runs[from].folder(), runs[from].hash());
            runs[run].init_from = Some(Origin {
                folder,
                hash,
                optimizer: false,
            });
        }
        runs
    }

    /// No run begins before the adapter that it starts from is there; all others go on meanwhile.
    #[test]
    fn a_run_waits_for_the_one_it_starts_from() {
        let runs = chain();
        let runs: Vec<&ResolvedRun> = runs.iter().collect();
        let mut queue = Queue::new(&runs);
        assert_eq!(queue.take(), Some(Next::Run(0)));
        assert_eq!(queue.take(), Some(Next::Run(3)));
        assert_eq!(queue.take(), None);
        queue.end(0, Ended::Before);
        assert_eq!(queue.take(), Some(Next::Run(1)));
        // Its worker died.
        queue.give_back(3);
        assert_eq!(queue.take(), Some(Next::Run(3)));
        assert_eq!((queue.take(), queue.waiting()), (None, 2));
        queue.end(3, Ended::Finished);
        assert_eq!(queue.take(), Some(Next::Run(4)));
        queue.end(1, Ended::Finished);
        assert_eq!(queue.take(), Some(Next::Run(2)));
        assert_eq!((queue.take(), queue.waiting()), (None, 0));
        let outcome = queue.outcome();
        assert_eq!(outcome.done_before, ["lora-seed0"]);
        assert_eq!(outcome.finished, ["lora-seed1", "lora-seed3"]);
        assert_eq!(outcome.stopped, ["lora-seed2", "lora-seed4"]);
    }

    /// What depends on a failure fails with its reason, down the whole chain; behind a run of another process it is left as that one is.
    #[test]
    fn what_has_nothing_to_start_from_does_not_begin() {
        let runs = chain();
        let runs: Vec<&ResolvedRun> = runs.iter().collect();
        for (origin, bar, words) in [
            (Ended::Failed, Ended::Failed, "failed"),
            (Ended::Diverged, Ended::Failed, "diverged"),
            (Ended::DivergedBefore, Ended::Failed, "diverged"),
            (Ended::Busy, Ended::Busy, "is in use by another process"),
        ] {
            let mut queue = Queue::new(&runs);
            queue.end(0, origin);
            for (run, from, words) in [(1, "lora-seed0", words), (2, "lora-seed1", bar_words(bar))]
            {
                let reason = format!("it starts from the adapter of `{from}`, which {words}");
                assert_eq!(queue.take(), Some(Next::Barred(run, bar, reason)));
                queue.end(run, bar);
            }
            assert_eq!(queue.take(), Some(Next::Run(3)));
        }
    }

    fn bar_words(ended: Ended) -> &'static str {
        match ended {
            Ended::Busy => "is in use by another process",
            _ => "failed",
        }
    }
}
