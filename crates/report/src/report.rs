//! The report of an experiment: `report.md`, the page `report.html`, and everything they show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::accuracy::accuracy_by_parameters;
use crate::comparison::{Comparison, NO_DIFFERENCE, Verdict, compare};
use crate::difference::{Test, differs};
use crate::error::{Error, Result};
use crate::figure::{Figure, write_png, write_svg};
use crate::loss_curves::loss_curves;
use crate::number::{fixed, thousands};
use crate::page::{self, Page};
use crate::pairs::{self, Pairs};
use crate::record::{Record, Run, read_experiment, unfinished_runs};
use crate::section::{Block, Picture, Section, Text};
use crate::statistics::Estimate;
use crate::table::{Cell, Column, Format, Table};
use crate::{collect, continual, figures, file, markdown, transfer};

/// What the results do not say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportSpec {
    /// Heading.
    pub title: String,
    /// One paragraph, Markdown.
    pub description: String,
    /// What a reader must know before the numbers; plain text.
    pub caveat: Option<String>,
    /// The command that makes the results and this report again; with `--only` behind it, one run.
    pub command: String,
}

/// The files of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `report.md`.
    pub report: PathBuf,
    /// `report.html`.
    pub page: PathBuf,
    /// `table.csv`.
    pub table_csv: PathBuf,
    /// `table.tex`.
    pub table_tex: PathBuf,
    /// `records.parquet`.
    pub records: PathBuf,
    /// The figures as SVG and as PNG; one without data is not written.
    pub figures: Vec<(PathBuf, PathBuf)>,
}

/// Writes the report of `results_dir` (`results/EXPERIMENT`) into `out_dir` (`reports/EXPERIMENT`). The
/// same results and `spec` give the same files.
pub fn write_report(results_dir: &Path, out_dir: &Path, spec: &ReportSpec) -> Result<Paths> {
    let runs = read_experiment(results_dir)?;
    write_report_of(&runs, results_dir, out_dir, spec)
}

/// [`write_report`] of runs that were read from `results_dir`, and whose scores of whole corpora may have been resampled.
pub fn write_report_of(
    runs: &[Run],
    results_dir: &Path,
    out_dir: &Path,
    spec: &ReportSpec,
) -> Result<Paths> {
    if runs.is_empty() {
        return Err(Error::Empty(results_dir.to_owned()));
    }
    let unfinished = unfinished_runs(results_dir)?;
    let comparison = compare(&spec.title, runs);
    std::fs::create_dir_all(out_dir).map_err(|source| Error::Io {
        action: "create",
        path: out_dir.to_owned(),
        source,
    })?;
    let records: Vec<&Record> = runs.iter().map(|run| &run.record).collect();

    let sections = sections(runs, &unfinished, &comparison, spec);
    let mut paths = Paths {
        report: out_dir.join("report.md"),
        page: out_dir.join("report.html"),
        table_csv: out_dir.join("table.csv"),
        table_tex: out_dir.join("table.tex"),
        records: out_dir.join("records.parquet"),
        figures: Vec::new(),
    };
    for block in sections.iter().flat_map(|section| &section.blocks) {
        if let Block::Figure(picture) = block {
            let svg = out_dir.join(format!("{}.svg", picture.name));
            let png = out_dir.join(format!("{}.png", picture.name));
            write_svg(&svg, &picture.figure)?;
            write_png(&png, &picture.figure)?;
            paths.figures.push((svg, png));
        }
    }
    let write = |path: &Path, format| file::write(path, comparison.table.render(format).as_bytes());
    write(&paths.table_csv, Format::Csv)?;
    write(&paths.table_tex, Format::Latex)?;
    collect::write_parquet(&paths.records, &records)?;
    file::write(&paths.report, text(&sections, spec).as_bytes())?;
    let page = page::render(&Page {
        spec,
        runs,
        unfinished: &unfinished,
        comparison: &comparison,
        sections: &sections,
    })?;
    file::write(&paths.page, page.as_bytes())?;
    Ok(paths)
}

