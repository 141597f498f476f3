//! Linear projections of one input, with an adapter's low-rank updates: `y_p = x W_p^T + s (x A_p^T) B_p^T`, (N, in) -> (N, sum of
//! out_p), the projections side by side (arXiv 2106.09685, section 4.1), plus a bias. Nothing of a weight's size is made.

use burn::backend::{Autodiff, Backend, DispatchKindConversion};
use burn::tensor::{DispatchTensor, Tensor};
use sharelora_adapters::Mask;
use sharelora_kernels::matrix::Matrix;

#[cfg(feature = "flex")]
use super::host;
#[cfg(feature = "libtorch")]
use super::torch::{self, TchTensor};
use super::{Kernels, bridge, kernels, scaled_linear};
use crate::weight::Weight;

/// An adapter's update of one of the projections.
#[derive(Debug, Clone)]
pub struct Update {
    /// Index among the projections.
    pub projection: usize,
    /// (r, in)
    pub a: Tensor<2>,
    /// (out, r)
    pub b: Tensor<2>,
    pub scale: f64,
    pub mask: Option<Mask>,
    /// DoRA's factors of the projection's outputs, (1, out).
    pub gain: Option<Tensor<2>>,
}

/// The projections of `x` with their updates; `weights`: of all projections that read it, `bias`: (1, sum of out_p).
pub fn linear(
    x: Tensor<2>,
    weights: &[Weight],
    bias: Option<Tensor<2>>,
    updates: Vec<Update>,
) -> Tensor<2> {
    if updates.iter().any(|u| u.gain.is_some()) {
        return scaled_linear(x, weights, bias, updates);
    }
    // A frozen bias is added where the products are still in the cache, and has no node of its own.
    let is_frozen = bias.as_ref().is_none_or(|b| !b.is_autodiff());
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => match matrices(weights) {
            Some(matrices) if is_frozen => frozen(x, matrices, bias, updates),
            None if updates.is_empty() => plus(trained(x, weights), bias),
            _ => linear_composed(x, weights, bias, updates),
        },
        #[cfg(feature = "libtorch")]
        Kernels::Torch => match is_frozen && !weights.iter().any(Weight::is_tracked) {
            true => frozen_on_torch(x, weights, bias, updates),
            false => linear_composed(x, weights, bias, updates),
        },
        Kernels::Composed => linear_composed(x, weights, bias, updates),
    }
}

fn plus(y: Tensor<2>, bias: Option<Tensor<2>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias,
        None => y,
    }
}

/// [`linear`] of burn's primitives, without gains.
pub fn linear_composed(
    x: Tensor<2>,
    weights: &[Weight],
    bias: Option<Tensor<2>>,
    updates: Vec<Update>,
) -> Tensor<2> {
    let device = x.device().inner();
    let mut parts: Vec<Tensor<2>> = weights
        .iter()
        .map(|w| x.clone().matmul(w.tensor(&device).transpose()))
        .collect();
    for update in updates {
        let input = match &update.mask {
            Some(mask) => x.clone() * mask.tensor(x.dims(), &device),
            None => x.clone(),
        };
        let low = input.matmul(update.a.transpose()).mul_scalar(update.scale); // (N, r)
        let part = &mut parts[update.projection];
        *part = part.clone() + low.matmul(update.b.transpose());
    }
    let y = match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 1),
    };
    plus(y, bias)
}

/// All of them, where all are in host memory.
#[cfg(feature = "flex")]
fn matrices(weights: &[Weight]) -> Option<Vec<Matrix>> {
    let matrix = |w: &Weight| match w {
        Weight::Host(m) => Some(m.clone()),
        Weight::Tensor(_) => None,
    };
    weights.iter().map(matrix).collect()
}

/// Runs an operation on x and on A and B of each update.
fn with_updates<B, O>(
    x: Tensor<2>,
    updates: Vec<Update>,
    op: impl FnOnce(Vec<Site>) -> O,
) -> Tensor<2>
where
    B: Backend,
    O: bridge::Operation<B, 1>
        + bridge::Operation<B, 3>
        + bridge::Operation<B, 5>
        + bridge::Operation<B, 7>,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let mut inputs = vec![x];
    let mut sites = Vec::new();
    for update in updates {
        sites.push(Site {
            projection: update.projection,
            scale: update.scale as f32,
            mask: update.mask,
        });
        inputs.extend([update.a, update.b]);
    }
    let op = op(sites);
    macro_rules! run {
        ($n:literal) => {
            bridge::apply::<B, O, $n>(op, inputs.try_into().expect("counted by the match"))
        };
    }
    match inputs.len() {
        1 => run!(1),
        3 => run!(3),
        5 => run!(5),
        7 => run!(7),
        n => unreachable!("{n} inputs: no architecture joins more than three projections"),
    }
}

