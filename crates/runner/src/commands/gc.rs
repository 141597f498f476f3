//! `gc`: what no experiment and no report cites, shown and, after a yes, removed.
//!
//! A run's folder is taken by its lock before anything in it goes, and looked at again. It leaves by a rename into a hidden
//! folder, so that a kill leaves the whole folder or a leftover that the next `gc` removes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sharelora_report::number::thousands;
use sharelora_report::{Cell, Column, Format, Table};

use crate::citations::Citations;
use crate::error::UsageError;
use crate::estimate::bytes;
use crate::experiment::{self, did_you_mean};
use crate::plan::Origin;
use crate::store::{Lock, State, StoreError, folder_state, read_run, take_lock};
use crate::sweep::Folders;
use crate::{Context, status};

/// Beginning of the name of a folder that is being removed.
const REMOVED: &str = ".gc-";

/// Beginnings of names of files that are being written.
const PARTIAL: [&str; 2] = [".new-", ".tmp"];

/// Why something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Run,
    Checkpoint,
    Answers,
    Leftover,
    Tokens,
}

impl What {
    fn why(self) -> &'static str {
        match self {
            What::Run => "no experiment plans this run, and no report cites it",
            What::Checkpoint => "its run has ended, and no other starts from it",
            What::Answers => "its run has ended, the samples have these answers",
            What::Leftover => "left by a write or a removal that was cut off",
            What::Tokens => "tokenised texts, made again when they are needed",
        }
    }
}

struct Item {
    what: What,
    path: PathBuf,
    bytes: u64,
    /// The run's folder whose lock guards it.
    run: Option<PathBuf>,
}

/// Shows what can go, of one experiment or of the whole project, and removes it where `yes` or the user at the terminal says so.
///
/// # Errors
/// A report or a folder cannot be read, or something cannot be removed.
pub fn gc(context: &Context, folders: &Folders, name: Option<&str>, yes: bool) -> Result<u8> {
    let experiments = wanted(context, folders, name)?;
    let citations = Citations::find(context, &folders.reports)?;
    let mut items = Vec::new();
    let mut notes = Vec::new();
    for (name, reason) in &citations.unknown {
        notes.push(format!(
            "{name}: none of its runs is removed, since it cannot be planned: {reason}"
        ));
    }
    let held = status::held_inodes();
    let needed = Needed::find(folders, &experiments, &citations)?;
    for name in &experiments {
        let known = !citations.unknown.contains_key(name);
        for dir in entries(&folders.results.join(name))? {
            look(
                &dir,
                known,
                &citations,
                &needed,
                held.as_ref(),
                &mut items,
                &mut notes,
            )?;
        }
    }
    // Shared by all experiments.
    if name.is_none() {
        let dir = context.hub.cache.join("tokens");
        if dir.is_dir() {
            for path in entries(&dir)? {
                let name = file_name(&path);
                let what = match is_partial(&name) {
                    true => What::Leftover,
                    false if name.ends_with(".tokens") => What::Tokens,
                    false => continue,
                };
                items.push(Item {
                    what,
                    bytes: size(&path),
                    path,
                    run: None,
                });
            }
        }
    }
    items.sort_by(|a, b| (a.what, &a.path).cmp(&(b.what, &b.path)));
    let total: u64 = items.iter().map(|item| item.bytes).sum();
    let mut table = Table {
        title: "What nothing cites".into(),
        columns: vec![
            Column::left("Path"),
            Column::right("Size"),
            Column::left("Why"),
        ],
        notes,
        ..Table::default()
    };
    for item in &items {
        let shown = item.path.strip_prefix(&context.root).unwrap_or(&item.path);
        table.rows.push(vec![
            Cell::text(shown.display().to_string()),
            Cell::text(bytes(item.bytes)),
            Cell::text(item.what.why()),
        ]);
    }
    table.notes.push(format!(
        "{} to remove, {}.",
        things(items.len()),
        bytes(total)
    ));
    super::print(&table.render(Format::Terminal))?;
    if items.is_empty() {
        return Ok(0);
    }
    if !yes && !asked(items.len(), total)? {
        super::print("nothing was removed (--yes removes it)")?;
        return Ok(0);
    }
    let mut removed = (0, 0);
    for item in &items {
        match remove(item, folders)? {
            None => removed = (removed.0 + 1, removed.1 + item.bytes),
            Some(reason) => eprintln!("kept {}: {reason}", item.path.display()),
        }
    }
    super::print(&format!(
        "removed {}, {}",
        things(removed.0),
        bytes(removed.1)
    ))?;
    Ok(0)
}

