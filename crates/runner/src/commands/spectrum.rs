//! `spectrum`: singular values and principal angles of stored adapters, as tables, Parquet and figures. Finished runs that have an
//! adapter and no stored spectrum get one; of runs whose adapter is elsewhere the stored one is shown, which has no angles.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use rayon::prelude::*;
use sharelora_adapters::{Bank, Method, NAMED_METHODS, Site, import_peft, load_native};
use sharelora_hub::Progress as Fetching;
use sharelora_report::figure::{Drawing, write_png, write_svg};
use sharelora_report::spectrum::{AdapterSpectrum, Angles, Between, SiteSpectrum, Spectra};
use sharelora_report::stored_spectrum::{self, StoredSpectrum};
use sharelora_report::{Format, Status, spectrum_figure, spectrum_table, style};
use sharelora_spectrum::{Update, measure};

use crate::error::{AbsentError, UsageError};
use crate::experiment::ModelSpec;
use crate::plan::ResolvedRun;
use crate::progress::Progress;
use crate::spectra::{self, Matrices, adapter_file, shape, weight_norm};
use crate::store::{State, folder_state, read_run, take_lock};
use crate::sweep::Folders;
use crate::{Context, Experiment, base};

/// Weights that are read between two looks at the progress.
const WEIGHTS_AT_ONCE: usize = 16;

/// What is analysed, and what is shown of it.
#[derive(Debug, clap::Args)]
pub struct Spectrum {
    /// EXPERIMENT/LABEL, EXPERIMENT for all of its runs, the folder of a run, an adapter file, or a folder of Hugging Face
    /// PEFT. Angles are taken between each and the next, so the stages of a continual run go in their order
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// Print every layer instead of means over the layers
    #[arg(long)]
    layers: bool,
    /// Print the energy in the K largest singular values
    #[arg(
        long,
        value_name = "K,...",
        value_delimiter = ',',
        default_value = "1,4"
    )]
    top: Vec<usize>,
    /// Folder to write [default: spectrum in the experiment's folder of reports]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Experiment whose model a file or a folder of PEFT belongs to
    #[arg(long, value_name = "NAME")]
    model_of: Option<String>,
    /// Print everything as JSON; angles in radians
    #[arg(long)]
    json: bool,
}

/// An adapter and what is known of where it comes from.
struct Adapter {
    /// Its run, unless it is a file of unknown origin.
    run: Option<ResolvedRun>,
    /// What errors call it, and tables where there is no run.
    place: String,
    held: Held,
    model: Option<ModelSpec>,
}

/// What is here of an adapter.
enum Held {
    Matrices(Bank),
    /// What its run has left of it.
    Spectrum(StoredSpectrum),
}

impl Adapter {
    fn bank(&self) -> Option<&Bank> {
        match &self.held {
            Held::Matrices(bank) => Some(bank),
            Held::Spectrum(_) => None,
        }
    }

    fn sites(&self) -> &[Site] {
        self.bank().map_or(&[], |bank| &bank.layout().sites)
    }
}

/// Reads the adapters, writes Parquet and figures, prints.
///
/// # Errors
/// A name that means nothing, an adapter that is not there or cannot be read, or a file that cannot be written.
pub fn spectrum(context: &Context, folders: &Folders, options: &Spectrum) -> Result<u8> {
    if options.top.contains(&0) {
        return Err(UsageError("--top 0: give numbers from 1".into()).into());
    }
    let mut adapters = Vec::new();
    for name in &options.runs {
        adapters.extend(find(context, folders, options, name)?);
    }
    let names = names(&adapters)?;
    fill(context, &adapters);
    let (spectra, norms_known) = analyse(context, &adapters, &names)?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => match common_experiment(&adapters) {
            Some(experiment) => folders.reports.join(experiment).join("spectrum"),
            None => folders.reports.join("spectrum"),
        },
    };
    spectra.write_parquet(&out)?;
    draw(&spectra, &out)?;
    if options.json {
        super::print(&serde_json::to_string_pretty(&spectra)?)?;
        return Ok(0);
    }
    let mut summaries = spectrum_table::summaries(&spectra, options.layers, &options.top);
    if !norms_known {
        let text =
            "The weights of a model are not on this machine: norms are not set against them.";
        summaries.notes.push(text.into());
    }
    let absent: Vec<&str> = (adapters.iter().zip(&names))
        .filter(|(adapter, _)| adapter.bank().is_none())
        .map(|(_, name)| name.as_str())
        .collect();
    if !absent.is_empty() {
        summaries.notes.push(format!(
            "Of runs whose adapter is not here the stored values are shown, without angles: {}.",
            absent.join(", ")
        ));
    }
    let mut text = summaries.render(Format::Terminal);
    let angles = spectrum_table::angles(&spectra);
    if !angles.rows.is_empty() {
        text += &format!("\n{}", angles.render(Format::Terminal));
    }
    super::print(&format!("{text}\nwritten: {}", out.display()))?;
    Ok(0)
}

