//! The frozen base of any architecture. It never contains an adapter: the forward pass takes one.
//!
//! A model is a configuration and a flat list of weights in the configuration's order. An architecture is a file of plain functions, embed,
//! block, final norm, that read weights by their place in that list; loading, saving, full fine-tuning and counting walk the list and know
//! no architecture. GPT-2's fused `c_attn` is kept as its three parts: an adapter of the whole is three updates with one A.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use sharelora_adapters::{Bank, Dropout, Layout, Site};
use sharelora_kernels::matrix::{Format, Matrix};

use crate::config::{ModelConfig, WeightSpec};
use crate::ops::{self, Rotary, Update};
use crate::weight::{self, Weight};
use crate::weights::{Checkpoint, Storage};
use crate::{Cache, Input, ModelError, bert, gpt2, llama};

/// A model's weights and what they mean. A clone is a second handle on the same weights, so one base in memory serves any
/// number of threads.
#[derive(Clone)]
pub struct Model {
    pub config: ModelConfig,
    weights: Weights,
    /// RoPE's, D / 2 of them; none where positions are learned.
    frequencies: Vec<f64>,
}

/// All weights, in the order of [`ModelConfig::weights`].
#[derive(Clone)]
pub(crate) struct Weights {
    list: Vec<Weight>,
    device: Device,
}

impl Weights {
    pub fn slice(&self, range: Range<usize>) -> &[Weight] {
        &self.list[range]
    }

    /// A bias or a norm's weight, (1, n).
    pub fn vector(&self, at: usize) -> &Tensor<2> {
        match &self.list[at] {
            Weight::Tensor(t) => t,
            Weight::Host(_) => unreachable!("vectors are loaded as tensors"),
        }
    }

    /// Rows of a table, (ids, C).
    pub fn rows(&self, at: usize, ids: &[u32]) -> Tensor<2> {
        self.list[at].rows(ids, &self.device)
    }
}

/// An adapter for one forward pass.
#[derive(Clone, Copy)]
pub struct Adapter<'a> {
    pub bank: &'a Bank,
    /// The masks of a training pass; `None` in evaluation.
    pub dropout: Option<Dropout>,
}

/// What the blocks share in one forward pass.
pub struct Pass<'a> {
    pub(crate) input: &'a Input,
    pub(crate) adapter: Option<Adapter<'a>>,
    /// Of each token in its sequence, from 0.
    pub(crate) positions: Vec<u32>,
    pub(crate) rotary: Option<Rotary>,
}

/// A block's attention, (N, (H + 2 Hkv) D) -> (N, H D).
pub(crate) type Attention<'a> = &'a mut dyn FnMut(Tensor<2>) -> Tensor<2>;

impl Model {
    /// Reads the weights one tensor at a time, in place where the file has them as `storage` asks; the model never exists
    /// twice in memory. Names without the base's prefix, as a checkpoint of the bare base has them, are found too.
    ///
    /// # Errors
    /// A tensor that is missing or does not fit the configuration, by name and both shapes.
    pub fn load(
        config: ModelConfig,
        checkpoint: &Checkpoint,
        storage: Storage,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let prefix = config.prefix();
        Self::assemble(config, storage, device, |spec, storage| {
            read_weight(prefix, checkpoint, spec, storage)
        })
    }

