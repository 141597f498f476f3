//! Arbitrary header text and data as a safetensors file: never a panic, and what the `safetensors` crate
//! accepts is accepted.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../crates/model/src/weights/mod.rs"]
mod weights;

fuzz_target!(|input: (&str, &[u8])| {
    let (header, data) = input;
    let bytes = [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat();
    let checkpoint = weights::Checkpoint::from_bytes(Path::new("fuzz.safetensors"), bytes.clone());
    let Ok(checkpoint) = checkpoint else {
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_err());
        return;
    };
    for name in checkpoint.names() {
        let readable = checkpoint
            .dtype(name)
            .is_some_and(|dtype| dtype.is_readable());
        assert_eq!(checkpoint.read_f32(name).is_ok(), readable);
        if let Ok(matrix) = checkpoint.matrix(name, weights::Storage::Stored) {
            assert_eq!(matrix.values().len(), checkpoint.read_f32(name).map_or(0, |v| v.len()));
        }
    }
});
