//! AdamW over a list of matrices: burn's update rule, with a state that can be written down and read back.

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Tensor, TensorData};

/// Hyper-parameters of AdamW (arXiv 1711.05101), named as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    pub betas: [f64; 2],
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// Moments for each matrix; `None` before its first gradient.
pub struct Optimizer {
    /// Without and with weight decay.
    rules: [AdamW; 2],
    decays: Vec<bool>,
    states: Vec<Option<AdamWState<2>>>,
}

/// The moments of one matrix on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub time: usize,
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl Optimizer {
    /// `decays`: for each matrix, whether weight decay is for it.
    pub fn new(options: AdamWOptions, decays: Vec<bool>) -> Self {
        let rule = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(options.betas[0] as f32)
                .with_beta_2(options.betas[1] as f32)
                .with_epsilon(options.epsilon as f32)
                .with_weight_decay(weight_decay as f32)
                .build()
        };
        Optimizer {
            rules: [rule(0.0), rule(options.weight_decay)],
            states: decays.iter().map(|_| None).collect(),
            decays,
        }
    }

    /// One update of matrix `index`.
    pub fn step(
        &mut self,
        index: usize,
        learning_rate: f64,
        matrix: Tensor<2>,
        gradient: Tensor<2>,
    ) -> Tensor<2> {
        let state = self.states[index].take();
        let rule = &self.rules[usize::from(self.decays[index])];
        let (matrix, state) = rule.step(learning_rate, matrix, gradient, state);
        self.states[index] = state;
        matrix
    }

    /// Host copies of all moments.
    pub fn moments(&self) -> Vec<Option<Moments>> {
        let read = |t: &Tensor<2>| t.try_to_vec_as::<f32>().expect("moments are f32 tensors");
        self.states
            .iter()
            .map(|state| {
                state.as_ref().map(|s| Moments {
                    time: s.momentum.time,
                    first: read(&s.momentum.moment_1),
                    second: read(&s.momentum.moment_2),
                })
            })
            .collect()
    }

    /// Puts back what [`moments`](Self::moments) gave; `shapes` are the matrices'.
    pub fn restore(
        &mut self,
        moments: Vec<Option<Moments>>,
        shapes: &[[usize; 2]],
        device: &Device,
    ) {
        self.states = moments
            .into_iter()
            .zip(shapes)
            .map(|(m, &shape)| {
                m.map(|m| {
                    let tensor = |v: Vec<f32>| Tensor::from_data(TensorData::new(v, shape), device);
                    AdamWState::new(AdaptiveMomentumState::new(
                        m.time,
                        tensor(m.first),
                        tensor(m.second),
                    ))
                })
            })
            .collect();
    }
}
