//! The stored types of a tensor, and the conversion to `f32` of those that no [`Matrix`](sharelora_kernels::matrix::Matrix)
//! is stored in.
//!
//! Block layouts and formulas are those of ggml (`ggml-common.h`, structs `block_*`; `ggml-quants.c`,
//! functions `dequantize_row_*`). A block is a run of values of one row with a common scale; `d` (and the
//! minimum `m`) are half-precision numbers, `q` small unsigned integers:
//!
//! | type | values | bytes | value |
//! |---|---|---|---|
//! | Q4_0, Q5_0 | 32 | 18, 22 | `d (q - 8)`, `d (q - 16)` |
//! | Q5_1 | 32 | 24 | `d q + m` |
//! | Q4_K, Q5_K | 256 | 144, 176 | `(d s) q - (m t)`, 6-bit `s` and `t` for each 32 values |
//! | Q6_K | 256 | 210 | `(d s) (q - 32)`, 8-bit signed `s` for each 16 values |

use std::fmt;

use half::f16;
use sharelora_kernels::matrix::Format;

/// The type in which a file stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // ggml's own names
pub enum TensorDtype {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K,
    Q5_K,
    Q6_K,
    /// A type of safetensors without a conversion to `f32`, such as the `I64` position ids of some
    /// checkpoints: such a tensor may be in the file, but only its bytes can be read.
    Other(&'static str),
}

/// How stored values become `f32`.
pub(super) enum Conversion {
    /// As a matrix of this format.
    Matrix(Format),
    /// By a function of whole blocks and of as many values as they hold.
    Blocks(fn(&[u8], &mut [f32])),
}

impl TensorDtype {
    /// The types that can be read as `f32`, for messages.
    pub const READABLE: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";

    /// Whether values of this type can be read as `f32`.
    pub fn is_readable(self) -> bool {
        self.conversion().is_some()
    }

    /// Values in a block; 1 for plain types.
    pub(super) fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Other(_) => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block; 0 for a type that is not read.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::Other(_) => 0,
        }
    }

    /// How values of this type are read as `f32`; `None` where they are not.
    pub(super) fn conversion(self) -> Option<Conversion> {
        Some(match self {
            Self::F32 => Conversion::Matrix(Format::F32),
            Self::F16 => Conversion::Matrix(Format::F16),
            Self::BF16 => Conversion::Matrix(Format::Bf16),
            Self::Q8_0 => Conversion::Matrix(Format::Q8_0),
            Self::Q4_1 => Conversion::Matrix(Format::Q4_1),
            Self::Q4_0 => Conversion::Blocks(|raw, values| blocks(raw, values, q4_0)),
            Self::Q5_0 => Conversion::Blocks(|raw, values| blocks(raw, values, q5_0)),
            Self::Q5_1 => Conversion::Blocks(|raw, values| blocks(raw, values, q5_1)),
            Self::Q4_K => Conversion::Blocks(|raw, values| blocks(raw, values, q4_k)),
            Self::Q5_K => Conversion::Blocks(|raw, values| blocks(raw, values, q5_k)),
            Self::Q6_K => Conversion::Blocks(|raw, values| blocks(raw, values, q6_k)),
            Self::Other(_) => return None,
        })
    }
}

impl fmt::Display for TensorDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(name) => f.write_str(name),
            known => write!(f, "{known:?}"),
        }
    }
}

fn blocks<const BYTES: usize, const VALUES: usize>(
    raw: &[u8],
    values: &mut [f32],
    convert: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let (raw, _) = raw.as_chunks();
    let (values, _) = values.as_chunks_mut();
    for (raw, values) in raw.iter().zip(values) {
        convert(raw, values);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// The low nibbles of 16 bytes are values 0 to 15, the high ones 16 to 31.
fn nibbles(q: &[u8; 16], values: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    for (i, &q) in q.iter().enumerate() {
        values[i] = value(i, q & 15);
        values[i + 16] = value(i + 16, q >> 4);
    }
}

fn q4_0([d0, d1, q @ ..]: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(*d0, *d1);
    nibbles(q, values, |_, q| d * (f32::from(q) - 8.0));
}

/// A nibble with its fifth bit, which is bit `i` of `high`.
fn five_bits(high: u32, i: usize, q: u8) -> f32 {
    f32::from(q | ((high >> i & 1) << 4) as u8)
}

fn q5_0([d0, d1, h0, h1, h2, h3, q @ ..]: &[u8; 22], values: &mut [f32; 32]) {
    let d = half(*d0, *d1);
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(q, values, |i, q| d * (five_bits(high, i, q) - 16.0));
}

fn q5_1([d0, d1, m0, m1, h0, h1, h2, h3, q @ ..]: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (half(*d0, *d1), half(*m0, *m1));
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(q, values, |i, q| d * five_bits(high, i, q) + m);
}

/// Scale and minimum, six bits each, of the eight groups of 32 values. Groups 0 to 3 have theirs in the low
/// six bits of bytes 0 to 3 and 4 to 7; groups 4 to 7 have their low nibbles in bytes 8 to 11, and their two
/// high bits above those of the first four groups.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4),
            (packed[group + 4] >> 4) | (packed[group] >> 6 << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// What Q4_K and Q5_K share: `d`, `m`, twelve bytes of scales and, as the last 128 bytes, the nibbles. Groups
/// `2 i` and `2 i + 1` are the low and the high nibbles of one run of 32 bytes. `high` gives the bits above.
fn k_block<const BYTES: usize>(
    block: &[u8; BYTES],
    values: &mut [f32; 256],
    high: impl Fn(usize, usize) -> u8,
) {
    let (d, m) = (half(block[0], block[1]), half(block[2], block[3]));
    let (scales, nibbles) = (&block[4..16], &block[BYTES - 128..]);
    let (groups, _) = values.as_chunks_mut::<32>();
    for (group, values) in groups.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(scales, group);
        let (scale, minimum) = (d * scale, m * minimum);
        let run = &nibbles[group / 2 * 32..][..32];
        for (i, (v, &byte)) in values.iter_mut().zip(run).enumerate() {
            let q = byte >> (group % 2 * 4) & 15 | high(group, i);
            *v = scale * f32::from(q) - minimum;
        }
    }
}

fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    k_block(block, values, |_, _| 0);
}

/// The fifth bit of value `i` of a group is bit `group` of byte `i` after the scales.
fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    k_block(block, values, |group, i| (block[16 + i] >> group & 1) << 4);
}

/// Two halves of 128 values: 64 bytes of low nibbles and 32 bytes of high bit pairs each. Of the four runs
/// of 32 values in a half, two are low and two are high nibbles, and run `r` has bit pair `r`.
fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = half(block[208], block[209]);
    let (runs, _) = values.as_chunks_mut::<32>();
    for (index, values) in runs.iter_mut().enumerate() {
        let (part, run) = (index / 4, index % 4);
        let low = &block[part * 64 + run % 2 * 32..][..32];
        let high = &block[128 + part * 32..][..32];
        for (i, v) in values.iter_mut().enumerate() {
            let scale = d * f32::from(block[192 + index * 2 + i / 16].cast_signed());
            let q = low[i] >> (run / 2 * 4) & 15 | (high[i] >> (run * 2) & 3) << 4;
            *v = scale * (f32::from(q) - 32.0);
        }
    }
}
