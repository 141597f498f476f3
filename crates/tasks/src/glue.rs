//! GLUE without WNLI: eight tasks of labelled sentences and pairs (Wang et al., arXiv 1804.07461).
//!
//! Sources: the dataset `nyu-mll/glue` of the Hugging Face Hub for columns and the order of classes; for the order of a
//! pair `examples/NLU/examples/text-classification/run_glue.py` of microsoft/LoRA, which is transformers' own; for the
//! metrics the LoRA paper (arXiv 2106.09685, table 2) and transformers' `glue_compute_metrics`.
//!
//! | task | texts | labels | metrics, headline first |
//! |---|---|---|---|
//! | `cola` | sentence | unacceptable, acceptable | Matthews |
//! | `sst2` | sentence | negative, positive | accuracy |
//! | `mrpc` | sentence1, sentence2 | not_equivalent, equivalent | accuracy, F1 |
//! | `stsb` | sentence1, sentence2 | 0 to 5 | Pearson, Spearman |
//! | `qqp` | question1, question2 | not_duplicate, duplicate | accuracy, F1 |
//! | `mnli` | premise, hypothesis | entailment, neutral, contradiction | accuracy |
//! | `qnli` | question, sentence | entailment, not_entailment | accuracy |
//! | `rte` | sentence1, sentence2 | entailment, not_entailment | accuracy |
//!
//! One variant, `standard`: the LoRA authors' scripts and their paper differ in hyper-parameters alone, which
//! experiments hold. Scored is the validation split, of MNLI the matched one; option `split` names another, and its
//! name then follows those of variant and metrics (`accuracy_validation_mismatched`), so that one record holds both.
//! Most of the hub's test splits have no labels (-1); a row without one is an error. Option `dataset` names another
//! description with the task's columns and splits.
//!
//! F1 is that of class 1. An answer that is not one number a class counts as a class that is never true. The standard
//! error of accuracy is the binomial one, of the others that of a bootstrap over samples.

use std::collections::BTreeMap;
use std::sync::Arc;

use sharelora_metrics::classification::{f1, matthews};
use sharelora_metrics::correlation::{pearson, spearman};

use crate::bootstrap::standard_error;
use crate::table::Row;
use crate::task::{
    self, Answer, CorpusScore, Example, Labels, Metric, Request, RequestKind, Sample, Target, Task,
    TaskOptions,
};
use crate::{Error, Result};

/// What distinguishes one of the tasks from the others.
pub struct Protocol {
    name: &'static str,
    dataset: &'static str,
    text: &'static str,
    pair: Option<&'static str>,
    labels: Labels,
    /// The first is the headline.
    scores: &'static [Score],
    /// Those that can be scored; the first is the default.
    splits: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Score {
    Accuracy,
    F1,
    Matthews,
    Pearson,
    Spearman,
}

impl Score {
    fn name(self) -> &'static str {
        match self {
            Score::Accuracy => "accuracy",
            Score::F1 => "f1",
            Score::Matthews => "matthews",
            Score::Pearson => "pearson",
            Score::Spearman => "spearman",
        }
    }
}

const SPLITS: &[&str] = &["validation", "test"];
const ENTAILMENT: Labels = Labels::Classes(&["entailment", "not_entailment"]);
const STSB_RANGE: std::ops::RangeInclusive<f64> = 0.0..=5.0;