#[cfg(feature = "flex")]
fn frozen(
    x: Tensor<2>,
    weights: Vec<Matrix>,
    bias: Option<Tensor<2>>,
    updates: Vec<Update>,
) -> Tensor<2> {
    let bias = bias.map(|b| {
        let bias = b.try_into_primitive::<burn::backend::Flex>();
        host::dense(bias.expect("the model keeps its biases on its device"))
    });
    let keeps_input = updates.iter().any(|u| u.a.is_tracked());
    let op = |sites| FrozenLinear {
        weights,
        bias,
        sites,
        keeps_input,
    };
    with_updates::<burn::backend::Flex, _>(x, updates, op)
}

#[cfg(feature = "libtorch")]
fn frozen_on_torch(
    x: Tensor<2>,
    weights: &[Weight],
    bias: Option<Tensor<2>>,
    updates: Vec<Update>,
) -> Tensor<2> {
    use burn::backend::LibTorch;
    let tensor = |w: &Weight| match w {
        Weight::Tensor(t) => t.clone().try_into_primitive::<LibTorch>().ok(),
        Weight::Host(_) => None,
    };
    let tensors: Option<Vec<TchTensor>> = weights.iter().map(tensor).collect();
    let weights = tensors.expect("the model keeps its weights on its device");
    let bias = bias.map(|b| {
        let bias = b.try_into_primitive::<LibTorch>();
        bias.expect("the model keeps its biases on its device")
    });
    let op = |sites| TorchLinear {
        weights,
        bias,
        sites,
    };
    with_updates::<LibTorch, _>(x, updates, op)
}

#[cfg(feature = "flex")]
fn trained(x: Tensor<2>, weights: &[Weight]) -> Tensor<2> {
    fn run<const N: usize>(inputs: Vec<Tensor<2>>) -> Tensor<2> {
        let inputs = inputs.try_into().expect("counted by the caller");
        bridge::apply::<burn::backend::Flex, _, N>(TrainedLinear, inputs)
    }
    let device = x.device().inner();
    let weights = weights.iter().map(|w| w.tensor(&device));
    let inputs: Vec<_> = std::iter::once(x).chain(weights).collect();
    match inputs.len() {
        2 => run::<2>(inputs),
        3 => run::<3>(inputs),
        4 => run::<4>(inputs),
        n => unreachable!("{n} inputs: no architecture joins more than three projections"),
    }
}

#[derive(Debug, Clone)]
struct Site {
    projection: usize,
    scale: f32,
    mask: Option<Mask>,
}

/// Inputs: x, then A and B of each site.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
struct FrozenLinear {
    weights: Vec<Matrix>,
    /// (1, sum of out)
    bias: Option<host::FlexTensor>,
    sites: Vec<Site>,
    /// The gradient of an A is wanted, which alone needs x.
    keeps_input: bool,
}

#[cfg(feature = "flex")]
mod frozen_linear {
    use sharelora_kernels::linear;

    use super::{FrozenLinear, Matrix, bridge, host};

    type MaskRow<'a> = Box<dyn Fn(usize, &mut [f32]) + Sync + 'a>;

    #[derive(Debug, Clone)]
    pub(super) struct Saved {
        x: Option<host::FlexTensor>,
        rows: usize,
        /// A and B of each site.
        updates: Vec<host::FlexTensor>,
        lows: Vec<Vec<f32>>,
    }

