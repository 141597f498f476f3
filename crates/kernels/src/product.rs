//! Matrix products of views.

use std::ops::Range;

use rayon::prelude::*;

/// A read-only view of a matrix: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// (rows, columns) of row-major `data` whose rows are `stride` apart.
    ///
    /// # Panics
    /// Where the view would leave `data`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * stride + columns <= data.len(),
            "a ({rows}, {columns}) view with stride {stride} of {} values",
            data.len()
        );
        View {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transpose: no value moves.
    pub fn t(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> View<'a> {
    /// Some of the rows.
    ///
    /// # Panics
    /// Where there are fewer rows.
    pub fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        View {
            data: &self.data[(rows.start * self.row_stride).min(self.data.len())..],
            rows: rows.len(),
            ..self
        }
    }
}

/// Rows of the result that one task makes: few enough to share the work, enough to pay for packing the right side.
const ROWS: usize = 128;

/// [`multiply`] on all threads, with rows of `out` that lie end to end.
pub fn multiply_in_parallel(out: &mut [f32], lhs: View, rhs: View) {
    let n = rhs.columns;
    assert_eq!(out.len(), lhs.rows * n);
    out.par_chunks_mut((ROWS * n).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            let rows = i * ROWS..i * ROWS + out.len() / n.max(1);
            multiply(out, n, lhs.part(rows), rhs, 1.0, 0.0);
        });
}

/// `out = alpha * lhs * rhs + beta * out`, on the calling thread; (M, K) x (K, N) -> (M, N), the rows of `out` being `stride` apart.
/// With `beta` 0, what `out` holds is not read.
///
/// # Panics
/// Where the shapes do not fit.
pub fn multiply(out: &mut [f32], stride: usize, lhs: View, rhs: View, alpha: f32, beta: f32) {
    let (m, k, n) = (lhs.rows, lhs.columns, rhs.columns);
    assert_eq!(k, rhs.rows, "({m}, {k}) x ({}, {n})", rhs.rows);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride || m == 1);
    assert!((m - 1) * stride + n <= out.len());
    // SAFETY: the views and `out` were checked against the bounds of their slices, which borrow rules keep apart.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            beta != 0.0,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cut in pieces, the product stays the product.
    #[test]
    fn pieces_make_the_whole() {
        let (m, k, n) = (300, 7, 5);
        let value = |i: usize| ((i * 7919) % 23) as f32 / 11.0 - 1.0;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..k * n).map(value).collect();
        let (mut whole, mut pieces) = (vec![0.0; m * n], vec![0.0; m * n]);
        for lhs in [View::new(&a, m, k, k), View::new(&a, k, m, m).t()] {
            multiply(&mut whole, n, lhs, View::new(&b, k, n, n), 1.0, 0.0);
            multiply_in_parallel(&mut pieces, lhs, View::new(&b, k, n, n));
            for (x, y) in whole.iter().zip(&pieces) {
                assert!((x - y).abs() < 1e-5, "{x} {y}");
            }
        }
    }

    proptest! {
        /// Every kernel's product goes through here: strides, transposes and the two scalars must mean what they say.
        #[test]
        fn equals_the_sum_of_products(m in 1usize..20, k in 1usize..20, n in 1usize..20, pad in 0usize..3,
                                      left: bool, right: bool, alpha in -2f32..2.0, beta in prop::sample::select(vec![0f32, 1.0, 0.5])) {
            let value = |i: usize| ((i * 7919) % 23) as f32 / 11.0 - 1.0;
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
            let stride = n + pad;
            let start: Vec<f32> = (0..m * stride).map(|i| value(i + 9)).collect();
            let mut out = start.clone();
            let lhs = if left { View::new(&a, k, m, m).t() } else { View::new(&a, m, k, k) };
            let rhs = if right { View::new(&b, n, k, k).t() } else { View::new(&b, k, n, n) };
            multiply(&mut out, stride, lhs, rhs, alpha, beta);
            for i in 0..m {
                for j in 0..stride {
                    let expected = if j >= n { start[i * stride + j] } else {
                        let sum: f32 = (0..k).map(|l| {
                            let x = if left { a[l * m + i] } else { a[i * k + l] };
                            let y = if right { b[j * k + l] } else { b[l * n + j] };
                            x * y
                        }).sum();
                        alpha * sum + beta * start[i * stride + j]
                    };
                    prop_assert!((out[i * stride + j] - expected).abs() < 1e-4);
                }
            }
        }
    }
}
