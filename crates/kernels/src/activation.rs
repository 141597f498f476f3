//! Activations of the feed-forward network: SwiGLU (Shazeer 2020, arXiv 2002.05202) and both forms of GELU (Hendrycks and Gimpel
//! 2016, arXiv 1606.08415).

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use rayon::prelude::*;

use crate::simd;

/// Rows of one piece of work.
const ROWS: usize = 32;
/// Values of one piece of work where there are no rows.
const VALUES: usize = 1 << 14;

/// SwiGLU without its projections: `y = silu(gate) up`, where `silu(g) = g sigmoid(g)`.
///
/// `gate_up` (N, 2F): in each row F = `f` values of the gate, then F of up. `y` (N, F).
///
/// # Panics
/// Where the shapes do not fit.
pub fn swiglu_forward(gate_up: &[f32], f: usize, y: &mut [f32]) {
    assert!(
        f > 0 && y.len().is_multiple_of(f),
        "{} values in rows of {f}",
        y.len()
    );
    assert_eq!(gate_up.len(), 2 * y.len());
    let piece = |(gate_up, y): (&[f32], &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (row, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
                    let (gate, up) = row.split_at(f);
                    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                        *y = g * simd::sigmoid(g) * u;
                    }
                }
            },
        );
    };
    if y.len() <= ROWS * f {
        piece((gate_up, y));
    } else {
        gate_up
            .par_chunks(2 * ROWS * f)
            .zip(y.par_chunks_mut(ROWS * f))
            .for_each(piece);
    }
}

/// The gradient of [`swiglu_forward`]: with `s = sigmoid(gate)`, which is computed again,
///
/// ```text
/// dgate = dy up (s + gate s (1 - s))        dup = dy gate s
/// ```
///
/// `gate_up` and `dgate_up` (N, 2F), `dy` (N, F). `dgate_up` is overwritten.
///
/// # Panics
/// Where the shapes do not fit.
pub fn swiglu_backward(gate_up: &[f32], f: usize, dy: &[f32], dgate_up: &mut [f32]) {
    assert!(
        f > 0 && dy.len().is_multiple_of(f),
        "{} values in rows of {f}",
        dy.len()
    );
    assert_eq!(
        (gate_up.len(), dgate_up.len()),
        (2 * dy.len(), 2 * dy.len())
    );
    let piece = |((gate_up, dy), dgate_up): ((&[f32], &[f32]), &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                let rows = gate_up.chunks_exact(2 * f).zip(dy.chunks_exact(f));
                for ((row, dy), drow) in rows.zip(dgate_up.chunks_exact_mut(2 * f)) {
                    let (gate, up) = row.split_at(f);
                    let (dgate, dup) = drow.split_at_mut(f);
                    let inputs = gate.iter().zip(up).zip(dy);
                    for ((dgate, dup), ((&g, &u), &dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
                        let s = simd::sigmoid(g);
                        let silu = g * s;
                        *dgate = dy * u * silu.mul_add(1.0 - s, s);
                        *dup = dy * silu;
                    }
                }
            },
        );
    };
    if dy.len() <= ROWS * f {
        piece(((gate_up, dy), dgate_up));
    } else {
        gate_up
            .par_chunks(2 * ROWS * f)
            .zip(dy.par_chunks(ROWS * f))
            .zip(dgate_up.par_chunks_mut(2 * ROWS * f))
            .for_each(piece);
    }
}

/// The exact GELU: `y = x (1 + erf(x / sqrt 2)) / 2`, value by value.
///
/// # Panics
/// Where the lengths differ.
pub fn gelu_forward(x: &[f32], y: &mut [f32]) {
    map(
        x,
        y,
        #[inline(always)]
        |x| 0.5 * x * (1.0 + simd::erf(x * FRAC_1_SQRT_2)),
    );
}

/// The gradient of [`gelu_forward`]: `dx = dy ((1 + erf(x / sqrt 2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi))`. `dx` is overwritten.
///
/// # Panics
/// Where the lengths differ.
pub fn gelu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    const FRAC_1_SQRT_2_PI: f32 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    map_gradient(
        x,
        dy,
        dx,
        #[inline(always)]
        |x| {
            let below = 0.5 * (1.0 + simd::erf(x * FRAC_1_SQRT_2));
            let density = FRAC_1_SQRT_2_PI * simd::exp(-0.5 * x * x);
            x.mul_add(density, below)
        },
    );
}

