//! `compare`: two runs, or two sweeps, against each other in the terminal.

use anyhow::Result;
use rayon::prelude::*;
use sharelora_report::against::{Side, against};
use sharelora_report::{against_text, record, terminal};

use crate::Context;
use crate::report::resample_corpora;
use crate::store::read_run;
use crate::stored::{self, Stage};
use crate::sweep::Folders;

/// What is compared with what, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// EXPERIMENT/LABEL, the beginning of a label (`EXPERIMENT/lora` for all seeds), EXPERIMENT, or a folder
    a: String,
    /// The same; differences are this one less the first
    b: String,
    /// Show N answers that were graded differently, with question and grades
    #[arg(long, value_name = "N", default_value_t = 0)]
    samples: usize,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// Compares two sides and prints.
///
/// # Errors
/// A name that means nothing, or results that cannot be read.
pub fn compare(context: &Context, folders: &Folders, options: &Compare) -> Result<u8> {
    let a = side(context, folders, &options.a)?;
    let b = side(context, folders, &options.b)?;
    let found = against(&a, &b, options.samples)?;
    let text = if options.json {
        serde_json::to_string_pretty(&found)?
    } else {
        against_text::render(&found, terminal::takes_colour())
    };
    super::print(&text)?;
    Ok(0)
}

fn side(context: &Context, folders: &Folders, name: &str) -> Result<Side> {
    let stored = stored::find(folders, name, Stage::Ended)?;
    if !context.quiet {
        for dir in &stored.older {
            eprintln!(
                "{name}: {} is left out: a newer folder has its label (name the folder to compare it)",
                dir.display()
            );
        }
    }
    let runs: Result<Vec<_>> = stored
        .dirs
        .into_par_iter()
        .map(|dir| {
            let mut run = record::read_run(dir)?;
            // Without its settings, those of another version say, a run's scores of whole corpora are not paired.
            if let Ok(planned) = read_run(&run.dir) {
                resample_corpora(&mut run, &planned)?;
            }
            Ok(run)
        })
        .collect();
    Ok(Side {
        name: name.to_owned(),
        runs: runs?,
    })
}
