//! Model weights on disk, seen as plain Rust slices: safetensors files (one or several shards) and
//! GGUF files, memory-mapped, with one copy between the file and the `f32` values of a tensor.
//!
//! Every tensor has its Hugging Face name and a row-major shape, outermost axis first, in both formats.
//! Nothing here knows a tensor library.

mod dequantize;
mod gguf;
mod gguf_llama;
mod safetensors;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;

pub use dequantize::TensorDtype;
pub use gguf::MetadataValue;
pub use gguf_llama::gguf_llama_config;
pub use safetensors::write_safetensors;

/// Values that one task converts; a multiple of every block length. Smaller tensors are not split.
const VALUES_A_TASK: usize = 1 << 15;

/// Why weights could not be read or written. Every message names the file or the tensor at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("{}: cannot be {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file as a whole is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and, where there is one, the next step.
        message: String,
    },
    /// One tensor of a file is not what it should be.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name as written in that file.
        tensor: String,
        /// What is wrong.
        message: String,
    },
    /// One metadata entry of a GGUF file is missing or not what it should be.
    #[error("{}: metadata key `{key}`: {message}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// The type of a tensor has no conversion to `f32`.
    #[error("{}: tensor `{tensor}` has type {dtype}; readable types: {}", path.display(), TensorDtype::READABLE)]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The type as the file names it.
        dtype: String,
    },
    /// A name that no file of the checkpoint has.
    #[error("{}: no tensor `{tensor}` among {count}; nearest name: `{nearest}`", path.display())]
    Missing {
        /// The first file of the checkpoint.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// How many tensors there are.
        count: usize,
        /// The name that shares most of its beginning and end.
        nearest: String,
    },
    /// Two files, or one file twice, hold a tensor of one name.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    Duplicate {
        /// The tensor's name.
        tensor: String,
        /// The file that had it first.
        first: PathBuf,
        /// The file that has it again.
        second: PathBuf,
    },
}

impl WeightsError {
    fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            message: message.into(),
        }
    }

    fn tensor(path: &Path, tensor: &str, message: impl Into<String>) -> Self {
        Self::Tensor {
            path: path.into(),
            tensor: tensor.into(),
            message: message.into(),
        }
    }

    fn metadata(path: &Path, key: &str, message: impl Into<String>) -> Self {
        Self::Metadata {
            path: path.into(),
            key: key.into(),
            message: message.into(),
        }
    }
}

/// The weights of one model: named tensors in one or several memory-mapped files.
///
/// The files must not be truncated by anyone while a `Checkpoint` is open (a mapped page that is gone
/// ends the process); sharelora itself replaces files by renaming, which leaves an open map intact.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, MetadataValue>,
    is_gguf: bool,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Where a tensor lies. `range` has been checked against its file, and its length against shape and type.
#[derive(Debug)]
struct Tensor {
    file: usize,
    range: Range<usize>,
    shape: Vec<usize>,
    dtype: TensorDtype,
    /// Heads whose rows the file stores in GGUF's rotary order.
    rotary_heads: Option<usize>,
}

impl Tensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor as a file's header describes it, checked against that file.
struct TensorHeader {
    name: String,
    dtype: TensorDtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

enum Format {
    Gguf,
    Safetensors,
    Index,
}

impl Format {
    /// Tells the format by content: GGUF has a magic, a safetensors file starts with a 64-bit header length,
    /// and eight characters of JSON read as such a length are far above any header's.
    fn of(path: &Path, bytes: &[u8]) -> Result<Self, WeightsError> {
        if bytes.starts_with(gguf::MAGIC) {
            return Ok(Self::Gguf);
        }
        if let Some(length) = bytes.first_chunk::<8>()
            && u64::from_le_bytes(*length) <= safetensors::MAX_HEADER
        {
            return Ok(Self::Safetensors);
        }
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Ok(Self::Index);
        }
        Err(WeightsError::file(
            path,
            "is neither safetensors, nor a safetensors index, nor GGUF \
             (PyTorch .bin files have to be converted to safetensors first)",
        ))
    }
}

