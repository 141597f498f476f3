//! One line of `measurements.jsonl`: a process that was measured.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sharelora_report::Host;

use crate::store::append_line;

/// A finished process, whether it did its work or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Hash of the machine, the programs, the model and the settings: only equal ones are compared.
    pub setup: String,
    /// The try that this process was part of. The processes of one try of one block ran directly one after the other, and
    /// ratios are taken within it alone.
    pub attempt: String,
    /// What is compared in the block.
    pub block: String,
    pub round: usize,
    /// Which part of the block, a method say.
    pub part: String,
    /// A backend of this program, or `peer`.
    pub side: String,
    /// Paths by their last component.
    pub command: String,
    pub started: String,
    /// Of the whole process.
    pub seconds: f64,
    /// Before it began.
    pub load_average: Option<f64>,
    /// Absent: ended by a signal.
    pub exit: Option<i32>,
    /// Of the program.
    pub version: String,
    pub threads: usize,
    pub quick: bool,
    pub host: Host,
    /// The fields that it printed; null where it failed.
    pub output: Value,
}

impl Measurement {
    /// Whether the process did its work.
    pub fn succeeded(&self) -> bool {
        self.exit == Some(0) && self.output.is_object()
    }

    /// A number that the process printed; `field.0` is the first of a list.
    pub fn number(&self, field: &str) -> Option<f64> {
        if !self.succeeded() {
            return None;
        }
        match field.split_once('.') {
            Some((list, place)) => self.output.get(list)?.get(place.parse::<usize>().ok()?)?,
            None => self.output.get(field)?,
        }
        .as_f64()
    }
}

/// All measurements in a file, in order; none where there is no file. A line that a crash has torn is left out.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Measurement>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut found = Vec::new();
    for (number, line) in (1..).zip(String::from_utf8_lossy(&bytes).lines()) {
        match serde_json::from_str(line) {
            Ok(measurement) => found.push(measurement),
            Err(_) if line.trim().is_empty() => {}
            Err(e) => tracing::warn!("{}:{number}: left out: {e}", path.display()),
        }
    }
    Ok(found)
}

/// Adds a line, on a line of its own whatever stands before it.
///
/// # Errors
/// Writing failed.
pub fn append(path: &Path, measurement: &Measurement) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let torn = std::fs::read(path)
        .ok()
        .and_then(|bytes| bytes.last().copied())
        .is_some_and(|last| last != b'\n');
    let start = if torn { "\n" } else { "" };
    let line = serde_json::to_string(measurement)?;
    Ok(append_line(path, &format!("{start}{line}"))?)
}
