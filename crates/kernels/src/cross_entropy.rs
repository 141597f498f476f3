//! The cross-entropy of a language model's next token, without ever making the logits of the whole vocabulary.
//!
//! For a hidden state h (C) and the head W (V, C) the logits are z = W h, and for the target t
//!
//! ```text
//! loss = log sum_v exp(z_v) - z_t        d loss / d h = sum_v softmax(z)_v W_v - W_t
//! ```
//!
//! Both are sums over the vocabulary, so it can be walked in tiles with a running maximum and sums that are rescaled when the
//! maximum grows (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", arXiv 1805.02867, section 3; for the
//! weighted sum of vectors as in FlashAttention, Dao et al. 2022, arXiv 2205.14135, algorithm 1): a tile of logits lives and
//! dies in the cache. Positions are vector lanes: logits are held as (vocabulary, positions), which needs no packing of
//! the head, and makes maxima and sums over the vocabulary element-wise.

use std::ops::Range;

use rayon::prelude::*;

use crate::matrix::Matrix;
use crate::product::{View, multiply};
use crate::simd;

/// Positions that share one reading of the head, at most.
const POSITIONS: usize = 128;
/// Positions come in whole vectors of this many; the last is filled up with zeros.
const LANES: usize = 16;
/// Rows of the head at a time: few enough that the second product finds them and their logits in the cache. Above 256, the size up
/// to which `gemm` takes a matrix times a vector at half its speed.
const TILE: usize = 384;
/// The vocabulary is cut until there are this many blocks of positions times vocabulary to share among threads.
const BLOCKS: usize = 32;

/// -log softmax(h W^T)[target] of every position in nats, (N), for `hidden` (N, C) and `head` W (V, C).
///
/// `gradient`, a buffer (N, C) and a weight, gets `weight * (softmax(h W^T) - onehot(target)) W`: the
/// gradient of `weight * sum(losses)` with respect to `hidden`, taken in the same pass. What the buffer held is lost.
///
/// A NaN in a position makes its loss a NaN.
///
/// # Panics
/// Where a target is not below V, or the shapes do not fit.
pub fn forward(
    hidden: &[f32],
    head: &Matrix,
    targets: &[u32],
    gradient: Option<(&mut [f32], f32)>,
) -> Vec<f32> {
    let (n, c, vocabulary) = (targets.len(), head.columns(), head.rows());
    assert_eq!(
        hidden.len(),
        n * c,
        "hidden states of {n} targets, {c} values each"
    );
    for &target in targets {
        assert!(
            (target as usize) < vocabulary,
            "target {target} in a vocabulary of {vocabulary}"
        );
    }
    let weight = gradient.as_ref().map(|&(_, weight)| weight);
    let wanted = weight.is_some();
    let positions = positions(n);
    let parts = over_blocks(hidden, head, &positions, |block, rows| {
        Sums::new(block, head, rows, &targets[block.range.clone()], wanted)
    });

    let mut losses = vec![0.0; n];
    let mut rest = match gradient {
        Some((gradient, _)) => {
            assert_eq!(
                gradient.len(),
                n * c,
                "a gradient of {n} positions, {c} values each"
            );
            gradient
        }
        None => &mut [],
    };
    let mut rest_losses = losses.as_mut_slice();
    let mut work = Vec::with_capacity(positions.len());
    for (index, range) in positions.iter().enumerate() {
        let (losses, next) = rest_losses.split_at_mut(range.len());
        rest_losses = next;
        let (gradient, next) = rest.split_at_mut(if wanted { range.len() * c } else { 0 });
        rest = next;
        work.push((index, &targets[range.clone()], losses, gradient));
    }
    work.into_par_iter()
        .with_max_len(1)
        .for_each(|(index, targets, losses, gradient)| {
            let total = parts[index..].iter().step_by(positions.len());
            let total = Sums::merge(total, targets.len().next_multiple_of(LANES), c);
            for (i, loss) in losses.iter_mut().enumerate() {
                *loss = total.max[i] - total.target[i] + total.sum[i].ln();
            }
            if let Some(weight) = weight {
                total.write_gradient(head, targets, weight, gradient);
            }
        });
    losses
}

