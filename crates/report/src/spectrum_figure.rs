//! Figures of spectra: singular values by index and by layer (the paper's comparison of LoRA with ShareA), layer by index as a heat
//! map, and how far the updates of two layers overlap. A column or line is a setting; what stands there is the mean over its seeds.

use crate::figure::heat_map::{Cells, HeatMap};
use crate::figure::{Entry, Figure, Line, Mark, Panel, RGBColor, range};
use crate::spectrum::{AdapterSpectrum, Angles, Between, Spectra};
use crate::spectrum_table::{of_projection, projections};
use crate::style::{self, Marker};

/// The adapters of one setting, and its look.
struct Setting<'a> {
    name: String,
    colour: RGBColor,
    marker: Marker,
    adapters: Vec<&'a AdapterSpectrum>,
}

impl Setting<'_> {
    /// Layers that have the projection, and for each the mean over the seeds of its values.
    fn by_layer(&self, projection: &str) -> Vec<(usize, Vec<f64>)> {
        let all: Vec<_> = self
            .adapters
            .iter()
            .map(|a| of_projection(a, projection))
            .collect();
        let Some(first) = all.first() else {
            return Vec::new();
        };
        let mean = |layer: usize, index: usize| {
            let sites = all
                .iter()
                .filter_map(|sites| sites.iter().find(|s| s.layer == layer));
            let values: Vec<f64> = sites.filter_map(|s| s.values.get(index).copied()).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let of_site = |layer, count| (layer, (0..count).map(|index| mean(layer, index)).collect());
        first
            .iter()
            .map(|site| of_site(site.layer, site.values.len()))
            .collect()
    }
}

/// The settings in the order in which they come. Several of one method are told apart by their lightness.
fn settings(spectra: &Spectra) -> Vec<Setting<'_>> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for adapter in &spectra.adapters {
        let name = (adapter.setting.as_str(), adapter.method.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let setting = |&(name, method): &(&str, &str)| {
        let (colour, marker) = style::method_look(method);
        let alike: Vec<&str> = names
            .iter()
            .filter(|(_, m)| *m == method)
            .map(|(n, _)| *n)
            .collect();
        let place = alike.iter().position(|n| *n == name).unwrap_or(0);
        let among = alike.len();
        let adapters = spectra.adapters.iter();
        let adapters = adapters.filter(|a| a.setting == name && a.method == method);
        Setting {
            name: match among {
                1 => style::method_name(method).to_owned(),
                _ => name.to_owned(),
            },
            colour: lighter(colour, 0.65 * place as f64 / among.max(2) as f64),
            marker,
            adapters: adapters.collect(),
        }
    };
    names.iter().map(setting).collect()
}

/// `colour` mixed with this share of white.
fn lighter(colour: RGBColor, share: f64) -> RGBColor {
    let mix = |part: u8| (f64::from(part) + share * (255.0 - f64::from(part))).round() as u8;
    RGBColor(mix(colour.0), mix(colour.1), mix(colour.2))
}

fn legend(settings: &[Setting<'_>]) -> Vec<Entry> {
    let entry = |setting: &Setting<'_>| Entry {
        label: setting.name.clone(),
        colour: setting.colour,
        marker: Some(setting.marker),
        dashed: false,
    };
    settings.iter().map(entry).collect()
}

fn panel(title: String, x_label: &str, x_range: (f64, f64)) -> Panel {
    Panel {
        title,
        x_label: x_label.into(),
        y_label: "Singular value".into(),
        x_range,
        y_range: (0.0, 1.0),
        ..Panel::default()
    }
}

/// From 0, so that heights can be compared, to a little above the largest.
fn from_zero(values: impl Iterator<Item = f64>) -> (f64, f64) {
    (0.0, range(values.chain([0.0])).1)
}

fn line(points: Vec<(f64, f64)>, colour: RGBColor, width: u32) -> Line {
    Line {
        points,
        colour,
        opacity: 1.0,
        width,
        dashed: false,
    }
}

