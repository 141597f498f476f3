//! Arbitrary bytes behind GGUF's magic: never a panic, and what opens can be read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../crates/model/src/weights/mod.rs"]
mod weights;

fuzz_target!(|data: &[u8]| {
    let bytes = if data.starts_with(b"GGUF") {
        data.to_vec()
    } else {
        [b"GGUF", data].concat()
    };
    let Ok(checkpoint) = weights::Checkpoint::from_bytes(Path::new("fuzz.gguf"), bytes) else {
        return;
    };
    for name in checkpoint.names() {
        checkpoint
            .read_f32(name)
            .expect("every type of an opened GGUF file is readable");
        // Vectors and matrices can be had in place, or the answer is an error.
        let _ = checkpoint.matrix(name, weights::Storage::Stored);
    }
    let _ = weights::gguf_llama_config(&checkpoint);
});
