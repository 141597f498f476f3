//! The E2E NLG challenge: a sentence from the attributes of a restaurant (Novikova et al., arXiv 1706.09254).
//!
//! Source: the LoRA authors' recipe (microsoft/LoRA, `examples/NLG`): data lines `name : X | Type : Y||text`; the source is the
//! attributes and an end-of-text token, the answer a space and the text; beam search with 10 beams, length penalty 0.8, no
//! repeated 4-gram in the answer, at most 64 tokens, ended by the end-of-text token or a blank line (two tokens of GPT-2,
//! 50256 and 628). Scores are those of the official tool (`sharelora-metrics`, `e2e`).
//!
//! The Hub's form of the data (dataset `e2e-hub`: `name[X], eatType[Y]`) is brought into the same words. Rows with the same
//! attributes are one question, and their texts its references, as the official tool groups them.
//!
//! Deviations: the source always ends in `<|endoftext|>`, a token of GPT-2's and SmolLM2's vocabularies and text to others,
//! which is not always the token that ends an answer (SmolLM2's is `<|im_end|>`). Standard errors are of a bootstrap over
//! questions, with the weights of NIST and CIDEr kept. METEOR is a program of its own, which the runner asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sharelora_metrics::e2e::{Corpus, Scores, Statistics, statistics};

use crate::bootstrap::standard_error;
use crate::table::Row;
use crate::task::{
    self, Answer, BeamSearch, CorpusScore, Example, Metric, Request, RequestKind, Sample, Target,
    Task, TaskOptions,
};
use crate::{Error, Result};

const NAME: &str = "e2e";
const VARIANTS: [&str; 1] = ["lora"];
const END: &str = "<|endoftext|>";

/// The attributes in the words of the LoRA authors' files.
const ATTRIBUTES: [(&str, &str); 3] = [
    ("eatType", "Type"),
    ("priceRange", "price"),
    ("familyFriendly", "family friendly"),
];

/// Columns that a dataset may have for attributes and text: the LoRA authors' lines, the Hub's tables, the pocket's.
const COLUMNS: [(&str, &str); 3] = [
    ("context", "text"),
    ("meaning_representation", "human_reference"),
    ("source", "target"),
];

/// One of the scores of a corpus.
type Score = fn(&Scores) -> f64;

/// The scores of the challenge by the names of their metrics; METEOR is a program's.
const SCORES: [(&str, Score); 4] = [
    ("bleu", |s| s.bleu),
    ("nist", |s| s.nist),
    ("rouge_l", |s| s.rouge_l),
    ("cider", |s| s.cider),
];

/// See the module's text.
pub struct E2e {
    max_new_tokens: usize,
    options: TaskOptions,
}

impl E2e {
    /// The task with these options.
    pub fn new(options: &TaskOptions) -> Result<Self> {
        options.choose(NAME, &VARIANTS)?;
        if options.shots.is_some_and(|shots| shots > 0) {
            return Err(Error::Option {
                task: NAME,
                key: "shots",
                reason: "the recipe shows no worked examples: leave it out".to_owned(),
            });
        }
        Ok(E2e {
            max_new_tokens: options.new_tokens(NAME, 64)?,
            options: options.clone(),
        })
    }
}

/// Attributes, as `name : X | Type : Y`, and text of a row.
fn texts(row: &Row) -> Result<(String, String)> {
    let columns = COLUMNS
        .iter()
        .find(|(context, _)| row.0.contains_key(*context));
    let (context, text) = columns.unwrap_or(&COLUMNS[0]);
    let (context, text) = (row.text(context)?.trim(), row.text(text)?.trim());
    Ok((attributes(context), text.to_owned()))
}

