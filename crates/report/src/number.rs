//! Numbers as readers want them.

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `number` with `decimals` places; `-` when it is not finite.
pub fn fixed(number: f64, decimals: usize) -> String {
    if number.is_finite() {
        format!("{number:.decimals$}")
    } else {
        "-".into()
    }
}

/// A proportion as a percentage without its sign: `0.1234` as `12.3`.
pub fn percent(proportion: f64) -> String {
    fixed(proportion * 100.0, 1)
}

/// Bytes in MiB, rounded.
pub fn mebibytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 20)).round()
}

/// A difference: `+0.120`, `−0.120`, or without a sign where it rounds to 0; `-` when it is not finite.
pub fn signed(number: f64, decimals: usize) -> String {
    let text = fixed(number.abs(), decimals);
    let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    match number {
        _ if is_zero => text,
        n if n > 0.0 => format!("+{text}"),
        _ => format!("−{text}"),
    }
}
