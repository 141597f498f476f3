//! What a task is: rows in, prompts out, answers back in, grades out.
//!
//! Tasks are pure: no files, no model. One file per task; [`task`] finds them by name.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize};

use crate::alpaca::Alpaca;
use crate::e2e::E2e;
use crate::glue::{self, Glue};
use crate::gsm8k::Gsm8k;
use crate::humaneval::HumanEval;
use crate::mmlu::Mmlu;
use crate::mmlu_pro::MmluPro;
use crate::pocket::PocketTask;
use crate::table::Row;
use crate::{Error, Result, hash};

/// One training text; the loss is on `target` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Unique in its split.
    pub id: String,
    /// The prompt, or the text that is labelled.
    pub source: String,
    /// What is learnt.
    pub target: Target,
}

/// What a model learns to say of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Its answer; the encoder appends the end-of-text token.
    Text(String),
    /// Its label.
    Label {
        /// Second text, where two are labelled together.
        pair: Option<String>,
        /// Index of the class, or value of the regression.
        label: f64,
    },
}

/// What the labels of a task are; decides the width of a model's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The names of the classes, by index.
    Classes(&'static [&'static str]),
    /// One number.
    Regression,
}

impl Labels {
    /// Scores that a model gives a text: one a class, or one.
    pub fn scores(self) -> usize {
        match self {
            Labels::Classes(names) => names.len(),
            Labels::Regression => 1,
        }
    }
}

/// One question to a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique in its split.
    pub id: String,
    /// The prompt, worked examples included; or the text to be labelled.
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
    /// Give the log-probability of each continuation; of a single one, that of a text behind its prompt.
    Choose {
        /// The continuations, exactly as they follow the prompt.
        choices: Vec<String>,
    },
    /// Give the scores of the labels, see [`Labels::scores`].
    Classify {
        /// Second text, where two are labelled together.
        pair: Option<String>,
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
        #[serde(deserialize_with = "nulls_are_nan")]
        log_probs: Vec<f64>,
    },
    /// Logits of the classes, by index, or the one value of a regression. `null` is read as above.
    Scores(#[serde(deserialize_with = "nulls_are_nan")] Vec<f64>),
}

impl Answer {
    /// The generated text; empty where the answer is of another kind.
    pub(crate) fn text(&self) -> &str {
        match self {
            Answer::Text(text) => text,
            Answer::Choice { .. } | Answer::Scores(_) => "",
        }
    }
}

fn nulls_are_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let values = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|value| value.unwrap_or(f64::NAN))
        .collect())
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
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

/// A number over samples, mostly a mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The number; NaN where these samples define none, as the correlation with a constant. JSON has it as `null`.
    #[serde(deserialize_with = "null_is_nan")]
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

/// How a variant searches for an answer, where it does not take the most likely token each time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeamSearch {
    /// Answers that are followed at the same time.
    pub beams: usize,
    /// Exponent of the length that an answer's log-probability is divided by.
    pub length_penalty: f64,
    /// No run of this many tokens twice in an answer; 0: allowed.
    pub no_repeat_ngram: usize,
}

/// A program that an answer completes, with its test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The problem's name.
    pub task_id: String,
    /// The beginning of the program: imports, signature, description.
    pub prompt: String,
    /// Defines `check(candidate)`.
    pub test: String,
    /// The function that is checked.
    pub entry_point: String,
    /// The model's continuation of `prompt`.
    pub completion: String,
}

