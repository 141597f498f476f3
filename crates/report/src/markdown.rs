//! A table as a Markdown pipe table.

use crate::table::{Align, Cell, Table};

/// Characters that Markdown, or the HTML in it, would read as markup.
pub const SPECIAL: &[char] = &[
    '\\', '`', '*', '_', '[', ']', '<', '>', '|', '#', '~', '&', '!', '$',
];

/// `text` as Markdown that shows it: one line, every special character behind a backslash.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\n' || character == '\r' {
            escaped.push(' ');
            continue;
        }
        if SPECIAL.contains(&character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn cell(cell: &Cell) -> String {
    let text = escape(&cell.text);
    if cell.bold {
        format!("**{text}**")
    } else {
        text
    }
}

/// The table, then its notes as a list; the title is left to the document's heading.
pub fn render(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(table.columns.iter().map(|c| escape(&c.name)).collect());
    let rules = table.columns.iter().map(|column| match column.align {
        Align::Left => ":--".to_owned(),
        Align::Right => "--:".to_owned(),
    });
    text += &line(rules.collect());
    for row in &table.rows {
        text += &line(row.iter().map(cell).collect());
    }
    if !table.notes.is_empty() {
        text.push('\n');
    }
    for note in &table.notes {
        text += &format!("- {}\n", escape(note));
    }
    text
}
