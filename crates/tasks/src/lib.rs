//! What a model is trained and scored on: datasets, prompts, graders, token ids. No tensor library.
//!
//! One way through: a [`DatasetSpec`] names files, [`load_split`] reads their rows, a [`Task`] turns
//! rows into training [`Example`]s and scoring [`Request`]s, an [`Encoder`] turns examples into token
//! ids (kept in the [`cache`]), and a task's `grade` turns the model's [`Answer`]s into numbers that
//! [`metrics`] averages.

mod alpaca;
pub mod cache;
pub mod corpus;
mod dataset;
mod encode;
mod error;
mod fetch;
mod gsm8k;
mod hash;
mod mmlu;
mod pocket;
mod table;
mod task;
#[cfg(test)]
mod testing;

pub use dataset::{DatasetSpec, Format, Pocket, Split, load_split};
pub use encode::{Encoded, Encoder, train_pocket_tokenizer};
pub use error::Error;
pub use fetch::{Hub, Source};
pub use table::{Row, Rows, Value, rows_hash};
pub use task::{
    Answer, Example, Metric, Request, RequestKind, Sample, Sampling, TASKS, Task, TaskOptions,
    metrics, prompt_hash, task,
};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
