//! Words as mteval-v13a cuts them, for BLEU and NIST.
//!
//! Source: `NGramScore.tokenize` in e2e-metrics' `metrics/pymteval.py`. ASCII marks are words of their own, except for
//! apostrophes, for full stops and commas between digits, and for hyphens that are not after a digit.

use std::borrow::Cow;

/// The words of a text, in lower case, with a space between any two.
pub fn line(text: &str) -> String {
    let mut spaced = String::from(" ");
    for c in unescaped(text).chars() {
        if c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced.push(' ');
    let spaced = pairs(
        &spaced,
        |a, b| !a.is_ascii_digit() && is_stop(b),
        |a, b| [a, ' ', b, ' '],
    );
    let spaced = pairs(
        &spaced,
        |a, b| is_stop(a) && !b.is_ascii_digit(),
        |a, b| [' ', a, ' ', b],
    );
    let spaced = pairs(
        &spaced,
        |a, b| a.is_ascii_digit() && b == '-',
        |a, b| [a, ' ', b, ' '],
    );
    let words: Vec<_> = spaced.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// Without the marks of mteval's file format.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '&']) {
        return text.into();
    }
    let marks = [
        ("<skipped>", ""),
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ];
    let replace = |text: String, (mark, plain)| text.replace(mark, plain);
    marks.into_iter().fold(text.to_string(), replace).into()
}

/// Writes a pair of characters anew wherever `matches` says so. Pairs do not overlap, as in Perl's `s///g`: the second
/// character of one is not the first of another.
fn pairs(
    text: &str,
    matches: fn(char, char) -> bool,
    write: fn(char, char) -> [char; 4],
) -> String {
    let mut out = String::with_capacity(2 * text.len());
    let mut rest = text.chars().peekable();
    while let Some(a) = rest.next() {
        match rest.next_if(|&b| matches(a, b)) {
            Some(b) => out.extend(write(a, b)),
            None => out.push(a),
        }
    }
    out
}

fn is_stop(c: char) -> bool {
    matches!(c, '.' | ',')
}

#[cfg(test)]
mod tests {
    /// BLEU and NIST count the words that the official tool counts.
    #[test]
    fn words_are_the_official_ones() {
        for case in super::super::testing::cases() {
            assert_eq!(super::line(&case.text), case.mteval, "{}", case.text);
        }
    }
}
