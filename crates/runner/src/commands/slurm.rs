//! `sweep --executor slurm`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::sweep::{ended, prepare, select, write_report};
use crate::Context;
use crate::cli::Named;
use crate::error::{FAILED, STOPPED};
use crate::slurm::{Followed, SlurmSpec, SlurmSweep};
use crate::sweep::{Folders, Outcome};

/// What does the runs of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Executor {
    /// This program, on this machine
    Local,
    /// Job arrays of Slurm, submitted, followed and collected
    Slurm,
}

/// Where the runs of a sweep are done.
#[derive(Debug, clap::Args)]
pub struct SlurmArgs {
    /// What does the runs
    #[arg(long, value_enum, default_value = "local")]
    pub executor: Executor,
    /// With `--executor slurm`: file of the keys of [slurm] that the experiment does not have itself
    #[arg(long, value_name = "FILE", env = "SHARELORA_SLURM_PROFILE")]
    pub slurm_profile: Option<PathBuf>,
    /// With `--executor slurm`: submit and return; the same command follows later
    #[arg(long)]
    pub no_wait: bool,
}

/// Submits what is missing of an experiment, follows it and writes the report. With `dry_run` the scripts are printed instead.
///
/// # Errors
/// As a local sweep, and what Slurm refuses.
pub fn sweep_by_slurm(
    context: &Context,
    folders: &Folders,
    named: &Named,
    only: Option<&str>,
    jobs: Option<NonZeroUsize>,
    arguments: &SlurmArgs,
    dry_run: bool,
) -> Result<u8> {
    let plan = super::load(context, named)?;
    let runs = select(&plan.runs, only)?;
    let spec = SlurmSpec::resolve(&plan.experiment, arguments.slurm_profile.as_deref())?;
    let results = absolute(&folders.results)?;
    let sweep = SlurmSweep {
        store: crate::Store::new(&results),
        root: absolute(&context.root)?,
        experiment: &plan.experiment.name,
        runs: &runs,
        spec: &spec,
        jobs: jobs.map(NonZeroUsize::get),
        command: command(named)?,
        options: options(context, named, &results)?,
        quiet: context.quiet,
    };
    if dry_run {
        super::print(&sweep.dry_run()?)?;
        return Ok(0);
    }
    if !context.quiet {
        super::plan(
            context,
            folders,
            named,
            only,
            jobs.map_or(1, NonZeroUsize::get),
            false,
        )?;
    }
    // Here, where there is a network: the nodes of a cluster often have none.
    prepare(context, &sweep.store, &runs)?;
    let (outcome, absent) = match sweep.sweep(!arguments.no_wait)? {
        None => return Ok(0),
        Some(Followed::Left) => return Ok(STOPPED),
        Some(Followed::Ended(outcome, absent)) => (outcome, absent),
    };
    if outcome != Outcome::default() {
        write_report(&plan, folders, named)?;
    }
    for (label, fate) in &absent {
        eprintln!("not done (the same command tries again): {label}: {fate}");
    }
    let code = ended(&outcome);
    Ok(if absent.is_empty() { code } else { FAILED })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}: no path", path.display()))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str();
    Ok(text
        .with_context(|| format!("{}: not valid UTF-8", path.display()))?
        .to_owned())
}

/// `sharelora run NAME`, with this very program.
fn command(named: &Named) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("this program does not know its own path")?;
    Ok(vec![text(&program)?, "run".into(), named.name.clone()])
}

/// What makes the tasks do the same runs in the same place.
fn options(context: &Context, named: &Named, results: &Path) -> Result<Vec<String>> {
    let mut options = vec!["--backend".into(), context.backend.clone()];
    options.extend(["--results".into(), text(results)?]);
    if let Some(mirror) = &context.hub.mirror {
        options.extend(["--mirror".into(), text(&absolute(mirror)?)?]);
    }
    for set in &named.sets {
        options.extend(["--set".into(), set.clone()]);
    }
    if context.unsafe_no_sandbox {
        options.push("--unsafe-no-sandbox".into());
    }
    Ok(options)
}
