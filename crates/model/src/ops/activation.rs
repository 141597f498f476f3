//! SwiGLU's gated product (arXiv 2002.05202) and GELU (arXiv 1606.08415).

use burn::tensor::{Tensor, activation};

#[cfg(feature = "flex")]
use super::host;
#[cfg(feature = "libtorch")]
use super::torch::{self, TchTensor};
use super::{Kernels, bridge, kernels};

/// `silu(gate) * up` of (N, 2 F), gate before up: (N, F).
pub fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    match kernels(&gate_up.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => bridge::apply::<burn::backend::Flex, _, 1>(Swiglu, [gate_up]),
        #[cfg(feature = "libtorch")]
        Kernels::Torch => bridge::apply::<burn::backend::LibTorch, _, 1>(Swiglu, [gate_up]),
        Kernels::Composed => swiglu_composed(gate_up),
    }
}

/// [`swiglu`] of burn's primitives.
pub fn swiglu_composed(gate_up: Tensor<2>) -> Tensor<2> {
    let f = gate_up.dims()[1] / 2;
    let gate = activation::silu(gate_up.clone().narrow(1, 0, f));
    gate * gate_up.narrow(1, f, f)
}

/// GELU of every value: `x Φ(x)` with the error function, or its approximation with the hyperbolic tangent
/// (`gelu_new` of Hugging Face's GPT-2).
pub fn gelu(x: Tensor<2>, approximate: bool) -> Tensor<2> {
    match kernels(&x.device()) {
        #[cfg(feature = "flex")]
        Kernels::Host => bridge::apply::<burn::backend::Flex, _, 1>(Gelu { approximate }, [x]),
        #[cfg(feature = "libtorch")]
        Kernels::Torch => bridge::apply::<burn::backend::LibTorch, _, 1>(Gelu { approximate }, [x]),
        Kernels::Composed => gelu_composed(x, approximate),
    }
}

/// [`gelu`] of burn's primitives.
pub fn gelu_composed(x: Tensor<2>, approximate: bool) -> Tensor<2> {
    if approximate {
        let cube = x.clone() * x.clone() * x.clone();
        let inner =
            (x.clone() + cube.mul_scalar(0.044715)).mul_scalar((2.0 / std::f64::consts::PI).sqrt());
        return x * (inner.tanh() + 1.0) * 0.5;
    }
    let erf = x.clone().div_scalar(std::f64::consts::SQRT_2).erf();
    x * (erf + 1.0) * 0.5
}

#[derive(Debug, Clone)]
struct Swiglu;

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 1> for Swiglu {
    type Saved = host::FlexTensor;

    fn forward(&self, inputs: [host::FlexTensor; 1]) -> (host::FlexTensor, Self::Saved) {
        let [gate_up] = inputs.map(host::dense);
        let [n, width] = host::dims(&gate_up);
        let mut out = host::buffer(n * width / 2);
        sharelora_kernels::activation::swiglu_forward(host::slice(&gate_up), width / 2, &mut out);
        (host::tensor(out, n, width / 2), gate_up)
    }

    fn backward(
        &self,
        gate_up: Self::Saved,
        gradient: host::FlexTensor,
        _wanted: [bool; 1],
    ) -> [Option<host::FlexTensor>; 1] {
        let dy = host::dense(gradient);
        let [n, width] = host::dims(&gate_up);
        let mut out = host::buffer(n * width);
        sharelora_kernels::activation::swiglu_backward(
            host::slice(&gate_up),
            width / 2,
            host::slice(&dy),
            &mut out,
        );
        [Some(host::tensor(out, n, width))]
    }
}

#[derive(Debug, Clone)]
struct Gelu {
    approximate: bool,
}

#[cfg(feature = "flex")]
impl bridge::Operation<burn::backend::Flex, 1> for Gelu {
    type Saved = host::FlexTensor;

    fn forward(&self, inputs: [host::FlexTensor; 1]) -> (host::FlexTensor, Self::Saved) {
        use sharelora_kernels::activation::{gelu_forward, gelu_tanh_forward};
        let [x] = inputs.map(host::dense);
        let [n, width] = host::dims(&x);
        let mut out = host::buffer(n * width);
        match self.approximate {
            true => gelu_tanh_forward(host::slice(&x), &mut out),
            false => gelu_forward(host::slice(&x), &mut out),
        }
        (host::tensor(out, n, width), x)
    }

    fn backward(
        &self,
        x: Self::Saved,
        gradient: host::FlexTensor,
        _wanted: [bool; 1],
    ) -> [Option<host::FlexTensor>; 1] {
        use sharelora_kernels::activation::{gelu_backward, gelu_tanh_backward};
        let dy = host::dense(gradient);
        let [n, width] = host::dims(&x);
        let mut out = host::buffer(n * width);
        match self.approximate {
            true => gelu_tanh_backward(host::slice(&x), host::slice(&dy), &mut out),
            false => gelu_backward(host::slice(&x), host::slice(&dy), &mut out),
        }
        [Some(host::tensor(out, n, width))]
    }
}

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 1> for Swiglu {
    type Saved = TchTensor;

    fn forward(&self, [gate_up]: [TchTensor; 1]) -> (TchTensor, Self::Saved) {
        let y = torch::swiglu::forward(&gate_up.tensor.contiguous());
        (TchTensor::new(y), gate_up)
    }

    fn backward(
        &self,
        gate_up: Self::Saved,
        dy: TchTensor,
        _wanted: [bool; 1],
    ) -> [Option<TchTensor>; 1] {
        let (gate_up, dy) = (gate_up.tensor.contiguous(), dy.tensor.contiguous());
        [Some(TchTensor::new(torch::swiglu::backward(&gate_up, &dy)))]
    }
}

#[cfg(feature = "libtorch")]
impl bridge::Operation<burn::backend::LibTorch, 1> for Gelu {
    type Saved = TchTensor;

    fn forward(&self, [x]: [TchTensor; 1]) -> (TchTensor, Self::Saved) {
        let y = torch::gelu::forward(&x.tensor, self.approximate);
        (TchTensor::new(y), x)
    }

    fn backward(
        &self,
        x: Self::Saved,
        dy: TchTensor,
        _wanted: [bool; 1],
    ) -> [Option<TchTensor>; 1] {
        let dx = torch::gelu::backward(&x.tensor, &dy.tensor, self.approximate);
        [Some(TchTensor::new(dx))]
    }
}
