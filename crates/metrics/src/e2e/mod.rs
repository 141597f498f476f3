//! The scores of the E2E NLG challenge: BLEU, NIST, ROUGE-L and CIDEr of generated texts against several references
//! each, and METEOR by its own program ([`meteor`]).
//!
//! Source: github.com/tuetschek/e2e-metrics, `measure_scores.py -p REFERENCES SYSTEM`. What it computes is not in every
//! place what its names say, and this module follows it:
//!
//! | Score | Words | Over the corpus |
//! |---|---|---|
//! | BLEU | mteval-v13a's, lower case | counts added up, closest reference length; see [`bleu`] |
//! | NIST | the same | weights from all references of the corpus; see [`nist`] |
//! | METEOR | Penn Treebank's, lower case, without punctuation | counts added up; see [`meteor`] |
//! | ROUGE-L | the same | mean over segments; see [`rouge`] |
//! | CIDEr | the same | mean over segments, of what the literature calls CIDEr-D; see [`cider`] |
//!
//! Deviations, none of which changes a score of a well-formed pair of files:
//! - A text stands alone. The official tool gives all texts to its tokenizer as one, so that an initial that ends a text
//!   may keep its full stop or not, as the next text begins.
//! - A line ends at a line feed alone. Other breaks within a text are spaces, where the official tool ends the line. A
//!   byte order mark is dropped from plain text as well.
//! - An empty reference is an error. An empty output is none: it is scored, as there.
//! - Where NIST has no n-gram of one length in the whole corpus, that term is 0; the official tool divides by zero.

pub mod bleu;
pub mod cider;
mod files;
pub mod meteor;
mod mteval;
mod ngrams;
pub mod nist;
mod ptb;
pub mod rouge;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use ngrams::{Numbers, matches};

/// Why a system's output cannot be scored.
#[derive(Debug, Error)]
pub enum E2eError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String },
    #[error("{}, {}: {source}", system.display(), references.display())]
    Pair {
        system: PathBuf,
        references: PathBuf,
        source: Box<E2eError>,
    },
    #[error("nothing to score: there is no output of the system")]
    Empty,
    #[error("the system has {outputs} outputs, but there are references for {segments} segments")]
    Length { outputs: usize, segments: usize },
    #[error("segment {segment} has no reference")]
    NoReference { segment: usize },
    #[error("segment {segment}: reference {reference} is empty")]
    EmptyReference { segment: usize, reference: usize },
}

/// What the system wrote for one input, and what people wrote: texts, or their words.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment<T = String> {
    pub system: T,
    /// At least one.
    pub references: Vec<T>,
}

impl<T> Segment<T> {
    fn map<'a, U>(&'a self, mut each: impl FnMut(&'a T) -> U) -> Segment<U> {
        Segment {
            system: each(&self.system),
            references: self.references.iter().map(each).collect(),
        }
    }
}

/// A system's outputs and their references: at least one segment, each with at least one reference, none of them empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus(Vec<Segment>);

impl Corpus {
    /// Output `i` belongs to references `i`. An empty output is an answer without words, and counts.
    pub fn new(system: Vec<String>, references: Vec<Vec<String>>) -> Result<Self, E2eError> {
        if system.len() != references.len() {
            return Err(E2eError::Length {
                outputs: system.len(),
                segments: references.len(),
            });
        }
        if system.is_empty() {
            return Err(E2eError::Empty);
        }
        for (group, segment) in references.iter().zip(1..) {
            if group.is_empty() {
                return Err(E2eError::NoReference { segment });
            }
            if let Some(i) = group.iter().position(|text| text.trim().is_empty()) {
                let reference = i + 1;
                return Err(E2eError::EmptyReference { segment, reference });
            }
        }
        let segments = system.iter().zip(&references);
        let segments = segments.map(|(system, references)| Segment {
            system: one_line(system),
            references: references.iter().map(|text| one_line(text)).collect(),
        });
        Ok(Self(segments.collect()))
    }

    /// The two files of `measure_scores.py`. A name that ends in `.tsv` or `.csv` is a table with a header; anything
    /// else is plain text.
    ///
    /// Plain text of a system has one output a line, and an empty line is an empty output. References of one segment are
    /// successive lines, and a blank line ends the segment; if there is no blank line, each line is a segment.
    ///
    /// A table has a column of inputs (`mr`, `source`, ...) and one of texts (`output`, `system`, ... or `reference`,
    /// `target`, ...). If both files are tables, an output gets the references of all rows with its input; if only the
    /// references are, successive rows with the same input are a segment.
    pub fn read(system: &Path, references: &Path) -> Result<Self, E2eError> {
        let (outputs, groups) = files::read(system, references)?;
        Self::new(outputs, groups).map_err(|error| E2eError::Pair {
            system: system.to_path_buf(),
            references: references.to_path_buf(),
            source: Box::new(error),
        })
    }

