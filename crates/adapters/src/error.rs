use std::path::{Path, PathBuf};

/// What can go wrong with an adapter's configuration or files.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A method name that is neither built in nor described by a table.
    #[error(
        "unknown method `{name}`{near}: choose one of {choices}, or give a table {{ name, a, b }}"
    )]
    UnknownMethod {
        name: String,
        near: String,
        choices: String,
    },
    /// A sharing that cannot be understood.
    #[error("sharing: {0}")]
    Sharing(String),
    /// A target that the model does not have.
    #[error(
        "target module `{target}` does not exist in this model: choose among {choices}, or \"all_linear\""
    )]
    UnknownTarget { target: String, choices: String },
    /// A fused module and one of its parts, both named.
    #[error("`{part}` is a part of `{whole}`: adapt one of the two")]
    Overlap { part: String, whole: String },
    /// A number out of its range.
    #[error("`{key}` = {value} is out of range: {expected}")]
    Range {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} do not combine: {reason}")]
    Combination {
        first: String,
        second: String,
        reason: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file that is there but is not what it should be.
    #[error("{path}: {reason}")]
    Format { path: PathBuf, reason: String },
    /// Something that the target format cannot express.
    #[error("{0}")]
    Unsupported(String),
}

impl AdapterError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
