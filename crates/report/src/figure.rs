//! Figures as plain data, and the one function that draws them, on any backend.
//!
//! A [`Figure`] is panels in a grid above one legend. It is drawn at [`SCALE`] pixels a point: the PNG
//! keeps those pixels, the SVG is the same drawing shown at its size in points.

use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
pub use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, FontTransform, register_font};

use crate::error::{Error, Result};
use crate::file;
use crate::style::Marker;

pub mod heat_map;

/// Pixels a point.
const SCALE: i32 = 2;
/// Size of a panel in points, its labels included.
const PANEL: (i32, i32) = (470, 330);
const TITLE_HEIGHT: i32 = 44;
const LEGEND_LINE: i32 = 26;
/// Room of a panel for its labels: left, right, top, bottom, in points.
const MARGIN: (i32, i32, i32, i32) = (72, 18, 34, 54);
/// Sizes of text in points.
const TITLE: i32 = 19;
const TEXT: i32 = 15;
const SMALL: i32 = 14;

/// Both backends set a line of digits a little above the middle they are asked for; in pixels.
const DROP: i32 = 3;

/// Colour of texts and frames.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Colour of the lines behind the data.
pub const GRID: RGBColor = RGBColor(226, 226, 226);

/// A line through points in data coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Points; one that is not finite breaks the line.
    pub points: Vec<(f64, f64)>,
    /// Colour.
    pub colour: RGBColor,
    /// From 0 (invisible) to 1.
    pub opacity: f64,
    /// Width in pixels.
    pub width: u32,
    /// Whether the line is dashed.
    pub dashed: bool,
}

/// A filled outline in data coordinates: a band around a curve, a part of a bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    /// Corners.
    pub outline: Vec<(f64, f64)>,
    /// Colour.
    pub colour: RGBColor,
    /// From 0 (invisible) to 1.
    pub opacity: f64,
}

/// A marker in data coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Place.
    pub at: (f64, f64),
    /// How far to the right of it the marker is drawn, as a share of the axis, where it would cover another.
    pub aside: f64,
    /// Colour.
    pub colour: RGBColor,
    /// Shape.
    pub marker: Marker,
    /// Ends of a vertical error bar.
    pub bar: Option<(f64, f64)>,
}

/// How numbers stand along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm; data are given as they are and must be positive.
    Log,
}

/// Words in data coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Words {
    /// Their middle.
    pub at: (f64, f64),
    /// What they say.
    pub text: String,
}

/// One pair of axes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// Heading.
    pub title: String,
    /// What stands along the bottom.
    pub x_label: String,
    /// What stands along the side.
    pub y_label: String,
    /// The horizontal scale; the vertical one is linear.
    pub x_scale: Scale,
    /// Horizontal range.
    pub x_range: (f64, f64),
    /// Names of places along the bottom, instead of numbers.
    pub x_names: Vec<(f64, String)>,
    /// Names of places along the side, instead of numbers.
    pub y_names: Vec<(f64, String)>,
    /// Vertical range; data beyond it are drawn at its edge.
    pub y_range: (f64, f64),
    /// Areas, below all lines.
    pub areas: Vec<Area>,
    /// Lines, first below.
    pub lines: Vec<Line>,
    /// Markers, above all lines.
    pub marks: Vec<Mark>,
    /// Words, above all else.
    pub words: Vec<Words>,
}

/// One entry of the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name.
    pub label: String,
    /// Colour.
    pub colour: RGBColor,
    /// Shape; none for a plain line.
    pub marker: Option<Marker>,
    /// Whether its line is dashed.
    pub dashed: bool,
}

/// Panels in a grid, a title above, a legend below.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Title.
    pub title: String,
    /// Panels, row by row.
    pub panels: Vec<Panel>,
    /// Panels in a row.
    pub columns: usize,
    /// Legend.
    pub legend: Vec<Entry>,
}

/// A range around `values` with a little room; of nothing, or of one value, a range around that.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| value.is_finite()) {
        low = low.min(value);
        high = high.max(value);
    }
    if low > high {
        return (0.0, 1.0);
    }
    let room = 0.06 * (high - low);
    if room > 1e-9 * high.abs().max(1e-9) {
        (low - room, high + room)
    } else {
        let room = (0.05 * high.abs()).max(1e-3);
        (low - room, high + room)
    }
}

