//! The Hugging Face Hub and its cache, laid out as Python's `huggingface_hub` does:
//! `models--ORG--NAME/{refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/ETAG, blobs/ETAG}`.

use crate::download::{Progress, Transfer, url_path};
use crate::files::{create_parent, lock, write_atomic};
use crate::{Error, Hub, RepoKind};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A repository at a revision, as the layout and the routes name it.
pub(crate) fn repo(kind: RepoKind, name: &str, revision: &str) -> Repo {
    let kind = match kind {
        RepoKind::Model => RepoType::Model,
        RepoKind::Dataset => RepoType::Dataset,
    };
    Repo::with_revision(name.to_owned(), kind, revision.to_owned())
}

impl Hub {
    fn hf_repo(&self, repo: &Repo) -> CacheRepo {
        Cache::new(self.hf_cache.clone()).repo(repo.clone())
    }

    /// A file of the cache. A revision that is a commit needs no reference.
    pub(crate) fn hf_locate(&self, repo: &Repo, file: &str) -> Option<PathBuf> {
        let cached = self.hf_repo(repo);
        let direct =
            || Some(cached.pointer_path(repo.revision()).join(file)).filter(|p| p.is_file());
        cached.get(file).filter(|p| p.is_file()).or_else(direct)
    }

    /// Where `hf_locate` looks, for messages.
    pub(crate) fn hf_place(&self, repo: &Repo, file: &str) -> PathBuf {
        self.hf_repo(repo).pointer_path(repo.revision()).join(file)
    }

    /// Downloads a file into the cache; returns its path there, and its checksum if this call fetched it.
    pub(crate) fn hf_fetch(
        &self,
        wanted: String,
        repo: &Repo,
        file: &str,
        expected: Option<&str>,
        progress: Progress,
    ) -> Result<(PathBuf, Option<String>), Error> {
        let endpoint = self.hf_endpoint.trim_end_matches('/');
        // A revision is one segment of the route: its slashes are encoded too.
        let revision = url_path(repo.revision()).replace('/', "%2F");
        let transfer = Transfer {
            wanted,
            url: format!(
                "{endpoint}/{}/resolve/{revision}/{}",
                repo.url(),
                url_path(file)
            ),
            page: format!("{endpoint}/{}", repo.url()),
            token: self.hf_token.as_deref(),
            retry: &self.retry,
            progress,
        };
        let meta = transfer.probe()?;
        let commit = meta
            .commit
            .as_deref()
            .filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric()))
            .ok_or_else(|| transfer.odd("no commit in the header x-repo-commit"))?;
        let etag = meta
            .etag
            .as_deref()
            .ok_or_else(|| transfer.odd("no etag"))?;
        let cached = self.hf_repo(repo);
        let blob = cached.blob_path(etag);
        let pointer = cached.pointer_path(commit).join(file);

        let guard = lock(&blob)?;
        let sum = if pointer.is_file() {
            None
        } else if blob.is_file() {
            link(&blob, &pointer)?;
            None
        } else {
            let sum = transfer.download(&blob, &meta, expected)?;
            link(&blob, &pointer)?;
            Some(sum)
        };
        drop(guard);

        if repo.revision() != commit {
            let folder = self.hf_cache.join(repo.folder_name());
            write_atomic(
                &folder.join("refs").join(repo.revision()),
                commit.as_bytes(),
            )?;
        }
        Ok((pointer, sum))
    }
}

/// Makes `pointer` (in `snapshots/COMMIT/`) a relative link to `blob` (in `blobs/`).
fn link(blob: &Path, pointer: &Path) -> Result<(), Error> {
    create_parent(pointer)?;
    match symlink(&relative(blob, pointer), pointer) {
        Ok(()) => Ok(()),
        // A link to a blob that was missing until now.
        Err(_) if pointer.is_file() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(pointer)
            .and_then(|()| symlink(&relative(blob, pointer), pointer))
            .map_err(Error::io("link", pointer)),
        // Some file systems have no links: the file itself takes the place, as in huggingface_hub.
        Err(_) => fs::rename(blob, pointer).map_err(Error::io("rename to", pointer)),
    }
}

/// `../../blobs/ETAG`, with one step more for each folder in the file's name.
fn relative(blob: &Path, pointer: &Path) -> PathBuf {
    let repository = blob.parent().and_then(Path::parent).unwrap_or(blob);
    let inside = pointer.strip_prefix(repository).unwrap_or(pointer);
    let up = inside.components().count().saturating_sub(1);
    let mut path: PathBuf = std::iter::repeat_n("..", up).collect();
    path.push("blobs");
    path.push(blob.file_name().unwrap_or_default());
    path
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(windows)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}
