//! Sections and tables as Markdown, tables as pipe tables.

use crate::section::{Block, Section, Span, Text};
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

/// `text` as inline code, whatever backticks it has.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

fn span(span: &Span) -> String {
    match span {
        Span::Plain(words) => escape(words),
        Span::Code(words) => code(words),
        Span::File(name) => format!("[{name}]({name})"),
    }
}

/// A paragraph's words, on one line.
pub fn text(text: &Text) -> String {
    text.0.iter().map(span).collect()
}

/// A section, with an empty line at its end.
pub fn section(section: &Section) -> String {
    let block = |block: &Block| match block {
        Block::Text(words) => text(words) + "\n",
        Block::List(items) => {
            let items = items.iter().map(|item| format!("- {}\n", text(item)));
            items.collect()
        }
        Block::Table(table) => render(table),
        Block::Figure(picture) => format!(
            "![{}]({}.svg)\n\n{}\n",
            escape(&picture.alt),
            picture.name,
            text(&picture.caption)
        ),
        Block::Commands(lines) => format!("```sh\n{}\n```\n", lines.trim()),
    };
    let blocks = section.blocks.iter().map(|part| block(part) + "\n");
    format!("## {}\n\n", escape(&section.title)) + &blocks.collect::<String>()
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
