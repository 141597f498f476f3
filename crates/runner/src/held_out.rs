//! The loss of a task's held-out rows as an evaluation: of any task, whatever the run was trained on.
//!
//! The rows are those that a training on this task holds out (`train.held_out`), and the number is the same: the mean negative
//! log-likelihood, in nats, of the tokens of the answers.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use sharelora_model::{Question, ScoreOptions, score};
use sharelora_tasks::{Answer, Encoder, Metric, Sample, Task, rows_hash};

use crate::Context;
use crate::data::{self, held_out_places};
use crate::evaluate::SCORED_TOKENS;
use crate::experiment::LossSpec;
use crate::gradients::Learner;
use crate::progress::Progress;

/// Name of the metric behind the task's.
pub const METRIC: &str = "held_out_loss";

/// Summed negative log-likelihood of a row, as its sample has it.
const GRADE: &str = "nll";

/// Held-out rows of one task, ready to be scored.
pub struct HeldOut {
    /// Their samples, without what the model says of them.
    samples: Vec<Sample>,
    questions: Vec<Question>,
    /// SHA-256 of the rows of the split that they come from.
    pub hash: String,
    /// Rows that were longer than allowed and lost tokens.
    pub truncated: usize,
}

/// Reads and encodes the held-out rows of `task`.
///
/// # Errors
/// A file that is neither here nor to be had, a task that is answered by labels, fewer rows than are to be held out.
pub fn rows(
    task: &dyn Task,
    spec: &LossSpec,
    encoder: &Encoder,
    context: &Context,
) -> Result<HeldOut> {
    if task.labels().is_some() {
        bail!(
            "`evaluate.loss`: task `{}` is answered by labels: score its metric",
            task.name()
        );
    }
    let mut rows = data::rows(task, task.train_split(), &context.root, &context.hub)?;
    if let Some(limit) = spec.rows {
        rows.truncate(limit);
    }
    let hash = rows_hash(&rows);
    let examples = task.examples(&rows)?;
    if spec.held_out > examples.len() {
        bail!(
            "`evaluate.loss.held_out` = {} is more than the {} rows of task `{}`",
            spec.held_out,
            examples.len(),
            task.name()
        );
    }
    let examples: Vec<_> = held_out_places(spec.held_out, examples.len())
        .map(|place| examples[place].clone())
        .collect();
    let encoded = encoder.encode_examples(&examples, spec.max_source, spec.max_target)?;
    let sample = |example: &sharelora_tasks::Example, tokens: usize| Sample {
        id: example.id.clone(),
        prompt: example.source.clone(),
        reference: match &example.target {
            sharelora_tasks::Target::Text(text) => text.clone(),
            sharelora_tasks::Target::Label { label, .. } => label.to_string(),
        },
        group: None,
        answer: Answer::Choice {
            log_probs: Vec::new(),
        },
        tokens,
        grades: Default::default(),
    };
    let split = |row: &sharelora_tasks::Encoded| {
        // The first token of a text without a prompt is predicted from nothing: it carries no label.
        let (prompt, answer) = row.ids.split_at(row.prompt_len.max(1).min(row.ids.len()));
        Question {
            prompt: prompt.to_vec(),
            choices: vec![answer.to_vec()],
        }
    };
    let questions: Vec<Question> = encoded.iter().map(split).collect();
    let tokens = questions.iter().map(|q| q.choices[0].len());
    Ok(HeldOut {
        samples: examples
            .iter()
            .zip(tokens)
            .map(|(e, n)| sample(e, n))
            .collect(),
        questions,
        hash,
        truncated: encoded.iter().filter(|row| row.truncated).count(),
    })
}

impl HeldOut {
    /// What `learner` says of the rows.
    pub fn measure(&self, learner: &Learner, task: &str, quiet: bool) -> Vec<Sample> {
        let mut samples = self.samples.clone();
        let mut progress = Progress::new(&format!("{task} loss"), samples.len() as u64, quiet);
        let mut done = 0;
        let options = ScoreOptions {
            tokens: SCORED_TOKENS,
            share: true,
        };
        let adapter = learner.adapter(None);
        score(
            &learner.model,
            adapter,
            &self.questions,
            options,
            |row, scores| {
                let log_prob = scores[0];
                samples[row].grades.insert(GRADE.into(), -log_prob);
                samples[row].answer = Answer::Choice {
                    log_probs: vec![log_prob],
                };
                done += 1;
                progress.set(done, "");
                ControlFlow::Continue(())
            },
        );
        let loss = metric(&samples).map_or(f64::NAN, |m| m.value);
        progress.finish(&format!("held-out loss {loss:.4}"));
        samples
    }
}

/// The mean over all tokens, with the standard error of a ratio of two means over rows (Cochran, Sampling Techniques, 1977,
/// section 6.3); `None` without a token.
pub fn metric(samples: &[Sample]) -> Option<Metric> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let value = loss(samples, &all)?;
    let n = samples.len();
    let tokens: f64 = samples.iter().map(|s| s.tokens as f64).sum();
    let residual = |s: &Sample| (nll(s) - value * s.tokens as f64).powi(2);
    let squares: f64 = samples.iter().map(residual).sum();
    let stderr = (n > 1).then(|| (squares * n as f64 / (n - 1) as f64).sqrt() / tokens);
    Some(Metric { value, stderr, n })
}

/// The mean over all tokens of the `chosen` rows, which may repeat.
pub fn loss(samples: &[Sample], chosen: &[usize]) -> Option<f64> {
    let tokens: usize = chosen.iter().map(|&row| samples[row].tokens).sum();
    let sum: f64 = chosen.iter().map(|&row| nll(&samples[row])).sum();
    (tokens > 0).then(|| sum / tokens as f64)
}

fn nll(sample: &Sample) -> f64 {
    sample.grades.get(GRADE).copied().unwrap_or(f64::NAN)
}
