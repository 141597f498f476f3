//! `reports/performance`: measurements as tables and a figure. The same measurements give the same files.
//!
//! Only the measurements of the newest setup count, and a ratio is taken between two processes of one try of one block,
//! never further apart. What has no such pair is "not measured".

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sharelora_report::figure::{Entry, Figure, Line, Panel, RGBColor, write_png, write_svg};
use sharelora_report::number::{fixed, thousands};
use sharelora_report::style::method_name;
use sharelora_report::{Cell, Column, Format, Table, file};

use crate::bench::measurement::{self, Measurement};
use crate::bench::peer::{METHODS, PEER, measurements};
use crate::bench::{DTYPES, median};
use crate::error::AbsentError;

/// The backends that have rows of their own, and the colours of their bars: Okabe and Ito's blue and orange.
const BACKENDS: [(&str, RGBColor); 2] = [
    ("flex", RGBColor(0, 114, 178)),
    ("libtorch", RGBColor(230, 159, 0)),
];

/// What a ratio has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Shown, not judged.
    None,
}

impl Bar {
    fn text(self) -> String {
        match self {
            Bar::AtLeast(bar) => format!("≥ {bar}"),
            Bar::AtMost(bar) => format!("≤ {bar}"),
            Bar::None => "-".into(),
        }
    }

    fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Bar::AtLeast(bar) => Some(ratio >= bar),
            Bar::AtMost(bar) => Some(ratio <= bar),
            Bar::None => None,
        }
    }
}

/// A process of a block.
#[derive(Debug, Clone, Copy)]
struct Which<'a> {
    part: &'a str,
    side: &'a str,
}

/// One ratio that is asked for.
struct Question<'a> {
    work: String,
    measure: &'static str,
    /// The name in the figure; absent: not in it.
    short: Option<&'static str>,
    block: &'static str,
    field: &'static str,
    decimals: usize,
    ours: Which<'a>,
    other: Which<'a>,
    bar: Bar,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    /// Medians over the tries in which both were measured.
    ours: f64,
    other: f64,
    /// Ours to the other's, try by try.
    ratios: Vec<f64>,
}

impl Compared {
    fn ratio(&self) -> f64 {
        median(&self.ratios)
    }
}

/// Everything that the comparison with the peer asks, for one backend.
fn questions(backend: &str) -> Vec<Question<'_>> {
    let ours = |part| Which {
        part,
        side: backend,
    };
    let peer = |part| Which { part, side: PEER };
    let mut all = Vec::new();
    for method in METHODS {
        all.push(Question {
            work: format!("dense 4 x 128, {}", method_name(method)),
            measure: "tokens/s",
            short: Some(method_name(method)),
            block: "dense",
            field: "tokens_per_s",
            decimals: 1,
            ours: ours(method),
            other: peer(method),
            bar: Bar::AtLeast(1.1),
        });
    }
    all.push(Question {
        work: "dense 4 x 128, ShareA against our LoRA".into(),
        measure: "tokens/s",
        short: None,
        block: "dense",
        field: "tokens_per_s",
        decimals: 1,
        ours: ours("share_a"),
        other: ours("lora"),
        bar: Bar::AtLeast(1.0),
    });
    let with_peer = [
        (
            "gsm8k",
            "lora",
            "GSM8K, batches of 8, LoRA",
            "GSM8K",
            "tokens_per_s",
            Bar::AtLeast(2.0),
        ),
        (
            "generation",
            "greedy",
            "greedy generation in one batch",
            "generate",
            "new_tokens_per_s",
            Bar::AtLeast(2.0),
        ),
        (
            "dense",
            "lora",
            "dense 4 x 128, LoRA",
            "dense",
            "peak_rss_mib",
            Bar::AtMost(0.45),
        ),
        (
            "gsm8k",
            "lora",
            "GSM8K, batches of 8, LoRA",
            "GSM8K",
            "peak_rss_mib",
            Bar::AtMost(0.2),
        ),
        (
            "generation",
            "greedy",
            "greedy generation in one batch",
            "generate",
            "peak_rss_mib",
            Bar::None,
        ),
        (
            "dense",
            "lora",
            "dense 4 x 128, LoRA",
            "start",
            "start_to_first_step_s",
            Bar::AtMost(0.1),
        ),
        (
            "gsm8k",
            "lora",
            "GSM8K, batches of 8, LoRA",
            "start, GSM8K",
            "start_to_first_step_s",
            Bar::None,
        ),
    ];
    for (block, part, work, short, field, bar) in with_peer {
        let (measure, decimals) = match field {
            "tokens_per_s" => ("tokens/s", 1),
            "new_tokens_per_s" => ("new tokens/s", 1),
            "peak_rss_mib" => ("peak memory (MiB)", 0),
            _ => ("start to first step (s)", 2),
        };
        all.push(Question {
            work: work.into(),
            measure,
            short: Some(short),
            block,
            field,
            decimals,
            ours: ours(part),
            other: peer(part),
            bar,
        });
    }
    all
}

