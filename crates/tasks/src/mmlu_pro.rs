//! MMLU-Pro: multiple choice questions with up to ten options over 14 categories (Wang et al., arXiv 2406.01574).
//!
//! | variant | the model | prompt |
//! |---|---|---|
//! | `cot` (default) | thinks, then writes `the answer is (X)` | lm-eval, `lm_eval/tasks/mmlu_pro` |
//! | `letters` | gives the log-probability of ` A`, ` B`, .. | MMLU's of lm-eval, with as many letters as options |
//!
//! `cot` generates up to 2,048 tokens, ended by `Question:`; the first match of `answer is \(?([ABCDEFGHIJ])\)?` is the
//! answer. The worked examples are the first 5 rows of the category in the validation split, which alone has written-out thoughts.
//! Where that split is not to be had, `shot_rows` are empty, and the questions are asked without examples: see
//! [`Task::note`]. `limit` counts per category, as each is a task of its own in lm-eval. lm-eval averages over questions
//! (`accuracy`); `accuracy_macro` is over categories.
//!
//! The right answer is the letter, as in lm-eval; question 3983 has another number in `answer_index`.
//!
//! Deviation: the ShareLoRA code scores the tokens `A` .. `J`, all ten for every question, after prompts of Meta's that
//! are not in its repository (`eval_callback.py`); `letters` scores those that the question has.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use regex::Regex;

use crate::table::Row;
use crate::task::{self, Answer, Example, Request, RequestKind, Target, Task, TaskOptions};
use crate::{Error, Result};

const NAME: &str = "mmlu_pro";
const LETTERS: [&str; 10] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"];
const THINK: &str = "Let's think step by step.";

/// See the module's text.
pub struct MmluPro {
    letters: bool,
    shots: usize,
    max_new_tokens: usize,
    limit: usize,
}

impl MmluPro {
    /// The task with these options.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        let letters = options.choose(NAME, &["cot", "letters"])? == 1;
        if letters && options.max_new_tokens.is_some() {
            return Err(Error::Option {
                task: NAME,
                key: "max_new_tokens",
                reason: "nothing is generated: letters are scored".to_owned(),
            });
        }
        Ok(MmluPro {
            letters,
            shots: options.shots.unwrap_or(5),
            max_new_tokens: options.new_tokens(NAME, 2048)?,
            limit: options.limit.unwrap_or(usize::MAX),
        })
    }

    fn header(&self, category: &str) -> String {
        let header =
            format!("The following are multiple choice questions (with answers) about {category}.");
        if self.letters {
            return header + "\n\n";
        }
        header
            + " Think step by step and then finish your answer with \"the answer is (X)\" where X is the correct \
               letter choice.\n"
    }

    fn question(&self, question: &Question) -> String {
        let text = question.text;
        let mut prompt = match self.letters {
            true => format!("{}\n", text.trim()),
            false => format!("Question:\n{text}\nOptions:\n"),
        };
        for (letter, option) in LETTERS.iter().zip(question.options) {
            prompt += &format!("{letter}. {}\n", option.trim());
        }
        match self.letters {
            true => prompt + "Answer:",
            false => format!("{prompt}Answer: {THINK}"),
        }
    }

    /// What follows the question, with its space.
    fn answer(&self, question: &Question, row: &Row) -> Result<String> {
        if self.letters {
            return Ok(format!(" {}", question.letter));
        }
        let thoughts = row.text("cot_content")?;
        Ok(format!(
            " {}",
            thoughts.replace(&format!("A: {THINK} "), "")
        ))
    }

    /// The header and the worked examples of a category.
    fn shown(&self, category: &str, shots: &HashMap<&str, Vec<&Row>>) -> Result<String> {
        let mut shown = self.header(category);
        // Without any row the split is not there, and without enough it is not the one that is meant.
        if shots.is_empty() {
            return Ok(shown);
        }
        let rows = shots.get(category).map(Vec::as_slice).unwrap_or_default();
        task::enough(NAME, "category", category, rows.len(), self.shots)?;
        for row in rows {
            let question = Question::of(row)?;
            shown += &self.question(&question);
            shown += &self.answer(&question, row)?;
            shown += "\n\n";
        }
        Ok(shown)
    }
}

/// What all prompts need of a row.
struct Question<'a> {
    id: String,
    text: &'a str,
    options: &'a [String],
    letter: &'a str,
}

