//! Hugging Face PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys and fields as `peft.tuners.lora` writes them. safetensors has no aliases, so a shared matrix is written
//! once for each layer; reading such a folder back finds the sharing again by comparing the values.
//!
//! What PEFT keeps under other names: VeRA (`peft_type` VERA, `peft.tuners.vera`), if the adapter is shared as PEFT shares it; DoRA's
//! magnitudes (`use_dora`). All other forms are plain LoRA by their [`Bank::effective`] matrices: frozen matrices, vectors beside A
//! and B that are shared otherwise, and PiSSA, of twice the rank, as PEFT converts it (`subtract_mutated_init`).
//!
//! PEFT adapts a fused module as one site. Adapters of n of its parts, q and v of GPT-2's `c_attn` say, are one adapter of
//! the whole with rank n r and alpha n alpha, so that the scale stays: `A' = [A_q; A_v]`, and `B'` has `B_q` and `B_v` in
//! the rows of their outputs and the columns of their ranks, and zeros elsewhere.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::bank::to_vec;
use crate::init::D_INITIAL;
use crate::native::{Module, read_f32, write_atomic, write_tensors};
use crate::{
    AdapterConfig, AdapterError, Bank, Extra, Init, Layout, Method, Scaling, Sharing, Site,
};

/// What PEFT wants to know about the base model.
#[derive(Debug, Clone)]
pub struct PeftInfo {
    /// `CAUSAL_LM` or `SEQ_CLS`.
    pub task_type: String,
    pub base_model_name_or_path: String,
    /// The base keeps its weights [in, out] (GPT-2's `Conv1D`).
    pub fan_in_fan_out: bool,
    /// Paths of all linear modules of the base.
    pub modules: Vec<String>,
}

