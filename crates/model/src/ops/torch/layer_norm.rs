//! LayerNorm (Ba et al., arXiv 1607.06450, equation 4): y = (x - mean) / sqrt(variance + eps) * w + b.

use tch::{Kind, Tensor, no_grad};

/// `x` (N, C), `w` and `b` (C) or (1, C) -> y (N, C), mean (N, 1), 1 / standard deviation (N, 1).
pub fn forward(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> (Tensor, Tensor, Tensor) {
    no_grad(|| x.native_layer_norm([x.size()[1]], Some(w.view([-1])), Some(b.view([-1])), eps))
}

/// dx (N, C) = r (g - mean(g) - h mean(g h)) with g = w dy, h = (x - mean) r and r = 1 / standard deviation.
pub fn backward(x: &Tensor, w: &Tensor, mean: &Tensor, inverse: &Tensor, dy: &Tensor) -> Tensor {
    no_grad(|| {
        let average = |t: &Tensor| t.mean_dim([1i64].as_slice(), true, None::<Kind>);
        let h = normalised(x, mean, inverse);
        let mut dx = dy * w;
        let slope = -average(&(&dx * &h));
        let centre = average(&dx);
        let _ = dx.g_sub_(&centre);
        let _ = dx.addcmul_(&h, &slope);
        let _ = dx.g_mul_(inverse);
        dx
    })
}

/// dw and db (C): the sums over the rows of dy h and of dy.
pub fn weight_gradients(
    x: &Tensor,
    mean: &Tensor,
    inverse: &Tensor,
    dy: &Tensor,
) -> (Tensor, Tensor) {
    no_grad(|| {
        let sum = |t: &Tensor| t.sum_dim_intlist([0i64].as_slice(), false, None::<Kind>);
        let mut product = normalised(x, mean, inverse);
        let _ = product.g_mul_(dy);
        (sum(&product), sum(dy))
    })
}

fn normalised(x: &Tensor, mean: &Tensor, inverse: &Tensor) -> Tensor {
    let mut h = x - mean;
    let _ = h.g_mul_(inverse);
    h
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// Both passes against torch's own operation and its derivative.
    #[test]
    fn equals_torch() {
        let (x, w, b) = (random(&[7, 24], 1), random(&[24], 2), random(&[24], 3));
        let dy = random(&[7, 24], 4);
        let own = |v: &[Tensor]| v[0].layer_norm([24], Some(&v[1]), Some(&v[2]), 1e-5, false);
        let (expected, d) = gradients(&[&x, &w, &b], &dy, own);
        let (y, mean, inverse) = forward(&x, &w, &b, 1e-5);
        assert_close(&y, &expected, 1e-5);
        assert_close(&backward(&x, &w, &mean, &inverse, &dy), &d[0], 1e-5);
        let (dw, db) = weight_gradients(&x, &mean, &inverse, &dy);
        assert_close(&dw, &d[1], 1e-5);
        assert_close(&db, &d[2], 1e-5);
    }
}
