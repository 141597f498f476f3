//! The command line.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use sharelora_hub::Hub;

use crate::Context;
use crate::commands;
use crate::device::BACKENDS;
use crate::error::{self, AbsentError, UsageError};
use crate::pretrain::{Pocket, pretrain_pocket};
use crate::sweep::Folders;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  a run failed, or parity does not hold
  2  a wrong argument, experiment or file
  3  something is neither on this machine nor to be had: a file, the network, Python
  130  stopped by Ctrl-C: the same command goes on";

const QUERY_EXAMPLES: &str = "Example:
  sharelora query 'SELECT method, AVG(held_out_loss) AS loss FROM records GROUP BY method ORDER BY loss'

Tables: records (a row a run), steps (a row a step), samples (a row a grade of an answer).
Names with other signs than letters, digits and _ stand in double quotes. Without ORDER BY rows may come in any order.

  sharelora query 'SELECT run, \"metric:gsm8k/exact_match_flexible\" AS score FROM records ORDER BY score DESC LIMIT 5'
  sharelora query 'SELECT run, MAX(step) AS steps, MIN(loss) AS loss FROM steps GROUP BY run ORDER BY loss' --csv
  sharelora query \"SELECT method, AVG(value) AS correct FROM samples WHERE grade = 'correct' GROUP BY method ORDER BY method\"
  sharelora query 'SELECT * FROM steps' --parquet steps.parquet";

/// Trains, evaluates and compares LoRA and its shared forms (ShareA, ShareB, ShareAB; ShareLoRA, arXiv 2406.10785).
#[derive(Debug, Parser)]
#[command(name = "sharelora", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Tensor backend
    #[arg(long, global = true, value_parser = clap::builder::PossibleValuesParser::new(BACKENDS), env = "SHARELORA_BACKEND")]
    backend: Option<String>,
    /// Folder looked in first for every file of a hub [env: SHARELORA_MIRROR]
    #[arg(long, global = true, value_name = "DIR")]
    mirror: Option<PathBuf>,
    /// Folder of the results [default: results in the project]
    #[arg(long, global = true, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Folder of the reports [default: reports in the project]
    #[arg(long, global = true, value_name = "DIR")]
    reports: Option<PathBuf>,
    /// Print results and errors alone
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Run programs that a model wrote even where nothing on this machine confines them
    #[arg(long, global = true)]
    unsafe_no_sandbox: bool,
}

/// An experiment and the keys that replace the file's.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// Name of a file in experiments/, without .toml
    pub name: String,
    /// Replace a key of the file; the value in TOML
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A folder that Hugging Face PEFT loads; a shared matrix is written once per layer
    Peft,
    /// One safetensors file; a shared matrix is written once
    Native,
    /// Results and samples in the layout of lm-evaluation-harness
    LmEval,
    /// The result as one of Hugging Face PEFT's method_comparison
    MethodComparison,
}

