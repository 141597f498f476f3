//! Normalisation of each row: RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) and LayerNorm (Ba et al. 2016, arXiv 1607.06450).

// A piece of work is a nest of pairs, as `zip` makes them.
#![allow(clippy::type_complexity)]

use std::array::from_fn;

use rayon::prelude::*;

use crate::simd;

/// Rows of one piece of work, and of one partial sum over rows.
const ROWS: usize = 32;
/// Partial sums of one row: enough to fill the vectors of every processor, and the same on each.
const LANES: usize = 64;

/// RMSNorm: `y = w x / sqrt(mean(x^2) + eps)`.
///
/// `x` and `y` (N, C) with C = `c`, `weight` (C). Returns `1 / sqrt(mean(x^2) + eps)` of each row, (N), for [`rms_backward`].
///
/// # Panics
/// Where the shapes do not fit.
pub fn rms_forward(x: &[f32], c: usize, weight: &[f32], eps: f32, y: &mut [f32]) -> Vec<f32> {
    let n = rows(x, c);
    assert_eq!((weight.len(), y.len()), (c, x.len()));
    let mut inverse = vec![0.0; n];
    let piece = |((x, y), inverse): ((&[f32], &mut [f32]), &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(c).zip(y.chunks_exact_mut(c));
                for ((x, y), inverse) in rows.zip(inverse.iter_mut()) {
                    let squares = fold([x], |sum, [x]| x.mul_add(x, sum));
                    *inverse = 1.0 / (squares / c as f32 + eps).sqrt();
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * *inverse * w;
                    }
                }
            },
        );
    };
    if n <= ROWS {
        piece(((x, y), &mut inverse));
    } else {
        x.par_chunks(ROWS * c)
            .zip(y.par_chunks_mut(ROWS * c))
            .zip(inverse.par_chunks_mut(ROWS))
            .for_each(piece);
    }
    inverse
}

/// The gradients of [`rms_forward`], whose result is `inverse`. With `r` = `inverse` of a row and `g = dy w`:
///
/// ```text
/// dx = r (g - x r mean(g x r))        dw = sum over rows of dy x r
/// ```
///
/// `x`, `dy` and `dx` (N, C), `weight` and `dweight` (C). `dx` and `dweight` are overwritten, and left out where not asked for.
///
/// # Panics
/// Where the shapes do not fit.
pub fn rms_backward(
    x: &[f32],
    c: usize,
    weight: &[f32],
    inverse: &[f32],
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dweight: Option<&mut [f32]>,
) {
    let n = rows(x, c);
    assert_eq!((weight.len(), inverse.len(), dy.len()), (c, n, x.len()));
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len());
        let piece = |(((x, dy), dx), inverse): (((&[f32], &[f32]), &mut [f32]), &[f32])| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c));
                    for (((x, dy), dx), &r) in rows.zip(dx.chunks_exact_mut(c)).zip(inverse) {
                        let dot = fold([dy, weight, x], |sum, [dy, w, x]| (dy * w).mul_add(x, sum));
                        let shift = -r * (dot * r / c as f32);
                        for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                            *dx = r * x.mul_add(shift, dy * w);
                        }
                    }
                },
            );
        };
        if n <= ROWS {
            piece((((x, dy), dx), inverse));
        } else {
            x.par_chunks(ROWS * c)
                .zip(dy.par_chunks(ROWS * c))
                .zip(dx.par_chunks_mut(ROWS * c))
                .zip(inverse.par_chunks(ROWS))
                .for_each(piece);
        }
    }
    if let Some(dweight) = dweight {
        sum_rows(
            x,
            dy,
            c,
            dweight,
            #[inline(always)]
            |row| {
                let r = inverse[row];
                move |sum, x, dy| (dy * r).mul_add(x, sum)
            },
        );
    }
}

