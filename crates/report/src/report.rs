//! The report of an experiment: `report.md` and everything it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::accuracy::accuracy_by_parameters;
use crate::comparison::{Comparison, NO_DIFFERENCE, Verdict, compare};
use crate::difference::{Test, differs};
use crate::error::{Error, Result};
use crate::figure::{write_png, write_svg};
use crate::loss_curves::loss_curves;
use crate::markdown::escape;
use crate::number::{fixed, thousands};
use crate::pairs::{self, Pairs};
use crate::record::{Record, Run, read_experiment, unfinished_runs};
use crate::statistics::Estimate;
use crate::table::{Cell, Column, Format, Table};
use crate::{collect, file};

/// What the results do not say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportSpec {
    /// Heading.
    pub title: String,
    /// One paragraph, Markdown.
    pub description: String,
    /// What a reader must know before the numbers; plain text.
    pub caveat: Option<String>,
    /// The command that makes the results and this report again.
    pub command: String,
}

/// The files of a report. A figure without data is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `report.md`.
    pub report: PathBuf,
    /// `table.csv`.
    pub table_csv: PathBuf,
    /// `table.tex`.
    pub table_tex: PathBuf,
    /// `records.parquet`.
    pub records: PathBuf,
    /// `loss.svg` and `loss.png`.
    pub loss: Option<(PathBuf, PathBuf)>,
    /// `accuracy.svg` and `accuracy.png`.
    pub accuracy: Option<(PathBuf, PathBuf)>,
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

    let draw = |name: &str, figure| {
        let Some(figure) = figure else {
            return Ok(None);
        };
        let svg = out_dir.join(format!("{name}.svg"));
        let png = out_dir.join(format!("{name}.png"));
        write_svg(&svg, &figure)?;
        write_png(&png, &figure)?;
        Ok(Some((svg, png)))
    };
    let paths = Paths {
        report: out_dir.join("report.md"),
        table_csv: out_dir.join("table.csv"),
        table_tex: out_dir.join("table.tex"),
        records: out_dir.join("records.parquet"),
        loss: draw("loss", loss_curves(&format!("{}: loss", spec.title), runs))?,
        accuracy: draw(
            "accuracy",
            accuracy_by_parameters(&format!("{}: score against size", spec.title), &comparison),
        )?,
    };
    let write = |path: &Path, format| file::write(path, comparison.table.render(format).as_bytes());
    write(&paths.table_csv, Format::Csv)?;
    write(&paths.table_tex, Format::Latex)?;
    collect::write_parquet(&paths.records, &records)?;
    let text = markdown(runs, &unfinished, &comparison, spec, &paths);
    file::write(&paths.report, text.as_bytes())?;
    Ok(paths)
}