/// Round numbers inside `range`, about `count` of them, and the decimals they need.
pub fn ticks(range: (f64, f64), count: usize) -> (Vec<f64>, usize) {
    let span = range.1 - range.0;
    if !(span.is_finite() && span > 0.0) {
        return (Vec::new(), 0);
    }
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(10.0 * power);
    // A step of 5e-4 needs four decimals; the small term keeps 0.1's logarithm at -1.
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    let first = (range.0 / step).ceil() as i64;
    let last = (range.1 / step).floor() as i64;
    let ticks = (first..=last).take(100).map(|index| index as f64 * step);
    (ticks.collect(), decimals)
}

/// 1, 2 and 5 times the powers of ten inside `range`; powers alone when that is enough.
fn log_ticks(range: (f64, f64)) -> Vec<f64> {
    let decades = range.0.log10().floor() as i32..=range.1.log10().ceil() as i32;
    let inside = |factors: &[f64]| -> Vec<f64> {
        decades
            .clone()
            .flat_map(|decade| {
                factors
                    .iter()
                    .map(move |factor| factor * 10f64.powi(decade))
            })
            .filter(|tick| (range.0..=range.1).contains(tick))
            .collect()
    };
    let powers = inside(&[1.0]);
    if powers.len() >= 3 {
        powers
    } else {
        inside(&[1.0, 2.0, 5.0])
    }
}

/// `20000` as `20k`, `1500000` as `1.5M`: short enough to stand under a tick.
fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        size if size >= 1e9 => (number / 1e9, "G"),
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The bundled font, known to the plotting library as `sans-serif`, so that an SVG names a family every
/// viewer has. Registered once.
fn font() -> std::result::Result<(), String> {
    static FONT: &[u8] = include_bytes!("../assets/DejaVuSans-subset.ttf");
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| register_font("sans-serif", FontStyle::Normal, FONT).is_ok());
    if *done {
        Ok(())
    } else {
        Err("the bundled font cannot be read".into())
    }
}

fn text_style(points: i32) -> TextStyle<'static> {
    ("sans-serif", points * SCALE).into_font().color(&INK)
}

/// Of a text from the bottom to the top, by its middle.
fn upright(points: i32) -> TextStyle<'static> {
    ("sans-serif", points * SCALE)
        .into_font()
        .transform(FontTransform::Rotate270)
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Center))
}

/// Width of a text in pixels.
fn text_width(text: &str, points: i32) -> i32 {
    let size = ("sans-serif", points * SCALE).into_font().box_size(text);
    size.map_or(0, |(width, _)| i32::try_from(width).unwrap_or(0))
}

/// The largest size up to `points` at which `text` is no wider than `room` pixels; never below 9.
fn fitting(text: &str, points: i32, room: i32) -> i32 {
    let fits = |size: &i32| text_width(text, *size) <= room;
    (9..=points).rev().find(fits).unwrap_or(9)
}

impl Figure {
    fn grid(&self) -> (i32, i32) {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let rows = self.panels.len().div_ceil(columns);
        (columns as i32, rows as i32)
    }

    /// Entries by line of the legend.
    fn legend_lines(&self) -> Vec<Vec<(&Entry, i32)>> {
        let room = (self.grid().0 * PANEL.0 - 24) * SCALE;
        let mut lines: Vec<Vec<(&Entry, i32)>> = vec![Vec::new()];
        let mut used = 0;
        for entry in &self.legend {
            let width = text_width(&entry.label, TEXT) + 62 * SCALE;
            if used > 0 && used + width > room {
                lines.push(Vec::new());
                used = 0;
            }
            used += width;
            if let Some(line) = lines.last_mut() {
                line.push((entry, width));
            }
        }
        lines
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        // The size depends on the width of the legend's texts; without a font it is still a size.
        let _ = font();
        let (columns, rows) = self.grid();
        let legend = self.legend_lines().len() as i32 * LEGEND_LINE + 12;
        let height = TITLE_HEIGHT + rows * PANEL.1 + legend;
        ((columns * PANEL.0 * SCALE) as u32, (height * SCALE) as u32)
    }
}

type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A picture of plain data.
pub trait Drawing {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws it on an area of its size.
    ///
    /// # Errors
    /// Those of the backend.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B>;
}

impl Drawing for Figure {
    fn size(&self) -> (u32, u32) {
        Figure::size(self)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        draw(area, self)
    }
}