static PROTOCOLS: [Protocol; 8] = [
    Protocol {
        name: "cola",
        dataset: "glue-cola",
        text: "sentence",
        pair: None,
        labels: Labels::Classes(&["unacceptable", "acceptable"]),
        scores: &[Score::Matthews],
        splits: SPLITS,
    },
    Protocol {
        name: "sst2",
        dataset: "glue-sst2",
        text: "sentence",
        pair: None,
        labels: Labels::Classes(&["negative", "positive"]),
        scores: &[Score::Accuracy],
        splits: SPLITS,
    },
    Protocol {
        name: "mrpc",
        dataset: "glue-mrpc",
        text: "sentence1",
        pair: Some("sentence2"),
        labels: Labels::Classes(&["not_equivalent", "equivalent"]),
        scores: &[Score::Accuracy, Score::F1],
        splits: SPLITS,
    },
    Protocol {
        name: "stsb",
        dataset: "glue-stsb",
        text: "sentence1",
        pair: Some("sentence2"),
        labels: Labels::Regression,
        scores: &[Score::Pearson, Score::Spearman],
        splits: SPLITS,
    },
    Protocol {
        name: "qqp",
        dataset: "glue-qqp",
        text: "question1",
        pair: Some("question2"),
        labels: Labels::Classes(&["not_duplicate", "duplicate"]),
        scores: &[Score::Accuracy, Score::F1],
        splits: SPLITS,
    },
    Protocol {
        name: "mnli",
        dataset: "glue-mnli",
        text: "premise",
        pair: Some("hypothesis"),
        labels: Labels::Classes(&["entailment", "neutral", "contradiction"]),
        scores: &[Score::Accuracy],
        splits: &[
            "validation_matched",
            "validation_mismatched",
            "test_matched",
            "test_mismatched",
        ],
    },
    Protocol {
        name: "qnli",
        dataset: "glue-qnli",
        text: "question",
        pair: Some("sentence"),
        labels: ENTAILMENT,
        scores: &[Score::Accuracy],
        splits: SPLITS,
    },
    Protocol {
        name: "rte",
        dataset: "glue-rte",
        text: "sentence1",
        pair: Some("sentence2"),
        labels: ENTAILMENT,
        scores: &[Score::Accuracy],
        splits: SPLITS,
    },
];

/// The protocol of the task `name`, where it is one of GLUE's.
pub fn find(name: &str) -> Option<&'static Protocol> {
    PROTOCOLS.iter().find(|protocol| protocol.name == name)
}

/// One of the eight tasks, see the module's text.
pub struct Glue {
    protocol: &'static Protocol,
    split: &'static str,
    headline: String,
    options: TaskOptions,
}

impl Glue {
    /// The task with these options.
    pub fn new(protocol: &'static Protocol, options: &TaskOptions) -> Result<Self> {
        let task = protocol.name;
        options.choose(task, &["standard"])?;
        let refused = [
            ("shots", options.shots.is_some_and(|shots| shots > 0)),
            ("max_new_tokens", options.max_new_tokens.is_some()),
        ];
        if let Some((key, _)) = refused.into_iter().find(|(_, given)| *given) {
            let reason =
                "texts are labelled: there is no prompt and no generated answer".to_owned();
            return Err(Error::Option { task, key, reason });
        }
        let split = match &options.split {
            None => protocol.splits[0],
            Some(name) => protocol
                .splits
                .iter()
                .find(|split| *split == name)
                .ok_or_else(|| {
                    let what = format!("split to score of task `{task}`");
                    Error::unknown(what, name, protocol.splits)
                })?,
        };
        let mut glue = Glue {
            protocol,
            split,
            headline: String::new(),
            options: options.clone(),
        };
        glue.headline = glue.of_split(protocol.scores[0].name());
        Ok(glue)
    }

    /// Truth and prediction of every sample: classes, or numbers.
    fn pairs(&self, samples: &[Sample]) -> (Classes, Numbers) {
        let (mut classes, mut numbers) = (Classes::new(), Numbers::new());
        for Sample {
            reference, answer, ..
        } in samples
        {
            match self.protocol.labels {
                Labels::Classes(names) => {
                    classes.push((true_class(names, reference), predicted_class(names, answer)))
                }
                Labels::Regression => numbers.push(values(reference, answer)),
            }
        }
        (classes, numbers)
    }

