//! Heat maps: panels of coloured cells in a grid, each with its scale beside it.
//!
//! Colours are viridis (S. van der Walt and N. Smith, 2015): evenly perceived, readable without colour and by the colour-blind,
//! dark for little and light for much.

use plotters::style::colors::colormaps::{ColorMap, ViridisRGB};

use super::*;

/// Room for the scale beside the cells: gap, width, and its numbers, in points.
const BAR: (i32, i32, i32) = (8, 12, 46);

/// One grid of cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// Heading.
    pub title: String,
    /// What stands along the bottom.
    pub x_label: String,
    /// What stands along the side.
    pub y_label: String,
    /// Values row by row, the first at the top; one that is not finite is left white.
    pub rows: Vec<Vec<f64>>,
    /// Numbers of the first column and of the first row.
    pub first: (usize, usize),
    /// Values of the darkest and of the lightest colour.
    pub range: (f64, f64),
}

/// Panels in a grid below a title.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// Title.
    pub title: String,
    /// Panels, row by row.
    pub panels: Vec<Cells>,
    /// Panels in a row.
    pub columns: usize,
}

impl HeatMap {
    fn grid(&self) -> (i32, i32) {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        (columns as i32, self.panels.len().div_ceil(columns) as i32)
    }
}

impl Drawing for HeatMap {
    fn size(&self) -> (u32, u32) {
        let (columns, rows) = self.grid();
        let height = TITLE_HEIGHT + rows * PANEL.1 + 12;
        ((columns * PANEL.0 * SCALE) as u32, (height * SCALE) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        area.fill(&WHITE)?;
        let (columns, _) = self.grid();
        let middle = columns * PANEL.0 * SCALE / 2;
        let centre = Pos::new(HPos::Center, VPos::Center);
        let size = fitting(&self.title, TITLE, 2 * middle - 20 * SCALE);
        let place = (middle, 24 * SCALE);
        area.draw(&Text::new(
            self.title.as_str(),
            place,
            text_style(size).pos(centre),
        ))?;
        for (index, cells) in (0i32..).zip(&self.panels) {
            let left = index % columns * PANEL.0;
            let top = TITLE_HEIGHT + index / columns * PANEL.1;
            draw_cells(area, cells, (left, top))?;
        }
        area.present()
    }
}

fn draw_cells<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    cells: &Cells,
    corner: (i32, i32),
) -> Drawn<B> {
    let left = (corner.0 + MARGIN.0) * SCALE;
    let right = (corner.0 + PANEL.0 - BAR.0 - BAR.1 - BAR.2) * SCALE;
    let top = (corner.1 + MARGIN.2) * SCALE;
    let bottom = (corner.1 + PANEL.1 - MARGIN.3) * SCALE;
    let anchored = |points, h_pos, v_pos| text_style(points).pos(Pos::new(h_pos, v_pos));
    let centre = |points| anchored(points, HPos::Center, VPos::Center);
    let (low, high) = cells.range;
    let colour =
        |value: f64| ViridisRGB.get_color_normalized(value as f32, low as f32, high as f32);
    let count = cells.rows.len() as i32;
    let width = cells.rows.iter().map(Vec::len).max().unwrap_or(0) as i32;
    let x_edge = |column: i32| left + (right - left) * column / width.max(1);
    let y_edge = |row: i32| top + (bottom - top) * row / count.max(1);
    for (row, values) in (0i32..).zip(&cells.rows) {
        for (column, value) in (0i32..).zip(values) {
            if value.is_finite() {
                let ends = [
                    (x_edge(column), y_edge(row)),
                    (x_edge(column + 1), y_edge(row + 1)),
                ];
                area.draw(&Rectangle::new(ends, colour(*value).filled()))?;
            }
        }
    }
    let frame = INK.stroke_width(2);
    area.draw(&Rectangle::new([(left, top), (right, bottom)], frame))?;
    for column in numbered(width) {
        let x = (x_edge(column) + x_edge(column + 1)) / 2;
        let text = (cells.first.0 + column as usize).to_string();
        area.draw(&Text::new(text, (x, bottom + 13 * SCALE), centre(SMALL)))?;
    }
    for row in numbered(count) {
        let y = (y_edge(row) + y_edge(row + 1)) / 2 + DROP;
        let text = (cells.first.1 + row as usize).to_string();
        let style = anchored(SMALL, HPos::Right, VPos::Center);
        area.draw(&Text::new(text, (left - 7 * SCALE, y), style))?;
    }

    // The scale, from the bottom up.
    let (start, end) = (right + BAR.0 * SCALE, right + (BAR.0 + BAR.1) * SCALE);
    for y in top..bottom {
        let share = f64::from(bottom - 1 - y) / f64::from((bottom - 1 - top).max(1));
        let ends = [(start, y), (end, y + 1)];
        area.draw(&Rectangle::new(
            ends,
            colour(low + share * (high - low)).filled(),
        ))?;
    }
    area.draw(&Rectangle::new([(start, top), (end, bottom)], frame))?;
    let (marks, decimals) = ticks(cells.range, 5);
    for mark in marks {
        let share = (mark - low) / (high - low);
        let y = bottom - (share * f64::from(bottom - top)).round() as i32 + DROP;
        let style = anchored(SMALL, HPos::Left, VPos::Center);
        area.draw(&Text::new(
            format!("{mark:.decimals$}"),
            (end + 4 * SCALE, y),
            style,
        ))?;
    }

    let middle = (left + right) / 2;
    let size = fitting(&cells.title, TEXT, (PANEL.0 - 20) * SCALE);
    let place = (
        (corner.0 + PANEL.0 / 2) * SCALE,
        (corner.1 + MARGIN.2 / 2) * SCALE,
    );
    area.draw(&Text::new(cells.title.as_str(), place, centre(size)))?;
    let place = (middle, bottom + 36 * SCALE);
    area.draw(&Text::new(cells.x_label.as_str(), place, centre(TEXT)))?;
    let place = ((corner.0 + 14) * SCALE, (top + bottom) / 2);
    area.draw(&Text::new(cells.y_label.as_str(), place, upright(TEXT)))
}

/// Which of `count` rows or columns have their number beside them: all, or every 2nd, 5th, 10th, ... so that at most ten do.
fn numbered(count: i32) -> impl Iterator<Item = i32> {
    let steps = (0..).flat_map(|power| [1, 2, 5].map(|step| step * 10i32.pow(power)));
    let step = steps.take(24).find(|step| count <= 10 * step);
    (0..count).step_by(step.unwrap_or(count) as usize)
}
