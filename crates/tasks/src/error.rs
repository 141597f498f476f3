//! The one error type of the crate. Every message names the culprit and the valid choices.

use std::path::PathBuf;

/// What can go wrong between a dataset's file and a grade.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be brought here.
    #[error(transparent)]
    Hub(#[from] sharelora_hub::Error),
    /// A file of this machine could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A dataset description that does not parse or contradicts itself.
    #[error("{file}: {message}")]
    Spec { file: String, message: String },
    /// A name that is not in a fixed list.
    #[error("unknown {what} `{name}`{hint}; choices: {choices}")]
    Unknown {
        what: String,
        name: String,
        hint: String,
        choices: String,
    },
    /// The file lacks a column that its description requires.
    #[error("{}: no column `{column}`; columns present: {present}", file.display())]
    MissingColumn {
        file: PathBuf,
        column: String,
        present: String,
    },
    /// A damaged file, or one of another format.
    #[error("{}: not readable as {format}: {reason}; delete it so that it is fetched again, or check `format` and `columns`", file.display())]
    Unreadable {
        file: PathBuf,
        format: &'static str,
        reason: String,
    },
    /// No rows.
    #[error("{place}: no rows")]
    Empty { place: String },
    /// A value of another type than a task needs.
    #[error(
        "column `{column}` should hold {expected} but holds {found}; columns of the row: {present}"
    )]
    Column {
        column: String,
        expected: &'static str,
        found: &'static str,
        present: String,
    },
    /// A row whose contents a task cannot use.
    #[error("task `{task}`, row `{row}`: {reason}")]
    Row {
        task: &'static str,
        row: String,
        reason: String,
    },
    /// A task option that the task cannot honour.
    #[error("task `{task}`: option `{key}`: {reason}")]
    Option {
        task: &'static str,
        key: &'static str,
        reason: String,
    },
    /// A line of a samples file, or the whole, that cannot be graded.
    #[error("{place}: {reason}")]
    Samples { place: String, reason: String },
    /// A task that is scored alone.
    #[error("task `{task}` is not trained on: {reason}")]
    Untrained {
        task: &'static str,
        reason: &'static str,
    },
    /// The tokenizer could not be read, or refused a text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

impl Error {
    /// `name` is none of `choices`; the message proposes the nearest one.
    pub fn unknown(what: impl Into<String>, name: &str, choices: &[&str]) -> Self {
        let hint = choices
            .iter()
            .map(|choice| (strsim::jaro_winkler(name, choice), choice))
            .filter(|(similarity, _)| *similarity > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, choice)| format!(" (did you mean `{choice}`?)"))
            .unwrap_or_default();
        Error::Unknown {
            what: what.into(),
            name: name.to_owned(),
            hint,
            choices: choices.join(", "),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