/// LayerNorm: `y = w (x - mean(x)) / sqrt(var(x) + eps) + b`, the variance being the mean of the squared deviations.
///
/// `x` and `y` (N, C) with C = `c`, `weight` and `bias` (C). Returns the mean and `1 / sqrt(var + eps)` of each row, (N) both, for
/// [`layer_backward`].
///
/// # Panics
/// Where the shapes do not fit.
pub fn layer_forward(
    x: &[f32],
    c: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let n = rows(x, c);
    assert_eq!((weight.len(), bias.len(), y.len()), (c, c, x.len()));
    let (mut mean, mut inverse) = (vec![0.0; n], vec![0.0; n]);
    let piece = |(((x, y), mean), inverse): (((&[f32], &mut [f32]), &mut [f32]), &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(c).zip(y.chunks_exact_mut(c));
                for (((x, y), mean), inverse) in rows.zip(mean.iter_mut()).zip(inverse.iter_mut()) {
                    let m = fold([x], |sum, [x]| sum + x) / c as f32;
                    let squares = fold([x], |sum, [x]| (x - m).mul_add(x - m, sum));
                    let r = 1.0 / (squares / c as f32 + eps).sqrt();
                    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                        *y = ((x - m) * r).mul_add(w, b);
                    }
                    (*mean, *inverse) = (m, r);
                }
            },
        );
    };
    if n <= ROWS {
        piece((((x, y), &mut mean), &mut inverse));
    } else {
        x.par_chunks(ROWS * c)
            .zip(y.par_chunks_mut(ROWS * c))
            .zip(mean.par_chunks_mut(ROWS))
            .zip(inverse.par_chunks_mut(ROWS))
            .for_each(piece);
    }
    (mean, inverse)
}

/// The gradients of [`layer_forward`], whose results are `mean` and `inverse`. With `z = (x - mean) inverse` and `g = dy w`:
///
/// ```text
/// dx = inverse (g - mean(g) - z mean(g z))        dw = sum over rows of dy z        db = sum over rows of dy
/// ```
///
/// `x`, `dy` and `dx` (N, C), `weight`, `dweight` and `dbias` (C). The gradients are overwritten, and left out where not asked for.
///
/// # Panics
/// Where the shapes do not fit.
#[allow(clippy::too_many_arguments)]
pub fn layer_backward(
    x: &[f32],
    c: usize,
    weight: &[f32],
    mean: &[f32],
    inverse: &[f32],
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let n = rows(x, c);
    assert_eq!((mean.len(), inverse.len()), (n, n));
    assert_eq!((weight.len(), dy.len()), (c, x.len()));
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len());
        let piece = |((((x, dy), dx), mean), inverse): (
            (((&[f32], &[f32]), &mut [f32]), &[f32]),
            &[f32],
        )| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c));
                    let rows = rows.zip(dx.chunks_exact_mut(c)).zip(mean).zip(inverse);
                    for ((((x, dy), dx), &m), &r) in rows {
                        let g = fold([dy, weight], |sum, [dy, w]| dy.mul_add(w, sum));
                        let gz = fold([dy, weight, x], |sum, [dy, w, x]| {
                            (dy * w).mul_add(x - m, sum)
                        });
                        let g = g / c as f32;
                        let shift = -r * (gz * r / c as f32);
                        for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                            *dx = r * (x - m).mul_add(shift, dy.mul_add(w, -g));
                        }
                    }
                },
            );
        };
        if n <= ROWS {
            piece(((((x, dy), dx), mean), inverse));
        } else {
            x.par_chunks(ROWS * c)
                .zip(dy.par_chunks(ROWS * c))
                .zip(dx.par_chunks_mut(ROWS * c))
                .zip(mean.par_chunks(ROWS))
                .zip(inverse.par_chunks(ROWS))
                .for_each(piece);
        }
    }
    if let Some(dweight) = dweight {
        sum_rows(
            x,
            dy,
            c,
            dweight,
            #[inline(always)]
            |row| {
                let (m, r) = (mean[row], inverse[row]);
                move |sum, x, dy| (dy * r).mul_add(x - m, sum)
            },
        );
    }
    if let Some(dbias) = dbias {
        sum_rows(
            x,
            dy,
            c,
            dbias,
            #[inline(always)]
            |_| |sum, _, dy| sum + dy,
        );
    }
}

/// The number of rows of (N, C).
fn rows(x: &[f32], c: usize) -> usize {
    assert!(
        c > 0 && x.len().is_multiple_of(c),
        "{} values in rows of {c}",
        x.len()
    );
    x.len() / c
}

