//! The native adapter file: one safetensors file that keeps a shared matrix once and describes itself.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::{AdapterConfig, AdapterError, Bank, Layout, Sharing, Site};

/// A tensor that is trained in full beside the adapter, a classification head's say, and saved with it (PEFT's
/// `modules_to_save`).
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// As Hugging Face transformers names it, `classifier.dense.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// The description in the file's metadata, under the key `sharelora`. Sites are all that the adapter has, so
/// that the layout is rebuilt from the file alone.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    config: AdapterConfig,
    sharing: Sharing,
    sites: Vec<Site>,
    /// Names of the tensors beside the adapter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    modules: Vec<String>,
}

/// Writes `bank` and what is trained beside it to `path`, whole or not at all.
///
/// # Errors
/// [`AdapterError::Io`] with the path.
pub fn save_native(bank: &Bank, modules: &[Module], path: &Path) -> Result<(), AdapterError> {
    let layout = bank.layout();
    let header = Header {
        version: 1,
        config: layout.config.clone(),
        sharing: layout.sharing.clone(),
        sites: layout.sites.clone(),
        modules: modules.iter().map(|m| m.name.clone()).collect(),
    };
    let matrices = layout.matrices().zip(bank.values()).map(|(m, v)| Module {
        name: m.name.clone(),
        shape: m.shape.to_vec(),
        values: v,
    });
    let tensors: Vec<Module> = matrices.chain(modules.iter().cloned()).collect();
    let header =
        serde_json::to_string(&header).map_err(|e| AdapterError::format(path, e.to_string()))?;
    write_tensors(
        path,
        &tensors,
        HashMap::from([("sharelora".into(), header)]),
    )
}

/// Reads a file that [`save_native`] wrote: the bank, and what was trained beside it.
///
/// # Errors
/// [`AdapterError::Format`] names the file and what is wrong with it.
pub fn load_native(path: &Path, device: &Device) -> Result<(Bank, Vec<Module>), AdapterError> {
    let bytes = std::fs::read(path).map_err(|e| AdapterError::io(path, e))?;
    let bad = |reason: String| AdapterError::format(path, reason);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get("sharelora"))
        .ok_or_else(|| {
            bad("no `sharelora` entry in its metadata: not an adapter of this program".into())
        })?;
    let header: Header = serde_json::from_str(header).map_err(|e| bad(e.to_string()))?;
    if header.version != 1 {
        return Err(bad(format!(
            "version {} of the format; this program reads 1",
            header.version
        )));
    }
    let layout = Layout::new(&header.sites, &header.sharing, &header.config)
        .map_err(|e| bad(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
    let values = layout
        .matrices()
        .map(|m| {
            let found = read_f32(&file, &m.name, path)?;
            if found.shape != m.shape {
                return Err(bad(format!(
                    "`{}` is {:?}, its own description needs {:?}",
                    m.name, found.shape, m.shape
                )));
            }
            Ok(found.values)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let modules = header.modules.iter();
    let modules = modules
        .map(|name| read_f32(&file, name, path))
        .collect::<Result<_, _>>()?;
    let bank =
        Bank::from_values(Arc::new(layout), values, device).map_err(|e| bad(e.to_string()))?;
    Ok((bank, modules))
}

/// Writes f32 tensors atomically.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[Module],
    metadata: HashMap<String, String>,
) -> Result<(), AdapterError> {
    let views = tensors
        .iter()
        .map(|m| {
            let bytes: Vec<u8> = m.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (&m.name, &m.shape, bytes)
        })
        .collect::<Vec<_>>();
    let views = views
        .iter()
        .map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.to_vec(), bytes)
                .map(|view| (name.as_str(), view))
                .map_err(|e| AdapterError::format(path, e.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| AdapterError::format(path, e.to_string()))?;
    write_atomic(path, &bytes)
}

/// Writes a file whole or not at all: a temporary file in the same folder, then a rename.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), AdapterError> {
    let io = |e: std::io::Error| AdapterError::io(path, e);
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private; results are read by colleagues.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder).map_err(io)?;
    std::io::Write::write_all(&mut file, bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// A tensor of any float type, widened to f32, with its shape.
pub(crate) fn read_f32(
    file: &SafeTensors<'_>,
    name: &str,
    path: &Path,
) -> Result<Module, AdapterError> {
    let bad = |reason: String| AdapterError::format(path, reason);
    let view = file
        .tensor(name)
        .map_err(|_| bad(format!("tensor `{name}` is missing")))?;
    let halves = |widen: fn(u16) -> f32| -> Vec<f32> {
        view.data()
            .chunks_exact(2)
            .map(|b| widen(u16::from_le_bytes([b[0], b[1]])))
            .collect()
    };
    let values = match view.dtype() {
        Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => halves(|bits| half::f16::from_bits(bits).to_f32()),
        Dtype::BF16 => halves(|bits| half::bf16::from_bits(bits).to_f32()),
        other => {
            return Err(bad(format!(
                "tensor `{name}` has type {other:?}: F32, F16 and BF16 are read"
            )));
        }
    };
    Ok(Module {
        name: name.into(),
        shape: view.shape().to_vec(),
        values,
    })
}