/// The token with the largest logit at every position, (N), for `hidden` (N, C) and `head` (V, C); the first of equal ones.
///
/// # Panics
/// Where `head` is empty, or `hidden` is not whole positions.
pub fn argmax(hidden: &[f32], head: &Matrix) -> Vec<u32> {
    let c = head.columns();
    assert!(head.rows() > 0 && c > 0, "an empty head");
    assert_eq!(hidden.len() % c, 0, "hidden states of {c} values");
    let positions = positions(hidden.len() / c);
    let parts = over_blocks(hidden, head, &positions, |block, rows| {
        let mut best = vec![f32::NEG_INFINITY; block.lanes];
        let mut index = vec![rows.start as u32; block.lanes];
        block.over_tiles(head, rows, |rows, _, logits| {
            simd::dispatch(
                #[inline(always)]
                || pick(logits, rows.start as u32, &mut best, &mut index),
            )
        });
        (best, index)
    });
    let mut tokens = Vec::with_capacity(hidden.len() / c);
    for (index, range) in positions.iter().enumerate() {
        for i in 0..range.len() {
            let parts = parts[index..]
                .iter()
                .step_by(positions.len())
                .map(|(best, index)| (best[i], index[i]));
            let first = parts.reduce(|a, b| if b.0 > a.0 { b } else { a });
            tokens.push(first.map_or(0, |(_, token)| token));
        }
    }
    tokens
}

/// At most [`POSITIONS`] hidden states, transposed.
struct Block {
    range: Range<usize>,
    lanes: usize,
    /// (C, width)
    hidden: Vec<f32>,
    /// As many as lanes; a single state stays one, as a matrix times a vector is faster than times a block of zeros.
    width: usize,
}

impl Block {
    fn new(hidden: &[f32], c: usize, range: Range<usize>) -> Self {
        let lanes = range.len().next_multiple_of(LANES);
        let width = if range.len() == 1 { 1 } else { lanes };
        let mut transposed = vec![0.0; c * width];
        let rows = hidden[range.start * c..range.end * c].chunks_exact(c.max(1));
        for (i, row) in rows.enumerate() {
            for (value, column) in row.iter().zip(transposed.chunks_exact_mut(width)) {
                column[i] = *value;
            }
        }
        Block {
            range,
            lanes,
            hidden: transposed,
            width,
        }
    }

    /// Calls `f` with every tile of these rows of the head: which rows, their values (rows, C), their logits (rows, lanes).
    fn over_tiles(
        &self,
        head: &Matrix,
        rows: Range<usize>,
        mut f: impl FnMut(Range<usize>, &[f32], &mut [f32]),
    ) {
        let (c, lanes) = (head.columns(), self.lanes);
        let mut scratch = Vec::new();
        let mut logits = vec![0.0; TILE.min(rows.len()) * lanes];
        for start in rows.clone().step_by(TILE) {
            let rows = start..rows.end.min(start + TILE);
            let logits = &mut logits[..rows.len() * lanes];
            let values = head.tile(rows.clone(), &mut scratch);
            let states = View::new(&self.hidden, c, self.width, self.width);
            multiply(
                logits,
                lanes,
                View::new(values, rows.len(), c, c),
                states,
                1.0,
                0.0,
            );
            f(rows, values, logits);
        }
    }
}

/// `0..total` in `count` nearly equal pieces that begin at multiples of `unit`.
fn pieces(total: usize, unit: usize, count: usize) -> Vec<Range<usize>> {
    let units = total.div_ceil(unit);
    let bound = |i: usize| (units * i / count * unit).min(total);
    (0..count).map(|i| bound(i)..bound(i + 1)).collect()
}

/// How `n` positions are cut in blocks.
fn positions(n: usize) -> Vec<Range<usize>> {
    pieces(n, LANES, n.div_ceil(POSITIONS))
}

/// What `f` makes of every block of positions and part of the vocabulary: part by part, in each of them block by block.
fn over_blocks<T: Send>(
    hidden: &[f32],
    head: &Matrix,
    positions: &[Range<usize>],
    f: impl Fn(&Block, Range<usize>) -> T + Sync,
) -> Vec<T> {
    if positions.is_empty() {
        return Vec::new();
    }
    let parts = BLOCKS
        .div_ceil(positions.len())
        .min(head.rows().div_ceil(TILE));
    let vocabulary = pieces(head.rows(), TILE, parts);
    let blocks: Vec<Block> = positions
        .par_iter()
        .map(|range| Block::new(hidden, head.columns(), range.clone()))
        .collect();
    (0..parts * blocks.len())
        .into_par_iter()
        .with_max_len(1)
        .map(|i| {
            f(
                &blocks[i % blocks.len()],
                vocabulary[i / blocks.len()].clone(),
            )
        })
        .collect()
}

