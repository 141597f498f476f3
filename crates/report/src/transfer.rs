//! Transfer: what fine-tuning on one task does to the scores of the others, against the untouched model.

use std::collections::BTreeMap;

use crate::comparison::{axis_values, is_headline, label, varying_axes};
use crate::continual::trained_on;
use crate::number::{fixed, signed};
use crate::record::{Run, Status};
use crate::statistics;
use crate::style;
use crate::table::{Cell, Column, Table};

/// The axes that name the task of a run.
const TASK_AXES: [&str; 2] = ["train.task", "stages"];

/// A row for each method and task that was trained on (alone, from the untouched model), a column for each metric: the mean over seeds and its
/// change against the untouched model. `None` unless at least two tasks were trained on and measured, and an untouched model is there.
pub fn table(runs: &[Run]) -> Option<Table> {
    let done = |run: &&Run| run.record.status == Status::Finished;
    let base = runs
        .iter()
        .find(|run| done(run) && run.record.method == "base")?;
    let first_stage = |run: &&Run| {
        let stages = run.record.axes.get("stages");
        run.record.method != "base" && stages.is_none_or(|stages| !stages.contains('+'))
    };
    let trained: Vec<&Run> = runs.iter().filter(done).filter(first_stage).collect();
    let mut axes = varying_axes(trained.iter().map(|run| &run.record));
    axes.retain(|axis| !TASK_AXES.contains(&axis.as_str()));
    let mut metrics: Vec<&String> = base.record.metrics.keys().collect();
    metrics.retain(|key| {
        let everywhere = trained
            .iter()
            .all(|run| run.record.metrics.contains_key(*key));
        is_headline(key) && everywhere
    });
    type Row = ((usize, String), Vec<String>, String);
    let mut rows: BTreeMap<Row, Vec<&Run>> = BTreeMap::new();
    for run in trained {
        let task = trained_on(&run.record)?;
        let method = style::method_order(&run.record.method);
        let key = (method, axis_values(&run.record, &axes), task);
        rows.entry(key).or_default().push(run);
    }
    let mut tasks: Vec<&String> = rows.keys().map(|(.., task)| task).collect();
    tasks.sort();
    tasks.dedup();
    let measured = |task: &&String| {
        metrics
            .iter()
            .any(|m| m.split('/').next() == Some(task.as_str()))
    };
    if tasks.iter().filter(|task| measured(task)).count() < 2 {
        return None;
    }
    let untouched = |metric: &String| base.record.metrics.get(metric).map(|m| m.value);
    let mut table = Table {
        title: "What training on one task does to the others".into(),
        columns: vec![Column::left("Method"), Column::left("Trained on"), Column::right("Seeds")],
        rows: Vec::new(),
        notes: vec![
            "Means over seeds; in brackets the change against the untouched model ± its standard deviation over seeds. Bold: the task that was \
             trained on."
                .into(),
        ],
    };
    table
        .columns
        .extend(metrics.iter().map(|metric| Column::right(metric.as_str())));
    let mut first = vec![
        Cell::text(style::method_name("base")),
        Cell::none(),
        Cell::none(),
    ];
    first.extend(metrics.iter().map(|metric| {
        let value = untouched(metric).unwrap_or(f64::NAN);
        Cell::number(fixed(value, 3), value)
    }));
    table.rows.push(first);
    for ((method, values, task), runs) in rows {
        let mut row = vec![
            Cell::text(label(&method.1, &axes, &values)),
            Cell::text(&task),
            Cell::number(runs.len().to_string(), runs.len() as f64),
        ];
        for metric in &metrics {
            let scores = runs
                .iter()
                .filter_map(|run| run.record.metrics.get(*metric));
            let scores: Vec<f64> = scores.map(|m| m.value).collect();
            let (Some(found), Some(before)) = (statistics::loss(&scores), untouched(metric)) else {
                row.push(Cell::none());
                continue;
            };
            let spread = found
                .spread
                .map_or_else(String::new, |s| format!(" ± {}", fixed(s, 3)));
            let change = signed(found.mean - before, 3);
            row.push(Cell {
                text: format!("{} ({change}{spread})", fixed(found.mean, 3)),
                bold: metric.split('/').next() == Some(task.as_str()),
                value: Some(found.mean),
                spread: found.spread,
                interval: found.interval,
                ..Cell::default()
            });
        }
        table.rows.push(row);
    }
    Some(table)
}
