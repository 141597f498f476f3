//! HumanEval: 164 Python functions to be written from signature and description (Chen et al., arXiv 2107.03374).
//!
//! Source: lm-eval, `lm_eval/tasks/humaneval/humaneval.yaml` (prompt, stops, 1,024 tokens), and openai/human-eval
//! (the samples' format, see [`crate::completions`]). The prompt is the dataset's, as it is.
//! The most likely answer is taken, or `samples = n` are drawn at temperature 0.2 and top-p 0.95 (the paper: 0.2 for
//! pass@1, 0.8 for pass@100; `temperature`).
//!
//! A program is run elsewhere, see [`Task::program`], and leaves the grade `passed`. From n answers to a problem, c of which
//! pass, pass@k is estimated without bias (section 2.1): `1 - C(n-c, k) / C(n, k)`, as a product; averaged over problems.
//! Standard errors are over problems.
//!
//! Nothing is trained: the 164 problems are all there is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::repeats::{self, Repeats};
use crate::table::Row;
use crate::task::{
    self, Answer, Example, Metric, Program, Request, RequestKind, Sample, Sampling, Task,
    TaskOptions,
};
use crate::{Error, Result};

const NAME: &str = "humaneval";
const STOP: [&str; 5] = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"];

/// The grade that running a program gives.
const PASSED: &str = "passed";

/// See the module's text.
pub struct HumanEval {
    repeats: Repeats,
    max_new_tokens: usize,
    options: TaskOptions,
}

impl HumanEval {
    /// The task with these options; it has one variant and takes no worked examples.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        options.choose(NAME, &["lm_eval"])?;
        if options.shots.is_some_and(|shots| shots > 0) {
            return Err(Error::Option {
                task: NAME,
                key: "shots",
                reason: "takes no worked examples".to_owned(),
            });
        }
        let drawn = Sampling {
            temperature: 0.2,
            top_p: 0.95,
        };
        Ok(HumanEval {
            repeats: Repeats::new(NAME, options, drawn)?,
            max_new_tokens: options.new_tokens(NAME, 1024)?,
            options: options.clone(),
        })
    }
}

/// A problem as a reference keeps it, so that a sample can be graded without the dataset.
#[derive(Serialize, Deserialize)]
struct Problem {
    task_id: String,
    prompt: String,
    test: String,
    entry_point: String,
}

/// Name, prompt and reference of a problem.
pub(crate) fn problem(row: &Row) -> Result<(String, String, String)> {
    let text = |column: &str| row.text(column).map(str::to_owned);
    let problem = Problem {
        task_id: text("task_id")?,
        prompt: text("prompt")?,
        test: text("test")?,
        entry_point: text("entry_point")?,
    };
    // Four texts always serialise.
    let reference = serde_json::to_string(&problem).unwrap_or_default();
    Ok((problem.task_id, problem.prompt, reference))
}

/// The probability that one of `k` answers passes, estimated from `n` of which `c` pass; `k <= n`.
fn pass_at(k: usize, n: usize, c: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    let none: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    1.0 - none
}

