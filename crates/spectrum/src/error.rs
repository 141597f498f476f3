/// Why factors have no spectrum, or two subspaces no angles.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpectrumError {
    /// A list of values that is not as long as its matrix.
    #[error("`{matrix}` is {rows} x {columns}, but {found} values are given")]
    Length {
        matrix: &'static str,
        rows: usize,
        columns: usize,
        found: usize,
    },
    /// Training that diverged leaves such values.
    #[error("`{matrix}` holds a value that is not finite")]
    NotFinite { matrix: &'static str },
    /// Angles are between subspaces of one space.
    #[error("subspaces of {0} and of {1} dimensions have no angles")]
    Dimensions(usize, usize),
    /// A change is between two updates of one weight.
    #[error("updates of weights {} x {} and {} x {} have no difference", .0[0], .0[1], .1[0], .1[1])]
    Shapes([usize; 2], [usize; 2]),
    /// Finite values whose product leaves the range of f64, or an iteration that does not end.
    #[error("the singular value decomposition does not converge")]
    NoConvergence,
}
