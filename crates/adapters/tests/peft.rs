//! PEFT's adapter folder: what is exported comes back bit for bit and is recognised again, and a folder that
//! cannot be taken over exactly is refused with the reason. That PEFT itself agrees is checked by
//! `scripts/peft_roundtrip.py` and, with the folder that it saved, by the tests of crates/model.

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{METHODS, bits, config, custom, layout, random_bank, sharing, sites};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sharelora_adapters::{
    AdapterConfig, Bank, Init, Module, Part, PeftInfo, Scaling, Sharing, Site, delta, export_peft,
    import_peft,
};
use tempfile::TempDir;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn info() -> PeftInfo {
    PeftInfo {
        task_type: "CAUSAL_LM".into(),
        base_model_name_or_path: "base".into(),
        fan_in_fan_out: false,
        modules: model_sites().into_iter().map(|s| s.path).collect(),
    }
}

fn model_sites() -> Vec<Site> {
    sites(3, &[("q_proj", 8, 8), ("k_proj", 8, 4), ("v_proj", 8, 4)])
}

fn config_qv() -> AdapterConfig {
    AdapterConfig {
        targets: vec!["q_proj".into(), "v_proj".into()],
        dropout: 0.1,
        ..config(2)
    }
}

fn exported(method: &str, config: &AdapterConfig) -> (TempDir, Bank) {
    let bank = random_bank(&layout(&model_sites(), &sharing(method), config), 4);
    let folder = tempfile::tempdir().unwrap();
    export_peft(&bank, &[], &info(), folder.path()).unwrap();
    (folder, bank)
}

fn import(folder: &Path) -> Result<Bank, String> {
    let found = import_peft(folder, &model_sites(), &Device::flex());
    found.map(|(bank, _)| bank).map_err(|e| e.to_string())
}

#[test]
fn every_method_is_exported_and_recognised_again() {
    for method in METHODS {
        for config in [
            config_qv(),
            AdapterConfig {
                scaling: Scaling::Rslora,
                alpha: 2.5,
                ..config_qv()
            },
        ] {
            let (folder, bank) = exported(method, &config);
            let back = import(folder.path()).unwrap();
            assert_eq!(back.layout(), bank.layout(), "{method}");
            assert_eq!(bits(&back.values()), bits(&bank.values()), "{method}");
        }
    }
}

/// What PEFT has names for comes back as what it was: VeRA, DoRA, and rsLoRA by its scaling.
#[test]
fn baselines_are_exported_and_recognised_again() {
    for method in ["vera", "dora"] {
        let (folder, bank) = exported(method, &config_qv());
        let back = import(folder.path()).unwrap();
        assert_eq!(back.layout().sharing, bank.layout().sharing, "{method}");
        assert_eq!(bits(&back.values()), bits(&bank.values()), "{method}");
    }
    let (folder, _) = exported("rslora", &config_qv());
    let back = import(folder.path()).unwrap();
    assert_eq!(back.layout().config.scaling, Scaling::Rslora);
    assert_eq!(back.layout().sharing, sharing("lora"));
}

/// Frozen matrices, PiSSA and vectors beside A and B of each layer are plain LoRA to PEFT, with the same update.
#[test]
fn other_forms_are_exported_as_lora() {
    let vectors = |a, b| Sharing {
        vectors: true,
        ..custom(a, b)
    };
    let pissa = AdapterConfig {
        init: Init::Pissa,
        dropout: 0.0,
        ..config_qv()
    };
    let rslora = AdapterConfig {
        scaling: Scaling::Rslora,
        ..pissa.clone()
    };
    let frozen = json!({"scope": "per_layer", "frozen": true});
    for (sharing, config, rank) in [
        (sharing("lora_fa"), config_qv(), 2),
        (sharing("share_a_frozen"), config_qv(), 2),
        (vectors(frozen, json!("per_layer")), config_qv(), 2),
        (sharing("lora"), pissa, 4),
        (sharing("lora"), rslora, 4),
    ] {
        let bank = random_bank(&layout(&model_sites(), &sharing, &config), 4);
        let folder = tempfile::tempdir().unwrap();
        export_peft(&bank, &[], &info(), folder.path()).unwrap();
        let back = import(folder.path()).unwrap();
        assert_eq!(back.layout().config.rank, rank);
        for index in 0..bank.layout().sites.len() {
            let [expected, found] = [&bank, &back].map(|b| common::values(&delta(b, index)));
            assert!(common::distance(&expected, &found) < 1e-5);
        }
    }
}

