//! Files that are either the old one or the new one, never half of one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A hidden file beside `path`, with the same extension, that only this process writes.
pub(crate) fn sibling(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    path.with_file_name(format!(".{}-{name}", std::process::id()))
}

/// Writes `bytes` to `path` through a file beside it and a rename; creates the folder.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = sibling(path);
    let fill = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    fill().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    })
}

/// Reads a text file; the error names it.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
