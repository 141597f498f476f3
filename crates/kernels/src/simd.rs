//! Vectors of the width that the processor has, found out at run time.

use std::f32::consts::{FRAC_2_SQRT_PI, LOG2_E};

use pulp::{Simd, WithSimd};

/// Runs `op` compiled for the widest vectors of this processor: AVX-512, AVX2, Neon, or none.
///
/// Plain loops vectorise too: a `#[inline(always)] ||` closure is compiled for each of them, and so are the functions that it
/// calls if they are `#[inline(always)]` or small.
#[inline(always)]
pub fn dispatch<R>(op: impl FnMut() -> R) -> R {
    vectorize(Inline(op))
}

/// [`dispatch`] for code that names its vectors.
#[inline(always)]
pub fn vectorize<Op: WithSimd>(op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // Not `pulp::Arch`: it knows AVX2 only with a feature that burn-flex leaves off.
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Simd::vectorize(simd, op);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Simd::vectorize(simd, op);
        }
    }
    pulp::Arch::new().dispatch(op)
}

/// `FnMut` where pulp takes `FnOnce`: the compiler calls a closure as `FnOnce` through a shim that is not `#[inline(always)]`. A
/// longer closure was then compiled once, without any vectors, and ran a hundred times slower.
struct Inline<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Inline<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

// The functions below have no branches, tables or calls: a plain loop over them inside [`dispatch`] becomes vector code.
// Every step is a single IEEE operation (`mul_add` is one), so the bits are the same on every processor. Their coefficients are
// minimax fits in double precision. NaN stays NaN: `clamp` and the comparisons below keep it, `f32::min` would not.

/// Twice the bias of an exponent: the sum of the biases of two powers of two whose product is 2^n.
const BIAS: u32 = 254;
/// Adding 1.5 * 2^23 rounds to an integer n, which then is in the low bits; this one leaves n + [`BIAS`] there.
const ROUND: f32 = 12_582_912.0 + BIAS as f32;
/// ln 2 in two parts: a multiple of the first is exact for every exponent in use.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// (b, q) with e^x = 2^n (1 + q), where n = round(x / ln 2) and q = e^r - 1 of the rest |r| <= ln(2) / 2. The low nine bits of b
/// are those of n + [`BIAS`]. For |x| < 2^20.
#[inline(always)]
fn reduce(x: f32) -> (u32, f32) {
    let rounded = x.mul_add(LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let p = 1.381_459_9e-3_f32
        .mul_add(r, 8.368_717_5e-3)
        .mul_add(r, 4.166_839e-2)
        .mul_add(r, 0.166_665_21)
        .mul_add(r, 0.499_999_94);
    (rounded.to_bits(), (r * r).mul_add(p, r))
}

/// 2^(e - 127) for the low nine bits e of `biased`, if e < 255.
#[inline(always)]
fn power_of_two(biased: u32) -> f32 {
    f32::from_bits(biased << 23)
}

/// e^x, to 1.2e-7 of its value; 0 below -104, infinite above 88.73.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (bits, q) = reduce(x.clamp(-104.0, 89.0));
    // 2^n as the product of two: alone it would leave the range of f32 at both ends.
    let half = bits >> 1;
    let scale = power_of_two(half);
    scale.mul_add(q, scale) * power_of_two(bits.wrapping_sub(half))
}

/// The logistic function 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, to 3e-7 of its value: with m = e^(2|x|) - 1, which keeps its digits near 0, it is m / (m + 2).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // From 9.02 on it rounds to 1.
    let (bits, q) = reduce(2.0 * x.abs().clamp(0.0, 10.0));
    let scale = power_of_two(bits.wrapping_sub(BIAS / 2));
    let m = scale.mul_add(q, scale - 1.0);
    (m / (m + 2.0)).copysign(x)
}