/// Writes `bank` and what is trained beside it into the folder `dir`, so that plain PEFT loads them.
///
/// # Errors
/// [`AdapterError::Io`] with the path; [`AdapterError::Unsupported`] where parts of one module and whole modules are
/// adapted side by side, for which PEFT has no single rank, or where parts have magnitudes (DoRA), of which PEFT has one for
/// the whole module.
pub fn export_peft(
    bank: &Bank,
    modules: &[Module],
    info: &PeftInfo,
    dir: &Path,
) -> Result<(), AdapterError> {
    std::fs::create_dir_all(dir).map_err(|e| AdapterError::io(dir, e))?;
    let layout = bank.layout();
    let (kind, mut tensors) = match is_vera(layout)? {
        true => vera(bank),
        false => lora(bank)?,
    };
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": info.task_type,
        "base_model_name_or_path": info.base_model_name_or_path,
        "target_modules": target_modules(layout, &info.modules),
        "bias": "none",
        "fan_in_fan_out": info.fan_in_fan_out,
        "inference_mode": true,
    });
    if let (Value::Object(config), Value::Object(kind)) = (&mut config, kind) {
        config.extend(kind);
    }
    let mut saved: Vec<&str> = Vec::new();
    for module in modules {
        let root = module.name.split('.').next().unwrap_or_default();
        if !saved.contains(&root) {
            saved.push(root);
        }
        tensors.push(Module {
            name: format!("{PREFIX}{}", module.name),
            ..module.clone()
        });
    }
    if !saved.is_empty() {
        config["modules_to_save"] = json!(saved);
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

/// Whether the adapter is VeRA as PEFT has it: one frozen A and B for all sites, no magnitudes, whole modules.
fn is_vera(layout: &Layout) -> Result<bool, AdapterError> {
    let named = Method::named("vera")?;
    let whole = layout.sites.iter().all(|s| s.part.is_none());
    Ok(named.sharing() == Some(&layout.sharing) && whole)
}

const PREFIX: &str = "base_model.model.";

/// PEFT's VeRA: what is of this kind in its configuration, and the tensors.
fn vera(bank: &Bank) -> (Value, Vec<Module>) {
    let layout = bank.layout();
    let config = json!({
        "peft_type": "VERA",
        "r": layout.config.rank,
        "vera_dropout": layout.config.dropout,
        "d_initial": f64::from(D_INITIAL),
        "projection_prng_key": 0,
        "save_projection": true,
    });
    let values = bank.values();
    let mut tensors = Vec::new();
    for (name, matrix, values) in [
        (VERA_SHARED[0], &layout.a[0], &values[0]),
        (VERA_SHARED[1], &layout.b[0], &values[1]),
    ] {
        tensors.push(Module {
            name: name.into(),
            shape: matrix.shape.to_vec(),
            values: values.clone(),
        });
    }
    for (index, site) in layout.sites.iter().enumerate() {
        for kind in [Extra::LambdaB, Extra::LambdaD] {
            let values = layout.extra(index, kind).map(|at| values[at].clone());
            let values = values.unwrap_or_default();
            tensors.push(Module {
                name: vera_key(site, kind),
                shape: vec![values.len()],
                values,
            });
        }
    }
    (config, tensors)
}

fn vera_key(site: &Site, kind: Extra) -> String {
    format!("{PREFIX}{}.vera_{}", site.path, kind.name())
}

fn magnitude_key(site: &Site) -> String {
    format!("{PREFIX}{}.lora_magnitude_vector", site.path)
}

/// PEFT's LoRA: what is of this kind in its configuration, and the tensors.
fn lora(bank: &Bank) -> Result<(Value, Vec<Module>), AdapterError> {
    let layout = bank.layout();
    let (factor, mut tensors) = lifted(bank)?;
    let rank = factor * layout.update_rank();
    // By what alpha grows with the rank, so that the scale stays.
    let ratio = rank as f64 / layout.config.rank as f64;
    let (alpha, rslora) = match (layout.sharing.vectors, layout.config.scaling) {
        (true, _) => (rank as f64, false),
        (_, Scaling::Standard) => (layout.config.alpha * ratio, false),
        (_, Scaling::Rslora) => (layout.config.alpha * ratio.sqrt(), true),
    };
    let mut config = json!({
        "r": rank,
        // PEFT types alpha as an integer; a fraction is kept as it is.
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
        "lora_dropout": layout.config.dropout,
        "use_rslora": rslora,
    });
    if layout.sharing.magnitude {
        config["use_dora"] = json!(true);
        let values = bank.values();
        for (index, site) in layout.sites.iter().enumerate() {
            if site.part.is_some() {
                return Err(AdapterError::Unsupported(format!(
                    "PEFT has one magnitude for all of `{}`: DoRA of its parts cannot be exported, adapt it whole",
                    site.path
                )));
            }
            let values = layout
                .extra(index, Extra::Magnitude)
                .map(|at| values[at].clone());
            tensors.push(Module {
                name: magnitude_key(site),
                shape: vec![site.out_features],
                values: values.unwrap_or_default(),
            });
        }
    }
    Ok((config, tensors))
}

/// A and B of every module under PEFT's names, and by how much its rank is ours: the number of adapted parts of a
/// fused module, else 1.
fn lifted(bank: &Bank) -> Result<(usize, Vec<Module>), AdapterError> {
    let layout = bank.layout();
    let mut by_path: Vec<(&str, Vec<usize>)> = Vec::new();
    for (index, site) in layout.sites.iter().enumerate() {
        match by_path.iter_mut().find(|(path, _)| *path == site.path) {
            Some((_, sites)) => sites.push(index),
            None => by_path.push((&site.path, vec![index])),
        }
    }
    let factor = by_path.first().map_or(1, |(_, sites)| sites.len());
    if by_path.iter().any(|(_, sites)| sites.len() != factor) {
        return Err(AdapterError::Unsupported(
            "PEFT has one rank for all modules: parts of a fused module cannot be exported beside whole modules".into(),
        ));
    }
    let r = layout.update_rank();
    let mut tensors = Vec::with_capacity(2 * by_path.len());
    for (path, sites) in by_path {
        let inputs = layout.sites[sites[0]].in_features;
        let part = |index: usize| layout.sites[index].part;
        let outputs = part(sites[0]).map_or(layout.sites[sites[0]].out_features, |p| p.of);
        let mut a = Vec::with_capacity(factor * r * inputs);
        let mut b = vec![0.0; outputs * factor * r];
        for (place, &index) in sites.iter().enumerate() {
            let (of_a, of_b) = bank.effective(index);
            a.extend(to_vec(&of_a));
            let start = part(index).map_or(0, |p| p.start);
            for (row, from) in to_vec(&of_b).chunks_exact(r).enumerate() {
                let to = (start + row) * factor * r + place * r;
                b[to..to + r].copy_from_slice(from);
            }
        }
        for (letter, shape, values) in [
            ("A", [factor * r, inputs], a),
            ("B", [outputs, factor * r], b),
        ] {
            tensors.push(Module {
                name: format!("{PREFIX}{path}.lora_{letter}.weight"),
                shape: shape.to_vec(),
                values,
            });
        }
    }
    Ok((factor, tensors))
}

/// What PEFT matches module names with: the ends of the adapted paths, or where such an end would match another module
/// of the model too (RoBERTa's `output.dense` is the end of `attention.output.dense`), the whole paths.
fn target_modules(layout: &Layout, all: &[String]) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for site in &layout.sites {
        // A part is not a module: its module's last name is.
        let end = match site.part {
            None => site.projection.as_str(),
            Some(_) => site.path.rsplit('.').next().unwrap_or_default(),
        };
        let dotted = format!(".{end}");
        let adapted = |path: &String| layout.sites.iter().any(|s| s.path == *path);
        let ambiguous = all.iter().any(|p| p.ends_with(&dotted) && !adapted(p));
        let target = if ambiguous { site.path.as_str() } else { end };
        if !targets.iter().any(|t| t == target) {
            targets.push(target.into());
        }
    }
    targets
}

