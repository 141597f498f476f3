//! What every command needs and no result depends on.

use std::path::PathBuf;

use sharelora_hub::Hub;

/// Where a command works and how much it says.
#[derive(Debug, Clone)]
pub struct Context {
    /// The project's folder.
    pub root: PathBuf,
    /// Where files come from.
    pub hub: Hub,
    /// One of [`crate::device::BACKENDS`].
    pub backend: String,
    /// No progress, only results and errors.
    pub quiet: bool,
    /// Programs written by a model may run without a sandbox.
    pub unsafe_no_sandbox: bool,
}
