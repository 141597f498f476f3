//! Batched greedy generation of a fixed number of tokens, as the peer's script does it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use sharelora_model::{GenerateOptions, generate as continued};

use crate::Context;
use crate::bench::{self, DTYPES, ModelArguments, rounded};
use crate::device::device;

#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// How the weights are kept
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(DTYPES))]
    pub dtype: String,
    /// Questions and answers; the first rows' questions are the prompts
    #[arg(long, value_name = "FILE.parquet")]
    pub prompts: PathBuf,
    /// Prompts, all in one batch
    #[arg(long, default_value_t = 32, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    pub n: usize,
    /// New tokens of each prompt; no token ends it earlier
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub new: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was measured. The names are those of the peer's script.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    pub version: &'static str,
    pub backend: String,
    pub threads: Option<usize>,
    pub dtype: String,
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// Of the generation alone: model and prompts are ready.
    pub seconds: f64,
    pub new_tokens_per_s: f64,
    pub peak_rss_mib: u64,
}

/// Generates and measures.
///
/// # Errors
/// A model or file that does not fit.
pub fn generate(arguments: &GenerateArguments, context: &Context) -> Result<Generation> {
    let device = device(&context.backend)?;
    let files = arguments.model.files(context)?;
    let rows = bench::questions(&arguments.prompts, arguments.n, context)?;
    let encoder = files.encoder(&files.config()?)?;
    let prompts = rows
        .iter()
        .map(|(question, _)| Ok(encoder.encode_prompt(&bench::prompt(question))?))
        .collect::<Result<Vec<Vec<u32>>>>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let model = files.load(&arguments.dtype, &device)?;
    let options = GenerateOptions::greedy(arguments.new, Vec::new());
    let begun = Instant::now();
    let answers = continued(
        &model,
        None,
        &prompts,
        &options,
        |_, _| false,
        |_| std::ops::ControlFlow::Continue(()),
    );
    let seconds = begun.elapsed().as_secs_f64();
    let new_tokens: usize = answers.iter().map(Vec::len).sum();
    Ok(Generation {
        version: bench::version(),
        threads: bench::threads(&context.backend),
        backend: context.backend.clone(),
        dtype: arguments.dtype.clone(),
        prompts: prompts.len(),
        prompt_tokens: prompts.iter().map(|p| p.len()).sum(),
        new_tokens,
        seconds: rounded(seconds, 2),
        new_tokens_per_s: rounded(new_tokens as f64 / seconds, 1),
        peak_rss_mib: bench::peak_rss_mib(),
    })
}
