//! `parity`: this program's numbers against stored reference values.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sharelora_report::{Cell, Column, Format, Table};

use sharelora_hub::Progress;
use sharelora_model::Storage;

use crate::error::{AbsentError, FAILED};
use crate::{Context, Experiment};

/// Checks every folder, and every JSON file of cases against the model of `experiment`; prints every comparison and
/// returns 1 where one does not hold.
///
/// # Errors
/// A folder or file is not there, or cannot be read.
pub fn parity(context: &Context, paths: &[PathBuf], experiment: &str) -> Result<u8> {
    let device = crate::device::device(&context.backend)?;
    let mut all = true;
    for path in paths {
        let checks = if path.is_dir() {
            crate::parity::parity(path, Storage::F32, &device)
        } else if path.is_file() {
            let spec = Experiment::load(&context.root, experiment, &[])?;
            let model = spec.sections(spec.document())?.model;
            let base =
                crate::base::load(&model, model.dtype, &context.hub, &device, Progress::Quiet)?;
            crate::parity::parity_cases(path, &base.model, &base.encoder)
        } else {
            return Err(AbsentError(format!(
                "{}: no such folder of reference values, nor a file of cases",
                path.display()
            ))
            .into());
        };
        let checks = checks.with_context(|| format!("parity with {}", path.display()))?;
        let mut table = Table {
            title: format!("{}, {}", path.display(), context.backend),
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
