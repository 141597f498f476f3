//! Transfer: what fine-tuning on one task does to the scores of the others, against the untouched model.

use std::collections::BTreeMap;

use crate::comparison::{axis_values, is_headline, label, lower_is_better, varying_axes};
use crate::continual::trained_on;
use crate::figure::{Area, Entry, Figure, Panel, RGBColor, Words};
use crate::number::{fixed, signed};
use crate::record::{Record, Run, Status};
use crate::statistics::{self, Estimate};
use crate::style::{self, Marker};
use crate::table::{Cell, Column, Table};

/// The axes that name the task of a run.
const TASK_AXES: [&str; 2] = ["train.task", "stages"];

/// The runs of one method, with its other settings, that were trained on one task.
struct Row<'a> {
    label: String,
    task: String,
    runs: Vec<&'a Run>,
}

/// Rows by tasks that were trained on, columns by metrics.
struct Matrix<'a> {
    rows: Vec<Row<'a>>,
    metrics: Vec<&'a String>,
    base: &'a Record,
}

impl<'a> Matrix<'a> {
    /// Of the runs that started from the untouched model. `None` unless at least two tasks were trained on and measured, and an
    /// untouched model is there.
    fn new(runs: &'a [Run]) -> Option<Self> {
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
        type Key = ((usize, String), Vec<String>, String);
        let mut rows: BTreeMap<Key, Vec<&Run>> = BTreeMap::new();
        for run in trained {
            let task = trained_on(&run.record)?;
            let method = style::method_order(&run.record.method);
            let key = (method, axis_values(&run.record, &axes), task);
            rows.entry(key).or_default().push(run);
        }
        let mut tasks: Vec<&String> = rows.keys().map(|(.., task)| task).collect();
        tasks.sort();
        tasks.dedup();
        let measured = |task: &&String| metrics.iter().any(|m| task_of(m) == task.as_str());
        if tasks.iter().filter(|task| measured(task)).count() < 2 {
            return None;
        }
        let row = |(((_, method), values, task), runs): (Key, Vec<&'a Run>)| Row {
            label: label(&method, &axes, &values),
            task,
            runs,
        };
        Some(Self {
            rows: rows.into_iter().map(row).collect(),
            metrics,
            base: &base.record,
        })
    }

    fn untouched(&self, metric: &str) -> Option<f64> {
        self.base.metrics.get(metric).map(|m| m.value)
    }

    /// The mean over seeds, and its change against the untouched model.
    fn found(&self, row: &Row, metric: &str) -> Option<(Estimate, f64)> {
        let scores = row
            .runs
            .iter()
            .filter_map(|run| run.record.metrics.get(metric));
        let scores: Vec<f64> = scores.map(|m| m.value).collect();
        let found = statistics::loss(&scores)?;
        let change = found.mean - self.untouched(metric)?;
        Some((found, change))
    }
}

/// The task of a metric, `TASK/NAME`.
fn task_of(metric: &str) -> &str {
    metric.split('/').next().unwrap_or(metric)
}

/// A row for each method and task that was trained on (alone, from the untouched model), a column for each metric: the mean over seeds and its
/// change against the untouched model. `None` unless at least two tasks were trained on and measured, and an untouched model is there.
pub fn table(runs: &[Run]) -> Option<Table> {
    let matrix = Matrix::new(runs)?;
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
    let metrics = &matrix.metrics;
    table
        .columns
        .extend(metrics.iter().map(|metric| Column::right(metric.as_str())));
    let mut first = vec![
        Cell::text(style::method_name("base")),
        Cell::none(),
        Cell::none(),
    ];
    first.extend(metrics.iter().map(|metric| {
        let value = matrix.untouched(metric).unwrap_or(f64::NAN);
        Cell::number(fixed(value, 3), value)
    }));
    table.rows.push(first);
    for row in &matrix.rows {
        let mut cells = vec![
            Cell::text(row.label.as_str()),
            Cell::text(row.task.as_str()),
            Cell::number(row.runs.len().to_string(), row.runs.len() as f64),
        ];
        cells.extend(metrics.iter().map(|metric| {
            let Some((found, change)) = matrix.found(row, metric) else {
                return Cell::none();
            };
            let spread = found
                .spread
                .map_or_else(String::new, |s| format!(" ± {}", fixed(s, 3)));
            let change = signed(change, 3);
            Cell {
                text: format!("{} ({change}{spread})", fixed(found.mean, 3)),
                bold: task_of(metric) == row.task,
                value: Some(found.mean),
                spread: found.spread,
                interval: found.interval,
                ..Cell::default()
            }
        }));
        table.rows.push(cells);
    }
    Some(table)
}

