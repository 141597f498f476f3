//! Which examples make up each micro-batch.
//!
//! Any batch can be asked for by its number, so a resumed run needs no generator's state. Under a token budget epochs differ in their
//! number of micro-batches, so they are counted through from the first.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How much a micro-batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// This many examples.
    Examples(usize),
    /// As many whole examples as fit into this many tokens.
    Tokens(usize),
}

impl Fill {
    /// Cuts `order`, indices into `lengths`, into micro-batches from its front to its end. The last may be smaller
    /// than the others; an example longer than the budget is alone in its micro-batch.
    pub fn cut(self, order: &[usize], lengths: &[usize]) -> Vec<Vec<usize>> {
        let budget = match self {
            Fill::Examples(size) => {
                return order.chunks(size.max(1)).map(<[usize]>::to_vec).collect();
            }
            Fill::Tokens(budget) => budget,
        };
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut free = 0;
        for &example in order {
            let length = lengths.get(example).copied().unwrap_or(0);
            match batches.last_mut() {
                Some(batch) if length <= free => batch.push(example),
                _ => {
                    batches.push(vec![example]);
                    free = budget;
                }
            }
            free = free.saturating_sub(length);
        }
        batches
    }
}

/// Micro-batches of an endless, seeded stream of epochs; any of them can be asked for, in any order.
pub struct Batches {
    lengths: Vec<usize>,
    fill: Fill,
    seed: u64,
    group_by_length: bool,
    /// The epoch that was asked for last.
    epoch: Epoch,
}

/// One pass over the examples.
#[derive(Default)]
struct Epoch {
    number: u64,
    /// Number of its first micro-batch, counted from the start of training.
    first: u64,
    batches: Vec<Vec<usize>>,
}

impl Epoch {
    /// Number of the next epoch's first micro-batch.
    fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }
}

/// Sorting windows of this many batches by length, as transformers' `LengthGroupedSampler`, saves most of the
/// padding and keeps the order random.
const WINDOW: usize = 50;

impl Batches {
    /// `lengths`: tokens of each example. With [`Fill::Examples`] the examples that do not fill the last micro-batch
    /// of an epoch sit that epoch out, unless there are fewer than one batch in all; with [`Fill::Tokens`] every
    /// example is in every epoch, and the number of micro-batches may differ between epochs.
    pub fn new(lengths: Vec<usize>, fill: Fill, seed: u64, group_by_length: bool) -> Self {
        let mut batches = Batches {
            lengths,
            fill,
            seed,
            group_by_length,
            epoch: Epoch::default(),
        };
        batches.epoch = batches.shuffle(0, 0);
        batches
    }

    /// Indices of the examples of micro-batch `index`, counted from the start of training; none where there are no
    /// examples at all.
    pub fn get(&mut self, index: u64) -> Vec<usize> {
        if self.lengths.is_empty() {
            return Vec::new();
        }
        // How many micro-batches a budget makes of an epoch depends on its order, so epochs are counted through.
        if index < self.epoch.first {
            self.epoch = self.shuffle(0, 0);
        }
        while index >= self.epoch.end() {
            self.epoch = self.shuffle(self.epoch.number + 1, self.epoch.end());
        }
        let place = (index - self.epoch.first) as usize;
        self.epoch.batches.get(place).cloned().unwrap_or_default()
    }

    /// Micro-batches of the epoch that was asked for last; with [`Fill::Examples`] all have as many.
    pub fn in_epoch(&self) -> usize {
        self.epoch.batches.len()
    }

