//! What a run leaves of its adapter beside its record: `spectrum.json.zst`, the singular values of every site's update, and of the
//! change that a run makes to the adapter that it starts from. The adapters themselves are large and stay on the machine that trained
//! them; this file is what reports know of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;
use crate::spectrum::SiteSpectrum;

/// Its name in a run's folder.
pub const FILE: &str = "spectrum.json.zst";

/// The schema this version writes, and the newest it reads.
pub const SCHEMA: u32 = 1;

/// As samples have it: small, and quick to write.
const LEVEL: i32 = 9;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSpectrum {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Hash of the run that this one starts from: what the changes are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// By layer, within it in the model's order.
    pub sites: Vec<StoredSite>,
}

/// One site. Norms of update and change are the roots of their values' sums of squares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSite {
    /// From 0.
    pub layer: usize,
    /// `q_proj`, ...
    pub projection: String,
    /// Outputs and inputs of the weight.
    pub shape: [usize; 2],
    /// `||W||_F` of the frozen weight, where it was at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_norm: Option<f32>,
    /// Singular values of the update, not increasing.
    pub values: Vec<f32>,
    /// What this run changed, where it starts from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<StoredChange>,
}

/// The update less that of the run before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredChange {
    /// Singular values, not increasing; up to twice as many as the update has.
    pub values: Vec<f32>,
    /// Mean squared cosine of the angles between the change's leading output directions and the earlier update's output space, of as
    /// many dimensions; absent where either is zero.
    pub output_overlap: Option<f32>,
    /// The same of the inputs.
    pub input_overlap: Option<f32>,
}

impl StoredSite {
    /// With its measures.
    pub fn spectrum(&self) -> SiteSpectrum {
        SiteSpectrum::new(
            self.layer,
            &self.projection,
            self.shape,
            wide(&self.values),
            self.weight_norm.map(f64::from),
        )
    }

    /// The change with its measures.
    pub fn changed(&self) -> Option<SiteSpectrum> {
        let change = self.change.as_ref()?;
        Some(SiteSpectrum::new(
            self.layer,
            &self.projection,
            self.shape,
            wide(&change.values),
            self.weight_norm.map(f64::from),
        ))
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Writes the file into a run's folder, whole or not at all.
///
/// # Errors
/// Names the file that cannot be written.
pub fn write(dir: &Path, spectrum: &StoredSpectrum) -> Result<()> {
    let path = dir.join(FILE);
    let failed = |source| Error::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    let text = serde_json::to_vec(spectrum).map_err(|e| failed(e.into()))?;
    let packed = zstd::encode_all(text.as_slice(), LEVEL).map_err(failed)?;
    file::write(&path, &packed)
}

/// Reads the file of a run's folder; `None` where there is none.
///
/// # Errors
/// Names the file where it is damaged or newer than this version.
pub fn read(dir: &Path) -> Result<Option<StoredSpectrum>> {
    let path = dir.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let packed = std::fs::read(&path).map_err(|source| Error::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let damaged = |message: String| Error::Spectrum {
        path: path.clone(),
        message,
    };
    let text = zstd::decode_all(packed.as_slice()).map_err(|e| damaged(e.to_string()))?;
    // The schema first: a newer file may lack any other field.
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Schema { schema } = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if schema > SCHEMA {
        return Err(damaged(format!(
            "schema {schema} is newer than {SCHEMA}, the newest this version reads"
        )));
    }
    let found = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    Ok(Some(found))
}
