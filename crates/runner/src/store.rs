//! `results/EXPERIMENT/LABEL-HASH8/`: one folder a run, worked on by one process at a time.
//!
//! `run.json` says what the folder is for, `record.json` that the run has ended; both are written whole or not at
//! all. `steps.jsonl` grows by a line a step. A folder that does not hold together is done again, never trusted.
//!
//! A folder is locked by `flock` on its file `lock`. A run may be part of several experiments, and so have several folders; `results/lock`
//! is held for the moment of taking one, so that whoever looks at the others sees who has them. On NFS the kernel makes a lock of
//! the server of each: NFS 4, or 3 with its lock service, and not mounted with `nolock` or `local_lock`. Lustre wants the option `flock`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sharelora_report::{Record, Status};

use crate::plan::ResolvedRun;
use crate::twins;

/// What can go wrong in the results' folders.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{}: no space left on the disk: free some and run the same command again (nothing half-written was left)",
        path.display()
    )]
    DiskFull { path: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another process works there.
    #[error("{} is in use by {who}", path.display())]
    Busy { path: PathBuf, who: String },
    #[error("{}: {reason}", path.display())]
    Broken { path: PathBuf, reason: String },
}

impl StoreError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull {
                path: path.to_owned(),
            },
            _ => StoreError::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing is there.
    New,
    /// It has begun, or failed, and goes on from its last checkpoint; the reason in words.
    Unfinished(String),
    /// Its files do not hold together; it starts again. What is wrong, in words.
    Broken(String),
    /// It has ended, by itself or by divergence, and is never done again.
    Done(Box<Record>),
}

/// Folders of runs by the short hash that their names end in.
pub type Twins = HashMap<String, Vec<PathBuf>>;

