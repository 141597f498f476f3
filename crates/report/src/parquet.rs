//! A table as Parquet: the columns of [`crate::csv`], numbers as f64.

use std::path::Path;

use polars::prelude::*;

use crate::csv::{self, Values};
use crate::error::{Error, Result};
use crate::file;
use crate::table::Table;

/// The table as a frame; no title, no notes.
pub fn frame(table: &Table) -> PolarsResult<DataFrame> {
    let columns = csv::columns(table).into_iter();
    let columns = columns.map(|(name, values)| match values {
        Values::Words(words) => Column::new(name.into(), words),
        Values::Numbers(numbers) => Column::new(name.into(), numbers),
    });
    DataFrame::new(table.rows.len(), columns.collect())
}

/// Writes the [`frame`] of a table, atomically.
///
/// # Errors
/// Two columns have one name, or the file cannot be written.
pub fn write(path: &Path, table: &Table) -> Result<()> {
    let failed = |source| Error::Frame {
        path: path.to_owned(),
        source,
    };
    let mut frame = frame(table).map_err(failed)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .finish(&mut frame)
        .map_err(failed)?;
    file::write(path, &bytes)
}