/// Sums over a part of the vocabulary, for every lane.
struct Sums {
    lanes: usize,
    /// The largest logit.
    max: Vec<f32>,
    /// Of `exp(logit - max)`.
    sum: Vec<f32>,
    /// The target's logit; 0 where the target is in another part.
    target: Vec<f32>,
    /// Of `exp(logit - max) W`, (C, lanes); empty where no gradient is wanted.
    rows: Vec<f32>,
}

impl Sums {
    fn new(
        block: &Block,
        head: &Matrix,
        part: Range<usize>,
        targets: &[u32],
        gradient: bool,
    ) -> Sums {
        let (c, lanes) = (head.columns(), block.lanes);
        let mut sums = Sums::zero(lanes, if gradient { c } else { 0 });
        let mut factor = vec![0.0; lanes];
        block.over_tiles(head, part, |tile, values, logits| {
            for (i, &target) in targets.iter().enumerate() {
                if tile.contains(&(target as usize)) {
                    sums.target[i] = logits[(target as usize - tile.start) * lanes + i];
                }
            }
            let grown = simd::dispatch(
                #[inline(always)]
                || exponentials(logits, &mut sums.max, &mut sums.sum, &mut factor),
            );
            if gradient {
                if grown {
                    simd::dispatch(
                        #[inline(always)]
                        || scale(&mut sums.rows, &factor),
                    );
                }
                let (values, weights) = (
                    View::new(values, tile.len(), c, c),
                    View::new(logits, tile.len(), lanes, lanes),
                );
                multiply(&mut sums.rows, lanes, values.t(), weights, 1.0, 1.0);
            }
        });
        sums
    }

    fn zero(lanes: usize, c: usize) -> Sums {
        Sums {
            lanes,
            max: vec![f32::NEG_INFINITY; lanes],
            sum: vec![0.0; lanes],
            target: vec![0.0; lanes],
            rows: vec![0.0; c * lanes],
        }
    }

    /// The sums over all `parts`, in their order.
    fn merge<'a>(parts: impl Iterator<Item = &'a Sums> + Clone, lanes: usize, c: usize) -> Sums {
        let gradient = parts.clone().any(|part| !part.rows.is_empty());
        let mut total = Sums::zero(lanes, if gradient { c } else { 0 });
        for part in parts.clone() {
            for (max, value) in total.max.iter_mut().zip(&part.max) {
                *max = max.max(*value);
            }
        }
        for part in parts {
            let factor: Vec<f32> = part
                .max
                .iter()
                .zip(&total.max)
                .map(|(part, total)| (part - total).exp())
                .collect();
            for (i, factor) in factor.iter().enumerate() {
                total.sum[i] += part.sum[i] * factor;
                total.target[i] += part.target[i];
            }
            simd::dispatch(
                #[inline(always)]
                || add_scaled(&mut total.rows, &part.rows, &factor),
            );
        }
        total
    }

    /// `weight * (rows / sum - W[target])`, transposed back to (positions, C).
    fn write_gradient(&self, head: &Matrix, targets: &[u32], weight: f32, gradient: &mut [f32]) {
        let mut scratch = Vec::new();
        for (i, (&target, gradient)) in targets
            .iter()
            .zip(gradient.chunks_exact_mut(head.columns().max(1)))
            .enumerate()
        {
            let target = target as usize;
            let row = head.tile(target..target + 1, &mut scratch);
            let sums = self.rows.chunks_exact(self.lanes).map(|lanes| lanes[i]);
            for ((gradient, sum), row) in gradient.iter_mut().zip(sums).zip(row) {
                *gradient = weight * (sum / self.sum[i] - row);
            }
        }
    }
}

