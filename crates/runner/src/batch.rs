//! Which examples make up each micro-batch.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Micro-batches of an endless, seeded stream of epochs; any of them can be asked for, in any order.
pub struct Batches {
    lengths: Vec<usize>,
    size: usize,
    seed: u64,
    group_by_length: bool,
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

/// Sorting windows of this many batches by length, as transformers' `LengthGroupedSampler`, saves most of the
/// padding and keeps the order random.
const WINDOW: usize = 50;

impl Batches {
    /// `lengths`: tokens of each example; `size`: examples in a micro-batch. The examples that do not fill
    /// the last micro-batch of an epoch sit that epoch out, unless there are fewer than one batch in all.
    pub fn new(lengths: Vec<usize>, size: usize, seed: u64, group_by_length: bool) -> Self {
        Batches {
            size: size.min(lengths.len()).max(1),
            lengths,
            seed,
            group_by_length,
            epoch: None,
        }
    }

    /// Micro-batches in one epoch.
    pub fn per_epoch(&self) -> u64 {
        (self.lengths.len() / self.size).max(1) as u64
    }

    /// Indices of the examples of micro-batch `index`, counted from the start of training.
    pub fn get(&mut self, index: u64) -> Vec<usize> {
        let epoch = index / self.per_epoch();
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            self.epoch = Some((epoch, self.shuffle(epoch)));
        }
        let place = (index % self.per_epoch()) as usize;
        self.epoch
            .as_ref()
            .and_then(|(_, batches)| batches.get(place))
            .cloned()
            .unwrap_or_default()
    }

    fn shuffle(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut rng);
        if self.group_by_length {
            for window in order.chunks_mut(self.size * WINDOW) {
                window.sort_by_key(|&i| std::cmp::Reverse(self.lengths[i]));
            }
        }
        let mut batches: Vec<Vec<usize>> = order
            .chunks_exact(self.size)
            .map(<[usize]>::to_vec)
            .collect();
        batches.shuffle(&mut rng);
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// An epoch uses no example twice, batches are full, and asking out of order changes nothing:
        /// resuming from a checkpoint depends on it.
        #[test]
        fn epochs_are_permutations(n in 1usize..300, size in 1usize..20, seed: u64, group: bool) {
            let lengths: Vec<usize> = (0..n).map(|i| (i * 7919) % 97).collect();
            let mut forward = Batches::new(lengths.clone(), size, seed, group);
            let mut fresh = Batches::new(lengths, size, seed, group);
            let per = forward.per_epoch();
            for epoch in 0..2 {
                let all: Vec<Vec<usize>> = (0..per).map(|i| forward.get(epoch * per + i)).collect();
                let mut seen: Vec<usize> = all.iter().flatten().copied().collect();
                prop_assert!(all.iter().all(|b| b.len() == size.min(n)));
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), per as usize * size.min(n));
                prop_assert_eq!(fresh.get(epoch * per + per - 1), all[per as usize - 1].clone());
            }
        }
    }
}