/// 2 u of the tanh form is `x (SLOPE + CUBIC x^2)`: 2 sqrt(2 / pi) and 0.044715 of it.
const SLOPE: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const CUBIC: f32 = 0.044_715 * SLOPE;

/// GELU by the hyperbolic tangent: `y = x (1 + tanh u) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, value by value.
///
/// `(1 + tanh u) / 2` is `sigmoid(2 u)`, which keeps its digits where tanh u nears -1.
///
/// # Panics
/// Where the lengths differ.
pub fn gelu_tanh_forward(x: &[f32], y: &mut [f32]) {
    map(
        x,
        y,
        #[inline(always)]
        |x| x * simd::sigmoid(x * (CUBIC * x).mul_add(x, SLOPE)),
    );
}

/// The gradient of [`gelu_tanh_forward`]: with `s = sigmoid(2 u)`, `dx = dy (s + x s (1 - s) 2 du/dx)` and
/// `du/dx = sqrt(2 / pi) (1 + 3 0.044715 x^2)`. `dx` is overwritten.
///
/// # Panics
/// Where the lengths differ.
pub fn gelu_tanh_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    map_gradient(
        x,
        dy,
        dx,
        #[inline(always)]
        |x| {
            // Beyond, s (1 - s) is 0; x^2 would become infinite and their product not a number.
            let x = x.clamp(-16.0, 16.0);
            let twice = x * (CUBIC * x).mul_add(x, SLOPE);
            // s (1 - s) is the same on both sides of 0; 1 - s would lose its digits on one.
            let e = simd::exp(-twice.abs());
            let above = 1.0 / (1.0 + e);
            let s = if x < 0.0 { e * above } else { above };
            (x * e * above * above).mul_add((3.0 * CUBIC * x).mul_add(x, SLOPE), s)
        },
    );
}

/// `y = f(x)`
#[inline(always)]
fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len());
    let piece = |(x, y): (&[f32], &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = f(x);
                }
            },
        );
    };
    if x.len() <= VALUES {
        piece((x, y));
    } else {
        x.par_chunks(VALUES)
            .zip(y.par_chunks_mut(VALUES))
            .for_each(piece);
    }
}