/// A sharing that has no name of its own comes back as LoRA, with the same values at every site.
#[test]
fn groups_come_back_as_lora() {
    let groups = custom(json!({"groups": 2}), json!("per_layer"));
    let bank = random_bank(&layout(&model_sites(), &groups, &config_qv()), 4);
    let folder = tempfile::tempdir().unwrap();
    export_peft(&bank, &[], &info(), folder.path()).unwrap();
    let back = import(folder.path()).unwrap();
    assert_eq!(back.layout().sharing, sharing("lora"));
    for site in 0..bank.layout().sites.len() {
        assert_eq!(
            common::values(back.site(site).0),
            common::values(bank.site(site).0)
        );
        assert_eq!(
            common::values(back.site(site).1),
            common::values(bank.site(site).1)
        );
    }
}

/// The keys and fields that PEFT reads: one matrix a layer under its own path, though it is shared.
#[test]
fn the_folder_is_what_peft_expects() {
    let (folder, _) = exported("share_ab", &config_qv());
    let bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<_> = file.names().into_iter().map(String::from).collect();
    names.sort();
    let mut expected = Vec::new();
    for layer in 0..3 {
        for projection in ["q_proj", "v_proj"] {
            for letter in ["A", "B"] {
                let path = format!("base_model.model.model.layers.{layer}.self_attn.{projection}");
                expected.push(format!("{path}.lora_{letter}.weight"));
            }
        }
    }
    assert_eq!(names, expected);
    assert_eq!(file.tensor(&expected[0]).unwrap().shape(), [2, 8]);
    assert_eq!(file.tensor(&expected[3]).unwrap().shape(), [4, 2]);

    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join(CONFIG)).unwrap())
            .unwrap();
    for (key, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("base_model_name_or_path", json!("base")),
        ("r", json!(2)),
        ("lora_alpha", json!(4)),
        ("lora_dropout", json!(0.1)),
        ("target_modules", json!(["q_proj", "v_proj"])),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("use_rslora", json!(false)),
    ] {
        assert_eq!(json[key], value, "{key}");
    }
}

/// A folder with one field changed has to be refused with these words.
#[track_caller]
fn refused(folder: &Path, file: &str, part: &str) {
    let message = import(folder).err().unwrap();
    for part in [file, part] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn options_that_change_the_sum_are_refused() {
    for (key, value, part) in [
        ("peft_type", json!("IA3"), "\"IA3\""),
        ("peft_type", Value::Null, "`peft_type`"),
        ("rank_pattern", json!({"q_proj": 4}), "`rank_pattern`"),
        ("alpha_pattern", json!({"q_proj": 4}), "`alpha_pattern`"),
        (
            "alora_invocation_tokens",
            json!([1, 2]),
            "`alora_invocation_tokens`",
        ),
        ("init_lora_weights", json!("pissa_niter_4"), "pissa_niter_4"),
        ("r", json!("two"), "`r`"),
        ("r", json!(0), "`rank`"),
        ("lora_alpha", Value::Null, "`lora_alpha`"),
        ("lora_dropout", json!(1.5), "`dropout`"),
    ] {
        let (folder, _) = exported("lora", &config_qv());
        let path = folder.path().join(CONFIG);
        let mut json: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        refused(folder.path(), CONFIG, part);
    }
    // DoRA without its magnitudes, VeRA without its projections.
    let (folder, _) = exported("lora", &config_qv());
    let path = folder.path().join(CONFIG);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["use_dora"] = json!(true);
    std::fs::write(&path, json.to_string()).unwrap();
    refused(folder.path(), WEIGHTS, "lora_magnitude_vector");
    let (folder, _) = exported("vera", &config_qv());
    let path = folder.path().join(CONFIG);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("\"save_projection\": true", "\"save_projection\": false"),
    )
    .unwrap();
    refused(folder.path(), CONFIG, "`save_projection`");
    // Initial values that leave the base alone are only history.
    let (folder, _) = exported("lora", &config_qv());
    let path = folder.path().join(CONFIG);
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["init_lora_weights"] = json!("gaussian");
    std::fs::write(&path, json.to_string()).unwrap();
    import(folder.path()).unwrap();
}

