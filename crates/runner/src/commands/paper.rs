//! `paper`: everything under `reports/` that follows from stored results and from the files of data there.
//!
//! `front.toml` names the experiments and the key numbers, `reference.toml` the paper's claims, `shapes.toml` the public models,
//! and every other file is a table, `paper/NAME.toml`. They are read from the project's folder; what is made goes to `--reports`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use sharelora_adapters::Method;
use sharelora_hub::Progress as Told;
use sharelora_model::ModelConfig;
use sharelora_report::claims::Claims;
use sharelora_report::figure::{Figure, write_png, write_svg};
use sharelora_report::figures::memory::{self, Bar};
use sharelora_report::front::{Front, Made, Progress};
use sharelora_report::number::{fixed, thousands};
use sharelora_report::paper::{Studies, Study, TableSpec};
use sharelora_report::style::method_name;
use sharelora_report::{Cell, Column, Format, Picture, Table, file, markdown, parquet};

use crate::batch::Fill;
use crate::error::{AbsentError, FAILED, UsageError};
use crate::estimate::{Estimate, bytes, estimate};
use crate::report::Stored;
use crate::shapes::Shapes;
use crate::store::State;
use crate::sweep::Folders;
use crate::{Context, Experiment, Plan, ResolvedRun};

/// The files of data.
struct Sources {
    front: Front,
    claims: Claims,
    shapes: Shapes,
    /// By name, in order.
    tables: BTreeMap<String, TableSpec>,
}

impl Sources {
    fn read(root: &Path) -> Result<Self> {
        let reports = root.join("reports");
        let mut tables = BTreeMap::new();
        let folder = reports.join("paper");
        let entries = std::fs::read_dir(&folder)
            .map_err(|e| AbsentError(format!("cannot list {}: {e}", folder.display())))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "toml")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            {
                tables.insert(name.to_owned(), read(root, &path)?);
            }
        }
        Ok(Self {
            front: read(root, &reports.join("front.toml"))?,
            claims: read(root, &reports.join("reference.toml"))?,
            shapes: read(root, &reports.join("shapes.toml"))?,
            tables,
        })
    }

    /// Every experiment that is named anywhere, and the file that names it first.
    fn experiments(&self) -> BTreeMap<&str, String> {
        let counts = self.claims.counts().map(|count| count.experiment.as_str());
        let claims = self.claims.experiments().chain(counts);
        let scaling = self.shapes.scaling.experiment.as_str();
        let mut named: BTreeMap<&str, String> = BTreeMap::new();
        let all = (self.front.experiments())
            .map(|name| (name, "front.toml".to_owned()))
            .chain(claims.map(|name| (name, "reference.toml".into())))
            .chain([(scaling, "shapes.toml".into())])
            .chain(self.tables.iter().flat_map(|(file, table)| {
                let names = table.experiments().into_iter();
                names.map(move |name| (name, format!("paper/{file}.toml")))
            }));
        for (name, file) in all {
            named.entry(name).or_insert(file);
        }
        named
    }
}

/// A file of data; an error names it as the project does.
fn read<T: DeserializeOwned>(root: &Path, path: &Path) -> Result<T> {
    let name = path.strip_prefix(root).unwrap_or(path).display();
    let text = std::fs::read_to_string(path).map_err(|e| AbsentError(format!("{name}: {e}")))?;
    toml::from_str(&text).map_err(|e| UsageError(format!("{name}: {e}")).into())
}

/// An experiment and what is stored of it.
struct Loaded {
    plan: Plan,
    stored: Option<Stored>,
    done: usize,
}

fn load(context: &Context, name: &str, named_by: &str) -> Result<Plan> {
    let plan = || -> Result<Plan> {
        let experiment = Experiment::load(&context.root, name, &[])?;
        Ok(crate::plan::plan(
            &context.root,
            experiment,
            &context.backend,
        )?)
    };
    plan().with_context(|| format!("reports/{named_by} names the experiment `{name}`"))
}

fn load_all(
    context: &Context,
    folders: &Folders,
    sources: &Sources,
) -> Result<BTreeMap<String, Loaded>> {
    let store = folders.store();
    let named: Vec<(&str, String)> = sources.experiments().into_iter().collect();
    named
        .par_iter()
        .map(|(name, file)| {
            let plan = load(context, name, file)?;
            let done = plan.runs.iter();
            let done = done.filter(|run| matches!(store.state(run), State::Done(_)));
            let loaded = Loaded {
                done: done.count(),
                stored: crate::report::stored(&plan, &store)?,
                plan,
            };
            Ok(((*name).to_owned(), loaded))
        })
        .collect()
}

