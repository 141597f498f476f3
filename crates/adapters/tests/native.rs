//! The native file: what is saved is loaded bit for bit, a shared matrix is there once, and a file that is not
//! what it should be is an error with its name, never a panic.

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use burn::tensor::Device;
use common::{METHODS, bits, config, custom, layout, random_bank, sharing, sites};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use sharelora_adapters::{AdapterConfig, Bank, Module, Scaling, load_native, save_native};

fn load(path: &Path) -> Result<Bank, String> {
    let found = load_native(path, &Device::flex());
    found.map(|(bank, _)| bank).map_err(|e| e.to_string())
}

#[test]
fn every_method_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let sites = sites(5, &[("q_proj", 12, 12), ("v_proj", 12, 6)]);
    let mut sharings: Vec<_> = METHODS
        .iter()
        .chain(&["share_a_qkv"])
        .map(|m| sharing(m))
        .collect();
    sharings.push(custom(
        json!({"groups": 2, "projections": ["v_proj"]}),
        json!({"groups": 3}),
    ));
    sharings.push(custom(
        json!("per_layer"),
        json!({"scope": "all_layers", "projections": ["q_proj"]}),
    ));
    let baselines = ["lora_fa", "share_a_frozen", "vera", "rslora", "dora"];
    sharings.extend(baselines.map(sharing));
    for (i, sharing) in sharings.iter().enumerate() {
        let config = AdapterConfig {
            alpha: 0.1 + 0.2,
            dropout: 0.05,
            scaling: Scaling::Rslora,
            targets: vec!["q_proj".into(), "v_proj".into()],
            ..config(3)
        };
        let bank = random_bank(&layout(&sites, sharing, &config), i as u64);
        // The folder is made where it is missing.
        let path = folder.path().join("made").join(format!("{i}.safetensors"));
        save_native(&bank, &[], &path).unwrap();
        let back = load(&path).unwrap();
        assert_eq!(back.layout(), bank.layout());
        assert_eq!(bits(&back.values()), bits(&bank.values()));
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), i + 1, "a temporary file is left");
    }
}

/// The whole point of sharing, on the disk.
#[test]
fn share_ab_is_as_many_times_smaller_as_there_are_layers() {
    const LAYERS: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let sites = sites(LAYERS, &[("q_proj", 512, 512)]);
    let size = |method| {
        let layout = layout(&sites, &sharing(method), &config(16));
        let path = folder.path().join(method);
        save_native(&random_bank(&layout, 1), &[], &path).unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size > layout.adapter_bytes());
        size as f64
    };
    let ratio = size("lora") / size("share_ab");
    assert!(
        (0.9 * LAYERS as f64..=LAYERS as f64).contains(&ratio),
        "{ratio}"
    );
}

/// A small file of a grouped adapter.
static SAVED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let sharing = custom(json!({"groups": 2}), json!("all_layers"));
    let layout = layout(&sites(3, &[("q_proj", 4, 4)]), &sharing, &config(2));
    let path = folder.path().join("saved");
    save_native(&random_bank(&layout, 1), &[], &path).unwrap();
    std::fs::read(path).unwrap()
});

/// Loads these bytes from a file of this name; an error has to name it.
fn load_bytes(bytes: &[u8]) -> Result<Bank, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.safetensors");
    std::fs::write(&path, bytes).unwrap();
    load(&path).inspect_err(|message| assert!(message.contains("damaged.safetensors"), "{message}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_truncated_file_is_an_error(part in 0.0f64..1.0) {
        let n = (part * SAVED.len() as f64) as usize;
        prop_assert!(load_bytes(&SAVED[..n]).is_err());
    }

    /// Damage is an error or, in the values and names that nothing checks, another adapter; never a panic.
    #[test]
    fn flipped_bytes_do_not_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4)) {
        let mut bytes = SAVED.clone();
        for (at, mask) in flips {
            let i = at.index(bytes.len());
            bytes[i] ^= mask;
        }
        let _ = load_bytes(&bytes);
    }

    /// Numbers of the description that do not fit its tensors, however large.
    #[test]
    fn foreign_numbers_in_the_description_do_not_panic(
        key in prop::sample::select(vec!["/config/rank", "/sites/1/layer", "/sites/0/in_features",
            "/sites/2/out_features", "/sharing/a/scope/groups"]),
        number in prop_oneof![0u64..6, Just(u64::MAX), Just(u64::MAX / 2), any::<u64>()],
    ) {
        let _ = load_bytes(&with_description(|d| *d.pointer_mut(key).unwrap() = json!(number)));
    }
}

