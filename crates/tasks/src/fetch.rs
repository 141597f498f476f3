//! The only place that talks to the hub: from a dataset's source to a file on this machine.

use std::path::PathBuf;

use sharelora_hub::Progress;
pub use sharelora_hub::{Hub, Source};

use crate::Result;

/// Brings the file here and returns its path; `sha256` is checked where given.
pub fn fetch(hub: &Hub, source: &Source, sha256: Option<&str>) -> Result<PathBuf> {
    Ok(hub.fetch(source, sha256, Progress::Quiet)?.path)
}
