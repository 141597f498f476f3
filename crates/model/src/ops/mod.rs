//! The model's operations, each with a backward pass of its own, through burn's extension interface.
//!
//! One file an operation: what it computes, how the kernels of the CPU and libtorch's fused operations are called, and the same
//! composed of burn's primitives, which any other backend takes. All activations are (N, width), the rows of all sequences
//! laid end to end.

#![cfg_attr(
    feature = "libtorch",
    allow(
        deprecated,
        reason = "burn drops libtorch after 0.22, which is why burn is pinned"
    )
)]

mod activation;
mod attention;
mod bridge;
mod cross_entropy;
#[cfg(feature = "flex")]
mod host;
mod linear;
mod norm;
mod rope;
mod scaled_linear;
#[cfg(feature = "libtorch")]
pub mod torch;

pub use activation::{gelu, gelu_composed, swiglu, swiglu_composed};
pub use attention::{attention, attention_composed, cached_attention};
pub(crate) use cross_entropy::read;
pub use cross_entropy::{Loss, Smoothing, argmax, cross_entropy, log_likelihoods};
pub use linear::{Update, linear, linear_composed};
pub use norm::{layer_norm, layer_norm_composed, rms_norm, rms_norm_composed};
pub use rope::{Rotary, rope, rope_composed};
use scaled_linear::scaled_linear;

use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// Whose kernels run an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Our own, on the memory of the pure-Rust backend.
    #[cfg(feature = "flex")]
    Host,
    /// libtorch's fused ones.
    #[cfg(feature = "libtorch")]
    Torch,
    /// burn's primitives.
    Composed,
}

impl Kernels {
    /// Do they read weights in the host's memory, in any format?
    pub(crate) fn reads_host_memory(self) -> bool {
        match self {
            #[cfg(feature = "flex")]
            Kernels::Host => true,
            _ => false,
        }
    }
}

pub(crate) fn kernels(device: &Device) -> Kernels {
    #[allow(unreachable_patterns, reason = "which backends exist is a feature")]
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => Kernels::Host,
        #[cfg(feature = "libtorch")]
        DispatchDevice::LibTorch(_) => Kernels::Torch,
        _ => Kernels::Composed,
    }
}
