//! The comparison of two sides for a terminal.

use std::collections::BTreeMap;

use crate::against::{Against, Both, Graded, Measure, Named, Pair, Question, Setting};
use crate::comparison::{estimate_cell, show, show_difference};
use crate::difference::Test;
use crate::number::{fixed, mebibytes, signed, thousands};
use crate::page::answers::{cut, grade};
use crate::pairs;
use crate::statistics::Estimate;
use crate::table::{Cell, Column, Table};
use crate::terminal;

/// Values of a setting that are listed; more are counted.
const MOST_VALUES: usize = 6;
/// Characters of a value; hashes are longer.
const MOST_CHARACTERS: usize = 40;

/// The whole comparison; with `colour` headings and what counts are bold.
pub fn render(found: &Against, colour: bool) -> String {
    let mut text = format!("A  {}\nB  {}\n\n", side(&found.a), side(&found.b));
    if found.settings.is_empty() {
        text += "No setting differs.\n";
    } else {
        text += &terminal::render(&settings(&found.settings), colour);
    }
    for pair in &found.pairs {
        text += &format!("\n{}", terminal::render(&measures(pair), colour));
    }
    for (name, only) in [("A", &found.only_a), ("B", &found.only_b)] {
        if !only.is_empty() {
            text += &format!("\nOnly in {name}: {}\n", only.join("; "));
        }
    }
    for pair in &found.pairs {
        for graded in &pair.graded {
            text += &format!("\n{}", answers(pair, graded, found.pairs.len() > 1));
        }
    }
    text
}

fn side(side: &Named) -> String {
    match side.runs.as_slice() {
        [run] if *run == side.name => run.clone(),
        [run] => format!("{}: {run}", side.name),
        runs if runs.len() <= MOST_VALUES => format!("{}: {}", side.name, runs.join(", ")),
        runs => format!("{}: {} runs", side.name, runs.len()),
    }
}

/// `settings that differ`: key, values of A, values of B.
fn settings(settings: &[Setting]) -> Table {
    let values = |values: &[String]| match values {
        [] => Cell::none(),
        _ if values.len() > MOST_VALUES => Cell::text(format!("{} values", values.len())),
        _ => {
            let short: Vec<String> = values.iter().map(|value| shortened(value)).collect();
            Cell::text(short.join(", "))
        }
    };
    Table {
        title: "Settings that differ".into(),
        columns: ["Key", "A", "B"].map(Column::left).into(),
        rows: settings
            .iter()
            .map(|s| vec![Cell::text(&s.key), values(&s.a), values(&s.b)])
            .collect(),
        notes: Vec::new(),
    }
}

fn shortened(value: &str) -> String {
    let is_hash = value.len() >= 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    let most = if is_hash { 12 } else { MOST_CHARACTERS };
    if value.chars().count() <= most {
        return value.to_owned();
    }
    let start: String = value.chars().take(most).collect();
    format!("{start}…")
}

/// Size, losses, metrics, speed and memory of two settings.
fn measures(pair: &Pair) -> Table {
    let Both { a, b } = &pair.labels;
    let title = if a == b {
        format!("{a}: B against A")
    } else {
        format!("{b} (B) against {a} (A)")
    };
    let columns = vec![
        Column::left("Measure"),
        Column::right("A"),
        Column::right("B"),
        Column::right("B − A"),
        Column::left("Counts"),
    ];
    let mut rows = vec![vec![
        Cell::text("Runs"),
        Cell::text(ended(&pair.ended.a)),
        Cell::text(ended(&pair.ended.b)),
        Cell::none(),
        Cell::none(),
    ]];
    let count = |value: Option<u64>| value.map(|value| value as f64);
    let of = &pair.trainable_parameters;
    rows.push(plain(
        "Trainable parameters",
        count(Some(of.a)),
        count(Some(of.b)),
        0,
    ));
    rows.push(measure("Held-out loss", &pair.held_out_loss, |value| {
        fixed(value, 4)
    }));
    for (metric, found) in &pair.metrics {
        let name = if found.percent {
            format!("{metric} (%)")
        } else {
            metric.clone()
        };
        rows.push(measure(&name, found, |value| show(value, found.percent)));
    }
    let of = &pair.tokens_per_second;
    rows.push(plain("Tokens/s", of.a, of.b, 1));
    let memory = |bytes: Option<u64>| bytes.map(mebibytes);
    let of = &pair.peak_memory_bytes;
    rows.push(plain("Peak memory (MiB)", memory(of.a), memory(of.b), 0));
    Table {
        title,
        columns,
        rows,
        notes: notes(pair),
    }
}