/// The results' folder of a project.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Store { dir: dir.into() }
    }

    /// `results/EXPERIMENT`.
    pub fn experiment_dir(&self, experiment: &str) -> PathBuf {
        self.dir.join(experiment)
    }

    /// `results/EXPERIMENT/LABEL-HASH8`.
    pub fn run_dir(&self, run: &ResolvedRun) -> PathBuf {
        self.experiment_dir(&run.experiment).join(run.folder())
    }

    /// Looks at a run's folder without taking it.
    pub fn state(&self, run: &ResolvedRun) -> State {
        state(&self.run_dir(run), &run.hash())
    }

    /// As [`Store::state`], of a run whose folder and hash are known: both are worth computing once.
    pub fn state_of(&self, experiment: &str, folder: &str, hash: &str) -> State {
        state(&self.experiment_dir(experiment).join(folder), hash)
    }

    /// The finished run of another experiment with this run's hash, if the store has one. For many runs, `folders` is
    /// what [`Store::folders`] gave.
    pub fn done_elsewhere(&self, run: &ResolvedRun, folders: &Twins) -> Option<PathBuf> {
        let hash = run.hash();
        let mut twins = folders.get(&hash[..8])?.iter();
        let own = self.run_dir(run);
        let done = |path: &&PathBuf| **path != own && matches!(state(path, &hash), State::Done(_));
        twins.find(done).cloned()
    }

    /// All folders of runs, by short hash.
    pub fn folders(&self) -> Twins {
        twins::folders(&self.dir, |_| true)
    }

    /// How far a run's files have got: steps, bytes of answers, evaluations. It grows while there is progress, over all attempts.
    pub fn reached(&self, run: &ResolvedRun) -> (usize, u64, usize) {
        let dir = self.run_dir(run);
        let steps = fs::read(dir.join("steps.jsonl")).unwrap_or_default();
        let steps = steps.iter().filter(|b| **b == b'\n').count();
        let (mut answers, mut evaluations) = (0, 0);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("answers-") {
                answers += entry.metadata().map_or(0, |m| m.len());
            }
            evaluations += usize::from(name.starts_with("samples-"));
        }
        (steps, answers, evaluations)
    }

    /// Takes a run's folder: makes it, locks it, and clears it where its files do not hold together. Where another experiment has
    /// finished the same run, the folder is filled from there.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another process has it, or the folder of the same run of another experiment.
    pub fn open(&self, run: &ResolvedRun) -> Result<RunDir, StoreError> {
        let (path, hash) = (self.run_dir(run), run.hash());
        fs::create_dir_all(&self.dir).map_err(StoreError::io("create", &self.dir))?;
        let moment = self.moment()?;
        let twin = match state(&path, &hash) {
            State::Done(_) => None,
            _ => self.twin(run, &path, &hash)?,
        };
        fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        let lock = take_lock(&path)?;
        drop(moment);
        let mut dir = RunDir {
            path,
            hash,
            taken_from: None,
            _lock: lock,
        };
        // Whatever is here belongs to this run only if `run.json` says so; a checkpoint of something else must
        // not be gone on from.
        match read_run(&dir.path) {
            Ok(found) if found.hash() == dir.hash => {}
            _ => dir.clear()?,
        }
        dir.remove_partial();
        let mut file = serde_json::to_value(run).unwrap_or_default();
        if let Value::Object(map) = &mut file {
            map.insert("hash".into(), dir.hash.clone().into());
        }
        if let Some((path, record, _lock)) = twin {
            dir.clear()?;
            dir.write_json("run.json", &file)?;
            match twins::take_over(run, &dir, &path, record) {
                Ok(()) => dir.taken_from = Some(path),
                Err(e @ StoreError::DiskFull { .. }) => return Err(e),
                // Then it is done once more.
                Err(e) => {
                    tracing::warn!("{} is not taken over: {e}", path.display());
                    dir.clear()?;
                }
            }
        }
        dir.write_json("run.json", &file)?;
        Ok(dir)
    }

    /// The moment in which a folder is taken: one process at a time.
    fn moment(&self) -> Result<Lock, StoreError> {
        let path = self.dir.join(LOCK);
        let file = lock_file(&path)?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Lock(file))
    }

    /// The finished run of another experiment with this hash, which nobody changes while the lock is kept.
    fn twin(
        &self,
        run: &ResolvedRun,
        own: &Path,
        hash: &str,
    ) -> Result<Option<(PathBuf, Record, Option<Lock>)>, StoreError> {
        let short = run.short_hash();
        let folders = twins::folders(&self.dir, |other| other == short);
        let mut busy = None;
        for path in folders.into_values().flatten().filter(|p| p != own) {
            let lock = match share_lock(&path) {
                Ok(lock) => lock,
                Err(e) => {
                    busy = busy.or(Some(e));
                    continue;
                }
            };
            if let State::Done(record) = state(&path, hash) {
                return Ok(Some((path, *record, lock)));
            }
        }
        busy.map_or(Ok(None), Err)
    }
}

/// One run's folder, locked for as long as this lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    hash: String,
    taken_from: Option<PathBuf>,
    _lock: Lock,
}

impl RunDir {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of another experiment that this one was filled from when it was opened.
    pub fn taken_from(&self) -> Option<&Path> {
        self.taken_from.as_deref()
    }

    /// One line per optimizer step.
    pub fn steps(&self) -> PathBuf {
        self.path.join("steps.jsonl")
    }

    /// Prompts, answers and grades of one evaluated task.
    pub fn samples(&self, task: &str) -> PathBuf {
        self.path.join(format!("samples-{task}.jsonl.zst"))
    }

    /// The answers so far of a task whose evaluation is under way.
    pub fn answers(&self, task: &str) -> PathBuf {
        self.path.join(format!("answers-{task}.log.zst"))
    }

    /// Folder of the state that training goes on from.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// Folder of another run of the same experiment.
    pub fn sibling(&self, folder: &str) -> PathBuf {
        self.path.with_file_name(folder)
    }

    /// Folder of the trained adapter in the native format.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// The adapter itself, as `sharelora_adapters::save_native` writes it.
    pub fn adapter_file(&self) -> PathBuf {
        self.adapter().join(ADAPTER_FILE)
    }

