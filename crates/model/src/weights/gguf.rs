//! Headers of GGUF files, versions 2 and 3, little-endian, after the format's description
//! (`ggml/docs/gguf.md`): magic, version, counts, typed metadata, tensor infos, and from the next multiple
//! of the alignment on the data.
//!
//! Every length and offset is checked against the file before anything is sized by it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{TensorDtype, TensorHeader, WeightsError};

pub(super) const MAGIC: &[u8] = b"GGUF";

/// Bound on the metadata values of one file, arrays counted by element. The largest vocabularies have some
/// hundred thousand entries; the bound keeps a file of single bytes from growing 24-fold in memory.
const MAX_VALUES: usize = 1 << 24;

/// Bound on arrays within arrays, which no known file has at all.
const MAX_DEPTH: usize = 4;

/// ggml's own bound on the axes of a tensor.
const MAX_AXES: u32 = 4;

/// A typed value of a file's metadata.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // one variant for each type of the format
pub enum MetadataValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(Box<str>),
    Array(Box<[MetadataValue]>),
}

impl MetadataValue {
    /// The value of any integer type, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value of a floating-point type. An `f32` becomes the `f64` that prints alike: 1e-5 stays 1e-5.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => value.to_string().parse().ok(),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

pub(super) type Metadata = BTreeMap<String, MetadataValue>;

pub(super) fn parse(
    path: &Path,
    bytes: &[u8],
) -> Result<(Metadata, Vec<TensorHeader>), WeightsError> {
    let in_file = |message: String| WeightsError::file(path, message);
    let mut reader = Reader {
        bytes,
        at: MAGIC.len(),
        values_left: MAX_VALUES,
    };
    let version = reader.u32().map_err(in_file)?;
    if !(2..=3).contains(&version) {
        let kind = if (2..=3).contains(&version.swap_bytes()) {
            "is a big-endian GGUF file; only little-endian ones are read".to_owned()
        } else {
            format!("is GGUF version {version}; versions 2 and 3 are read")
        };
        return Err(WeightsError::file(path, kind));
    }
    let tensor_count = reader.u64().map_err(in_file)?;
    let entry_count = reader.u64().map_err(in_file)?;

    let mut metadata = Metadata::new();
    for index in 0..entry_count {
        let key = reader.string().map_err(|message| {
            in_file(format!(
                "key of metadata entry {index} of {entry_count}: {message}"
            ))
        })?;
        let value = reader
            .typed_value()
            .map_err(|message| WeightsError::metadata(path, key, message))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(WeightsError::metadata(path, key, "is there twice"));
        }
    }
    if metadata.get("split.count").and_then(MetadataValue::as_u64) > Some(1) {
        let message = "the model is split over several GGUF files; merge them first (llama-gguf-split --merge)";
        return Err(WeightsError::metadata(path, "split.count", message));
    }
    let alignment = alignment(path, &metadata)?;

    // No capacity is reserved: a lying count ends at the end of the file.
    let mut infos = Vec::new();
    for index in 0..tensor_count {
        let name = reader.string().map_err(|message| {
            in_file(format!(
                "name of tensor {index} of {tensor_count}: {message}"
            ))
        })?;
        infos.push(TensorInfo::read(path, name, &mut reader)?);
    }
    let data_start = reader
        .at
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| in_file("the tensor data would start beyond any file".into()))?;
    let headers = infos
        .into_iter()
        .map(|info| info.locate(path, data_start, alignment, bytes.len()))
        .collect::<Result<Vec<_>, _>>()?;
    check_overlaps(path, &headers)?;
    Ok((metadata, headers))
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<usize, WeightsError> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else {
        return Ok(32);
    };
    let alignment = value.as_u64().and_then(|value| usize::try_from(value).ok());
    alignment
        .filter(|value| value.is_power_of_two())
        .ok_or_else(|| {
            WeightsError::metadata(path, KEY, format!("{value:?} is not a power of two"))
        })
}

struct TensorInfo<'a> {
    name: &'a str,
    shape: Vec<usize>,
    dtype: TensorDtype,
    offset: u64,
}

