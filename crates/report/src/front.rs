//! The front page of all reports: what was found, what the paper claims, where to read on, what has not run and why.

use serde::Deserialize;

use crate::comparison::{Comparison, lower_is_better};
use crate::difference::{Difference, differs};
use crate::error::{Error, Result};
use crate::number::{fixed, percent, thousands};
use crate::paper::{Axes, NOT_RUN, Studies};
use crate::section::{Block, Section, Text};
use crate::statistics::Estimate;
use crate::style::method_name;
use crate::table::{Cell, Column, Table};
use crate::{comparison, markdown};

/// The table of claims, from the page.
const CLAIMS: &str = "paper/claims.md";

/// The front page, as its file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// Heading.
    pub title: String,
    /// What this is, in one line of Markdown.
    pub line: String,
    /// What a reader of the paper must know before the numbers; Markdown.
    pub introduction: String,
    /// The numbers to see first.
    pub numbers: Vec<KeyNumber>,
    /// Experiments of this project, in the order of the page.
    pub experiments: Vec<Entry>,
    /// Experiments in the paper's own settings.
    pub paper: Vec<Entry>,
    /// Other documents.
    pub links: Vec<Link>,
}

/// A number of several methods.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyNumber {
    /// What was asked, for readers.
    pub question: String,
    /// Where the results are from.
    pub experiment: String,
    /// `held_out_loss` or a metric, `task/metric`.
    pub value: String,
    /// Methods as records name them.
    pub methods: Vec<String>,
    /// The method that the differences are from, LoRA where it is not said.
    #[serde(default)]
    pub against: Option<String>,
    /// Values of axes.
    #[serde(default, rename = "where")]
    pub axes: Axes,
}

/// An experiment on the page.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it answers; plain text.
    pub answers: String,
    /// Why not all of it has run, where it has not; plain text.
    #[serde(default)]
    pub waits: String,
}

/// A document of the reports' folder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Path from the page.
    pub path: String,
    /// What is there; plain text.
    pub text: String,
}

/// How far an experiment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The experiment.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Runs with a record.
    pub done: usize,
    /// Runs in all.
    pub planned: usize,
}

/// A table of the paper and its file without extension, from the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// `paper/glue`.
    pub path: String,
    /// Its title.
    pub title: String,
    /// Cells that have a number and cells that wait for one.
    pub cells: (usize, usize),
}

impl Made {
    /// A table under `path`.
    pub fn new(path: String, table: &Table) -> Self {
        let cells = || table.rows.iter().flatten();
        Self {
            path,
            title: table.title.clone(),
            cells: (
                cells().filter(|cell| cell.value.is_some()).count(),
                cells().filter(|cell| cell.text == NOT_RUN).count(),
            ),
        }
    }
}

impl Front {
    /// Every experiment that the page names.
    pub fn experiments(&self) -> impl Iterator<Item = &str> {
        let listed = self.experiments.iter().chain(&self.paper).map(|e| &e.name);
        let numbers = self.numbers.iter().map(|number| &number.experiment);
        listed.chain(numbers).map(String::as_str)
    }

