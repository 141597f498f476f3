//! A task's requests, answered by a model and graded.

use anyhow::Result;
use sharelora_model::{Adapter, GenerateOptions, Input, Sampling, generate, log_likelihoods};
use sharelora_tasks::{Answer, Encoder, Request, RequestKind, Sample, Task};

use crate::gradients::Learner;
use crate::progress::Progress;

/// Tokens that a stop text may reach back into.
const STOP_WINDOW: usize = 16;

/// Answers and grades `requests`, `batch_size` at a time, the longest prompts first; samples come back in the
/// requests' order.
///
/// # Errors
/// Text that cannot be encoded or decoded.
pub fn evaluate(
    learner: &Learner,
    encoder: &Encoder,
    task: &dyn Task,
    requests: &[Request],
    batch_size: usize,
    seed: u64,
    quiet: bool,
) -> Result<Vec<Sample>> {
    let limit = learner.model.config.max_position_embeddings;
    let mut prompts = Vec::with_capacity(requests.len());
    for request in requests {
        let mut ids = encoder.encode_prompt(&request.prompt)?;
        let room = match &request.kind {
            RequestKind::Generate { max_new_tokens, .. } => limit.saturating_sub(*max_new_tokens).max(1),
            RequestKind::Choose { .. } => limit,
        };
        if ids.len() > room {
            // From the left, as lm-evaluation-harness does: the question stands at the end.
            tracing::warn!("prompt {} has {} tokens: cut to {room} from the left", request.id, ids.len());
            ids.drain(..ids.len() - room);
        }
        prompts.push(ids);
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(prompts[i].len()));
    let mut answers: Vec<Option<(Answer, usize)>> = vec![None; requests.len()];
    let mut progress = Progress::new(task.name(), requests.len() as u64, quiet);
    let mut done = 0;
    for batch in order.chunks(batch_size.max(1)) {
        let (generated, chosen): (Vec<usize>, Vec<usize>) = batch
            .iter()
            .partition(|&&i| matches!(requests[i].kind, RequestKind::Generate { .. }));
        for (i, answer) in generated
            .iter()
            .zip(generate_batch(learner, encoder, task, requests, &prompts, &generated, seed)?)
        {
            answers[*i] = Some(answer);
        }
        for i in chosen {
            answers[i] = Some((choose(learner, encoder, &requests[i], &prompts[i])?, 0));
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
                grades: task.grade(&request.reference, &answer),
                answer,
                tokens,
            })
        })
        .collect();
    let metrics = sharelora_tasks::metrics(&samples);
    let text = metrics
        .get(task.headline())
        .map_or(String::new(), |m| format!("{} {:.4}", task.headline(), m.value));
    progress.finish(&format!("{} answers, {text}", samples.len()));
    Ok(samples)
}

fn generate_batch(
    learner: &Learner,
    encoder: &Encoder,
    task: &dyn Task,
    requests: &[Request],
    prompts: &[Vec<u32>],
    batch: &[usize],
    seed: u64,
) -> Result<Vec<(Answer, usize)>> {
    let kind = |i: usize| -> (&[String], usize) {
        match &requests[i].kind {
            RequestKind::Generate { stop, max_new_tokens } => (stop, *max_new_tokens),
            RequestKind::Choose { .. } => (&[], 0),
        }
    };
    let options = GenerateOptions {
        max_new_tokens: batch.iter().map(|&i| kind(i).1).max().unwrap_or(0),
        eos: learner.model.config.eos_token_ids(),
        pad: encoder.eos_id(),
        sampling: task.sampling().map(|s| Sampling {
            temperature: s.temperature,
            top_p: s.top_p,
            seed,
        }),
    };
    let ids: Vec<&[u32]> = batch.iter().map(|&i| prompts[i].as_slice()).collect();
    let adapter = learner.bank.as_ref().map(|bank| Adapter { bank, dropout: None });
    let stops = |row: usize, tokens: &[u32]| {
        let (stop, limit) = kind(batch[row]);
        let tail = &tokens[tokens.len().saturating_sub(STOP_WINDOW)..];
        tokens.len() >= limit
            || encoder
                .decode(tail)
                .is_ok_and(|text| stop.iter().any(|s| text.contains(s.as_str())))
    };
    let tokens = generate(&learner.model, adapter, &ids, &options, stops, |_| {});
    batch
        .iter()
        .zip(tokens)
        .map(|(&i, tokens)| {
            let mut text = encoder.decode(&tokens)?;
            if let Some(end) = kind(i).0.iter().filter_map(|s| text.find(s.as_str())).min() {
                text.truncate(end);
            }
            Ok((Answer::Text(text), tokens.len()))
        })
        .collect()
}

/// Log-probabilities of the continuations of one prompt.
fn choose(learner: &Learner, encoder: &Encoder, request: &Request, prompt: &[u32]) -> Result<Answer> {
    let RequestKind::Choose { choices } = &request.kind else {
        return Ok(Answer::Choice { log_probs: Vec::new() });
    };
    let choices = choices
        .iter()
        .map(|c| Ok(encoder.encode(c, false)?))
        .collect::<Result<Vec<_>>>()?;
    let adapter = learner.bank.as_ref().map(|bank| Adapter { bank, dropout: None });
    let single = choices.iter().all(|c| c.len() == 1);
    let rows: Vec<Vec<u32>> = match single {
        // One forward pass scores all choices at the last position.
        true => vec![prompt.to_vec()],
        false => choices.iter().map(|c| [prompt, c].concat()).collect(),
    };
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let input = Input::right_padded(&rows, encoder.eos_id());
    let hidden = learner.model.hidden(&input, adapter, None);
    let log_probs = choices
        .iter()
        .enumerate()
        .map(|(i, choice)| {
            let row = if single { 0 } else { i };
            let start = row * input.length + prompt.len() - 1;
            let states = hidden.clone().narrow(0, start, choice.len());
            log_likelihoods(&states, learner.model.head(), choice).iter().sum()
        })
        .collect();
    Ok(Answer::Choice { log_probs })
}