/// Draws `figure` on an area of [`Figure::size`].
pub fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, figure: &Figure) -> Drawn<B> {
    area.fill(&WHITE)?;
    let (columns, rows) = figure.grid();
    let middle = columns * PANEL.0 * SCALE / 2;
    let centre = Pos::new(HPos::Center, VPos::Center);
    let room = 2 * middle - 20 * SCALE;
    let title = text_style(fitting(&figure.title, TITLE, room)).pos(centre);
    area.draw(&Text::new(
        figure.title.as_str(),
        (middle, 24 * SCALE),
        title,
    ))?;
    for (index, panel) in (0i32..).zip(&figure.panels) {
        let left = index % columns * PANEL.0;
        let top = TITLE_HEIGHT + index / columns * PANEL.1;
        draw_panel(area, panel, (left, top))?;
    }
    let mut y = (TITLE_HEIGHT + rows * PANEL.1 + LEGEND_LINE / 2) * SCALE;
    for line in figure.legend_lines() {
        let width: i32 = line.iter().map(|(_, width)| width).sum();
        let mut x = middle - width / 2 + 14 * SCALE;
        for (entry, width) in line {
            let end = x + 30 * SCALE;
            draw_line(
                area,
                &[(x, y), (end, y)],
                entry.colour.mix(1.0),
                4,
                entry.dashed,
            )?;
            if let Some(marker) = entry.marker {
                draw_marker(area, (x + 15 * SCALE, y), marker, entry.colour)?;
            }
            let style = text_style(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(
                entry.label.as_str(),
                (end + 7 * SCALE, y + DROP),
                style,
            ))?;
            x += width;
        }
        y += LEGEND_LINE * SCALE;
    }
    area.present()
}

