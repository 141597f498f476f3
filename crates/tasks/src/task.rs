//! What a task is: rows in, prompts out, answers back in, grades out.
//!
//! Tasks are pure: no files, no model. One file per task; [`task`] finds them by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::alpaca::Alpaca;
use crate::gsm8k::Gsm8k;
use crate::mmlu::Mmlu;
use crate::pocket::PocketTask;
use crate::table::Row;
use crate::{Error, Result, hash};

/// One training text; the loss is on `target` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Unique in its split.
    pub id: String,
    /// The prompt.
    pub source: String,
    /// The answer; the encoder appends the end-of-text token.
    pub target: String,
}

/// One question to a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique in its split.
    pub id: String,
    /// The prompt, worked examples included.
    pub prompt: String,
    /// What the model should do with it.
    pub kind: RequestKind,
    /// What `grade` compares with.
    pub reference: String,
    /// Subject or category, where a task averages over them.
    pub group: Option<String>,
}

/// What a model does with a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Continue it until one of `stop` appears (it is cut off), the end-of-text token, or the limit.
    Generate {
        /// Texts that end the answer.
        stop: Vec<String>,
        /// Limit in tokens.
        max_new_tokens: usize,
    },
    /// Give the log-probability of each continuation.
    Choose {
        /// The continuations, exactly as they follow the prompt.
        choices: Vec<String>,
    },
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The continuation.
    Text(String),
    /// Natural log-probability of each choice, in the order asked.
    Choice {
        /// A value that is no number is written as `null` and read back as NaN.
        #[serde(deserialize_with = "null_is_nan")]
        log_probs: Vec<f64>,
    },
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let values = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|value| value.unwrap_or(f64::NAN))
        .collect())
}

/// A graded answer: one line of a run's samples file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The request's.
    pub id: String,
    /// The request's.
    pub prompt: String,
    /// The request's.
    pub reference: String,
    /// The request's.
    pub group: Option<String>,
    /// The model's.
    pub answer: Answer,
    /// Tokens generated.
    pub tokens: usize,
    /// Grade name to value, mostly 0 or 1.
    pub grades: BTreeMap<String, f64>,
}

/// A mean over samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The mean.
    pub value: f64,
    /// Its standard error, where there are at least two values.
    pub stderr: Option<f64>,
    /// Number of values averaged: samples, or groups for a macro average.
    pub n: usize,
}

/// How a variant draws tokens, where that is not greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: f64,
    /// Smallest set of tokens whose probability reaches this.
    pub top_p: f64,
}

/// A task: its data, its prompts, its grades.
pub trait Task: Send + Sync {
    /// Name, as in [`TASKS`].
    fn name(&self) -> &'static str;
    /// Raised with every change of a prompt or a grade.
    fn version(&self) -> u32;
    /// Which of the task's protocols, the number of worked examples included.
    fn variant(&self) -> String;
    /// Name of the dataset description.
    fn dataset(&self) -> &str;
    /// Split that training and worked examples come from.
    fn train_split(&self) -> &str;
    /// Split that is scored.
    fn eval_split(&self) -> &str;
    /// Training texts of the train split.
    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>>;
    /// Questions over `eval_rows`; worked examples are taken from the front of `shot_rows`.
    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>>;
    /// Grades of one answer. An answer of the wrong kind gets zeros.
    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64>;
    /// The metric that stands for the task.
    fn headline(&self) -> &'static str;
    /// How the variant samples; `None` is greedy.
    fn sampling(&self) -> Option<Sampling> {
        None
    }
}

/// Options of a task; what is absent takes the variant's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {
    /// Protocol, one of the task's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Worked examples before each question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Limit of an answer, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Score only the first rows (MMLU: the first of every subject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl TaskOptions {
    /// Index of the chosen variant in `choices`; the first is the default.
    pub(crate) fn choose(&self, task: &'static str, choices: &[&str]) -> Result<usize> {
        let Some(name) = &self.variant else {
            return Ok(0);
        };
        choices
            .iter()
            .position(|choice| choice == name)
            .ok_or_else(|| Error::unknown(format!("variant of task `{task}`"), name, choices))
    }

    /// `max_new_tokens`, at least 1.
    pub(crate) fn new_tokens(&self, task: &'static str, default: usize) -> Result<usize> {
        match self.max_new_tokens {
            Some(0) => Err(Error::Option {
                task,
                key: "max_new_tokens",
                reason: "should be at least 1".to_owned(),
            }),
            given => Ok(given.unwrap_or(default)),
        }
    }

    /// The rows that are scored.
    pub(crate) fn limited<'a>(&self, rows: &'a [Row]) -> &'a [Row] {
        rows.get(..self.limit.unwrap_or(rows.len())).unwrap_or(rows)
    }
}

/// The task names.
pub const TASKS: [&str; 4] = ["alpaca", "gsm8k", "mmlu", "pocket"];

/// The task `name`.
///
/// # Errors
/// [`Error::Unknown`] for a name or variant that does not exist (with the choices and the nearest),
/// [`Error::Option`] for an option that the task cannot honour.
pub fn task(name: &str, options: &TaskOptions) -> Result<Box<dyn Task>> {
    Ok(match name {
        "alpaca" => Box::new(Alpaca::new(options)?),
        "gsm8k" => Box::new(Gsm8k::new(options)?),
        "mmlu" => Box::new(Mmlu::new(options)?),
        "pocket" => Box::new(PocketTask::new(options)?),
        _ => return Err(Error::unknown("task", name, &TASKS)),
    })
}

/// The first `count` of `rows`, for worked examples.
pub(crate) fn shots<'a>(task: &'static str, rows: &'a [Row], count: usize) -> Result<&'a [Row]> {
    rows.get(..count).ok_or_else(|| Error::Option {
        task,
        key: "shots",
        reason: format!(
            "wants {count} worked examples, the split has {} rows",
            rows.len()
        ),
    })
}

