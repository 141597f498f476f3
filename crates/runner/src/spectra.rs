//! From a stored adapter to its spectrum: the singular values of every site's update, and of the change from the adapter that its run
//! started from. Every run that trains an adapter leaves them in its folder (`spectrum.json.zst`), since the adapters themselves are
//! too large to be kept with the results.
//!
//! Both adapters are read from their files, so that a run's own end and a later call give the same bytes. A method whose update is no
//! product of two matrices alone leaves no file: full fine-tuning, and DoRA, whose rows are scaled beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use sharelora_adapters::{Bank, Site, load_native};
use sharelora_hub::{Hub, Progress as Fetching};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Model, ModelConfig, Storage, WeightSpec};
use sharelora_report::stored_spectrum::{self, SCHEMA, StoredChange, StoredSite, StoredSpectrum};
use sharelora_spectrum::{Factors, SpectrumError, Update};

use crate::ResolvedRun;
use crate::base;
use crate::error::{ABSENT, AbsentError, exit_code};
use crate::experiment::ModelSpec;
use crate::plan::Origin;
use crate::store::ADAPTER_FILE;

/// The adapter's file of a run's folder.
pub fn adapter_file(dir: &Path) -> PathBuf {
    dir.join("adapter").join(ADAPTER_FILE)
}

/// Whether the adapters of a run's method are low-rank updates and nothing else.
pub fn has_spectrum(run: &ResolvedRun) -> bool {
    let sharing = run.method.sharing();
    run.adapter.is_some() && sharing.is_some_and(|sharing| !sharing.magnitude)
}

/// Writes the spectrum of the adapter in a run's folder, of a method that has one. The frozen weights' norms are left out where the
/// model is not on this machine.
///
/// # Errors
/// An adapter that is not there or cannot be read, its own or that of the run before, or a file that cannot be written.
pub fn leave(run: &ResolvedRun, dir: &Path, hub: &Hub) -> Result<()> {
    let (bank, _) = load_native(&adapter_file(dir), &Device::flex())?;
    let before = run.init_from.as_ref().map(|origin| origin_of(origin, dir));
    let before = before.transpose()?;
    let layout = bank.layout();
    if let Some((path, before)) = &before
        && before.layout().sites != layout.sites
    {
        bail!("{}: another adapter than this run's", path.display());
    }
    let model = open(&run.model, hub)?;
    let sites = 0..layout.sites.len();
    let sites: Result<Vec<StoredSite>> = sites
        .into_par_iter()
        .map(|index| {
            let before = before.as_ref().map(|(_, bank)| bank);
            site(&bank, before, index, model.as_ref())
        })
        .collect();
    let spectrum = StoredSpectrum {
        schema: SCHEMA,
        from: run.init_from.as_ref().map(|origin| origin.hash.clone()),
        sites: sites?,
    };
    Ok(stored_spectrum::write(dir, &spectrum)?)
}

/// The adapter that a run started from.
fn origin_of(origin: &Origin, dir: &Path) -> Result<(PathBuf, Bank)> {
    let path = adapter_file(&dir.with_file_name(&origin.folder));
    if !path.is_file() {
        let text = format!(
            "{}: not there: `{}` starts from it",
            path.display(),
            dir.display()
        );
        return Err(AbsentError(text).into());
    }
    let (bank, _) = load_native(&path, &Device::flex())?;
    Ok((path, bank))
}

fn site(
    bank: &Bank,
    before: Option<&Bank>,
    index: usize,
    model: Option<&(ModelConfig, Checkpoint)>,
) -> Result<StoredSite> {
    let site = &bank.layout().sites[index];
    let place = || format!("layer {} {}", site.layer, site.projection);
    let own = Matrices::of(bank, index);
    let update = own
        .factors()
        .and_then(|f| Update::new(&f))
        .with_context(place)?;
    let change = match before {
        None => None,
        Some(before) => {
            let before = Matrices::of(before, index);
            Some(changed(&before, &own).with_context(place)?)
        }
    };
    let norm = match model {
        Some((config, checkpoint)) => weight_norm(config, checkpoint, site)?,
        None => None,
    };
    Ok(StoredSite {
        layer: site.layer,
        projection: site.projection.clone(),
        shape: shape(site),
        weight_norm: norm.map(|norm| norm as f32),
        values: narrow(&update.values).with_context(place)?,
        change,
    })
}

