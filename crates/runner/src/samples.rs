//! Samples files: one line of JSON an answer, compressed by zstd; and the log of an evaluation that is under way.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sharelora_tasks::{Answer, Sample};

use crate::error::{AbsentError, UsageError};
use crate::store::write_atomic;

/// Small files for one more second of a long evaluation.
const LEVEL: i32 = 9;

/// Writes a samples file, whole or not at all.
///
/// # Errors
/// A failure to write.
pub fn write(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut lines = Vec::new();
    for sample in samples {
        serde_json::to_writer(&mut lines, sample)?;
        lines.push(b'\n');
    }
    let packed = zstd::encode_all(lines.as_slice(), LEVEL)?;
    Ok(write_atomic(path, &packed)?)
}

/// Reads a samples file, compressed where its name ends in `.zst`.
///
/// # Errors
/// There is no such file, or a line is no sample; the message names file and line.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    if !path.is_file() {
        return Err(AbsentError(format!("{}: no such file", path.display())).into());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let reader: Box<dyn Read> = match path.extension().is_some_and(|e| e == "zst") {
        true => Box::new(zstd::Decoder::new(file)?),
        false => Box::new(file),
    };
    let mut samples = Vec::new();
    for (index, line) in BufReader::new(reader).lines().enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let line = line.map_err(|e| UsageError(format!("{}: damaged: {e}", place())))?;
        if !line.trim().is_empty() {
            let sample = serde_json::from_str(&line)
                .map_err(|e| UsageError(format!("{}: not a sample: {e}", place())))?;
            samples.push(sample);
        }
    }
    if samples.is_empty() {
        return Err(UsageError(format!("{}: no samples", path.display())).into());
    }
    Ok(samples)
}

/// The answer to a request, ungraded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Place of the request in its task.
    pub request: usize,
    pub answer: Answer,
    /// Tokens generated.
    pub tokens: usize,
}

/// Answers as they come, from which an interrupted evaluation goes on. The first line says what was asked of what.
///
/// Every write is a zstd frame of its own, so that a kill costs the answers of the last one alone.
pub struct Log {
    path: PathBuf,
    file: File,
    waiting: Vec<u8>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Head {
    /// Hash of everything that is asked, [`sharelora_tasks::prompt_hash`].
    prompts: String,
}

impl Log {
    /// The log at `path` and what it holds already. One of other prompts, or one that is damaged from the start, is begun anew.
    ///
    /// # Errors
    /// A failure to write.
    pub fn open(path: &Path, prompts: &str) -> Result<(Log, Vec<Answered>)> {
        let head = Head {
            prompts: prompts.to_owned(),
        };
        let found = held(path, &head);
        // Written anew without a torn end, behind which no frame could be read.
        let mut lines = line(&head)?;
        for answered in &found {
            lines.extend(line(answered)?);
        }
        write_atomic(path, &zstd::encode_all(lines.as_slice(), 1)?)?;
        let file = File::options().append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let log = Log {
            path: path.to_owned(),
            file,
            waiting: Vec::new(),
        };
        Ok((log, found))
    }

    /// Takes an answer, to be written by the next [`Log::flush`].
    ///
    /// # Errors
    /// None that is known: the answer is data.
    pub fn push(&mut self, answered: &Answered) -> Result<()> {
        self.waiting.extend(line(answered)?);
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// A failure to write.
    pub fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let frame = zstd::encode_all(self.waiting.as_slice(), 1)?;
        let written = self.file.write_all(&frame);
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.waiting.clear();
        Ok(())
    }

    /// The evaluation is done: its samples file takes the log's place.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// What a log holds up to its first damage.
fn held(path: &Path, head: &Head) -> Vec<Answered> {
    let Some(decoder) = File::open(path)
        .ok()
        .and_then(|f| zstd::Decoder::new(f).ok())
    else {
        return Vec::new();
    };
    let mut lines = BufReader::new(decoder).lines().map_while(Result::ok);
    let first: Option<Head> = lines.next().and_then(|l| serde_json::from_str(&l).ok());
    if first.as_ref() != Some(head) {
        return Vec::new();
    }
    lines
        .map_while(|line| serde_json::from_str(&line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: usize) -> Answered {
        Answered {
            request,
            answer: Answer::Text(format!("answer {request}\n")),
            tokens: request + 1,
        }
    }

    fn filled(path: &Path) -> Vec<Answered> {
        let all: Vec<Answered> = (0..6).map(answered).collect();
        let (mut log, found) = Log::open(path, "prompts").unwrap();
        assert!(found.is_empty());
        for two in all.chunks(2) {
            two.iter().for_each(|a| log.push(a).unwrap());
            log.flush().unwrap();
        }
        all
    }

    /// What was flushed is there after a kill; what another evaluation asked is not taken for it.
    #[test]
    fn a_log_is_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut all = filled(&path);
        let (mut log, found) = Log::open(&path, "prompts").unwrap();
        assert_eq!(found, all);
        log.push(&answered(6)).unwrap();
        log.flush().unwrap();
        log.push(&answered(7)).unwrap();
        drop(log);
        all.push(answered(6));
        assert_eq!(Log::open(&path, "prompts").unwrap().1, all);
        assert!(Log::open(&path, "others").unwrap().1.is_empty());
        assert!(Log::open(&path, "prompts").unwrap().1.is_empty());
    }

    /// Cut anywhere, a log gives a beginning of what it held, and takes more behind that.
    #[test]
    fn a_torn_log_gives_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let all = filled(&path);
        let bytes = std::fs::read(&path).unwrap();
        let mut lengths = Vec::new();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let (mut log, found) = Log::open(&path, "prompts").unwrap();
            assert_eq!(found, all[..found.len()]);
            log.push(&answered(9)).unwrap();
            log.flush().unwrap();
            let again = Log::open(&path, "prompts").unwrap().1;
            assert_eq!(again, [&found[..], &[answered(9)]].concat());
            lengths.push(found.len());
        }
        assert!(lengths.is_sorted());
        assert_eq!((lengths[0], lengths[bytes.len()]), (0, 6));
    }

    #[test]
    fn samples_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample {
            id: "1".into(),
            prompt: "p".into(),
            reference: "r".into(),
            group: None,
            answer: Answer::Text("a\nb".into()),
            tokens: 2,
            grades: [("accuracy".to_owned(), 1.0)].into(),
        };
        let samples = vec![sample.clone(), sample];
        let packed = dir.path().join("samples-x.jsonl.zst");
        write(&packed, &samples).unwrap();
        assert_eq!(read(&packed).unwrap(), samples);
        let plain = dir.path().join("samples-x.jsonl");
        let text = serde_json::to_string(&samples[0]).unwrap();
        std::fs::write(&plain, format!("{text}\n\n{text}\n{{")).unwrap();
        let message = read(&plain).unwrap_err().to_string();
        assert!(message.contains("samples-x.jsonl:4"), "{message}");
        let bytes = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
        let message = read(&packed).unwrap_err().to_string();
        assert!(message.contains("samples-x.jsonl.zst:1"), "{message}");
        assert!(read(&dir.path().join("none")).is_err());
    }
}
