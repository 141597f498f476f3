//! A base in NF4 with double quantisation: bitsandbytes' values, what of a model is quantised, and a model that computes with them.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{config_json, slices, values, weight};
use sharelora_kernels::matrix::{Format, Matrix};
use sharelora_model::weights::{Checkpoint, TensorDtype, write_safetensors};
use sharelora_model::{Input, Model, ModelConfig, Storage, cross_entropy};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4.safetensors")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// `scripts/nf4_reference.py`: zeros, denormal numbers, one huge value, ties, groups of blocks that end inside rows. A quantiser of one's own
/// would give other losses than QLoRA's, and nobody could tell why.
#[test]
fn values_are_those_of_bitsandbytes() {
    let file = Checkpoint::open(&[fixture()]).unwrap();
    let names: Vec<&str> = file.names().filter(|name| !name.contains('.')).collect();
    assert_eq!(names, ["groups", "middles", "one", "single", "zeros"]);
    for name in names {
        let found = file.matrix(name, Storage::Nf4).unwrap();
        assert_eq!(found.format(), Format::Nf4);
        let expected = file.read_f32(&format!("{name}.nf4")).unwrap();
        assert_eq!(bits(&found.values()), bits(&expected), "{name}");
    }
}

#[test]
fn blocks_run_along_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensors = [("w", [2, 96], vec![0.5; 192])];
    write_safetensors(&path, &tensors, TensorDtype::F32, &Default::default()).unwrap();
    let file = Checkpoint::open(&[path]).unwrap();
    let error = file.matrix("w", Storage::Nf4).unwrap_err().to_string();
    let said = "w.safetensors: tensor `w`: 96 columns do not fill whole NF4 blocks of 64 values";
    assert!(error.contains(said), "{error}");
}

fn llama(storage: Storage, change: impl Fn(&str, [usize; 2], Vec<f32>) -> Vec<f32>) -> Model {
    let json = config_json(|c| {
        c["hidden_size"] = 64.into();
        c["intermediate_size"] = 128.into();
        c["head_dim"] = 16.into();
    });
    let config = ModelConfig::from_json(&json).unwrap();
    Model::build(config, storage, &Device::flex(), |name, shape| {
        Ok(change(name, shape, weight(name, shape)))
    })
    .unwrap()
}

/// Embedding, head and norms are QLoRA's bf16; every product reads the blocks' values, whatever its path.
#[test]
fn the_model_computes_with_the_quantised_values() {
    let quantised = llama(Storage::Nf4, |_, _, values| values);
    let plain = llama(Storage::F32, |name, [rows, columns], values| {
        let format = match name.contains("_proj.") {
            true => Format::Nf4,
            false => Format::Bf16,
        };
        Matrix::from_f32(rows, columns, values)
            .to_format(format)
            .values()
    });
    let kept = |model: &Model| {
        let all = model.values().into_iter();
        all.map(|(name, _, values)| (name, bits(&values)))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&quantised), kept(&plain));
    let rows = [vec![5; 7], (1..24).collect()];
    let input = Input::packed(&slices(&rows));
    let run = |model: &Model| {
        let hidden = model.hidden(&input, None, None);
        let loss = cross_entropy(&hidden, model.head(), &[5; 30], None, None).sum;
        (bits(&values(&model.logits(hidden))), loss)
    };
    assert_eq!(run(&quantised), run(&plain));
    // 36 bytes for 64 values of the projections of 3 layers, 2 bytes of the others, 4 of the norms.
    let linear = 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128);
    let rest = 2 * common::VOCABULARY * 64;
    assert_eq!(
        quantised.memory(),
        (linear * 36 / 64 + 2 * rest + 4 * 7 * 64, 0)
    );
}

/// GPT-2's checkpoint has linear weights transposed: blocks run along the rows of what is multiplied, and bits are those of the parts.
#[test]
fn conv1d_weights_are_quantised_as_they_are_multiplied() {
    let json = r#"{ "model_type": "gpt2", "vocab_size": 61, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32,
        "bos_token_id": 0, "eos_token_id": 0 }"#;
    let config = || ModelConfig::from_json(json).unwrap();
    let plain = Model::build(config(), Storage::F32, &Device::flex(), |name, shape| {
        Ok(weight(name, shape))
    });
    let plain = plain.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpt2.safetensors");
    write_safetensors(
        &path,
        &plain.values(),
        TensorDtype::F32,
        &Default::default(),
    )
    .unwrap();
    let file = Checkpoint::open(&[path]).unwrap();
    let loaded = Model::load(config(), &file, Storage::Nf4, &Device::flex()).unwrap();
    let sites = config().sites();
    assert_eq!(sites.len(), 7);
    for site in sites.iter().filter(|site| site.projection != "c_attn") {
        let whole = plain.site_weight(site);
        let expected = Matrix::from_f32(site.out_features, site.in_features, whole);
        let expected = expected.to_format(Format::Nf4).values();
        let found = loaded.site_weight(site);
        assert_eq!(bits(&found), bits(&expected), "{}", site.projection);
    }
}
