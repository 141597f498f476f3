//! Generated text in a small closed world: data for the pocket models, free of anyone's rights.
//!
//! Four subjects: word problems, descriptions from attributes, facts about made-up towns, small Python functions.
//! Two of them have a *held* form with other stories, other phrasing and another ending, which
//! [`pretraining_text`] never uses: fine-tuning on a held form has something to learn. Sentences of the first two are
//! labelled as GLUE's are (`labelled.rs`).
//!
//! Everything is a function of (kind, seed, rows): ChaCha8 and integer arithmetic only, so the text is the
//! same on every machine. A row belongs to one of [`PARTS`] parts by the hash of what it is about, mostly its question, and a
//! seed draws from part `seed % PARTS` alone: seeds that differ modulo [`PARTS`] share no question.

mod labelled;

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::table::{Row, Rows};

/// Number of disjoint parts of the rows.
pub const PARTS: u64 = 4;

/// What is written about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Stories with small numbers, answer `.. So the result is N.`; columns `question`, `answer`.
    WordProblems,
    /// Other stories, answer `..\n#### N`; columns `question`, `answer`.
    WordProblemsHeld,
    /// `name: X | food: Y | area: Z` to a sentence; columns `source`, `target`.
    Descriptions,
    /// Other attributes in another order, other sentences; columns `source`, `target`.
    DescriptionsHeld,
    /// Questions about 16 towns; columns `source`, `target`. There are 192 of them: larger corpora repeat.
    Facts,
    /// A Python signature with docstring, and its body; columns `source`, `target`.
    Functions,
    /// A sentence of the pretraining text (1), or one with two neighbouring words swapped (0); columns `sentence`, `label`.
    Sentences,
    /// The list of attributes of a description and its sentence (1), or that of a description that differs in all of them (0);
    /// columns `sentence1`, `sentence2`, `label`.
    Paraphrases,
    /// The same with any number of attributes alike: `label` is 5 times their share.
    Similarities,
}

/// A question and its answer.
struct Pair {
    question: String,
    answer: String,
}

impl Pair {
    fn row(self, [question, answer]: [&str; 2]) -> Drawn {
        Drawn {
            subject: self.question.clone(),
            row: Row::of_texts([(question, self.question), (answer, self.answer)]),
        }
    }
}

/// A row, and what it is about: rows of one subject belong to one part.
struct Drawn {
    subject: String,
    row: Row,
}

/// `rows` rows of `kind`. They do not repeat as long as the part of `seed` has enough of them.
pub fn corpus(kind: Kind, seed: u64, rows: usize) -> Rows {
    let mut dice = Dice::new(seed);
    let mut seen = HashSet::new();
    let mut repeats = 0;
    let mut made = Vec::with_capacity(rows);
    while made.len() < rows {
        let Drawn { subject, row } = dice.row(kind);
        if part(&subject) != seed % PARTS {
            continue;
        }
        // A small world runs out of new rows: then the old ones come again.
        if !seen.insert(format!("{row:?}")) && repeats < 50 * rows {
            repeats += 1;
            continue;
        }
        made.push(row);
    }
    made
}

/// `rows` documents about all subjects in their plain form: what the pocket models are pretrained on.
pub fn pretraining_text(seed: u64, rows: usize) -> impl Iterator<Item = String> + Send {
    let mut dice = Dice::new(seed);
    (0..rows).map(move |_| match dice.below(10) {
        0..=4 => {
            let Pair { question, answer } = dice.word_problem();
            format!("Problem: {question}\nSolution: {answer}")
        }
        5 | 6 => {
            let Pair { question, answer } = dice.description();
            format!("{question}\n{answer}")
        }
        7 => {
            let Pair { question, answer } = dice.fact();
            format!("{question} {answer}")
        }
        _ => {
            let Pair { question, answer } = dice.function();
            // The heading has the model meet `##`: a token that is never trained is out of an adapter's reach,
            // and the held ending needs it.
            let heading = ["## Code\n", ""][dice.index(2)];
            format!("{heading}{question}\n{answer}")
        }
    })
}

/// The part of a subject, below [`PARTS`].
fn part(subject: &str) -> u64 {
    Sha256::digest(subject.as_bytes())
        .first()
        .map_or(0, |byte| u64::from(*byte) % PARTS)
}

