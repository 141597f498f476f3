//! RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) over the channels, (N, C) -> (N, C).

use burn::tensor::Tensor;

use super::{Kernels, kernels};
#[cfg(feature = "flex")]
use super::{bridge, host};

/// `x / sqrt(mean(x²) + eps) * weight`. `weight`: (1, C).
pub fn rms_norm(x: Tensor<2>, weight: &Tensor<2>, eps: f64) -> Tensor<2> {
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => bridge::apply::<burn::backend::Flex, _, 2>(
            RmsNorm { eps: eps as f32 },
            [x, weight.clone()],
        ),
        #[cfg(feature = "libtorch")]
        Kernels::Torch => rms_norm_composed(x, weight, eps),
        Kernels::Composed => rms_norm_composed(x, weight, eps),
    }
}

/// [`rms_norm`] of burn's primitives.
pub fn rms_norm_composed(x: Tensor<2>, weight: &Tensor<2>, eps: f64) -> Tensor<2> {
    let mean = x.clone().square().mean_dim(1); // (N, 1)
    let inverse = mean.add_scalar(eps).sqrt().recip();
    x * inverse * weight.clone()
}

/// `(x - mean) / sqrt(var + eps) * weight + bias`, the variance being the biased one. `weight`, `bias`: (1, C).
pub fn layer_norm(x: Tensor<2>, weight: &Tensor<2>, bias: &Tensor<2>, eps: f64) -> Tensor<2> {
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => bridge::apply::<burn::backend::Flex, _, 3>(
            LayerNorm { eps: eps as f32 },
            [x, weight.clone(), bias.clone()],
        ),
        #[cfg(feature = "libtorch")]
        Kernels::Torch => layer_norm_composed(x, weight, bias, eps),
        Kernels::Composed => layer_norm_composed(x, weight, bias, eps),
    }
}

/// [`layer_norm`] of burn's primitives.
pub fn layer_norm_composed(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<2>,
    eps: f64,
) -> Tensor<2> {
    let x = x.clone() - x.mean_dim(1);
    let inverse = x
        .clone()
        .square()
        .mean_dim(1)
        .add_scalar(eps)
        .sqrt()
        .recip();
    x * inverse * weight.clone() + bias.clone()
}

#[derive(Debug, Clone)]
struct RmsNorm {
    eps: f32,
}

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 2> for RmsNorm {
    /// x, weight, 1/rms of each row.
    type Saved = (host::FlexTensor, host::FlexTensor, Vec<f32>);

    fn forward(&self, inputs: [host::FlexTensor; 2]) -> (host::FlexTensor, Self::Saved) {
        let [x, weight] = inputs.map(host::dense);
        let [n, c] = host::dims(&x);
        let mut y = host::buffer(n * c);
        let inverse = sharelora_kernels::norm::rms_forward(
            host::slice(&x),
            c,
            host::slice(&weight),
            self.eps,
            &mut y,
        );
        (host::tensor(y, n, c), (x, weight, inverse))
    }

    fn backward(
        &self,
        (x, weight, inverse): Self::Saved,
        gradient: host::FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<host::FlexTensor>; 2] {
        let dy = host::dense(gradient);
        let [n, c] = host::dims(&x);
        let mut dx = wanted[0].then(|| host::buffer(n * c));
        let mut dweight = wanted[1].then(|| host::buffer(c));
        sharelora_kernels::norm::rms_backward(
            host::slice(&x),
            c,
            host::slice(&weight),
            &inverse,
            host::slice(&dy),
            dx.as_deref_mut(),
            dweight.as_deref_mut(),
        );
        [
            dx.map(|v| host::tensor(v, n, c)),
            dweight.map(|v| host::tensor(v, 1, c)),
        ]
    }
}

#[derive(Debug, Clone)]
struct LayerNorm {
    eps: f32,
}

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 3> for LayerNorm {
    /// x, weight, mean and 1/deviation of each row.
    type Saved = (host::FlexTensor, host::FlexTensor, Vec<f32>, Vec<f32>);

    fn forward(&self, inputs: [host::FlexTensor; 3]) -> (host::FlexTensor, Self::Saved) {
        let [x, weight, bias] = inputs.map(host::dense);
        let [n, c] = host::dims(&x);
        let mut y = host::buffer(n * c);
        let (mean, inverse) = sharelora_kernels::norm::layer_forward(
            host::slice(&x),
            c,
            host::slice(&weight),
            host::slice(&bias),
            self.eps,
            &mut y,
        );
        (host::tensor(y, n, c), (x, weight, mean, inverse))
    }

    fn backward(
        &self,
        (x, weight, mean, inverse): Self::Saved,
        gradient: host::FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<host::FlexTensor>; 3] {
        let dy = host::dense(gradient);
        let [n, c] = host::dims(&x);
        let mut dx = wanted[0].then(|| host::buffer(n * c));
        let mut dweight = wanted[1].then(|| host::buffer(c));
        let mut dbias = wanted[2].then(|| host::buffer(c));
        sharelora_kernels::norm::layer_backward(
            host::slice(&x),
            c,
            host::slice(&weight),
            &mean,
            &inverse,
            host::slice(&dy),
            dx.as_deref_mut(),
            dweight.as_deref_mut(),
            dbias.as_deref_mut(),
        );
        [
            dx.map(|v| host::tensor(v, n, c)),
            dweight.map(|v| host::tensor(v, 1, c)),
            dbias.map(|v| host::tensor(v, 1, c)),
        ]
    }
}