/// A quantity without an interval; the difference also as a share of A.
fn plain(name: &str, a: Option<f64>, b: Option<f64>, decimals: usize) -> Vec<Cell> {
    let text = |value: f64| {
        if decimals == 0 {
            thousands(value as u64)
        } else {
            fixed(value, decimals)
        }
    };
    let cell = |value: Option<f64>| value.map_or_else(Cell::none, |v| Cell::number(text(v), v));
    let difference = a.zip(b).map_or_else(Cell::none, |(a, b)| {
        let size = text((b - a).abs());
        let sign = if b > a {
            "+"
        } else if b < a {
            "−"
        } else {
            ""
        };
        let share = if a > 0.0 && a != b {
            format!(" ({} %)", signed(100.0 * (b / a - 1.0), 1))
        } else {
            String::new()
        };
        Cell::number(format!("{sign}{size}{share}"), b - a)
    });
    vec![Cell::text(name), cell(a), cell(b), difference, Cell::none()]
}

fn measure(name: &str, found: &Measure, show: impl Fn(f64) -> String) -> Vec<Cell> {
    let estimate = |of: &Option<Estimate>| {
        of.as_ref()
            .map_or_else(Cell::none, |estimate| estimate_cell(estimate, 1.0, &show))
    };
    let difference = found
        .difference
        .as_ref()
        .map_or_else(Cell::none, |d| Cell::text(show_difference(d, &show)));
    let counts = found.counts.map_or_else(Cell::none, |counts| Cell {
        bold: counts,
        ..Cell::text(if counts { "yes" } else { "no" })
    });
    vec![
        Cell::text(name),
        estimate(&found.a),
        estimate(&found.b),
        difference,
        counts,
    ]
}

fn ended(ended: &[usize; 3]) -> String {
    let named = ended.iter().zip(["finished", "diverged", "failed"]);
    let texts: Vec<String> = named
        .filter(|(count, _)| **count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    texts.join(", ")
}

/// How the differences were judged.
fn notes(pair: &Pair) -> Vec<String> {
    let mut judged: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (metric, measure) in &pair.metrics {
        let Some(difference) = &measure.difference else {
            continue;
        };
        let how = match (difference.test, measure.questions) {
            (test, Some(questions)) if test != Test::Unpaired => format!(
                "paired, on the same {} questions; p by {}, Holm-corrected. It counts where the 95 % interval leaves out 0 and p is \
                 below 0.05.",
                thousands(questions as u64),
                pairs::name(test)
            ),
            _ => "not paired, for want of grades of the same questions; the 95 % interval is that of a difference of independent \
                  results, and it counts where that leaves out 0."
                .to_owned(),
        };
        judged.entry(how).or_default().push(metric);
    }
    let mut notes: Vec<String> = judged
        .into_iter()
        .map(|(how, metrics)| format!("{}: {how}", metrics.join(", ")))
        .collect();
    if let Some(difference) = &pair.held_out_loss.difference {
        let how = match difference.interval {
            Some(_) => {
                "± is the standard deviation over seeds; the difference is one of independent results."
            }
            None => {
                "one seed has no interval, so the difference cannot be told from the seed's noise."
            }
        };
        notes.push(format!("Held-out loss: {how}"));
    }
    notes
}

/// How many answers differ, and those that were asked for.
fn answers(pair: &Pair, graded: &Graded, several: bool) -> String {
    let of = if several {
        format!(" of {}", pair.labels.b)
    } else {
        String::new()
    };
    let mut text = format!(
        "{}{of}: A is graded higher on {} questions, B on {}, both the same on {}.",
        graded.metric,
        thousands(graded.higher_a as u64),
        thousands(graded.higher_b as u64),
        thousands(graded.same as u64)
    );
    if graded.shown.is_empty() && graded.higher_a + graded.higher_b > 0 {
        text += " --samples N shows N of those that differ.";
    }
    text.push('\n');
    for question in &graded.shown {
        text += &format!("\n{}", shown(question));
    }
    text
}

fn shown(question: &Question) -> String {
    let indented = |text: &str| text.trim().replace('\n', "\n    ");
    let mut text = format!(
        "Question {}: A {}, B {}\n    {}\n  Reference\n    {}\n",
        question.id,
        short(question.grade.a),
        short(question.grade.b),
        indented(&printable(&cut(&question.prompt, true))),
        indented(&printable(&cut(&question.reference, false))),
    );
    let Both { a, b } = &question.answers;
    for (name, answers) in [("A", a), ("B", b)] {
        for answer in answers {
            let grades = answer
                .grades
                .iter()
                .map(|(name, value)| grade(name, *value));
            let grades: Vec<String> = grades.collect();
            text += &format!(
                "  {name} {} ({})\n    {}\n",
                answer.run,
                grades.join(", "),
                indented(&printable(&cut(&answer.text, false)))
            );
        }
    }
    text
}

fn short(value: f64) -> String {
    let text = fixed(value, 3);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A model's text may hold escape sequences, which must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