    /// In the order of the system's outputs.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Each text as the Penn Treebank words that METEOR, ROUGE-L and CIDEr see, with a space between any two.
    fn treebank(&self) -> Vec<Segment> {
        let segments = self.0.par_iter();
        let lines = segments.map_init(ptb::Tokenizer::default, |tokenizer, texts| {
            texts.map(|text| tokenizer.line(text))
        });
        lines.collect()
    }
}

/// Every break that Unicode knows as a space, without the outer ones.
fn one_line(text: &str) -> String {
    let is_break =
        |c| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    text.replace(is_break, " ").trim().to_string()
}

/// Scores of a corpus: BLEU (but see [`bleu`]) and ROUGE-L in 0..=1, CIDEr in 0..=10, NIST from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub bleu: f64,
    pub nist: f64,
    pub rouge_l: f64,
    pub cider: f64,
}

/// What one segment adds to the scores of its corpus.
///
/// [`Scores::of`] any choice of segments, with repetitions, needs no text again, as a bootstrap over segments wants. The
/// weights of n-grams in NIST and CIDEr stay those of the whole corpus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub bleu: bleu::Counts,
    pub nist: nist::Sums,
    /// ROUGE-L of the segment alone.
    pub rouge_l: f64,
    /// CIDEr of the segment alone.
    pub cider: f64,
}

impl Scores {
    /// The scores of at least one segment.
    pub fn of<'a>(segments: impl IntoIterator<Item = &'a Statistics>) -> Self {
        let mut bleu = bleu::Counts::default();
        let mut nist = nist::Sums::default();
        let (mut rouge_l, mut cider, mut count) = (0.0, 0.0, 0.0);
        for segment in segments {
            bleu += segment.bleu;
            nist += segment.nist;
            rouge_l += segment.rouge_l;
            cider += segment.cider;
            count += 1.0;
        }
        Self {
            bleu: bleu.score(),
            nist: nist.score(),
            rouge_l: rouge_l / count,
            cider: cider / count,
        }
    }
}

/// The statistics of each segment, in the corpus's order.
pub fn statistics(corpus: &Corpus) -> Vec<Statistics> {
    let (matched, similar) = rayon::join(|| bleu_and_nist(corpus), || rouge_and_cider(corpus));
    let statistics = matched.into_iter().zip(similar);
    let statistics = statistics.map(|((bleu, nist), (rouge_l, cider))| Statistics {
        bleu,
        nist,
        rouge_l,
        cider,
    });
    statistics.collect()
}

fn bleu_and_nist(corpus: &Corpus) -> Vec<(bleu::Counts, nist::Sums)> {
    let texts = corpus.0.par_iter();
    let lines = texts.map(|texts| texts.map(|text| mteval::line(text)));
    let lines: Vec<_> = lines.collect();
    let mut numbers = Numbers::default();
    // A line without words has one, the empty word.
    let mut ngrams = |line: &String| {
        let words = numbers.words(line.split(' '));
        numbers.ngrams(&words, nist::LONGEST)
    };
    let segments: Vec<_> = lines.iter().map(|lines| lines.map(&mut ngrams)).collect();
    let information = nist::Information::new(&segments, &numbers);
    let scores = segments.par_iter().map(|segment| {
        let matches: Vec<_> = (1..=nist::LONGEST).map(|n| matches(segment, n)).collect();
        let bleu = bleu::Counts::new(segment, &matches);
        (bleu, nist::Sums::new(segment, &matches, &information))
    });
    scores.collect()
}

fn rouge_and_cider(corpus: &Corpus) -> Vec<(f64, f64)> {
    let lines = corpus.treebank();
    let mut numbers = Numbers::default();
    // The two differ where a token has a no-break space in it, and where there is none.
    let mut in_order = |line: &String| numbers.words(line.split(' '));
    let words: Vec<_> = lines.iter().map(|lines| lines.map(&mut in_order)).collect();
    let mut ngrams = |line: &String| {
        let words = numbers.words(line.split_whitespace());
        numbers.ngrams(&words, cider::LONGEST)
    };
    let segments: Vec<_> = lines.iter().map(|lines| lines.map(&mut ngrams)).collect();
    let weights = cider::weights(&segments, &numbers);
    let scores = words.par_iter().zip(&segments);
    let scores =
        scores.map(|(words, segment)| (rouge::score(words), cider::score(segment, &weights)));
    scores.collect()
}

/// BLEU, NIST, ROUGE-L and CIDEr of the whole corpus.
pub fn scores(corpus: &Corpus) -> Scores {
    Scores::of(&statistics(corpus))
}
