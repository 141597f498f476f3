//! The runner: an experiment becomes a plan, each run of the plan a record, the records a report.
//!
//! `experiment` (TOML) -> `plan` (resolved runs with a content hash) -> `sweep` (each run once, in its own folder
//! of the `store`) -> `execute` (data, training, evaluation) -> record -> report. Nothing below this crate knows
//! that sweeps exist.

pub mod allocator;
pub mod base;
pub mod batch;
pub mod bench;
pub mod checkpoint;
pub mod citations;
pub mod cli;
pub mod commands;
pub mod context;
pub mod cost;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod execute;
pub mod experiment;
pub mod gradients;
pub mod held_out;
pub mod host;
pub mod interrupt;
pub mod meteor;
pub mod optimizer;
pub mod parity;
pub mod plan;
pub mod pool;
pub mod pretrain;
pub mod programs;
pub mod progress;
pub mod queue;
pub mod report;
pub mod samples;
pub mod schedule;
pub mod shapes;
pub mod slurm;
pub mod spectra;
pub mod stages;
pub mod status;
pub mod store;
pub mod stored;
pub mod sweep;
pub mod train;
pub mod twins;
pub mod worker;

pub use context::Context;
pub use experiment::Experiment;
pub use plan::{Plan, ResolvedRun};
pub use store::{RunDir, Store};
