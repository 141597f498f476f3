//! The graded answers of a run: `samples-TASK.jsonl`, or the same compressed, `samples-TASK.jsonl.zst`.
//!
//! A line is one answer, as `sharelora_tasks::Sample` writes it. For statistics only `id`, `reference` and `grades` are
//! kept, by question: the answers `17#0`, `17#1`, ... are samples of question `17`, and its grade is their mean.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// One graded answer in full.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sample {
    /// The question, and `#` and a number where it was asked several times.
    pub id: String,
    /// What the model was given.
    pub prompt: String,
    /// What the answer was compared with.
    pub reference: String,
    /// Subject or category, where the task has them.
    pub group: Option<String>,
    /// `{"text": ...}`, `{"choice": {"log_probs": [...]}}` or `{"scores": [...]}`.
    pub answer: Value,
    /// Tokens generated.
    pub tokens: u64,
    /// Grade name to value; `null` where there is none.
    pub grades: BTreeMap<String, Option<f64>>,
}

/// The grades of one run's answers to one task, by question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grades {
    /// Every question and a hash of its reference: runs with equal maps answered the same questions.
    pub questions: BTreeMap<String, u64>,
    /// Number of answers, several a question where it was asked several times.
    pub answers: u64,
    /// Grade name to question to value; a question whose grade is missing or no number is left out.
    pub by_name: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The question of a sample's id: `17` of `17#3`.
pub fn question(id: &str) -> &str {
    match id.rsplit_once('#') {
        Some((question, sample))
            if !sample.is_empty() && sample.bytes().all(|b| b.is_ascii_digit()) =>
        {
            question
        }
        _ => id,
    }
}

/// Every samples file of a run's folder, by the name between `samples-` and `.jsonl`: a task, or a task and its split.
/// Where a file lies there plain and compressed, the plain one counts.
///
/// # Errors
/// The folder cannot be listed.
pub fn files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let failed = |source| Error::Io {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let file = path.file_name().map(|name| name.to_string_lossy());
        let Some(name) = file.as_deref().and_then(|f| f.strip_prefix("samples-")) else {
            continue;
        };
        if let Some(name) = name.strip_suffix(".jsonl") {
            found.insert(name.to_owned(), path.clone());
        } else if let Some(name) = name.strip_suffix(".jsonl.zst") {
            found.entry(name.to_owned()).or_insert(path.clone());
        }
    }
    Ok(found)
}

/// The grades of every samples file of a run's folder, by name as in [`files`].
///
/// # Errors
/// As [`read_grades`].
pub fn read_run_grades(dir: &Path) -> Result<BTreeMap<String, Grades>> {
    files(dir)?
        .into_iter()
        .map(|(name, path)| Ok((name, read_grades(&path)?)))
        .collect()
}

/// The grades of a samples file.
///
/// # Errors
/// The file cannot be read, or a line is damaged: the error names file and line.
pub fn read_grades(path: &Path) -> Result<Grades> {
    #[derive(Deserialize)]
    struct Line {
        id: String,
        #[serde(default)]
        reference: String,
        grades: BTreeMap<String, Option<f64>>,
    }
    let mut grades = Grades::default();
    // Sum and number of a question's values.
    let mut sums: BTreeMap<String, BTreeMap<String, (f64, u32)>> = BTreeMap::new();
    each_line(path, |line: Line| {
        let question = question(&line.id);
        let mut hasher = DefaultHasher::new();
        line.reference.hash(&mut hasher);
        grades.answers += 1;
        grades
            .questions
            .insert(question.to_owned(), hasher.finish());
        for (name, value) in line.grades {
            let value = value.unwrap_or(f64::NAN);
            let sum = sums
                .entry(name)
                .or_default()
                .entry(question.to_owned())
                .or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    })?;
    for (name, questions) in sums {
        let means = questions
            .into_iter()
            .map(|(question, (sum, count))| (question, sum / f64::from(count)))
            .filter(|(_, mean)| mean.is_finite());
        grades.by_name.insert(name, means.collect());
    }
    Ok(grades)
}

/// The first answer to each of the `wanted` questions, by question.
///
/// # Errors
/// As [`read_grades`].
pub fn read_wanted(path: &Path, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Sample>> {
    /// The rest of a line is skipped, which is far faster than to keep it.
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let mut found = BTreeMap::new();
    each_bytes(path, |line| {
        let Id { id } = serde_json::from_slice(line)?;
        let question = question(&id);
        if wanted.contains(question) && !found.contains_key(question) {
            found.insert(question.to_owned(), serde_json::from_slice(line)?);
        }
        Ok(found.len() < wanted.len())
    })?;
    Ok(found)
}

/// The answers of a samples file in full, in its order.
///
/// # Errors
/// As [`read_grades`].
pub fn read_samples(path: &Path) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    each_line(path, |sample| samples.push(sample))?;
    Ok(samples)
}

/// Gives every line to `each`; only what `T` has is kept of it.
pub(crate) fn each_line<T: for<'a> Deserialize<'a>>(
    path: &Path,
    mut each: impl FnMut(T),
) -> Result<()> {
    each_bytes(path, |line| {
        each(serde_json::from_slice(line)?);
        Ok(true)
    })
}

/// Gives every line that is not empty to `each`, until that says `false`.
fn each_bytes(path: &Path, mut each: impl FnMut(&[u8]) -> serde_json::Result<bool>) -> Result<()> {
    let failed = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let damaged = |line: usize, message: String| Error::Parse {
        what: "sample",
        path: path.to_owned(),
        line,
        message,
    };
    let mut lines = reader(path).map_err(failed)?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // Of a compressed file the error is mostly the data's, so it gets a line too.
        let read = lines.read_until(b'\n', &mut line);
        if read.map_err(|cause| damaged(number, cause.to_string()))? == 0 {
            break;
        }
        if !line.trim_ascii().is_empty() {
            let more = each(&line).map_err(|cause| damaged(number, cause.to_string()))?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

/// A file, decompressed where its name ends in `.zst`: any number of zstd frames.
fn reader(path: &Path) -> io::Result<BufReader<Box<dyn Read>>> {
    let file = File::open(path)?;
    let bytes: Box<dyn Read> = if path.extension().is_some_and(|e| e == "zst") {
        Box::new(zstd::Decoder::new(file)?)
    } else {
        Box::new(file)
    };
    Ok(BufReader::with_capacity(1 << 16, bytes))
}
