//! Language models: reading weights, the forward pass, generation.
//!
//! One file an architecture. The base model is frozen and holds no adapter; its forward pass takes one.

mod beam;
pub mod bert;
mod cache;
pub mod classifier;
mod config;
mod error;
mod generate;
pub mod gpt2;
mod input;
pub mod llama;
mod model;
pub mod ops;
pub mod prefix;
mod score;
mod weight;
pub mod weights;

pub use beam::{BeamOptions, Rules, beam_search};
pub use bert::BertConfig;
pub use cache::Cache;
pub use classifier::{Classifier, Labels, classification_loss};
pub use config::{ARCHITECTURES, Conv1d, ModelConfig, WeightSpec};
pub use error::ModelError;
pub use generate::{Event, GenerateOptions, Sampling, generate, last_states};
pub use gpt2::Gpt2Config;
pub use input::Input;
pub use llama::LlamaConfig;
pub use model::{Adapter, Model, Pass};
pub use ops::{Loss, Smoothing, cross_entropy, log_likelihoods};
pub use score::{Question, ScoreOptions, score};
pub use weight::Weight;
pub use weights::Storage;
