//! One function a command. Each returns the exit code, or an error that decides it.

mod bench;
mod compare;
mod export;
mod fetch;
mod gc;
mod new;
mod paper;
mod parity;
mod plan;
mod query;
mod retry;
mod score;
mod slurm;
mod spectrum;
mod status;
mod sweep;
mod tensorboard;

use std::io::Write;

use anyhow::Result;

pub use bench::{Bench, bench};
pub use compare::{Compare, compare};
pub use export::export;
pub use fetch::{Wanted, fetch, fetch_all, wanted};
pub use gc::gc;
pub use new::{Ablation, ablation};
pub use paper::{check_paper, paper, plan_paper};
pub use parity::parity;
pub use plan::{params, plan, planned_table};
pub use query::{Query, query};
pub use retry::{Again, retry};
pub use score::{score, score_completions, score_texts};
pub use slurm::{Executor, SlurmArgs, sweep_by_slurm};
pub use spectrum::{Spectrum, spectrum};
pub use status::{Shown, status};
pub use sweep::{report, run, sweep};
pub use tensorboard::{Tensorboard, events_of_plan, tensorboard};

use crate::cli::Named;
use crate::{Context, Experiment, Plan};

/// Reads and plans an experiment.
pub(crate) fn load(context: &Context, named: &Named) -> Result<Plan> {
    let experiment = Experiment::load(&context.root, &named.name, &named.sets)?;
    Ok(crate::plan::plan(
        &context.root,
        experiment,
        &context.backend,
    )?)
}

/// Prints to standard output; unlike `print!` a closed pipe is an error, not a panic.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
