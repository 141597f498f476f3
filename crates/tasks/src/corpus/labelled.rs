//! Labelled sentences and pairs of them, in the columns of GLUE's tasks.

use super::{AREAS, Dice, Drawn, FOODS, PLACES, PRICES};
use crate::table::{Row, Value};

/// What a pair of sentences speaks of.
const ATTRIBUTES: [&[&str]; 4] = [&PLACES, &FOODS, &AREAS, &PRICES];

/// A sentence of a description or of a word problem's story, as it is or with two words swapped.
///
/// They are neighbours, since names and numbers at other places of a sentence could change places without harm. The first word
/// and the last stay, which would show by their capital letter and full stop.
pub fn sentence(dice: &mut Dice) -> Drawn {
    let text = match dice.below(2) {
        0 => dice.description().answer,
        _ => dice.word_problem().question,
    };
    let sentences: Vec<&str> = text.split_inclusive(['.', '?']).map(str::trim).collect();
    let whole = dice.pick(&sentences);
    let mut words: Vec<&str> = whole.split(' ').collect();
    let acceptable = dice.below(2) == 1;
    if !acceptable {
        // Every sentence of this world has at least four words.
        let first = 1 + dice.index(words.len() - 3);
        words.swap(first, first + 1);
    }
    Drawn {
        // A sentence and its swapped forms are in one part.
        subject: whole.to_owned(),
        row: labelled(
            [("sentence", words.join(" "))],
            Value::Int(i64::from(acceptable)),
        ),
    }
}

/// A list of attributes and a sentence: of the same, or of others throughout.
///
/// That a single attribute differs is beyond the pocket model: a thousand steps leave it near chance.
pub fn paraphrase(dice: &mut Dice) -> Drawn {
    let same = dice.below(2) == 1;
    let differing = if same { 0 } else { ATTRIBUTES.len() };
    pair(dice, differing, Value::Int(i64::from(same)))
}

/// A list of attributes and a sentence in which any number of them differ.
pub fn similarity(dice: &mut Dice) -> Drawn {
    let differing = dice.index(ATTRIBUTES.len() + 1);
    let equal = ATTRIBUTES.len() - differing;
    let label = 5.0 * equal as f64 / ATTRIBUTES.len() as f64;
    pair(dice, differing, Value::Float(label))
}

/// Attributes as a description's source lists them, and as its target says them with `differing` of them changed.
fn pair(dice: &mut Dice, differing: usize, label: Value) -> Drawn {
    let listed = ATTRIBUTES.map(|list| dice.index(list.len()));
    let mut said = listed;
    let mut rest: Vec<usize> = (0..ATTRIBUTES.len()).collect();
    for _ in 0..differing {
        let attribute = rest.remove(dice.index(rest.len()));
        let count = ATTRIBUTES[attribute].len();
        said[attribute] = (said[attribute] + 1 + dice.index(count - 1)) % count;
    }
    let entries = |indices: [usize; 4]| [0, 1, 2, 3].map(|i| ATTRIBUTES[i][indices[i]]);
    let [place, food, area, price] = entries(listed);
    let sentence1 = format!("name: {place} | food: {food} | area: {area} | price: {price}");
    let [place, food, area, price] = entries(said);
    let sentence2 = format!("{place} is a {food} place in the {area} where the price is {price}.");
    Drawn {
        subject: format!("{sentence1}\n{sentence2}"),
        row: labelled([("sentence1", sentence1), ("sentence2", sentence2)], label),
    }
}

fn labelled<const N: usize>(texts: [(&str, String); N], label: Value) -> Row {
    let mut row = Row::of_texts(texts);
    row.0.insert("label".to_owned(), label);
    row
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::super::{Kind, corpus};
    use super::*;

    /// Index of the entry of each attribute that a sentence names.
    fn attributes(sentence: &str) -> [usize; 4] {
        let words = format!(" {} ", sentence.replace('.', ""));
        ATTRIBUTES.map(|list| {
            let mut named = (0..list.len()).filter(|&i| words.contains(&format!(" {} ", list[i])));
            let found = named.next().unwrap();
            assert_eq!(named.next(), None, "{sentence}");
            found
        })
    }

    /// Acceptable sentences, and the others.
    fn sentences(seed: u64, rows: usize) -> [Vec<String>; 2] {
        let mut both = [Vec::new(), Vec::new()];
        for row in corpus(Kind::Sentences, seed, rows) {
            let which = usize::from(row.int("label").unwrap() == 0);
            both[which].push(row.text("sentence").unwrap().to_owned());
        }
        both
    }

    /// The labels are what the module's text says, by the sentences alone; and they are balanced, or else a constant answer
    /// would score.
    #[test]
    fn labels_are_right_and_balanced() {
        for (kind, classes) in [(Kind::Paraphrases, 2), (Kind::Similarities, 5)] {
            let rows = corpus(kind, 1, 500);
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            for row in &rows {
                let texts = ["sentence1", "sentence2"].map(|column| row.text(column).unwrap());
                let [one, other] = texts.map(attributes);
                let equal = one.iter().zip(other).filter(|(a, b)| **a == *b).count();
                let label = row.number("label").unwrap();
                match kind {
                    Kind::Paraphrases => assert_eq!(label, equal as f64 / 4.0),
                    _ => assert_eq!(label, 1.25 * equal as f64),
                }
                *counts.entry(equal).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), classes);
            let expected = rows.len() / classes;
            assert!(
                counts.values().all(|n| n.abs_diff(expected) < expected / 4),
                "{counts:?}"
            );
        }
        let [right, wrong] = sentences(1, 1000);
        assert!(right.len().abs_diff(wrong.len()) < 120);
    }

    /// What is not acceptable is no sentence of the world, and does not show it by its first letter or its end.
    #[test]
    fn swapped_words_make_no_sentence() {
        let [right, wrong] = sentences(1, 4000);
        let right: HashSet<String> = right.into_iter().collect();
        assert!(wrong.iter().all(|sentence| !right.contains(sentence)));
        for sentence in right.iter().chain(&wrong) {
            assert!(
                sentence.starts_with(char::is_uppercase) && sentence.ends_with(['.', '?']),
                "{sentence}"
            );
        }
    }

    /// A sentence and its swapped forms are in one split: whichever two words were swapped, the sentence that they were in is
    /// not in another. That pairs are in one split is the test of all kinds.
    #[test]
    fn splits_share_no_sentence() {
        let restored = |sentence: &String| -> Vec<String> {
            let words: Vec<&str> = sentence.split(' ').collect();
            let swapped = |i: usize| {
                let mut words = words.clone();
                words.swap(i - 1, i);
                words.join(" ")
            };
            (1..words.len()).map(swapped).collect()
        };
        for (one, other) in [(1, 2), (2, 1), (1, 3)] {
            let [right, wrong] = sentences(one, 2000);
            let [of_other, _] = sentences(other, 2000);
            let of_other: HashSet<String> = of_other.into_iter().collect();
            let mut all = right.iter().cloned().chain(wrong.iter().flat_map(restored));
            assert_eq!(all.find(|sentence| of_other.contains(sentence)), None);
        }
    }
}
