//! A worker that runs the program, a judge that runs the test, and what the judge says.
//!
//! The judge (`judge.py`) executes the dataset's text alone. Its `candidate` sends arguments to the worker (`worker.py`)
//! and makes plain data of what comes back (`codec.py`). The pipe for the verdict is open in the judge and here; the
//! worker has neither it, nor the test, nor a way to reach the judge but for answering calls. Whatever it answers is
//! compared by the test, so the one way to pass is to give the right answers.

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Instant;

use super::process::{Ended, Process, collect, input};
use crate::sandbox::Launch;
use crate::{Error, Limits, Problem, Sandbox, Verdict};

const WORKER: &str = concat!(
    include_str!("../python/start.py"),
    include_str!("../python/codec.py"),
    include_str!("../python/worker.py")
);
const JUDGE: &str = concat!(
    include_str!("../python/start.py"),
    include_str!("../python/codec.py"),
    include_str!("../python/judge.py")
);
/// More than a judge says.
const MOST: usize = 4096;

pub fn grade(
    sandbox: &dyn Sandbox,
    problem: &Problem,
    completion: &str,
    limits: &Limits,
) -> Result<Verdict, Error> {
    let deadline = Instant::now() + limits.wall;
    let pipe = || std::io::pipe().map_err(Error::start("pipe"));
    let (calls, calls_end) = pipe()?;
    let (answers_end, answers) = pipe()?;
    let (verdict_end, verdict) = pipe()?;
    let start = |driver, kept, texts: &[&str]| {
        let launch = Launch {
            driver,
            kept,
            limits,
        };
        let input = input(&frame(texts))?;
        Process::start(sandbox, &launch, input, Stdio::null(), Stdio::null())
    };
    let program = format!("{}{completion}\n", problem.prompt);
    let mut worker = start(
        WORKER,
        vec![calls.as_raw_fd(), answers.as_raw_fd()],
        &[&problem.entry_point, &program],
    )?;
    // Each end must be closed where it is not used, or nobody would see the other side go.
    drop((calls, answers));
    let mut judge = start(
        JUDGE,
        vec![
            calls_end.as_raw_fd(),
            answers_end.as_raw_fd(),
            verdict.as_raw_fd(),
        ],
        &[&problem.prompt, &problem.test, &problem.entry_point],
    )?;
    drop((calls_end, answers_end, verdict));
    let heard = collect(&judge, vec![verdict_end], MOST, deadline)?;
    let ended = worker.end()?;
    let status = judge.end()?;
    match (heard.ended, Said::parse(&heard.streams[0])) {
        (Ended::Deadline, _) => Ok(Verdict::TimedOut),
        (_, Some(Said::Passed)) => Ok(Verdict::Passed),
        (_, Some(Said::Failed(reason))) => Ok(Verdict::Failed(reason)),
        (_, Some(Said::WorkerGone)) if ended.signal() == Some(libc::SIGXCPU) => {
            Ok(Verdict::TimedOut)
        }
        (_, Some(Said::WorkerGone)) => Ok(Verdict::Failed(format!(
            "the program did not answer ({ended})"
        ))),
        (_, Some(Said::Broken(reason))) => Err(Error::Problem {
            task_id: problem.task_id.clone(),
            reason,
        }),
        (_, Some(Said::Ready)) => Ok(Verdict::Failed("its answers ended the judge".to_string())),
        (_, None) => Err(Error::Judge {
            status: status.to_string(),
        }),
    }
}

/// A tuple of texts as `codec.py` has it.
fn frame(texts: &[&str]) -> Vec<u8> {
    let mut value = vec![b't'];
    value.extend((texts.len() as u32).to_le_bytes());
    for text in texts {
        value.push(b's');
        value.extend((text.len() as u32).to_le_bytes());
        value.extend(text.as_bytes());
    }
    let mut frame = (value.len() as u32).to_le_bytes().to_vec();
    frame.extend(value);
    frame
}

/// What the judge says, see `judge.py`.
#[derive(Debug, PartialEq)]
enum Said {
    /// And then nothing.
    Ready,
    Passed,
    Failed(String),
    WorkerGone,
    Broken(String),
}

impl Said {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match bytes {
            b"R" => Some(Self::Ready),
            b"RP" => Some(Self::Passed),
            b"RW" => Some(Self::WorkerGone),
            [b'R', b'F', reason @ ..] => Some(Self::Failed(text(reason))),
            [b'B', reason @ ..] => Some(Self::Broken(text(reason))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever bytes come out of the verdict's pipe: no panic, and only the one message means that it passed.
        #[test]
        fn any_bytes_are_a_verdict_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let said = Said::parse(&bytes);
            prop_assert_eq!(said == Some(Said::Passed), bytes == b"RP");
        }

        /// The same for bytes that begin as a verdict does.
        #[test]
        fn tags_with_any_rest(
            start in prop::sample::select(vec!["R", "RP", "RF", "RW", "B", "P"]),
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = start.as_bytes().to_vec();
            bytes.extend(&rest);
            prop_assert_eq!(Said::parse(&bytes) == Some(Said::Passed), bytes == b"RP");
        }

        /// Texts of any length and content are framed by their lengths in bytes.
        #[test]
        fn frames_say_their_length(texts in prop::collection::vec(any::<String>(), 0..4)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let frame = frame(&texts);
            let expected = 4 + 5 + texts.iter().map(|text| 5 + text.len()).sum::<usize>();
            prop_assert_eq!(frame.len(), expected);
            prop_assert_eq!(frame[..4].to_vec(), (expected as u32 - 4).to_le_bytes().to_vec());
        }
    }
}