/// The measurements of one setup, by the try of a block that they belong to.
struct Tries<'a>(BTreeMap<&'a str, Vec<&'a Measurement>>);

impl<'a> Tries<'a> {
    fn of(lines: &'a [Measurement]) -> Self {
        let mut tries: BTreeMap<&str, Vec<&Measurement>> = BTreeMap::new();
        for line in lines {
            tries.entry(&line.attempt).or_default().push(line);
        }
        Tries(tries)
    }

    /// Both numbers of every try that has both.
    fn compare(&self, block: &str, field: &str, ours: Which, other: Which) -> Option<Compared> {
        let number = |lines: &[&Measurement], which: Which| {
            lines
                .iter()
                .filter(|l| l.block == block && l.part == which.part && l.side == which.side)
                .find_map(|l| l.number(field))
        };
        let pairs: Vec<(f64, f64)> = self
            .0
            .values()
            .filter_map(|lines| Some((number(lines, ours)?, number(lines, other)?)))
            .filter(|(_, other)| *other > 0.0)
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        Some(Compared {
            ours: median(&first),
            other: median(&second),
            ratios: pairs.iter().map(|(ours, other)| ours / other).collect(),
        })
    }

    /// The median of one number over all tries.
    fn number(&self, block: &str, field: &str, which: Which) -> Option<f64> {
        let values: Vec<f64> = (self.0.values().flatten())
            .filter(|l| l.block == block && l.part == which.part && l.side == which.side)
            .filter_map(|l| l.number(field))
            .collect();
        (!values.is_empty()).then(|| median(&values))
    }

    fn answer(&self, question: &Question) -> Option<Compared> {
        self.compare(
            question.block,
            question.field,
            question.ours,
            question.other,
        )
    }
}

/// Writes `README.md`, `ratios.csv`, `ratios.svg` and `ratios.png` beside the measurements; returns the first. A `notes.md`
/// that lies there becomes the README's last part.
///
/// # Errors
/// There are no measurements, or writing failed.
pub fn write(folder: &Path) -> Result<PathBuf> {
    let path = measurements(folder);
    let all = measurement::read(&path)?;
    let Some(last) = all.last() else {
        let text = format!(
            "{}: no measurements; next: sharelora bench peer --python PYTHON",
            path.display()
        );
        return Err(AbsentError(text).into());
    };
    let lines: Vec<Measurement> = all
        .iter()
        .filter(|l| l.setup == last.setup)
        .cloned()
        .collect();
    let notes = std::fs::read_to_string(folder.join("notes.md")).ok();
    let tries = Tries::of(&lines);
    let figure = figure(&tries);
    let figures = ["ratios.svg", "ratios.png"].map(|name| folder.join(name));
    match &figure {
        Some(figure) => {
            write_svg(&figures[0], figure)?;
            write_png(&figures[1], figure)?;
        }
        // One of measurements that no longer count would lie.
        None => figures
            .iter()
            .for_each(|path| drop(std::fs::remove_file(path))),
    }
    let ratios = ratios(&tries, last.quick);
    file::write(
        &folder.join("ratios.csv"),
        ratios.render(Format::Csv).as_bytes(),
    )?;
    let text = readme(
        &lines,
        all.len() - lines.len(),
        &ratios,
        figure.is_some(),
        notes.as_deref(),
    )
    .context("the measurements cannot be described")?;
    let path = folder.join("README.md");
    file::write(&path, text.as_bytes())?;
    Ok(path)
}

