//! A task's requests, answered by a model and graded.
//!
//! The engine decides what is computed together, and no answer depends on it but by rounding. Texts with a common beginning
//! (the worked examples of a subject) are computed behind it; prompts that are continued wait for a place in the batch, the longest first;
//! choices are scored in passes of about as many tokens as fill a processor.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use rayon::prelude::*;
use sharelora_model::prefix::groups;
use sharelora_model::{
    BeamOptions, Event, GenerateOptions, Question, Rules, Sampling, ScoreOptions, beam_search,
    generate, score,
};
use sharelora_tasks::{Answer, Encoded, Encoder, Request, RequestKind, Sample, Task};

use crate::gradients::{self, Learner};
use crate::interrupt::{self, Interrupted};
use crate::progress::Progress;
use crate::samples::{Answered, Log};

/// Tokens that a stop text may reach back into.
const STOP_WINDOW: usize = 16;

/// Tokens of a pass that scores choices: more are no faster, and their activations take memory.
pub const SCORED_TOKENS: usize = 2048;

/// Between two writes of the answers so far.
const EVERY: Duration = Duration::from_secs(5);

/// What answers requests.
pub struct Engine<'a> {
    pub learner: &'a Learner,
    pub encoder: &'a Encoder,
    pub task: &'a dyn Task,
    /// Requests that are continued at the same time.
    pub batch_size: usize,
    /// Of sampling, where the task samples.
    pub seed: u64,
    /// Tokens of a text with a label that are kept.
    pub text_length: usize,
    /// Whether common beginnings are computed once; `false` is for measuring what that is worth.
    pub share: bool,
}

/// Graded answers, in the order of their requests.
pub struct Evaluated {
    pub samples: Vec<Sample>,
    /// Prompts and texts that were longer than allowed and lost tokens.
    pub truncated: usize,
}

/// The answers so far, and where they go.
struct Answers<'a> {
    list: Vec<Option<(Answer, usize)>>,
    done: usize,
    log: Option<&'a mut Log>,
    written: Instant,
    /// The first failure; the work goes on to where it can stop.
    failed: Option<anyhow::Error>,
    progress: Progress,
}

impl Answers<'_> {
    fn take(&mut self, request: usize, answer: Answer, tokens: usize) {
        if let Some(log) = &mut self.log {
            let answered = Answered {
                request,
                answer: answer.clone(),
                tokens,
            };
            let mut written = log.push(&answered);
            if self.written.elapsed() >= EVERY {
                written = written.and_then(|()| log.flush());
                self.written = Instant::now();
            }
            self.failed = self.failed.take().or(written.err());
        }
        self.list[request] = Some((answer, tokens));
        self.done += 1;
        self.progress.set(self.done as u64, "");
    }

    /// Ctrl-C. Answers that no log keeps would be lost: they are waited for.
    fn stopped(&self) -> bool {
        self.log.is_some() && interrupt::asked()
    }

    fn flow(&self) -> ControlFlow<()> {
        match self.failed.is_some() || self.stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// What keeps the work from going on; what was answered is written.
    fn check(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.stopped() {
            if let Some(log) = &mut self.log {
                log.flush()?;
            }
            return Err(Interrupted.into());
        }
        Ok(())
    }
}

