//! Model weights on disk: safetensors files (one or several shards) and GGUF files, memory-mapped. A tensor is handed out
//! as a matrix that lies in the file, or as values with one conversion between the file and them.
//!
//! Every tensor has its Hugging Face name and a row-major shape, outermost axis first, in both formats.
//! Nothing here knows a tensor library.

mod dequantize;
mod gguf;
mod gguf_llama;
mod safetensors;
mod storage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};
use rayon::prelude::*;
use sharelora_kernels::matrix::{self, Matrix};

use dequantize::Conversion;

pub use dequantize::TensorDtype;
pub use gguf::MetadataValue;
pub use gguf_llama::gguf_llama_config;
pub use safetensors::write_safetensors;
pub use storage::Storage;

/// Values of blocks that one task converts; a multiple of every block length. Smaller tensors are not split.
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
/// The files must not be changed by anyone while a `Checkpoint`, or a matrix out of it, is in use: where another process
/// writes into a mapped file the weights are undefined from then on, and where it truncates the file the process ends.
/// Nothing here can notice that. sharelora lives with it by never rewriting a file: those of its cache are checked by
/// their checksum when they are fetched and are only ever replaced, by renaming, which leaves an open map intact.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, MetadataValue>,
    is_gguf: bool,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    /// Shared with every matrix that lies in it.
    map: Arc<Mmap>,
}

/// Where a tensor lies. `range` has been checked against its file, and its length against shape and type.
#[derive(Debug)]
struct Tensor {
    file: Arc<MappedFile>,
    range: Range<usize>,
    shape: Vec<usize>,
    dtype: TensorDtype,
    /// Heads whose rows the file stores in GGUF's rotary order.
    rotary_heads: Option<usize>,
}

impl Tensor {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn raw(&self) -> &[u8] {
        self.file.map.get(self.range.clone()).unwrap_or_default()
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns: rows that the file may have in another order, or else those of the innermost axis.
    fn layout(&self) -> (usize, usize) {
        let elements = self.elements();
        match (self.rotary_heads, self.shape.as_slice()) {
            (Some(_), &[rows, ..]) => (rows, elements / rows.max(1)),
            (_, &[.., columns]) => (elements / columns.max(1), columns),
            (_, []) => (1, 1),
        }
    }

    /// For each row of the tensor, the row of the file that it is.
    fn order(&self) -> Option<Arc<[u32]>> {
        let (rows, _) = self.layout();
        let head_dim = rows / self.rotary_heads?;
        let stored = |row| gguf_llama::stored_row(row, head_dim) as u32;
        Some((0..rows).map(stored).collect())
    }

