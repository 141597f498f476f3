//! A table as CSV, for programs: numbers unrounded and without separators, what stands behind `±`,
//! the ends of the interval and the p-value in columns of their own.

use crate::table::{Cell, Table};

/// The table with a header; no title, no notes. A cell without a value is empty in a column of numbers.
pub fn render(table: &Table) -> String {
    type Part = fn(&Cell) -> Option<f64>;
    let has = |index: usize, part: Part| {
        let mut cells = table.rows.iter().filter_map(|row| row.get(index));
        cells.any(|cell| part(cell).is_some())
    };
    // Ten decimals: more would print the rounding of a mean.
    let number = |value: Option<f64>| {
        value.map_or_else(String::new, |value| {
            ((value * 1e10).round() / 1e10).to_string()
        })
    };

    let mut header = Vec::new();
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); table.rows.len()];
    for (index, column) in table.columns.iter().enumerate() {
        let numeric = has(index, |cell| cell.value);
        header.push(column.name.clone());
        let parts: [(&str, Part); 4] = [
            ("±", |cell| cell.spread),
            ("low", |cell| Some(cell.interval?.0)),
            ("high", |cell| Some(cell.interval?.1)),
            ("p", |cell| cell.p),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|(_, part)| has(index, *part))
            .collect();
        header.extend(
            parts
                .iter()
                .map(|(name, _)| format!("{} {name}", column.name)),
        );
        for (cells, row) in rows.iter_mut().zip(&table.rows) {
            let cell = row.get(index).cloned().unwrap_or_default();
            let of_parts = parts.iter().map(|(_, part)| number(part(&cell)));
            let of_parts: Vec<String> = of_parts.collect();
            cells.push(if numeric {
                number(cell.value)
            } else {
                cell.text
            });
            cells.extend(of_parts);
        }
    }
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let written = std::iter::once(&header)
        .chain(&rows)
        .try_for_each(|line| writer.write_record(line));
    // Memory takes every write and every line has the header's length: neither can fail.
    debug_assert!(written.is_ok());
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
