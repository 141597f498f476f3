//! Ctrl-C: the first asks the work to stop where nothing is lost, the second stops it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::STOPPED;

/// Signals come to a process, not to a part of it.
static ASKED: AtomicBool = AtomicBool::new(false);

/// The work stopped because it was asked to; it can be gone on with.
#[derive(Debug, thiserror::Error)]
#[error("stopped before its end")]
pub struct Interrupted;

/// Whether the work has been asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Asks the work to stop.
pub fn ask() {
    ASKED.store(true, Ordering::Relaxed);
}

/// # Errors
/// The work has been asked to stop.
pub fn check() -> Result<(), Interrupted> {
    if asked() { Err(Interrupted) } else { Ok(()) }
}

/// Ends the process without another word to anybody. Files are written whole or not at all, so that none is harmed.
pub fn exit_at_once() -> ! {
    // Not `std::process::exit`: what libraries do at an exit may wait for threads that compute.
    signal_hook::low_level::exit(i32::from(STOPPED))
}

/// From now on SIGINT and SIGTERM ask the work to stop, and end the process where it has been asked already.
///
/// # Errors
/// The system refuses.
pub fn listen() -> std::io::Result<()> {
    watch(true, || {
        eprintln!("stopping at the next step, nothing will be lost; once more stops at once");
    })
}

/// As [`listen`] for a worker. A terminal sends Ctrl-C to the parent and to the workers alike; the parent alone acts on it and tells them.
///
/// # Errors
/// The system refuses.
pub fn listen_as_worker() -> std::io::Result<()> {
    watch(false, || {})
}

#[cfg(unix)]
fn watch(interrupt_counts: bool, first: impl Fn() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGINT && !interrupt_counts {
                continue;
            }
            if asked() {
                exit_at_once();
            }
            ask();
            first();
        }
    });
    Ok(())
}

/// Elsewhere a signal ends the process, as always; what it did goes on from the last checkpoint.
#[cfg(not(unix))]
fn watch(_: bool, _: impl Fn() + Send + 'static) -> std::io::Result<()> {
    Ok(())
}
