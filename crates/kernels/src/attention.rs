//! Attention of packed sequences: exact, without ever holding the matrix of scores.
//!
//! ```text
//! s_ij = q_i · k_j / sqrt(D)      p_ij = exp(s_ij - lse_i)      lse_i = log sum_j exp(s_ij)      out_i = sum_j p_ij v_j
//! ```
//!
//! Keys come in blocks; a running maximum and a running sum make the softmax of all of them (Milakov and Gimelshein, arXiv
//! 1805.02867; FlashAttention, arXiv 2205.14135, algorithm 1, and 2307.08691, section 3.1). The backward pass makes the scores
//! again from `lse` (2205.14135, appendix B.2 and algorithm 4):
//!
//! ```text
//! delta_i = dout_i · out_i        ds_ij = p_ij (dout_i · v_j - delta_i)
//! dv_j = sum_i p_ij dout_i        dq_i = sum_j ds_ij k_j / sqrt(D)        dk_j = sum_i ds_ij q_i / sqrt(D)
//! ```
//!
//! Query heads that read the same key head are worked on together. A block of scores is stored with a row a key and a column
//! ("lane") for each query and head of the group, position by position: lane `i * group + g`. So maxima and sums run
//! down the columns, many lanes in one vector, and what the causal mask hides from a key is the beginning of its row.

use crate::product::{View, multiply};
use crate::simd::{dispatch, exp};
use rayon::prelude::*;
use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

/// Positions in a block of queries, at most.
const QUERIES: usize = 64;
/// Lanes in a block of queries, unless that leaves fewer than [`MIN_QUERIES`] positions.
const MAX_LANES: usize = 256;
const MIN_QUERIES: usize = 16;
/// Keys in a block: the scores of a block, twice in the backward pass, stay in the second-level cache.
const KEYS: usize = 128;
/// Keys that one task of the backward pass works on.
const PIECE: usize = 512;
/// Fewer generated sequences than that are cut into heads.
const FEW_ROWS: usize = 4;
/// Values of that many tokens are summed at a time where there is one query: they stay in the first-level cache.
const TOKENS: usize = 16;
/// Partial results of a sum or a maximum along a row: the lanes of the widest vectors.
const LANES: usize = 16;

/// How a row is cut into heads: query head `h` reads key and value head `h / (query / key)` (grouped-query attention, arXiv
/// 2305.13245).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, a multiple of `key`.
    pub query: usize,
    /// Key heads, and as many value heads.
    pub key: usize,
    /// Values in a head, D.
    pub size: usize,
}

impl Heads {
    /// Query heads that share a key head.
    fn group(self) -> usize {
        self.query / self.key
    }

    /// Values in a row of `qkv`.
    fn width(self) -> usize {
        (self.query + 2 * self.key) * self.size
    }

    /// Where the queries of the group of key head `head` begin in a row of `qkv`.
    fn queries(self, head: usize) -> usize {
        head * self.group() * self.size
    }

    fn keys(self, head: usize) -> usize {
        (self.query + head) * self.size
    }

    fn values(self, head: usize) -> usize {
        (self.query + self.key + head) * self.size
    }

    /// Positions in a block of queries.
    fn block(self) -> usize {
        QUERIES.min(MIN_QUERIES.max(MAX_LANES / self.group()))
    }

    /// Lanes of that many positions: whole vectors, the last lanes being queries of zeros that nobody reads.
    fn lanes(self, positions: usize) -> usize {
        (positions * self.group()).next_multiple_of(LANES)
    }

    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// The number of rows of `qkv`.
    fn rows(self, qkv: &[f32]) -> usize {
        assert!(
            self.key > 0 && self.size > 0 && self.query > 0 && self.query.is_multiple_of(self.key),
            "{self:?}: query heads must be a multiple of key heads, none of the three zero"
        );
        assert_eq!(
            qkv.len() % self.width(),
            0,
            "qkv holds no whole rows of {self:?}"
        );
        qkv.len() / self.width()
    }
}

/// The rows of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub len: usize,
}

/// New tokens of one sequence that is being generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRow {
    /// The rows of the new tokens.
    pub span: Span,
    /// The sequence's place in the cache; no two rows of a call share one.
    pub slot: usize,
    /// Tokens of the sequence that the cache holds already.
    pub past: usize,
}

/// Attention within each span; `causal` hides from a token what comes after it.
///
/// `qkv` (N, (H + 2 Hkv) D): the query heads, the key heads, the value heads; `out` (N, H D), 0 in rows of no span. Returns the
/// log-sum-exp of the scaled scores, (N, H), which [`backward`] wants.
///
/// # Panics
/// Where the shapes do not fit, or spans overlap or leave the rows.
pub fn forward(
    qkv: &[f32],
    heads: Heads,
    spans: &[Span],
    causal: bool,
    out: &mut [f32],
) -> Vec<f32> {
    let rows = heads.rows(qkv);
    assert_eq!(out.len(), rows * heads.query * heads.size);
    let mut lse = vec![0.0; rows * heads.query];
    let mut out_rows = Rows::new(out, heads.query * heads.size);
    let mut lse_rows = Rows::new(&mut lse, heads.query);
    let mut tasks = Vec::new();
    for span in ordered(spans.iter().copied(), rows) {
        out_rows.clear_until(span.start);
        lse_rows.clear_until(span.start);
        cut(heads, span, &mut out_rows, Some(&mut lse_rows), &mut tasks);
    }
    out_rows.clear_until(rows);
    let width = heads.width();
    tasks.into_par_iter().with_max_len(1).for_each(|mut task| {
        let row = |position: usize| &qkv[(task.span.start + position) * width..];
        let memory = Memory {
            keys: &row(0)[heads.keys(task.head)..],
            values: &row(0)[heads.values(task.head)..],
            stride: width,
            count: if causal {
                task.first + task.out.len()
            } else {
                task.span.len
            },
        };
        let queries = &row(task.first)[heads.queries(task.head)..];
        let first = causal.then_some(task.first);
        attend(queries, heads, memory, first, &mut task.out, &mut task.lse);
    });
    lse
}