fn markdown(
    runs: &[Run],
    unfinished: &[String],
    comparison: &Comparison,
    spec: &ReportSpec,
    paths: &Paths,
) -> String {
    let records: Vec<&Record> = runs.iter().map(|run| &run.record).collect();
    let mut text = format!("# {}\n\n", escape(&spec.title));
    if !spec.description.trim().is_empty() {
        text += &format!("{}\n\n", spec.description.trim());
    }
    if let Some(caveat) = &spec.caveat {
        text += &format!("> **Note.** {}\n\n", escape(caveat.trim()));
    }
    text += &format!("## What ran\n\n{}\n", what_ran(&records));
    text += &format!(
        "## Results\n\n{}\n",
        comparison.table.render(Format::Markdown)
    );
    text += &format!("{}\n\n", words(comparison));
    if paths.loss.is_some() {
        text += "![Loss curves](loss.svg)\n\n";
        text += "Training loss: the faint line is every step, the strong one the mean of the last twentieth of the \
                 run (at least 3 steps); values beyond the axis are drawn at its edge. Held-out loss or score: \
                 every evaluation.\n\n";
    }
    if paths.accuracy.is_some() {
        text += "![Score by trainable parameters](accuracy.svg)\n\n";
        text += "Bars are 95 % intervals; markers with nearly the same number of parameters are moved apart \
                 sideways.\n\n";
    }
    text +=
        "Files: [table.csv](table.csv), [table.tex](table.tex), [records.parquet](records.parquet)";
    for (name, drawn) in [("loss.png", &paths.loss), ("accuracy.png", &paths.accuracy)] {
        if drawn.is_some() {
            text += &format!(", [{name}]({name})");
        }
    }
    text += ".\n\n";
    text += &settings(&records);
    text += &format!(
        "## Runs\n\n{}\n",
        run_table(&records).render(Format::Markdown)
    );
    if !unfinished.is_empty() {
        text += &format!(
            "Started and without a record, so not in this report: {}.\n\n",
            unfinished
                .iter()
                .map(|run| code(run))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    text += &format!("## Reproduce\n\n```sh\n{}\n```\n", spec.command.trim());
    text
}

/// `text` as inline code, whatever backticks it has.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

/// The distinct values of a field, in order of the runs.
fn distinct(records: &[&Record], value: impl Fn(&Record) -> Option<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    records
        .iter()
        .filter_map(|record| value(record))
        .filter(|value| seen.insert(value.clone()))
        .collect()
}

/// How long the evaluations took that were done in one piece, and the questions of a second: the fastest and the slowest run.
fn evaluations(records: &[&Record]) -> Vec<String> {
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
        format!("{} in {seconds} s ({rates} questions/s)", escape(name))
    };
    all.into_iter().map(text).collect()
}

fn what_ran(records: &[&Record]) -> String {
    let mut text = String::new();
    let mut item = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            text += &format!("- {name}: {}\n", values.join("; "));
        }
    };
    let plain = |value: &str| Some(escape(value));
    item(
        "Model",
        distinct(records, |r| {
            let size = thousands(r.base_parameters);
            Some(format!("{}, {size} parameters", escape(&r.model)))
        }),
    );
    item(
        "Data",
        distinct(records, |r| {
            let data: Vec<String> = r
                .data
                .iter()
                .map(|(name, hash)| format!("{} {}", escape(name), code(&brief(hash))))
                .collect();
            (!data.is_empty()).then(|| data.join(", "))
        }),
    );
    item(
        "Trained in full beside the adapter",
        distinct(records, |r| {
            let head = r.head_parameters;
            (head > 0).then(|| format!("a head of {} parameters", thousands(head)))
        }),
    );
    let listed = |pairs: Vec<String>| (!pairs.is_empty()).then(|| pairs.join(", "));
    item(
        "Longer than allowed, and cut",
        distinct(records, |r| {
            let cut = r.truncated.iter();
            listed(
                cut.map(|(name, n)| format!("{n} of {}", escape(name)))
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
                    .map(|(name, why)| format!("{} ({})", escape(name), escape(why)))
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
        steps.into_iter().map(thousands).collect(),
    );
    item(
        "Batch",
        distinct(records, |r| {
            let batch: Vec<String> = flatten(&r.config)
                .into_iter()
                .filter(|(key, _)| {
                    let name = key.rsplit('.').next().unwrap_or(key);
                    name.contains("batch") || name.contains("accumulation")
                })
                .map(|(key, value)| code(&format!("{key} = {value}")))
                .collect();
            (!batch.is_empty() && r.trainable_parameters > 0).then(|| batch.join(", "))
        }),
    );
    item("Backend", distinct(records, |r| plain(&r.backend)));
    item(
        "Host",
        distinct(records, |r| {
            let gibibytes = r.host.memory_bytes as f64 / f64::from(1 << 30);
            Some(format!(
                "{}, {} cores, {} GiB memory, {}",
                escape(&r.host.cpu),
                r.host.cores,
                fixed(gibibytes, 0),
                escape(&r.host.os)
            ))
        }),
    );
    let first = records.iter().map(|r| r.started_at.as_str()).min();
    let last = records.iter().map(|r| r.finished_at.as_str()).max();
    if let (Some(first), Some(last)) = (first, last) {
        item(
            "Dates",
            vec![format!("{} to {}", escape(first), escape(last))],
        );
    }
    item(
        "Commit",
        distinct(records, |r| r.git_commit.as_deref().map(code)),
    );
    item(
        "Versions",
        distinct(records, |r| {
            let versions: Vec<String> = r
                .versions
                .iter()
                .map(|(name, version)| format!("{} {}", escape(name), escape(version)))
                .collect();
            (!versions.is_empty()).then(|| versions.join(", "))
        }),
    );
    text
}

/// The first 12 characters of a hash, which tell it from any other here.
fn brief(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// The results in words: a paragraph for the loss and one for each metric.
fn words(comparison: &Comparison) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    let losses: Vec<String> = comparison
        .rows
        .iter()
        .filter_map(|row| {
            let after = fixed(row.held_out_loss.as_ref()?.mean, 4);
            Some(match row.held_out_loss_before {
                Some(before) if row.trainable_parameters > 0 => {
                    format!("{} {} to {after}", escape(&row.label), fixed(before, 4))
                }
                _ => format!("{} {after}", escape(&row.label)),
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
                Some(format!("{} {score}{unit}{interval}", escape(&row.label)))
            })
            .collect();
        paragraphs.push(format!(
            "{}: {}. {}{}",
            escape(metric),
            scores.join("; "),
            against_reference(comparison, metric),
            verdict(comparison, metric, &comparison.judge_metric(metric))
        ));
    }
    if paragraphs.is_empty() {
        return "No run has finished, so there is nothing to compare.".into();
    }
    paragraphs.push(how_judged(comparison));
    let paragraphs: Vec<&str> = paragraphs.iter().map(|text| text.trim_end()).collect();
    paragraphs.join("\n\n")
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
                escape(&row.label),
                escape(&comparison.show_difference(metric, &difference))
            ))
        })
        .collect();
    let unit = if comparison.percent.contains(metric) {
        ", in points"
    } else {
        ""
    };
    format!(
        "Against {}{unit}: {}. ",
        escape(reference),
        differences.join("; ")
    )
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
    if verdict.rows < 2 {
        return String::new();
    }
    let name = escape(name);
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
        row.map_or_else(String::new, |row| escape(&row.label))
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
fn flatten(value: &Value) -> BTreeMap<String, String> {
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
fn settings(records: &[&Record]) -> String {
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
        return String::new();
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
            _ => differing.push(code(key)),
        }
    }
    let table = Table {
        columns: vec![Column::left("Setting"), Column::left("Value")],
        rows,
        ..Table::default()
    };
    let mut text = format!("## Settings\n\n{}\n", table.render(Format::Markdown));
    if !differing.is_empty() {
        text += &format!(
            "Different from run to run: {}; each run's record.json has its values.\n\n",
            differing.join(", ")
        );
    }
    text
}

fn run_table(records: &[&Record]) -> Table {
    let rows = records.iter().map(|record| {
        let total: f64 = record.seconds.values().filter(|s| s.is_finite()).sum();
        vec![
            Cell::text(&record.run),
            Cell::text(brief(&record.hash)),
            Cell::text(record.status.name()),
            Cell::text(thousands(record.steps)),
            Cell::text(record.best_step.map_or_else(|| "-".into(), thousands)),
            Cell::text(thousands(record.adapter_bytes)),
            Cell::text(thousands(total.round() as u64)),
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