/// The saved file with its description changed.
fn with_description(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(&SAVED).unwrap();
    let mut description: Value =
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["sharelora"]).unwrap();
    change(&mut description);
    let file = SafeTensors::deserialize(&SAVED).unwrap();
    let entry = HashMap::from([("sharelora".to_string(), description.to_string())]);
    safetensors::serialize(file.tensors(), Some(entry)).unwrap()
}

/// The description of a method that was there before the baselines: its files keep their bytes.
#[test]
fn old_methods_are_described_as_ever() {
    let (_, metadata) = SafeTensors::read_metadata(&SAVED).unwrap();
    let description = &metadata.metadata().as_ref().unwrap()["sharelora"];
    let (before_sites, _) = description.split_once(r#","sites":"#).unwrap();
    assert_eq!(
        before_sites,
        r#"{"version":1,"config":{"rank":2,"alpha":4.0,"dropout":0.0,"targets":["all_linear"],"scaling":"standard"},"sharing":{"a":{"scope":{"groups":2}},"b":{"scope":"all_layers"}}"#
    );
}

/// PiSSA's first matrices are in the file, so that it needs no weight to be applied.
#[test]
fn pissa_keeps_what_it_started_from() {
    let config = AdapterConfig {
        init: sharelora_adapters::Init::Pissa,
        ..config(2)
    };
    let layout = layout(&sites(2, &[("q_proj", 4, 6)]), &sharing("lora"), &config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    let bank = random_bank(&layout, 1);
    save_native(&bank, &[], &path).unwrap();
    let back = load(&path).unwrap();
    assert_eq!(back.layout(), bank.layout());
    assert_eq!(bits(&back.values()), bits(&bank.values()));
    assert_eq!(back.values().len(), 8);
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let says = |bytes: &[u8], part: &str| {
        let message = load_bytes(bytes).err().unwrap();
        assert!(message.contains(part), "`{part}` is not in: {message}");
    };
    assert!(load_bytes(&with_description(|_| ())).is_ok());
    let zeros = [0u8; 32];
    let view = || TensorView::new(Dtype::F32, vec![2, 4], &zeros).unwrap();
    let foreign = safetensors::serialize([("weight", view())], None).unwrap();
    says(&foreign, "not an adapter of this program");
    says(&with_description(|d| d["version"] = json!(2)), "version 2");
    says(
        &with_description(|d| d["config"]["rank"] = json!(0)),
        "`rank`",
    );
    says(
        &with_description(|d| d["sites"][1]["in_features"] = json!(5)),
        "different widths",
    );
    // As many values, in another shape: 2 x 4 is not 4 x 2.
    let transposed = with_description(|d| {
        d["config"]["rank"] = json!(4);
        for site in d["sites"].as_array_mut().unwrap() {
            site["in_features"] = json!(2);
            site["out_features"] = json!(2);
        }
    });
    says(&transposed, "is [2, 4], its own description needs [4, 2]");
    says(
        &with_description(|d| d["sites"][2]["layer"] = json!(7)),
        "`layers.6-7.q_proj.a` is missing",
    );
    let absent = load(Path::new("no/such/file.safetensors")).err().unwrap();
    assert!(absent.contains("no/such/file.safetensors"), "{absent}");
}

/// A head that is trained beside the adapter comes back with its shapes, vectors among them.
#[test]
fn what_is_trained_beside_the_adapter_is_kept() {
    let layout = layout(
        &sites(2, &[("query", 4, 4)]),
        &sharing("share_a"),
        &config(2),
    );
    let head = |name: &str, shape: &[usize]| Module {
        name: format!("classifier.{name}"),
        shape: shape.to_vec(),
        values: common::random(shape.iter().product(), 9),
    };
    let modules = [head("dense.weight", &[4, 4]), head("dense.bias", &[4])];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    let bank = random_bank(&layout, 1);
    save_native(&bank, &modules, &path).unwrap();
    let (back, found) = load_native(&path, &Device::flex()).unwrap();
    assert_eq!(found, modules);
    assert_eq!(bits(&back.values()), bits(&bank.values()));
}
