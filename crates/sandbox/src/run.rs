//! Running a program by itself.

use crate::{Error, Limits, Sandbox, platform};

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub end: End,
    /// At most [`Limits::output`] bytes each.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Ended by us after [`Limits::wall`].
    TimedOut,
    /// Ended by us after [`Limits::output`].
    TooMuchOutput,
}

/// Runs a Python program as a script, with nothing on its standard input.
pub fn run(sandbox: &dyn Sandbox, program: &str, limits: &Limits) -> Result<Output, Error> {
    platform::run(sandbox, program, limits)
}