/// A panel for each projection: the singular values of every setting against their index, means over the layers, with bars from
/// the smallest to the largest layer. `None` without any.
pub fn by_index(title: &str, spectra: &Spectra) -> Option<Figure> {
    let settings = settings(spectra);
    let of_projection = |projection: &str| {
        let all: Vec<_> = settings.iter().map(|s| s.by_layer(projection)).collect();
        let most = all.iter().flatten().map(|(_, values)| values.len()).max();
        let most = most.unwrap_or(0);
        let mut panel = panel(projection.to_owned(), "Index", (0.5, most as f64 + 0.5));
        panel.x_names = match most {
            0..=12 => (1..=most).map(|i| (i as f64, i.to_string())).collect(),
            _ => Vec::new(),
        };
        let many = settings.len() as f64;
        for (place, (setting, layers)) in settings.iter().zip(&all).enumerate() {
            // Side by side, so that bars do not cover each other.
            let aside = 0.6 * ((place as f64 + 0.5) / many - 0.5);
            let count = layers
                .iter()
                .map(|(_, values)| values.len())
                .max()
                .unwrap_or(0);
            let mut points = Vec::new();
            for index in 0..count {
                let of_index = layers.iter().filter_map(|(_, values)| values.get(index));
                let (mut low, mut high, mut sum, mut n) =
                    (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.0);
                for value in of_index {
                    (low, high) = (low.min(*value), high.max(*value));
                    (sum, n) = (sum + value, n + 1.0);
                }
                let at = (index as f64 + 1.0 + aside, sum / n);
                points.push(at);
                panel.marks.push(Mark {
                    at,
                    aside: 0.0,
                    colour: setting.colour,
                    marker: setting.marker,
                    bar: Some((low, high)),
                });
            }
            panel.lines.push(line(points, setting.colour, 3));
        }
        panel.y_range = from_zero(
            all.iter()
                .flatten()
                .flat_map(|(_, values)| values.iter().copied()),
        );
        panel
    };
    let panels: Vec<Panel> = projections(spectra)
        .into_iter()
        .map(of_projection)
        .collect();
    (!panels.is_empty()).then(|| Figure {
        title: title.to_owned(),
        columns: panels.len().min(2),
        panels,
        legend: legend(&settings),
    })
}

/// A row of panels for each projection, a column for each setting: every singular value against the layer, the largest darkest.
/// A row has one scale. `None` without any.
pub fn by_layer(title: &str, spectra: &Spectra) -> Option<Figure> {
    let settings = settings(spectra);
    let mut panels = Vec::new();
    for projection in projections(spectra) {
        let all: Vec<_> = settings.iter().map(|s| s.by_layer(projection)).collect();
        let y_range = from_zero(
            all.iter()
                .flatten()
                .flat_map(|(_, values)| values.iter().copied()),
        );
        for (setting, layers) in settings.iter().zip(&all) {
            let last = layers
                .iter()
                .map(|(layer, _)| *layer)
                .max()
                .unwrap_or(0)
                .max(1) as f64;
            let title = format!("{projection}, {}", setting.name);
            let mut panel = panel(title, "Layer", (-0.03 * last, 1.03 * last));
            panel.y_range = y_range;
            let count = layers
                .iter()
                .map(|(_, values)| values.len())
                .max()
                .unwrap_or(0);
            // The smallest first: the largest lies on top.
            for index in (0..count).rev() {
                let of_layer = layers
                    .iter()
                    .filter_map(|(layer, values)| Some((*layer as f64, *values.get(index)?)));
                let points: Vec<_> = of_layer.collect();
                let share = 0.75 * index as f64 / count.max(2) as f64;
                let colour = lighter(setting.colour, share);
                if index == 0 {
                    panel.marks.extend(points.iter().map(|at| Mark {
                        at: *at,
                        aside: 0.0,
                        colour,
                        marker: setting.marker,
                        bar: None,
                    }));
                }
                panel
                    .lines
                    .push(line(points, colour, if index == 0 { 4 } else { 3 }));
            }
            panels.push(panel);
        }
    }
    (!panels.is_empty()).then(|| Figure {
        title: title.to_owned(),
        columns: settings.len(),
        panels,
        legend: legend(&settings),
    })
}

