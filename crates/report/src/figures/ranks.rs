//! Quality by rank, for sweeps over it.

use super::pareto::Quality;
use crate::comparison::{Comparison, Row};
use crate::figure::{Figure, Line, Mark, Panel, Scale, range};
use crate::style;

/// The axis.
const RANK: &str = "adapter.rank";

/// A panel for the held-out loss, or for the first metrics; `None` without an axis of ranks, or beside other axes.
pub fn figure(title: &str, comparison: &Comparison) -> Option<Figure> {
    if comparison.axes != [RANK] {
        return None;
    }
    let rows: Vec<(f64, &Row)> = (comparison.rows.iter())
        .filter_map(|row| Some((row.axes.first()?.parse().ok()?, row)))
        .collect();
    let qualities = Quality::of(comparison);
    let panels = qualities.iter().map(|quality| panel(quality, &rows));
    let legend = super::legend(rows.iter().map(|(_, row)| row.method.as_str()));
    super::of_panels(format!("{title}: by rank"), panels.collect(), 2, legend)
}

fn panel(quality: &Quality, rows: &[(f64, &Row)]) -> Panel {
    let mut methods: Vec<&str> = rows.iter().map(|(_, row)| row.method.as_str()).collect();
    methods.dedup();
    let (mut lines, mut marks, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (place, method) in methods.iter().enumerate() {
        let (colour, marker) = style::method_look(method);
        let aside = 0.012 * (place as f64 - (methods.len() - 1) as f64 / 2.0);
        let of_method = rows.iter().filter(|(_, row)| row.method == *method);
        let points: Vec<_> = of_method
            .filter_map(|(rank, row)| Some((*rank, quality.shown(quality.estimate(row)?))))
            .collect();
        for &(rank, (y, bar)) in &points {
            ends.push(y);
            ends.extend(bar.into_iter().flat_map(|(low, high)| [low, high]));
            marks.push(Mark {
                at: (rank, y),
                aside,
                colour,
                marker,
                bar,
            });
        }
        lines.push(Line {
            points: points.iter().map(|(rank, (y, _))| (*rank, *y)).collect(),
            colour,
            opacity: 1.0,
            width: 3,
            dashed: false,
        });
    }
    let ranks = || rows.iter().map(|(rank, _)| *rank);
    let (least, most) = ranks().fold((f64::INFINITY, 1.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let mut names: Vec<f64> = ranks().collect();
    names.sort_by(f64::total_cmp);
    names.dedup();
    Panel {
        title: quality.name().to_owned(),
        x_label: "Rank".into(),
        y_label: quality.label().into(),
        x_scale: Scale::Log,
        x_range: (least.min(most) / 1.3, most * 1.3),
        x_names: names.iter().map(|rank| (*rank, rank.to_string())).collect(),
        y_range: range(ends.into_iter()),
        lines,
        marks,
        ..Panel::default()
    }
}
