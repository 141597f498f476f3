//! Heads that classify a sequence or give it a number, trained in full beside an adapter.
//!
//! Reference: transformers' `RobertaClassificationHead` (`modeling_roberta.py`), `BertForSequenceClassification`
//! (`modeling_bert.py`) and, for causal models, `GenericForSequenceClassification` (`modeling_layers.py`), which reads the last
//! token. Deviation: the head's own dropout is not applied.
//!
//! | base | reads | layers |
//! |---|---|---|
//! | RoBERTa | the first token | `classifier.dense`, tanh, `classifier.out_proj` |
//! | BERT | the first token behind the base's pooler | `classifier` |
//! | LLaMA, GPT-2 | the last token | `score`, without a bias |

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use sharelora_adapters::{Module, generator, normal};

use crate::config::ModelConfig;
use crate::ops::read;
use crate::weights::Checkpoint;
use crate::{Input, Loss, Model, ModelError};

/// What a head predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// One of so many classes; the loss is cross-entropy.
    Classes(usize),
    /// A number; the loss is the squared error.
    Number,
}

impl Labels {
    /// Width of the last layer.
    pub fn width(self) -> usize {
        match self {
            Labels::Classes(n) => n,
            Labels::Number => 1,
        }
    }
}

/// A linear layer's name, (out, in), and whether it has a bias.
struct Layer {
    name: &'static str,
    shape: [usize; 2],
    bias: bool,
}

fn layers(config: &ModelConfig, labels: Labels) -> Vec<Layer> {
    let (c, n) = (config.hidden_size(), labels.width());
    let layer = |name, shape, bias| Layer { name, shape, bias };
    match config {
        ModelConfig::Bert(bert) if bert.is_roberta() => vec![
            layer("classifier.dense", [c, c], true),
            layer("classifier.out_proj", [n, c], true),
        ],
        ModelConfig::Bert(_) => vec![layer("classifier", [n, c], true)],
        ModelConfig::Llama(_) | ModelConfig::Gpt2(_) => vec![layer("score", [n, c], false)],
    }
}

/// A head on one base.
#[derive(Clone)]
pub struct Classifier {
    pub labels: Labels,
    /// Each layer's weight (out, in) and, where it has one, its bias (1, out), with their names.
    tensors: Vec<(String, Tensor<2>)>,
}

impl Classifier {
    /// Weights ~ N(0, 0.02²), transformers' `initializer_range` of all these models, and biases at 0.
    pub fn init(config: &ModelConfig, labels: Labels, seed: u64, device: &Device) -> Self {
        let made: Result<_, std::convert::Infallible> =
            Self::assemble(config, labels, device, |name, [rows, columns]| {
                if name.ends_with("bias") {
                    return Ok(vec![0.0; columns]);
                }
                let mut rng = generator(seed, "head", name);
                let mut value = || normal(&mut rng, 0.02) as f32;
                Ok((0..rows * columns).map(|_| value()).collect())
            });
        match made {
            Ok(head) => head,
        }
    }

