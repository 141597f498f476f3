//! SQL over stored results, by polars: the tables `records`, `steps` and `samples`.
//!
//! `records` is the frame of [`crate::collect`], a row a run. `steps` has a row a step, `samples` a row a grade of an answer; both begin with
//! the run they are of, and are read only where the query names them. Without `ORDER BY` the rows of a result may come in any order.

use std::path::PathBuf;

use polars::prelude::*;
use polars_lazy::frame::IntoLazy;
use polars_sql::{SQLContext, extract_table_identifiers};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::collect;
use crate::error::{Error, Result};
use crate::record::{Record, Step, read_record, read_steps};
use crate::samples;
use crate::table::{Cell, Table};
use crate::{file, table, tensorboard};

/// The tables.
pub const TABLES: [&str; 3] = ["records", "steps", "samples"];

/// Characters of a value that is shown in a table for readers.
const MOST_CHARACTERS: usize = 60;

/// The result of `sql` over the runs in `dirs`, folders with a `record.json`.
///
/// # Errors
/// [`Error::Query`] where the query is wrong, with the columns that there are; a file of a run cannot be read.
pub fn query(sql: &str, dirs: &[PathBuf]) -> Result<DataFrame> {
    let wrong = |source: PolarsError, columns: Vec<(String, Vec<String>)>| Error::Query {
        message: first_paragraph(&source.to_string()),
        columns,
    };
    let named = extract_table_identifiers(sql, false, true).map_err(|e| wrong(e, Vec::new()))?;
    let names = |table: &str| named.iter().any(|name| name == table);
    let runs: Result<Vec<(PathBuf, Record)>> = dirs
        .par_iter()
        .map(|dir| Ok((dir.clone(), read_record(&dir.join("record.json"))?)))
        .collect();
    let runs = runs?;
    // A table that is not named stays empty, and is there for `SHOW TABLES`.
    let of = |table: &str| if names(table) { runs.as_slice() } else { &[] };

    let mut context = SQLContext::new();
    let mut columns = Vec::new();
    for (name, frame) in [
        ("records", records(of("records"))),
        ("steps", steps(of("steps"))?),
        ("samples", graded(of("samples"))?),
    ] {
        let frame = frame.map_err(|e| wrong(e, Vec::new()))?;
        if names(name) {
            let of_table = frame.get_column_names().into_iter().map(|c| c.to_string());
            columns.push((name.to_owned(), of_table.collect::<Vec<String>>()));
        }
        context.register(name, frame.lazy());
    }
    let found = context.execute(sql).and_then(|lazy| lazy.collect());
    found.map_err(|e| wrong(e, columns))
}

/// What polars says without the plan and the list of columns that it adds.
fn first_paragraph(message: &str) -> String {
    let first = message.split("\n\n").next().unwrap_or(message).trim();
    let first = first.split("; valid columns").next().unwrap_or(first);
    first
        .strip_prefix("not found: ")
        .unwrap_or(first)
        .to_owned()
}

fn records(runs: &[(PathBuf, Record)]) -> PolarsResult<DataFrame> {
    let records: Vec<&Record> = runs.iter().map(|(_, record)| record).collect();
    collect::frame(&records)
}

/// The run that a row is of, repeated.
fn run_columns(rows: &[(&Record, usize)]) -> Vec<Column> {
    fn repeated<T: Clone>(rows: &[(&Record, usize)], of: impl Fn(&Record) -> T) -> Vec<T> {
        let values = rows.iter().map(|(record, n)| vec![of(record); *n]);
        values.flatten().collect()
    }
    let text = |name: &str, of: fn(&Record) -> &String| {
        Column::new(name.into(), repeated(rows, |record| of(record).clone()))
    };
    vec![
        text("experiment", |r| &r.experiment),
        text("run", |r| &r.run),
        text("hash", |r| &r.hash),
        text("method", |r| &r.method),
        Column::new("seed".into(), repeated(rows, |record| record.seed)),
    ]
}