/// Colours of a change for the better and for the worse: told apart by the colour-blind, and in print by the numbers.
const BETTER: RGBColor = RGBColor(0, 114, 178);
const WORSE: RGBColor = RGBColor(213, 94, 0);
/// How strong the colour of the largest change of a column is; words stay readable on it.
const STRONGEST: f64 = 0.6;

/// The matrix of each method: what was trained on by what was measured, each cell with its change against the untouched model and coloured by
/// that change over the largest of its column, over all methods.
pub fn figure(title: &str, runs: &[Run]) -> Option<Figure> {
    let matrix = Matrix::new(runs)?;
    let largest = |metric: &String| {
        let changes = matrix
            .rows
            .iter()
            .filter_map(|row| matrix.found(row, metric));
        changes.fold(0.0f64, |most, (_, change)| most.max(change.abs()))
    };
    let largest: Vec<f64> = matrix.metrics.iter().map(|m| largest(m)).collect();
    let mut panels: Vec<Panel> = Vec::new();
    for of_method in matrix.rows.chunk_by(|a, b| a.label == b.label) {
        panels.push(panel(&matrix, of_method, &largest));
    }
    let entry = |label: &str, colour: RGBColor| Entry {
        label: label.into(),
        colour,
        marker: Some(Marker::Square),
        dashed: false,
    };
    Some(Figure {
        title: format!("{title}: change against the untouched model"),
        columns: panels.len().min(2),
        panels,
        legend: vec![entry("better", BETTER), entry("worse", WORSE)],
    })
}

fn panel(matrix: &Matrix, rows: &[Row], largest: &[f64]) -> Panel {
    let (width, height) = (matrix.metrics.len() as f64, rows.len() as f64);
    let (mut areas, mut words) = (Vec::new(), Vec::new());
    for (place, row) in rows.iter().enumerate() {
        // The first row is at the top.
        let y = height - 1.0 - place as f64;
        for (column, metric) in matrix.metrics.iter().enumerate() {
            let Some((found, change)) = matrix.found(row, metric) else {
                continue;
            };
            let x = column as f64;
            let better = (change < 0.0) == lower_is_better(metric);
            let (left, right, below, above) = (x - 0.5, x + 0.5, y - 0.5, y + 0.5);
            areas.push(Area {
                outline: vec![(left, below), (right, below), (right, above), (left, above)],
                colour: if better { BETTER } else { WORSE },
                opacity: STRONGEST * change.abs() / largest[column].max(f64::MIN_POSITIVE),
            });
            let spread = found
                .spread
                .map_or_else(String::new, |s| format!(" ± {}", fixed(s, 3)));
            words.push(Words {
                at: (x, y),
                text: signed(change, 3) + &spread,
            });
        }
    }
    let tasks: Vec<&str> = matrix.metrics.iter().map(|m| task_of(m)).collect();
    let once = |task: &str| tasks.iter().filter(|other| **other == task).count() == 1;
    let measured = matrix.metrics.iter().zip(&tasks).map(|(metric, task)| {
        let name = if once(task) { task } else { metric.as_str() };
        name.to_owned()
    });
    let trained = rows.iter().enumerate();
    Panel {
        title: rows
            .first()
            .map_or_else(String::new, |row| row.label.clone()),
        x_label: "Measured on".into(),
        y_label: "Trained on".into(),
        x_range: (-0.5, width - 0.5),
        x_names: (0..).map(f64::from).zip(measured).collect(),
        y_range: (-0.5, height - 0.5),
        y_names: trained
            .map(|(place, row)| (height - 1.0 - place as f64, row.task.clone()))
            .collect(),
        areas,
        words,
        ..Panel::default()
    }
}