    /// One weight of a checkpoint, without the rest of the model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_weight(
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        spec: &WeightSpec,
        storage: Storage,
    ) -> Result<Matrix, ModelError> {
        read_weight(config.prefix(), checkpoint, spec, storage)
    }

    /// A model from a function that gives the values of each weight, [out, in] or (1, n), by the name of its tensor.
    ///
    /// # Errors
    /// What the function returns; columns that do not fill the blocks of NF4.
    pub fn build(
        config: ModelConfig,
        storage: Storage,
        device: &Device,
        mut values: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, storage, device, |spec, storage| {
            let [rows, columns] = spec.shape;
            let matrix = Matrix::from_f32(rows, columns, values(&spec.name, spec.shape)?);
            kept(&spec.name, matrix, storage.format().unwrap_or(Format::F32))
        })
    }

    fn assemble(
        config: ModelConfig,
        storage: Storage,
        device: &Device,
        mut matrix: impl FnMut(&WeightSpec, Storage) -> Result<Matrix, ModelError>,
    ) -> Result<Self, ModelError> {
        let host = ops::kernels(device).reads_host_memory();
        let linear = config.linear_weights();
        let mut list = Vec::new();
        for spec in config.weights() {
            let matrix = matrix(&spec, storage.of(linear.contains(&spec.name)))?;
            list.push(match matrix.format() {
                _ if spec.is_vector() => Weight::Tensor(Weight::Host(matrix).tensor(device)),
                _ if host => Weight::Host(matrix),
                Format::Q8_0 | Format::Q4_1 => {
                    return Err(ModelError::Config(format!(
                        "tensor `{}` is stored as {}, which only the flex backend computes with: ask for f32, bf16 or f16",
                        spec.name,
                        matrix.format()
                    )));
                }
                _ => Weight::Tensor(weight::on_device(&matrix, device)),
            });
        }
        for range in config.joined() {
            weight::join(&mut list[range]);
        }
        let frequencies = match &config {
            ModelConfig::Llama(config) => config.inverse_frequencies()?,
            _ => Vec::new(),
        };
        Ok(Model {
            config,
            weights: Weights {
                list,
                device: device.clone(),
            },
            frequencies,
        })
    }

    pub fn device(&self) -> &Device {
        &self.weights.device
    }

    /// The output head: (V, C), tied or not.
    ///
    /// # Panics
    /// For an encoder, which has none: ask [`ModelConfig::is_causal`] first.
    pub fn head(&self) -> &Weight {
        let at = match &self.config {
            ModelConfig::Llama(config) => llama::head(config),
            ModelConfig::Gpt2(config) => gpt2::head(config),
            ModelConfig::Bert(_) => unreachable!("an encoder predicts no tokens"),
        };
        &self.weights.list[at]
    }

    /// The embedding of tokens: (V, C).
    pub fn embedding(&self) -> &Weight {
        &self.weights.list[0]
    }

    /// All weights as tensors, for full fine-tuning, pretraining and merging, in the order of [`ModelConfig::weights`]; a
    /// tied head is the embedding. Weights in host memory become tensors of f32 by this.
    pub fn weights_mut(&mut self) -> Vec<&mut Tensor<2>> {
        let Weights { list, device } = &mut self.weights;
        list.iter_mut().map(|w| w.tensor_mut(device)).collect()
    }

    /// All tensors of a checkpoint: names, shapes and row-major values as Hugging Face has them; a tied head is the embedding.
    pub fn values(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        for (spec, weight) in self.config.weights().into_iter().zip(&self.weights.list) {
            let values = weight.values();
            let [out, into] = spec.shape;
            let Some(conv) = spec.conv1d else {
                let shape = match spec.is_vector() {
                    true => vec![into],
                    false => vec![out, into],
                };
                all.push((spec.name, shape, values));
                continue;
            };
            if conv.start == 0 {
                all.push((spec.name, vec![into, conv.of], vec![0.0; into * conv.of]));
            }
            // The parts of one tensor follow each other.
            let (_, _, whole) = all.last_mut().expect("its first part made it");
            for (row, values) in values.chunks_exact(into).enumerate() {
                for (column, value) in values.iter().enumerate() {
                    whole[column * conv.of + conv.start + row] = *value;
                }
            }
        }
        all
    }

    /// The weight that an adapter updates at `site`, row-major [out, in].
    pub fn site_weight(&self, site: &Site) -> Vec<f32> {
        let name = format!("{}.weight", site.path);
        let of_site = |spec: &WeightSpec| {
            let start = spec.conv1d.as_ref().map(|conv| conv.start);
            spec.name == name && site.part.is_none_or(|part| start == Some(part.start))
        };
        let specs = self.config.weights();
        let found = specs.iter().zip(&self.weights.list);
        found
            .filter(|(spec, _)| of_site(spec))
            .flat_map(|(_, weight)| weight.values())
            .collect()
    }

    /// An adapter beside this model, with its initial values.
    pub fn bank(&self, layout: Arc<Layout>, seed: u64) -> Bank {
        Bank::init(layout, seed, self.device(), &|site| self.site_weight(site))
    }

    /// Bytes of the weights: on the heap or a device, and in mapped files.
    pub fn memory(&self) -> (usize, usize) {
        let list = self.weights.list.iter().map(Weight::memory);
        list.fold((0, 0), |(held, mapped), (h, m)| (held + h, mapped + m))
    }

    /// A forward pass over `input`, each sequence of which continues `past` tokens; empty: all begin.
    pub fn pass<'a>(
        &self,
        input: &'a Input,
        adapter: Option<Adapter<'a>>,
        past: &[usize],
    ) -> Pass<'a> {
        let positions = input.positions(past);
        let rotary = (!self.frequencies.is_empty())
            .then(|| Rotary::new(&positions, &self.frequencies, self.device()));
        Pass {
            input,
            adapter,
            positions: positions.into_iter().map(|p| p as u32).collect(),
            rotary,
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.config.layers()
    }

    /// What the first block reads, (N, C).
    pub fn embed(&self, pass: &Pass<'_>) -> Tensor<2> {
        match &self.config {
            ModelConfig::Llama(_) => llama::embed(&self.weights, pass),
            ModelConfig::Gpt2(_) => gpt2::embed(&self.weights, pass),
            ModelConfig::Bert(config) => bert::embed(config, &self.weights, pass),
        }
    }

    /// One block, (N, C) -> (N, C). With a cache, the input continues what it holds.
    pub fn block(
        &self,
        layer: usize,
        x: Tensor<2>,
        pass: &Pass<'_>,
        mut cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let heads = self.config.heads();
        let causal = self.config.is_causal();
        let mut attention = |qkv| match cache.as_deref_mut() {
            Some(cache) => ops::cached_attention(qkv, heads, &pass.input.spans, cache, layer),
            None => ops::attention(qkv, heads, pass.input.attended(), causal),
        };
        let weights = &self.weights;
        match &self.config {
            ModelConfig::Llama(c) => llama::block(c, weights, layer, x, pass, &mut attention),
            ModelConfig::Gpt2(c) => gpt2::block(c, weights, layer, x, pass, &mut attention),
            ModelConfig::Bert(c) => bert::block(c, weights, layer, x, pass, &mut attention),
        }
    }

    /// The norm behind the last block, (N, C) -> (N, C); an encoder's block ends in its own.
    pub fn final_norm(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.config {
            ModelConfig::Llama(config) => llama::final_norm(config, &self.weights, x),
            ModelConfig::Gpt2(config) => gpt2::final_norm(config, &self.weights, x),
            ModelConfig::Bert(_) => x,
        }
    }

    /// What a classification head reads of the chosen hidden states, (B, C) -> (B, C): BERT's pooler, or they themselves.
    pub fn pool(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.config {
            ModelConfig::Bert(config) => bert::pool(config, &self.weights, x),
            _ => x,
        }
    }

    /// Hidden states after the final norm, (N, C). With a cache, `input` continues what it holds.
    pub fn hidden(
        &self,
        input: &Input,
        adapter: Option<Adapter<'_>>,
        mut cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let past = cache.as_ref().map_or(Vec::new(), |c| c.lengths());
        let pass = self.pass(input, adapter, &past);
        let mut x = self.embed(&pass);
        for layer in 0..self.layers() {
            x = self.block(layer, x, &pass, cache.as_deref_mut());
        }
        if let Some(cache) = cache {
            cache.advance(&input.spans);
        }
        self.final_norm(x)
    }

    /// Logits of hidden states, (N, C) -> (N, V).
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        ops::linear(hidden, std::slice::from_ref(self.head()), None, Vec::new())
    }

    /// The most likely token of each hidden state, (N, C) -> N; the first of equals, as PyTorch's argmax.
    pub fn most_likely(&self, hidden: Tensor<2>) -> Vec<u32> {
        ops::argmax(hidden, self.head())
    }
}

