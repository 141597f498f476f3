//! Landlock for what a process may open, seccomp for what it may call, an unprivileged user, and a folder of its own.
//!
//! Landlock's documentation: <https://docs.kernel.org/userspace-api/landlock.html>. Version 3 of its interface is needed
//! (Linux 6.2: truncation); what later ones add (TCP, ioctl, signals, abstract sockets) is taken where it is there, and
//! is closed by the filter of system calls in any case.
//!
//! The private folder is a tmpfs in a mount namespace of its own, which bounds it and makes it vanish with the process.
//! Where neither root nor user namespaces can be had, the folder is there but cannot be written to.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use seccompiler::BpfProgram;

use super::child::{Confinement, NOBODY, Scratch};
use super::{is_root, seccomp};
use crate::sandbox::{Jail, Launch, Stop, starts};
use crate::{Error, Interpreter, Limits, Sandbox};

pub const NAME: &str = "landlock";

/// The newest rights that are asked for; those that the kernel does not know are left out.
const NEWEST: ABI = ABI::V7;
const OLDEST: i64 = 3;

pub struct Landlock {
    interpreter: Interpreter,
    abi: i64,
    filter: Arc<BpfProgram>,
    disk: Disk,
}

/// What the private folder is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Root,
    UserNamespace,
    ReadOnly,
}

impl Landlock {
    pub fn new(interpreter: &Interpreter) -> Result<Self, Error> {
        // SAFETY: this form of the call only asks for the version.
        let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
        if abi < OLDEST {
            let reason = match abi {
                ..1 => "the kernel has no Landlock, or it is turned off".to_string(),
                _ => format!("its version is {abi}, needed is {OLDEST}"),
            };
            return Err(refused(reason));
        }
        let mut landlock = Self {
            interpreter: interpreter.clone(),
            abi,
            filter: Arc::new(seccomp::filter()?),
            disk: Disk::Root,
        };
        if is_root() && starts(&landlock).is_ok() {
            return Ok(landlock);
        }
        landlock.disk = Disk::UserNamespace;
        if !is_root() && starts(&landlock).is_ok() {
            return Ok(landlock);
        }
        landlock.disk = Disk::ReadOnly;
        starts(&landlock).map_err(refused)?;
        Ok(landlock)
    }

    /// What may be opened: the interpreter for reading, the folder for all that regular files and folders need.
    fn ruleset(&self, folder: &Path) -> Result<Option<OwnedFd>, RulesetError> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let write = make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
        });
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
            // What is not there needs no rule.
            if let Ok(fd) = PathFd::new(path) {
                (&mut ruleset).add_rule(PathBeneath::new(fd, access))?;
            }
            Ok::<_, RulesetError>(())
        };
        for folder in &self.interpreter.folders {
            allow(folder, read)?;
        }
        for file in &self.interpreter.files {
            // The interpreter and its loader are executed; for a library it means nothing.
            allow(file, make_bitflags!(AccessFs::{ReadFile | Execute}))?;
        }
        allow(Path::new("/etc/ld.so.cache"), AccessFs::ReadFile.into())?;
        allow(
            folder,
            if self.disk == Disk::ReadOnly {
                read
            } else {
                write
            },
        )?;
        Ok(ruleset.into())
    }
}

impl Sandbox for Landlock {
    fn name(&self) -> &'static str {
        NAME
    }

    fn stops(&self) -> Vec<Stop> {
        let user = if is_root() {
            "user nobody"
        } else {
            "the caller's user"
        };
        let disk = match self.disk {
            Disk::ReadOnly => {
                "the private folder cannot be written to: no mount namespace can be had"
            }
            _ => "the private folder is a tmpfs of fixed size",
        };
        vec![
            Stop::yes(
                "reading files beyond the interpreter and a private folder",
                format!("Landlock, version {}", self.abi),
            ),
            Stop::yes("writing files anywhere else", "Landlock and seccomp"),
            Stop::yes("filling the disk", disk),
            Stop::no(
                "learning that a path exists, its size and owner",
                "Landlock does not govern stat; nor the existence of a process, by /proc/PID",
            ),
            Stop::yes(
                "the network and local services",
                "seccomp: no socket of any family",
            ),
            Stop::yes(
                "further processes and threads",
                "seccomp: no fork, no clone",
            ),
            Stop::yes(
                "reading, tracing or signalling other processes",
                "seccomp, and Landlock's domains",
            ),
            Stop::yes(
                "the caller's environment and open files",
                "none are passed on",
            ),
            Stop::yes("the rights of root", format!("{user}, no_new_privs")),
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
        // The rule is for the outer folder, and the tmpfs lies on the inner one: Landlock goes up from a file through
        // mounts, but what a mount covers is not on that way.
        let inner = folder.path().join("home");
        std::fs::create_dir(&inner).map_err(Error::start("private folder"))?;
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).map_err(Error::start("private folder"))?;
        let ruleset = self
            .ruleset(folder.path())
            .map_err(|error| refused(error.to_string()))?;
        let scratch =
            (self.disk != Disk::ReadOnly).then(|| Scratch::new(self.disk, &inner, launch.limits));
        let confinement = Confinement {
            limits: launch.limits.clone(),
            kept: launch.kept.clone(),
            scratch,
            folder: Some(text(inner.as_os_str().as_bytes())),
            leave_root: is_root(),
            ruleset,
            filter: Some(self.filter.clone()),
            parent: std::process::id(),
        };
        let mut command = Command::new(&self.interpreter.executable);
        command
            .args(launch.arguments())
            .env_clear()
            .envs(Launch::ENVIRONMENT);
        // SAFETY: `apply` makes system calls only.
        unsafe { command.pre_exec(move || confinement.apply()) };
        Ok(Jail { command, folder })
    }
}

impl Scratch {
    fn new(disk: Disk, target: &Path, limits: &Limits) -> Self {
        // SAFETY: the calls cannot fail.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let maps = (disk == Disk::UserNamespace)
            .then(|| [user, group].map(|id| text(format!("{id} {id} 1").as_bytes())));
        let (user, group) = if disk == Disk::Root {
            (NOBODY, NOBODY)
        } else {
            (user, group)
        };
        let options = format!(
            "size={},nr_inodes={},mode=700,uid={user},gid={group}",
            limits.disk,
            Limits::FILES
        );
        Self {
            target: text(target.as_os_str().as_bytes()),
            options: text(options.as_bytes()),
            maps,
        }
    }
}

/// None of our texts has a zero in it: they are numbers and paths of the file system.
fn text(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

fn refused(reason: String) -> Error {
    Error::Mechanism {
        mechanism: NAME,
        reason,
    }
}
