//! MMLU: multiple choice questions over 57 subjects (Hendrycks et al., arXiv 2009.03300).
//!
//! Scored by the log-probability of the letter after `Answer:`; the subject's `dev` rows, in order, are
//! the worked examples. Source: lm-eval `lm_eval/tasks/mmlu` and the ShareLoRA code,
//! `sharelora/lora_llama3_share.py` with the prompts of `sharelora/data/mmlu`.
//!
//! | variant | header | question | choices |
//! |---|---|---|---|
//! | `lm_eval` (default) | `about {subject}.` | trimmed | ` A` .. ` D` |
//! | `released` | `about  {subject}.`, two spaces | as is | `A` .. `D`, other tokens than ` A` .. ` D` |
//!
//! lm-eval averages over questions (`accuracy`), the ShareLoRA code over subjects (`accuracy_macro`). `limit`
//! counts per subject, as each subject is a task of its own in lm-eval. The default is 5 worked examples.
//! The four areas (`accuracy_stem`, ..) are lm-eval's groups, averages over their questions; the authors' own list has
//! anatomy under other, not under STEM. `breakdown` has the subjects.

use std::collections::{BTreeMap, HashMap};

use crate::table::Row;
use crate::task::{
    self, Answer, Example, Metric, Request, RequestKind, Sample, Target, Task, TaskOptions,
};
use crate::{Error, Result};

const NAME: &str = "mmlu";
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// The areas and their subjects, as the tags of lm-eval's task files.
#[rustfmt::skip]
pub(crate) const AREAS: [(&str, &[&str]); 4] = [
    ("stem", &[
        "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry",
        "college_computer_science", "college_mathematics", "college_physics", "computer_security",
        "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
        "high_school_chemistry", "high_school_computer_science", "high_school_mathematics",
        "high_school_physics", "high_school_statistics", "machine_learning",
    ]),
    ("humanities", &[
        "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios",
        "philosophy", "prehistory", "professional_law", "world_religions",
    ]),
    ("social_sciences", &[
        "econometrics", "high_school_geography", "high_school_government_and_politics",
        "high_school_macroeconomics", "high_school_microeconomics", "high_school_psychology",
        "human_sexuality", "professional_psychology", "public_relations", "security_studies", "sociology",
        "us_foreign_policy",
    ]),
    ("other", &[
        "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging",
        "management", "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
        "professional_medicine", "virology",
    ]),
];

/// See the module's text.
pub struct Mmlu {
    released: bool,
    shots: usize,
    limit: usize,
}

impl Mmlu {
    /// The task with these options.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        if options.max_new_tokens.is_some() {
            let reason = "nothing is generated: letters are scored".to_owned();
            return Err(Error::Option {
                task: NAME,
                key: "max_new_tokens",
                reason,
            });
        }
        let released = options.choose(NAME, &["lm_eval", "released"])? == 1;
        Ok(Mmlu {
            released,
            shots: options.shots.unwrap_or(5),
            limit: options.limit.unwrap_or(usize::MAX),
        })
    }

    fn header(&self, subject: &str) -> String {
        let space = if self.released { " " } else { "" };
        let subject = subject.replace('_', " ");
        format!(
            "The following are multiple choice questions (with answers) about {space}{subject}.\n\n"
        )
    }

    fn question(&self, index: usize, row: &Row) -> Result<String> {
        let question = row.text("question")?;
        let mut text = if self.released {
            question
        } else {
            question.trim()
        }
        .to_owned();
        let choices = row.list("choices")?;
        if choices.len() != LETTERS.len() {
            let reason = format!("has {} choices instead of {}", choices.len(), LETTERS.len());
            return Err(Error::Row {
                task: NAME,
                row: index.to_string(),
                reason,
            });
        }
        for (letter, choice) in LETTERS.iter().zip(choices) {
            text += &format!("\n{letter}. {choice}");
        }
        Ok(text + "\nAnswer:")
    }

    fn letter(&self, index: usize, row: &Row) -> Result<&'static str> {
        let answer = row.int("answer")?;
        usize::try_from(answer)
            .ok()
            .and_then(|answer| LETTERS.get(answer))
            .copied()
            .ok_or_else(|| Error::Row {
                task: NAME,
                row: index.to_string(),
                reason: format!("answer {answer} is not one of 0, 1, 2, 3"),
            })
    }

    /// The header and the worked examples of every subject in `eval_rows`.
    fn headers(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<HashMap<String, String>> {
        let by_subject = task::shots_by(shot_rows, "subject", self.shots)?;
        let mut headers = HashMap::new();
        for row in eval_rows {
            let subject = row.text("subject")?;
            if headers.contains_key(subject) {
                continue;
            }
            let mut header = self.header(subject);
            let rows = by_subject
                .get(subject)
                .map(Vec::as_slice)
                .unwrap_or_default();
            task::enough(NAME, "subject", subject, rows.len(), self.shots)?;
            for (index, row) in rows.iter().enumerate() {
                header += &format!(
                    "{} {}\n\n",
                    self.question(index, row)?,
                    self.letter(index, row)?
                );
            }
            headers.insert(subject.to_owned(), header);
        }
        Ok(headers)
    }
}

