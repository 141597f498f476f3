//! Spectrum against forgetting: whether what the singular values of a stage's change say goes with what the stage makes forgotten.
//!
//! An observation is a stage behind the first of a sequence ([`crate::continual`]). Its forgetting is the mean, over the tasks that were
//! learnt before it and are not its own, of what the held-out loss rose from before the stage to behind it; where losses were not
//! measured, of what the score fell. Against it stand measures of the change `dW_k - dW_{k-1}` that the stage made to the weights
//! ([`crate::stored_spectrum`]), each the mean over the sites.
//!
//! The correlation is Spearman's (average ranks for ties): over all stages, and within stages, where of both series the mean of the
//! stages with the same place and task is taken off first, since a stage's task decides much of both. Stages of one sequence build on
//! one another, so the 95 % interval resamples whole chains, all stages that build on one first stage of a method, setting and seed: the
//! cluster bootstrap (A. Davison and D. Hinkley, Bootstrap Methods and their Application, 1997, section 3.8), by percentiles as
//! everywhere ([`crate::bootstrap`]). A resample that has no correlation, all its values being equal, is left out and counted.

use std::collections::{BTreeMap, BTreeSet};

use sharelora_metrics::correlation::spearman;

use crate::bootstrap::{self, RESAMPLES, SEED, percentile_interval, resample};
use crate::comparison::{headlines, is_headline, lower_is_better};
use crate::continual::{STAGES, trained_on};
use crate::error::{Error, Result};
use crate::figure::{Entry, Figure, Mark, Panel, RGBColor, Scale, range};
use crate::number::{signed, thousands};
use crate::record::{Record, Run, Status};
use crate::section::{Block, Picture, Section, Text};
use crate::spectrum::SiteSpectrum;
use crate::spectrum_figure::lighter;
use crate::statistics::mean;
use crate::stored_spectrum::{StoredSite, StoredSpectrum};
use crate::style;
use crate::table::{Cell, Column, Table};

/// Fewer stages say nothing of a correlation.
const FEWEST_STAGES: usize = 5;

/// Fewer chains have no interval.
const FEWEST_CHAINS: usize = 5;

/// Stages that get a panel of their own; more are shown together alone.
const MOST_PANELS: usize = 5;

/// What a change is summed up by.
struct Measure {
    /// In files.
    key: &'static str,
    /// For readers.
    name: &'static str,
    of: fn(&StoredSite, &SiteSpectrum) -> Option<f64>,
}

const MEASURES: [Measure; 6] = [
    Measure {
        key: "effective_rank",
        name: "Effective rank",
        of: |_, change| change.effective_rank,
    },
    Measure {
        key: "stable_rank",
        name: "Stable rank",
        of: |_, change| change.stable_rank,
    },
    Measure {
        key: "energy",
        name: "Energy in the largest singular value",
        of: |_, change| change.energy.first().copied().flatten(),
    },
    Measure {
        key: "norm",
        name: "Norm",
        of: |_, change| Some(change.norm),
    },
    Measure {
        key: "output_overlap",
        name: "Output overlap with the earlier update",
        of: |site, _| site.change.as_ref()?.output_overlap.map(f64::from),
    },
    Measure {
        key: "input_overlap",
        name: "Input overlap with the earlier update",
        of: |site, _| site.change.as_ref()?.input_overlap.map(f64::from),
    },
];

/// The place of the norm in [`MEASURES`]: against the frozen weight's where every site has that.
const NORM: usize = 3;

/// The place of the measure that the figure shows.
const EFFECTIVE_RANK: usize = 0;

/// A stage that had something to forget.
#[derive(Debug, Clone, PartialEq)]
struct Observation {
    method: String,
    /// The adapter's.
    rank: Option<u64>,
    /// Stages of one chain have one number.
    chain: usize,
    /// Place in the sequence, from 1.
    place: usize,
    task: String,
    forgetting: f64,
    /// By the place in [`MEASURES`]; absent where every site's change is zero.
    measures: [Option<f64>; MEASURES.len()],
}

