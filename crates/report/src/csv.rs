//! A table as CSV, for programs: numbers unrounded and without separators, what stands behind `±` in its own column.

use crate::table::{Cell, Table};

/// The table with a header; no title, no notes. A cell without a value is empty in a column of numbers.
pub fn render(table: &Table) -> String {
    let any = |index: usize, has: fn(&Cell) -> bool| {
        let mut cells = table.rows.iter().filter_map(|row| row.get(index));
        cells.any(has)
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
        let numeric = any(index, |cell| cell.value.is_some());
        let spread = any(index, |cell| cell.spread.is_some());
        header.push(column.name.clone());
        if spread {
            header.push(format!("{} ±", column.name));
        }
        for (cells, row) in rows.iter_mut().zip(&table.rows) {
            let cell = row.get(index).cloned().unwrap_or_default();
            cells.push(if numeric {
                number(cell.value)
            } else {
                cell.text
            });
            if spread {
                cells.push(number(cell.spread));
            }
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
