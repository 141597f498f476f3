//! Frozen matrices in the format of their file, read as `f32` a tile at a time.
//!
//! A pretrained weight stays as it is stored: on the heap or in a mapped file, in full, half or block-quantised precision.
//! Nothing here ever makes an `f32` copy of a whole weight, except [`Matrix::values`], which says so. Block layouts are ggml's
//! (`ggml-common.h`, structs `block_q8_0` and `block_q4_1`; `ggml-quants.c`, functions `dequantize_row_*` and
//! `quantize_row_q8_0_ref`). NF4, which no file here has, is made of another format.

mod nf4;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;

use crate::simd;

// Files hold little-endian numbers, and `f32` is read from them in place.
const _: () = assert!(cfg!(target_endian = "little"));

/// Values of a block in ggml's formats.
const BLOCK: usize = 32;

/// How the values of a row are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // ggml's own names
pub enum Format {
    /// Four bytes a value.
    F32,
    /// The upper half of an `f32`.
    Bf16,
    /// Half precision.
    F16,
    /// Blocks of 32 values in 34 bytes: half-precision `d`, then signed `q`; a value is `d q`.
    Q8_0,
    /// Blocks of 32 values in 20 bytes: half-precision `d` and `m`, then 16 bytes whose low nibbles are `q` of values 0 to 15
    /// and whose high nibbles those of 16 to 31; a value is `d q + m`. Read only.
    Q4_1,
    /// Blocks of 64 values in 36 bytes: QLoRA's NormalFloat of 4 bits with double quantisation (arXiv 2305.14314), the values
    /// those of bitsandbytes.
    Nf4,
}

impl Format {
    /// Bytes of a row of so many values; `None` where they do not fill whole blocks (or not in `usize`).
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        match columns.is_multiple_of(values) {
            true => (columns / values).checked_mul(bytes),
            false => None,
        }
    }

    /// Values of a block, and its bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Bf16 | Self::F16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_1 => (BLOCK, 20),
            Self::Nf4 => (nf4::BLOCK, nf4::BYTES),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_1 => "Q4_1",
            Self::Nf4 => "NF4",
        })
    }
}

/// Where the bytes of a matrix are. A clone shares them.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// On the heap, the first `len` bytes of `words`: a vector of `f32` for its alignment.
    Owned {
        /// The memory.
        words: Arc<Vec<f32>>,
        /// How much of it, in bytes.
        len: usize,
    },
    /// A part of a mapped file.
    Mapped {
        /// The file.
        map: Arc<Mmap>,
        /// Offset of the first byte.
        start: usize,
        /// Number of bytes.
        len: usize,
    },
}

impl Bytes {
    /// A copy on the heap.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut words = vec![0f32; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Bytes::from_words(words, bytes.len())
    }

    fn from_words(words: Vec<f32>, len: usize) -> Self {
        Bytes::Owned {
            words: Arc::new(words),
            len,
        }
    }

    /// `None` where they are said to lie outside of the memory or the file.
    fn get(&self) -> Option<&[u8]> {
        match self {
            Bytes::Owned { words, len } => bytemuck::cast_slice(words).get(..*len),
            Bytes::Mapped { map, start, len } => map.get(*start..start.checked_add(*len)?),
        }
    }
}

/// Why bytes are not a matrix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // the messages say it
pub enum MatrixError {
    #[error(
        "{columns} columns do not fill whole {format} blocks of {} values: store this matrix as F32, BF16 or F16",
        .format.block().0
    )]
    Blocks { format: Format, columns: usize },
    #[error(
        "a ({rows}, {columns}) matrix in {format} has {expected} bytes, not {found}: the file is damaged or cut short"
    )]
    Length {
        rows: usize,
        columns: usize,
        format: Format,
        expected: u128,
        found: usize,
    },
    #[error(
        "bytes {start}..{start}+{len} lie outside of the {held} bytes that are there: the file is damaged or cut short"
    )]
    Outside {
        start: usize,
        len: usize,
        held: usize,
    },
    #[error("the order of {rows} rows names {found} of them")]
    OrderLength { rows: usize, found: usize },
    #[error(
        "the order of {rows} rows has row {row} at {index}, which is out of range or there twice: it must be a permutation"
    )]
    Order { rows: usize, index: usize, row: u32 },
}

