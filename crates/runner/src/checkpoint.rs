//! The state of a training run on disk: after a kill at any moment the run goes on from the last one and ends with
//! the same bits.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::BestBy;
use crate::gradients::Learner;
use crate::optimizer::{Moments, Optimizer};
use crate::store::write_atomic;

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    /// The held-out loss or the metric, whichever the run is judged by.
    #[serde(alias = "loss")]
    pub value: f64,
}

/// What training knows besides tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progressed {
    /// Optimizer steps done.
    pub step: u64,
    pub tokens: u64,
    /// Seconds spent in optimizer steps, over all attempts.
    pub seconds: f64,
    pub last_loss: Option<f64>,
    pub held_out_before: Option<f64>,
    pub held_out: Option<f64>,
    pub best: Option<Best>,
    /// AdamW's step counter for each matrix; 0: no moments yet.
    pub times: Vec<usize>,
}

impl Progressed {
    /// The held-out loss of what is kept: the best or the last; unknown where the best was chosen by a metric.
    pub fn kept_loss(&self, by: BestBy) -> Option<f64> {
        match (&self.best, by) {
            (Some(best), BestBy::HeldOutLoss) => Some(best.value),
            (Some(_), BestBy::Metric) => None,
            (None, _) => self.held_out,
        }
    }
}

/// A safetensors file and behind it its SHA-256: a damaged number would be a wrong result that nobody notices.
const FILE: &str = "state";

const SUM: usize = 32;

/// Everything that decides the rest of the run.
pub struct Checkpoint {
    pub progressed: Progressed,
    pub matrices: Vec<Vec<f32>>,
    pub moments: Vec<Option<Moments>>,
    pub best: Option<Vec<Vec<f32>>>,
}

/// Host copies of what is trained.
pub fn values(learner: &mut Learner) -> Vec<Vec<f32>> {
    learner
        .matrices()
        .into_iter()
        .map(|m| {
            m.clone()
                .without_autodiff()
                .try_to_vec_as::<f32>()
                .expect("trained matrices are f32 tensors")
        })
        .collect()
}

/// Puts values back that [`values`] gave.
pub fn set_values(learner: &mut Learner, values: Vec<Vec<f32>>) {
    for (matrix, values) in learner.matrices().into_iter().zip(values) {
        let (shape, device) = (matrix.dims(), matrix.device().inner());
        *matrix = Tensor::from_data(TensorData::new(values, shape), &device);
    }
}

/// Writes the state into the folder `dir`, whole or not at all.
///
/// # Errors
/// Writing failed.
pub fn save(
    dir: &Path,
    learner: &mut Learner,
    optimizer: &Optimizer,
    progressed: &Progressed,
    best: Option<&Vec<Vec<f32>>>,
) -> Result<()> {
    write(dir, learner, &optimizer.moments(), progressed, best)
}

/// Writes the state before the first step of a training that begins with `moments`.
///
/// # Errors
/// Writing failed.
pub fn begin(dir: &Path, learner: &mut Learner, moments: Vec<Option<Moments>>) -> Result<()> {
    write(dir, learner, &moments, &Progressed::default(), None)
}

fn write(
    dir: &Path,
    learner: &mut Learner,
    moments: &[Option<Moments>],
    progressed: &Progressed,
    best: Option<&Vec<Vec<f32>>>,
) -> Result<()> {
    let mut progressed = progressed.clone();
    progressed.times = moments
        .iter()
        .map(|m| m.as_ref().map_or(0, |m| m.time))
        .collect();
    let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: String, values: &[f32]| {
        tensors.push((name, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    };
    for (i, v) in values(learner).iter().enumerate() {
        add(format!("matrix.{i}"), v);
    }
    for (i, m) in moments.iter().enumerate() {
        if let Some(m) = m {
            add(format!("first.{i}"), &m.first);
            add(format!("second.{i}"), &m.second);
        }
    }
    for (i, v) in best.into_iter().flatten().enumerate() {
        add(format!("best.{i}"), v);
    }
    let views = tensors
        .iter()
        .map(|(name, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let header = serde_json::to_string(&progressed)?;
    let mut bytes = safetensors::serialize(views, Some([("state".to_string(), header)].into()))?;
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    Ok(write_atomic(&dir.join(FILE), &bytes)?)
}

/// The state in `dir`, or `None` where there is none. `sizes` are those of the trained matrices.
///
/// # Errors
/// A file that is damaged or of another run.
pub fn load(dir: &Path, sizes: &[usize]) -> Result<Option<Checkpoint>> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let at = || format!("{}: damaged", path.display());
    let whole =
        |(bytes, sum): &(&[u8], &[u8; SUM])| Sha256::digest(bytes).as_slice() == sum.as_slice();
    let Some((bytes, _)) = bytes.split_last_chunk::<SUM>().filter(whole) else {
        bail!(
            "{}: damaged: its checksum does not fit its contents",
            path.display()
        );
    };
    let (_, metadata) = SafeTensors::read_metadata(bytes).with_context(at)?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get("state"))
        .with_context(at)?;
    let progressed: Progressed = serde_json::from_str(header).with_context(at)?;
    let file = SafeTensors::deserialize(bytes).with_context(at)?;
    let read = |kind: &str, i: usize| -> Result<Vec<f32>> {
        let view = file.tensor(&format!("{kind}.{i}")).with_context(at)?;
        if view.dtype() != Dtype::F32 || view.shape() != [sizes[i]] {
            bail!(
                "{}: `{kind}.{i}` is {:?} {:?}, not {} numbers",
                path.display(),
                view.dtype(),
                view.shape(),
                sizes[i]
            );
        }
        Ok(view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    };
    if progressed.times.len() != sizes.len() {
        bail!(
            "{}: {} matrices, not {}",
            path.display(),
            progressed.times.len(),
            sizes.len()
        );
    }
    let all = |kind: &str| {
        (0..sizes.len())
            .map(|i| read(kind, i))
            .collect::<Result<Vec<_>>>()
    };
    let moments = progressed
        .times
        .iter()
        .enumerate()
        .map(|(i, &time)| {
            (time > 0)
                .then(|| {
                    Ok(Moments {
                        time,
                        first: read("first", i)?,
                        second: read("second", i)?,
                    })
                })
                .transpose()
        })
        .collect::<Result<Vec<_>>>()?;
    let best = file
        .names()
        .iter()
        .any(|n| n.starts_with("best."))
        .then(|| all("best"))
        .transpose()?;
    Ok(Some(Checkpoint {
        matrices: all("matrix")?,
        moments,
        best,
        progressed,
    }))
}
