//! Which Python runs the programs, and which files of this machine it needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

const PROBE: &str = include_str!("python/probe.py");

/// A Python, and all that it reads: what a sandbox has to leave visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The real executable, behind shims, links and virtual environments.
    pub executable: PathBuf,
    pub version: String,
    /// Folders of the standard library.
    pub folders: Vec<PathBuf>,
    /// The executable, the loader and the shared libraries of all extension modules, outside of `folders`.
    pub files: Vec<PathBuf>,
}

impl Interpreter {
    /// `SHARELORA_PYTHON` if it is set, or else the first `python3` on `PATH` that fits: it starts, and a user without
    /// rights may read it (one in root's home, as pyenv puts it, is of no use to a process that has left root).
    pub fn find() -> Result<Self, Error> {
        let candidates: Vec<PathBuf> = match std::env::var_os("SHARELORA_PYTHON") {
            Some(path) => vec![path.into()],
            None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .map(|folder| folder.join("python3"))
                .filter(|path| path.is_file())
                .collect(),
        };
        let mut tried = Vec::new();
        for path in &candidates {
            match Self::at(path) {
                Ok(interpreter) => return Ok(interpreter),
                Err(reason) => tried.push(format!("{}: {reason}", path.display())),
            }
        }
        if tried.is_empty() {
            tried.push("there is no python3 on PATH".to_string());
        }
        Err(Error::NoInterpreter {
            tried: tried.join("; "),
        })
    }

    fn at(path: &Path) -> Result<Self, String> {
        let output = Command::new(path)
            .args(["-I", "-S", "-B", "-W", "ignore", "-c", PROBE])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let interpreter = Self::parse(&text).ok_or_else(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("does not start as Python 3 ({})", stderr.trim())
        })?;
        if let Some(path) = crate::platform::closed_to_nobody(&interpreter) {
            return Err(format!(
                "users other than root cannot read {}",
                path.display()
            ));
        }
        Ok(interpreter)
    }

    /// The answer of `probe.py`.
    fn parse(text: &str) -> Option<Self> {
        let values = |key: &'static str| {
            text.lines().filter_map(move |line| {
                let (name, value) = line.split_once(' ')?;
                (name == key).then(|| value.to_string())
            })
        };
        let executable = PathBuf::from(values("executable").next()?);
        let folders: Vec<PathBuf> = values("folder").map(PathBuf::from).collect();
        let mut files: Vec<PathBuf> = values("file")
            .map(PathBuf::from)
            .filter(|file| !folders.iter().any(|folder| file.starts_with(folder)))
            .collect();
        if !files.contains(&executable) {
            files.push(executable.clone());
        }
        Some(Self {
            executable,
            version: values("version").next()?,
            folders,
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files inside of a library folder are not named twice, and the executable always is; text without an executable is
    /// not an interpreter.
    #[test]
    fn reads_the_probe() {
        let text = "version 3.11.2\nexecutable /usr/bin/python3.11\nfolder /usr/lib/python3.11\n\
                    file /usr/lib/python3.11/lib-dynload/_json.so\nfile /usr/lib/libc.so.6\n";
        let interpreter = Interpreter::parse(text).unwrap();
        assert_eq!(interpreter.version, "3.11.2");
        assert_eq!(
            interpreter.files,
            [
                PathBuf::from("/usr/lib/libc.so.6"),
                PathBuf::from("/usr/bin/python3.11")
            ]
        );
        assert_eq!(Interpreter::parse("bash: no such command\n"), None);
    }
}
