//! `score`: saved answers graded again, with today's grader.

use std::path::Path;

use anyhow::Result;
use sharelora_hub::Progress;
use sharelora_metrics::e2e::{Corpus, Scores, Statistics, statistics};
use sharelora_report::number::fixed;
use sharelora_report::{Cell, Column, Format, Table};
use sharelora_sandbox::Verdict;
use sharelora_tasks::completions::{read_samples, write_samples};
use sharelora_tasks::{Answer, Sample, Task, TaskOptions, standard_error, task};

use crate::error::{AbsentError, UsageError};
use crate::meteor::meteor;
use crate::store::write_atomic;
use crate::{Context, data, programs, samples};

/// Grades every line of a samples file and prints the means; programs are run again. `completions`: HumanEval's go there in the
/// official format.
///
/// # Errors
/// The task is unknown, or a line is no sample; the message names the line.
pub fn score(
    context: &Context,
    path: &Path,
    name: &str,
    variant: Option<String>,
    completions: Option<&Path>,
) -> Result<u8> {
    let options = TaskOptions {
        variant,
        ..TaskOptions::default()
    };
    let task = task(name, &options).map_err(|e| UsageError(e.to_string()))?;
    if completions.is_some() && !task.runs_programs() {
        let text = format!("--completions goes with `--task humaneval`, not with `{name}`");
        return Err(UsageError(text).into());
    }
    let mut samples = samples::read(path)?;
    let saved: Vec<_> = samples.iter().map(|s| s.grades.clone()).collect();
    for sample in &mut samples {
        sample.grades = task.grade(&sample.reference, &sample.answer);
    }
    if task.runs_programs() {
        let sandbox = programs::sandbox(context.unsafe_no_sandbox)?;
        programs::grade(task.as_ref(), &mut samples, sandbox.as_ref(), context.quiet)?;
    }
    let changed = samples
        .iter()
        .zip(saved)
        .filter(|(s, saved)| s.grades != *saved);
    let changed = changed.count();
    let mut table = scores(format!(
        "{name}, version {}, {}",
        task.version(),
        task.variant()
    ));
    add_metrics(&mut table, task.as_ref(), &samples);
    if let Some(corpus) = task.corpus(&samples) {
        add_meteor(&mut table, &corpus, context);
    }
    table.notes.push(format!(
        "{changed} of {} grades differ from the saved ones.",
        samples.len()
    ));
    if let Some(path) = completions {
        write_samples(path, &samples).map_err(|e| UsageError(e.to_string()))?;
    }
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}

/// Runs any system's completions of HumanEval, a file in the official format, and prints pass@k. `out`: each line with its
/// result, as the official tool writes them.
///
/// # Errors
/// The problems cannot be had, a line is no sample or of no problem, or nothing confines the programs.
pub fn score_completions(context: &Context, path: &Path, out: Option<&Path>) -> Result<u8> {
    if !path.is_file() {
        return Err(AbsentError(format!("{}: no such file", path.display())).into());
    }
    let task = task("humaneval", &TaskOptions::default())?;
    let sandbox = programs::sandbox(context.unsafe_no_sandbox)?;
    let problems = data::rows(
        task.as_ref(),
        task.eval_split(),
        &context.root,
        &context.hub,
    )?;
    let read = read_samples(path, &problems);
    let mut samples = read.map_err(|e| UsageError(e.to_string()))?;
    let verdicts = programs::grade(task.as_ref(), &mut samples, sandbox.as_ref(), context.quiet)?;
    if let Some(out) = out {
        let mut lines = String::new();
        for (sample, verdict) in samples.iter().zip(verdicts) {
            let Answer::Text(completion) = &sample.answer else {
                continue;
            };
            let result = match &verdict {
                Some(Verdict::Passed) => "passed".to_owned(),
                Some(Verdict::TimedOut) => "timed out".to_owned(),
                Some(Verdict::Failed(reason)) => format!("failed: {reason}"),
                None => continue,
            };
            let line = serde_json::json!({
                "task_id": sample.id.split('#').next(),
                "completion": completion,
                "result": result,
                "passed": verdict == Some(Verdict::Passed),
            });
            lines += &format!("{line}\n");
        }
        write_atomic(out, lines.as_bytes())?;
    }
    let mut table = scores("HumanEval".into());
    add_metrics(&mut table, task.as_ref(), &samples);
    table
        .notes
        .push(format!("Programs ran under {}.", sandbox.name()));
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

/// The task's metrics, and those of its subjects or categories.
fn add_metrics(table: &mut Table, task: &dyn Task, samples: &[Sample]) {
    for (metric, found) in task.metrics(samples) {
        add(table, &metric, found.value, found.stderr, found.n);
    }
    for (group, found) in task.breakdown(samples) {
        let name = format!("{} of {group}", task.headline());
        add(table, &name, found.value, found.stderr, found.n);
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
