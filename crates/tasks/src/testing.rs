//! Helpers of the tests.

use std::path::{Path, PathBuf};

use crate::dataset::DatasetSpec;
use crate::table::{self, Rows};
use crate::{Example, Target};

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

/// A split of a built-in parquet dataset, read from the mirror without the hub.
pub fn mirrored(folder: &Path, dataset: &str, file: &str) -> Rows {
    let spec = DatasetSpec::named(dataset, None).unwrap();
    table::read(&folder.join(file), spec.format, &spec.columns).unwrap()
}

/// The answer that a generative example teaches.
pub fn text(example: &Example) -> &str {
    match &example.target {
        Target::Text(text) => text,
        Target::Label { .. } => panic!("{} has a label", example.id),
    }
}