/// Folds the columns of some rows of one length into [`LANES`] sums, column i into sum i % LANES, and adds these up in pairs.
#[inline(always)]
fn fold<const K: usize>(rows: [&[f32]; K], step: impl Fn(f32, [f32; K]) -> f32) -> f32 {
    let c = rows[0].len();
    let rows = rows.map(|row| row[..c].as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for i in 0..c / LANES {
        let chunks = rows.map(|(chunks, _)| &chunks[i]);
        // A new array, not a loop that writes to the old one: this stays in registers.
        sums = from_fn(|l| step(sums[l], chunks.map(|chunk| chunk[l])));
    }
    if !c.is_multiple_of(LANES) {
        let mut last = [0.0; LANES];
        for l in 0..c % LANES {
            last[l] = step(0.0, rows.map(|(_, rest)| rest[l]));
        }
        sums = from_fn(|l| sums[l] + last[l]);
    }
    let sums: [f32; 16] = from_fn(|l| (sums[l] + sums[l + 16]) + (sums[l + 32] + sums[l + 48]));
    let sums: [f32; 8] = from_fn(|l| sums[l] + sums[l + 8]);
    let sums: [f32; 4] = from_fn(|l| sums[l] + sums[l + 4]);
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

/// `out[j]` = the fold over rows i of `step(i)(sum, x[i][j], dy[i][j])`: a partial sum for each [`ROWS`] rows, added in order.
#[inline(always)]
fn sum_rows<Step: Fn(f32, f32, f32) -> f32>(
    x: &[f32],
    dy: &[f32],
    c: usize,
    out: &mut [f32],
    step: impl Fn(usize) -> Step + Sync,
) {
    assert_eq!(out.len(), c);
    let pieces = x.par_chunks(ROWS * c).zip(dy.par_chunks(ROWS * c));
    let mut partial = vec![0.0; pieces.len() * c];
    pieces
        .zip(partial.par_chunks_mut(c))
        .enumerate()
        .for_each(|(piece, ((x, dy), sum))| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c));
                    for (row, (x, dy)) in rows.enumerate() {
                        let step = step(piece * ROWS + row);
                        for ((sum, &x), &dy) in sum.iter_mut().zip(x).zip(dy) {
                            *sum = step(*sum, x, dy);
                        }
                    }
                },
            );
        });
    out.fill(0.0);
    for partial in partial.chunks_exact(c) {
        for (out, partial) in out.iter_mut().zip(partial) {
            *out += partial;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{assert_close, assert_same_on_any_threads, slopes, values, wide};
    use proptest::prelude::*;

    fn rms64(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
        let c = x.len() as f64;
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / c + eps).sqrt();
        x.iter().zip(w).map(|(x, w)| x * r * w).collect()
    }

    fn layer64(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
        let c = x.len() as f64;
        let m = x.iter().sum::<f64>() / c;
        let r = 1.0 / (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / c + eps).sqrt();
        let scaled = x.iter().zip(w).map(|(x, w)| (x - m) * r * w);
        scaled.zip(b).map(|(y, b)| y + b).collect()
    }

    fn dot(x: &[f64], y: &[f64]) -> f64 {
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    }

    /// `f` of each row of `x` and `dy` in one vector.
    fn by_row(x: &[f64], dy: &[f64], c: usize, f: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Vec<f64> {
        let rows = x.chunks(c).zip(dy.chunks(c));
        rows.flat_map(|(x, dy)| f(x, dy)).collect()
    }

    /// The sum over rows of `f`'s vectors.
    fn over_rows(
        x: &[f64],
        dy: &[f64],
        c: usize,
        f: impl Fn(&[f64], &[f64]) -> Vec<f64>,
    ) -> Vec<f64> {
        let mut sum = vec![0.0; c];
        for (x, dy) in x.chunks(c).zip(dy.chunks(c)) {
            for (sum, value) in sum.iter_mut().zip(f(x, dy)) {
                *sum += value;
            }
        }
        sum
    }

    // More rows than a piece has, and more columns than lanes.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Forward is the formula, backward its slope, whichever gradients are asked for.
        #[test]
        fn rms_is_the_formula_and_its_slope(n in 0usize..70, c in 1usize..150, seed: u64) {
            let (x, w, dy) = (values(seed, n * c), values(seed ^ 1, c), values(seed ^ 2, n * c));
            let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
            let eps = 1e-2;
            let mut y = vec![f32::NAN; n * c];
            let inverse = rms_forward(&x, c, &w, eps, &mut y);
            let eps = f64::from(eps);
            assert_close(&y, &by_row(&x64, &dy64, c, |x, _| rms64(x, &w64, eps)), 2e-6);

            let (mut dx, mut dw) = (vec![f32::NAN; n * c], vec![f32::NAN; c]);
            rms_backward(&x, c, &w, &inverse, &dy, Some(&mut dx), Some(&mut dw));
            let expected = by_row(&x64, &dy64, c, |x, dy| slopes(x, |x| dot(dy, &rms64(x, &w64, eps))));
            assert_close(&dx, &expected, 1e-5);
            let expected = over_rows(&x64, &dy64, c, |x, dy| slopes(&w64, |w| dot(dy, &rms64(x, w, eps))));
            assert_close(&dw, &expected, 2e-5);

            let (mut only_dx, mut only_dw) = (vec![f32::NAN; n * c], vec![f32::NAN; c]);
            rms_backward(&x, c, &w, &inverse, &dy, Some(&mut only_dx), None);
            rms_backward(&x, c, &w, &inverse, &dy, None, Some(&mut only_dw));
            prop_assert!(only_dx == dx && only_dw == dw);
        }

        /// As above, for LayerNorm.
        #[test]
        fn layer_is_the_formula_and_its_slope(n in 0usize..70, c in 1usize..150, seed: u64) {
            let (x, w, dy) = (values(seed, n * c), values(seed ^ 1, c), values(seed ^ 2, n * c));
            let b = values(seed ^ 3, c);
            let (x64, w64, b64, dy64) = (wide(&x), wide(&w), wide(&b), wide(&dy));
            let eps = 1e-2;
            let mut y = vec![f32::NAN; n * c];
            let (mean, inverse) = layer_forward(&x, c, &w, &b, eps, &mut y);
            let eps = f64::from(eps);
            assert_close(&y, &by_row(&x64, &dy64, c, |x, _| layer64(x, &w64, &b64, eps)), 1e-5);

            let (mut dx, mut dw, mut db) = (vec![f32::NAN; n * c], vec![f32::NAN; c], vec![f32::NAN; c]);
            let gradients = (Some(&mut dx[..]), Some(&mut dw[..]), Some(&mut db[..]));
            layer_backward(&x, c, &w, &mean, &inverse, &dy, gradients.0, gradients.1, gradients.2);
            let expected = by_row(&x64, &dy64, c, |x, dy| slopes(x, |x| dot(dy, &layer64(x, &w64, &b64, eps))));
            assert_close(&dx, &expected, 1e-4);
            let expected = over_rows(&x64, &dy64, c, |x, dy| slopes(&w64, |w| dot(dy, &layer64(x, w, &b64, eps))));
            assert_close(&dw, &expected, 2e-5);
            let expected = over_rows(&x64, &dy64, c, |x, dy| slopes(&b64, |b| dot(dy, &layer64(x, &w64, b, eps))));
            assert_close(&db, &expected, 2e-5);
        }
    }

    /// A record can be made again on a machine with other cores.
    #[test]
    fn threads_do_not_change_a_bit() {
        let (n, c) = (200, 100);
        let (x, w, dy) = (values(1, n * c), values(2, c), values(3, n * c));
        assert_same_on_any_threads(|| {
            let (mut y, mut z) = (vec![0.0; n * c], vec![0.0; n * c]);
            let (mut dx, mut dz) = (vec![0.0; n * c], vec![0.0; n * c]);
            let (mut dw, mut du, mut db) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
            let inverse = rms_forward(&x, c, &w, 1e-5, &mut y);
            rms_backward(&x, c, &w, &inverse, &dy, Some(&mut dx), Some(&mut dw));
            let (mean, inverse) = layer_forward(&x, c, &w, &w, 1e-5, &mut z);
            let gradients = (Some(&mut dz[..]), Some(&mut du[..]), Some(&mut db[..]));
            layer_backward(
                &x,
                c,
                &w,
                &mean,
                &inverse,
                &dy,
                gradients.0,
                gradients.1,
                gradients.2,
            );
            [y, dx, dw, z, dz, du, db].concat()
        });
    }

    /// The variance is taken about the mean: a mean of squares less the square of the mean would have no digit left.
    #[test]
    fn a_large_mean_leaves_the_deviations() {
        let c = 4096;
        let x: Vec<f32> = (0..c).map(|i| 1000.0 + (i % 2) as f32).collect();
        let mut y = vec![0.0; c];
        let (mean, inverse) = layer_forward(&x, c, &vec![1.0; c], &vec![0.0; c], 0.0, &mut y);
        assert_eq!((mean[0], inverse[0]), (1000.5, 2.0));
        assert_eq!(y[..4], [-1.0, 1.0, -1.0, 1.0]);
    }
}
