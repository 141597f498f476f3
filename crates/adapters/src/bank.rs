//! The matrices of an adapter, and their application at a site by activations.
//!
//! Adapters usually sit in the layers they adapt, as modules around `Linear`; sharing is then the same parameter in several modules. In burn
//! a cloned parameter is another parameter: gradients would sum, and the optimizer would update one copy. Here a shared matrix is one tensor
//! that several sites read, files keep it once, and the base never contains an adapter. PEFT has no aliases in its files: there the
//! matrix is written once per layer, and reading finds the sharing again by comparing values.
//!
//! Initial values and dropout masks are drawn on the host, from ChaCha streams named by seed, purpose, place and pass. They depend neither
//! on the backend nor on which other matrices exist: ShareA starts from LoRA's values of layer 0.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{AdapterError, Extra, Layout, Site, init};

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
/// optimizer sees it once. A bank with magnitudes (DoRA) is used beside one base alone: it keeps norms that depend on it.
#[derive(Clone)]
pub struct Bank {
    layout: Arc<Layout>,
    /// In the order of [`Layout::matrices`]: every `A [rank, in]`, then every `B [out, rank]`, then what sites have beside them.
    matrices: Vec<Tensor<2>>,
    device: Device,
    /// Of each site's weight: the squared norms of its rows, (1, out).
    squares: Norms,
    /// As above with the update: 1 / norm. For the present values.
    inverse: Norms,
}

/// Computed when they are first asked for; clones share them.
type Norms = Arc<Vec<OnceLock<Tensor<2>>>>;