/// A row a step; `seconds` is the training time up to its end.
fn steps(runs: &[(PathBuf, Record)]) -> Result<PolarsResult<DataFrame>> {
    let of_runs: Result<Vec<(&Record, Vec<Step>)>> = runs
        .par_iter()
        .map(|(dir, record)| {
            let path = dir.join("steps.jsonl");
            let steps = if path.is_file() {
                read_steps(&path)?.steps
            } else {
                Vec::new()
            };
            Ok((record, steps))
        })
        .collect();
    let of_runs = of_runs?;
    let counts: Vec<(&Record, usize)> =
        of_runs.iter().map(|(r, steps)| (*r, steps.len())).collect();
    let elapsed = of_runs
        .iter()
        .flat_map(|(_, steps)| tensorboard::elapsed(steps));
    let elapsed: Vec<f64> = elapsed.collect();
    let all: Vec<&Step> = of_runs.iter().flat_map(|(_, steps)| steps).collect();
    let whole = |name: &str, of: fn(&Step) -> u64| {
        Column::new(name.into(), all.iter().map(|s| of(s)).collect::<Vec<u64>>())
    };
    let number = |name: &str, of: fn(&Step) -> Option<f64>| {
        Column::new(
            name.into(),
            all.iter().map(|s| of(s)).collect::<Vec<Option<f64>>>(),
        )
    };
    let mut columns = run_columns(&counts);
    columns.extend([
        whole("step", |s| s.step),
        number("loss", |s| s.loss),
        number("held_out_loss", |s| s.held_out_loss),
        number("metric", |s| s.metric),
        number("learning_rate", |s| Some(s.learning_rate)),
        number("grad_norm", |s| s.grad_norm),
        whole("tokens", |s| s.tokens),
        number("tokens_per_second", |s| Some(s.tokens_per_second)),
        whole("memory_bytes", |s| s.memory_bytes),
        Column::new("seconds".into(), elapsed),
    ]);
    Ok(DataFrame::new(all.len(), columns))
}

/// What `samples` keeps of an answer: no texts.
#[derive(Deserialize)]
struct Answer {
    id: String,
    group: Option<String>,
    tokens: u64,
    grades: std::collections::BTreeMap<String, Option<f64>>,
}

/// One grade of one answer.
struct Graded {
    file: String,
    id: String,
    group: Option<String>,
    tokens: u64,
    grade: String,
    value: Option<f64>,
}

/// A row a grade; `task` is the samples file's name, `question` the id without the number of the answer.
fn graded(runs: &[(PathBuf, Record)]) -> Result<PolarsResult<DataFrame>> {
    let of_run = |(dir, record)| -> Result<(&Record, Vec<Graded>)> {
        let dir: &PathBuf = dir;
        let mut rows = Vec::new();
        for (file, path) in samples::files(dir)? {
            samples::each_line(&path, |answer: Answer| {
                rows.extend(answer.grades.into_iter().map(|(grade, value)| Graded {
                    file: file.clone(),
                    id: answer.id.clone(),
                    group: answer.group.clone(),
                    tokens: answer.tokens,
                    grade,
                    value,
                }));
            })?;
        }
        Ok((record, rows))
    };
    let of_runs: Result<Vec<_>> = runs
        .par_iter()
        .map(|(dir, record)| of_run((dir, record)))
        .collect();
    let of_runs = of_runs?;
    let counts: Vec<(&Record, usize)> = of_runs.iter().map(|(r, rows)| (*r, rows.len())).collect();
    let all: Vec<&Graded> = of_runs.iter().flat_map(|(_, rows)| rows).collect();
    let text = |name: &str, of: fn(&Graded) -> Option<&str>| {
        Column::new(
            name.into(),
            all.iter().map(|g| of(g)).collect::<Vec<Option<&str>>>(),
        )
    };
    let mut columns = run_columns(&counts);
    columns.extend([
        text("task", |g| Some(&g.file)),
        text("id", |g| Some(&g.id)),
        text("question", |g| Some(samples::question(&g.id))),
        text("group", |g| g.group.as_deref()),
        Column::new(
            "tokens".into(),
            all.iter().map(|g| g.tokens).collect::<Vec<u64>>(),
        ),
        text("grade", |g| Some(&g.grade)),
        Column::new(
            "value".into(),
            all.iter().map(|g| g.value).collect::<Vec<Option<f64>>>(),
        ),
    ]);
    Ok(DataFrame::new(all.len(), columns))
}

