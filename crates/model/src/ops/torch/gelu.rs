//! GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2): x Phi(x), or the approximation of it by tanh.

use tch::{Tensor, no_grad};

fn approximation(tanh: bool) -> &'static str {
    if tanh { "tanh" } else { "none" }
}

/// Of any shape.
pub fn forward(x: &Tensor, tanh: bool) -> Tensor {
    no_grad(|| x.gelu(approximation(tanh)))
}

/// dx, of the shape of `x` and `dy`.
pub fn backward(x: &Tensor, dy: &Tensor, tanh: bool) -> Tensor {
    no_grad(|| x.gelu_backward(dy, approximation(tanh)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// The two forms, which a model's configuration tells apart, against the formulas.
    #[test]
    fn follows_the_formulas() {
        let (x, dy) = (random(&[5, 11], 1) * 3.0, random(&[5, 11], 2));
        let exact = |v: &[Tensor]| &v[0] * 0.5 * ((&v[0] / 2f64.sqrt()).erf() + 1.0);
        let tanh = |v: &[Tensor]| {
            let inner: Tensor = (v[0].pow_tensor_scalar(3) * 0.044715 + &v[0])
                * (2.0 / std::f64::consts::PI).sqrt();
            &v[0] * 0.5 * (inner.tanh() + 1.0)
        };
        for (form, expected) in [
            (false, gradients(&[&x], &dy, exact)),
            (true, gradients(&[&x], &dy, tanh)),
        ] {
            assert_close(&forward(&x, form), &expected.0, 1e-6);
            assert_close(&backward(&x, &dy, form), &expected.1[0], 1e-6);
        }
    }
}
