//! GSM8K: grade school word problems (Cobbe et al., arXiv 2110.14168).
//!
//! Source: lm-eval v3, `lm_eval/tasks/gsm8k/gsm8k.yaml` and `gsm8k-cot.yaml`, and for `released` the
//! ShareLoRA code, `sharelora/lora_llama3_share.py` with its `few_shot.py`.
//!
//! | variant | prompt | worked examples | strict answer |
//! |---|---|---|---|
//! | `zero_shot` (default) | `Question: ..\nAnswer:` | none | `#### N` |
//! | `cot` | `Q: ..\nA:` | the 8 of Wei et al. (arXiv 2201.11903, table 20) | `The answer is N.` |
//! | `released` | `Question: ..\n\nAnswer: ` | the same 8, in training too | `The final answer is N` |
//!
//! `samples = n` draws n answers to every question and takes the majority of their numbers (self-consistency, Wang et
//! al., arXiv 2203.11171), one vote by the strict and one by the flexible number. Temperature 0.7 without truncation is
//! the paper's for GPT-3 (section 3.1; `released` has its own), where it draws 40. Among equals the first drawn wins.
//! The mean exact match is then over questions, as its standard error is.
//!
//! Deviations: answers without a number do not vote, and votes are for normalised numbers; lm-eval's `majority_vote`
//! counts texts as extracted, `[invalid]` too. `shots = n` in `zero_shot` takes the first n rows of `train`, where
//! lm-eval draws n rows for every question. lm-eval defines no training: `cot` is trained on its own prompt without
//! worked examples and ends in `The answer is N.`. The released training truncates the source at 512 tokens, which
//! cuts the question off; that is the encoder's doing (`max_source = 512`), not the prompt's. The released code writes
//! predictions and has no grader: `released` is graded as the other variants are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::Result;
use crate::repeats::{self, Repeats};
use crate::table::Row;
use crate::task::{
    self, Answer, Example, Metric, Request, RequestKind, Sample, Sampling, Target, Task,
    TaskOptions,
};

const NAME: &str = "gsm8k";
const VARIANTS: [&str; 3] = ["zero_shot", "cot", "released"];

/// How several answers are drawn.
const DRAWN: Sampling = Sampling {
    temperature: 0.7,
    top_p: 1.0,
};
/// How `released` draws answers, one too.
const RELEASED: Sampling = Sampling {
    temperature: 0.6,
    top_p: 0.95,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    ZeroShot,
    Cot,
    Released,
}

/// See the module's text.
pub struct Gsm8k {
    variant: Variant,
    shots: usize,
    max_new_tokens: usize,
    repeats: Repeats,
    options: TaskOptions,
}

