//! SwiGLU without its projections (Shazeer, arXiv 2002.05202, equation 6): silu(gate) * up.

use tch::{Tensor, no_grad};

/// `gate_up` (N, 2F), the gate's columns first -> (N, F).
pub fn forward(gate_up: &Tensor) -> Tensor {
    no_grad(|| {
        let (gate, up) = halves(gate_up);
        let mut y = gate.silu();
        let _ = y.g_mul_(&up);
        y
    })
}

/// `dy` (N, F) -> (N, 2F), without a temporary.
pub fn backward(gate_up: &Tensor, dy: &Tensor) -> Tensor {
    no_grad(|| {
        let (gate, up) = halves(gate_up);
        let d = gate_up.empty_like();
        let (dgate, mut dup) = halves(&d);
        let _ = dy.mul_out(&dgate, &up);
        let _ = gate.silu_backward_grad_input(&dgate, &dgate);
        let _ = gate.silu_out(&dup);
        let _ = dup.g_mul_(dy);
        d
    })
}

fn halves(t: &Tensor) -> (Tensor, Tensor) {
    let f = t.size()[1] / 2;
    (t.narrow(1, 0, f), t.narrow(1, f, f))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// Both passes against torch's silu and its derivative.
    #[test]
    fn equals_torch() {
        let (x, dy) = (random(&[5, 22], 1), random(&[5, 11], 2));
        let (expected, d) = gradients(&[&x], &dy, |v| {
            v[0].narrow(1, 0, 11).silu() * v[0].narrow(1, 11, 11)
        });
        assert_close(&forward(&x), &expected, 1e-6);
        assert_close(&backward(&x, &dy), &d[0], 1e-6);
    }
}
