//! The two loops under every product of this folder, single-threaded.
//!
//! [`accumulate`] multiplies rows with a *panel*, the next [`PANEL`] columns of another matrix: vectors run along the panel, and
//! each value of a row meets all of them. Both are read where they are. A general product packs both sides first, which a weight that
//! meets a few dozen rows never pays back; here only x is ever packed, as the transpose that makes it a panel. [`dots`] is for so few
//! rows that their panel would be mostly empty: there vectors run along the sum.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::simd;

/// Columns of a panel.
pub const PANEL: usize = 64;
/// Rows that are in registers at a time: with the 4 AVX-512 vectors of a panel 24 accumulators of 32 registers.
const GROUP: usize = 6;
/// Rows of a panel that are passed at a time, so that they (128 KiB) stay in the second-level cache.
const DEPTH: usize = 512;

/// Row-major values, `stride` apart from row to row.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
    pub fn new(values: &'a [f32], stride: usize, count: usize) -> Self {
        Rows {
            values,
            stride,
            count,
        }
    }

    /// # Panics
    /// Where there are fewer rows of so many columns.
    fn check(&self, columns: usize) {
        let last = self.count.saturating_sub(1) * self.stride;
        assert!(self.count == 0 || last + columns <= self.values.len());
    }
}

/// `out += rows · panel`: (M, K) x (K, width) -> (M, [`PANEL`]). Every sum runs over K in order, in pieces of [`DEPTH`]. The columns of
/// `out` from `width` on are of any content.
///
/// `panel` must be readable up to a whole vector: where it is narrower than [`PANEL`], give it that stride.
///
/// # Panics
/// Where the shapes leave the slices.
pub fn accumulate(out: &mut [f32], rows: Rows, panel: Rows, width: usize) {
    if rows.count == 0 || panel.count == 0 {
        return;
    }
    rows.check(panel.count);
    // Only a full panel ends with a vector on every processor.
    panel.check(PANEL);
    assert!(out.len() >= rows.count * PANEL && width <= PANEL);
    simd::vectorize(Accumulate {
        out,
        rows,
        panel,
        width,
    });
}

struct Accumulate<'a> {
    out: &'a mut [f32],
    rows: Rows<'a>,
    panel: Rows<'a>,
    width: usize,
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Accumulators must fit in the registers: 4 x 6 of 32, 2 x 6 of 16.
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let vectors = self.width.div_ceil(S::F32_LANES);
        for start in (0..self.panel.count).step_by(DEPTH) {
            let depth = DEPTH.min(self.panel.count - start);
            for row in even(self.rows.count, GROUP) {
                let mut vector = 0;
                while vector < vectors {
                    let count = most.min(vectors - vector);
                    let lane = vector * S::F32_LANES;
                    // SAFETY: `accumulate` has checked the shapes, and PANEL is a multiple of the lanes of every vector.
                    unsafe {
                        let from = start * self.panel.stride + lane;
                        let panel = (self.panel.values.as_ptr().add(from), self.panel.stride);
                        let from = row.start * self.rows.stride + start;
                        let rows = (self.rows.values.as_ptr().add(from), self.rows.stride);
                        let out = self.out.as_mut_ptr().add(row.start * PANEL + lane);
                        let args = (simd, panel, rows, depth, out);
                        match count {
                            1 => by_rows::<S, 1>(args, row.len()),
                            2 => by_rows::<S, 2>(args, row.len()),
                            3 => by_rows::<S, 3>(args, row.len()),
                            _ => by_rows::<S, 4>(args, row.len()),
                        }
                    }
                    vector += count;
                }
            }
        }
    }
}

/// First value and stride.
type At = (*const f32, usize);
type Args<S> = (S, At, At, usize, *mut f32);

#[inline(always)]
unsafe fn by_rows<S: Simd, const V: usize>(args: Args<S>, rows: usize) {
    unsafe {
        match rows {
            1 => block::<S, V, 1>(args),
            2 => block::<S, V, 2>(args),
            3 => block::<S, V, 3>(args),
            4 => block::<S, V, 4>(args),
            5 => block::<S, V, 5>(args),
            _ => block::<S, V, GROUP>(args),
        }
    }
}

