//! A table as LaTeX with booktabs.

use crate::table::{Align, Cell, Table};

/// `text` as LaTeX that shows it: one line, no character with a meaning of its own.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '%' | '_' | '&' | '#' | '$' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '~' => escaped.push_str(r"\textasciitilde{}"),
            '^' => escaped.push_str(r"\textasciicircum{}"),
            '\\' => escaped.push_str(r"\textbackslash{}"),
            // The old default font has other signs in the place of these three.
            '<' => escaped.push_str(r"\textless{}"),
            '>' => escaped.push_str(r"\textgreater{}"),
            '|' => escaped.push_str(r"\textbar{}"),
            '±' => escaped.push_str(r"$\pm$"),
            '×' => escaped.push_str(r"$\times$"),
            '−' => escaped.push_str(r"$-$"),
            '–' => escaped.push_str("--"),
            '—' => escaped.push_str("---"),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn cell(cell: &Cell) -> String {
    let text = escape(&cell.text);
    if cell.bold {
        format!(r"\textbf{{{text}}}")
    } else {
        text
    }
}

/// A `table` environment; the document needs `\usepackage{booktabs}`.
pub fn render(table: &Table) -> String {
    let sides: String = table
        .columns
        .iter()
        .map(|column| match column.align {
            Align::Left => 'l',
            Align::Right => 'r',
        })
        .collect();
    let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
    let mut text = String::from("% \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n");
    text += &format!("  \\caption{{{}}}\n", escape(&table.title));
    text += &format!("  \\begin{{tabular}}{{{sides}}}\n    \\toprule\n");
    text += &line(table.columns.iter().map(|c| escape(&c.name)).collect());
    text += "    \\midrule\n";
    for row in &table.rows {
        text += &line(row.iter().map(cell).collect());
    }
    text += "    \\bottomrule\n  \\end{tabular}\n";
    for note in &table.notes {
        text += &format!("\n  \\smallskip\\footnotesize {}\n", escape(note));
    }
    text += "\\end{table}\n";
    text
}
