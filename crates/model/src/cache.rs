use burn::tensor::{Device, Int, Tensor, TensorData};
use sharelora_kernels::attention::{Heads, Span};

use crate::ops::{Kernels, kernels};

/// Keys and values of the tokens seen so far, in buffers of a fixed capacity that are written in place. Each row is a
/// sequence of its own length.
pub struct Cache {
    layers: Vec<Layer>,
    capacity: usize,
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
        Cache {
            layers: (0..layers).map(|_| Layer::Empty).collect(),
            capacity,
            rows: (0..rows).map(|slot| Row { slot, length: 0 }).collect(),
        }
    }

    /// Number of tokens stored of each row.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|r| r.length).collect()
    }

    pub(crate) fn slots(&mut self, layer: usize, heads: Heads, device: &Device) -> Slots<'_> {
        let shape = [self.rows.len(), self.capacity, heads.key * heads.size];
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

    /// Keeps only these rows, in this order.
    pub fn select(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|&r| self.rows[r]).collect();
        let slots: Vec<i64> = self.rows.iter().map(|r| r.slot as i64).collect();
        let mut moved = false;
        for layer in &mut self.layers {
            // Host buffers stay: a row knows its slot. A device's are made smaller, for it has less memory.
            let Layer::Device(pair) = layer else { continue };
            for tensor in pair.iter_mut().flatten() {
                let index = TensorData::new(slots.clone(), [slots.len()]);
                let index = Tensor::<1, Int>::from_data(index, &tensor.device());
                *tensor = tensor.clone().select(0, index);
            }
            moved = true;
        }
        if moved {
            for (slot, row) in self.rows.iter_mut().enumerate() {
                row.slot = slot;
            }
        }
    }
}