fn read_weight(
    prefix: &str,
    checkpoint: &Checkpoint,
    spec: &WeightSpec,
    storage: Storage,
) -> Result<Matrix, ModelError> {
    let name = find(checkpoint, prefix, &spec.name).ok_or_else(|| {
        ModelError::Mismatch(format!(
            "tensor `{}` is missing from the checkpoint",
            spec.name
        ))
    })?;
    let found = checkpoint.shape(&name).unwrap_or_default();
    let [out, into] = spec.shape;
    let expected = match spec.conv1d {
        Some(conv) => [into, conv.of],
        None => spec.shape,
    };
    let flat = match found[..] {
        [n] => vec![1, n],
        _ => found.clone(),
    };
    if flat != expected {
        return Err(ModelError::Mismatch(format!(
            "tensor `{name}` is {found:?} in the checkpoint, config.json needs {expected:?}"
        )));
    }
    let Some(conv) = spec.conv1d else {
        return Ok(checkpoint.matrix(&name, storage)?);
    };
    let stored = checkpoint.matrix(&name, Storage::Stored)?;
    let columns = transposed(&stored.values(), [into, conv.of], conv.start, out);
    let format = storage.format().unwrap_or(stored.format());
    kept(&name, Matrix::from_f32(out, into, columns), format)
}

