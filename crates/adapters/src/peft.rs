//! Hugging Face PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys and fields as `peft.tuners.lora` writes them. safetensors has no aliases, so a shared matrix is written
//! once for each layer; reading such a folder back finds the sharing again by comparing the values.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::native::{read_f32, write_atomic, write_tensors};
use crate::{AdapterConfig, AdapterError, Bank, Layout, Method, Scaling, Sharing, Site};

/// What PEFT wants to know about the base model.
#[derive(Debug, Clone)]
pub struct PeftInfo {
    /// `CAUSAL_LM` or `SEQ_CLS`.
    pub task_type: String,
    pub base_model_name_or_path: String,
    /// The base keeps its weights [in, out] (GPT-2's `Conv1D`).
    pub fan_in_fan_out: bool,
}

/// Writes `bank` into the folder `dir`, so that plain PEFT loads it.
///
/// # Errors
/// [`AdapterError::Io`] with the path.
pub fn export_peft(bank: &Bank, info: &PeftInfo, dir: &Path) -> Result<(), AdapterError> {
    std::fs::create_dir_all(dir).map_err(|e| AdapterError::io(dir, e))?;
    let layout = bank.layout();
    let mut targets: Vec<&str> = Vec::new();
    for site in &layout.sites {
        if !targets.contains(&site.projection.as_str()) {
            targets.push(&site.projection);
        }
    }
    let alpha = layout.config.alpha;
    let config = json!({
        "peft_type": "LORA",
        "task_type": info.task_type,
        "base_model_name_or_path": info.base_model_name_or_path,
        "r": layout.config.rank,
        // PEFT types alpha as an integer; a fraction is kept as it is.
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
        "lora_dropout": layout.config.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": info.fan_in_fan_out,
        "use_rslora": layout.config.scaling == Scaling::Rslora,
        "inference_mode": true,
    });
    let values = bank.values();
    let mut tensors = Vec::with_capacity(2 * layout.sites.len());
    for (site, slot) in layout.sites.iter().zip(&layout.slots) {
        for (letter, index) in [("A", slot.a), ("B", layout.a.len() + slot.b)] {
            let shape = layout.matrices().nth(index).map_or([0, 0], |m| m.shape);
            tensors.push((
                format!("base_model.model.{}.lora_{letter}.weight", site.path),
                shape,
                values[index].clone(),
            ));
        }
    }
    // The same metadata entry that PEFT's own writer leaves.
    write_tensors(
        &dir.join("adapter_model.safetensors"),
        &tensors,
        HashMap::from([("format".into(), "pt".into())]),
    )?;
    let path = dir.join("adapter_config.json");
    let text = serde_json::to_string_pretty(&config)
        .map_err(|e| AdapterError::format(&path, e.to_string()))?;
    write_atomic(&path, (text + "\n").as_bytes())
}

/// Reads a PEFT LoRA folder for a model with these sites. The result is LoRA, or ShareA, ShareB or ShareAB
/// where all layers hold the same values.
///
/// # Errors
/// A file that is absent or malformed, a kind of adapter or an option that is not plain LoRA, a module that
/// the model lacks, or a matrix of the wrong shape; each names the file and the key.
pub fn import_peft(dir: &Path, all_sites: &[Site], device: &Device) -> Result<Bank, AdapterError> {
    let config_path = dir.join("adapter_config.json");
    let text =
        std::fs::read_to_string(&config_path).map_err(|e| AdapterError::io(&config_path, e))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| AdapterError::format(&config_path, e.to_string()))?;
    let bad = |reason: String| AdapterError::format(&config_path, reason);
    if json["peft_type"] != "LORA" {
        return Err(bad(format!(
            "`peft_type` is {}: only \"LORA\" is read",
            json["peft_type"]
        )));
    }
    for (key, empty) in [
        ("use_dora", json!(false)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("modules_to_save", Value::Null),
        // Activated LoRA: the update starts at an invocation sequence only.
        ("alora_invocation_tokens", Value::Null),
    ] {
        if json.get(key).is_some_and(|v| *v != empty && !v.is_null()) {
            return Err(bad(format!("`{key}` = {} is not supported", json[key])));
        }
    }
    // These start from a decomposition of the base's weights and change the base itself.
    if let Some(init) = json["init_lora_weights"].as_str()
        && ["pissa", "olora", "corda", "loftq"]
            .iter()
            .any(|name| init.starts_with(name))
    {
        return Err(bad(format!(
            "`init_lora_weights` = \"{init}\" changes the base's weights: not supported"
        )));
    }
    let number = |key: &str| {
        json[key]
            .as_f64()
            .ok_or_else(|| bad(format!("`{key}` is not a number")))
    };
    let scaling = match json["use_rslora"].as_bool() {
        Some(true) => Scaling::Rslora,
        _ => Scaling::Standard,
    };

    let path = dir.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).map_err(|e| AdapterError::io(&path, e))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| AdapterError::format(&path, e.to_string()))?;
    let key =
        |site: &Site, letter: &str| format!("base_model.model.{}.lora_{letter}.weight", site.path);
    let names = file.names();
    let adapted: Vec<Site> = all_sites
        .iter()
        .filter(|s| names.contains(&key(s, "A").as_str()))
        .cloned()
        .collect();
    if let Some(stray) = names.iter().find(|n| {
        !adapted
            .iter()
            .any(|s| [key(s, "A"), key(s, "B")].iter().any(|k| k == *n))
    }) {
        return Err(AdapterError::format(
            &path,
            format!("`{stray}` is no module of this model"),
        ));
    }
    let mut targets: Vec<String> = Vec::new();
    for site in &adapted {
        if !targets.contains(&site.projection) {
            targets.push(site.projection.clone());
        }
    }
    let config = AdapterConfig {
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        dropout: json["lora_dropout"].as_f64().unwrap_or(0.0),
        targets,
        scaling,
    };
    config.check().map_err(|e| bad(e.to_string()))?;
    let read = |letter: &str| {
        adapted
            .iter()
            .map(|s| read_f32(&file, &key(s, letter), &path))
            .collect::<Result<Vec<_>, _>>()
    };
    let (a, b) = (read("A")?, read("B")?);
    let same = |list: &[([usize; 2], Vec<f32>)]| {
        adapted.iter().enumerate().all(|(i, site)| {
            let first = adapted.iter().position(|s| s.projection == site.projection);
            first.is_some_and(|first| list[first] == list[i])
        })
    };
    let several = adapted.iter().any(|s| s.layer != adapted[0].layer);
    let method = match (several && same(&a), several && same(&b)) {
        (false, false) => "lora",
        (true, false) => "share_a",
        (false, true) => "share_b",
        (true, true) => "share_ab",
    };
    let sharing: Sharing = Method::named(method)?
        .sharing()
        .cloned()
        .ok_or_else(|| AdapterError::Unsupported(format!("`{method}` has no sharing")))?;
    let layout = Arc::new(Layout::new(&adapted, &sharing, &config)?);
    let mut values = Vec::new();
    for (i, matrix) in layout.matrices().enumerate() {
        let (letter, (shape, v)) = if i < layout.a.len() {
            ("A", &a[matrix.owner])
        } else {
            ("B", &b[matrix.owner])
        };
        if *shape != matrix.shape {
            let site = &adapted[matrix.owner];
            return Err(AdapterError::format(
                &path,
                format!(
                    "`{}` is {shape:?}, the model needs {:?}",
                    key(site, letter),
                    matrix.shape
                ),
            ));
        }
        values.push(v.clone());
    }
    Bank::from_values(layout, values, device)
}
