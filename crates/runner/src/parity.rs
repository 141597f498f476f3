//! Comparison with reference values that Hugging Face transformers and PEFT computed.
//!
//! A folder holds `config.json`, `model.safetensors`, `io.safetensors` (inputs and expected outputs) and, for
//! each strategy, `train_STRATEGY.safetensors` with `train.json` (AdamW steps of PEFT with tied matrices). A strategy is a
//! method's name, or that of initial values, which are LoRA's then (`pissa`). Without `train.json` only the outputs are compared. A classifier's configuration names it in `architectures`.
//! A JSON file holds prompts with token ids, likelihoods and greedy continuations of one real model.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sharelora_adapters::{AdapterConfig, Bank, Init, Layout, Method, Scaling};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{
    BeamOptions, Classifier, Event, GenerateOptions, Input, Labels, Model, ModelConfig, Rules,
    Storage, beam_search, cross_entropy, generate,
};
use sharelora_tasks::{Encoded, Encoder};

use crate::gradients::{self, Learner, Running, gradients};
use crate::optimizer::{AdamWOptions, Optimizer};

/// Largest difference that passes, in absolute terms; every reference value is of order 1.
const TOLERANCE: f64 = 1e-4;
/// Of a summed log-likelihood, relative.
const RELATIVE_TOLERANCE: f64 = 1e-3;

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    pub name: String,
    /// Largest difference, or for tokens the number that differ.
    pub difference: f64,
    pub tolerance: f64,
}

impl Check {
    /// A difference that is no number fails.
    pub fn passed(&self) -> bool {
        self.difference <= self.tolerance
    }
}

#[derive(Deserialize)]
struct Train {
    rank: usize,
    alpha: f64,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    targets: Vec<String>,
    losses: BTreeMap<String, Vec<f64>>,
    /// LoRA+: the learning rate of every B over that of A, of strategies that are LoRA otherwise.
    #[serde(default)]
    b_learning_rate_ratios: BTreeMap<String, f64>,
}

/// Runs a reference folder, its base kept as `storage` says, and returns every comparison.
///
/// # Errors
/// A file that is missing or malformed, or a model that is not built here.
pub fn parity(dir: &Path, storage: Storage, device: &Device) -> Result<Vec<Check>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let text = |name: &str| -> Result<String> {
        String::from_utf8(read(name)?)
            .with_context(|| format!("{} is not UTF-8", dir.join(name).display()))
    };
    let json = text("config.json")?;
    let config = ModelConfig::from_json(&json).with_context(|| dir.display().to_string())?;
    let checkpoint = Checkpoint::open(&[dir.join("model.safetensors")])?;
    let head = match labels(&json)? {
        Some(labels) => Some(Classifier::load(&config, labels, &checkpoint, device)?),
        None => None,
    };
    let model = Model::load(config, &checkpoint, storage, device)?;
    let model = Reference { model, head };
    let mut checks = outputs(&model, &Tensors::read(&dir.join("io.safetensors"))?)?;
    if !dir.join("train.json").exists() {
        return Ok(checks);
    }
    let train: Train = serde_json::from_str(&text("train.json")?)
        .with_context(|| format!("{} is malformed", dir.join("train.json").display()))?;
    for (strategy, losses) in &train.losses {
        let tensors = Tensors::read(&dir.join(format!("train_{strategy}.safetensors")))?;
        checks.extend(steps(&model, strategy, &train, losses, &tensors)?);
    }
    Ok(checks)
}

/// A model of a reference folder, with its head where it classifies.
struct Reference {
    model: Model,
    head: Option<Classifier>,
}

impl Reference {
    /// Of every token, or with a head of every sequence.
    fn logits(&self, hidden: Tensor<2>, input: &Input) -> Tensor<2> {
        match &self.head {
            Some(head) => head.scores(&self.model, hidden, input),
            None => self.model.logits(hidden),
        }
    }
}