    impl FrozenLinear {
        fn masks(&self) -> Vec<Option<MaskRow<'_>>> {
            let row = |mask| -> MaskRow<'_> {
                let mask: &sharelora_adapters::Mask = mask;
                Box::new(move |row, out: &mut [f32]| mask.row(row, out))
            };
            self.sites
                .iter()
                .map(|s| s.mask.as_ref().map(row))
                .collect()
        }

        fn updates<'a>(
            &self,
            tensors: &'a [host::FlexTensor],
            masks: &'a [Option<MaskRow<'a>>],
        ) -> Vec<linear::Update<'a>> {
            let sites = self.sites.iter().zip(tensors.chunks_exact(2)).zip(masks);
            sites
                .map(|((site, pair), mask)| linear::Update {
                    projection: site.projection,
                    a: host::slice(&pair[0]),
                    b: host::slice(&pair[1]),
                    rank: host::dims(&pair[0])[0],
                    scale: site.scale,
                    mask: mask.as_deref(),
                })
                .collect()
        }
    }

    impl<const N: usize> bridge::Operation<burn::backend::Flex, N> for FrozenLinear {
        type Saved = Saved;

        fn forward(&self, inputs: [host::FlexTensor; N]) -> (host::FlexTensor, Saved) {
            let mut inputs = inputs.into_iter().map(host::dense);
            let x = inputs.next().expect("x is the first input");
            let tensors: Vec<_> = inputs.collect();
            let [n, _] = host::dims(&x);
            let width = self.weights.iter().map(Matrix::rows).sum();
            let mut y = host::buffer(n * width);
            let weights: Vec<&Matrix> = self.weights.iter().collect();
            let masks = self.masks();
            let updates = self.updates(&tensors, &masks);
            let lows = linear::forward(host::slice(&x), n, &weights, &updates, &mut y);
            if let Some(bias) = &self.bias {
                linear::add_bias(&mut y, host::slice(bias));
            }
            drop(updates);
            let saved = Saved {
                x: self.keeps_input.then_some(x),
                rows: n,
                updates: tensors,
                lows,
            };
            (host::tensor(y, n, width), saved)
        }

        fn backward(
            &self,
            saved: Saved,
            gradient: host::FlexTensor,
            wanted: [bool; N],
        ) -> [Option<host::FlexTensor>; N] {
            let dy = host::dense(gradient);
            let weights: Vec<&Matrix> = self.weights.iter().collect();
            let columns = weights[0].columns();
            let masks = self.masks();
            let updates = self.updates(&saved.updates, &masks);
            let mut dx = wanted[0].then(|| host::buffer(saved.rows * columns));
            let found = linear::backward(
                saved.x.as_ref().map(host::slice),
                saved.rows,
                host::slice(&dy),
                &weights,
                &updates,
                &saved.lows,
                dx.as_deref_mut(),
            );
            let mut out = [const { None }; N];
            out[0] = dx.map(|v| host::tensor(v, saved.rows, columns));
            for (i, site) in found.into_iter().enumerate() {
                let [a, b] = [&saved.updates[2 * i], &saved.updates[2 * i + 1]].map(host::dims);
                out[1 + 2 * i] = (!site.a.is_empty()).then(|| host::tensor(site.a, a[0], a[1]));
                out[2 + 2 * i] = Some(host::tensor(site.b, b[0], b[1]));
            }
            out
        }
    }
}

/// Full fine-tuning. Inputs: x, then the weights. `dx = Σ dy_p W_p`, `dW_p = dy_p^T x`.
#[cfg(feature = "flex")]
#[derive(Debug, Clone)]
struct TrainedLinear;

#[cfg(feature = "flex")]
impl<const N: usize> bridge::Operation<burn::backend::Flex, N> for TrainedLinear {
    type Saved = Vec<host::FlexTensor>;

    fn forward(&self, inputs: [host::FlexTensor; N]) -> (host::FlexTensor, Self::Saved) {
        use sharelora_kernels::product::{View, multiply_in_parallel};
        let inputs = inputs.map(host::dense);
        let [n, k] = host::dims(&inputs[0]);
        let widths: Vec<usize> = inputs[1..].iter().map(|w| host::dims(w)[0]).collect();
        let total: usize = widths.iter().sum();
        let x = View::new(host::slice(&inputs[0]), n, k, k);
        let mut y = host::buffer(n * total);
        let mut start = 0;
        for (weight, width) in inputs[1..].iter().zip(widths) {
            let mut part = host::buffer(n * width);
            let weight = View::new(host::slice(weight), width, k, k);
            multiply_in_parallel(&mut part, x, weight.t());
            for (y, part) in y.chunks_mut(total).zip(part.chunks(width)) {
                y[start..start + width].copy_from_slice(part);
            }
            start += width;
        }
        (host::tensor(y, n, total), inputs.into())
    }

    fn backward(
        &self,
        saved: Self::Saved,
        gradient: host::FlexTensor,
        wanted: [bool; N],
    ) -> [Option<host::FlexTensor>; N] {
        use sharelora_kernels::product::{View, multiply_in_parallel};
        let dy = host::dense(gradient);
        let [n, k] = host::dims(&saved[0]);
        let [_, total] = host::dims(&dy);
        let x = View::new(host::slice(&saved[0]), n, k, k);
        let mut out = [const { None }; N];
        let mut start = 0;
        let mut dx: Option<Vec<f32>> = None;
        for (i, weight) in saved[1..].iter().enumerate() {
            let [width, _] = host::dims(weight);
            let dy = View::new(&host::slice(&dy)[start..], n, width, total);
            start += width;
            if wanted[0] {
                let mut part = host::buffer(n * k);
                let weight = View::new(host::slice(weight), width, k, k);
                multiply_in_parallel(&mut part, dy, weight);
                match &mut dx {
                    Some(dx) => dx.iter_mut().zip(&part).for_each(|(a, b)| *a += b),
                    None => dx = Some(part),
                }
            }
            if wanted[1 + i] {
                let mut dw = host::buffer(width * k);
                multiply_in_parallel(&mut dw, dy.t(), x);
                out[1 + i] = Some(host::tensor(dw, width, k));
            }
        }
        out[0] = dx.map(|v| host::tensor(v, n, k));
        out
    }
}

