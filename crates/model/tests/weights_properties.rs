//! Whatever the bytes of a weight file, opening and reading it gives values or an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sharelora_model::weights::{
    Checkpoint, Storage, TensorDtype, gguf_llama_config, write_safetensors,
};

const FIXTURES: [&str; 4] = [
    "types.gguf",
    "llama.gguf",
    "types.safetensors",
    "llama.safetensors",
];

static VALID: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    FIXTURES
        .iter()
        .map(|name| fs::read(folder.join(name)).unwrap())
        .collect()
});

/// Bytes of the header, where nearly all mutations matter.
const HEADER: usize = 1500;

/// Opens and, if that succeeds, reads everything; says whether it opened.
fn read_all(bytes: Vec<u8>) -> bool {
    let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("any"), bytes) else {
        return false;
    };
    for name in checkpoint.names() {
        let elements: usize = checkpoint.shape(name).unwrap().iter().product();
        let readable = checkpoint.dtype(name).unwrap().is_readable();
        let values = checkpoint.read_f32(name);
        assert_eq!(
            values.map(|values| values.len()).ok(),
            readable.then_some(elements)
        );
        for storage in [Storage::Bf16, Storage::Stored] {
            let matrix = checkpoint.matrix(name, storage);
            let axes = checkpoint.shape(name).unwrap().len();
            assert_eq!(
                matrix.map(|matrix| matrix.rows() * matrix.columns()).ok(),
                (readable && elements > 0 && matches!(axes, 1 | 2)).then_some(elements)
            );
        }
    }
    let _ = gguf_llama_config(&checkpoint);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..400), prefix in 0..4_usize) {
        let prefix: &[u8] = [b"".as_slice(), b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0", b"\x40\0\0\0\0\0\0\0{"][prefix];
        read_all([prefix, &bytes].concat());
    }

    #[test]
    fn mutated_files_do_not_panic(
        file in 0..FIXTURES.len(),
        writes in vec((any::<Index>(), prop_oneof![vec(any::<u8>(), 1..9), Just(vec![255; 8]), Just(vec![0; 8])]), 1..6),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = VALID[file].clone();
        for (at, with) in writes {
            let at = at.index(HEADER);
            bytes[at..at + with.len()].copy_from_slice(&with);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(bytes);
    }

    // A JSON header of plausible words: we agree with the reference implementation on what is a file.
    #[test]
    fn safetensors_headers_are_judged_as_by_the_reference(
        entries in vec((
            prop::sample::select(vec!["a", "b", "c"]),
            prop::sample::select(vec!["F32", "F16", "BF16", "I64", "U8", "F4", "Q4"]),
            vec(prop_oneof![0..4_u64, Just(1 << 62), Just(u64::MAX)], 0..3),
            prop_oneof![0..3_u64, Just(u64::MAX)],
            prop_oneof![0..40_u64, Just(u64::MAX)],
        ), 0..3),
        data in 0..40_usize,
        fitting in any::<bool>(),
    ) {
        let mut start = 0;
        let entries: Vec<_> = entries.iter().map(|(name, dtype, shape, from, to)| {
            let size = match *dtype { "F32" => 4, "I64" => 8, "U8" => 1, _ => 2 };
            let length = shape.iter().fold(size, |product: u64, axis| product.wrapping_mul(*axis));
            let (from, to) = if fitting { (start, length.wrapping_add(start)) } else { (*from, *to) };
            start = to;
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        }).collect();
        let header = format!("{{{}}}", entries.join(","));
        let data = if fitting { usize::try_from(start).unwrap_or(0).min(1000) } else { data };
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
        let reference = safetensors::SafeTensors::deserialize(&bytes).is_ok();
        prop_assert_eq!(read_all(bytes), reference, "{}", header);
    }

    #[test]
    fn what_is_written_is_read(values in vec(any::<u32>().prop_map(f32::from_bits), 0..60)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        write_safetensors(&path, &[("w", [values.len()], &values)], TensorDtype::F32, &BTreeMap::new()).unwrap();
        let read = Checkpoint::open(&[path]).unwrap().read_f32("w").unwrap();
        prop_assert!(read.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
    }
}

// The generator above is worth something only if it makes valid files, too.
#[test]
fn unmutated_files_open() {
    assert!(VALID.iter().all(|bytes| read_all(bytes.clone())));
}
