//! `bench`: measurements, printed; see [`crate::bench`].

use anyhow::Result;
use clap::Subcommand;

use crate::Context;
use crate::bench::evaluate::EvaluateArguments;
use crate::bench::generate::GenerateArguments;
use crate::bench::load::LoadArguments;
use crate::bench::machine::MachineArguments;
use crate::bench::peer::PeerArguments;
use crate::bench::plan::PlanArguments;
use crate::bench::train::TrainArguments;
use crate::bench::{evaluate, generate, load, machine, peer, plan, render, report, train};
use crate::sweep::Folders;

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Optimizer steps: time, tokens per second, peak memory, start
    #[command(
        after_help = "Example:\n  sharelora bench train --model smollm2-gsm8k --method share_a --json"
    )]
    Train(TrainArguments),
    /// Greedy generation of a fixed number of tokens in one batch
    #[command(
        after_help = "Example:\n  sharelora bench generate --prompts gsm8k_test.parquet --n 32 --new 64"
    )]
    Generate(GenerateArguments),
    /// Questions of a task with and without computing common beginnings once
    #[command(
        after_help = "Example:\n  sharelora bench evaluate --model smollm2-gsm8k --task mmlu --shots 5 --questions 200"
    )]
    Evaluate(EvaluateArguments),
    /// Time until a model is ready, and the memory that it holds or maps
    #[command(after_help = "Example:\n  sharelora bench load --model smollm2-gsm8k")]
    Load(LoadArguments),
    /// What this machine can do at most: matrix products and copies
    #[command(after_help = "Example:\n  sharelora bench machine")]
    Machine(MachineArguments),
    /// Planning a large sweep: time and peak memory
    #[command(after_help = "Example:\n  sharelora bench plan --runs 10000")]
    Plan(PlanArguments),
    /// The whole comparison with PyTorch and PEFT, each process by itself, and its report; goes on where it was cut off
    #[command(after_help = "Example:\n  sharelora bench peer --python venv/bin/python --rounds 3")]
    Peer(PeerArguments),
    /// Write the report of the comparison from its stored measurements
    #[command(after_help = "Example:\n  sharelora bench report")]
    Report {
        /// Of the quick comparison
        #[arg(long)]
        quick: bool,
    },
}

impl Bench {
    /// Whether this reads or writes a project.
    pub fn needs_project(&self) -> bool {
        matches!(self, Bench::Plan(_) | Bench::Peer(_) | Bench::Report { .. })
    }
}

/// Measures and prints.
///
/// # Errors
/// As the measurements.
pub fn bench(context: &Context, folders: &Folders, what: &Bench) -> Result<u8> {
    let text = match what {
        Bench::Train(arguments) => {
            let fields = train::train(arguments, context)?;
            render("Training", &fields, arguments.json)?
        }
        Bench::Generate(arguments) => {
            let fields = generate::generate(arguments, context)?;
            render("Generation", &fields, arguments.json)?
        }
        Bench::Evaluate(arguments) => {
            let fields = evaluate::evaluate(arguments, context)?;
            render("Evaluation", &fields, arguments.json)?
        }
        Bench::Load(arguments) => {
            let fields = load::load(arguments, context)?;
            render("Loading", &fields, arguments.json)?
        }
        Bench::Machine(arguments) => {
            render("Machine", &machine::machine(arguments), arguments.json)?
        }
        Bench::Plan(arguments) => {
            let fields = plan::plan(arguments, context, folders)?;
            render("Planning", &fields, arguments.json)?
        }
        Bench::Peer(arguments) => return peer::peer(arguments, context, &folders.reports),
        Bench::Report { quick } => {
            let folder = peer::folder(&folders.reports, *quick);
            report::write(&folder)?.display().to_string()
        }
    };
    super::print(&text)?;
    Ok(0)
}