/// `name[X], eatType[Y]` as `name : X | Type : Y`; any other text as it is.
fn attributes(text: &str) -> String {
    if !text.ends_with(']') {
        return text.to_owned();
    }
    let parts = text
        .split("],")
        .map(|part| part.trim().trim_end_matches(']'));
    let parts = parts.map(|part| match part.split_once('[') {
        Some((name, value)) => {
            let known = ATTRIBUTES.iter().find(|(theirs, _)| *theirs == name.trim());
            let name = known.map_or(name.trim(), |(_, ours)| ours);
            format!("{name} : {}", value.trim())
        }
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(" | ")
}

impl Task for E2e {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn variant(&self) -> String {
        self.options.variant(VARIANTS[0].to_owned())
    }

    fn dataset(&self) -> &str {
        self.options.dataset("e2e")
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
                let (context, text) = texts(row)?;
                Ok(Example {
                    id: index.to_string(),
                    source: format!("{context}{END}"),
                    target: Target::Text(format!(" {text}")),
                })
            })
            .collect()
    }

    fn requests(&self, eval_rows: &[Row], _shot_rows: &[Row]) -> Result<Vec<Request>> {
        let mut questions: Vec<(String, Vec<String>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for row in eval_rows {
            let (context, text) = texts(row)?;
            let place = *places.entry(context.clone()).or_insert(questions.len());
            match questions.get_mut(place) {
                Some((_, references)) => references.push(text),
                None => questions.push((context, vec![text])),
            }
        }
        questions.truncate(self.options.limit.unwrap_or(questions.len()));
        let request = |(index, (context, references)): (usize, (String, Vec<String>))| Request {
            id: index.to_string(),
            prompt: format!("{context}{END}"),
            kind: RequestKind::Generate {
                stop: vec![END.to_owned(), "\n\n".to_owned()],
                max_new_tokens: self.max_new_tokens,
            },
            reference: references.join("\n"),
            group: None,
        };
        Ok(questions.into_iter().enumerate().map(request).collect())
    }

    /// Whether it is one of the references, word for word; the scores are of all answers together.
    fn grade(&self, request_reference: &str, answer: &Answer) -> BTreeMap<String, f64> {
        let text = answer.text().trim();
        let found = request_reference.lines().any(|reference| reference == text);
        BTreeMap::from([("exact_match".to_owned(), f64::from(u8::from(found)))])
    }

    fn metrics(&self, samples: &[Sample]) -> BTreeMap<String, Metric> {
        let mut metrics = task::metrics(samples);
        let Some(corpus) = self.corpus(samples) else {
            return metrics;
        };
        let segments = statistics(&corpus);
        let whole = Scores::of(&segments);
        for (name, score) in SCORES {
            let of = |segments: &[Statistics]| Some(score(&Scores::of(segments)));
            let metric = Metric {
                value: score(&whole),
                stderr: standard_error(&segments, of),
                n: segments.len(),
            };
            metrics.insert(name.to_owned(), metric);
        }
        metrics
    }

    fn corpus_scores(&self, samples: &[Sample]) -> Vec<(String, CorpusScore)> {
        let corpus = self.corpus(samples);
        let segments = Arc::new(corpus.map_or(Vec::new(), |corpus| statistics(&corpus)));
        let scores = SCORES.iter().map(|&(name, score)| {
            let segments = segments.clone();
            let of = move |places: &[usize]| {
                let chosen = places.iter().filter_map(|&place| segments.get(place));
                Some(score(&Scores::of(chosen)))
            };
            (name.to_owned(), Box::new(of) as CorpusScore)
        });
        scores.collect()
    }

    fn headline(&self) -> &str {
        "bleu"
    }

    fn beam(&self) -> Option<BeamSearch> {
        Some(BeamSearch {
            beams: 10,
            length_penalty: 0.8,
            no_repeat_ngram: 4,
        })
    }

    fn corpus(&self, samples: &[Sample]) -> Option<Corpus> {
        let texts = samples.iter();
        let references = texts
            .clone()
            .map(|s| s.reference.lines().map(str::to_owned).collect());
        let system = texts.map(|s| s.answer.text().trim().to_owned()).collect();
        Corpus::new(system, references.collect()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::testing::{mirror, mirrored};

    fn row(context: (&str, &str), text: (&str, &str)) -> Row {
        let columns = [context, text];
        Row(columns
            .map(|(name, value)| (name.to_owned(), Value::Text(value.to_owned())))
            .into())
    }

    fn task() -> E2e {
        E2e::new(&TaskOptions::default()).unwrap()
    }

    /// The Hub's tables and the LoRA authors' lines are one dataset in two spellings.
    #[test]
    fn both_forms_of_the_data_give_one_prompt() {
        let lora = row(
            (
                "context",
                "name : Blue Spice | Type : coffee shop | price : more than £30",
            ),
            ("text", "Blue Spice is dear . "),
        );
        let hub = row(
            (
                "meaning_representation",
                "name[Blue Spice], eatType[coffee shop], priceRange[more than £30]",
            ),
            ("human_reference", "Blue Spice is dear ."),
        );
        let [a, b] = [lora, hub].map(|row| task().examples(&[row]).unwrap().remove(0));
        assert_eq!(a, b);
        assert_eq!(
            a.source,
            "name : Blue Spice | Type : coffee shop | price : more than £30<|endoftext|>"
        );
        assert_eq!(a.target, Target::Text(" Blue Spice is dear .".into()));
        // A name with a comma stays whole.
        assert_eq!(
            attributes("name[A, B], area[city]"),
            "name : A, B | area : city"
        );
    }

    /// Rows of one meaning are one question with all their texts, wherever they stand.
    #[test]
    fn references_are_grouped_and_scored() {
        let rows = [("a", "x y z"), ("b", "u v"), ("a", "x z")]
            .map(|(context, text)| row(("context", context), ("text", text)));
        let requests = task().requests(&rows, &[]).unwrap();
        let references: Vec<&str> = requests.iter().map(|r| r.reference.as_str()).collect();
        assert_eq!(references, ["x y z\nx z", "u v"]);
        let sample = |request: &Request, text: &str| Sample {
            id: request.id.clone(),
            prompt: request.prompt.clone(),
            reference: request.reference.clone(),
            group: None,
            grades: task().grade(&request.reference, &Answer::Text(text.into())),
            answer: Answer::Text(text.into()),
            tokens: 3,
        };
        let samples = [sample(&requests[0], " x z"), sample(&requests[1], " q")];
        let found = task().metrics(&samples);
        assert_eq!(found["exact_match"].value, 0.5);
        assert_eq!(found["rouge_l"].value, 0.5);
        assert!(found["rouge_l"].stderr.unwrap() > 0.0 && found["bleu"].n == 2);
        assert!(task().metrics(&[]).is_empty());
        // As functions of all samples the scores are the metrics; those without a part that is the corpus's are of one alone too.
        let alone = task().metrics(&samples[1..]);
        for (name, score) in task().corpus_scores(&samples) {
            assert_eq!(score(&[0, 1]), Some(found[&name].value), "{name}");
            if ["bleu", "rouge_l"].contains(&name.as_str()) {
                assert_eq!(score(&[1]), Some(alone[&name].value), "{name}");
            }
        }
    }

    /// The real files: 42,061 training lines, and the 630 questions of the test set.
    #[test]
    fn real_data() {
        let Some(mirror) = mirror() else { return };
        let file = |name: &str| format!("github/microsoft/LoRA/examples/NLG/data/e2e/{name}.txt");
        let train = mirrored(&mirror, "e2e", &file("train"));
        assert_eq!(task().examples(&train).unwrap().len(), 42_061);
        let test = mirrored(&mirror, "e2e", &file("test"));
        let requests = task().requests(&test, &[]).unwrap();
        assert_eq!((test.len(), requests.len()), (4693, 630));
    }
}