    /// The page as Markdown. `progress` has every experiment of [`Front::experiments`].
    ///
    /// # Errors
    /// A key number whose value or axes its experiment does not have.
    pub fn page(
        &self,
        studies: &Studies,
        claims: &Table,
        tables: &[Made],
        progress: &[Progress],
    ) -> Result<String> {
        let mut text = format!(
            "# {}\n\n{}\n\n",
            markdown::escape(&self.title),
            self.line.trim()
        );
        text += &format!("{}\n\n", self.introduction.trim());
        let of = |name: &str| progress.iter().find(|p| p.name == name);
        let begun = |entry: &&Entry| of(&entry.name).is_some_and(|p| p.done > 0);
        let waiting = |entry: &&Entry| of(&entry.name).is_none_or(|p| p.done < p.planned);
        let reports = self.experiments.iter().chain(&self.paper).filter(begun);
        let reports = reports.filter_map(|entry| Some(report_line(entry, of(&entry.name)?)));
        let tables = tables.iter().map(table_line);
        let links = self
            .links
            .iter()
            .map(|link| Text::file(&link.path).then(format!(": {}", link.text)));
        let rows = self.experiments.iter().chain(&self.paper).filter(waiting);
        let rows = rows.map(|entry| not_run(entry, of(&entry.name)));
        let sections = [
            ("What was found", vec![Block::Table(self.numbers(studies)?)]),
            ("What the paper claims", vec![
                Block::Table(claims.clone()),
                Block::Text(Text::from("The same with its other forms: ").then(Text::file(CLAIMS)).then(".")),
            ]),
            ("The paper's tables", vec![Block::List(tables.collect())]),
            ("Reports", vec![Block::List(reports.chain(links).collect())]),
            (
                "What has not run",
                vec![Block::Table(Table {
                    columns: vec![
                        Column::left("Experiment"),
                        Column::right("Runs done"),
                        Column::left("Why"),
                    ],
                    rows: rows.collect(),
                    ..Table::default()
                })],
            ),
            (
                "Where this page is from",
                vec![
                    Block::Text(
                        Text::from("This page, the reports and all tables are made of ")
                            .then(Text::code("results/"))
                            .then(" and of the files of data beside them, byte for byte the same each time:"),
                    ),
                    Block::Commands(
                        "sharelora paper            # makes them\nsharelora paper --check    # names what does not follow from its results\n\
                         sharelora paper --dry-run  # plans every experiment in the paper's own settings"
                            .into(),
                    ),
                ],
            ),
        ];
        for (title, blocks) in sections {
            text += &markdown::section(&Section {
                title: title.into(),
                blocks,
            });
        }
        text.truncate(text.trim_end().len());
        Ok(text + "\n")
    }

    fn numbers(&self, studies: &Studies) -> Result<Table> {
        let mut rows = Vec::new();
        for number in &self.numbers {
            for (index, method) in number.methods.iter().enumerate() {
                let failed = |e: Error| Error::Spec(format!("numbers: {}: {e}", number.question));
                let study = studies.get(&number.experiment);
                let row_of = |method: &str| match study {
                    Some(study) => study.row(method, &number.axes).map_err(failed),
                    None => Ok(None),
                };
                let found = row_of(method)?;
                let other = match &number.against {
                    Some(method) => row_of(method)?.map(|place| (method.as_str(), place)),
                    None => None,
                };
                let question = if index == 0 {
                    number.question.as_str()
                } else {
                    ""
                };
                let mut row = vec![Cell::text(question), Cell::text(method_name(method))];
                match study.zip(found) {
                    Some((study, place)) => {
                        row.extend(number_cells(&study.comparison, place, other, &number.value))
                    }
                    None => row.extend([Cell::none(), Cell::text(NOT_RUN), Cell::none()]),
                }
                rows.push(row);
            }
        }
        Ok(Table {
            columns: vec![
                Column::left("Question"),
                Column::left("Method"),
                Column::right("Trained parameters"),
                Column::right("Found (95 % interval)"),
                Column::left("Against LoRA, or as named"),
            ],
            rows,
            notes: vec![
                "Means over seeds. A difference counts when its 95 % interval leaves out 0 and, where the same questions are compared in pairs, \
                 its Holm-corrected p is below 0.05; each report says by which test."
                    .into(),
            ],
            ..Table::default()
        })
    }
}