/// The sections of the report, for `report.md` and the page alike.
fn sections(
    runs: &[Run],
    unfinished: &[String],
    comparison: &Comparison,
    spec: &ReportSpec,
) -> Vec<Section> {
    let records: Vec<&Record> = runs.iter().map(|run| &run.record).collect();
    let section = |title: &str, blocks| Section {
        title: title.to_owned(),
        blocks,
    };
    let mut sections = vec![
        section("What ran", vec![Block::List(what_ran(&records))]),
        section("Results", results(runs, comparison, spec)),
    ];
    let tables = continual::tables(runs)
        .into_iter()
        .chain(transfer::table(runs));
    sections.extend(tables.map(|table| section(&table.title.clone(), vec![Block::Table(table)])));
    if let Some(figure) = continual::figure(&spec.title, runs) {
        sections.push(section(
            "Stage by stage",
            vec![Block::Figure(stages(figure))],
        ));
    }
    if let Some(figure) = transfer::figure(&spec.title, runs) {
        sections.push(section(
            "From task to task",
            vec![Block::Figure(transfer_matrix(figure))],
        ));
    }
    sections.extend(figures::sections(&spec.title, runs, comparison));
    sections.extend([
        section("Settings", settings(&records)),
        section("Runs", run_blocks(&records, unfinished)),
        section("Reproduce", vec![Block::Commands(spec.command.clone())]),
    ]);
    sections.retain(|section| !section.blocks.is_empty());
    sections
}

fn stages(figure: Figure) -> Picture {
    Picture {
        name: "stages".into(),
        alt: "Scores behind every stage".into(),
        caption: "Means over seeds; bars are the standard deviation over seeds, and methods stand beside one another.".into(),
        figure,
    }
}

fn transfer_matrix(figure: Figure) -> Picture {
    Picture {
        name: "transfer".into(),
        alt: "Change of every measured task by the task that was trained on".into(),
        caption: "Means over seeds less the untouched model ± standard deviations over seeds. A colour is as strong as the change is against the \
                  largest of its column, over all methods."
            .into(),
        figure,
    }
}

