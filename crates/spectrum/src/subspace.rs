//! Principal angles between subspaces. A. Bjorck and G. H. Golub, "Numerical methods for computing angles between linear
//! subspaces", Mathematics of Computation 27 (1973): their cosines are the singular values of `X^T Y`. Below 45 degrees the cosine
//! loses half of the digits, so the angle is taken from its sine, a singular value of `Y - X X^T Y`.

use faer::{Mat, MatRef};

use crate::SpectrumError;

/// A linear subspace, kept as an orthonormal basis.
#[derive(Debug, Clone)]
pub struct Subspace {
    /// (dimension of the space, dimension of the subspace)
    basis: Mat<f64>,
}

impl Subspace {
    pub(crate) fn of_orthonormal(basis: Mat<f64>) -> Self {
        Self { basis }
    }

    /// The span of the columns of a row-major matrix (rows, columns); columns that depend on others, up to the rounding of f64,
    /// add no dimension.
    ///
    /// # Errors
    /// [`SpectrumError::Length`], [`SpectrumError::NotFinite`] or [`SpectrumError::NoConvergence`].
    pub fn spanned_by(values: &[f64], [rows, columns]: [usize; 2]) -> Result<Self, SpectrumError> {
        let matrix = "columns";
        if rows.checked_mul(columns) != Some(values.len()) {
            return Err(SpectrumError::Length {
                matrix,
                rows,
                columns,
                found: values.len(),
            });
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(SpectrumError::NotFinite { matrix });
        }
        let svd = MatRef::from_row_major_slice(values, rows, columns)
            .thin_svd()
            .map_err(|_| SpectrumError::NoConvergence)?;
        let sizes: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let floor = sizes.first().copied().unwrap_or(0.0) * f64::EPSILON * rows.max(columns) as f64;
        let rank = sizes.iter().filter(|size| **size > floor).count();
        Ok(Self {
            basis: svd.U().get(.., ..rank).to_owned(),
        })
    }

    /// Number of dimensions.
    pub fn dimension(&self) -> usize {
        self.basis.ncols()
    }

    /// The span of the first `dimensions` directions, or of all where it has fewer. The directions of an update stand in the order of
    /// its singular values, the largest first.
    #[must_use]
    pub fn leading(&self, dimensions: usize) -> Self {
        let kept = dimensions.min(self.dimension());
        Self {
            basis: self.basis.get(.., ..kept).to_owned(),
        }
    }

    /// The principal angles in radians, from 0 to pi / 2, not decreasing; as many as the smaller subspace has dimensions.
    ///
    /// # Errors
    /// [`SpectrumError::Dimensions`] for subspaces of different spaces, [`SpectrumError::NoConvergence`].
    pub fn angles(&self, other: &Self) -> Result<Vec<f64>, SpectrumError> {
        if self.basis.nrows() != other.basis.nrows() {
            return Err(SpectrumError::Dimensions(
                self.basis.nrows(),
                other.basis.nrows(),
            ));
        }
        let (large, small) = match self.dimension() >= other.dimension() {
            true => (self.basis.as_ref(), other.basis.as_ref()),
            false => (other.basis.as_ref(), self.basis.as_ref()),
        };
        if small.ncols() == 0 {
            return Ok(Vec::new());
        }
        let inner = large.transpose() * small;
        let sizes = |matrix: &Mat<f64>| {
            let found = matrix.singular_values();
            found.map_err(|_| SpectrumError::NoConvergence)
        };
        let cosines = sizes(&inner)?;
        let is_small = |cosine: f64| 2.0 * cosine * cosine > 1.0;
        // Between layers most angles are wide, and the residual is the dear part.
        let sines = match cosines.first().is_some_and(|c| is_small(*c)) {
            true => sizes(&(small - large * &inner))?,
            false => Vec::new(),
        };
        let mut angles: Vec<f64> = cosines.iter().map(|c| c.clamp(0.0, 1.0).acos()).collect();
        // Cosines fall and angles rise, so the sines are met from the last.
        for ((angle, cosine), sine) in angles.iter_mut().zip(&cosines).zip(sines.iter().rev()) {
            if is_small(*cosine) {
                *angle = sine.clamp(0.0, 1.0).asin();
            }
        }
        // Rounding where the two formulas meet must not break the order.
        angles.sort_by(f64::total_cmp);
        Ok(angles)
    }
}
