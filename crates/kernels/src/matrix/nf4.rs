//! NF4 with double quantisation, the 4-bit type of QLoRA (arXiv 2305.14314, section 3).
//!
//! ```text
//! m = max |w| of a block of 64      q = the entry of CODE next to w / m      value = CODE[q] s
//! d = m - mean(m)                   M = max |d| of 256 blocks
//! s = (the entry of the 8-bit map next to d / M) M + mean(m)
//! ```
//!
//! Blocks run along the rows of a matrix, groups of 256 blocks over all of it. Every step is rounded as bitsandbytes 0.50.2 rounds it
//! on a CPU, so the values are its own to the last bit (`functional.py`, `quantize_4bit` and `create_dynamic_map`;
//! `backends/default/ops.py`; `csrc/cpu_ops.cpp`, `quantize_cpu_impl`), with one reservation: the mean is a sum of f32, and PyTorch gives
//! each of its threads a part of a sum of 32,768 terms or more. Its last bit then depends on their number. Ours is that of one
//! thread.
//!
//! By its source, bitsandbytes' CUDA kernel compares d / M itself with the middles between entries, where the CPU's looks it up in 65,536
//! cells: where d / M is within half a cell of a middle, s is the neighbouring entry's.
//!
//! What is kept of a block is s, decoded, and 64 times q: 36 bytes, 4.5 bits a value, where bitsandbytes keeps 8 bits of s and has 4.127. So a
//! row is read without anything beside it.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::Matrix;
use crate::simd;

/// Values of a block.
pub(super) const BLOCK: usize = 64;
/// Bytes of a block: s, then 32 bytes whose low nibbles are q of values 0 to 31 and whose high nibbles those of 32 to 63.
pub(super) const BYTES: usize = 4 + BLOCK / 2;
/// Blocks whose scales are quantised together.
const GROUP: usize = 256;

/// Quantiles of the normal distribution, scaled to -1..1 (the paper's appendix E).
pub(super) const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// s of every block of a matrix whose columns are whole blocks, row by row.
pub(super) fn scales(matrix: &Matrix) -> Vec<f32> {
    let mut scales = vec![0.0; matrix.rows * matrix.columns / BLOCK];
    scales
        .par_chunks_mut((matrix.columns / BLOCK).max(1))
        .enumerate()
        .for_each_init(Vec::new, |scratch, (row, maxima)| {
            let values = matrix.tile(row..row + 1, scratch).as_chunks::<BLOCK>().0;
            for (m, values) in maxima.iter_mut().zip(values) {
                *m = largest(values);
            }
        });
    quantize_again(&mut scales);
    scales
}

/// The bytes of a row, given the scales of its blocks.
pub(super) fn encode(values: &[f32], scales: &[f32], raw: &mut [u8]) {
    let middles: [f32; 15] = std::array::from_fn(|i| (CODE[i] + CODE[i + 1]) / 2.0);
    let values = values.as_chunks::<BLOCK>().0;
    simd::dispatch(
        #[inline(always)]
        || {
            for ((values, scale), raw) in values.iter().zip(scales).zip(raw.as_chunks_mut().0) {
                encode_block(values, *scale, &middles, raw);
            }
        },
    );
}

#[inline(always)]
fn encode_block(values: &[f32; BLOCK], scale: f32, middles: &[f32; 15], raw: &mut [u8; BYTES]) {
    let inverse = 1.0 / largest(values).max(1e-38);
    let mut q = [0u32; BLOCK];
    for (q, v) in q.iter_mut().zip(values) {
        let v = v * inverse;
        *q = middles.iter().map(|&middle| u32::from(middle < v)).sum();
    }
    let (first, second) = q.split_at(BLOCK / 2);
    let (head, bytes) = raw.split_at_mut(4);
    head.copy_from_slice(&scale.to_le_bytes());
    for ((byte, first), second) in bytes.iter_mut().zip(first).zip(second) {
        *byte = (first | second << 4) as u8;
    }
}

/// Whole blocks from their bytes.
pub(super) fn decode(raw: &[u8], values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(Decode { simd, raw, values });
    }
    decode_one_by_one(raw, values);
}

fn decode_one_by_one(raw: &[u8], values: &mut [f32]) {
    let raw = raw.as_chunks::<BYTES>().0;
    for ([s0, s1, s2, s3, q @ ..], values) in raw.iter().zip(values.as_chunks_mut::<BLOCK>().0) {
        let scale = f32::from_le_bytes([*s0, *s1, *s2, *s3]);
        let table = CODE.map(|code| code * scale);
        let (first, second) = values.split_at_mut(BLOCK / 2);
        for ((first, second), q) in first.iter_mut().zip(second).zip(q) {
            *first = table[usize::from(q & 15)];
            *second = table[usize::from(q >> 4)];
        }
    }
}

