//! The look of each method on the page: the colour and marker of [`crate::style`], in colours that a dark page turns around.

use std::fmt::Write;

use plotters::style::RGBColor;
use serde_json::{Value, json};

use super::html::{attribute, escape};
use crate::figure::{GRID, INK, MARKER_SIZE, marker_elements};
use crate::record::Run;
use crate::style;

/// The methods of a page, in their order.
pub struct Looks {
    methods: Vec<String>,
}

/// The colour as the page has it: black, grey and the colours of frames change with the page, all others stand.
pub fn colour(colour: RGBColor) -> String {
    let RGBColor(r, g, b) = colour;
    match colour {
        INK | RGBColor(0, 0, 0) => "currentColor".into(),
        GRID => "var(--grid)".into(),
        _ if r == g && g == b => "var(--grey)".into(),
        _ => format!("#{r:02X}{g:02X}{b:02X}"),
    }
}

/// Elements of an SVG in the colours of the page.
///
/// The texts in them have their quotation marks escaped, so that only attributes fit.
pub fn recoloured(elements: &str) -> String {
    let mut text = String::with_capacity(elements.len());
    for (index, part) in elements.split("=\"#").enumerate() {
        let found = part.get(..6).filter(|_| index > 0);
        let found = found.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match found {
            Some(hex) => {
                let [_, r, g, b] = hex.to_be_bytes();
                let _ = write!(text, "=\"{}{}", colour(RGBColor(r, g, b)), &part[6..]);
            }
            None if index > 0 => {
                text += "=\"#";
                text += part;
            }
            None => text += part,
        }
    }
    text
}

impl Looks {
    /// Those of the methods of `runs`.
    pub fn of(runs: &[Run]) -> Self {
        let mut methods: Vec<String> = runs.iter().map(|run| run.record.method.clone()).collect();
        methods.sort_by_cached_key(|method| style::method_order(method));
        methods.dedup();
        Self { methods }
    }

    /// The place of a method.
    pub fn place(&self, method: &str) -> Option<usize> {
        self.methods.iter().position(|known| known == method)
    }

    /// The place of the method with this name for readers.
    pub fn place_of_name(&self, name: &str) -> Option<usize> {
        let name_is = |method: &String| style::method_name(method) == name;
        self.methods.iter().position(name_is)
    }

    /// As the page's script reads them: name and colour; the marker is the symbol `m` and the place.
    pub fn json(&self) -> Value {
        let look = |method: &String| json!({"name": style::method_name(method), "colour": colour(style::method_look(method).0)});
        self.methods.iter().map(look).collect()
    }

    /// The markers as symbols, to be used by name.
    pub fn symbols(&self) -> Result<String, String> {
        let mut text = String::from("<svg class=\"symbols\" aria-hidden=\"true\">");
        for (place, method) in self.methods.iter().enumerate() {
            let (colour, marker) = style::method_look(method);
            let elements = recoloured(&marker_elements(marker, colour)?);
            let _ = write!(
                text,
                "<symbol id=\"m{place}\" viewBox=\"0 0 {MARKER_SIZE} {MARKER_SIZE}\">{elements}</symbol>"
            );
        }
        Ok(text + "</svg>\n")
    }
}

/// A marker beside words, by the place of its method.
pub fn mark(place: usize) -> String {
    format!("<svg class=\"mark\" aria-hidden=\"true\"><use href=\"#m{place}\"/></svg>")
}

/// One entry of a legend that stands for no method of the page.
pub fn line(colour_of: RGBColor, dashed: bool) -> String {
    format!(
        "<svg class=\"mark\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><line x1=\"0\" y1=\"12\" x2=\"24\" y2=\"12\" \
         stroke=\"{}\" stroke-width=\"4\"{}/></svg>",
        attribute(&colour(colour_of)),
        if dashed {
            " stroke-dasharray=\"7 4\""
        } else {
            ""
        }
    )
}

/// A name with its marker, where it is a method's.
pub fn named(looks: &Looks, name: &str) -> String {
    let mark = looks.place_of_name(name).map(mark).unwrap_or_default();
    mark + &escape(name)
}