    /// The tensor where it lies, in a type that a matrix is stored in.
    fn stored(&self, name: &str, format: matrix::Format) -> Result<Matrix, WeightsError> {
        let (rows, columns) = self.layout();
        let bytes = matrix::Bytes::Mapped {
            map: Arc::clone(&self.file.map),
            start: self.range.start,
            len: self.range.len(),
        };
        Matrix::new(rows, columns, format, bytes, self.order())
            .map_err(|error| WeightsError::tensor(self.path(), name, error.to_string()))
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
                let holds = |t: &Tensor| t.path() == shard;
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
        checkpoint.add(path, copied(&bytes).map_err(io_error(path))?)?;
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

    fn add(&mut self, path: &Path, map: Mmap) -> Result<(), WeightsError> {
        let is_gguf = match Format::of(path, &map)? {
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
            gguf::parse(path, &map)?
        } else {
            safetensors::parse(path, &map)?
        };
        let file = Arc::new(MappedFile {
            path: path.into(),
            map: Arc::new(map),
        });
        self.is_gguf = is_gguf;
        self.files.push(Arc::clone(&file));
        for header in headers {
            let (name, rotary_heads) = if is_gguf {
                gguf_llama::translate(path, &metadata, &header)?
            } else {
                (header.name, None)
            };
            let tensor = Tensor {
                file: Arc::clone(&file),
                range: header.range,
                shape: header.shape,
                dtype: header.dtype,
                rotary_heads,
            };
            if let Some(first) = self.tensors.get(&name) {
                return Err(WeightsError::Duplicate {
                    first: first.path().into(),
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
        self.tensor(name).map(Tensor::raw)
    }

    /// A tensor of two axes as a matrix, or one of a single axis (n) as a matrix (1, n).
    ///
    /// Where the file stores the type that `storage` asks for, the matrix lies in the mapped file and keeps it mapped, its
    /// rows in the file's order; otherwise it is converted, on all threads, into one of its own.
    ///
    /// # Errors
    /// An unknown name; a type without a conversion; another number of axes, or no values; columns that do not fill the blocks of
    /// the format that is asked for.
    pub fn matrix(&self, name: &str, storage: Storage) -> Result<Matrix, WeightsError> {
        let tensor = self.tensor(name)?;
        let layout = match *tensor.shape {
            [columns] if columns > 0 => (1, columns),
            [rows, columns] if rows > 0 && columns > 0 => (rows, columns),
            _ => {
                let message = format!("shape {:?} is not that of a matrix", tensor.shape);
                return Err(WeightsError::tensor(tensor.path(), name, message));
            }
        };
        let stored = match tensor.dtype.conversion() {
            Some(Conversion::Matrix(format)) if tensor.layout() == layout => {
                tensor.stored(name, format)?
            }
            _ => Matrix::from_f32(layout.0, layout.1, self.read_f32(name)?),
        };
        Ok(match storage.format() {
            None => stored,
            Some(asked) if asked == stored.format() => stored,
            // Straight to their places, where `to_format` takes each row twice.
            Some(matrix::Format::F32) => Matrix::from_f32(layout.0, layout.1, stored.values()),
            Some(asked) => stored
                .try_to_format(asked)
                .map_err(|e| WeightsError::tensor(tensor.path(), name, e.to_string()))?,
        })
    }

    /// The tensor's values, row-major, converted to `f32`.
    ///
    /// # Errors
    /// An unknown name; a type without a conversion.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        match tensor.dtype.conversion() {
            None => Err(WeightsError::Dtype {
                path: tensor.path().into(),
                tensor: name.into(),
                dtype: tensor.dtype.to_string(),
            }),
            Some(_) if tensor.elements() == 0 => Ok(Vec::new()),
            Some(Conversion::Matrix(format)) => Ok(tensor.stored(name, format)?.values()),
            Some(Conversion::Blocks(dequantize)) => Ok(from_blocks(tensor, dequantize)),
        }
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
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> WeightsError {
    move |source| WeightsError::Io {
        path: path.into(),
        action: "read",
        source,
    }
}

fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let file = File::open(path).map_err(io_error(path))?;
    // SAFETY: the map is private and read-only. That nobody changes the file meanwhile is the documented
    // condition of `Checkpoint`, as for every reader that maps weights.
    unsafe { Mmap::map(&file) }.map_err(io_error(path))
}

/// Memory in the place of a file, so that all tensors lie in maps.
fn copied(bytes: &[u8]) -> io::Result<Mmap> {
    let mut map = MmapMut::map_anon(bytes.len())?;
    map.copy_from_slice(bytes);
    map.make_read_only()
}

/// The values of a tensor that has some, stored in blocks that no matrix has.
fn from_blocks(tensor: &Tensor, dequantize: fn(&[u8], &mut [f32])) -> Vec<f32> {
    let (raw, (_, columns)) = (tensor.raw(), tensor.layout());
    let mut values = vec![0.0; tensor.elements()];
    let bytes_of =
        |values: usize| values / tensor.dtype.block_values() * tensor.dtype.block_bytes();
    if let Some(order) = tensor.order() {
        values
            .par_chunks_mut(columns)
            .with_min_len(VALUES_A_TASK.div_ceil(columns))
            .zip(order.par_iter())
            .for_each(|(values, &row)| {
                let start = row as usize * bytes_of(columns);
                let raw = raw.get(start..start + bytes_of(columns));
                dequantize(raw.unwrap_or_default(), values);
            });
    } else {
        values
            .par_chunks_mut(VALUES_A_TASK)
            .zip(raw.par_chunks(bytes_of(VALUES_A_TASK)))
            .for_each(|(values, raw)| dequantize(raw, values));
    }
    values
}
