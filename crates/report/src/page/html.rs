//! Words, lists and tables as HTML. Whatever comes from results goes through [`escape`] or [`attribute`].

use std::fmt::Write;

use super::figure;
use super::look::{Looks, named};
use crate::section::{Block, Section, Span, Text};
use crate::table::{Align, Table};

/// `text` between tags.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // HTML has no such character.
            '\0' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Words between tags, with no line break between a number and what belongs to it.
fn prose(words: &str) -> String {
    let kept = escape(words).replace(" %", "\u{a0}%");
    kept.replace("p = ", "p\u{a0}=\u{a0}")
        .replace("p &lt; ", "p\u{a0}&lt;\u{a0}")
}

/// A heading of a column, which may break inside a name such as `gsm8k/exact_match`.
fn heading(name: &str) -> String {
    let text = escape(name);
    text.replace('/', "/<wbr>").replace('_', "_<wbr>")
}

/// `text` between the quotation marks of an attribute.
pub fn attribute(text: &str) -> String {
    escape(text)
}

/// A heading as the name of its place: letters and digits, the rest hyphens.
pub fn anchor(title: &str) -> String {
    let lower = title.to_lowercase();
    let kept = lower
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' });
    kept.collect()
}

/// Words of a paragraph.
pub fn text(words: &Text) -> String {
    let span = |span: &Span| match span {
        Span::Plain(words) => prose(words),
        Span::Code(words) => format!("<code>{}</code>", escape(words)),
        Span::File(name) => format!("<a href=\"{}\">{}</a>", attribute(name), escape(name)),
    };
    words.0.iter().map(span).collect()
}

/// Markdown of a few plain paragraphs: what stands between backticks is code.
pub fn paragraphs(markdown: &str) -> String {
    let paragraphs = markdown.trim().split("\n\n");
    let paragraph = |paragraph: &str| {
        let spans = paragraph.split('`').enumerate().map(|(index, part)| {
            if index % 2 == 1 {
                format!("<code>{}</code>", escape(part))
            } else {
                escape(part)
            }
        });
        format!("<p>{}</p>\n", spans.collect::<String>())
    };
    paragraphs.map(paragraph).collect()
}

/// A paragraph; one that nobody would read to its end is closed behind its beginning.
fn paragraph(words: &Text) -> String {
    const LONG: usize = 1500;
    const BEGINNING: usize = 100;
    let whole = text(words);
    let plain: String = words
        .0
        .iter()
        .map(|span| match span {
            Span::Plain(words) | Span::Code(words) | Span::File(words) => words.as_str(),
        })
        .collect();
    if plain.chars().count() <= LONG {
        return format!("<p>{whole}</p>\n");
    }
    let beginning: String = plain.chars().take(BEGINNING).collect();
    format!(
        "<details><summary>{} …</summary>\n<p>{whole}</p>\n</details>\n",
        escape(&beginning)
    )
}

/// Items of a list.
pub fn list(items: &[Text], class: &str) -> String {
    let items = items
        .iter()
        .map(|item| format!("<li>{}</li>\n", text(item)));
    format!(
        "<ul class=\"{class}\">\n{}</ul>\n",
        items.collect::<String>()
    )
}

/// A table that the page's script makes sortable; the number behind a cell is its `data-v`.
pub fn table(table: &Table, title: &str, looks: &Looks) -> String {
    let class = |place: usize| match table.columns.get(place).map(|column| column.align) {
        Some(Align::Right) => " class=\"r\"",
        _ => "",
    };
    let mut html = format!(
        "<div class=\"table\" role=\"region\" aria-label=\"{0}\" tabindex=\"0\">\n<table data-name=\"{0}\">\n<thead><tr>",
        attribute(title)
    );
    for (place, column) in table.columns.iter().enumerate() {
        let _ = write!(
            html,
            "<th scope=\"col\"{}>{}</th>",
            class(place),
            heading(&column.name)
        );
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        html += "<tr>";
        for (place, cell) in row.iter().enumerate() {
            let value = cell.value.filter(|value| value.is_finite());
            let value = value.map_or_else(String::new, |v| format!(" data-v=\"{v}\""));
            let mut content = if place == 0 {
                named(looks, &cell.text)
            } else {
                escape(&cell.text)
            };
            if cell.bold {
                content = format!("<b>{content}</b>");
            }
            let class = class(place);
            html += &match place {
                0 => format!("<th scope=\"row\"{class}{value}>{content}</th>"),
                _ => format!("<td{class}{value}>{content}</td>"),
            };
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table>\n</div>\n";
    if !table.notes.is_empty() {
        let notes: Vec<Text> = table.notes.iter().map(Text::from).collect();
        html += &list(&notes, "notes");
    }
    html
}

/// A section of the page; the places of its figures' values go to `points`.
pub fn section(
    section: &Section,
    looks: &Looks,
    points: &mut Vec<serde_json::Value>,
) -> Result<String, String> {
    let id = anchor(&section.title);
    let title = escape(&section.title);
    let mut html = format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n"
    );
    for block in &section.blocks {
        html += &match block {
            Block::Text(words) => paragraph(words),
            Block::List(items) => list(items, "facts"),
            Block::Table(content) => table(content, &section.title, looks),
            Block::Figure(picture) => figure::figure(picture, looks, points)?,
            Block::Commands(lines) => {
                format!(
                    "<pre tabindex=\"0\"><code>{}</code></pre>\n",
                    escape(lines.trim())
                )
            }
        };
    }
    Ok(html + "</section>\n")
}