impl Gsm8k {
    /// The task with these options.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        let variant = match options.choose(NAME, &VARIANTS)? {
            0 => Variant::ZeroShot,
            1 => Variant::Cot,
            _ => Variant::Released,
        };
        let (shots, tokens) = match variant {
            Variant::ZeroShot => (0, 256),
            Variant::Cot => (8, 256),
            Variant::Released => (8, 512),
        };
        let shots = options.shots.unwrap_or(shots);
        if variant != Variant::ZeroShot && shots > WORKED.len() {
            let reason = format!(
                "this variant has {} worked examples, not {shots}",
                WORKED.len()
            );
            return Err(crate::Error::Option {
                task: NAME,
                key: "shots",
                reason,
            });
        }
        let drawn = match variant {
            Variant::ZeroShot | Variant::Cot => DRAWN,
            Variant::Released => RELEASED,
        };
        Ok(Gsm8k {
            variant,
            shots,
            max_new_tokens: options.new_tokens(NAME, tokens)?,
            repeats: Repeats::new(NAME, options, drawn)?,
            options: options.clone(),
        })
    }

    fn question(&self, question: &str) -> String {
        match self.variant {
            Variant::ZeroShot => format!("Question: {question}\nAnswer:"),
            Variant::Cot => format!("Q: {question}\nA:"),
            Variant::Released => format!("Question: {question}\n\nAnswer: "),
        }
    }

    /// The answer as it follows the question; `Answer: ` of `released` ends in its own space.
    fn answer(&self, answer: &str) -> String {
        let (work, number) = answer.rsplit_once("\n#### ").unwrap_or((answer, ""));
        match self.variant {
            Variant::ZeroShot => format!(" {answer}"),
            Variant::Cot => format!(" {work}\nThe answer is {}.", number.trim()),
            Variant::Released => format!("{work} The final answer is {}", number.trim()),
        }
    }

    /// Worked examples, each followed by a blank line.
    fn header(&self, shot_rows: &[Row]) -> Result<String> {
        let mut header = String::new();
        if self.variant == Variant::ZeroShot {
            for row in task::shots(NAME, shot_rows, self.shots)? {
                header += &format!(
                    "{}{}\n\n",
                    self.question(row.text("question")?),
                    self.answer(row.text("answer")?)
                );
            }
        } else {
            for (question, work, number) in &WORKED[..self.shots] {
                let answer = match self.variant {
                    Variant::Released => format!("{work} The final answer is {number}"),
                    _ => format!(" {work} The answer is {number}."),
                };
                header += &format!("{}{answer}\n\n", self.question(question));
            }
        }
        Ok(header)
    }

    /// The number where this variant's answers have it.
    fn strict<'a>(&self, text: &'a str) -> &'a str {
        let strict = match self.variant {
            Variant::ZeroShot => &STRICT,
            Variant::Cot => &STRICT_COT,
            Variant::Released => &STRICT_RELEASED,
        };
        extract_first(strict, text)
    }
}

/// Whether most answers to a question have the right number: 1 or 0.
fn majority<'a>(answers: &[&'a Sample], extract: impl Fn(&'a str) -> &'a str) -> f64 {
    let mut votes: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let number = extract(answer.answer.text());
        if number == INVALID {
            continue;
        }
        let number = normalise(number);
        match votes.iter_mut().find(|(other, _)| *other == number) {
            Some((_, count)) => *count += 1,
            None => votes.push((number, 1)),
        }
    }
    // `max_by_key` keeps the last of equals, hence the reversal.
    let winner = votes.iter().rev().max_by_key(|(_, count)| *count);
    let right = answers.first().zip(winner);
    f64::from(u8::from(right.is_some_and(|(answer, (number, _))| {
        *number == normalise(&answer.reference)
    })))
}

