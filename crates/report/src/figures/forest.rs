//! A forest plot: every setting's difference from LoRA with its 95 % interval, one panel a metric.

use crate::comparison::{Comparison, lower_is_better};
use crate::difference::Difference;
use crate::figure::{Figure, INK, Line, Mark, Panel, range};
use crate::style;

/// Metrics that are drawn.
const MOST_METRICS: usize = 6;
/// Settings whose names fit below a panel.
const MOST_NAMES: usize = 6;

/// The held-out loss and the metrics, each with at least one interval; `None` without any.
pub fn figure(title: &str, comparison: &Comparison) -> Option<Figure> {
    let metrics = comparison.metrics.iter().take(MOST_METRICS);
    let names = std::iter::once(None).chain(metrics.map(|metric| Some(metric.as_str())));
    let panels: Vec<Panel> = names.filter_map(|name| panel(comparison, name)).collect();
    let trained = comparison
        .rows
        .iter()
        .filter(|row| row.trainable_parameters > 0);
    let methods = trained.map(|row| row.method.as_str());
    let legend = super::legend(methods.filter(|method| *method != "lora"));
    super::of_panels(format!("{title}: differences from LoRA"), panels, 2, legend)
}

/// The differences of a metric, or of the held-out loss, from LoRA, by row.
fn differences(comparison: &Comparison, metric: Option<&str>) -> Vec<(usize, Difference)> {
    let references = comparison.references();
    let losses = comparison.loss_pairs();
    let against = |row: usize| {
        let reference = references[row]?;
        let of_row = &comparison.rows[row];
        // The untouched model is so far away that the others would lie on one another.
        let lora = comparison.rows[reference].method == "lora"
            && of_row.method != "lora"
            && of_row.trainable_parameters > 0;
        let found = match metric {
            Some(metric) => comparison.pairs.get(metric)?.difference(row, reference)?,
            None => losses.difference(row, reference)?,
        };
        (lora && found.interval.is_some()).then_some((row, found))
    };
    (0..comparison.rows.len()).filter_map(against).collect()
}

fn panel(comparison: &Comparison, metric: Option<&str>) -> Option<Panel> {
    let found = differences(comparison, metric);
    if found.is_empty() {
        return None;
    }
    let lower = metric.is_none_or(lower_is_better);
    let percent = !lower && metric.is_some_and(|metric| comparison.percent.contains(metric));
    let scale = if percent { 100.0 } else { 1.0 };
    let (mut marks, mut names, mut ends) = (Vec::new(), Vec::new(), vec![0.0]);
    for (place, (row, difference)) in found.iter().enumerate() {
        let row = &comparison.rows[*row];
        let (colour, marker) = style::method_look(&row.method);
        let x = place as f64;
        let bar = difference
            .interval
            .map(|(low, high)| (scale * low, scale * high));
        ends.extend(bar.into_iter().flat_map(|(low, high)| [low, high]));
        names.push((x, row.label.clone()));
        marks.push(Mark {
            at: (x, scale * difference.value),
            aside: 0.0,
            colour,
            marker,
            bar,
        });
    }
    if names.len() > MOST_NAMES {
        names = names.into_iter().map(|(x, _)| (x, String::new())).collect();
    }
    let x_range = (-0.6, found.len() as f64 - 0.4);
    Some(Panel {
        title: metric.unwrap_or("Held-out loss").to_owned(),
        x_label: if lower {
            "below the line: better than LoRA"
        } else {
            "above the line: better than LoRA"
        }
        .into(),
        y_label: if percent {
            "Difference (points)"
        } else {
            "Difference"
        }
        .into(),
        x_range,
        x_names: names,
        y_range: range(ends.into_iter()),
        lines: vec![Line {
            points: vec![(x_range.0, 0.0), (x_range.1, 0.0)],
            colour: INK,
            opacity: 0.7,
            width: 3,
            dashed: true,
        }],
        marks,
        ..Panel::default()
    })
}
