//! No sandbox: the limits of a process and a folder, and nothing against a program that means harm.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::child::Confinement;
use crate::sandbox::{Jail, Launch, Stop};
use crate::{Error, Interpreter, Sandbox};

pub struct Unconfined {
    pub interpreter: Interpreter,
}

impl Sandbox for Unconfined {
    fn name(&self) -> &'static str {
        "none"
    }

    fn stops(&self) -> Vec<Stop> {
        vec![
            Stop::no("reading and writing the caller's files", "not confined"),
            Stop::no("filling the disk", "not confined"),
            Stop::no("the network and local services", "not confined"),
            Stop::no(
                "further processes, which may outlive the program",
                "not confined",
            ),
            Stop::no(
                "reading, tracing or signalling other processes, the judge among them",
                "not confined: a hostile program can forge its verdict",
            ),
            Stop::yes(
                "the caller's environment and open files",
                "none are passed on",
            ),
            Stop::no("the caller's rights", "kept"),
            Stop::yes(
                "endless time, memory, size of a file and output",
                "limits, kill and caps",
            ),
        ]
    }

    fn jail(&self, launch: &Launch) -> Result<Jail, Error> {
        let folder = tempfile::tempdir().map_err(Error::start("private folder"))?;
        let confinement = Confinement {
            limits: launch.limits.clone(),
            kept: launch.kept.clone(),
            scratch: None,
            folder: None,
            leave_root: false,
            ruleset: None,
            filter: None,
            parent: std::process::id(),
        };
        let mut command = Command::new(&self.interpreter.executable);
        command
            .args(launch.arguments())
            .env_clear()
            .envs(Launch::ENVIRONMENT)
            .current_dir(folder.path());
        // SAFETY: `apply` makes system calls only.
        unsafe { command.pre_exec(move || confinement.apply()) };
        Ok(Jail { command, folder })
    }
}