/// (rows, columns) frozen values. A clone shares them.
#[derive(Debug, Clone)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    row_bytes: usize,
    format: Format,
    bytes: Bytes,
    order: Option<Arc<[u32]>>,
}

impl Matrix {
    /// Row-major values, (rows, columns).
    ///
    /// # Panics
    /// Where there are not that many.
    pub fn from_f32(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        let len = values.len() * 4;
        Matrix::new(
            rows,
            columns,
            Format::F32,
            Bytes::from_words(values, len),
            None,
        )
        .expect("as many values as rows * columns")
    }

    /// Stored rows; row `i` of the matrix is stored row `order[i]` (GGUF files permute the rows of q and k).
    ///
    /// Values of `F32` that a file holds at an odd address are copied to the heap.
    ///
    /// # Errors
    /// Where the bytes are not those of such a matrix or `order` is not a permutation of its rows.
    pub fn new(
        rows: usize,
        columns: usize,
        format: Format,
        bytes: Bytes,
        order: Option<Arc<[u32]>>,
    ) -> Result<Self, MatrixError> {
        let Some(row_bytes) = format.row_bytes(columns) else {
            return Err(MatrixError::Blocks { format, columns });
        };
        let Some(raw) = bytes.get() else {
            let (start, len, held) = match &bytes {
                Bytes::Owned { words, len } => (0, *len, words.len() * 4),
                Bytes::Mapped { map, start, len } => (*start, *len, map.len()),
            };
            return Err(MatrixError::Outside { start, len, held });
        };
        let expected = rows as u128 * row_bytes as u128;
        if raw.len() as u128 != expected {
            return Err(MatrixError::Length {
                rows,
                columns,
                format,
                expected,
                found: raw.len(),
            });
        }
        if let Some(order) = &order {
            check_order(rows, order)?;
        }
        let in_place = format == Format::F32 && order.is_none();
        let bytes = if in_place && bytemuck::try_cast_slice::<u8, f32>(raw).is_err() {
            Bytes::copy_of(raw)
        } else {
            bytes
        };
        Ok(Matrix {
            rows,
            columns,
            row_bytes,
            format,
            bytes,
            order,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the values are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes held on the heap: 0 where they are those of a mapped file.
    pub fn memory(&self) -> usize {
        match &self.bytes {
            Bytes::Owned { words, .. } => words.len() * 4,
            Bytes::Mapped { .. } => 0,
        }
    }

    /// Whether the values are read from a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped { .. })
    }

    /// Bytes of the values as stored.
    pub fn file_bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Some rows as `f32`, (rows.len(), columns): in place where they are stored so, else written to `scratch`, which only grows.
    ///
    /// # Panics
    /// Where there are no such rows.
    pub fn tile<'a>(&'a self, rows: Range<usize>, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if let Some(values) = self.in_place() {
            return &values[rows.start * self.columns..rows.end * self.columns];
        }
        let len = rows.len() * self.columns;
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        self.write(rows, 0..self.columns, scratch, self.columns);
        &scratch[..len]
    }

    /// All values where they are stored as `f32` and in order.
    pub(crate) fn in_place(&self) -> Option<&[f32]> {
        (self.format == Format::F32 && self.order.is_none())
            .then(|| bytemuck::cast_slice(self.raw()))
    }

    /// Writes some columns of some rows as `f32` to `out`, (rows.len(), columns.len()) with rows `stride` apart.
    ///
    /// # Panics
    /// Where there are no such rows and columns, `out` is too short, or `columns` cut a block.
    pub(crate) fn write(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        assert!(columns.len() <= stride && (rows.len() - 1) * stride + columns.len() <= out.len());
        let bytes = |columns| self.format.row_bytes(columns).expect("whole blocks");
        let (start, len) = (bytes(columns.start), bytes(columns.len()));
        let raw = self.raw();
        let order = self.order.as_deref();
        simd::dispatch(
            #[inline(always)]
            || {
                for (row, out) in rows.clone().zip(out.chunks_mut(stride)) {
                    let row = order.map_or(row, |order| order[row] as usize);
                    let raw = &raw[row * self.row_bytes + start..][..len];
                    self.format.decode(raw, &mut out[..columns.len()]);
                }
            },
        );
    }

    /// The same values, rounded to another format: to the nearest, ties to even, for the halves; by ggml's reference quantiser for
    /// Q8_0; as bitsandbytes for NF4. On the heap, unless it is the format that they already have.
    ///
    /// # Panics
    /// For Q4_1, which is only read, and where [`Matrix::try_to_format`] returns an error.
    pub fn to_format(&self, format: Format) -> Matrix {
        self.try_to_format(format)
            .expect("columns that fill whole blocks")
    }

    /// As [`Matrix::to_format`].
    ///
    /// # Errors
    /// The columns do not fill whole blocks.
    ///
    /// # Panics
    /// For Q4_1, which is only read.
    pub fn try_to_format(&self, format: Format) -> Result<Matrix, MatrixError> {
        if format == self.format {
            return Ok(self.clone());
        }
        let columns = self.columns;
        let row_bytes = format
            .row_bytes(columns)
            .ok_or(MatrixError::Blocks { format, columns })?;
        let len = self.rows * row_bytes;
        let mut words = vec![0f32; len.div_ceil(4)];
        // NF4's depend on all rows.
        let scales = match format {
            Format::Nf4 => nf4::scales(self),
            _ => Vec::new(),
        };
        let blocks = scales.len() / self.rows.max(1);
        if len > 0 {
            bytemuck::cast_slice_mut::<f32, u8>(&mut words)[..len]
                .par_chunks_mut(row_bytes)
                .enumerate()
                .for_each_init(Vec::new, |scratch, (row, raw)| {
                    let scales = &scales[row * blocks..(row + 1) * blocks];
                    format.encode(self.tile(row..row + 1, scratch), scales, raw);
                });
        }
        let bytes = Bytes::from_words(words, len);
        Matrix::new(self.rows, columns, format, bytes, None)
    }

    /// All values, (rows, columns): for small matrices and checks.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        if !values.is_empty() {
            values
                .par_chunks_mut(self.columns)
                .enumerate()
                .for_each(|(row, out)| {
                    self.write(row..row + 1, 0..self.columns, out, self.columns)
                });
        }
        values
    }

    fn raw(&self) -> &[u8] {
        self.bytes.get().unwrap_or_default() // `new` has seen that they are there
    }
}

