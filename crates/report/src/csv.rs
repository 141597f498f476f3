//! A table as CSV, for programs: numbers unrounded and without separators, what stands behind `±`,
//! the ends of the interval and the p-value in columns of their own.

use crate::table::{Cell, Table};

/// A column of a table as programs read it, one value a row.
pub(crate) enum Values {
    /// A column without a number.
    Words(Vec<String>),
    /// A column with numbers; `None` where a cell has none.
    Numbers(Vec<Option<f64>>),
}

/// The columns of `table` by name: each with what stands behind its numbers in columns of their own.
pub(crate) fn columns(table: &Table) -> Vec<(String, Values)> {
    type Part = fn(&Cell) -> Option<f64>;
    const PARTS: [(&str, Part); 4] = [
        (" ±", |cell| cell.spread),
        (" low", |cell| Some(cell.interval?.0)),
        (" high", |cell| Some(cell.interval?.1)),
        (" p", |cell| cell.p),
    ];
    let mut columns = Vec::new();
    for (index, column) in table.columns.iter().enumerate() {
        let cells = || table.rows.iter().map(move |row| row.get(index));
        let numbers = |part: Part| -> Option<Vec<Option<f64>>> {
            let values: Vec<_> = cells().map(|cell| part(cell?)).collect();
            values.iter().any(Option::is_some).then_some(values)
        };
        let values = match numbers(|cell| cell.value) {
            Some(numbers) => Values::Numbers(numbers),
            None => {
                let words = cells().map(|cell| cell.map_or_else(String::new, |c| c.text.clone()));
                Values::Words(words.collect())
            }
        };
        columns.push((column.name.clone(), values));
        for (name, part) in PARTS {
            if let Some(found) = numbers(part) {
                columns.push((format!("{}{name}", column.name), Values::Numbers(found)));
            }
        }
    }
    columns
}

/// The table with a header; no title, no notes. A cell without a value is empty in a column of numbers.
pub fn render(table: &Table) -> String {
    // Ten decimals: more would print the rounding of a mean.
    let number = |value: Option<f64>| {
        value.map_or_else(String::new, |value| {
            ((value * 1e10).round() / 1e10).to_string()
        })
    };
    let columns = columns(table);
    let header = columns.iter().map(|(name, _)| name.clone()).collect();
    let line = |row: usize| -> Vec<String> {
        let values = columns.iter().map(|(_, values)| match values {
            Values::Words(words) => words[row].clone(),
            Values::Numbers(numbers) => number(numbers[row]),
        });
        values.collect()
    };
    let lines = std::iter::once(header).chain((0..table.rows.len()).map(line));
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let written = lines
        .into_iter()
        .try_for_each(|line: Vec<String>| writer.write_record(line));
    // Memory takes every write and every line has the header's length: neither can fail.
    debug_assert!(written.is_ok());
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
