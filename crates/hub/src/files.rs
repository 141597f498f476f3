//! Checksums, locks and atomic writes.

use crate::Error;
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The SHA-256 of a file, as 64 lower-case hexadecimal digits. Reads it in pieces.
pub fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    hash_into(&mut file, &mut hasher).map_err(Error::io("read", path))?;
    Ok(hex(&hasher.finalize()))
}

/// Feeds a reader to a hasher; returns the number of bytes.
pub(crate) fn hash_into(reader: &mut impl Read, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `sha256_file`, remembered in `memo` (a folder) for as long as size and time of change stay the same.
pub(crate) fn sha256_remembered(memo: &Path, path: &Path) -> Result<String, Error> {
    let stamp = stamp(path)?;
    let note = note(memo, path);
    if let Ok(text) = fs::read_to_string(&note)
        && let Some(sum) = text.strip_prefix(&stamp)
        && is_sha256(sum)
    {
        return Ok(sum.to_owned());
    }
    let sum = sha256_file(path)?;
    // Remembering only saves time: a cache that cannot be written to is no reason to fail.
    if let Err(error) = write_atomic(&note, format!("{stamp}{sum}").as_bytes()) {
        tracing::debug!(%error, "checksum not remembered");
    }
    Ok(sum)
}

fn stamp(path: &Path) -> Result<String, Error> {
    let meta = fs::metadata(path).map_err(Error::io("read", path))?;
    let time = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |t| t.as_nanos());
    Ok(format!("{} {time} ", meta.len()))
}

fn note(memo: &Path, path: &Path) -> PathBuf {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    memo.join(hex(&Sha256::digest(path.as_os_str().as_encoded_bytes())))
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Writes a small file: a temporary one in the same folder, then a rename.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), Error> {
    let folder = create_parent(path)?;
    let io = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    };
    io().map_err(Error::io("write", path))
}

/// Creates the folder a file is to lie in, and returns it.
pub(crate) fn create_parent(path: &Path) -> Result<&Path, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    Ok(folder)
}

/// `path` with more at the end of its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Waits until no other thread or process is fetching `target`, and keeps them out while the result lives.
/// The lock file stays behind: removing it would let two holders in.
pub(crate) fn lock(target: &Path) -> Result<File, Error> {
    create_parent(target)?;
    let path = with_suffix(target, ".sharelora-lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("create", &path))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(file = %target.display(), "being fetched elsewhere, waiting");
            file.lock()
        }
        Err(TryLockError::Error(e)) => Err(e),
    };
    match locked {
        // Some network file systems have no locks; a rename is still atomic there.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        other => other.map(|()| file).map_err(Error::io("lock", &path)),
    }
}