impl Task for Gsm8k {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        match self.variant {
            // 2: a question's draws are named by its place in the task, and no longer by that in its batch.
            Variant::Released => 2,
            Variant::ZeroShot | Variant::Cot => 1,
        }
    }

    fn variant(&self) -> String {
        self.repeats.variant(match (self.variant, self.shots) {
            (Variant::ZeroShot, 0) => "zero_shot".to_owned(),
            (Variant::ZeroShot, n) => format!("{n}_shot"),
            (Variant::Cot, 8) => "cot".to_owned(),
            (Variant::Cot, n) => format!("cot_{n}_shot"),
            (Variant::Released, 8) => "released".to_owned(),
            (Variant::Released, n) => format!("released_{n}_shot"),
        })
    }

    fn dataset(&self) -> &str {
        "gsm8k"
    }

    fn train_split(&self) -> &str {
        "train"
    }

    fn eval_split(&self) -> &str {
        "test"
    }

    fn examples(&self, rows: &[Row]) -> Result<Vec<Example>> {
        let header = if self.variant == Variant::Released {
            self.header(&[])?
        } else {
            String::new()
        };
        rows.iter()
            .enumerate()
            .map(|(index, row)| {
                Ok(Example {
                    id: index.to_string(),
                    source: format!("{header}{}", self.question(row.text("question")?)),
                    target: Target::Text(self.answer(row.text("answer")?)),
                })
            })
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], shot_rows: &[Row]) -> Result<Vec<Request>> {
        let header = self.header(shot_rows)?;
        // The released code generates until the end-of-text token.
        let stop: &[&str] = match self.variant {
            Variant::ZeroShot => &["Question:", "</s>", "<|im_end|>"],
            Variant::Cot => &["Q:", "</s>", "<|im_end|>"],
            Variant::Released => &[],
        };
        let stop: Vec<String> = stop.iter().map(|text| (*text).to_owned()).collect();
        let mut requests = Vec::new();
        for (index, row) in self.options.limited(eval_rows).iter().enumerate() {
            requests.extend(self.repeats.requests(Request {
                id: index.to_string(),
                prompt: format!("{header}{}", self.question(row.text("question")?)),
                kind: RequestKind::Generate {
                    stop: stop.clone(),
                    max_new_tokens: self.max_new_tokens,
                },
                reference: row.text("answer")?.to_owned(),
                group: None,
            }));
        }
        Ok(requests)
    }

    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let text = answer.text();
        let reference = normalise(request_reference);
        let grade = |extracted: &str| f64::from(u8::from(normalise(extracted) == reference));
        [
            ("exact_match_strict".to_owned(), grade(self.strict(text))),
            (
                "exact_match_flexible".to_owned(),
                grade(extract_flexible(text)),
            ),
        ]
        .into()
    }

    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        let questions = repeats::by_question(samples);
        if questions.iter().all(|answers| answers.len() == 1) {
            return task::metrics(samples);
        }
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for answers in &questions {
            let mut add =
                |name: &str, value| values.entry(name.to_owned()).or_default().push(value);
            for name in ["exact_match_strict", "exact_match_flexible"] {
                let grades = answers.iter().filter_map(|sample| sample.grades.get(name));
                let grades: Vec<f64> = grades.copied().collect();
                if !grades.is_empty() {
                    add(name, task::mean(&grades).value);
                }
            }
            add(
                "majority_vote_strict",
                majority(answers, |text| self.strict(text)),
            );
            add(
                "majority_vote_flexible",
                majority(answers, extract_flexible),
            );
        }
        let of = |(name, values): (String, Vec<f64>)| (name, task::mean(&values));
        values.into_iter().map(of).collect()
    }

    fn headline(&self) -> &'static str {
        "exact_match_strict"
    }

    fn sampling(&self) -> Option<Sampling> {
        let released = (self.variant == Variant::Released).then_some(RELEASED);
        self.repeats.sampling.or(released)
    }

    fn samples(&self) -> usize {
        self.repeats.samples
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

static STRICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (\-?[0-9\.\,]+)"));
// The last character may be anything: "The answer is 18" at the very end of a text reads as 1, as in lm-eval.
static STRICT_COT: LazyLock<Regex> = LazyLock::new(|| pattern(r"The answer is (\-?[0-9\.\,]+)."));
static STRICT_RELEASED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"The final answer is \$?(\-?[0-9\.\,]+)"));
static FLEXIBLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"));

const INVALID: &str = "[invalid]";

/// The group of the first match.
fn extract_first<'a>(strict: &Regex, text: &'a str) -> &'a str {
    strict
        .captures(text)
        .and_then(|groups| groups.get(1))
        .map_or(INVALID, |group| group.as_str().trim())
}

/// The last match, whichever of the two groups it filled.
fn extract_flexible(text: &str) -> &str {
    FLEXIBLE
        .find_iter(text)
        .last()
        .map_or(INVALID, |found| found.as_str().trim())
}

/// lm-eval's `regexes_to_ignore` in their order (`,`, `\$`, `(?s).*#### `, `\.$`), then lower case.
fn normalise(text: &str) -> String {
    // Python's `$` also matches before a final line break.
    static LAST_STOP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.(\n?)\z"));
    let text = text.replace([',', '$'], "");
    let text = text
        .rsplit_once("#### ")
        .map_or(text.as_str(), |(_, rest)| rest);
    LAST_STOP.replace(text, "$1").to_lowercase()
}

