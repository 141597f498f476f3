//! Language models: reading weights, the forward pass, generation.
//!
//! One file an architecture. The base model is frozen and holds no adapter; its forward pass takes one.

mod cache;
mod error;
mod generate;
mod input;
pub mod llama;
pub mod ops;
mod weight;
pub mod weights;

pub use cache::Cache;
pub use error::ModelError;
pub use generate::{GenerateOptions, Sampling, generate};
pub use input::Input;
pub use llama::{Adapter, Llama, LlamaConfig};
pub use ops::{Loss, cross_entropy, log_likelihoods};
pub use weight::Weight;
pub use weights::Storage;
