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
    #[cfg(feature = "cuda")]
    "cuda",
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
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        other => bail!(
            "backend `{other}` is not in this build: it has {} (libtorch needs `just build-libtorch`, cuda `--features cuda`)",
            BACKENDS.join(", ")
        ),
    }
}