/// As [`FrozenLinear`], with weights on libtorch's device.
#[cfg(feature = "libtorch")]
#[derive(Debug, Clone)]
struct TorchLinear {
    weights: Vec<TchTensor>,
    /// (1, sum of out)
    bias: Option<TchTensor>,
    sites: Vec<Site>,
}

#[cfg(feature = "libtorch")]
mod torch_linear {
    use super::{TchTensor, TorchLinear, bridge, torch};

    /// x is kept where an update's gradient needs it.
    #[derive(Debug, Clone)]
    pub(super) struct Saved {
        x: Option<TchTensor>,
        /// A and B of each site.
        updates: Vec<TchTensor>,
        lows: Vec<TchTensor>,
    }

    impl TorchLinear {
        /// The weights one below the other: where they are so in memory, without a copy.
        fn joined(&self) -> tch::Tensor {
            let parts: Vec<&tch::Tensor> = self.weights.iter().map(|w| &w.tensor).collect();
            let columns = parts[0].size()[1];
            let mut end = parts[0].data_ptr();
            let neighbours = parts.iter().all(|part| {
                let follows = part.data_ptr() == end && part.is_contiguous();
                end = end.wrapping_byte_add(part.numel() * part.kind().elt_size_in_bytes());
                follows
            });
            match neighbours {
                true => {
                    let rows: i64 = parts.iter().map(|part| part.size()[0]).sum();
                    parts[0].as_strided([rows, columns], [columns, 1], None)
                }
                false => tch::Tensor::cat(&parts, 0),
            }
        }

        fn masks(&self, x: &tch::Tensor) -> Vec<Option<tch::Tensor>> {
            let (rows, columns) = (x.size()[0], x.size()[1]);
            let mask = |mask: &sharelora_adapters::Mask| {
                let values = mask.values([rows as usize, columns as usize]);
                let mask = tch::Tensor::from_slice(&values).view([rows, columns]);
                mask.to_device(x.device())
            };
            let masks = self.sites.iter().map(|s| s.mask.as_ref().map(mask));
            masks.collect()
        }

        fn updates<'a>(
            &self,
            tensors: &'a [TchTensor],
            masks: &'a [Option<tch::Tensor>],
        ) -> Vec<torch::linear::Update<'a>> {
            let offset = |projection: usize| {
                let before = self.weights[..projection].iter();
                before.map(|w| w.tensor.size()[0]).sum()
            };
            let sites = self.sites.iter().zip(tensors.chunks_exact(2)).zip(masks);
            sites
                .map(|((site, pair), mask)| torch::linear::Update {
                    offset: offset(site.projection),
                    a: &pair[0].tensor,
                    b: &pair[1].tensor,
                    scale: f64::from(site.scale),
                    mask: mask.as_ref(),
                })
                .collect()
        }
    }

    impl<const N: usize> bridge::Operation<burn::backend::LibTorch, N> for TorchLinear {
        type Saved = Saved;

        fn forward(&self, inputs: [TchTensor; N]) -> (TchTensor, Saved) {
            let mut inputs = inputs.into_iter();
            let x = inputs.next().expect("x is the first input");
            let tensors: Vec<_> = inputs.collect();
            let masks = self.masks(&x.tensor);
            let updates = self.updates(&tensors, &masks);
            let (y, lows) = torch::linear::forward(&x.tensor, &self.joined(), &updates);
            let y = match &self.bias {
                Some(bias) => y + &bias.tensor,
                None => y,
            };
            drop(updates);
            let saved = Saved {
                x: (!self.sites.is_empty()).then_some(x),
                updates: tensors,
                lows: lows.into_iter().map(TchTensor::new).collect(),
            };
            (TchTensor::new(y), saved)
        }

        fn backward(
            &self,
            saved: Saved,
            dy: TchTensor,
            wanted: [bool; N],
        ) -> [Option<TchTensor>; N] {
            let masks = match &saved.x {
                Some(x) => self.masks(&x.tensor),
                None => Vec::new(),
            };
            let updates = self.updates(&saved.updates, &masks);
            let lows = saved.lows.iter().map(|t| t.tensor.shallow_clone());
            let (dx, found) = torch::linear::backward(
                saved.x.as_ref().map(|x| &x.tensor),
                &self.joined(),
                &updates,
                &lows.collect::<Vec<_>>(),
                &dy.tensor,
                wanted[0],
            );
            let mut out = [const { None }; N];
            out[0] = dx.map(TchTensor::new);
            for (i, (a, b)) in found.into_iter().enumerate() {
                out[1 + 2 * i] = Some(TchTensor::new(a));
                out[2 + 2 * i] = Some(TchTensor::new(b));
            }
            out
        }
    }
}