/// A weight in the format that it is kept in.
fn kept(name: &str, matrix: Matrix, format: Format) -> Result<Matrix, ModelError> {
    matrix
        .try_to_format(format)
        .map_err(|e| ModelError::Mismatch(format!("tensor `{name}`: {e}")))
}

/// The name under which the checkpoint has a tensor: in full, without the base's prefix, or with the names that norms had
/// in the first BERT checkpoints.
fn find(checkpoint: &Checkpoint, prefix: &str, name: &str) -> Option<String> {
    let bare = name.strip_prefix(prefix).unwrap_or(name);
    let older = |name: &str| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta")
    };
    [name.to_owned(), bare.to_owned(), older(name), older(bare)]
        .into_iter()
        .find(|name| checkpoint.contains(name))
}

/// Columns `start..start + count` of a row-major matrix as rows.
fn transposed(values: &[f32], [rows, columns]: [usize; 2], start: usize, count: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * count);
    for column in start..start + count {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

/// The adapter's updates of projections that read one input; `weights` are theirs, or all of the one that is named.
pub(crate) fn updates(
    adapter: Option<Adapter<'_>>,
    layer: usize,
    names: &[&str],
    weights: &[Weight],
) -> Vec<Update> {
    let Some(Adapter { bank, dropout }) = adapter else {
        return Vec::new();
    };
    let sites = names.iter().enumerate();
    sites
        .filter_map(|(projection, name)| {
            let index = bank.layout().find(layer, name)?;
            let (a, b) = bank.effective(index);
            let own = match names.len() {
                1 => weights,
                _ => &weights[projection..projection + 1],
            };
            let device = a.device().inner();
            let squares = || Tensor::cat(own.iter().map(|w| w.square_norms(&device)).collect(), 1);
            let product = |a: Tensor<2>| ops::linear(a, own, None, Vec::new());
            Some(Update {
                projection,
                a,
                b,
                scale: bank.layout().scale(),
                mask: bank.mask(index, dropout),
                gain: bank.gain(index, squares, product),
            })
        })
        .collect()
}