/// What a `config.json` says of its classification head; `None` where it names no classifier.
fn labels(config: &str) -> Result<Option<Labels>> {
    #[derive(Deserialize)]
    struct Heads {
        #[serde(default)]
        architectures: Vec<String>,
        /// transformers' default is two labels, which it does not write down.
        id2label: Option<std::collections::BTreeMap<String, String>>,
    }
    let heads: Heads = serde_json::from_str(config)?;
    let classifies = |name: &String| name.ends_with("ForSequenceClassification");
    if !heads.architectures.iter().any(classifies) {
        return Ok(None);
    }
    let count = heads.id2label.map_or(2, |labels| labels.len());
    Ok(Some(match count {
        1 => Labels::Number,
        n => Labels::Classes(n),
    }))
}

/// Logits, hidden states, and the tokens of greedy and of beam search.
fn outputs(reference: &Reference, io: &Tensors) -> Result<Vec<Check>> {
    let model = &reference.model;
    let (shape, ids) = io.integers("input_ids")?;
    let (_, mask) = io.integers("attention_mask")?;
    let [batch, length] = shape[..] else {
        bail!("`input_ids` is {shape:?}, not (batch, length)")
    };
    let ids = token_ids(&ids, model, "input_ids")?;
    if ids.is_empty() || mask.len() != ids.len() {
        bail!(
            "`attention_mask` has {} entries, `input_ids` {}",
            mask.len(),
            ids.len()
        );
    }
    // The real tokens of each row; what the reference has for padding means nothing.
    let real: Vec<bool> = mask.iter().map(|m| *m != 0).collect();
    if !real.contains(&true) {
        bail!("`attention_mask` is 0 everywhere");
    }
    let rows: Vec<Vec<u32>> = (0..batch)
        .map(|b| {
            let range = b * length..(b + 1) * length;
            let row = ids[range.clone()].iter().zip(&real[range]);
            row.filter(|(_, real)| **real).map(|(id, _)| *id).collect()
        })
        .collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    if let Some(empty) = rows.iter().position(|row| row.is_empty()) {
        bail!("`attention_mask` is 0 in all of row {empty}");
    }
    let positions = model.config.max_positions();
    if length > positions {
        bail!("`input_ids` has {length} tokens a row, the model has {positions} positions");
    }
    // Where the second text of each row begins.
    let seconds: Vec<usize> = match io.has("token_type_ids") {
        false => rows.iter().map(|row| row.len()).collect(),
        true => {
            let (_, types) = io.integers("token_type_ids")?;
            let first = |row: &[i64]| row.iter().position(|t| *t == 1).unwrap_or(length);
            types.chunks(length.max(1)).map(first).collect()
        }
    };
    let tokenwise = reference.head.is_none();
    let packed = Input::packed(&rows).with_seconds(seconds.clone());
    let hidden = model.hidden(&packed, None, None);
    let logits = values(reference.logits(hidden.clone(), &packed))?;
    let expected = io.floats("logits")?;
    let mut checks = vec![
        match tokenwise {
            true => compare("logits", &logits, &only(&expected, &real)),
            false => compare("logits", &logits, &expected),
        },
        compare(
            "last_hidden_state",
            &values(hidden)?,
            &only(&io.floats("last_hidden_state")?, &real),
        ),
    ];
    let padded = Input::padded(&rows, 0).with_seconds(seconds);
    let hidden = model.hidden(&padded, None, None);
    let found = values(reference.logits(hidden, &padded))?;
    let width = logits.len() / packed.ids.len().max(1);
    let unpadded: Vec<f32> = match tokenwise {
        true => padded
            .spans
            .iter()
            .flat_map(|s| &found[s.start * width..(s.start + s.len) * width])
            .copied()
            .collect(),
        false => found,
    };
    checks.push(compare("logits, padded", &unpadded, &logits));
    let row = rows[0];
    if row.len() == length {
        let alone = Input::packed(&[row]).with_seconds(vec![length]);
        let hidden = model.hidden(&alone, None, None);
        if io.has("logits_row0_unpadded") && !io.has("token_type_ids") {
            checks.push(compare(
                "logits_row0_unpadded",
                &values(reference.logits(hidden, &alone))?,
                &io.floats("logits_row0_unpadded")?,
            ));
        }
    }
    if !model.config.is_causal() || !tokenwise {
        return Ok(checks);
    }
    let row = &ids[..length];
    let continued = |name: &str| -> Result<Vec<u32>> {
        let (_, all) = io.integers(name)?;
        let Some(continued) = all.get(length..) else {
            bail!(
                "`{name}` has {} tokens, fewer than its prompt of {length}",
                all.len()
            )
        };
        token_ids(continued, model, name)
    };
    let expected = continued("greedy_20")?;
    let options = GenerateOptions::greedy(expected.len(), Vec::new());
    // Beside a shorter prompt, so that rows of different lengths and the cache are in it.
    let prompts = [row, &row[length / 2..]];
    let answers = generate(model, None, &prompts, &options, |_, _| false, go_on);
    checks.push(tokens("greedy_20", &answers[0], &expected));
    if io.has("beam4_12") {
        let expected = continued("beam4_12")?;
        // Behind its end the reference is padded.
        let end = expected.iter().position(|t| *t == BEAM_EOS);
        let options = BeamOptions {
            rules: Rules::Transformers,
            beams: 4,
            max_new_tokens: expected.len(),
            eos: vec![BEAM_EOS],
            length_penalty: 0.9,
            no_repeat_ngram: 4,
        };
        let answers = beam_search(model, None, &prompts, &options, |_| {});
        let expected = &expected[..end.unwrap_or(expected.len())];
        checks.push(tokens("beam4_12", &answers[0], expected));
    }
    Ok(checks)
}

