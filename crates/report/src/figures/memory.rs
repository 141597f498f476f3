//! What training holds in memory, by parts, as stacked bars; and what sharing leaves of LoRA's parameters as models grow.

use crate::figure::{Area, Entry, Figure, Line, Mark, Panel, RGBColor, Scale, range};
use crate::number::fixed;
use crate::style;

/// One method on one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The model, for readers.
    pub model: String,
    /// Parameters of the model.
    pub base_parameters: u64,
    /// The method as records name it.
    pub method: String,
    /// Trained parameters.
    pub trained_parameters: u64,
    /// Bytes by part, in one order for all.
    pub parts: Vec<(String, u64)>,
}

/// Colours of parts: of the same palette as the methods', in another order, since they stand for other things.
const COLOURS: [RGBColor; 6] = [
    RGBColor(160, 160, 160),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
];

const GIBIBYTE: f64 = 1024.0 * 1024.0 * 1024.0;

/// A panel for each model with a bar for each method; `None` without bars. Parts that are 0 everywhere are left out.
pub fn by_part(title: &str, bars: &[Bar]) -> Option<Figure> {
    let mut models: Vec<&str> = bars.iter().map(|bar| bar.model.as_str()).collect();
    models.dedup();
    let parts = bars.first()?.parts.len();
    let any = |part: &usize| bars.iter().any(|bar| bar.parts[*part].1 > 0);
    let parts: Vec<usize> = (0..parts).filter(any).collect();
    let legend = parts.iter().map(|&part| Entry {
        label: bars[0].parts[part].0.clone(),
        colour: COLOURS[part % COLOURS.len()],
        marker: Some(style::Marker::Square),
        dashed: false,
    });
    let panels = models.iter().map(|model| {
        let of_model: Vec<&Bar> = bars.iter().filter(|bar| bar.model == *model).collect();
        stack(model, &of_model, &parts)
    });
    super::of_panels(title.to_owned(), panels.collect(), 2, legend.collect())
}

fn stack(model: &str, bars: &[&Bar], parts: &[usize]) -> Panel {
    let mut areas = Vec::new();
    let mut highest: f64 = 0.0;
    for (x, bar) in (0..).map(f64::from).zip(bars) {
        let mut bottom = 0.0;
        for &part in parts {
            let top = bottom + bar.parts[part].1 as f64 / GIBIBYTE;
            areas.push(Area {
                outline: vec![
                    (x - 0.35, bottom),
                    (x + 0.35, bottom),
                    (x + 0.35, top),
                    (x - 0.35, top),
                ],
                colour: COLOURS[part % COLOURS.len()],
                opacity: 1.0,
            });
            bottom = top;
        }
        highest = highest.max(bottom);
    }
    let names = bars
        .iter()
        .map(|bar| style::method_name(&bar.method).to_owned());
    Panel {
        title: model.to_owned(),
        x_label: String::new(),
        y_label: "Memory (GiB)".into(),
        x_range: (-0.6, bars.len() as f64 - 0.4),
        x_names: (0..).map(f64::from).zip(names).collect(),
        y_range: (0.0, 1.06 * highest),
        areas,
        ..Panel::default()
    }
}

/// Against the size of the model: the trained parameters that sharing leaves of LoRA's, and the share of LoRA's memory that it saves.
/// `None` without LoRA.
pub fn by_size(title: &str, bars: &[Bar]) -> Option<Figure> {
    let total = |bar: &Bar| {
        bar.parts
            .iter()
            .map(|(_, bytes)| *bytes as f64)
            .sum::<f64>()
    };
    let lora = |bar: &Bar| {
        let mut of_model = bars.iter().filter(|other| other.model == bar.model);
        of_model.find(|other| other.method == "lora")
    };
    let left = |bar: &Bar| {
        let lora = lora(bar)?;
        Some(100.0 * bar.trained_parameters as f64 / lora.trained_parameters as f64)
    };
    let saved = |bar: &Bar| Some(100.0 * (1.0 - total(bar) / total(lora(bar)?)));
    let panels = [
        size_panel("Trained parameters", "of LoRA's (%)", bars, &left),
        size_panel("Memory of training", "less than LoRA's (%)", bars, &saved),
    ];
    let others = bars.iter().filter(|bar| bar.method != "lora");
    let legend = super::legend(others.map(|bar| bar.method.as_str()));
    let any = bars.iter().any(|bar| left(bar).is_some());
    super::of_panels(title.to_owned(), panels.to_vec(), 2, legend).filter(|_| any)
}

fn size_panel(
    title: &str,
    y_label: &str,
    bars: &[Bar],
    value: &dyn Fn(&Bar) -> Option<f64>,
) -> Panel {
    let mut methods: Vec<&str> = Vec::new();
    for bar in bars.iter().filter(|bar| bar.method != "lora") {
        if !methods.contains(&bar.method.as_str()) {
            methods.push(&bar.method);
        }
    }
    let (mut lines, mut marks) = (Vec::new(), Vec::new());
    for method in methods {
        let (colour, marker) = style::method_look(method);
        let of_method = bars.iter().filter(|bar| bar.method == method);
        let mut points: Vec<(f64, f64)> = of_method
            .filter_map(|bar| Some((bar.base_parameters as f64, value(bar)?)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        marks.extend(points.iter().map(|&at| Mark {
            at,
            aside: 0.0,
            colour,
            marker,
            bar: None,
        }));
        lines.push(Line {
            points,
            colour,
            opacity: 1.0,
            width: 3,
            dashed: false,
        });
    }
    let sizes = bars.iter().map(|bar| bar.base_parameters as f64);
    let (least, most) = sizes.fold((f64::INFINITY, 1.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let values = marks.iter().map(|mark: &Mark| mark.at.1);
    let highest = range(values.chain([0.0])).1;
    let mut named: Vec<f64> = Vec::new();
    for size in marks.iter().map(|mark| mark.at.0) {
        if named.last().is_none_or(|last| size > 1.35 * last) {
            named.push(size);
        }
    }
    Panel {
        title: title.to_owned(),
        x_label: "Parameters of the model".into(),
        y_label: y_label.to_owned(),
        x_scale: Scale::Log,
        x_range: (least.min(most) / 1.3, most * 1.3),
        x_names: named
            .into_iter()
            .map(|size| (size, format!("{}B", fixed(size / 1e9, 0))))
            .collect(),
        // A little below 0, so that markers there are whole.
        y_range: (-0.03 * highest, highest),
        lines,
        marks,
        ..Panel::default()
    }
}