fn check_order(rows: usize, order: &[u32]) -> Result<(), MatrixError> {
    if order.len() != rows {
        return Err(MatrixError::OrderLength {
            rows,
            found: order.len(),
        });
    }
    let mut seen = vec![false; rows];
    for (index, &row) in order.iter().enumerate() {
        match seen.get_mut(row as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(MatrixError::Order { rows, index, row }),
        }
    }
    Ok(())
}

impl Format {
    /// Whole blocks from their bytes. Plain loops of fixed size, to be compiled for the vectors of this processor.
    #[inline(always)]
    fn decode(self, raw: &[u8], out: &mut [f32]) {
        match self {
            Format::F32 => blocks(raw, out, f32_value),
            Format::Bf16 => blocks(raw, out, bf16_value),
            Format::F16 => blocks(raw, out, f16_value),
            Format::Q8_0 => blocks(raw, out, q8_0),
            Format::Q4_1 => blocks(raw, out, q4_1),
            Format::Nf4 => nf4::decode(raw, out),
        }
    }

    /// The bytes of a row; `scales` are those of its blocks in NF4.
    fn encode(self, values: &[f32], scales: &[f32], raw: &mut [u8]) {
        match self {
            Format::F32 => encode(values, raw, |[v], raw| *raw = v.to_le_bytes()),
            Format::Bf16 => encode(values, raw, |[v], raw| {
                *raw = bf16::from_f32(*v).to_le_bytes()
            }),
            Format::F16 => encode(values, raw, |[v], raw| {
                *raw = f16::from_f32(*v).to_le_bytes()
            }),
            Format::Q8_0 => encode(values, raw, quantize_q8_0),
            Format::Q4_1 => panic!("Q4_1 is only read"),
            Format::Nf4 => nf4::encode(values, scales, raw),
        }
    }
}

