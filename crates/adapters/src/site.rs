use serde::{Deserialize, Serialize};

use crate::AdapterError;

/// One linear layer of the base model that an adapter may update: `y = x W^T`, `W [out, in]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Index of the transformer block, from 0.
    pub layer: usize,
    /// Name of the projection inside its block, `q_proj` say. Matrices are shared across layers, never
    /// across projections.
    pub projection: String,
    /// Path of the module as Hugging Face transformers names it.
    pub path: String,
    pub in_features: usize,
    pub out_features: usize,
}

/// The sites of a model that `targets` names, in the model's order. `all_linear` stands for every projection.
///
/// # Errors
/// [`AdapterError::UnknownTarget`] where a target names no projection of the model.
pub fn select_sites(all: &[Site], targets: &[String]) -> Result<Vec<Site>, AdapterError> {
    let mut projections: Vec<&str> = Vec::new();
    for site in all {
        if !projections.contains(&site.projection.as_str()) {
            projections.push(&site.projection);
        }
    }
    if let Some(target) = targets
        .iter()
        .find(|t| *t != "all_linear" && !projections.contains(&t.as_str()))
    {
        return Err(AdapterError::UnknownTarget {
            target: target.clone(),
            choices: projections.join(", "),
        });
    }
    let everything = targets.iter().any(|t| t == "all_linear");
    Ok(all
        .iter()
        .filter(|s| everything || targets.contains(&s.projection))
        .cloned()
        .collect())
}
