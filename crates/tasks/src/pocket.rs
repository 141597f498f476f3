//! The pocket tasks: small generated texts that a model of a million parameters can learn in minutes.
//!
//! Both use forms that the pocket model's pretraining text never has (see [`crate::corpus`]), so that what is
//! measured is adaptation. `word_problems` (default) ends in `#### N`; `descriptions` turns attributes into one
//! sentence, all of which has to match. Option `dataset` names another description with the same columns.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::Result;
use crate::table::Row;
use crate::task::{self, Answer, Example, Request, RequestKind, Target, Task, TaskOptions};

const NAME: &str = "pocket";
const VARIANTS: [&str; 2] = ["word_problems", "descriptions"];

/// See the module's text.
pub struct PocketTask {
    descriptions: bool,
    shots: usize,
    max_new_tokens: usize,
    options: TaskOptions,
}

impl PocketTask {
    /// The task with these options.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        Ok(PocketTask {
            descriptions: options.choose(NAME, &VARIANTS)? == 1,
            shots: options.shots.unwrap_or(0),
            max_new_tokens: options.new_tokens(NAME, 48)?,
            options: options.clone(),
        })
    }

    /// Source and target of a row.
    fn texts(&self, row: &Row) -> Result<(String, String)> {
        Ok(if self.descriptions {
            (
                format!("{}\n", row.text("source")?),
                row.text("target")?.to_owned(),
            )
        } else {
            (
                format!("Question: {}\nAnswer:", row.text("question")?),
                format!(" {}", row.text("answer")?),
            )
        })
    }
}

impl Task for PocketTask {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        let variant = VARIANTS[usize::from(self.descriptions)];
        self.options.variant(match self.shots {
            0 => variant.to_owned(),
            shots => format!("{variant}_{shots}_shot"),
        })
    }

    fn dataset(&self) -> &str {
        self.options.dataset(match self.descriptions {
            true => "pocket_descriptions",
            false => "pocket",
        })
    }

    fn train_split(&self) -> &str {
        "train"
    }

    fn eval_split(&self) -> &str {
        "test"
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        rows.iter()
            .enumerate()
            .map(|(index, row)| {
                let (source, target) = self.texts(row)?;
                Ok(Example {
                    id: index.to_string(),
                    source,
                    target: Target::Text(target),
                })
            })
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>> {
        let mut header = String::new();
        for row in task::shots(NAME, shot_rows, self.shots)? {
            let (source, target) = self.texts(row)?;
            header += &format!("{source}{target}\n\n");
        }
        let stop = if self.descriptions { "\n" } else { "Question:" };
        self.options
            .limited(eval_rows)
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let (source, target) = self.texts(row)?;
                let kind = RequestKind::Generate {
                    stop: vec![stop.to_owned()],
                    max_new_tokens: self.max_new_tokens,
                };
                Ok(Request {
                    id: index.to_string(),
                    prompt: format!("{header}{source}"),
                    kind,
                    reference: target,
                    group: None,
                })
            })
            .collect()
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let text = answer.text();
        let right = if self.descriptions {
            text.trim() == request_reference.trim()
        } else {
            number(text).is_some_and(|found| Some(found) == number(request_reference))
        };
        [("exact_match".to_owned(), f64::from(u8::from(right)))].into()
    }

    fn headline(&self) -> &'static str {
        "exact_match"
    }
}

/// The number after the first `#### `.
fn number(text: &str) -> Option<&str> {
    static PATTERN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("#### (-?[0-9]+)").expect("a pattern of this file"));
    PATTERN
        .captures(text)
        .and_then(|groups| groups.get(1))
        .map(|group| group.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{Kind, corpus};
    use crate::testing::text;

    #[test]
    fn own_answers_are_right_and_others_wrong() {
        for (variant, kind) in VARIANTS
            .iter()
            .zip([Kind::WordProblemsHeld, Kind::DescriptionsHeld])
        {
            let options = TaskOptions {
                variant: Some((*variant).into()),
                shots: Some(1),
                ..TaskOptions::default()
            };
            let task = PocketTask::new(&options).unwrap();
            let (train, test) = (corpus(kind, 1, 20), corpus(kind, 3, 20));
            let requests = task.requests(&test, &train).unwrap();
            for (request, example) in requests.iter().zip(task.examples(&test).unwrap()) {
                assert!(
                    request.prompt.ends_with(&example.source)
                        && request.prompt.len() > example.source.len()
                );
                let grade = |text: String| task.grade(&request.reference, &Answer::Text(text))["exact_match"];
                let target = text(&example);
                assert_eq!(grade(target.into()), 1.0);
                assert_eq!(grade(format!("{target}1")), 0.0);
                assert_eq!(grade(String::new()), 0.0);
            }
        }
    }
}
