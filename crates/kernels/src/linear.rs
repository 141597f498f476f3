//! Linear projections with frozen weights and trainable low-rank updates, forward and backward.
//!
//! For each projection `p` of one input (LoRA, arXiv 2106.09685, section 4.1, with dropout before A):
//!
//! ```text
//! y_p = x W_p^T + sum over its updates of scale * low B^T,    low = (x ∘ mask) A^T
//!
//! dlow = scale * dy_p B            dA = dlow^T (x ∘ mask)
//! dx = sum_p dy_p W_p + sum over updates of mask ∘ (dlow A)
//!                                  dB = scale * dy_p^T low
//! ```
//!
//! | | shape |
//! |---|---|
//! | x, dx | (N, in) |
//! | y_p, dy_p | (N, out_p), side by side in y: (N, sum of out_p) |
//! | W_p | (out_p, in) |
//! | A, B | (r, in), (out_p, r) |
//!
//! A low-rank update only lengthens the sums of its projection: `y_p = [x, scale * low] [W_p, B]^T`. It is added while the rows are in the cache
//! and costs no pass over `y`. Weights are never packed; those that are not stored as `f32` are converted a tile of
//! rows at a time.

mod panel;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use rayon::prelude::*;

use crate::matrix::Matrix;
use crate::simd;
use panel::{PANEL, Rows, accumulate, dots, even, transpose, transpose_to};

/// Weight rows of a tile: (48, 576) values are 108 KiB, well within a second-level cache.
const TILE: usize = 48;
/// Panels that a tile meets, at most: 256 rows of x.
const PANELS: usize = 4;
/// Up to so many rows of x, a projection is dot products of rows.
const FEW: usize = 8;
/// Rows of dy that a block of weights meets in the backward pass, at most.
const ROWS: usize = 192;
/// Rows of dy that meet B at a time.
const DOTS: usize = 32;
/// Terms of a sum in the backward pass that are taken at a time: a (128, 64) block fills a first-level cache.
const TERMS: usize = 128;

/// Writes dropout's factors of one row of x, given its index.
pub type Mask<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// The low-rank update of one of the projections: `y_p += scale * ((x ∘ mask) A^T) B^T`.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// Index of its projection in `weights`.
    pub projection: usize,
    /// (r, in)
    pub a: &'a [f32],
    /// (out, r)
    pub b: &'a [f32],
    /// r
    pub rank: usize,
    /// Factor of the update, such as `alpha / r`.
    pub scale: f32,
    /// Writes dropout's factors of one row of x, given its index.
    pub mask: Option<Mask<'a>>,
}

/// What the loss changes by with the matrices of one update.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// (r, in)
    pub a: Vec<f32>,
    /// (out, r)
    pub b: Vec<f32>,
}

/// `y = x W^T` for all weights, plus their updates. Returns `low = (x ∘ mask) A^T`, (N, r), of each update, which [`backward`] wants.
///
/// `y`, (N, sum of out_p), has the outputs of the projections side by side in the order of `weights`; what it held does not matter.
///
/// # Panics
/// Where the shapes do not fit.
pub fn forward(
    x: &[f32],
    n: usize,
    weights: &[&Matrix],
    updates: &[Update],
    y: &mut [f32],
) -> Vec<Vec<f32>> {
    let shape = Shape::new(n, weights, updates);
    assert_eq!(x.len(), n * shape.input, "x is (N, in)");
    assert_eq!(y.len(), n * shape.output, "y is (N, sum of out)");
    if n == 0 || shape.output == 0 {
        return updates.iter().map(|u| vec![0.0; n * u.rank]).collect();
    }
    if shape.input == 0 {
        y.fill(0.0);
        return updates.iter().map(|u| vec![0.0; n * u.rank]).collect();
    }
    if n <= FEW {
        few(x, n, &shape, weights, updates, y)
    } else {
        many(x, n, &shape, weights, updates, y)
    }
}

