//! Answers that are programs: run in the sandbox, their outcome becomes the grade `passed`.

use std::num::NonZero;

use anyhow::{Context as _, Result};
use sharelora_sandbox::{self as sandbox, Interpreter, Limits, Problem, Sandbox, Verdict};
use sharelora_tasks::{Sample, Task};

use crate::progress::Progress;

/// The sandbox that programs run in; `unconfined`: none, because the user said so.
///
/// # Errors
/// There is no Python, or nothing on this machine confines it.
pub fn sandbox(unconfined: bool) -> Result<Box<dyn Sandbox>> {
    let python = Interpreter::find()?;
    let found = match unconfined {
        true => sandbox::unconfined(&python),
        false => sandbox::active(&python),
    };
    found.context(
        "programs written by a model are not run here (--unsafe-no-sandbox runs them nevertheless)",
    )
}

/// Runs the programs among `samples` side by side and sets `passed`; returns the verdict of each sample that is one.
///
/// # Errors
/// The sandbox cannot start a program: never a program's fault.
pub fn grade(
    task: &dyn Task,
    samples: &mut [Sample],
    sandbox: &dyn Sandbox,
    quiet: bool,
) -> Result<Vec<Option<Verdict>>> {
    let programs: Vec<(usize, Problem, String)> = samples
        .iter()
        .enumerate()
        .filter_map(|(index, sample)| {
            let program = task.program(&sample.reference, &sample.answer)?;
            let problem = Problem {
                task_id: program.task_id,
                prompt: program.prompt,
                test: program.test,
                entry_point: program.entry_point,
            };
            Some((index, problem, program.completion))
        })
        .collect();
    let asked: Vec<sandbox::Sample> = programs
        .iter()
        .map(|(_, problem, completion)| sandbox::Sample {
            problem,
            completion,
        })
        .collect();
    let workers = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let progress = Progress::new("programs", asked.len() as u64, quiet);
    let progress = std::sync::Mutex::new(progress);
    let done = |count: usize| {
        if let Ok(mut progress) = progress.lock() {
            progress.set(count as u64, "");
        }
    };
    let found = sandbox::grade_all(sandbox, &asked, &Limits::default(), workers, &done)?;
    let mut verdicts = vec![None; samples.len()];
    let mut passed = 0;
    for ((index, ..), verdict) in programs.iter().zip(found) {
        let value = f64::from(u8::from(verdict == Verdict::Passed));
        passed += usize::from(verdict == Verdict::Passed);
        samples[*index].grades.insert("passed".into(), value);
        verdicts[*index] = Some(verdict);
    }
    if let Ok(progress) = progress.into_inner() {
        progress.finish(&format!("{passed} of {} passed", programs.len()));
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sharelora_tasks::{Answer, TaskOptions, task};

    /// A samples file can be graded alone: what is run comes from the reference, what fails is the completion's fault.
    #[test]
    fn programs_become_grades() {
        let python = match sandbox(false) {
            Ok(found) => found,
            Err(reason) => {
                println!("skipped: {reason:#}");
                return;
            }
        };
        let task = task("humaneval", &TaskOptions::default()).unwrap();
        let reference = serde_json::json!({
            "task_id": "HumanEval/0",
            "prompt": "def double(x):\n    \"\"\"Twice x.\"\"\"\n",
            "test": "def check(candidate):\n    assert candidate(4) == 8\n",
            "entry_point": "double",
        });
        let sample = |completion: &str| Sample {
            id: "HumanEval/0".into(),
            prompt: String::new(),
            reference: reference.to_string(),
            group: None,
            answer: Answer::Text(completion.into()),
            tokens: 1,
            grades: Default::default(),
        };
        let mut samples = [
            "    return 2 * x\n",
            "    return x\n",
            "    print('passed')\n    import os; os._exit(0)\n",
        ]
        .map(sample);
        let verdicts = grade(task.as_ref(), &mut samples, python.as_ref(), true).unwrap();
        let passed = samples.each_ref().map(|s| s.grades["passed"]);
        assert_eq!(passed, [1.0, 0.0, 0.0]);
        assert_eq!(verdicts[0], Some(Verdict::Passed));
        assert!(matches!(&verdicts[1], Some(Verdict::Failed(_))));
        assert!((task.metrics(&samples)["pass@1"].value - 1.0 / 3.0).abs() < 1e-12);
    }
}
