//! From the stored results of a plan to its report.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use sharelora_report::bootstrap::{resampled_scores, resampled_weighted};
use sharelora_report::{Paths, ReportSpec, Run, stored_spectrum};
use sharelora_tasks::task;

use crate::error::AbsentError;
use crate::plan::RESULT_VERSION;
use crate::store::State;
use crate::sweep::Folders;
use crate::{Plan, ResolvedRun, Store, held_out};

/// A report and the table that it opens with.
pub struct Written {
    pub paths: Paths,
    /// For a terminal.
    pub table: String,
}

/// The stored runs of a plan.
pub struct Stored {
    pub runs: Vec<Run>,
    /// Their folder.
    results: PathBuf,
    /// Holds it.
    _view: tempfile::TempDir,
}

/// Writes `reports/EXPERIMENT` from the stored results of the plan's runs.
///
/// # Errors
/// No run has a record yet, or a file cannot be read or written.
pub fn report(plan: &Plan, folders: &Folders, command: &str) -> Result<Written> {
    let Some(stored) = stored(plan, &folders.store())? else {
        return Err(nothing_stored(plan, &folders.store()).into());
    };
    let paths = write(plan, &stored, &folders.reports, command)?;
    let table = sharelora_report::compare(&plan.experiment.title, &stored.runs)
        .table
        .render(sharelora_report::Format::Terminal);
    Ok(Written { paths, table })
}

/// Writes `EXPERIMENT/` in `reports` from what is stored.
///
/// # Errors
/// A file cannot be written.
pub fn write(plan: &Plan, stored: &Stored, reports: &Path, command: &str) -> Result<Paths> {
    let experiment = &plan.experiment;
    let spec = ReportSpec {
        title: experiment.title.clone(),
        description: experiment.description.clone(),
        caveat: experiment.caveat.clone(),
        command: command.to_owned(),
    };
    let out = reports.join(&experiment.name);
    let written = sharelora_report::write_report_of(&stored.runs, &stored.results, &out, &spec)?;
    Ok(written)
}

/// The stored runs of a plan; `None` where none has a record.
///
/// Only these: the folder may also hold runs of earlier settings (`--set`), which are no further seeds of the same.
/// So they are read from a view of the folder, with records, steps, samples and spectra of the plan's runs alone.
///
/// # Errors
/// A file cannot be read.
pub fn stored(plan: &Plan, store: &Store) -> Result<Option<Stored>> {
    let view = tempfile::tempdir().context("a temporary folder for the report cannot be made")?;
    let results = view.path().join(&plan.experiment.name);
    std::fs::create_dir_all(&results)?;
    let mut records = 0;
    for run in &plan.runs {
        let from = store.run_dir(run);
        let to = results.join(run.folder());
        let state = store.state(run);
        let readable = match state {
            State::Done(_) => true,
            State::Unfinished(_) => from.join("record.json").exists(),
            State::New | State::Broken(_) => false,
        };
        records += usize::from(readable);
        let mut files = vec![(from.join("steps.jsonl"), true)];
        files.push((from.join("record.json"), readable));
        files.push((from.join(stored_spectrum::FILE), readable));
        if readable {
            let samples = sharelora_report::samples::files(&from)?;
            files.extend(samples.into_values().map(|path| (path, true)));
        }
        for (path, wanted) in files {
            if wanted && path.is_file() {
                std::fs::create_dir_all(&to)?;
                std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))
                    .with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
    }
    if records == 0 {
        return Ok(None);
    }
    let mut runs = sharelora_report::read_experiment(&results)?;
    runs.par_iter_mut().try_for_each(|run| {
        match plan.runs.iter().find(|p| p.folder() == folder_of(run)) {
            Some(planned) => resample_corpora(run, planned),
            None => Ok(()),
        }
    })?;
    Ok(Some(Stored {
        runs,
        results,
        _view: view,
    }))
}

fn nothing_stored(plan: &Plan, store: &Store) -> AbsentError {
    let experiment = &plan.experiment;
    let dir = store.experiment_dir(&experiment.name);
    let others = std::fs::read_dir(&dir).map_or(0, |entries| {
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        let folders = entries.flatten().filter(|e| e.path().is_dir());
        folders.filter(|e| !hidden(&e.file_name())).count()
    });
    let hint = if others == 0 {
        String::new()
    } else {
        format!(
            " ({others} folders there belong to other settings: give the same --set and --backend as when they were made; \
             runs of another result version than {RESULT_VERSION} are done again)"
        )
    };
    AbsentError(format!(
        "{}: no run of this plan has a record{hint}; next: sharelora sweep {}",
        dir.display(),
        experiment.name
    ))
}

/// Scores of whole corpora, as BLEU and Matthews's coefficient, over resamples of the questions: for intervals and paired tests.
///
/// # Errors
/// A samples file cannot be read, or a task does not exist.
pub fn resample_corpora(run: &mut Run, planned: &ResolvedRun) -> Result<()> {
    let files = sharelora_report::samples::files(&run.dir)?;
    for spec in &planned.evaluate {
        let task = task(&spec.task, &spec.options)?;
        if spec.loss.is_some() {
            if let Some(file) = files.get(&spec.samples_name()) {
                let mut samples = crate::samples::read(file)?;
                samples.sort_by(|a, b| a.id.cmp(&b.id));
                let rows = samples.len();
                let scores =
                    resampled_weighted(rows, |chosen: &[usize]| held_out::loss(&samples, chosen));
                let name = format!("{}/{}", spec.measured(), held_out::METRIC);
                run.resampled.insert(name, scores);
            }
            continue;
        }
        let file = files.get(&spec.samples_name());
        let Some(file) = file.filter(|_| !task.corpus_scores(&[]).is_empty()) else {
            continue;
        };
        let mut samples = crate::samples::read(file)?;
        samples.sort_by(|a, b| a.id.cmp(&b.id));
        for (name, score) in task.corpus_scores(&samples) {
            let scores = resampled_scores(samples.len(), score);
            let name = format!("{}/{name}", task.name());
            run.resampled.insert(name, scores);
        }
    }
    Ok(())
}

fn folder_of(run: &Run) -> String {
    let name = run.dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;
    use crate::sweep::sweep_with;
    use crate::sweep::tests::{context, finished};

    /// Results of other settings lie in the same folder; they are not further seeds of this one.
    #[test]
    fn a_report_is_of_its_plan_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders {
            results: folder.path().join("results"),
            reports: folder.path().join("reports"),
        };
        let context = context(folder.path());
        for sets in [&["train.steps=3"][..], &[]] {
            let plan = planned(SMALL, sets).unwrap();
            let runs: Vec<&ResolvedRun> = plan.runs.iter().collect();
            sweep_with(&context, &folders.store(), &runs, |run, _, context| {
                Ok(finished(run, context))
            })
            .unwrap();
        }
        let plan = planned(SMALL, &[]).unwrap();
        let written = report(&plan, &folders, "sharelora sweep x").unwrap();
        let text = std::fs::read_to_string(&written.paths.report).unwrap();
        let other = planned(SMALL, &["train.steps=3"]).unwrap();
        // The base is the same run in both.
        assert!(
            text.contains(&plan.runs[1].short_hash()) || text.contains("lora-seed0"),
            "{text}"
        );
        assert!(!text.contains(&other.runs[1].short_hash()), "{text}");
        let none = report(
            &planned(SMALL, &["train.steps=4", "axes.method=[\"lora\"]"]).unwrap(),
            &folders,
            "",
        )
        .err()
        .unwrap();
        assert!(
            none.to_string().contains("belong to other settings"),
            "{none}"
        );
    }
}