/// All stages of an experiment that had something to forget.
#[derive(Debug, Clone, PartialEq)]
struct Stages {
    observations: Vec<Observation>,
    /// Whether forgetting is a rise of losses, else a fall of scores.
    losses: bool,
    /// Whether scores are in points of percent.
    points: bool,
    /// Whether norms are relative to the frozen weights'.
    relative: bool,
}

/// A correlation with its interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    /// Spearman's rho.
    pub rho: f64,
    /// 95 %; absent of fewer than five chains, which have too few different resamples.
    pub interval: Option<(f64, f64)>,
    /// Stages behind it.
    pub stages: usize,
    /// Chains that they are of.
    pub chains: usize,
    /// Resamples that had no correlation.
    pub left_out: usize,
}

/// Over all stages, or with the mean of their place and task taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pooled,
    Within,
}

/// One stage as the statistic sees it: its group, what is measured, what is forgotten.
type Point = (usize, f64, f64);

fn statistic(kind: Kind, mut points: Vec<Point>) -> Option<f64> {
    if kind == Kind::Within {
        let mut groups: BTreeMap<usize, (f64, f64, f64)> = BTreeMap::new();
        for (group, x, y) in &points {
            let sum = groups.entry(*group).or_default();
            *sum = (sum.0 + x, sum.1 + y, sum.2 + 1.0);
        }
        // In a resample too.
        points.retain(|(group, ..)| groups[group].2 > 1.0);
        for (group, x, y) in &mut points {
            let (sum_x, sum_y, n) = groups[group];
            *x -= sum_x / n;
            *y -= sum_y / n;
        }
    }
    let pairs: Vec<(f64, f64)> = points.into_iter().map(|(_, x, y)| (x, y)).collect();
    spearman(&pairs)
}

/// The correlation of a measure with forgetting; `None` of fewer than [`FEWEST_STAGES`] stages, of one chain, or where all
/// values are equal.
fn correlation(observations: &[&Observation], measure: usize, kind: Kind) -> Option<Correlation> {
    let mut groups: BTreeMap<_, Vec<(&Observation, f64)>> = BTreeMap::new();
    for o in observations {
        if let Some(x) = o.measures[measure] {
            groups.entry(o.group()).or_default().push((o, x));
        }
    }
    let mut chains: BTreeMap<usize, Vec<Point>> = BTreeMap::new();
    // A stage that no other is compared with says nothing within stages.
    let said = |group: &Vec<_>| kind == Kind::Pooled || group.len() > 1;
    for (place, group) in groups.into_values().filter(said).enumerate() {
        for (o, x) in group {
            let points = chains.entry(o.chain).or_default();
            points.push((place, x, o.forgetting));
        }
    }
    let chains: Vec<Vec<Point>> = chains.into_values().collect();
    let stages = chains.iter().map(Vec::len).sum();
    if stages < FEWEST_STAGES || chains.len() < 2 {
        return None;
    }
    let of = |chosen: &mut dyn Iterator<Item = usize>| {
        let points = chosen.flat_map(|chain| chains[chain].iter().copied());
        statistic(kind, points.collect())
    };
    let rho = of(&mut (0..chains.len()))?;
    let mut found = Correlation {
        rho,
        interval: None,
        stages,
        chains: chains.len(),
        left_out: 0,
    };
    if chains.len() >= FEWEST_CHAINS {
        let values = resample(chains.len(), SEED, |chosen| of(&mut chosen.iter().copied()));
        found.left_out = RESAMPLES - values.len();
        found.interval = percentile_interval(&values);
    }
    Some(found)
}

impl Observation {
    /// Stages that are compared within.
    fn group(&self) -> (usize, &str) {
        (self.place, &self.task)
    }
}

