//! The sample answers of a page: which questions, and what the runs answered.
//!
//! Of each samples file at most [`MOST_QUESTIONS`] questions are shown: up to half of them the first that were graded
//! differently from run to run, where methods can be told apart, the others the first of the rest. Texts are cut to
//! [`MOST_CHARACTERS`], and all of them together to [`MOST_BYTES`].

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::error::Result;
use crate::number::fixed;
use crate::record::{Run, natural};
use crate::samples::{self, Sample};

/// Questions of one samples file.
pub const MOST_QUESTIONS: usize = 24;
/// Characters of a prompt, a reference or an answer.
pub const MOST_CHARACTERS: usize = 1200;
/// Bytes of all texts.
pub const MOST_BYTES: usize = 400_000;

/// The answers to one task, by the name of its samples file.
pub struct Answers {
    /// A task, or a task and its split.
    pub name: String,
    /// Number of questions in the file with the most.
    pub questions: usize,
    /// How many of the shown ones were graded differently.
    pub differing: usize,
    /// The shown ones.
    pub shown: Vec<Question>,
}

/// One question and its answers.
pub struct Question {
    id: String,
    group: Option<String>,
    prompt: String,
    reference: String,
    /// Place of the run, text, grades.
    answers: Vec<(usize, String, Vec<String>)>,
}

impl Answers {
    /// As the page's script reads it.
    pub fn json(&self) -> Value {
        let question = |q: &Question| {
            json!({
                "id": q.id, "group": q.group, "prompt": q.prompt, "reference": q.reference, "answers": q.answers,
            })
        };
        json!({"name": self.name, "shown": self.shown.iter().map(question).collect::<Vec<_>>()})
    }

    /// How many answers are shown, of how many, and how they were chosen.
    pub fn words(&self) -> String {
        let (shown, all) = (self.shown.len(), self.questions);
        if shown == all {
            return format!("{}: all {all} questions", self.name);
        }
        format!(
            "{}: {shown} of {all} questions, {} of them the first that were graded differently from run to run, the others \
             the first of the rest",
            self.name, self.differing
        )
    }
}

/// The answers to show of `runs`.
pub fn choose(runs: &[Run]) -> Result<Vec<Answers>> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.grades.keys()).collect();
    let mut room = MOST_BYTES;
    let mut all = Vec::new();
    for (place, name) in names.iter().enumerate() {
        // What a task leaves, the next ones share.
        let share = room / (names.len() - place);
        let (answers, used) = of_file(name, runs, share)?;
        room -= used;
        all.extend(answers);
    }
    Ok(all)
}

/// Questions by whether they were graded differently from run to run, each in their order.
fn candidates(name: &str, runs: &[Run]) -> (Vec<String>, Vec<String>) {
    let mut ranges: BTreeMap<&String, BTreeMap<&String, (f64, f64)>> = BTreeMap::new();
    for grades in runs.iter().filter_map(|run| run.grades.get(name)) {
        for question in grades.questions.keys() {
            ranges.entry(question).or_default();
        }
        for (grade, values) in &grades.by_name {
            for (question, value) in values {
                let range = ranges.entry(question).or_default();
                let range = range.entry(grade).or_insert((*value, *value));
                *range = (range.0.min(*value), range.1.max(*value));
            }
        }
    }
    let mut questions: Vec<_> = ranges.into_iter().collect();
    questions.sort_by_cached_key(|(question, _)| natural(question));
    let (differing, same): (Vec<_>, Vec<_>) = questions
        .into_iter()
        .partition(|(_, grades)| grades.values().any(|(low, high)| low < high));
    let ids = |part: Vec<(&String, _)>| part.into_iter().map(|(id, _)| id.clone()).collect();
    (ids(differing), ids(same))
}

