//! Spectra of adapters as plain data, and as Parquet. The runner computes them from stored adapters; angles are in radians.

use std::path::Path;

use polars::prelude::*;
use serde::Serialize;
use sharelora_spectrum::measure;

use crate::error::{Error, Result};
use crate::file;

/// The spectrum of one site's update, and what sums it up. A measure of an update of zeros is absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteSpectrum {
    /// From 0.
    pub layer: usize,
    /// `q_proj`, ...
    pub projection: String,
    /// Outputs and inputs of the weight.
    pub shape: [usize; 2],
    /// Singular values, not increasing.
    pub values: Vec<f64>,
    /// `exp` of the entropy of the values (Roy & Vetterli 2007).
    pub effective_rank: Option<f64>,
    /// `||.||_F^2 / ||.||_2^2`.
    pub stable_rank: Option<f64>,
    /// For each index the part of `||.||_F^2` in the values up to it.
    pub energy: Vec<Option<f64>>,
    /// `||s B A||_F`.
    pub norm: f64,
    /// `||s B A||_F / ||W||_F`, where the frozen weights are at hand.
    pub relative_norm: Option<f64>,
}

impl SiteSpectrum {
    /// Singular values that do not increase, of the weight's `shape` (outputs, inputs), with their measures; `weight` is `||W||_F`.
    pub fn new(
        layer: usize,
        projection: &str,
        shape: [usize; 2],
        values: Vec<f64>,
        weight: Option<f64>,
    ) -> Self {
        let norm = measure::frobenius(&values);
        Self {
            layer,
            projection: projection.to_owned(),
            shape,
            effective_rank: measure::effective_rank(&values),
            stable_rank: measure::stable_rank(&values),
            energy: (1..=values.len())
                .map(|k| measure::energy(&values, k))
                .collect(),
            norm,
            relative_norm: weight.filter(|w| *w > 0.0).map(|w| norm / w),
            values,
        }
    }
}

/// All sites of one adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterSpectrum {
    /// What the person named, or `EXPERIMENT/LABEL`.
    pub run: String,
    /// As in records.
    pub method: String,
    /// The run without its seed: what figures average over.
    pub setting: String,
    /// By layer, within it in the model's order.
    pub sites: Vec<SiteSpectrum>,
}

/// What two updates are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Between {
    /// Two layers of one adapter.
    Layers,
    /// One layer of two adapters.
    Runs,
}

/// Principal angles between two updates of one projection, ascending.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Angles {
    /// What the two are of.
    pub between: Between,
    /// The first one's run and layer.
    pub first: (String, usize),
    /// The second one's.
    pub second: (String, usize),
    /// `q_proj`, ...
    pub projection: String,
    /// Between the column spaces: what the updates write.
    pub columns: Vec<f64>,
    /// Between the row spaces: what they read.
    pub rows: Vec<f64>,
    /// Mean squared cosine of `columns`.
    pub column_overlap: Option<f64>,
    /// Mean squared cosine of `rows`.
    pub row_overlap: Option<f64>,
}

/// Everything that `sharelora spectrum` knows.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Spectra {
    /// In the order in which they were asked for.
    pub adapters: Vec<AdapterSpectrum>,
    /// Between all pairs of layers of each adapter, and between consecutive adapters.
    pub angles: Vec<Angles>,
}

impl Spectra {
    fn sites(&self) -> impl Iterator<Item = (&AdapterSpectrum, &SiteSpectrum)> {
        let adapters = self.adapters.iter();
        adapters.flat_map(|adapter| adapter.sites.iter().map(move |site| (adapter, site)))
    }

    /// One row a singular value.
    fn values(&self) -> PolarsResult<DataFrame> {
        let rows: Vec<(&AdapterSpectrum, &SiteSpectrum, usize)> = self
            .sites()
            .flat_map(|(adapter, site)| (0..site.values.len()).map(move |i| (adapter, site, i)))
            .collect();
        let floats = |name: &str, of: fn(&SiteSpectrum, usize) -> Option<f64>| {
            let values = rows.iter().map(|(_, site, i)| of(site, *i));
            Column::new(name.into(), values.collect::<Vec<_>>())
        };
        let columns = vec![
            texts("run", rows.iter().map(|(adapter, ..)| adapter.run.as_str())),
            texts(
                "method",
                rows.iter().map(|(adapter, ..)| adapter.method.as_str()),
            ),
            counts("layer", rows.iter().map(|(_, site, _)| site.layer)),
            texts(
                "projection",
                rows.iter().map(|(_, site, _)| site.projection.as_str()),
            ),
            counts("index", rows.iter().map(|(.., i)| i + 1)),
            floats("singular_value", |site, i| site.values.get(i).copied()),
            floats("energy", |site, i| site.energy.get(i).copied().flatten()),
        ];
        DataFrame::new(rows.len(), columns)
    }