/// V vectors of the panel times R rows.
#[inline(always)]
unsafe fn block<S: Simd, const V: usize, const R: usize>((simd, panel, rows, k, out): Args<S>) {
    unsafe {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for i in 0..k {
            let mut columns = [simd.splat_f32s(0.0); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = load(panel.0.add(i * panel.1 + v * S::F32_LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = simd.splat_f32s(*rows.0.add(r * rows.1 + i));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = simd.mul_add_e_f32s(column, value, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let out = out.add(r * PANEL + v * S::F32_LANES).cast::<S::f32s>();
                out.write_unaligned(simd.add_f32s(out.read_unaligned(), *sum));
            }
        }
    }
}

#[inline(always)]
unsafe fn load<V: Copy>(at: *const f32) -> V {
    unsafe { at.cast::<V>().read_unaligned() }
}

/// `0..len` in pieces as equal as can be, of at most `most`.
pub fn even(len: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let pieces = len.div_ceil(most);
    (0..pieces).map(move |i| i * len / pieces..(i + 1) * len / pieces)
}

/// `out[i, j] = a_i · b_j`: (M, K) x (N, K) -> (M, N), the rows of `out` `stride` apart. Vectors run along K, so the order
/// of a sum depends on K alone.
///
/// # Panics
/// Where the shapes leave the slices.
pub fn dots(out: &mut [f32], stride: usize, a: Rows, b: Rows, k: usize) {
    if a.count == 0 || b.count == 0 {
        return;
    }
    assert!(out.len() >= (a.count - 1) * stride + b.count);
    a.check(k);
    b.check(k);
    simd::vectorize(Dots {
        out,
        stride,
        a,
        b,
        k,
    });
}

struct Dots<'a> {
    out: &'a mut [f32],
    stride: usize,
    a: Rows<'a>,
    b: Rows<'a>,
    k: usize,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // 4 x 4 accumulators of 32 registers, 2 x 4 of 16.
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        // One row meets `b` once, from memory, which is fastest in the order that it lies there.
        let columns = if self.a.count == 1 { 1 } else { 4 };
        for column in even(self.b.count, columns) {
            for row in even(self.a.count, most) {
                match row.len() {
                    1 => self.by_columns::<S, 1>(simd, row.start, column.clone()),
                    2 => self.by_columns::<S, 2>(simd, row.start, column.clone()),
                    3 => self.by_columns::<S, 3>(simd, row.start, column.clone()),
                    _ => self.by_columns::<S, 4>(simd, row.start, column.clone()),
                }
            }
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn by_columns<S: Simd, const A: usize>(&mut self, simd: S, row: usize, column: Range<usize>) {
        match column.len() {
            1 => self.block::<S, A, 1>(simd, row, column.start),
            2 => self.block::<S, A, 2>(simd, row, column.start),
            3 => self.block::<S, A, 3>(simd, row, column.start),
            _ => self.block::<S, A, 4>(simd, row, column.start),
        }
    }

    #[inline(always)]
    fn block<S: Simd, const A: usize, const B: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; B]; A];
        let mut a: [&[f32]; A] = [&[]; A];
        for (i, a) in a.iter_mut().enumerate() {
            *a = &self.a.values[(row + i) * self.a.stride..][..self.k];
        }
        let mut b: [&[f32]; B] = [&[]; B];
        for (j, b) in b.iter_mut().enumerate() {
            *b = &self.b.values[(column + j) * self.b.stride..][..self.k];
        }
        let whole = self.k - self.k % S::F32_LANES;
        let mut at = 0;
        while at < whole {
            let mut right = [zero; B];
            for (right, b) in right.iter_mut().zip(&b) {
                // SAFETY: `at` is below the whole vectors of K values.
                *right = unsafe { load(b.as_ptr().add(at)) };
            }
            for (sums, a) in sums.iter_mut().zip(&a) {
                // SAFETY: the same.
                let left: S::f32s = unsafe { load(a.as_ptr().add(at)) };
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.mul_add_e_f32s(left, right, *sum);
                }
            }
            at += S::F32_LANES;
        }
        if whole < self.k {
            for (sums, a) in sums.iter_mut().zip(&a) {
                let left = simd.partial_load_f32s(&a[whole..]);
                for (sum, b) in sums.iter_mut().zip(&b) {
                    let right = simd.partial_load_f32s(&b[whole..]);
                    *sum = simd.mul_add_e_f32s(left, right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                self.out[(row + i) * self.stride + column + j] = simd.reduce_sum_f32s(*sum);
            }
        }
    }
}

/// `to[j, i] = from[i, j]`: (M, N) -> (N, M), the rows of `to` `stride` apart.
///
/// # Panics
/// Where the shapes leave the slices.
pub fn transpose(from: Rows, n: usize, to: &mut [f32], stride: usize) {
    if from.count == 0 || n == 0 {
        return;
    }
    assert!(to.len() >= (n - 1) * stride + from.count && from.count <= stride.max(1));
    // SAFETY: the result lies in `to`.
    unsafe { transpose_to(from, n, to.as_mut_ptr(), stride) }
}

/// [`transpose`] to where other threads may write between the rows.
///
/// # Safety
/// The N rows of M values from `to` on must be writable, and no one else may use them.
///
/// # Panics
/// Where there are not (M, N) values in `from`.
pub unsafe fn transpose_to(from: Rows, n: usize, to: *mut f32, stride: usize) {
    from.check(n);
    let mut whole = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        whole = (from.count / 8 * 8, n / 8 * 8);
        simd.vectorize(Blocks {
            simd,
            from,
            n,
            to,
            stride,
        });
    }
    for i in 0..from.count {
        for j in (if i < whole.0 { whole.1 } else { 0 })..n {
            // SAFETY: i < M and j < N.
            unsafe { *to.add(j * stride + i) = from.values[i * from.stride + j] };
        }
    }
}

