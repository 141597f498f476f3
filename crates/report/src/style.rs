//! One look for each method in every table and figure: its place, its name, its colour, its marker.

use plotters::style::RGBColor;

/// Shape of a method's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A filled circle.
    Circle,
    /// A filled square.
    Square,
    /// A filled triangle, point up.
    Triangle,
    /// A filled triangle, point down.
    TriangleDown,
    /// A filled diamond.
    Diamond,
    /// A diagonal cross.
    Cross,
    /// An upright cross.
    Plus,
}

/// The methods in their fixed order: name in records, name for readers, colour, marker.
///
/// Colours: M. Okabe and K. Ito, "Color Universal Design" (2008), a palette that stays apart for
/// colour-blind readers; its yellow is left out, which white paper swallows.
const METHODS: [(&str, &str, RGBColor, Marker); 12] = [
    ("base", "Base", RGBColor(0, 0, 0), Marker::Plus),
    ("full", "Full", RGBColor(90, 90, 90), Marker::Cross),
    ("lora", "LoRA", RGBColor(230, 159, 0), Marker::Circle),
    ("share_a", "ShareA", RGBColor(0, 114, 178), Marker::Square),
    (
        "share_a_qkv",
        "ShareA_qkv",
        RGBColor(86, 180, 233),
        Marker::Diamond,
    ),
    ("share_b", "ShareB", RGBColor(0, 158, 115), Marker::Triangle),
    (
        "share_ab",
        "ShareAB",
        RGBColor(204, 121, 167),
        Marker::TriangleDown,
    ),
    // The baselines have the colour of the method that they change, and a marker of their own.
    ("lora_fa", "LoRA-FA", RGBColor(230, 159, 0), Marker::Cross),
    (
        "share_a_frozen",
        "ShareA frozen",
        RGBColor(0, 114, 178),
        Marker::Cross,
    ),
    ("vera", "VeRA", RGBColor(213, 94, 0), Marker::Diamond),
    ("rslora", "rsLoRA", RGBColor(230, 159, 0), Marker::Plus),
    ("dora", "DoRA", RGBColor(230, 159, 0), Marker::Diamond),
];

/// Methods without a fixed look share vermillion, the last colour of the palette; the name picks the marker.
const OTHER: RGBColor = RGBColor(213, 94, 0);
const MARKERS: [Marker; 7] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::TriangleDown,
    Marker::Diamond,
    Marker::Cross,
    Marker::Plus,
];

/// Sorts methods: the fixed order first, then by name.
pub fn method_order(method: &str) -> (usize, String) {
    let place = METHODS.iter().position(|(name, ..)| *name == method);
    (place.unwrap_or(METHODS.len()), method.to_owned())
}

/// The name for readers; an unknown method keeps its own.
pub fn method_name(method: &str) -> &str {
    METHODS
        .iter()
        .find(|(name, ..)| *name == method)
        .map_or(method, |(_, display, ..)| display)
}

/// Colour and marker of a method.
pub fn method_look(method: &str) -> (RGBColor, Marker) {
    if let Some(&(_, _, colour, marker)) = METHODS.iter().find(|(name, ..)| *name == method) {
        return (colour, marker);
    }
    let sum: usize = method.bytes().map(usize::from).sum();
    let marker = MARKERS.get(sum % MARKERS.len());
    (OTHER, marker.copied().unwrap_or(Marker::Circle))
}