/// Writes the spectrum of every finished run that has an adapter and no spectrum that can be read. One that cannot be written is
/// named, and the others go on.
fn fill(context: &Context, adapters: &[Adapter]) {
    let lacks = |(run, dir): &(&ResolvedRun, &Path)| {
        spectra::has_spectrum(run)
            && adapter_file(dir).is_file()
            && !matches!(stored_spectrum::read(dir), Ok(Some(_)))
            && matches!(folder_state(dir), State::Done(record) if record.status == Status::Finished)
    };
    let runs = adapters.iter();
    let runs = runs.filter_map(|adapter| Some((adapter.run.as_ref()?, Path::new(&adapter.place))));
    let lacking: Vec<(&ResolvedRun, &Path)> = runs.filter(lacks).collect();
    if lacking.is_empty() {
        return;
    }
    let leave = |run: &ResolvedRun, dir: &Path| -> Result<()> {
        // So that nobody removes the folder meanwhile.
        let _lock = take_lock(dir)?;
        spectra::leave(run, dir, &context.hub)
    };
    let mut progress = Progress::new("stored", lacking.len() as u64, context.quiet);
    let mut written = 0;
    for (done, (run, dir)) in (1..).zip(&lacking) {
        match leave(run, dir) {
            Ok(()) => written += 1,
            Err(error) => eprintln!("{}: no spectrum was stored: {error:#}", dir.display()),
        }
        progress.set(done, "");
    }
    progress.finish(&format!("spectra of {written} of {} runs", lacking.len()));
}

/// What a person named.
fn find(
    context: &Context,
    folders: &Folders,
    options: &Spectrum,
    name: &str,
) -> Result<Vec<Adapter>> {
    let path = Path::new(name);
    if path.is_file() {
        let folder = path.parent().and_then(Path::parent);
        return match folder.filter(|dir| dir.join("run.json").is_file()) {
            Some(dir) => Ok(vec![of_run(dir)?]),
            None => {
                let (bank, _) = load_native(path, &Device::flex())?;
                Ok(vec![of_file(context, options, name, bank)?])
            }
        };
    }
    for dir in [path.to_owned(), folders.results.join(name)] {
        if dir.join("run.json").is_file() {
            return Ok(vec![of_run(&dir)?]);
        }
    }
    if path.join("adapter_config.json").is_file() {
        let Some(model) = model_of(context, options)? else {
            let text = format!(
                "{name} is a folder of PEFT: name an experiment on its model by --model-of"
            );
            return Err(UsageError(text).into());
        };
        let sites = base::config(&model, &context.hub, Fetching::Quiet)?.sites();
        let (bank, _) = import_peft(path, &sites, &Device::flex())?;
        return Ok(vec![of_file(context, options, name, bank)?]);
    }
    of_experiment(folders, name)
}

