//! All records as one table for analysis: one row a run, one column a value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use polars::prelude::*;

use crate::error::{Error, Result};
use crate::file;
use crate::record::Record;

/// The records as a frame: first the plain fields (`host` as `host:cpu`, ..., `config` as JSON), then a
/// column for every key of a map: `axis:`, `metric:`, `stderr:`, `n:`, `data:`, `version:`, `seconds:`.
pub fn frame(records: &[&Record]) -> PolarsResult<DataFrame> {
    fn strings(
        records: &[&Record],
        name: &str,
        value: impl Fn(&Record) -> Option<String>,
    ) -> Column {
        let values: Vec<Option<String>> = records.iter().map(|r| value(r)).collect();
        Column::new(name.into(), values)
    }
    fn integers(records: &[&Record], name: &str, value: impl Fn(&Record) -> Option<u64>) -> Column {
        let values: Vec<Option<u64>> = records.iter().map(|r| value(r)).collect();
        Column::new(name.into(), values)
    }
    fn floats(records: &[&Record], name: &str, value: impl Fn(&Record) -> Option<f64>) -> Column {
        let values: Vec<Option<f64>> = records.iter().map(|r| value(r)).collect();
        Column::new(name.into(), values)
    }
    fn keys<'a, T: 'a>(
        records: &[&'a Record],
        map: impl Fn(&'a Record) -> &'a BTreeMap<String, T>,
    ) -> BTreeSet<&'a String> {
        records
            .iter()
            .flat_map(|record| map(record).keys())
            .collect()
    }

    let text = |name: &str, value: fn(&Record) -> &String| {
        strings(records, name, |record| Some(value(record).clone()))
    };
    let count = |name: &str, value: fn(&Record) -> u64| {
        integers(records, name, |record| Some(value(record)))
    };
    let mut columns = vec![
        text("experiment", |r| &r.experiment),
        text("run", |r| &r.run),
        text("hash", |r| &r.hash),
        strings(records, "status", |r| Some(r.status.name().into())),
        strings(records, "message", |r| r.message.clone()),
        text("model", |r| &r.model),
        text("method", |r| &r.method),
        count("seed", |r| r.seed),
        text("backend", |r| &r.backend),
        strings(records, "config", |r| Some(r.config.to_string())),
        count("trainable_parameters", |r| r.trainable_parameters),
        count("adapter_bytes", |r| r.adapter_bytes),
        count("base_parameters", |r| r.base_parameters),
        count("steps", |r| r.steps),
        floats(records, "train_loss", |r| r.train_loss),
        floats(records, "held_out_loss", |r| r.held_out_loss),
        floats(records, "held_out_loss_before", |r| r.held_out_loss_before),
        integers(records, "best_step", |r| r.best_step),
        strings(records, "git_commit", |r| r.git_commit.clone()),
        text("host:cpu", |r| &r.host.cpu),
        count("host:cores", |r| r.host.cores),
        count("host:memory_bytes", |r| r.host.memory_bytes),
        text("host:os", |r| &r.host.os),
        text("started_at", |r| &r.started_at),
        text("finished_at", |r| &r.finished_at),
        floats(records, "tokens_per_second", |r| r.tokens_per_second),
        count("peak_memory_bytes", |r| r.peak_memory_bytes),
        count("schema", |r| u64::from(r.schema)),
    ];
    for key in keys(records, |r| &r.axes) {
        columns.push(strings(records, &format!("axis:{key}"), |r| {
            r.axes.get(key).cloned()
        }));
    }
    for key in keys(records, |r| &r.metrics) {
        let metric = |r: &Record| r.metrics.get(key).cloned();
        columns.push(floats(records, &format!("metric:{key}"), |r| {
            Some(metric(r)?.value)
        }));
        columns.push(floats(records, &format!("stderr:{key}"), |r| {
            metric(r)?.stderr
        }));
        columns.push(integers(records, &format!("n:{key}"), |r| {
            Some(metric(r)?.n)
        }));
    }
    for key in keys(records, |r| &r.data) {
        columns.push(strings(records, &format!("data:{key}"), |r| {
            r.data.get(key).cloned()
        }));
    }
    for key in keys(records, |r| &r.versions) {
        columns.push(strings(records, &format!("version:{key}"), |r| {
            r.versions.get(key).cloned()
        }));
    }
    for key in keys(records, |r| &r.seconds) {
        columns.push(floats(records, &format!("seconds:{key}"), |r| {
            r.seconds.get(key).copied()
        }));
    }
    DataFrame::new(records.len(), columns)
}

/// Writes the [`frame`] of `records` to a Parquet file, atomically.
pub fn write_parquet(path: &Path, records: &[&Record]) -> Result<()> {
    let failed = |source| Error::Frame {
        path: path.to_owned(),
        source,
    };
    let mut frame = frame(records).map_err(failed)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .finish(&mut frame)
        .map_err(failed)?;
    file::write(path, &bytes)
}

/// The hashes of the runs in a Parquet file that [`write_parquet`] wrote.
pub fn hashes(path: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Frame {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let frame = ParquetReader::new(file)
        .with_columns(Some(vec!["hash".into()]))
        .finish()
        .map_err(failed)?;
    let column = frame.column("hash").map_err(failed)?;
    let hashes = column.str().map_err(failed)?;
    Ok(hashes.iter().flatten().map(str::to_owned).collect())
}
