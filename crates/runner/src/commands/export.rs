//! `export`: the adapter of a run, or its results, for use elsewhere.

use std::path::Path;

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use sharelora_adapters::{Bank, Module, PeftInfo, export_peft, load_native, save_native};
use sharelora_hub::{Progress, Source};
use sharelora_report::{Record, method_comparison};

use crate::cli::ExportFormat;
use crate::error::{AbsentError, UsageError};
use crate::store::{ADAPTER_FILE, read_run};
use crate::{Context, ResolvedRun, base};

/// Writes the adapter of the run in `dir`, or its results, into the folder `out`.
///
/// # Errors
/// `dir` is no run's folder, or the run has no adapter or has not ended.
pub fn export(context: &Context, dir: &Path, format: ExportFormat, out: &Path) -> Result<u8> {
    match format {
        ExportFormat::Peft => peft(context, dir, out),
        ExportFormat::Native => native(dir, out),
        ExportFormat::LmEval => lm_eval(dir, out),
        ExportFormat::MethodComparison => method_comparison(context, dir, out),
    }
}

fn peft(context: &Context, dir: &Path, out: &Path) -> Result<u8> {
    let run = stored_run(dir)?;
    let (bank, modules) = adapter(&run, dir)?;
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
    create(out)?;
    export_peft(&bank, &modules, &info, out)?;
    super::print(&out.display().to_string())?;
    Ok(0)
}

fn native(dir: &Path, out: &Path) -> Result<u8> {
    let (bank, modules) = adapter(&stored_run(dir)?, dir)?;
    create(out)?;
    save_native(&bank, &modules, &out.join(ADAPTER_FILE))?;
    super::print(&out.display().to_string())?;
    Ok(0)
}

fn lm_eval(dir: &Path, out: &Path) -> Result<u8> {
    stored_run(dir)?;
    for path in sharelora_report::write_lm_eval(&record(dir)?, dir, out)? {
        super::print(&path.display().to_string())?;
    }
    Ok(0)
}

fn create(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))
}

fn stored_run(dir: &Path) -> Result<ResolvedRun> {
    if !dir.join("run.json").is_file() {
        return Err(AbsentError(format!(
            "{}: no run.json: name a folder of results/EXPERIMENT",
            dir.display()
        ))
        .into());
    }
    Ok(read_run(dir)?)
}

/// The adapter that a run has left, and the modules that were trained with it.
fn adapter(run: &ResolvedRun, dir: &Path) -> Result<(Bank, Vec<Module>)> {
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
    Ok(load_native(&file, &Device::flex())?)
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