/// `EXPERIMENT`: its runs that have an adapter or a stored spectrum, by method and label. `EXPERIMENT/LABEL`: one of them.
fn of_experiment(folders: &Folders, name: &str) -> Result<Vec<Adapter>> {
    let (experiment, label) = match name.split_once('/') {
        Some((experiment, label)) => (experiment, Some(label)),
        None => (name, None),
    };
    let dir = folders.results.join(experiment);
    let absent = |reason: String| AbsentError(format!("{name}: {reason}"));
    let Ok(entries) = std::fs::read_dir(&dir) else {
        let text = format!(
            "neither a file, the folder of a run, nor EXPERIMENT/LABEL: there is no {}",
            dir.display()
        );
        return Err(absent(text).into());
    };
    let dirs = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<(ResolvedRun, PathBuf)> = dirs
        .filter(|dir| dir.join("run.json").is_file())
        .map(|dir| Ok((read_run(&dir)?, dir)))
        .collect::<Result<_>>()?;
    found.sort_by_cached_key(|(run, dir)| {
        let place = style::method_order(run.method.name());
        (place, run.seed, dir.clone())
    });
    let Some(label) = label else {
        let dirs = found.into_iter().map(|(_, dir)| dir);
        let dirs = dirs.filter(|dir| is_known(dir));
        let adapters = dirs.map(|dir| of_run(&dir)).collect::<Result<Vec<_>>>()?;
        if adapters.is_empty() {
            return Err(absent(format!("no run with an adapter in {}", dir.display())).into());
        }
        return Ok(adapters);
    };
    let labels = found.iter().map(|(run, _)| run.label());
    let labels = labels.collect::<Vec<_>>().join(", ");
    found.retain(|(run, _)| run.label() == label);
    // What an older version of the program, or a run that failed, has left beside it does not count.
    if found.iter().any(|(_, dir)| is_known(dir)) {
        found.retain(|(_, dir)| is_known(dir));
    }
    let mut dirs = found.into_iter();
    match (dirs.next(), dirs.next()) {
        (Some((_, dir)), None) => Ok(vec![of_run(&dir)?]),
        (None, _) => Err(absent(format!(
            "no such run in {}; there are: {}",
            dir.display(),
            labels
        ))
        .into()),
        (Some((_, first)), Some((_, second))) => Err(UsageError(format!(
            "{name} is several runs: name the folder of one, {} or {}",
            first.display(),
            second.display()
        ))
        .into()),
    }
}

fn is_known(dir: &Path) -> bool {
    adapter_file(dir).is_file() || dir.join(stored_spectrum::FILE).is_file()
}

/// The adapter of the run in `dir`, or what the run has left of it.
fn of_run(dir: &Path) -> Result<Adapter> {
    let run = read_run(dir)?;
    let place = dir.display().to_string();
    if run.adapter.is_none() {
        let text = format!("{place}: the method `{}` has no adapter", run.method.name());
        return Err(UsageError(text).into());
    }
    let file = adapter_file(dir);
    let held = if file.is_file() {
        Held::Matrices(load_native(&file, &Device::flex())?.0)
    } else if let Some(spectrum) = stored_spectrum::read(dir)? {
        Held::Spectrum(spectrum)
    } else {
        let text = format!(
            "{}: not there: the run has not ended, or its adapter was not kept; next: sharelora run {} {}",
            file.display(),
            run.experiment,
            run.label()
        );
        return Err(AbsentError(text).into());
    };
    Ok(Adapter {
        model: Some(run.model.clone()),
        run: Some(run),
        place,
        held,
    })
}

fn of_file(context: &Context, options: &Spectrum, name: &str, bank: Bank) -> Result<Adapter> {
    Ok(Adapter {
        run: None,
        place: name.to_owned(),
        held: Held::Matrices(bank),
        model: model_of(context, options)?,
    })
}

fn model_of(context: &Context, options: &Spectrum) -> Result<Option<ModelSpec>> {
    let Some(name) = &options.model_of else {
        return Ok(None);
    };
    let experiment = Experiment::load(&context.root, name, &[])?;
    let sections = experiment.sections(experiment.document())?;
    Ok(Some(sections.model))
}

/// The experiment that all adapters are of.
fn common_experiment(adapters: &[Adapter]) -> Option<&str> {
    let mut experiments = adapters
        .iter()
        .map(|a| Some(a.run.as_ref()?.experiment.as_str()));
    let first = experiments.next()??;
    experiments.all(|e| e == Some(first)).then_some(first)
}

/// The adapters' names for readers: labels, with the experiment where there are several, with the hash where that is not
/// enough.
fn names(adapters: &[Adapter]) -> Result<Vec<String>> {
    let one = common_experiment(adapters).is_some();
    let named = |of_run: fn(&ResolvedRun) -> String| -> Vec<String> {
        let name = |adapter: &Adapter| match &adapter.run {
            None => adapter.place.clone(),
            Some(run) if one => of_run(run),
            Some(run) => format!("{}/{}", run.experiment, of_run(run)),
        };
        adapters.iter().map(name).collect()
    };
    let twice = |names: &[String]| {
        let mut sorted = names.to_vec();
        sorted.sort();
        sorted
            .windows(2)
            .find(|w| w[0] == w[1])
            .map(|w| w[0].clone())
    };
    let labels = named(ResolvedRun::label);
    if twice(&labels).is_none() {
        return Ok(labels);
    }
    let folders = named(ResolvedRun::folder);
    match twice(&folders) {
        Some(name) => Err(UsageError(format!("{name} is named twice")).into()),
        None => Ok(folders),
    }
}