impl<'a> Question<'a> {
    fn of(row: &'a Row) -> Result<Self> {
        let question = Question {
            id: row.int("question_id")?.to_string(),
            text: row.text("question")?,
            options: row.list("options")?,
            letter: row.text("answer")?,
        };
        let options = question.options.len();
        let fail = |reason| {
            Err(Error::Row {
                task: NAME,
                row: question.id.clone(),
                reason,
            })
        };
        if !(1..=LETTERS.len()).contains(&options) {
            return fail(format!(
                "has {options} options instead of 1 to {}",
                LETTERS.len()
            ));
        }
        if !LETTERS[..options].contains(&question.letter) {
            return fail(format!(
                "answer `{}` is not one of {}",
                question.letter,
                LETTERS[..options].join(", ")
            ));
        }
        Ok(question)
    }
}

impl Task for MmluPro {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        let name = if self.letters { "letters" } else { "cot" };
        format!("{name}_{}_shot", self.shots)
    }

    fn dataset(&self) -> &str {
        NAME
    }

    fn train_split(&self) -> &str {
        "validation"
    }

    fn eval_split(&self) -> &str {
        "test"
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        let example = |row: &Row| {
            let question = Question::of(row)?;
            let header = self.header(row.text("category")?);
            Ok(Example {
                source: header + &self.question(&question),
                target: Target::Text(self.answer(&question, row)?),
                id: question.id,
            })
        };
        rows.iter().map(example).collect()
    }

    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>> {
        let shots = task::shots_by(shot_rows, "category", self.shots)?;
        let mut shown: HashMap<&str, String> = HashMap::new();
        let mut requests = Vec::new();
        for (_, category, row) in task::limited_by(eval_rows, "category", self.limit)? {
            if !shown.contains_key(category) {
                shown.insert(category, self.shown(category, &shots)?);
            }
            let question = Question::of(row)?;
            let kind = match self.letters {
                true => RequestKind::Choose {
                    choices: LETTERS[..question.options.len()]
                        .iter()
                        .map(|letter| format!(" {letter}"))
                        .collect(),
                },
                false => RequestKind::Generate {
                    stop: vec!["Question:".to_owned()],
                    max_new_tokens: self.max_new_tokens,
                },
            };
            requests.push(Request {
                prompt: format!("{}{}", shown[category], self.question(&question)),
                kind,
                reference: question.letter.to_owned(),
                group: Some(category.to_owned()),
                id: question.id,
            });
        }
        Ok(requests)
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let chosen = match answer {
            Answer::Text(text) => extract(text),
            Answer::Choice { log_probs } => {
                task::largest(log_probs).and_then(|index| LETTERS.get(index).copied())
            }
            Answer::Scores(_) => None,
        };
        let right = chosen == Some(request_reference);
        [("accuracy".to_owned(), f64::from(u8::from(right)))].into()
    }

    fn headline(&self) -> &'static str {
        "accuracy"
    }

    fn note(&self, shot_rows: &[Row]) -> Option<String> {
        (self.shots > 0 && shot_rows.is_empty()).then(|| {
            format!(
                "asked without worked examples instead of {}: the validation split is not here",
                self.shots
            )
        })
    }
}

