//! Evaluations along training, means over seeds with a band, against steps, tokens and seconds.

use std::collections::BTreeMap;

use crate::comparison::{axis_values, label, varying_axes};
use crate::figure::{Area, Figure, Line, Mark, Panel, range};
use crate::record::{Run, Status, Step, natural};
use crate::statistics::{mean, standard_deviation};
use crate::style;

/// Settings with a row of panels.
const MOST_SETTINGS: usize = 6;

/// One evaluation of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    /// Steps, tokens and seconds before it.
    along: [f64; 3],
    value: f64,
}

/// What the three panels of a row count.
const ALONG: [(&str, &str); 3] = [
    ("By steps", "Optimizer step"),
    ("By tokens", "Training tokens"),
    ("By time", "Seconds of training"),
];

/// A row of three panels for each value of the other axes; `None` unless a run has two evaluations behind its first step. The held-out loss, or
/// else the score that chooses the best step. What was measured before training is left out: it would flatten all the rest.
pub fn figure(title: &str, runs: &[Run]) -> Option<Figure> {
    let finished = |run: &&Run| run.record.status == Status::Finished && !run.steps.is_empty();
    let runs: Vec<&Run> = runs.iter().filter(finished).collect();
    let any = |value: fn(&Step) -> Option<f64>| {
        runs.iter()
            .flat_map(|run| &run.steps)
            .any(|step| value(step).is_some())
    };
    let losses = any(|step| step.held_out_loss);
    let curves: Vec<(&Run, Vec<Point>)> = runs
        .iter()
        .map(|run| (*run, evaluations(run, losses)))
        .filter(|(_, points)| points.len() > 1)
        .collect();
    let axes = varying_axes(curves.iter().map(|(run, _)| &run.record));
    let mut settings: BTreeMap<Vec<_>, Vec<String>> = BTreeMap::new();
    for (run, _) in &curves {
        let values = axis_values(&run.record, &axes);
        let key = values.iter().map(|value| natural(value)).collect();
        settings.insert(key, values);
    }
    let panels = settings.values().take(MOST_SETTINGS).flat_map(|values| {
        let of_setting: Vec<&(&Run, Vec<Point>)> = curves
            .iter()
            .filter(|(run, _)| axis_values(&run.record, &axes) == *values)
            .collect();
        let setting = label("", &axes, values).replacen(", ", "", 1);
        (0..3).map(move |place| panel(place, &setting, losses, &of_setting))
    });
    let methods = curves.iter().map(|(run, _)| run.record.method.as_str());
    let legend = super::legend(methods);
    super::of_panels(format!("{title}: convergence"), panels.collect(), 3, legend)
}

fn evaluations(run: &Run, losses: bool) -> Vec<Point> {
    let mut along = [0.0; 3];
    let mut points = Vec::new();
    for step in run.steps.iter().filter(|step| step.step > 0) {
        // A step counts the tokens of all before it too.
        let tokens = step.tokens as f64;
        along[2] += (tokens - along[1]) / step.tokens_per_second;
        along[1] = tokens;
        along[0] = step.step as f64;
        let value = if losses {
            step.held_out_loss
        } else {
            step.metric
        };
        points.extend(value.map(|value| Point { along, value }));
    }
    points
}

fn panel(place: usize, setting: &str, losses: bool, curves: &[&(&Run, Vec<Point>)]) -> Panel {
    let mut by_method: BTreeMap<(usize, String), Vec<&Vec<Point>>> = BTreeMap::new();
    for (run, points) in curves {
        let method = style::method_order(&run.record.method);
        by_method.entry(method).or_default().push(points);
    }
    let (mut areas, mut lines, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for ((_, method), seeds) in by_method {
        let (colour, marker) = style::method_look(&method);
        let length = seeds.iter().map(|points| points.len()).min().unwrap_or(0);
        let (mut upper, mut lower, mut middle) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..length {
            let over = |value: &dyn Fn(&Point) -> f64| -> Vec<f64> {
                seeds.iter().map(|points| value(&points[at])).collect()
            };
            let (Some(x), values) = (mean(&over(&|p| p.along[place])), over(&|p| p.value)) else {
                continue;
            };
            let Some(y) = mean(&values).filter(|y| y.is_finite() && x.is_finite()) else {
                continue;
            };
            let spread = standard_deviation(&values).unwrap_or(0.0);
            upper.push((x, y + spread));
            lower.push((x, y - spread));
            middle.push((x, y));
            xs.push(x);
            ys.extend([y - spread, y + spread]);
        }
        lower.reverse();
        areas.push(Area {
            outline: [upper, lower].concat(),
            colour,
            opacity: 0.2,
        });
        marks.extend(middle.iter().map(|&at| Mark {
            at,
            aside: 0.0,
            colour,
            marker,
            bar: None,
        }));
        lines.push(Line {
            points: middle,
            colour,
            opacity: 1.0,
            width: 3,
            dashed: false,
        });
    }
    let last = xs.into_iter().fold(1.0, f64::max);
    Panel {
        title: match setting {
            "" => ALONG[place].0.to_owned(),
            setting => setting.to_owned(),
        },
        x_label: ALONG[place].1.into(),
        y_label: if losses {
            "Held-out loss"
        } else {
            "Score of the task"
        }
        .into(),
        x_range: (-0.02 * last, 1.03 * last),
        y_range: range(ys.into_iter()),
        areas,
        lines,
        marks,
        ..Panel::default()
    }
}
