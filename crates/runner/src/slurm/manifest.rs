//! `results/EXPERIMENT/.slurm/jobs.json`: what was submitted and may still be in the queue.
//!
//! An entry is written before its job is submitted, under a job name that no other submission has, and its number
//! afterwards: a job whose submitter was killed in between is found again by its name.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{StoreError, write_atomic};

/// One job array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Name of the job, of this submission alone.
    pub name: String,
    /// Its number; absent until Slurm has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    pub submitted_at: String,
    /// Folders of the runs of each task, in order.
    pub tasks: Vec<Vec<String>>,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("jobs.json")
}

/// The submissions that `dir` knows, oldest first.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(dir: &Path) -> Result<Vec<Submission>, StoreError> {
    let path = file(dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(StoreError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    serde_json::from_slice(&bytes).map_err(|e| StoreError::Broken {
        reason: format!(
            "not a list of submissions: {e}; remove it once none of its jobs is queued"
        ),
        path,
    })
}

/// Replaces the list, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(dir: &Path, submissions: &[Submission]) -> Result<(), StoreError> {
    let path = file(dir);
    let mut bytes = serde_json::to_vec_pretty(submissions).map_err(|e| StoreError::Broken {
        path: path.clone(),
        reason: format!("cannot be written as JSON: {e}"),
    })?;
    bytes.push(b'\n');
    write_atomic(&path, &bytes)
}

/// Waits until no other process looks what is missing and submits it; the lock goes away with the value.
///
/// # Errors
/// The folder cannot be made or written.
pub fn lock(dir: &Path) -> Result<File, StoreError> {
    let error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io {
            action,
            path,
            source,
        }
    };
    std::fs::create_dir_all(dir).map_err(error("create", dir))?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(error("open", &path))?;
    file.lock().map_err(error("lock", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join(".slurm");
        assert_eq!(read(&dir).unwrap(), []);
        let submissions = [Submission {
            name: "sharelora-tiny-1".into(),
            job: Some(7),
            submitted_at: "2025-01-01T00:00:00Z".into(),
            tasks: vec![vec!["base-1".into(), "lora-seed0-2".into()]],
        }];
        write(&dir, &submissions).unwrap();
        assert_eq!(read(&dir).unwrap(), submissions);
        std::fs::write(file(&dir), b"[{\"name\": 3}]").unwrap();
        let error = read(&dir).unwrap_err().to_string();
        assert!(
            error.contains("jobs.json") && error.contains("remove it"),
            "{error}"
        );
    }
}
