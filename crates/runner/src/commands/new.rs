//! `new ablation`: an experiment to begin with, every axis that exists named in its comments.

use anyhow::{Context as _, Result};
use serde_json::Value;
use sharelora_hub::Progress;
use sharelora_model::ModelConfig;

use crate::error::UsageError;
use crate::store::write_atomic;
use crate::{Context, Experiment, base, experiment};

/// What the new experiment is called, and the experiment whose model and training it takes over.
#[derive(Debug, clap::Args)]
pub struct Ablation {
    /// Name of the new file in experiments/, without .toml
    pub name: String,
    /// Experiment whose model, task and batches it takes over
    #[arg(long, value_name = "NAME", default_value = "quickstart")]
    pub model: String,
}

/// Keys of `[train]` that an ablation takes over from the other experiment, where they are set there.
const TAKEN: [&str; 17] = [
    "task",
    "task_options",
    "rows",
    "steps",
    "epochs",
    "batch_size",
    "batch_tokens",
    "accumulation",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "warmup_ratio",
    "max_source",
    "max_target",
    "group_by_length",
    "held_out",
    "evaluate_every",
];

/// Writes `experiments/NAME.toml`.
///
/// # Errors
/// The name is no file name or is taken, or the other experiment is wrong.
pub fn ablation(context: &Context, wanted: &Ablation) -> Result<u8> {
    let name = &wanted.name;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(legal) {
        let text = format!(
            "`{name}` is no name: letters, digits, _ and -, so that it can be a file and a folder"
        );
        return Err(UsageError(text).into());
    }
    let path = context
        .root
        .join("experiments")
        .join(format!("{name}.toml"));
    if path.exists() {
        let text = format!("{} is there already: choose another name", path.display());
        return Err(UsageError(text).into());
    }
    let other = Experiment::load(&context.root, &wanted.model, &[])?;
    let text = ablation_text(name, &other, projections(context, &other))?;
    // What it says has to hold before anybody reads it.
    let file = format!("experiments/{name}.toml");
    let experiment = Experiment::parse(name, &file, &text, &[])?;
    let plan = crate::plan::plan(&context.root, experiment, &context.backend)?;
    write_atomic(&path, text.as_bytes())?;
    super::print(&format!(
        "{file}: {} runs; next: sharelora plan {name}",
        plan.runs.len()
    ))?;
    Ok(0)
}

/// The projections that the model has; `None` where its configuration is not on this machine.
fn projections(context: &Context, experiment: &Experiment) -> Option<Vec<String>> {
    let model = experiment.sections(experiment.document()).ok()?.model;
    let config: ModelConfig = base::config(&model, &context.hub, Progress::Quiet).ok()?;
    let mut names: Vec<String> = Vec::new();
    for site in config.sites() {
        if !names.contains(&site.projection) {
            names.push(site.projection);
        }
    }
    Some(names)
}

