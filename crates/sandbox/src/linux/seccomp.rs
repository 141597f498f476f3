//! The system calls that a program has: an allow-list; every other call fails with EPERM.
//!
//! It is the same filter for a judge and a worker, with Landlock and with bubblewrap. What is left out, and why:
//!
//! - `fork`, `vfork`, `clone`, `clone3`: one process and one thread, so nothing can outlive the program. `setsid` goes too.
//! - `kill`, `tkill`, `tgkill`, `pidfd_*`, `ptrace`, `process_vm_*`: other processes. `fcntl` is cut to the commands that
//!   cannot make the kernel send signals, `prlimit64` to the process itself.
//! - `socket`, `socketpair` and all that follows: no network of any family, and no local service.
//! - `chmod`, `chown`, `utime*`, `setxattr`, `link`, `symlink`: Landlock does not govern the first ones, and the
//!   folder needs none.
//! - `mount`, `unshare`, `setns`, `chroot`, `pivot_root`, `bpf`, `perf_event_open`, `io_uring_*`, `userfaultfd`, `keyctl`,
//!   `memfd_create`, `ptrace`, modules, clocks, scheduling, System V memory: nothing a solution needs, and where the
//!   flaws of kernels are.
//! - `set*id`, `prctl`, `seccomp`, `personality`: what has been given up stays so.
//!
//! `execve` must stay, since the filter is there before the interpreter is. Only the interpreter and its loader can be
//! executed under Landlock, and as nothing can fork, a program that calls it replaces itself by a Python under the same
//! filter, rules and limits: that ends its chance to answer and gains it nothing.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::Error;

/// Calls that are allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Files, as far as Landlock lets them be.
    libc::SYS_chdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchdir,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statx,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    // The process itself.
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
    // Without children it only fails; bubblewrap's own first process, under the same filter, has one to wait for.
    libc::SYS_wait4,
    // Time, and signals to oneself.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_setitimer,
    libc::SYS_sigaltstack,
];

/// The older forms of such calls, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Calls that are allowed where an argument, by its place, has one of some values.
const RESTRICTED: &[(c_long, u8, &[u64])] = &[
    (
        libc::SYS_fcntl,
        1,
        &[
            libc::F_DUPFD as u64,
            libc::F_DUPFD_CLOEXEC as u64,
            libc::F_GETFD as u64,
            libc::F_SETFD as u64,
            libc::F_GETFL as u64,
            libc::F_SETFL as u64,
        ],
    ),
    // Is it a terminal; close on exec; how many bytes wait.
    (
        libc::SYS_ioctl,
        1,
        &[libc::TCGETS as _, libc::FIOCLEX as _, libc::FIONREAD as _],
    ),
    (libc::SYS_prlimit64, 0, &[0]),
];

/// The filter as a BPF program for this processor.
pub fn filter() -> Result<BpfProgram, Error> {
    let failed = |reason: String| Error::Mechanism {
        mechanism: "seccomp",
        reason,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in ALLOWED.iter().chain(ALLOWED_HERE) {
        rules.insert(call, Vec::new());
    }
    for &(call, place, values) in RESTRICTED {
        for &value in values {
            let condition =
                SeccompCondition::new(place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
                    .and_then(|condition| SeccompRule::new(vec![condition]))
                    .map_err(|error| failed(error.to_string()))?;
            rules.entry(call).or_default().push(condition);
        }
    }
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| failed(format!("no filter for {}", std::env::consts::ARCH)))?;
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        arch,
    )
    .and_then(TryInto::try_into)
    .map_err(|error| failed(error.to_string()))
}