impl Task for Mmlu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        format!(
            "{}_{}_shot",
            if self.released { "released" } else { "lm_eval" },
            self.shots
        )
    }

    fn dataset(&self) -> &str {
        "mmlu"
    }

    fn train_split(&self) -> &str {
        "dev"
    }

    fn eval_split(&self) -> &str {
        "test"
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        rows.iter()
            .enumerate()
            .map(|(index, row)| {
                Ok(Example {
                    id: index.to_string(),
                    source: self.header(row.text("subject")?) + &self.question(index, row)?,
                    target: Target::Text(format!(" {}", self.letter(index, row)?)),
                })
            })
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>> {
        let headers = self.headers(eval_rows, shot_rows)?;
        let space = if self.released { "" } else { " " };
        let choices: Vec<String> = LETTERS
            .iter()
            .map(|letter| format!("{space}{letter}"))
            .collect();
        let mut requests = Vec::new();
        for (index, subject, row) in task::limited_by(eval_rows, "subject", self.limit)? {
            let header = headers.get(subject).map(String::as_str).unwrap_or_default();
            requests.push(Request {
                id: index.to_string(),
                prompt: format!("{header}{}", self.question(index, row)?),
                kind: RequestKind::Choose {
                    choices: choices.clone(),
                },
                reference: self.letter(index, row)?.to_owned(),
                group: Some(subject.to_owned()),
            });
        }
        Ok(requests)
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let chosen = match answer {
            Answer::Choice { log_probs } => {
                task::largest(log_probs).and_then(|index| LETTERS.get(index))
            }
            Answer::Text(_) | Answer::Scores(_) => None,
        };
        let right = chosen.is_some_and(|letter| *letter == request_reference);
        [("accuracy".to_owned(), f64::from(u8::from(right)))].into()
    }

    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        let mut metrics = task::metrics(samples);
        for (area, subjects) in AREAS {
            let in_area = |sample: &&Sample| {
                let subject = sample.group.as_deref();
                subject.is_some_and(|subject| subjects.contains(&subject))
            };
            let grades: Vec<f64> = samples
                .iter()
                .filter(in_area)
                .filter_map(|sample| sample.grades.get("accuracy").copied())
                .collect();
            if !grades.is_empty() {
                metrics.insert(format!("accuracy_{area}"), task::mean(&grades));
            }
        }
        metrics
    }

    fn headline(&self) -> &'static str {
        "accuracy"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Value;
    use crate::testing::{mirror, mirrored};

    fn row(subject: &str, question: &str, answer: i64) -> Row {
        let mut row = Row::of_texts([("subject", subject.into()), ("question", question.into())]);
        row.0.insert("answer".into(), Value::Int(answer));
        row.0.insert(
            "choices".into(),
            Value::List(["w", "x", "y", "z"].map(String::from).into()),
        );
        row
    }

    fn with(variant: &str, shots: usize) -> Mmlu {
        Mmlu::new(&TaskOptions {
            variant: Some(variant.into()),
            shots: Some(shots),
            ..TaskOptions::default()
        })
        .unwrap()
    }

    #[test]
    fn templates() {
        let dev = [
            row("high_school_x", "First?", 3),
            row("other", "Not mine?", 0),
        ];
        let test = [row("high_school_x", " Which? ", 1)];
        let request = &with("lm_eval", 1).requests(&test, &dev).unwrap()[0];
        assert_eq!(
            request.prompt,
            "The following are multiple choice questions (with answers) about high school x.\n\n\
             First?\nA. w\nB. x\nC. y\nD. z\nAnswer: D\n\nWhich?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
        );
        assert_eq!(
            request.kind,
            RequestKind::Choose {
                choices: [" A", " B", " C", " D"].map(String::from).into()
            }
        );
        assert_eq!(
            (request.reference.as_str(), request.group.as_deref()),
            ("B", Some("high_school_x"))
        );
        let request = &with("released", 0).requests(&test, &dev).unwrap()[0];
        assert!(
            request
                .prompt
                .contains("about  high school x.\n\n Which? \nA. w")
        );
        assert_eq!(
            request.kind,
            RequestKind::Choose {
                choices: LETTERS.map(String::from).into()
            }
        );
    }

    #[test]
    fn unusable_rows_are_errors() {
        let message = with("lm_eval", 2)
            .requests(&[row("s", "q", 0)], &[row("s", "q", 0)])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`s`") && message.contains("shots"),
            "{message}"
        );
        assert!(
            with("lm_eval", 0)
                .requests(&[row("s", "q", 4)], &[])
                .is_err()
        );
        assert!(
            with("lm_eval", 0)
                .requests(&[row("s", "q", -1)], &[])
                .is_err()
        );
        let mut short = row("s", "q", 0);
        short
            .0
            .insert("choices".into(), Value::List(vec!["w".into()]));
        assert!(with("lm_eval", 0).requests(&[short], &[]).is_err());
    }

    #[test]
    fn grades() {
        let task = with("lm_eval", 0);
        let grade = |log_probs: &[f64]| {
            task.grade(
                "B",
                &Answer::Choice {
                    log_probs: log_probs.into(),
                },
            )["accuracy"]
        };
        assert_eq!(grade(&[-2.0, -1.0, -3.0, -4.0]), 1.0);
        assert_eq!(
            grade(&[-1.0, -1.0, -3.0, -4.0]),
            0.0,
            "the first of equals is chosen"
        );
        assert_eq!(grade(&[f64::NAN, -1.0, -3.0, -4.0]), 0.0);
        assert_eq!(grade(&[]), 0.0);
    }

    /// An area is an average over its questions, as lm-eval weighs it; the others stay as they were.
    #[test]
    fn areas() {
        let sample = |subject: &str, grade| Sample {
            id: "0".into(),
            prompt: String::new(),
            reference: "A".into(),
            group: Some(subject.into()),
            answer: Answer::Text(String::new()),
            tokens: 0,
            grades: [("accuracy".to_owned(), grade)].into(),
        };
        let samples = [
            sample("anatomy", 1.0),
            sample("astronomy", 0.0),
            sample("astronomy", 1.0),
            sample("virology", 0.0),
            sample("a subject of nobody", 1.0),
        ];
        let found = with("lm_eval", 0).metrics(&samples);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            [
                "accuracy",
                "accuracy_macro",
                "accuracy_other",
                "accuracy_stem"
            ]
        );
        assert!((found["accuracy_stem"].value - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(
            (found["accuracy_stem"].n, found["accuracy_other"].value),
            (3, 0.0)
        );
        for (name, metric) in task::metrics(&samples) {
            assert_eq!(found[&name], metric);
        }
    }

    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let split = |name: &str| {
            mirrored(
                &mirror,
                "mmlu",
                &format!("datasets/cais/mmlu/all/{name}-00000-of-00001.parquet"),
            )
        };
        let (dev, validation, test) = (split("dev"), split("validation"), split("test"));
        assert_eq!(
            (dev.len(), validation.len(), test.len()),
            (285, 1531, 14042)
        );
        let requests = with("lm_eval", 5).requests(&test, &dev).unwrap();
        assert_eq!(requests.len(), 14042);
        let in_an_area = |request: &Request| {
            let subject = request.group.as_deref().unwrap();
            AREAS
                .iter()
                .any(|(_, subjects)| subjects.contains(&subject))
        };
        assert!(requests.iter().all(in_an_area));
        let first = &requests[0];
        assert!(first.prompt.starts_with(
            "The following are multiple choice questions (with answers) about abstract algebra.\n\n\
             Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\n"
        ));
        assert!(first.prompt.ends_with(
            "\n\nFind the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n\
             A. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
        ));
        assert_eq!(first.prompt.matches("Answer:").count(), 6);
        let limited = Mmlu::new(&TaskOptions {
            limit: Some(2),
            ..TaskOptions::default()
        })
        .unwrap();
        assert_eq!(limited.requests(&test, &dev).unwrap().len(), 2 * 57);
    }
}