/// The table of a block in two registers: a compiler makes loads of single values of it, which take five times as long.
#[cfg(target_arch = "x86_64")]
struct Decode<'a> {
    simd: pulp::x86::V3,
    raw: &'a [u8],
    values: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        use std::arch::x86_64::__m256;
        let pulp::x86::V3 { avx, avx2, .. } = self.simd;
        let code: [__m256; 2] = bytemuck::cast(CODE);
        let raw = self.raw.as_chunks::<BYTES>().0;
        for (raw, values) in raw.iter().zip(self.values.as_chunks_mut::<BLOCK>().0) {
            let [s0, s1, s2, s3, q @ ..] = raw;
            let scale = avx._mm256_set1_ps(f32::from_le_bytes([*s0, *s1, *s2, *s3]));
            let [low, high] = code.map(|code| avx._mm256_mul_ps(code, scale));
            // Bits 0 to 2 choose in a half of the table, bit 3, moved to the sign, chooses the half.
            let look_up = |q| {
                let low = avx2._mm256_permutevar8x32_ps(low, q);
                let high = avx2._mm256_permutevar8x32_ps(high, q);
                let half = avx._mm256_castsi256_ps(avx2._mm256_slli_epi32::<28>(q));
                bytemuck::cast::<__m256, [f32; 8]>(avx._mm256_blendv_ps(low, high, half))
            };
            let (first, second) = values.split_at_mut(BLOCK / 2);
            let pairs = first.as_chunks_mut().0.iter_mut();
            let pairs = pairs.zip(second.as_chunks_mut().0);
            for ((first, second), q) in pairs.zip(q.as_chunks::<8>().0) {
                let q = avx2._mm256_cvtepu8_epi32(bytemuck::cast([*q, [0; 8]]));
                *first = look_up(q);
                *second = look_up(avx2._mm256_srli_epi32::<4>(q));
            }
        }
    }
}

/// Puts s in the place of m.
fn quantize_again(maxima: &mut [f32]) {
    let mean = sum(maxima) / maxima.len() as f32;
    for group in maxima.chunks_mut(GROUP) {
        for m in &mut *group {
            *m -= mean;
        }
        let largest = largest(group);
        let inverse = 1.0 / largest;
        for d in group {
            // Where all are the mean the quotient is no number, and the product with any entry 0.
            *d = MAP.nearest(*d * inverse) * largest + mean;
        }
    }
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |largest, v| largest.max(v.abs()))
}

/// The sum in the order in which PyTorch takes it on one thread (`aten/src/ATen/native/cpu/SumKernel.cpp`, `cascade_sum`): 32 partial sums
/// side by side, each of which is a cascade of four sums that hand on what they have after a power of two of terms.
fn sum(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const SIDE: usize = 4;
    const LEVELS: usize = 4;
    type Lanes = [f32; LANES];
    fn add(to: &mut Lanes, from: &Lanes) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (rows, others) = vectors.as_chunks::<SIDE>();
    let digits = usize::BITS - rows.len().saturating_sub(1).leading_zeros();
    let power = (digits / LEVELS as u32).max(4);
    let mut levels = [[[0f32; LANES]; SIDE]; LEVELS];
    let whole = rows.len() >> power << power;
    for (i, row) in rows.iter().enumerate() {
        for (sum, row) in levels[0].iter_mut().zip(row) {
            add(sum, row);
        }
        let done = i + 1;
        if done > whole || !done.is_multiple_of(1 << power) {
            continue;
        }
        for level in 1..LEVELS {
            let below = std::mem::take(&mut levels[level - 1]);
            for (sum, below) in levels[level].iter_mut().zip(&below) {
                add(sum, below);
            }
            if !done.is_multiple_of(1 << (power * (level as u32 + 1))) {
                break;
            }
        }
    }
    let [mut sums, above @ ..] = levels;
    for level in &above {
        for (sum, level) in sums.iter_mut().zip(level) {
            add(sum, level);
        }
    }
    let [mut lanes, beside @ ..] = sums;
    for lane in others.iter().chain(&beside) {
        add(&mut lanes, lane);
    }
    rest.iter().chain(&lanes).fold(0.0, |sum, v| sum + v)
}

/// The 8-bit type of the scales.
static MAP: LazyLock<Map> = LazyLock::new(Map::new);

/// The signed dynamic map of 8 bits (arXiv 1511.04561): in each of seven decades twice as many values as in the one below.
struct Map {
    /// The entry of each cell of -1..1.
    cells: Vec<f32>,
}

impl Map {
    const CELLS: usize = 1 << 16;

    fn new() -> Self {
        let entries = Self::entries();
        let mut entry = 0;
        let cells = (0..Self::CELLS)
            .map(|i| {
                let at = -1.0 + 2.0 * i as f32 / (Self::CELLS - 1) as f32;
                while entries
                    .get(entry + 1)
                    .is_some_and(|next| 0.5 * (entries[entry] + next) < at)
                {
                    entry += 1;
                }
                entries[entry]
            })
            .collect();
        Map { cells }
    }

