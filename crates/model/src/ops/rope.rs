//! Rotary position embedding (arXiv 2104.09864) in Hugging Face's `rotate_half` form: with the head's halves x1 and x2,
//! (x1 cos - x2 sin, x2 cos + x1 sin). The backward pass rotates back.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "flex")]
use super::host;
#[cfg(feature = "libtorch")]
use super::torch::{self, TchTensor};
use super::{Kernels, bridge, kernels};

/// cos and sin of the angles of N rows, (N, D / 2) each.
#[derive(Debug, Clone)]
pub struct Rotary(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    device: Device,
    /// Only where tensors are asked for.
    tensors: OnceLock<(Tensor<3>, Tensor<3>)>,
}

impl Rotary {
    /// `positions`: one for each row; `frequencies`: D / 2 of them. The angle in f32, as the reference computes it.
    pub fn new(positions: &[usize], frequencies: &[f64], device: &Device) -> Self {
        let table = |f: fn(f32) -> f32| {
            let mut values = Vec::with_capacity(positions.len() * frequencies.len());
            for &p in positions {
                values.extend(frequencies.iter().map(|&w| f(p as f32 * w as f32)));
            }
            values
        };
        Rotary(Arc::new(Tables {
            cos: table(f32::cos),
            sin: table(f32::sin),
            half: frequencies.len(),
            device: device.clone().inner(),
            tensors: OnceLock::new(),
        }))
    }

    /// (N, 1, D / 2) each.
    fn tensors(&self) -> &(Tensor<3>, Tensor<3>) {
        let t = &self.0;
        t.tensors.get_or_init(|| {
            let shape = [t.cos.len() / t.half.max(1), 1, t.half];
            let tensor =
                |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), shape), &t.device);
            (tensor(&t.cos), tensor(&t.sin))
        })
    }
}

/// Rotates the first `heads` heads of D values in every row of (N, width); the rest stays.
pub fn rope(x: Tensor<2>, heads: usize, rotary: &Rotary) -> Tensor<2> {
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => {
            let rotary = rotary.clone();
            bridge::apply::<burn::backend::Flex, _, 1>(Rope { heads, rotary }, [x])
        }
        #[cfg(feature = "libtorch")]
        Kernels::Torch => {
            let rotary = rotary.clone();
            bridge::apply::<burn::backend::LibTorch, _, 1>(Rope { heads, rotary }, [x])
        }
        Kernels::Composed => rope_composed(x, heads, rotary),
    }
}

/// [`rope`] of burn's primitives.
pub fn rope_composed(x: Tensor<2>, heads: usize, rotary: &Rotary) -> Tensor<2> {
    let [n, width] = x.dims();
    let half = rotary.0.half;
    let (cos, sin) = rotary.tensors().clone();
    let turned = heads * 2 * half;
    let part = x.clone().narrow(1, 0, turned).reshape([n, heads, 2 * half]);
    let (x1, x2) = (part.clone().narrow(2, 0, half), part.narrow(2, half, half));
    let first = x1.clone() * cos.clone() - x2.clone() * sin.clone();
    let second = x2 * cos + x1 * sin;
    let part = Tensor::cat(vec![first, second], 2).reshape([n, turned]);
    if turned == width {
        return part;
    }
    Tensor::cat(vec![part, x.narrow(1, turned, width - turned)], 1)
}

#[derive(Debug, Clone)]
struct Rope {
    heads: usize,
    rotary: Rotary,
}

#[cfg(feature = "flex")]
impl Rope {
    fn rotate(&self, x: host::FlexTensor, inverse: bool) -> host::FlexTensor {
        let mut x = host::dense(x);
        let [_, width] = host::dims(&x);
        let t = &self.rotary.0;
        let values = host::slice_mut(&mut x);
        sharelora_kernels::rope::rotate(
            values,
            width,
            self.heads,
            2 * t.half,
            &t.cos,
            &t.sin,
            inverse,
        );
        x
    }
}

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 1> for Rope {
    type Saved = ();

    fn forward(&self, [x]: [host::FlexTensor; 1]) -> (host::FlexTensor, ()) {
        (self.rotate(x, false), ())
    }

    fn backward(
        &self,
        (): (),
        gradient: host::FlexTensor,
        _wanted: [bool; 1],
    ) -> [Option<host::FlexTensor>; 1] {
        [Some(self.rotate(gradient, true))]
    }
}

#[cfg(feature = "libtorch")]
impl Rope {
    fn turned(&self, x: &TchTensor, inverse: bool) -> TchTensor {
        let table = |t: &Tensor<3>| {
            let t = t.clone().try_into_primitive::<burn::backend::LibTorch>();
            let t = t.expect("made on the device of x").tensor;
            t.view([-1, self.rotary.0.half as i64])
        };
        let (cos, sin) = self.rotary.tensors();
        let (heads, size) = (self.heads as i64, 2 * self.rotary.0.half as i64);
        let x = x.tensor.contiguous();
        let y = torch::rope::rotate(&x, heads, size, &table(cos), &table(sin), inverse);
        TchTensor::new(y)
    }
}

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 1> for Rope {
    type Saved = ();

    fn forward(&self, [x]: [TchTensor; 1]) -> (TchTensor, ()) {
        (self.turned(&x, false), ())
    }

    fn backward(&self, (): (), dy: TchTensor, _wanted: [bool; 1]) -> [Option<TchTensor>; 1] {
        [Some(self.turned(&dy, true))]
    }
}