/// A score of chosen samples; `None` where it is not defined for them.
pub type CorpusScore = Box<dyn Fn(&[usize]) -> Option<f64> + Send + Sync>;

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
    /// Grades of one answer. An answer of the wrong kind gets zeros, or no grade where zero would be the best.
    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64>;
    /// The metrics of all answers, from the samples alone and whatever their order; none where there are no samples.
    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        metrics(samples)
    }
    /// The metric that stands for the task.
    fn headline(&self) -> &str;
    /// The mean of the headline's grade in each subject or category; empty where samples have no groups.
    fn breakdown(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for sample in samples {
            if let (Some(group), Some(grade)) = (&sample.group, sample.grades.get(self.headline()))
            {
                groups.entry(group).or_default().push(*grade);
            }
        }
        let of = |(group, grades): (&str, Vec<f64>)| (group.to_owned(), mean(&grades));
        groups.into_iter().map(of).collect()
    }
    /// What the variant does not say of the worked examples in `shot_rows`: that there are none, where the task goes on
    /// without them. `None` for a task that does not.
    fn note(&self, _shot_rows: &[Row]) -> Option<String> {
        None
    }
    /// The program whose outcome is the grade `passed` (1 or 0), where answers are graded by running them; such a task's
    /// `grade` has no grades, and its `metrics` read `passed`. `None` for a reference that is not this task's.
    fn program(&self, _request_reference: &str, _answer: &Answer) -> Option<Program> {
        None
    }
    /// Whether [`Task::program`] has programs, which need a sandbox.
    fn runs_programs(&self) -> bool {
        false
    }
    /// Requests for each question.
    fn samples(&self) -> usize {
        1
    }
    /// What the labels are, where texts are labelled; `None` where answers are generated or chosen.
    fn labels(&self) -> Option<Labels> {
        None
    }
    /// How the variant samples; `None` is greedy.
    fn sampling(&self) -> Option<Sampling> {
        None
    }
    /// How the variant searches; `None` takes one token after the other.
    fn beam(&self) -> Option<BeamSearch> {
        None
    }
    /// The metrics that are no means of grades, each as a function of a choice of `samples` by their places, which may repeat: for
    /// resampling.
    fn corpus_scores(&self, _samples: &[Sample]) -> Vec<(String, CorpusScore)> {
        Vec::new()
    }
    /// The answers and their references, where they are scored by METEOR too.
    fn corpus(&self, _samples: &[Sample]) -> Option<sharelora_metrics::e2e::Corpus> {
        None
    }
}

/// Options of a task; what is absent takes the variant's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Score only the first rows (MMLU and MMLU-Pro: the first of every subject or category).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Score this split instead of the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Read this dataset instead of the task's own: another description with the same columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Answers drawn for each question; one is the most likely, where no temperature is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Divides the logits that answers are drawn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
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

    /// Name of the dataset description: the one that is asked for, or the task's `own`.
    pub(crate) fn dataset<'a>(&'a self, own: &'a str) -> &'a str {
        self.dataset.as_deref().unwrap_or(own)
    }

    /// A variant's name, with that of the dataset where one is asked for: the two are not to be taken for one another.
    pub(crate) fn variant(&self, name: String) -> String {
        match &self.dataset {
            Some(dataset) => format!("{name}_{dataset}"),
            None => name,
        }
    }

    /// The rows that are scored.
    pub(crate) fn limited<'a>(&self, rows: &'a [Row]) -> &'a [Row] {
        rows.get(..self.limit.unwrap_or(rows.len())).unwrap_or(rows)
    }
}

/// The task names.
pub const TASKS: [&str; 16] = [
    "alpaca",
    "codealpaca",
    "cola",
    "e2e",
    "gsm8k",
    "humaneval",
    "mmlu",
    "mmlu_pro",
    "mnli",
    "mrpc",
    "pocket",
    "qnli",
    "qqp",
    "rte",
    "sst2",
    "stsb",
];