fn norms(layout: &Layout) -> Norms {
    let sites = match layout.sharing.magnitude {
        true => layout.sites.len(),
        false => 0,
    };
    Arc::new((0..sites).map(|_| OnceLock::new()).collect())
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
    /// Initial values as `adapter.init` and the method have them (see [`Init`](crate::Init)). `weight` gives the base's weight of a site,
    /// row-major [out, in]; it is asked for DoRA's magnitudes and by PiSSA alone.
    pub fn init(
        layout: Arc<Layout>,
        seed: u64,
        device: &Device,
        weight: &(dyn Fn(&Site) -> Vec<f32> + Sync),
    ) -> Self {
        let values = init::values(&layout, seed, weight);
        Self::of(layout, values, device)
    }

    fn of(layout: Arc<Layout>, values: Vec<Vec<f32>>, device: &Device) -> Self {
        let tensor = |(values, shape)| Tensor::from_data(TensorData::new(values, shape), device);
        let shapes = layout.matrices().map(|m| m.shape);
        Bank {
            matrices: values.into_iter().zip(shapes).map(tensor).collect(),
            device: device.clone(),
            squares: norms(&layout),
            inverse: norms(&layout),
            layout,
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
        for (m, v) in layout.matrices().zip(&values) {
            if v.len() != m.shape[0] * m.shape[1] {
                return Err(AdapterError::Unsupported(format!(
                    "`{}` is {:?}, but {} values are given",
                    m.name,
                    m.shape,
                    v.len()
                )));
            }
        }
        Ok(Self::of(layout, values, device))
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The matrices in the order of [`Layout::matrices`].
    pub fn matrices(&self) -> &[Tensor<2>] {
        &self.matrices
    }

    /// The trained matrices, for an optimizer to replace; in the order of [`Layout::matrices`].
    pub fn trained_mut(&mut self) -> Vec<&mut Tensor<2>> {
        self.inverse = norms(&self.layout);
        let matrices = self.matrices.iter_mut().zip(self.layout.matrices());
        matrices
            .filter(|(_, m)| m.trained)
            .map(|(tensor, _)| tensor)
            .collect()
    }

    /// Host copies of the values, in the order of [`Layout::matrices`].
    pub fn values(&self) -> Vec<Vec<f32>> {
        self.matrices.iter().map(to_vec).collect()
    }

    /// `A` and `B` that an adapted site uses, as they are kept: of all sites together they may be wider than the site.
    pub fn site(&self, index: usize) -> (&Tensor<2>, &Tensor<2>) {
        let slot = self.layout.slots[index];
        (
            &self.matrices[slot.a],
            &self.matrices[self.layout.a.len() + slot.b],
        )
    }

    fn extra(&self, site: usize, kind: Extra) -> Option<&Tensor<2>> {
        Some(&self.matrices[self.layout.extra(site, kind)?])
    }

    /// `A [r, in]` and `B [out, r]` of a site's update `s (x A^T) B^T`, under autodiff where the matrices are. `r` is
    /// [`Layout::update_rank`].
    ///
    /// VeRA's are `d ∘ A` and `b ∘ B`, PiSSA's `[A; A_0]` and `[B, -B_0]` (PEFT's `subtract_mutated_init`).
    pub fn effective(&self, index: usize) -> (Tensor<2>, Tensor<2>) {
        let site = &self.layout.sites[index];
        let (a, b) = self.site(index);
        let (mut a, mut b) = (a.clone(), b.clone());
        if a.dims()[1] > site.in_features {
            a = a.narrow(1, 0, site.in_features);
        }
        if b.dims()[0] > site.out_features {
            b = b.narrow(0, 0, site.out_features);
        }
        if let Some(d) = self.extra(index, Extra::LambdaD) {
            a = a * d.clone();
        }
        if let Some(lambda) = self.extra(index, Extra::LambdaB) {
            b = b * lambda.clone();
        }
        if let Some(start) = self.extra(index, Extra::StartA) {
            a = Tensor::cat(vec![a, start.clone()], 0);
        }
        if let Some(start) = self.extra(index, Extra::StartB) {
            b = Tensor::cat(vec![b, start.clone().neg()], 1);
        }
        (a, b)
    }

    /// DoRA's factors of a site's outputs, `m / norm(W + s B A)`, (1, out); `None` without magnitudes. The norms are constants of
    /// the gradient (arXiv 2402.09353, section 4.3).
    ///
    /// `W + s B A` is not made: with rows `W_i` and `B_i`, `|W_i + s B_i A|^2 = |W_i|^2 + 2 s B_i (A W^T)_i + s^2 B_i (A A^T) B_i^T`.
    /// `squares` gives `|W_i|^2`, (1, out), and `product` `A W^T`, (r, out), of an A.
    pub fn gain(
        &self,
        index: usize,
        squares: impl FnOnce() -> Tensor<2>,
        product: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Option<Tensor<2>> {
        let magnitude = self.extra(index, Extra::Magnitude)?;
        let inverse = self.inverse[index].get_or_init(|| {
            let squares = self.squares[index].get_or_init(squares).clone();
            let (a, b) = self.effective(index);
            let (a, b) = (a.without_autodiff(), b.without_autodiff());
            let scale = self.layout.scale();
            let cross = (product(a.clone()) * b.clone().transpose()).sum_dim(0); // (1, out)
            let gram = a.clone().matmul(a.transpose()); // (r, r)
            let own = (b.clone().matmul(gram) * b).sum_dim(1).transpose(); // (1, out)
            let sum = squares + cross.mul_scalar(2.0 * scale) + own.mul_scalar(scale * scale);
            // Rounding may leave less than nothing of a row that the update cancels.
            sum.clamp_min(f32::MIN_POSITIVE).sqrt().recip()
        });
        Some(magnitude.clone() * inverse.clone())
    }

    /// The norms of DoRA's rows, (1, out), if there are any.
    pub(crate) fn magnitude(&self, index: usize) -> Option<Tensor<2>> {
        Some(
            self.extra(index, Extra::Magnitude)?
                .clone()
                .without_autodiff(),
        )
    }

    /// The update `s (x A^T) B^T` of a projection's output, without DoRA's factor, or `None` where it is not adapted.
    /// `x`: (T, in) -> (T, out). Nothing of the weight's size is made.
    pub fn update(
        &self,
        layer: usize,
        projection: &str,
        x: &Tensor<2>,
        dropout: Option<Dropout>,
    ) -> Option<Tensor<2>> {
        let index = self.layout.find(layer, projection)?;
        let (a, b) = self.effective(index);
        let x = match self.mask(index, dropout) {
            Some(mask) => x.clone() * mask.tensor(x.dims(), &self.device),
            None => x.clone(),
        };
        let low = x.matmul(a.transpose()); // (T, r)
        Some(low.mul_scalar(self.layout.scale()).matmul(b.transpose()))
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