/// Reads a PEFT folder for a model with these sites, and what was trained in full beside it (`modules_to_save`). The
/// result is VeRA, or LoRA, or ShareA, ShareB or ShareAB where all layers hold the same values, with magnitudes where it is DoRA.
///
/// # Errors
/// A file that is absent or malformed, a kind of adapter or an option that is not plain LoRA, a module that
/// the model lacks, or a matrix of the wrong shape; each names the file and the key.
pub fn import_peft(
    dir: &Path,
    all_sites: &[Site],
    device: &Device,
) -> Result<(Bank, Vec<Module>), AdapterError> {
    let config_path = dir.join("adapter_config.json");
    let text =
        std::fs::read_to_string(&config_path).map_err(|e| AdapterError::io(&config_path, e))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| AdapterError::format(&config_path, e.to_string()))?;
    let bad = |reason: String| AdapterError::format(&config_path, reason);
    let vera = json["peft_type"] == "VERA";
    if json["peft_type"] != "LORA" && !vera {
        return Err(bad(format!(
            "`peft_type` is {}: only \"LORA\" and \"VERA\" are read",
            json["peft_type"]
        )));
    }
    if vera && json["save_projection"] == false {
        return Err(bad(
            "`save_projection` = false: A and B are not in the folder, and they are drawn by PyTorch".into(),
        ));
    }
    let dora = json["use_dora"] == true;
    for (key, empty) in [
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
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
    // What every adapted module has.
    let keys = |site: &Site| -> Vec<String> {
        if vera {
            return vec![
                vera_key(site, Extra::LambdaD),
                vera_key(site, Extra::LambdaB),
            ];
        }
        let letters = ["A", "B"].map(|letter| lora_key(site, letter));
        letters
            .into_iter()
            .chain(dora.then(|| magnitude_key(site)))
            .collect()
    };
    let names = file.names();
    let adapted: Vec<Site> = all_sites
        .iter()
        .filter(|s| s.part.is_none() && names.contains(&keys(s)[0].as_str()))
        .cloned()
        .collect();
    let mut known: Vec<String> = adapted.iter().flat_map(keys).collect();
    if vera {
        known.extend(VERA_SHARED.map(String::from));
    }
    let saved = json["modules_to_save"].as_array().into_iter().flatten();
    let saved: Vec<String> = saved
        .filter_map(|name| Some(format!("{PREFIX}{}.", name.as_str()?)))
        .collect();
    let mut modules = Vec::new();
    for name in &names {
        if saved.iter().any(|prefix| name.starts_with(prefix)) {
            let module = read_f32(&file, name, &path)?;
            modules.push(Module {
                name: name[PREFIX.len()..].into(),
                ..module
            });
        } else if !known.iter().any(|k| k == name) {
            return Err(AdapterError::format(
                &path,
                format!("`{name}` is no module of this model"),
            ));
        }
    }
    let mut targets: Vec<String> = Vec::new();
    for site in &adapted {
        if !targets.contains(&site.projection) {
            targets.push(site.projection.clone());
        }
    }
    let rank = number("r")?;
    let (alpha, dropout) = match vera {
        // It has none; this one is a factor of 1.
        true => (rank, "vera_dropout"),
        false => (number("lora_alpha")?, "lora_dropout"),
    };
    let config = AdapterConfig {
        rank: rank as usize,
        alpha,
        dropout: json[dropout].as_f64().unwrap_or(0.0),
        targets,
        scaling,
        init: Init::default(),
    };
    config.check().map_err(|e| bad(e.to_string()))?;
    let read = |letter: &str| {
        adapted
            .iter()
            .map(|s| read_f32(&file, &lora_key(s, letter), &path))
            .collect::<Result<Vec<_>, _>>()
    };
    let method = match vera {
        true => "vera",
        false => {
            let same = |list: &[Module]| {
                adapted.iter().enumerate().all(|(i, site)| {
                    let first = adapted.iter().position(|s| s.projection == site.projection);
                    first.is_some_and(|first| {
                        list[first].shape == list[i].shape && list[first].values == list[i].values
                    })
                })
            };
            let several = adapted.iter().any(|s| s.layer != adapted[0].layer);
            match (several && same(&read("A")?), several && same(&read("B")?)) {
                (false, false) => "lora",
                (true, false) => "share_a",
                (false, true) => "share_b",
                (true, true) => "share_ab",
            }
        }
    };
    let mut sharing: Sharing = Method::named(method)?
        .sharing()
        .cloned()
        .ok_or_else(|| AdapterError::Unsupported(format!("`{method}` has no sharing")))?;
    sharing.magnitude = dora;
    let layout = Arc::new(Layout::new(&adapted, &sharing, &config)?);
    let mut values = Vec::new();
    for (i, matrix) in layout.matrices().enumerate() {
        let site = &layout.sites[matrix.owner];
        let letters = layout.a.len() + layout.b.len();
        let name = match (vera, i.checked_sub(letters)) {
            (true, None) => VERA_SHARED[i].into(),
            (false, None) => lora_key(site, if i < layout.a.len() { "A" } else { "B" }),
            (true, Some(at)) => vera_key(site, layout.kinds[at % layout.kinds.len()]),
            (false, Some(_)) => magnitude_key(site),
        };
        let found = read_f32(&file, &name, &path)?;
        // Vectors are matrices of one row or column here.
        let expected = match i < letters {
            true => matrix.shape.to_vec(),
            false => vec![matrix.shape[0] * matrix.shape[1]],
        };
        if found.shape != expected {
            return Err(AdapterError::format(
                &path,
                format!(
                    "`{name}` is {:?}, the model needs {expected:?}",
                    found.shape
                ),
            ));
        }
        values.push(found.values);
    }
    Ok((Bank::from_values(layout, values, device)?, modules))
}

/// A and B of all sites.
const VERA_SHARED: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

fn lora_key(site: &Site, letter: &str) -> String {
    format!("{PREFIX}{}.lora_{letter}.weight", site.path)
}
