//! What the page's script shows on demand, as JSON: a run's facts, settings, scores, curves and answers.
//!
//! Texts that recur are kept once, in `strings`, and named by their place there. Curves have at most [`MOST_POINTS`] points a run
//! and [`MOST_POINTS_IN_ALL`] together, though no fewer than [`FEWEST_POINTS`] a run.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Page;
use super::answers::Answers;
use super::look::Looks;
use crate::comparison::varying_axes;
use crate::loss_curves::{smoothing_window, trailing_mean};
use crate::number::{fixed, mebibytes, thousands};
use crate::record::{Metric, Record, Run, Step};
use crate::report::flatten;

/// Points of one run's curves.
pub const MOST_POINTS: usize = 300;
/// Points of all runs' curves.
pub const MOST_POINTS_IN_ALL: usize = 60_000;
/// Points of one run's curves, however many runs there are.
pub const FEWEST_POINTS: usize = 20;

/// Texts, each kept once.
#[derive(Default)]
struct Strings {
    places: HashMap<String, usize>,
    list: Vec<String>,
}

impl Strings {
    fn place(&mut self, text: &str) -> usize {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.list.len();
        self.places.insert(text.to_owned(), place);
        self.list.push(text.to_owned());
        place
    }

    /// Name and value by turns.
    fn pairs(&mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Vec<usize> {
        let places = pairs.into_iter();
        places
            .flat_map(|(name, value)| [self.place(&name), self.place(&value)])
            .collect()
    }
}

/// The JSON of a page.
pub fn json(page: &Page, looks: &Looks, answers: &[Answers]) -> Value {
    let most = MOST_POINTS_IN_ALL / page.runs.len().max(1);
    let points = most.clamp(FEWEST_POINTS, MOST_POINTS);
    let axes = varying_axes(page.runs.iter().map(|run| &run.record));
    let mut strings = Strings::default();
    let runs: Vec<Value> = page
        .runs
        .iter()
        .map(|run| {
            let record = &run.record;
            let varying = axes.iter().filter_map(|key| record.axes.get(key));
            let varying: Vec<&str> = varying.map(String::as_str).collect();
            json!({
                "name": record.run,
                "method": looks.place(&record.method),
                "seed": record.seed,
                "axes": strings.place(&varying.join(", ")),
                "finished": record.status == crate::Status::Finished,
                "facts": strings.pairs(facts(run, &page.spec.command)),
                "settings": strings.pairs(flatten(&record.config)),
                "scores": strings.pairs(record.metrics.iter().map(|(key, metric)| (key.clone(), score(metric)))),
                "curves": curves(run, points),
            })
        })
        .collect();
    json!({
        "strings": strings.list,
        "methods": looks.json(),
        "runs": runs,
        "answers": answers.iter().map(Answers::json).collect::<Vec<_>>(),
    })
}

/// A score for readers, unrounded enough to be computed with.
fn score(metric: &Metric) -> String {
    let error = metric
        .stderr
        .map_or_else(String::new, |error| format!(" ± {}", fixed(error, 4)));
    format!(
        "{}{error} (n = {})",
        fixed(metric.value, 4),
        thousands(metric.n)
    )
}

/// What is known of a run beside its settings and scores, in the order of reading.
fn facts(run: &Run, command: &str) -> Vec<(String, String)> {
    let record = &run.record;
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    let mut ended = record.status.name().to_owned();
    if let Some(message) = &record.message {
        ended += &format!(": {message}");
    }
    add("Ended", ended);
    if let Some(torn) = &run.torn {
        add("Damaged", torn.clone());
    }
    for (name, why) in &record.not_measured {
        add("Not measured", format!("{name} ({why})"));
    }
    for (name, count) in &record.truncated {
        add("Cut", format!("{} of {name}", thousands(*count)));
    }
    if record.trainable_parameters > 0 {
        add("Trained parameters", thousands(record.trainable_parameters));
        add(
            "Adapter",
            format!("{} bytes", thousands(record.adapter_bytes)),
        );
        let best = record.best_step.map_or_else(String::new, |step| {
            format!(", best after {}", thousands(step))
        });
        add("Steps", thousands(record.steps) + &best);
    }
    for (name, loss) in [
        ("Held-out loss before", record.held_out_loss_before),
        ("Held-out loss", record.held_out_loss),
        ("Training loss at the end", record.train_loss),
    ] {
        if let Some(loss) = loss {
            add(name, fixed(loss, 4));
        }
    }
    provenance(record, &mut add);
    add("Command", command_of(command, &record.run));
    facts
}

fn provenance(record: &Record, add: &mut impl FnMut(&str, String)) {
    if let Some(speed) = record.tokens_per_second {
        add("Tokens/s", fixed(speed, 1));
    }
    let peak = mebibytes(record.peak_memory_bytes) as u64;
    add("Peak memory", format!("{} MiB", thousands(peak)));
    let seconds = record.seconds.iter();
    let seconds: Vec<String> = seconds
        .map(|(part, seconds)| format!("{part} {}", fixed(*seconds, 1)))
        .collect();
    add("Seconds", seconds.join(", "));
    add(
        "Model",
        format!(
            "{}, {} parameters",
            record.model,
            thousands(record.base_parameters)
        ),
    );
    add("Hash of the settings", record.hash.clone());
    if let Some(commit) = &record.git_commit {
        add("Commit", commit.clone());
    }
    let versions = record.versions.iter();
    let versions: Vec<String> = versions.map(|(name, v)| format!("{name} {v}")).collect();
    add("Versions", versions.join(", "));
    for (name, hash) in &record.data {
        add("Data", format!("{name} {hash}"));
    }
    add("Backend", record.backend.clone());
    add(
        "Host",
        format!(
            "{}, {} cores, {} MiB memory, {}",
            record.host.cpu,
            record.host.cores,
            thousands(mebibytes(record.host.memory_bytes) as u64),
            record.host.os
        ),
    );
    add("Began", record.started_at.clone());
    add("Finished", record.finished_at.clone());
}

/// `command` for one run alone: its name as a regular expression, quoted for a shell.
fn command_of(command: &str, run: &str) -> String {
    let mut pattern = String::from("^");
    for character in run.chars() {
        if r".+*?()|[]{}^$\#&-~".contains(character) && character != '-' {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('$');
    format!(
        "{} --only '{}'",
        command.trim(),
        pattern.replace('\'', r"'\''")
    )
}

/// Rounded to what a curve can show; `null` where it is no number.
fn rounded(value: f64) -> Value {
    json!((value * 1e4).round() / 1e4)
}

/// The training loss as it was and smoothed, by step, and what was evaluated between the steps.
fn curves(run: &Run, points: usize) -> Value {
    if run.steps.is_empty() {
        return Value::Null;
    }
    let steps: Vec<&Step> = run.steps.iter().filter(|step| step.step > 0).collect();
    let losses: Vec<f64> = steps.iter().map(|s| s.loss.unwrap_or(f64::NAN)).collect();
    let smooth = trailing_mean(&losses, smoothing_window(losses.len()));
    // Every so many steps, and the last one.
    let stride = steps.len().div_ceil(points).max(1);
    let last = steps.len().saturating_sub(1);
    let kept: Vec<usize> = (0..steps.len())
        .filter(|place| place % stride == 0 || *place == last)
        .collect();
    let evaluated = |value: fn(&Step) -> Option<f64>| {
        let all = run.steps.iter();
        let all: Vec<(u64, Value)> = all
            .filter_map(|step| Some((step.step, rounded(value(step)?))))
            .collect();
        let stride = all.len().div_ceil(points).max(1);
        let last = all.len().saturating_sub(1);
        let kept = (0..).zip(all);
        kept.filter(|(place, _)| place % stride == 0 || *place == last)
            .map(|(_, point)| point)
            .collect::<Vec<_>>()
    };
    json!({
        "steps": kept.iter().map(|place| steps[*place].step).collect::<Vec<_>>(),
        "raw": kept.iter().map(|place| rounded(losses[*place])).collect::<Vec<_>>(),
        "smooth": kept.iter().map(|place| rounded(smooth[*place])).collect::<Vec<_>>(),
        "held_out": evaluated(|step| step.held_out_loss),
        "score": evaluated(|step| step.metric),
    })
}