fn things(n: usize) -> String {
    format!(
        "{} {}",
        thousands(n as u64),
        if n == 1 { "thing" } else { "things" }
    )
}

/// The experiments whose results are looked at: one by name, or every folder of the results.
fn wanted(context: &Context, folders: &Folders, name: Option<&str>) -> Result<Vec<String>> {
    let mut found: Vec<String> = match folders.results.is_dir() {
        true => entries(&folders.results)?
            .iter()
            .map(|path| file_name(path))
            .collect(),
        false => Vec::new(),
    };
    found.retain(|name| !name.starts_with('.') && folders.results.join(name).is_dir());
    let Some(name) = name else {
        return Ok(found);
    };
    if found.iter().any(|other| other == name) {
        return Ok(vec![name.to_owned()]);
    }
    let mut choices = experiment::list(&context.root)?;
    if choices.iter().any(|other| other == name) {
        return Ok(Vec::new());
    }
    choices.extend(found);
    let near = did_you_mean(name, choices.iter().map(String::as_str));
    let text = format!(
        "no experiment `{name}`{near}: choices: {}",
        choices.join(", ")
    );
    Err(UsageError(text).into())
}

/// Looks at one folder under `results/EXPERIMENT`.
fn look(
    dir: &Path,
    known: bool,
    citations: &Citations,
    needed: &Needed,
    held: Option<&HashSet<u64>>,
    items: &mut Vec<Item>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let name = file_name(dir);
    let mut add = |what, path: PathBuf, run: Option<&Path>| {
        items.push(Item {
            what,
            bytes: size(&path),
            path,
            run: run.map(Path::to_owned),
        });
    };
    if name.starts_with(REMOVED) {
        add(What::Leftover, dir.to_owned(), None);
        return Ok(());
    }
    if !dir.is_dir() {
        return Ok(());
    }
    // What is no folder of a run is not this program's.
    let Some(cited) = citations.cites(&name) else {
        return Ok(());
    };
    if let Some(who) = status::holder(dir, held) {
        notes.push(format!("{}: left alone, in use by {who}", dir.display()));
        return Ok(());
    }
    let hash = name.rsplit_once('-').map_or("", |(_, hash)| hash);
    if !cited && known && !needed.runs.contains(hash) {
        add(What::Run, dir.to_owned(), Some(dir));
        return Ok(());
    }
    let ended = matches!(folder_state(dir), State::Done(_));
    for path in entries(dir)? {
        let name = file_name(&path);
        if is_partial(&name) {
            add(What::Leftover, path, Some(dir));
        } else if ended && name == "checkpoint" && !needed.states.contains(hash) {
            add(What::Checkpoint, path, Some(dir));
        } else if ended && name.starts_with("answers-") {
            add(What::Answers, path, Some(dir));
        } else if ["checkpoint", "adapter"].contains(&name.as_str()) {
            for inner in entries(&path)? {
                if is_partial(&file_name(&inner)) {
                    add(What::Leftover, inner, Some(dir));
                }
            }
        }
    }
    Ok(())
}

/// What cited runs start from, by short hash: also of those that `--set` made and a report cites.
#[derive(Default)]
struct Needed {
    runs: HashSet<String>,
    /// Whose checkpoint is wanted too, for the moments in it.
    states: HashSet<String>,
}

