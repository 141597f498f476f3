//! A task's requests, answered by a model and graded.

use anyhow::Result;
use sharelora_model::{Adapter, GenerateOptions, Input, Sampling, generate, log_likelihoods};
use sharelora_tasks::{Answer, Encoder, Request, RequestKind, Sample, Task};

use crate::gradients::Learner;
use crate::progress::Progress;

/// Tokens that a stop text may reach back into.
const STOP_WINDOW: usize = 16;

/// What answers requests.
pub struct Engine<'a> {
    pub learner: &'a Learner,
    pub encoder: &'a Encoder,
    pub task: &'a dyn Task,
    /// Requests answered at the same time.
    pub batch_size: usize,
    /// Of sampling, where the task samples.
    pub seed: u64,
}

impl Engine<'_> {
    /// Answers and grades `requests`, the longest prompts first; samples come back in the requests' order.
    ///
    /// # Errors
    /// Text that cannot be encoded or decoded.
    pub fn evaluate(&self, requests: &[Request], quiet: bool) -> Result<Vec<Sample>> {
        let prompts = requests
            .iter()
            .map(|r| self.prompt(r))
            .collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(prompts[i].len()));
        let mut answers: Vec<Option<(Answer, usize)>> = vec![None; requests.len()];
        let mut progress = Progress::new(self.task.name(), requests.len() as u64, quiet);
        let mut done = 0;
        for batch in order.chunks(self.batch_size.max(1)) {
            let (generated, chosen): (Vec<usize>, Vec<usize>) = batch
                .iter()
                .partition(|&&i| matches!(requests[i].kind, RequestKind::Generate { .. }));
            let pairs: Vec<(&Request, &[u32])> = generated
                .iter()
                .map(|&i| (&requests[i], prompts[i].as_slice()))
                .collect();
            let texts = self.generate(&pairs, |token| {
                progress.set(done, &format!("token {token}"))
            })?;
            for (i, answer) in generated.into_iter().zip(texts) {
                answers[i] = Some(answer);
            }
            for i in chosen {
                answers[i] = Some((self.choose(&requests[i], &prompts[i])?, 0));
            }
            done += batch.len() as u64;
            progress.set(done, "");
        }
        let samples: Vec<Sample> = requests
            .iter()
            .zip(answers)
            .filter_map(|(request, answer)| {
                let (answer, tokens) = answer?;
                Some(Sample {
                    id: request.id.clone(),
                    prompt: request.prompt.clone(),
                    reference: request.reference.clone(),
                    group: request.group.clone(),
                    grades: self.task.grade(&request.reference, &answer),
                    answer,
                    tokens,
                })
            })
            .collect();
        let headline = self.task.headline();
        let metrics = sharelora_tasks::metrics(&samples);
        let text = metrics
            .get(headline)
            .map_or(String::new(), |m| format!(", {headline} {:.4}", m.value));
        progress.finish(&format!("{} answers{text}", samples.len()));
        Ok(samples)
    }

    fn adapter(&self) -> Option<Adapter<'_>> {
        self.learner.bank.as_ref().map(|bank| Adapter {
            bank,
            dropout: None,
        })
    }

    /// Token ids of a prompt, with room for the answer.
    fn prompt(&self, request: &Request) -> Result<Vec<u32>> {
        let limit = self.learner.model.config.max_position_embeddings;
        let room = match &request.kind {
            RequestKind::Generate { max_new_tokens, .. } => {
                limit.saturating_sub(*max_new_tokens).max(1)
            }
            RequestKind::Choose { .. } => limit,
        };
        let mut ids = self.encoder.encode_prompt(&request.prompt)?;
        if ids.is_empty() {
            // Nothing to continue: the end-of-text token stands for the start of a text.
            ids.push(self.encoder.eos_id());
        }
        if ids.len() > room {
            // From the left, as lm-evaluation-harness does: the question stands at the end.
            tracing::warn!(
                "prompt {} has {} tokens: cut to {room} from the left",
                request.id,
                ids.len()
            );
            ids.drain(..ids.len() - room);
        }
        Ok(ids)
    }

    /// Continuations of prompts, each with its number of tokens; `said` is told the number of steps.
    fn generate(
        &self,
        batch: &[(&Request, &[u32])],
        said: impl FnMut(usize),
    ) -> Result<Vec<(Answer, usize)>> {
        let limits = |request: &Request| -> (Vec<String>, usize) {
            match &request.kind {
                RequestKind::Generate {
                    stop,
                    max_new_tokens,
                } => (stop.clone(), *max_new_tokens),
                RequestKind::Choose { .. } => (Vec::new(), 0),
            }
        };
        let limits: Vec<(Vec<String>, usize)> =
            batch.iter().map(|(request, _)| limits(request)).collect();
        let options = GenerateOptions {
            max_new_tokens: limits.iter().map(|l| l.1).max().unwrap_or(0),
            eos: self.learner.model.config.eos_token_ids(),
            sampling: self.task.sampling().map(|s| Sampling {
                temperature: s.temperature,
                top_p: s.top_p,
                seed: self.seed,
            }),
        };
        let ids: Vec<&[u32]> = batch.iter().map(|(_, ids)| *ids).collect();
        let stops = |row: usize, tokens: &[u32]| {
            let (stop, limit) = &limits[row];
            let tail = &tokens[tokens.len().saturating_sub(STOP_WINDOW)..];
            tokens.len() >= *limit
                || self
                    .encoder
                    .decode(tail)
                    .is_ok_and(|text| stop.iter().any(|s| text.contains(s.as_str())))
        };
        generate(
            &self.learner.model,
            self.adapter(),
            &ids,
            &options,
            stops,
            said,
        )
        .into_iter()
        .zip(&limits)
        .map(|(tokens, (stop, _))| {
            let mut text = self.encoder.decode(&tokens)?;
            if let Some(end) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                text.truncate(end);
            }
            Ok((Answer::Text(text), tokens.len()))
        })
        .collect()
    }

    /// Log-probabilities of the continuations of one prompt.
    fn choose(&self, request: &Request, prompt: &[u32]) -> Result<Answer> {
        let RequestKind::Choose { choices } = &request.kind else {
            return Ok(Answer::Choice {
                log_probs: Vec::new(),
            });
        };
        let choices = choices
            .iter()
            .map(|c| Ok(self.encoder.encode(c, false)?))
            .collect::<Result<Vec<_>>>()?;
        let single = choices.iter().all(|c| c.len() == 1);
        let rows: Vec<Vec<u32>> = match single {
            // One forward pass scores all choices at the last position.
            true => vec![prompt.to_vec()],
            false => choices.iter().map(|c| [prompt, c].concat()).collect(),
        };
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let input = Input::packed(&rows);
        let model = &self.learner.model;
        let hidden = model.hidden(&input, self.adapter(), None);
        let log_probs = choices
            .iter()
            .enumerate()
            .map(|(i, choice)| {
                let row = if single { 0 } else { i };
                let start = input.spans[row].start + prompt.len() - 1;
                let states = hidden.clone().narrow(0, start, choice.len());
                log_likelihoods(&states, model.head(), choice).iter().sum()
            })
            .collect();
        Ok(Answer::Choice { log_probs })
    }
}