impl Checkpoint {
    /// Opens `.safetensors` files (shards of one model), a `model.safetensors.index.json` whose shards lie
    /// beside it, or one `.gguf` file. The format is told by content. Reads the headers only.
    ///
    /// A shard that is named twice, by the caller or by an index, is opened once.
    ///
    /// # Errors
    /// Unreadable, truncated or inconsistent files; a tensor in two shards; a GGUF file beside another file.
    pub fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut checkpoint = Self::empty();
        let mut opened: Vec<PathBuf> = Vec::new();
        for path in paths {
            if opened.contains(path) {
                continue;
            }
            opened.push(path.clone());
            let bytes = map(path)?;
            if !matches!(Format::of(path, &bytes)?, Format::Index) {
                checkpoint.add(path, bytes)?;
                continue;
            }
            let index = safetensors::Index::parse(path, &bytes)?;
            for shard in index.shards() {
                if !opened.contains(shard) {
                    opened.push(shard.clone());
                    checkpoint.add(shard, map(shard)?)?;
                }
            }
            for (tensor, shard) in index.tensors() {
                let holds = |t: &Tensor| checkpoint.path(t) == shard;
                if !checkpoint.tensors.get(tensor).is_some_and(holds) {
                    let message =
                        format!("is not in {}, where this index places it", shard.display());
                    return Err(WeightsError::tensor(path, tensor, message));
                }
            }
        }
        if checkpoint.files.is_empty() {
            let listed = paths.first().cloned().unwrap_or_default();
            return Err(WeightsError::file(&listed, "names no weight file"));
        }
        Ok(checkpoint)
    }

    /// Reads one safetensors or GGUF file that is already in memory; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; an index cannot be read this way.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        let mut checkpoint = Self::empty();
        checkpoint.add(path, Bytes::Owned(bytes))?;
        Ok(checkpoint)
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            is_gguf: false,
        }
    }

    fn add(&mut self, path: &Path, bytes: Bytes) -> Result<(), WeightsError> {
        let is_gguf = match Format::of(path, &bytes)? {
            Format::Gguf => true,
            Format::Safetensors => false,
            Format::Index => {
                return Err(WeightsError::file(
                    path,
                    "is a safetensors index, not a weight file",
                ));
            }
        };
        if !self.files.is_empty() && (is_gguf || self.is_gguf) {
            return Err(WeightsError::file(
                path,
                "a GGUF file is a whole model: give that file alone",
            ));
        }
        let (metadata, headers) = if is_gguf {
            gguf::parse(path, &bytes)?
        } else {
            safetensors::parse(path, &bytes)?
        };
        let file = self.files.len();
        self.is_gguf = is_gguf;
        self.files.push(MappedFile {
            path: path.into(),
            bytes,
        });
        for header in headers {
            let (name, rotary_heads) = if is_gguf {
                gguf_llama::translate(path, &metadata, &header)?
            } else {
                (header.name, None)
            };
            let tensor = Tensor {
                file,
                range: header.range,
                shape: header.shape,
                dtype: header.dtype,
                rotary_heads,
            };
            if let Some(first) = self.tensors.get(&name) {
                return Err(WeightsError::Duplicate {
                    first: self.path(first).into(),
                    second: path.into(),
                    tensor: name,
                });
            }
            self.tensors.insert(name, tensor);
        }
        for (key, value) in metadata {
            self.metadata.entry(key).or_insert(value);
        }
        Ok(())
    }

    /// The names of all tensors, sorted. GGUF names of LLaMA models are shown as Hugging Face names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape, row-major with the outermost axis first: `[out, in]` for a linear weight.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|tensor| tensor.shape.clone())
    }

    /// The type in which the file stores the tensor.
    pub fn dtype(&self, name: &str) -> Option<TensorDtype> {
        self.tensors.get(name).map(|tensor| tensor.dtype)
    }

    /// The file's metadata: GGUF's typed entries, or the strings of safetensors' `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.metadata
    }

    /// Whether this is a GGUF file, whose `config.json` is [`gguf_llama_config`].
    pub fn is_gguf(&self) -> bool {
        self.is_gguf
    }

    /// Number of values in all tensors that can be read as `f32` (integer buffers are no parameters).
    pub fn parameters(&self) -> usize {
        let readable = self.tensors.values().filter(|t| t.dtype.is_readable());
        readable.map(Tensor::elements).sum()
    }

    /// Bytes that all tensors take in their files.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.range.len()).sum()
    }

    /// The tensor's bytes as stored: little-endian values or ggml blocks, in the file's own row order.
    ///
    /// # Errors
    /// An unknown name.
    pub fn read_raw(&self, name: &str) -> Result<&[u8], WeightsError> {
        self.tensor(name).map(|tensor| self.raw(tensor))
    }

    /// The tensor's values, row-major, converted to `f32`.
    ///
    /// # Errors
    /// An unknown name; a type without a conversion.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let mut values = Vec::new();
        self.read_f32_into(name, &mut values)?;
        Ok(values)
    }

    /// Like [`Checkpoint::read_f32`], into a buffer that is resized and overwritten.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`]; `values` is then left as it was.
    pub fn read_f32_into(&self, name: &str, values: &mut Vec<f32>) -> Result<(), WeightsError> {
        let tensor = self.tensor(name)?;
        if !tensor.dtype.is_readable() {
            return Err(WeightsError::Dtype {
                path: self.path(tensor).into(),
                tensor: name.into(),
                dtype: tensor.dtype.to_string(),
            });
        }
        let elements = tensor.elements();
        if values.capacity() < elements {
            // Fresh zero pages, instead of growing and then filling by hand.
            *values = vec![0.0; elements];
        } else {
            values.resize(elements, 0.0);
        }
        if elements > 0 {
            convert(tensor, self.raw(tensor), values);
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            path: self
                .files
                .first()
                .map(|file| file.path.clone())
                .unwrap_or_default(),
            tensor: name.into(),
            count: self.tensors.len(),
            nearest: self.nearest(name),
        })
    }

    fn nearest(&self, name: &str) -> String {
        let alike = |other: &str| {
            let prefix = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
            let suffix = name
                .bytes()
                .rev()
                .zip(other.bytes().rev())
                .take_while(|(a, b)| a == b);
            prefix.count() + suffix.count()
        };
        self.names()
            .max_by_key(|other| alike(other))
            .unwrap_or("none")
            .into()
    }

    fn path(&self, tensor: &Tensor) -> &Path {
        self.files
            .get(tensor.file)
            .map_or(Path::new(""), |file| &file.path)
    }

    fn raw(&self, tensor: &Tensor) -> &[u8] {
        let file = self.files.get(tensor.file);
        file.and_then(|file| file.bytes.get(tensor.range.clone()))
            .unwrap_or_default()
    }
}