/// Makes everything under `out`. Gives the folders of which every file is made here, relative to it.
fn make(context: &Context, folders: &Folders, out: &Path) -> Result<BTreeSet<PathBuf>> {
    let say = |text: &str| {
        if !context.quiet {
            eprintln!("{text}");
        }
    };
    let sources = Sources::read(&context.root)?;
    say("reading results");
    let mut loaded = load_all(context, folders, &sources)?;
    let mut made = BTreeSet::from([PathBuf::from("paper")]);
    let listed = sources.front.experiments.iter().chain(&sources.front.paper);
    for entry in listed {
        let Some(Loaded {
            plan,
            stored: Some(stored),
            ..
        }) = loaded.get(&entry.name)
        else {
            continue;
        };
        say(&format!("report of {}", entry.name));
        let command = format!("sharelora sweep {}", entry.name);
        crate::report::write(plan, stored, out, &command)?;
        made.insert(PathBuf::from(&entry.name));
    }
    say("tables");
    let studies: Studies = loaded
        .par_iter_mut()
        .filter_map(|(name, loaded)| {
            let runs = std::mem::take(&mut loaded.stored.as_mut()?.runs);
            let study = Study::new(&loaded.plan.experiment.title, runs);
            Some((name.clone(), study))
        })
        .collect();

    let mut tables = Vec::new();
    for (name, spec) in &sources.tables {
        let wrong = |e| UsageError(format!("reports/paper/{name}.toml: {e}"));
        let table = spec.fill(&studies).map_err(wrong)?;
        tables.push(write_table(out, name, &spec.description, &table, &[])?);
    }
    let shapes = &sources.shapes;
    let plan = |name: &str| {
        let found = loaded.get(name).map(|loaded| &loaded.plan);
        found.context("an experiment that was just read is gone")
    };
    let wrong = |e: anyhow::Error| UsageError(format!("reports/shapes.toml: {e:#}"));
    let scaled = shapes
        .scaled(plan(&shapes.scaling.experiment)?)
        .map_err(wrong)?;
    let scaling = shapes.table(&scaled);
    let pictures = pictures(shapes, &shapes.bars(&scaled));
    tables.push(write_table(
        out,
        "scaling",
        &shapes.scaling.description,
        &scaling,
        &pictures,
    )?);

    let counts: Result<Vec<f64>> = (sources.claims.counts())
        .map(|count| shapes.count(plan(&count.experiment)?, count))
        .collect();
    let wrong = |e: String| UsageError(format!("reports/reference.toml: {e}"));
    let counts = counts.map_err(|e| wrong(format!("{e:#}")))?;
    let claims = sources.claims.table(&counts, &studies);
    let claims = claims.map_err(|e| wrong(e.to_string()))?;
    write_table(out, "claims", &sources.claims.description, &claims, &[])?;

    let progress: Vec<Progress> = (sources.front.experiments())
        .filter_map(|name| {
            let Loaded { plan, done, .. } = loaded.get(name)?;
            Some(Progress {
                name: name.to_owned(),
                title: plan.experiment.title.clone(),
                done: *done,
                planned: plan.runs.len(),
            })
        })
        .collect();
    let page = sources.front.page(&studies, &claims, &tables, &progress);
    let page = page.map_err(|e| UsageError(format!("reports/front.toml: {e}")))?;
    file::write(&out.join("README.md"), page.as_bytes())?;
    Ok(made)
}

/// The figures of scaling.
fn pictures(shapes: &Shapes, bars: &[Bar]) -> Vec<Picture> {
    let drawn = &shapes.scaling.drawn;
    let by_part: Vec<Bar> = bars
        .iter()
        .filter(|bar| drawn.contains(&bar.model))
        .cloned()
        .collect();
    let both = [
        (
            "scaling-memory",
            "Memory of training by parts",
            "An estimate of the largest moment of training, by what holds it.",
            memory::by_part("Memory of training by parts", &by_part),
        ),
        (
            "scaling-size",
            "What sharing leaves and saves as models grow",
            "Left: trained parameters in percent of LoRA's. Right: what the estimate of memory is below LoRA's on the same model. LLaMA-3 and the 70B \
             models have fewer heads of keys and values than of queries, which moves ShareA and ShareB.",
            memory::by_size("What sharing leaves and saves as models grow", bars),
        ),
    ];
    let picture = |(name, alt, caption, figure): (&str, &str, &str, Option<Figure>)| {
        Some(Picture {
            name: name.into(),
            alt: alt.into(),
            caption: caption.into(),
            figure: figure?,
        })
    };
    both.into_iter().filter_map(picture).collect()
}

