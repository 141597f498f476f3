//! The mechanisms, all of Linux.

mod bubblewrap;
mod child;
mod grade;
mod landlock;
mod process;
mod run;
mod seccomp;
mod unconfined;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sandbox::Open;
use crate::{Error, Interpreter, Sandbox};

pub use grade::grade;
pub use run::run;

/// What there is to choose from, the best first.
pub const MECHANISMS: &[(&str, Open)] = &[
    (landlock::NAME, |interpreter| {
        Ok(Box::new(landlock::Landlock::new(interpreter)?))
    }),
    (bubblewrap::NAME, |interpreter| {
        Ok(Box::new(bubblewrap::Bubblewrap::new(interpreter)?))
    }),
];

pub fn unconfined(interpreter: &Interpreter) -> Result<Box<dyn Sandbox>, Error> {
    Ok(Box::new(unconfined::Unconfined {
        interpreter: interpreter.clone(),
    }))
}

fn is_root() -> bool {
    // SAFETY: the call cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where this process is root, the first path of the interpreter that [`child::NOBODY`] could not read.
pub fn closed_to_nobody(interpreter: &Interpreter) -> Option<&Path> {
    let closed = |path: &&Path| {
        path.metadata().is_ok_and(|metadata| {
            let needed = if metadata.is_dir() { 0o001 } else { 0o004 };
            metadata.mode() & needed == 0
        })
    };
    let paths = interpreter.folders.iter().chain(&interpreter.files);
    let mut ancestors = paths.flat_map(|path| path.ancestors());
    if is_root() {
        ancestors.find(closed)
    } else {
        None
    }
}