    /// One row a site.
    fn summaries(&self) -> PolarsResult<DataFrame> {
        let rows: Vec<_> = self.sites().collect();
        let floats = |name: &str, of: fn(&SiteSpectrum) -> Option<f64>| {
            let values = rows.iter().map(|(_, site)| of(site));
            Column::new(name.into(), values.collect::<Vec<_>>())
        };
        let columns = vec![
            texts("run", rows.iter().map(|(adapter, _)| adapter.run.as_str())),
            texts(
                "method",
                rows.iter().map(|(adapter, _)| adapter.method.as_str()),
            ),
            texts(
                "setting",
                rows.iter().map(|(adapter, _)| adapter.setting.as_str()),
            ),
            counts("layer", rows.iter().map(|(_, site)| site.layer)),
            texts(
                "projection",
                rows.iter().map(|(_, site)| site.projection.as_str()),
            ),
            counts("outputs", rows.iter().map(|(_, site)| site.shape[0])),
            counts("inputs", rows.iter().map(|(_, site)| site.shape[1])),
            floats("largest", |site| site.values.first().copied()),
            floats("effective_rank", |site| site.effective_rank),
            floats("stable_rank", |site| site.stable_rank),
            floats("norm", |site| Some(site.norm)),
            floats("relative_norm", |site| site.relative_norm),
        ];
        DataFrame::new(rows.len(), columns)
    }

    /// One row an angle.
    fn angle_rows(&self) -> PolarsResult<DataFrame> {
        let mut rows: Vec<(&Angles, &str, usize, f64)> = Vec::new();
        for angles in &self.angles {
            for (space, list) in [("columns", &angles.columns), ("rows", &angles.rows)] {
                let angles = list
                    .iter()
                    .enumerate()
                    .map(|(i, a)| (angles, space, i + 1, *a));
                rows.extend(angles);
            }
        }
        let between = |angles: &Angles| match angles.between {
            Between::Layers => "layers",
            Between::Runs => "runs",
        };
        let columns = vec![
            texts("between", rows.iter().map(|(angles, ..)| between(angles))),
            texts(
                "projection",
                rows.iter().map(|(angles, ..)| angles.projection.as_str()),
            ),
            texts(
                "first_run",
                rows.iter().map(|(angles, ..)| angles.first.0.as_str()),
            ),
            counts(
                "first_layer",
                rows.iter().map(|(angles, ..)| angles.first.1),
            ),
            texts(
                "second_run",
                rows.iter().map(|(angles, ..)| angles.second.0.as_str()),
            ),
            counts(
                "second_layer",
                rows.iter().map(|(angles, ..)| angles.second.1),
            ),
            texts("space", rows.iter().map(|(_, space, ..)| *space)),
            counts("index", rows.iter().map(|(.., i, _)| *i)),
            Column::new(
                "angle".into(),
                rows.iter().map(|(.., a)| *a).collect::<Vec<_>>(),
            ),
        ];
        DataFrame::new(rows.len(), columns)
    }

    /// Writes `values.parquet`, a row a singular value, `sites.parquet`, a row a site, and `angles.parquet`, a row an angle.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn write_parquet(&self, folder: &Path) -> Result<()> {
        let tables = [
            ("values.parquet", self.values()),
            ("sites.parquet", self.summaries()),
            ("angles.parquet", self.angle_rows()),
        ];
        for (name, frame) in tables {
            let path = folder.join(name);
            let failed = |source| Error::Frame {
                path: path.clone(),
                source,
            };
            let mut frame = frame.map_err(failed)?;
            let mut bytes = Vec::new();
            ParquetWriter::new(&mut bytes)
                .finish(&mut frame)
                .map_err(failed)?;
            file::write(&path, &bytes)?;
        }
        Ok(())
    }
}

fn texts<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    Column::new(name.into(), values.collect::<Vec<_>>())
}

fn counts(name: &str, values: impl Iterator<Item = usize>) -> Column {
    Column::new(name.into(), values.map(|n| n as u64).collect::<Vec<_>>())
}