/// Parameters, value, and difference from LoRA or from the row of `other` method, of the row at `place`.
fn number_cells(
    comparison: &Comparison,
    place: usize,
    other: Option<(&str, usize)>,
    value: &str,
) -> [Cell; 3] {
    let row = &comparison.rows[place];
    let count = match row.trainable_parameters {
        0 => Cell::none(),
        n => Cell::number(thousands(n), n as f64),
    };
    let loss = value == "held_out_loss";
    let in_percent = comparison.percent.contains(value);
    let show = |x: f64| match (loss || lower_is_better(value), in_percent) {
        (false, true) => percent(x),
        (true, _) => fixed(x, 4),
        (false, false) => fixed(x, 3),
    };
    let estimate = match loss {
        true => row.held_out_loss.as_ref(),
        false => row.metrics.get(value),
    };
    let Some(estimate) = estimate else {
        let nothing = loss && row.trainable_parameters == 0;
        let text = if nothing { "-" } else { NOT_RUN };
        return [count, Cell::text(text), Cell::none()];
    };
    let pairs = comparison.loss_pairs();
    let difference = match (loss, other) {
        (_, Some((_, other))) => {
            let pairs = if loss {
                Some(&pairs)
            } else {
                comparison.pairs.get(value)
            };
            pairs.and_then(|pairs| pairs.difference(place, other))
        }
        (false, None) => comparison
            .against(value, place)
            .map(|(_, difference)| difference),
        (true, None) => comparison.references()[place]
            .filter(|_| row.method != "lora")
            .and_then(|reference| pairs.difference(place, reference)),
    };
    let unit = if in_percent && !loss { " %" } else { "" };
    [
        count,
        Cell::text(with_interval(estimate, unit, &show)),
        difference.map_or_else(Cell::none, |d| {
            let named = other.map_or_else(String::new, |(method, _)| {
                format!("against {}: ", method_name(method))
            });
            Cell::text(named + &against(&d, unit, &show))
        }),
    ]
}

fn with_interval(estimate: &Estimate, unit: &str, show: &dyn Fn(f64) -> String) -> String {
    let interval = estimate.interval.map_or_else(String::new, |(low, high)| {
        format!(" ({} to {})", show(low), show(high))
    });
    format!("{}{unit}{interval}", show(estimate.mean))
}

fn against(difference: &Difference, unit: &str, show: &dyn Fn(f64) -> String) -> String {
    let signed = |x: f64| {
        let text = show(x.abs());
        let zero = !text.contains(|c: char| ('1'..='9').contains(&c));
        let sign = match x {
            _ if zero => "",
            x if x > 0.0 => "+",
            _ => "−",
        };
        format!("{sign}{text}")
    };
    let unit = if unit.is_empty() { "" } else { " points" };
    let mut text = format!("{}{unit}", signed(difference.value));
    if let Some((low, high)) = difference.interval {
        text += &format!(" ({} to {})", signed(low), signed(high));
    }
    if let Some(p) = difference.corrected {
        text += &format!(", {}", comparison::p_value(p));
    }
    text += match differs(difference) {
        Some(true) => ": counts",
        Some(false) => ": does not count",
        None => ": one seed, cannot be judged",
    };
    text
}

fn report_line(entry: &Entry, progress: &Progress) -> Text {
    let path = format!("{}/report.md", entry.name);
    let page = format!("{}/report.html", entry.name);
    let runs = match progress.done == progress.planned {
        true if progress.done == 1 => "1 run".to_owned(),
        true => format!("{} runs", progress.done),
        false => format!("{} of {} runs", progress.done, progress.planned),
    };
    Text::from(format!("{} ({runs}). {} ", progress.title, entry.answers))
        .then(Text::file(path))
        .then(", as a page ")
        .then(Text::file(page))
}

fn table_line(made: &Made) -> Text {
    let (known, waiting) = made.cells;
    let state = match (known, waiting) {
        (0, _) => "nothing of it has run".to_owned(),
        (_, 0) => "complete".to_owned(),
        (1, _) => format!("1 number, {waiting} cells not run"),
        _ => format!("{known} numbers, {waiting} cells not run"),
    };
    let path = format!("{}.md", made.path);
    Text::from(format!("{} ({state}): ", made.title)).then(Text::file(path))
}

fn not_run(entry: &Entry, progress: Option<&Progress>) -> Vec<Cell> {
    let runs = progress.map_or_else(Cell::none, |p| {
        Cell::text(format!("{} of {}", p.done, p.planned))
    });
    vec![Cell::text(&entry.name), runs, Cell::text(&entry.waits)]
}
