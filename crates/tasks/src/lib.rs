//! What a model is trained and scored on: datasets, prompts, graders, token ids. No tensor library.
//!
//! One way through: a [`DatasetSpec`] names files, [`load_split`] reads their rows, a [`Task`] turns
//! rows into training [`Example`]s and scoring [`Request`]s, an [`Encoder`] turns examples into token
//! ids (kept in the [`cache`]), a task's `grade` turns the model's [`Answer`]s into numbers (or its `program` names what
//! a sandbox has to run for them), and its `metrics` those of all [`Sample`]s into a few.

mod alpaca;
mod bootstrap;
pub mod cache;
pub mod completions;
pub mod corpus;
mod dataset;
mod e2e;
mod encode;
mod error;
mod fetch;
mod glue;
mod gsm8k;
mod hash;
mod humaneval;
#[cfg(test)]
mod lm_eval;
mod mmlu;
mod mmlu_pro;
mod pocket;
mod pocket_tokenizer;
mod repeats;
mod table;
mod task;
#[cfg(test)]
mod testing;

pub use bootstrap::standard_error;
pub use dataset::{DatasetSpec, Format, Pocket, Split, load_split};
pub use encode::{Encoded, Encoder};
pub use error::Error;
pub use fetch::{Hub, Source};
pub use pocket_tokenizer::{
    ROBERTA_TOKENS, train_pocket_roberta_tokenizer, train_pocket_tokenizer,
};
pub use table::{Row, Rows, Value, rows_hash};
pub use task::{
    Answer, BeamSearch, CorpusScore, Example, Labels, Metric, Program, Request, RequestKind,
    Sample, Sampling, TASKS, Target, Task, TaskOptions, metrics, prompt_hash, task,
};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