/// The method by its name in records.
fn method(adapter: &Adapter) -> String {
    if let Some(run) = &adapter.run {
        return run.method.name().to_owned();
    }
    let sharing = adapter.bank().map(|bank| &bank.layout().sharing);
    let is_it = |name: &&str| Method::named(name).is_ok_and(|m| m.sharing() == sharing);
    let known = NAMED_METHODS.into_iter().find(|name| is_it(name));
    known.unwrap_or("adapter").to_owned()
}

/// All spectra and angles, and whether all frozen weights were at hand.
fn analyse(context: &Context, adapters: &[Adapter], names: &[String]) -> Result<(Spectra, bool)> {
    let mut spectra = Spectra::default();
    for (adapter, name) in adapters.iter().zip(names) {
        let seed = adapter.run.as_ref().map(|run| format!("-seed{}", run.seed));
        spectra.adapters.push(AdapterSpectrum {
            run: name.clone(),
            method: method(adapter),
            setting: match seed {
                Some(seed) => name.replacen(&seed, "", 1),
                None => name.clone(),
            },
            sites: match &adapter.held {
                Held::Matrices(_) => Vec::new(),
                Held::Spectrum(stored) => stored.sites.iter().map(|s| s.spectrum()).collect(),
            },
        });
    }
    let frozen = Frozen::of(context, adapters)?;
    let mut projections: Vec<&str> = Vec::new();
    for site in adapters.iter().flat_map(Adapter::sites) {
        if !projections.contains(&site.projection.as_str()) {
            projections.push(&site.projection);
        }
    }
    // Singular vectors of one projection at a time: those of a large model and several runs would fill the memory.
    let total = (projections.len() * adapters.len()) as u64;
    let mut progress = Progress::new("spectrum", total, context.quiet);
    let mut done = 0;
    for projection in projections {
        let mut before: Option<(usize, Vec<Layer>)> = None;
        for (place, adapter) in adapters.iter().enumerate() {
            let Some(bank) = adapter.bank() else {
                before = None;
                done += 1;
                continue;
            };
            let layers = layers(bank, &names[place], projection)?;
            let sites = layers
                .iter()
                .map(|l| summary(l, frozen.norm(place, &l.site)));
            spectra.adapters[place].sites.extend(sites);
            let mut pairs = Vec::new();
            for (i, first) in layers.iter().enumerate() {
                pairs.extend(
                    layers[i + 1..]
                        .iter()
                        .map(|second| (place, first, place, second)),
                );
            }
            if let Some((earlier, others)) = &before {
                for second in &layers {
                    let same = others
                        .iter()
                        .filter(|first| first.site.layer == second.site.layer);
                    pairs.extend(same.map(|first| (*earlier, first, place, second)));
                }
            }
            let angles = pairs
                .into_par_iter()
                .filter(|(_, first, _, second)| shape(&first.site) == shape(&second.site))
                .map(|(i, first, j, second)| {
                    angles((&names[i], first), (&names[j], second), i == j)
                })
                .collect::<Result<Vec<_>>>()?;
            spectra.angles.extend(angles);
            before = Some((place, layers));
            done += 1;
            progress.set(done, projection);
        }
    }
    let sites = spectra.adapters.iter().map(|adapter| adapter.sites.len());
    progress.finish(&format!("{} sites", sites.sum::<usize>()));
    let mut norms_known = true;
    for (adapter, spectrum) in adapters.iter().zip(&mut spectra.adapters) {
        if let Some(bank) = adapter.bank() {
            let layout = bank.layout();
            spectrum
                .sites
                .sort_by_key(|site| layout.find(site.layer, &site.projection));
        }
        norms_known &= spectrum.sites.iter().all(|s| s.relative_norm.is_some());
    }
    Ok((spectra, norms_known))
}

/// The update of one site, decomposed.
struct Layer {
    site: Site,
    update: Update,
}

fn layers(bank: &Bank, name: &str, projection: &str) -> Result<Vec<Layer>> {
    let layout = bank.layout();
    let indices: Vec<usize> = (0..layout.sites.len())
        .filter(|index| layout.sites[*index].projection == projection)
        .collect();
    let layer = |index: usize| {
        let site = layout.sites[index].clone();
        let matrices = Matrices::of(bank, index);
        let update = (matrices.factors())
            .and_then(|factors| Update::new(&factors))
            .with_context(|| format!("{name}: layer {} {projection}", site.layer))?;
        Ok(Layer { site, update })
    };
    indices.into_par_iter().map(layer).collect()
}

