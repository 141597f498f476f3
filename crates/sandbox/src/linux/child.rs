//! What a new process does to itself between fork and exec.
//!
//! Another thread may have held any lock when the process was forked, so nothing here allocates or locks: all texts,
//! rulesets and filters are made before, and what is left are system calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use seccompiler::BpfProgram;

use crate::Limits;

/// The user and group without rights that a process of root becomes: "nobody".
pub const NOBODY: u32 = 65_534;

/// All that a child gives up before it becomes Python. What is `None` or empty is left out.
pub struct Confinement {
    pub limits: Limits,
    /// Descriptors that stay open, besides the three standard ones.
    pub kept: Vec<RawFd>,
    pub scratch: Option<Scratch>,
    /// The folder to start in.
    pub folder: Option<CString>,
    /// Become [`NOBODY`].
    pub leave_root: bool,
    pub ruleset: Option<OwnedFd>,
    pub filter: Option<Arc<BpfProgram>>,
    /// The process that the child must not outlive.
    pub parent: u32,
}

/// A file system in memory of a fixed size, in a mount namespace of its own: it bounds what is written, and goes with the
/// process.
pub struct Scratch {
    pub target: CString,
    pub options: CString,
    /// Without root, the namespaces come with a user namespace; these are its maps of one user and one group.
    pub maps: Option<[CString; 2]>,
}

impl Confinement {
    /// Runs in the child. An error ends it, and the parent's `spawn` returns it.
    pub fn apply(&self) -> io::Result<()> {
        // SAFETY: plain system calls with constant or owned, terminated arguments; no memory is shared with anyone.
        unsafe {
            check(libc::setsid())?;
            if let Some(scratch) = &self.scratch {
                scratch.mount()?;
            }
            if let Some(folder) = &self.folder {
                check(libc::chdir(folder.as_ptr()))?;
            }
            self.limit()?;
            if self.leave_root {
                // The raw calls: those of the C library would talk to threads that the child does not have.
                check(libc::syscall(
                    libc::SYS_setgroups,
                    0,
                    std::ptr::null::<u32>(),
                ))?;
                check(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
                check(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))?;
            }
            // After the change of user, which forgets it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() as u32 != self.parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // Closed by exec rather than now: the standard library reports a failed exec through one of them.
            check(libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ))?;
            for &fd in &self.kept {
                check(libc::fcntl(fd, libc::F_SETFD, 0))?;
            }
            if let Some(ruleset) = &self.ruleset {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                let fd = ruleset.as_raw_fd();
                check(libc::syscall(libc::SYS_landlock_restrict_self, fd, 0))?;
            }
        }
        if let Some(filter) = &self.filter {
            // Last: what is above is forbidden from here on.
            seccompiler::apply_filter(filter)
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        }
        Ok(())
    }

    unsafe fn limit(&self) -> io::Result<()> {
        let cpu = self.limits.cpu_seconds;
        let limits = [
            (libc::RLIMIT_AS, self.limits.memory, self.limits.memory),
            // SIGXCPU says which limit it was; SIGKILL follows where the program ignores that.
            (libc::RLIMIT_CPU, cpu, cpu + 1),
            (
                libc::RLIMIT_FSIZE,
                self.limits.file_size,
                self.limits.file_size,
            ),
            (libc::RLIMIT_NOFILE, Limits::OPEN_FILES, Limits::OPEN_FILES),
            (libc::RLIMIT_STACK, Limits::STACK, Limits::STACK),
            (libc::RLIMIT_CORE, 0, 0),
        ];
        for (resource, soft, hard) in limits {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: `limit` is a valid structure for both calls.
            unsafe {
                check(libc::getrlimit(resource, &mut limit))?;
                limit.rlim_max = limit.rlim_max.min(hard);
                limit.rlim_cur = limit.rlim_max.min(soft);
                check(libc::setrlimit(resource, &limit))?;
            }
        }
        Ok(())
    }
}

impl Scratch {
    unsafe fn mount(&self) -> io::Result<()> {
        let user = if self.maps.is_some() {
            libc::CLONE_NEWUSER
        } else {
            0
        };
        // SAFETY: all texts are terminated and outlive the calls.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS | user))?;
            if let Some([users, groups]) = &self.maps {
                // Groups can be mapped without rights only where they cannot be set any more.
                write(c"/proc/self/setgroups", c"deny")?;
                write(c"/proc/self/uid_map", users)?;
                write(c"/proc/self/gid_map", groups)?;
            }
            let none = std::ptr::null();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()))?;
            check(libc::mount(
                c"tmpfs".as_ptr(),
                self.target.as_ptr(),
                c"tmpfs".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
                self.options.as_ptr().cast(),
            ))
        }
    }
}

unsafe fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: both are terminated, and the length is that of the text.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let bytes = text.to_bytes();
        let written = check(libc::write(fd, bytes.as_ptr().cast(), bytes.len()) as i64);
        libc::close(fd);
        written
    }
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
