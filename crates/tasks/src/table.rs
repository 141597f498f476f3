//! Rows of a dataset, and their readers: parquet, JSON, JSON lines, CSV.
//!
//! Only the columns that are asked for are read. A value is text, an integer, a float or a list of
//! texts: that is what the datasets of language models hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::{AnyValue, DataFrame, ParquetReader, SerReader};
use serde::{Deserialize, Serialize};

use crate::dataset::Format;
use crate::{Error, Result, hash};

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Integers and booleans (0, 1).
    Int(i64),
    /// Floats of any width.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// A list of texts, for example the options of a question.
    List(Vec<String>),
}

/// One row: column name to value, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Row(pub BTreeMap<String, Value>);

/// The rows of one split, in the order of the file.
pub type Rows = Vec<Row>;

impl Row {
    /// A row of texts.
    pub fn of_texts<const N: usize>(cells: [(&str, String); N]) -> Self {
        Row(cells
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Value::Text(text)))
            .collect())
    }

    /// The text in `column`; an error where there is none.
    pub fn text(&self, column: &str) -> Result<&str> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(self.wrong(column, "text", other)),
        }
    }

    /// The integer in `column`; an error where there is none.
    pub fn int(&self, column: &str) -> Result<i64> {
        match self.0.get(column) {
            Some(Value::Int(number)) => Ok(*number),
            other => Err(self.wrong(column, "an integer", other)),
        }
    }

    /// The number in `column`, whole or not; an error where there is none.
    pub fn number(&self, column: &str) -> Result<f64> {
        match self.0.get(column) {
            Some(Value::Float(number)) => Ok(*number),
            Some(Value::Int(number)) => Ok(*number as f64),
            other => Err(self.wrong(column, "a number", other)),
        }
    }

    /// The list of texts in `column`; an error where there is none.
    pub fn list(&self, column: &str) -> Result<&[String]> {
        match self.0.get(column) {
            Some(Value::List(list)) => Ok(list),
            other => Err(self.wrong(column, "a list of texts", other)),
        }
    }

    fn wrong(&self, column: &str, expected: &'static str, found: Option<&Value>) -> Error {
        let found = match found {
            None => "nothing",
            Some(Value::Int(_)) => "an integer",
            Some(Value::Float(_)) => "a float",
            Some(Value::Text(_)) => "text",
            Some(Value::List(_)) => "a list of texts",
        };
        let present = self.0.keys().cloned().collect::<Vec<_>>().join(", ");
        Error::Column {
            column: column.to_owned(),
            expected,
            found,
            present,
        }
    }
}

/// Content hash of a split: SHA-256 over one line of JSON a row, keys in alphabetical order.
pub fn rows_hash(rows: &[Row]) -> String {
    hash::of_lines(rows)
}

/// Reads `columns` of the file at `path`.
///
/// # Errors
/// [`Error::MissingColumn`], [`Error::Unreadable`] for a damaged file, [`Error::Empty`], [`Error::Io`].
pub fn read(path: &Path, format: Format, columns: &[String]) -> Result<Rows> {
    let rows = match format {
        Format::Parquet => parquet(path, columns)?,
        Format::Json => json(path, columns)?,
        Format::Jsonl => jsonl(path, columns)?,
        Format::Csv => csv(path, columns)?,
        Format::Pairs => pairs(path, columns)?,
        Format::Pocket => {
            return Err(unreadable(
                path,
                "pocket",
                "pocket data is generated, not read from a file",
            ));
        }
    };
    if rows.is_empty() {
        return Err(Error::Empty {
            place: path.display().to_string(),
        });
    }
    Ok(rows)
}

fn unreadable(path: &Path, format: &'static str, reason: impl ToString) -> Error {
    Error::Unreadable {
        file: path.to_owned(),
        format,
        reason: reason.to_string(),
    }
}

/// Fails on the first of `columns` that is not among `present`.
pub fn require<'a>(
    path: &Path,
    columns: &[String],
    present: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let present: Vec<&str> = present.collect();
    match columns
        .iter()
        .find(|column| !present.contains(&column.as_str()))
    {
        None => Ok(()),
        Some(column) => Err(Error::MissingColumn {
            file: path.to_owned(),
            column: column.clone(),
            present: present.join(", "),
        }),
    }
}