/// The derivative of [`forward`]: writes the gradient of `qkv`, 0 in rows of no span.
///
/// `out` and `lse` are what `forward` made, `dout` (N, H D) is the gradient of `out`.
///
/// # Panics
/// As `forward`.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    qkv: &[f32],
    heads: Heads,
    spans: &[Span],
    causal: bool,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let rows = heads.rows(qkv);
    let out_width = heads.query * heads.size;
    assert_eq!(out.len(), rows * out_width);
    assert_eq!(dout.len(), rows * out_width);
    assert_eq!(lse.len(), rows * heads.query);
    assert_eq!(dqkv.len(), qkv.len());
    let spans = ordered(spans.iter().copied(), rows);

    // The first piece of the keys of a span writes the gradient of the queries, each later one its own part of that sum.
    let mut partials: Vec<Partial> = Vec::new();
    for span in &spans {
        for start in (PIECE..span.len).step_by(PIECE) {
            let from = if causal { start } else { 0 };
            partials.push(Partial {
                start: span.start + from,
                values: vec![0.0; (span.len - from) * out_width],
            });
        }
    }

    let mut tasks = Vec::new();
    let mut dqkv_rows = Rows::new(dqkv, heads.width());
    let mut parts = partials.iter_mut();
    for &span in &spans {
        dqkv_rows.clear_until(span.start);
        let (dq, dkv): (Vec<_>, Vec<_>) = dqkv_rows
            .take(span.len)
            .map(|row| row.split_at_mut(out_width))
            .unzip();
        let mut dk = deal(dkv.into_iter(), heads.size);
        let dv = dk.split_off(heads.key);
        let mut dk: Vec<_> = dk.into_iter().map(Vec::into_iter).collect();
        let mut dv: Vec<_> = dv.into_iter().map(Vec::into_iter).collect();
        let mut dq = deal(dq.into_iter(), heads.group() * heads.size);
        for start in (0..span.len).step_by(PIECE) {
            if start > 0 {
                let part = parts.next().expect("a partial for each later piece");
                dq = deal(
                    part.values.chunks_exact_mut(out_width),
                    heads.group() * heads.size,
                );
            }
            for (head, dq) in std::mem::take(&mut dq).into_iter().enumerate() {
                tasks.push(BackwardTask {
                    span,
                    head,
                    keys: start..span.len.min(start + PIECE),
                    dq,
                    dk: dk[head].by_ref().take(PIECE).collect(),
                    dv: dv[head].by_ref().take(PIECE).collect(),
                });
            }
        }
    }
    dqkv_rows.clear_until(rows);
    tasks.into_par_iter().with_max_len(1).for_each(|task| {
        differentiate(qkv, heads, causal, out, lse, dout, task);
    });

    for part in &partials {
        let sums = &mut dqkv[part.start * heads.width()..];
        sums.par_chunks_exact_mut(heads.width())
            .zip(part.values.par_chunks_exact(out_width))
            .with_min_len(QUERIES)
            .for_each(|(sum, part)| {
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += part;
                }
            });
    }
}

/// Generation: appends the keys and values of the new tokens to the cache, then lets each new token attend to all of its
/// sequence up to itself.
///
/// `qkv` and `out` as in [`forward`]; `keys` and `values` (slots, capacity, Hkv D).
///
/// # Panics
/// Where the shapes do not fit, spans overlap, two rows share a slot, or a sequence outgrows `capacity`.
pub fn cached(
    qkv: &[f32],
    heads: Heads,
    rows: &[CachedRow],
    keys: &mut [f32],
    values: &mut [f32],
    capacity: usize,
    out: &mut [f32],
) {
    let count = heads.rows(qkv);
    assert_eq!(out.len(), count * heads.query * heads.size);
    assert_eq!(keys.len(), values.len());
    let stride = heads.key * heads.size;
    let slot = (capacity * stride).max(1);
    assert_eq!(keys.len() % slot, 0, "the cache holds no whole slots");
    let mut slots: Vec<_> = keys
        .chunks_exact_mut(slot)
        .zip(values.chunks_exact_mut(slot))
        .map(Some)
        .collect();

    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| (row.span.start, row.span.len));
    let spans = ordered(rows.iter().map(|row| row.span), count);
    rows.retain(|row| row.span.len > 0);
    let mut out_rows = Rows::new(out, heads.query * heads.size);
    let mut sequences = Vec::with_capacity(rows.len());
    for (row, span) in rows.into_iter().zip(spans) {
        assert!(
            row.past + span.len <= capacity,
            "{row:?} outgrows a capacity of {capacity}"
        );
        let memory = slots.get_mut(row.slot).and_then(Option::take);
        let memory = memory.unwrap_or_else(|| panic!("{row:?}: no such slot, or it is in use"));
        out_rows.clear_until(span.start);
        let mut tasks = Vec::new();
        cut(heads, span, &mut out_rows, None, &mut tasks);
        sequences.push((row.past, span, memory, tasks));
    }
    out_rows.clear_until(count);

    // Several times as fast where one task reads the cache of all heads from end to end; a task a head is for when there
    // are few rows to share out.
    let together = if sequences.len() < FEW_ROWS {
        1
    } else {
        heads.key
    };
    let width = heads.width();
    let parallel = sequences.into_par_iter().with_max_len(1);
    parallel.for_each(|(past, span, (keys, values), mut tasks)| {
        let new = qkv[span.start * width..].chunks_exact(width).take(span.len);
        let places = keys[past * stride..]
            .chunks_exact_mut(stride)
            .zip(values[past * stride..].chunks_exact_mut(stride));
        for (row, (key, value)) in new.zip(places) {
            key.copy_from_slice(&row[heads.keys(0)..heads.values(0)]);
            value.copy_from_slice(&row[heads.values(0)..]);
        }
        let (keys, values) = (&*keys, &*values);
        if span.len == 1 {
            let row = &qkv[span.start * width..][..width];
            let memory = Memory {
                keys,
                values,
                stride,
                count: past + 1,
            };
            return tasks
                .par_chunks_mut(together)
                .for_each(|tasks| attend_one(row, heads, memory, tasks));
        }
        tasks.into_par_iter().with_max_len(1).for_each(|mut task| {
            let memory = Memory {
                keys: &keys[task.head * heads.size..],
                values: &values[task.head * heads.size..],
                stride,
                count: past + task.first + task.out.len(),
            };
            let queries = &qkv[(span.start + task.first) * width + heads.queries(task.head)..];
            let first = Some(past + task.first);
            attend(queries, heads, memory, first, &mut task.out, &mut []);
        });
    });
}

