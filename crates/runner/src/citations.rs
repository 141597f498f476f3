//! Which runs are cited: planned by an experiment file, or named in a report.
//!
//! A run is known by the first 8 digits of its hash, as its folder carries them. A report cites what it names: any word of 8
//! or more hexadecimal digits in its texts, and the hashes of its `records.parquet`. So a run that `--set` made is
//! cited by the report that was written of it. A word that only looks like a hash keeps a folder too many, never one too few.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{Context, Experiment, experiment};

/// Digits of a hash in a folder's name.
const SHORT: usize = 8;

/// Every backend that a run may have been planned for, also those that this build lacks.
const BACKENDS: [&str; 4] = ["flex", "libtorch", "libtorch-cuda", "cuda"];

/// Files of a report that are read as text.
const TEXTS: [&str; 7] = ["md", "csv", "tex", "json", "html", "svg", "txt"];

/// Short hashes by who cites them.
#[derive(Debug, Default)]
pub struct Citations {
    planned: HashSet<String>,
    reported: HashSet<String>,
    /// Runs that a planned run starts from with their optimizer's state.
    pub states: HashSet<String>,
    /// Experiments that cannot be planned, and why: nothing of theirs is known to be uncited.
    pub unknown: BTreeMap<String, String>,
}

impl Citations {
    /// Plans every experiment of the project and reads every report in `reports`.
    ///
    /// # Errors
    /// A report that cannot be read: it may cite anything.
    pub fn find(context: &Context, reports: &Path) -> Result<Self> {
        let mut found = Citations::default();
        for name in experiment::list(&context.root)? {
            if let Err(e) = found.plan(context, &name) {
                found.unknown.insert(name, format!("{e:#}"));
            }
        }
        if reports.is_dir() {
            found.read(reports)?;
        }
        Ok(found)
    }

    fn plan(&mut self, context: &Context, name: &str) -> Result<()> {
        let experiment = Experiment::load(&context.root, name, &[])?;
        for backend in BACKENDS {
            let plan = crate::plan::plan(&context.root, experiment.clone(), backend)?;
            for run in &plan.runs {
                self.planned.insert(run.short_hash());
                let origin = run.init_from.as_ref().filter(|origin| origin.optimizer);
                self.states
                    .extend(origin.and_then(|origin| short(&origin.hash)));
            }
        }
        Ok(())
    }

    fn read(&mut self, dir: &Path) -> Result<()> {
        let place = |path: &Path| format!("cannot read {}", path.display());
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(dir).with_context(|| place(dir))? {
            paths.push(entry.with_context(|| place(dir))?.path());
        }
        for path in paths {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if path.is_dir() {
                self.read(&path)?;
            } else if extension == "parquet" {
                let hashes = sharelora_report::collect::hashes(&path)?;
                self.reported.extend(hashes.iter().filter_map(|h| short(h)));
            } else if TEXTS.contains(&extension) {
                let bytes = std::fs::read(&path).with_context(|| place(&path))?;
                let text = String::from_utf8_lossy(&bytes);
                let words = text.split(|c: char| !c.is_ascii_alphanumeric());
                self.reported.extend(words.filter_map(short));
            }
        }
        Ok(())
    }

    /// Whether anything cites the run of this folder; `None`: it is no folder of a run.
    pub fn cites(&self, folder: &str) -> Option<bool> {
        let (_, hash) = folder.rsplit_once('-')?;
        let hash = Some(hash).filter(|h| h.len() == SHORT).and_then(short)?;
        Some(self.planned.contains(&hash) || self.reported.contains(&hash))
    }
}

/// The first digits of a word of at least [`SHORT`] that are all hexadecimal and lower-case.
fn short(word: &str) -> Option<String> {
    let is_hash =
        word.len() >= SHORT && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hash.then(|| word[..SHORT].to_owned())
}
