//! RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) over the channels, (N, C) -> (N, C).

use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use super::host;
#[cfg(feature = "libtorch")]
use super::torch::{self, TchTensor};
use super::{Kernels, bridge, kernels};

/// `x / sqrt(mean(x²) + eps) * weight`. `weight`: (1, C).
pub fn rms_norm(x: Tensor<2>, weight: &Tensor<2>, eps: f64) -> Tensor<2> {
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => bridge::apply::<burn::backend::Flex, _, 2>(
            RmsNorm { eps: eps as f32 },
            [x, weight.clone()],
        ),
        #[cfg(feature = "libtorch")]
        Kernels::Torch => {
            let op = RmsNorm { eps: eps as f32 };
            bridge::apply::<burn::backend::LibTorch, _, 2>(op, [x, weight.clone()])
        }
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
        Kernels::Torch => {
            let op = LayerNorm { eps: eps as f32 };
            let inputs = [x, weight.clone(), bias.clone()];
            bridge::apply::<burn::backend::LibTorch, _, 3>(op, inputs)
        }
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

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 2> for RmsNorm {
    /// x, weight, 1/rms of each row.
    type Saved = (TchTensor, TchTensor, TchTensor);

    fn forward(&self, [x, weight]: [TchTensor; 2]) -> (TchTensor, Self::Saved) {
        let eps = f64::from(self.eps);
        let (y, inverse) = torch::rms_norm::forward(&x.tensor, &weight.tensor, eps);
        (TchTensor::new(y), (x, weight, TchTensor::new(inverse)))
    }

    fn backward(
        &self,
        (x, weight, inverse): Self::Saved,
        dy: TchTensor,
        wanted: [bool; 2],
    ) -> [Option<TchTensor>; 2] {
        use torch::rms_norm::{backward, weight_gradient};
        let (x, inverse, dy) = (&x.tensor, &inverse.tensor, &dy.tensor);
        let dx = wanted[0].then(|| backward(x, &weight.tensor, inverse, dy));
        let dweight = wanted[1].then(|| weight_gradient(x, inverse, dy).view([1, -1]));
        [dx, dweight].map(|t| t.map(TchTensor::new))
    }
}

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 3> for LayerNorm {
    /// x, weight, mean and 1/deviation of each row.
    type Saved = [TchTensor; 4];

    fn forward(&self, [x, weight, bias]: [TchTensor; 3]) -> (TchTensor, Self::Saved) {
        let (y, mean, inverse) = torch::layer_norm::forward(
            &x.tensor,
            &weight.tensor.view(-1),
            &bias.tensor.view(-1),
            f64::from(self.eps),
        );
        let saved = [x, weight, TchTensor::new(mean), TchTensor::new(inverse)];
        (TchTensor::new(y), saved)
    }

    fn backward(
        &self,
        [x, weight, mean, inverse]: Self::Saved,
        dy: TchTensor,
        wanted: [bool; 3],
    ) -> [Option<TchTensor>; 3] {
        use torch::layer_norm::{backward, weight_gradients};
        let (x, mean, inverse, dy) = (&x.tensor, &mean.tensor, &inverse.tensor, &dy.tensor);
        let dx = wanted[0].then(|| backward(x, &weight.tensor.view(-1), mean, inverse, dy));
        let (dweight, dbias) = match wanted[1] || wanted[2] {
            true => {
                let (w, b) = weight_gradients(x, mean, inverse, dy);
                (Some(w.view([1, -1])), Some(b.view([1, -1])))
            }
            false => (None, None),
        };
        [dx, dweight, dbias].map(|t| t.map(TchTensor::new))
    }
}