/// The task `name`.
///
/// # Errors
/// [`Error::Unknown`] for a name or variant that does not exist (with the choices and the nearest),
/// [`Error::Option`] for an option that the task cannot honour.
pub fn task(name: &str, options: &TaskOptions) -> Result<Box<dyn Task>> {
    let task: Box<dyn Task> = match name {
        "alpaca" => Box::new(Alpaca::new(options)?),
        "codealpaca" => Box::new(Alpaca::code(options)?),
        "e2e" => Box::new(E2e::new(options)?),
        "gsm8k" => Box::new(Gsm8k::new(options)?),
        "humaneval" => Box::new(HumanEval::new(options)?),
        "mmlu" => Box::new(Mmlu::new(options)?),
        "mmlu_pro" => Box::new(MmluPro::new(options)?),
        "pocket" => Box::new(PocketTask::new(options)?),
        _ => match glue::find(name) {
            Some(protocol) => Box::new(Glue::new(protocol, options)?),
            None => return Err(Error::unknown("task", name, &TASKS)),
        },
    };
    // Most tasks are scored on one split, and some read one dataset.
    let fixed = [
        ("split", &options.split, task.eval_split(), "scored"),
        ("dataset", &options.dataset, task.dataset(), "read"),
    ];
    for (key, asked, own, done) in fixed {
        if let Some(asked) = asked.as_deref().filter(|asked| *asked != own) {
            return Err(Error::Option {
                task: task.name(),
                key,
                reason: format!("`{asked}` is not {done}, only `{own}` is"),
            });
        }
    }
    // Most tasks take the most likely answer, one to a question.
    let refuse = |key, reason: String| {
        Err(Error::Option {
            task: task.name(),
            key,
            reason,
        })
    };
    if let Some(asked) = options.samples.filter(|asked| *asked != task.samples()) {
        let reason = format!("{asked} answers are not drawn: each question has one");
        return refuse("samples", reason);
    }
    if options.temperature.is_some()
        && options.temperature != task.sampling().map(|s| s.temperature)
    {
        return refuse("temperature", "nothing is drawn from logits".to_owned());
    }
    Ok(task)
}

/// The first `count` rows of each group, a text in `column`, for worked examples.
pub(crate) fn shots_by<'a>(
    rows: &'a [Row],
    column: &str,
    count: usize,
) -> Result<HashMap<&'a str, Vec<&'a Row>>> {
    let mut groups: HashMap<&str, Vec<&Row>> = HashMap::new();
    for row in rows.iter().filter(|_| count > 0) {
        let group = groups.entry(row.text(column)?).or_default();
        if group.len() < count {
            group.push(row);
        }
    }
    Ok(groups)
}

/// Fails where `group` has `found` worked examples and not `count`.
pub(crate) fn enough(
    task: &'static str,
    column: &str,
    group: &str,
    found: usize,
    count: usize,
) -> Result<()> {
    if found >= count {
        return Ok(());
    }
    Err(Error::Option {
        task,
        key: "shots",
        reason: format!(
            "{column} `{group}`: wants {count} worked examples, the split has {found} rows"
        ),
    })
}

/// The first `limit` rows of each group, a text in `column`, with their index and group.
pub(crate) fn limited_by<'a>(
    rows: &'a [Row],
    column: &str,
    limit: usize,
) -> Result<Vec<(usize, &'a str, &'a Row)>> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut kept = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let group = row.text(column)?;
        let count = seen.entry(group).or_default();
        *count += 1;
        if *count <= limit {
            kept.push((index, group, row));
        }
    }
    Ok(kept)
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
pub(crate) fn mean(values: &[f64]) -> Metric {
    let n = values.len();
    let value = values.iter().sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
    let stderr = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
    Metric { value, stderr, n }
}

