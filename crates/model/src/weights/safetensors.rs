//! Safetensors files and their index of shards, after the format's description
//! (<https://huggingface.co/docs/safetensors>): an 8-byte header length, a JSON header, the data.
//!
//! The `safetensors` crate judges a header; the checks before it are there to name the tensor at fault.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{MetadataValue, TensorDtype, TensorHeader, WeightsError};

/// The reference implementation's bound on the header, bytes.
pub(super) const MAX_HEADER: u64 = 100_000_000;

const LENGTH_BYTES: usize = 8;

/// The header's one entry that is no tensor.
const METADATA: &str = "__metadata__";

/// Values converted at a time on writing.
const VALUES_AT_ONCE: usize = 1 << 14;

type Parsed = (BTreeMap<String, MetadataValue>, Vec<TensorHeader>);

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Entry>,
}

/// A tensor's entry before anything is believed.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, WeightsError> {
    let in_file = |message: String| WeightsError::file(path, message);
    let length = bytes
        .first_chunk::<LENGTH_BYTES>()
        .map(|length| u64::from_le_bytes(*length))
        .ok_or_else(|| in_file("is too short for a safetensors file".into()))?;
    let header = usize::try_from(length)
        .ok()
        .filter(|_| length <= MAX_HEADER)
        .and_then(|length| bytes.get(LENGTH_BYTES..)?.get(..length))
        .ok_or_else(|| {
            let whole = bytes.len();
            in_file(format!(
                "a header of {length} bytes does not fit its {whole} bytes; is it complete?"
            ))
        })?;
    let data_start = LENGTH_BYTES + header.len();
    let parsed: Header = serde_json::from_slice(header)
        .map_err(|error| in_file(format!("the header is no safetensors header: {error}")))?;
    for (name, entry) in &parsed.tensors {
        entry
            .check(bytes.len() - data_start)
            .map_err(|message| WeightsError::tensor(path, name, message))?;
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| in_file(format!("invalid safetensors header: {error}")))?;

    let headers = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| TensorHeader {
            name,
            dtype: tensor_dtype(info.dtype),
            shape: info.shape.clone(),
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        });
    let strings = metadata.metadata().iter().flatten();
    let strings =
        strings.map(|(key, value)| (key.clone(), MetadataValue::String(value.as_str().into())));
    Ok((strings.collect(), headers.collect()))
}

impl Entry {
    fn check(&self, data_length: usize) -> Result<(), String> {
        let Self {
            dtype,
            shape,
            data_offsets: (start, end),
        } = self;
        let bits = serde_json::from_value::<Dtype>(Value::from(dtype.as_str()))
            .map_err(|_| {
                format!(
                    "type {dtype} is unknown; readable types: {}",
                    TensorDtype::READABLE
                )
            })?
            .bitsize();
        let bits = shape
            .iter()
            .try_fold(1_usize, |product, &axis| product.checked_mul(axis))
            .and_then(|elements| elements.checked_mul(bits))
            .ok_or_else(|| format!("shape {shape:?} is larger than any file"))?;
        if start > end || *end > data_length {
            return Err(format!(
                "bytes {start} to {end} are not within the {data_length} bytes of data; is the file complete?"
            ));
        }
        if bits != (end - start).saturating_mul(8) {
            let bytes = end - start;
            return Err(format!("{bytes} bytes are not shape {shape:?} of {dtype}"));
        }
        Ok(())
    }
}

fn tensor_dtype(dtype: Dtype) -> TensorDtype {
    match dtype {
        Dtype::F32 => TensorDtype::F32,
        Dtype::F16 => TensorDtype::F16,
        Dtype::BF16 => TensorDtype::BF16,
        Dtype::BOOL => TensorDtype::Other("BOOL"),
        Dtype::U8 => TensorDtype::Other("U8"),
        Dtype::I8 => TensorDtype::Other("I8"),
        Dtype::I16 => TensorDtype::Other("I16"),
        Dtype::U16 => TensorDtype::Other("U16"),
        Dtype::I32 => TensorDtype::Other("I32"),
        Dtype::U32 => TensorDtype::Other("U32"),
        Dtype::I64 => TensorDtype::Other("I64"),
        Dtype::U64 => TensorDtype::Other("U64"),
        Dtype::F64 => TensorDtype::Other("F64"),
        Dtype::F8_E4M3 => TensorDtype::Other("F8_E4M3"),
        Dtype::F8_E5M2 => TensorDtype::Other("F8_E5M2"),
        Dtype::F8_E8M0 => TensorDtype::Other("F8_E8M0"),
        Dtype::F6_E2M3 => TensorDtype::Other("F6_E2M3"),
        Dtype::F6_E3M2 => TensorDtype::Other("F6_E3M2"),
        Dtype::F4 => TensorDtype::Other("F4"),
        _ => TensorDtype::Other("unknown"),
    }
}

