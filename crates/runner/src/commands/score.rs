//! `score`: saved answers graded again, with today's grader.

use std::path::Path;

use anyhow::{Context as _, Result};
use sharelora_hub::Progress;
use sharelora_metrics::e2e::{Corpus, Scores, Statistics, statistics};
use sharelora_report::number::fixed;
use sharelora_report::{Cell, Column, Format, Table};
use sharelora_tasks::{Sample, TaskOptions, standard_error, task};

use crate::Context;
use crate::error::{AbsentError, UsageError};
use crate::meteor::meteor;

/// Grades every line of a samples file and prints the means.
///
/// # Errors
/// The task is unknown, or a line is no sample; the message names the line.
pub fn score(context: &Context, path: &Path, name: &str, variant: Option<String>) -> Result<u8> {
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
    let mut table = scores(format!(
        "{name}, version {}, {}",
        task.version(),
        task.variant()
    ));
    for (metric, found) in task.metrics(&samples) {
        add(&mut table, &metric, found.value, found.stderr, found.n);
    }
    if let Some(corpus) = task.corpus(&samples) {
        add_meteor(&mut table, &corpus, context);
    }
    table.notes.push(format!(
        "{changed} of {} grades differ from the saved ones.",
        samples.len()
    ));
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}

/// Scores any system's texts against references, as the E2E challenge does.
///
/// # Errors
/// A file that cannot be read, or texts and references that do not fit; the message names the file and the line.
pub fn score_texts(context: &Context, system: &Path, references: &Path) -> Result<u8> {
    for file in [system, references] {
        if !file.is_file() {
            return Err(AbsentError(format!("{}: no such file", file.display())).into());
        }
    }
    let corpus = Corpus::read(system, references).map_err(|e| UsageError(e.to_string()))?;
    let segments = statistics(&corpus);
    let whole = Scores::of(&segments);
    let mut table = scores("Scores of the E2E challenge".into());
    type Score = fn(&Scores) -> f64;
    let all: [(&str, Score); 4] = [
        ("BLEU", |s| s.bleu),
        ("NIST", |s| s.nist),
        ("ROUGE-L", |s| s.rouge_l),
        ("CIDEr", |s| s.cider),
    ];
    for (name, score) in all {
        let of = |segments: &[Statistics]| Some(score(&Scores::of(segments)));
        let stderr = standard_error(&segments, of);
        add(&mut table, name, score(&whole), stderr, segments.len());
    }
    add_meteor(&mut table, &corpus, context);
    let texts = corpus.segments();
    let empty = texts.iter().filter(|s| s.system.is_empty()).count();
    if empty > 0 {
        table.notes.push(format!(
            "{empty} of {} texts of the system are empty: they count as answers without words.",
            texts.len()
        ));
    }
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}

fn scores(title: String) -> Table {
    Table {
        title,
        columns: vec![
            Column::left("Metric"),
            Column::right("Value"),
            Column::right("Standard error"),
            Column::right("n"),
        ],
        ..Table::default()
    }
}

fn add(table: &mut Table, name: &str, value: f64, stderr: Option<f64>, n: usize) {
    let shown = match value.is_nan() {
        true => "undefined".into(),
        false => fixed(value, 4),
    };
    table.rows.push(vec![
        Cell::text(name),
        Cell::text(shown),
        stderr.map_or_else(Cell::none, |e| Cell::text(fixed(e, 4))),
        Cell::text(n.to_string()),
    ]);
}

/// METEOR's row, or why there is none.
fn add_meteor(table: &mut Table, corpus: &Corpus, context: &Context) {
    let progress = match context.quiet {
        true => Progress::Quiet,
        false => Progress::Bar,
    };
    match meteor(corpus, &context.hub, progress) {
        Ok(m) => add(table, "METEOR", m.value, m.stderr, m.n as usize),
        Err(reason) => {
            table.rows.push(vec![
                Cell::text("METEOR"),
                Cell::text("not measured"),
                Cell::none(),
                Cell::none(),
            ]);
            table
                .notes
                .push(format!("METEOR is not measured: {reason}."));
        }
    }
}