    /// `record.json`; with it the run has ended.
    pub fn record(&self) -> PathBuf {
        self.path.join("record.json")
    }

    pub fn state(&self) -> State {
        state(&self.path, &self.hash)
    }

    /// Writes a file of this folder as indented JSON, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] or another failure to write.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| StoreError::Broken {
            path: path.clone(),
            reason: format!("cannot be written as JSON: {e}"),
        })?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes)
    }

    /// Ends the run.
    ///
    /// # Errors
    /// As [`RunDir::write_json`].
    pub fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        self.write_json("record.json", record)
    }

    /// Adds one line to `steps.jsonl`.
    ///
    /// # Errors
    /// As [`append_line`].
    pub fn append_step(&self, step: &impl Serialize) -> Result<(), StoreError> {
        let line = serde_json::to_string(step).map_err(|e| StoreError::Broken {
            path: self.steps(),
            reason: format!("a step cannot be written as JSON: {e}"),
        })?;
        append_line(&self.steps(), &line)
    }

    /// Drops the lines of `steps.jsonl` behind `step`, and a torn last one: what a resumed run does again.
    ///
    /// # Errors
    /// Reading or writing failed.
    pub fn truncate_after(&self, step: u64) -> Result<(), StoreError> {
        let path = self.steps();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(StoreError::io("read", &path)(e)),
        };
        let mut kept = String::new();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let number = serde_json::from_str::<Value>(line)
                .ok()
                .and_then(|v| v.get("step")?.as_u64());
            if number.is_some_and(|n| n <= step) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        write_atomic(&path, kept.as_bytes())
    }

    /// Removes what writes that a kill cut off have left: temporary files, all hidden, as large as a checkpoint.
    fn remove_partial(&self) {
        for dir in [self.path.clone(), self.checkpoint(), self.adapter()] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Removes everything but the lock.
    ///
    /// # Errors
    /// A file cannot be removed. What a kill leaves is done again: without `run.json` nothing else counts.
    pub fn clear(&self) -> Result<(), StoreError> {
        let run_file = self.path.join("run.json");
        match fs::remove_file(&run_file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &run_file)(e));
            }
            _ => {}
        }
        for entry in fs::read_dir(&self.path).map_err(StoreError::io("list", &self.path))? {
            let entry = entry.map_err(StoreError::io("list", &self.path))?;
            let path = entry.path();
            if entry.file_name() == LOCK {
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            let removed = if is_dir {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }
}

/// Name of the adapter inside the folder `adapter`.
pub const ADAPTER_FILE: &str = "adapter.safetensors";

const LOCK: &str = "lock";

/// The lock of a run's folder. A crash releases it too: the kernel closes the file.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    /// Closing alone is not enough: a child process that another thread is starting has a copy of the descriptor
    /// until it executes its program, and the lock would last as long as that copy.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Locks the folder for this process and leaves a line that says who that is.
///
/// # Errors
/// [`StoreError::Busy`] while another process has it.
pub fn take_lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join(LOCK);
    let mut file = lock_file(&path)?;
    got(file.try_lock(), dir, &mut file)?;
    let host = crate::host::name();
    let on = if host.is_empty() {
        String::new()
    } else {
        format!(" on {host}")
    };
    // The lock holds whatever the line says.
    let _ = file.set_len(0);
    let _ = file.write_all(format!("process {}{on}\n", std::process::id()).as_bytes());
    Ok(Lock(file))
}

/// Keeps others from taking the folder, unless one has it. `None` where nobody ever worked in it on this machine.
fn share_lock(dir: &Path) -> Result<Option<Lock>, StoreError> {
    let path = dir.join(LOCK);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("open", &path)(e)),
    };
    got(file.try_lock_shared(), dir, &mut file)?;
    Ok(Some(Lock(file)))
}