/// Where the values of a panel stand in its drawing, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Axes<'a> {
    panel: &'a Panel,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl<'a> Axes<'a> {
    /// Those of a panel whose upper left corner is at `corner`, in points.
    fn new(panel: &'a Panel, corner: (i32, i32)) -> Self {
        Self {
            panel,
            left: (corner.0 + MARGIN.0) * SCALE,
            right: (corner.0 + PANEL.0 - MARGIN.1) * SCALE,
            top: (corner.1 + MARGIN.2) * SCALE,
            bottom: (corner.1 + PANEL.1 - MARGIN.3) * SCALE,
        }
    }

    fn along(value: f64, range: (f64, f64)) -> f64 {
        (value - range.0) / (range.1 - range.0)
    }

    /// Of a value along the bottom, `aside` of the axis to the right of it.
    pub fn x(&self, x: f64, aside: f64) -> i32 {
        let (low, high) = self.panel.x_range;
        let along = match self.panel.x_scale {
            Scale::Linear => Self::along(x, (low, high)),
            Scale::Log => Self::along(x.log10(), (low.log10(), high.log10())),
        };
        let share = (along + aside).clamp(0.0, 1.0);
        self.left + (share * f64::from(self.right - self.left)).round() as i32
    }

    /// Of a value along the side.
    pub fn y(&self, y: f64) -> i32 {
        let share = Self::along(y, self.panel.y_range).clamp(0.0, 1.0);
        self.bottom - (share * f64::from(self.bottom - self.top)).round() as i32
    }
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    corner: (i32, i32),
) -> Drawn<B> {
    let axes = Axes::new(panel, corner);
    let Axes {
        left,
        right,
        top,
        bottom,
        ..
    } = axes;
    let x_at = |x| axes.x(x, 0.0);
    let y_at = |y| axes.y(y);

    let anchored = |points, h_pos, v_pos| text_style(points).pos(Pos::new(h_pos, v_pos));
    let (x_ticks, x_decimals) = match panel.x_scale {
        _ if !panel.x_names.is_empty() => (Vec::new(), 0),
        Scale::Linear => ticks(panel.x_range, 6),
        Scale::Log => (log_ticks(panel.x_range), 0),
    };
    let room = (right - left) / panel.x_names.len().max(1) as i32 - 4 * SCALE;
    let names = panel.x_names.iter().map(|(_, name)| name);
    let size = names.map(|name| fitting(name, SMALL, room)).min();
    for (x, name) in &panel.x_names {
        let style = anchored(size.unwrap_or(SMALL), HPos::Center, VPos::Center);
        let place = (x_at(*x), bottom + 13 * SCALE);
        area.draw(&Text::new(name.as_str(), place, style))?;
    }
    for tick in x_ticks {
        let x = x_at(tick);
        area.draw(&PathElement::new(
            [(x, top), (x, bottom)],
            GRID.stroke_width(1),
        ))?;
        let text = if x_decimals > 0 {
            format!("{tick:.x_decimals$}")
        } else {
            short(tick)
        };
        let style = anchored(SMALL, HPos::Center, VPos::Center);
        area.draw(&Text::new(text, (x, bottom + 13 * SCALE), style))?;
    }
    let room = (bottom - top) / panel.y_names.len().max(1) as i32 - 4 * SCALE;
    let names = panel.y_names.iter().map(|(_, name)| name);
    let size = names.map(|name| fitting(name, SMALL, room)).min();
    for (y, name) in &panel.y_names {
        let place = (left - 13 * SCALE, y_at(*y));
        area.draw(&Text::new(
            name.as_str(),
            place,
            upright(size.unwrap_or(SMALL)),
        ))?;
    }
    let (y_ticks, decimals) = match panel.y_names.is_empty() {
        true => ticks(panel.y_range, 6),
        false => (Vec::new(), 0),
    };
    for tick in y_ticks {
        let y = y_at(tick);
        area.draw(&PathElement::new(
            [(left, y), (right, y)],
            GRID.stroke_width(1),
        ))?;
        let style = anchored(SMALL, HPos::Right, VPos::Center);
        let text = format!("{tick:.decimals$}");
        area.draw(&Text::new(text, (left - 7 * SCALE, y + DROP), style))?;
    }
    for part in &panel.areas {
        let corners = part.outline.iter().map(|&(x, y)| (x_at(x), y_at(y)));
        let fill = part.colour.mix(part.opacity).filled();
        area.draw(&Polygon::new(corners.collect::<Vec<_>>(), fill))?;
    }
    for line in &panel.lines {
        // A line is drawn piece by piece between the points that are no numbers.
        for piece in line
            .points
            .split(|(x, y)| !(x.is_finite() && y.is_finite()))
        {
            let points: Vec<_> = piece.iter().map(|&(x, y)| (x_at(x), y_at(y))).collect();
            draw_line(
                area,
                &points,
                line.colour.mix(line.opacity),
                line.width,
                line.dashed,
            )?;
        }
    }
    for mark in &panel.marks {
        if !(mark.at.0.is_finite() && mark.at.1.is_finite()) {
            continue;
        }
        let (x, y) = (axes.x(mark.at.0, mark.aside), y_at(mark.at.1));
        if let Some((low, high)) = mark.bar {
            let (low, high) = (y_at(low), y_at(high));
            let cap = 5 * SCALE;
            for ends in [
                [(x, low), (x, high)],
                [(x - cap, low), (x + cap, low)],
                [(x - cap, high), (x + cap, high)],
            ] {
                area.draw(&PathElement::new(ends, mark.colour.stroke_width(3)))?;
            }
        }
        draw_marker(area, (x, y), mark.marker, mark.colour)?;
    }
    for words in &panel.words {
        let place = (x_at(words.at.0), y_at(words.at.1));
        let style = anchored(SMALL, HPos::Center, VPos::Center);
        area.draw(&Text::new(words.text.as_str(), place, style))?;
    }
    // Above the data, so that the frame is whole.
    area.draw(&Rectangle::new(
        [(left, top), (right, bottom)],
        INK.stroke_width(2),
    ))?;

    let middle = (left + right) / 2;
    let room = (PANEL.0 - 20) * SCALE - 2 * (middle - (corner.0 + PANEL.0 / 2) * SCALE);
    let size = fitting(&panel.title, TEXT, room);
    let title = anchored(size, HPos::Center, VPos::Center);
    let heading = anchored(TEXT, HPos::Center, VPos::Center);
    let place = (middle, (corner.1 + MARGIN.2 / 2) * SCALE);
    area.draw(&Text::new(panel.title.as_str(), place, title))?;
    let place = (middle, bottom + 36 * SCALE);
    area.draw(&Text::new(panel.x_label.as_str(), place, heading))?;
    let place = ((corner.0 + 14) * SCALE, (top + bottom) / 2);
    area.draw(&Text::new(panel.y_label.as_str(), place, upright(TEXT)))
}

fn draw_line<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    points: &[(i32, i32)],
    colour: RGBAColor,
    width: u32,
    dashed: bool,
) -> Drawn<B> {
    let stroke = colour.stroke_width(width);
    if !dashed {
        // Pixels met twice in a row would make joints of no length.
        let mut points = points.to_vec();
        points.dedup();
        if points.len() < 2 {
            return Ok(());
        }
        return area.draw(&PathElement::new(points, stroke));
    }
    let (dash, gap) = (f64::from(8 * SCALE), f64::from(5 * SCALE));
    for ends in points.windows(2) {
        let &[(x0, y0), (x1, y1)] = ends else {
            continue;
        };
        let (dx, dy) = (f64::from(x1 - x0), f64::from(y1 - y0));
        let length = dx.hypot(dy);
        let at = |along: f64| {
            let share = along.min(length) / length;
            (
                x0 + (share * dx).round() as i32,
                y0 + (share * dy).round() as i32,
            )
        };
        let mut start = 0.0;
        while start < length {
            area.draw(&PathElement::new([at(start), at(start + dash)], stroke))?;
            start += dash + gap;
        }
    }
    Ok(())
}