/// The gradients of [`forward`] for `dy`, (N, sum of out_p): of `x` in `dx` (N, in), overwritten, unless it is not wanted, and of the
/// matrices of each update. `lows` is what [`forward`] returned. Without `x` the gradients of A are empty: no other needs it (LoRA-FA, arXiv
/// 2308.03303).
///
/// # Panics
/// Where the shapes do not fit.
pub fn backward(
    x: Option<&[f32]>,
    n: usize,
    dy: &[f32],
    weights: &[&Matrix],
    updates: &[Update],
    lows: &[Vec<f32>],
    dx: Option<&mut [f32]>,
) -> Vec<Gradients> {
    let shape = Shape::new(n, weights, updates);
    assert_eq!(dy.len(), n * shape.output, "dy is (N, sum of out)");
    assert_eq!(lows.len(), updates.len(), "one low for each update");
    for (low, update) in lows.iter().zip(updates) {
        assert_eq!(low.len(), n * update.rank, "low is (N, r)");
    }
    let ranks = Ranks::new(updates);
    let dlow = low_gradient(dy, n, &shape, updates, &ranks);
    if let Some(dx) = dx {
        assert_eq!(dx.len(), n * shape.input, "dx is (N, in)");
        input_gradient(dy, n, &shape, weights, updates, (&ranks, &dlow), dx);
    }
    if updates.is_empty() {
        return Vec::new();
    }
    let a = match x {
        Some(x) => {
            assert_eq!(x.len(), n * shape.input, "x is (N, in)");
            a_gradients(x, n, &shape, updates, (&ranks, &dlow))
        }
        None => vec![Vec::new(); updates.len()],
    };
    let b = b_gradients(n, dy, &shape, updates, lows);
    a.into_iter()
        .zip(b)
        .map(|(a, b)| Gradients { a, b })
        .collect()
}

/// Adds `bias` (width) to every row of `y`, (N, width).
///
/// # Panics
/// Where `y` is not whole rows.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    if bias.is_empty() {
        return;
    }
    assert!(y.len().is_multiple_of(bias.len()), "y is (N, width)");
    y.par_chunks_mut(bias.len())
        .with_min_len(16)
        .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
}

/// Rows of a table: (ids.len(), columns).
///
/// # Panics
/// Where an id has no row or `out` another length.
pub fn embed(table: &Matrix, ids: &[u32], out: &mut [f32]) {
    let columns = table.columns();
    assert_eq!(out.len(), ids.len() * columns, "out is (ids, columns)");
    if columns == 0 {
        return;
    }
    out.par_chunks_mut(columns)
        .with_min_len(16)
        .zip(ids)
        .for_each(|(out, &id)| {
            let row = id as usize;
            table.write(row..row + 1, 0..columns, out, columns);
        });
}

/// What the arguments have in common.
struct Shape {
    input: usize,
    output: usize,
    /// Where the columns of each projection are in y.
    columns: Vec<Range<usize>>,
}

impl Shape {
    fn new(n: usize, weights: &[&Matrix], updates: &[Update]) -> Self {
        let input = weights.first().map_or(0, |w| w.columns());
        let mut output = 0;
        let mut columns = Vec::with_capacity(weights.len());
        for weight in weights {
            assert_eq!(weight.columns(), input, "projections of one input");
            columns.push(output..output + weight.rows());
            output += weight.rows();
        }
        for update in updates {
            let out = columns[update.projection].len();
            assert_eq!(update.a.len(), update.rank * input, "A is (r, in)");
            assert_eq!(update.b.len(), out * update.rank, "B is (out, r)");
        }
        assert!(n.checked_mul(input.max(output)).is_some());
        Shape {
            input,
            output,
            columns,
        }
    }

    /// Tiles of weight rows, as (projection, rows).
    fn tiles(&self) -> Vec<(usize, Range<usize>)> {
        let tiles = |(p, columns): (usize, &Range<usize>)| {
            even(columns.len(), TILE).map(move |rows| (p, rows))
        };
        self.columns.iter().enumerate().flat_map(tiles).collect()
    }
}

/// A slice that tasks write disjoint parts of.
struct Shared {
    at: *mut f32,
    len: usize,
}

// SAFETY: see `row`.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(values: &mut [f32]) -> Self {
        Shared {
            at: values.as_mut_ptr(),
            len: values.len(),
        }
    }

    /// The first of some values, to be used as [`Shared::part`] is.
    fn pointer(&self, range: Range<usize>) -> *mut f32 {
        assert!(range.start <= range.end && range.end <= self.len);
        self.at.wrapping_add(range.start)
    }

    /// # Safety
    /// The slice must be alive, and no two tasks may ask for one value.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range.clone()), range.len()) }
    }
}