impl Task for HumanEval {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        self.repeats.variant("lm_eval".to_owned())
    }

    fn dataset(&self) -> &str {
        NAME
    }

    fn train_split(&self) -> &str {
        "test"
    }

    fn eval_split(&self) -> &str {
        "test"
    }

    fn examples(&self, _rows: &[Row]) -> Result<Vec<Example>> {
        Err(Error::Untrained {
            task: NAME,
            reason: "its only split is the one that is scored",
        })
    }

    fn requests(&self, eval_rows: &[Row], _shot_rows: &[Row]) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for row in self.options.limited(eval_rows) {
            let (id, prompt, reference) = problem(row)?;
            requests.extend(self.repeats.requests(Request {
                id,
                prompt,
                kind: RequestKind::Generate {
                    stop: STOP.map(str::to_owned).into(),
                    max_new_tokens: self.max_new_tokens,
                },
                reference,
                group: None,
            }));
        }
        Ok(requests)
    }

    fn grade(&self, _request_reference: &str, _answer: &Answer) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }

    /// pass@k for k of 1, 10 and 100, where every problem has k graded answers. Problems without one are left out.
    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        // Answers and those that pass, of each problem.
        let counts: Vec<(usize, usize)> = repeats::by_question(samples)
            .iter()
            .map(|answers| {
                let passed = answers
                    .iter()
                    .filter_map(|sample| sample.grades.get(PASSED));
                let right = passed.clone().filter(|passed| **passed == 1.0);
                (passed.count(), right.count())
            })
            .filter(|(n, _)| *n > 0)
            .collect();
        let fewest = counts.iter().map(|(n, _)| *n).min().unwrap_or(0);
        [1, 10, 100]
            .into_iter()
            .filter(|k| *k <= fewest)
            .map(|k| {
                let of_problems: Vec<f64> =
                    counts.iter().map(|(n, c)| pass_at(k, *n, *c)).collect();
                (format!("pass@{k}"), task::mean(&of_problems))
            })
            .collect()
    }

    fn headline(&self) -> &str {
        "pass@1"
    }

    fn sampling(&self) -> Option<Sampling> {
        self.repeats.sampling
    }

    fn samples(&self) -> usize {
        self.repeats.samples
    }

    fn runs_programs(&self) -> bool {
        true
    }

    fn program(&self, request_reference: &str, answer: &Answer) -> Option<Program> {
        let problem: Problem = serde_json::from_str(request_reference).ok()?;
        Some(Program {
            task_id: problem.task_id,
            prompt: problem.prompt,
            test: problem.test,
            entry_point: problem.entry_point,
            completion: answer.text().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{mirror, mirrored};

    fn row(index: usize) -> Row {
        Row::of_texts([
            ("task_id", format!("HumanEval/{index}")),
            ("prompt", "def f(x):\n".into()),
            ("canonical_solution", "    return x\n".into()),
            (
                "test",
                "def check(candidate):\n    assert candidate(1) == 1\n".into(),
            ),
            ("entry_point", "f".into()),
        ])
    }

    fn with(samples: Option<usize>) -> HumanEval {
        HumanEval::new(&TaskOptions {
            samples,
            ..TaskOptions::default()
        })
        .unwrap()
    }

    fn sample(id: &str, passed: Option<bool>) -> Sample {
        Sample {
            id: id.into(),
            prompt: String::new(),
            reference: String::new(),
            group: None,
            answer: Answer::Text(String::new()),
            tokens: 0,
            grades: passed
                .map(|passed| (PASSED.to_owned(), f64::from(u8::from(passed))))
                .into_iter()
                .collect(),
        }
    }

    /// The product has to be the quotient of binomials of the definition.
    #[test]
    fn pass_at_k_by_hand() {
        for (k, n, c, wanted) in [
            (1, 1, 0, 0.0),
            (1, 1, 1, 1.0),
            (1, 5, 2, 0.4),
            (2, 5, 2, 1.0 - 3.0 / 10.0),
            (3, 5, 2, 1.0 - 1.0 / 10.0),
            (4, 5, 2, 1.0),
            (10, 20, 3, 1.0 - 120.0 / 1140.0),
            (100, 200, 0, 0.0),
        ] {
            let found = pass_at(k, n, c);
            assert!(
                (found - wanted).abs() < 1e-12,
                "{k} {n} {c}: {found} {wanted}"
            );
        }
    }

    proptest! {
        /// Counted out: of all ways to draw k of n answers, the share with one that passes.
        #[test]
        fn pass_at_k_is_a_share_of_draws(n in 1usize..12, c in 0usize..12, k in 1usize..12) {
            let (c, k) = (c.min(n), k.min(n));
            let draws = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
            let (all, with) = draws.fold((0, 0), |(all, with), set| {
                (all + 1, with + u32::from(set & ((1 << c) - 1) != 0))
            });
            let wanted = f64::from(with) / f64::from(all);
            prop_assert!((pass_at(k, n, c) - wanted).abs() < 1e-12);
        }
    }

    #[test]
    fn requests_go_problem_by_problem() {
        let one = with(None).requests(&[row(0)], &[]).unwrap();
        assert_eq!((one.len(), one[0].id.as_str()), (1, "HumanEval/0"));
        let several = with(Some(2)).requests(&[row(0), row(1)], &[]).unwrap();
        let ids: Vec<&str> = several.iter().map(|request| request.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "HumanEval/0#0",
                "HumanEval/0#1",
                "HumanEval/1#0",
                "HumanEval/1#1"
            ]
        );
        assert_eq!(several[0].prompt, one[0].prompt);
        assert_eq!(
            with(Some(2)).sampling(),
            Some(Sampling {
                temperature: 0.2,
                top_p: 0.95
            })
        );
        assert!(matches!(
            &one[0].kind,
            RequestKind::Generate { max_new_tokens: 1024, stop } if stop.len() == 5
        ));
        assert!(with(None).examples(&[row(0)]).is_err());
    }

    /// A samples file alone has to be enough to run the program again.
    #[test]
    fn programs_from_references() {
        let request = with(None).requests(&[row(0)], &[]).unwrap().remove(0);
        assert!(!request.reference.contains('\n'));
        let answer = Answer::Text("    return x".into());
        let program = with(None).program(&request.reference, &answer).unwrap();
        let row = row(0);
        for (found, column) in [
            (program.task_id, "task_id"),
            (program.prompt, "prompt"),
            (program.test, "test"),
            (program.entry_point, "entry_point"),
        ] {
            assert_eq!(found, row.text(column).unwrap());
        }
        assert_eq!(program.completion, answer.text());
        assert!(with(None).grade(&request.reference, &answer).is_empty());
        assert_eq!(with(None).program("#### 4", &answer), None);
    }

    /// pass@k is a mean over problems, whatever the order of the samples and however many answers each has.
    #[test]
    fn metrics_are_over_problems() {
        assert!(with(None).metrics(&[]).is_empty());
        assert!(with(None).metrics(&[sample("a", None)]).is_empty());
        let greedy = [
            sample("a", Some(true)),
            sample("b", Some(false)),
            sample("c", None),
        ];
        let found = with(None).metrics(&greedy);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["pass@1"]);
        assert_eq!((found["pass@1"].value, found["pass@1"].n), (0.5, 2));
        assert_eq!(found["pass@1"].stderr, Some(0.5));
        let mut drawn: Vec<Sample> = (0..20)
            .map(|i| sample(&format!("a#{i}"), Some(i < 3)))
            .chain((0..10).map(|i| sample(&format!("b#{i}"), Some(i == 9))))
            .collect();
        let found = with(Some(20)).metrics(&drawn);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["pass@1", "pass@10"]);
        assert!((found["pass@1"].value - (0.15 + 0.1) / 2.0).abs() < 1e-12);
        assert!((found["pass@10"].value - (2.0 - 120.0 / 1140.0) / 2.0).abs() < 1e-12);
        drawn.reverse();
        assert_eq!(with(None).metrics(&drawn), found);
    }

    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let rows = mirrored(
            &mirror,
            "humaneval",
            "datasets/openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet",
        );
        let requests = with(None).requests(&rows, &[]).unwrap();
        assert_eq!(requests.len(), 164);
        for (request, row) in requests.iter().zip(&rows) {
            let solution = row.text("canonical_solution").unwrap();
            let program = with(None)
                .program(&request.reference, &Answer::Text(solution.into()))
                .unwrap();
            assert_eq!(program.task_id, request.id);
            assert!(
                program
                    .prompt
                    .contains(&format!("def {}(", program.entry_point))
            );
            assert!(program.test.contains("def check("));
        }
    }
}
