//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467, equation 4): y = x / sqrt(mean(x^2) + eps) * w.

use tch::{Kind, Tensor, no_grad};

/// `x` (N, C), `w` (C) or (1, C) -> y (N, C) and 1/rms (N, 1).
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> (Tensor, Tensor) {
    no_grad(|| {
        let c = x.size()[1];
        let mut inverse = x.norm_scalaropt_dim(2, [1i64].as_slice(), true);
        let _ = inverse.square_();
        let _ = inverse.g_mul_scalar_(1.0 / c as f64);
        let _ = inverse.g_add_scalar_(eps);
        let _ = inverse.rsqrt_();
        let mut y = x * &inverse;
        let _ = y.g_mul_(&w.view([1, c]));
        (y, inverse)
    })
}

/// dx (N, C) = r g - r^3 / C <g, x> x with g = w dy and r = 1/rms.
pub fn backward(x: &Tensor, w: &Tensor, inverse: &Tensor, dy: &Tensor) -> Tensor {
    no_grad(|| {
        let c = x.size()[1];
        let mut dx = dy * w.view([1, c]);
        let mut slope = Tensor::linalg_vecdot(&dx, x, 1).unsqueeze(1);
        let _ = slope.g_mul_(&(inverse.pow_tensor_scalar(3) * (-1.0 / c as f64)));
        let _ = dx.g_mul_(inverse);
        let _ = dx.addcmul_(x, &slope);
        dx
    })
}

/// dw (C): the sum over the rows of dy x / rms.
pub fn weight_gradient(x: &Tensor, inverse: &Tensor, dy: &Tensor) -> Tensor {
    no_grad(|| {
        let mut sum = x * inverse;
        let _ = sum.g_mul_(dy);
        sum.sum_dim_intlist([0i64].as_slice(), false, None::<Kind>)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// Both passes against the plain formula and torch's derivative of it.
    #[test]
    fn follows_the_formula() {
        let (x, w, dy) = (random(&[7, 24], 1), random(&[24], 2), random(&[7, 24], 3));
        let eps = 1e-5;
        let plain = |v: &[Tensor]| {
            let mean = (&v[0] * &v[0]).mean_dim([1i64].as_slice(), true, Kind::Float);
            &v[0] * (mean + eps).rsqrt() * &v[1]
        };
        let (expected, d) = gradients(&[&x, &w], &dy, plain);
        let (y, inverse) = forward(&x, &w, eps);
        assert_close(&y, &expected, 1e-5);
        assert_close(&backward(&x, &w, &inverse, &dy), &d[0], 1e-5);
        assert_close(&weight_gradient(&x, &inverse, &dy), &d[1], 1e-5);
    }
}
