//! Any bytes as a system's output and as references: read, or refused, never a panic; what is read can be scored.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sharelora_metrics::e2e::{Corpus, scores};

fuzz_target!(|data: (&[u8], &[u8], bool)| {
    let (system, references, csv) = data;
    let folder = tempfile::tempdir().expect("a folder");
    let end = if csv { "csv" } else { "txt" };
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(format!("{name}.{end}"));
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let system = write("system", system);
    let references = write("references", references);
    if let Ok(corpus) = Corpus::read(&system, &references) {
        let _ = scores(&corpus);
    }
});
