//! Backends by name.

use anyhow::{Result, bail};
use burn::tensor::Device;

/// The backends that this build has.
pub const BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "libtorch")]
    "libtorch",
    #[cfg(feature = "libtorch")]
    "libtorch-cuda",
];

/// The device that a backend's name stands for, without autodiff.
#[cfg_attr(
    feature = "libtorch",
    allow(
        deprecated,
        reason = "burn drops libtorch after 0.22, which is why burn is pinned"
    )
)]
pub fn device(backend: &str) -> Result<Device> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "libtorch")]
        "libtorch" => Ok(Device::libtorch()),
        #[cfg(feature = "libtorch")]
        "libtorch-cuda" => Ok(Device::libtorch_cuda(0)),
        other => bail!(
            "backend `{other}` is not in this build: it has {} (libtorch needs `--features libtorch`)",
            BACKENDS.join(", ")
        ),
    }
}

/// Into how many parts a micro-batch is split, each on a thread of its own.
///
/// The pure-Rust backend runs its matrix products on all cores but everything between them on one, so two
/// parts keep two cores busy. A constant, not the number of cores: it decides the order of sums, and results
/// must not depend on the machine.
pub fn parts(backend: &str) -> usize {
    if backend == "flex" { 2 } else { 1 }
}