fn changed(before: &Matrices, after: &Matrices) -> Result<StoredChange> {
    let (before, after) = (before.factors()?, after.factors()?);
    let change = Update::change(&before, &after)?;
    let overlap = change.overlap(&Update::new(&before)?)?;
    let [output_overlap, input_overlap] = overlap.map(|part| part.map(|part| part as f32));
    Ok(StoredChange {
        values: narrow(&change.values)?,
        output_overlap,
        input_overlap,
    })
}

/// In f32, as the factors are.
fn narrow(values: &[f64]) -> Result<Vec<f32>> {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    if values.iter().any(|v| v.is_infinite()) {
        bail!("a singular value is larger than f32 can hold");
    }
    Ok(values)
}

/// `A` and `B` of one site, on the host.
pub struct Matrices {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    shape: [usize; 2],
    scale: f64,
}

impl Matrices {
    /// Those of a site of a bank, by its place in the layout.
    pub fn of(bank: &Bank, index: usize) -> Self {
        let layout = bank.layout();
        let (a, b) = bank.effective(index);
        let [rank, _] = a.dims();
        Self {
            a: host(a),
            b: host(b),
            rank,
            shape: shape(&layout.sites[index]),
            scale: layout.scale(),
        }
    }

    /// # Errors
    /// As [`Factors::new`].
    pub fn factors(&self) -> Result<Factors<'_>, SpectrumError> {
        Factors::new(&self.a, &self.b, self.rank, self.shape, self.scale)
    }
}

fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .without_autodiff()
        .try_into_vec_as::<f32>()
        .expect("a float tensor that exists can be read as f32")
}

/// Outputs and inputs of a site's weight.
pub fn shape(site: &Site) -> [usize; 2] {
    [site.out_features, site.in_features]
}

/// A model's files, for the norms of its weights; `None` where they are not on this machine: nothing is downloaded for a norm.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn open(spec: &ModelSpec, hub: &Hub) -> Result<Option<(ModelConfig, Checkpoint)>> {
    let hub = Hub {
        offline: true,
        ..hub.clone()
    };
    let found = || -> Result<_> {
        let config = base::config(spec, &hub, Fetching::Quiet)?;
        let files = base::weight_files(spec, &hub, Fetching::Quiet)?;
        Ok((config, Checkpoint::open(&files)?))
    };
    match found() {
        Ok(found) => Ok(Some(found)),
        Err(error) if exit_code(&error) == ABSENT => Ok(None),
        Err(error) => Err(error),
    }
}

/// `||W||_F` of a site; none where the model has no such weight. A fused module is the sum of its parts.
///
/// # Errors
/// The weight cannot be read.
pub fn weight_norm(
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    site: &Site,
) -> Result<Option<f64>> {
    let name = format!("{}.weight", site.path);
    let is_part = |spec: &WeightSpec| match (site.part, spec.conv1d) {
        (Some(part), Some(conv)) => part.start == conv.start,
        _ => true,
    };
    let mut squares = None;
    let specs = config.weights().into_iter();
    for spec in specs.filter(|spec| spec.name == name && is_part(spec)) {
        let weight = Model::load_weight(config, checkpoint, &spec, Storage::Stored)?;
        let mut scratch = Vec::new();
        for row in 0..weight.rows() {
            let values = weight.tile(row..row + 1, &mut scratch).iter();
            let sum: f64 = values.map(|v| f64::from(*v).powi(2)).sum();
            squares = Some(squares.unwrap_or(0.0) + sum);
        }
    }
    Ok(squares.map(f64::sqrt))
}
