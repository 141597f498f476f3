//! Scores: of labels (`classification`, `correlation`) and of generated texts (`e2e`). No tensors, no datasets.

pub mod classification;
pub mod correlation;
pub mod e2e;