/// Rewrites the exported tensors under the names that `rename` gives; `None` leaves one out.
fn renamed(rename: impl Fn(&str) -> Option<String>) -> TempDir {
    let (folder, _) = exported("lora", &config_qv());
    let path: PathBuf = folder.path().join(WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .filter_map(|(n, t)| Some((rename(&n)?, t)))
        .collect();
    std::fs::write(
        &path,
        safetensors::serialize(tensors, None::<HashMap<_, _>>).unwrap(),
    )
    .unwrap();
    folder
}

#[test]
fn tensors_that_do_not_fit_the_model_are_named() {
    let same = renamed(|n| Some(n.into()));
    import(same.path()).unwrap();
    let stray = renamed(|n| Some(n.replace("layers.2", "layers.3")));
    refused(stray.path(), WEIGHTS, "layers.3.self_attn");
    let missing =
        renamed(|n| (!n.ends_with("layers.1.self_attn.q_proj.lora_B.weight")).then(|| n.into()));
    refused(
        missing.path(),
        WEIGHTS,
        "layers.1.self_attn.q_proj.lora_B.weight` is missing",
    );

    // A model whose k and v are wider.
    let (folder, _) = exported("lora", &config_qv());
    let wide = sites(3, &[("q_proj", 8, 8), ("k_proj", 8, 8), ("v_proj", 8, 8)]);
    let message = import_peft(folder.path(), &wide, &Device::flex())
        .err()
        .unwrap()
        .to_string();
    for part in ["layers.0.self_attn.v_proj.lora_B", "[4, 2]", "[8, 2]"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn absent_and_broken_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), CONFIG, "No such file");
    let (folder, _) = exported("lora", &config_qv());
    let bytes = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    for n in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(folder.path().join(WEIGHTS), &bytes[..n]).unwrap();
        refused(folder.path(), WEIGHTS, "");
    }
    std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    refused(folder.path(), WEIGHTS, "No such file");
    std::fs::write(folder.path().join(CONFIG), "{").unwrap();
    refused(folder.path(), CONFIG, "EOF");
}

/// The folder that PEFT itself saved (`scripts/peft_roundtrip.py fixture`), with all its other fields.
#[test]
fn a_folder_that_peft_saved_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft_lora");
    let mut sites = sites(
        2,
        &[
            ("q_proj", 16, 16),
            ("k_proj", 16, 8),
            ("v_proj", 16, 8),
            ("o_proj", 16, 16),
            ("gate_proj", 16, 24),
            ("up_proj", 16, 24),
            ("down_proj", 24, 16),
        ],
    );
    for site in &mut sites {
        if ["gate_proj", "up_proj", "down_proj"].contains(&site.projection.as_str()) {
            site.path = site.path.replace("self_attn", "mlp");
        }
    }
    let (bank, modules) = import_peft(&folder, &sites, &Device::flex()).unwrap();
    assert_eq!(modules, []);
    let layout = bank.layout();
    assert_eq!(layout.sites, sites);
    assert_eq!(layout.sharing, sharing("lora"));
    assert_eq!(
        (
            layout.config.rank,
            layout.config.alpha,
            layout.config.dropout
        ),
        (3, 12.0, 0.1)
    );
}

