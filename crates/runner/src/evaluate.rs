//! A task's requests, answered by a model and graded.

use anyhow::{Result, bail};
use sharelora_model::{
    BeamOptions, GenerateOptions, Input, Rules, Sampling, beam_search, generate, log_likelihoods,
};
use sharelora_tasks::{Answer, Encoded, Encoder, Request, RequestKind, Sample, Task};

use crate::data;
use crate::gradients::{self, Learner};
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
    /// Tokens of a text with a label that are kept.
    pub text_length: usize,
}

/// Graded answers, in the order of their requests.
pub struct Evaluated {
    pub samples: Vec<Sample>,
    /// Prompts and texts that were longer than allowed and lost tokens.
    pub truncated: usize,
}

impl Engine<'_> {
    /// Answers and grades `requests`, the longest prompts first; samples come back in the requests' order.
    ///
    /// # Errors
    /// Text that cannot be encoded or decoded.
    pub fn evaluate(&self, requests: &[Request], quiet: bool) -> Result<Evaluated> {
        let prompts = requests
            .iter()
            .map(|r| self.prompt(r))
            .collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(prompts[i].ids.len()));
        let mut answers: Vec<Option<(Answer, usize)>> = vec![None; requests.len()];
        let mut progress = Progress::new(self.task.name(), requests.len() as u64, quiet);
        let mut done = 0;
        for batch in order.chunks(self.batch_size.max(1)) {
            let mut generated = Vec::new();
            let mut classified = Vec::new();
            for &i in batch {
                match &requests[i].kind {
                    RequestKind::Generate { .. } => generated.push(i),
                    RequestKind::Classify { .. } => classified.push(i),
                    RequestKind::Choose { choices } => {
                        answers[i] = Some((self.choose(choices, &prompts[i].ids)?, 0));
                    }
                }
            }
            let pairs: Vec<(&Request, &[u32])> = generated
                .iter()
                .map(|&i| (&requests[i], prompts[i].ids.as_slice()))
                .collect();
            let texts = self.generate(&pairs, |token| {
                progress.set(done, &format!("token {token}"))
            })?;
            for (i, answer) in generated.into_iter().zip(texts) {
                answers[i] = Some(answer);
            }
            let texts: Vec<&Encoded> = classified.iter().map(|&i| &prompts[i]).collect();
            for (i, answer) in classified.into_iter().zip(self.classify(&texts)?) {
                answers[i] = Some((answer, 0));
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
        let metrics = self.task.metrics(&samples);
        let text = metrics
            .get(headline)
            .map_or(String::new(), |m| format!(", {headline} {:.4}", m.value));
        progress.finish(&format!("{} answers{text}", samples.len()));
        Ok(Evaluated {
            samples,
            truncated: prompts.iter().filter(|p| p.truncated).count(),
        })
    }

    /// Token ids of a prompt, with room for the answer; or of a text with a label.
    fn prompt(&self, request: &Request) -> Result<Encoded> {
        let limit = self.learner.model.config.max_positions();
        if let RequestKind::Generate { max_new_tokens, .. } = &request.kind
            && data::has_last_position(&self.learner.model.config)
            && *max_new_tokens >= limit
        {
            bail!(
                "`evaluate.options.max_new_tokens` = {max_new_tokens} leaves no room for a prompt: the model has {limit} positions"
            );
        }
        let room = match &request.kind {
            RequestKind::Generate { max_new_tokens, .. } => {
                limit.saturating_sub(*max_new_tokens).max(1)
            }
            RequestKind::Choose { choices } => {
                let lengths = choices
                    .iter()
                    .map(|c| Ok(self.encoder.encode(c, false)?.len()));
                let longest = lengths.collect::<Result<Vec<_>>>()?.into_iter().max();
                match longest {
                    // Scored at the prompt's last position.
                    None | Some(0 | 1) => limit,
                    Some(longest) => limit.saturating_sub(longest).max(1),
                }
            }
            RequestKind::Classify { pair } => {
                let (text, pair) = (&request.prompt, pair.as_deref());
                return Ok(self.encoder.encode_text(text, pair, self.text_length)?);
            }
        };
        let mut ids = self.encoder.encode_prompt(&request.prompt)?;
        if ids.is_empty() {
            // Nothing to continue: the end-of-text token stands for the start of a text.
            ids.push(self.encoder.eos_id());
        }
        let truncated = ids.len() > room;
        if truncated {
            // From the left, as lm-evaluation-harness does: the question stands at the end.
            tracing::warn!(
                "prompt {} has {} tokens: cut to {room} from the left",
                request.id,
                ids.len()
            );
            ids.drain(..ids.len() - room);
        }
        Ok(Encoded {
            prompt_len: ids.len(),
            ids,
            truncated,
            ..Encoded::default()
        })
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
                RequestKind::Choose { .. } | RequestKind::Classify { .. } => (Vec::new(), 0),
            }
        };
        let limits: Vec<(Vec<String>, usize)> =
            batch.iter().map(|(request, _)| limits(request)).collect();
        let max_new_tokens = limits.iter().map(|l| l.1).max().unwrap_or(0);
        let eos = self.learner.model.config.eos_token_ids();
        let ids: Vec<&[u32]> = batch.iter().map(|(_, ids)| *ids).collect();
        let model = &self.learner.model;
        if let Some(beam) = self.task.beam() {
            let options = BeamOptions {
                rules: Rules::Lora,
                beams: beam.beams,
                max_new_tokens,
                eos: [eos, self.line_ends(&limits)?].concat(),
                length_penalty: beam.length_penalty,
                no_repeat_ngram: beam.no_repeat_ngram,
            };
            let found = beam_search(model, self.learner.adapter(None), &ids, &options, said);
            return self.texts(found, &limits);
        }
        let options = GenerateOptions {
            max_new_tokens,
            eos,
            sampling: self.task.sampling().map(|s| Sampling {
                temperature: s.temperature,
                top_p: s.top_p,
                seed: self.seed,
            }),
        };
        let stops = |row: usize, tokens: &[u32]| {
            let (stop, limit) = &limits[row];
            let tail = &tokens[tokens.len().saturating_sub(STOP_WINDOW)..];
            tokens.len() >= *limit
                || self
                    .encoder
                    .decode(tail)
                    .is_ok_and(|text| stop.iter().any(|s| text.contains(s.as_str())))
        };
        let adapter = self.learner.adapter(None);
        let found = generate(model, adapter, &ids, &options, stops, said);
        self.texts(found, &limits)
    }

    /// Token ids as text, up to the first of its stops.
    fn texts(
        &self,
        answers: Vec<Vec<u32>>,
        limits: &[(Vec<String>, usize)],
    ) -> Result<Vec<(Answer, usize)>> {
        let answers = answers.into_iter().zip(limits);
        answers
            .map(|(tokens, (stop, _))| {
                let mut text = self.encoder.decode(&tokens)?;
                if let Some(end) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                    text.truncate(end);
                }
                Ok((Answer::Text(text), tokens.len()))
            })
            .collect()
    }

    /// Stops that are one token, a blank line say: a beam search ends at them as at the end-of-text token.
    fn line_ends(&self, limits: &[(Vec<String>, usize)]) -> Result<Vec<u32>> {
        let mut ends = Vec::new();
        for stop in limits.iter().flat_map(|(stops, _)| stops) {
            if let [id] = self.encoder.encode(stop, false)?[..]
                && !ends.contains(&id)
            {
                ends.push(id);
            }
        }
        Ok(ends)
    }

    /// The scores of the labels of texts.
    fn classify(&self, texts: &[&Encoded]) -> Result<Vec<Answer>> {
        let Some(head) = self.learner.head.as_ref().filter(|_| !texts.is_empty()) else {
            return Ok(Vec::new());
        };
        let input = gradients::input(texts, false);
        let model = &self.learner.model;
        let hidden = model.hidden(&input, self.learner.adapter(None), None);
        let scores = head.scores(model, hidden, &input).without_autodiff();
        let values = scores.try_into_vec_as::<f32>();
        let values = values.map_err(|e| anyhow::anyhow!("scores cannot be read: {e:?}"))?;
        let rows = values.chunks_exact(head.labels.width());
        let answer = |row: &[f32]| Answer::Scores(row.iter().map(|v| f64::from(*v)).collect());
        Ok(rows.map(answer).collect())
    }

    /// Log-probabilities of the continuations of one prompt.
    fn choose(&self, choices: &[String], prompt: &[u32]) -> Result<Answer> {
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
        let hidden = model.hidden(&input, self.learner.adapter(None), None);
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