/// The stages of a run's sequence, `alpaca`, `gsm8k`.
fn path(record: &Record) -> Option<Vec<&str>> {
    Some(record.axes.get(STAGES)?.split('+').collect())
}

/// What a task's scores of one kind lost from one record to the next, the mean over them.
fn lost(task: &str, before: &Record, after: &Record, losses: bool, scale: f64) -> Option<f64> {
    let own = after.metrics.iter().filter(|(key, _)| {
        is_headline(key) && key.split('/').next() == Some(task) && lower_is_better(key) == losses
    });
    let changes: Option<Vec<f64>> = own
        .map(|(key, metric)| Some(metric.value - before.metrics.get(key)?.value))
        .collect();
    let change = scale * mean(&changes?)?;
    let change = if losses { change } else { -change };
    change.is_finite().then_some(change)
}

/// The mean over the sites that have it.
fn measured(
    spectrum: &StoredSpectrum,
    of: &dyn Fn(&StoredSite, &SiteSpectrum) -> Option<f64>,
) -> Option<f64> {
    let sites = spectrum.sites.iter();
    let values = sites.filter_map(|site| of(site, &site.changed()?));
    mean(&values.collect::<Vec<_>>())
}

/// A method, its values of axes and its seed.
type Setting<'a> = (&'a str, BTreeMap<&'a str, &'a str>, u64);

fn setting(record: &Record) -> Setting<'_> {
    let axes = record.axes.iter().filter(|(key, _)| *key != STAGES);
    let axes = axes.map(|(key, value)| (key.as_str(), value.as_str()));
    (&record.method, axes.collect(), record.seed)
}

fn observe(runs: &[Run], losses: bool, scale: f64, relative: bool) -> Vec<Observation> {
    let mut staged: BTreeMap<(Setting, Vec<&str>), &Run> = BTreeMap::new();
    for run in runs
        .iter()
        .filter(|run| run.record.status == Status::Finished)
    {
        if let Some(path) = path(&run.record) {
            staged.insert((setting(&run.record), path), run);
        }
    }
    let mut chains: Vec<(Setting, &str)> = Vec::new();
    let mut found = Vec::new();
    for ((setting, path), run) in &staged {
        let origin = |k: usize| staged.get(&(setting.clone(), path[..k].to_vec())).copied();
        let observe = |chain: usize| -> Option<Observation> {
            let spectrum = run.spectrum.as_ref()?;
            let before = origin(path.len() - 1)?;
            if spectrum.from.as_ref() != Some(&before.record.hash) {
                return None;
            }
            let task = trained_on(&run.record)?;
            let earlier: Option<BTreeSet<String>> = (1..path.len())
                .map(|k| trained_on(&origin(k)?.record))
                .collect();
            let earlier = earlier?.into_iter().filter(|other| *other != task);
            let losses: Option<Vec<f64>> = earlier
                .map(|task| lost(&task, &before.record, &run.record, losses, scale))
                .collect();
            let measures = std::array::from_fn(|place| match (place, relative) {
                (NORM, true) => measured(spectrum, &|_, change| change.relative_norm),
                _ => measured(spectrum, &MEASURES[place].of),
            });
            Some(Observation {
                method: run.record.method.clone(),
                rank: run
                    .record
                    .config
                    .pointer("/adapter/rank")
                    .and_then(|rank| rank.as_u64()),
                chain,
                place: path.len(),
                task,
                forgetting: mean(&losses?)?,
                measures,
            })
        };
        let chain = (setting.clone(), path[0]);
        let place = chains.iter().position(|known| *known == chain);
        if let Some(observation) = observe(place.unwrap_or(chains.len())) {
            if place.is_none() {
                chains.push(chain);
            }
            found.push(observation);
        }
    }
    found.sort_by_cached_key(|o| (style::method_order(&o.method), o.rank, o.chain, o.place));
    found
}