fn of_file(name: &str, runs: &[Run], room: usize) -> Result<(Option<Answers>, usize)> {
    let (differing, same) = candidates(name, runs);
    let questions = differing.len() + same.len();
    let of_same = same
        .len()
        .min(MOST_QUESTIONS - differing.len().min(MOST_QUESTIONS / 2));
    let of_differing = differing.len().min(MOST_QUESTIONS - of_same);
    // By turns, so that both kinds are there where the room ends early.
    let mut order = Vec::new();
    for place in 0..of_differing.max(of_same) {
        order.extend(differing[..of_differing].get(place).map(|id| (id, true)));
        order.extend(same[..of_same].get(place).map(|id| (id, false)));
    }
    let wanted: BTreeSet<String> = order.iter().map(|(id, _)| (*id).clone()).collect();
    let of_runs: Result<Vec<BTreeMap<String, Sample>>> = runs
        .par_iter()
        .map(|run| match samples::files(&run.dir) {
            Ok(files) if run.grades.contains_key(name) => match files.get(name) {
                Some(path) => samples::read_wanted(path, &wanted),
                None => Ok(BTreeMap::new()),
            },
            _ => Ok(BTreeMap::new()),
        })
        .collect();
    let of_runs = of_runs?;

    let mut shown: Vec<(Question, bool)> = Vec::new();
    let mut used = 0;
    'questions: for (id, differs) in order {
        // Runs with the same question under another prompt are another question.
        let mut by_prompt: BTreeMap<(&str, &str), Question> = BTreeMap::new();
        let mut size = 0;
        for (place, answers) in of_runs.iter().enumerate() {
            let Some(sample) = answers.get(id) else {
                continue;
            };
            let text = cut(&answer(&sample.answer), false);
            let question = by_prompt
                .entry((&sample.prompt, &sample.reference))
                .or_insert_with(|| {
                    let question = Question {
                        id: id.clone(),
                        group: sample.group.clone(),
                        prompt: cut(&sample.prompt, true),
                        reference: cut(&sample.reference, false),
                        answers: Vec::new(),
                    };
                    size += question.prompt.len() + question.reference.len();
                    question
                });
            if used + size + text.len() > room {
                // The first question is kept as far as it goes, so that many runs leave no page without an answer.
                if shown.is_empty() {
                    shown.extend(by_prompt.into_values().map(|question| (question, differs)));
                    used = room;
                }
                break 'questions;
            }
            size += text.len();
            let grades = sample.grades.iter();
            let grades = grades.map(|(name, value)| grade(name, *value)).collect();
            question.answers.push((place, text, grades));
        }
        used += size;
        shown.extend(by_prompt.into_values().map(|question| (question, differs)));
    }
    shown.retain(|(question, _)| !question.answers.is_empty());
    shown.sort_by_cached_key(|(question, _)| natural(&question.id));
    let count = shown.iter().filter(|(_, differs)| *differs).count();
    let answers = (!shown.is_empty()).then(|| Answers {
        name: name.to_owned(),
        questions,
        differing: count,
        shown: shown.into_iter().map(|(question, _)| question).collect(),
    });
    Ok((answers, used))
}

/// A grade for readers: `correct 1`.
pub(crate) fn grade(name: &str, value: Option<f64>) -> String {
    let value = value.map_or_else(
        || "-".to_owned(),
        |value| {
            let text = fixed(value, 3);
            let short = text.trim_end_matches('0').trim_end_matches('.');
            short.to_owned()
        },
    );
    format!("{name} {value}")
}

/// An answer for readers.
pub(crate) fn answer(value: &Value) -> String {
    if let Some(text) = value.get("text").and_then(Value::as_str) {
        return text.to_owned();
    }
    let numbers = |list: &Value| -> Option<Vec<f64>> {
        Some(list.as_array()?.iter().filter_map(Value::as_f64).collect())
    };
    let listed = |numbers: &[f64]| {
        let texts: Vec<String> = numbers.iter().map(|number| fixed(*number, 3)).collect();
        texts.join(", ")
    };
    if let Some(log_probs) = value.pointer("/choice/log_probs").and_then(numbers) {
        let best = (1..)
            .zip(&log_probs)
            .max_by(|(_, a), (_, b)| a.total_cmp(b));
        let best = best.map_or(0, |(place, _)| place);
        return format!(
            "choice {best} of {} (log-probabilities {})",
            log_probs.len(),
            listed(&log_probs)
        );
    }
    match value.get("scores").and_then(numbers) {
        Some(scores) => format!("scores {}", listed(&scores)),
        None => value.to_string(),
    }
}

/// `text`, or its first or last [`MOST_CHARACTERS`] and how many were cut.
pub(crate) fn cut(text: &str, keep_end: bool) -> String {
    let count = text.chars().count();
    if count <= MOST_CHARACTERS {
        return text.to_owned();
    }
    let left_out = count - MOST_CHARACTERS;
    if keep_end {
        let end: String = text.chars().skip(left_out).collect();
        format!("[{left_out} characters are left out] … {end}")
    } else {
        let start: String = text.chars().take(MOST_CHARACTERS).collect();
        format!("{start} … [{left_out} characters are left out]")
    }
}
