use faer::Mat;

use crate::SpectrumError;

/// The factors of one update `s B A` of a weight `[outputs, inputs]`, row-major, as an adapter keeps them.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    outputs: usize,
    inputs: usize,
    scale: f64,
}

impl<'a> Factors<'a> {
    /// `a`: `A [rank, inputs]`, `b`: `B [outputs, rank]`, `scale`: `s`.
    ///
    /// # Errors
    /// [`SpectrumError::Length`] or [`SpectrumError::NotFinite`] names the factor.
    pub fn new(
        a: &'a [f32],
        b: &'a [f32],
        rank: usize,
        [outputs, inputs]: [usize; 2],
        scale: f64,
    ) -> Result<Self, SpectrumError> {
        for (matrix, values, rows, columns) in [("A", a, rank, inputs), ("B", b, outputs, rank)] {
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
        }
        if !scale.is_finite() {
            return Err(SpectrumError::NotFinite { matrix: "s" });
        }
        Ok(Self {
            a,
            b,
            rank,
            outputs,
            inputs,
            scale,
        })
    }

    /// `A^T`, (inputs, rank). Row-major `A` is column-major `A^T`.
    pub(crate) fn a_transposed(&self) -> Mat<f64> {
        Mat::from_fn(self.inputs, self.rank, |i, k| {
            f64::from(self.a[k * self.inputs + i])
        })
    }

    /// `B`, (outputs, rank).
    pub(crate) fn b(&self) -> Mat<f64> {
        Mat::from_fn(self.outputs, self.rank, |o, k| {
            f64::from(self.b[o * self.rank + k])
        })
    }

    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Outputs and inputs of the weight.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }
}
