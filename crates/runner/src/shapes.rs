//! Shapes of public models as data, `reports/shapes.toml`: what their adapters and their training need, counted without their files.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use sharelora_adapters::Method;
use sharelora_model::ModelConfig;
use sharelora_report::claims::{Count, What};
use sharelora_report::figures::memory::Bar;
use sharelora_report::number::{fixed, percent, thousands};
use sharelora_report::style::method_name;
use sharelora_report::{Cell, Column, Table};

use crate::error::UsageError;
use crate::estimate::{Estimate, estimate};
use crate::{Plan, ResolvedRun};

/// `reports/shapes.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shapes {
    /// Which shapes stand in the table of scaling.
    pub scaling: Scaling,
    /// The shapes.
    pub shapes: Vec<Shape>,
    /// Training rows of tasks, for runs whose length is given in epochs.
    pub rows: BTreeMap<String, u64>,
}

/// The table of scaling.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    pub title: String,
    pub description: String,
    /// Experiment whose rank, targets, batch and storage are taken.
    pub experiment: String,
    /// Methods as records name them.
    pub methods: Vec<String>,
    /// Names of shapes, in order.
    pub shapes: Vec<String>,
    /// Those whose memory is drawn by parts.
    pub drawn: Vec<String>,
}

/// A public model's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub name: String,
    /// Where it is published, as experiments name it.
    pub source: String,
    /// The keys of its `config.json` that decide shapes.
    pub config: serde_json::Value,
}

impl Shape {
    /// # Errors
    /// The keys do not make a configuration.
    pub fn config(&self) -> Result<ModelConfig> {
        ModelConfig::from_json(&self.config.to_string())
            .with_context(|| format!("shape `{}`", self.name))
    }
}

/// What one method needs on one shape.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// Name of the shape.
    pub shape: String,
    /// The method as records name it.
    pub method: String,
    /// Counts and memory.
    pub estimate: Estimate,
}

impl Shapes {
    fn shape(&self, name: &str) -> Result<&Shape> {
        let names = || self.shapes.iter().map(|shape| shape.name.as_str());
        let found = self.shapes.iter().find(|shape| shape.name == name);
        Ok(found.ok_or_else(|| {
            let choices: Vec<&str> = names().collect();
            UsageError(format!(
                "no shape `{name}`: choices: {}",
                choices.join(", ")
            ))
        })?)
    }

    /// The shape that is published at `source`.
    pub fn published_at(&self, source: &str) -> Option<&Shape> {
        self.shapes.iter().find(|shape| shape.source == source)
    }

    /// What `method` needs on a shape, with the other settings of `plan`.
    ///
    /// # Errors
    /// An unknown shape or method, or a plan without an adapter.
    pub fn estimate(&self, plan: &Plan, shape: &str, method: &str) -> Result<Estimate> {
        let with_adapter = plan.runs.iter().find(|run| run.adapter.is_some());
        let run = with_adapter.ok_or_else(|| {
            UsageError(format!("{}: no run has an adapter", plan.experiment.file))
        })?;
        let run = ResolvedRun {
            method: Method::named(method)?,
            ..run.clone()
        };
        Ok(estimate(&run, &self.shape(shape)?.config()?, None)?)
    }

    /// What a count of the claims says: how much less than LoRA.
    ///
    /// # Errors
    /// As [`Shapes::estimate`].
    pub fn count(&self, plan: &Plan, count: &Count) -> Result<f64> {
        let of = |method: &str| self.estimate(plan, &count.shape, method);
        let (lora, other) = (of("lora")?, of(&count.method)?);
        Ok(match count.what {
            What::Parameters => {
                let share = other.trainable_parameters as f64 / lora.trainable_parameters as f64;
                100.0 * (1.0 - share)
            }
            What::Memory => (lora.memory.total() as f64 - other.memory.total() as f64) / 1e9,
        })
    }

    /// Every shape of the table of scaling with every method.
    ///
    /// # Errors
    /// As [`Shapes::estimate`].
    pub fn scaled(&self, plan: &Plan) -> Result<Vec<Scaled>> {
        let mut all = Vec::new();
        for shape in &self.scaling.shapes {
            for method in &self.scaling.methods {
                all.push(Scaled {
                    shape: shape.clone(),
                    method: method.clone(),
                    estimate: self.estimate(plan, shape, method)?,
                });
            }
        }
        Ok(all)
    }

    /// The same for figures.
    pub fn bars(&self, scaled: &[Scaled]) -> Vec<Bar> {
        let bar = |of: &Scaled| {
            let parts = of.estimate.memory.parts();
            Bar {
                model: of.shape.clone(),
                base_parameters: of.estimate.base_parameters,
                method: of.method.clone(),
                trained_parameters: of.estimate.trainable_parameters,
                parts: parts.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec(),
            }
        };
        scaled.iter().map(bar).collect()
    }

    /// The table of scaling.
    pub fn table(&self, scaled: &[Scaled]) -> Table {
        const GIBIBYTE: f64 = 1024.0 * 1024.0 * 1024.0;
        let size = |bytes: u64, unit: f64, decimals| {
            let value = bytes as f64 / unit;
            Cell::number(fixed(value, decimals), value)
        };
        let row = |of: &Scaled| {
            let Estimate {
                trainable_parameters,
                adapter_bytes,
                memory,
                ..
            } = &of.estimate;
            let mut lora = scaled
                .iter()
                .filter(|o| o.shape == of.shape && o.method == "lora");
            let share = lora.next().map_or_else(Cell::none, |lora| {
                let share =
                    *trainable_parameters as f64 / lora.estimate.trainable_parameters as f64;
                Cell::number(percent(share), 100.0 * share)
            });
            let mut row = vec![
                Cell::text(&of.shape),
                Cell::text(method_name(&of.method)),
                Cell::number(
                    thousands(*trainable_parameters),
                    *trainable_parameters as f64,
                ),
                share,
                size(*adapter_bytes, GIBIBYTE / 1024.0, 1),
            ];
            let parts = [
                memory.base,
                memory.adapter,
                memory.gradients,
                memory.optimizer,
                memory.activations,
                memory.total(),
            ];
            row.extend(parts.map(|bytes| size(bytes, GIBIBYTE, 2)));
            row
        };
        let mut columns = vec![
            Column::left("Model"),
            Column::left("Method"),
            Column::right("Trained parameters"),
            Column::right("of LoRA (%)"),
            Column::right("Adapter file (MiB)"),
        ];
        let parts = [
            "Base",
            "Adapter",
            "Gradients",
            "AdamW",
            "Activations",
            "Total",
        ];
        columns.extend(parts.map(|part| Column::right(format!("{part} (GiB)"))));
        Table {
            title: self.scaling.title.clone(),
            columns,
            rows: scaled.iter().map(row).collect(),
            notes: vec![format!(
                "Settings of {}. Parameters and files are exact counts; memory is the estimate of the largest moment of training, which the plan of an \
                 experiment shows too.",
                self.scaling.experiment
            )],
        }
    }
}
