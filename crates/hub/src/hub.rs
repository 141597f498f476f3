//! From a source to a path: the mirror folder, then the cache, then the network.

use crate::download::{Progress, Retry};
use crate::files::{is_sha256, sha256_remembered};
use crate::source::MAIN;
use crate::{Error, RepoKind, Source, hf};
use std::path::{Path, PathBuf};

/// Where files are looked for and fetched from. [`Hub::from_env`] fills it in; any field may be set.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Folder that relative paths of `file:` start from.
    pub root: PathBuf,
    /// Folder looked in first: `models/ORG/NAME/FILE`, `datasets/ORG/NAME/FILE`,
    /// `github/OWNER/REPO/FILE` (these three stand for revision `main`), `pypi/PACKAGE-VERSION/MEMBER`.
    pub mirror: Option<PathBuf>,
    /// Cache of the Hugging Face Hub, shared with Python: `HF_HOME/hub`.
    pub hf_cache: PathBuf,
    /// Our own cache, for everything else; files lie under its folder `hub`.
    pub cache: PathBuf,
    pub hf_endpoint: String,
    pub hf_token: Option<String>,
    /// Host of raw files.
    pub github_endpoint: String,
    /// Command that runs Python 3 with pip.
    pub python: String,
    /// Never use the network.
    pub offline: bool,
    pub retry: Retry,
}

/// A file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub path: PathBuf,
    /// Known when the file was downloaded by this call or a checksum was expected.
    pub sha256: Option<String>,
    pub origin: Origin,
}

/// How a file came to be on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Mirror,
    Cache,
    Download,
    /// Named by its path.
    File,
}

impl Hub {
    /// Reads `SHARELORA_MIRROR`, `SHARELORA_CACHE`, `SHARELORA_GITHUB_ENDPOINT`, `SHARELORA_PYTHON`; and as
    /// `huggingface_hub` does `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` or the token file, and
    /// `HF_HUB_OFFLINE`. `root`: folder that relative paths of `file:` start from.
    pub fn from_env(root: &Path) -> Hub {
        Hub::from_vars(root, |name| std::env::var(name).ok())
    }