    /// `name`, and the split where it is not the default one.
    fn of_split(&self, name: &str) -> String {
        if self.split == self.protocol.splits[0] {
            name.to_owned()
        } else {
            format!("{name}_{}", self.split)
        }
    }

    fn texts(&self, row: &Row) -> Result<(String, Option<String>)> {
        let text = row.text(self.protocol.text)?.to_owned();
        let pair = self.protocol.pair.map(|column| row.text(column));
        Ok((text, pair.transpose()?.map(str::to_owned)))
    }

    /// Index of the class, or value of the regression.
    fn label(&self, index: usize, row: &Row) -> Result<f64> {
        let label = row.number("label")?;
        let (known, choices) = match self.protocol.labels {
            Labels::Classes(names) => {
                let named = names.iter().enumerate();
                let choices: Vec<String> = named.map(|(i, name)| format!("{i} ({name})")).collect();
                let known = (0..names.len()).any(|class| class as f64 == label);
                (known, choices.join(", "))
            }
            Labels::Regression => (STSB_RANGE.contains(&label), "0 to 5".to_owned()),
        };
        if known {
            return Ok(label);
        }
        let why = if label == -1.0 {
            ", as in a split without labels"
        } else {
            ""
        };
        Err(Error::Row {
            task: self.protocol.name,
            row: index.to_string(),
            reason: format!("label {label}{why}; labels: {choices}"),
        })
    }

    fn reference(&self, label: f64) -> String {
        match self.protocol.labels {
            // `label` has checked the index.
            Labels::Classes(names) => names[label as usize].to_owned(),
            // Single precision in the file: its shortest form is the number that was annotated.
            Labels::Regression => (label as f32).to_string(),
        }
    }
}

/// Index of the named class; a number that is no class for another name.
fn true_class(names: &[&str], reference: &str) -> usize {
    let found = names.iter().position(|name| *name == reference);
    found.unwrap_or(names.len() + 1)
}

/// Index of the class with the largest score, the first of equals; another number where there is none.
fn predicted_class(names: &[&str], answer: &Answer) -> usize {
    let found = match answer {
        Answer::Scores(scores) if scores.len() == names.len() => task::largest(scores),
        _ => None,
    };
    found.unwrap_or(names.len())
}

/// The value and the one that a model gives; NaN where either is no number.
fn values(reference: &str, answer: &Answer) -> (f64, f64) {
    let found = match answer {
        Answer::Scores(scores) if scores.len() == 1 => scores[0],
        _ => f64::NAN,
    };
    (reference.parse().unwrap_or(f64::NAN), found)
}

/// A score and its bootstrapped standard error.
/// Truth and prediction, as indices of classes.
type Classes = Vec<(usize, usize)>;

/// Truth and prediction of a regression.
type Numbers = Vec<(f64, f64)>;

/// A score as a function of the places of pairs.
fn chosen<T: Copy + Send + Sync + 'static>(
    pairs: &Arc<Vec<T>>,
    score: impl Fn(&[T]) -> Option<f64> + Send + Sync + 'static,
) -> CorpusScore {
    let pairs = pairs.clone();
    Box::new(move |places| {
        let chosen = places.iter().filter_map(|&place| pairs.get(place).copied());
        score(&chosen.collect::<Vec<T>>())
    })
}

fn metric<T: Copy>(pairs: &[T], score: impl Fn(&[T]) -> Option<f64>) -> Metric {
    let value = score(pairs);
    Metric {
        value: value.unwrap_or(f64::NAN),
        stderr: value.and_then(|_| standard_error(pairs, score)),
        n: pairs.len(),
    }
}

