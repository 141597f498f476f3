//! The trainable matrices, and their application at a site by activations.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{AdapterError, Layout, Matrix};

/// Identifies the dropout masks of one forward pass: same seed and pass, same masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropout {
    pub seed: u64,
    /// Counts forward passes (micro-batches) from the start of training.
    pub pass: u64,
}

/// One tensor for each matrix of a [`Layout`].
///
/// A shared matrix is one tensor that several sites read, so autodiff sums its layers' gradients and the
/// optimizer sees it once.
#[derive(Clone)]
pub struct Bank {
    layout: Arc<Layout>,
    /// In the order of [`Layout::matrices`]: every `A [rank, in]`, then every `B [out, rank]`.
    matrices: Vec<Tensor<2>>,
    device: Device,
}

/// A generator of its own for each purpose and place, so that the values of one matrix do not depend on
/// which others exist.
pub fn generator(seed: u64, purpose: &str, place: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose.as_bytes());
    hash.update([0]);
    hash.update(place.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

impl Bank {
    /// `A ~ U(-1/sqrt(in), 1/sqrt(in))`, `B = 0` (kaiming uniform with a = sqrt 5, PEFT's `reset_lora_parameters`).
    ///
    /// A matrix takes the values that its first site would have alone, so a shared `A` starts as layer 0's.
    pub fn init(layout: Arc<Layout>, seed: u64, device: &Device) -> Self {
        let values = |i: usize, matrix: &Matrix| -> Vec<f32> {
            let [rows, columns] = matrix.shape;
            if i >= layout.a.len() {
                return vec![0.0; rows * columns];
            }
            let bound = 1.0 / (columns as f32).sqrt();
            let mut rng = generator(seed, "A", &layout.sites[matrix.owner].place());
            (0..rows * columns)
                .map(|_| rng.random_range(-bound..bound))
                .collect()
        };
        let matrices = layout
            .matrices()
            .enumerate()
            .map(|(i, m)| Tensor::from_data(TensorData::new(values(i, m), m.shape), device))
            .collect();
        Bank {
            layout,
            matrices,
            device: device.clone(),
        }
    }

    /// A bank with these values, in the order of [`Layout::matrices`].
    ///
    /// # Errors
    /// [`AdapterError::Unsupported`] where a number of values does not fit its matrix.
    pub fn from_values(
        layout: Arc<Layout>,
        values: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        if values.len() != layout.matrices().count() {
            return Err(AdapterError::Unsupported(format!(
                "{} matrices given, the layout has {}",
                values.len(),
                layout.matrices().count()
            )));
        }
        let matrices = layout
            .matrices()
            .zip(values)
            .map(|(m, v)| {
                if v.len() != m.shape[0] * m.shape[1] {
                    return Err(AdapterError::Unsupported(format!(
                        "`{}` is {:?}, but {} values are given",
                        m.name,
                        m.shape,
                        v.len()
                    )));
                }
                Ok(Tensor::from_data(TensorData::new(v, m.shape), device))
            })
            .collect::<Result<_, _>>()?;
        Ok(Bank {
            layout,
            matrices,
            device: device.clone(),
        })
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The matrices in the order of [`Layout::matrices`].
    pub fn matrices(&self) -> &[Tensor<2>] {
        &self.matrices
    }

    /// The matrices, for an optimizer to replace.
    pub fn matrices_mut(&mut self) -> &mut [Tensor<2>] {
        &mut self.matrices
    }

    /// Host copies of the values, in the order of [`Layout::matrices`].
    pub fn values(&self) -> Vec<Vec<f32>> {
        self.matrices.iter().map(to_vec).collect()
    }

    /// `A` and `B` of an adapted site.
    pub fn site(&self, index: usize) -> (&Tensor<2>, &Tensor<2>) {
        let slot = self.layout.slots[index];
        (
            &self.matrices[slot.a],
            &self.matrices[self.layout.a.len() + slot.b],
        )
    }

    /// The update `s (x A^T) B^T` of a projection's output, or `None` where it is not adapted.
    /// `x`: (T, in) -> (T, out). Nothing of the weight's size is made.
    pub fn update(
        &self,
        layer: usize,
        projection: &str,
        x: &Tensor<2>,
        dropout: Option<Dropout>,
    ) -> Option<Tensor<2>> {
        let index = self.layout.find(layer, projection)?;
        let (a, b) = self.site(index);
        let x = match self.mask(index, dropout) {
            Some(mask) => x.clone() * mask.tensor(x.dims(), &self.device),
            None => x.clone(),
        };
        let low = x.matmul(a.clone().transpose()); // (T, r)
        Some(
            low.mul_scalar(self.layout.config.scale())
                .matmul(b.clone().transpose()),
        )
    }

    /// Dropout's mask at a site in one pass; `None` where nothing is dropped.
    pub fn mask(&self, site: usize, dropout: Option<Dropout>) -> Option<Mask> {
        let probability = self.layout.config.dropout;
        let dropout = dropout.filter(|_| probability > 0.0)?;
        let place = self.layout.sites[site].place();
        Some(Mask {
            seed: generator(dropout.seed, "dropout", &place).get_seed(),
            pass: dropout.pass,
            probability,
        })
    }
}

/// Inverted dropout at one site in one pass: each factor is 0 with probability p, else 1 / (1 - p).
///
/// Drawn on the host from a stream for each row, so that a run that is resumed, or runs on another backend or number of
/// threads, draws the same masks, and a backward pass can draw them again.
#[derive(Debug, Clone)]
pub struct Mask {
    seed: [u8; 32],
    pass: u64,
    probability: f64,
}

impl Mask {
    /// Writes the factors of one row of the site's input.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let keep = (1.0 / (1.0 - self.probability)) as f32;
        let threshold = (self.probability * f64::from(u32::MAX)) as u32;
        let mut rng = ChaCha8Rng::from_seed(self.seed);
        // 2^20 rows a pass are more than fit in memory.
        rng.set_stream((self.pass << 20) | row as u64);
        for v in out {
            *v = if rng.random::<u32>() < threshold {
                0.0
            } else {
                keep
            };
        }
    }

    /// All factors, (rows, columns), row-major.
    pub fn values(&self, [rows, columns]: [usize; 2]) -> Vec<f32> {
        let mut values = vec![0f32; rows * columns];
        values
            .par_chunks_mut(columns.max(1))
            .enumerate()
            .for_each(|(row, out)| self.row(row, out));
        values
    }

    /// [`Mask::values`] as a tensor.
    pub fn tensor(&self, shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values(shape), shape), device)
    }
}

/// Host copy of a tensor's f32 values, row-major.
pub(crate) fn to_vec(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .clone()
        .without_autodiff()
        .try_to_vec_as::<f32>()
        .expect("a float tensor that exists can be read as f32")
}
