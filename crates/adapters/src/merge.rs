//! Folding an adapter into the weights and out again.

use burn::tensor::Tensor;

use crate::Bank;

/// The update of one site's weight, `s B A`: [out, in]. The only place where anything of the weight's size
/// is made from an adapter.
pub fn delta(bank: &Bank, site: usize) -> Tensor<2> {
    let (a, b) = bank.site(site);
    let scale = bank.layout().config.scale();
    b.clone()
        .without_autodiff()
        .matmul(a.clone().without_autodiff())
        .mul_scalar(scale)
}

/// `W + s B A` for one site. `weight`: [out, in].
pub fn merge(bank: &Bank, site: usize, weight: Tensor<2>) -> Tensor<2> {
    weight + delta(bank, site)
}

/// `W - s B A`: undoes [`merge`] up to rounding.
pub fn unmerge(bank: &Bank, site: usize, weight: Tensor<2>) -> Tensor<2> {
    weight - delta(bank, site)
}
