//! What can go wrong around a program; what goes wrong inside it is a verdict.

/// Errors of this crate. None says anything about a program: it was not run, or not judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no Python to run programs with: {tried}; install Python 3.8 or newer, or name one by SHARELORA_PYTHON"
    )]
    NoInterpreter { tried: String },

    #[error(
        "no sandbox for generated programs on this machine: {reasons}; use Linux 6.2 or newer with Landlock, or install \
         bubblewrap, or run them unconfined with --unsafe-no-sandbox"
    )]
    NoMechanism { reasons: String },

    #[error("a sandboxed Python could not be started ({what}): {source}")]
    Start {
        what: &'static str,
        source: std::io::Error,
    },

    #[error("{mechanism} cannot confine a program: {reason}")]
    Mechanism {
        mechanism: &'static str,
        reason: String,
    },

    #[error("the judge of a program did not start ({status}); try again with fewer workers")]
    Judge { status: String },

    #[error("{task_id}: the problem itself does not run, whatever the program: {reason}")]
    Problem { task_id: String, reason: String },
}

impl Error {
    pub(crate) fn start(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Start { what, source }
    }
}