/// Index of the first largest value; `None` where one is not a number.
pub(crate) fn largest(values: &[f64]) -> Option<usize> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    // `max_by` keeps the last of equals, hence the reversal.
    values
        .iter()
        .enumerate()
        .rev()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DatasetSpec;

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
        one.answer = Answer::Scores(vec![0.5, f64::NAN]);
        let line = serde_json::to_string(&one).unwrap();
        assert!(line.contains(r#""answer":{"scores":[0.5,null]}"#), "{line}");
        let back: Sample = serde_json::from_str(&line).unwrap();
        assert!(matches!(back.answer, Answer::Scores(scores) if scores[1].is_nan()));
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
            let task = task(name, &TaskOptions::default()).unwrap();
            assert_eq!(task.name(), name);
            let splits = DatasetSpec::named(task.dataset(), None).unwrap().splits;
            for split in [task.train_split(), task.eval_split()] {
                assert!(splits.contains_key(split), "{name}: {split}");
            }
        }
        let options = TaskOptions {
            split: Some("train".into()),
            ..TaskOptions::default()
        };
        let message = task("gsm8k", &options).err().unwrap().to_string();
        assert!(
            message.contains("`train`") && message.contains("`test`"),
            "{message}"
        );
        assert!(toml::from_str::<TaskOptions>("shot = 5").is_err());
    }

    /// Another dataset is another protocol in records, and a task that reads one alone says so instead of ignoring the option.
    #[test]
    fn a_task_reads_another_dataset_or_refuses() {
        let on = |name: &str, dataset: &str| {
            let options = TaskOptions {
                dataset: Some(dataset.into()),
                ..TaskOptions::default()
            };
            task(name, &options)
        };
        for (name, dataset) in [
            ("cola", "pocket-cola"),
            ("mrpc", "pocket-mrpc"),
            ("stsb", "pocket-stsb"),
        ] {
            let (own, other) = (
                task(name, &TaskOptions::default()).unwrap(),
                on(name, dataset).unwrap(),
            );
            assert_eq!(other.dataset(), dataset);
            assert_ne!(own.variant(), other.variant());
            let [own, other] = [own.dataset(), dataset].map(|d| DatasetSpec::named(d, None));
            let (own, other) = (own.unwrap(), other.unwrap());
            assert_eq!(own.columns, other.columns);
            assert_eq!(
                own.splits.keys().collect::<Vec<_>>(),
                other.splits.keys().collect::<Vec<_>>()
            );
        }
        assert_eq!(on("pocket", "mine").unwrap().dataset(), "mine");
        let refused = on("gsm8k", "mine").err().unwrap().to_string();
        assert!(
            refused.contains("`dataset`") && refused.contains("only `gsm8k` is"),
            "{refused}"
        );
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

    /// A record has to be able to say that a number is not defined.
    #[test]
    fn undefined_metric_survives_json() {
        let metric = Metric {
            value: f64::NAN,
            stderr: None,
            n: 3,
        };
        let text = serde_json::to_string(&metric).unwrap();
        let back: Metric = serde_json::from_str(&text).unwrap();
        assert!(back.value.is_nan() && back.n == 3, "{text}");
    }

    /// The hash of a run covers its options: those of an earlier version have to be written as they were.
    #[test]
    fn options_left_out_are_not_written() {
        let text = serde_json::to_string(&TaskOptions::default()).unwrap();
        assert_eq!(text, "{}");
        let text = r#"{"variant":"cot","shots":2,"max_new_tokens":3,"limit":4,"split":"test","dataset":"gsm8k"}"#;
        let options: TaskOptions = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&options).unwrap(), text);
    }

    /// A task that draws nothing may not ignore that it was asked to: its record would say what was not done.
    #[test]
    fn tasks_draw_answers_or_refuse() {
        for name in TASKS {
            let asked = |samples, temperature| {
                task(
                    name,
                    &TaskOptions {
                        samples,
                        temperature,
                        ..TaskOptions::default()
                    },
                )
            };
            if ["gsm8k", "humaneval"].contains(&name) {
                let drawn = asked(Some(3), Some(0.5)).unwrap();
                assert_eq!(
                    (drawn.samples(), drawn.sampling().unwrap().temperature),
                    (3, 0.5)
                );
                let own = asked(None, None).unwrap();
                assert_ne!(own.variant(), drawn.variant());
                assert_ne!(
                    asked(Some(2), Some(0.5)).unwrap().variant(),
                    drawn.variant()
                );
                assert_eq!(asked(Some(1), None).unwrap().variant(), own.variant());
                assert_eq!(asked(Some(1), None).unwrap().sampling(), own.sampling());
                assert!(asked(None, Some(0.5)).unwrap().sampling().is_some());
            } else {
                for (samples, temperature, key) in [
                    (Some(2), None, "`samples`"),
                    (None, Some(0.5), "`temperature`"),
                ] {
                    let message = asked(samples, temperature).err().unwrap().to_string();
                    assert!(message.contains(key) && message.contains(name), "{message}");
                }
            }
            assert!(asked(Some(0), None).is_err());
            for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(
                    asked(None, Some(temperature)).is_err(),
                    "{name} {temperature}"
                );
            }
        }
    }

    #[test]
    fn breakdown_is_by_group() {
        let mmlu = task("mmlu", &TaskOptions::default()).unwrap();
        let samples = [
            sample(Some("a"), 1.0),
            sample(Some("b"), 0.0),
            sample(Some("a"), 0.0),
            sample(None, 1.0),
        ];
        let found = mmlu.breakdown(&samples);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            (found["a"].value, found["a"].n, found["b"].stderr),
            (0.5, 2, None)
        );
    }
}
