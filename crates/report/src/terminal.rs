//! A table as aligned text for a terminal.

use std::io::IsTerminal;

use crate::table::{Align, Table};

const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// Whether standard output shows styles: a terminal, and the user has not set `NO_COLOR`
/// (<https://no-color.org>).
pub fn takes_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stdout().is_terminal()
}

/// Title, heading, rule, rows and notes; with `colour` the heading and bold cells are bold.
pub fn render(table: &Table, colour: bool) -> String {
    // Every character in use is one column wide.
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|index| {
            let cells = table.rows.iter().filter_map(|row| row.get(index));
            let names = table.columns.get(index).map(|column| width(&column.name));
            cells
                .map(|cell| width(&cell.text))
                .chain(names)
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<(&str, bool)>| {
        let mut text = String::new();
        for (((content, bold), column), &full) in cells.iter().zip(&table.columns).zip(&widths) {
            let padding = " ".repeat(full.saturating_sub(width(content)));
            let content = if *bold && colour {
                format!("{BOLD}{content}{PLAIN}")
            } else {
                (*content).to_owned()
            };
            text += &match column.align {
                Align::Left => format!("{content}{padding}  "),
                Align::Right => format!("{padding}{content}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    };
    let mut text = String::new();
    if !table.title.is_empty() {
        text += &format!("{}\n\n", table.title);
    }
    text += &line(
        table
            .columns
            .iter()
            .map(|c| (c.name.as_str(), true))
            .collect(),
    );
    let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    text += &format!("{}\n", "-".repeat(rule));
    for row in &table.rows {
        text += &line(
            row.iter()
                .map(|cell| (cell.text.as_str(), cell.bold))
                .collect(),
        );
    }
    if !table.notes.is_empty() {
        text.push('\n');
    }
    for note in &table.notes {
        text += &format!("{note}\n");
    }
    text
}
