//! One program, one process.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Instant;

use super::process::{Ended, Process, collect, input};
use crate::sandbox::Launch;
use crate::{End, Error, Limits, Output, Sandbox};

const PROGRAM: &str = concat!(
    include_str!("../python/start.py"),
    include_str!("../python/program.py")
);

pub fn run(sandbox: &dyn Sandbox, program: &str, limits: &Limits) -> Result<Output, Error> {
    let deadline = Instant::now() + limits.wall;
    let launch = Launch {
        driver: PROGRAM,
        kept: Vec::new(),
        limits,
    };
    let (stdout, stdout_end) = std::io::pipe().map_err(Error::start("pipe"))?;
    let (stderr, stderr_end) = std::io::pipe().map_err(Error::start("pipe"))?;
    let mut process = Process::start(
        sandbox,
        &launch,
        input(program.as_bytes())?,
        Stdio::from(stdout_end),
        Stdio::from(stderr_end),
    )?;
    let collected = collect(&process, vec![stdout, stderr], limits.output, deadline)?;
    let status = process.end()?;
    let end = match (collected.ended, status.code(), status.signal()) {
        (Ended::Deadline, ..) => End::TimedOut,
        (Ended::TooMuchOutput, ..) => End::TooMuchOutput,
        (Ended::Itself, Some(code), _) => End::Exited(code),
        (Ended::Itself, None, signal) => End::Signalled(signal.unwrap_or_default()),
    };
    let mut streams = collected.streams.into_iter();
    Ok(Output {
        end,
        stdout: streams.next().unwrap_or_default(),
        stderr: streams.next().unwrap_or_default(),
    })
}