/// `report.md`.
fn text(sections: &[Section], spec: &ReportSpec) -> String {
    let mut text = format!("# {}\n\n", markdown::escape(&spec.title));
    if !spec.description.trim().is_empty() {
        text += &format!("{}\n\n", spec.description.trim());
    }
    if let Some(caveat) = &spec.caveat {
        text += &format!("> **Note.** {}\n\n", markdown::escape(caveat.trim()));
    }
    text.extend(sections.iter().map(markdown::section));
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// The main table, what it says, and the figures.
fn results(runs: &[Run], comparison: &Comparison, spec: &ReportSpec) -> Vec<Block> {
    let mut blocks = vec![Block::Table(comparison.table.clone())];
    blocks.extend(words(comparison).into_iter().map(Block::Text));
    let loss = loss_curves(&format!("{}: loss", spec.title), runs);
    let accuracy = format!("{}: score against size", spec.title);
    let accuracy = accuracy_by_parameters(&accuracy, comparison);
    let mut files = ["table.csv", "table.tex", "records.parquet"]
        .map(Text::file)
        .to_vec();
    for (name, alt, caption, figure) in [
        (
            "loss",
            "Loss curves",
            "Training loss: the faint line is every step, the strong one the mean of the last twentieth of the run (at least \
             3 steps); values beyond the axis are drawn at its edge. Held-out loss or score: every evaluation.",
            loss,
        ),
        (
            "accuracy",
            "Score by trainable parameters",
            "Bars are 95 % intervals; markers with nearly the same number of parameters are moved apart sideways.",
            accuracy,
        ),
    ] {
        let Some(figure) = figure else {
            continue;
        };
        files.push(Text::file(format!("{name}.png")));
        blocks.push(Block::Figure(Picture {
            name: name.into(),
            alt: alt.into(),
            caption: caption.into(),
            figure,
        }));
    }
    let files = Text::from("Files: ")
        .then(Text::join(files, ", "))
        .then(".");
    blocks.push(Block::Text(files));
    blocks
}

/// The distinct values of a field, in order of the runs.
fn distinct(records: &[&Record], value: impl Fn(&Record) -> Option<Text>) -> Vec<Text> {
    let mut seen = Vec::new();
    for text in records.iter().filter_map(|record| value(record)) {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}

/// How long the evaluations took that were done in one piece, and the questions of a second: the fastest and the slowest run.
fn evaluations(records: &[&Record]) -> Vec<Text> {
    let mut all: BTreeMap<&str, Vec<(f64, u64)>> = BTreeMap::new();
    for record in records {
        for (name, seconds) in &record.seconds {
            let Some(name) = name.strip_prefix("evaluate ") else {
                continue;
            };
            let of_task = record.metrics.iter();
            let of_task = of_task.filter(|(key, _)| key.split('/').next() == Some(name));
            let questions = of_task.map(|(_, metric)| metric.n).max().unwrap_or(0);
            all.entry(name).or_default().push((*seconds, questions));
        }
    }
    let text = |(name, runs): (&str, Vec<(f64, u64)>)| {
        let range = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            match values[..] {
                [first, .., last] => format!("{} to {}", fixed(first, 1), fixed(last, 1)),
                [only] => fixed(only, 1),
                [] => String::new(),
            }
        };
        let seconds = range(runs.iter().map(|run| run.0).collect());
        let rates = range(runs.iter().map(|run| run.1 as f64 / run.0).collect());
        Text::from(format!("{name} in {seconds} s ({rates} questions/s)"))
    };
    all.into_iter().map(text).collect()
}

fn what_ran(records: &[&Record]) -> Vec<Text> {
    let mut items = Vec::new();
    let mut item = |name: &str, values: Vec<Text>| {
        if !values.is_empty() {
            items.push(Text::from(format!("{name}: ")).then(Text::join(values, "; ")));
        }
    };
    let plain = |value: &str| Some(Text::from(value));
    let listed = |parts: Vec<Text>| (!parts.is_empty()).then(|| Text::join(parts, ", "));
    item(
        "Model",
        distinct(records, |r| {
            let size = thousands(r.base_parameters);
            Some(Text::from(format!("{}, {size} parameters", r.model)))
        }),
    );
    item(
        "Data",
        distinct(records, |r| {
            let data = r.data.iter();
            listed(
                data.map(|(name, hash)| {
                    Text::from(format!("{name} ")).then(Text::code(brief(hash)))
                })
                .collect(),
            )
        }),
    );
    item(
        "Trained in full beside the adapter",
        distinct(records, |r| {
            let head = r.head_parameters;
            (head > 0).then(|| format!("a head of {} parameters", thousands(head)).into())
        }),
    );
    item(
        "Longer than allowed, and cut",
        distinct(records, |r| {
            let cut = r.truncated.iter();
            listed(
                cut.map(|(name, n)| format!("{n} of {name}").into())
                    .collect(),
            )
        }),
    );
    item("Evaluations", evaluations(records));
    item(
        "Not measured",
        distinct(records, |r| {
            let missing = r.not_measured.iter();
            listed(
                missing
                    .map(|(name, why)| format!("{name} ({why})").into())
                    .collect(),
            )
        }),
    );
    let mut steps: Vec<u64> = records
        .iter()
        .filter(|r| r.trainable_parameters > 0)
        .map(|r| r.steps)
        .collect();
    steps.sort_unstable();
    steps.dedup();
    item(
        "Optimizer steps",
        steps.into_iter().map(|n| thousands(n).into()).collect(),
    );
    item(
        "Batch",
        distinct(records, |r| {
            let batch: Vec<Text> = flatten(&r.config)
                .into_iter()
                .filter(|(key, _)| {
                    let name = key.rsplit('.').next().unwrap_or(key);
                    name.contains("batch") || name.contains("accumulation")
                })
                .map(|(key, value)| Text::code(format!("{key} = {value}")))
                .collect();
            listed(batch).filter(|_| r.trainable_parameters > 0)
        }),
    );
    item("Backend", distinct(records, |r| plain(&r.backend)));
    item(
        "Host",
        distinct(records, |r| {
            let gibibytes = r.host.memory_bytes as f64 / f64::from(1 << 30);
            Some(Text::from(format!(
                "{}, {} cores, {} GiB memory, {}",
                r.host.cpu,
                r.host.cores,
                fixed(gibibytes, 0),
                r.host.os
            )))
        }),
    );
    let first = records.iter().map(|r| r.started_at.as_str()).min();
    let last = records.iter().map(|r| r.finished_at.as_str()).max();
    if let (Some(first), Some(last)) = (first, last) {
        item("Dates", vec![format!("{first} to {last}").into()]);
    }
    item(
        "Commit",
        distinct(records, |r| r.git_commit.as_deref().map(Text::code)),
    );
    item(
        "Versions",
        distinct(records, |r| {
            let versions = r.versions.iter();
            listed(
                versions
                    .map(|(name, version)| format!("{name} {version}").into())
                    .collect(),
            )
        }),
    );
    items
}

/// The first 12 characters of a hash, which tell it from any other here.
fn brief(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// The results in words: a paragraph for the loss and one for each metric.
fn words(comparison: &Comparison) -> Vec<Text> {
    let mut paragraphs: Vec<String> = Vec::new();
    let losses: Vec<String> = comparison
        .rows
        .iter()
        .filter_map(|row| {
            let after = fixed(row.held_out_loss.as_ref()?.mean, 4);
            Some(match row.held_out_loss_before {
                Some(before) if row.trainable_parameters > 0 => {
                    format!("{} {} to {after}", row.label, fixed(before, 4))
                }
                _ => format!("{} {after}", row.label),
            })
        })
        .collect();
    if !losses.is_empty() {
        paragraphs.push(format!(
            "Held-out loss, before to after training: {}. {}",
            losses.join("; "),
            verdict(comparison, "held-out loss", &comparison.judge_loss())
        ));
    }
    for metric in &comparison.metrics {
        let unit = if comparison.percent.contains(metric) {
            " %"
        } else {
            ""
        };
        let interval = |estimate: &Estimate| {
            estimate.interval.map_or_else(String::new, |(low, high)| {
                let (low, high) = (comparison.show(metric, low), comparison.show(metric, high));
                format!(" (95 % interval {low} to {high})")
            })
        };
        let scores: Vec<String> = comparison
            .rows
            .iter()
            .filter_map(|row| {
                let estimate = row.metrics.get(metric)?;
                let score = comparison.show(metric, estimate.mean);
                let interval = interval(estimate);
                Some(format!("{} {score}{unit}{interval}", row.label))
            })
            .collect();
        paragraphs.push(format!(
            "{}: {}. {}{}",
            metric,
            scores.join("; "),
            against_reference(comparison, metric),
            verdict(comparison, metric, &comparison.judge_metric(metric))
        ));
    }
    if paragraphs.is_empty() {
        return vec!["No run has finished, so there is nothing to compare.".into()];
    }
    paragraphs.push(how_judged(comparison));
    let trimmed = paragraphs.iter().map(|text| text.trim_end());
    trimmed.map(Text::from).collect()
}

/// Every row's difference from the reference, and what its test says; empty where nothing is paired.
fn against_reference(comparison: &Comparison, metric: &str) -> String {
    let Some(reference) = comparison.reference(metric) else {
        return String::new();
    };
    let differences: Vec<String> = (0..)
        .zip(&comparison.rows)
        .filter_map(|(place, row)| {
            let (_, difference) = comparison.against(metric, place)?;
            let says = match differs(&difference) {
                Some(true) => "different",
                Some(false) => "not different",
                None => "cannot be judged",
            };
            Some(format!(
                "{} {}, {says}",
                row.label,
                comparison.show_difference(metric, &difference)
            ))
        })
        .collect();
    let unit = if comparison.percent.contains(metric) {
        ", in points"
    } else {
        ""
    };
    format!("Against {}{unit}: {}. ", reference, differences.join("; "))
}

/// How intervals come about and when a difference counts, by the tests that this report has.
fn how_judged(comparison: &Comparison) -> String {
    let of_metrics: BTreeSet<Test> = comparison.pairs.values().flat_map(Pairs::tests).collect();
    let has = |test| of_metrics.contains(&test);
    let mut text = String::from(
        "Intervals of proportions are Wilson's, of other means of grades a percentile bootstrap's of the questions, of \
         scores of a whole corpus the same, or else from their bootstrapped standard error.",
    );
    if has(Test::McNemar) || has(Test::PairedBootstrap) || has(Test::CorpusBootstrap) {
        text += " Settings whose answers to the same questions are stored are compared in pairs:";
        if has(Test::McNemar) {
            text += " right against wrong answers of one seed by McNemar's exact test, with Newcombe's interval of a \
                     difference of paired proportions;";
        }
        if has(Test::PairedBootstrap) {
            text += &format!(
                " other grades, and means over seeds, by {}, to which the variance between seeds is added (Satterthwaite);",
                pairs::name(Test::PairedBootstrap)
            );
        }
        if has(Test::CorpusBootstrap) {
            text += &format!(
                " scores of a whole corpus by {}, with the variance between seeds;",
                pairs::name(Test::CorpusBootstrap)
            );
        }
        text += " p-values are Holm-corrected, those of the comparisons in the table among themselves and those of all \
                 other pairs among themselves. A difference counts when its 95 % interval leaves out 0 and its corrected \
                 p-value is below 0.05. What is said of a method with one seed is said of that seed.";
    }
    if has(Test::Unpaired) || of_metrics.is_empty() {
        text += " Without common questions, and for losses, a difference counts when it is larger than the 95 % interval of \
                 a difference of independent results, one pair at a time.";
    }
    text
}

/// Whether any difference in `name` counts.
fn verdict(comparison: &Comparison, name: &str, verdict: &Verdict) -> String {
    /// More would not be read.
    const MOST: usize = 8;
    if verdict.ranked.len() < 2 {
        return String::new();
    }
    if verdict.pairs.is_empty() {
        return if verdict.judged {
            format!("In {name} {NO_DIFFERENCE}.")
        } else {
            format!(
                "Differences in {name} have no interval, because at least one side has a single seed: they are no finding."
            )
        };
    }
    let label = |row: usize| {
        let row = comparison.rows.get(row);
        row.map_or("", |row| row.label.as_str())
    };
    let mut pairs: Vec<String> = verdict
        .pairs
        .iter()
        .take(MOST)
        .map(|&(better, worse)| format!("{} over {}", label(better), label(worse)))
        .collect();
    if verdict.pairs.len() > MOST {
        pairs.push(format!("{} more", verdict.pairs.len() - MOST));
    }
    let mut text = format!("In {name} these differences count: {}.", pairs.join(", "));
    if verdict.judged && comparison.only_over_untrained(verdict) {
        text += &format!(" Among the trained methods {NO_DIFFERENCE}.");
    }
    text
}

/// Every leaf of a JSON value by its dotted key; a list is one leaf.
pub(crate) fn flatten(value: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    let key = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    walk(&key, field, leaves);
                }
            }
            Value::String(text) => {
                leaves.insert(prefix.to_owned(), text.clone());
            }
            Value::Null => {}
            other => {
                leaves.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk("", value, &mut leaves);
    leaves
}

/// The settings: those that all trained runs share, then the names of those on which they differ.
fn settings(records: &[&Record]) -> Vec<Block> {
    // The untouched model has no training settings to share.
    let trained: Vec<&&Record> = records
        .iter()
        .filter(|record| record.trainable_parameters > 0)
        .collect();
    let configs: Vec<BTreeMap<String, String>> = if trained.is_empty() {
        records
            .iter()
            .map(|record| flatten(&record.config))
            .collect()
    } else {
        trained
            .iter()
            .map(|record| flatten(&record.config))
            .collect()
    };
    let keys: BTreeSet<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    if keys.is_empty() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    let mut differing = Vec::new();
    for key in keys {
        let mut values = configs.iter().map(|config| config.get(key));
        let first = values.next().flatten();
        match first {
            Some(value) if values.all(|other| other == first) => {
                rows.push(vec![Cell::text(key), Cell::text(value)]);
            }
            _ => differing.push(Text::code(key)),
        }
    }
    let table = Table {
        columns: vec![Column::left("Setting"), Column::left("Value")],
        rows,
        ..Table::default()
    };
    let mut blocks = vec![Block::Table(table)];
    if !differing.is_empty() {
        blocks.push(Block::Text(
            Text::from("Different from run to run: ")
                .then(Text::join(differing, ", "))
                .then("; each run's record.json has its values."),
        ));
    }
    blocks
}

fn run_blocks(records: &[&Record], unfinished: &[String]) -> Vec<Block> {
    let mut blocks = vec![Block::Table(run_table(records))];
    if !unfinished.is_empty() {
        blocks.push(Block::Text(
            Text::from("Started and without a record, so not in this report: ")
                .then(Text::join(unfinished.iter().map(Text::code), ", "))
                .then("."),
        ));
    }
    blocks
}

fn run_table(records: &[&Record]) -> Table {
    let count = |number| Cell::number(thousands(number), number as f64);
    let rows = records.iter().map(|record| {
        vec![
            Cell::text(&record.run),
            Cell::text(brief(&record.hash)),
            Cell::text(record.status.name()),
            count(record.steps),
            record.best_step.map_or_else(Cell::none, count),
            count(record.adapter_bytes),
            count(record.total_seconds().round() as u64),
        ]
    });
    Table {
        rows: rows.collect(),
        columns: vec![
            Column::left("Run"),
            Column::left("Hash"),
            Column::left("Ended"),
            Column::right("Steps"),
            Column::right("Best step"),
            Column::right("Adapter (bytes)"),
            Column::right("Seconds"),
        ],
        ..Table::default()
    }
}
