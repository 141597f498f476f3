//! `parity`: this program's numbers against stored reference values.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sharelora_report::{Cell, Column, Format, Table};

use crate::Context;
use crate::error::{AbsentError, FAILED};

/// Checks every folder and prints every comparison; 1 where one does not hold.
///
/// # Errors
/// A folder is not there, or cannot be read.
pub fn parity(context: &Context, dirs: &[PathBuf]) -> Result<u8> {
    let device = crate::device::device(&context.backend)?;
    let mut all = true;
    for dir in dirs {
        if !dir.is_dir() {
            return Err(AbsentError(format!(
                "{}: no such folder of reference values",
                dir.display()
            ))
            .into());
        }
        let checks = crate::parity::parity(dir, &device)
            .with_context(|| format!("parity with {}", dir.display()))?;
        let mut table = Table {
            title: format!("{}, {}", dir.display(), context.backend),
            columns: vec![
                Column::left("Compared"),
                Column::right("Largest difference"),
                Column::right("Allowed"),
                Column::left("Holds"),
            ],
            ..Table::default()
        };
        for check in &checks {
            table.rows.push(vec![
                Cell::text(check.name.as_str()),
                Cell::text(format!("{:.1e}", check.difference)),
                Cell::text(format!("{:.0e}", check.tolerance)),
                Cell::text(if check.passed() { "yes" } else { "NO" }),
            ]);
        }
        super::print(&table.render(Format::Terminal))?;
        all &= checks.iter().all(crate::parity::Check::passed);
    }
    Ok(if all { 0 } else { FAILED })
}