fn ratios(tries: &Tries, quick: bool) -> Table {
    let mut table = Table {
        title: "Ratios".into(),
        columns: vec![
            Column::left("Work"),
            Column::left("Measure"),
            Column::left("Backend"),
            Column::right("Ours"),
            Column::right("Peer"),
            Column::right("Ratio"),
            Column::right("Lowest"),
            Column::right("Highest"),
            Column::right("Pairs"),
            Column::right("Bar"),
            Column::left("Result"),
        ],
        ..Table::default()
    };
    for (backend, _) in BACKENDS {
        for question in questions(backend) {
            let mut row = vec![
                Cell::text(question.work.as_str()),
                Cell::text(question.measure),
                Cell::text(backend),
            ];
            let compared = tries.answer(&question);
            match &compared {
                None => row.extend([const { None::<Cell> }; 6].map(|_| Cell::none())),
                Some(found) => {
                    let decimals = question.decimals;
                    let number = |value, decimals| Cell::number(fixed(value, decimals), value);
                    let low = found.ratios.iter().copied().fold(f64::INFINITY, f64::min);
                    let high = found.ratios.iter().copied().fold(0.0, f64::max);
                    row.extend([
                        number(found.ours, decimals),
                        number(found.other, decimals),
                        number(found.ratio(), 3),
                        number(low, 3),
                        number(high, 3),
                        number(found.ratios.len() as f64, 0),
                    ]);
                }
            }
            row.push(Cell::text(question.bar.text()));
            let met = compared.map(|found| question.bar.met(found.ratio()));
            row.push(Cell {
                bold: met == Some(Some(false)) && !quick,
                ..Cell::text(match met {
                    None => "not measured",
                    Some(None) => "-",
                    Some(_) if quick => "too short to judge",
                    Some(Some(true)) => "met",
                    Some(Some(false)) => "missed",
                })
            });
            table.rows.push(row);
        }
    }
    table
}

/// What a switch costs or saves: each part of a block against the block's first, on one backend.
fn prices(tries: &Tries, side: &str) -> Table {
    let mut table = Table {
        title: "Switches".into(),
        columns: ["Switch", "Setting"]
            .map(Column::left)
            .into_iter()
            .chain(["Tokens/s", "Ratio", "Peak memory (MiB)", "Ratio", "Pairs"].map(Column::right))
            .collect(),
        ..Table::default()
    };
    let blocks: [(&str, &str, &[&str]); 3] = [
        ("gradient checkpointing", "checkpointing", &["off", "on"]),
        ("batches of GSM8K", "padding", &["packed", "padded"]),
        ("storage of the base", "storage", &DTYPES),
    ];
    for (name, block, parts) in blocks {
        for &part in parts {
            let against_first = |field| {
                let first = Which {
                    part: parts.first().copied().unwrap_or_default(),
                    side,
                };
                tries.compare(block, field, Which { part, side }, first)
            };
            let mut row = vec![Cell::text(name), Cell::text(part)];
            match (against_first("tokens_per_s"), against_first("peak_rss_mib")) {
                (Some(speed), Some(memory)) => row.extend([
                    Cell::text(fixed(speed.ours, 1)),
                    Cell::text(fixed(speed.ratio(), 3)),
                    Cell::text(fixed(memory.ours, 0)),
                    Cell::text(fixed(memory.ratio(), 3)),
                    Cell::text(speed.ratios.len().to_string()),
                ]),
                _ => row.extend(["not measured", "-", "-", "-", "-"].map(Cell::text)),
            }
            table.rows.push(row);
        }
    }
    table
}

/// Time to a loaded model and what is held of it, by storage.
fn loading(tries: &Tries, side: &str) -> Table {
    let fields = [
        ("Loaded (s)", "seconds", 3),
        ("First token (s)", "first_token_s", 3),
        ("Start to first token (s)", "start_to_first_token_s", 2),
        ("Held (MiB)", "held_mib", 1),
        ("Mapped (MiB)", "mapped_mib", 1),
        ("In memory (MiB)", "resident_mib", 1),
    ];
    let mut table = Table {
        title: "Loading".into(),
        columns: std::iter::once(Column::left("Storage"))
            .chain(fields.map(|(name, ..)| Column::right(name)))
            .collect(),
        ..Table::default()
    };
    for part in DTYPES {
        let which = Which { part, side };
        let mut row = vec![Cell::text(part)];
        for (_, field, decimals) in fields {
            let found = tries.number("loading", field, which);
            row.push(Cell::text(match found {
                Some(found) => fixed(found, decimals),
                None => "not measured".into(),
            }));
        }
        table.rows.push(row);
    }
    table
}

