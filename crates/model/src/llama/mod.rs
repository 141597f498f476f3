//! LLaMA 1 to 3 and models of the same architecture (SmolLM2): arXiv 2302.13971, 2307.09288, 2407.21783.
//!
//! Reference: `transformers/models/llama/modeling_llama.py`. Deviations: none in the values; weights stay
//! [out, in] as they are stored, RMSNorm weights are kept as (1, C), and the sequences of a batch are laid end to end, (N, C), from
//! the embedding to the head.

mod config;

use burn::tensor::{Device, Tensor};
use sharelora_adapters::{Bank, Dropout};
use sharelora_kernels::attention::Heads;
use sharelora_kernels::matrix::{Format, Matrix};

pub use config::LlamaConfig;
use config::{PROJECTIONS, module_path};

use crate::ops::{self, Rotary, Update};
use crate::weight::Weight;
use crate::weights::{Checkpoint, Storage};
use crate::{Cache, Input, ModelError};

#[derive(Clone)]
struct Block {
    input_norm: Tensor<2>, // (1, C)
    qkv: [Weight; 3],      // (H D, C), (Hkv D, C), (Hkv D, C)
    o: [Weight; 1],        // (C, H D)
    post_norm: Tensor<2>,  // (1, C)
    gate_up: [Weight; 2],  // (F, C), (F, C)
    down: [Weight; 1],     // (C, F)
}

impl Block {
    /// The projections, in the model's order.
    fn linear(&self) -> impl Iterator<Item = &Weight> {
        let attention = self.qkv.iter().chain(&self.o);
        attention.chain(&self.gate_up).chain(&self.down)
    }
}

/// The frozen base. It never contains an adapter: the forward pass takes one. A clone is a second handle on the same
/// weights, so one base in memory serves any number of threads.
#[derive(Clone)]
pub struct Llama {
    pub config: LlamaConfig,
    embed: Weight, // (V, C)
    blocks: Vec<Block>,
    norm: Tensor<2>, // (1, C)
    /// (V, C); `None` where it is tied to the embedding.
    head: Option<Weight>,
    frequencies: Vec<f64>,
    device: Device,
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
    input: &'a Input,
    adapter: Option<Adapter<'a>>,
    rotary: Rotary,
}

