//! Singular values and subspaces of low-rank updates `s B A`, from the factors alone.
//!
//! An update of rank r of a weight `[out, in]` has at most r singular values that are not zero. They come from two thin QR
//! decompositions and the SVD of an r x r core ([`Update::new`], [`singular_values`]); nothing of the weight's size is made. The change
//! between two updates is one more such product ([`Update::change`]). From them follow the measures of [`measure`], from the singular vectors the angles between two updates ([`Subspace::angles`]).
//!
//! All arithmetic is f64 on one thread, so the number of cores decides no bit; callers run over sites in parallel.

mod error;
mod factors;
pub mod measure;
mod subspace;
mod update;

pub use error::SpectrumError;
pub use factors::Factors;
pub use subspace::Subspace;
pub use update::{Update, singular_values};
