//! `score`: saved answers graded again, with today's grader.

use std::path::Path;

use anyhow::{Context as _, Result};
use sharelora_report::number::fixed;
use sharelora_report::{Cell, Column, Format, Table};
use sharelora_tasks::{Sample, TaskOptions, metrics, task};

use crate::error::{AbsentError, UsageError};

/// Grades every line of a samples file and prints the means.
///
/// # Errors
/// The task is unknown, or a line is no sample; the message names the line.
pub fn score(path: &Path, name: &str, variant: Option<String>) -> Result<u8> {
    let options = TaskOptions {
        variant,
        ..TaskOptions::default()
    };
    let task = task(name, &options).map_err(|e| UsageError(e.to_string()))?;
    if !path.is_file() {
        return Err(AbsentError(format!("{}: no such file", path.display())).into());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut samples = Vec::new();
    let mut changed = 0;
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let mut sample: Sample = serde_json::from_str(line)
            .map_err(|e| UsageError(format!("{}:{}: not a sample: {e}", path.display(), i + 1)))?;
        let grades = task.grade(&sample.reference, &sample.answer);
        changed += usize::from(grades != sample.grades);
        sample.grades = grades;
        samples.push(sample);
    }
    if samples.is_empty() {
        return Err(UsageError(format!("{}: no samples", path.display())).into());
    }
    let mut table = Table {
        title: format!("{name}, version {}, {}", task.version(), task.variant()),
        columns: vec![
            Column::left("Metric"),
            Column::right("Mean"),
            Column::right("Standard error"),
            Column::right("n"),
        ],
        ..Table::default()
    };
    for (metric, found) in metrics(&samples) {
        table.rows.push(vec![
            Cell::text(metric),
            Cell::text(fixed(found.value, 4)),
            found
                .stderr
                .map_or_else(Cell::none, |e| Cell::text(fixed(e, 4))),
            Cell::text(found.n.to_string()),
        ]);
    }
    table.notes.push(format!(
        "{changed} of {} grades differ from the saved ones.",
        samples.len()
    ));
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}
