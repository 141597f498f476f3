//! The thin singular value decomposition of `s B A`: `A^T = Qa Ra`, `B = Qb Rb`, and then of the core `s Rb Ra^T = U S V^T`, so that
//! `s B A = (Qb U) S (Qa V)^T`. G. H. Golub and C. F. Van Loan, *Matrix Computations*, 4th ed., sections 5.2 and 8.6.

use faer::Mat;
use faer::linalg::solvers::Qr;

use crate::{Factors, SpectrumError, Subspace};

/// Below this part of the largest one, a singular value of factors that are stored in f32 is their rounding.
const NOISE: f64 = f32::EPSILON as f64;

/// The singular values of an update, and the subspaces that it reads from and writes to.
#[derive(Debug, Clone)]
pub struct Update {
    /// Not increasing, `min(rank, outputs, inputs)` of them.
    pub values: Vec<f64>,
    /// What the update can write: a subspace of the outputs.
    pub columns: Subspace,
    /// What the update reads: a subspace of the inputs, the complement of its kernel.
    pub rows: Subspace,
}

impl Update {
    /// Both subspaces have as many dimensions as there are singular values above the rounding of f32 (`f32::EPSILON` of the
    /// largest); an update of zeros has none.
    ///
    /// # Errors
    /// [`SpectrumError::NoConvergence`].
    pub fn new(factors: &Factors<'_>) -> Result<Self, SpectrumError> {
        let (a, b) = (factors.a_transposed().qr(), factors.b().qr());
        let svd = core(factors, &a, &b)
            .thin_svd()
            .map_err(|_| SpectrumError::NoConvergence)?;
        let values = svd.S().column_vector().iter().copied();
        let values = checked(values.collect())?;
        let floor = NOISE * values.first().copied().unwrap_or(0.0);
        let rank = values.iter().filter(|v| **v > floor).count();
        Ok(Self {
            columns: Subspace::of_orthonormal(b.compute_thin_Q() * svd.U().get(.., ..rank)),
            rows: Subspace::of_orthonormal(a.compute_thin_Q() * svd.V().get(.., ..rank)),
            values,
        })
    }
}

/// The singular values alone, as [`Update::values`].
///
/// # Errors
/// [`SpectrumError::NoConvergence`].
pub fn singular_values(factors: &Factors<'_>) -> Result<Vec<f64>, SpectrumError> {
    let (a, b) = (factors.a_transposed().qr(), factors.b().qr());
    let core = core(factors, &a, &b);
    checked(
        core.singular_values()
            .map_err(|_| SpectrumError::NoConvergence)?,
    )
}

/// `s Rb Ra^T`: (min(outputs, rank), min(inputs, rank)).
fn core(factors: &Factors<'_>, a: &Qr<f64>, b: &Qr<f64>) -> Mat<f64> {
    b.thin_R() * a.thin_R().transpose() * faer::Scale(factors.scale())
}

fn checked(values: Vec<f64>) -> Result<Vec<f64>, SpectrumError> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(SpectrumError::NoConvergence),
    }
}
