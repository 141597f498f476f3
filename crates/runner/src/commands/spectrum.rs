//! `spectrum`: singular values and principal angles of stored adapters, as tables, Parquet and figures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use sharelora_adapters::{Bank, Method, NAMED_METHODS, Site, import_peft, load_native};
use sharelora_hub::{Hub, Progress as Fetching};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Model, ModelConfig, Storage, WeightSpec};
use sharelora_report::figure::{Drawing, write_png, write_svg};
use sharelora_report::spectrum::{AdapterSpectrum, Angles, Between, SiteSpectrum, Spectra};
use sharelora_report::{Format, spectrum_figure, spectrum_table, style};
use sharelora_spectrum::{Factors, Update, measure};

use crate::error::{ABSENT, AbsentError, UsageError, exit_code};
use crate::experiment::ModelSpec;
use crate::plan::ResolvedRun;
use crate::progress::Progress;
use crate::store::{ADAPTER_FILE, read_run};
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
    bank: Bank,
    model: Option<ModelSpec>,
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
    let mut text = summaries.render(Format::Terminal);
    let angles = spectrum_table::angles(&spectra);
    if !angles.rows.is_empty() {
        text += &format!("\n{}", angles.render(Format::Terminal));
    }
    super::print(&format!("{text}\nwritten: {}", out.display()))?;
    Ok(0)
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

/// `EXPERIMENT`: its runs that have an adapter, by method and label. `EXPERIMENT/LABEL`: one of them.
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
        let dirs = dirs.filter(|dir| has_adapter(dir));
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
    if found.iter().any(|(_, dir)| has_adapter(dir)) {
        found.retain(|(_, dir)| has_adapter(dir));
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

fn has_adapter(dir: &Path) -> bool {
    dir.join("adapter").join(ADAPTER_FILE).is_file()
}

/// The adapter of the run in `dir`.
fn of_run(dir: &Path) -> Result<Adapter> {
    let run = read_run(dir)?;
    let place = dir.display().to_string();
    if run.adapter.is_none() {
        let text = format!("{place}: the method `{}` has no adapter", run.method.name());
        return Err(UsageError(text).into());
    }
    let file = dir.join("adapter").join(ADAPTER_FILE);
    if !file.is_file() {
        let text = format!(
            "{}: not there: the run has not ended, or its adapter was not kept; next: sharelora run {} {}",
            file.display(),
            run.experiment,
            run.label()
        );
        return Err(AbsentError(text).into());
    }
    let (bank, _) = load_native(&file, &Device::flex())?;
    Ok(Adapter {
        model: Some(run.model.clone()),
        run: Some(run),
        place,
        bank,
    })
}

fn of_file(context: &Context, options: &Spectrum, name: &str, bank: Bank) -> Result<Adapter> {
    Ok(Adapter {
        run: None,
        place: name.to_owned(),
        bank,
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
    let sharing = Some(&adapter.bank.layout().sharing);
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
            sites: Vec::new(),
        });
    }
    let frozen = Frozen::of(context, adapters)?;
    let mut projections: Vec<&str> = Vec::new();
    for site in adapters.iter().flat_map(|a| &a.bank.layout().sites) {
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
            let layers = layers(adapter, &names[place], projection)?;
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
    for (adapter, spectrum) in adapters.iter().zip(&mut spectra.adapters) {
        let layout = adapter.bank.layout();
        spectrum
            .sites
            .sort_by_key(|site| layout.find(site.layer, &site.projection));
    }
    Ok((spectra, frozen.complete()))
}

/// The update of one site, decomposed.
struct Layer {
    site: Site,
    update: Update,
}

fn shape(site: &Site) -> [usize; 2] {
    [site.out_features, site.in_features]
}

fn layers(adapter: &Adapter, name: &str, projection: &str) -> Result<Vec<Layer>> {
    let layout = adapter.bank.layout();
    let indices: Vec<usize> = (0..layout.sites.len())
        .filter(|index| layout.sites[*index].projection == projection)
        .collect();
    let layer = |index: usize| {
        let site = layout.sites[index].clone();
        let (a, b) = adapter.bank.effective(index);
        let [rank, _] = a.dims();
        let (a, b) = (host(a), host(b));
        let update = Factors::new(&a, &b, rank, shape(&site), layout.scale())
            .and_then(|factors| Update::new(&factors))
            .with_context(|| format!("{name}: layer {} {projection}", site.layer))?;
        Ok(Layer { site, update })
    };
    indices.into_par_iter().map(layer).collect()
}

fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor
        .without_autodiff()
        .try_into_vec_as::<f32>()
        .expect("a float tensor that exists can be read as f32")
}

fn summary(layer: &Layer, frozen: Option<f64>) -> SiteSpectrum {
    let values = &layer.update.values;
    let norm = measure::frobenius(values);
    SiteSpectrum {
        layer: layer.site.layer,
        projection: layer.site.projection.clone(),
        shape: shape(&layer.site),
        effective_rank: measure::effective_rank(values),
        stable_rank: measure::stable_rank(values),
        energy: (1..=values.len())
            .map(|k| measure::energy(values, k))
            .collect(),
        norm,
        relative_norm: frozen
            .filter(|weight| *weight > 0.0)
            .map(|weight| norm / weight),
        values: values.clone(),
    }
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
        let hub = Hub {
            offline: true,
            ..context.hub.clone()
        };
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
                (None, Some(spec)) => match open(spec, &hub) {
                    Ok(found) => {
                        opened.insert(place, found);
                        Some(place)
                    }
                    Err(error) if exit_code(&error) == ABSENT => None,
                    Err(error) => return Err(error),
                },
            });
            if let Some(first) = model[place] {
                let all = adapter.bank.layout().sites.iter();
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

    fn complete(&self) -> bool {
        self.model.iter().all(Option::is_some)
    }

    /// `||W||_F` of a site of an adapter.
    fn norm(&self, adapter: usize, site: &Site) -> Option<f64> {
        self.norms
            .get(&(self.model[adapter]?, site.place()))
            .copied()
    }
}

/// `||W||_F` of a site; none where the model has no such weight. A fused module is the sum of its parts.
fn weight_norm(config: &ModelConfig, checkpoint: &Checkpoint, site: &Site) -> Result<Option<f64>> {
    let name = format!("{}.weight", site.path);
    let is_part = |spec: &WeightSpec| match (site.part, spec.conv1d) {
        (Some(part), Some(conv)) => part.start == conv.start,
        _ => true,
    };
    let mut squares = None;
    let specs = config.weights().into_iter();
    for spec in specs.filter(|spec| spec.name == name && is_part(spec)) {
        let weight = Model::load_weight(config, checkpoint, &spec, Storage::Stored)?;
        let mut scratch = Vec::new();
        for row in 0..weight.rows() {
            let values = weight.tile(row..row + 1, &mut scratch).iter();
            let sum: f64 = values.map(|v| f64::from(*v).powi(2)).sum();
            squares = Some(squares.unwrap_or(0.0) + sum);
        }
    }
    Ok(squares.map(f64::sqrt))
}

fn open(spec: &ModelSpec, hub: &Hub) -> Result<(ModelConfig, Checkpoint)> {
    let config = base::config(spec, hub, Fetching::Quiet)?;
    let files = base::weight_files(spec, hub, Fetching::Quiet)?;
    Ok((config, Checkpoint::open(&files)?))
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
