//! One weight of a model: frozen in the host's memory, or a tensor.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use sharelora_kernels::linear;
use sharelora_kernels::matrix::{Format, Matrix};

/// A weight, (out, in).
#[derive(Debug, Clone)]
pub enum Weight {
    /// Frozen: read by our kernels where it is, in the format that it has. Clones share it.
    Host(Matrix),
    /// On a backend's device; trained where it is tracked.
    Tensor(Tensor<2>),
}

impl Weight {
    /// (out, in)
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Weight::Host(m) => [m.rows(), m.columns()],
            Weight::Tensor(t) => t.dims(),
        }
    }

    /// The values, row-major.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Weight::Host(m) => m.values(),
            Weight::Tensor(t) => t
                .clone()
                .without_autodiff()
                .try_into_vec_as::<f32>()
                .expect("a float tensor that exists can be read as f32"),
        }
    }

    /// As a tensor of f32: a copy where it is in host memory or narrower.
    pub(crate) fn tensor(&self, device: &Device) -> Tensor<2> {
        match self {
            Weight::Host(m) => {
                let data = TensorData::new(m.values(), [m.rows(), m.columns()]);
                Tensor::from_data(data, device)
            }
            Weight::Tensor(t) if t.dtype() == DType::F32 => t.clone(),
            Weight::Tensor(t) => t.clone().cast(DType::F32),
        }
    }

    /// Makes it a tensor of f32, if it is none, to be replaced.
    pub(crate) fn tensor_mut(&mut self, device: &Device) -> &mut Tensor<2> {
        let ready = matches!(self, Weight::Tensor(t) if t.dtype() == DType::F32);
        if !ready {
            *self = Weight::Tensor(self.tensor(device));
        }
        match self {
            Weight::Tensor(t) => t,
            Weight::Host(_) => unreachable!("made a tensor above"),
        }
    }

    /// Is it trained?
    #[cfg(feature = "libtorch")]
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self, Weight::Tensor(t) if t.is_tracked())
    }

    /// The squared norm of each row, (1, out), summed in f64.
    pub(crate) fn square_norms(&self, device: &Device) -> Tensor<2> {
        /// Rows that are widened at a time.
        const ROWS: usize = 32;
        let [rows, columns] = self.dims();
        let norms: Vec<f32> = match self {
            Weight::Host(m) => (0..rows.div_ceil(ROWS))
                .into_par_iter()
                .flat_map_iter(|tile| {
                    let mut scratch = Vec::new();
                    let values = m.tile(tile * ROWS..((tile + 1) * ROWS).min(rows), &mut scratch);
                    let norms: Vec<f32> = values.chunks(columns.max(1)).map(square_norm).collect();
                    norms
                })
                .collect(),
            Weight::Tensor(_) => {
                let values = self.values();
                values.chunks(columns.max(1)).map(square_norm).collect()
            }
        };
        Tensor::from_data(TensorData::new(norms, [1, rows]), device)
    }

    /// Rows by their indices, (ids, in).
    pub(crate) fn rows(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        match self {
            Weight::Host(m) => {
                let mut out = vec![0.0; ids.len() * m.columns()];
                linear::embed(m, ids, &mut out);
                Tensor::from_data(TensorData::new(out, [ids.len(), m.columns()]), device)
            }
            Weight::Tensor(t) => {
                let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let ids = TensorData::new(ids.clone(), [ids.len()]);
                let rows = t
                    .clone()
                    .select(0, Tensor::<1, Int>::from_data(ids, device));
                Weight::Tensor(rows).tensor(device)
            }
        }
    }

    /// Bytes on the heap or a device, and in a mapped file.
    pub(crate) fn memory(&self) -> (usize, usize) {
        match self {
            Weight::Host(m) if m.is_mapped() => (0, m.file_bytes()),
            Weight::Host(m) => (m.memory(), 0),
            Weight::Tensor(t) => (t.dims().iter().product::<usize>() * t.dtype().size(), 0),
        }
    }
}

fn square_norm(row: &[f32]) -> f32 {
    row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() as f32
}

/// Puts weights on a device one below the other in memory, so that they can be one product; others stay as they are.
pub(crate) fn join(weights: &mut [Weight]) {
    let tensors: Vec<Tensor<2>> = weights
        .iter()
        .filter_map(|w| match w {
            Weight::Tensor(t) => Some(t.clone()),
            Weight::Host(_) => None,
        })
        .collect();
    if tensors.len() < weights.len() {
        return;
    }
    let all = Tensor::cat(tensors, 0);
    let mut start = 0;
    for weight in weights {
        let rows = weight.dims()[0];
        *weight = Weight::Tensor(all.clone().narrow(0, start, rows));
        start += rows;
    }
}

/// The matrix on a device, in the dtype that stands for its format: f32 for NF4, which no dtype stands for.
pub(crate) fn on_device(matrix: &Matrix, device: &Device) -> Tensor<2> {
    let tensor = Weight::Host(matrix.clone()).tensor(device);
    match matrix.format() {
        Format::Bf16 => tensor.cast(DType::BF16),
        Format::F16 => tensor.cast(DType::F16),
        _ => tensor,
    }
}
