//! Alpaca: 52,002 instructions with answers (Taori et al. 2023, tatsu-lab/stanford_alpaca, CC BY-NC 4.0), and
//! CodeAlpaca: 20,022 about code in the same columns (sahil2801/CodeAlpaca-20k, CC BY-NC 4.0).
//!
//! The standard template, with and without an input, ending in `### Response:`. Neither has a test set: what is
//! reported of Alpaca is the evaluation loss and MMLU, of CodeAlpaca HumanEval. For a look at generations, the last
//! 1,024 rows are held out (QLoRA holds out 1,024 at random) and graded by exact match and by the F1 of their words.
//! Answers have at most 128 tokens, those of CodeAlpaca 1,024, as the ShareLoRA scripts train them.
//!
//! Deviation: the ShareLoRA scripts train on HuggingFaceH4/CodeAlpaca_20K, the same texts in two columns, without a
//! template, and hold out 3,000.

use std::collections::{BTreeMap, HashMap};

use crate::Result;
use crate::table::Row;
use crate::task::{Answer, Example, Request, RequestKind, Target, Task, TaskOptions};

/// See the module's text.
pub struct Alpaca {
    /// Of the task and of its dataset.
    name: &'static str,
    max_new_tokens: usize,
    options: TaskOptions,
}

impl Alpaca {
    /// Alpaca with these options; it has one variant and takes no worked examples.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        Self::named("alpaca", 128, options)
    }

    /// CodeAlpaca with these options, as [`Alpaca::new`].
    pub fn code(options: &TaskOptions) -> Result<Self> {
        Self::named("codealpaca", 1024, options)
    }

    fn named(name: &'static str, max_new_tokens: usize, options: &TaskOptions) -> Result<Self> {
        options.choose(name, &["standard"])?;
        if options.shots.is_some_and(|shots| shots > 0) {
            return Err(crate::Error::Option {
                task: name,
                key: "shots",
                reason: "takes no worked examples".to_owned(),
            });
        }
        Ok(Alpaca {
            name,
            max_new_tokens: options.new_tokens(name, max_new_tokens)?,
            options: options.clone(),
        })
    }
}

fn prompt(row: &Row) -> Result<String> {
    let instruction = row.text("instruction")?;
    let input = row.text("input")?;
    Ok(if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        )
    })
}

impl Task for Alpaca {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        "standard".to_owned()
    }

    fn dataset(&self) -> &str {
        self.name
    }

    fn train_split(&self) -> &str {
        "train"
    }

    fn eval_split(&self) -> &str {
        "eval"
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        let example = |(index, row): (usize, &Row)| {
            Ok(Example {
                id: index.to_string(),
                source: prompt(row)?,
                target: Target::Text(row.text("output")?.to_owned()),
            })
        };
        rows.iter().enumerate().map(example).collect()
    }

    fn requests(&self, eval_rows: &[Row], _shot_rows: &[Row]) -> Result<Vec<Request>> {
        let request = |(index, row): (usize, &Row)| {
            Ok(Request {
                id: index.to_string(),
                prompt: prompt(row)?,
                kind: RequestKind::Generate {
                    stop: vec!["\n### Instruction:".to_owned()],
                    max_new_tokens: self.max_new_tokens,
                },
                reference: row.text("output")?.to_owned(),
                group: None,
            })
        };
        self.options
            .limited(eval_rows)
            .iter()
            .enumerate()
            .map(request)
            .collect()
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let text = answer.text();
        let exact = f64::from(u8::from(text.trim() == request_reference.trim()));
        [
            ("exact_match".to_owned(), exact),
            ("word_f1".to_owned(), word_f1(request_reference, text)),
        ]
        .into()
    }

    fn headline(&self) -> &'static str {
        "word_f1"
    }
}

/// Harmonic mean of precision and recall over the multisets of lower-case words (1 where both are empty).
fn word_f1(reference: &str, text: &str) -> f64 {
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_lowercase)
            .collect::<Vec<_>>()
    };
    let (wanted, found) = (words(reference), words(text));
    if wanted.is_empty() && found.is_empty() {
        return 1.0;
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &wanted {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0usize;
    for word in &found {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * shared as f64 / (wanted.len() + found.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mirror, mirrored, text};

    fn row(input: &str) -> Row {
        Row::of_texts([
            ("instruction", "Add.".into()),
            ("input", input.into()),
            ("output", "Two".into()),
        ])
    }

    #[test]
    fn templates() {
        let task = Alpaca::new(&TaskOptions::default()).unwrap();
        let examples = task.examples(&[row(""), row("1 1")]).unwrap();
        assert_eq!(
            examples[0].source,
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\nAdd.\n\n### Response:"
        );
        assert_eq!(
            examples[1].source,
            "Below is an instruction that describes a task, paired with an input that provides further context. Write \
             a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 1\n\n\
             ### Response:"
        );
        assert_eq!(text(&examples[1]), "Two");
        assert_eq!(
            task.requests(&[row("1 1")], &[]).unwrap()[0].prompt,
            examples[1].source
        );
    }

    #[test]
    fn word_f1_counts_words_once() {
        assert_eq!(word_f1("a b", "A b"), 1.0);
        assert_eq!(word_f1("a b", "a a"), 0.5);
        assert_eq!(word_f1("a", ""), 0.0);
        assert_eq!(word_f1("", ""), 1.0);
    }

    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let rows = mirrored(
            &mirror,
            "alpaca",
            "datasets/tatsu-lab/alpaca/data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
        );
        let examples = Alpaca::new(&TaskOptions::default())
            .unwrap()
            .examples(&rows)
            .unwrap();
        assert!(rows.len() > 1024 && examples.len() == rows.len());
        assert!(
            examples
                .iter()
                .any(|example| example.source.contains("### Input:"))
        );
    }

    /// CodeAlpaca has Alpaca's columns and template; its inputs are mostly short values.
    #[test]
    fn real_code_rows() {
        let Some(mirror) = mirror() else { return };
        let rows = mirrored(
            &mirror,
            "codealpaca",
            "datasets/sahil2801/CodeAlpaca-20k/code_alpaca_20k.json",
        );
        let task = Alpaca::code(&TaskOptions::default()).unwrap();
        let examples = task.examples(&rows).unwrap();
        assert!(rows.len() > 1024 && examples.len() == rows.len());
        let with_input = |example: &&Example| example.source.contains("\n\n### Input:\n");
        let inputs = examples.iter().filter(with_input).count();
        assert!(0 < inputs && inputs < examples.len());
        let requests = task.requests(&rows[..1], &[]).unwrap();
        assert_eq!(requests[0].prompt, examples[0].source);
        assert!(matches!(
            requests[0].kind,
            RequestKind::Generate {
                max_new_tokens: 1024,
                ..
            }
        ));
    }
}