/// The end token of the reference's beam search.
const BEAM_EOS: u32 = 2;

/// What rounding leaves uncertain of a gradient's entry, as a share of its matrix' largest: some units in the last
/// place of the f32 sums that the large entries are.
const NOISE: f64 = 1e-6;

/// The optimizer steps of one strategy, as the reference took them.
struct Steps<'a> {
    reference: &'a Reference,
    train: &'a Train,
    /// Of every B over that of A.
    ratio: f64,
    layout: Arc<Layout>,
    initial: Vec<Vec<f32>>,
    /// Batches of rows.
    batches: Vec<Vec<Encoded>>,
}

/// What came of them.
struct Trained {
    losses: Vec<f64>,
    /// Final values of each matrix.
    values: Vec<Vec<f32>>,
    /// Gradients of the first step.
    first: Vec<Vec<f32>>,
}

/// A correction of one entry after the first step.
struct Shift {
    matrix: usize,
    entry: usize,
    by: f32,
}

impl Steps<'_> {
    fn run(&self, shifts: &[Shift]) -> Result<Trained> {
        let model = self.reference.model.clone();
        let device = model.device().clone();
        let bank = Bank::from_values(self.layout.clone(), self.initial.clone(), &device)?;
        let mut learner = Learner {
            head: self.reference.head.clone(),
            ..Learner::new(model, Some(bank))
        };
        let mut optimizer = Optimizer::new(
            AdamWOptions {
                betas: self.train.betas,
                epsilon: self.train.eps,
                weight_decay: self.train.weight_decay,
            },
            learner.decays(),
        );
        let rates = learner.rates(self.ratio, 1.0);
        let trained: Vec<bool> = self.layout.matrices().map(|m| m.trained).collect();
        let count = trained.iter().filter(|trained| **trained).count();
        let mut losses = Vec::new();
        let mut first = Vec::new();
        for (step, rows) in self.batches.iter().enumerate() {
            let found = gradients(
                &mut learner,
                &[rows.iter().collect()],
                0,
                step as u64,
                Running::default(),
            );
            losses.push(found.loss);
            if step == 0 {
                let mut gradients = found.matrices.iter();
                for (trained, initial) in trained.iter().zip(&self.initial) {
                    first.push(match gradients.next().filter(|_| *trained) {
                        Some(gradient) => values(gradient.clone())?,
                        None => vec![0.0; initial.len()],
                    });
                }
            }
            // The head is frozen in the reference: the bank's matrices come first.
            let matrices = learner.matrices().into_iter().take(count);
            for (i, (matrix, gradient)) in matrices.zip(found.matrices).enumerate() {
                let rate = self.train.lr * rates[i];
                *matrix = optimizer.step(i, rate, matrix.clone(), gradient);
            }
            if step == 0 && !shifts.is_empty() {
                let mut all = bank_values(&learner);
                for shift in shifts {
                    all[shift.matrix][shift.entry] += shift.by;
                }
                learner.bank = Some(Bank::from_values(self.layout.clone(), all, &device)?);
            }
        }
        Ok(Trained {
            losses,
            values: bank_values(&learner),
            first,
        })
    }
}

