//! Loss against optimizer steps: training on the left, evaluations on the right, the held-out loss or else the score that
//! chooses the best step.

use crate::comparison::{axis_values, label, varying_axes};
use crate::figure::{Entry, Figure, Line, Mark, Panel, range};
use crate::record::{Run, Status, Step, natural};
use crate::style;

/// Points of a curve; more would only make the file larger.
const MOST_POINTS: usize = 600;
/// Points of all curves of a figure, so that many runs do not make it too large to be shown.
const MOST_POINTS_IN_ALL: usize = 60_000;
/// Markers of a panel, for the same reason; every curve has two.
const MOST_MARKERS: usize = 6_000;
/// Settings with a row of panels; nobody compares more by eye.
pub const MOST_SETTINGS: usize = 8;

/// Mean of the last `window` values at every place; a value that is not finite breaks the curve.
pub fn trailing_mean(values: &[f64], window: usize) -> Vec<f64> {
    let window = window.max(1);
    (0..values.len())
        .map(|end| {
            let start = (end + 1).saturating_sub(window);
            let part = values.get(start..=end).unwrap_or_default();
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect()
}

/// Steps of the trailing mean: a twentieth of the run, at least 3.
pub fn smoothing_window(steps: usize) -> usize {
    (steps / 20).max(3)
}

/// The curves of all runs that have steps; one row of panels for every value of the other axes. `None`
/// when no run has any. Of more than [`MOST_SETTINGS`] values the first are drawn.
pub fn loss_curves(title: &str, runs: &[Run]) -> Option<Figure> {
    let runs: Vec<&Run> = runs.iter().filter(|run| !run.steps.is_empty()).collect();
    let axes = varying_axes(runs.iter().map(|run| &run.record));
    let mut settings: Vec<Vec<String>> = Vec::new();
    let mut methods: Vec<&str> = Vec::new();
    for run in &runs {
        let values = axis_values(&run.record, &axes);
        if !settings.contains(&values) {
            settings.push(values);
        }
        if !methods.contains(&run.record.method.as_str()) {
            methods.push(&run.record.method);
        }
    }
    settings.sort_by_cached_key(|values| values.iter().map(|v| natural(v)).collect::<Vec<_>>());
    let mut title = title.to_owned();
    if settings.len() > MOST_SETTINGS {
        title += &format!(
            " (the first {MOST_SETTINGS} of {} settings)",
            settings.len()
        );
        settings.truncate(MOST_SETTINGS);
    }
    let most_points = (MOST_POINTS_IN_ALL / runs.len().max(1)).clamp(20, MOST_POINTS);
    let legend = methods
        .iter()
        .map(|method| {
            let (colour, marker) = style::method_look(method);
            Entry {
                label: style::method_name(method).to_owned(),
                colour,
                marker: Some(marker),
                dashed: false,
            }
        })
        .collect();
    // A head's loss is of texts, and a mean squared error is in no nats.
    let unit = match runs.iter().any(|run| run.record.head_parameters > 0) {
        true => "Loss",
        false => "Loss (nats per token)",
    };
    let steps = || runs.iter().flat_map(|run| &run.steps);
    let evaluations = if steps().any(|step| step.held_out_loss.is_some()) {
        Some(Evaluations::HeldOut)
    } else if steps().any(|step| step.metric.is_some()) {
        Some(Evaluations::Score)
    } else {
        None
    };
    let panels = settings.iter().flat_map(|values| {
        let of_setting: Vec<&Run> = runs
            .iter()
            .filter(|run| axis_values(&run.record, &axes) == *values)
            .copied()
            .collect();
        // The label of a method without a name is ", rank 8".
        let setting = label("", &axes, values).replacen(", ", "", 1);
        let right = evaluations.map(|kind| kind.panel(&of_setting, &setting, unit));
        std::iter::once(training(&of_setting, &setting, unit, most_points)).chain(right)
    });
    let panels: Vec<Panel> = panels.collect();
    (!panels.is_empty()).then_some(Figure {
        title,
        panels,
        columns: 2,
        legend,
    })
}

fn panel(name: &str, setting: &str, y_label: &str) -> Panel {
    Panel {
        title: if setting.is_empty() {
            name.to_owned()
        } else {
            format!("{name} ({setting})")
        },
        x_label: "Optimizer step".into(),
        y_label: y_label.into(),
        x_range: (0.0, 1.0),
        y_range: (0.0, 1.0),
        ..Panel::default()
    }
}

/// From 0 to the last step, with room for a marker at either end.
fn steps_range(runs: &[&Run]) -> (f64, f64) {
    let steps = runs.iter().flat_map(|run| &run.steps).map(|step| step.step);
    let last = steps.max().unwrap_or(0).max(1) as f64;
    (-0.02 * last, 1.02 * last)
}

fn training(runs: &[&Run], setting: &str, unit: &str, most_points: usize) -> Panel {
    let mut panel = panel("Training", setting, unit);
    panel.x_range = steps_range(runs);
    let (mut raw_lines, mut smooth_lines) = (Vec::new(), Vec::new());
    let (mut raw_values, mut smooth_values) = (Vec::new(), Vec::new());
    for run in runs {
        let (colour, _) = style::method_look(&run.record.method);
        let steps: Vec<&Step> = run.steps.iter().filter(|step| step.step > 0).collect();
        let losses: Vec<f64> = steps.iter().map(|s| s.loss.unwrap_or(f64::NAN)).collect();
        let smooth = trailing_mean(&losses, smoothing_window(losses.len()));
        let stride = losses.len().div_ceil(most_points).max(1);
        let line = |values: &[f64], opacity, width| Line {
            points: steps
                .iter()
                .zip(values)
                .step_by(stride)
                .map(|(step, &loss)| (step.step as f64, loss))
                .collect(),
            colour,
            opacity,
            width,
            dashed: false,
        };
        raw_lines.push(line(&losses, 0.16, 2));
        smooth_lines.push(line(&smooth, 1.0, 3));
        raw_values.extend(losses.into_iter().filter(|loss| loss.is_finite()));
        if run.record.status == Status::Finished {
            smooth_values.extend(smooth);
        }
    }
    // The few wildest batches, and the climb of a run that diverges, must not flatten all the rest.
    raw_values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * raw_values.len().saturating_sub(1) as f64).round() as usize;
        raw_values.get(index).copied()
    };
    let ends = [at(0.01), at(0.98)].into_iter().flatten();
    panel.y_range = range(ends.chain(smooth_values));
    panel.lines = raw_lines.into_iter().chain(smooth_lines).collect();
    panel
}

