//! Folding an adapter into the weights and out again.

use burn::tensor::Tensor;

use crate::{AdapterError, Bank};

/// The low-rank update of one site's weight, `s B A`: [out, in]. The only place where anything of the weight's size
/// is made from an adapter.
pub fn delta(bank: &Bank, site: usize) -> Tensor<2> {
    let (a, b) = bank.effective(site);
    b.without_autodiff()
        .matmul(a.without_autodiff())
        .mul_scalar(bank.layout().scale())
}

/// `W + s B A` for one site, or with magnitudes `m / norm(W + s B A) (W + s B A)`, row by row. `weight`: [out, in].
pub fn merge(bank: &Bank, site: usize, weight: Tensor<2>) -> Tensor<2> {
    let merged = weight + delta(bank, site);
    match bank.magnitude(site) {
        Some(magnitude) => {
            let norms = merged.clone().square().sum_dim(1).sqrt(); // (out, 1)
            merged * (magnitude.transpose() / norms)
        }
        None => merged,
    }
}

/// `W - s B A`: undoes [`merge`] up to rounding.
///
/// # Errors
/// [`AdapterError::Unsupported`] with magnitudes (DoRA): the norms of the rows are gone.
pub fn unmerge(bank: &Bank, site: usize, weight: Tensor<2>) -> Result<Tensor<2>, AdapterError> {
    if bank.magnitude(site).is_some() {
        return Err(AdapterError::Unsupported(
            "a merge with magnitudes (DoRA) cannot be undone: it replaces the norms of the rows"
                .into(),
        ));
    }
    Ok(weight - delta(bank, site))
}
