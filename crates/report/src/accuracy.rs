//! Headline metrics against the number of trained parameters.

use crate::comparison::Comparison;
use crate::figure::{Entry, Figure, Line, Mark, Panel, Scale, range};
use crate::style;

/// One panel a headline metric, with 95 % intervals; the untouched model, which has no place on a
/// logarithmic axis, is a dashed line. `None` without metrics of trained models.
pub fn accuracy_by_parameters(title: &str, comparison: &Comparison) -> Option<Figure> {
    let trained = || {
        comparison
            .rows
            .iter()
            .filter(|row| row.trainable_parameters > 0)
    };
    let panels: Vec<Panel> = comparison
        .metrics
        .iter()
        .filter(|metric| trained().any(|row| row.metrics.contains_key(*metric)))
        .map(|metric| panel(metric, comparison))
        .collect();
    if panels.is_empty() {
        return None;
    }
    let mut legend: Vec<Entry> = Vec::new();
    for row in comparison.rows.iter().filter(|row| !row.metrics.is_empty()) {
        let (colour, marker) = style::method_look(&row.method);
        let label = style::method_name(&row.method).to_owned();
        let untouched = row.trainable_parameters == 0;
        if !legend.iter().any(|entry| entry.label == label) {
            legend.push(Entry {
                label,
                colour,
                marker: (!untouched).then_some(marker),
                dashed: untouched,
            });
        }
    }
    Some(Figure {
        title: title.to_owned(),
        columns: panels.len().min(2),
        panels,
        legend,
    })
}

fn panel(metric: &str, comparison: &Comparison) -> Panel {
    let percent = comparison.percent.contains(metric);
    let scale = if percent { 100.0 } else { 1.0 };
    let counts = comparison.rows.iter().map(|row| row.trainable_parameters);
    let counts: Vec<f64> = counts
        .filter(|count| *count > 0)
        .map(|count| count as f64)
        .collect();
    let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = counts.iter().copied().fold(1.0, f64::max);
    let x_range = (least.min(most) / 1.8, most * 1.8);

    let (mut lines, mut marks, mut heights) = (Vec::new(), Vec::new(), Vec::new());
    for row in &comparison.rows {
        let Some(estimate) = row.metrics.get(metric) else {
            continue;
        };
        let (colour, marker) = style::method_look(&row.method);
        let height = scale * estimate.mean;
        let bar = estimate
            .interval
            .map(|(low, high)| (scale * low, scale * high));
        heights.push(height);
        if row.trainable_parameters == 0 {
            lines.push(Line {
                points: vec![(x_range.0, height), (x_range.1, height)],
                colour,
                opacity: 1.0,
                width: 3,
                dashed: true,
            });
        } else {
            heights.extend(bar.into_iter().flat_map(|(low, high)| [low, high]));
            marks.push(Mark {
                at: (row.trainable_parameters as f64, height),
                aside: 0.0,
                colour,
                marker,
                bar,
            });
        }
    }
    move_apart(&mut marks, x_range);
    let mut y_range = range(heights.into_iter());
    if percent {
        y_range = (y_range.0.max(-2.0), y_range.1.min(102.0));
    }
    Panel {
        title: metric.to_owned(),
        x_label: "Trainable parameters".into(),
        y_label: if percent {
            "Score (%), 95 % interval".into()
        } else {
            "Score, 95 % interval".into()
        },
        x_scale: Scale::Log,
        x_range,
        y_range,
        lines,
        marks,
        ..Panel::default()
    }
}

/// Moves markers that would cover each other apart sideways, by a fortieth of the axis; methods often
/// train exactly as many parameters as another.
fn move_apart(marks: &mut [Mark], x_range: (f64, f64)) {
    const STEP: f64 = 1.0 / 40.0;
    let near = (x_range.1 / x_range.0).powf(STEP / 2.0);
    marks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    for group in marks.chunk_by_mut(|a, b| b.at.0 < a.at.0 * near) {
        let middle = (group.len() - 1) as f64 / 2.0;
        for (index, mark) in group.iter_mut().enumerate() {
            mark.aside = STEP * (index as f64 - middle);
        }
    }
}
