//! `export`: the adapter of a run, or its results, for use elsewhere.

use std::path::Path;

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use sharelora_adapters::{PeftInfo, export_peft, load_native, save_native};
use sharelora_hub::{Progress, Source};
use sharelora_report::{Record, method_comparison};

use crate::cli::ExportFormat;
use crate::error::{AbsentError, UsageError};
use crate::store::{ADAPTER_FILE, read_run};
use crate::{Context, base};

/// Writes the adapter of the run in `dir` into the folder `out`.
///
/// # Errors
/// `dir` is no run's folder, or the run has no adapter.
pub fn export(context: &Context, dir: &Path, format: ExportFormat, out: &Path) -> Result<u8> {
    if format == ExportFormat::MethodComparison {
        return method_comparison(context, dir, out);
    }
    if !dir.join("run.json").is_file() {
        return Err(AbsentError(format!(
            "{}: no run.json: name a folder of results/EXPERIMENT",
            dir.display()
        ))
        .into());
    }
    let run = read_run(dir)?;
    if format == ExportFormat::LmEval {
        let record = record(dir)?;
        for path in sharelora_report::write_lm_eval(&record, dir, out)? {
            super::print(&path.display().to_string())?;
        }
        return Ok(0);
    }
    if run.adapter.is_none() {
        return Err(UsageError(format!(
            "{}: the method `{}` has no adapter",
            dir.display(),
            run.method.name()
        ))
        .into());
    }
    let file = dir.join("adapter").join(ADAPTER_FILE);
    if !file.is_file() {
        return Err(AbsentError(format!(
            "{}: not there: the run has not ended; next: sharelora run {} {}",
            file.display(),
            run.experiment,
            run.label()
        ))
        .into());
    }
    let (bank, modules) = load_native(&file, &Device::flex())?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    match format {
        ExportFormat::Peft => {
            let name = match &run.model.config {
                Source::Hf { repo, .. } => repo.clone(),
                _ => run.model.name.clone(),
            };
            // Which modules there are, and how they keep their weights, is the configuration's to say.
            let config = base::config(&run.model, &context.hub, Progress::Quiet)?;
            let task_type = match modules.is_empty() {
                true => "CAUSAL_LM",
                false => "SEQ_CLS",
            };
            let info = PeftInfo {
                task_type: task_type.into(),
                base_model_name_or_path: name,
                fan_in_fan_out: config.fan_in_fan_out(),
                modules: config.modules(),
            };
            export_peft(&bank, &modules, &info, out)?;
        }
        ExportFormat::LmEval | ExportFormat::MethodComparison => {
            unreachable!("written above")
        }
        ExportFormat::Native => save_native(&bank, &modules, &out.join(ADAPTER_FILE))?,
    }
    super::print(&out.display().to_string())?;
    Ok(0)
}

fn record(dir: &Path) -> Result<Record> {
    let file = dir.join("record.json");
    if !file.is_file() {
        let text = format!("{}: not there: the run has not ended", file.display());
        return Err(AbsentError(text).into());
    }
    Ok(sharelora_report::read_record(&file)?)
}

/// The run's result as PEFT's `method_comparison` has them; the keys that stay null are told.
fn method_comparison(context: &Context, dir: &Path, out: &Path) -> Result<u8> {
    let record = record(dir)?;
    let steps = dir.join("steps.jsonl");
    let steps = match steps.is_file() {
        true => sharelora_report::read_steps(&steps)?.steps,
        false => Vec::new(),
    };
    let value = method_comparison::method_comparison(&record, &steps);
    let path = out.join(method_comparison::file_name(&record));
    let text = serde_json::to_string_pretty(&value)? + "\n";
    sharelora_report::file::write(&path, text.as_bytes())?;
    if !context.quiet {
        for note in value["notes"].as_array().into_iter().flatten() {
            eprintln!("{}", note.as_str().unwrap_or_default());
        }
    }
    super::print(&path.display().to_string())?;
    Ok(0)
}
