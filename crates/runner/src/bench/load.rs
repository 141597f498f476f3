//! How long a model takes to be ready, and what of it the process holds or maps.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use sharelora_model::Input;
use sharelora_model::weights::Checkpoint;

use crate::bench::{self, DTYPES, ModelArguments, rounded};
use crate::device::device;
use crate::{Context, host};

#[derive(Debug, Clone, clap::Args)]
pub struct LoadArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// How the weights are kept
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(DTYPES))]
    pub dtype: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    pub version: &'static str,
    pub backend: String,
    pub threads: Option<usize>,
    pub dtype: String,
    pub parameters: u64,
    /// The tensors in the file.
    pub stored_mib: f64,
    /// From the files to a model.
    pub seconds: f64,
    /// The logits of one token, the first time: what is mapped is read from the file only now.
    pub first_token_s: f64,
    /// From the kernel's start of this process to those logits.
    pub start_to_first_token_s: Option<f64>,
    /// Weights on the heap or a device.
    pub held_mib: f64,
    /// Weights read where they are in a mapped file.
    pub mapped_mib: f64,
    /// What the process has in memory after the first token that it had not before the model.
    pub resident_mib: f64,
    pub peak_rss_mib: u64,
}

/// Loads and measures.
///
/// # Errors
/// A model that is missing or malformed.
pub fn load(arguments: &LoadArguments, context: &Context) -> Result<Load> {
    let device = device(&context.backend)?;
    let files = arguments.model.files(context)?;
    let stored = Checkpoint::open(&files.weights)?.bytes();
    let before = host::resident_bytes();
    let begun = Instant::now();
    let model = files.load(&arguments.dtype, &device)?;
    let seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let input = Input::packed(&[&[0]]);
    let _ = model.logits(model.hidden(&input, None, None)).into_data();
    let first_token = begun.elapsed().as_secs_f64();
    let age = host::process_age();
    let (held, mapped) = model.memory();
    let mebibytes = |bytes: u64| rounded(bytes as f64 / f64::from(1 << 20), 1);
    Ok(Load {
        version: bench::version(),
        threads: bench::threads(&context.backend),
        backend: context.backend.clone(),
        dtype: arguments.dtype.clone(),
        parameters: model.config.parameters(),
        stored_mib: mebibytes(stored as u64),
        seconds: rounded(seconds, 3),
        first_token_s: rounded(first_token, 3),
        start_to_first_token_s: age.map(|s| rounded(s, 2)),
        held_mib: mebibytes(held as u64),
        mapped_mib: mebibytes(mapped as u64),
        resident_mib: mebibytes(host::resident_bytes().saturating_sub(before)),
        peak_rss_mib: bench::peak_rss_mib(),
    })
}