/// A row of panels for each projection, a column for each setting: singular values by layer (across) and index (down). A row has
/// one scale. `None` without any.
pub fn heat(title: &str, spectra: &Spectra) -> Option<HeatMap> {
    let settings = settings(spectra);
    let mut panels = Vec::new();
    for projection in projections(spectra) {
        let all: Vec<_> = settings.iter().map(|s| s.by_layer(projection)).collect();
        let range = from_zero(
            all.iter()
                .flatten()
                .flat_map(|(_, values)| values.iter().copied()),
        );
        for (setting, layers) in settings.iter().zip(&all) {
            let indices = layers
                .iter()
                .map(|(_, values)| values.len())
                .max()
                .unwrap_or(0);
            let first = layers.iter().map(|(layer, _)| *layer).min().unwrap_or(0);
            let last = layers
                .iter()
                .map(|(layer, _)| *layer + 1)
                .max()
                .unwrap_or(0);
            let at = |layer: usize, index: usize| {
                let values = layers.iter().find(|(l, _)| *l == layer);
                values
                    .and_then(|(_, values)| values.get(index).copied())
                    .unwrap_or(f64::NAN)
            };
            panels.push(Cells {
                title: format!("{projection}, {}", setting.name),
                x_label: "Layer".into(),
                y_label: "Index".into(),
                rows: (0..indices)
                    .map(|index| (first..last).map(|layer| at(layer, index)).collect())
                    .collect(),
                first: (first, 1),
                range,
            });
        }
    }
    (!panels.is_empty()).then(|| HeatMap {
        title: title.to_owned(),
        columns: settings.len(),
        panels,
    })
}

/// A row of panels for each projection, a column for each setting: the root of the overlap of the updates of two layers, which is
/// the root mean squared cosine of their angles, above the diagonal of what they write, below of what they read. Layers that
/// share no matrix overlap by little, and the root shows it. `None` where no adapter has two layers.
pub fn overlap(title: &str, spectra: &Spectra) -> Option<HeatMap> {
    let settings = settings(spectra);
    let between_layers = || {
        spectra
            .angles
            .iter()
            .filter(|a| a.between == Between::Layers)
    };
    between_layers().next()?;
    let mut panels = Vec::new();
    for projection in projections(spectra) {
        for setting in &settings {
            let runs: Vec<&str> = setting.adapters.iter().map(|a| a.run.as_str()).collect();
            let ours: Vec<&Angles> = between_layers()
                .filter(|a| a.projection == projection && runs.contains(&a.first.0.as_str()))
                .collect();
            let layers = || ours.iter().flat_map(|a| [a.first.1, a.second.1]);
            let first = layers().min().unwrap_or(0);
            let size = layers().max().map_or(0, |last| last + 1 - first);
            let mut sums = vec![vec![(0f64, 0f64); size]; size];
            for angles in &ours {
                let (i, j) = (angles.first.1 - first, angles.second.1 - first);
                for (row, column, value) in
                    [(i, j, angles.column_overlap), (j, i, angles.row_overlap)]
                {
                    if let (Some(value), Some((sum, n))) =
                        (value, sums.get_mut(row).and_then(|r| r.get_mut(column)))
                    {
                        (*sum, *n) = (*sum + value, *n + 1.0);
                    }
                }
            }
            panels.push(Cells {
                title: format!("{projection}, {}", setting.name),
                x_label: "Layer".into(),
                y_label: "Layer".into(),
                rows: sums
                    .iter()
                    .map(|row| row.iter().map(|(sum, n)| (sum / n).sqrt()).collect())
                    .collect(),
                first: (first, first),
                range: (0.0, 1.0),
            });
        }
    }
    Some(HeatMap {
        title: title.to_owned(),
        columns: settings.len(),
        panels,
    })
}
