//! From an error to what the shell sees: a text with its causes, and an exit code by kind.

use sharelora_adapters::AdapterError;
use sharelora_hub::Error as HubError;
use sharelora_model::ModelError;

use crate::experiment::ExperimentError;
use crate::interrupt::Interrupted;
use crate::store::StoreError;

/// A wrong argument that no library knows of.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Something that is not there and that this program cannot bring.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AbsentError(pub String);

/// Something failed while it ran.
pub const FAILED: u8 = 1;
/// The command or a file it names is wrong.
pub const USAGE: u8 = 2;
/// A file is neither here nor to be had.
pub const ABSENT: u8 = 3;
/// Stopped by Ctrl-C, as shells number it: 128 and the signal.
pub const STOPPED: u8 = 130;

/// The exit code of an error, by the first of its causes that has a kind.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(FAILED)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<UsageError>() || cause.is::<ExperimentError>() {
        return Some(USAGE);
    }
    if cause.is::<Interrupted>() {
        return Some(STOPPED);
    }
    if cause.is::<AbsentError>() {
        return Some(ABSENT);
    }
    match cause.downcast_ref() {
        Some(AdapterError::Io { .. }) => return Some(FAILED),
        Some(_) => return Some(USAGE),
        None => {}
    }
    if let Some(ModelError::Config(_)) = cause.downcast_ref() {
        return Some(USAGE);
    }
    if let Some(StoreError::Broken { .. }) = cause.downcast_ref() {
        return Some(USAGE);
    }
    // A transparent error hides its own type behind its source's.
    if let Some(sharelora_tasks::Error::Hub(hub)) = cause.downcast_ref() {
        return Some(hub_code(hub));
    }
    cause.downcast_ref().map(hub_code)
}

fn hub_code(error: &HubError) -> u8 {
    match error {
        HubError::Parse { .. } | HubError::ChecksumFormat { .. } => USAGE,
        HubError::Io { .. } | HubError::DiskFull { .. } | HubError::Checksum { .. } => FAILED,
        _ => ABSENT,
    }
}

/// `error: ...` with its causes, one a line; a cause that the text above it already says is left out.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !above.contains(&cause) {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        above = cause;
    }
    let backtrace = error.backtrace();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    text
}