#[derive(Debug, Subcommand)]
enum New {
    /// An experiment that compares methods, every axis named in its comments
    #[command(after_help = "Example:\n  sharelora new ablation my-ablation --model smollm2-gsm8k")]
    Ablation(commands::Ablation),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do all runs of an experiment that are not done, then write its report
    #[command(
        after_help = "Example:\n  sharelora sweep quickstart --set train.steps=40 --only share_a\n  \
                      sharelora sweep smollm2-gsm8k --executor slurm --slurm-profile cluster.toml --jobs 8"
    )]
    Sweep {
        #[command(flatten)]
        named: Named,
        /// Show the plan and stop
        #[arg(long)]
        dry_run: bool,
        /// Only runs whose label contains this text or matches this regular expression
        #[arg(long, value_name = "REGEX")]
        only: Option<String>,
        /// Runs at a time, each in a process of its own with its share of the cores; with Slurm the most tasks at once [default: 1;
        /// with Slurm as many as it lets run]
        #[arg(long, value_name = "N")]
        jobs: Option<NonZeroUsize>,
        #[command(flatten)]
        slurm: commands::SlurmArgs,
        /// Write TensorBoard event files of the runs at the end (`sharelora tensorboard NAME --follow` writes them as they grow)
        #[arg(long)]
        tensorboard: bool,
    },
    /// Do the runs that come as lines of JSON: what `sweep --jobs` starts
    #[command(
        hide = true,
        after_help = "Example:\n  sharelora worker < requests.jsonl"
    )]
    Worker,
    /// Do one run of an experiment, or several in the order given
    #[command(after_help = "Example:\n  sharelora run quickstart share_a-seed0")]
    Run {
        #[command(flatten)]
        named: Named,
        /// Label of the run, as `plan` shows it
        #[arg(required = true, value_name = "LABEL")]
        labels: Vec<String>,
        /// Write the run's TensorBoard event file at the end
        #[arg(long)]
        tensorboard: bool,
    },
    /// Show the runs of an experiment, what is done, and what each will cost: time, memory, disk
    #[command(after_help = "Example:\n  sharelora plan quickstart --jobs 2")]
    Plan {
        #[command(flatten)]
        named: Named,
        /// Runs at once, for the time
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        jobs: u32,
        /// Everything that decides each run, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the runs of a sweep stand, from their files: any executor, any machine on the same folder
    #[command(after_help = "Example:\n  sharelora status quickstart --watch")]
    Status {
        /// Name of a file in experiments/, without .toml [default: a line for each with results]
        name: Option<String>,
        /// Replace a key of the file; the value in TOML
        #[arg(long = "set", value_name = "KEY=VALUE", requires = "name")]
        sets: Vec<String>,
        /// Follow it live in the terminal
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Do the failed runs of an experiment again, from their checkpoints
    #[command(after_help = "Example:\n  sharelora retry smollm2-gsm8k --only share_a --dry-run")]
    Retry {
        #[command(flatten)]
        named: Named,
        /// Only runs whose label contains this text or matches this regular expression
        #[arg(long, value_name = "REGEX")]
        only: Option<String>,
        /// Also the runs that diverged, from the start
        #[arg(long)]
        diverged: bool,
        /// Runs at a time, each in a process of its own with its share of the cores
        #[arg(long, value_name = "N", default_value = "1")]
        jobs: NonZeroUsize,
        /// Say what would be done and stop
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what no experiment and no report cites, and remove it after a yes
    #[command(after_help = "Example:\n  sharelora gc smollm2-gsm8k")]
    Gc {
        /// Only results of this experiment [default: of all, and tokenised texts]
        name: Option<String>,
        /// Remove it without asking
        #[arg(long)]
        yes: bool,
    },
    /// Write a new file to work with
    #[command(after_help = "Example:\n  sharelora new ablation my-ablation --model smollm2-gsm8k")]
    New {
        #[command(subcommand)]
        what: New,
    },
    /// Count the trainable parameters of an experiment's methods, from config.json alone
    #[command(after_help = "Example:\n  sharelora params llama7b")]
    Params {
        #[command(flatten)]
        named: Named,
    },
    /// Bring every file of an experiment to this machine
    #[command(after_help = "Example:\n  sharelora fetch smollm2-gsm8k")]
    Fetch {
        #[command(flatten)]
        named: Named,
    },
    /// Write the report of an experiment from its stored results
    #[command(after_help = "Example:\n  sharelora report quickstart")]
    Report {
        #[command(flatten)]
        named: Named,
    },
    /// Make all tables, figures, reports and the front page from stored results
    #[command(after_help = "Example:\n  sharelora paper --check")]
    Paper {
        /// Write nothing; name every file that does not follow from its results
        #[arg(long, conflicts_with = "dry_run")]
        check: bool,
        /// Plan every experiment in the paper's own settings: parameters, memory and time
        #[arg(long)]
        dry_run: bool,
        /// Arithmetic that a device does in training, in 10^12 operations a second, for the times of --dry-run
        #[arg(long, value_name = "N", default_value_t = 100.0, requires = "dry_run")]
        tflops: f64,
    },
    /// Grade saved answers again
    #[command(
        after_help = "Example:\n  sharelora score results/quickstart/share_a-seed0-1f2e3d4c/samples-pocket.jsonl.zst --task pocket\n  \
                      sharelora score e2e --system output.txt --references references.txt\n  \
                      sharelora score humaneval --samples completions.jsonl"
    )]
    Score {
        /// A samples file of a run; or `e2e`: any system's texts by the scores of the E2E challenge; or `humaneval`: any
        /// system's completions in the format of openai/human-eval
        #[arg(value_name = "FILE|e2e|humaneval")]
        what: PathBuf,
        /// With `humaneval`: lines of task_id and completion, .jsonl or .jsonl.gz
        #[arg(long, value_name = "FILE", conflicts_with_all = ["system", "task", "variant"])]
        samples: Option<PathBuf>,
        /// With `humaneval`: writes each line with its result, as the official tool does
        #[arg(long, value_name = "FILE", requires = "samples")]
        out: Option<PathBuf>,
        /// With a samples file of HumanEval: writes its completions in the official format
        #[arg(long, value_name = "FILE", requires = "task")]
        completions: Option<PathBuf>,
        /// With `e2e`: the system's texts, one a line, or a .csv or .tsv
        #[arg(long, value_name = "FILE", requires = "references")]
        system: Option<PathBuf>,
        /// With `e2e`: references, a blank line behind those of each text, or a .csv or .tsv with the inputs
        #[arg(long, value_name = "FILE", requires = "system")]
        references: Option<PathBuf>,
        /// Task whose grader is used
        #[arg(long, required_unless_present_any = ["system", "samples"])]
        task: Option<String>,
        /// Variant of the task [default: the task's first]
        #[arg(long)]
        variant: Option<String>,
    },
    /// Write a run's adapter, or its results, for use elsewhere
    #[command(
        after_help = "Example:\n  sharelora export results/quickstart/share_a-seed0-1f2e3d4c --format peft --out adapter"
    )]
    Export {
        /// Folder of a run
        run: PathBuf,
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Singular values, ranks, norms and principal angles of adapters; writes Parquet and figures
    #[command(
        after_help = "Example:\n  sharelora spectrum smollm2-gsm8k/lora-seed0 smollm2-gsm8k/share_a-seed0 --layers"
    )]
    Spectrum(commands::Spectrum),
    /// Compare two runs, or two sweeps: settings, scores with tests, losses, speed, memory, answers
    #[command(
        after_help = "Example:\n  sharelora compare smollm2-gsm8k/lora smollm2-gsm8k/share_a --samples 3"
    )]
    Compare(commands::Compare),
    /// Ask all stored results by SQL
    #[command(after_help = QUERY_EXAMPLES)]
    Query(commands::Query),
    /// Write TensorBoard event files from stored steps
    #[command(
        after_help = "Example:\n  sharelora tensorboard quickstart --follow\n  tensorboard --logdir results/quickstart"
    )]
    Tensorboard(commands::Tensorboard),
    /// Compare this program with reference values of transformers and PEFT: outputs, training steps, real prompts
    #[command(
        after_help = "Example:\n  sharelora parity reference/llama-gqa reference/smollm2.json --model-of smollm2-gsm8k"
    )]
    Parity {
        /// Folders of reference values (config, weights, inputs and outputs, training steps), or JSON files of prompts
        /// with token ids, likelihoods and greedy tokens
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Experiment whose model answers the prompts of JSON files
        #[arg(long, value_name = "NAME", default_value = "smollm2-gsm8k")]
        model_of: String,
    },
    /// Measure training, generation, loading and this machine, and compare them with PyTorch and PEFT
    #[command(
        after_help = "Example:\n  sharelora bench train --model smollm2-gsm8k --method share_a"
    )]
    Bench {
        #[command(subcommand)]
        what: commands::Bench,
    },
    /// Show this machine, the caches, and which experiments can run now without the network
    #[command(after_help = "Example:\n  sharelora doctor")]
    Doctor,
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  sharelora completions bash > ~/.local/share/bash-completion/completions/sharelora"
    )]
    Completions { shell: clap_complete::Shell },
    /// Train the pocket models of the quickstart and of the tests from nothing
    #[command(after_help = "Example:\n  sharelora pretrain-pocket roberta")]
    PretrainPocket {
        /// Only this one
        #[arg(value_enum)]
        model: Option<Pocket>,
    },
}

