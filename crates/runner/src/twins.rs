//! Runs that more than one experiment has: the same hash in another folder of the results. One is done, the others are copies of it.

use std::fs;
use std::path::Path;

use sharelora_report::{Record, stored_spectrum};

use crate::ResolvedRun;
use crate::store::{RunDir, StoreError, Twins, copy_atomic, link_or_copy};

/// The folders of the results whose name ends in one of the wanted short hashes, by that hash. One listing, nothing is read.
pub fn folders(results: &Path, wanted: impl Fn(&str) -> bool) -> Twins {
    let mut found = Twins::new();
    for experiment in fs::read_dir(results).into_iter().flatten().flatten() {
        for run in fs::read_dir(experiment.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = run.file_name();
            let hash = name.to_str().and_then(|name| name.rsplit_once('-'));
            if let Some((_, hash)) = hash.filter(|(_, hash)| wanted(hash)) {
                found.entry(hash.to_owned()).or_default().push(run.path());
            }
        }
    }
    found
}

/// Fills the folder of `run` from that of a finished run of the same hash, whose record is `record`. The record comes last: a copy
/// that is cut off is no finished run.
///
/// # Errors
/// Reading or writing failed.
pub fn take_over(
    run: &ResolvedRun,
    dir: &RunDir,
    twin: &Path,
    record: Record,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(twin).map_err(StoreError::io("list", twin))? {
        let path = entry.map_err(StoreError::io("list", twin))?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if ["steps.jsonl", stored_spectrum::FILE].contains(&name) || name.starts_with("samples-") {
            copy_atomic(&path, &dir.path().join(name))?;
        }
    }
    let adapter = twin.join("adapter");
    for entry in fs::read_dir(&adapter).into_iter().flatten().flatten() {
        // A trained file is never changed in place, and may be large.
        link_or_copy(&entry.path(), &dir.adapter().join(entry.file_name()))?;
    }
    dir.write_record(&Record {
        experiment: run.experiment.clone(),
        run: run.label(),
        model: run.model.name.clone(),
        axes: run.axes.clone(),
        config: serde_json::to_value(run).unwrap_or_default(),
        ..record
    })
}