/// The spans that hold anything, from the first row to the last.
fn ordered(spans: impl Iterator<Item = Span>, rows: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = spans.filter(|span| span.len > 0).collect();
    spans.sort_by_key(|span| span.start);
    let mut free = 0;
    for span in &spans {
        assert!(span.start >= free, "{span:?} overlaps the span before it");
        free = span.start + span.len;
    }
    assert!(free <= rows, "spans reach row {free} of {rows}");
    spans
}

/// Gives out the rows of a matrix from the first to the last.
struct Rows<'a> {
    rest: &'a mut [f32],
    width: usize,
    next: usize,
}

impl<'a> Rows<'a> {
    fn new(values: &'a mut [f32], width: usize) -> Self {
        Rows {
            rest: values,
            width,
            next: 0,
        }
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = &'a mut [f32]> + use<'a> {
        let rest = std::mem::take(&mut self.rest);
        let (taken, rest) = rest.split_at_mut(count * self.width);
        self.rest = rest;
        self.next += count;
        taken.chunks_exact_mut(self.width)
    }

    /// Zeros in the rows before `row` that nobody took.
    fn clear_until(&mut self, row: usize) {
        self.take(row - self.next).for_each(|row| row.fill(0.0));
    }
}

/// Cuts each row into parts of `size` values: list `h` of the answer holds part `h` of every row.
fn deal<'a>(rows: impl Iterator<Item = &'a mut [f32]>, size: usize) -> Vec<Vec<&'a mut [f32]>> {
    let mut lists = Vec::new();
    for row in rows {
        let parts = row.len() / size;
        lists.resize_with(parts, Vec::new);
        for (list, part) in lists.iter_mut().zip(row.chunks_exact_mut(size)) {
            list.push(part);
        }
    }
    lists
}

/// A block of the queries of a span, in the heads that share key head `head`.
struct Task<'a> {
    span: Span,
    head: usize,
    /// Where in the span the block begins.
    first: usize,
    /// For each position (group * D) values to write.
    out: Vec<&'a mut [f32]>,
    /// For each position `group` values to write, or no list.
    lse: Vec<&'a mut [f32]>,
}

fn cut<'a>(
    heads: Heads,
    span: Span,
    out: &mut Rows<'a>,
    mut lse: Option<&mut Rows<'a>>,
    tasks: &mut Vec<Task<'a>>,
) {
    for first in (0..span.len).step_by(heads.block()) {
        let count = heads.block().min(span.len - first);
        let out = deal(out.take(count), heads.group() * heads.size);
        let lse = match &mut lse {
            Some(lse) => deal(lse.take(count), heads.group()),
            None => (0..heads.key).map(|_| Vec::new()).collect(),
        };
        for (head, (out, lse)) in out.into_iter().zip(lse).enumerate() {
            tasks.push(Task {
                span,
                head,
                first,
                out,
                lse,
            });
        }
    }
}

/// Keys and values of one head: those of token j begin at `j * stride`.
#[derive(Clone, Copy)]
struct Memory<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
    count: usize,
}

/// A block of queries, the first of them at `queries[0]`, the next ones `heads.width()` further on, against all keys of
/// `memory`. Where `first` is the first query's position, what comes after a query is hidden from it.
fn attend(
    queries: &[f32],
    heads: Heads,
    memory: Memory,
    first: Option<usize>,
    out: &mut [&mut [f32]],
    lse: &mut [&mut [f32]],
) {
    let (group, size) = (heads.group(), heads.size);
    let lanes = heads.lanes(out.len());
    let sizes = [
        lanes * size,
        lanes * size,
        lanes * KEYS.min(memory.count),
        lanes,
        lanes,
        lanes,
    ];
    scratch(sizes, |[q, sums, scores, max, total, correction]| {
        gather(q, queries, heads.width(), group * size, out.len());
        let q = View::new(q, lanes, size, size);
        max.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        for start in (0..memory.count).step_by(KEYS) {
            let count = KEYS.min(memory.count - start);
            let scores = &mut scores[..count * lanes];
            let from = start * memory.stride;
            let k = View::new(&memory.keys[from..], count, size, memory.stride);
            let v = View::new(&memory.values[from..], count, size, memory.stride);
            multiply(scores, lanes, k, q.t(), heads.scale(), 0.0);
            hide(scores, lanes, group, start, first);
            dispatch(
                #[inline(always)]
                || soften(scores, max, total, correction),
            );
            let mut beta = 0.0;
            if start > 0 {
                beta = 1.0;
                for (sums, correction) in sums.chunks_exact_mut(size).zip(&*correction) {
                    sums.iter_mut().for_each(|sum| *sum *= correction);
                }
            }
            let p = View::new(scores, count, lanes, lanes);
            multiply(sums, size, p.t(), v, 1.0, beta);
        }
        let outs = out.iter_mut().flat_map(|row| row.chunks_exact_mut(size));
        for ((out, sums), total) in outs.zip(sums.chunks_exact(size)).zip(&*total) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / total;
            }
        }
        let lses = lse.iter_mut().flat_map(|row| row.iter_mut());
        for ((lse, max), total) in lses.zip(&*max).zip(&*total) {
            *lse = max + total.ln();
        }
    });
}