/// The file. Every line that begins with `# "` or `# method` is an axis that may be taken in.
pub fn ablation_text(
    name: &str,
    other: &Experiment,
    projections: Option<Vec<String>>,
) -> Result<String> {
    // Of a sequence the settings of its first stage.
    let document = match crate::stages::stages(other.document()) {
        Ok(stages) if !stages.is_empty() => experiment::at_stage(other.document(), &stages[0]),
        _ => other.document().clone(),
    };
    let section = |key: &str, taken: Option<&[&str]>| -> Result<String> {
        let Some(Value::Object(map)) = document.get(key) else {
            return Ok(String::new());
        };
        let mut lines = String::new();
        for (key, value) in map {
            if taken.is_none_or(|taken| taken.contains(&key.as_str())) {
                lines.push_str(&format!("{key} = {}\n", toml_value(value)?));
            }
        }
        Ok(lines)
    };
    let mut evaluate = String::new();
    for each in document
        .get("evaluate")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        evaluate.push_str("[[evaluate]]\n");
        for (key, value) in each.as_object().into_iter().flatten() {
            evaluate.push_str(&format!("{key} = {}\n", toml_value(value)?));
        }
        evaluate.push('\n');
    }
    // Two projections of the same input make the shortest example of a choice.
    let (targets, some, known) = match &projections {
        Some(names) => {
            let some: Vec<&String> = names.iter().take(2).collect();
            (names.len(), serde_json::to_string(&some)?, names.join(", "))
        }
        None => (
            0,
            "[\"all_linear\"]".into(),
            "see the README's table of models".into(),
        ),
    };
    let projections_axis = match targets {
        0 => String::new(),
        _ => format!(
            "#   {{ name = \"some_share_a\", a = {{ scope = \"all_layers\", projections = {some} }}, b = \"per_layer\" }},\n"
        ),
    };
    Ok(format!(
        r##"# An ablation of {like}. A misspelt key is an error that names the nearest; `sharelora plan {name}` shows the runs and what
# they cost, `sharelora sweep {name}` does them.
title = "{name}"
description = """
What is compared, and on what.
"""
caveat = "What this shows and what it does not."

[model]
{model}
[adapter]
rank = 8                        # r: rows of A, columns of B
alpha = 16                      # the update is scaled by alpha / r
dropout = 0.0                   # share of the adapter's input that is dropped while training
targets = ["all_linear"]        # or some of: {known}
scaling = "standard"            # or "rslora": alpha / sqrt(r)

[train]
{train}checkpoint_every = 50           # a run that was stopped goes on from its last checkpoint
keep_best = false               # true: score the evaluation with the lowest held-out loss instead of the last

{evaluate}# Every combination of the values below is a run. Take the `#` off an axis to have it; a run that exists is not done again
# when an axis is added, as long as its own settings stay.
[axes]
# What is shared. `a` and `b` are "per_layer", "all_layers", {{ groups = N }} (one matrix for N consecutive layers), any of them for
# some projections alone. Names without a table: base (untouched), full (every weight), {named}.
method = [
    "lora",                                                                 # neither: a matrix per layer
    "share_a",                                                              # A
    "share_b",                                                              # B
    "share_ab",                                                             # both
    {{ name = "share_a_groups2", a = {{ groups = 2 }}, b = "per_layer" }},      # between LoRA and ShareA
]
# More methods to put into the list:
#   "base", "full", "share_a_qkv",
#   "lora_fa", "share_a_frozen", "vera", "rslora", "dora",
#   {{ name = "share_b_groups2", a = "per_layer", b = {{ groups = 2 }} }},
{projections_axis}
# Initial values and the order of the data; three or more say how much a difference may be noise.
seed = [0, 1]

# Any dotted key of [model], [adapter], [train] and [[evaluate]] can be an axis:
# "adapter.rank" = [4, 8, 16]
# "adapter.alpha" = [8, 16, 32]
# "adapter.dropout" = [0.0, 0.05]
# "adapter.scaling" = ["standard", "rslora"]
# "adapter.init" = ["kaiming", "gaussian", "orthogonal"]   # or "pissa", where both matrices are per layer
# "adapter.targets" = [["all_linear"], {some}]
# "train.learning_rate" = [1e-4, 5e-4, 2e-3]
# "train.b_learning_rate_ratio" = [1, 16]   # LoRA+: the learning rate of every B over that of A
# "train.schedule" = ["constant", "linear", "cosine"]
# "train.weight_decay" = [0.0, 0.01]
# "train.rows" = [256, 1024]        # the size of the data: the first rows
# "model.dtype" = ["f32", "nf4"]    # how the frozen base is kept: or bf16, f16, stored; the method "full" needs f32
# Another model as an axis: "model.config", "model.tokenizer" and "model.weights" would multiply. Write one file a model that
# begins with `extends = "{name}"` and has a [model] of its own.

# One dataset after the other: each [[stage]] replaces keys of [train] and starts from the adapter of the one before it; the order
# is an axis too. experiments/continual-pocket.toml is a whole one.
# [[stage]]
# name = "first"
# [[stage]]
# name = "second"
# learning_rate = 1e-4            # or any other key of [train], its task above all
# carry = "adapter"               # or "adapter_and_optimizer", "nothing"
# [sequence]
# orders = "all"                  # or "given", or a list of orders

# Where one combination needs another setting:
# [[override]]
# when = {{ method = "share_ab" }}
# set = {{ "train.learning_rate" = 1e-3 }}
"##,
        like = other.name,
        model = section("model", None)?,
        train = section("train", Some(&TAKEN))?,
        named = sharelora_adapters::NAMED_METHODS
            .iter()
            .filter(|m| !["base", "full"].contains(m))
            .copied()
            .collect::<Vec<_>>()
            .join(", "),
    ))
}

/// A value as TOML writes it on one line.
fn toml_value(value: &Value) -> Result<String> {
    let value: toml::Value = serde_json::from_value(value.clone())
        .context("a value of an experiment that TOML cannot write")?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::planned;
    use std::path::Path;

    fn text(projections: Option<Vec<String>>) -> String {
        let other = crate::experiment::tests::parse(crate::experiment::tests::SMALL, &[]).unwrap();
        ablation_text("mine", &other, projections).unwrap()
    }

    /// What the comments offer has to work: each axis that is taken in is planned, alone and with its values.
    #[test]
    fn every_axis_of_the_comments_can_be_taken_in() {
        let names = Some(["q_proj", "k_proj"].map(String::from).to_vec());
        let text = text(names);
        let plain = planned(&text, &[]).unwrap().runs.len();
        assert_eq!(plain, 10);
        let axes: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# \""))
            .collect();
        assert!(axes.len() >= 10, "{axes:?}");
        for axis in axes {
            let with = text.replace(axis, axis.trim_start_matches("# "));
            let runs = planned(&with, &[])
                .unwrap_or_else(|e| panic!("{axis}: {e}"))
                .runs;
            assert!(runs.len() >= 2 * plain, "{axis}");
        }
        let more: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("#   "))
            .collect();
        assert_eq!(more.len(), 4);
        let with = text.replace(
            "method = [\n",
            &format!("method = [\n{}\n", more.join("\n")),
        );
        // The untouched base has one run whatever the seeds.
        assert_eq!(planned(&with, &[]).unwrap().runs.len(), plain + 10 * 2 - 1);
        // Each order has its two stages, in their place: four runs where there was one.
        let mut sequence = text.clone();
        for line in [
            "[[stage]]",
            "name = \"first\"",
            "name = \"second\"",
            "learning_rate = 1e-4",
            "carry =",
            "[sequence]",
            "orders =",
        ] {
            sequence = sequence.replace(&format!("# {line}"), line);
        }
        assert_eq!(planned(&sequence, &[]).unwrap().runs.len(), 4 * plain);
        let uncommented = text
            .replace("# [[override]]", "[[override]]")
            .replace("# when =", "when =")
            .replace("# set =", "set =");
        assert_eq!(planned(&uncommented, &[]).unwrap().runs.len(), plain);
    }

    /// Whatever experiment of the project it is made from.
    #[test]
    fn every_experiment_can_be_ablated() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in crate::experiment::list(&root).unwrap() {
            let other = Experiment::load(&root, &name, &[]).unwrap();
            let text = ablation_text("mine", &other, None).unwrap();
            let experiment = Experiment::parse("mine", "experiments/mine.toml", &text, &[])
                .unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
            crate::plan::plan(&root, experiment, "flex").unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