/// Turns logits (rows, lanes) into `exp(logit - max)`, brings `max` and `sum` up to date, and leaves in `factor` what
/// sums over earlier rows are to be multiplied by; whether any of those is not 1.
#[inline(always)]
fn exponentials(logits: &mut [f32], max: &mut [f32], sum: &mut [f32], factor: &mut [f32]) -> bool {
    let lanes = max.len() / LANES;
    let (logits, max, sum, factor) = (
        vectors_mut(logits),
        vectors_mut(max),
        vectors_mut(sum),
        vectors_mut(factor),
    );
    let mut grown = false;
    for lane in 0..lanes {
        let old = max[lane];
        let mut new = old;
        for logits in logits[lane..].iter().step_by(lanes) {
            for i in 0..LANES {
                new[i] = if logits[i] > new[i] {
                    logits[i]
                } else {
                    new[i]
                };
            }
        }
        let mut added = [0.0; LANES];
        for logits in logits[lane..].iter_mut().step_by(lanes) {
            for i in 0..LANES {
                logits[i] = simd::exp(logits[i] - new[i]);
                added[i] += logits[i];
            }
        }
        for i in 0..LANES {
            factor[lane][i] = simd::exp(old[i] - new[i]);
            sum[lane][i] = sum[lane][i] * factor[lane][i] + added[i];
        }
        grown |= old != new;
        max[lane] = new;
    }
    grown
}

/// Multiplies every row of `values` (rows, lanes) by `factor` (lanes).
#[inline(always)]
fn scale(values: &mut [f32], factor: &[f32]) {
    for values in values.chunks_exact_mut(factor.len()) {
        for (value, factor) in values.iter_mut().zip(factor) {
            *value *= factor;
        }
    }
}

/// Adds every row of `values` (rows, lanes) times `factor` (lanes) to `total`.
#[inline(always)]
fn add_scaled(total: &mut [f32], values: &[f32], factor: &[f32]) {
    let lanes = factor.len();
    for (total, values) in total
        .chunks_exact_mut(lanes)
        .zip(values.chunks_exact(lanes))
    {
        for ((total, value), factor) in total.iter_mut().zip(values).zip(factor) {
            *total += value * factor;
        }
    }
}

/// Brings the largest logit of every lane so far, and its row, up to date with logits (rows, lanes), the first being row `start`.
#[inline(always)]
fn pick(logits: &[f32], start: u32, best: &mut [f32], row: &mut [u32]) {
    let lanes = best.len() / LANES;
    let (logits, best) = (logits.as_chunks::<LANES>().0, vectors_mut(best));
    for (lane, (best, rows)) in best
        .iter_mut()
        .zip(row.as_chunks_mut::<LANES>().0)
        .enumerate()
    {
        let (mut value, mut index) = (*best, *rows);
        for (logits, row) in logits[lane..].iter().step_by(lanes).zip(start..) {
            for i in 0..LANES {
                let better = logits[i] > value[i];
                value[i] = if better { logits[i] } else { value[i] };
                index[i] = if better { row } else { index[i] };
            }
        }
        (*best, *rows) = (value, index);
    }
}

