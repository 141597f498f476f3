//! The pocket tasks: small generated texts that a model of a million parameters can learn in minutes.
//!
//! Both use forms that the pocket model's pretraining text never has (see [`crate::corpus`]), so that what is
//! measured is adaptation. `word_problems` (default) ends in `#### N`; `descriptions` turns attributes into one
//! sentence, all of which has to match.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::Result;
use crate::table::Row;
use crate::task::{self, Answer, Example, Request, RequestKind, Task, TaskOptions};

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

    fn example(&self, index: usize, row: &Row) -> Result<Example> {
        let (source, target) = if self.descriptions {
            (
                format!("{}\n", row.text("source")?),
                row.text("target")?.to_owned(),
            )
        } else {
            (
                format!("Question: {}\nAnswer:", row.text("question")?),
                format!(" {}", row.text("answer")?),
            )
        };
        Ok(Example {
            id: index.to_string(),
            source,
            target,
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
        if self.shots == 0 {
            variant.to_owned()
        } else {
            format!("{variant}_{}_shot", self.shots)
        }
    }

    fn dataset(&self) -> &str {
        if self.descriptions {
            "pocket_descriptions"
        } else {
            "pocket"
        }
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
            .map(|(index, row)| self.example(index, row))
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>> {
        let mut header = String::new();
        for row in task::shots(NAME, shot_rows, self.shots)? {
            let Example { source, target, .. } = self.example(0, row)?;
            header += &format!("{source}{target}\n\n");
        }
        let stop = if self.descriptions { "\n" } else { "Question:" };
        self.options
            .limited(eval_rows)
            .iter()
            .enumerate()
            .map(|(index, row)| {
                let Example { id, source, target } = self.example(index, row)?;
                let kind = RequestKind::Generate {
                    stop: vec![stop.to_owned()],
                    max_new_tokens: self.max_new_tokens,
                };
                Ok(Request {
                    id,
                    prompt: format!("{header}{source}"),
                    kind,
                    reference: target,
                    group: None,
                })
            })
            .collect()
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let text = match answer {
            Answer::Text(text) => text.as_str(),
            Answer::Choice { .. } => "",
        };
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
                assert_eq!(grade(example.target.clone()), 1.0);
                assert_eq!(grade(format!("{}1", example.target)), 0.0);
                assert_eq!(grade(String::new()), 0.0);
            }
        }
    }
}