impl Llama {
    /// Reads the weights one tensor at a time, in place where the file has them as `storage` asks; the model never exists
    /// twice in memory.
    ///
    /// # Errors
    /// A tensor that is missing or does not fit the configuration, by name and both shapes.
    pub fn load(
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        storage: Storage,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, device, |name, shape| {
            // Some checkpoints repeat the tied embedding, others leave `lm_head` to be tied.
            let found = checkpoint.shape(name).ok_or_else(|| {
                ModelError::Mismatch(format!("tensor `{name}` is missing from the checkpoint"))
            })?;
            let flat = if found.len() == 1 {
                vec![1, found[0]]
            } else {
                found.clone()
            };
            if flat != shape {
                return Err(ModelError::Mismatch(format!(
                    "tensor `{name}` is {found:?} in the checkpoint, config.json needs {shape:?}"
                )));
            }
            Ok(checkpoint.matrix(name, storage)?)
        })
    }

    /// A model from a function that gives the values of each named weight, [out, in] or (1, n).
    ///
    /// # Errors
    /// What the function returns.
    pub fn build(
        config: LlamaConfig,
        storage: Storage,
        device: &Device,
        mut values: impl FnMut(&str, [usize; 2]) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, device, |name, shape| {
            let matrix = Matrix::from_f32(shape[0], shape[1], values(name, shape)?);
            Ok(match storage {
                Storage::F32 | Storage::Stored => matrix,
                Storage::Bf16 => matrix.to_format(Format::Bf16),
                Storage::F16 => matrix.to_format(Format::F16),
            })
        })
    }

    fn assemble(
        config: LlamaConfig,
        device: &Device,
        mut matrix: impl FnMut(&str, [usize; 2]) -> Result<Matrix, ModelError>,
    ) -> Result<Self, ModelError> {
        let c = config.hidden_size;
        let host = ops::kernels(device).reads_host_memory();
        let mut weight = |name: &str, shape: [usize; 2]| -> Result<Weight, ModelError> {
            let matrix = matrix(name, shape)?;
            match matrix.format() {
                _ if host => Ok(Weight::Host(matrix)),
                Format::Q8_0 | Format::Q4_1 => Err(ModelError::Config(format!(
                    "tensor `{name}` is stored as {}, which only the flex backend computes with: ask for f32, bf16 or f16",
                    matrix.format()
                ))),
                _ => Ok(Weight::Tensor(crate::weight::on_device(&matrix, device))),
            }
        };
        let embed = weight("model.embed_tokens.weight", [config.vocab_size, c])?;
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linear = |projection: &str| {
                weight(
                    &format!("{}.weight", module_path(layer, projection)),
                    config.shape(projection),
                )
            };
            let (qkv, o) = (
                [linear("q_proj")?, linear("k_proj")?, linear("v_proj")?],
                [linear("o_proj")?],
            );
            let (gate_up, down) = (
                [linear("gate_proj")?, linear("up_proj")?],
                [linear("down_proj")?],
            );
            let mut norm = |name: &str| {
                let weight = weight(&format!("model.layers.{layer}.{name}.weight"), [1, c])?;
                Ok::<_, ModelError>(weight.tensor(device))
            };
            blocks.push(Block {
                input_norm: norm("input_layernorm")?,
                qkv: crate::weight::joined(qkv),
                o,
                post_norm: norm("post_attention_layernorm")?,
                gate_up: crate::weight::joined(gate_up),
                down,
            });
        }
        let norm = weight("model.norm.weight", [1, c])?.tensor(device);
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(weight("lm_head.weight", [config.vocab_size, c])?),
        };
        Ok(Llama {
            frequencies: config.inverse_frequencies()?,
            embed,
            blocks,
            norm,
            head,
            device: device.clone(),
            config,
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The output head: (V, C), tied or not.
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// All weights by name as tensors, for full fine-tuning, pretraining and merging; a tied head is the embedding. Weights
    /// in host memory become tensors of f32 by this.
    pub fn weights_mut(&mut self) -> Vec<(String, &mut Tensor<2>)> {
        let device = self.device.clone();
        let mut list = vec![(
            "model.embed_tokens.weight".to_string(),
            self.embed.tensor_mut(&device),
        )];
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            list.push((
                format!("model.layers.{layer}.input_layernorm.weight"),
                &mut block.input_norm,
            ));
            list.push((
                format!("model.layers.{layer}.post_attention_layernorm.weight"),
                &mut block.post_norm,
            ));
            let weights = (block.qkv.iter_mut())
                .chain(&mut block.o)
                .chain(&mut block.gate_up)
                .chain(&mut block.down);
            for (projection, weight) in PROJECTIONS.iter().zip(weights) {
                list.push((
                    format!("{}.weight", module_path(layer, projection)),
                    weight.tensor_mut(&device),
                ));
            }
        }
        list.push(("model.norm.weight".into(), &mut self.norm));
        if let Some(head) = &mut self.head {
            list.push(("lm_head.weight".into(), head.tensor_mut(&device)));
        }
        list
    }

    /// All weights by name, with their values row-major; a tied head is the embedding.
    pub fn values(&self) -> Vec<(String, [usize; 2], Vec<f32>)> {
        let norm = |t: &Tensor<2>| Weight::Tensor(t.clone());
        // In the order of `LlamaConfig::weights`.
        let mut all = vec![self.embed.clone()];
        for block in &self.blocks {
            all.extend([norm(&block.input_norm), norm(&block.post_norm)]);
            all.extend(block.linear().cloned());
        }
        all.push(norm(&self.norm));
        all.extend(self.head.clone());
        let named = self.config.weights().into_iter().zip(all);
        named
            .map(|((name, shape), weight)| (name, shape, weight.values()))
            .collect()
    }

    /// Bytes of the weights: on the heap or a device, and in mapped files.
    pub fn memory(&self) -> (usize, usize) {
        let blocks = self.blocks.iter().flat_map(Block::linear);
        let weights = blocks.chain([&self.embed]).chain(&self.head);
        let norms = 4 * self.config.hidden_size * (2 * self.blocks.len() + 1);
        weights.fold((norms, 0), |(held, mapped), weight| {
            let (h, m) = weight.memory();
            (held + h, mapped + m)
        })
    }

    /// A forward pass over `input`, each sequence of which continues `past` tokens; empty: all begin.
    pub fn pass<'a>(
        &self,
        input: &'a Input,
        adapter: Option<Adapter<'a>>,
        past: &[usize],
    ) -> Pass<'a> {
        Pass {
            input,
            adapter,
            rotary: Rotary::new(&input.positions(past), &self.frequencies, &self.device),
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// What the first block reads, (N, C).
    pub fn embed(&self, pass: &Pass<'_>) -> Tensor<2> {
        self.embed.rows(pass.input, &self.device)
    }

    /// One block, (N, C) -> (N, C). With a cache, the input continues what it holds.
    pub fn block(
        &self,
        layer: usize,
        x: Tensor<2>,
        pass: &Pass<'_>,
        cache: Option<&mut Cache>,
    ) -> Tensor<2> {
        let block = &self.blocks[layer];
        let heads = Heads {
            query: self.config.num_attention_heads,
            key: self.config.kv_heads(),
            size: self.config.head_dim(),
        };
        let eps = self.config.rms_norm_eps;
        let linear = |x: Tensor<2>, weights: &[Weight], names: &[&str]| {
            ops::linear(x, weights, updates(pass.adapter, layer, names))
        };

        let h = ops::rms_norm(x.clone(), &block.input_norm, eps);
        let qkv = linear(h, &block.qkv, &PROJECTIONS[..3]); // (N, (H + 2 Hkv) D)
        let qkv = ops::rope(qkv, heads.query + heads.key, &pass.rotary);
        let y = match cache {
            Some(cache) => ops::cached_attention(qkv, heads, &pass.input.spans, cache, layer),
            None => ops::attention(qkv, heads, &pass.input.spans, true),
        }; // (N, H D)
        let x = x + linear(y, &block.o, &PROJECTIONS[3..4]);

        let h = ops::rms_norm(x.clone(), &block.post_norm, eps);
        let h = ops::swiglu(linear(h, &block.gate_up, &PROJECTIONS[4..6])); // (N, 2 F) -> (N, F)
        x + linear(h, &block.down, &PROJECTIONS[6..])
    }

    /// The norm behind the last block, (N, C) -> (N, C).
    pub fn final_norm(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, &self.norm, self.config.rms_norm_eps)
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
        ops::linear(hidden, std::slice::from_ref(self.head()), Vec::new())
    }

    /// The most likely token of each hidden state, (N, C) -> N; the first of equals, as PyTorch's argmax.
    pub fn most_likely(&self, hidden: Tensor<2>) -> Vec<u32> {
        ops::argmax(hidden, self.head())
    }
}

/// The adapter's updates of projections that read one input.
fn updates(adapter: Option<Adapter<'_>>, layer: usize, names: &[&str]) -> Vec<Update> {
    let Some(Adapter { bank, dropout }) = adapter else {
        return Vec::new();
    };
    let sites = names.iter().enumerate();
    sites
        .filter_map(|(projection, name)| {
            let index = bank.layout().find(layer, name)?;
            let (a, b) = bank.site(index);
            Some(Update {
                projection,
                a: a.clone(),
                b: b.clone(),
                scale: bank.layout().config.scale(),
                mask: bank.mask(index, dropout),
            })
        })
        .collect()
}
