//! A figure on the page: each panel an SVG of its own, so that a phone shows them one below the other, and for each the values
//! that pointing shows.

use std::fmt::Write;

use plotters::style::RGBColor;
use serde_json::{Value, json};

use super::html::{attribute, escape, text};
use super::look::{Looks, line, named, recoloured};
use crate::figure::{Axes, Figure, PANEL_SIZE, Panel, panel_elements};
use crate::number::{fixed, thousands};
use crate::section::Picture;
use crate::style::Marker;

/// Values of a panel that can be pointed at.
const MOST_POINTS: usize = 1500;
/// Of one line; between two of them a reader sees where it runs.
const MOST_OF_A_LINE: usize = 60;

/// A number with four significant digits, whole numbers with all of theirs.
fn shown(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let whole = thousands(size.round() as u64);
        return if value < 0.0 {
            format!("−{whole}")
        } else {
            whole
        };
    }
    if value.fract() == 0.0 {
        return fixed(value, 0);
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6);
    fixed(value, decimals as usize)
}

/// The figure with its legend and caption; the values of its panels go to `points`.
pub fn figure(picture: &Picture, looks: &Looks, points: &mut Vec<Value>) -> Result<String, String> {
    let figure = &picture.figure;
    let mut html = format!(
        "<figure id=\"figure-{}\">\n<p class=\"title\">{}</p>\n<div class=\"panels\">\n",
        attribute(&picture.name),
        escape(&figure.title)
    );
    let (width, height) = PANEL_SIZE;
    for panel in &figure.panels {
        let (elements, axes) = panel_elements(panel)?;
        let label = format!("{}: {}. {}", picture.alt, panel.title, ranges(panel));
        let _ = write!(
            html,
            "<svg class=\"panel\" viewBox=\"0 0 {width} {height}\" role=\"img\" tabindex=\"0\" aria-label=\"{}\" \
             data-points=\"{}\">\n{}</svg>\n",
            attribute(&label),
            points.len(),
            recoloured(&elements)
        );
        points.push(values(figure, panel, &axes));
    }
    html += "</div>\n<ul class=\"legend\">";
    for entry in &figure.legend {
        let mark = looks.place_of_name(&entry.label).filter(|_| !entry.dashed);
        let content = match mark {
            Some(_) => named(looks, &entry.label),
            None => line(entry.colour, entry.dashed) + &escape(&entry.label),
        };
        let _ = write!(html, "<li>{content}</li>");
    }
    let _ = write!(
        html,
        "</ul>\n<figcaption>{} <span class=\"screen\">Point at a figure, or focus it and press the arrow keys, for values.\
         </span></figcaption>\n</figure>\n",
        text(&picture.caption)
    );
    Ok(html)
}

/// What the axes show, for those who do not see them.
fn ranges(panel: &Panel) -> String {
    if !panel.y_names.is_empty() {
        return format!(
            "{} along the bottom, {} along the side.",
            panel.x_label, panel.y_label
        );
    }
    format!(
        "{}, {} to {}; {}, {} to {}.",
        panel.x_label,
        shown(panel.x_range.0.max(0.0)),
        shown(panel.x_range.1),
        panel.y_label,
        shown(panel.y_range.0),
        shown(panel.y_range.1)
    )
}

/// The values of a panel: `[x, y, name, value along the bottom, value along the side]`, the first two in the drawing's pixels.
fn values(figure: &Figure, panel: &Panel, axes: &Axes) -> Value {
    let name = |colour: RGBColor, marker: Option<Marker>| {
        let mut fitting = figure
            .legend
            .iter()
            .filter(|entry| entry.colour == colour && (marker.is_none() || entry.marker == marker));
        match (fitting.next(), fitting.next()) {
            (Some(entry), None) => entry.label.as_str(),
            // Several share the colour.
            _ => "",
        }
    };
    let along = |x: f64| {
        let place = panel.x_names.iter().find(|(at, _)| *at == x);
        place.map_or_else(|| shown(x), |(_, name)| name.clone())
    };
    let mut values: Vec<Value> = Vec::new();
    let beside = |y: f64| {
        let place = panel.y_names.iter().find(|(at, _)| *at == y);
        place.map(|(_, name)| name.clone())
    };
    for words in &panel.words {
        let (x, y) = words.at;
        let name = beside(y).unwrap_or_default();
        values.push(json!([
            axes.x(x, 0.0),
            axes.y(y),
            name,
            along(x),
            words.text
        ]));
    }
    let stride = panel.marks.len().div_ceil(MOST_POINTS).max(1);
    for mark in panel.marks.iter().step_by(stride) {
        let (x, y) = mark.at;
        if x.is_finite() && y.is_finite() {
            let bar = mark.bar.map_or_else(String::new, |(low, high)| {
                format!(" ({} to {})", shown(low), shown(high))
            });
            values.push(json!([
                axes.x(x, mark.aside),
                axes.y(y),
                name(mark.colour, Some(mark.marker)),
                along(x),
                shown(y) + &bar,
            ]));
        }
    }
    // Lines through markers have their values; faint ones lie behind others.
    let strong = panel.lines.iter().filter(|line| line.opacity == 1.0);
    let marked = |point: &(f64, f64)| panel.marks.iter().any(|mark| mark.at == *point);
    let lines: Vec<_> = strong.filter(|l| !l.points.iter().any(marked)).collect();
    let room = MOST_POINTS.saturating_sub(values.len()) / lines.len().max(1);
    for line in lines {
        let most = room.clamp(1, MOST_OF_A_LINE);
        let stride = line.points.len().div_ceil(most).max(1);
        for &(x, y) in line.points.iter().step_by(stride) {
            if x.is_finite() && y.is_finite() {
                let name = name(line.colour, None);
                values.push(json!([axes.x(x, 0.0), axes.y(y), name, along(x), shown(y)]));
            }
        }
    }
    json!({"x": panel.x_label, "y": panel.y_label, "values": values})
}