#[inline(always)]
fn blocks<const BYTES: usize, const VALUES: usize>(
    raw: &[u8],
    values: &mut [f32],
    convert: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (raw, values) in raw.as_chunks().0.iter().zip(values.as_chunks_mut().0) {
        convert(raw, values);
    }
}

fn encode<const BYTES: usize, const VALUES: usize>(
    values: &[f32],
    raw: &mut [u8],
    convert: impl Fn(&[f32; VALUES], &mut [u8; BYTES]),
) {
    for (values, raw) in values.as_chunks().0.iter().zip(raw.as_chunks_mut().0) {
        convert(values, raw);
    }
}

#[inline(always)]
fn f32_value(raw: &[u8; 4], value: &mut [f32; 1]) {
    *value = [f32::from_le_bytes(*raw)];
}

#[inline(always)]
fn bf16_value(raw: &[u8; 2], value: &mut [f32; 1]) {
    *value = [f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16)];
}

#[inline(always)]
fn f16_value(raw: &[u8; 2], value: &mut [f32; 1]) {
    *value = [half(*raw)];
}

/// Half to single precision without a branch, so that loops of it vectorise: the exponent is moved by the difference of the biases;
/// a subnormal number gets its missing leading one, which is then subtracted again.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = (bits & 0x7fff) << 13;
    let exponent = magnitude & (31 << 23);
    let normal = magnitude + ((127 - 15) << 23);
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let special = magnitude | (255 << 23);
    let magnitude = if exponent == 0 {
        subnormal
    } else if exponent == 31 << 23 {
        special
    } else {
        normal
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

// The blocks below are made in a local array: then the compiler need not fear that the output overlaps the input, and uses vectors.

#[inline(always)]
fn q8_0([d0, d1, q @ ..]: &[u8; 34], values: &mut [f32; BLOCK]) {
    let d = half([*d0, *d1]);
    let mut block = [0.0; BLOCK];
    for (v, q) in block.iter_mut().zip(*q) {
        *v = d * f32::from(q.cast_signed());
    }
    *values = block;
}

#[inline(always)]
fn q4_1([d0, d1, m0, m1, q @ ..]: &[u8; 20], values: &mut [f32; BLOCK]) {
    let (d, m) = (half([*d0, *d1]), half([*m0, *m1]));
    // Opaque, or the compiler would make vectors across blocks, from gathered bytes.
    let q = std::hint::black_box(q);
    let mut block = [0.0; BLOCK];
    let (low, high) = block.split_at_mut(BLOCK / 2);
    for ((low, high), q) in low.iter_mut().zip(high).zip(*q) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
    *values = block;
}

/// The scale maps the largest magnitude to 127; quotients are rounded half away from zero.
fn quantize_q8_0(values: &[f32; BLOCK], raw: &mut [u8; 34]) {
    let largest = values.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let (scale, q) = raw.split_at_mut(2);
    scale.copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, v) in q.iter_mut().zip(values) {
        *q = ((v * inverse).round() as i8).cast_unsigned();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;

    const FORMATS: [Format; 6] = [
        Format::F32,
        Format::Bf16,
        Format::F16,
        Format::Q8_0,
        Format::Q4_1,
        Format::Nf4,
    ];

    /// Random bytes of whole rows, without infinities and NaN.
    fn random(format: Format, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut raw = vec![0u8; rows * format.row_bytes(columns).unwrap()];
        random.fill(&mut raw[..]);
        let (unit, scales): (usize, &[usize]) = match format {
            Format::F32 => (4, &[2]),
            Format::Bf16 | Format::F16 => (2, &[0]),
            Format::Q8_0 => (34, &[0]),
            Format::Q4_1 => (20, &[0, 2]),
            Format::Nf4 => (36, &[2]),
        };
        for block in raw.chunks_exact_mut(unit) {
            for &at in scales {
                // The lowest bit of the exponent is off, so it is not all ones; zero and subnormal numbers remain.
                match format {
                    Format::F32 | Format::Bf16 | Format::Nf4 => block[at] &= 0x7f,
                    _ => block[at + 1] &= !4,
                }
            }
        }
        raw
    }

    /// The formulas, value by value.
    fn reference(format: Format, raw: &[u8]) -> Vec<f32> {
        let half = |at: &[u8]| f16::from_le_bytes([at[0], at[1]]).to_f32();
        match format {
            Format::F32 => raw
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Format::Bf16 => raw
                .chunks(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Format::F16 => raw.chunks(2).map(half).collect(),
            Format::Q8_0 => raw
                .chunks(34)
                .flat_map(|b| (0..32).map(|i| half(b) * f32::from(b[2 + i] as i8)))
                .collect(),
            Format::Q4_1 => raw
                .chunks(20)
                .flat_map(|b| {
                    (0..32).map(|i| {
                        let q = if i < 16 {
                            b[4 + i] & 15
                        } else {
                            b[4 + i - 16] >> 4
                        };
                        half(b) * f32::from(q) + half(&b[2..])
                    })
                })
                .collect(),
            Format::Nf4 => raw
                .chunks(36)
                .flat_map(|b| {
                    let scale = f32::from_le_bytes(b[..4].try_into().unwrap());
                    let q = |i: usize| b[4 + i % 32] >> (i / 32 * 4) & 15;
                    (0..64).map(move |i| nf4::CODE[usize::from(q(i))] * scale)
                })
                .collect(),
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn every_half_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let found = half(bits.to_le_bytes());
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{bits:#x}: {found} instead of {expected}"
            );
        }
    }

    proptest! {
        /// Whatever the format, the order and the place, a tile is the rows that the formula gives, to the bit.
        #[test]
        fn tiles_are_the_rows_of_the_formula(format in prop::sample::select(&FORMATS[..]), rows in 0usize..20, blocks in 1usize..4,
                                             seed: u64, ordered: bool, mapped: bool, odd in 0usize..4) {
            let columns = blocks * 64;
            let raw = random(format, rows, columns, seed);
            let values = reference(format, &raw);
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let order: Option<Arc<[u32]>> = ordered.then(|| {
                let mut order: Vec<u32> = (0..rows as u32).collect();
                for i in (1..rows).rev() {
                    order.swap(i, random.random_range(0..=i));
                }
                order.into()
            });
            let bytes = if mapped {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&vec![0; 4 + odd]).unwrap();
                file.write_all(&raw).unwrap();
                let map = Arc::new(unsafe { Mmap::map(&file) }.unwrap());
                Bytes::Mapped { map, start: 4 + odd, len: raw.len() }
            } else {
                Bytes::copy_of(&raw)
            };
            let matrix = Matrix::new(rows, columns, format, bytes, order.clone()).unwrap();
            let expected: Vec<f32> = (0..rows)
                .map(|row| order.as_ref().map_or(row, |order| order[row] as usize))
                .flat_map(|row| values[row * columns..(row + 1) * columns].to_vec())
                .collect();
            prop_assert_eq!(bits(&matrix.values()), bits(&expected));
            let start = rows / 3;
            let mut scratch = vec![7.0; 5];
            let tile = matrix.tile(start..rows, &mut scratch);
            prop_assert_eq!(bits(tile), bits(&expected[start * columns..]));
            let copied = format == Format::F32 && order.is_none() && odd != 0;
            if mapped && !copied {
                prop_assert!(matrix.is_mapped() && matrix.memory() == 0);
            }
        }

        /// Foreign bytes are an error or a matrix, never a panic.
        #[test]
        fn lengths_are_checked(format in prop::sample::select(&FORMATS[..]), rows: usize, columns: usize, len in 0usize..200) {
            let matrix = Matrix::new(rows, columns, format, Bytes::copy_of(&vec![0; len]), None);
            let fits = format.row_bytes(columns).and_then(|bytes| bytes.checked_mul(rows)) == Some(len);
            prop_assert_eq!(matrix.is_ok(), fits);
        }

        /// What the halves and Q8_0 may lose, and no more.
        #[test]
        fn rounding_is_to_the_nearest(values in prop::collection::vec(-100f32..100.0, 64)) {
            let matrix = Matrix::from_f32(2, 32, values.clone());
            for (a, b) in values.iter().zip(matrix.to_format(Format::Bf16).values()) {
                prop_assert!((a - b).abs() <= a.abs() / 256.0);
            }
            for (a, b) in values.iter().zip(matrix.to_format(Format::F16).values()) {
                prop_assert!((a - b).abs() <= a.abs() / 2048.0 + 1e-7);
            }
            let quantised = matrix.to_format(Format::Q8_0);
            prop_assert_eq!(quantised.memory(), 68);
            for (block, found) in values.chunks(32).zip(quantised.values().chunks(32)) {
                let largest = block.iter().fold(0f32, |a, b| a.max(b.abs()));
                for (a, b) in block.iter().zip(found) {
                    // Half a step, and the rounding of the scale to half precision.
                    prop_assert!((a - b).abs() <= largest / 127.0 * 0.5 + largest / 2048.0 + 1e-5);
                }
            }
        }
    }

    /// A mapped file must not be copied: that is what makes a large base fit.
    #[test]
    fn f32_is_read_from_the_map_in_place() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytemuck::cast_slice(&[1f32, 2.0, 3.0, 4.0, 5.0]))
            .unwrap();
        let map = Arc::new(unsafe { Mmap::map(&file) }.unwrap());
        let bytes = Bytes::Mapped {
            map: map.clone(),
            start: 4,
            len: 16,
        };
        let matrix = Matrix::new(2, 2, Format::F32, bytes, None).unwrap();
        let mut scratch = Vec::new();
        let tile = matrix.tile(1..2, &mut scratch);
        assert_eq!(tile, [4.0, 5.0]);
        assert_eq!(tile.as_ptr() as usize, map.as_ptr() as usize + 12);
        assert_eq!(
            (matrix.memory(), matrix.file_bytes(), scratch.capacity()),
            (0, 16, 0)
        );
    }

    #[test]
    fn ties_go_to_even() {
        let matrix = Matrix::from_f32(
            1,
            4,
            vec![1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 2049.0, 2051.0],
        );
        assert_eq!(
            matrix.to_format(Format::Bf16).values()[..2],
            [1.0, 1.0 + 4.0 / 256.0]
        );
        assert_eq!(
            matrix.to_format(Format::F16).values()[2..],
            [2048.0, 2052.0]
        );
    }

    /// A tie in Q8_0 goes away from zero, as C's `roundf` does.
    #[test]
    fn q8_0_is_the_reference_quantiser() {
        let mut values = vec![0.0; 32];
        values[..4].copy_from_slice(&[127.0, 0.5, -0.5, 1.5]);
        let Bytes::Owned { words, .. } = Matrix::from_f32(1, 32, values)
            .to_format(Format::Q8_0)
            .bytes
        else {
            panic!("not on the heap")
        };
        let raw: &[u8] = bytemuck::cast_slice(&words);
        assert_eq!(raw[..6], [0x00, 0x3c, 127, 1, 255, 2]);
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let new = |rows, columns, format, len, order: Option<Vec<u32>>| {
            let bytes = Bytes::copy_of(&vec![0; len]);
            Matrix::new(rows, columns, format, bytes, order.map(Into::into))
                .unwrap_err()
                .to_string()
        };
        assert!(
            new(2, 33, Format::Q8_0, 68, None).contains("33 columns do not fill whole Q8_0 blocks")
        );
        assert!(
            new(2, 96, Format::Nf4, 72, None).contains("do not fill whole NF4 blocks of 64 values")
        );
        assert!(
            new(2, 3, Format::F32, 23, None).contains("(2, 3) matrix in F32 has 24 bytes, not 23")
        );
        assert!(new(2, 1, Format::F16, 4, Some(vec![0])).contains("order of 2 rows names 1"));
        assert!(new(2, 1, Format::F16, 4, Some(vec![1, 1])).contains("row 1 at 1"));
        assert!(new(2, 1, Format::F16, 4, Some(vec![0, 2])).contains("row 2 at 1"));
        let words = Arc::new(vec![0.0]);
        let outside = Bytes::Owned { words, len: 8 };
        let error = Matrix::new(2, 1, Format::F32, outside, None).unwrap_err();
        assert!(error.to_string().contains("lie outside of the 4 bytes"));
    }
}