/// The whole vectors of a slice.
#[inline(always)]
fn vectors_mut(values: &mut [f32]) -> &mut [[f32; LANES]] {
    values.as_chunks_mut().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Format;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(-scale..scale)).collect()
    }

    fn random_targets(seed: u64, n: usize, vocabulary: usize) -> Vec<u32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n)
            .map(|_| rng.random_range(0..vocabulary as u32))
            .collect()
    }

    /// The formulas as they stand in the head of this file, in double precision.
    fn reference(
        hidden: &[f32],
        head: &[f32],
        c: usize,
        targets: &[u32],
        weight: f64,
    ) -> (Vec<f64>, Vec<f64>) {
        let mut gradient = Vec::new();
        let losses = targets
            .iter()
            .zip(hidden.chunks(c))
            .map(|(&target, hidden)| {
                let dot = |row: &[f32]| {
                    row.iter()
                        .zip(hidden)
                        .map(|(&w, &h)| f64::from(w) * f64::from(h))
                        .sum::<f64>()
                };
                let logits: Vec<f64> = head.chunks(c).map(dot).collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|z| (z - max).exp()).sum();
                let p = |v: usize| (logits[v] - max).exp() / sum - f64::from(v == target as usize);
                gradient.extend((0..c).map(|i| {
                    weight
                        * (0..logits.len())
                            .map(|v| p(v) * f64::from(head[v * c + i]))
                            .sum::<f64>()
                }));
                max + sum.ln() - logits[target as usize]
            });
        (losses.collect(), gradient)
    }

    fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= tolerance * (1.0 + expected.abs()),
                "{i}: {found} for {expected}"
            );
        }
    }

    fn check(n: usize, vocabulary: usize, c: usize, scale: f32, targets: Vec<u32>) {
        let (hidden, values) = (random(1, n * c, scale), random(2, vocabulary * c, 1.0));
        let head = Matrix::from_f32(vocabulary, c, values.clone());
        let (losses, gradient) = reference(&hidden, &values, c, &targets, 0.5);
        let mut found = vec![f32::NAN; n * c];
        let tolerance = 1e-5 * f64::from(1.0 + scale * c as f32);
        assert_near(
            &forward(&hidden, &head, &targets, Some((&mut found, 0.5))),
            &losses,
            tolerance,
        );
        assert_near(&found, &gradient, tolerance);
        assert_near(&forward(&hidden, &head, &targets, None), &losses, tolerance);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Every cut of positions and vocabulary (fewer than a vector, a tile, a part; one more than those) computes the formula.
        #[test]
        fn losses_and_gradients_are_the_formula(n in 0usize..40, vocabulary in 1usize..1200, c in 1usize..24, scale in 0.1f32..8.0, seed: u64) {
            check(n, vocabulary, c, scale, random_targets(seed, n, vocabulary));
        }
    }

    /// Several blocks of positions, of uneven size, and several parts of the vocabulary.
    #[test]
    fn many_positions() {
        for n in [128, 129, 300] {
            check(
                n,
                40 * TILE + 3,
                5,
                2.0,
                random_targets(3, n, 40 * TILE + 3),
            );
        }
    }

    /// A vocabulary of one token has no loss and no gradient.
    #[test]
    fn one_token_vocabulary() {
        let mut gradient = vec![f32::NAN; 6];
        let head = Matrix::from_f32(1, 3, vec![1.0, -2.0, 3.0]);
        let hidden = [1.0, 2.0, 3.0, -1e4, 0.0, 1e4];
        assert_eq!(
            forward(&hidden, &head, &[0, 0], Some((&mut gradient, 1.0))),
            [0.0, 0.0]
        );
        assert_eq!(gradient, [0.0; 6]);
    }

    /// The target's logit is picked out of its tile: first and last rows of tiles, parts and the vocabulary.
    #[test]
    fn targets_at_borders() {
        let vocabulary = 33 * TILE + 7;
        let targets = [
            0,
            TILE - 1,
            TILE,
            2 * TILE - 1,
            2 * TILE,
            33 * TILE - 1,
            33 * TILE,
            vocabulary - 1,
        ];
        check(8, vocabulary, 4, 1.0, targets.map(|t| t as u32).to_vec());
    }

    /// Logits of +-1e4, where exp alone would be infinite, with the largest in the first, a middle and the last tile.
    #[test]
    fn huge_logits() {
        for top in [0, 700, 999] {
            let values: Vec<f32> = (0..1000)
                .map(|v| {
                    if v == top {
                        1.0
                    } else {
                        -1.0 + v as f32 * 1e-6
                    }
                })
                .collect();
            let head = Matrix::from_f32(1000, 1, values.clone());
            let (hidden, targets) = ([1e4, -1e4, 1e4], [top as u32, 0, 1]);
            let (losses, gradient) = reference(&hidden, &values, 1, &targets, 1.0);
            let mut found = [f32::NAN; 3];
            assert_near(
                &forward(&hidden, &head, &targets, Some((&mut found, 1.0))),
                &losses,
                2e-6,
            );
            assert_near(&found, &gradient, 2e-3); // a logit of 1e4 has an error of 5e-4 as an f32
        }
    }

    /// A diverged position must show, and not spoil its neighbours.
    #[test]
    fn nan_stays_in_its_position() {
        let head = Matrix::from_f32(500, 2, random(4, 1000, 1.0));
        for bad in [f32::NAN, f32::INFINITY] {
            let hidden = [1.0, 2.0, bad, 1.0, 1.0, 2.0];
            let mut gradient = [0.0; 6];
            let losses = forward(&hidden, &head, &[3, 3, 3], Some((&mut gradient, 1.0)));
            assert!(losses[1].is_nan() && gradient[2].is_nan() && gradient[3].is_nan());
            assert!(losses[0].is_finite() && losses[0] == losses[2]);
            assert!(gradient[0].is_finite() && gradient[..2] == gradient[4..]);
        }
    }

    #[test]
    #[should_panic(expected = "target 7 in a vocabulary of 7")]
    fn a_target_outside_the_vocabulary() {
        forward(&[0.0], &Matrix::from_f32(7, 1, vec![0.0; 7]), &[7], None);
    }

    /// The gradient is the derivative of this very forward pass, not only of the reference.
    #[test]
    fn gradient_by_differences() {
        let (n, vocabulary, c) = (3, 600, 6);
        let head = Matrix::from_f32(vocabulary, c, random(5, vocabulary * c, 1.0));
        let (hidden, targets) = (random(6, n * c, 1.0), random_targets(7, n, vocabulary));
        let mut gradient = vec![0.0; n * c];
        forward(&hidden, &head, &targets, Some((&mut gradient, 2.0)));
        for i in 0..n * c {
            let at = |step: f32| {
                let mut hidden = hidden.clone();
                hidden[i] += step;
                forward(&hidden, &head, &targets, None)
                    .iter()
                    .map(|&loss| f64::from(loss))
                    .sum::<f64>()
            };
            let step = 1.0 / 64.0;
            let difference = 2.0 * (at(step) - at(-step)) / f64::from(2.0 * step);
            assert!(
                (f64::from(gradient[i]) - difference).abs() < 1e-3,
                "{i}: {} for {difference}",
                gradient[i]
            );
        }
    }

    /// Runs of the same experiment must not differ between machines with other numbers of cores.
    #[test]
    fn same_bits_on_any_number_of_threads() {
        for (n, c) in [(5, 64), (150, 48)] {
            let vocabulary = 9000;
            let head = Matrix::from_f32(vocabulary, c, random(8, vocabulary * c, 1.0));
            let (hidden, targets) = (random(9, n * c, 1.0), random_targets(10, n, vocabulary));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let mut gradient = vec![0.0; n * c];
                    let losses = forward(&hidden, &head, &targets, Some((&mut gradient, 0.1)));
                    (losses, gradient, argmax(&hidden, &head))
                })
            };
            let one = run(1);
            assert!(one == run(2) && one == run(4));
        }
    }

    /// A quantised head is read through its tiles and means its own values.
    #[test]
    fn every_format() {
        let (n, vocabulary, c) = (20, 700, 64);
        let (hidden, targets) = (random(11, n * c, 1.0), random_targets(12, n, vocabulary));
        let exact = Matrix::from_f32(vocabulary, c, random(13, vocabulary * c, 0.5));
        for format in [Format::F32, Format::Bf16, Format::F16, Format::Q8_0] {
            let head = exact.to_format(format);
            let (losses, gradient) = reference(&hidden, &head.values(), c, &targets, 1.0);
            let mut found = vec![0.0; n * c];
            assert_near(
                &forward(&hidden, &head, &targets, Some((&mut found, 1.0))),
                &losses,
                2e-5,
            );
            assert_near(&found, &gradient, 2e-5);
            let unpacked = Matrix::from_f32(vocabulary, c, head.values());
            assert_eq!(argmax(&hidden, &head), argmax(&hidden, &unpacked));
        }
    }

    /// Greedy generation takes the first of equal maxima, wherever the cuts fall.
    #[test]
    fn argmax_takes_the_first_of_equal() {
        let vocabulary = 40 * TILE + 5;
        for places in [
            vec![0, 1],
            vec![TILE - 1, TILE],
            vec![3, 2 * TILE, vocabulary - 1],
            vec![vocabulary - 1],
        ] {
            let mut values = vec![-1.0; vocabulary];
            for &place in &places {
                values[place] = 2.0;
            }
            let head = Matrix::from_f32(vocabulary, 1, values);
            let tokens = argmax(&[1.0; 33], &head);
            assert_eq!(tokens, [places[0] as u32; 33]);
        }
        assert_eq!(
            argmax(&[0.0, f32::NAN], &Matrix::from_f32(3, 1, vec![1.0; 3])),
            [0, 0]
        );
        assert!(argmax(&[], &Matrix::from_f32(3, 1, vec![1.0; 3])).is_empty());
    }

    /// Against the plain search, for several blocks of positions.
    #[test]
    fn argmax_is_the_largest() {
        let (vocabulary, c) = (3000, 16);
        for n in [1, 17, 200] {
            let (hidden, values) = (random(14, n * c, 1.0), random(15, vocabulary * c, 1.0));
            let tokens = argmax(&hidden, &Matrix::from_f32(vocabulary, c, values.clone()));
            for (token, hidden) in tokens.iter().zip(hidden.chunks(c)) {
                let dot = |row: &[f32]| row.iter().zip(hidden).map(|(w, h)| w * h).sum::<f32>();
                let logits: Vec<f32> = values.chunks(c).map(dot).collect();
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert!(max - logits[*token as usize] < 1e-5);
            }
        }
    }
}