/// Parses the command line, does what it says, prints errors. The whole of the binary.
pub fn main() -> ExitCode {
    // Wrong arguments end here with clap's own text and code 2; help and version with 0.
    let cli = Cli::parse();
    init_tracing(cli.common.quiet);
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", error::describe(&e));
            ExitCode::from(error::exit_code(&e))
        }
    }
}

fn init_tracing(quiet: bool) {
    use std::io::IsTerminal;
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("SHARELORA_LOG").unwrap_or_else(|_| {
            tracing_subscriber::EnvFilter::new(if quiet { "error" } else { "warn" })
        });
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // Refused only where a test has set one already.
    let _ = subscriber.without_time().try_init();
}

fn dispatch(cli: Cli) -> Result<u8> {
    let common = &cli.common;
    match cli.command {
        Command::Sweep {
            named,
            dry_run,
            only,
            jobs,
            slurm,
            tensorboard,
        } => {
            let (context, folders) = project(common)?;
            if slurm.executor == commands::Executor::Slurm {
                let only = only.as_deref();
                return commands::sweep_by_slurm(
                    &context, &folders, &named, only, jobs, &slurm, dry_run,
                );
            }
            if slurm.no_wait {
                let text = "--no-wait goes with --executor slurm";
                return Err(UsageError(text.into()).into());
            }
            let jobs = jobs.unwrap_or(NonZeroUsize::MIN);
            if dry_run {
                return commands::plan(
                    &context,
                    &folders,
                    &named,
                    only.as_deref(),
                    jobs.get(),
                    false,
                );
            }
            let code = commands::sweep(&context, &folders, &named, only.as_deref(), jobs)?;
            if tensorboard {
                commands::events_of_plan(&context, &folders, &named, |_| true)?;
            }
            Ok(code)
        }
        Command::Worker => {
            let (context, folders) = project(common)?;
            crate::worker::work(&context, &folders.store())
        }
        Command::Run {
            named,
            labels,
            tensorboard,
        } => {
            let (context, folders) = project(common)?;
            let code = commands::run(&context, &folders, &named, &labels)?;
            if tensorboard {
                let asked = |label: &str| labels.iter().any(|wanted| wanted == label);
                commands::events_of_plan(&context, &folders, &named, asked)?;
            }
            Ok(code)
        }
        Command::Plan { named, jobs, json } => {
            let (context, folders) = project(common)?;
            commands::plan(&context, &folders, &named, None, jobs as usize, json)
        }
        Command::Status {
            name,
            sets,
            watch,
            json,
        } => {
            let (context, folders) = project(common)?;
            let shown = match (watch, json) {
                (true, _) => commands::Shown::Live,
                (_, true) => commands::Shown::Json,
                _ => commands::Shown::Table,
            };
            commands::status(&context, &folders, name, sets, shown)
        }
        Command::Retry {
            named,
            only,
            diverged,
            jobs,
            dry_run,
        } => {
            let (context, folders) = project(common)?;
            let again = commands::Again {
                only,
                diverged,
                jobs,
                dry_run,
            };
            commands::retry(&context, &folders, &named, &again)
        }
        Command::Gc { name, yes } => {
            let (context, folders) = project(common)?;
            commands::gc(&context, &folders, name.as_deref(), yes)
        }
        Command::New {
            what: New::Ablation(wanted),
        } => commands::ablation(&project(common)?.0, &wanted),
        Command::Params { named } => commands::params(&project(common)?.0, &named),
        Command::Fetch { named } => commands::fetch(&project(common)?.0, &named),
        Command::Report { named } => {
            let (context, folders) = project(common)?;
            commands::report(&context, &folders, &named)
        }
        Command::Paper {
            check,
            dry_run,
            tflops,
        } => {
            let (context, folders) = project(common)?;
            match (check, dry_run) {
                (true, _) => commands::check_paper(&context, &folders),
                (_, true) => commands::plan_paper(&context, tflops),
                _ => commands::paper(&context, &folders),
            }
        }
        Command::Score {
            what,
            samples,
            out,
            completions,
            system,
            references,
            task,
            variant,
        } => match (system, references, samples) {
            (Some(system), Some(references), None) if what.as_os_str() == "e2e" => {
                commands::score_texts(&anywhere(common)?, &system, &references)
            }
            (None, None, Some(samples)) if what.as_os_str() == "humaneval" => {
                commands::score_completions(&anywhere(common)?, &samples, out.as_deref())
            }
            (None, None, None) => {
                let task = task.unwrap_or_default();
                let context = anywhere(common)?;
                commands::score(&context, &what, &task, variant, completions.as_deref())
            }
            _ => {
                let text = "--system and --references go with `score e2e`, --samples with `score humaneval`";
                Err(UsageError(text.into()).into())
            }
        },
        Command::Export { run, format, out } => {
            commands::export(&anywhere(common)?, &run, format, &out)
        }
        Command::Spectrum(spectrum) => {
            let (context, folders) = project(common)?;
            commands::spectrum(&context, &folders, &spectrum)
        }
        Command::Compare(options) => {
            let (context, folders) = results(common)?;
            commands::compare(&context, &folders, &options)
        }
        Command::Query(options) => commands::query(&results(common)?.1, &options),
        Command::Tensorboard(options) => {
            let (context, folders) = results(common)?;
            commands::tensorboard(&context, &folders, &options)
        }
        Command::Parity { paths, model_of } => {
            commands::parity(&anywhere(common)?, &paths, &model_of)
        }
        Command::Bench { what } => {
            let (context, folders) = if what.needs_project() {
                project(common)?
            } else {
                let nowhere = Folders {
                    results: PathBuf::new(),
                    reports: PathBuf::new(),
                };
                (anywhere(common)?, nowhere)
            };
            commands::bench(&context, &folders, &what)
        }
        Command::Doctor => {
            let context = anywhere(common)?;
            crate::doctor::doctor(&context)
        }
        Command::Completions { shell } => {
            let mut bytes = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sharelora", &mut bytes);
            commands::print(&String::from_utf8_lossy(&bytes))?;
            Ok(0)
        }
        Command::PretrainPocket { model } => {
            pretrain_pocket(&project(common)?.0, model)?;
            Ok(0)
        }
    }
}

