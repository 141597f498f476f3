//! What the tests of the operations have in common.

use tch::{Device, Kind, Tensor, with_grad};

/// Uniform values in -1 .. 1, the same for the same number.
pub fn random(shape: &[i64], number: i64) -> Tensor {
    let n: i64 = shape.iter().product();
    let steps = Tensor::arange(n, (Kind::Double, Device::Cpu)) * 12.9898 + number as f64 * 78.233;
    (steps.sin() * 43758.5453)
        .frac()
        .to_kind(Kind::Float)
        .reshape(shape)
}

/// `f` of `inputs`, and by torch's autograd the gradients of <f(inputs), dy>.
pub fn gradients(
    inputs: &[&Tensor],
    dy: &Tensor,
    f: impl Fn(&[Tensor]) -> Tensor,
) -> (Tensor, Vec<Tensor>) {
    with_grad(|| {
        let leaves: Vec<Tensor> = inputs
            .iter()
            .map(|t| t.detach().copy().set_requires_grad(true))
            .collect();
        let y = f(&leaves);
        let gradients = Tensor::run_backward(&[(&y * dy).sum(None::<Kind>)], &leaves, false, false);
        (y.detach(), gradients)
    })
}

/// Equal shapes, and values that differ by at most `tolerance` times the largest of the expected (at least 1).
#[track_caller]
pub fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.size(), expected.size());
    let largest = expected.abs().max().double_value(&[]).max(1.0);
    let difference = (actual - expected).abs().max().double_value(&[]);
    assert!(
        difference <= tolerance * largest,
        "differs by {difference} of {largest}"
    );
}
