//! The operations of a transformer on libtorch: forward and hand-derived backward passes over [`tch::Tensor`].
//!
//! Row-major matrices, one row a token: (N, C). Every function runs without torch's autograd and leaves its arguments as
//! they are, unless it says otherwise; what burn's autodiff would compose from ten primitives is done in place in one or
//! two temporaries. Shapes that do not fit panic, as in `tch` itself: they are the caller's mistake.

pub(crate) use burn::backend::libtorch::TchTensor;

pub mod attention;
pub mod cross_entropy;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

#[cfg(test)]
mod testing;