/// The error function, to 4e-7 of its value: x P(x^2) / Q(x^2) with positive coefficients, so that nothing cancels.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    // From 3.92 on it rounds to 1.
    let x = x.clamp(-4.0, 4.0);
    let t = x * x;
    let p = 1.986_766_7e-6_f32
        .mul_add(t, 2.845_657_2e-4)
        .mul_add(t, 3.883_372_2e-3)
        .mul_add(t, 5.310_183_4e-2)
        .mul_add(t, 0.193_545_85)
        .mul_add(t, FRAC_2_SQRT_PI);
    let q = 3.742_000_1e-5_f32
        .mul_add(t, 1.185_576_4e-3)
        .mul_add(t, 1.520_730_9e-2)
        .mul_add(t, 0.115_350_306)
        .mul_add(t, 0.504_858_1)
        .mul_add(t, 1.0);
    (x * p / q).clamp(-1.0, 1.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// `f` of many values, through the vector code of this processor.
    macro_rules! map {
        ($f:expr, $x:expr) => {{
            let x: &[f32] = $x;
            let mut y = vec![0.0; x.len()];
            dispatch(
                #[inline(always)]
                || {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = $f(x);
                    }
                },
            );
            y
        }};
    }

    /// Values in -2..2 that depend on the seed.
    pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| random.random_range(-2.0..2.0)).collect()
    }

    pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x)).collect()
    }

    /// The central difference of `f` along each coordinate.
    pub(crate) fn slopes(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let (mut x, h) = (at.to_vec(), 1e-5);
        (0..at.len())
            .map(|i| {
                x[i] = at[i] + h;
                let above = f(&x);
                x[i] = at[i] - h;
                let below = f(&x);
                x[i] = at[i];
                (above - below) / (2.0 * h)
            })
            .collect()
    }

    /// Fails where a value is further off than `tolerance`, taken relative to the larger of it and 1.
    pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(actual.len(), expected.len());
        for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
            let error = (f64::from(a) - e).abs() / e.abs().max(1.0);
            assert!(error <= tolerance, "at {i}: {a} for {e}");
        }
    }

    /// Fails unless `f` gives the same bits with one, two and four threads.
    pub(crate) fn assert_same_on_any_threads(f: impl Fn() -> Vec<f32> + Sync) {
        let bits = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let y = pool.expect("a pool").install(&f);
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = bits(1);
        assert_eq!(one, bits(2));
        assert_eq!(one, bits(4));
    }

    /// Every 1009th float between the two, by size, with both signs.
    fn floats(from: f32, to: f32) -> Vec<f32> {
        (from.to_bits()..=to.to_bits())
            .step_by(1009)
            .map(f32::from_bits)
            .flat_map(|x| [x, -x])
            .collect()
    }

    /// The error function by its Taylor series, or by the continued fraction of its complement where that is small.
    pub(crate) fn erf64(x: f64) -> f64 {
        let a = x.abs();
        let value = if a < 2.5 {
            let (mut term, mut sum) = (a, a);
            for n in 1..80 {
                term *= -a * a / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let fraction = (1..=60)
                .rev()
                .fold(a, |tail, k| a + f64::from(k) / 2.0 / tail);
            1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
        };
        value.copysign(x)
    }

    /// The largest |y - f(x)| / |f(x)| where f(x) is a normal f32.
    fn worst(x: &[f32], y: &[f32], f: impl Fn(f64) -> f64) -> f64 {
        x.iter()
            .zip(y)
            .map(|(&x, &y)| (f64::from(y), f(f64::from(x))))
            .filter(|(_, expected)| expected.abs() >= f64::from(f32::MIN_POSITIVE))
            .map(|(y, expected)| ((y - expected) / expected).abs())
            .fold(0.0, f64::max)
    }

    /// Softmax and the losses rest on it, over the whole range and at its ends.
    #[test]
    fn exp_is_exact_to_an_ulp() {
        let x = floats(1e-30, 88.72);
        let error = worst(&x, &map!(exp, &x), f64::exp);
        assert!(error <= 1.2e-7, "{error:e}");
        let ends = [f32::NEG_INFINITY, f32::MIN, -1e9, -110.0, -0.0, 0.0];
        assert_eq!(map!(exp, &ends), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        let ends = [88.73, 1e9, f32::MAX, f32::INFINITY];
        assert_eq!(map!(exp, &ends), [f32::INFINITY; 4]);
        assert!(map!(exp, &[f32::NAN; 17]).iter().all(|y| y.is_nan()));
        // Below the normal numbers: the nearest of the few values that are left, or its neighbour.
        let x: Vec<f32> = (87_340..104_500).map(|i| i as f32 / -1000.0).collect();
        for (&x, y) in x.iter().zip(map!(exp, &x)) {
            let error = (f64::from(y) - f64::from(x).exp()).abs();
            assert!(error <= 1.01 * f64::from(f32::from_bits(1)), "{x}");
        }
    }

    #[test]
    fn sigmoid_is_exact_to_two_ulps() {
        let x = floats(1e-30, 87.0);
        let error = worst(&x, &map!(sigmoid, &x), |x| 1.0 / (1.0 + (-x).exp()));
        assert!(error <= 2.5e-7, "{error:e}");
        let ends = [f32::NEG_INFINITY, f32::MIN, f32::MAX, f32::INFINITY];
        assert_eq!(map!(sigmoid, &ends), [0.0, 0.0, 1.0, 1.0]);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_keeps_its_digits() {
        let x = floats(1e-30, 20.0);
        let error = worst(&x, &map!(tanh, &x), f64::tanh);
        assert!(error <= 3e-7, "{error:e}");
        let ends = [f32::NEG_INFINITY, f32::MIN, 0.0, f32::MAX, f32::INFINITY];
        assert_eq!(map!(tanh, &ends), [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_keeps_its_digits() {
        let x = floats(1e-30, 8.0);
        let error = worst(&x, &map!(erf, &x), erf64);
        assert!(error <= 4e-7, "{error:e}");
        assert!((erf64(1.0) - 0.842_700_792_949_714_9).abs() < 1e-15);
        assert!((1.0 - erf64(3.0) - 2.209_049_699_858_544e-5).abs() < 1e-16);
        let ends = [f32::NEG_INFINITY, f32::MIN, 0.0, f32::MAX, f32::INFINITY];
        assert_eq!(map!(erf, &ends), [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert!(erf(f32::NAN).is_nan());
    }

    /// The same input gives the same bits on every processor: the plain code is the reference of the vector code.
    #[test]
    fn vectors_equal_scalars() {
        let x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.031_25).collect();
        let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        for (vector, scalar) in [
            (map!(exp, &x), exp as fn(f32) -> f32),
            (map!(sigmoid, &x), sigmoid),
            (map!(tanh, &x), tanh),
            (map!(erf, &x), erf),
        ] {
            let scalar = x.iter().map(|&x| scalar(x)).collect();
            assert_eq!(bits(vector), bits(scalar));
        }
    }
}
