//! Helpers of the tests.

use std::path::PathBuf;

use serde::Deserialize;

/// A text and its words by the official tool, with a space between any two.
#[derive(Deserialize)]
pub struct Case {
    pub text: String,
    pub mteval: String,
    pub treebank: String,
}

/// Written by `scripts/e2e_reference.py`.
pub fn cases() -> Vec<Case> {
    let lines = include_str!("../../tests/fixtures/e2e/words.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The folder of public files that some tests read, or `None` with a printed line.
pub fn mirror() -> Option<PathBuf> {
    let folder = std::env::var_os("SHARELORA_MIRROR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/hub")),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no mirror folder {}", folder.display());
    None
}