impl Stages {
    /// By held-out losses where they were measured, else by scores; `None` without a stage that has a change stored and something to
    /// forget.
    fn of(runs: &[Run]) -> Option<Self> {
        let changed = |site: &&StoredSite| site.change.is_some();
        let spectra = runs.iter().filter_map(|run| run.spectrum.as_ref());
        let mut sites = spectra
            .flat_map(|spectrum| &spectrum.sites)
            .filter(changed)
            .peekable();
        sites.peek()?;
        let relative = sites.all(|site| site.weight_norm.is_some());
        let (scores, percent) = headlines(runs.iter());
        let mut scores = scores.iter().filter(|key| !lower_is_better(key));
        let points = scores.all(|key| percent.contains(key));
        let found = [true, false].map(|losses| Self {
            observations: observe(
                runs,
                losses,
                if points && !losses { 100.0 } else { 1.0 },
                relative,
            ),
            losses,
            points,
            relative,
        });
        found
            .into_iter()
            .find(|stages| !stages.observations.is_empty())
    }

    fn all(&self) -> Vec<&Observation> {
        self.observations.iter().collect()
    }

    fn of_method(&self, method: &str) -> Vec<&Observation> {
        let all = self.observations.iter();
        all.filter(|o| o.method == method).collect()
    }

    fn chains(&self) -> usize {
        let chains: BTreeSet<usize> = self.observations.iter().map(|o| o.chain).collect();
        chains.len()
    }

    fn methods(&self) -> Vec<&str> {
        let mut methods: Vec<&str> = self
            .observations
            .iter()
            .map(|o| o.method.as_str())
            .collect();
        methods.dedup();
        methods
    }

    fn vary_in_rank(&self) -> bool {
        let ranks: BTreeSet<Option<u64>> = self.observations.iter().map(|o| o.rank).collect();
        ranks.len() > 1
    }

    fn name(&self, measure: usize) -> &'static str {
        match (measure, self.relative) {
            (NORM, true) => "Norm against the frozen weight's",
            _ => MEASURES[measure].name,
        }
    }
}

/// The correlation that a file asks for, `forgetting/MEASURE` or `forgetting_within_stages/MEASURE`, over all methods or within one;
/// `None` where the results have too little for it.
///
/// # Errors
/// There is no such value.
pub(crate) fn named(
    runs: &[Run],
    value: &str,
    method: Option<&str>,
) -> Result<Option<Correlation>> {
    let (kind, key) = value.split_once('/').unwrap_or((value, ""));
    let kind = match kind {
        POOLED => Kind::Pooled,
        _ => Kind::Within,
    };
    let Some(measure) = MEASURES.iter().position(|measure| measure.key == key) else {
        let keys = MEASURES.map(|measure| measure.key).join(", ");
        let text = format!("`value` = \"{value}\": after the `/` stands one of {keys}");
        return Err(Error::Spec(text));
    };
    Ok(Stages::of(runs).and_then(|stages| {
        let observations = match method {
            Some(method) => stages.of_method(method),
            None => stages.all(),
        };
        correlation(&observations, measure, kind)
    }))
}

/// How files ask for a correlation over all stages, before the `/`.
const POOLED: &str = "forgetting";
/// The same within stages.
const WITHIN: &str = "forgetting_within_stages";

/// Whether a value of a file asks for a correlation.
pub(crate) fn is_named(value: &str) -> bool {
    [POOLED, WITHIN].contains(&value.split('/').next().unwrap_or(value))
}

/// `+0.42 (+0.10 to +0.66)`.
pub(crate) fn shown(found: &Correlation) -> String {
    let interval = found.interval.map_or_else(String::new, |(low, high)| {
        format!(" ({} to {})", signed(low, 2), signed(high, 2))
    });
    format!("{}{interval}", signed(found.rho, 2))
}

fn cell(found: Option<&Correlation>) -> Cell {
    found.map_or_else(Cell::none, |found| Cell {
        interval: found.interval,
        ..Cell::number(shown(found), found.rho)
    })
}