fn parquet(path: &Path, columns: &[String]) -> Result<Rows> {
    let file = File::open(path).map_err(Error::io(path))?;
    // The decoder asserts here and there on damaged pages: to the caller that is an unreadable file.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut reader = ParquetReader::new(file);
        let schema = reader
            .schema()
            .map_err(|e| unreadable(path, "parquet", e))?;
        require(path, columns, schema.iter_names().map(|name| name.as_str()))?;
        let frame = reader
            .with_columns(Some(columns.to_vec()))
            .finish()
            .map_err(|e| unreadable(path, "parquet", e))?;
        rows_of_frame(path, &frame)
    }));
    outcome.unwrap_or_else(|_| {
        Err(unreadable(
            path,
            "parquet",
            "the decoder gave up on a damaged page",
        ))
    })
}

fn rows_of_frame(path: &Path, frame: &DataFrame) -> Result<Rows> {
    let mut rows = vec![Row::default(); frame.height()];
    for column in frame.columns() {
        for (index, row) in rows.iter_mut().enumerate() {
            let cell = column
                .get(index)
                .map_err(|e| unreadable(path, "parquet", e))?;
            let value = value_of_cell(&cell).ok_or_else(|| {
                let reason = format!(
                    "row {index}, column `{}`: unsupported or missing value {cell:?}",
                    column.name()
                );
                unreadable(path, "parquet", reason)
            })?;
            row.0.insert(column.name().to_string(), value);
        }
    }
    Ok(rows)
}

fn value_of_cell(cell: &AnyValue) -> Option<Value> {
    match cell {
        AnyValue::List(series) => series
            .iter()
            .map(|item| item.get_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map(Value::List),
        AnyValue::Boolean(flag) => Some(Value::Int(i64::from(*flag))),
        _ if cell.is_integer() => cell.extract().map(Value::Int),
        _ if cell.is_float() => cell.extract().map(Value::Float),
        _ => cell.get_str().map(|text| Value::Text(text.to_owned())),
    }
}

fn json(path: &Path, columns: &[String]) -> Result<Rows> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let items: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(&bytes).map_err(|e| unreadable(path, "json", e))?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| row_of_object(path, "json", index, item, columns))
        .collect()
}

fn jsonl(path: &Path, columns: &[String]) -> Result<Rows> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    let text = std::str::from_utf8(&text).map_err(|e| unreadable(path, "jsonl", e))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let item = serde_json::from_str(line)
                .map_err(|e| unreadable(path, "jsonl", format!("line {}: {e}", index + 1)))?;
            row_of_object(path, "jsonl", index, &item, columns)
        })
        .collect()
}

fn pairs(path: &Path, columns: &[String]) -> Result<Rows> {
    let [first, second] = columns else {
        let reason = format!("two columns are needed, not {}", columns.len());
        return Err(unreadable(path, "pairs", reason));
    };
    let text = std::fs::read(path).map_err(Error::io(path))?;
    let text = std::str::from_utf8(&text).map_err(|e| unreadable(path, "pairs", e))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let (a, b) = line.split_once("||").ok_or_else(|| {
                unreadable(path, "pairs", format!("line {}: no `||` in it", index + 1))
            })?;
            let cells = [(first, a), (second, b)];
            let cells = cells.map(|(name, text)| (name.clone(), Value::Text(text.to_owned())));
            Ok(Row(cells.into()))
        })
        .collect()
}

fn row_of_object(
    path: &Path,
    format: &'static str,
    index: usize,
    object: &serde_json::Map<String, serde_json::Value>,
    columns: &[String],
) -> Result<Row> {
    require(path, columns, object.keys().map(String::as_str))?;
    let cells = columns.iter().map(|column| {
        let cell = object.get(column).cloned().unwrap_or_default();
        let value = match cell {
            serde_json::Value::Bool(flag) => Some(Value::Int(i64::from(flag))),
            other => serde_json::from_value(other).ok(),
        };
        let value = value.ok_or_else(|| {
            unreadable(
                path,
                format,
                format!("row {index}, column `{column}`: unsupported value"),
            )
        })?;
        Ok((column.clone(), value))
    });
    cells.collect::<Result<_>>().map(Row)
}

