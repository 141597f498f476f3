//! N-grams as numbers, and which of them a system shares with its references.

use foldhash::HashMap;

use super::Segment;

/// The n-gram without words.
pub const EMPTY: u32 = 0;

/// Numbers n-grams in the order in which they are met, so that what is known of each is an element of a vector.
pub struct Numbers {
    words: HashMap<String, u32>,
    /// Of n-grams of several words, by that without the last word and by the last word.
    longer: HashMap<(u32, u32), u32>,
    /// Of each n-gram, the n-gram without its last word.
    prefixes: Vec<u32>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            words: HashMap::default(),
            longer: HashMap::default(),
            prefixes: vec![EMPTY],
        }
    }
}

impl Numbers {
    /// Of each word, in the text's order.
    pub fn words<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> Vec<u32> {
        let number = |word: &str| {
            if let Some(&number) = self.words.get(word) {
                return number;
            }
            let number = next(&mut self.prefixes, EMPTY);
            self.words.insert(word.to_string(), number);
            number
        };
        words.map(number).collect()
    }

    /// Of all n-grams of a text up to a length, from its words' numbers.
    pub fn ngrams(&mut self, words: &[u32], longest: usize) -> Ngrams {
        let mut of_length = vec![words.to_vec()];
        for n in 2..=longest {
            let shorter = of_length[n - 2].iter();
            let pairs = shorter.zip(&words[words.len().min(n - 1)..]);
            let numbers = pairs.map(|(&prefix, &word)| {
                let new = || next(&mut self.prefixes, prefix);
                *self.longer.entry((prefix, word)).or_insert_with(new)
            });
            of_length.push(numbers.collect());
        }
        of_length
            .iter_mut()
            .for_each(|numbers| numbers.sort_unstable());
        Ngrams(of_length)
    }

    /// How many there are; all are smaller.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    pub fn prefix(&self, ngram: u32) -> u32 {
        self.prefixes[ngram as usize]
    }
}

fn next(prefixes: &mut Vec<u32>, prefix: u32) -> u32 {
    prefixes.push(prefix);
    prefixes.len() as u32 - 1
}

/// The n-grams of a text: for each length, their numbers in order, as often as they occur.
#[derive(Debug, Clone, PartialEq)]
pub struct Ngrams(Vec<Vec<u32>>);

impl Ngrams {
    /// Words of the text.
    pub fn len(&self) -> usize {
        self.0[0].len()
    }

    /// The numbers of all lengths.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flatten().copied()
    }

    /// The different n-grams of `n` words, and how often each occurs.
    pub fn counts(&self, n: usize) -> impl Iterator<Item = (u32, usize)> {
        let same = self.0[n - 1].chunk_by(|a, b| a == b);
        same.map(|same| (same[0], same.len()))
    }

    /// The same, and how often each occurs in another text.
    pub fn beside<'a>(
        &'a self,
        other: &'a Ngrams,
        n: usize,
    ) -> impl Iterator<Item = (u32, usize, usize)> + 'a {
        let mut others = other.counts(n).peekable();
        self.counts(n).map(move |(ngram, times)| {
            while others.next_if(|(other, _)| *other < ngram).is_some() {}
            let same = others.next_if(|(other, _)| *other == ngram);
            (ngram, times, same.map_or(0, |(_, times)| times))
        })
    }
}

/// The n-grams of `n` words that the system shares with its references. Each counts as often as the system has it, but
/// no more often than the reference that has it most.
pub fn matches(segment: &Segment<Ngrams>, n: usize) -> Vec<(u32, usize)> {
    let system = segment.system.counts(n);
    let mut shared: Vec<_> = system.map(|(ngram, _)| (ngram, 0)).collect();
    for reference in &segment.references {
        let beside = segment.system.beside(reference, n);
        for ((_, most), (_, times, other)) in shared.iter_mut().zip(beside) {
            *most = times.min(other).max(*most);
        }
    }
    shared.retain(|(_, times)| *times > 0);
    shared
}