/// Copies `count` pieces of `size` values, `stride` apart, one after the other; zeros after them.
fn gather(to: &mut [f32], from: &[f32], stride: usize, size: usize, count: usize) {
    let (copies, rest) = to.split_at_mut(count * size);
    for (to, from) in copies.chunks_exact_mut(size).zip(from.chunks(stride)) {
        to.copy_from_slice(&from[..size]);
    }
    rest.fill(0.0);
}

/// The causal mask on the scores of the keys from `start` on, the lanes being queries from position `first` on.
fn hide(scores: &mut [f32], lanes: usize, group: usize, start: usize, first: Option<usize>) {
    let Some(first) = first else { return };
    for (key, scores) in (start..).zip(scores.chunks_exact_mut(lanes)) {
        let hidden = lanes.min(key.saturating_sub(first) * group);
        scores[..hidden].fill(f32::NEG_INFINITY);
    }
}

/// One step of the online softmax: scores become exp(score - max), and what was summed before is to be multiplied by
/// `correction`.
#[inline(always)]
fn soften(scores: &mut [f32], max: &mut [f32], total: &mut [f32], correction: &mut [f32]) {
    let lanes = max.len();
    correction.copy_from_slice(max);
    for scores in scores.chunks_exact(lanes) {
        for (max, &score) in max.iter_mut().zip(scores) {
            *max = larger(*max, score);
        }
    }
    for ((correction, total), max) in correction.iter_mut().zip(&mut *total).zip(&*max) {
        *correction = exp(*correction - max);
        *total *= *correction;
    }
    for scores in scores.chunks_exact_mut(lanes) {
        for ((score, total), max) in scores.iter_mut().zip(&mut *total).zip(&*max) {
            *score = exp(*score - max);
            *total += *score;
        }
    }
}

/// One query position, the first of `qkv`, against all tokens of `memory`, in the consecutive heads of `tasks`: too little work for
/// a matrix product to gain from. All heads lie in `memory`.
fn attend_one(qkv: &[f32], heads: Heads, memory: Memory, tasks: &mut [Task]) {
    let Memory {
        keys,
        values,
        stride,
        count,
    } = memory;
    let (part, size, scale) = (heads.group() * heads.size, heads.size, heads.scale());
    let Some(first) = tasks.first().map(|task| task.head) else {
        return;
    };
    let queries = &qkv[first * part..][..tasks.len() * part];
    let columns = first * size..(first + tasks.len()) * size;
    scratch([queries.len() / size * count], |[scores]| {
        dispatch(
            #[inline(always)]
            || {
                for (token, keys) in keys.chunks(stride).take(count).enumerate() {
                    let each = keys[columns.clone()].chunks_exact(size);
                    let mut scores = scores[token..].iter_mut().step_by(count);
                    for (key, queries) in each.zip(queries.chunks_exact(part)) {
                        for (query, score) in queries.chunks_exact(size).zip(&mut scores) {
                            *score = dot(query, key) * scale;
                        }
                    }
                }
                for scores in scores.chunks_exact_mut(count) {
                    let max = fold([scores], f32::NEG_INFINITY, |a, [b]| larger(a, b), larger);
                    scores
                        .iter_mut()
                        .for_each(|score| *score = exp(*score - max));
                    let total = fold([scores], 0.0, |a, [b]| a + b, |a, b| a + b);
                    scores.iter_mut().for_each(|score| *score /= total);
                }
                for start in (0..count).step_by(TOKENS) {
                    let tokens = start..count.min(start + TOKENS);
                    let outs = tasks.iter_mut().flat_map(|task| task.out.iter_mut());
                    let parts = outs.zip(scores.chunks_exact(part / size * count));
                    for ((out, scores), column) in parts.zip(columns.clone().step_by(size)) {
                        let values = &values[start * stride + column..];
                        if start == 0 {
                            out.fill(0.0);
                        }
                        for (out, scores) in
                            out.chunks_exact_mut(size).zip(scores.chunks_exact(count))
                        {
                            add_weighted(out, &scores[tokens.clone()], values, stride);
                        }
                    }
                }
            },
        );
    });
}

/// `out` += the weighted sum of rows of `values`, which are `stride` apart.
#[inline(always)]
fn add_weighted(out: &mut [f32], weights: &[f32], values: &[f32], stride: usize) {
    let mut values = values;
    let (wide, rest) = out.as_chunks_mut::<{ 4 * LANES }>();
    for out in wide {
        add_columns(out, weights, values, stride);
        values = &values[out.len()..];
    }
    let (narrow, rest) = rest.as_chunks_mut::<LANES>();
    for out in narrow {
        add_columns(out, weights, values, stride);
        values = &values[out.len()..];
    }
    for (i, out) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        add_columns(out, weights, &values[i..], stride);
    }
}

/// So few columns that their sums stay in registers.
#[inline(always)]
fn add_columns<const W: usize>(out: &mut [f32; W], weights: &[f32], values: &[f32], stride: usize) {
    let mut sums = *out;
    for (weight, values) in weights.iter().zip(values.chunks(stride)) {
        let values: &[f32; W] = values.first_chunk().expect("a head holds W columns");
        sums = from_fn(|l| weight.mul_add(values[l], sums[l]));
    }
    *out = sums;
}

