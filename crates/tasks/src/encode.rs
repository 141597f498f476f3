//! Text to token ids, and the training of the pocket model's tokenizer.

use std::path::Path;

use rayon::prelude::*;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::{Error, Example, Result, hash};

/// One training text in token ids: `ids[..prompt_len]` is the source, the loss is on `ids[prompt_len..]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Source, target, end-of-text.
    pub ids: Vec<u32>,
    /// Length of the source.
    pub prompt_len: usize,
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

    /// Source (with special tokens, cut at `max_source` on the right), then target (without, cut at
    /// `max_target - 1`), then `eos`: the two are tokenised apart, as in QLoRA.
    /// QLoRA cuts after appending `eos`, which drops it from long targets; here it always stays.
    pub fn encode_example(
        &self,
        example: &Example,
        max_source: usize,
        max_target: usize,
    ) -> Result<Encoded> {
        if max_source == 0 || max_target == 0 {
            return Err(fail("`max_source` and `max_target` should be at least 1"));
        }
        let mut ids = self.encode_prompt(&example.source)?;
        ids.truncate(max_source);
        let prompt_len = ids.len();
        ids.extend(
            self.encode(&example.target, false)?
                .into_iter()
                .take(max_target - 1),
        );
        ids.push(self.eos);
        Ok(Encoded { ids, prompt_len })
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

/// The end-of-text and padding token of the pocket model, id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Trains the pocket model's tokenizer: byte-level BPE, every digit a token of its own, `<|endoftext|>`
/// (id 0), the 256 bytes, then merges up to `vocab_size` tokens (768 in the pocket model). The same texts
/// give the same tokenizer, whatever their order's hashing or the number of threads.
///
/// # Errors
/// [`Error::Tokenizer`] where `vocab_size` is below 257.
pub fn train_pocket_tokenizer<I, S>(texts: I, vocab_size: usize) -> Result<Tokenizer>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    if vocab_size < 257 {
        return Err(fail(format!(
            "vocabulary of {vocab_size}: should be at least 257, the bytes and {END_OF_TEXT}"
        )));
    }
    let bytes = ByteLevel::new(false, false, true);
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    let steps: Vec<PreTokenizerWrapper> = vec![Digits::new(true).into(), bytes.into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(bytes));
    tokenizer
        .train(&mut trainer, texts.into_iter())
        .map_err(fail)?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::pretraining_text;
    use crate::testing::mirror;

    fn example(source: &str, target: &str) -> Example {
        Example {
            id: "0".into(),
            source: source.into(),
            target: target.into(),
        }
    }

    fn pocket() -> Encoder {
        let tokenizer = train_pocket_tokenizer(pretraining_text(0, 4000), 768).unwrap();
        Encoder::from_tokenizer(&tokenizer, None, 0).unwrap()
    }

    #[test]
    fn training_a_tokenizer_is_deterministic() {
        let train = || {
            train_pocket_tokenizer(pretraining_text(0, 4000), 768)
                .unwrap()
                .to_string(false)
                .unwrap()
        };
        assert_eq!(train(), train());
        assert!(train_pocket_tokenizer(["a"], 256).is_err());
    }

    #[test]
    fn pocket_tokenizer_splits_digits_and_survives_any_text() {
        let encoder = pocket();
        assert_eq!(encoder.vocab_size(), 768);
        assert_eq!(encoder.encode("117", false).unwrap().len(), 3);
        for text in [
            "Problem: Ada has 12 apples.\n#### 7",
            "é 日本 \u{1f600} \t end ",
            "",
        ] {
            let ids = encoder.encode(text, true).unwrap();
            assert_eq!(encoder.decode(&ids).unwrap(), text);
        }
        assert_eq!(encoder.encode(END_OF_TEXT, false).unwrap(), [0]);
        assert_eq!(encoder.decode(&[0]).unwrap(), "");
        let sentence = "Ada has 3 + 4 = 7 apples. So the result is 7.";
        assert!(
            encoder.encode(sentence, false).unwrap().len() < sentence.len() / 2,
            "merges are in use"
        );
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
        assert_eq!(
            encoder.encode_example(&example("", ""), 1, 1).unwrap(),
            Encoded {
                ids: vec![0],
                prompt_len: 0
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
}
