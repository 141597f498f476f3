//! The training of the pocket models' tokenizers: byte-level BPE, every digit a token of its own.
//!
//! The vocabulary is the special tokens, the 256 bytes, then merges. The same texts give the same tokenizer, whatever the order
//! of hashing or the number of threads.

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::{Error, Result};

/// The end-of-text and padding token of the pocket LLaMA and GPT-2, id 0.
const END_OF_TEXT: &str = "<|endoftext|>";

/// The special tokens of the pocket RoBERTa, by id: the first four are RoBERTa's own ids.
pub const ROBERTA_TOKENS: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

fn fail(error: impl ToString) -> Error {
    Error::Tokenizer(error.to_string())
}

/// Trains the tokenizer of the pocket LLaMA and GPT-2, with `<|endoftext|>` as id 0.
///
/// # Errors
/// [`Error::Tokenizer`] where `vocab_size` is below 257.
pub fn train_pocket_tokenizer<I, S>(texts: I, vocab_size: usize) -> Result<Tokenizer>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    train(texts, vocab_size, &[END_OF_TEXT])
}

/// Trains the tokenizer of the pocket RoBERTa, with [`ROBERTA_TOKENS`]: a text becomes `<s> a </s>`, a pair
/// `<s> a </s></s> b </s>`, all of one type.
///
/// # Errors
/// [`Error::Tokenizer`] where `vocab_size` is below 261.
pub fn train_pocket_roberta_tokenizer<I, S>(texts: I, vocab_size: usize) -> Result<Tokenizer>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    let mut tokenizer = train(texts, vocab_size, &ROBERTA_TOKENS)?;
    let template = TemplateProcessing::builder()
        .try_single("<s>:0 $A:0 </s>:0")
        .map_err(fail)?
        .try_pair("<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0")
        .map_err(fail)?
        .special_tokens(vec![("<s>", 0), ("</s>", 2)])
        .build()
        .map_err(fail)?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

fn train<I, S>(texts: I, vocab_size: usize, special: &[&str]) -> Result<Tokenizer>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    let least = ByteLevel::alphabet().len() + special.len();
    if vocab_size < least {
        return Err(fail(format!(
            "vocabulary of {vocab_size}: should be at least {least}, the bytes and {}",
            special.join(", ")
        )));
    }
    let bytes = ByteLevel::new(false, false, true);
    let special = special.iter().map(|token| AddedToken::from(*token, true));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.collect())
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
    use crate::Encoder;
    use crate::corpus::pretraining_text;

    fn texts() -> impl Iterator<Item = String> + Send {
        pretraining_text(0, 4000)
    }

    #[test]
    fn training_a_tokenizer_is_deterministic() {
        let train = || {
            let plain = train_pocket_tokenizer(texts(), 768).unwrap();
            let roberta = train_pocket_roberta_tokenizer(texts(), 768).unwrap();
            [plain, roberta].map(|tokenizer| tokenizer.to_string(false).unwrap())
        };
        assert_eq!(train(), train());
        assert!(train_pocket_tokenizer(["a"], 256).is_err());
        let message = train_pocket_roberta_tokenizer(["a"], 260)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("at least 261") && message.contains("<mask>"),
            "{message}"
        );
    }

    #[test]
    fn digits_are_split_and_any_text_survives() {
        let tokenizer = train_pocket_tokenizer(texts(), 768).unwrap();
        let encoder = Encoder::from_tokenizer(&tokenizer, None, 0).unwrap();
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

    /// The pocket RoBERTa stands for RoBERTa in tests: its texts and pairs are built alike.
    #[test]
    fn texts_and_pairs_are_robertas() {
        let tokenizer = train_pocket_roberta_tokenizer(texts(), 768).unwrap();
        for (id, token) in ROBERTA_TOKENS.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
        }
        let encoder = Encoder::from_tokenizer(&tokenizer, Some(0), 2).unwrap();
        let (a, b) = ("Old Mill is cheap.", "Old Mill is fair.");
        let plain = |text: &str| encoder.encode(text, false).unwrap();
        let one = encoder.encode_text(a, None, 64).unwrap();
        assert_eq!(one.ids, [&[0], &plain(a)[..], &[2]].concat());
        let two = encoder.encode_text(a, Some(b), 64).unwrap();
        assert_eq!(
            two.ids,
            [&[0], &plain(a)[..], &[2, 2], &plain(b)[..], &[2]].concat()
        );
        assert_eq!((one.segment, two.segment), (None, None));
        // Cut to the length that is asked for, special tokens included.
        let cut = encoder.encode_text(a, Some(b), 9).unwrap();
        assert!(cut.truncated && cut.ids.len() == 9 && cut.ids[8] == 2);
    }
}