/// The project's folder: `SHARELORA_ROOT`, else the nearest folder upward that has `experiments/`.
///
/// # Errors
/// There is none.
pub fn project_root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("SHARELORA_ROOT").filter(|v| !v.is_empty()) {
        let root = PathBuf::from(root);
        if !root.join("experiments").is_dir() {
            let text = format!(
                "SHARELORA_ROOT is {}, which has no folder `experiments`",
                root.display()
            );
            return Err(AbsentError(text).into());
        }
        return Ok(root);
    }
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    match here.ancestors().find(|dir| dir.join("experiments").is_dir()) {
        Some(root) => Ok(root.to_owned()),
        None => Err(AbsentError(format!(
            "no project here: neither {} nor a folder above it has `experiments`; go into one, or set SHARELORA_ROOT",
            here.display()
        ))
        .into()),
    }
}

fn project(common: &Common) -> Result<(Context, Folders)> {
    let root = project_root()?;
    Ok((context(common, &root)?, folders(common, &root)))
}

fn folders(common: &Common, root: &Path) -> Folders {
    let given =
        |folder: &Option<PathBuf>, name: &str| folder.clone().unwrap_or_else(|| root.join(name));
    Folders {
        results: given(&common.results, "results"),
        reports: given(&common.reports, "reports"),
    }
}

