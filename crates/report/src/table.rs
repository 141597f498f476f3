//! A table, apart from how it is written.

use crate::{csv, latex, markdown, terminal};

/// Side to which a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column's heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The heading, with its unit.
    pub name: String,
    /// Its side.
    pub align: Align,
}

impl Column {
    /// A column of words.
    pub fn left(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            align: Align::Left,
        }
    }

    /// A column of numbers.
    pub fn right(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            align: Align::Right,
        }
    }
}

/// One cell: what readers see and, for programs, the number behind it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    /// What readers see.
    pub text: String,
    /// Whether it stands out.
    pub bold: bool,
    /// The number in full precision, in the column's unit.
    pub value: Option<f64>,
    /// What stands behind `±`, in the column's unit.
    pub spread: Option<f64>,
    /// The 95 % interval, in the column's unit.
    pub interval: Option<(f64, f64)>,
    /// The p-value of a difference.
    pub p: Option<f64>,
}

impl Cell {
    /// A cell of words.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A number and how it is shown.
    pub fn number(text: impl Into<String>, value: f64) -> Self {
        Self {
            text: text.into(),
            value: Some(value),
            ..Self::default()
        }
    }

    /// No value: `-`.
    pub fn none() -> Self {
        Self::text("-")
    }
}

/// A table; every row has one cell a column.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Caption.
    pub title: String,
    /// Headings.
    pub columns: Vec<Column>,
    /// Cells, row by row.
    pub rows: Vec<Vec<Cell>>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

/// How a table is written. Each has one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A pipe table.
    Markdown,
    /// Numbers unrounded, for programs.
    Csv,
    /// A `table` environment for booktabs.
    Latex,
    /// Aligned text, with a bold heading where the terminal takes colour.
    Terminal,
}

impl Table {
    /// The table in a format.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Markdown => markdown::render(self),
            Format::Csv => csv::render(self),
            Format::Latex => latex::render(self),
            Format::Terminal => terminal::render(self, terminal::takes_colour()),
        }
    }
}
