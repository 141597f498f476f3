//! Slurm's programs, called as a person calls them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, bail};

use super::queue::{self, Row};
use crate::error::AbsentError;

/// Slurm's own default of MaxArraySize.
const MAX_ARRAY_SIZE: usize = 1001;

/// Submits a script and gives the number of its job.
///
/// # Errors
/// There is no sbatch, or it refuses: its own words.
pub fn sbatch(script: &str) -> Result<u64> {
    let output = run("sbatch", &["--parsable".into()], script)?;
    let said = words(&output.stderr, "sbatch: ");
    if !output.status.success() {
        let hint = if said.contains("submit limit") || said.contains("MaxSubmitJob") {
            "\nset `max_submit` in [slurm] to what you may have in the queue: the rest is then submitted as tasks end"
        } else {
            ""
        };
        bail!("sbatch refuses the job (--dry-run shows its script): {said}{hint}");
    }
    if !said.is_empty() {
        eprintln!("sbatch: {said}");
    }
    let out = String::from_utf8_lossy(&output.stdout);
    match queue::submitted(&out) {
        Some(job) => Ok(job),
        None => bail!("sbatch gives no number of a job: {}", out.trim()),
    }
}

/// The tasks of jobs with these names that Slurm still knows, the ended ones among them.
///
/// # Errors
/// There is no squeue, or it gets no answer.
pub fn squeue(names: &[&str]) -> Result<Vec<Row>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = [
        "--noheader".into(),
        "--array".into(),
        "--states=all".into(),
        format!("--name={}", names.join(",")),
        format!("--format={}", queue::FORMAT),
    ];
    Ok(queue::squeue(&answer("squeue", &arguments)?))
}

/// As [`squeue`], from the accounts, which remember longer; empty where the cluster keeps none.
pub fn sacct(names: &[&str]) -> Vec<Row> {
    let arguments = [
        "--noheader".into(),
        "--parsable2".into(),
        "--allocations".into(),
        "--starttime=now-30days".into(),
        format!("--name={}", names.join(",")),
        "--format=JobName,JobID,State".into(),
    ];
    answer("sacct", &arguments).map_or(Vec::new(), |text| queue::sacct(&text))
}

/// The most tasks of one array.
pub fn max_array_size() -> usize {
    let config = answer("scontrol", &["show".into(), "config".into()]);
    config
        .ok()
        .and_then(|text| queue::max_array_size(&text))
        .unwrap_or(MAX_ARRAY_SIZE)
}

/// The most tasks that this user may have in the queue, where the cluster keeps accounts and says so.
pub fn max_submit() -> Option<usize> {
    let user = String::from_utf8(run("id", &["-un".into()], "").ok()?.stdout).ok()?;
    let arguments = [
        "--noheader".into(),
        "--parsable2".into(),
        "show".into(),
        "associations".into(),
        format!("user={}", user.trim()),
        "format=MaxSubmitJobs".into(),
    ];
    queue::max_submit(&answer("sacctmgr", &arguments).ok()?)
}

/// How many tasks this user has in the queue.
///
/// # Errors
/// As [`squeue`].
pub fn queued() -> Result<usize> {
    let arguments = ["--me", "--noheader", "--array", "--format=%i"].map(String::from);
    Ok(answer("squeue", &arguments)?.lines().count())
}

/// What a program prints, where it succeeds.
fn answer(program: &str, arguments: &[String]) -> Result<String> {
    let output = run(program, arguments, "")?;
    if !output.status.success() {
        bail!(
            "{program} fails: {}",
            words(&output.stderr, &format!("{program}: "))
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(program: &str, arguments: &[String], input: &str) -> Result<Output> {
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(AbsentError(format!(
                "there is no `{program}` here: `--executor slurm` works on a machine that submits jobs to Slurm"
            ))
            .into());
        }
        Err(e) => bail!("{program} cannot be started: {e}"),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has gone says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child.wait_with_output()?)
}

/// A program's complaints as one text, without its name before each line.
fn words(bytes: &[u8], prefix: &str) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix(prefix).unwrap_or(line))
        .map(|line| line.strip_prefix("error: ").unwrap_or(line).trim())
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}
