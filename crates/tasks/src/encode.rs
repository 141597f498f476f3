//! Text to token ids.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::{PostProcessor, Tokenizer, TruncationParams, truncate_encodings};

use crate::{Error, Example, Result, Target, hash};

/// One text in token ids. With an answer, `ids[..prompt_len]` is the source and the loss is on `ids[prompt_len..]`.
/// A text to be labelled has no answer: `prompt_len` is its length, and the loss is on the label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Source, answer, end-of-text; or one or two texts to be labelled, special tokens included.
    pub ids: Vec<u32>,
    /// Length of the source.
    pub prompt_len: usize,
    /// Where the second segment begins, for a model that tells two apart: the type of a token (BERT's
    /// `token_type_ids`) is 0 before it and 1 from there. `None`: all are 0.
    pub segment: Option<usize>,
    /// Index of the class, or value of the regression.
    pub label: Option<f32>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

/// A tokenizer with the ids that end a text and, for some models, begin one.
pub struct Encoder {
    tokenizer: Tokenizer,
    bos: Option<u32>,
    eos: u32,
    hash: String,
}

fn fail(error: impl ToString) -> Error {
    Error::Tokenizer(error.to_string())
}

impl Encoder {
    /// From the bytes of a `tokenizer.json`. `bos` and `eos` come from the model's configuration.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for unreadable bytes, or ids outside the vocabulary.
    pub fn from_bytes(bytes: &[u8], bos: Option<u32>, eos: u32) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(fail)?;
        // Some files carry a length limit or padding of their own; lengths are decided here.
        tokenizer.with_truncation(None).map_err(fail)?;
        tokenizer.with_padding(None);
        for (name, id) in [("bos", bos), ("eos", Some(eos))] {
            if let Some(id) = id.filter(|id| tokenizer.id_to_token(*id).is_none()) {
                return Err(fail(format!(
                    "{name} id {id} is not in its vocabulary of {}",
                    tokenizer.get_vocab_size(true)
                )));
            }
        }
        let hash = hash::of_bytes(format!("{} {bos:?} {eos}", hash::of_bytes(bytes)).as_bytes());
        Ok(Encoder {
            tokenizer,
            bos,
            eos,
            hash,
        })
    }

    /// From a `tokenizer.json`.
    pub fn from_file(path: &Path, bos: Option<u32>, eos: u32) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::from_bytes(&bytes, bos, eos)
            .map_err(|error| fail(format!("{}: {error}", path.display())))
    }

    /// From a tokenizer in memory.
    pub fn from_tokenizer(tokenizer: &Tokenizer, bos: Option<u32>, eos: u32) -> Result<Self> {
        Self::from_bytes(
            tokenizer.to_string(false).map_err(fail)?.as_bytes(),
            bos,
            eos,
        )
    }

    /// Token ids; with `special`, also what the tokenizer adds around a text (`bos`, for example).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self
            .tokenizer
            .encode_fast(text, special)
            .map_err(fail)?
            .get_ids()
            .to_vec())
    }

    /// Token ids of a prompt: with the tokenizer's special tokens, but not its end-of-text token.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?;
        // A prompt that ends in the token's own text keeps it only where the tokenizer adds one more.
        if ids.last() == Some(&self.eos) && self.encode("", true)?.last() == Some(&self.eos) {
            ids.pop();
        }
        Ok(ids)
    }

    /// Text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(fail)
    }

    /// A text, or a pair of texts, to be labelled: with the tokenizer's own special tokens (RoBERTa
    /// `<s> a </s></s> b </s>`, BERT `[CLS] a [SEP] b [SEP]`), cut to `max_length` ids in all.
    ///
    /// Cut as by Hugging Face's `truncation=True`: from the right, of a pair the longer text first. A tokenizer that adds
    /// no special token (GPT-2, LLaMA 3) gives `a`, a line break, `b`; LLaMA 1 and 2 have `<s>` before each.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where `max_length` has no room for a token beside the special ones.
    pub fn encode_text(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
    ) -> Result<Encoded> {
        let special = self
            .tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(pair.is_some()));
        if max_length <= special {
            return Err(fail(format!(
                "a length of {max_length} has no room for a text: should be at least {}",
                special + 1
            )));
        }
        let encode = |text: &str| self.tokenizer.encode_fast(text, false).map_err(fail);
        let first = encode(text)?;
        let second = pair
            .map(|pair| match special {
                0 => encode(&format!("\n{pair}")),
                _ => encode(pair),
            })
            .transpose()?;
        let limit = TruncationParams {
            max_length: max_length - special,
            ..TruncationParams::default()
        };
        let whole = first.len() + second.as_ref().map_or(0, |second| second.len());
        let (first, second) = truncate_encodings(first, second, &limit).map_err(fail)?;
        let encoding = self
            .tokenizer
            .post_process(first, second, true)
            .map_err(fail)?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.is_empty() {
            // Nothing to label: the end-of-text token stands for a text without words.
            ids.push(self.eos);
        }
        Ok(Encoded {
            prompt_len: ids.len(),
            ids,
            segment: encoding.get_type_ids().iter().position(|kind| *kind == 1),
            label: None,
            truncated: whole > limit.max_length,
        })
    }

    /// Source (with special tokens, cut at `max_source` on the right), then target (without, cut at
    /// `max_target - 1`), then `eos`: the two are tokenised apart, as in QLoRA.
    /// QLoRA cuts after appending `eos`, which drops it from long targets; here it always stays.
    fn encode_answer(
        &self,
        source: &str,
        target: &str,
        max_source: usize,
        max_target: usize,
    ) -> Result<Encoded> {
        if max_source == 0 || max_target == 0 {
            return Err(fail("`max_source` and `max_target` should be at least 1"));
        }
        let mut ids = self.encode_prompt(source)?;
        let target = self.encode(target, false)?;
        let truncated = ids.len() > max_source || target.len() >= max_target;
        ids.truncate(max_source);
        let prompt_len = ids.len();
        ids.extend(target.into_iter().take(max_target - 1));
        ids.push(self.eos);
        Ok(Encoded {
            ids,
            prompt_len,
            truncated,
            ..Encoded::default()
        })
    }

    /// An example with an answer: source and answer tokenised apart, cut to the two lengths, and the end-of-text token.
    /// One with a label: [`Encoder::encode_text`] at `max_source`, and the label.
    pub fn encode_example(
        &self,
        example: &Example,
        max_source: usize,
        max_target: usize,
    ) -> Result<Encoded> {
        match &example.target {
            Target::Text(target) => {
                self.encode_answer(&example.source, target, max_source, max_target)
            }
            Target::Label { pair, label } => Ok(Encoded {
                label: Some(*label as f32),
                ..self.encode_text(&example.source, pair.as_deref(), max_source)?
            }),
        }
    }

    /// All examples on all threads, in order.
    pub fn encode_examples(
        &self,
        examples: &[Example],
        max_source: usize,
        max_target: usize,
    ) -> Result<Vec<Encoded>> {
        examples
            .par_iter()
            .map(|example| self.encode_example(example, max_source, max_target))
            .collect()
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The token that begins a text, where the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Content hash of the tokenizer file and the two ids.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::corpus::pretraining_text;
    use crate::testing::{mirror, mirrored};
    use crate::{TaskOptions, train_pocket_tokenizer};

    fn example(source: &str, target: &str) -> Example {
        Example {
            id: "0".into(),
            source: source.into(),
            target: Target::Text(target.into()),
        }
    }

    fn pocket() -> Encoder {
        let tokenizer = train_pocket_tokenizer(pretraining_text(0, 4000), 768).unwrap();
        Encoder::from_tokenizer(&tokenizer, None, 0).unwrap()
    }

    #[test]
    fn examples_are_cut_and_end_in_eos() {
        let encoder = pocket();
        let whole = encoder
            .encode_example(&example("Problem: 12", " So 34"), 100, 100)
            .unwrap();
        let source = encoder.encode("Problem: 12", true).unwrap();
        let target = encoder.encode(" So 34", false).unwrap();
        assert_eq!(whole.prompt_len, source.len());
        assert_eq!(
            whole.ids,
            [source.clone(), target.clone(), vec![0]].concat()
        );
        let cut = encoder
            .encode_example(&example("Problem: 12", " So 34"), 2, 3)
            .unwrap();
        assert_eq!(cut.ids, [&source[..2], &target[..2], &[0]].concat());
        assert!(cut.truncated && !whole.truncated);
        let (source, target) = (source.len(), target.len());
        for (max_source, max_target, truncated) in [
            (source, target + 1, false),
            (source - 1, target + 1, true),
            (source, target, true),
        ] {
            let encoded = encoder
                .encode_example(&example("Problem: 12", " So 34"), max_source, max_target)
                .unwrap();
            assert_eq!(encoded.truncated, truncated, "{max_source} {max_target}");
        }
        assert_eq!(
            encoder.encode_example(&example("", ""), 1, 1).unwrap(),
            Encoded {
                ids: vec![0],
                ..Encoded::default()
            }
        );
        assert!(encoder.encode_example(&example("a", "b"), 0, 1).is_err());
        let many: Vec<Example> = (0..500).map(|i| example(&format!("{i}"), "x")).collect();
        let encoded = encoder.encode_examples(&many, 9, 9).unwrap();
        for (one, example) in encoded.iter().zip(&many) {
            assert_eq!(
                encoder.decode(&one.ids[..one.prompt_len]).unwrap(),
                example.source
            );
        }
    }

    #[test]
    fn foreign_tokenizers_are_checked() {
        assert!(matches!(
            Encoder::from_bytes(b"{}", None, 0),
            Err(Error::Tokenizer(_))
        ));
        let bytes = train_pocket_tokenizer(["a b"], 257)
            .unwrap()
            .to_string(false)
            .unwrap();
        let message = Encoder::from_bytes(bytes.as_bytes(), None, 5000)
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains("5000"), "{message}");
        let hashes = [
            Encoder::from_bytes(bytes.as_bytes(), None, 0),
            Encoder::from_bytes(bytes.as_bytes(), None, 1),
        ];
        let [one, other] = hashes.map(|encoder| encoder.unwrap().hash().to_owned());
        assert_ne!(one, other, "the cache depends on the ids too");
    }

    /// The ids that the public tokenizers are known to give for "Hello world".
    #[test]
    fn public_tokenizers() {
        let Some(mirror) = mirror() else { return };
        // Model, bos, eos, ids with special tokens, ids of a prompt.
        type Case<'a> = (&'a str, Option<u32>, u32, &'a [u32], &'a [u32]);
        let cases: [Case<'_>; 5] = [
            (
                "openai-community/gpt2",
                None,
                50256,
                &[15496, 995],
                &[15496, 995],
            ),
            (
                "FacebookAI/roberta-base",
                Some(0),
                2,
                &[0, 31414, 232, 2],
                &[0, 31414, 232],
            ),
            (
                "huggyllama/llama-7b",
                Some(1),
                2,
                &[1, 15043, 3186],
                &[1, 15043, 3186],
            ),
            (
                "meta-llama/Meta-Llama-3-8B",
                Some(128000),
                128001,
                &[9906, 1917],
                &[9906, 1917],
            ),
            (
                "HuggingFaceTB/SmolLM2-135M-Instruct",
                Some(1),
                2,
                &[19556, 905],
                &[19556, 905],
            ),
        ];
        for (model, bos, eos, ids, prompt) in cases {
            let encoder = Encoder::from_file(
                &mirror.join("models").join(model).join("tokenizer.json"),
                bos,
                eos,
            )
            .unwrap();
            assert_eq!(encoder.encode("Hello world", true).unwrap(), ids, "{model}");
            assert_eq!(
                encoder.encode_prompt("Hello world").unwrap(),
                prompt,
                "{model}"
            );
            assert_eq!(encoder.decode(ids).unwrap(), "Hello world", "{model}");
        }
    }

    /// `scripts/glue_encodings.py` made the fixture with transformers.
    #[derive(Deserialize)]
    struct Fixture {
        roberta: Vec<Case>,
        bert: Vec<Case>,
        bert_tokenizer: serde_json::Value,
        splits: BTreeMap<String, SplitCase>,
    }

    #[derive(Deserialize)]
    struct Case {
        text: String,
        pair: Option<String>,
        max_length: usize,
        ids: Vec<u32>,
        types: Vec<u32>,
        truncated: bool,
    }

    #[derive(Deserialize)]
    struct SplitCase {
        rows: usize,
        truncated: usize,
        sha256: String,
    }

    fn fixture() -> Fixture {
        serde_json::from_str(include_str!("../tests/fixtures/encodings.json")).unwrap()
    }

    fn roberta(mirror: &Path) -> Encoder {
        let file = mirror.join("models/FacebookAI/roberta-base/tokenizer.json");
        Encoder::from_file(&file, Some(0), 2).unwrap()
    }

    fn check(encoder: &Encoder, cases: &[Case]) {
        for case in cases {
            let what = format!("{:?} {:?} {}", case.text, case.pair, case.max_length);
            let found = encoder
                .encode_text(&case.text, case.pair.as_deref(), case.max_length)
                .unwrap();
            let wanted = Encoded {
                ids: case.ids.clone(),
                prompt_len: case.ids.len(),
                segment: case.types.iter().position(|kind| *kind == 1),
                label: None,
                truncated: case.truncated,
            };
            assert_eq!(found, wanted, "{what}");
            // One boundary describes all types.
            let start = found.segment.unwrap_or(found.ids.len());
            for (place, kind) in case.types.iter().enumerate() {
                assert_eq!(*kind, u32::from(place >= start), "{what}");
            }
        }
    }

    /// Special tokens, segments and truncation decide every result on GLUE: they are Hugging Face's.
    #[test]
    fn berts_texts_and_pairs_are_hugging_faces() {
        let Fixture {
            bert,
            bert_tokenizer,
            ..
        } = fixture();
        let bytes = bert_tokenizer.to_string();
        let encoder = Encoder::from_bytes(bytes.as_bytes(), Some(2), 3).unwrap();
        check(&encoder, &bert);
        assert_eq!(bert[1].types.iter().sum::<u32>(), 5, "segments are tested");
        let message = encoder
            .encode_text("a", Some("b"), 3)
            .unwrap_err()
            .to_string();
        assert!(message.contains("at least 4"), "{message}");
    }

    /// As above, with RoBERTa's tokenizer.
    #[test]
    fn robertas_texts_and_pairs_are_hugging_faces() {
        let Some(mirror) = mirror() else { return };
        check(&roberta(&mirror), &fixture().roberta);
    }

    /// All ids of eight real validation splits, and how many texts were cut: what a record says.
    #[test]
    fn real_splits_are_encoded_as_by_hugging_face() {
        let Some(mirror) = mirror() else { return };
        let encoder = roberta(&mirror);
        for (name, case) in fixture().splits {
            let task = crate::task(&name, &TaskOptions::default()).unwrap();
            let file = format!(
                "datasets/nyu-mll/glue/{name}/{}-00000-of-00001.parquet",
                task.eval_split()
            );
            let rows = mirrored(&mirror, task.dataset(), &file);
            if rows.len() != case.rows {
                println!("skipped: {file} has other rows than the fixture");
                continue;
            }
            let examples = task.examples(&rows).unwrap();
            let encoded = encoder.encode_examples(&examples, 128, 1).unwrap();
            let bytes: Vec<u8> = encoded
                .iter()
                .flat_map(|one| one.ids.iter().flat_map(|id| id.to_le_bytes()))
                .collect();
            let truncated = encoded.iter().filter(|one| one.truncated).count();
            assert_eq!(truncated, case.truncated, "{name}");
            assert_eq!(hash::of_bytes(&bytes), case.sha256, "{name}");
            for (one, example) in encoded.iter().zip(&examples) {
                let Target::Label { label, .. } = example.target else {
                    panic!("{name}: no label")
                };
                assert_eq!(one.label, Some(label as f32));
            }
        }
    }

    /// Without special tokens a line break stands between two texts, and counts as one of the second.
    #[test]
    fn pairs_without_special_tokens() {
        let encoder = pocket();
        let ids = |text: &str| encoder.encode(text, false).unwrap();
        let whole = encoder.encode_text("So 12", Some("is 7"), 100).unwrap();
        assert_eq!(whole.ids, [ids("So 12"), ids("\nis 7")].concat());
        assert!(!whole.truncated);
        let (first, second) = (ids("So 12").len(), ids("\nis 7").len());
        let cut = encoder
            .encode_text("So 12", Some("is 7"), first + second - 1)
            .unwrap();
        assert!(cut.truncated && cut.ids.len() == first + second - 1);
        let single = encoder.encode_text("So 12", None, 1).unwrap();
        assert_eq!(single.ids, ids("So 12")[..1]);
        assert!(encoder.encode_text("So 12", None, 0).is_err());
        // A head has to read some token.
        assert_eq!(
            encoder.encode_text("", None, 9).unwrap().ids,
            [encoder.eos_id()]
        );
    }

    /// LLaMA 1 begins every text with its own token: its tokenizer says how a pair looks.
    #[test]
    fn llama_pairs() {
        let Some(mirror) = mirror() else { return };
        let file = mirror.join("models/huggyllama/llama-7b/tokenizer.json");
        let encoder = Encoder::from_file(&file, Some(1), 2).unwrap();
        let pair = encoder
            .encode_text("Hello world", Some("Hello world"), 9)
            .unwrap();
        assert_eq!(pair.ids, [1, 15043, 3186, 1, 15043, 3186]);
        assert_eq!(pair.segment, None);
    }
}