/// The section of the report; `None` where no stage has something to forget and its change stored.
pub fn section(title: &str, runs: &[Run]) -> Option<Section> {
    let stages = Stages::of(runs)?;
    let heading = "Spectrum and forgetting".to_owned();
    let (count, chains) = (stages.observations.len(), stages.chains());
    if count < FEWEST_STAGES || chains < 2 {
        let text = format!(
            "Of {count} {} of {chains} {} the change's singular values and what was forgotten are stored: too few to say whether the two go \
             together, for which there have to be {FEWEST_STAGES} stages of 2 chains.",
            plural(count, "stage"),
            plural(chains, "chain"),
        );
        return Some(Section {
            title: heading,
            blocks: vec![Block::Text(text.into())],
        });
    }
    let rows = Row::all(&stages);
    let mut blocks = vec![
        Block::Text(question(&stages)),
        Block::Table(table(&stages, &rows)),
    ];
    blocks.extend(verdicts(&stages, &rows).into_iter().map(Block::Text));
    blocks.push(Block::Figure(Picture {
        name: "forgetting".into(),
        alt: "Forgetting against the effective rank of each stage's change".into(),
        caption: caption(&stages).into(),
        figure: figure(title, &stages),
    }));
    Some(Section {
        title: heading,
        blocks,
    })
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 {
        word.into()
    } else {
        format!("{word}s")
    }
}

/// A measure over all methods, or within one.
struct Row<'a> {
    measure: usize,
    method: Option<&'a str>,
    pooled: Option<Correlation>,
    within: Option<Correlation>,
}

impl<'a> Row<'a> {
    /// Over all methods; where ranks vary also within each.
    fn all(stages: &'a Stages) -> Vec<Self> {
        let mut subsets = vec![(None, stages.all())];
        if stages.vary_in_rank() && stages.methods().len() > 1 {
            let methods = stages.methods().into_iter();
            subsets.extend(methods.map(|method| (Some(method), stages.of_method(method))));
        }
        let mut rows = Vec::new();
        for measure in 0..MEASURES.len() {
            rows.extend(subsets.iter().map(|(method, observations)| Row {
                measure,
                method: *method,
                pooled: correlation(observations, measure, Kind::Pooled),
                within: correlation(observations, measure, Kind::Within),
            }));
        }
        rows
    }

    fn found(&self) -> impl Iterator<Item = &Correlation> {
        self.pooled.iter().chain(&self.within)
    }
}

fn question(stages: &Stages) -> Text {
    let forgotten = match (stages.losses, stages.points) {
        (true, _) => "the held-out loss rose (nats per token)",
        (false, true) => "the score fell (points)",
        (false, false) => "the score fell",
    };
    format!(
        "Does what a stage forgets go with the singular values of the change that it makes to the weights? Forgetting is the mean, over the \
         tasks that were learnt earlier and are not the stage's own, of what {forgotten} from before the stage to behind it."
    )
    .into()
}

fn table(stages: &Stages, rows: &[Row]) -> Table {
    let by_method = rows.iter().any(|row| row.method.is_some());
    let mut columns = vec![Column::left("Measure of the change")];
    if by_method {
        columns.push(Column::left("Methods"));
    }
    columns.extend(["All stages", "Within stages", "Stages", "Chains"].map(Column::right));
    let cells = |row: &Row| {
        let mut cells = vec![Cell::text(stages.name(row.measure))];
        if by_method {
            cells.push(Cell::text(row.method.map_or("all", style::method_name)));
        }
        let count = |n: usize| Cell::number(thousands(n as u64), n as f64);
        let counted = row.found().next();
        cells.extend([
            cell(row.pooled.as_ref()),
            cell(row.within.as_ref()),
            counted.map_or_else(Cell::none, |found| count(found.stages)),
            counted.map_or_else(Cell::none, |found| count(found.chains)),
        ]);
        cells
    };
    Table {
        title: "Spearman's rho with forgetting".into(),
        columns,
        rows: rows.iter().map(cells).collect(),
        notes: notes(stages, rows),
    }
}

