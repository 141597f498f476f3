//! Initial weights as GPT-2 has them (Radford et al. 2019): of one deviation, and 1 / sqrt(2 L) of that where a block writes into
//! the residual stream; norms at 1, biases at 0. BERT's are the same without the factor.

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora_model::{Model, ModelConfig, ModelError, Storage};

use super::SEED;

/// Projections that write into the residual stream of a model with its norms in front of the blocks.
const RESIDUAL: [&str; 3] = ["o_proj", "down_proj", "c_proj"];
const NORMS: [&str; 3] = ["norm", "Norm", "ln_"];

/// # Errors
/// The configuration is one of a model that is not built.
pub fn model(config: ModelConfig, deviation: f64, device: &Device) -> Result<Model, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let residual = 1.0 / (2.0 * config.layers() as f64).sqrt();
    Model::build(config, Storage::F32, device, |name, [rows, columns]| {
        let any = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if name.ends_with("bias") {
            return Ok(vec![0.0; rows * columns]);
        }
        if any(&NORMS) {
            return Ok(vec![1.0; rows * columns]);
        }
        let deviation = deviation * if any(&RESIDUAL) { residual } else { 1.0 };
        Ok((0..rows * columns)
            .map(|_| {
                // Box and Muller's transform of two uniform numbers.
                let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                (deviation * (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
            })
            .collect())
    })
}