thread_local! {
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Memory of this thread that tasks use and leave behind. Not to be held across a call into rayon, which may run another task.
fn with_scratch<T>(run: impl FnOnce(&mut [Vec<f32>; 3]) -> T) -> T {
    SCRATCH.with(|scratch| run(&mut scratch.borrow_mut()))
}

/// The first `len` values, of any content.
fn at_least(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

/// Where each update has its columns where those of all are side by side. Those without a mask come first: what reads x, or
/// makes dx, does so for all of them at once.
struct Ranks {
    columns: Vec<Range<usize>>,
    unmasked: usize,
    all: usize,
}

impl Ranks {
    fn new(updates: &[Update]) -> Self {
        let mut columns = vec![0..0; updates.len()];
        let (mut unmasked, mut all) = (0, 0);
        for masked in [false, true] {
            unmasked = if masked { all } else { unmasked };
            for (columns, update) in columns.iter_mut().zip(updates) {
                if update.mask.is_some() == masked {
                    *columns = all..all + update.rank;
                    all += update.rank;
                }
            }
        }
        Ranks {
            columns,
            unmasked,
            all,
        }
    }
}

/// The update whose `low` is that of update `i`, too: the first that reads the same A, both without a mask.
fn first_of_a(updates: &[Update], i: usize) -> usize {
    let same = |u: &Update| u.mask.is_none() && std::ptr::eq(u.a, updates[i].a);
    match updates[i].mask {
        None => updates[..i].iter().position(same).unwrap_or(i),
        Some(_) => i,
    }
}

/// `x ∘ mask` of one row.
fn apply(mask: Mask, row: usize, x: &[f32], out: &mut [f32]) {
    mask(row, out);
    for (out, x) in out.iter_mut().zip(x) {
        *out *= x;
    }
}

/// `x ∘ mask`, (N, in).
fn masked(mask: Mask, x: &[f32], input: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    if input > 0 {
        out.par_chunks_mut(input)
            .zip(x.par_chunks(input))
            .enumerate()
            .for_each(|(row, (out, x))| apply(mask, row, x, out));
    }
    out
}

/// [`forward`] for at most [`FEW`] rows: bound by the reading of weights, which happens once.
fn few(
    x: &[f32],
    n: usize,
    shape: &Shape,
    weights: &[&Matrix],
    updates: &[Update],
    y: &mut [f32],
) -> Vec<Vec<f32>> {
    let input = shape.input;
    let mut lows: Vec<Vec<f32>> = Vec::with_capacity(updates.len());
    for (i, update) in updates.iter().enumerate() {
        let first = first_of_a(updates, i);
        lows.push(if first < i {
            lows[first].clone()
        } else {
            let masked = update.mask.map(|mask| masked(mask, x, input));
            let x = Rows::new(masked.as_deref().unwrap_or(x), input, n);
            let a = Rows::new(update.a, input, update.rank);
            let mut low = vec![0.0; n * update.rank];
            dots(&mut low, update.rank, x, a, input);
            low
        });
    }
    let y = Shared::new(y);
    let tiles = shape.tiles().into_par_iter().with_max_len(1);
    tiles.for_each(|(p, rows)| {
        with_scratch(|[weight, product, extra]| {
            let m = rows.len();
            let tile = Rows::new(weights[p].tile(rows.clone(), weight), input, m);
            let product = at_least(product, n * TILE);
            dots(product, TILE, Rows::new(x, input, n), tile, input);
            for (update, low) in updates.iter().zip(&lows) {
                if update.projection != p {
                    continue;
                }
                let rank = update.rank;
                let b = Rows::new(&update.b[rows.start * rank..], rank, m);
                let extra = at_least(extra, n * TILE);
                dots(extra, TILE, Rows::new(low, rank, n), b, rank);
                for (product, extra) in product.iter_mut().zip(&*extra) {
                    *product += update.scale * extra;
                }
            }
            for (row, product) in product.chunks_exact(TILE).enumerate() {
                let start = row * shape.output + shape.columns[p].start + rows.start;
                // SAFETY: tiles are different columns of y.
                unsafe { y.part(start..start + m) }.copy_from_slice(&product[..m]);
            }
        });
    });
    lows
}

/// [`forward`] by panels of x^T, (in, 64 rows of x).
fn many(
    x: &[f32],
    n: usize,
    shape: &Shape,
    weights: &[&Matrix],
    updates: &[Update],
    y: &mut [f32],
) -> Vec<Vec<f32>> {
    let input = shape.input;
    let panels = n.div_ceil(PANEL);
    let width = |panel: usize| (n - panel * PANEL).min(PANEL);
    let ranks = Ranks::new(updates);

    // x^T and low^T; the memory of the former stays with the thread.
    let mut packed = PACKED.take();
    let packed_len = panels * input * PANEL;
    at_least(&mut packed, packed_len);
    let mut low_panels = vec![0.0; panels * ranks.all * PANEL];
    let shared_lows = Shared::new(&mut low_panels);
    packed[..packed_len]
        .par_chunks_exact_mut(input * PANEL)
        .enumerate()
        .for_each(|(panel, packed)| {
            let len = ranks.all * PANEL;
            // SAFETY: each task has its panel.
            let lows = unsafe { shared_lows.part(panel * len..(panel + 1) * len) };
            let width = width(panel);
            let x = &x[panel * PANEL * input..][..width * input];
            transpose(Rows::new(x, input, width), input, packed, PANEL);
            for (i, update) in updates.iter().enumerate() {
                let lanes = |i: usize| ranks.columns[i].start * PANEL..ranks.columns[i].end * PANEL;
                let first = first_of_a(updates, i);
                if first < i {
                    lows.copy_within(lanes(first), lanes(i).start);
                    continue;
                }
                let low = &mut lows[lanes(i)];
                let a = Rows::new(update.a, input, update.rank);
                match update.mask {
                    None => accumulate(low, a, Rows::new(packed, PANEL, input), width),
                    Some(mask) => with_scratch(|[rows, packed, _]| {
                        let rows = at_least(rows, width * input);
                        for (row, out) in rows.chunks_exact_mut(input).enumerate() {
                            apply(mask, panel * PANEL + row, &x[row * input..][..input], out);
                        }
                        let packed = at_least(packed, input * PANEL);
                        transpose(Rows::new(rows, input, width), input, packed, PANEL);
                        accumulate(low, a, Rows::new(packed, PANEL, input), width);
                    }),
                }
            }
        });
    let lows = updates
        .par_iter()
        .zip(&ranks.columns)
        .map(|(update, columns)| {
            let rank = update.rank;
            let mut low = vec![0.0; n * rank];
            for (panel, low) in low.chunks_mut((PANEL * rank).max(1)).enumerate() {
                let from = &low_panels[(panel * ranks.all + columns.start) * PANEL..];
                transpose(Rows::new(from, PANEL, rank), width(panel), low, rank);
            }
            low
        })
        .collect();
    for panel in low_panels.chunks_exact_mut((ranks.all * PANEL).max(1)) {
        for (update, columns) in updates.iter().zip(&ranks.columns) {
            for low in &mut panel[columns.start * PANEL..columns.end * PANEL] {
                *low *= update.scale;
            }
        }
    }

    let cut = |(p, rows): (usize, Range<usize>)| {
        even(panels, PANELS).map(move |panels| (p, rows.clone(), panels))
    };
    let jobs: Vec<_> = shape.tiles().into_iter().flat_map(cut).collect();
    let y = Shared::new(y);
    jobs.into_par_iter()
        .with_max_len(1)
        .for_each(|(p, rows, panels)| {
            with_scratch(|[weight, product, _]| {
                let m = rows.len();
                let tile = Rows::new(weights[p].tile(rows.clone(), weight), input, m);
                let product = at_least(product, TILE * PANEL);
                for panel in panels {
                    let width = width(panel);
                    let x = &packed[panel * input * PANEL..][..input * PANEL];
                    product.fill(0.0);
                    accumulate(product, tile, Rows::new(x, PANEL, input), width);
                    for (update, columns) in updates.iter().zip(&ranks.columns) {
                        if update.projection != p {
                            continue;
                        }
                        let rank = update.rank;
                        let low = &low_panels[(panel * ranks.all + columns.start) * PANEL..];
                        let b = Rows::new(&update.b[rows.start * rank..], rank, m);
                        accumulate(product, b, Rows::new(low, PANEL, rank), width);
                    }
                    let start = panel * PANEL * shape.output + shape.columns[p].start + rows.start;
                    let end = start + (width - 1) * shape.output + m;
                    let product = Rows::new(product, PANEL, m);
                    // SAFETY: jobs are different rows or columns of y.
                    unsafe {
                        let y = y.pointer(start..end);
                        transpose_to(product, width, y, shape.output);
                    }
                }
            });
        });
    PACKED.set(packed);
    lows
}

/// `dlow = scale * dy_p B` of all updates, side by side: (N, sum of r).
fn low_gradient(
    dy: &[f32],
    n: usize,
    shape: &Shape,
    updates: &[Update],
    ranks: &Ranks,
) -> Vec<f32> {
    let mut dlow = vec![0.0; n * ranks.all];
    if dlow.is_empty() {
        return dlow;
    }
    // B^T, (r, out), scaled.
    let transpose_b = |update: &Update| {
        let out = shape.columns[update.projection].len();
        let mut b = vec![0.0; update.rank * out];
        transpose(
            Rows::new(update.b, update.rank, out),
            update.rank,
            &mut b,
            out,
        );
        b.iter_mut().for_each(|b| *b *= update.scale);
        b
    };
    let transposed: Vec<Vec<f32>> = updates.iter().map(transpose_b).collect();
    dlow.par_chunks_mut(DOTS * ranks.all)
        .enumerate()
        .for_each(|(piece, dlow)| {
            let n = dlow.len() / ranks.all;
            for ((update, columns), b) in updates.iter().zip(&ranks.columns).zip(&transposed) {
                let out = &shape.columns[update.projection];
                let dy = &dy[piece * DOTS * shape.output + out.start..];
                let dy = Rows::new(dy, shape.output, n);
                let b = Rows::new(b, out.len(), update.rank);
                dots(&mut dlow[columns.start..], ranks.all, dy, b, out.len());
            }
        });
    dlow
}

/// `dx = sum_p dy_p W_p + sum over updates of mask ∘ (dlow A)`, (N, in).
fn input_gradient(
    dy: &[f32],
    n: usize,
    shape: &Shape,
    weights: &[&Matrix],
    updates: &[Update],
    (ranks, dlow): (&Ranks, &[f32]),
    dx: &mut [f32],
) {
    let (input, output) = (shape.input, shape.output);
    if dx.is_empty() {
        return;
    }
    // A of the updates without a mask, (sum of r, in).
    let mut a = vec![0.0; ranks.unmasked * input];
    for (update, columns) in updates.iter().zip(&ranks.columns) {
        if update.mask.is_none() {
            a[columns.start * input..columns.end * input].copy_from_slice(update.a);
        }
    }
    let panels = input.div_ceil(PANEL);
    let jobs: Vec<_> = even(n, ROWS)
        .flat_map(|rows| (0..panels).map(move |panel| (rows.clone(), panel)))
        .collect();
    let shared = Shared::new(dx);
    jobs.into_par_iter()
        .with_max_len(1)
        .for_each(|(rows, panel)| {
            with_scratch(|[block, sum, _]| {
                let m = rows.len();
                let inputs = panel * PANEL..input.min((panel + 1) * PANEL);
                let block = at_least(block, TERMS * PANEL);
                let sum = at_least(sum, m * PANEL);
                sum.fill(0.0);
                for (weight, columns) in weights.iter().zip(&shape.columns) {
                    for terms in even(columns.len(), TERMS) {
                        let block = match weight.in_place() {
                            Some(values) if inputs.len() == PANEL => {
                                let start = terms.start * input + inputs.start;
                                Rows::new(&values[start..], input, terms.len())
                            }
                            _ => {
                                weight.write(terms.clone(), inputs.clone(), block, PANEL);
                                Rows::new(block, PANEL, terms.len())
                            }
                        };
                        let dy = &dy[rows.start * output + columns.start + terms.start..];
                        accumulate(sum, Rows::new(dy, output, m), block, inputs.len());
                    }
                }
                let dlow = &dlow[rows.start * ranks.all..];
                for terms in even(ranks.unmasked, TERMS) {
                    let a = &a[terms.start * input + inputs.start..];
                    let a = panel_of(Rows::new(a, input, terms.len()), inputs.len(), block);
                    let dlow = Rows::new(&dlow[terms.start..], ranks.all, m);
                    accumulate(sum, dlow, a, inputs.len());
                }
                for (row, sum) in rows.zip(sum.chunks_exact(PANEL)) {
                    let start = row * input;
                    // SAFETY: jobs are different rows or columns of dx.
                    let dx = unsafe { shared.part(start + inputs.start..start + inputs.end) };
                    dx.copy_from_slice(&sum[..dx.len()]);
                }
            });
        });
    for (update, columns) in updates.iter().zip(&ranks.columns) {
        let Some(mask) = update.mask else { continue };
        let rows = dx.par_chunks_mut(input).zip(dlow.par_chunks(ranks.all));
        rows.enumerate().for_each(|(row, (dx, dlow))| {
            with_scratch(|[factors, product, _]| {
                let factors = at_least(factors, input);
                let product = at_least(product, input);
                mask(row, factors);
                simd::dispatch(
                    #[inline(always)]
                    || {
                        product.fill(0.0);
                        let a = update.a.chunks_exact(input);
                        for (dlow, a) in dlow[columns.clone()].iter().zip(a) {
                            for (product, a) in product.iter_mut().zip(a) {
                                *product += dlow * a;
                            }
                        }
                        for ((dx, product), factor) in dx.iter_mut().zip(&*product).zip(&*factors) {
                            *dx += product * factor;
                        }
                    },
                );
            });
        });
    }
}

/// A panel in place, or copied where it is so narrow that a vector could reach over its end.
fn panel_of<'a>(rows: Rows<'a>, width: usize, copy: &'a mut [f32]) -> Rows<'a> {
    if width == PANEL {
        return rows;
    }
    for (i, out) in copy.chunks_exact_mut(PANEL).take(rows.count).enumerate() {
        out[..width].copy_from_slice(&rows.values[i * rows.stride..][..width]);
    }
    Rows::new(copy, PANEL, rows.count)
}

/// `dA = dlow^T (x ∘ mask)`, (r, in), of each update.
fn a_gradients(
    x: &[f32],
    n: usize,
    shape: &Shape,
    updates: &[Update],
    (ranks, dlow): (&Ranks, &[f32]),
) -> Vec<Vec<f32>> {
    let input = shape.input;
    let x_rows = Rows::new(x, input, n);
    let unmasked = outer(Rows::new(dlow, ranks.all, n), ranks.unmasked, x_rows, input);
    updates
        .iter()
        .zip(&ranks.columns)
        .map(|(update, columns)| match update.mask {
            None => unmasked[columns.start * input..columns.end * input].to_vec(),
            Some(mask) => {
                let x = masked(mask, x, input);
                let dlow = Rows::new(dlow.get(columns.start..).unwrap_or_default(), ranks.all, n);
                outer(dlow, update.rank, Rows::new(&x, input, n), input)
            }
        })
        .collect()
}

/// `dB = scale * dy_p^T low`, (out, r), of each update.
fn b_gradients(
    n: usize,
    dy: &[f32],
    shape: &Shape,
    updates: &[Update],
    lows: &[Vec<f32>],
) -> Vec<Vec<f32>> {
    updates
        .par_iter()
        .zip(lows)
        .map(|(update, low)| {
            let (rank, columns) = (update.rank, &shape.columns[update.projection]);
            let out = columns.len();
            let dy = Rows::new(dy.get(columns.start..).unwrap_or_default(), shape.output, n);
            let transposed = outer(Rows::new(low, rank, n), rank, dy, out);
            let mut b = vec![0.0; out * rank];
            transpose(Rows::new(&transposed, out, rank), out, &mut b, rank);
            b.iter_mut().for_each(|b| *b *= update.scale);
            b
        })
        .collect()
}

/// `left^T right`: (N, r)^T x (N, width) -> (r, width).
fn outer(left: Rows, rank: usize, right: Rows, width: usize) -> Vec<f32> {
    let n = left.count;
    let mut out = vec![0.0; rank * width];
    if out.is_empty() {
        return out;
    }
    let mut transposed = vec![0.0; rank * n];
    transpose(left, rank, &mut transposed, n);
    let shared = Shared::new(&mut out);
    let panels = (0..width.div_ceil(PANEL)).into_par_iter().with_max_len(1);
    panels.for_each(|panel| {
        with_scratch(|[block, sum, _]| {
            let columns = panel * PANEL..width.min((panel + 1) * PANEL);
            let block = at_least(block, TERMS * PANEL);
            let sum = at_least(sum, rank * PANEL);
            sum.fill(0.0);
            for terms in even(n, TERMS) {
                let values = &right.values[terms.start * right.stride + columns.start..];
                let right = Rows::new(values, right.stride, terms.len());
                let left = Rows::new(&transposed[terms.start..], n, rank);
                accumulate(
                    sum,
                    left,
                    panel_of(right, columns.len(), block),
                    columns.len(),
                );
            }
            for (row, sum) in sum.chunks_exact(PANEL).enumerate() {
                let start = row * width;
                // SAFETY: panels are different columns.
                let out = unsafe { shared.part(start + columns.start..start + columns.end) };
                out.copy_from_slice(&sum[..out.len()]);
            }
        });
    });
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::matrix::Format;

    fn random(random: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// A call of both passes, by value.
    struct Case {
        n: usize,
        input: usize,
        x: Vec<f32>,
        dy: Vec<f32>,
        weights: Vec<Matrix>,
        sites: Vec<Site>,
    }

    struct Site {
        projection: usize,
        a: Vec<f32>,
        b: Vec<f32>,
        rank: usize,
        scale: f32,
        masked: bool,
    }

    fn mask(row: usize, factors: &mut [f32]) {
        for (column, factor) in factors.iter_mut().enumerate() {
            *factor = if (row * 31 + column * 17).is_multiple_of(5) {
                0.0
            } else {
                1.25
            };
        }
    }

    impl Case {
        fn new(
            n: usize,
            input: usize,
            outs: &[usize],
            sites: &[(usize, usize, bool)],
            format: Format,
            seed: u64,
        ) -> Self {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let weights: Vec<Matrix> = outs
                .iter()
                .map(|&out| {
                    Matrix::from_f32(out, input, random(rng, out * input)).to_format(format)
                })
                .collect();
            let sites = sites
                .iter()
                .map(|&(projection, rank, masked)| {
                    let projection = projection % outs.len();
                    Site {
                        projection,
                        a: random(rng, rank * input),
                        b: random(rng, outs[projection] * rank),
                        rank,
                        scale: rng.random_range(0.5..2.0),
                        masked,
                    }
                })
                .collect();
            let output: usize = outs.iter().sum();
            let (x, dy) = (random(rng, n * input), random(rng, n * output));
            Case {
                n,
                input,
                x,
                dy,
                weights,
                sites,
            }
        }

        fn updates<'a>(&'a self) -> Vec<Update<'a>> {
            let update = |site: &'a Site| {
                // One A for all sites of a rank: what they share may not change the result.
                let first = self.sites.iter().find(|s| s.rank == site.rank).unwrap();
                Update {
                    projection: site.projection,
                    a: &first.a,
                    b: &site.b,
                    rank: site.rank,
                    scale: site.scale,
                    mask: if site.masked { Some(&mask) } else { None },
                }
            };
            self.sites.iter().map(update).collect()
        }

        fn run(&self) -> (Vec<f32>, Vec<Vec<f32>>, Vec<f32>, Vec<Gradients>) {
            let weights: Vec<&Matrix> = self.weights.iter().collect();
            let updates = self.updates();
            let mut y = vec![f32::NAN; self.dy.len()];
            let mut dx = vec![f32::NAN; self.x.len()];
            let lows = forward(&self.x, self.n, &weights, &updates, &mut y);
            let gradients = backward(
                Some(&self.x),
                self.n,
                &self.dy,
                &weights,
                &updates,
                &lows,
                Some(&mut dx),
            );
            (y, lows, dx, gradients)
        }

        /// y of other x, A and B, in double precision.
        fn reference(&self, x: &[f64], matrices: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
            let mut y = Vec::new();
            let values: Vec<Vec<f32>> = self.weights.iter().map(Matrix::values).collect();
            for row in 0..self.n {
                let x = &x[row * self.input..][..self.input];
                let mut factors = vec![1.0; self.input];
                mask(row, &mut factors);
                for (p, weight) in self.weights.iter().enumerate() {
                    for out in 0..weight.rows() {
                        let w = &values[p][out * self.input..][..self.input];
                        let mut sum: f64 = x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum();
                        for (site, (a, b)) in self
                            .sites
                            .iter()
                            .zip(matrices)
                            .filter(|(s, _)| s.projection == p)
                        {
                            for r in 0..site.rank {
                                let a = &a[r * self.input..][..self.input];
                                let low: f64 = (0..self.input)
                                    .map(|i| {
                                        x[i] * a[i]
                                            * if site.masked {
                                                f64::from(factors[i])
                                            } else {
                                                1.0
                                            }
                                    })
                                    .sum();
                                sum += f64::from(site.scale) * low * b[out * site.rank + r];
                            }
                        }
                        y.push(sum);
                    }
                }
            }
            y
        }

        fn matrices(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
            self.updates()
                .iter()
                .map(|u| (wide(u.a), wide(u.b)))
                .collect()
        }
    }

    fn close(found: &[f32], expected: &[f64], terms: usize) -> Result<(), TestCaseError> {
        prop_assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            prop_assert!(
                error <= 2e-6 * (1.0 + terms as f64),
                "{i}: {found} instead of {expected}"
            );
        }
        Ok(())
    }

    const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::F16];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every path (few rows, panels, partial ones), against the sums as they are written.
        #[test]
        fn forward_is_the_formula(n in prop::sample::select(vec![0usize, 1, 2, 5, 8, 9, 17, 63, 64, 65, 131, 300]), input in 0usize..150,
                                  outs in prop::collection::vec(0usize..120, 1..4), format in prop::sample::select(&FORMATS[..]),
                                  sites in prop::collection::vec((0usize..4, 1usize..12, any::<bool>()), 0..4), seed: u64) {
            let case = Case::new(n, input, &outs, &sites, format, seed);
            let (y, lows, ..) = case.run();
            prop_assert_eq!(lows.len(), case.sites.len());
            let x: Vec<f64> = case.x.iter().map(|&v| f64::from(v)).collect();
            close(&y, &case.reference(&x, &case.matrices()), 12 * input)?;
        }

        /// The gradients against differences of the formula. It is linear in x, in A and in B, so a difference of any length is exact.
        #[test]
        fn backward_is_the_derivative(n in prop::sample::select(vec![0usize, 1, 3, 8, 20, 70]), input in 0usize..100,
                                      outs in prop::collection::vec(0usize..80, 1..4), format in prop::sample::select(&FORMATS[..]),
                                      sites in prop::collection::vec((0usize..4, 1usize..9, any::<bool>()), 0..4), seed: u64) {
            let case = Case::new(n, input, &outs, &sites, format, seed);
            let (_, _, dx, gradients) = case.run();
            let x: Vec<f64> = case.x.iter().map(|&v| f64::from(v)).collect();
            let matrices = case.matrices();
            let loss = |x: &[f64], matrices: &[(Vec<f64>, Vec<f64>)]| -> f64 {
                case.reference(x, matrices).iter().zip(&case.dy).map(|(y, dy)| y * f64::from(*dy)).sum()
            };
            let here = loss(&x, &matrices);
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let terms = 12 * (n + input + outs.iter().sum::<usize>());
            for _ in 0..4.min(x.len()) {
                let i = rng.random_range(0..x.len());
                let mut other = x.clone();
                other[i] += 1.0;
                close(&dx[i..=i], &[loss(&other, &matrices) - here], terms)?;
            }
            prop_assert_eq!(gradients.len(), case.sites.len());
            for (i, gradient) in gradients.iter().enumerate() {
                prop_assert_eq!((gradient.a.len(), gradient.b.len()), (matrices[i].0.len(), matrices[i].1.len()));
                for _ in 0..4 {
                    if !gradient.a.is_empty() {
                        let at = rng.random_range(0..gradient.a.len());
                        let mut other = matrices.clone();
                        other[i].0[at] += 1.0;
                        close(&gradient.a[at..=at], &[loss(&x, &other) - here], terms)?;
                    }
                    if !gradient.b.is_empty() {
                        let at = rng.random_range(0..gradient.b.len());
                        let mut other = matrices.clone();
                        other[i].1[at] += 1.0;
                        close(&gradient.b[at..=at], &[loss(&x, &other) - here], terms)?;
                    }
                }
            }
        }

        /// Quantised weights give what their values in full precision give, to the bit.
        #[test]
        fn quantised_weights_are_their_values(n in prop::sample::select(vec![1usize, 8, 40, 150]), blocks in 1usize..5, out in 1usize..130,
                                              seed: u64, format in prop::sample::select(vec![Format::Q8_0, Format::Q4_1, Format::Nf4])) {
            let input = if format == Format::Nf4 { 64 } else { 32 } * blocks;
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let quantised = if format == Format::Q4_1 {
                let mut raw = vec![0u8; out * blocks * 20];
                rng.fill(&mut raw[..]);
                raw.chunks_exact_mut(20).for_each(|b| { b[1] = 0x2c; b[3] = 0xac; });
                Matrix::new(out, input, format, crate::matrix::Bytes::copy_of(&raw), None).unwrap()
            } else {
                Matrix::from_f32(out, input, random(rng, out * input)).to_format(format)
            };
            let plain = Matrix::from_f32(out, input, quantised.values());
            let (x, dy) = (random(rng, n * input), random(rng, n * out));
            let run = |weight: &Matrix| {
                let (mut y, mut dx) = (vec![0.0; n * out], vec![0.0; n * input]);
                forward(&x, n, &[weight], &[], &mut y);
                backward(None, n, &dy, &[weight], &[], &[], Some(&mut dx));
                (y, dx)
            };
            prop_assert_eq!(run(&quantised), run(&plain));
        }

        /// Rows do not feel their neighbours: the batch that a row is in does not change its result.
        #[test]
        fn a_row_does_not_depend_on_the_batch(input in 1usize..200, out in 1usize..100, few in 1usize..8, many in 9usize..140, seed: u64) {
            let case = Case::new(200, input, &[out], &[(0, 4, true)], Format::F32, seed);
            let run = |n: usize| {
                let mut y = vec![0.0; n * out];
                forward(&case.x[..n * input], n, &[&case.weights[0]], &case.updates(), &mut y);
                y
            };
            prop_assert_eq!(&run(few)[..], &run(FEW)[..few * out]);
            prop_assert_eq!(&run(many)[..], &run(200)[..many * out]);
        }
    }

    /// The same bits on any number of threads, which reproducible runs rest on.
    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        for n in [5, 300] {
            let case = Case::new(
                n,
                160,
                &[100, 70],
                &[(0, 8, false), (1, 8, true), (1, 3, false)],
                Format::Bf16,
                1,
            );
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| case.run())
            };
            let one = on(1);
            assert!(one.0.iter().chain(&one.2).all(|v| v.is_finite()));
            assert_eq!(one, on(2));
            assert_eq!(one, on(4));
        }
    }

    #[test]
    fn frozen_layers_pass_gradients_without_x() {
        let weight = Matrix::from_f32(1, 2, vec![3.0, 4.0]);
        let mut dx = [0.0; 4];
        assert!(backward(None, 2, &[1.0, 10.0], &[&weight], &[], &[], Some(&mut dx)).is_empty());
        assert_eq!(dx, [3.0, 4.0, 30.0, 40.0]);
    }

    #[test]
    fn embed_takes_rows() {
        let table =
            Matrix::from_f32(3, 2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).to_format(Format::Bf16);
        let mut out = [0.0; 6];
        embed(&table, &[2, 0, 2], &mut out);
        assert_eq!(out, [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    }
}