fn csv(path: &Path, columns: &[String]) -> Result<Rows> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| unreadable(path, "csv", e))?;
    let header = reader
        .headers()
        .map_err(|e| unreadable(path, "csv", e))?
        .clone();
    require(path, columns, header.iter())?;
    reader
        .records()
        .map(|record| {
            let record = record.map_err(|e| unreadable(path, "csv", e))?;
            let cells = header
                .iter()
                .zip(record.iter())
                .filter(|(name, _)| columns.iter().any(|column| column == name));
            Ok(Row(cells
                .map(|(name, cell)| (name.to_owned(), Value::Text(cell.to_owned())))
                .collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mirror;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn scratch(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// The hash may not depend on the order in which a reader happens to fill the columns.
    #[test]
    fn hash_is_of_content_and_order_of_rows() {
        let one = Row::of_texts([("a", "1".into()), ("b", "2".into())]);
        let same = Row::of_texts([("b", "2".into()), ("a", "1".into())]);
        let other = Row::of_texts([("a", "2".into()), ("b", "1".into())]);
        assert_eq!(rows_hash(std::slice::from_ref(&one)), rows_hash(&[same]));
        assert_ne!(
            rows_hash(&[one.clone(), other.clone()]),
            rows_hash(&[other, one])
        );
    }

    #[test]
    fn text_formats_give_the_same_rows() {
        let wanted = Row::of_texts([("q", "a, \"b\"".into()), ("r", "c".into())]);
        let names = columns(&["q", "r"]);
        let (_a, json) = scratch("x.json", br#"[{"q":"a, \"b\"","r":"c","more":[1]}]"#);
        let (_b, jsonl) = scratch("x.jsonl", b"{\"q\":\"a, \\\"b\\\"\",\"r\":\"c\"}\n\n");
        let (_c, csv) = scratch("x.csv", b"q,more,r\n\"a, \"\"b\"\"\",1,c\n");
        assert_eq!(
            read(&json, Format::Json, &names).unwrap(),
            std::slice::from_ref(&wanted)
        );
        assert_eq!(
            read(&jsonl, Format::Jsonl, &names).unwrap(),
            std::slice::from_ref(&wanted)
        );
        assert_eq!(read(&csv, Format::Csv, &names).unwrap(), [wanted]);
    }

    #[test]
    fn missing_column_names_the_present_ones() {
        let (_folder, path) = scratch("x.csv", b"q,r\n1,2\n");
        let message = read(&path, Format::Csv, &columns(&["q", "answer"]))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("x.csv") && message.contains("`answer`") && message.contains("q, r"),
            "{message}"
        );
    }

    #[test]
    fn no_rows_and_damaged_text_are_errors() {
        let names = columns(&["q"]);
        let (_a, empty) = scratch("x.json", b"[]");
        assert!(matches!(
            read(&empty, Format::Json, &names),
            Err(Error::Empty { .. })
        ));
        let (_b, cut) = scratch("x.jsonl", b"{\"q\":\"a\"}\n{\"q\":");
        let message = read(&cut, Format::Jsonl, &names).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    /// Cut anywhere, or with damaged bytes inside: an error or rows, but never a panic.
    #[test]
    fn damaged_parquet_is_an_error() {
        let Some(mirror) = mirror() else { return };
        let bytes =
            std::fs::read(mirror.join("datasets/openai/gsm8k/main/test-00000-of-00001.parquet"))
                .unwrap();
        let names = columns(&["question", "answer"]);
        for keep in [0, 3, 4, 100, bytes.len() / 2, bytes.len() - 1] {
            let (_folder, path) = scratch("cut.parquet", &bytes[..keep]);
            let error = read(&path, Format::Parquet, &names).unwrap_err();
            assert!(matches!(error, Error::Unreadable { .. }), "{keep}: {error}");
        }
        for start in (4..bytes.len() - 64).step_by(bytes.len() / 23) {
            let mut damaged = bytes.clone();
            damaged[start..start + 32].fill(0xff);
            let (_folder, path) = scratch("damaged.parquet", &damaged);
            let _ = read(&path, Format::Parquet, &names);
        }
        let (_folder, path) = scratch("whole.parquet", &bytes);
        assert_eq!(read(&path, Format::Parquet, &names).unwrap().len(), 1319);
        let error = read(&path, Format::Parquet, &columns(&["question", "solution"])).unwrap_err();
        assert!(
            matches!(&error, Error::MissingColumn { column, .. } if column == "solution"),
            "{error}"
        );
    }
}
