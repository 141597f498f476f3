//! A run as TensorBoard reads one: an event file with the scalars of its steps and, of a run that has ended, its scores.
//!
//! The file is a sequence of TFRecords (length, its masked CRC-32C, data, its masked CRC-32C; all little-endian), each an `Event`
//! protobuf with a wall time, a step and a `Summary` of tagged values: `tensorboard/compat/proto/event.proto` and `summary.proto`,
//! and `tensorboard/summary/writer/record_writer.py`. Those few fields are written here by hand.
//!
//! Deviation: the wall time is no clock's. It is the record's start and the seconds of loading and of the training steps so far; without
//! a record the latter alone, from 1970. Seconds of evaluations are not stored by step and count nothing. So TensorBoard's axis
//! `Relative` shows seconds of training, and the same results give the same bytes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::comparison::is_headline;
use crate::error::{Error, Result};
use crate::file;
use crate::lm_eval::unix_seconds;
use crate::record::{Record, Step};

/// Name of a run's event file. It has no time and no host, as TensorBoard's own have, so that writing it again replaces it.
pub const FILE: &str = "events.out.tfevents.sharelora";

/// The seconds of training up to the end of each step, from the tokens and the speed that `steps` has of each.
pub fn elapsed(steps: &[Step]) -> Vec<f64> {
    let (mut seconds, mut tokens) = (0.0, 0);
    let of_step = |step: &Step| {
        let own = step.tokens.saturating_sub(tokens) as f64 / step.tokens_per_second;
        tokens = step.tokens;
        if own.is_finite() {
            seconds += own;
        }
        seconds
    };
    steps.iter().map(of_step).collect()
}

/// The whole event file of a run; `record` where it has ended. Values that are missing or not finite are left out.
///
/// Tags: `train/loss`, `train/learning_rate`, `train/gradient_norm`, `train/tokens_per_second`, `train/memory_bytes`,
/// `held_out/loss`, `held_out/score`, and `score/TASK/METRIC` at the last step.
pub fn events(steps: &[Step], record: Option<&Record>) -> Vec<u8> {
    let start = record.map_or(0.0, |record| {
        let before = ["load", "data"].map(|part| record.seconds.get(part).copied().unwrap_or(0.0));
        unix_seconds(&record.started_at).unwrap_or(0.0) + before.iter().sum::<f64>()
    });
    let mut bytes = Vec::new();
    write_record(&mut bytes, &version(start));
    let times = elapsed(steps);
    for (step, time) in steps.iter().zip(&times) {
        let trained = step.step > 0;
        let of_training = |value: f64| trained.then_some(value);
        let values = [
            ("train/loss", step.loss),
            ("train/learning_rate", of_training(step.learning_rate)),
            ("train/gradient_norm", step.grad_norm),
            (
                "train/tokens_per_second",
                of_training(step.tokens_per_second),
            ),
            ("train/memory_bytes", Some(step.memory_bytes as f64)),
            ("held_out/loss", step.held_out_loss),
            ("held_out/score", step.metric),
        ];
        let values = values
            .into_iter()
            .filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
        write_event(&mut bytes, start + time, step.step, values);
    }
    if let Some(record) = record {
        let metrics = record.metrics.iter().filter(|(key, _)| is_headline(key));
        let values = metrics.map(|(key, metric)| (format!("score/{key}"), metric.value));
        let end = start + times.last().copied().unwrap_or(0.0);
        write_event(&mut bytes, end, record.steps, values);
    }
    bytes
}

/// Writes an event file, and tells whether anything was new. Where the file is the beginning of `bytes`, the rest is added to it, so that a
/// TensorBoard that has it open goes on reading; else it is replaced.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<bool> {
    let old = fs::read(path).unwrap_or_default();
    if old == bytes {
        return Ok(false);
    }
    match bytes
        .strip_prefix(old.as_slice())
        .filter(|_| !old.is_empty())
    {
        None => file::write(path, bytes)?,
        Some(rest) => {
            let mut open = OpenOptions::new().append(true).open(path);
            let written = open.as_mut().map_err(|e| std::io::Error::from(e.kind()));
            written
                .and_then(|file| file.write_all(rest))
                .map_err(|source| Error::Io {
                    action: "write",
                    path: path.to_owned(),
                    source,
                })?;
        }
    }
    Ok(true)
}

/// `Event { wall_time, file_version }`, the first of every file.
fn version(time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    fixed64(&mut event, 1, time);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time, step, summary }` of the finite `values`; nothing without any.
fn write_event(
    out: &mut Vec<u8>,
    time: f64,
    step: u64,
    values: impl Iterator<Item = (String, f64)>,
) {
    let mut summary = Vec::new();
    for (tag, value) in values.filter(|(_, value)| value.is_finite()) {
        let mut one = Vec::new();
        bytes_field(&mut one, 1, tag.as_bytes());
        key(&mut one, 2, 5);
        one.extend((value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &one);
    }
    if summary.is_empty() {
        return;
    }
    let mut event = Vec::new();
    fixed64(&mut event, 1, time);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    write_record(out, &event);
}

/// The key of a protobuf field: its number, and how its value is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
fn key(out: &mut Vec<u8>, number: u64, wire: u64) {
    varint(out, number << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn fixed64(out: &mut Vec<u8>, number: u64, value: f64) {
    key(out, number, 1);
    out.extend(value.to_le_bytes());
}

fn bytes_field(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    key(out, number, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// One TFRecord.
fn write_record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc32c(data)).to_le_bytes());
}

/// CRC-32C (Castagnoli), reflected, bit by bit: an event has a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// TFRecord stores checksums rotated and shifted, since data may itself hold checksums.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    fn step(step: u64) -> Step {
        Step {
            step,
            loss: (step > 0).then_some(2.0 / step as f64),
            learning_rate: 1e-3,
            grad_norm: (step > 0).then_some(0.5),
            tokens: 100 * step,
            tokens_per_second: if step > 0 { 50.0 } else { 0.0 },
            memory_bytes: 1 << 30,
            held_out_loss: step.is_multiple_of(2).then_some(1.5),
            metric: None,
        }
    }

    /// What is written while a run goes on is the beginning of what is written later: TensorBoard reads on where it stopped.
    #[test]
    fn a_growing_run_grows_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run").join(FILE);
        let steps: Vec<Step> = (0..6).map(step).collect();
        assert_eq!(elapsed(&steps), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        for upto in [1, 4, 6] {
            assert!(write(&path, &events(&steps[..upto], None)).unwrap());
        }
        let whole = events(&steps, None);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert!(!write(&path, &whole).unwrap());
        // A run that was done again has other steps.
        assert!(write(&path, &events(&steps[..2], None)).unwrap());
        assert_eq!(fs::read(&path).unwrap(), events(&steps[..2], None));
    }

    /// JSON has no NaN, and a diverged run has steps without a loss.
    #[test]
    fn values_that_are_no_numbers_are_left_out() {
        let mut torn = step(1);
        torn.loss = None;
        torn.learning_rate = f64::NAN;
        let bytes = events(&[torn], None);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("train/loss") && !text.contains("learning_rate"));
        assert!(text.contains("train/gradient_norm"));
    }
}
