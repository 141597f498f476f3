//! Starting a process, hearing it to the end or to a limit, and ending it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::sandbox::{Jail, Launch};
use crate::{Error, Sandbox};

/// A process and its private folder. Both are gone when this is.
pub struct Process {
    child: Child,
    exit: OwnedFd,
    status: Option<ExitStatus>,
    /// Removed after the process has ended, since fields are dropped after `drop`.
    _folder: tempfile::TempDir,
}

impl Process {
    pub fn start(
        sandbox: &dyn Sandbox,
        launch: &Launch,
        input: File,
        output: Stdio,
        errors: Stdio,
    ) -> Result<Self, Error> {
        let Jail {
            mut command,
            folder,
        } = sandbox.jail(launch)?;
        let mut child = command
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(Error::start("spawn"))?;
        // SAFETY: the child is not reaped yet, so its id is its own; the result is a new descriptor or negative.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as RawFd;
        if fd < 0 {
            let error = io::Error::last_os_error();
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::start("pidfd_open")(error));
        }
        Ok(Self {
            child,
            // SAFETY: just opened, and owned by nobody else.
            exit: unsafe { OwnedFd::from_raw_fd(fd) },
            status: None,
            _folder: folder,
        })
    }

    /// Ends the process group, if it has not ended, and says how it ended.
    pub fn end(&mut self) -> Result<ExitStatus, Error> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // SAFETY: the leader is not reaped, so the id of its group is not anyone else's. The group matters without
        // confinement alone: a confined program has no second process.
        unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
        let status = self.child.wait().map_err(Error::start("wait"))?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Standard input with this content: a file without a name, so that nobody waits for a program that does not read.
pub fn input(content: &[u8]) -> Result<File, Error> {
    let written = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    };
    written().map_err(Error::start("standard input"))
}

/// Why [`collect`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Itself,
    Deadline,
    TooMuchOutput,
}

/// What came out of each pipe.
pub struct Collected {
    pub streams: Vec<Vec<u8>>,
    pub ended: Ended,
}

/// Reads pipes until the process has ended, the deadline has passed, or one has given more than `most` bytes.
pub fn collect(
    process: &Process,
    pipes: Vec<PipeReader>,
    most: usize,
    deadline: Instant,
) -> Result<Collected, Error> {
    let mut streams = vec![Vec::new(); pipes.len()];
    let mut open: Vec<Option<PipeReader>> = pipes.into_iter().map(Some).collect();
    let mut buffer = [0; 1 << 16];
    let mut gone = false;
    loop {
        // Once the process is gone only what the pipes still hold is read, without waiting.
        let left = if gone {
            Duration::ZERO
        } else {
            deadline.saturating_duration_since(Instant::now())
        };
        if left.is_zero() && !gone {
            return Ok(Collected {
                streams,
                ended: Ended::Deadline,
            });
        }
        let mut fds = vec![process.exit.as_raw_fd()];
        // A negative descriptor is not polled.
        fds.extend(
            open.iter()
                .map(|pipe| pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
        );
        let ready = poll(&fds, left).map_err(Error::start("poll"))?;
        let mut heard = false;
        for ((pipe, stream), _) in open
            .iter_mut()
            .zip(&mut streams)
            .zip(&ready[1..])
            .filter(|(_, ready)| **ready)
        {
            let Some(reader) = pipe else { continue };
            heard = true;
            match reader.read(&mut buffer).map_err(Error::start("read"))? {
                0 => *pipe = None,
                count => stream.extend_from_slice(&buffer[..count]),
            }
            if stream.len() > most {
                stream.truncate(most);
                return Ok(Collected {
                    streams,
                    ended: Ended::TooMuchOutput,
                });
            }
        }
        if gone && !heard {
            return Ok(Collected {
                streams,
                ended: Ended::Itself,
            });
        }
        gone |= ready[0];
    }
}

/// Which of the descriptors can be read, after at most this long.
fn poll(fds: &[RawFd], wait: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Up, so that a wait for less than a millisecond is not a spin.
    let milliseconds = wait.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    // SAFETY: the pointer and the count are those of the vector.
    let count = unsafe {
        libc::poll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            milliseconds,
        )
    };
    if count < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; fds.len()]);
    }
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}