/// The letter of the first match.
fn extract(text: &str) -> Option<&str> {
    static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"answer is \(?([ABCDEFGHIJ])\)?").expect("a pattern of this file")
    });
    let letter = ANSWER.captures(text)?.get(1)?;
    Some(letter.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::Value;
    use crate::testing::{mirror, mirrored, text};

    fn row(id: i64, category: &str, options: &[&str], answer: &str) -> Row {
        let mut row = Row::of_texts([
            ("question", format!("Which {id}? ")),
            ("answer", answer.into()),
            ("category", category.into()),
            (
                "cot_content",
                format!("A: Let's think step by step. So. The answer is ({answer})."),
            ),
        ]);
        row.0.insert("question_id".into(), Value::Int(id));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        row.0.insert("options".into(), Value::List(options));
        row
    }

    fn with(variant: &str, shots: usize) -> MmluPro {
        MmluPro::new(&TaskOptions {
            variant: Some(variant.into()),
            shots: Some(shots),
            ..TaskOptions::default()
        })
        .unwrap()
    }

    #[test]
    fn templates() {
        let test = [row(1, "law", &["x", " y ", "z"], "B")];
        let shots = [row(2, "law", &["v", "w"], "A"), row(3, "law", &["v"], "A")];
        let cot = &with("cot", 1).requests(&test, &shots).unwrap()[0];
        assert_eq!(
            cot.prompt,
            "The following are multiple choice questions (with answers) about law. Think step by step and then finish \
             your answer with \"the answer is (X)\" where X is the correct letter choice.\n\
             Question:\nWhich 2? \nOptions:\nA. v\nB. w\nAnswer: Let's think step by step. So. The answer is (A).\n\n\
             Question:\nWhich 1? \nOptions:\nA. x\nB. y\nC. z\nAnswer: Let's think step by step."
        );
        assert_eq!((cot.id.as_str(), cot.group.as_deref()), ("1", Some("law")));
        let letters = &with("letters", 1).requests(&test, &shots).unwrap()[0];
        assert_eq!(
            letters.prompt,
            "The following are multiple choice questions (with answers) about law.\n\n\
             Which 2?\nA. v\nB. w\nAnswer: A\n\nWhich 1?\nA. x\nB. y\nC. z\nAnswer:"
        );
        let choices = [" A", " B", " C"].map(String::from).into();
        assert_eq!(letters.kind, RequestKind::Choose { choices });
        let example = &with("cot", 5).examples(&shots).unwrap()[0];
        assert!(
            example
                .source
                .ends_with("B. w\nAnswer: Let's think step by step.")
        );
        assert_eq!(text(example), " So. The answer is (A).");
    }

    /// Without the validation split the questions are asked all the same, and the record is told so.
    #[test]
    fn without_worked_examples() {
        let test = [row(1, "law", &["x"], "A")];
        for variant in ["cot", "letters"] {
            let (five, none) = (with(variant, 5), with(variant, 0));
            assert_eq!(
                five.requests(&test, &[]).unwrap(),
                none.requests(&test, &[]).unwrap()
            );
            assert!(five.note(&[]).unwrap().contains("instead of 5"));
            assert_eq!(five.note(&test), None);
            assert_eq!(none.note(&[]), None);
            let message = five.requests(&test, &test).unwrap_err().to_string();
            assert!(
                message.contains("`law`") && message.contains("shots"),
                "{message}"
            );
        }
    }

    #[test]
    fn unusable_rows_are_errors() {
        for (options, answer) in [
            (vec![], "A"),
            (vec!["x"; 11], "A"),
            (vec!["x"; 3], "D"),
            (vec!["x"; 3], ""),
        ] {
            let wrong = row(7, "law", &options, answer);
            let message = with("cot", 0)
                .requests(&[wrong], &[])
                .unwrap_err()
                .to_string();
            assert!(message.contains("`7`"), "{message}");
        }
    }

    #[test]
    fn grades() {
        let grade = |answer: Answer| with("cot", 0).grade("B", &answer)["accuracy"];
        assert_eq!(grade(Answer::Text("So the answer is (B).".into())), 1.0);
        assert_eq!(grade(Answer::Text("The answer is A, not B.".into())), 0.0);
        assert_eq!(grade(Answer::Text("B".into())), 0.0);
        let log_probs = vec![-2.0, -1.0, -3.0];
        assert_eq!(grade(Answer::Choice { log_probs }), 1.0);
        assert_eq!(grade(Answer::Choice { log_probs: vec![] }), 0.0);
        assert_eq!(grade(Answer::Scores(vec![0.0, 1.0])), 0.0);
    }

    /// lm-eval's filter, on what its own code extracted; see scripts/lm_eval_prompts.py.
    #[test]
    fn extraction_as_lm_eval() {
        let fixture = crate::lm_eval::fixture();
        let cases = fixture["mmlu_pro_extracted"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let (text, wanted) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
            assert_eq!(extract(text).unwrap_or("[invalid]"), wanted, "{text:?}");
        }
    }

    proptest! {
        /// Any text has a letter or none.
        #[test]
        fn extraction_of_any_text(text in "(answer is |\\(|[A-K]|\\PC|\n){0,12}") {
            let found = extract(&text);
            prop_assert!(found.is_none_or(|letter| LETTERS.contains(&letter)));
        }
    }

    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let test = mirrored(
            &mirror,
            "mmlu_pro",
            "datasets/TIGER-Lab/MMLU-Pro/data/test-00000-of-00001.parquet",
        );
        let requests = with("letters", 5).requests(&test, &[]).unwrap();
        assert_eq!(requests.len(), 12_032);
        // Its letter is C, its index 1.
        let odd = requests
            .iter()
            .find(|request| request.id == "3983")
            .unwrap();
        assert_eq!(odd.reference, "C");
        let limited = MmluPro::new(&TaskOptions {
            limit: Some(2),
            ..TaskOptions::default()
        })
        .unwrap();
        let requests = limited.requests(&test, &[]).unwrap();
        assert_eq!(requests.len(), 2 * 14);
        assert!(requests.iter().all(|request| request.group.is_some()));
    }
}