    /// 256 numbers, sorted.
    fn entries() -> Vec<f32> {
        let decades = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let mut entries = vec![0.0, 1.0];
        for (i, decade) in decades.into_iter().enumerate() {
            let count = 1usize << i;
            let step = (1.0 - 0.1) / count as f32;
            // From the nearer end, as `torch.linspace`.
            let bound = |k: usize| match k < count.div_ceil(2) {
                true => step.mul_add(k as f32, 0.1),
                false => (-step).mul_add((count - k) as f32, 1.0),
            };
            for k in 0..count {
                let middle = decade * ((bound(k) + bound(k + 1)) / 2.0);
                entries.extend([middle, -middle]);
            }
        }
        entries.sort_by(f32::total_cmp);
        entries
    }

    /// The entry next to a number of -1..1.
    fn nearest(&self, x: f32) -> f32 {
        let cell = (x.clamp(-1.0, 1.0) + 1.0) * 0.5 * (Self::CELLS - 1) as f32 + 0.5;
        self.cells[cell as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::matrix::Format;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// The vector code and the plain one are two ways to the same bits.
    #[test]
    fn vectors_are_the_table() {
        let mut raw = vec![0u8; 9 * BYTES];
        ChaCha8Rng::seed_from_u64(1).fill(&mut raw[..]);
        for (i, block) in raw.chunks_exact_mut(BYTES).enumerate() {
            block[..4].copy_from_slice(&(0.3 - 0.1 * i as f32).to_le_bytes());
        }
        let (mut found, mut expected) = (vec![0.0; 9 * BLOCK], vec![0.0; 9 * BLOCK]);
        decode(&raw, &mut found);
        decode_one_by_one(&raw, &mut expected);
        assert_eq!(bits(&found), bits(&expected));
        assert_eq!(expected[0], CODE[usize::from(raw[4] & 15)] * 0.3);
        assert_eq!(expected[32], CODE[usize::from(raw[4] >> 4)] * 0.3);
    }

    /// The map is symmetric but for 1; its 0 is the middle of no cell, so that a scale at the mean moves a little.
    #[test]
    fn the_map_has_256_entries() {
        let entries = Map::entries();
        assert_eq!((entries.len(), entries[255], entries[127]), (256, 1.0, 0.0));
        for i in 0..127 {
            assert!(entries[i] == -entries[254 - i] && entries[i] < entries[i + 1]);
        }
        assert_eq!(MAP.nearest(0.0), entries[131]);
        assert_eq!((MAP.nearest(7.0), MAP.nearest(-7.0)), (1.0, entries[0]));
        assert_eq!(MAP.nearest(f32::NAN), entries[0]);
    }

    proptest! {
        /// However long, the sum is the sum.
        #[test]
        fn sums(len in 0usize..5000, seed: u64) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let values: Vec<f32> = (0..len).map(|_| random.random_range(0.0..1.0)).collect();
            let exact: f64 = values.iter().map(|v| f64::from(*v)).sum();
            prop_assert!((f64::from(sum(&values)) - exact).abs() <= 1e-6 * exact);
        }

        /// What quantisation may lose: half of the widest gap of the code, and of a scale half of the widest gap of the map.
        #[test]
        fn rounding_is_to_the_nearest(rows in 1usize..40, blocks in 1usize..12, spread in 0f32..3.0, seed: u64) {
            let columns = blocks * BLOCK;
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let values: Vec<f32> = (0..rows)
                .flat_map(|row| {
                    let scale = (spread * row as f32 / 10.0).exp();
                    (0..columns).map(|_| scale * random.random_range(-1.0..1.0)).collect::<Vec<f32>>()
                })
                .collect();
            let matrix = Matrix::from_f32(rows, columns, values.clone()).to_format(Format::Nf4);
            prop_assert_eq!(matrix.file_bytes(), rows * blocks * 36);
            let maxima: Vec<f32> = values.chunks(BLOCK).map(largest).collect();
            let mean = maxima.iter().sum::<f32>() / maxima.len() as f32;
            for (i, (block, found)) in values.chunks(BLOCK).zip(matrix.values().chunks(BLOCK)).enumerate() {
                let group = &maxima[i / GROUP * GROUP..maxima.len().min((i / GROUP + 1) * GROUP)];
                let widest = group.iter().fold(0f32, |widest, m| widest.max((m - mean).abs()));
                let lost = maxima[i] * (CODE[1] - CODE[0]) / 2.0 + widest * 0.0072 + 1e-6;
                for (a, b) in block.iter().zip(found) {
                    prop_assert!((a - b).abs() <= lost, "{} {} {}", a, b, lost);
                }
            }
        }
    }
}
