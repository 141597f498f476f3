//! The thin singular value decomposition of `s B A`: `A^T = Qa Ra`, `B = Qb Rb`, and then of the core `s Rb Ra^T = U S V^T`, so that
//! `s B A = (Qb U) S (Qa V)^T`. G. H. Golub and C. F. Van Loan, *Matrix Computations*, 4th ed., sections 5.2 and 8.6.

use faer::linalg::solvers::Qr;
use faer::{Mat, Scale};

use crate::{Factors, SpectrumError, Subspace, measure};

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
        Self::of(&a, &b, factors.scale(), 0.0, 0.0)
    }

    /// The change from the update `before` to the update `after` of one weight, `s B A - s' B' A'`: an update of the factors
    /// `[s B, -s' B']` and `[A; A']`, of at most twice the rank.
    ///
    /// What the two have in common cancels, and leaves the rounding of f64: singular values that are no more than that are 0. The
    /// subspaces leave out what is below the rounding of f32 of the larger of the two updates, since the factors are stored so.
    ///
    /// # Errors
    /// [`SpectrumError::Shapes`] or [`SpectrumError::NoConvergence`].
    pub fn change(before: &Factors<'_>, after: &Factors<'_>) -> Result<Self, SpectrumError> {
        if before.shape() != after.shape() {
            return Err(SpectrumError::Shapes(before.shape(), after.shape()));
        }
        let b = beside(
            after.b() * Scale(after.scale()),
            before.b() * Scale(-before.scale()),
        );
        let a = beside(after.a_transposed(), before.a_transposed());
        let longest = a.nrows().max(b.nrows()) as f64;
        let rounding = f64::EPSILON * longest * a.norm_l2() * b.norm_l2();
        let largest = |values: Vec<f64>| values.first().copied().unwrap_or(0.0);
        let size = largest(singular_values(before)?).max(largest(singular_values(after)?));
        Self::of(&a.qr(), &b.qr(), 1.0, size, rounding)
    }

    /// `scale B A` from the decompositions of `A^T` and `B`; `size` is that of what the factors were made of, where that is larger.
    fn of(
        a: &Qr<f64>,
        b: &Qr<f64>,
        scale: f64,
        size: f64,
        rounding: f64,
    ) -> Result<Self, SpectrumError> {
        let svd = core(a, b, scale)
            .thin_svd()
            .map_err(|_| SpectrumError::NoConvergence)?;
        let values = svd.S().column_vector().iter().copied();
        let mut values = checked(values.collect())?;
        let noise = values.iter_mut().filter(|v| **v <= rounding);
        noise.for_each(|v| *v = 0.0);
        let floor = NOISE * values.first().copied().unwrap_or(0.0).max(size);
        let rank = values.iter().filter(|v| **v > floor).count();
        Ok(Self {
            columns: Subspace::of_orthonormal(b.compute_thin_Q() * svd.U().get(.., ..rank)),
            rows: Subspace::of_orthonormal(a.compute_thin_Q() * svd.V().get(.., ..rank)),
            values,
        })
    }

    /// How much of an earlier update's spaces the leading directions of this one, a change, lie in: outputs, then inputs. The mean
    /// squared cosine of the angles between the earlier subspace, of k dimensions, and that of this update's k largest singular values,
    /// the similarity phi(k, k) of LoRA (arXiv 2106.09685, section 7.2).
    ///
    /// All directions of a change `[B, -B'] [A; A']` hold those of `B'` and of `A'` whatever was learnt, so they would say nothing.
    /// `None` where either is zero.
    ///
    /// # Errors
    /// As [`Subspace::angles`].
    pub fn overlap(&self, before: &Self) -> Result<[Option<f64>; 2], SpectrumError> {
        let of = |own: &Subspace, earlier: &Subspace| {
            let angles = own.leading(earlier.dimension()).angles(earlier)?;
            Ok(measure::overlap(&angles))
        };
        Ok([
            of(&self.columns, &before.columns)?,
            of(&self.rows, &before.rows)?,
        ])
    }
}

/// Two matrices of as many rows, one beside the other.
fn beside(left: Mat<f64>, right: Mat<f64>) -> Mat<f64> {
    Mat::from_fn(left.nrows(), left.ncols() + right.ncols(), |i, j| {
        match j.checked_sub(left.ncols()) {
            None => left[(i, j)],
            Some(j) => right[(i, j)],
        }
    })
}

/// The singular values alone, as [`Update::values`].
///
/// # Errors
/// [`SpectrumError::NoConvergence`].
pub fn singular_values(factors: &Factors<'_>) -> Result<Vec<f64>, SpectrumError> {
    let (a, b) = (factors.a_transposed().qr(), factors.b().qr());
    let core = core(&a, &b, factors.scale());
    checked(
        core.singular_values()
            .map_err(|_| SpectrumError::NoConvergence)?,
    )
}

/// `s Rb Ra^T`: (min(outputs, rank), min(inputs, rank)).
fn core(a: &Qr<f64>, b: &Qr<f64>, scale: f64) -> Mat<f64> {
    b.thin_R() * a.thin_R().transpose() * Scale(scale)
}

fn checked(values: Vec<f64>) -> Result<Vec<f64>, SpectrumError> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(SpectrumError::NoConvergence),
    }
}
