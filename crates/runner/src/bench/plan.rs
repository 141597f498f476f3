//! Planning a large sweep: every seed of four methods, resolved, hashed, estimated and looked up in the store.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::{peak_rss_mib, rounded, version};
use crate::cli::Named;
use crate::sweep::Folders;
use crate::{Context, commands};

/// `bench plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArguments {
    /// Experiment whose sections are planned
    #[arg(long, value_name = "NAME", default_value = "quickstart")]
    pub experiment: String,
    /// Runs, a multiple of 4
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub runs: u64,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

/// What planning took.
#[derive(Debug, Clone, Serialize)]
pub struct PlanFields {
    pub version: &'static str,
    pub runs: usize,
    /// From the file to resolved runs with their hashes.
    pub plan_seconds: f64,
    /// From the file to the table that `plan` prints.
    pub table_seconds: f64,
    pub peak_rss_mib: u64,
}

/// Plans twice: resolved alone, then all that `plan` shows.
///
/// # Errors
/// The experiment is wrong.
pub fn plan(arguments: &PlanArguments, context: &Context, folders: &Folders) -> Result<PlanFields> {
    let seeds: Vec<String> = (0..arguments.runs / 4)
        .map(|seed| seed.to_string())
        .collect();
    let named = Named {
        name: arguments.experiment.clone(),
        sets: vec![
            format!("axes.seed=[{}]", seeds.join(",")),
            "axes.method=[\"lora\", \"share_a\", \"share_b\", \"share_ab\"]".into(),
        ],
    };
    let begun = Instant::now();
    let runs = commands::load(context, &named)?.runs.len();
    let plan_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    commands::planned_table(context, folders, &named, None, 1)?;
    Ok(PlanFields {
        version: version(),
        runs,
        plan_seconds: rounded(plan_seconds, 3),
        table_seconds: rounded(begun.elapsed().as_secs_f64(), 3),
        peak_rss_mib: peak_rss_mib(),
    })
}
