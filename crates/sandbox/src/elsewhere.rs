//! Systems other than Linux: nothing is confined here, so nothing is run.

use std::path::Path;

use crate::sandbox::Open;
use crate::{Error, Interpreter, Limits, Output, Problem, Sandbox, Verdict};

fn refused() -> Error {
    Error::Mechanism {
        mechanism: "this crate",
        reason: format!("it knows no mechanism of {}", std::env::consts::OS),
    }
}

pub const MECHANISMS: &[(&str, Open)] = &[("landlock", |_| Err(refused()))];

pub fn unconfined(_: &Interpreter) -> Result<Box<dyn Sandbox>, Error> {
    Err(refused())
}

pub fn closed_to_nobody(_: &Interpreter) -> Option<&Path> {
    None
}

pub fn run(_: &dyn Sandbox, _: &str, _: &Limits) -> Result<Output, Error> {
    Err(refused())
}

pub fn grade(_: &dyn Sandbox, _: &Problem, _: &str, _: &Limits) -> Result<Verdict, Error> {
    Err(refused())
}
