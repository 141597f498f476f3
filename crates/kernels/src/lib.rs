//! The arithmetic of a transformer on a CPU: forward and hand-derived backward passes over plain `f32` slices.
//!
//! No tensor library in here. Every slice is row-major; a matrix of shape (N, C) is `N * C` values. One file a kernel, each
//! with its formula, its shapes and its derivative. Products with frozen weights have loops of their own ([`linear`]), the others run on
//! `gemm`, and everything else on vectors that the
//! processor is asked for at run time ([`simd`]); both on rayon's threads. Work is cut into pieces of a fixed size, never by the
//! number of threads, so the same input gives the same bits on any of them.

pub mod activation;
pub mod attention;
pub mod cross_entropy;
pub mod linear;
pub mod matrix;
pub mod norm;
pub mod product;
pub mod rope;
pub mod simd;
