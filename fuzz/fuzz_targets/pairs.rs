//! Any bytes as a table of pairs, the form of the E2E data: rows with both columns, or a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sharelora_tasks::{DatasetSpec, Hub, load_split};

const SPEC: &str = r#"
name = "fuzz"
version = 1
license = "none"
format = "pairs"
columns = ["source", "target"]
[splits.train]
source = "file:fuzz.txt"
"#;

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("fuzz.txt"), data).expect("a file");
    let spec = DatasetSpec::parse("fuzz.toml", SPEC).expect("a description");
    let hub = Hub::from_vars(folder.path(), |_| None);
    if let Ok(rows) = load_split(&spec, "train", &hub) {
        for row in rows.iter() {
            row.text("source").expect("every row has its columns");
            row.text("target").expect("every row has its columns");
        }
    }
});
