//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), with the pairs of Hugging Face's `rotate_half`: value i of a
//! head turns with value i + D/2, not with its neighbour.

use rayon::prelude::*;

use crate::simd;

/// Rows of one piece of work.
const ROWS: usize = 32;

/// Turns the first `heads` heads of each row in place: for i < D/2, with c = `cos[n][i]` and s = `sin[n][i]`,
///
/// ```text
/// y[i]       = x[i] c - x[i + D/2] s
/// y[i + D/2] = x[i + D/2] c + x[i] s
/// ```
///
/// `inverse` applies the transpose (s becomes -s), which takes the gradient of y to that of x, and undoes the rotation where
/// c^2 + s^2 = 1. `x` (N, `width`), D = `size`, `cos` and `sin` (N, D/2).
///
/// # Panics
/// Where the shapes do not fit.
pub fn rotate(
    x: &mut [f32],
    width: usize,
    heads: usize,
    size: usize,
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "{} values in rows of {width}",
        x.len()
    );
    assert!(
        size.is_multiple_of(2) && heads * size <= width,
        "{heads} heads of {size} in rows of {width}"
    );
    let (n, half) = (x.len() / width, size / 2);
    assert_eq!((cos.len(), sin.len()), (n * half, n * half));
    if heads * half == 0 {
        return;
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let piece = |((x, cos), sin): ((&mut [f32], &[f32]), &[f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
                    for head in row.chunks_exact_mut(size).take(heads) {
                        let (low, high) = head.split_at_mut(half);
                        let pairs = low.iter_mut().zip(high);
                        for (((low, high), &cos), &sin) in pairs.zip(cos).zip(sin) {
                            let (x, y, s) = (*low, *high, sign * sin);
                            *low = x.mul_add(cos, -(y * s));
                            *high = y.mul_add(cos, x * s);
                        }
                    }
                }
            },
        );
    };
    if n <= ROWS {
        piece(((x, cos), sin));
    } else {
        x.par_chunks_mut(ROWS * width)
            .zip(cos.par_chunks(ROWS * half))
            .zip(sin.par_chunks(ROWS * half))
            .for_each(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{assert_close, assert_same_on_any_threads, values};
    use proptest::prelude::*;

    /// cos and sin (N, D/2) of positions 0..n.
    fn angles(n: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
        let angle = |i: usize| {
            let frequency = 10_000f64.powf(-((i % half) as f64) / half as f64);
            (i / half) as f64 * frequency
        };
        let turn = |i| (angle(i).cos() as f32, angle(i).sin() as f32);
        (0..n * half).map(turn).unzip()
    }

    proptest! {
        /// rotate_half in double precision; the heads after the first ones (the values) stay as they are, position 0 too, and
        /// the inverse undoes it.
        #[test]
        fn turns_the_first_heads(n in 0usize..70, heads in 0usize..4, others in 0usize..3, pad in 0usize..3, half in 1usize..20, seed: u64) {
            let size = 2 * half;
            let width = (heads + others) * size + pad;
            prop_assume!(width > 0);
            let x = values(seed, n * width);
            let (cos, sin) = angles(n, half);
            let mut y = x.clone();
            rotate(&mut y, width, heads, size, &cos, &sin, false);
            let expected: Vec<f64> = (0..n * width).map(|i| {
                let (row, column) = (i / width, i % width);
                if column >= heads * size {
                    return f64::from(x[i]);
                }
                let d = column % size;
                // rotate_half(x) = (-x[D/2..], x[..D/2])
                let turned = if d < half { -x[i + half] } else { x[i - half] };
                let angle = row * half + d % half;
                f64::from(x[i]) * f64::from(cos[angle]) + f64::from(turned) * f64::from(sin[angle])
            }).collect();
            assert_close(&y, &expected, 5e-7);
            let first = width.min(x.len());
            prop_assert_eq!(&x[..first], &y[..first]);
            for (x, y) in x.chunks(width).zip(y.chunks(width)) {
                prop_assert_eq!(&x[heads * size..], &y[heads * size..]);
            }
            rotate(&mut y, width, heads, size, &cos, &sin, true);
            let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            assert_close(&y, &x, 1e-6);
        }

        /// The inverse is the gradient: dy . R(x) = R'(dy) . x, also where the tables carry a factor, as YaRN's do.
        #[test]
        fn inverse_is_the_transpose(n in 1usize..40, half in 1usize..20, seed: u64) {
            let (x, dy) = (values(seed, n * 2 * half), values(seed ^ 1, n * 2 * half));
            let (cos, sin) = (values(seed ^ 2, n * half), values(seed ^ 3, n * half));
            let (mut y, mut dx) = (x.clone(), dy.clone());
            rotate(&mut y, 2 * half, 1, 2 * half, &cos, &sin, false);
            rotate(&mut dx, 2 * half, 1, 2 * half, &cos, &sin, true);
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
            };
            let (left, right) = (dot(&dy, &y), dot(&dx, &x));
            prop_assert!((left - right).abs() < 1e-6 * x.len() as f64 + 1e-5, "{} {}", left, right);
        }
    }

    /// A record can be made again on a machine with other cores.
    #[test]
    fn threads_do_not_change_a_bit() {
        let (cos, sin) = angles(200, 16);
        let x = values(1, 200 * 96);
        assert_same_on_any_threads(|| {
            let mut y = x.clone();
            rotate(&mut y, 96, 2, 32, &cos, &sin, false);
            y
        });
    }
}