/// Writes `paper/NAME` in every format, with its figures.
fn write_table(
    out: &Path,
    name: &str,
    description: &str,
    table: &Table,
    pictures: &[Picture],
) -> Result<Made> {
    let path = |extension: &str| out.join("paper").join(format!("{name}.{extension}"));
    let mut text = format!("# {}\n\n", markdown::escape(&table.title));
    text += &format!("{}\n\n", markdown::escape(description.trim()));
    text += &table.render(Format::Markdown);
    for picture in pictures {
        let file = |extension: &str| {
            out.join("paper")
                .join(format!("{}.{extension}", picture.name))
        };
        write_svg(&file("svg"), &picture.figure)?;
        write_png(&file("png"), &picture.figure)?;
        text += &format!(
            "\n![{}]({}.svg)\n\n{}\n",
            markdown::escape(&picture.alt),
            picture.name,
            markdown::text(&picture.caption)
        );
    }
    let files = ["csv", "tex", "parquet"].map(|e| format!("[{name}.{e}]({name}.{e})"));
    text += &format!(
        "\nThe same as {}. All reports: [README.md](../README.md).\n",
        files.join(", ")
    );
    file::write(&path("md"), text.as_bytes())?;
    file::write(&path("csv"), table.render(Format::Csv).as_bytes())?;
    file::write(&path("tex"), table.render(Format::Latex).as_bytes())?;
    parquet::write(&path("parquet"), table)?;
    Ok(Made::new(format!("paper/{name}"), table))
}

/// Makes all reports, tables, figures and the front page.
///
/// # Errors
/// A file of data is wrong or names what is not there, or a file cannot be read or written.
pub fn paper(context: &Context, folders: &Folders) -> Result<u8> {
    make(context, folders, &folders.reports)?;
    super::print(&folders.reports.join("README.md").display().to_string())?;
    Ok(0)
}

/// Names every file of the reports that is not, byte for byte, what its results give.
///
/// # Errors
/// As [`paper`].
pub fn check_paper(context: &Context, folders: &Folders) -> Result<u8> {
    let fresh = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let made = make(context, folders, fresh.path())?;
    let wrong = differences(fresh.path(), &folders.reports, &made)?;
    for line in &wrong {
        super::print(line)?;
    }
    if wrong.is_empty() {
        super::print("every report follows from its results")?;
        return Ok(0);
    }
    eprintln!(
        "{} files do not follow from their results; next: sharelora paper",
        wrong.len()
    );
    Ok(FAILED)
}

/// What differs between what was made and what is kept, a line a file; in the folders `whole` every file has to be made.
fn differences(fresh: &Path, kept: &Path, whole: &BTreeSet<PathBuf>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let made = files(fresh, Path::new(""))?;
    for path in &made {
        let shown = kept.join(path);
        match std::fs::read(&shown) {
            Err(_) => wrong.push(format!("{}: is missing", shown.display())),
            Ok(bytes) if bytes != std::fs::read(fresh.join(path))? => {
                wrong.push(format!(
                    "{}: differs from what its results give",
                    shown.display()
                ));
            }
            Ok(_) => {}
        }
    }
    for folder in whole.iter().filter(|folder| kept.join(folder).is_dir()) {
        for path in files(kept, folder)? {
            let is_data = path.extension().is_some_and(|e| e == "toml");
            if !is_data && !made.contains(&path) {
                wrong.push(format!("{}: nothing makes it", kept.join(path).display()));
            }
        }
    }
    wrong.sort();
    Ok(wrong)
}

/// Every file under `root/folder`, relative to `root`.
fn files(root: &Path, folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let here = root.join(folder);
    let entries =
        std::fs::read_dir(&here).with_context(|| format!("cannot list {}", here.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            found.extend(files(root, &path)?);
        } else {
            found.insert(path);
        }
    }
    Ok(found)
}

/// What the runs of one method of an experiment need.
struct Need {
    runs: usize,
    /// The largest of its runs.
    largest: Estimate,
    /// Of all its runs; `None` where the length of one is not known.
    operations: Option<f64>,
}