/// The cells of a frame, row by row.
fn rows(frame: &DataFrame) -> impl Iterator<Item = Vec<AnyValue<'_>>> {
    (0..frame.height()).map(|row| {
        let columns = frame.columns().iter();
        columns
            .map(|column| column.get(row).unwrap_or(AnyValue::Null))
            .collect()
    })
}

/// A result for readers: numbers to the right with six digits, long texts cut.
pub fn for_readers(frame: &DataFrame) -> Table {
    let column = |column: &Column| {
        let name = column.name().to_string();
        if column.dtype().is_numeric() {
            table::Column::right(name)
        } else {
            table::Column::left(name)
        }
    };
    let cell = |value: AnyValue| match json(&value) {
        Value::Null => Cell::none(),
        Value::Number(number) if number.is_f64() => {
            Cell::text(six_digits(number.as_f64().unwrap_or(f64::NAN)))
        }
        Value::String(text) => Cell::text(shortened(&text)),
        other => Cell::text(shortened(&other.to_string())),
    };
    Table {
        columns: frame.columns().iter().map(column).collect(),
        rows: rows(frame)
            .map(|row| row.into_iter().map(cell).collect())
            .collect(),
        ..Table::default()
    }
}

/// At most six significant digits, without zeros at the end.
fn six_digits(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-4..1e15).contains(&size) {
        return format!("{value:.5e}");
    }
    let decimals = (5 - size.log10().floor() as i32).max(0);
    let text = format!("{value:.*}", decimals as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn shortened(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.chars().count() <= MOST_CHARACTERS {
        return line;
    }
    let start: String = line.chars().take(MOST_CHARACTERS).collect();
    format!("{start}…")
}

/// A result as a list of objects.
pub fn as_json(frame: &DataFrame) -> Value {
    let names: Vec<String> = frame
        .get_column_names()
        .into_iter()
        .map(|name| name.to_string())
        .collect();
    let object = |row: Vec<AnyValue>| {
        let values = row.iter().map(json);
        Value::Object(
            names
                .iter()
                .cloned()
                .zip(values)
                .collect::<Map<String, Value>>(),
        )
    };
    Value::Array(rows(frame).map(object).collect())
}

/// A number that is not finite is null, a value of a kind that JSON lacks a text.
fn json(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(value) => Value::from(*value),
        AnyValue::String(text) => Value::from(*text),
        AnyValue::StringOwned(text) => Value::from(text.as_str()),
        AnyValue::Float32(value) => Value::from(f64::from(*value)),
        AnyValue::Float64(value) => Value::from(*value),
        value if value.is_unsigned_integer() => {
            value.extract::<u64>().map_or(Value::Null, Value::from)
        }
        value if value.is_integer() => value.extract::<i64>().map_or(Value::Null, Value::from),
        AnyValue::List(series) => series.iter().map(|value| json(&value)).collect(),
        other => Value::from(other.to_string()),
    }
}

/// A result as CSV with a header, numbers in full.
///
/// # Errors
/// It holds lists, which CSV cannot.
pub fn as_csv(frame: &mut DataFrame) -> Result<String> {
    let mut bytes = Vec::new();
    let written = CsvWriter::new(&mut bytes).finish(frame);
    written.map_err(|source| Error::Frame {
        path: "standard output".into(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a result as Parquet, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_parquet(frame: &mut DataFrame, path: &std::path::Path) -> Result<()> {
    let mut bytes = Vec::new();
    let written = ParquetWriter::new(&mut bytes).finish(frame);
    written.map_err(|source| Error::Frame {
        path: path.to_owned(),
        source,
    })?;
    file::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.123_456_789, "0.123457"),
            (-1.5, "-1.5"),
            (1_234.567_8, "1234.57"),
            (2e6, "2000000"),
            (1.25e-7, "1.25000e-7"),
        ] {
            assert_eq!(six_digits(value), text);
        }
    }
}
