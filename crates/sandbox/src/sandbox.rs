//! What a sandbox is, and which one this machine has.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use crate::{Error, Interpreter, Limits, Problem, Verdict, grade, platform, run};

/// A way of confining a process.
pub trait Sandbox: Send + Sync {
    /// `landlock`, `bubblewrap` or `none`.
    fn name(&self) -> &'static str;

    /// What it stops and what it does not, for people who decide whether that is enough.
    fn stops(&self) -> Vec<Stop>;

    /// A command that becomes a confined Python, and the folder that goes with it.
    fn jail(&self, launch: &Launch) -> Result<Jail, Error>;
}

/// One line of what a [`Sandbox`] says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub threat: &'static str,
    pub stopped: bool,
    /// By what, or why not.
    pub how: String,
}

impl Stop {
    pub(crate) fn yes(threat: &'static str, how: impl Into<String>) -> Self {
        Self {
            threat,
            stopped: true,
            how: how.into(),
        }
    }

    pub(crate) fn no(threat: &'static str, how: impl Into<String>) -> Self {
        Self {
            stopped: false,
            ..Self::yes(threat, how)
        }
    }
}

/// A Python process to start.
pub struct Launch<'a> {
    /// The text that it runs.
    pub driver: &'a str,
    /// Descriptors that it inherits, by their numbers, which are also its arguments.
    pub kept: Vec<i32>,
    pub limits: &'a Limits,
}

impl Launch<'_> {
    /// Python's hashes, and with them the order of its sets, are the same in every run; no search for a locale. `start.py`
    /// takes both away again.
    pub(crate) const ENVIRONMENT: [(&'static str, &'static str); 2] =
        [("PYTHONHASHSEED", "0"), ("LC_ALL", "C")];

    /// No site packages, no user's folder, no compiled files, UTF-8. Not `-I`, which would ignore the environment above: nothing
    /// else is in it.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let flags = ["-S", "-s", "-B", "-X", "utf8", "-c", self.driver];
        let numbers = self.kept.iter().map(|fd| fd.to_string().into());
        flags
            .into_iter()
            .map(OsString::from)
            .chain(numbers)
            .collect()
    }
}

/// A process that is ready to start.
pub struct Jail {
    pub command: Command,
    /// Its private folder, which is removed when the process has ended.
    pub folder: tempfile::TempDir,
}

/// How a mechanism is tried.
pub(crate) type Open = fn(&Interpreter) -> Result<Box<dyn Sandbox>, Error>;

/// A mechanism that this crate knows.
pub struct Mechanism {
    pub name: &'static str,
    /// Or the reason why it does not work here.
    pub sandbox: Result<Box<dyn Sandbox>, Error>,
}

/// All mechanisms, the best first. Each is tried with a program, which takes a moment.
pub fn mechanisms(interpreter: &Interpreter) -> Vec<Mechanism> {
    tried(interpreter).collect()
}

/// The best mechanism that works here: Landlock with seccomp, or bubblewrap. The caller refuses to run programs on an error,
/// unless it was told to use [`unconfined`].
pub fn active(interpreter: &Interpreter) -> Result<Box<dyn Sandbox>, Error> {
    let mut reasons = Vec::new();
    for mechanism in tried(interpreter) {
        match mechanism.sandbox {
            Ok(sandbox) => return Ok(sandbox),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Error::NoMechanism {
        reasons: reasons.join("; "),
    })
}

fn tried(interpreter: &Interpreter) -> impl Iterator<Item = Mechanism> {
    platform::MECHANISMS.iter().map(|(name, open)| Mechanism {
        name,
        sandbox: open(interpreter),
    })
}

/// No sandbox, for a caller that was told so in so many words: limits, but nothing against a hostile program.
pub fn unconfined(interpreter: &Interpreter) -> Result<Box<dyn Sandbox>, Error> {
    platform::unconfined(interpreter)
}

/// Whether a right program passes and a wrong one fails: a mechanism that keeps Python from starting would fail both.
pub(crate) fn starts(sandbox: &dyn Sandbox) -> Result<(), String> {
    let problem = Problem {
        task_id: "trial".to_string(),
        prompt: "def one():\n    \"\"\"1\"\"\"\n".to_string(),
        test: "def check(candidate):\n    assert candidate() == 1\n".to_string(),
        entry_point: "one".to_string(),
    };
    let limits = Limits {
        wall: Duration::from_secs(20),
        ..Limits::default()
    };
    let output = run(sandbox, "print('ready')", &limits).map_err(|error| error.to_string())?;
    if output.stdout != b"ready\n" {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "Python does not start in it ({:?}): {}",
            output.end,
            errors.trim()
        ));
    }
    let judged = |completion| {
        grade(sandbox, &problem, completion, &limits).map_err(|error| error.to_string())
    };
    match (judged("    return 1")?, judged("    return 2")?) {
        (Verdict::Passed, Verdict::Failed(_)) => Ok(()),
        (right, _) => Err(format!("a trial program was not judged: {right:?}")),
    }
}