/// The whole (8, 8) blocks of a transpose, in registers. Two at a time, one below the other: they fill lines of the cache.
#[cfg(target_arch = "x86_64")]
struct Blocks<'a> {
    simd: pulp::x86::V3,
    from: Rows<'a>,
    n: usize,
    to: *mut f32,
    stride: usize,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let m = self.from.count / 8 * 8;
        for rows in (0..m).step_by(16) {
            for column in (0..self.n / 8 * 8).step_by(8) {
                for row in (rows..m.min(rows + 16)).step_by(8) {
                    // SAFETY: the block is within M rows and N columns.
                    unsafe { self.block(row, column) };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Blocks<'_> {
    #[inline(always)]
    unsafe fn block(&self, row: usize, column: usize) {
        let avx = self.simd.avx;
        unsafe {
            let from = self
                .from
                .values
                .as_ptr()
                .add(row * self.from.stride + column);
            let mut r = [avx._mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate() {
                *r = load(from.add(i * self.from.stride));
            }
            // Pairs of values, then of pairs, then of halves.
            let pair = |a, b| (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
            let ((a0, a1), (a2, a3)) = (pair(r[0], r[1]), pair(r[2], r[3]));
            let ((a4, a5), (a6, a7)) = (pair(r[4], r[5]), pair(r[6], r[7]));
            let four = |a, b| {
                (
                    avx._mm256_shuffle_ps::<0x44>(a, b),
                    avx._mm256_shuffle_ps::<0xee>(a, b),
                )
            };
            let ((b0, b1), (b2, b3)) = (four(a0, a2), four(a1, a3));
            let ((b4, b5), (b6, b7)) = (four(a4, a6), four(a5, a7));
            let low = |a, b| avx._mm256_permute2f128_ps::<0x20>(a, b);
            let high = |a, b| avx._mm256_permute2f128_ps::<0x31>(a, b);
            let columns = [
                low(b0, b4),
                low(b1, b5),
                low(b2, b6),
                low(b3, b7),
                high(b0, b4),
                high(b1, b5),
                high(b2, b6),
                high(b3, b7),
            ];
            let to = self.to.add(column * self.stride + row);
            for (j, column) in columns.into_iter().enumerate() {
                to.add(j * self.stride)
                    .cast::<__m256>()
                    .write_unaligned(column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both loops with the vectors of one instruction set, checked against the sums as they are written.
    fn check<S: Simd>(simd: S) {
        let value = |i: usize| ((i * 7919) % 23) as f32 / 8.0 - 1.0;
        for (m, k, width) in [(1, 3, 64), (13, 40, 33), (6, 600, 64), (5, 1, 1)] {
            let (pad, wide) = (k + 3, PANEL + 5);
            let rows: Vec<f32> = (0..m * pad).map(value).collect();
            let panel: Vec<f32> = (0..k * wide).map(|i| value(i + 5)).collect();
            let (rows, panel) = (Rows::new(&rows, pad, m), Rows::new(&panel, wide, k));
            let mut out = vec![1.0; m * PANEL];
            Simd::vectorize(
                simd,
                Accumulate {
                    out: &mut out,
                    rows,
                    panel,
                    width,
                },
            );
            let transposed: Vec<f32> = (0..PANEL * k)
                .map(|i| panel.values[i % k * wide + i / k])
                .collect();
            let mut products = vec![0.0; m * width];
            let b = Rows::new(&transposed, k, width);
            Simd::vectorize(
                simd,
                Dots {
                    out: &mut products,
                    stride: width,
                    a: rows,
                    b,
                    k,
                },
            );
            for i in 0..m {
                for j in 0..width {
                    // Multiples of 1/64: every order of the sum is exact.
                    let expected: f32 = (0..k)
                        .map(|l| rows.values[i * pad + l] * panel.values[l * wide + j])
                        .sum();
                    assert_eq!(products[i * width + j], expected, "({m}, {k}, {width})");
                    assert_eq!(out[i * PANEL + j], 1.0 + expected, "({m}, {k}, {width})");
                }
            }
        }
    }

    /// A machine runs one of them only: each is checked where it exists.
    #[test]
    fn every_instruction_set_gives_the_sums() {
        check(pulp::Scalar::new());
        #[cfg(target_arch = "x86_64")]
        {
            pulp::x86::V3::try_new().into_iter().for_each(check);
            pulp::x86::V4::try_new().into_iter().for_each(check);
        }
    }

    proptest! {
        /// Whole blocks and what is left of them.
        #[test]
        fn a_transpose_moves_each_value(m in 0usize..40, n in 0usize..40, left in 0usize..3, right in 0usize..3) {
            let from: Vec<f32> = (0..m * (n + left)).map(|i| i as f32).collect();
            let mut to = vec![-1.0; n * (m + right)];
            transpose(Rows::new(&from, n + left, m), n, &mut to, m + right);
            for j in 0..n {
                for i in 0..m + right {
                    let expected = if i < m { from[i * (n + left) + j] } else { -1.0 };
                    prop_assert_eq!(to[j * (m + right) + i], expected);
                }
            }
        }
    }
}