    fn shuffle(&self, number: u64, first: u64) -> Epoch {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut rng);
        if self.group_by_length {
            let window = self.examples_per_batch().saturating_mul(WINDOW);
            for window in order.chunks_mut(window) {
                window.sort_by_key(|&i| std::cmp::Reverse(self.lengths[i]));
            }
        }
        let mut batches = self.fill.cut(&order, &self.lengths);
        if let Fill::Examples(size) = self.fill
            && batches.len() > 1
            && batches.last().is_some_and(|last| last.len() < size)
        {
            batches.pop();
        }
        batches.shuffle(&mut rng);
        Epoch {
            number,
            first,
            batches,
        }
    }

    /// At least 1; under a budget, of examples of mean length.
    fn examples_per_batch(&self) -> usize {
        let examples = match self.fill {
            Fill::Examples(size) => size,
            Fill::Tokens(budget) => {
                let mean = self.lengths.iter().sum::<usize>() / self.lengths.len().max(1);
                budget / mean.max(1)
            }
        };
        examples.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: usize = 97;

    /// From 1 to [`LONGEST`] tokens, neighbours unlike.
    fn lengths(n: usize) -> Vec<usize> {
        (0..n).map(|i| 1 + (i * 7919) % LONGEST).collect()
    }

    /// The micro-batches of the next epoch from `index` on, which has `examples` examples.
    fn epoch(batches: &mut Batches, index: &mut u64, examples: usize) -> Vec<Vec<usize>> {
        let mut all: Vec<Vec<usize>> = Vec::new();
        while all.iter().map(Vec::len).sum::<usize>() < examples {
            all.push(batches.get(*index));
            *index += 1;
        }
        all
    }

    fn tokens(lengths: &[usize], batch: &[usize]) -> usize {
        batch.iter().map(|&i| lengths[i]).sum()
    }

    proptest! {
        /// An epoch uses no example twice, batches are full, and asking out of order changes nothing:
        /// resuming from a checkpoint depends on it.
        #[test]
        fn epochs_by_examples(n in 1usize..300, size in 1usize..20, seed: u64, group: bool) {
            let make = || Batches::new(lengths(n), Fill::Examples(size), seed, group);
            let (mut forward, mut fresh) = (make(), make());
            let size = size.min(n);
            let mut index = 0;
            for _ in 0..3 {
                let all = epoch(&mut forward, &mut index, n / size * size);
                let mut seen: Vec<usize> = all.iter().flatten().copied().collect();
                prop_assert!(all.iter().all(|b| b.len() == size));
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), n / size * size);
                prop_assert_eq!(&fresh.get(index - 1), &all[all.len() - 1]);
            }
            prop_assert_eq!(forward.get(0), fresh.get(0));
        }

        /// Under a budget an epoch is every example once, no micro-batch is above the budget nor two of them
        /// could have been one throughout, and asking out of order changes nothing although epochs differ in length.
        #[test]
        fn epochs_by_tokens(n in 1usize..300, budget in LONGEST..1000, seed: u64, group: bool) {
            let lengths = lengths(n);
            let make = || Batches::new(lengths.clone(), Fill::Tokens(budget), seed, group);
            let (mut forward, mut fresh) = (make(), make());
            let mut index = 0;
            let mut stream = Vec::new();
            for _ in 0..3 {
                let all = epoch(&mut forward, &mut index, n);
                let mut seen: Vec<usize> = all.iter().flatten().copied().collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
                prop_assert!(all.iter().all(|b| tokens(&lengths, b) <= budget));
                let total: usize = lengths.iter().sum();
                prop_assert!(all.len() <= 2 * total / budget + 1, "{} of {total} tokens", all.len());
                stream.extend(all);
            }
            for (i, batch) in stream.iter().enumerate().rev() {
                prop_assert_eq!(&fresh.get(i as u64), batch);
            }
        }
    }

    /// Windows sorted by length are what saves padding, under a budget as with a number of examples.
    #[test]
    fn grouping_by_length_saves_padding() {
        let lengths = lengths(2000);
        let padding = |fill, group| {
            let mut batches = Batches::new(lengths.clone(), fill, 3, group);
            let all = epoch(&mut batches, &mut 0, lengths.len());
            all.iter()
                .map(|b| {
                    let longest = b.iter().map(|&i| lengths[i]).max().unwrap_or(0);
                    b.len() * longest - tokens(&lengths, b)
                })
                .sum::<usize>()
        };
        for fill in [Fill::Examples(8), Fill::Tokens(400)] {
            let (grouped, random) = (padding(fill, true), padding(fill, false));
            assert!(4 * grouped < random, "{fill:?}: {grouped} of {random}");
        }
    }

    /// Nothing to train on is an error elsewhere; here it must not be an endless search.
    #[test]
    fn no_examples_are_no_batch() {
        for fill in [Fill::Examples(4), Fill::Tokens(4)] {
            assert!(Batches::new(Vec::new(), fill, 0, true).get(7).is_empty());
        }
        // Longer than any budget that an experiment may have: alone, and not lost.
        assert_eq!(
            Fill::Tokens(4).cut(&[0, 1, 2], &[3, 9, 2]),
            [vec![0], vec![1], vec![2]]
        );
    }
}