/// What has to be equal on both sides for the times to be of the same work.
fn same_work(tries: &Tries, side: &str) -> Table {
    let mut table = Table {
        title: "The same work".into(),
        columns: vec![
            Column::left("Work"),
            Column::left("Number"),
            Column::right("Ours"),
            Column::right("Peer"),
        ],
        ..Table::default()
    };
    let mut push = |work: &str, name: &str, block, part, field, decimals| {
        let found = tries.compare(
            block,
            field,
            Which { part, side },
            Which { part, side: PEER },
        );
        let Some(found) = found else { return };
        let number = |value: f64| match decimals {
            0 => thousands(value as u64),
            _ => fixed(value, decimals),
        };
        table.rows.push(vec![
            Cell::text(work),
            Cell::text(name),
            Cell::text(number(found.ours)),
            Cell::text(number(found.other)),
        ]);
    };
    for method in METHODS {
        let work = format!("dense, {}", method_name(method));
        push(
            &work,
            "trainable parameters",
            "dense",
            method,
            "trainable",
            0,
        );
    }
    push(
        "GSM8K",
        "tokens without padding",
        "gsm8k",
        "lora",
        "real_tokens",
        0,
    );
    push(
        "GSM8K",
        "loss of the first step",
        "gsm8k",
        "lora",
        "loss_first_last.0",
        4,
    );
    push(
        "GSM8K",
        "loss of the last step",
        "gsm8k",
        "lora",
        "loss_first_last.1",
        4,
    );
    push(
        "generation",
        "tokens of the prompts",
        "generation",
        "greedy",
        "prompt_tokens",
        0,
    );
    push(
        "generation",
        "new tokens",
        "generation",
        "greedy",
        "new_tokens",
        0,
    );
    table
}

fn readme(
    lines: &[Measurement],
    others: usize,
    ratios: &Table,
    figure: bool,
    notes: Option<&str>,
) -> Option<String> {
    let (first, last) = (lines.first()?, lines.last()?);
    let tries = Tries::of(lines);
    let side = lines
        .iter()
        .find(|l| l.block == "machine")
        .map_or(BACKENDS[0].0, |l| l.side.as_str());
    let mut text = String::from("# Performance\n\n");
    text += &format!(
        "This program against PyTorch, transformers and PEFT on the same machine, with {}: f32, rank 8 on `q_proj` and `v_proj`, AdamW. ",
        model(lines).map_or("a model".into(), |file| format!("`{file}`"))
    );
    text += "Each number is of a process of its own. A ratio is ours to the peer's, between two \
             processes of one block, which run directly one after the other; shown is the median over the blocks, with the \
             lowest and the highest. The columns Ours and Peer are medians too; in the rows of ShareA \
             against our LoRA the peer is that LoRA. Tokens per second count no padding, on either \
             side; on dense batches they are of the median step without the first two. Peak memory is the most resident memory of the \
             process. Our clock of the start begins when the kernel starts the process, the peer's with the first \
             line of its script.\n\n";
    text += &format!(
        "Measured from {} to {} with {} threads, load average before a process {}. Made by \
         `sharelora bench peer --python PYTHON [--libtorch PROGRAM]`; every process is a line of `measurements.jsonl`{}.\n\n",
        first.started,
        last.started,
        last.threads,
        range(lines.iter().filter_map(|l| l.load_average), 1),
        match others {
            0 => String::new(),
            n => format!(
                ", with {n} of other builds, machines or settings, which count for nothing here"
            ),
        }
    );
    if last.quick {
        text += "> **Note.** A quick run: one round of few steps, to see that everything works. Its numbers say nothing.\n\n";
    }
    text += &format!("## Ratios\n\n{}\n", ratios.render(Format::Markdown));
    if figure {
        text += "![Ratios to the peer](ratios.svg)\n\n";
        text += "A bar of the table is a dashed line. ";
    }
    text += "The same numbers are in `ratios.csv`.\n\n";
    text += &format!(
        "## Switches\n\nOn {side}, dense batches of 4 x 128 where nothing else is said; ratios to the first setting of each, within \
         one block.\n\n{}\n",
        prices(&tries, side).render(Format::Markdown)
    );
    text += &format!(
        "## Loading\n\nOn {side}, from the GGUF file. Held and mapped are the weights alone; what is mapped is read from the file at \
         the first token, after which the process has so much more in memory than before the model.\n\n{}\n",
        loading(&tries, side).render(Format::Markdown)
    );
    let same = same_work(&tries, side);
    if !same.rows.is_empty() {
        text += &format!(
            "## The same work\n\nOn {side}. Dense batches are random on both sides, so their losses differ; GSM8K's are the same rows, \
             whose first loss is that of the untouched model.\n\n{}\n",
            same.render(Format::Markdown)
        );
    }
    text += &machine(lines, &tries, side);
    if let Some(notes) = notes {
        text += &format!("\n## Notes\n\n{}\n", notes.trim());
    }
    Some(text)
}