/// Question, work, number: the worked examples of Wei et al. 2022, table 20.
#[rustfmt::skip]
const WORKED: [(&str, &str, &str); 8] = [
    ("There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there will be 21 trees. How many trees did the grove workers plant today?",
     "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been 21 - 15 = 6.", "6"),
    ("If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?",
     "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5.", "5"),
    ("Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?",
     "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they had 74 - 35 = 39.", "39"),
    ("Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason give to Denny?",
     "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8.", "8"),
    ("Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?",
     "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9.", "9"),
    ("There were nine computers in the server room. Five more computers were installed each day, from monday to thursday. How many computers are now in the server room?",
     "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + 20 is 29.", "29"),
    ("Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls did he have at the end of wednesday?",
     "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he had 35 - 2 = 33 golf balls.", "33"),
    ("Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
     "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is 8.", "8"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{mirror, mirrored, text};

    fn with(variant: &str, shots: Option<usize>) -> Gsm8k {
        Gsm8k::new(&TaskOptions {
            variant: Some(variant.into()),
            shots,
            ..TaskOptions::default()
        })
        .unwrap()
    }

    /// (text, strict, flexible), as Python's `re` gives them with lm-eval's filters.
    #[test]
    fn extraction_of_tricky_answers() {
        let cases = [
            ("#### 18", "18", "18"),
            ("16 - 3 = 13\n#### 13.", "13.", "13."),
            ("She makes $1,234.50.", INVALID, "$1,234.50."),
            ("#### -5", "-5", "-5"),
            ("It is -5", INVALID, "-5"),
            ("no number here", INVALID, INVALID),
            ("#### 5 and then #### 6", "5", "6"),
            ("#### 5\n#### 5", "5", "5"),
            ("#### $5", INVALID, "$5"),
            ("####5", INVALID, "5"),
            ("7 apples.", INVALID, "7"),
            ("It costs 7 ...", INVALID, "..."),
            ("#### 1,000,", "1,000,", "1,000,"),
            ("", INVALID, INVALID),
        ];
        for (text, strict, flexible) in cases {
            assert_eq!(extract_first(&STRICT, text), strict, "{text:?}");
            assert_eq!(extract_flexible(text), flexible, "{text:?}");
        }
        let cot = [
            ("The answer is 18.", "18"),
            ("The answer is 18. So", "18."),
            ("The answer is 18", "1"),
            ("The answer is 1", INVALID),
        ];
        for (text, wanted) in cot {
            assert_eq!(extract_first(&STRICT_COT, text), wanted, "{text:?}");
        }
        assert_eq!(
            extract_first(&STRICT_RELEASED, "so. The final answer is 1,080"),
            "1,080"
        );
    }

    #[test]
    fn normalisation_is_that_of_both_sides() {
        for (text, wanted) in [
            ("$1,234.50.", "1234.50"),
            ("9 + 9 = 18\n#### 18", "18"),
            ("#### 5\n#### 1,000", "1000"),
            ("18.", "18"),
            ("18.\n", "18\n"),
            ("[Invalid]", "[invalid]"),
        ] {
            assert_eq!(normalise(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn grades() {
        let task = with("zero_shot", None);
        let grade = |text: &str| {
            let grades = task.grade("work\n#### 1,018", &Answer::Text(text.into()));
            (grades["exact_match_strict"], grades["exact_match_flexible"])
        };
        assert_eq!(grade(" a\n#### 1018"), (1.0, 1.0));
        assert_eq!(grade(" it is $1,018."), (0.0, 1.0));
        assert_eq!(grade("#### 1018 or 3"), (1.0, 0.0));
        assert_eq!(grade(""), (0.0, 0.0));
        assert!(
            task.grade("#### 1", &Answer::Choice { log_probs: vec![] })
                .values()
                .all(|grade| *grade == 0.0)
        );
    }

    fn row() -> Row {
        Row::of_texts([
            ("question", "How many?".into()),
            ("answer", "Two and two.\n2+2=4\n#### 4".into()),
        ])
    }

    #[test]
    fn templates() {
        let rows = [row(), row()];
        let zero = with("zero_shot", None);
        let example = &zero.examples(&rows).unwrap()[0];
        assert_eq!(example.source, "Question: How many?\nAnswer:");
        assert_eq!(text(example), " Two and two.\n2+2=4\n#### 4");
        let five = with("zero_shot", Some(1)).requests(&rows, &rows).unwrap();
        assert_eq!(
            five[0].prompt,
            "Question: How many?\nAnswer: Two and two.\n2+2=4\n#### 4\n\nQuestion: How many?\nAnswer:"
        );
        assert!(with("zero_shot", Some(5)).requests(&rows, &rows).is_err());
        let cot = &with("cot", None).requests(&rows, &[]).unwrap()[0].prompt;
        assert!(
            cot.starts_with("Q: There are 15 trees")
                && cot.ends_with("23 - 15 is 8. The answer is 8.\n\nQ: How many?\nA:")
        );
        let released = with("released", None);
        let example = &released.examples(&rows).unwrap()[0];
        assert!(example.source.starts_with("Question: There are 15 trees"));
        assert!(
            example.source.ends_with(
                "23 - 15 is 8. The final answer is 8\n\nQuestion: How many?\n\nAnswer: "
            )
        );
        assert_eq!(text(example), "Two and two.\n2+2=4 The final answer is 4");
        assert!(
            Gsm8k::new(&TaskOptions {
                variant: Some("cot".into()),
                shots: Some(9),
                ..TaskOptions::default()
            })
            .is_err()
        );
    }

    /// Every worked example and every real answer has to be graded right by its own variant.
    #[test]
    fn own_answers_are_right() {
        for variant in VARIANTS {
            let task = with(variant, None);
            let examples = task.examples(&[row()]).unwrap();
            let target = text(&examples[0]);
            let grades = task.grade(row().text("answer").unwrap(), &Answer::Text(target.into()));
            assert_eq!(grades["exact_match_strict"], 1.0, "{variant}: {target}");
        }
        for (_, work, number) in &WORKED {
            let text = format!(" {work} The answer is {number}.");
            assert_eq!(
                with("cot", None).grade(number, &Answer::Text(text))["exact_match_strict"],
                1.0
            );
        }
    }

    fn drawn(id: &str, text: &str) -> Sample {
        let task = with("zero_shot", None);
        let answer = Answer::Text(text.into());
        Sample {
            id: id.into(),
            prompt: String::new(),
            reference: "work\n#### 4".into(),
            group: None,
            grades: task.grade("work\n#### 4", &answer),
            answer,
            tokens: 1,
        }
    }

    /// Votes are for numbers, not for texts; answers without one abstain; the first drawn wins a tie.
    #[test]
    fn majority_votes() {
        let vote = |texts: &[&str]| {
            let samples: Vec<Sample> = texts.iter().map(|text| drawn("0", text)).collect();
            let answers: Vec<&Sample> = samples.iter().collect();
            (
                majority(&answers, |text| extract_first(&STRICT, text)),
                majority(&answers, extract_flexible),
            )
        };
        assert_eq!(vote(&["#### 4", "#### 5", "#### 4."]), (1.0, 1.0));
        assert_eq!(vote(&["#### 5", "#### 4"]), (0.0, 0.0));
        assert_eq!(vote(&["#### 4", "#### 5"]), (1.0, 1.0));
        assert_eq!(vote(&["none", "what", "#### 4"]), (1.0, 1.0));
        assert_eq!(vote(&["#### 4", "it is 5", "it is $5"]), (1.0, 0.0));
        assert_eq!(vote(&["", "?"]), (0.0, 0.0));
        assert_eq!(vote(&[]), (0.0, 0.0));
    }

    /// With several answers a value is one of a question: n answers to it are not n questions.
    #[test]
    fn metrics_of_several_answers() {
        let mut samples = vec![
            drawn("0#0", "#### 5"),
            drawn("0#1", "#### 4"),
            drawn("0#2", "#### 4"),
            drawn("1#0", "#### 4"),
            drawn("1#1", "#### 7"),
            drawn("1#2", "7"),
        ];
        let task = with("zero_shot", None);
        let found = task.metrics(&samples);
        let value = |name: &str| (found[name].value, found[name].n);
        assert_eq!(value("exact_match_strict"), (0.5, 2));
        assert_eq!(value("majority_vote_strict"), (1.0, 2));
        assert_eq!(value("majority_vote_flexible"), (0.5, 2));
        assert!(found["exact_match_strict"].stderr.unwrap() > 0.0);
        samples.reverse();
        assert_eq!(task.metrics(&samples), found);
        let single = [drawn("0", "#### 4"), drawn("1", "")];
        assert_eq!(task.metrics(&single), task::metrics(&single));
        assert!(task.metrics(&[]).is_empty());
    }

    #[test]
    fn several_requests_for_each_question() {
        let several = |variant: &str, temperature| {
            Gsm8k::new(&TaskOptions {
                variant: Some(variant.into()),
                samples: Some(2),
                temperature,
                ..TaskOptions::default()
            })
            .unwrap()
        };
        let rows = [row(), row()];
        let requests = several("cot", None).requests(&rows, &[]).unwrap();
        let ids: Vec<&str> = requests.iter().map(|request| request.id.as_str()).collect();
        assert_eq!(ids, ["0#0", "0#1", "1#0", "1#1"]);
        assert_eq!(several("cot", None).sampling(), Some(DRAWN));
        assert_eq!(several("released", None).sampling(), Some(RELEASED));
        let warm = several("released", Some(1.0)).sampling().unwrap();
        assert_eq!((warm.temperature, warm.top_p), (1.0, 0.95));
        assert_eq!(with("released", None).sampling(), Some(RELEASED));
        assert_eq!(with("cot", None).sampling(), None);
    }

    proptest! {
        /// Any text has a grade of 0 or 1, and a vote.
        #[test]
        fn any_text_is_graded(text in "(#### |The (final )?answer is |[$0-9.,-]|\\PC|\n){0,16}") {
            for variant in VARIANTS {
                let grades = with(variant, None).grade(&text, &Answer::Text(text.clone()));
                prop_assert!(grades.values().all(|grade| [0.0, 1.0].contains(grade)));
            }
            let sample = drawn("0", &text);
            prop_assert!([0.0, 1.0].contains(&majority(&[&sample], extract_flexible)));
        }
    }

    #[test]
    fn real_rows() {
        let Some(mirror) = mirror() else { return };
        let train = mirrored(
            &mirror,
            "gsm8k",
            "datasets/openai/gsm8k/main/train-00000-of-00001.parquet",
        );
        let test = mirrored(
            &mirror,
            "gsm8k",
            "datasets/openai/gsm8k/main/test-00000-of-00001.parquet",
        );
        assert_eq!((train.len(), test.len()), (7473, 1319));
        let task = with("zero_shot", None);
        let requests = task.requests(&test, &train).unwrap();
        for (request, row) in requests.iter().zip(&test) {
            let grades = task.grade(
                &request.reference,
                &Answer::Text(row.text("answer").unwrap().to_owned()),
            );
            assert_eq!(grades["exact_match_strict"], 1.0, "{}", request.reference);
        }
        for variant in ["cot", "released"] {
            let task = with(variant, None);
            let wrong = task
                .examples(&test)
                .unwrap()
                .iter()
                .zip(&test)
                .filter(|(example, row)| {
                    let grades = task.grade(
                        row.text("answer").unwrap(),
                        &Answer::Text(text(example).into()),
                    );
                    grades["exact_match_strict"] != 1.0
                })
                .count();
            assert_eq!(wrong, 0, "{variant}");
        }
        let limited = Gsm8k::new(&TaskOptions {
            limit: Some(7),
            ..TaskOptions::default()
        })
        .unwrap();
        assert_eq!(limited.requests(&test, &[]).unwrap(), requests[..7]);

        let Ok(text) = std::fs::read_to_string(mirror.join("../reference/smollm2.json")) else {
            println!("skipped: no reference file smollm2.json beside the mirror");
            return;
        };
        let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
        let case = reference["cases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|case| case["name"] == "gsm8k-test-0")
            .unwrap();
        assert_eq!(requests[0].prompt, case["prompt"].as_str().unwrap());
    }
}