fn bank_values(learner: &Learner) -> Vec<Vec<f32>> {
    learner.bank.as_ref().map_or(Vec::new(), Bank::values)
}

/// Losses and final matrices of one strategy.
///
/// AdamW's first update is `lr u(g)` with `u(g) = g / (|g| + eps)`, nearly the sign of the gradient. Where a gradient is
/// almost zero, rounding (see [`NOISE`]) decides its update, and that depends on the order of the reference's sums, which
/// no other program can be expected to have: PyTorch itself, in f64, ends elsewhere. An entry that ends further away
/// than allowed, by no more than `lr (u(g + noise) - u(g - noise))`, is shifted by the difference after the first step,
/// and the steps are run once more; then everything has to agree as usual. The check's name says how many entries
/// that were.
fn steps(
    reference: &Reference,
    strategy: &str,
    train: &Train,
    losses: &[f64],
    tensors: &Tensors,
) -> Result<Vec<Check>> {
    let config = AdapterConfig {
        rank: train.rank,
        alpha: train.alpha,
        dropout: 0.0,
        targets: train.targets.clone(),
        scaling: Scaling::Standard,
        init: Init::named(strategy).unwrap_or_default(),
    };
    let ratio = train.b_learning_rate_ratios.get(strategy).copied();
    let method = match Init::named(strategy).is_some() || ratio.is_some() {
        true => Method::named("lora")?,
        false => Method::named(strategy)?,
    };
    let sharing = method
        .sharing()
        .with_context(|| format!("`{strategy}` has no adapter"))?;
    let model = &reference.model;
    let layout = Arc::new(Layout::new(&model.config.sites(), sharing, &config)?);
    let of_owners = |which: &str| {
        layout
            .matrices()
            .enumerate()
            .map(|(i, m)| {
                let letters = layout.a.len() + layout.b.len();
                let kind = match i.checked_sub(letters) {
                    Some(at) => layout.kinds[at % layout.kinds.len()].name(),
                    None if i < layout.a.len() => "a",
                    None => "b",
                };
                tensors.floats(&format!("{}.{kind}_{which}", layout.sites[m.owner].path))
            })
            .collect::<Result<Vec<_>>>()
    };
    let expected = of_owners("final")?;
    let (shape, ids) = tensors.integers("batches")?;
    let [count, rows, length] = shape[..] else {
        bail!("`batches` is {shape:?}, not (steps, batch, length)")
    };
    if length == 0 || ids.is_empty() {
        bail!("`batches` is empty");
    }
    let texts = ids.chunks_exact(length);
    let examples = match &reference.head {
        Some(head) => {
            let labels = match head.labels {
                Labels::Number => tensors.floats("class_labels")?,
                Labels::Classes(n) => {
                    let (_, labels) = tensors.integers("class_labels")?;
                    if let Some(label) = labels.iter().find(|l| !(0..n as i64).contains(*l)) {
                        bail!("`class_labels` has {label}: the head has {n} classes");
                    }
                    labels.into_iter().map(|l| l as f32).collect()
                }
            };
            if labels.len() != texts.len() {
                bail!(
                    "`class_labels` has {} entries, `batches` {} rows",
                    labels.len(),
                    texts.len()
                );
            }
            let example = |(row, label): (&[i64], f32)| {
                Ok(Encoded {
                    ids: token_ids(row, model, "batches")?,
                    prompt_len: row.len(),
                    label: Some(label),
                    ..Encoded::default()
                })
            };
            texts.zip(labels).map(example).collect::<Result<Vec<_>>>()?
        }
        None => {
            let (_, labels) = tensors.integers("labels")?;
            if labels.len() != ids.len() {
                bail!(
                    "`labels` has {} entries, `batches` {}",
                    labels.len(),
                    ids.len()
                );
            }
            let example = |(row, labels): (&[i64], &[i64])| {
                let prompt_len = labels.iter().take_while(|l| **l < 0).count();
                if row[prompt_len..] != labels[prompt_len..] {
                    bail!("`labels` differ from `batches` behind the masked start of a row");
                }
                Ok(Encoded {
                    ids: token_ids(row, model, "batches")?,
                    prompt_len,
                    ..Encoded::default()
                })
            };
            let labels = labels.chunks_exact(length);
            texts.zip(labels).map(example).collect::<Result<Vec<_>>>()?
        }
    };
    let steps = Steps {
        reference,
        train,
        ratio: ratio.unwrap_or(1.0),
        initial: of_owners("init")?,
        layout: layout.clone(),
        batches: examples
            .chunks(rows.max(1))
            .map(<[Encoded]>::to_vec)
            .collect(),
    };
    let mut trained = steps.run(&[])?;
    let shifts = undetermined(&trained, &expected, train, |matrix| {
        let b = layout.a.len()..layout.a.len() + layout.b.len();
        train.lr
            * if b.contains(&matrix) {
                steps.ratio
            } else {
                1.0
            }
    });
    let note = match shifts.len() {
        0 => String::new(),
        n => {
            trained = steps.run(&shifts)?;
            format!(" ({n} first updates undetermined)")
        }
    };
    let difference = trained
        .losses
        .iter()
        .zip(losses)
        .map(|(a, b)| (a - b).abs())
        .fold(
            if trained.losses.len() == losses.len() {
                0.0
            } else {
                f64::NAN
            },
            f64::max,
        );
    let mut checks = vec![Check {
        name: format!("{strategy}: loss of {count} steps{note}"),
        difference,
        tolerance: TOLERANCE,
    }];
    let letters = layout.a.len() + layout.b.len();
    for (letter, range) in [
        ("A", 0..layout.a.len()),
        ("B", layout.a.len()..letters),
        ("matrices of sites", letters..expected.len()),
    ] {
        if range.is_empty() {
            continue;
        }
        let found: Vec<f32> = trained.values[range.clone()].concat();
        let name = format!("{strategy}: final {letter}, {} matrices{note}", range.len());
        checks.push(compare(&name, &found, &expected[range].concat()));
    }
    Ok(checks)
}