fn lock_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Whether the lock of the folder was got, and else who has it.
fn got(tried: Result<(), TryLockError>, dir: &Path, file: &mut File) -> Result<(), StoreError> {
    match tried {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut who = String::new();
            let _ = file.read_to_string(&mut who);
            let who = match who.trim() {
                "" => "another process",
                who => who,
            };
            Err(StoreError::Busy {
                path: dir.to_owned(),
                who: who.into(),
            })
        }
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &dir.join(LOCK))(e)),
    }
}

/// The state of a run's folder by its own word: of whatever run its `run.json` is.
pub fn folder_state(dir: &Path) -> State {
    match read_run(dir) {
        Ok(run) => state(dir, &run.hash()),
        Err(e) => State::Broken(e.to_string()),
    }
}

/// Who has, or last had, the lock of a run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockLine {
    /// As written, `process 12 on HOST`.
    pub who: String,
    pub host: Option<String>,
}

/// Reads the line in the lock of a run's folder; whether the lock is held it does not say.
pub fn lock_line(dir: &Path) -> Option<LockLine> {
    let text = fs::read_to_string(dir.join(LOCK)).ok()?;
    let who = text.lines().next()?.trim().to_owned();
    let host = who
        .split_once(" on ")
        .map(|(_, host)| host.trim().to_owned());
    Some(LockLine { who, host })
}

fn state(dir: &Path, hash: &str) -> State {
    if !dir.join("run.json").exists() && !dir.join("record.json").exists() {
        let begun = dir.join("steps.jsonl").exists() || dir.join("checkpoint").exists();
        return if begun {
            State::Broken("run.json is missing".into())
        } else {
            State::New
        };
    }
    match read_run(dir) {
        Ok(run) if run.hash() != hash => {
            return State::Broken("run.json is of another configuration".into());
        }
        Ok(_) => {}
        Err(e) => return State::Broken(e.to_string()),
    }
    let path = dir.join("record.json");
    if !path.exists() {
        let begun = dir.join("checkpoint").exists();
        return State::Unfinished(
            if begun {
                "goes on from its checkpoint"
            } else {
                "was interrupted"
            }
            .into(),
        );
    }
    let record = match sharelora_report::read_record(&path) {
        Ok(record) => record,
        Err(e) => return State::Broken(e.to_string()),
    };
    if record.hash != hash {
        return State::Broken("record.json is of another configuration".into());
    }
    match record.status {
        Status::Failed => State::Unfinished(format!(
            "failed before: {}",
            record.message.as_deref().unwrap_or("no reason was kept")
        )),
        Status::Finished | Status::Diverged => State::Done(Box::new(record)),
    }
}

/// Reads the `run.json` of a run's folder and checks that it is whole.
///
/// # Errors
/// [`StoreError::Broken`] where it is not what it says.
pub fn read_run(dir: &Path) -> Result<ResolvedRun, StoreError> {
    let path = dir.join("run.json");
    let broken = |reason: String| StoreError::Broken {
        path: path.clone(),
        reason,
    };
    let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
    let mut value: Value =
        serde_json::from_slice(&bytes).map_err(|e| broken(format!("not valid JSON: {e}")))?;
    let hash = value.as_object_mut().and_then(|map| map.remove("hash"));
    let run: ResolvedRun =
        serde_json::from_value(value).map_err(|e| broken(format!("not a run: {e}")))?;
    if hash.as_ref().and_then(Value::as_str) != Some(run.hash().as_str()) {
        return Err(broken(
            "its hash is not that of its contents: it was edited or torn".into(),
        ));
    }
    Ok(run)
}

/// Replaces a file by `bytes`: after a crash at any moment it is the old one or the new one. Makes its folder.
///
/// # Errors
/// [`StoreError::DiskFull`] or another failure to write; the old file is then still there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let error = || StoreError::io("write", path);
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(error())?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .map_err(error())?;
    file.write_all(bytes).map_err(error())?;
    file.as_file().sync_all().map_err(error())?;
    // Temporary files are private; results are read by colleagues.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = file
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o644));
    }
    file.persist(path).map_err(|e| error()(e.error))?;
    // The rename itself is only safe once the folder is.
    #[cfg(unix)]
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(error())?;
    Ok(())
}