    /// The head of a checkpoint that has one.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn load(
        config: &ModelConfig,
        labels: Labels,
        checkpoint: &Checkpoint,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, labels, device, |name, shape| {
            let found = checkpoint.read_f32(name)?;
            fits(name, shape, found)
        })
    }

    /// A head that was saved beside an adapter.
    ///
    /// # Errors
    /// As [`Classifier::load`].
    pub fn from_modules(
        config: &ModelConfig,
        labels: Labels,
        modules: &[Module],
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, labels, device, |name, shape| {
            let module = modules.iter().find(|m| m.name == name).ok_or_else(|| {
                ModelError::Mismatch(format!("tensor `{name}` of the head is missing"))
            })?;
            fits(name, shape, module.values.clone())
        })
    }

    fn assemble<E>(
        config: &ModelConfig,
        labels: Labels,
        device: &Device,
        mut values: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut tensors = Vec::new();
        for layer in layers(config, labels) {
            let bias = layer.bias.then_some(("bias", [1, layer.shape[0]]));
            for (part, shape) in [Some(("weight", layer.shape)), bias].into_iter().flatten() {
                let name = format!("{}.{part}", layer.name);
                let values = values(&name, shape)?;
                let tensor = Tensor::from_data(TensorData::new(values, shape), device);
                tensors.push((name, tensor));
            }
        }
        Ok(Classifier { labels, tensors })
    }

    /// What is trained, by name.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = (&str, &mut Tensor<2>)> {
        self.tensors.iter_mut().map(|(name, t)| (name.as_str(), t))
    }

    /// Number of parameters of such a head.
    pub fn parameters(config: &ModelConfig, labels: Labels) -> u64 {
        let layers = layers(config, labels);
        let count = |l: Layer| l.shape[0] * l.shape[1] + usize::from(l.bias) * l.shape[0];
        layers.into_iter().map(|l| count(l) as u64).sum()
    }

    /// Copies of the tensors, to be saved.
    pub fn modules(&self) -> Vec<Module> {
        let module = |(name, tensor): &(String, Tensor<2>)| {
            let [rows, columns] = tensor.dims();
            Module {
                name: name.clone(),
                shape: match name.ends_with("bias") {
                    true => vec![columns],
                    false => vec![rows, columns],
                },
                values: read(tensor.clone().without_autodiff()),
            }
        };
        self.tensors.iter().map(module).collect()
    }

    /// The score of each class, or the number, for each sequence of `input`, given its hidden states (N, C): (B, labels).
    pub fn scores(&self, model: &Model, hidden: Tensor<2>, input: &Input) -> Tensor<2> {
        let last = model.config.is_causal();
        let place = |span: &sharelora_kernels::attention::Span| match last {
            true => span.start + span.len.saturating_sub(1),
            false => span.start,
        };
        let places: Vec<i64> = input.spans.iter().map(|s| place(s) as i64).collect();
        let places = TensorData::new(places, [input.spans.len()]);
        let x = hidden.select(0, Tensor::<1, Int>::from_data(places, model.device())); // (B, C)
        let mut x = model.pool(x);
        let mut tensors = self.tensors.iter().peekable();
        while let Some((_, weight)) = tensors.next() {
            x = x.matmul(weight.clone().transpose());
            if let Some((_, bias)) = tensors.next_if(|(name, _)| name.ends_with("bias")) {
                x = x + bias.clone();
            }
            // Between two layers, as RoBERTa's head has them.
            if tensors.peek().is_some() {
                x = x.tanh();
            }
        }
        x
    }
}

fn fits(name: &str, [rows, columns]: [usize; 2], values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
    if values.len() == rows * columns {
        return Ok(values);
    }
    Err(ModelError::Mismatch(format!(
        "tensor `{name}` has {} values, the head needs ({rows}, {columns})",
        values.len()
    )))
}

/// The loss of scores (B, labels) against one label a sequence: cross-entropy in nats with class indices, or the squared error.
/// `weight` as in [`cross_entropy`](crate::cross_entropy).
pub fn classification_loss(
    scores: Tensor<2>,
    kind: Labels,
    labels: &[f32],
    weight: Option<f64>,
) -> Loss {
    let [count, _] = scores.dims();
    let device = scores.device().inner();
    let losses = match kind {
        Labels::Classes(_) => {
            let classes: Vec<i64> = labels.iter().map(|&l| l as i64).collect();
            let classes = TensorData::new(classes, [count, 1]);
            let classes = Tensor::<2, Int>::from_data(classes, &device);
            activation::log_softmax(scores, 1).gather(1, classes).neg() // (B, 1)
        }
        Labels::Number => {
            let labels = TensorData::new(labels.to_vec(), [count, 1]);
            (scores - Tensor::<2>::from_data(labels, &device)).square()
        }
    };
    let values = read(losses.clone().without_autodiff());
    Loss {
        sum: values.into_iter().map(f64::from).sum(),
        count,
        surrogate: weight.map(|w| losses.sum().mul_scalar(w)),
    }
}