fn notes(stages: &Stages, rows: &[Row]) -> Vec<String> {
    let found = || rows.iter().flat_map(Row::found);
    let mut notes = vec![
        "Spearman's rho, in brackets its 95 % interval: above 0, more is forgotten where the measure is larger. Measures are means over the \
         sites of the change in the weight, not of the whole update. Within stages: of both, the mean of the stages with the same place and \
         task is taken off first."
            .to_owned(),
        "Overlap is the mean squared cosine of the angles between the earlier update's space, of k dimensions, and that of the change's k \
         largest singular values."
            .into(),
    ];
    if stages.methods().len() > 1 {
        notes.push(
            "Methods stand together: where they differ in both, that difference is in the correlation, and says nothing of cause.".into(),
        );
    }
    if found().any(|found| found.interval.is_some()) {
        notes.push(format!(
            "Intervals are percentiles of {} resamples of whole chains, the stages that build on one first stage, one correlation at a time: \
             nothing is corrected for their number.",
            thousands(RESAMPLES as u64)
        ));
    }
    let fewest = found().map(|found| found.chains).min().unwrap_or(0);
    if fewest < FEWEST_CHAINS {
        notes.push(format!(
            "Of fewer than {FEWEST_CHAINS} chains there is no interval."
        ));
    }
    if found().any(|found| found.interval.is_some() && found.chains < bootstrap::FEWEST) {
        notes.push(format!(
            "Of fewer than {} chains such intervals tend to be too narrow.",
            bootstrap::FEWEST
        ));
    }
    if let Some(most) = found().map(|found| found.left_out).max().filter(|n| *n > 0) {
        notes.push(format!(
            "Resamples in which all values are equal have no correlation and are left out, at most {} of an interval.",
            thousands(most as u64)
        ));
    }
    notes
}

/// Which intervals leave out 0, in words.
fn verdicts(stages: &Stages, rows: &[Row]) -> Vec<Text> {
    let over_all = || rows.iter().filter(|row| row.method.is_none());
    type Pick = for<'a> fn(&'a Row<'a>) -> Option<&'a Correlation>;
    let of = |words: &str, pick: Pick| -> Text {
        let known = || over_all().filter_map(|row| Some((row, pick(row)?)));
        if known().all(|(_, found)| found.interval.is_none()) {
            return format!("{words}: no correlation has an interval, so none is a finding.")
                .into();
        }
        let leaves_out_0 = |found: &Correlation| {
            found
                .interval
                .is_some_and(|(low, high)| low > 0.0 || high < 0.0)
        };
        let said: Vec<String> = known()
            .filter(|(_, found)| leaves_out_0(found))
            .map(|(row, found)| {
                format!(
                    "{}, rho {}",
                    lowercase(stages.name(row.measure)),
                    shown(found)
                )
            })
            .collect();
        match said.is_empty() {
            true => format!(
                "{words}: every interval holds 0, so no measure is shown to go with forgetting."
            ),
            false => format!(
                "{words}: the interval leaves out 0 for {}.",
                said.join("; ")
            ),
        }
        .into()
    };
    vec![
        of("Over all stages", |row| row.pooled.as_ref()),
        of("Within stages", |row| row.within.as_ref()),
    ]
}

fn lowercase(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

fn caption(stages: &Stages) -> String {
    let mut text = String::from(
        "A point is a stage of one chain; the effective rank of its change is the mean over the sites.",
    );
    if groups(stages).len() > 1 {
        text += " The first panel has all stages, the others those of one place and task, each on its own scale of \
                 forgetting.";
    }
    if stages.vary_in_rank() {
        text += " Of a method the smallest rank is the darkest.";
    }
    text
}

fn groups(stages: &Stages) -> BTreeSet<(usize, &str)> {
    stages.observations.iter().map(Observation::group).collect()
}

/// A method at one rank, and its look.
struct Look<'a> {
    method: &'a str,
    rank: Option<u64>,
    entry: Entry,
}

