//! Figures of a report beside its main ones, each in a section that is there only where the results have it.

pub mod convergence;
pub mod forest;
pub mod memory;
pub mod pareto;
pub mod ranks;

use crate::comparison::Comparison;
use crate::figure::{Entry, Figure};
use crate::record::Run;
use crate::section::{Block, Picture, Section};
use crate::style;

/// The sections of an experiment's report.
pub fn sections(title: &str, runs: &[Run], comparison: &Comparison) -> Vec<Section> {
    let all = [
        (
            "Convergence",
            "convergence",
            "Held-out loss or score against steps, tokens and seconds",
            "Means over seeds; the band is their standard deviation. Tokens and seconds are those of the optimizer steps alone.",
            convergence::figure(title, runs),
        ),
        (
            "Quality against size and memory",
            "pareto",
            "Quality against trained parameters and against memory, with the Pareto front",
            "Means with 95 % intervals. The dashed line joins the settings that no other is better than in both directions, by their means.",
            pareto::figure(title, comparison),
        ),
        (
            "By rank",
            "ranks",
            "Quality by rank",
            "Means with 95 % intervals, the methods beside one another.",
            ranks::figure(title, comparison),
        ),
        (
            "Differences from LoRA",
            "differences",
            "Differences from LoRA with their 95 % intervals",
            "Each setting less LoRA with the same other settings, with the 95 % interval; an interval that crosses the dashed line holds no difference.",
            forest::figure(title, comparison),
        ),
    ];
    all.into_iter()
        .filter_map(|(title, name, alt, caption, figure)| {
            let picture = Picture {
                name: name.into(),
                alt: alt.into(),
                caption: caption.into(),
                figure: figure?,
            };
            Some(Section {
                title: title.into(),
                blocks: vec![Block::Figure(picture)],
            })
        })
        .collect()
}

/// A legend of methods, each once, in their fixed order.
fn legend<'a>(methods: impl Iterator<Item = &'a str>) -> Vec<Entry> {
    let mut found: Vec<&str> = Vec::new();
    for method in methods {
        if !found.contains(&method) {
            found.push(method);
        }
    }
    found.sort_by_key(|method| style::method_order(method));
    let entry = |method: &str| {
        let (colour, marker) = style::method_look(method);
        Entry {
            label: style::method_name(method).to_owned(),
            colour,
            marker: Some(marker),
            dashed: false,
        }
    };
    found.into_iter().map(entry).collect()
}

/// A figure of `panels`, `None` without any.
fn of_panels(
    title: String,
    panels: Vec<crate::figure::Panel>,
    columns: usize,
    legend: Vec<Entry>,
) -> Option<Figure> {
    (!panels.is_empty()).then(|| Figure {
        title,
        columns: panels.len().min(columns),
        panels,
        legend,
    })
}