const NAMES: [&str; 16] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kai", "Lena",
    "Milo", "Nora", "Omar", "Pia",
];
const THINGS: [&str; 12] = [
    "apples", "books", "coins", "stones", "pens", "cups", "shells", "nuts", "cards", "eggs",
    "plums", "stamps",
];
const DAYS: [&str; 5] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"];

const PLACES: [&str; 16] = [
    "Old Mill",
    "Red Lamp",
    "Sun Court",
    "Blue Door",
    "Tall Pine",
    "Stone Oven",
    "Green Boat",
    "White Hen",
    "Long Table",
    "Salt House",
    "Copper Pot",
    "Quiet Fox",
    "Night Bell",
    "River Seat",
    "Round Hat",
    "Moon Yard",
];
const FOODS: [&str; 8] = [
    "noodle", "soup", "fish", "bread", "rice", "curry", "cheese", "fruit",
];
const AREAS: [&str; 6] = ["harbour", "old town", "valley", "market", "north", "park"];
const PRICES: [&str; 3] = ["cheap", "fair", "high"];

const TOWNS: [&str; 16] = [
    "Arlem", "Bostra", "Cindle", "Dorvik", "Elmora", "Fasken", "Gorrin", "Hesper", "Istra",
    "Jorund", "Kelda", "Lomar", "Mirrow", "Nessel", "Ostby", "Perrin",
];
const RIVERS: [&str; 8] = [
    "Vess", "Tarn", "Olle", "Brack", "Suna", "Wend", "Ister", "Kolm",
];
const COLOURS: [&str; 6] = ["red", "blue", "green", "white", "black", "yellow"];
const TRADES: [&str; 8] = [
    "bakers", "weavers", "smiths", "fishers", "potters", "masons", "carvers", "millers",
];