/// Plans every experiment in the paper's own settings.
///
/// # Errors
/// A file of data is wrong or names what is not there, or a model's configuration is neither there nor to be had.
pub fn plan_paper(context: &Context, tflops: f64) -> Result<u8> {
    if !(tflops.is_finite() && tflops > 0.0) {
        return Err(UsageError(format!("--tflops {tflops}: a positive number")).into());
    }
    let sources = Sources::read(&context.root)?;
    let mut table = Table {
        title: "The paper's experiments".into(),
        columns: ["Experiment", "Method"].map(Column::left).to_vec(),
        notes: vec![format!(
            "Memory: the estimate of its largest run. Hours: an upper bound of the training of all its runs at {} x 10^12 operations a second \
             (--tflops), every row as long as is allowed; 4 operations a token and frozen parameter, 6 a trained one; attention between tokens and \
             evaluations are not counted.",
            fixed(tflops, 0)
        )],
        ..Table::default()
    };
    let columns = ["Runs", "Trained", "Adapter", "Memory", "Hours"];
    table.columns.extend(columns.map(Column::right));
    let (mut runs, mut hours) = (0, 0.0);
    for entry in &sources.front.paper {
        let plan = load(context, &entry.name, "front.toml")?;
        let mut needs: Vec<(&str, Need)> = Vec::new();
        for run in &plan.runs {
            let config = configuration(context, &sources.shapes, run)?;
            let found =
                estimate(run, &config, None).with_context(|| format!("run {}", run.label()))?;
            let operations = operations(run, &found, &config, &sources.shapes);
            let method = run.method.name();
            let place = match needs.iter().position(|(name, _)| *name == method) {
                Some(place) => place,
                None => {
                    let largest = found.clone();
                    needs.push((
                        method,
                        Need {
                            runs: 0,
                            largest,
                            operations: Some(0.0),
                        },
                    ));
                    needs.len() - 1
                }
            };
            let (_, need) = &mut needs[place];
            need.runs += 1;
            need.operations = need.operations.zip(operations).map(|(a, b)| a + b);
            if found.memory.total() > need.largest.memory.total() {
                need.largest = found;
            }
        }
        for (method, need) in needs {
            let time = need.operations.map(|n| n / (tflops * 1e12) / 3600.0);
            runs += need.runs;
            hours += time.unwrap_or(0.0);
            table.rows.push(vec![
                Cell::text(&entry.name),
                Cell::text(method_name(method)),
                Cell::text(thousands(need.runs as u64)),
                Cell::text(thousands(need.largest.trainable_parameters)),
                match need.largest.adapter_bytes {
                    0 => Cell::none(),
                    n => Cell::text(bytes(n)),
                },
                Cell::text(bytes(need.largest.memory.total())),
                time.map_or_else(|| Cell::text("unknown"), |time| Cell::text(fixed(time, 1))),
            ]);
        }
    }
    table.notes.push(format!(
        "{} runs, {} hours.",
        thousands(runs as u64),
        fixed(hours, 0)
    ));
    super::print(&table.render(Format::Terminal))?;
    Ok(0)
}

/// A model's configuration: its shape where that is known, else its file.
fn configuration(context: &Context, shapes: &Shapes, run: &ResolvedRun) -> Result<ModelConfig> {
    match shapes.published_at(&run.model.config.to_string()) {
        Some(shape) => shape.config(),
        None => crate::base::config(&run.model, &context.hub, Told::Quiet),
    }
}

/// A bound of the operations of a run's training; `None` where the number of its rows is not known.
fn operations(
    run: &ResolvedRun,
    need: &Estimate,
    config: &ModelConfig,
    shapes: &Shapes,
) -> Option<f64> {
    let Some(train) = &run.train else {
        return Some(0.0);
    };
    let length = train.max_length().min(config.max_positions());
    let tokens = match train.fill() {
        Fill::Examples(size) => size * length,
        Fill::Tokens(budget) => budget,
    };
    let steps = match (train.steps, train.epochs, train.fill()) {
        (Some(steps), ..) => steps as f64,
        (None, Some(epochs), Fill::Examples(size)) => {
            let rows = train
                .rows
                .map_or(shapes.rows.get(&train.task).copied(), |n| Some(n as u64))?;
            let rows = rows.saturating_sub(train.held_out as u64);
            let batch = (size * train.accumulation) as u64;
            (rows.div_ceil(batch) * epochs as u64) as f64
        }
        _ => return None,
    };
    let (base, trained) = (
        need.base_parameters as f64,
        need.trainable_parameters as f64,
    );
    let a_token = match run.method {
        Method::Full => 6.0 * base,
        _ => 4.0 * base + 6.0 * trained,
    };
    Some(steps * train.accumulation as f64 * tokens as f64 * a_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way in which a kept report may not follow from its results is told, and data beside the tables is no report.
    #[test]
    fn every_difference_is_named() {
        let (fresh, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |root: &Path, name: &str, text: &str| {
            file::write(&root.join(name), text.as_bytes()).unwrap();
        };
        for name in ["README.md", "a/report.md", "a/new.csv", "paper/t.md"] {
            write(fresh.path(), name, "made");
        }
        for name in [
            "README.md",
            "a/report.md",
            "a/old.csv",
            "paper/t.md",
            "paper/t.toml",
            "b/x.md",
        ] {
            write(kept.path(), name, "made");
        }
        let whole = BTreeSet::from(["a", "paper"].map(PathBuf::from));
        let find = || {
            let found = differences(fresh.path(), kept.path(), &whole).unwrap();
            let root = format!("{}/", kept.path().display());
            found
                .iter()
                .map(|line| line.replace(&root, ""))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            find(),
            ["a/new.csv: is missing", "a/old.csv: nothing makes it"]
        );
        write(kept.path(), "a/report.md", "made ");
        assert_eq!(find()[2], "a/report.md: differs from what its results give");
    }
}