/// A later piece's part of the gradient of the queries of the rows from `start` on, (rows, H D).
struct Partial {
    start: usize,
    values: Vec<f32>,
}

/// A piece of the keys of a span, in one key head, against all queries that see any of it.
struct BackwardTask<'a> {
    span: Span,
    head: usize,
    keys: Range<usize>,
    /// For each of the last `dq.len()` positions of the span (group * D) values to write.
    dq: Vec<&'a mut [f32]>,
    /// For each key D values to write.
    dk: Vec<&'a mut [f32]>,
    dv: Vec<&'a mut [f32]>,
}

fn differentiate(
    qkv: &[f32],
    heads: Heads,
    causal: bool,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    task: BackwardTask,
) {
    let BackwardTask {
        span,
        head,
        keys,
        dq: mut dq_rows,
        dk: mut dk_rows,
        dv: mut dv_rows,
    } = task;
    let (group, size, width) = (heads.group(), heads.size, heads.width());
    let (part, out_width) = (group * size, heads.query * size);
    let from = if causal { keys.start } else { 0 };
    let most = heads.lanes(heads.block().min(span.len - from));
    let block = most * KEYS.min(keys.len());
    let sizes = [
        most * size,
        most * size,
        most * size,
        most,
        most,
        block,
        block,
        keys.len() * size,
        keys.len() * size,
    ];
    scratch(sizes, |[q, dout_, dq, lse_, delta, p, ds, dk, dv]| {
        dk.fill(0.0);
        dv.fill(0.0);
        for (n, dq_rows) in dq_rows.chunks_mut(heads.block()).enumerate() {
            let first = from + n * heads.block();
            let lanes = heads.lanes(dq_rows.len());
            let row = span.start + first;
            let q = &mut q[..lanes * size];
            let dout_ = &mut dout_[..lanes * size];
            let dq = &mut dq[..lanes * size];
            let (lse_, delta) = (&mut lse_[..lanes], &mut delta[..lanes]);
            let column = head * part;
            let out_at = row * out_width + column;
            gather(q, &qkv[row * width + column..], width, part, dq_rows.len());
            gather(dout_, &dout[out_at..], out_width, part, dq_rows.len());
            // The outputs lie in the place of the gradient until the first product writes that.
            gather(dq, &out[out_at..], out_width, part, dq_rows.len());
            let lse_at = row * heads.query + head * group;
            gather(lse_, &lse[lse_at..], heads.query, group, dq_rows.len());
            dispatch(
                #[inline(always)]
                || {
                    let pairs = dout_.chunks_exact(size).zip(dq.chunks_exact(size));
                    for (delta, (dout, out)) in delta.iter_mut().zip(pairs) {
                        *delta = dot(dout, out);
                    }
                },
            );
            let q = View::new(q, lanes, size, size);
            let dout_ = View::new(dout_, lanes, size, size);
            let end = if causal {
                keys.end.min(first + dq_rows.len())
            } else {
                keys.end
            };
            for start in (keys.start..end).step_by(KEYS) {
                let count = KEYS.min(end - start);
                let (p, ds) = (&mut p[..count * lanes], &mut ds[..count * lanes]);
                let memory = &qkv[(span.start + start) * width..];
                let k = View::new(&memory[heads.keys(head)..], count, size, width);
                let v = View::new(&memory[heads.values(head)..], count, size, width);
                multiply(p, lanes, k, q.t(), heads.scale(), 0.0);
                hide(p, lanes, group, start, causal.then_some(first));
                multiply(ds, lanes, v, dout_.t(), 1.0, 0.0);
                dispatch(
                    #[inline(always)]
                    || {
                        let rows = p.chunks_exact_mut(lanes).zip(ds.chunks_exact_mut(lanes));
                        for (p, ds) in rows {
                            let each = p.iter_mut().zip(ds).zip(&*lse_).zip(&*delta);
                            for (((p, ds), lse), delta) in each {
                                *p = exp(*p - lse);
                                *ds = *p * (*ds - delta);
                            }
                        }
                    },
                );
                let p = View::new(p, count, lanes, lanes);
                let ds = View::new(ds, count, lanes, lanes);
                let at = (start - keys.start) * size;
                multiply(&mut dv[at..], size, p, dout_, 1.0, 1.0);
                multiply(&mut dk[at..], size, ds, q, heads.scale(), 1.0);
                let beta = if start > keys.start { 1.0 } else { 0.0 };
                multiply(dq, size, ds.t(), k, heads.scale(), beta);
            }
            scatter(dq_rows, dq);
        }
        scatter(&mut dk_rows, dk);
        scatter(&mut dv_rows, dv);
    });
}

/// The reverse of [`gather`].
fn scatter(to: &mut [&mut [f32]], from: &[f32]) {
    let mut rest = from;
    for to in to {
        let (from, after) = rest.split_at(to.len());
        to.copy_from_slice(from);
        rest = after;
    }
}

/// Lends pieces of a buffer that each thread keeps; what they hold is left over from earlier calls.
fn scratch<const N: usize>(sizes: [usize; N], run: impl FnOnce([&mut [f32]; N])) {
    thread_local! {
        static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        let needed = sizes.iter().sum();
        if buffer.len() < needed {
            buffer.resize(needed, 0.0);
        }
        let mut rest = buffer.as_mut_slice();
        run(sizes.map(|size| {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(size);
            rest = after;
            piece
        }));
    });
}

/// Plainer than `f32::max` with NaN, which nobody asks about here: a single instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold([a, b], 0.0, |sum, [a, b]| a.mul_add(b, sum), |a, b| a + b)
}