impl Needed {
    fn find(folders: &Folders, experiments: &[String], citations: &Citations) -> Result<Self> {
        let mut needed = Needed {
            runs: HashSet::new(),
            states: citations.states.clone(),
        };
        let mut origins: HashMap<String, Origin> = HashMap::new();
        let mut open: Vec<String> = Vec::new();
        for name in experiments {
            for dir in entries(&folders.results.join(name))? {
                let name = file_name(&dir);
                let Some(cited) = citations.cites(&name) else {
                    continue;
                };
                let Some(origin) = read_run(&dir).ok().and_then(|run| run.init_from) else {
                    continue;
                };
                let hash = name
                    .rsplit_once('-')
                    .map_or("", |(_, hash)| hash)
                    .to_owned();
                if cited {
                    open.push(hash.clone());
                }
                // The moments are read once, when it begins.
                if cited && origin.optimizer && !matches!(folder_state(&dir), State::Done(_)) {
                    needed.states.insert(short(&origin));
                }
                origins.insert(hash, origin);
            }
        }
        // A stage starts from one that starts from another.
        while let Some(origin) = open.pop().and_then(|hash| origins.get(&hash)) {
            if needed.runs.insert(short(origin)) {
                open.push(short(origin));
            }
        }
        Ok(needed)
    }
}

fn short(origin: &Origin) -> String {
    origin.hash.chars().take(8).collect()
}

fn asked(n: usize, total: u64) -> Result<bool> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(false);
    }
    eprint!("Remove {}, {}? [y/N] ", things(n), bytes(total));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Removes an item; the reason where it stays.
fn remove(item: &Item, folders: &Folders) -> Result<Option<String>> {
    // Held until it is gone.
    let _lock: Option<Lock> = match &item.run {
        Some(run) if !run.is_dir() => return Ok(Some("it is gone".into())),
        Some(run) => match take_lock(run) {
            Ok(lock) => Some(lock),
            Err(StoreError::Busy { who, .. }) => return Ok(Some(format!("in use by {who}"))),
            Err(e) => return Err(e.into()),
        },
        None => None,
    };
    let ended = |run: &Path| matches!(folder_state(run), State::Done(_));
    if let (What::Checkpoint | What::Answers, Some(run)) = (item.what, &item.run)
        && !ended(run)
    {
        return Ok(Some("its run is done again".into()));
    }
    let failed = || format!("cannot remove {}", item.path.display());
    if !item.path.is_dir() {
        return match fs::remove_file(&item.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(failed),
            _ => Ok(None),
        };
    }
    let hidden = match file_name(&item.path).starts_with(REMOVED) {
        true => item.path.clone(),
        false => {
            // Beside the run's folder: a name of its own there hides it from reports and sweeps alike.
            let run = item.run.as_deref().unwrap_or(&item.path);
            let above = run.parent().unwrap_or(&folders.results);
            let name = format!("{REMOVED}{}-{}", std::process::id(), file_name(&item.path));
            let unique = tempfile::Builder::new()
                .prefix(&name)
                .tempdir_in(above)
                .with_context(failed)?;
            let hidden = unique.keep();
            fs::rename(&item.path, hidden.join("it")).with_context(failed)?;
            hidden
        }
    };
    fs::remove_dir_all(&hidden).with_context(failed)?;
    Ok(None)
}

fn is_partial(name: &str) -> bool {
    PARTIAL.iter().any(|beginning| name.starts_with(beginning))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What a folder holds, in order of name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot list {}", dir.display());
    let mut found = Vec::new();
    if dir.is_dir() {
        for entry in fs::read_dir(dir).with_context(failed)? {
            found.push(entry.with_context(failed)?.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes of a file, or of all files in a folder. Links are not followed.
fn size(path: &Path) -> u64 {
    let Ok(about) = fs::symlink_metadata(path) else {
        return 0;
    };
    match about.is_dir() {
        true => entries(path)
            .unwrap_or_default()
            .iter()
            .map(|p| size(p))
            .sum(),
        false => about.len(),
    }
}
