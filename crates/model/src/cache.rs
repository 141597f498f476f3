use burn::tensor::{Device, Int, Tensor, TensorData};
use sharelora_kernels::attention::{Heads, Span};

use crate::ops::{Kernels, kernels};

/// Keys and values of the tokens seen so far, in buffers of a fixed capacity that are written in place. Each row is a
/// sequence of its own length.
pub struct Cache {
    layers: Vec<Layer>,
    capacity: usize,
    /// Sequences that there is room for.
    slots: usize,
    rows: Vec<Row>,
}

/// Where a sequence is, and how many tokens of it are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub slot: usize,
    pub length: usize,
}

/// Keys and values of one layer, (slots, capacity, Hkv D) each.
enum Layer {
    Empty,
    Host(Vec<f32>, Vec<f32>),
    Device(Box<[Option<Tensor<3>>; 2]>),
}

/// One layer's buffers, for attention to write to and read from.
pub(crate) enum Slots<'a> {
    #[cfg_attr(not(feature = "flex"), allow(dead_code))]
    Host(&'a mut [f32], &'a mut [f32], &'a [Row], usize),
    Device(
        &'a mut Option<Tensor<3>>,
        &'a mut Option<Tensor<3>>,
        &'a [Row],
    ),
}

impl Cache {
    /// For `rows` sequences. `capacity`: tokens of the longest, prompt and new ones together.
    pub fn new(layers: usize, rows: usize, capacity: usize) -> Self {
        Self::with_slots(layers, rows, rows, capacity)
    }

    /// For `rows` sequences that [`Cache::select`] may later multiply to as many as `slots`.
    pub fn with_slots(layers: usize, rows: usize, slots: usize, capacity: usize) -> Self {
        Cache {
            layers: (0..layers).map(|_| Layer::Empty).collect(),
            capacity,
            slots: slots.max(rows),
            rows: (0..rows).map(|slot| Row { slot, length: 0 }).collect(),
        }
    }

    /// Number of tokens stored of each row.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|r| r.length).collect()
    }

    pub(crate) fn slots(&mut self, layer: usize, heads: Heads, device: &Device) -> Slots<'_> {
        let shape = [self.slots, self.capacity, heads.key * heads.size];
        let entry = &mut self.layers[layer];
        if matches!(entry, Layer::Empty) {
            *entry = match kernels(device) {
                #[cfg(feature = "flex")]
                Kernels::Host => {
                    let count = shape.iter().product();
                    Layer::Host(vec![0.0; count], vec![0.0; count])
                }
                _ => {
                    let empty = || Some(Tensor::zeros(shape, &device.clone().inner()));
                    Layer::Device(Box::new([empty(), empty()]))
                }
            };
        }
        match entry {
            Layer::Host(k, v) => Slots::Host(k, v, &self.rows, self.capacity),
            Layer::Device(pair) => {
                let [k, v] = &mut **pair;
                Slots::Device(k, v, &self.rows)
            }
            Layer::Empty => unreachable!("filled above"),
        }
    }

    /// To be called once after all layers have stored the tokens of `spans`.
    pub(crate) fn advance(&mut self, spans: &[Span]) {
        for (row, span) in self.rows.iter_mut().zip(spans) {
            row.length += span.len;
        }
    }

    /// Forgets what a row holds behind its first `length` tokens.
    pub fn rewind(&mut self, row: usize, length: usize) {
        let row = &mut self.rows[row];
        row.length = row.length.min(length);
    }

    /// Keeps only these rows, in this order; a row that is named more than once is copied.
    ///
    /// # Panics
    /// Where they are more than there are slots.
    pub fn select(&mut self, rows: &[usize]) {
        assert!(rows.len() <= self.slots, "no more sequences than slots");
        self.rows = rows.iter().map(|&r| self.rows[r]).collect();
        let sources: Vec<usize> = self.rows.iter().map(|r| r.slot).collect();
        let copies = self.separate();
        let mut moved = false;
        for layer in &mut self.layers {
            match layer {
                Layer::Empty => {}
                // Buffers stay: a row knows its slot.
                Layer::Host(keys, values) => {
                    let width = keys.len() / self.slots;
                    let token = width / self.capacity.max(1);
                    for copy in &copies {
                        let from = copy.from * width..copy.from * width + copy.length * token;
                        keys.copy_within(from.clone(), copy.to * width);
                        values.copy_within(from, copy.to * width);
                    }
                }
                // A device has less memory: its buffers become as small as the rows are few.
                Layer::Device(pair) => {
                    for tensor in pair.iter_mut().flatten() {
                        let index: Vec<i64> = sources.iter().map(|&s| s as i64).collect();
                        let index = TensorData::new(index, [sources.len()]);
                        let index = Tensor::<1, Int>::from_data(index, &tensor.device());
                        *tensor = tensor.clone().select(0, index);
                    }
                    moved = true;
                }
            }
        }
        if moved {
            for (slot, row) in self.rows.iter_mut().enumerate() {
                row.slot = slot;
            }
        }
    }

    /// Gives every row a slot of its own; returns what has to be copied for that.
    fn separate(&mut self) -> Vec<Transfer> {
        let mut used = vec![false; self.slots];
        for row in &self.rows {
            used[row.slot] = true;
        }
        let mut free: Vec<usize> = (0..self.slots).filter(|&slot| !used[slot]).collect();
        let mut copies = Vec::new();
        let mut taken = vec![false; self.slots];
        for row in &mut self.rows {
            if std::mem::replace(&mut taken[row.slot], true) {
                let to = free.pop().expect("there are no more rows than slots");
                copies.push(Transfer {
                    from: row.slot,
                    to,
                    length: row.length,
                });
                row.slot = to;
            }
        }
        copies
    }
}

/// The tokens of one slot to another.
struct Transfer {
    from: usize,
    to: usize,
    length: usize,
}
