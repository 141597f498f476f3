//! Finds stored runs by what a person calls them: `EXPERIMENT/LABEL`, `EXPERIMENT`, or a folder.
//!
//! A label may stop before any `-`: `EXPERIMENT/lora` is `lora-seed0`, `lora-seed1` and so on, and not `lora_fa-seed0`. Where folders
//! share a label, since the settings were changed, the one that ended last is taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sharelora_report::read_record;

use crate::error::AbsentError;
use crate::experiment::did_you_mean;
use crate::sweep::Folders;

/// Runs that a name stands for.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Their folders, by label.
    pub dirs: Vec<PathBuf>,
    /// Folders that were passed over for a newer one of the same label.
    pub older: Vec<PathBuf>,
}

/// How far a run must have come to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has a `record.json`.
    Ended,
    /// It has that, or a `steps.jsonl`.
    Begun,
}

impl Stage {
    fn reached(self, dir: &Path) -> bool {
        let has = |file: &str| dir.join(file).is_file();
        has("record.json") || self == Stage::Begun && has("steps.jsonl")
    }
}

/// A run's folder.
struct Entry {
    label: String,
    /// `None` while it goes on.
    finished_at: Option<String>,
    dir: PathBuf,
}

/// The runs that `name` stands for.
///
/// # Errors
/// There are none; the message has near names.
pub fn find(folders: &Folders, name: &str, stage: Stage) -> Result<Stored> {
    for dir in [PathBuf::from(name), folders.results.join(name)] {
        if stage.reached(&dir) {
            return Ok(Stored {
                dirs: vec![dir],
                older: Vec::new(),
            });
        }
        let runs = runs(&dir, stage)?;
        if !runs.is_empty() {
            return Ok(newest(runs));
        }
    }
    let name = name.trim_end_matches('/');
    let (experiment, label) = name.rsplit_once('/').unwrap_or((name, ""));
    let all = runs(&folders.results.join(experiment), stage)?;
    if all.is_empty() || label.is_empty() {
        return Err(no_experiment(folders, name, experiment).into());
    }
    let begins = |text: &str| {
        text.strip_prefix(label)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let (found, others): (Vec<Entry>, Vec<Entry>) =
        all.into_iter().partition(|run| begins(&run.label));
    if found.is_empty() {
        let mut labels: Vec<&str> = others.iter().map(|run| run.label.as_str()).collect();
        labels.dedup();
        let text = format!(
            "{name}: no run of {experiment} has this label, or one that goes on behind it with `-`{}: there are {}",
            did_you_mean(label, labels.iter().copied()),
            labels.join(", ")
        );
        return Err(AbsentError(text).into());
    }
    Ok(newest(found))
}

/// The folders of all runs of all experiments that have a record.
pub fn all(folders: &Folders) -> Vec<PathBuf> {
    let experiments = subfolders(&folders.results);
    let runs = experiments.iter().flat_map(|dir| subfolders(dir));
    runs.filter(|dir| Stage::Ended.reached(dir)).collect()
}

/// The label in the name of a run's folder, `LABEL-HASH8`.
pub fn label(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((label, hash)) if hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            label.to_owned()
        }
        _ => name.into_owned(),
    }
}

/// The runs of an experiment's folder, by label and folder; none where there is no such folder.
fn runs(dir: &Path, stage: Stage) -> Result<Vec<Entry>> {
    let dirs = subfolders(dir).into_iter().filter(|dir| stage.reached(dir));
    let entry = |dir: PathBuf| -> Result<Entry> {
        let path = dir.join("record.json");
        let record = path.is_file().then(|| read_record(&path)).transpose()?;
        Ok(Entry {
            label: record
                .as_ref()
                .map_or_else(|| label(&dir), |r| r.run.clone()),
            finished_at: record.map(|record| record.finished_at),
            dir,
        })
    };
    let mut found = dirs.map(entry).collect::<Result<Vec<Entry>>>()?;
    found.sort_by(|a, b| (&a.label, &a.dir).cmp(&(&b.label, &b.dir)));
    Ok(found)
}

/// In order of name; hidden ones are left out.
fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort();
    dirs
}

