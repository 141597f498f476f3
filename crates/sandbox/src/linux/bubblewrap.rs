//! bubblewrap (`bwrap`) where it is installed: namespaces in which nothing else exists, and the same filter of system calls.
//!
//! It needs user namespaces or root, and some milliseconds more than Landlock.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::{Confinement, NOBODY};
use super::seccomp;
use crate::sandbox::{Jail, Launch, Stop, starts};
use crate::{Error, Interpreter, Sandbox};

pub const NAME: &str = "bubblewrap";

/// Where the private folder is, seen from within.
const HOME: &str = "/tmp";

pub struct Bubblewrap {
    interpreter: Interpreter,
    program: PathBuf,
    /// The filter as `bwrap --seccomp` reads it.
    filter: Vec<u8>,
}

impl Bubblewrap {
    pub fn new(interpreter: &Interpreter) -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .map(|folder| folder.join("bwrap"))
            .find(|path| path.is_file())
            .ok_or_else(|| refused("bwrap is not installed".to_string()))?;
        let filter = seccomp::filter()?;
        let bubblewrap = Self {
            interpreter: interpreter.clone(),
            program,
            filter: filter
                .iter()
                .flat_map(|it| {
                    let [a, b] = it.code.to_ne_bytes();
                    let [c, d, e, f] = it.k.to_ne_bytes();
                    [a, b, it.jt, it.jf, c, d, e, f]
                })
                .collect(),
        };
        starts(&bubblewrap).map_err(refused)?;
        Ok(bubblewrap)
    }

    /// The folders of libraries rather than the files: the names that the loader follows are links beside them.
    fn folders(&self) -> Vec<&Path> {
        let libraries = self
            .interpreter
            .files
            .iter()
            .filter_map(|file| file.parent());
        let executable = self.interpreter.executable.parent();
        let mut folders: Vec<&Path> = libraries
            .filter(|folder| Some(*folder) != executable)
            .chain(self.interpreter.folders.iter().map(PathBuf::as_path))
            .collect();
        folders.sort();
        folders.dedup_by(|next, first| next.starts_with(first));
        folders
    }
}

impl Sandbox for Bubblewrap {
    fn name(&self) -> &'static str {
        NAME
    }

    fn stops(&self) -> Vec<Stop> {
        let namespace = "namespaces: nothing else is there";
        vec![
            Stop::yes(
                "reading files beyond the interpreter, the folders of its libraries and a private folder",
                namespace,
            ),
            Stop::yes("writing files anywhere else", namespace),
            Stop::yes(
                "filling the disk",
                "the private folder is a tmpfs of fixed size, for any number of files",
            ),
            Stop::yes("learning that a path exists, its size and owner", namespace),
            Stop::yes("the network and local services", "seccomp and namespaces"),
            Stop::yes(
                "further processes and threads",
                "seccomp: no fork, no clone",
            ),
            Stop::yes(
                "reading, tracing or signalling other processes",
                "seccomp and namespaces",
            ),
            Stop::yes(
                "the caller's environment and open files",
                "none are passed on",
            ),
            Stop::yes("the rights of root", "no capabilities, no_new_privs"),
            Stop::yes(
                "endless time, memory, files and output",
                "limits, kill and caps",
            ),
            Stop::no(
                "flaws of the kernel or the processor",
                "the kernel is shared",
            ),
        ]
    }

    fn jail(&self, launch: &Launch) -> Result<Jail, Error> {
        let folder = tempfile::tempdir().map_err(Error::start("private folder"))?;
        let filter = file(&self.filter).map_err(Error::start("filter"))?;
        let mut command = Command::new(&self.program);
        command.args([
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
        ]);
        command.args(["--cap-drop", "ALL"]);
        command.args(["--uid", &NOBODY.to_string(), "--gid", &NOBODY.to_string()]);
        for (name, value) in Launch::ENVIRONMENT {
            command.args(["--setenv", name, value]);
        }
        for path in self.folders() {
            command.arg("--ro-bind").arg(path).arg(path);
        }
        let executable = &self.interpreter.executable;
        command.arg("--ro-bind").arg(executable).arg(executable);
        // An executable names its loader by these paths. Links where `/usr` is merged, and links again behind them.
        for name in ["/lib", "/lib32", "/lib64"] {
            if let Ok(target) = std::fs::read_link(name) {
                command.arg("--symlink").arg(target).arg(name);
            }
        }
        for name in ["/lib32", "/lib64"] {
            if let Ok(folder) = std::fs::canonicalize(name) {
                command.arg("--ro-bind").arg(&folder).arg(&folder);
            }
        }
        command.args([
            "--size",
            &launch.limits.disk.to_string(),
            "--tmpfs",
            HOME,
            "--chdir",
            HOME,
        ]);
        command.args(["--seccomp", &filter.as_raw_fd().to_string(), "--"]);
        command.arg(executable).args(launch.arguments()).env_clear();
        let mut kept = launch.kept.clone();
        kept.push(filter.as_raw_fd());
        let confinement = Confinement {
            limits: launch.limits.clone(),
            kept,
            scratch: None,
            folder: None,
            leave_root: false,
            ruleset: None,
            filter: None,
            parent: std::process::id(),
        };
        // SAFETY: `apply` makes system calls only. The filter's file is moved in to stay open until then.
        unsafe {
            command.pre_exec(move || {
                let _ = &filter;
                confinement.apply()
            })
        };
        Ok(Jail { command, folder })
    }
}

fn file(content: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn refused(reason: String) -> Error {
    Error::Mechanism {
        mechanism: NAME,
        reason,
    }
}