/// For commands that read results alone, which `--results` may name outside a project.
fn results(common: &Common) -> Result<(Context, Folders)> {
    if common.results.is_none() {
        return project(common);
    }
    let context = anywhere(common)?;
    let folders = folders(common, &context.root);
    Ok((context, folders))
}

/// For commands that also work outside a project.
fn anywhere(common: &Common) -> Result<Context> {
    match project_root() {
        Ok(root) => context(common, &root),
        Err(_) => context(
            common,
            &std::env::current_dir().context("the current folder cannot be read")?,
        ),
    }
}

fn context(common: &Common, root: &Path) -> Result<Context> {
    let mut hub = Hub::from_env(root);
    if let Some(mirror) = &common.mirror {
        if !mirror.is_dir() {
            return Err(
                AbsentError(format!("--mirror {}: no such folder", mirror.display())).into(),
            );
        }
        hub.mirror = Some(mirror.clone());
    }
    let backend = common
        .backend
        .clone()
        .or_else(|| BACKENDS.first().map(|b| (*b).to_owned()));
    Ok(Context {
        root: root.to_owned(),
        hub,
        backend: backend
            .ok_or_else(|| UsageError("this program was built without a tensor backend".into()))?,
        quiet: common.quiet,
        unsafe_no_sandbox: common.unsafe_no_sandbox,
    })
}

/// `sharelora plan x | head` is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// clap checks the definition (clashing names, bad defaults) only when asked.
    #[test]
    fn the_definition_holds_and_every_command_has_an_example() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        let names: Vec<String> = cli
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        for name in names {
            let help = cli
                .find_subcommand_mut(&name)
                .unwrap()
                .render_long_help()
                .to_string();
            assert!(
                help.contains(&format!("Example:\n  sharelora {name}")),
                "{help}"
            );
        }
    }
}
