//! Helpers of the tests.

use std::path::{Path, PathBuf};

use crate::dataset::{DatasetSpec, Format};
use crate::table::{self, Rows};

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
    table::read(&folder.join(file), Format::Parquet, &spec.columns).unwrap()
}
