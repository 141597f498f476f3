//! What computing common beginnings once is worth: the same questions with and without, by turns in one process.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use sharelora_tasks::{Answer, TaskOptions, task};

use crate::bench::{self, DTYPES, ModelArguments, rounded};
use crate::device::device;
use crate::evaluate::{Engine, Evaluated};
use crate::gradients::Learner;
use crate::{Context, data};

#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArguments {
    #[command(flatten)]
    pub model: ModelArguments,
    /// How the weights are kept
    #[arg(long, default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(DTYPES))]
    pub dtype: String,
    /// Task whose questions are asked
    #[arg(long, default_value = "mmlu")]
    pub task: String,
    /// Worked examples
    #[arg(long, default_value_t = 5)]
    pub shots: usize,
    /// The first questions of the task; MMLU's are in the order of its subjects
    #[arg(long, default_value_t = 200, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub questions: usize,
    /// Rounds of both; the times are medians
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    pub rounds: usize,
    /// Requests that are continued at the same time
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    pub version: &'static str,
    pub backend: String,
    pub threads: Option<usize>,
    pub dtype: String,
    pub task: String,
    pub questions: usize,
    /// Of all prompts together.
    pub prompt_tokens: usize,
    pub seconds_shared: f64,
    pub seconds_whole: f64,
    /// Seconds without sharing to those with it.
    pub ratio: f64,
    pub questions_per_s: f64,
    /// The headline metric, with sharing.
    pub score: Option<f64>,
    /// Of two log-probabilities of one choice; absent where texts are generated.
    pub largest_difference: Option<f64>,
    /// Generated answers that are not the same text.
    pub different_answers: usize,
    pub peak_rss_mib: u64,
}

/// Evaluates and measures.
///
/// # Errors
/// A model, a file or a task that does not fit.
pub fn evaluate(arguments: &EvaluateArguments, context: &Context) -> Result<Evaluation> {
    let device = device(&context.backend)?;
    let files = arguments.model.files(context)?;
    let options = TaskOptions {
        shots: Some(arguments.shots),
        ..TaskOptions::default()
    };
    let task = task(&arguments.task, &options)?;
    let rows = |split: &str| data::rows(task.as_ref(), split, &context.root, &context.hub);
    let shots = rows(task.train_split())?;
    let mut requests = task.requests(&rows(task.eval_split())?, &shots)?;
    requests.truncate(arguments.questions);
    let encoder = files.encoder(&files.config()?)?;
    let model = files.load(&arguments.dtype, &device)?;
    if task.labels().is_some() {
        bail!(
            "task `{}` is answered by labels, which need a trained head",
            arguments.task
        );
    }
    let learner = Learner::new(model, None);
    let ask = |share: bool| -> Result<(f64, Evaluated)> {
        let engine = Engine {
            learner: &learner,
            encoder: &encoder,
            task: task.as_ref(),
            batch_size: arguments.batch,
            seed: 0,
            text_length: learner.model.config.max_positions(),
            share,
        };
        let begun = Instant::now();
        let found =
            engine.evaluate(&requests, None, Vec::new(), context.quiet || arguments.json)?;
        Ok((begun.elapsed().as_secs_f64(), found))
    };
    let (mut shared, mut whole) = (Vec::new(), Vec::new());
    let mut answers = Vec::new();
    for _ in 0..arguments.rounds {
        let (seconds, with) = ask(true)?;
        shared.push(seconds);
        let (seconds, without) = ask(false)?;
        whole.push(seconds);
        answers = with.samples.into_iter().zip(without.samples).collect();
    }
    let mut largest: Option<f64> = None;
    let mut different = 0;
    for (with, without) in &answers {
        match (&with.answer, &without.answer) {
            (Answer::Choice { log_probs: a }, Answer::Choice { log_probs: b }) => {
                let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
                largest = gaps.chain(largest).reduce(f64::max);
            }
            (a, b) => different += usize::from(a != b),
        }
    }
    let samples: Vec<_> = answers.into_iter().map(|(with, _)| with).collect();
    let (shared, whole) = (bench::median(&shared), bench::median(&whole));
    let lengths = requests
        .iter()
        .map(|r| Ok(encoder.encode_prompt(&r.prompt)?.len()));
    Ok(Evaluation {
        version: bench::version(),
        threads: bench::threads(&context.backend),
        backend: context.backend.clone(),
        dtype: arguments.dtype.clone(),
        task: format!("{}/{}", task.name(), task.variant()),
        questions: requests.len(),
        prompt_tokens: lengths.sum::<Result<usize>>()?,
        seconds_shared: rounded(shared, 2),
        seconds_whole: rounded(whole, 2),
        ratio: rounded(whole / shared, 2),
        questions_per_s: rounded(requests.len() as f64 / shared, 2),
        score: task.metrics(&samples).get(task.headline()).map(|m| m.value),
        largest_difference: largest,
        different_answers: different,
        peak_rss_mib: bench::peak_rss_mib(),
    })
}
