//! Which runs one task of a job array does, and which tasks have to wait for others.
//!
//! A run that starts from another run's adapter comes behind it in the same task where it is the only one that does:
//! a chain of stages is one task, so that chains go on side by side and each waits for nothing but itself. Where several
//! runs start from one, each begins a task of the next level. The tasks of one level are one job array, which starts when
//! all of the level below have ended, in whatever way (`afterany`): a run whose origin failed then says so itself, and no
//! job stays in the queue for a success that never comes.

use std::collections::HashMap;

use crate::ResolvedRun;

/// Runs in the order in which one task does them.
pub type Task<'a> = Vec<&'a ResolvedRun>;

/// The tasks of `runs`, by level. `queued`: whether the run of a folder is in the queue already, so that what starts from it
/// has to wait. Tasks of a level are joined up to `per_task` runs.
pub fn levels<'a>(
    runs: &[&'a ResolvedRun],
    per_task: usize,
    queued: impl Fn(&str) -> bool,
) -> Vec<Vec<Task<'a>>> {
    let folders: HashMap<String, usize> = runs
        .iter()
        .enumerate()
        .map(|(i, run)| (run.folder(), i))
        .collect();
    let origin: Vec<Option<usize>> = runs
        .iter()
        .map(|run| folders.get(&run.init_from.as_ref()?.folder).copied())
        .collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); runs.len()];
    for (i, from) in origin.iter().enumerate() {
        if let Some(from) = from {
            followers[*from].push(i);
        }
    }
    let waits = |i: usize| {
        let from = runs[i].init_from.as_ref();
        from.is_some_and(|from| queued(&from.folder))
    };
    let mut levels: Vec<Vec<Task>> = Vec::new();
    // Heads of tasks, each with its level; what a hash covers has no circles, so every run is reached.
    let mut heads: Vec<(usize, usize)> = (0..runs.len())
        .filter(|i| origin[*i].is_none())
        .map(|i| (i, usize::from(waits(i))))
        .collect();
    let mut next = 0;
    while let Some(&(head, level)) = heads.get(next) {
        next += 1;
        let mut task = vec![runs[head]];
        let mut last = head;
        while let [only] = followers[last].as_slice() {
            task.push(runs[*only]);
            last = *only;
        }
        heads.extend(followers[last].iter().map(|&i| (i, level + 1)));
        if levels.len() <= level {
            levels.resize_with(level + 1, Vec::new);
        }
        match levels[level].last_mut() {
            Some(open) if open.len() + task.len() <= per_task => open.append(&mut task),
            _ => levels[level].push(task),
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::Origin;
    use crate::plan::tests::planned;

    /// Runs of seeds 0, 1, ..., each from the one that `from` says.
    fn runs(from: &[Option<usize>]) -> Vec<ResolvedRun> {
        let seeds: Vec<String> = (0..from.len()).map(|i| i.to_string()).collect();
        let seeds = format!("axes.seed=[{}]", seeds.join(", "));
        let plan = planned(SMALL, &["axes.method=[\"lora\"]", &seeds]).unwrap();
        let mut runs: Vec<ResolvedRun> = plan.runs;
        for i in 0..from.len() {
            runs[i].init_from = from[i].map(|from| Origin {
                folder: runs[from].folder(),
                hash: runs[from].hash(),
                optimizer: false,
            });
        }
        runs
    }

    fn seeds(levels: &[Vec<Task>]) -> Vec<Vec<Vec<u64>>> {
        let task = |task: &Task| task.iter().map(|run| run.seed).collect();
        levels
            .iter()
            .map(|level| level.iter().map(task).collect())
            .collect()
    }

    #[test]
    fn a_task_a_run_or_as_many_as_asked_for() {
        let runs = runs(&[None; 5]);
        let runs: Vec<&ResolvedRun> = runs.iter().collect();
        let of = |per_task| seeds(&levels(&runs, per_task, |_| false));
        assert_eq!(of(1), [vec![vec![0], vec![1], vec![2], vec![3], vec![4]]]);
        assert_eq!(of(2), [vec![vec![0, 1], vec![2, 3], vec![4]]]);
        assert_eq!(of(9), [vec![vec![0, 1, 2, 3, 4]]]);
    }

    /// Chains stay together, however their runs are mixed; a fork begins a level; an origin in the queue is waited for.
    #[test]
    fn chains_and_forks() {
        let from = [None, None, Some(0), Some(1), Some(2), Some(4), Some(4)];
        let runs = runs(&from);
        let all: Vec<&ResolvedRun> = runs.iter().collect();
        let found = seeds(&levels(&all, 1, |_| false));
        assert_eq!(
            found,
            [vec![vec![0, 2, 4], vec![1, 3]], vec![vec![5], vec![6]]]
        );
        let later = &all[2..];
        let found = seeds(&levels(later, 1, |_| false));
        assert_eq!(found, [vec![vec![2, 4], vec![3]], vec![vec![5], vec![6]]]);
        let queued = runs[1].folder();
        let found = seeds(&levels(later, 1, |folder| folder == queued));
        assert_eq!(found, [vec![vec![2, 4]], vec![vec![3], vec![5], vec![6]]]);
        // Behind the origin in the list or before it: the order of the plan does not matter.
        let mixed = [all[3], all[1]];
        assert_eq!(seeds(&levels(&mixed, 1, |_| false)), [vec![vec![1, 3]]]);
    }
}
