//! The error of this crate.

use std::path::PathBuf;

/// What can go wrong between stored results and a report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `list`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A stored file is not what this version writes.
    #[error("{}:{line}: not a valid {what}: {message}", path.display())]
    Parse {
        /// `record`, `step` or `sample`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A record was written by a newer version.
    #[error(
        "{}: record schema {found} is newer than {supported}, the newest this version reads; use the version that wrote it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// [`crate::record::SCHEMA`].
        supported: u32,
    },
    /// A stored spectrum that cannot be read; it can be made again from the adapter.
    #[error(
        "{}: not a valid spectrum: {message}; `sharelora spectrum` makes it anew where the run's adapter is, without it delete the file",
        path.display()
    )]
    Spectrum {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An experiment without a finished run.
    #[error("{}: no run with a record.json; run the experiment first", .0.display())]
    Empty(PathBuf),
    /// The records do not fit into a table.
    #[error("cannot write {}: {source}", path.display())]
    Frame {
        /// The Parquet file.
        path: PathBuf,
        /// The cause.
        source: polars::error::PolarsError,
    },
    /// A description of a table, a claim or the front page asks for what cannot be.
    #[error("{0}")]
    Spec(String),
    /// A query of SQL is wrong.
    #[error("SQL: {message}{}", list(columns))]
    Query {
        /// What is wrong.
        message: String,
        /// The tables that it names, with their columns.
        columns: Vec<(String, Vec<String>)>,
    },
    /// A figure could not be drawn.
    #[error("cannot draw {}: {message}", path.display())]
    Figure {
        /// The figure's file.
        path: PathBuf,
        /// What the plotting library says.
        message: String,
    },
}

fn list(columns: &[(String, Vec<String>)]) -> String {
    let lines = columns
        .iter()
        .map(|(table, columns)| format!("\n  columns of {table}: {}", columns.join(", ")));
    lines.collect()
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