fn map(path: &Path) -> Result<Bytes, WeightsError> {
    let io_error = |source| WeightsError::Io {
        path: path.into(),
        action: "read",
        source,
    };
    let file = File::open(path).map_err(io_error)?;
    // SAFETY: the map is private and read-only. That nobody truncates the file meanwhile is the documented
    // condition of `Checkpoint`, as for every reader that maps weights.
    let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
    Ok(Bytes::Mapped(map))
}

/// Converts a non-empty tensor; `values` has as many places as the tensor has elements.
fn convert(tensor: &Tensor, raw: &[u8], values: &mut [f32]) {
    let dtype = tensor.dtype;
    if let Some(heads) = tensor.rotary_heads {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let row_bytes = raw.len() / rows;
        let task_rows = (VALUES_A_TASK * rows / values.len()).max(1);
        values
            .par_chunks_mut(values.len() / rows)
            .with_min_len(task_rows)
            .enumerate()
            .for_each(|(row, values)| {
                let start = gguf_llama::stored_row(row, rows / heads) * row_bytes;
                let raw = raw.get(start..start + row_bytes).unwrap_or_default();
                dtype.dequantize(raw, values);
            });
    } else if values.len() <= VALUES_A_TASK {
        dtype.dequantize(raw, values);
    } else {
        let task_bytes = VALUES_A_TASK / dtype.block_values() * dtype.block_bytes();
        values
            .par_chunks_mut(VALUES_A_TASK)
            .zip(raw.par_chunks(task_bytes))
            .for_each(|(values, raw)| dtype.dequantize(raw, values));
    }
}
