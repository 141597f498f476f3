//! Quality against what it costs, trained parameters and memory, with the Pareto front of the means.

use crate::comparison::{Comparison, Row, lower_is_better};
use crate::figure::{Figure, INK, Line, Mark, Panel, Scale, range};
use crate::number::mebibytes;
use crate::statistics::Estimate;
use crate::style;

/// Metrics that are drawn where there is no held-out loss.
const MOST_METRICS: usize = 2;

/// For the held-out loss, or where there is none for the first metrics, a panel against trained parameters and one against the
/// peak of memory. `None` unless two trained settings have it.
pub fn figure(title: &str, comparison: &Comparison) -> Option<Figure> {
    let trained: Vec<&Row> = comparison
        .rows
        .iter()
        .filter(|row| row.trainable_parameters > 0)
        .collect();
    let qualities: Vec<Quality> = Quality::of(comparison)
        .into_iter()
        .filter(|quality| {
            trained
                .iter()
                .filter(|row| quality.estimate(row).is_some())
                .count()
                > 1
        })
        .collect();
    let panels = qualities
        .iter()
        .flat_map(|quality| [true, false].map(|parameters| panel(quality, &trained, parameters)));
    let legend = super::legend(trained.iter().map(|row| row.method.as_str()));
    super::of_panels(
        format!("{title}: what quality costs"),
        panels.collect(),
        2,
        legend,
    )
}

/// What is drawn along the side.
pub(super) struct Quality {
    /// The metric; `None`: the held-out loss.
    pub metric: Option<String>,
    /// Whether it is shown in percent.
    pub percent: bool,
}

impl Quality {
    /// The held-out loss, or else the first metrics.
    pub fn of(comparison: &Comparison) -> Vec<Self> {
        if comparison
            .rows
            .iter()
            .any(|row| row.held_out_loss.is_some())
        {
            return vec![Self {
                metric: None,
                percent: false,
            }];
        }
        let metrics = comparison.metrics.iter().take(MOST_METRICS);
        let metrics = metrics.map(|metric| Self {
            percent: comparison.percent.contains(metric) && !lower_is_better(metric),
            metric: Some(metric.clone()),
        });
        metrics.collect()
    }

    pub fn estimate<'a>(&self, row: &'a Row) -> Option<&'a Estimate> {
        match &self.metric {
            Some(metric) => row.metrics.get(metric),
            None => row.held_out_loss.as_ref(),
        }
    }

    pub fn scale(&self) -> f64 {
        if self.percent { 100.0 } else { 1.0 }
    }

    pub fn name(&self) -> &str {
        self.metric.as_deref().unwrap_or("Held-out loss")
    }

    fn lower_is_better(&self) -> bool {
        self.metric.as_deref().is_none_or(lower_is_better)
    }

    pub fn label(&self) -> &'static str {
        match (&self.metric, self.percent) {
            (None, _) => "Held-out loss (nats per token)",
            (_, true) => "Score (%)",
            _ => "Score",
        }
    }

    /// Mean and interval in the unit that is shown.
    pub fn shown(&self, estimate: &Estimate) -> (f64, Option<(f64, f64)>) {
        let scale = self.scale();
        let interval = estimate.interval;
        let interval = interval.map(|(low, high)| (scale * low, scale * high));
        (scale * estimate.mean, interval)
    }
}

fn panel(quality: &Quality, rows: &[&Row], parameters: bool) -> Panel {
    let cost = |row: &Row| match parameters {
        true => Some(row.trainable_parameters as f64),
        false => row.peak_memory_bytes.map(mebibytes),
    };
    let mut marks = Vec::new();
    let mut ends = Vec::new();
    for row in rows {
        let (Some(x), Some(estimate)) = (cost(row), quality.estimate(row)) else {
            continue;
        };
        let (colour, marker) = style::method_look(&row.method);
        let (y, bar) = quality.shown(estimate);
        ends.push(y);
        ends.extend(bar.into_iter().flat_map(|(low, high)| [low, high]));
        marks.push(Mark {
            at: (x, y),
            aside: 0.0,
            colour,
            marker,
            bar,
        });
    }
    let costs = marks.iter().map(|mark| mark.at.0);
    let x_range = match parameters {
        true => {
            let (least, most) =
                costs.fold((f64::INFINITY, 1.0f64), |(a, b), x| (a.min(x), b.max(x)));
            (least.min(most) / 1.8, most * 1.8)
        }
        false => range(costs),
    };
    let points: Vec<(f64, f64)> = marks.iter().map(|mark| mark.at).collect();
    Panel {
        title: quality.name().to_owned(),
        x_label: if parameters {
            "Trained parameters"
        } else {
            "Peak memory (MiB)"
        }
        .into(),
        y_label: quality.label().into(),
        x_scale: if parameters {
            Scale::Log
        } else {
            Scale::Linear
        },
        x_range,
        y_range: range(ends.into_iter()),
        lines: vec![Line {
            points: front(&points, quality.lower_is_better()),
            colour: INK,
            opacity: 0.6,
            width: 2,
            dashed: true,
        }],
        marks,
        ..Panel::default()
    }
}

/// The points `(cost, quality)` that no other point equals or beats in both, strictly in one, by cost.
pub fn front(points: &[(f64, f64)], lower_is_better: bool) -> Vec<(f64, f64)> {
    let sign = if lower_is_better { 1.0 } else { -1.0 };
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| {
        a.0.total_cmp(&b.0)
            .then((sign * a.1).total_cmp(&(sign * b.1)))
    });
    let mut front: Vec<(f64, f64)> = Vec::new();
    for point in sorted {
        if front
            .last()
            .is_none_or(|last| sign * point.1 < sign * last.1)
        {
            front.push(point);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The definition itself: a point is on the front just where no other dominates it.
        #[test]
        fn the_front_is_what_nothing_dominates(
            points in proptest::collection::vec((0..20u8, 0..20u8), 1..30),
            lower in any::<bool>(),
        ) {
            let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (f64::from(*x), f64::from(*y))).collect();
            let sign = if lower { 1.0 } else { -1.0 };
            let dominates = |a: &(f64, f64), b: &(f64, f64)| {
                a.0 <= b.0 && sign * a.1 <= sign * b.1 && (a.0 < b.0 || sign * a.1 < sign * b.1)
            };
            let found = front(&points, lower);
            for point in &points {
                let expected = !points.iter().any(|other| dominates(other, point));
                prop_assert_eq!(found.contains(point), expected);
            }
        }
    }
}
