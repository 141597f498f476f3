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
    /// Which outputs of the module it is, where the module computes several projections at once (GPT-2's `c_attn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// Some of the outputs of a fused module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The first of them.
    pub start: usize,
    /// Outputs of the whole module.
    pub of: usize,
}

impl Site {
    /// Unique in a model: the module's path, and the projection where it is a part of the module.
    pub fn place(&self) -> String {
        match self.part {
            None => self.path.clone(),
            Some(_) => format!("{}.{}", self.path, self.projection),
        }
    }
}

/// The sites of a model that `targets` names, in the model's order. `all_linear` stands for every module, a fused one as
/// a whole.
///
/// # Errors
/// [`AdapterError::UnknownTarget`] where a target names no projection of the model, [`AdapterError::Overlap`] where both a
/// fused module and a part of it are named.
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
    let wanted =
        |site: &&Site| targets.contains(&site.projection) || (everything && site.part.is_none());
    let sites: Vec<Site> = all.iter().filter(wanted).cloned().collect();
    let whole = |part: &Site| {
        let fused = |s: &&Site| s.part.is_none() && s.path == part.path;
        part.part.and_then(|_| sites.iter().find(fused))
    };
    if let Some((part, whole)) = sites.iter().find_map(|s| Some((s, whole(s)?))) {
        return Err(AdapterError::Overlap {
            part: part.projection.clone(),
            whole: whole.projection.clone(),
        });
    }
    Ok(sites)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2() -> Vec<Site> {
        let site = |projection: &str, start: Option<usize>| Site {
            layer: 0,
            projection: projection.into(),
            path: "h.0.attn.c_attn".into(),
            in_features: 4,
            out_features: if start.is_some() { 4 } else { 12 },
            part: start.map(|start| Part { start, of: 12 }),
        };
        vec![site("c_attn", None), site("q", Some(0)), site("v", Some(8))]
    }

    /// A fused module and its parts are two ways to adapt one weight: `all_linear` takes the first, nobody gets both.
    #[test]
    fn a_fused_module_is_adapted_whole_or_in_parts() {
        let select = |targets: &[&str]| {
            let targets: Vec<String> = targets.iter().map(|t| (*t).into()).collect();
            let sites = select_sites(&gpt2(), &targets)?;
            Ok::<_, AdapterError>(sites.into_iter().map(|s| s.projection).collect::<Vec<_>>())
        };
        assert_eq!(select(&["all_linear"]).unwrap(), ["c_attn"]);
        assert_eq!(select(&["v", "q"]).unwrap(), ["q", "v"]);
        let message = select(&["c_attn", "v"]).unwrap_err().to_string();
        assert!(
            message.contains("`v`") && message.contains("`c_attn`"),
            "{message}"
        );
        assert_eq!(gpt2()[2].place(), "h.0.attn.c_attn.v");
    }
}