/// `dx = dy f'(x)`, given the derivative.
#[inline(always)]
fn map_gradient(x: &[f32], dy: &[f32], dx: &mut [f32], derivative: impl Fn(f32) -> f32 + Sync) {
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()));
    let piece = |((x, dy), dx): ((&[f32], &[f32]), &mut [f32])| {
        simd::dispatch(
            #[inline(always)]
            || {
                for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = dy * derivative(x);
                }
            },
        );
    };
    if x.len() <= VALUES {
        piece(((x, dy), dx));
    } else {
        x.par_chunks(VALUES)
            .zip(dy.par_chunks(VALUES))
            .zip(dx.par_chunks_mut(VALUES))
            .for_each(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{
        assert_close, assert_same_on_any_threads, erf64, slopes, values, wide,
    };
    use proptest::prelude::*;

    fn silu64(g: f64) -> f64 {
        g / (1.0 + (-g).exp())
    }

    fn gelu64(x: f64) -> f64 {
        0.5 * x * (1.0 + erf64(x / 2f64.sqrt()))
    }

    fn gelu_tanh64(x: f64) -> f64 {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    }

    proptest! {
        /// Forward is the formula, backward its slope.
        #[test]
        fn swiglu_is_the_formula_and_its_slope(n in 0usize..70, f in 1usize..40, seed: u64) {
            let mut gate_up = values(seed, n * 2 * f);
            // To where the sigmoid is flat on both sides.
            gate_up.iter_mut().for_each(|x| *x *= 8.0);
            let (x64, dy) = (wide(&gate_up), values(seed ^ 1, n * f));
            let mut y = vec![f32::NAN; n * f];
            swiglu_forward(&gate_up, f, &mut y);
            let gate = |i: usize| i / f * 2 * f + i % f;
            let expected: Vec<f64> = (0..n * f).map(|i| silu64(x64[gate(i)]) * x64[gate(i) + f]).collect();
            assert_close(&y, &expected, 5e-7);

            let mut dgate_up = vec![f32::NAN; n * 2 * f];
            swiglu_backward(&gate_up, f, &dy, &mut dgate_up);
            let mut expected = vec![0.0; n * 2 * f];
            for (i, &dy) in dy.iter().enumerate() {
                let at = [x64[gate(i)], x64[gate(i) + f]];
                let slope = slopes(&at, |x| f64::from(dy) * silu64(x[0]) * x[1]);
                (expected[gate(i)], expected[gate(i) + f]) = (slope[0], slope[1]);
            }
            assert_close(&dgate_up, &expected, 2e-6);
        }
    }

    /// The whole range in which they bend, in more than one piece; and lengths that do not fill a vector.
    #[test]
    fn gelus_are_the_formulas_and_their_slopes() {
        for len in [0, 1, 17, 3 * VALUES + 5] {
            let x: Vec<f32> = (0..len)
                .map(|i| (i as f32 * 0.618).fract() * 24.0 - 12.0)
                .collect();
            let dy = values(4, len);
            let (mut y, mut dx) = (vec![f32::NAN; len], vec![f32::NAN; len]);
            let map = |f: fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).collect::<Vec<_>>();
            let slope = |f: fn(f64) -> f64| -> Vec<f64> {
                let both = x.iter().zip(&dy);
                both.map(|(&x, &dy)| f64::from(dy) * slopes(&[f64::from(x)], |x| f(x[0]))[0])
                    .collect()
            };
            gelu_forward(&x, &mut y);
            assert_close(&y, &map(gelu64), 1e-6);
            gelu_backward(&x, &dy, &mut dx);
            assert_close(&dx, &slope(gelu64), 2e-6);
            gelu_tanh_forward(&x, &mut y);
            assert_close(&y, &map(gelu_tanh64), 1e-6);
            gelu_tanh_backward(&x, &dy, &mut dx);
            assert_close(&dx, &slope(gelu_tanh64), 2e-6);
        }
    }

    /// A run that diverges must show its own values, not those of a formula out of its range.
    #[test]
    fn large_values_stay_numbers() {
        let x = [-f32::MAX, -1e20, -100.0, 100.0, 1e20, f32::MAX];
        let (relu, step) = (
            [0.0, 0.0, 0.0, 100.0, 1e20, f32::MAX],
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        );
        let mut y = [f32::NAN; 6];
        let ones = [1.0; 6];
        for (forward, backward) in [
            (
                gelu_forward as fn(&[f32], &mut [f32]),
                gelu_backward as fn(&[f32], &[f32], &mut [f32]),
            ),
            (gelu_tanh_forward, gelu_tanh_backward),
        ] {
            forward(&x, &mut y);
            assert_eq!(y, relu);
            backward(&x, &ones, &mut y);
            assert_eq!(y, step);
        }
        for ((x, relu), step) in x.into_iter().zip(relu).zip(step) {
            let (mut y, mut d) = ([f32::NAN], [f32::NAN; 2]);
            swiglu_forward(&[x, 1.0], 1, &mut y);
            swiglu_backward(&[x, 1.0], 1, &[1.0], &mut d);
            // silu(-100) is -4e-42.
            assert!(
                (y[0] - relu).abs() < 1e-40
                    && (d[0] - step).abs() < 1e-40
                    && (d[1] - relu).abs() < 1e-40
            );
        }
    }

    /// A record can be made again on a machine with other cores.
    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, dy) = (values(1, 2 * 200 * 300), values(2, 200 * 300));
        assert_same_on_any_threads(|| {
            let mut y = vec![vec![0.0; 200 * 300]; 5];
            let mut d = vec![0.0; 2 * 200 * 300];
            swiglu_forward(&x, 300, &mut y[0]);
            swiglu_backward(&x, 300, &dy, &mut d);
            gelu_forward(&dy, &mut y[1]);
            gelu_backward(&x[..dy.len()], &dy, &mut y[2]);
            gelu_tanh_forward(&dy, &mut y[3]);
            gelu_tanh_backward(&x[..dy.len()], &dy, &mut y[4]);
            [y.concat(), d].concat()
        });
    }
}