fn summary(layer: &Layer, frozen: Option<f64>) -> SiteSpectrum {
    let site = &layer.site;
    let values = layer.update.values.clone();
    SiteSpectrum::new(site.layer, &site.projection, shape(site), values, frozen)
}

fn angles(first: (&String, &Layer), second: (&String, &Layer), one_run: bool) -> Result<Angles> {
    let (one, other) = (&first.1.update, &second.1.update);
    let columns = one.columns.angles(&other.columns)?;
    let rows = one.rows.angles(&other.rows)?;
    Ok(Angles {
        between: match one_run {
            true => Between::Layers,
            false => Between::Runs,
        },
        first: (first.0.clone(), first.1.site.layer),
        second: (second.0.clone(), second.1.site.layer),
        projection: first.1.site.projection.clone(),
        column_overlap: measure::overlap(&columns),
        row_overlap: measure::overlap(&rows),
        columns,
        rows,
    })
}

/// Norms of the frozen weights, as far as the models are on this machine: nothing is downloaded for a norm.
struct Frozen {
    /// Of each adapter its model, by the first adapter that has it.
    model: Vec<Option<usize>>,
    /// `||W||_F` by model and by the place of the site.
    norms: BTreeMap<(usize, String), f64>,
}

impl Frozen {
    fn of(context: &Context, adapters: &[Adapter]) -> Result<Self> {
        let mut model: Vec<Option<usize>> = Vec::new();
        let mut opened = BTreeMap::new();
        let mut sites: BTreeMap<(usize, String), &Site> = BTreeMap::new();
        for (place, adapter) in adapters.iter().enumerate() {
            let known = adapters[..place]
                .iter()
                .position(|a| a.model == adapter.model);
            model.push(match (known, &adapter.model) {
                (_, None) => None,
                (Some(first), _) => model[first],
                (None, Some(spec)) => spectra::open(spec, &context.hub)?.map(|found| {
                    opened.insert(place, found);
                    place
                }),
            });
            if let Some(first) = model[place] {
                let all = adapter.sites().iter();
                sites.extend(all.map(|site| ((first, site.place()), site)));
            }
        }
        let sites: Vec<_> = sites.into_iter().collect();
        if sites.is_empty() {
            return Ok(Self {
                model,
                norms: BTreeMap::new(),
            });
        }
        let mut progress = Progress::new("weights", sites.len() as u64, context.quiet);
        let mut norms = BTreeMap::new();
        for chunk in sites.chunks(WEIGHTS_AT_ONCE) {
            let found = chunk.par_iter().map(|(key, site)| {
                let (config, checkpoint) = &opened[&key.0];
                Ok((key.clone(), weight_norm(config, checkpoint, site)?))
            });
            for (key, norm) in found.collect::<Result<Vec<_>>>()? {
                norms.extend(norm.map(|norm| (key, norm)));
            }
            progress.set(norms.len() as u64, "");
        }
        progress.finish(&format!("{} norms", norms.len()));
        Ok(Self { model, norms })
    }

    /// `||W||_F` of a site of an adapter.
    fn norm(&self, adapter: usize, site: &Site) -> Option<f64> {
        self.norms
            .get(&(self.model[adapter]?, site.place()))
            .copied()
    }
}

fn draw(spectra: &Spectra, out: &Path) -> Result<()> {
    fn both(out: &Path, name: &str, figure: Option<impl Drawing>) -> Result<()> {
        if let Some(figure) = figure {
            write_svg(&out.join(format!("{name}.svg")), &figure)?;
            write_png(&out.join(format!("{name}.png")), &figure)?;
        }
        Ok(())
    }
    let title = "Singular values of the updates: means over the layers, bars to the extremes";
    both(out, "values", spectrum_figure::by_index(title, spectra))?;
    let title = "Singular values of the updates by layer, the largest darkest";
    both(out, "layers", spectrum_figure::by_layer(title, spectra))?;
    let title = "Singular values of the updates by layer and index";
    both(out, "heat", spectrum_figure::heat(title, spectra))?;
    let title =
        "Two layers' updates, cosine of the angles: outputs above the diagonal, inputs below";
    both(out, "overlap", spectrum_figure::overlap(title, spectra))
}