/// One run a label, the one that goes on or else ended last: times are RFC 3339 in UTC, which sort as texts.
fn newest(runs: Vec<Entry>) -> Stored {
    let mut by_label: BTreeMap<String, Entry> = BTreeMap::new();
    let mut older = Vec::new();
    for run in runs {
        match by_label.get_mut(&run.label) {
            Some(kept) => {
                let age = |run: &Entry| (run.finished_at.is_none(), run.finished_at.clone());
                if age(kept) >= age(&run) {
                    older.push(run.dir);
                } else {
                    older.push(std::mem::replace(kept, run).dir);
                }
            }
            None => {
                by_label.insert(run.label.clone(), run);
            }
        }
    }
    Stored {
        dirs: by_label.into_values().map(|run| run.dir).collect(),
        older,
    }
}

fn no_experiment(folders: &Folders, name: &str, experiment: &str) -> AbsentError {
    let names: Vec<String> = subfolders(&folders.results)
        .iter()
        .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let near = did_you_mean(experiment, names.iter().map(String::as_str));
    let there = match names.as_slice() {
        [] => format!("{} has no results", folders.results.display()),
        names => format!("there are {}", names.join(", ")),
    };
    AbsentError(format!(
        "{name}: no stored run: name EXPERIMENT/LABEL, EXPERIMENT or a folder{near}: {there}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::SMALL;
    use crate::plan::tests::planned;
    use crate::sweep::tests::{context, finished};
    use sharelora_report::Record;

    fn stored(results: &Path, label: &str, hash: &str, at: &str) {
        let plan = planned(SMALL, &[]).unwrap();
        let record = Record {
            run: label.into(),
            finished_at: at.into(),
            ..finished(&plan.runs[1], &context(results))
        };
        let dir = results.join("small").join(format!("{label}-{hash}"));
        sharelora_report::write_record(&dir.join("record.json"), &record).unwrap();
    }

    /// What a person may type names the runs that they mean, and no others.
    #[test]
    fn runs_are_found_by_what_they_are_called() {
        let root = tempfile::tempdir().unwrap();
        let results = root.path();
        let folders = Folders {
            results: results.to_owned(),
            reports: results.to_owned(),
        };
        for (label, hash, at) in [
            ("share_a-seed0", "aaaaaaaa", "2026-01-01T00:00:00Z"),
            ("share_a-seed1", "bbbbbbbb", "2026-01-01T00:00:00Z"),
            ("share_ab-seed0", "cccccccc", "2026-01-01T00:00:00Z"),
            ("share_a-seed0", "dddddddd", "2026-01-02T00:00:00Z"),
        ] {
            stored(results, label, hash, at);
        }
        let of = |name: &str| -> Vec<String> {
            let dirs = find(&folders, name, Stage::Ended).unwrap().dirs;
            let names = dirs.iter().filter_map(|dir| dir.file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        };
        let both = ["share_a-seed0-dddddddd", "share_a-seed1-bbbbbbbb"];
        assert_eq!(of("small/share_a"), both);
        assert_eq!(of("small/share_a-seed0"), both[..1]);
        assert_eq!(
            of("small/share_a-seed0-aaaaaaaa"),
            ["share_a-seed0-aaaaaaaa"]
        );
        assert_eq!(of("small").len(), 3);
        assert_eq!(of(&results.join("small").display().to_string()).len(), 3);
        assert_eq!(
            find(&folders, "small", Stage::Ended).unwrap().older.len(),
            1
        );
        // What goes on is newer than what has ended.
        let begun = results.join("small/share_a-seed0-eeeeeeee");
        std::fs::create_dir_all(&begun).unwrap();
        std::fs::write(begun.join("steps.jsonl"), "").unwrap();
        let found = find(&folders, "small/share_a-seed0", Stage::Begun).unwrap();
        assert_eq!((found.dirs, found.older.len()), (vec![begun], 2));
        assert_eq!(of("small/share_a"), both);
        let error = |name: &str| find(&folders, name, Stage::Ended).unwrap_err().to_string();
        assert!(
            error("smal/lora").contains("did you mean `small`"),
            "{}",
            error("smal/lora")
        );
        let text = error("small/share_a-sed0");
        assert!(text.contains("did you mean `share_a-seed0`"), "{text}");
        assert!(text.contains("share_ab-seed0"), "{text}");
    }
}