impl Task for Glue {
    fn name(&self) -> &'static str {
        self.protocol.name
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        self.options.variant(self.of_split("standard"))
    }

    fn dataset(&self) -> &str {
        self.options.dataset(self.protocol.dataset)
    }

    fn train_split(&self) -> &str {
        "train"
    }

    fn eval_split(&self) -> &str {
        self.split
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        rows.iter()
            .enumerate()
            .map(|(index, row)| {
                let (source, pair) = self.texts(row)?;
                let label = self.label(index, row)?;
                Ok(Example {
                    id: index.to_string(),
                    source,
                    target: Target::Label { pair, label },
                })
            })
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], _shot_rows: &[Row]) -> Result<Vec<Request>> {
        self.options
            .limited(eval_rows)
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let (prompt, pair) = self.texts(row)?;
                Ok(Request {
                    id: index.to_string(),
                    prompt,
                    kind: RequestKind::Classify { pair },
                    reference: self.reference(self.label(index, row)?),
                    group: None,
                })
            })
            .collect()
    }

    /// Classes: `correct`, 0 or 1. Regression: `squared_error`, absent where the answer is no number.
    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        match self.protocol.labels {
            Labels::Classes(names) => {
                let correct =
                    true_class(names, request_reference) == predicted_class(names, answer);
                [("correct".to_owned(), f64::from(u8::from(correct)))].into()
            }
            Labels::Regression => {
                let (wanted, found) = values(request_reference, answer);
                let error = (wanted - found).powi(2);
                let graded = error.is_finite();
                graded
                    .then(|| ("squared_error".to_owned(), error))
                    .into_iter()
                    .collect()
            }
        }
    }

    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        if samples.is_empty() {
            return BTreeMap::new();
        }
        let (mut classes, mut numbers) = self.pairs(samples);
        // Sorted, so that neither rounding nor the bootstrap depends on the order of the samples.
        classes.sort_unstable();
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let score = |score: &Score| {
            let metric = match score {
                Score::Accuracy => {
                    let correct =
                        |(truth, found): &(usize, usize)| f64::from(u8::from(truth == found));
                    task::mean(&classes.iter().map(correct).collect::<Vec<_>>())
                }
                Score::F1 => metric(&classes, |pairs| f1(pairs, 1)),
                Score::Matthews => metric(&classes, matthews),
                Score::Pearson => metric(&numbers, pearson),
                Score::Spearman => metric(&numbers, spearman),
            };
            (self.of_split(score.name()), metric)
        };
        self.protocol.scores.iter().map(score).collect()
    }

    fn corpus_scores(&self, samples: &[Sample]) -> Vec<(String, CorpusScore)> {
        let (classes, numbers) = self.pairs(samples);
        let (classes, numbers) = (Arc::new(classes), Arc::new(numbers));
        let score = |score: &Score| {
            let of = match score {
                // A mean of grades.
                Score::Accuracy => return None,
                Score::F1 => chosen(&classes, |pairs| f1(pairs, 1)),
                Score::Matthews => chosen(&classes, matthews),
                Score::Pearson => chosen(&numbers, pearson),
                Score::Spearman => chosen(&numbers, spearman),
            };
            Some((self.of_split(score.name()), of))
        };
        self.protocol.scores.iter().filter_map(score).collect()
    }

    fn headline(&self) -> &str {
        &self.headline
    }

    fn labels(&self) -> Option<Labels> {
        Some(self.protocol.labels)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DatasetSpec;
    use crate::table::Value;
    use crate::testing::{mirror, mirrored};

    fn glue(name: &str, split: Option<&str>) -> Glue {
        let options = TaskOptions {
            split: split.map(str::to_owned),
            ..TaskOptions::default()
        };
        Glue::new(find(name).unwrap(), &options).unwrap()
    }

    fn row(label: Value) -> Row {
        let mut row = Row::of_texts([("premise", "a".into()), ("hypothesis", "b".into())]);
        row.0.insert("label".into(), label);
        row
    }

    fn samples(task: &Glue, answers: &[(&str, &[f64])]) -> Vec<Sample> {
        let sample = |(reference, scores): &(&str, &[f64])| {
            let answer = Answer::Scores(scores.to_vec());
            Sample {
                id: String::new(),
                prompt: String::new(),
                reference: (*reference).to_owned(),
                group: None,
                grades: task.grade(reference, &answer),
                answer,
                tokens: 0,
            }
        };
        answers.iter().map(sample).collect()
    }

    #[test]
    fn rows_become_examples_and_requests() {
        let mnli = glue("mnli", None);
        let rows = [row(Value::Int(2)), row(Value::Int(0))];
        let example = &mnli.examples(&rows).unwrap()[0];
        assert_eq!(example.source, "a");
        let pair = Some("b".to_owned());
        let target = Target::Label {
            pair: pair.clone(),
            label: 2.0,
        };
        assert_eq!(example.target, target);
        let request = &mnli.requests(&rows, &[]).unwrap()[0];
        assert_eq!(
            (request.prompt.as_str(), request.reference.as_str()),
            ("a", "contradiction")
        );
        assert_eq!(request.kind, RequestKind::Classify { pair });
        assert_eq!(mnli.labels().unwrap().scores(), 3);
        // Single precision, as the file has it.
        let stsb = glue("stsb", None);
        assert_eq!(stsb.reference(f64::from(3.8f32)), "3.8");
        assert_eq!(stsb.labels().unwrap().scores(), 1);
    }

    /// Training on a wrong label would go unnoticed.
    #[test]
    fn bad_rows_are_named() {
        let mnli = glue("mnli", None);
        for (label, wanted) in [
            (Value::Int(3), "label 3;"),
            (Value::Int(-1), "without labels"),
            (Value::Float(0.5), "label 0.5;"),
        ] {
            let rows = [row(Value::Int(0)), row(label)];
            for error in [
                mnli.examples(&rows).unwrap_err(),
                mnli.requests(&rows, &[]).unwrap_err(),
            ] {
                let message = error.to_string();
                let parts = [
                    "`mnli`",
                    "row `1`",
                    wanted,
                    "0 (entailment), 1 (neutral), 2 (contradiction)",
                ];
                assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            }
        }
        let message = mnli.examples(&[row(Value::Text("entailment".into()))]);
        let message = message.unwrap_err().to_string();
        assert!(
            message.contains("`label` should hold a number but holds text"),
            "{message}"
        );
        let message = glue("rte", None)
            .examples(&[row(Value::Int(0))])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`sentence1`") && message.contains("premise"),
            "{message}"
        );
        let stsb = glue("stsb", None);
        for label in [-1.0, 5.1, f64::NAN] {
            let message = stsb
                .label(0, &row(Value::Float(label)))
                .unwrap_err()
                .to_string();
            assert!(message.contains("labels: 0 to 5"), "{message}");
        }
    }

    #[test]
    fn options_are_checked_and_a_split_is_named_in_metrics() {
        let mnli = find("mnli").unwrap();
        let message = |options: TaskOptions| Glue::new(mnli, &options).err().unwrap().to_string();
        let split = message(TaskOptions {
            split: Some("validation".into()),
            ..Default::default()
        });
        assert!(
            split.contains("`validation_matched`") || split.contains("validation_matched,"),
            "{split}"
        );
        let shots = message(TaskOptions {
            shots: Some(5),
            ..Default::default()
        });
        assert!(shots.contains("`shots`"), "{shots}");
        let variant = message(TaskOptions {
            variant: Some("paper".into()),
            ..Default::default()
        });
        assert!(variant.contains("standard"), "{variant}");
        let mismatched = glue("mnli", Some("validation_mismatched"));
        assert_eq!(mismatched.eval_split(), "validation_mismatched");
        assert_eq!(mismatched.headline(), "accuracy_validation_mismatched");
        let found = mismatched.metrics(&samples(&mismatched, &[("neutral", &[0.0, 1.0, 0.0])]));
        assert_eq!(found[mismatched.headline()].value, 1.0);
        assert_ne!(mismatched.variant(), glue("mnli", None).variant());
        for protocol in &PROTOCOLS {
            let spec = DatasetSpec::named(protocol.dataset, None).unwrap();
            for split in protocol.splits {
                assert!(
                    spec.splits.contains_key(*split),
                    "{} {split}",
                    protocol.name
                );
            }
            let columns = [protocol.text, "label"].into_iter().chain(protocol.pair);
            assert!(
                columns
                    .into_iter()
                    .all(|column| spec.columns.iter().any(|c| c == column))
            );
        }
    }

    #[test]
    fn classes_are_scored() {
        let (yes, no): (&[f64], &[f64]) = (&[0.1, 0.2], &[2.0, -1.0]);
        let answers = [
            ("equivalent", yes),
            ("equivalent", yes),
            ("equivalent", no),
            ("not_equivalent", yes),
            // Neither is an answer.
            ("not_equivalent", &[f64::NAN, 0.0]),
            ("not_equivalent", &[1.0]),
        ];
        let mrpc = glue("mrpc", None);
        let samples = samples(&mrpc, &answers);
        assert_eq!(samples[0].grades["correct"], 1.0);
        assert!(
            samples[2..]
                .iter()
                .all(|sample| sample.grades["correct"] == 0.0)
        );
        let found = mrpc.metrics(&samples);
        assert_eq!(found.len(), 2);
        assert!((found["accuracy"].value - 2.0 / 6.0).abs() < 1e-12);
        let binomial = (2.0 / 6.0 * 4.0 / 6.0 / 5.0f64).sqrt();
        assert!((found["accuracy"].stderr.unwrap() - binomial).abs() < 1e-12);
        assert!((found["f1"].value - 2.0 / 3.0).abs() < 1e-12);
        assert!(found["f1"].stderr.unwrap() > 0.05);
        assert!(mrpc.metrics(&[]).is_empty());
        assert_eq!(
            mrpc.grade("equivalent", &Answer::Text("equivalent".into()))["correct"],
            0.0
        );
        // Of another task's samples nothing is right, not even no answer to an unknown label.
        assert_eq!(
            mrpc.grade("neutral", &Answer::Scores(vec![]))["correct"],
            0.0
        );
    }

    /// A constant prediction has no correlation: the record says so, and never 0.
    #[test]
    fn values_are_scored() {
        let stsb = glue("stsb", None);
        let rising: [(&str, &[f64]); 4] =
            [("0", &[0.1]), ("2.5", &[0.2]), ("3", &[3.0]), ("5", &[4.0])];
        let found = stsb.metrics(&samples(&stsb, &rising));
        assert_eq!(found["spearman"].value, 1.0);
        assert!(found["pearson"].value > 0.8 && found["pearson"].value < 1.0);
        assert!(found["pearson"].stderr.unwrap() > 0.0);
        let graded = samples(&stsb, &rising);
        assert!((graded[0].grades["squared_error"] - 0.01).abs() < 1e-12);
        let constant = rising.map(|(reference, _)| (reference, [1.0].as_slice()));
        let mut broken = rising;
        broken[3].1 = &[f64::NAN];
        for answers in [constant, broken] {
            let found = stsb.metrics(&samples(&stsb, &answers));
            for metric in found.values() {
                assert!(metric.value.is_nan() && metric.stderr.is_none() && metric.n == 4);
            }
        }
        assert!(stsb.grade("2", &Answer::Scores(vec![f64::NAN])).is_empty());
        assert!(stsb.grade("2", &Answer::Scores(vec![])).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Samples come back in any order, and `score` has the file alone: neither changes a bit of a metric.
        #[test]
        fn metrics_are_of_a_set_of_samples(
            drawn in proptest::collection::vec((0..3usize, proptest::collection::vec(-9i8..9, 3)), 1..40),
            turn in 0..40usize,
        ) {
            for protocol in &PROTOCOLS {
                let task = glue(protocol.name, None);
                let width = protocol.labels.scores();
                let samples: Vec<Sample> = drawn
                    .iter()
                    .flat_map(|(label, scores)| {
                        let reference = match protocol.labels {
                            Labels::Classes(names) => names[label % names.len()].to_owned(),
                            Labels::Regression => label.to_string(),
                        };
                        // One answer in some has no number.
                        let scores: Vec<f64> = scores[..width]
                            .iter()
                            .map(|s| if *s == 8 { f64::NAN } else { f64::from(*s) / 3.0 })
                            .collect();
                        samples(&task, &[(&reference, &scores)])
                    })
                    .collect();
                let found = format!("{:?}", task.metrics(&samples));
                let mut turned = samples.clone();
                turned.rotate_left(turn % samples.len());
                turned.reverse();
                prop_assert_eq!(&format!("{:?}", task.metrics(&turned)), &found);
                let all: Vec<usize> = (0..samples.len()).collect();
                for (name, score) in task.corpus_scores(&samples) {
                    let (of_all, metric) = (score(&all).unwrap_or(f64::NAN), task.metrics(&samples)[&name].value);
                    prop_assert!((of_all - metric).abs() < 1e-9 || of_all.is_nan() && metric.is_nan());
                }
                let lines = samples.iter().map(|sample| serde_json::to_string(sample).unwrap());
                let read: Vec<Sample> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
                prop_assert_eq!(&format!("{:?}", task.metrics(&read)), &found);
                if let Some(accuracy) = task.metrics(&samples).get("accuracy") {
                    prop_assert_eq!(accuracy.value, task::metrics(&samples)["correct"].value);
                }
            }
        }
    }

    /// Every row of every split that the mirror holds is read, and the rows are as many as its index says.
    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let index = std::fs::read_to_string(mirror.join("INDEX.md")).unwrap_or_default();
        for protocol in &PROTOCOLS {
            let name = protocol.name;
            let folder = format!("datasets/nyu-mll/glue/{name}");
            // `| datasets/nyu-mll/glue/rte | 2490 / 277 | full |`
            let counts: Vec<usize> = index
                .lines()
                .find_map(|line| line.strip_prefix(&format!("| {folder} | ")))
                .and_then(|rest| rest.split(" | ").next())
                .into_iter()
                .flat_map(|counts| counts.split(" / "))
                .map(|count| count.split(' ').next().unwrap().parse().unwrap())
                .collect();
            let splits = ["train"].iter().chain(protocol.splits);
            let mut read = Vec::new();
            for split in splits {
                let file = format!("{folder}/{split}-00000-of-00001.parquet");
                if !mirror.join(&file).is_file() {
                    println!("skipped: no {file}");
                    continue;
                }
                let rows = mirrored(&mirror, protocol.dataset, &file);
                let task = glue(name, None);
                let examples = task.examples(&rows).unwrap();
                let requests = task.requests(&rows, &[]).unwrap();
                read.push(requests.len());
                for (example, request) in examples.iter().zip(&requests) {
                    let Target::Label { pair, label } = &example.target else {
                        panic!("{name}: no label")
                    };
                    assert_eq!(pair.is_some(), protocol.pair.is_some());
                    assert_eq!(request.kind, RequestKind::Classify { pair: pair.clone() });
                    let mut scores = vec![*label; protocol.labels.scores()];
                    if let Labels::Classes(_) = protocol.labels {
                        scores[*label as usize] += 1.0;
                    }
                    let right = task.grade(&request.reference, &Answer::Scores(scores));
                    assert!(right.get("correct").is_none_or(|correct| *correct == 1.0));
                    assert!(
                        right
                            .get("squared_error")
                            .is_none_or(|error| *error < 1e-12)
                    );
                }
            }
            assert!(
                counts.is_empty() || read == counts,
                "{name}: {read:?} {counts:?}"
            );
        }
    }
}