/// The entries that end further than the tolerance from where they should, by what rounding can do to their first
/// update; `rate` is the learning rate of a matrix.
fn undetermined(
    trained: &Trained,
    expected: &[Vec<f32>],
    train: &Train,
    rate: impl Fn(usize) -> f64,
) -> Vec<Shift> {
    let mut shifts = Vec::new();
    for (matrix, ((found, expected), first)) in trained
        .values
        .iter()
        .zip(expected)
        .zip(&trained.first)
        .enumerate()
    {
        let update = |g: f64| rate(matrix) * g / (g.abs() + train.eps);
        let largest = first.iter().fold(0f32, |m, g| m.max(g.abs()));
        let noise = NOISE * f64::from(largest);
        for (entry, ((found, expected), gradient)) in
            found.iter().zip(expected).zip(first).enumerate()
        {
            let by = expected - found;
            let off = f64::from(by.abs());
            let g = f64::from(*gradient);
            if off > TOLERANCE && off <= update(g + noise) - update(g - noise) {
                shifts.push(Shift { matrix, entry, by });
            }
        }
    }
    shifts
}

/// Prompts of a model that generates, or texts of an encoder.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Cases {
    Cases(Vec<Case>),
    Encodings(Vec<Encoding>),
}

#[derive(Deserialize)]
struct Encoding {
    name: String,
    text: String,
    pair: Option<String>,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    /// The first values of the hidden states of the first and the last token, and of the pooler's output.
    first: Vec<f32>,
    last: Vec<f32>,
    pooled: Vec<f32>,
}

