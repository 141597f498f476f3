use crate::weights::WeightsError;

/// What can go wrong between a model's files and its forward pass.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `config.json` that is malformed or describes something this program does not compute.
    #[error("config.json: {0}")]
    Config(String),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A checkpoint whose tensors do not fit the configuration.
    #[error("weights: {0}")]
    Mismatch(String),
}
