//! Several answers to one question: how they are drawn, and which belong together.
//!
//! A question that is asked n times is n requests, one after the other; `ID#3` is the fourth of `ID`. A question that is
//! asked once keeps its id.

use std::collections::BTreeMap;

use crate::task::{Request, Sample, Sampling, TaskOptions};
use crate::{Error, Result};

/// How many answers a question gets, and how they are drawn where they are not the most likely.
#[derive(Clone, Copy)]
pub struct Repeats {
    /// At least 1.
    pub samples: usize,
    /// `None` where the options ask for one answer and no temperature.
    pub sampling: Option<Sampling>,
}

impl Repeats {
    /// What the options ask for; `default` is how answers are drawn where they do not say.
    pub fn new(task: &'static str, options: &TaskOptions, default: Sampling) -> Result<Self> {
        let refuse = |key, reason: &str| {
            Err(Error::Option {
                task,
                key,
                reason: reason.to_owned(),
            })
        };
        let samples = options.samples.unwrap_or(1);
        if samples == 0 {
            return refuse("samples", "should be at least 1");
        }
        let temperature = options.temperature.unwrap_or(default.temperature);
        if !(temperature.is_finite() && temperature > 0.0) {
            return refuse(
                "temperature",
                "should be above 0; left out, the most likely answer is taken",
            );
        }
        let drawn = samples > 1 || options.temperature.is_some();
        Ok(Repeats {
            samples,
            sampling: drawn.then_some(Sampling {
                temperature,
                ..default
            }),
        })
    }

    /// The name of a variant, with how its answers are drawn.
    pub fn variant(&self, name: String) -> String {
        match (self.samples, self.sampling) {
            (_, None) => name,
            (1, Some(sampling)) => format!("{name}_1_sample_t{}", sampling.temperature),
            (n, Some(sampling)) => format!("{name}_{n}_samples_t{}", sampling.temperature),
        }
    }

    /// `request` as often as its question is asked.
    pub fn requests(&self, request: Request) -> Vec<Request> {
        if self.samples == 1 {
            return vec![request];
        }
        let again = |index| Request {
            id: id(&request.id, index),
            ..request.clone()
        };
        (0..self.samples).map(again).collect()
    }
}

/// The id of an answer among several.
pub fn id(question: &str, index: usize) -> String {
    format!("{question}#{index}")
}

/// The question of an id, and the place of the answer among its answers.
pub fn question(id: &str) -> (&str, usize) {
    id.rsplit_once('#')
        .and_then(|(question, index)| Some((question, index.parse().ok()?)))
        .unwrap_or((id, 0))
}

/// The answers to each question in the order they were drawn, whatever the order of `samples`.
pub fn by_question(samples: &[Sample]) -> Vec<Vec<&Sample>> {
    let mut questions: BTreeMap<&str, Vec<(usize, &Sample)>> = BTreeMap::new();
    for sample in samples {
        let (question, index) = question(&sample.id);
        questions.entry(question).or_default().push((index, sample));
    }
    let in_order = |mut answers: Vec<(usize, _)>| {
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, sample)| sample).collect()
    };
    questions.into_values().map(in_order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids of real datasets have other signs in them; only a number after the last `#` is a place.
    #[test]
    fn ids() {
        for (text, wanted) in [
            ("HumanEval/0#3", ("HumanEval/0", 3)),
            ("HumanEval/0", ("HumanEval/0", 0)),
            ("C#", ("C#", 0)),
            ("a#b#12", ("a#b", 12)),
            ("#-1", ("#-1", 0)),
        ] {
            assert_eq!(question(text), wanted);
        }
        assert_eq!(question(&id("a#1", 2)), ("a#1", 2));
    }
}