/// Token ids, types, hidden states and the pooler's output of one text.
fn encoding(case: &Encoding, model: &Model, encoder: &Encoder) -> Result<Vec<Check>> {
    let limit = model.config.max_positions();
    let found = encoder.encode_text(&case.text, case.pair.as_deref(), limit)?;
    let second = found.segment.unwrap_or(found.ids.len());
    let types: Vec<u32> = (0..found.ids.len())
        .map(|t| u32::from(t >= second))
        .collect();
    let mut checks = vec![
        tokens(
            &format!("{}: token ids", case.name),
            &found.ids,
            &case.input_ids,
        ),
        tokens(
            &format!("{}: types", case.name),
            &types,
            &case.token_type_ids,
        ),
    ];
    let input = gradients::input(&[&found], false);
    let hidden = model.hidden(&input, None, None);
    let last = found.ids.len().saturating_sub(1);
    let row = |at: usize| hidden.clone().narrow(0, at, 1);
    for (name, tensor, expected) in [
        ("first token", row(0), &case.first),
        ("last token", row(last), &case.last),
        ("pooled", model.pool(row(0)), &case.pooled),
    ] {
        let values = values(tensor)?;
        let found = values.get(..expected.len()).unwrap_or(&values);
        checks.push(compare(&format!("{}: {name}", case.name), found, expected));
    }
    Ok(checks)
}

#[derive(Deserialize)]
struct Case {
    name: String,
    prompt: String,
    input_ids: Vec<u32>,
    nll_sum: f64,
    greedy_ids: Vec<u32>,
}

/// Compares one real model with a file of cases: token ids, summed negative log-likelihood, the most likely next
/// token and the greedy continuation; or for an encoder token ids, types, hidden states and the pooler's output.
///
/// # Errors
/// A file that is missing or malformed.
pub fn parity_cases(file: &Path, model: &Model, encoder: &Encoder) -> Result<Vec<Check>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let malformed = || format!("{} is malformed", file.display());
    // Beside the cases the file says how it was made.
    let all: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).with_context(malformed)?;
    let named = all
        .into_iter()
        .filter(|(key, _)| ["cases", "encodings"].contains(&key.as_str()));
    let cases: Cases = serde_json::from_value(named.collect::<serde_json::Map<_, _>>().into())
        .with_context(malformed)?;
    let cases = match cases {
        Cases::Cases(cases) => cases,
        Cases::Encodings(cases) => {
            let checks = cases.iter().map(|case| encoding(case, model, encoder));
            return Ok(checks.collect::<Result<Vec<_>>>()?.concat());
        }
    };
    let mut checks = Vec::new();
    for case in cases {
        let ids = encoder.encode(&case.prompt, true)?;
        checks.push(tokens(
            &format!("{}: token ids", case.name),
            &ids,
            &case.input_ids,
        ));
        let [_, targets @ ..] = case.input_ids.as_slice() else {
            bail!("case `{}`: `input_ids` is empty", case.name)
        };
        if targets.is_empty() {
            bail!("case `{}`: one token has no likelihood", case.name);
        }
        let vocabulary = model.config.vocab_size();
        if let Some(id) = case.input_ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!(
                "case `{}`: `input_ids` has {id}, the model has {vocabulary} tokens",
                case.name
            );
        }
        let input = Input::packed(&[&case.input_ids]);
        let hidden = model.hidden(&input, None, None);
        let predicting = hidden.narrow(0, 0, targets.len());
        let sum = cross_entropy(&predicting, model.head(), targets, None, None).sum;
        checks.push(Check {
            name: format!("{}: negative log-likelihood (relative)", case.name),
            difference: ((sum - case.nll_sum) / case.nll_sum).abs(),
            tolerance: RELATIVE_TOLERANCE,
        });
        let options = GenerateOptions::greedy(case.greedy_ids.len(), Vec::new());
        let answer = generate(
            model,
            None,
            &[&case.input_ids],
            &options,
            |_, _| false,
            go_on,
        );
        checks.push(tokens(
            &format!("{}: greedy tokens", case.name),
            &answer[0],
            &case.greedy_ids,
        ));
    }
    Ok(checks)
}