impl Engine<'_> {
    /// Answers and grades `requests`; samples come back in the requests' order. Answers go to `log` as they come, and
    /// what is `known` from it is not asked again.
    ///
    /// # Errors
    /// Text that cannot be encoded or decoded, a log that cannot be written, and [`Interrupted`] where a log is kept.
    pub fn evaluate(
        &self,
        requests: &[Request],
        log: Option<&mut Log>,
        known: Vec<Answered>,
        quiet: bool,
    ) -> Result<Evaluated> {
        let prompts = requests
            .par_iter()
            .map(|r| self.prompt(r))
            .collect::<Result<Vec<_>>>()?;
        let mut answers = Answers {
            list: vec![None; requests.len()],
            done: 0,
            log,
            written: Instant::now(),
            failed: None,
            progress: Progress::new(self.task.name(), requests.len() as u64, quiet),
        };
        for Answered {
            request,
            answer,
            tokens,
        } in known
        {
            if let Some(place) = answers.list.get_mut(request).filter(|p| p.is_none()) {
                *place = Some((answer, tokens));
                answers.done += 1;
            }
        }
        let open: Vec<usize> = (0..requests.len())
            .filter(|&i| answers.list[i].is_none())
            .collect();
        let of_kind = |wanted: fn(&RequestKind) -> bool| -> Vec<usize> {
            let kind = open.iter().copied();
            kind.filter(|&i| wanted(&requests[i].kind)).collect()
        };
        let generated = of_kind(|kind| matches!(kind, RequestKind::Generate { .. }));
        match self.task.beam() {
            Some(_) => self.search(&generated, requests, &prompts, &mut answers)?,
            None => self.generate(&generated, requests, &prompts, &mut answers)?,
        }
        let chosen = of_kind(|kind| matches!(kind, RequestKind::Choose { .. }));
        self.choose(&chosen, requests, &prompts, &mut answers)?;
        let labelled = of_kind(|kind| matches!(kind, RequestKind::Classify { .. }));
        self.classify(&labelled, &prompts, &mut answers)?;
        if let Some(log) = &mut answers.log {
            log.flush()?;
        }
        let samples: Vec<Sample> = requests
            .iter()
            .zip(answers.list)
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
        answers
            .progress
            .finish(&format!("{} answers{text}", samples.len()));
        Ok(Evaluated {
            samples,
            truncated: prompts.iter().filter(|p| p.truncated).count(),
        })
    }

    /// Token ids of a prompt, with room for the answer; or of a text with a label.
    fn prompt(&self, request: &Request) -> Result<Encoded> {
        let limit = self.learner.model.config.max_positions();
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

    /// Continues prompts. Those behind a common beginning that would fill the batch go through it together, all others
    /// in one queue, the longest first.
    fn generate(
        &self,
        asked: &[usize],
        requests: &[Request],
        prompts: &[Encoded],
        answers: &mut Answers,
    ) -> Result<()> {
        let rows = self.batch_size.max(1);
        let ids: Vec<&[u32]> = asked.iter().map(|&i| prompts[i].ids.as_slice()).collect();
        let limits: Vec<usize> = ids.iter().map(|p| p.len().saturating_sub(1)).collect();
        let (mut queues, mut rest) = (Vec::new(), Vec::new());
        for group in groups(&ids, &limits) {
            let of_group = group.texts.iter().map(|&t| asked[t]);
            match self.share && group.shared > 0 && group.texts.len() >= rows {
                true => queues.push(of_group.collect::<Vec<usize>>()),
                false => rest.extend(of_group),
            }
        }
        queues.push(rest);
        for mut queue in queues {
            queue.sort_by_key(|&i| (std::cmp::Reverse(prompts[i].ids.len()), i));
            self.continue_queue(&queue, requests, prompts, answers)?;
        }
        Ok(())
    }

    fn continue_queue(
        &self,
        queue: &[usize],
        requests: &[Request],
        prompts: &[Encoded],
        answers: &mut Answers,
    ) -> Result<()> {
        let asked: Vec<(&[String], usize)> = queue.iter().map(|&i| limits(&requests[i])).collect();
        let model = &self.learner.model;
        let options = GenerateOptions {
            max_new_tokens: asked.iter().map(|a| a.1).max().unwrap_or(0),
            eos: model.config.eos_token_ids(),
            sampling: self.task.sampling().map(|s| Sampling {
                temperature: s.temperature,
                top_p: s.top_p,
                seed: self.seed,
            }),
            rows: self.batch_size.max(1),
            streams: queue.iter().map(|&i| i as u64).collect(),
        };
        let stops = |prompt: usize, tokens: &[u32]| {
            let (stop, limit) = asked[prompt];
            let tail = &tokens[tokens.len().saturating_sub(STOP_WINDOW)..];
            tokens.len() >= limit
                || self
                    .encoder
                    .decode(tail)
                    .is_ok_and(|text| stop.iter().any(|s| text.contains(s.as_str())))
        };
        let ids: Vec<&[u32]> = queue.iter().map(|&i| prompts[i].ids.as_slice()).collect();
        let event = |event: Event<'_>| {
            match event {
                Event::Step(passes) => {
                    let done = answers.done as u64;
                    answers.progress.set(done, &format!("token {passes}"));
                }
                Event::Finished(prompt, tokens) => match self.text(tokens, asked[prompt].0) {
                    Ok(answer) => answers.take(queue[prompt], answer, tokens.len()),
                    Err(error) => answers.failed = answers.failed.take().or(Some(error)),
                },
            }
            answers.flow()
        };
        let adapter = self.learner.adapter(None);
        generate(model, adapter, &ids, &options, stops, event);
        answers.check()
    }

    /// Continues prompts by beam search, prompts of about one length together.
    fn search(
        &self,
        asked: &[usize],
        requests: &[Request],
        prompts: &[Encoded],
        answers: &mut Answers,
    ) -> Result<()> {
        let Some(beam) = self.task.beam() else {
            return Ok(());
        };
        let model = &self.learner.model;
        let mut order = asked.to_vec();
        order.sort_by_key(|&i| (std::cmp::Reverse(prompts[i].ids.len()), i));
        for batch in order.chunks(self.batch_size.max(1)) {
            let limits: Vec<(&[String], usize)> =
                batch.iter().map(|&i| limits(&requests[i])).collect();
            let stops: Vec<&String> = limits.iter().flat_map(|l| l.0).collect();
            let options = BeamOptions {
                rules: Rules::Lora,
                beams: beam.beams,
                max_new_tokens: limits.iter().map(|l| l.1).max().unwrap_or(0),
                eos: [model.config.eos_token_ids(), self.line_ends(&stops)?].concat(),
                length_penalty: beam.length_penalty,
                no_repeat_ngram: beam.no_repeat_ngram,
            };
            let ids: Vec<&[u32]> = batch.iter().map(|&i| prompts[i].ids.as_slice()).collect();
            let done = answers.done as u64;
            let progress = &mut answers.progress;
            let said = |step: usize| progress.set(done, &format!("token {step}"));
            let found = beam_search(model, self.learner.adapter(None), &ids, &options, said);
            for ((&request, tokens), (stop, _)) in batch.iter().zip(found).zip(limits) {
                let answer = self.text(&tokens, stop)?;
                answers.take(request, answer, tokens.len());
            }
            answers.check()?;
        }
        Ok(())
    }

    /// Token ids as text, up to the first of its stops.
    fn text(&self, tokens: &[u32], stop: &[String]) -> Result<Answer> {
        let mut text = self.encoder.decode(tokens)?;
        if let Some(end) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
            text.truncate(end);
        }
        Ok(Answer::Text(text))
    }

    /// Stops that are one token, a blank line say: a beam search ends at them as at the end-of-text token.
    fn line_ends(&self, stops: &[&String]) -> Result<Vec<u32>> {
        let mut ends = Vec::new();
        for stop in stops {
            if let [id] = self.encoder.encode(stop, false)?[..]
                && !ends.contains(&id)
            {
                ends.push(id);
            }
        }
        Ok(ends)
    }

    /// The scores of the labels of texts.
    fn classify(&self, asked: &[usize], prompts: &[Encoded], answers: &mut Answers) -> Result<()> {
        let Some(head) = &self.learner.head else {
            return Ok(());
        };
        let mut order = asked.to_vec();
        order.sort_by_key(|&i| (std::cmp::Reverse(prompts[i].ids.len()), i));
        for batch in order.chunks(self.batch_size.max(1)) {
            let texts: Vec<&Encoded> = batch.iter().map(|&i| &prompts[i]).collect();
            let input = gradients::input(&texts, false);
            let model = &self.learner.model;
            let hidden = model.hidden(&input, self.learner.adapter(None), None);
            let scores = head.scores(model, hidden, &input).without_autodiff();
            let values = scores.try_into_vec_as::<f32>();
            let values = values.map_err(|e| anyhow::anyhow!("scores cannot be read: {e:?}"))?;
            for (&request, row) in batch.iter().zip(values.chunks_exact(head.labels.width())) {
                let scores = row.iter().map(|v| f64::from(*v)).collect();
                answers.take(request, Answer::Scores(scores), 0);
            }
            answers.check()?;
        }
        Ok(())
    }

    /// Log-probabilities of the continuations of prompts.
    fn choose(
        &self,
        asked: &[usize],
        requests: &[Request],
        prompts: &[Encoded],
        answers: &mut Answers,
    ) -> Result<()> {
        let question = |&i: &usize| -> Result<Question> {
            let RequestKind::Choose { choices } = &requests[i].kind else {
                return Ok(Question::default());
            };
            let choices = choices.iter().map(|c| Ok(self.encoder.encode(c, false)?));
            Ok(Question {
                prompt: prompts[i].ids.clone(),
                choices: choices.collect::<Result<_>>()?,
            })
        };
        let questions = asked
            .par_iter()
            .map(question)
            .collect::<Result<Vec<Question>>>()?;
        let options = ScoreOptions {
            tokens: SCORED_TOKENS,
            share: self.share,
        };
        let adapter = self.learner.adapter(None);
        score(
            &self.learner.model,
            adapter,
            &questions,
            options,
            |question, log_probs| {
                let log_probs = log_probs.to_vec();
                answers.take(asked[question], Answer::Choice { log_probs }, 0);
                answers.flow()
            },
        );
        answers.check()
    }
}

/// The stops of a request, and its limit of new tokens.
fn limits(request: &Request) -> (&[String], usize) {
    match &request.kind {
        RequestKind::Generate {
            stop,
            max_new_tokens,
        } => (stop, *max_new_tokens),
        RequestKind::Choose { .. } | RequestKind::Classify { .. } => (&[], 0),
    }
}