/// Steps through rows of one length, column i into result i % LANES, and joins the results in pairs.
#[inline(always)]
fn fold<const K: usize>(
    rows: [&[f32]; K],
    start: f32,
    step: impl Fn(f32, [f32; K]) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let length = rows[0].len();
    let rows = rows.map(|row| row[..length].as_chunks::<LANES>());
    // Always a new array: one that a loop writes to does not stay in a register.
    let mut results = [start; LANES];
    for i in 0..length / LANES {
        results = from_fn(|l| step(results[l], rows.map(|(chunks, _)| chunks[i][l])));
    }
    if !length.is_multiple_of(LANES) {
        let mut last = [start; LANES];
        for (l, last) in last.iter_mut().enumerate().take(length % LANES) {
            *last = step(start, rows.map(|(_, rest)| rest[l]));
        }
        results = from_fn(|l| join(results[l], last[l]));
    }
    let results: [f32; 8] = from_fn(|l| join(results[l], results[l + 8]));
    let results: [f32; 4] = from_fn(|l| join(results[l], results[l + 4]));
    join(join(results[0], results[2]), join(results[1], results[3]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::tests::{slopes, values as random, wide};
    use proptest::prelude::*;

    /// The definition, in `f64`: (out, lse).
    fn naive(qkv: &[f64], heads: Heads, spans: &[Span], causal: bool) -> (Vec<f64>, Vec<f64>) {
        let (width, size) = (heads.width(), heads.size);
        let rows = qkv.len() / width;
        let mut out = vec![0.0; rows * heads.query * size];
        let mut lse = vec![0.0; rows * heads.query];
        for span in spans {
            for i in 0..span.len {
                for h in 0..heads.query {
                    let row = span.start + i;
                    let q = &qkv[row * width + h * size..][..size];
                    let seen = if causal { i + 1 } else { span.len };
                    let at =
                        |j: usize, column: usize| &qkv[(span.start + j) * width + column..][..size];
                    let scores: Vec<f64> = (0..seen)
                        .map(|j| {
                            let k = at(j, heads.keys(h / heads.group()));
                            q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (size as f64).sqrt()
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                    lse[row * heads.query + h] = max + total.ln();
                    let out = &mut out[(row * heads.query + h) * size..][..size];
                    for (j, score) in scores.iter().enumerate() {
                        let v = at(j, heads.values(h / heads.group()));
                        for (out, v) in out.iter_mut().zip(v) {
                            *out += (score - max).exp() / total * v;
                        }
                    }
                }
            }
        }
        (out, lse)
    }

    /// The derivative of sum(out * dout), from the derivative of softmax written out with a matrix of scores, in `f64`.
    fn naive_backward(
        qkv: &[f64],
        heads: Heads,
        spans: &[Span],
        causal: bool,
        dout: &[f64],
    ) -> Vec<f64> {
        let (width, size) = (heads.width(), heads.size);
        let scale = 1.0 / (size as f64).sqrt();
        let mut dqkv = vec![0.0; qkv.len()];
        let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        for span in spans {
            for i in 0..span.len {
                for h in 0..heads.query {
                    let row = span.start + i;
                    let seen = if causal { i + 1 } else { span.len };
                    let q = row * width + h * size;
                    let k = |j: usize| (span.start + j) * width + heads.keys(h / heads.group());
                    let v = |j: usize| (span.start + j) * width + heads.values(h / heads.group());
                    let dout = &dout[(row * heads.query + h) * size..][..size];
                    let mut p: Vec<f64> = (0..seen)
                        .map(|j| product(&qkv[q..][..size], &qkv[k(j)..][..size]) * scale)
                        .collect();
                    let max = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    p.iter_mut().for_each(|p| *p = (*p - max).exp());
                    let total: f64 = p.iter().sum();
                    p.iter_mut().for_each(|p| *p /= total);
                    let dp: Vec<f64> = (0..seen)
                        .map(|j| product(dout, &qkv[v(j)..][..size]))
                        .collect();
                    let mean = product(&p, &dp);
                    for j in 0..seen {
                        let ds = p[j] * (dp[j] - mean) * scale;
                        for d in 0..size {
                            dqkv[q + d] += ds * qkv[k(j) + d];
                            dqkv[k(j) + d] += ds * qkv[q + d];
                            dqkv[v(j) + d] += p[j] * dout[d];
                        }
                    }
                }
            }
        }
        dqkv
    }

    fn furthest(a: &[f32], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let far = |(&a, &b): (&f32, &f64)| {
            assert!(a.is_finite(), "{a} where {b} is due");
            (f64::from(a) - b).abs()
        };
        a.iter().zip(b).map(far).fold(0.0, f64::max)
    }

    /// Spans with gaps before, between and after them, and the number of rows.
    fn pack(lens: &[usize], gap: usize) -> (Vec<Span>, usize) {
        let mut start = gap;
        let spans = lens
            .iter()
            .map(|&len| {
                let span = Span { start, len };
                start += len + gap;
                span
            })
            .collect();
        (spans, start)
    }

    /// Everything the two passes write, into buffers that hold NaN: what is not written is seen.
    fn run(qkv: &[f32], heads: Heads, spans: &[Span], causal: bool, dout: &[f32]) -> [Vec<f32>; 3] {
        let mut out = vec![f32::NAN; dout.len()];
        let lse = forward(qkv, heads, spans, causal, &mut out);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        backward(qkv, heads, spans, causal, &out, &lse, dout, &mut dqkv);
        [out, lse, dqkv]
    }

    fn compare(heads: Heads, spans: &[Span], rows: usize, causal: bool, seed: u64) {
        let qkv = random(seed, rows * heads.width());
        let dout = random(seed + 1, rows * heads.query * heads.size);
        let [out, lse, dqkv] = run(&qkv, heads, spans, causal, &dout);
        let (true_out, true_lse) = naive(&wide(&qkv), heads, spans, causal);
        let true_dqkv = naive_backward(&wide(&qkv), heads, spans, causal, &wide(&dout));
        let largest = true_dqkv.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let errors = (
            furthest(&out, &true_out),
            furthest(&lse, &true_lse),
            furthest(&dqkv, &true_dqkv) / largest,
        );
        assert!(
            errors.0 < 5e-6 && errors.1 < 1e-5 && errors.2 < 5e-6,
            "{heads:?} {spans:?} causal {causal}: {errors:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Both passes are the definition's: any packing, grouping, mask and size, blocks cut anywhere.
        #[test]
        fn equals_the_definition(lens in prop::collection::vec(prop_oneof![0usize..4, 0usize..150, 120usize..300], 0..4),
                                 gap in 0usize..3, key in 1usize..3, group in 1usize..5,
                                 size in prop_oneof![1usize..20, Just(32), Just(64)], causal: bool, seed: u64) {
            let (mut spans, rows) = pack(&lens, gap);
            spans.reverse();
            compare(Heads { query: key * group, key, size }, &spans, rows, causal, seed >> 1);
        }
    }

    /// Spans longer than a task of the backward pass: sums of partial gradients.
    #[test]
    fn long_spans_equal_the_definition() {
        let (spans, rows) = pack(&[2 * PIECE + 70, 3, PIECE + 1, PIECE], 1);
        for (causal, group) in [(true, 1), (false, 1), (true, 3)] {
            let heads = Heads {
                query: 2 * group,
                key: 2,
                size: 8,
            };
            compare(heads, &spans, rows, causal, 5);
        }
    }

    /// Groups so large that a block of queries is shorter than usual.
    #[test]
    fn large_groups_equal_the_definition() {
        let (spans, rows) = pack(&[90, 1], 0);
        for (query, key) in [(7, 1), (12, 2), (32, 1)] {
            let heads = Heads {
                query,
                key,
                size: 16,
            };
            compare(heads, &spans, rows, true, 6);
        }
    }

    /// The reference that the others are held to is the derivative of the definition, by central differences.
    #[test]
    fn the_derivative_is_the_slope() {
        let heads = Heads {
            query: 4,
            key: 2,
            size: 3,
        };
        let (spans, rows) = pack(&[5, 1, 3], 1);
        for causal in [true, false] {
            let qkv = random(1, rows * heads.width());
            let dout = random(2, rows * heads.query * heads.size);
            let [_, _, dqkv] = run(&qkv, heads, &spans, causal, &dout);
            let loss = |qkv: &[f64]| -> f64 {
                let (out, _) = naive(qkv, heads, &spans, causal);
                out.iter()
                    .zip(&dout)
                    .map(|(out, &dout)| out * f64::from(dout))
                    .sum()
            };
            assert!(furthest(&dqkv, &slopes(&wide(&qkv), loss)) < 5e-6);
        }
    }

    /// Scores of ten thousand either way, in every order, neither overflow nor become 0 / 0.
    #[test]
    fn extreme_scores_stay_finite() {
        let heads = Heads {
            query: 2,
            key: 1,
            size: 4,
        };
        let len = 300;
        let mut qkv = random(3, len * heads.width());
        for (i, row) in qkv.chunks_exact_mut(heads.width()).enumerate() {
            for value in &mut row[..3 * heads.size] {
                *value = value.signum() * 100.0;
            }
            // Scores that rise, fall and jump from one block of keys to the next.
            row[2 * heads.size] = [10.0, -5000.0, 5000.0][i * 3 / len] * (1.0 + i as f32 * 1e-3);
        }
        let dout = random(4, len * heads.query * heads.size);
        let spans = [Span { start: 0, len }];
        for causal in [true, false] {
            let [out, lse, dqkv] = run(&qkv, heads, &spans, causal, &dout);
            let (true_out, true_lse) = naive(&wide(&qkv), heads, &spans, causal);
            let highest = lse.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(highest > 1e4, "{highest} is not extreme");
            assert!(furthest(&lse, &true_lse) < 0.1);
            assert!(furthest(&out, &true_out) < 0.1);
            assert!(dqkv.iter().all(|value| value.is_finite()));
        }
    }

    /// A diverged run must be seen: NaN goes through, and only into its own sequence.
    #[test]
    fn nan_reaches_its_own_span_only() {
        let heads = Heads {
            query: 3,
            key: 1,
            size: 16,
        };
        let (spans, rows) = pack(&[40, 130, 20], 1);
        let mut qkv = random(8, rows * heads.width());
        let dout = random(9, rows * heads.query * heads.size);
        qkv[(spans[1].start + 2) * heads.width()] = f32::NAN;
        let [out, lse, dqkv] = run(&qkv, heads, &spans, true, &dout);
        let inside = (spans[1].start)..(spans[1].start + spans[1].len);
        for (row, values) in out.chunks(heads.query * heads.size).enumerate() {
            assert_eq!(values.iter().any(|v| v.is_nan()), row == spans[1].start + 2);
        }
        for (row, values) in dqkv.chunks(heads.width()).enumerate() {
            assert!(inside.contains(&row) || values.iter().all(|v| v.is_finite()));
        }
        assert!(lse[(spans[1].start + 2) * heads.query].is_nan());
        assert!(dqkv.iter().any(|v| v.is_nan()));
    }

    /// What a sequence gets is the same to the bit whatever it is packed with, wherever it lies.
    #[test]
    fn a_span_does_not_see_the_others() {
        let heads = Heads {
            query: 6,
            key: 2,
            size: 24,
        };
        let lens = [70, PIECE + 33, 1, 129];
        let (spans, rows) = pack(&lens, 1);
        let qkv = random(10, rows * heads.width());
        let dout = random(11, rows * heads.query * heads.size);
        for causal in [true, false] {
            let all = run(&qkv, heads, &spans, causal, &dout);
            for span in &spans {
                let of = |values: &[f32]| {
                    let width = values.len() / rows;
                    values[span.start * width..][..span.len * width].to_vec()
                };
                let alone = [Span {
                    start: 0,
                    len: span.len,
                }];
                let one = run(&of(&qkv), heads, &alone, causal, &of(&dout));
                for (all, one) in all.iter().zip(&one) {
                    assert_eq!(&of(all), one);
                }
            }
        }
    }

    /// Seeds reproduce runs on any machine size: the same bits on 1, 2 and 4 threads.
    #[test]
    fn threads_do_not_change_a_bit() {
        let heads = Heads {
            query: 6,
            key: 2,
            size: 32,
        };
        let (spans, rows) = pack(&[100, 2 * PIECE + 10, 64, 1], 0);
        let qkv = random(12, rows * heads.width());
        let dout = random(13, rows * heads.query * heads.size);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                let capacity = 2 * PIECE + 10;
                let mut keys = vec![0.0; 4 * capacity * 2 * 32];
                let mut values = keys.clone();
                let mut out = vec![0.0; dout.len()];
                let rows: Vec<CachedRow> = (0..4)
                    .map(|slot| CachedRow {
                        span: spans[slot],
                        slot,
                        past: 0,
                    })
                    .collect();
                cached(
                    &qkv,
                    heads,
                    &rows,
                    &mut keys,
                    &mut values,
                    capacity,
                    &mut out,
                );
                (run(&qkv, heads, &spans, true, &dout), out)
            })
        };
        let one = on(1);
        assert!(one == on(2) && one == on(4));
    }

    /// A generated token is the one that a pass over the whole text would give, however the text was fed.
    #[test]
    fn the_cache_changes_nothing() {
        for (key, size) in [(2, 20), (3, 84)] {
            let heads = Heads {
                query: 3 * key,
                key,
                size,
            };
            let (width, out_width) = (heads.width(), heads.query * heads.size);
            let (lens, capacity, slots) = ([200usize, 37, 1, 150, 90], 201, 6);
            let (spans, rows) = pack(&lens, 0);
            let qkv = random(14, rows * width);
            let mut whole = vec![0.0; rows * out_width];
            forward(&qkv, heads, &spans, true, &mut whole);
            for chunk in [1, 2, 7, 65, 150, 200] {
                let mut keys = vec![f32::NAN; slots * capacity * heads.key * heads.size];
                let mut values = keys.clone();
                let mut fed = vec![f32::NAN; whole.len()];
                let mut past = 0;
                while past < 200 {
                    // The sequences lie in another order than their slots, with a gap and, once over, without rows.
                    let mut packed = vec![0.0; width];
                    let mut step = Vec::new();
                    for (n, (&len, span)) in lens.iter().zip(&spans).enumerate() {
                        let here = past.min(len);
                        let len = chunk.min(len - here);
                        let start = packed.len() / width;
                        packed
                            .extend_from_slice(&qkv[(span.start + here) * width..][..len * width]);
                        let span = Span { start, len };
                        step.insert(
                            0,
                            CachedRow {
                                span,
                                slot: 5 - n,
                                past: here,
                            },
                        );
                    }
                    let mut out = vec![f32::NAN; packed.len() / width * out_width];
                    cached(
                        &packed,
                        heads,
                        &step,
                        &mut keys,
                        &mut values,
                        capacity,
                        &mut out,
                    );
                    assert!(out[..out_width].iter().all(|&v| v == 0.0));
                    for row in &step {
                        let to = (spans[5 - row.slot].start + row.past) * out_width;
                        fed[to..to + row.span.len * out_width].copy_from_slice(
                            &out[row.span.start * out_width..][..row.span.len * out_width],
                        );
                    }
                    past += chunk;
                }
                assert!(furthest(&fed, &wide(&whole)) < 1e-5, "chunks of {chunk}");
            }
        }
    }

    /// Without the check one sequence would overwrite another's past.
    #[test]
    #[should_panic(expected = "in use")]
    fn a_slot_serves_one_row() {
        let heads = Heads {
            query: 1,
            key: 1,
            size: 2,
        };
        let row = |start| CachedRow {
            span: Span { start, len: 1 },
            slot: 0,
            past: 0,
        };
        let (mut keys, mut values, mut out) = ([0.0; 8], [0.0; 8], [0.0; 4]);
        cached(
            &[0.0; 12],
            heads,
            &[row(0), row(1)],
            &mut keys,
            &mut values,
            4,
            &mut out,
        );
    }

    #[test]
    #[should_panic(expected = "outgrows")]
    fn a_sequence_stays_in_its_slot() {
        let heads = Heads {
            query: 1,
            key: 1,
            size: 2,
        };
        let row = CachedRow {
            span: Span { start: 0, len: 2 },
            slot: 0,
            past: 3,
        };
        let (mut keys, mut values, mut out) = ([0.0; 16], [0.0; 16], [0.0; 4]);
        cached(
            &[0.0; 12],
            heads,
            &[row],
            &mut keys,
            &mut values,
            4,
            &mut out,
        );
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn overlapping_spans_are_refused() {
        let heads = Heads {
            query: 1,
            key: 1,
            size: 2,
        };
        let spans = [Span { start: 1, len: 1 }, Span { start: 0, len: 2 }];
        forward(&[0.0; 12], heads, &spans, true, &mut [0.0; 4]);
    }
}
