//! Rotary position embedding (Su et al., arXiv 2104.09864, section 3.2.2) in the form of Hugging Face's `rotate_half`:
//! value j of a head turns with value j + D/2.

use tch::{Tensor, no_grad};

/// Turns the first `heads` heads of each row and copies what follows them.
///
/// `x` (N, width) with heads of `size` D; `cos` and `sin` (N, D/2) of each row's position. `inverse` turns back: it is
/// the backward pass.
pub fn rotate(
    x: &Tensor,
    heads: i64,
    size: i64,
    cos: &Tensor,
    sin: &Tensor,
    inverse: bool,
) -> Tensor {
    no_grad(|| {
        let (n, width, half) = (x.size()[0], x.size()[1], size / 2);
        let turned = heads * size;
        let y = Tensor::empty([n, width], (x.kind(), x.device()));
        if turned < width {
            let rest = |t: &Tensor| t.narrow(1, turned, width - turned);
            rest(&y).copy_(&rest(x));
        }
        // (N, heads, D/2): the first or the second half of each head.
        let part = |t: &Tensor, which: i64| {
            t.narrow(1, 0, turned)
                .view([n, heads, 2, half])
                .select(2, which)
        };
        let (cos, sin) = (cos.unsqueeze(1), sin.unsqueeze(1));
        let minus = -&sin;
        let (towards, away) = if inverse {
            (&minus, &sin)
        } else {
            (&sin, &minus)
        };
        for (which, sin) in [(0, away), (1, towards)] {
            let mut out = part(&y, which);
            let _ = part(x, which).mul_out(&out, &cos);
            let _ = out.addcmul_(&part(x, 1 - which), sin);
        }
        y
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, random};
    use super::*;

    /// Against `x cos + rotate_half(x) sin`; what is no query or key stays, and the inverse undoes it.
    #[test]
    fn is_hugging_faces_rotation() {
        let (n, heads, size, width) = (5, 3, 8, 32);
        let (x, angle) = (random(&[n, width], 1), random(&[n, size / 2], 2));
        let (cos, sin) = (angle.cos(), angle.sin());
        let y = rotate(&x, heads, size, &cos, &sin, false);
        let h = x.narrow(1, 0, heads * size).reshape([n, heads, size]);
        let halves = h.chunk(2, 2);
        let rotated = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], 2);
        let both = |t: &Tensor| Tensor::cat(&[t, t], 1).unsqueeze(1);
        let expected = (h * both(&cos) + rotated * both(&sin)).reshape([n, heads * size]);
        assert_close(&y.narrow(1, 0, heads * size), &expected, 1e-6);
        assert_close(&y.narrow(1, 24, 8), &x.narrow(1, 24, 8), 0.0);
        assert_close(&rotate(&y, heads, size, &cos, &sin, true), &x, 1e-6);
    }
}