/// q and v of a fused `c_attn`, as loralib adapts them: PEFT, which knows the module as a whole, has to compute the same
/// update from one adapter of twice the rank, zero for k.
#[test]
fn parts_of_a_fused_module_become_one_adapter() {
    let part = |layer: usize, projection: &str, start| Site {
        layer,
        projection: projection.into(),
        path: format!("transformer.h.{layer}.attn.c_attn"),
        in_features: 4,
        out_features: 4,
        part: Some(Part { start, of: 12 }),
    };
    let sites: Vec<Site> = (0..2)
        .flat_map(|layer| [part(layer, "q", 0), part(layer, "v", 8)])
        .collect();
    let config = AdapterConfig {
        targets: vec!["q".into(), "v".into()],
        ..config(2)
    };
    for scaling in [Scaling::Standard, Scaling::Rslora] {
        let config = AdapterConfig {
            scaling,
            ..config.clone()
        };
        let bank = random_bank(&layout(&sites, &sharing("share_a"), &config), 4);
        let folder = tempfile::tempdir().unwrap();
        let info = PeftInfo {
            fan_in_fan_out: true,
            modules: sites.iter().map(|s| s.path.clone()).collect(),
            ..info()
        };
        export_peft(&bank, &[], &info, folder.path()).unwrap();
        let whole: Vec<Site> = (0..2)
            .map(|layer| Site {
                projection: "c_attn".into(),
                out_features: 12,
                part: None,
                ..part(layer, "q", 0)
            })
            .collect();
        let (back, _) = import_peft(folder.path(), &whole, &Device::flex()).unwrap();
        assert_eq!(back.layout().config.rank, 4);
        for layer in 0..2 {
            let found = common::values(&sharelora_adapters::delta(&back, layer));
            let [q, v] =
                [0, 1].map(|i| common::values(&sharelora_adapters::delta(&bank, 2 * layer + i)));
            let expected = [q, vec![0.0; 16], v].concat();
            assert!(common::distance(&found, &expected) < 1e-6);
        }
        // PEFT's magnitude is of all outputs of the module, q, k and v.
        let dora = random_bank(&layout(&sites, &sharing("dora"), &config), 4);
        let refused = export_peft(&dora, &[], &info, folder.path()).unwrap_err();
        assert!(
            refused.to_string().contains("transformer.h.0.attn.c_attn"),
            "{refused}"
        );
    }
}

/// PEFT matches the ends of names: RoBERTa's `output.dense` would catch `attention.output.dense` as well, so it gets whole
/// names there. What is trained beside the adapter is named, and comes back.
#[test]
fn target_modules_match_nothing_else_and_heads_are_saved() {
    let site = |layer: usize, projection: &str| Site {
        layer,
        projection: projection.into(),
        path: format!("roberta.encoder.layer.{layer}.{projection}"),
        in_features: 4,
        out_features: 4,
        part: None,
    };
    let all: Vec<Site> = (0..2)
        .flat_map(|l| ["attention.output.dense", "output.dense"].map(|p| site(l, p)))
        .collect();
    let head = Module {
        name: "classifier.out_proj.bias".into(),
        shape: vec![3],
        values: vec![1.0, 2.0, 3.0],
    };
    let exported = |targets: &[&str]| {
        let config = AdapterConfig {
            targets: targets.iter().map(|t| (*t).into()).collect(),
            ..config(2)
        };
        let bank = random_bank(&layout(&all, &sharing("lora"), &config), 4);
        let folder = tempfile::tempdir().unwrap();
        let info = PeftInfo {
            task_type: "SEQ_CLS".into(),
            modules: all.iter().map(|s| s.path.clone()).collect(),
            ..info()
        };
        export_peft(&bank, std::slice::from_ref(&head), &info, folder.path()).unwrap();
        let (back, modules) = import_peft(folder.path(), &all, &Device::flex()).unwrap();
        assert_eq!(bits(&back.values()), bits(&bank.values()));
        assert_eq!(modules, std::slice::from_ref(&head));
        let text = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["modules_to_save"], json!(["classifier"]));
        json["target_modules"].clone()
    };
    assert_eq!(
        exported(&["output.dense"]),
        json!([
            "roberta.encoder.layer.0.output.dense",
            "roberta.encoder.layer.1.output.dense"
        ])
    );
    assert_eq!(
        exported(&["attention.output.dense", "output.dense"]),
        json!(["attention.output.dense", "output.dense"])
    );
}