fn draw_marker<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    (x, y): (i32, i32),
    marker: Marker,
    colour: RGBColor,
) -> Drawn<B> {
    let r = 4 * SCALE;
    let filled = colour.filled();
    let shape = |corners: &[(i32, i32)]| {
        let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        area.draw(&Polygon::new(corners, filled))
    };
    let stroke = |ends: [(i32, i32); 2]| {
        let ends = ends.map(|(dx, dy)| (x + dx, y + dy));
        area.draw(&PathElement::new(ends, colour.stroke_width(4)))
    };
    match marker {
        Marker::Circle => area.draw(&Circle::new((x, y), r, filled)),
        Marker::Square => shape(&[(-r, -r), (r, -r), (r, r), (-r, r)]),
        Marker::Triangle => shape(&[(0, -r - 2), (r + 1, r - 1), (-r - 1, r - 1)]),
        Marker::TriangleDown => shape(&[(0, r + 2), (r + 1, 1 - r), (-r - 1, 1 - r)]),
        Marker::Diamond => shape(&[(0, -r - 2), (r + 2, 0), (0, r + 2), (-r - 2, 0)]),
        Marker::Cross => stroke([(-r, -r), (r, r)]).and_then(|()| stroke([(-r, r), (r, -r)])),
        Marker::Plus => stroke([(-r, 0), (r, 0)]).and_then(|()| stroke([(0, -r), (0, r)])),
    }
}

/// The elements of an SVG of `size` that `draw` draws, without the `svg` around them.
fn elements(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> Drawn<SVGBackend<'static>>,
) -> std::result::Result<String, String> {
    font()?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area).map_err(|cause| cause.to_string())?;
        area.present().map_err(|cause| cause.to_string())?;
    }
    let inner = text.split_once('\n').map_or("", |(_, inner)| inner);
    Ok(inner.trim_end().trim_end_matches("</svg>").to_owned())
}

/// Width and height of a panel alone, in pixels.
pub const PANEL_SIZE: (u32, u32) = ((PANEL.0 * SCALE) as u32, (PANEL.1 * SCALE) as u32);

/// The elements of an SVG of [`PANEL_SIZE`] with one panel, on no ground, and the places of its values.
pub fn panel_elements(panel: &Panel) -> std::result::Result<(String, Axes<'_>), String> {
    let drawn = elements(PANEL_SIZE, |area| draw_panel(area, panel, (0, 0)))?;
    Ok((drawn, Axes::new(panel, (0, 0))))
}

/// Width and height of a marker alone, in pixels.
pub const MARKER_SIZE: u32 = 24;

/// The elements of an SVG of [`MARKER_SIZE`] squared with one marker.
pub fn marker_elements(marker: Marker, colour: RGBColor) -> std::result::Result<String, String> {
    let middle = MARKER_SIZE as i32 / 2;
    elements((MARKER_SIZE, MARKER_SIZE), |area| {
        draw_marker(area, (middle, middle), marker, colour)
    })
}

/// Writes `figure` as SVG, atomically.
pub fn write_svg(path: &Path, figure: &impl Drawing) -> Result<()> {
    let failed = |message: String| Error::Figure {
        path: path.to_owned(),
        message,
    };
    font().map_err(failed)?;
    let (width, height) = figure.size();
    let mut text = String::new();
    figure
        .draw(&SVGBackend::with_string(&mut text, (width, height)).into_drawing_area())
        .map_err(|cause| failed(cause.to_string()))?;
    // Shown at its size in points; the view box keeps the pixels as units.
    let scale = SCALE as u32;
    let text = text.replacen(
        &format!("width=\"{width}\" height=\"{height}\""),
        &format!("width=\"{}\" height=\"{}\"", width / scale, height / scale),
        1,
    );
    file::write(path, text.as_bytes())
}

/// Writes `figure` as PNG at [`SCALE`] pixels a point, atomically.
pub fn write_png(path: &Path, figure: &impl Drawing) -> Result<()> {
    let failed = |message: String| Error::Figure {
        path: path.to_owned(),
        message,
    };
    font().map_err(failed)?;
    // The encoder wants a path of its own, so the file beside comes from it.
    let temporary = file::sibling(path);
    let drawn = figure
        .draw(&BitMapBackend::new(&temporary, figure.size()).into_drawing_area())
        .map_err(|cause| cause.to_string())
        .and_then(|()| std::fs::rename(&temporary, path).map_err(|cause| cause.to_string()));
    if drawn.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    drawn.map_err(failed)
}