/// Copies a file; the copy is there whole or not at all.
///
/// # Errors
/// As [`write_atomic`], and the file cannot be read.
pub fn copy_atomic(from: &Path, to: &Path) -> Result<(), StoreError> {
    let bytes = fs::read(from).map_err(StoreError::io("read", from))?;
    write_atomic(to, &bytes)
}

/// Gives a file a second name, in a folder that is made; a copy where the file system has no second names.
///
/// # Errors
/// As [`copy_atomic`].
pub fn link_or_copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let dir = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => copy_atomic(from, to),
    }
}

/// Adds one line to a file with a single write, so that a crash tears the last line at most.
///
/// # Errors
/// [`StoreError::DiskFull`] or another failure to write; a part of the line that got through is taken back.
pub fn append_line(path: &Path, line: &str) -> Result<(), StoreError> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    let before = file.metadata().map_err(StoreError::io("read", path))?.len();
    let text = format!("{line}\n");
    file.write_all(text.as_bytes()).map_err(|e| {
        let _ = file.set_len(before);
        StoreError::io("write", path)(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::planned;
    use crate::sweep::tests::{context, finished};

    fn run() -> ResolvedRun {
        planned(crate::experiment::tests::SMALL, &[])
            .unwrap()
            .runs
            .remove(1)
    }

    /// Whatever a crash, a full disk or an editor left behind, the run is done again and the reason is said;
    /// only a whole record of the same configuration counts as done.
    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let run = run();
        assert_eq!(store.state(&run), State::New);
        let dir = store.open(&run).unwrap();
        assert!(matches!(store.state(&run), State::Unfinished(_)));
        dir.write_record(&finished(&run, &context(folder.path())))
            .unwrap();
        let State::Done(record) = store.state(&run) else {
            panic!("{:?}", store.state(&run))
        };
        assert_eq!(record.hash, run.hash());

        let whole = fs::read(dir.record()).unwrap();
        let run_file = dir.path().join("run.json");
        let good_run = fs::read(&run_file).unwrap();
        let damage: [(&Path, Vec<u8>); 6] = [
            (&dir.record(), whole[..whole.len() / 2].to_vec()),
            (&dir.record(), b"".to_vec()),
            (
                &dir.record(),
                String::from_utf8_lossy(&whole)
                    .replace(&run.hash(), "0000")
                    .into_bytes(),
            ),
            (&run_file, b"\xff\x00garbage".to_vec()),
            (&run_file, good_run[..good_run.len() - 9].to_vec()),
            (
                &run_file,
                String::from_utf8_lossy(&good_run)
                    .replace("\"steps\": 10", "\"steps\": 11")
                    .into_bytes(),
            ),
        ];
        for (file, bytes) in damage {
            fs::write(file, &bytes).unwrap();
            assert!(
                matches!(store.state(&run), State::Broken(_)),
                "{} {bytes:?}",
                file.display()
            );
            fs::write(dir.record(), &whole).unwrap();
            fs::write(&run_file, &good_run).unwrap();
            assert!(matches!(store.state(&run), State::Done(_)));
        }
        fs::remove_file(&run_file).unwrap();
        assert!(matches!(store.state(&run), State::Broken(_)));
    }

    /// A checkpoint of another configuration must not be gone on from; one of the same must be kept.
    #[test]
    fn opening_keeps_what_is_its_own_and_clears_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let run = run();
        let dir = store.open(&run).unwrap();
        let checkpoint = dir.checkpoint().join("state");
        fs::create_dir(dir.checkpoint()).unwrap();
        fs::write(&checkpoint, "x").unwrap();
        dir.append_step(&serde_json::json!({"step": 1})).unwrap();
        let (steps, run_file) = (dir.steps(), dir.path().join("run.json"));
        drop(dir);
        drop(store.open(&run).unwrap());
        assert!(checkpoint.exists() && steps.exists());
        fs::write(&run_file, "{").unwrap();
        drop(store.open(&run).unwrap());
        assert!(!checkpoint.exists() && !steps.exists());
        assert!(matches!(store.state(&run), State::Unfinished(_)));
    }

    /// Two sweeps of one experiment share the work; they must never share a run.
    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let run = run();
        let held = store.open(&run).unwrap();
        let Err(StoreError::Busy { who, .. }) = store.open(&run) else {
            panic!("the second got in")
        };
        assert!(
            who.contains(&format!("process {}", std::process::id())),
            "{who}"
        );
        // What a child that is just being started holds: a second descriptor of the same open file.
        let copy = held._lock.0.try_clone().unwrap();
        drop(held);
        store.open(&run).unwrap();
        drop(copy);
    }

    /// A run of two experiments is done in one folder at a time, and a finished one fills the other folder, under its own name.
    #[test]
    fn a_run_of_two_experiments_is_done_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let one = run();
        let mut other = one.clone();
        other.experiment = "other".into();
        other.axes.insert("train.steps".into(), "10".into());
        assert_eq!(one.hash(), other.hash());
        let held = store.open(&one).unwrap();
        let Err(StoreError::Busy { path, .. }) = store.open(&other) else {
            panic!("the second got in")
        };
        assert_eq!(path, held.path());
        assert!(!store.run_dir(&other).exists());
        // Unfinished is nothing to take over.
        drop(held);
        assert_eq!(store.open(&other).unwrap().taken_from(), None);

        let held = store.open(&one).unwrap();
        held.append_step(&serde_json::json!({ "step": 0 })).unwrap();
        write_atomic(&held.adapter_file(), b"adapter").unwrap();
        let spectrum = held.path().join("spectrum.json.zst");
        write_atomic(&spectrum, b"values").unwrap();
        write_atomic(&held.checkpoint().join("state"), b"large").unwrap();
        let record = finished(&one, &context(folder.path()));
        held.write_record(&record).unwrap();
        drop(held);
        let folders = store.folders();
        let twin = store.run_dir(&one);
        assert_eq!(store.done_elsewhere(&other, &folders), Some(twin.clone()));
        assert_eq!(store.done_elsewhere(&one, &folders), None);
        let dir = store.open(&other).unwrap();
        assert_eq!(dir.taken_from(), Some(twin.as_path()));
        let State::Done(found) = dir.state() else {
            panic!("{:?}", dir.state())
        };
        let named = Record {
            experiment: "other".into(),
            run: other.label(),
            axes: other.axes.clone(),
            config: serde_json::to_value(&other).unwrap(),
            ..record
        };
        assert_eq!(*found, named);
        assert_eq!(fs::read(dir.steps()).unwrap(), b"{\"step\":0}\n");
        assert_eq!(fs::read(dir.adapter_file()).unwrap(), b"adapter");
        let spectrum = dir.path().join("spectrum.json.zst");
        assert_eq!(fs::read(spectrum).unwrap(), b"values");
        assert!(!dir.checkpoint().exists());
    }

    /// A resumed run writes the steps behind its checkpoint again: they must not be there twice.
    #[test]
    fn steps_are_cut_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Store::new(folder.path()).open(&run()).unwrap();
        dir.truncate_after(3).unwrap();
        for step in 0..5 {
            dir.append_step(&serde_json::json!({ "step": step, "loss": 1.5 }))
                .unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(dir.steps()).unwrap();
        file.write_all(b"{\"step\": 2, \"lo").unwrap();
        dir.truncate_after(2).unwrap();
        let text = fs::read_to_string(dir.steps()).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("{\"step\":2,\"loss\":1.5}\n"), "{text}");
    }

    #[test]
    fn writing_leaves_the_new_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // The name is taken by a folder: the error names it, and the temporary file is gone.
        let taken = folder.path().join("a");
        let message = write_atomic(&taken, b"x").unwrap_err().to_string();
        assert!(message.contains(&taken.display().to_string()), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Linux has a device on which every write finds the disk full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let error = append_line(Path::new("/dev/full"), "x").unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    }
}
