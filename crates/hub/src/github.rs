//! Raw files of GitHub repositories, kept at `CACHE/hub/github/OWNER/REPO/REVISION/FILE`.

use crate::download::{Progress, Transfer, url_path};
use crate::files::lock;
use crate::{Error, Hub};
use std::path::PathBuf;

impl Hub {
    pub(crate) fn github_place(&self, repo: &str, revision: &str, file: &str) -> PathBuf {
        // One folder a revision: `a/b` must not lie inside `a`.
        let revision = revision.replace('%', "%25").replace('/', "%2F");
        let folder = self.cache.join("hub").join("github").join(repo);
        folder.join(revision).join(file)
    }

    /// Downloads a file; returns its path in the cache, and its checksum if this call fetched it.
    pub(crate) fn github_fetch(
        &self,
        wanted: String,
        (repo, revision, file): (&str, &str, &str),
        expected: Option<&str>,
        progress: Progress,
    ) -> Result<(PathBuf, Option<String>), Error> {
        let target = self.github_place(repo, revision, file);
        let _guard = lock(&target)?;
        if target.is_file() {
            return Ok((target, None));
        }
        let endpoint = self.github_endpoint.trim_end_matches('/');
        let transfer = Transfer {
            wanted,
            url: format!(
                "{endpoint}/{repo}/{}/{}",
                url_path(revision),
                url_path(file)
            ),
            page: format!("https://github.com/{repo}"),
            token: None,
            retry: &self.retry,
            progress,
        };
        let meta = transfer.probe()?;
        let sum = transfer.download(&target, &meta, expected)?;
        Ok((target, Some(sum)))
    }
}