/// Integer-only draws.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `bound`, which is small: multiply and shift.
    fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// A number in `low..=high`.
    fn within(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    fn index(&mut self, len: usize) -> usize {
        self.below(len as u32) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.index(list.len())]
    }

    /// Two different entries.
    fn two<'a>(&mut self, list: &[&'a str]) -> (&'a str, &'a str) {
        let first = self.index(list.len());
        let step = 1 + self.index(list.len() - 1);
        (list[first], list[(first + step) % list.len()])
    }

    fn row(&mut self, kind: Kind) -> Drawn {
        const QUESTION: [&str; 2] = ["question", "answer"];
        const SOURCE: [&str; 2] = ["source", "target"];
        match kind {
            Kind::WordProblems => self.word_problem().row(QUESTION),
            Kind::WordProblemsHeld => self.word_problem_held().row(QUESTION),
            Kind::Descriptions => self.description().row(SOURCE),
            Kind::DescriptionsHeld => self.description_held().row(SOURCE),
            Kind::Facts => self.fact().row(SOURCE),
            Kind::Functions => self.function().row(SOURCE),
            Kind::Sentences => labelled::sentence(self),
            Kind::Paraphrases => labelled::paraphrase(self),
            Kind::Similarities => labelled::similarity(self),
        }
    }

    /// (a, b) with a + b as an answer.
    fn addends(&mut self) -> (u32, u32) {
        (self.within(2, 19), self.within(1, 19))
    }

    /// (a, b) with a - b > 0 as an answer.
    fn minuend(&mut self) -> (u32, u32) {
        let b = self.within(1, 18);
        (self.within(b + 1, 19), b)
    }

    /// (a, b) with a * b as an answer.
    fn factors(&mut self) -> (u32, u32) {
        (self.within(2, 5), self.within(2, 9))
    }

    fn word_problem(&mut self) -> Pair {
        let (name, friend) = self.two(&NAMES);
        let things = self.pick(&THINGS);
        let (question, work, result) = match self.below(9) {
            0 | 1 => {
                let (a, b) = self.addends();
                let question = format!(
                    "{name} has {a} {things}. {friend} gives {name} {b} more. How many {things} does {name} have now?"
                );
                (
                    question,
                    format!("{name} has {a} + {b} = {} {things}.", a + b),
                    a + b,
                )
            }
            2 | 3 => {
                let (a, b) = self.minuend();
                let question = format!(
                    "{name} has {a} {things} and gives {b} to {friend}. How many {things} does {name} keep?"
                );
                (
                    question,
                    format!("{name} keeps {a} - {b} = {} {things}.", a - b),
                    a - b,
                )
            }
            4 => {
                let (a, b) = self.factors();
                let question = format!(
                    "There are {a} bags with {b} {things} in each bag. How many {things} are there?"
                );
                (
                    question,
                    format!("There are {a} * {b} = {} {things}.", a * b),
                    a * b,
                )
            }
            5 => {
                let (a, b) = self.addends();
                let (day, next) = self.two(&DAYS);
                let question = format!(
                    "{name} finds {a} {things} on {day} and {b} on {next}. How many {things} does {name} find?"
                );
                (
                    question,
                    format!("{name} finds {a} + {b} = {} {things}.", a + b),
                    a + b,
                )
            }
            6 => {
                let (a, b) = self.minuend();
                let question = format!(
                    "A box holds {a} {things}. {name} takes {b} out. How many {things} stay in the box?"
                );
                (
                    question,
                    format!("The box has {a} - {b} = {} {things}.", a - b),
                    a - b,
                )
            }
            7 => {
                let (a, b) = self.factors();
                let question = format!(
                    "{name} buys {b} {things} on each of {a} days. How many {things} does {name} buy?"
                );
                (
                    question,
                    format!("{name} buys {a} * {b} = {} {things}.", a * b),
                    a * b,
                )
            }
            _ => {
                let (a, b) = (self.within(2, 12), self.within(2, 12));
                let c = self.within(1, a + b - 1);
                let question = format!(
                    "{name} has {a} {things}, gets {b} and loses {c}. How many {things} does {name} have?"
                );
                let work = format!(
                    "{name} gets to {a} + {b} = {}. Then {} - {c} = {}.",
                    a + b,
                    a + b,
                    a + b - c
                );
                (question, work, a + b - c)
            }
        };
        Pair {
            question,
            answer: format!("{work} So the result is {result}."),
        }
    }

    fn word_problem_held(&mut self) -> Pair {
        let (name, friend) = self.two(&NAMES);
        let things = self.pick(&THINGS);
        let (question, work, result) = match self.below(8) {
            0 | 1 => {
                let (a, b) = self.addends();
                let question = format!(
                    "A shop had {a} {things} on a shelf. Then {name} put {b} more {things} there. What is the number of {things} on the shelf?"
                );
                (
                    question,
                    format!("The shelf has {a} + {b} = {} {things}.", a + b),
                    a + b,
                )
            }
            2 | 3 => {
                let (a, b) = self.minuend();
                let question = format!(
                    "{name} and {friend} had {a} {things} together. They sold {b} at the market. What is the number of {things} left?"
                );
                (
                    question,
                    format!("They have {a} - {b} = {} {things}.", a - b),
                    a - b,
                )
            }
            4 => {
                let (a, b) = self.factors();
                let question = format!(
                    "On a table stand {a} rows of {b} {things}. What is the number of {things} on the table?"
                );
                (
                    question,
                    format!("The table has {a} * {b} = {} {things}.", a * b),
                    a * b,
                )
            }
            5 | 6 => {
                let (a, b) = self.addends();
                let question = format!(
                    "{name} owns {a} {things}. {friend} owns {b} more than {name}. What is the number of {things} that {friend} owns?"
                );
                (
                    question,
                    format!("{friend} owns {a} + {b} = {} {things}.", a + b),
                    a + b,
                )
            }
            _ => {
                let a = self.within(5, 19);
                let b = self.within(2, a - 1);
                let c = self.within(1, b - 1);
                let question = format!(
                    "In a basket lay {a} {things}. {name} took {b} of them and put {c} back. What is the number of {things} in the basket?"
                );
                let work = format!(
                    "The basket had {a} - {b} = {}. Now it has {} + {c} = {}.",
                    a - b,
                    a - b,
                    a - b + c
                );
                (question, work, a - b + c)
            }
        };
        Pair {
            question,
            answer: format!("{work}\n#### {result}"),
        }
    }

    fn description(&mut self) -> Pair {
        let (place, food, area, price) = (
            self.pick(&PLACES),
            self.pick(&FOODS),
            self.pick(&AREAS),
            self.pick(&PRICES),
        );
        match self.below(3) {
            0 => Pair {
                question: format!("name: {place} | food: {food} | area: {area}"),
                answer: format!("{place} is a {food} place in the {area}."),
            },
            1 => Pair {
                question: format!("name: {place} | food: {food} | price: {price}"),
                answer: format!("{place} is a {food} place where the price is {price}."),
            },
            _ => Pair {
                question: format!("name: {place} | food: {food} | area: {area} | price: {price}"),
                answer: format!(
                    "{place} is a {food} place in the {area} where the price is {price}."
                ),
            },
        }
    }

    fn description_held(&mut self) -> Pair {
        let (place, food, area, price) = (
            self.pick(&PLACES),
            self.pick(&FOODS),
            self.pick(&AREAS),
            self.pick(&PRICES),
        );
        let near = self.pick(&PLACES);
        if self.below(2) == 0 {
            Pair {
                question: format!("area: {area} | near: {near} | food: {food} | name: {place}"),
                answer: format!("In the {area}, near {near}, you can eat {food} at {place}."),
            }
        } else {
            Pair {
                question: format!("price: {price} | near: {near} | food: {food} | name: {place}"),
                answer: format!("Near {near}, you can eat {food} at {place} for a {price} price."),
            }
        }
    }

    fn fact(&mut self) -> Pair {
        let index = self.index(TOWNS.len());
        let town = TOWNS[index];
        // Fixed maps: the world is the same for every seed.
        let river = RIVERS[(3 * index + 1) % RIVERS.len()];
        let colour = COLOURS[(5 * index + index / 6) % COLOURS.len()];
        let trade = TRADES[(5 * index + index / 8 + 2) % TRADES.len()];
        let next = TOWNS[(7 * index + 5) % TOWNS.len()];
        let asks = [
            [
                "Which river runs through TOWN?",
                "What is the river of TOWN?",
                "Name the river in TOWN.",
            ],
            [
                "Which colour is the gate of TOWN?",
                "What colour has the gate of TOWN?",
                "Name the colour of the gate of TOWN.",
            ],
            [
                "Who lives in TOWN?",
                "Which trade is at home in TOWN?",
                "Name the people of TOWN.",
            ],
            [
                "Where does the road from TOWN lead?",
                "Which town is next to TOWN?",
                "Name the town after TOWN.",
            ],
        ];
        let subject = self.index(asks.len());
        let question = self.pick(&asks[subject]).replace("TOWN", town);
        let answer = match subject {
            0 => format!("The river in {town} is the {river}."),
            1 => format!("The gate of {town} is {colour}."),
            2 => format!("The people of {town} are {trade}."),
            _ => format!("The road from {town} leads to {next}."),
        };
        Pair { question, answer }
    }

    fn function(&mut self) -> Pair {
        let variable = self.pick(&["x", "n", "a", "k", "value", "number"]);
        let list = self.pick(&["items", "words", "rows", "values", "names"]);
        let n = self.within(1, 19);
        let (name, argument, doc, body) = match self.below(8) {
            0 => (
                format!("add_{n}"),
                variable,
                format!("Add {n} to {variable}."),
                format!("return {variable} + {n}"),
            ),
            1 => (
                format!("take_{n}"),
                variable,
                format!("Subtract {n} from {variable}."),
                format!("return {variable} - {n}"),
            ),
            2 => (
                format!("times_{n}"),
                variable,
                format!("Multiply {variable} by {n}."),
                format!("return {variable} * {n}"),
            ),
            3 => (
                format!("above_{n}"),
                variable,
                format!("Say whether {variable} is above {n}."),
                format!("return {variable} > {n}"),
            ),
            4 => (
                format!("below_{n}"),
                variable,
                format!("Say whether {variable} is below {n}."),
                format!("return {variable} < {n}"),
            ),
            5 => (
                format!("first_{n}"),
                list,
                format!("Return the first {n} of {list}."),
                format!("return {list}[:{n}]"),
            ),
            6 => (
                format!("last_{n}"),
                list,
                format!("Return the last {n} of {list}."),
                format!("return {list}[-{n}:]"),
            ),
            _ => (
                format!("has_{n}"),
                list,
                format!("Say whether {list} has {n} entries."),
                format!("return len({list}) == {n}"),
            ),
        };
        Pair {
            question: format!("def {name}({argument}):\n    \"\"\"{doc}\"\"\""),
            answer: format!("    {body}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use regex::Regex;

    use super::*;
    use crate::rows_hash;

    const KINDS: [Kind; 9] = [
        Kind::WordProblems,
        Kind::WordProblemsHeld,
        Kind::Descriptions,
        Kind::DescriptionsHeld,
        Kind::Facts,
        Kind::Functions,
        Kind::Sentences,
        Kind::Paraphrases,
        Kind::Similarities,
    ];

    /// What may not be in two parts.
    fn key(row: &Row) -> String {
        let texts = ["question", "source", "sentence", "sentence1", "sentence2"];
        let found = texts.iter().filter_map(|column| row.text(column).ok());
        found.collect::<Vec<_>>().join("\n")
    }

    /// Records name a seed: the text behind it may not change, on no machine and with no release of a
    /// dependency. A wanted change needs a new version of the pocket datasets, and new hashes here.
    #[test]
    fn same_seed_same_text() {
        let hashes = KINDS.map(|kind| rows_hash(&corpus(kind, 7, 50))[..16].to_owned());
        assert_eq!(
            hashes,
            [
                "5e0d0b0417cd6b4f",
                "60c7ddeb31b50f82",
                "384bcb76ffa25a01",
                "038cb5ac60410284",
                "c3a154f3c5b3fa43",
                "e2c35df33556979c",
                "828f83eaf7418aac",
                "f5596fe12c49478d",
                "8d8a9d55e338ed91"
            ]
        );
        let text: Vec<String> = pretraining_text(7, 50).collect();
        assert_eq!(crate::hash::of_lines(&text)[..16], *"4bdba007508ae8a9");
        for kind in KINDS {
            assert_ne!(corpus(kind, 7, 50), corpus(kind, 11, 50), "{kind:?}");
        }
    }

    #[test]
    fn parts_are_disjoint_and_questions_unique() {
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Facts) {
            let mut seen = HashSet::new();
            let rows = if kind == Kind::Functions { 100 } else { 500 };
            for seed in 0..PARTS {
                for row in corpus(kind, seed, rows) {
                    assert!(seen.insert(key(&row)), "{kind:?}: {}", key(&row));
                }
            }
        }
        let facts: Vec<HashSet<String>> = (0..2)
            .map(|seed| corpus(Kind::Facts, seed, 400).iter().map(key).collect())
            .collect();
        assert!(facts[0].is_disjoint(&facts[1]) && facts[0].len() > 20);
    }

    /// The shipped splits, as a user gets them.
    #[test]
    fn shipped_splits_are_disjoint() {
        for name in [
            "pocket",
            "pocket_descriptions",
            "pocket-cola",
            "pocket-mrpc",
            "pocket-stsb",
        ] {
            let spec = crate::DatasetSpec::named(name, None).unwrap();
            let mut seen = HashSet::new();
            for split in spec.splits.values() {
                let pocket = split.pocket.unwrap();
                for row in corpus(pocket.kind, pocket.seed, pocket.rows) {
                    assert!(seen.insert(key(&row)), "{}", key(&row));
                }
            }
        }
    }

    /// Every `a op b = c` in an answer holds, the last one is the result, and operands are small.
    #[test]
    fn arithmetic_is_right() {
        static SUM: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(\d+) ([-+*]) (\d+) = (\d+)").unwrap());
        static RESULT: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?:So the result is (\d+)\.|\n#### (\d+))$").unwrap());
        for (kind, seed) in [(Kind::WordProblems, 1), (Kind::WordProblemsHeld, 2)] {
            for row in corpus(kind, seed, 3000) {
                let answer = row.text("answer").unwrap();
                let mut last = None;
                for sum in SUM.captures_iter(answer) {
                    let [a, b, c] = [1, 3, 4].map(|group| sum[group].parse::<i64>().unwrap());
                    let value = match &sum[2] {
                        "+" => a + b,
                        "-" => a - b,
                        _ => a * b,
                    };
                    assert!(value == c && c >= 0 && a < 40 && b < 40, "{answer}");
                    last = Some(c);
                }
                let groups = RESULT.captures(answer).unwrap();
                let result = groups
                    .get(1)
                    .or(groups.get(2))
                    .unwrap()
                    .as_str()
                    .parse()
                    .ok();
                assert!(last.is_some() && last == result, "{answer}");
            }
        }
    }

    /// What is held out may not be in the pretraining text.
    #[test]
    fn pretraining_never_has_the_held_forms() {
        for text in pretraining_text(0, 5000) {
            for held in [
                "####",
                "Question:",
                "Answer:",
                "What is the number of",
                "near:",
            ] {
                assert!(!text.contains(held), "{text}");
            }
        }
    }
}