impl<'a> TensorInfo<'a> {
    fn read(path: &Path, name: &'a str, reader: &mut Reader) -> Result<Self, WeightsError> {
        let in_tensor = |message: String| WeightsError::tensor(path, name, message);
        let axes = reader.u32().map_err(in_tensor)?;
        if axes > MAX_AXES {
            return Err(in_tensor(format!(
                "has {axes} axes; at most {MAX_AXES} are possible"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let length = reader.u64().map_err(in_tensor)?;
            let length = usize::try_from(length)
                .map_err(|_| in_tensor(format!("has an axis of {length}")))?;
            shape.push(length);
        }
        // The file lists the innermost axis first.
        shape.reverse();
        let id = reader.u32().map_err(in_tensor)?;
        let dtype = dtype(id).map_err(|dtype| WeightsError::Dtype {
            path: path.into(),
            tensor: name.into(),
            dtype,
        })?;
        let offset = reader.u64().map_err(in_tensor)?;
        Ok(Self {
            name,
            shape,
            dtype,
            offset,
        })
    }

    fn locate(
        self,
        path: &Path,
        data_start: usize,
        alignment: usize,
        file_length: usize,
    ) -> Result<TensorHeader, WeightsError> {
        let in_tensor = |message: String| WeightsError::tensor(path, self.name, message);
        let (shape, dtype) = (&self.shape, self.dtype);
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_values()) {
            return Err(in_tensor(format!(
                "rows of {row} values are no whole blocks of {} ({dtype})",
                dtype.block_values()
            )));
        }
        let length = shape
            .iter()
            .try_fold(1_usize, |product, &axis| product.checked_mul(axis))
            .and_then(|elements| (elements / dtype.block_values()).checked_mul(dtype.block_bytes()))
            .ok_or_else(|| in_tensor(format!("shape {shape:?} is larger than any file")))?;
        let offset = usize::try_from(self.offset).ok();
        if !offset.is_some_and(|offset| offset.is_multiple_of(alignment)) {
            let offset = self.offset;
            return Err(in_tensor(format!(
                "offset {offset} is no multiple of the alignment {alignment}"
            )));
        }
        let range = offset
            .and_then(|offset| data_start.checked_add(offset))
            .and_then(|start| Some(start..start.checked_add(length)?))
            .filter(|range| range.end <= file_length)
            .ok_or_else(|| {
                in_tensor(format!(
                    "its {length} bytes at offset {} of the data (which starts at byte {data_start}) \
                     reach beyond the file's {file_length} bytes; is the file complete?",
                    self.offset
                ))
            })?;
        Ok(TensorHeader {
            name: self.name.to_owned(),
            dtype,
            shape: self.shape,
            range,
        })
    }
}

/// `enum ggml_type` of `ggml.h`. The error is the name, or number, of a type that is not read.
fn dtype(id: u32) -> Result<TensorDtype, String> {
    Ok(match id {
        0 => TensorDtype::F32,
        1 => TensorDtype::F16,
        2 => TensorDtype::Q4_0,
        3 => TensorDtype::Q4_1,
        6 => TensorDtype::Q5_0,
        7 => TensorDtype::Q5_1,
        8 => TensorDtype::Q8_0,
        12 => TensorDtype::Q4_K,
        13 => TensorDtype::Q5_K,
        14 => TensorDtype::Q6_K,
        30 => TensorDtype::BF16,
        other => {
            let name = match other {
                9 => "Q8_1",
                10 => "Q2_K",
                11 => "Q3_K",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24 => "I8",
                25 => "I16",
                26 => "I32",
                27 => "I64",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => return Err(format!("number {other}")),
            };
            return Err(name.to_owned());
        }
    })
}

fn check_overlaps(path: &Path, headers: &[TensorHeader]) -> Result<(), WeightsError> {
    let mut filled: Vec<_> = headers
        .iter()
        .filter(|header| !header.range.is_empty())
        .collect();
    filled.sort_by_key(|header| header.range.start);
    for pair in filled.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            let message = format!("shares bytes with tensor `{}`", first.name);
            return Err(WeightsError::tensor(path, &second.name, message));
        }
    }
    Ok(())
}

/// A bounded cursor. Its messages say what happened; callers add where.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values_left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let (at, length) = (self.at, self.bytes.len());
            format!("{count} bytes wanted at byte {at}, but the file ends at byte {length}; is it complete?")
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| format!("{N} bytes wanted"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))
    }

    fn typed_value(&mut self) -> Result<MetadataValue, String> {
        let kind = self.u32()?;
        self.value(kind, 0)
    }

    /// A value of type number `kind` (`enum gguf_type`), inside of `depth` arrays.
    fn value(&mut self, kind: u32, depth: usize) -> Result<MetadataValue, String> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| format!("the file has more than {MAX_VALUES} metadata values"))?;
        Ok(match kind {
            0 => MetadataValue::U8(u8::from_le_bytes(self.array()?)),
            1 => MetadataValue::I8(i8::from_le_bytes(self.array()?)),
            2 => MetadataValue::U16(u16::from_le_bytes(self.array()?)),
            3 => MetadataValue::I16(i16::from_le_bytes(self.array()?)),
            4 => MetadataValue::U32(self.u32()?),
            5 => MetadataValue::I32(i32::from_le_bytes(self.array()?)),
            6 => MetadataValue::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [0] => MetadataValue::Bool(false),
                [1] => MetadataValue::Bool(true),
                [byte] => return Err(format!("{byte} is no boolean")),
            },
            8 => MetadataValue::String(self.string()?.into()),
            9 if depth == MAX_DEPTH => {
                return Err(format!("arrays are nested more than {MAX_DEPTH} deep"));
            }
            9 => {
                let element = self.u32()?;
                let count = self.u64()?;
                // Grown as it is read, and not by the count, which may lie.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(element, depth + 1)?);
                }
                MetadataValue::Array(values.into())
            }
            10 => MetadataValue::U64(self.u64()?),
            11 => MetadataValue::I64(i64::from_le_bytes(self.array()?)),
            12 => MetadataValue::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("unknown value type {other}")),
        })
    }
}
