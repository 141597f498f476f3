//! The part of a report about the singular values of the trained updates, from the spectra that runs leave
//! ([`crate::stored_spectrum`]). Of a sequence the last stage's.

use crate::comparison::{axis_values, label, varying_axes};
use crate::number::fixed;
use crate::record::{Run, Status};
use crate::section::{Block, Picture, Section};
use crate::spectrum::{AdapterSpectrum, SiteSpectrum, Spectra};
use crate::spectrum_figure;
use crate::statistics;
use crate::table::{Cell, Column, Table};

/// Settings whose values one panel can show apart.
const MOST_DRAWN: usize = 6;

/// `None` where no finished run has a spectrum.
pub fn section(title: &str, runs: &[Run]) -> Option<Section> {
    let spectra = last_stages(runs);
    let mut settings: Vec<&str> = Vec::new();
    for adapter in &spectra.adapters {
        if !settings.contains(&adapter.setting.as_str()) {
            settings.push(&adapter.setting);
        }
    }
    if settings.is_empty() {
        return None;
    }
    let rows = settings.iter().map(|setting| row(&spectra, setting));
    let table = Table {
        columns: vec![
            Column::left("Method"),
            Column::right("Seeds"),
            Column::right("Largest singular value"),
            Column::right("Effective rank"),
            Column::right("Stable rank"),
            Column::right("Energy in the largest (%)"),
            Column::right("Norm of the weight's (%)"),
        ],
        rows: rows.collect(),
        notes: vec![
            "Of the update of every site, means over sites and seeds ± the standard deviation over seeds. Effective rank: exp of the \
             entropy of the normalised singular values; stable rank: squared Frobenius norm over the squared largest singular value."
                .into(),
        ],
        ..Table::default()
    };
    let mut blocks = vec![Block::Table(table)];
    let figure = spectrum_figure::by_index(&format!("{title}: singular values"), &spectra);
    if let Some(figure) = figure.filter(|_| settings.len() <= MOST_DRAWN) {
        blocks.push(Block::Figure(Picture {
            name: "spectra".into(),
            alt: "Singular values of the updates by index, for each projection".into(),
            caption: "Means over layers and seeds; bars go from the smallest to the largest layer."
                .into(),
            figure,
        }));
    }
    Some(Section {
        title: "Singular values of the updates".into(),
        blocks,
    })
}

/// The spectra of finished runs; where there are sequences, of the longest alone.
fn last_stages(runs: &[Run]) -> Spectra {
    let stages = |run: &&Run| {
        let stages = run.record.axes.get("stages");
        stages.map_or(0, |stages| stages.split('+').count())
    };
    let done = |run: &&Run| run.record.status == Status::Finished && run.spectrum.is_some();
    let last = runs.iter().filter(done).map(|run| stages(&run)).max();
    let kept = runs.iter().filter(done);
    let kept: Vec<&Run> = kept.filter(|run| Some(stages(run)) == last).collect();
    let axes = varying_axes(kept.iter().map(|run| &run.record));
    let adapters = kept.iter().filter_map(|run| {
        let record = &run.record;
        Some(AdapterSpectrum {
            run: record.run.clone(),
            method: record.method.clone(),
            setting: label(&record.method, &axes, &axis_values(record, &axes)),
            sites: run
                .spectrum
                .as_ref()?
                .sites
                .iter()
                .map(|site| site.spectrum())
                .collect(),
        })
    });
    let mut adapters: Vec<AdapterSpectrum> = adapters.collect();
    adapters.sort_by_key(|adapter| crate::style::method_order(&adapter.method));
    Spectra {
        adapters,
        ..Spectra::default()
    }
}

fn row(spectra: &Spectra, setting: &str) -> Vec<Cell> {
    let adapters = spectra.adapters.iter().filter(|a| a.setting == setting);
    let adapters: Vec<&AdapterSpectrum> = adapters.collect();
    let cell = |measure: &dyn Fn(&SiteSpectrum) -> Option<f64>, decimals: usize| {
        let of_adapter = |adapter: &&AdapterSpectrum| {
            let of_sites: Vec<f64> = adapter.sites.iter().filter_map(measure).collect();
            statistics::mean(&of_sites)
        };
        let of_seeds: Vec<f64> = adapters.iter().filter_map(of_adapter).collect();
        let Some(found) = statistics::loss(&of_seeds) else {
            return Cell::none();
        };
        let spread = found
            .spread
            .map_or_else(String::new, |s| format!(" ± {}", fixed(s, decimals)));
        Cell {
            spread: found.spread,
            ..Cell::number(fixed(found.mean, decimals) + &spread, found.mean)
        }
    };
    vec![
        Cell::text(setting),
        Cell::number(adapters.len().to_string(), adapters.len() as f64),
        cell(&|site| site.values.first().copied(), 3),
        cell(&|site| site.effective_rank, 2),
        cell(&|site| site.stable_rank, 2),
        cell(&|site| Some(100.0 * site.energy.first().copied()??), 1),
        cell(&|site| Some(100.0 * site.relative_norm?), 2),
    ]
}
