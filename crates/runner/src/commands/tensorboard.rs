//! `tensorboard`, and the option of `sweep` and `run`: event files made from stored steps.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use sharelora_report::{read_record, read_steps, tensorboard as report};

use crate::Context;
use crate::cli::Named;
use crate::stored::{self, Stage};
use crate::sweep::Folders;

/// Between two looks at the results; evaluations and steps of real models are slower.
const EVERY: Duration = Duration::from_secs(5);

/// Of which runs, and where.
#[derive(Debug, clap::Args)]
pub struct Tensorboard {
    /// EXPERIMENT, EXPERIMENT/LABEL, the beginning of a label, or a folder
    name: String,
    /// Folder to write EXPERIMENT/LABEL/ into [default: the folder tensorboard of each run]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on writing what is new until Ctrl-C, also of runs that begin later
    #[arg(long)]
    follow: bool,
}

/// Writes the event files of the named runs.
///
/// # Errors
/// A name that means nothing, or a file that cannot be read or written.
pub fn tensorboard(context: &Context, folders: &Folders, options: &Tensorboard) -> Result<u8> {
    let update = || -> Result<()> {
        let dirs = stored::find(folders, &options.name, Stage::Begun)?.dirs;
        for path in write(&dirs, options.out.as_deref())? {
            super::print(&path.display().to_string())?;
        }
        Ok(())
    };
    update()?;
    if options.follow {
        if !context.quiet {
            eprintln!("following {}; Ctrl-C ends", options.name);
        }
        loop {
            std::thread::sleep(EVERY);
            update()?;
        }
    }
    Ok(0)
}

/// Writes the event files of the runs of a plan that have begun, those that `wanted` names.
///
/// # Errors
/// As [`tensorboard`].
pub fn events_of_plan(
    context: &Context,
    folders: &Folders,
    named: &Named,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let plan = super::load(context, named)?;
    let runs = plan.runs.iter().filter(|run| wanted(&run.label()));
    let dirs: Vec<PathBuf> = runs.map(|run| folders.store().run_dir(run)).collect();
    for path in write(&dirs, None)? {
        super::print(&format!("tensorboard: {}", path.display()))?;
    }
    Ok(())
}

/// The event files that are new or have grown.
fn write(dirs: &[PathBuf], out: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for dir in dirs {
        let (steps, record) = (dir.join("steps.jsonl"), dir.join("record.json"));
        // The record first: a run that ends in between has its last steps then.
        let record = record.is_file().then(|| read_record(&record)).transpose()?;
        let steps = match steps.is_file() {
            true => read_steps(&steps)?.steps,
            false => Vec::new(),
        };
        if record.is_none() && steps.is_empty() {
            continue;
        }
        let folder = match out {
            Some(out) => {
                let experiment = dir.parent().and_then(Path::file_name).unwrap_or_default();
                out.join(experiment).join(stored::label(dir))
            }
            None => dir.join("tensorboard"),
        };
        let path = folder.join(report::FILE);
        if report::write(&path, &report::events(&steps, record.as_ref()))? {
            written.push(path);
        }
    }
    Ok(written)
}
