//! Spectra as tables: a row a projection, or a site, and a row a pair.

use crate::number::fixed;
use crate::spectrum::{AdapterSpectrum, Angles, Between, SiteSpectrum, Spectra};
use crate::table::{Cell, Column, Table};

/// A row for each projection and run, with means over the layers; or with `layers` a row for each layer. `top` are the numbers of
/// singular values whose part of the energy is shown.
pub fn summaries(spectra: &Spectra, layers: bool, top: &[usize]) -> Table {
    let mut columns = vec![Column::left("Projection"), Column::left("Run")];
    columns.push(Column::right(if layers { "Layer" } else { "Layers" }));
    columns.extend(["Largest", "Effective rank", "Stable rank"].map(Column::right));
    columns.extend(top.iter().map(|k| Column::right(format!("Top {k} (%)"))));
    columns.extend(["Norm", "of W (%)"].map(Column::right));
    let mut rows = Vec::new();
    for projection in projections(spectra) {
        for adapter in &spectra.adapters {
            let sites = of_projection(adapter, projection);
            let groups: Vec<&[&SiteSpectrum]> = match layers {
                true => sites.chunks(1).collect(),
                false => vec![&sites],
            };
            for sites in groups.into_iter().filter(|sites| !sites.is_empty()) {
                let count = match (layers, sites) {
                    (true, [site, ..]) => site.layer,
                    _ => sites.len(),
                };
                let mean = |decimals, scale: f64, of: &dyn Fn(&SiteSpectrum) -> Option<f64>| {
                    mean_cell(decimals, sites.iter().map(|s| Some(of(s)? * scale)))
                };
                let mut row = vec![
                    Cell::text(projection),
                    Cell::text(&adapter.run),
                    Cell::number(count.to_string(), count as f64),
                    mean(4, 1.0, &|s| s.values.first().copied()),
                    mean(2, 1.0, &|s| s.effective_rank),
                    mean(2, 1.0, &|s| s.stable_rank),
                ];
                row.extend(top.iter().map(|k| mean(1, 100.0, &|s| energy(s, *k))));
                row.push(mean(4, 1.0, &|s| Some(s.norm)));
                row.push(mean(2, 100.0, &|s| s.relative_norm));
                rows.push(row);
            }
        }
    }
    let mut notes = vec![
        "Top k: the part of the squared norm in the k largest values; of W: against the frozen weight's norm.".to_owned(),
    ];
    if !layers {
        notes.push("Means over the layers; --layers shows each.".to_owned());
    }
    Table {
        title: "Singular values of the updates s B A".into(),
        columns,
        rows,
        notes,
    }
}

/// A row for each projection and run with the angles between its layers, and for each projection and pair of runs with those
/// between the same layer of both: means over the pairs, in degrees.
pub fn angles(spectra: &Spectra) -> Table {
    let columns = ["Projection", "Between"].map(Column::left).into_iter();
    let numbers = [
        "Pairs",
        "Outputs: least",
        "mean",
        "overlap (%)",
        "chance",
        "Inputs: least",
        "mean",
        "overlap (%)",
        "chance",
    ];
    let mut rows = Vec::new();
    for projection in projections(spectra) {
        let shape = spectra.adapters.iter().find_map(|adapter| {
            let site = of_projection(adapter, projection).first().copied();
            Some(site?.shape)
        });
        let mut groups: Vec<(String, Vec<&Angles>)> = Vec::new();
        for angles in spectra.angles.iter().filter(|a| a.projection == projection) {
            let name = match angles.between {
                Between::Layers => format!("layers of {}", angles.first.0),
                Between::Runs => format!("{} and {}", angles.first.0, angles.second.0),
            };
            match groups.iter_mut().find(|(n, _)| *n == name) {
                Some((_, group)) => group.push(angles),
                None => groups.push((name, vec![angles])),
            }
        }
        for (name, group) in groups {
            let mut row = vec![
                Cell::text(projection),
                Cell::text(name),
                Cell::number(group.len().to_string(), group.len() as f64),
            ];
            let [outputs, inputs] = shape.unwrap_or_default();
            row.extend(space(&group, |a| &a.columns, |a| a.column_overlap, outputs));
            row.extend(space(&group, |a| &a.rows, |a| a.row_overlap, inputs));
            rows.push(row);
        }
    }
    Table {
        title: "Principal angles between updates (degrees)".into(),
        columns: columns.chain(numbers.map(Column::right)).collect(),
        rows,
        notes: vec![
            "Outputs are the column spaces of s B A, inputs its row spaces; means over the pairs.".into(),
            "Overlap is the mean squared cosine: 100 for one space; chance is that of random spaces.".into(),
        ],
    }
}

fn space(
    group: &[&Angles],
    angles: fn(&Angles) -> &Vec<f64>,
    overlap: fn(&Angles) -> Option<f64>,
    dimensions: usize,
) -> [Cell; 4] {
    let each = || group.iter().map(|pair| angles(pair));
    let mean =
        |list: &Vec<f64>| (!list.is_empty()).then(|| list.iter().sum::<f64>() / list.len() as f64);
    // Of two random subspaces of k dimensions among n, k / n; the larger of the two counts, but they are alike.
    let chance =
        each().map(|list| (!list.is_empty()).then(|| list.len() as f64 / dimensions as f64));
    [
        mean_cell(1, each().map(|list| list.first().map(|a| a.to_degrees()))),
        mean_cell(1, each().map(|list| mean(list).map(f64::to_degrees))),
        mean_cell(1, group.iter().map(|pair| Some(100.0 * overlap(pair)?))),
        mean_cell(1, chance.map(|share| Some(100.0 * share?))),
    ]
}

fn energy(site: &SiteSpectrum, top: usize) -> Option<f64> {
    let last = top.min(site.energy.len()).checked_sub(1)?;
    site.energy.get(last).copied().flatten()
}

/// The mean of the values that there are.
fn mean_cell(decimals: usize, values: impl Iterator<Item = Option<f64>>) -> Cell {
    let values: Vec<f64> = values.flatten().collect();
    if values.is_empty() {
        return Cell::none();
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Cell::number(fixed(mean, decimals), mean)
}

/// The projections of all adapters, in the order in which they come.
pub(crate) fn projections(spectra: &Spectra) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for site in spectra.adapters.iter().flat_map(|adapter| &adapter.sites) {
        if !names.contains(&site.projection.as_str()) {
            names.push(&site.projection);
        }
    }
    names
}

/// The sites of a projection, layer by layer.
pub(crate) fn of_projection<'a>(
    adapter: &'a AdapterSpectrum,
    projection: &str,
) -> Vec<&'a SiteSpectrum> {
    let sites = adapter.sites.iter();
    let mut sites: Vec<_> = sites.filter(|s| s.projection == projection).collect();
    sites.sort_by_key(|site| site.layer);
    sites
}