    /// `from_env` with another way to look up a variable.
    pub fn from_vars(root: &Path, var: impl Fn(&str) -> Option<String>) -> Hub {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| {
            let home = folder("HOME").or_else(std::env::home_dir);
            home.unwrap_or_else(|| root.to_owned()).join(".cache")
        });
        let hf_home = folder("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = |name: &str, default: &str| set(name).unwrap_or_else(|| default.to_owned());
        let yes =
            |value: String| matches!(&*value.to_ascii_lowercase(), "1" | "on" | "yes" | "true");
        Hub {
            root: root.to_owned(),
            mirror: folder("SHARELORA_MIRROR"),
            hf_cache: folder("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            cache: folder("SHARELORA_CACHE").unwrap_or_else(|| caches.join("sharelora")),
            hf_endpoint: endpoint("HF_ENDPOINT", "https://huggingface.co"),
            hf_token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            github_endpoint: endpoint(
                "SHARELORA_GITHUB_ENDPOINT",
                "https://raw.githubusercontent.com",
            ),
            python: endpoint("SHARELORA_PYTHON", "python3"),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            retry: Retry::default(),
        }
    }

    /// Finds or downloads a file. `expected_sha256` (64 hexadecimal digits) is checked wherever the file was.
    pub fn fetch(
        &self,
        source: &Source,
        expected_sha256: Option<&str>,
        progress: Progress,
    ) -> Result<Fetched, Error> {
        let wanted = source.to_string();
        source.check().map_err(|reason| Error::Parse {
            text: wanted.clone(),
            reason,
        })?;
        let expected = expected_sha256.map(str::to_ascii_lowercase);
        let expected = expected.as_deref();
        if let Some(text) = expected.filter(|text| !is_sha256(text)) {
            let text = text.to_owned();
            return Err(Error::ChecksumFormat { wanted, text });
        }
        if let Some((path, origin)) = self.locate(source) {
            return self.found(wanted, path, origin, expected);
        }
        if let Source::File(path) = source {
            let path = self.root.join(path);
            return Err(Error::FileAbsent { wanted, path });
        }
        if self.offline {
            return Err(self.absent(wanted, source));
        }
        let (path, sum) = match source {
            Source::Hf {
                kind,
                repo,
                revision,
                file,
            } => {
                let repo = hf::repo(*kind, repo, revision);
                self.hf_fetch(wanted.clone(), &repo, file, expected, progress)?
            }
            Source::Github {
                repo,
                revision,
                file,
            } => self.github_fetch(wanted.clone(), (repo, revision, file), expected, progress)?,
            Source::Pypi {
                package,
                version,
                member,
            } => self.pypi_fetch(
                wanted.clone(),
                (package, version, member),
                expected,
                progress,
            )?,
            Source::File(path) => (self.root.join(path), None),
        };
        match sum {
            Some(sum) => Ok(Fetched {
                path,
                sha256: Some(sum),
                origin: Origin::Download,
            }),
            // Another thread or process was faster.
            None => self.found(wanted, path, Origin::Cache, expected),
        }
    }

    /// Whether the Hugging Face Hub answers within `patience`, whatever it answers; the reason where it does not.
    /// Offline, nothing is asked.
    ///
    /// # Errors
    /// Why there was no answer, in words.
    pub fn reachable(&self, patience: std::time::Duration) -> Result<(), String> {
        if self.offline {
            return Err("offline".into());
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .build()
            .new_agent();
        match agent.head(&self.hf_endpoint).call() {
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Where a file lies on this machine, if it does. Uses no network.
    pub fn locate(&self, source: &Source) -> Option<(PathBuf, Origin)> {
        source.check().ok()?;
        let mirror = self.mirror_place(source).filter(|path| path.is_file());
        if let Some(path) = mirror {
            return Some((path, Origin::Mirror));
        }
        match source {
            Source::File(path) => Some((self.root.join(path), Origin::File)),
            Source::Hf {
                kind,
                repo,
                revision,
                file,
            } => self
                .hf_locate(&hf::repo(*kind, repo, revision), file)
                .map(|path| (path, Origin::Cache)),
            other => Some((self.cache_place(other), Origin::Cache)),
        }
        .filter(|(path, _)| path.is_file())
    }

    /// Another file of the same folder of the same repository, wheel or file system: the shards that an
    /// index names, the configuration beside the weights.
    pub fn sibling(&self, source: &Source, file: &str) -> Source {
        source.sibling(file)
    }

    /// A file that is there already: checked if a checksum is expected.
    fn found(
        &self,
        wanted: String,
        path: PathBuf,
        origin: Origin,
        expected: Option<&str>,
    ) -> Result<Fetched, Error> {
        let mut sha256 = None;
        if let Some(expected) = expected {
            let memo = self.cache.join("hub").join("sha256");
            let actual = sha256_remembered(&memo, &path)?;
            if actual != expected {
                // Removing a link of the Hub's cache would leave its content to be linked again.
                let path = match origin {
                    Origin::Cache => path.canonicalize().unwrap_or(path),
                    _ => path,
                };
                return Err(Error::Checksum {
                    wanted,
                    path,
                    expected: expected.to_owned(),
                    actual,
                    next: match origin {
                        Origin::Mirror => "replace or remove it in the mirror folder",
                        Origin::File => "check that it is the file you mean",
                        _ => "remove it to have it downloaded again",
                    },
                });
            }
            sha256 = Some(actual);
        }
        Ok(Fetched {
            path,
            sha256,
            origin,
        })
    }

    fn mirror_place(&self, source: &Source) -> Option<PathBuf> {
        let mirror = self.mirror.as_ref()?;
        match source {
            Source::Hf {
                kind,
                repo,
                revision,
                file,
            } if revision == MAIN => {
                let folder = match kind {
                    RepoKind::Model => "models",
                    RepoKind::Dataset => "datasets",
                };
                Some(mirror.join(folder).join(repo).join(file))
            }
            Source::Github {
                repo,
                revision,
                file,
            } if revision == MAIN => Some(mirror.join("github").join(repo).join(file)),
            Source::Pypi {
                package,
                version,
                member,
            } => Some(
                mirror
                    .join("pypi")
                    .join(format!("{package}-{version}"))
                    .join(member),
            ),
            _ => None,
        }
    }

    /// Where the cache has a file, or would have it.
    fn cache_place(&self, source: &Source) -> PathBuf {
        match source {
            Source::Hf {
                kind,
                repo,
                revision,
                file,
            } => self.hf_place(&hf::repo(*kind, repo, revision), file),
            Source::Github {
                repo,
                revision,
                file,
            } => self.github_place(repo, revision, file),
            Source::Pypi {
                package,
                version,
                member,
            } => self.pypi_place(package, version, member),
            Source::File(path) => self.root.join(path),
        }
    }

    fn absent(&self, wanted: String, source: &Source) -> Error {
        let cache = self.cache_place(source);
        let mirror = self.mirror_place(source);
        let looked = match (&mirror, &self.mirror) {
            (Some(mirror), _) => format!("mirror {}, cache {}", mirror.display(), cache.display()),
            (None, Some(_)) => format!(
                "cache {}; a mirror folder is for revision main alone",
                cache.display()
            ),
            (None, None) => format!("cache {}; SHARELORA_MIRROR is not set", cache.display()),
        };
        Error::Offline {
            wanted,
            looked,
            put: mirror.unwrap_or(cache).display().to_string(),
        }
    }
}
