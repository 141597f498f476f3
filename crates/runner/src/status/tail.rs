//! The end of a `steps.jsonl` that grows: each look reads only what came since the last one.
//!
//! A resumed run replaces the file by a shorter one; then it is another file, and read anew.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sharelora_report::Step;

/// Steps whose rate is "now".
const RECENT: usize = 16;

/// How far a file was read.
#[derive(Debug, Default)]
pub struct Tail {
    /// Bytes read, up to the end of a line.
    offset: u64,
    /// Which file it was.
    inode: u64,
    /// The last step.
    pub last: Option<Step>,
    /// The last one that was measured.
    pub held_out_loss: Option<f64>,
    /// Tokens and seconds of the last steps.
    recent: VecDeque<(f64, f64)>,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// The new steps.
    pub steps: Vec<Step>,
    /// They are the first of a file that has not been read before.
    pub anew: bool,
}

impl Tail {
    /// Reads on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, path: &Path) -> io::Result<Found> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let anew = self.offset > 0;
                *self = Tail::default();
                return Ok(Found {
                    steps: Vec::new(),
                    anew,
                });
            }
            file => file?,
        };
        let about = file.metadata()?;
        let inode = super::inode(&about);
        let anew = inode != self.inode || about.len() < self.offset;
        if anew {
            *self = Tail {
                inode,
                ..Tail::default()
            };
        }
        if about.len() == self.offset {
            return Ok(Found {
                steps: Vec::new(),
                anew,
            });
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A line without its end is still being written.
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        self.offset += whole as u64;
        let mut steps = Vec::new();
        for line in bytes[..whole].split(|b| *b == b'\n') {
            if let Ok(step) = serde_json::from_slice::<Step>(line) {
                self.take(&step);
                steps.push(step);
            }
        }
        Ok(Found { steps, anew })
    }

    fn take(&mut self, step: &Step) {
        // `tokens` counts from the start of the run.
        let before = self.last.as_ref().map_or(0, |s| s.tokens);
        let tokens = step.tokens.saturating_sub(before) as f64;
        let seconds = tokens / step.tokens_per_second;
        if tokens > 0.0 && seconds.is_finite() {
            self.recent.push_back((tokens, seconds));
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        self.held_out_loss = step.held_out_loss.or(self.held_out_loss);
        self.last = Some(step.clone());
    }

    /// Rate of the last steps.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let (tokens, seconds) = self.sums();
        (seconds > 0.0).then(|| tokens / seconds)
    }

    /// Mean time of the last steps.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let (_, seconds) = self.sums();
        (seconds > 0.0).then(|| seconds / self.recent.len() as f64)
    }

    fn sums(&self) -> (f64, f64) {
        self.recent
            .iter()
            .fold((0.0, 0.0), |(a, b), (tokens, seconds)| {
                (a + tokens, b + seconds)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(step: u64) -> String {
        format!(
            r#"{{"step":{step},"loss":1.0,"learning_rate":0.1,"grad_norm":1.0,"tokens":{},"tokens_per_second":{},"memory_bytes":1,"held_out_loss":null}}"#,
            10 * step,
            step + 1
        )
    }

    /// However the file's growth is cut into looks, its lines are seen once each and in whole.
    #[test]
    fn lines_are_read_once_however_they_arrive() {
        let text: String = (1..=40).map(|n| line(n) + "\n").collect();
        for piece in [1, 7, 100, 333, 5_000] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let path = file.path().to_owned();
            let mut tail = Tail::default();
            let mut seen = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                file.write_all(bytes).unwrap();
                seen.extend(tail.read(&path).unwrap().steps.iter().map(|s| s.step));
            }
            assert_eq!(seen, (1..=40).collect::<Vec<_>>(), "{piece}");
            assert_eq!(tail.offset as usize, text.len());
            // The last 16 steps of 10 tokens, at 26 to 41 a second.
            let seconds: f64 = (26..=41).map(|rate| 10.0 / f64::from(rate)).sum();
            let rate = tail.tokens_per_second().unwrap();
            assert!((rate - 160.0 / seconds).abs() < 1e-9, "{rate}");
        }
    }

    /// A resumed run writes a new, shorter file under the same name; when it has grown past the old length it is still
    /// another.
    #[test]
    fn a_replaced_file_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let write = |n: u64| {
            let text: String = (1..=n).map(|n| line(n) + "\n").collect();
            crate::store::write_atomic(&path, text.as_bytes()).unwrap();
        };
        let mut tail = Tail::default();
        assert!(!tail.read(&path).unwrap().anew);
        write(5);
        assert_eq!(tail.read(&path).unwrap().steps.len(), 5);
        write(9);
        let read = tail.read(&path).unwrap();
        assert_eq!((read.anew, read.steps.len()), (true, 9));
        std::fs::remove_file(&path).unwrap();
        assert!(tail.read(&path).unwrap().anew && tail.last.is_none());
    }
}