fn machine(lines: &[Measurement], tries: &Tries, side: &str) -> String {
    let mut text = String::from("## Machine\n\n");
    let measured: Vec<&Measurement> = lines
        .iter()
        .filter(|l| l.block == "machine" && l.succeeded())
        .collect();
    if let Some(line) = lines.last() {
        let flags: Vec<&str> = measured
            .iter()
            .filter_map(|l| l.output.get("flags")?.as_array())
            .flatten()
            .filter_map(|flag| flag.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let host = &line.host;
        text += &format!(
            "{}, {} logical cores{}, {:.1} GiB of memory, {}.\n",
            host.cpu,
            host.cores,
            match flags.len() {
                0 => String::new(),
                _ => format!(" ({})", flags.join(", ")),
            },
            host.memory_bytes as f64 / f64::from(1 << 30),
            host.os
        );
    }
    let versions: BTreeSet<&str> = lines.iter().map(|l| l.version.as_str()).collect();
    for version in versions {
        text += &format!("{version}.\n");
    }
    if measured.is_empty() {
        return text + "\nThe rates of the machine: not measured.\n";
    }
    let mut table = Table {
        columns: vec![
            Column::left("Measured"),
            Column::left("When"),
            Column::right("f32 product (GFLOP/s)"),
            Column::right("on one thread"),
            Column::right("Copy (GB/s)"),
            Column::right("on one thread"),
        ],
        ..Table::default()
    };
    for line in &measured {
        let mut row = vec![
            Cell::text(line.started.as_str()),
            Cell::text(line.part.as_str()),
        ];
        for field in [
            "gemm_gflops",
            "gemm_gflops_one_thread",
            "copy_gb_s",
            "copy_gb_s_one_thread",
        ] {
            row.push(
                line.number(field)
                    .map_or_else(Cell::none, |n| Cell::text(fixed(n, 1))),
            );
        }
        table.rows.push(row);
    }
    text += &format!("\n{}\n", table.render(Format::Markdown));
    let rate = measured
        .iter()
        .filter_map(|l| l.number("gemm_gflops"))
        .fold(0.0, f64::max);
    let ours = Which { part: "lora", side };
    let peer = Which {
        part: "lora",
        side: PEER,
    };
    let step = tries.compare("dense", "ms_per_step", ours, peer);
    let work = tries.number("dense", "product_gflop", ours);
    if let (Some(step), Some(work), true) = (step, work, rate > 0.0) {
        let least = 1e3 * work / rate;
        text += &format!(
            "The products with weights of a dense step with LoRA are {:.0} GFLOP, at the best of these rates {:.0} ms. Ours takes {:.0} ms \
             ({:.0} % of it are those products), the peer {:.0} ms ({:.0} %).\n",
            work,
            least,
            step.ours,
            100.0 * least / step.ours,
            step.other,
            100.0 * least / step.other
        );
    }
    text
}

/// The file of the weights, as the command lines name it.
fn model(lines: &[Measurement]) -> Option<&str> {
    lines.iter().find_map(|line| {
        let mut words = line.command.split(' ');
        words.find(|word| matches!(*word, "--model" | "--gguf"))?;
        words.next()
    })
}

/// `0.1 to 0.4`, or one number where both are the same; `-` of nothing.
fn range(values: impl Iterator<Item = f64>, decimals: usize) -> String {
    let values: Vec<f64> = values.collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = (fixed(low, decimals), fixed(high, decimals));
    if low == high {
        low
    } else {
        format!("{low} to {high}")
    }
}

/// Two panels: ratios of speed, where more is better, and of memory and start, where less is. `None` without a ratio.
fn figure(tries: &Tries) -> Option<Figure> {
    let faster = |q: &Question| q.measure.ends_with("tokens/s");
    let panels = [
        panel(tries, "Speed, ours / peer (more is better)", faster),
        panel(
            tries,
            "Memory and start, ours / peer (less is better)",
            |q| !faster(q),
        ),
    ];
    let measured: BTreeSet<&str> = panels
        .iter()
        .flat_map(|(_, sides)| sides)
        .copied()
        .collect();
    if measured.is_empty() {
        return None;
    }
    let mut legend: Vec<Entry> = BACKENDS
        .iter()
        .filter(|(name, _)| measured.contains(name))
        .map(|&(name, colour)| Entry {
            label: name.into(),
            colour,
            marker: None,
            dashed: false,
        })
        .collect();
    legend.push(Entry {
        label: "bar".into(),
        colour: INK,
        marker: None,
        dashed: true,
    });
    Some(Figure {
        title: "Ratios to PyTorch with PEFT".into(),
        panels: panels.into_iter().map(|(panel, _)| panel).collect(),
        columns: 2,
        legend,
    })
}

const INK: RGBColor = RGBColor(40, 40, 40);

/// A group of columns for each question, a column for each backend; also the backends that have any.
fn panel(
    tries: &Tries,
    title: &str,
    belongs: impl Fn(&Question) -> bool,
) -> (Panel, Vec<&'static str>) {
    let mut panel = Panel {
        title: title.into(),
        x_label: String::new(),
        y_label: "Ratio".into(),
        x_range: (0.0, 1.0),
        y_range: (0.0, 1.0),
        ..Panel::default()
    };
    let mut sides = Vec::new();
    let mut bars = Vec::new();
    let mut highest = 1.0f64;
    for (index, (backend, colour)) in BACKENDS.into_iter().enumerate() {
        let asked = questions(backend);
        let asked: Vec<&Question> = asked
            .iter()
            .filter(|q| q.short.is_some() && belongs(q))
            .collect();
        panel.x_range.1 = asked.len() as f64;
        for (place, question) in asked.into_iter().enumerate() {
            let middle = place as f64 + 0.5;
            if index == 0 {
                let name = question.short.unwrap_or_default();
                panel.x_names.push((middle, name.into()));
                if let Bar::AtLeast(bar) | Bar::AtMost(bar) = question.bar {
                    highest = highest.max(bar);
                    bars.push(Line {
                        points: vec![(place as f64 + 0.1, bar), (place as f64 + 0.9, bar)],
                        colour: INK,
                        opacity: 1.0,
                        width: 4,
                        dashed: true,
                    });
                }
            }
            let Some(found) = tries.answer(question) else {
                continue;
            };
            sides.push(backend);
            highest = highest.max(found.ratio());
            let x = middle + if index == 0 { -0.16 } else { 0.16 };
            panel.lines.push(Line {
                points: vec![(x, 0.0), (x, found.ratio())],
                colour,
                opacity: 1.0,
                width: 26,
                dashed: false,
            });
        }
    }
    panel.lines.extend(bars);
    panel.y_range = (0.0, 1.08 * highest);
    (panel, sides)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(attempt: &str, part: &str, side: &str, output: serde_json::Value) -> Measurement {
        Measurement {
            setup: "s".into(),
            attempt: attempt.into(),
            block: "dense".into(),
            round: 1,
            part: part.into(),
            side: side.into(),
            command: "sharelora bench train".into(),
            started: "2026-11-24T00:00:00Z".into(),
            seconds: 1.0,
            load_average: Some(0.5),
            exit: Some(0),
            version: "sharelora 0.1.0".into(),
            threads: 2,
            quick: false,
            host: sharelora_report::Host {
                cpu: "CPU".into(),
                cores: 2,
                memory_bytes: 1 << 34,
                os: "Linux".into(),
            },
            output,
        }
    }

    fn speed(attempt: &str, side: &str, tokens: f64) -> Measurement {
        line(attempt, "lora", side, json!({"tokens_per_s": tokens}))
    }

    fn lora(lines: &[Measurement]) -> Option<Compared> {
        Tries::of(lines).answer(&questions("flex")[0])
    }

    /// A ratio to a peer of another hour says more about the machine than about the programs.
    #[test]
    fn ratios_stay_within_a_try() {
        let apart = [speed("one", "flex", 300.0), speed("two", PEER, 100.0)];
        assert_eq!(lora(&apart), None);
        let mut lines = apart.to_vec();
        lines.extend([
            speed("three", "flex", 220.0),
            speed("three", PEER, 110.0),
            speed("four", "flex", 90.0),
            speed("four", PEER, 90.0),
        ]);
        let found = lora(&lines).unwrap();
        assert_eq!(found.ratio(), 1.5);
        assert_eq!((found.ours, found.other), (155.0, 100.0));
    }

    /// A process that failed may still have printed something.
    #[test]
    fn a_failed_process_measures_nothing() {
        let mut lines = vec![speed("one", "flex", 200.0), speed("one", PEER, 100.0)];
        lines[0].exit = Some(1);
        assert_eq!(lora(&lines), None);
        lines[0].exit = None;
        assert_eq!(lora(&lines), None);
    }

    fn results(lines: &[Measurement], quick: bool) -> Vec<String> {
        let table = ratios(&Tries::of(lines), quick);
        let last = |row: &Vec<Cell>| row.last().unwrap().text.clone();
        table.rows.iter().map(last).collect()
    }

    #[test]
    fn bars_are_judged_and_the_rest_is_not_measured() {
        let count = |results: &[String], what: &str| results.iter().filter(|r| *r == what).count();
        let fast = [speed("one", "flex", 110.0), speed("one", PEER, 100.0)];
        let slow = [speed("one", "flex", 109.0), speed("one", PEER, 100.0)];
        let found = results(&fast, false);
        assert_eq!(found[0], "met");
        assert_eq!(count(&found, "not measured"), found.len() - 1);
        assert_eq!(results(&slow, false)[0], "missed");
        assert_eq!(results(&fast, true)[0], "too short to judge");
        let memory = |ours: f64| {
            let output = |mib: f64| json!({"peak_rss_mib": mib});
            let lines = [
                line("one", "lora", "flex", output(ours)),
                line("one", "lora", PEER, output(100.0)),
            ];
            results(&lines, false)
        };
        assert_eq!(count(&memory(45.0), "met"), 1);
        assert_eq!(count(&memory(46.0), "missed"), 1);
    }

    /// Nothing mapped is a measurement as well.
    #[test]
    fn zero_is_measured() {
        let mut none = line("one", "f32", "flex", json!({"mapped_mib": 0.0}));
        none.block = "loading".into();
        let lines = [none];
        let row = &loading(&Tries::of(&lines), "flex").rows[0];
        assert_eq!(row[5].text, "0.0");
        assert_eq!(row[4].text, "not measured");
    }

    /// The whole report of a few measurements: a newer setup hides older ones, what is missing is said, notes are kept.
    #[test]
    fn the_report_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = measurements(folder.path());
        assert!(write(folder.path()).is_err());
        let mut old = speed("old", "flex", 1234.0);
        old.setup = "old".into();
        measurement::append(&path, &old).unwrap();
        // A crash in the middle of a line.
        std::fs::write(
            &path,
            [std::fs::read(&path).unwrap(), b"{\"setup\"".to_vec()].concat(),
        )
        .unwrap();
        for line in [speed("one", "flex", 220.0), speed("one", PEER, 100.0)] {
            measurement::append(&path, &line).unwrap();
        }
        std::fs::write(folder.path().join("notes.md"), "What was tried.").unwrap();
        let readme = std::fs::read_to_string(write(folder.path()).unwrap()).unwrap();
        for part in [
            "| 220.0 | 100.0 | 2.200 |",
            "not measured",
            "with 1 of other builds",
            "What was tried.",
        ] {
            assert!(readme.contains(part), "{part}: {readme}");
        }
        assert!(!readme.contains("1234"), "{readme}");
        for name in ["ratios.csv", "ratios.svg", "ratios.png"] {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
    }
}