/// Hash over all prompts, stops, limits, choices and references: two runs with the same one were asked the same.
pub fn prompt_hash(requests: &[Request]) -> String {
    hash::of_lines(requests)
}

/// Means of every grade over the samples that have it; where samples have groups, also `GRADE_macro`,
/// the mean over groups of the group's mean.
///
/// Standard error of a mean: s / sqrt(n) with the sample deviation s (n - 1), for a 0/1 grade the
/// binomial sqrt(p (1 - p) / (n - 1)), as lm-eval's `mean_stderr`. Of a macro average over G groups:
/// sqrt(sum of the groups' squared errors) / G, where every group has two samples.
pub fn metrics(samples: &[Sample]) -> BTreeMap<String, Metric> {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut grouped: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for sample in samples {
        for (grade, value) in &sample.grades {
            all.entry(grade).or_default().push(*value);
            if let Some(group) = &sample.group {
                grouped
                    .entry(grade)
                    .or_default()
                    .entry(group)
                    .or_default()
                    .push(*value);
            }
        }
    }
    let micro = all
        .iter()
        .map(|(grade, values)| ((*grade).to_owned(), mean(values)));
    let over_groups = grouped.iter().map(|(grade, groups)| {
        let means: Vec<Metric> = groups.values().map(|values| mean(values)).collect();
        let count = means.len() as f64;
        let variance: Option<f64> = means
            .iter()
            .map(|group| group.stderr.map(|error| error * error))
            .sum();
        let value = means.iter().map(|group| group.value).sum::<f64>() / count;
        (
            format!("{grade}_macro"),
            Metric {
                value,
                stderr: variance.map(|sum| sum.sqrt() / count),
                n: means.len(),
            },
        )
    });
    micro.chain(over_groups).collect()
}

/// Mean and standard error of at least one value.
fn mean(values: &[f64]) -> Metric {
    let n = values.len();
    let value = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
    let stderr = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
    Metric { value, stderr, n }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(group: Option<&str>, grade: f64) -> Sample {
        Sample {
            id: "0".into(),
            prompt: "p".into(),
            reference: "r".into(),
            group: group.map(str::to_owned),
            answer: Answer::Text("a".into()),
            tokens: 1,
            grades: [("accuracy".to_owned(), grade)].into(),
        }
    }

    #[test]
    fn micro_and_macro_averages() {
        let samples = [
            sample(Some("a"), 1.0),
            sample(Some("a"), 0.0),
            sample(Some("a"), 1.0),
            sample(Some("b"), 0.0),
        ];
        let found = metrics(&samples);
        assert_eq!(found["accuracy"].value, 0.5);
        assert_eq!(found["accuracy"].n, 4);
        // p (1 - p) / (n - 1) = 0.25 / 3
        assert!((found["accuracy"].stderr.unwrap() - (0.25f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((found["accuracy_macro"].value - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(
            (found["accuracy_macro"].n, found["accuracy_macro"].stderr),
            (2, None)
        );
        assert!(!metrics(&[sample(None, 1.0)]).contains_key("accuracy_macro"));
        assert!(metrics(&[]).is_empty());
    }

    /// GSM8K's test set: about 1.4 points at the worst case, the number that reports rely on.
    #[test]
    fn standard_error_of_gsm8k() {
        let samples: Vec<Sample> = (0..1319).map(|i| sample(None, f64::from(i % 2))).collect();
        let stderr = metrics(&samples)["accuracy"].stderr.unwrap();
        assert!((stderr - 0.01377).abs() < 1e-4, "{stderr}");
    }

    #[test]
    fn samples_survive_a_line_of_json() {
        let mut one = sample(Some("g"), 1.0);
        one.answer = Answer::Choice {
            log_probs: vec![-0.1, f64::NEG_INFINITY],
        };
        let line = serde_json::to_string(&one).unwrap();
        let back: Sample = serde_json::from_str(&line).unwrap();
        let Answer::Choice { log_probs } = back.answer else {
            panic!("{line}")
        };
        assert!(log_probs[0] == -0.1 && log_probs[1].is_nan());
        one.answer = Answer::Text("line\nbreak".into());
        let line = serde_json::to_string(&one).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Sample>(&line).unwrap(), one);
    }

    #[test]
    fn names_and_options_are_checked() {
        let message = task("gsmk8", &TaskOptions::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains("did you mean `gsm8k`") && message.contains("mmlu"),
            "{message}"
        );
        let options = TaskOptions {
            variant: Some("released_".into()),
            ..TaskOptions::default()
        };
        let message = task("gsm8k", &options).err().unwrap().to_string();
        assert!(
            message.contains("did you mean `released`") && message.contains("zero_shot"),
            "{message}"
        );
        for name in TASKS {
            assert_eq!(task(name, &TaskOptions::default()).unwrap().name(), name);
        }
        assert!(toml::from_str::<TaskOptions>("shot = 5").is_err());
    }

    #[test]
    fn prompt_hash_covers_everything_asked() {
        let kind = RequestKind::Generate {
            stop: vec!["x".into()],
            max_new_tokens: 5,
        };
        let one = Request {
            id: "0".into(),
            prompt: "p".into(),
            kind,
            reference: "r".into(),
            group: None,
        };
        let mut other = one.clone();
        other.kind = RequestKind::Generate {
            stop: vec!["x".into()],
            max_new_tokens: 6,
        };
        assert_eq!(
            prompt_hash(std::slice::from_ref(&one)),
            prompt_hash(std::slice::from_ref(&one))
        );
        assert_ne!(prompt_hash(&[one]), prompt_hash(&[other]));
    }
}
