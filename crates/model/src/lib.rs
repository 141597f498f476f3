//! Language models: reading weights, the forward pass, generation.
//!
//! One file an architecture. The base model is frozen and holds no adapter; its forward pass takes one.

mod cache;
mod error;
mod generate;
mod input;
pub mod llama;
mod loss;
pub mod weights;

pub use cache::Cache;
pub use error::ModelError;
pub use generate::{GenerateOptions, Sampling, generate};
pub use input::Input;
pub use llama::{Adapter, Llama, LlamaConfig, Storage};
pub use loss::{Loss, cross_entropy, log_likelihoods};
