//! `query`: SQL over all stored results.

use std::path::PathBuf;

use anyhow::Result;
use sharelora_report::{Error, Format, query as sql};

use crate::error::{AbsentError, UsageError};
use crate::experiment::did_you_mean;
use crate::stored;
use crate::sweep::Folders;

/// What is asked, and how the answer is written.
#[derive(Debug, clap::Args)]
pub struct Query {
    /// A query over the tables records, steps and samples; a name with other signs than letters, digits and _ stands in "quotes"
    sql: String,
    /// Print CSV
    #[arg(long, group = "form")]
    csv: bool,
    /// Print a list of JSON objects
    #[arg(long, group = "form")]
    json: bool,
    /// Write a Parquet file
    #[arg(long, group = "form", value_name = "FILE")]
    parquet: Option<PathBuf>,
}

/// Asks and prints.
///
/// # Errors
/// There are no results, the query is wrong, or a file cannot be read or written.
pub fn query(folders: &Folders, options: &Query) -> Result<u8> {
    let dirs = stored::all(folders);
    if dirs.is_empty() {
        let text = format!("{} has no results", folders.results.display());
        return Err(AbsentError(text).into());
    }
    let mut found = match sql::query(&options.sql, &dirs) {
        Err(Error::Query { message, columns }) => return Err(wrong(&message, &columns).into()),
        found => found?,
    };
    if let Some(path) = &options.parquet {
        sql::write_parquet(&mut found, path)?;
        super::print(&path.display().to_string())?;
    } else if options.csv {
        super::print(&sql::as_csv(&mut found)?)?;
    } else if options.json {
        super::print(&serde_json::to_string_pretty(&sql::as_json(&found))?)?;
    } else {
        super::print(&sql::for_readers(&found).render(Format::Terminal))?;
    }
    Ok(0)
}

/// The message of a wrong query with the columns that there are and the nearest of them.
fn wrong(message: &str, columns: &[(String, Vec<String>)]) -> UsageError {
    let quoted = message.split('"').nth(1).unwrap_or_default();
    let all = || columns.iter().flat_map(|(_, columns)| columns);
    let near = if quoted.is_empty() || all().any(|column| column == quoted) {
        String::new()
    } else {
        did_you_mean(quoted, all().map(String::as_str))
    };
    let mut text = format!("SQL: {message}{near}\n  tables: {}", sql::TABLES.join(", "));
    for (table, columns) in columns {
        let columns: Vec<String> = columns.iter().map(|column| as_written(column)).collect();
        text += &format!("\n  columns of {table}: {}", columns.join(", "));
    }
    UsageError(text)
}

/// A column as a query has to write it.
fn as_written(column: &str) -> String {
    let plain = column
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        column.to_owned()
    } else {
        format!("\"{column}\"")
    }
}