/// `model.safetensors.index.json`: which shard has which tensor.
pub(super) struct Index {
    tensors: BTreeMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, WeightsError> {
        let file: IndexFile = serde_json::from_slice(bytes).map_err(|error| {
            WeightsError::file(path, format!("is no safetensors index: {error}"))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut tensors = BTreeMap::new();
        for (tensor, shard) in file.weight_map {
            if shard.is_empty() || shard == ".." || shard == "." || shard.contains(['/', '\\']) {
                let message = format!("`{shard}` is not the name of a file beside this index");
                return Err(WeightsError::tensor(path, &tensor, message));
            }
            let shard = folder.join(shard);
            if !shard.is_file() {
                let message = format!("its shard {} is missing", shard.display());
                return Err(WeightsError::tensor(path, &tensor, message));
            }
            tensors.insert(tensor, shard);
        }
        Ok(Self { tensors })
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.tensors
            .iter()
            .map(|(tensor, shard)| (tensor.as_str(), shard))
    }

    /// The shards, each once, in the order of their names.
    pub(super) fn shards(&self) -> impl Iterator<Item = &PathBuf> {
        self.tensors
            .values()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
    }
}

/// Writes named tensors, each a shape and its row-major values, in the given order, as `dtype` (F32, or
/// rounded to nearest even as F16 or BF16). The file appears whole or not at all, and equal arguments give
/// equal bytes.
///
/// # Errors
/// Another `dtype`; a name that is there twice or is `__metadata__`; values that do not fill their shape; the
/// operating system's refusals.
pub fn write_safetensors<N, S, V>(
    path: &Path,
    tensors: &[(N, S, V)],
    dtype: TensorDtype,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError>
where
    N: AsRef<str>,
    S: AsRef<[usize]>,
    V: AsRef<[f32]>,
{
    if !matches!(
        dtype,
        TensorDtype::F32 | TensorDtype::F16 | TensorDtype::BF16
    ) {
        let message = format!("weights are written as F32, F16 or BF16, not as {dtype}");
        return Err(WeightsError::file(path, message));
    }
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.into(), json!(metadata));
    }
    let mut offset = 0;
    for (name, shape, values) in tensors {
        let (name, shape, values) = (name.as_ref(), shape.as_ref(), values.as_ref());
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        if elements != Some(values.len()) {
            let message = format!("{} values do not fill shape {shape:?}", values.len());
            return Err(WeightsError::tensor(path, name, message));
        }
        let end = offset + values.len() * dtype.block_bytes();
        let entry =
            json!({ "dtype": dtype.to_string(), "shape": shape, "data_offsets": [offset, end] });
        if name == METADATA || header.insert(name.into(), entry).is_some() {
            return Err(WeightsError::tensor(path, name, "this name is taken"));
        }
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // The data starts at a multiple of 8 bytes, as the reference implementation has it.
    let padded = header.len().next_multiple_of(LENGTH_BYTES);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));

    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (_, _, values) in tensors {
            write_values(file, values.as_ref(), dtype)?;
        }
        Ok(())
    })
    .map_err(|source| WeightsError::Io {
        path: path.into(),
        action: "written",
        source,
    })
}

fn write_values(file: &mut impl Write, values: &[f32], dtype: TensorDtype) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(values.len().min(VALUES_AT_ONCE) * dtype.block_bytes());
    for values in values.chunks(VALUES_AT_ONCE) {
        bytes.clear();
        match dtype {
            TensorDtype::F16 => {
                bytes.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()))
            }
            TensorDtype::BF16 => {
                bytes.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()))
            }
            _ => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        }
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Fills a temporary file in the same folder, and puts it in place once it is on the disk.
fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut std::fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weights-").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Like any new file (the umask applies), where tempfile's default is private to the user.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    let mut writer = BufWriter::new(file.as_file_mut());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