/// Nothing interrupts these.
fn go_on(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Ids as the model takes them.
fn token_ids(ids: &[i64], model: &Model, name: &str) -> Result<Vec<u32>> {
    let vocabulary = model.config.vocab_size();
    ids.iter()
        .map(|&id| match u32::try_from(id) {
            Ok(id) if (id as usize) < vocabulary => Ok(id),
            _ => bail!(
                "`{name}` has the token {id}: the model has tokens 0 to {}",
                vocabulary - 1
            ),
        })
        .collect()
}

fn tokens(name: &str, found: &[u32], expected: &[u32]) -> Check {
    let differ = found.iter().zip(expected).filter(|(a, b)| a != b).count()
        + found.len().abs_diff(expected.len());
    Check {
        name: name.into(),
        difference: differ as f64,
        tolerance: 0.0,
    }
}

/// The rows of the last dimension that are real.
fn only(values: &[f32], real: &[bool]) -> Vec<f32> {
    let width = (values.len() / real.len().max(1)).max(1);
    let rows = values.chunks(width).zip(real).filter(|(_, real)| **real);
    rows.flat_map(|(row, _)| row).copied().collect()
}

fn compare(name: &str, found: &[f32], expected: &[f32]) -> Check {
    let mut difference = if found.len() == expected.len() {
        0f64
    } else {
        f64::NAN
    };
    for (a, b) in found.iter().zip(expected) {
        let d = f64::from((a - b).abs());
        // `max` would pass over a NaN.
        difference = if d.is_nan() || difference.is_nan() {
            f64::NAN
        } else {
            difference.max(d)
        };
    }
    Check {
        name: name.into(),
        difference,
        tolerance: TOLERANCE,
    }
}

fn values(tensor: Tensor<2>) -> Result<Vec<f32>> {
    tensor
        .without_autodiff()
        .try_to_vec_as::<f32>()
        .context("cannot read a tensor back")
}

/// A safetensors file in memory, with errors that name it.
struct Tensors {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Tensors {
            path: path.to_owned(),
            bytes,
        })
    }

    fn get(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<u8>)> {
        let file = SafeTensors::deserialize(&self.bytes)
            .with_context(|| self.path.display().to_string())?;
        let view = file
            .tensor(name)
            .with_context(|| format!("{}: no tensor `{name}`", self.path.display()))?;
        if view.dtype() != dtype {
            bail!(
                "{}: `{name}` is {:?}, not {dtype:?}",
                self.path.display(),
                view.dtype()
            );
        }
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).is_ok_and(|file| file.tensor(name).is_ok())
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let (_, bytes) = self.get(name, Dtype::F32)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    fn integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let (shape, bytes) = self.get(name, Dtype::I64)?;
        let values = bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect();
        Ok((shape, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what rounding can explain is excused: the same distance at an entry with a real gradient, or a larger
    /// one than an update is worth, stays a failure.
    #[test]
    fn only_rounding_is_excused() {
        let train = Train {
            rank: 1,
            alpha: 1.0,
            lr: 5e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            targets: Vec::new(),
            losses: Default::default(),
            b_learning_rate_ratios: BTreeMap::new(),
        };
        let trained = |values: Vec<f32>| Trained {
            losses: Vec::new(),
            values: vec![values],
            first: vec![vec![1e-2, 5e-9, 1e-5, -2e-9]],
        };
        let expected = [vec![0.0; 4]];
        let excused = |values: [f32; 4]| {
            undetermined(&trained(values.to_vec()), &expected, &train, |_| train.lr)
                .iter()
                .map(|s| s.entry)
                .collect::<Vec<_>>()
        };
        assert_eq!(excused([3e-3, 3e-3, 3e-3, 3e-3]), [1, 3]);
        assert!(excused([0.0, 2e-2, 0.0, 0.0]).is_empty());
        assert!(excused([0.0, 5e-5, 0.0, f32::NAN]).is_empty());
    }

    /// A difference that is no number must not pass.
    #[test]
    fn nan_fails() {
        assert!(!compare("", &[f32::NAN], &[0.0]).passed());
        assert!(!compare("", &[0.0, 1.0], &[0.0]).passed());
        assert!(!compare("", &[1.0, f32::NAN], &[1.0, 0.0]).passed());
        assert_eq!(only(&[1.0, 2.0, 3.0, 4.0], &[true, false]), [1.0, 2.0]);
        assert!(!tokens("", &[1, 2], &[1]).passed());
    }

    /// A reference folder is a user's file: whatever its numbers are, the answer is an error and no panic.
    #[test]
    fn lying_references_are_errors() {
        let config = ModelConfig::from_json(
            r#"{"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
                "num_attention_heads": 1, "tie_word_embeddings": true}"#,
        )
        .unwrap();
        let device = crate::device::device(crate::device::BACKENDS[0]).unwrap();
        let model = Model::build(config, Storage::F32, &device, |_, [a, b]| {
            Ok(vec![0.1; a * b])
        })
        .unwrap();
        let reference = Reference { model, head: None };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("io.safetensors");
        let message = |ids: [i64; 4], mask: &[i64], greedy: &[i64]| {
            let bytes = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let (ids, masked, greedy) = (bytes(&ids), bytes(mask), bytes(greedy));
            let view = |shape: Vec<usize>, data| {
                safetensors::tensor::TensorView::new(Dtype::I64, shape, data).unwrap()
            };
            let logits = vec![0u8; 4 * 4 * 8];
            let float =
                safetensors::tensor::TensorView::new(Dtype::F32, vec![32], &logits).unwrap();
            let views = [
                ("input_ids", view(vec![1, 4], &ids)),
                ("attention_mask", view(vec![masked.len() / 8], &masked)),
                ("greedy_20", view(vec![greedy.len() / 8], &greedy)),
                ("logits", float.clone()),
                ("last_hidden_state", float.clone()),
                ("logits_row0_unpadded", float),
            ];
            std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
            let io = Tensors::read(&path).unwrap();
            outputs(&reference, &io).err().map(|e| e.to_string())
        };
        let all = [1; 4];
        assert_eq!(message([1, 2, 3, 4], &all, &[1, 2, 3, 4, 5]), None);
        for (text, name) in [
            (
                message([1, 2, 3, 8], &all, &[1, 2, 3, 8, 5]),
                "`input_ids` has the token 8",
            ),
            (
                message([1, 2, 3, -1], &all, &[1, 2, 3, 4, 5]),
                "`input_ids` has the token -1",
            ),
            (
                message([1, 2, 3, 4], &[1; 3], &[1, 2, 3, 4, 5]),
                "`attention_mask` has 3",
            ),
            (
                message([1, 2, 3, 4], &all, &[1, 2]),
                "`greedy_20` has 2 tokens",
            ),
        ] {
            assert!(text.as_ref().is_some_and(|t| t.contains(name)), "{text:?}");
        }
    }
}