/// What is measured between steps.
#[derive(Debug, Clone, Copy)]
enum Evaluations {
    HeldOut,
    Score,
}

impl Evaluations {
    fn panel(self, runs: &[&Run], setting: &str, unit: &str) -> Panel {
        let mut panel = match self {
            Self::HeldOut => panel("Held-out", setting, unit),
            Self::Score => panel("Evaluated", setting, "Score of the task"),
        };
        panel.x_range = steps_range(runs);
        for run in runs {
            let (colour, marker) = style::method_look(&run.record.method);
            let value = |step: &Step| match self {
                Self::HeldOut => step.held_out_loss,
                Self::Score => step.metric,
            };
            let mut points: Vec<(f64, f64)> = run
                .steps
                .iter()
                .filter_map(|step| Some((step.step as f64, value(step)?)))
                .collect();
            if let (Self::HeldOut, Some(before)) = (self, run.record.held_out_loss_before)
                && points.first().is_none_or(|(step, _)| *step > 0.0)
            {
                points.insert(0, (0.0, before));
            }
            let most = (MOST_MARKERS / runs.len().max(1)).max(2);
            let stride = points.len().div_ceil(most).max(1);
            panel
                .marks
                .extend(points.iter().step_by(stride).map(|&at| Mark {
                    at,
                    aside: 0.0,
                    colour,
                    marker,
                    bar: None,
                }));
            panel.lines.push(Line {
                points,
                colour,
                opacity: 1.0,
                width: 3,
                dashed: false,
            });
        }
        let values = panel.lines.iter().flat_map(|line| &line.points);
        panel.y_range = range(values.map(|point| point.1));
        panel
    }
}