/// The looks in the order of methods and ranks: a method's colour, lighter for larger ranks.
fn looks<'a>(stages: &'a Stages) -> Vec<Look<'a>> {
    let mut settings: Vec<(&'a str, Option<u64>)> = Vec::new();
    for observation in &stages.observations {
        let setting = (observation.method.as_str(), observation.rank);
        if !settings.contains(&setting) {
            settings.push(setting);
        }
    }
    let look = |&(method, rank): &(&'a str, Option<u64>)| {
        let of_method: Vec<_> = settings.iter().filter(|(m, _)| *m == method).collect();
        let place = of_method.iter().position(|(_, r)| *r == rank).unwrap_or(0);
        let share = 0.5 * place as f64 / of_method.len().saturating_sub(1).max(1) as f64;
        let (colour, marker) = style::method_look(method);
        let name = style::method_name(method);
        let label = match rank.filter(|_| stages.vary_in_rank()) {
            Some(rank) => format!("{name}, rank {rank}"),
            None => name.to_owned(),
        };
        let entry = Entry {
            label,
            colour: lighter(colour, share),
            marker: Some(marker),
            dashed: false,
        };
        Look {
            method,
            rank,
            entry,
        }
    };
    settings.iter().map(look).collect()
}

fn figure(title: &str, stages: &Stages) -> Figure {
    let looks = looks(stages);
    let groups = groups(stages);
    let mut panels = vec![panel("All stages".into(), stages, &stages.all(), &looks)];
    if (2..=MOST_PANELS).contains(&groups.len()) {
        panels.extend(groups.iter().map(|group| {
            let all = stages.observations.iter();
            let of_group: Vec<&Observation> = all.filter(|o| o.group() == *group).collect();
            panel(
                format!("Stage {}: {}", group.0, group.1),
                stages,
                &of_group,
                &looks,
            )
        }));
    }
    Figure {
        title: format!("{title}: spectrum and forgetting"),
        columns: if panels.len() == 4 {
            2
        } else {
            panels.len().min(3)
        },
        panels,
        legend: looks.into_iter().map(|look| look.entry).collect(),
    }
}

fn panel(title: String, stages: &Stages, shown: &[&Observation], looks: &[Look]) -> Panel {
    let look = |o: &Observation| -> Option<(RGBColor, style::Marker)> {
        let look = looks
            .iter()
            .find(|l| l.method == o.method && l.rank == o.rank)?;
        Some((look.entry.colour, look.entry.marker?))
    };
    let marks = shown.iter().filter_map(|o| {
        let (colour, marker) = look(o)?;
        Some(Mark {
            at: (o.measures[EFFECTIVE_RANK]?, o.forgetting),
            aside: 0.0,
            colour,
            marker,
            bar: None,
        })
    });
    let marks: Vec<Mark> = marks.collect();
    // The same for all panels.
    let all = || {
        stages
            .observations
            .iter()
            .filter_map(|o| o.measures[EFFECTIVE_RANK])
    };
    let (least, most) = all().fold((f64::INFINITY, 1.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let spans = most > 4.0 * least;
    let forgotten = match (stages.losses, stages.points) {
        (true, _) => "Forgetting (nats per token)",
        (false, true) => "Forgetting (points)",
        (false, false) => "Forgetting (fall of the score)",
    };
    Panel {
        title,
        x_label: "Effective rank of the change".into(),
        y_label: forgotten.into(),
        x_scale: if spans { Scale::Log } else { Scale::Linear },
        x_range: if spans {
            (least / 1.2, most * 1.2)
        } else {
            range(all())
        },
        y_range: range(marks.iter().map(|mark| mark.at.1)),
        marks,
        ..Panel::default()
    }
}
