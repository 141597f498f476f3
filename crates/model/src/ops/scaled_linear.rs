//! Linear projections whose outputs have factors (DoRA, arXiv 2402.09353, equation 5): `y_p = g_p ∘ (x W_p^T + s (x A_p^T) B_p^T)`, plus a
//! bias, which has none. `g = m / norm(W + s B A)` is [`sharelora_adapters::Bank::gain`]'s.
//!
//! Reference: `peft/tuners/lora/dora.py`. Under dropout PEFT drops the input of all that the factor adds, the weight's product
//! too: `y_p = x W_p^T + (g_p - 1) ∘ (x' W_p^T) + g_p ∘ s (x' A_p^T) B_p^T` with `x' = x ∘ mask`; so does this.

use burn::tensor::Tensor;

use super::linear::{Update, linear};
use crate::weight::Weight;

/// [`linear`] where updates have gains.
pub(super) fn scaled_linear(
    x: Tensor<2>,
    weights: &[Weight],
    bias: Option<Tensor<2>>,
    mut updates: Vec<Update>,
) -> Tensor<2> {
    let gains: Vec<Option<Tensor<2>>> = updates.iter_mut().map(|u| u.gain.take()).collect();
    let scaled = match updates.iter().all(|u| u.mask.is_none()) {
        true => {
            let mut factors: Vec<Tensor<2>> = weights
                .iter()
                .map(|w| Tensor::ones([1, w.dims()[0]], &x.device().inner()))
                .collect();
            for (update, gain) in updates.iter().zip(gains) {
                if let Some(gain) = gain {
                    factors[update.projection] = gain;
                }
            }
            linear(x, weights, None, updates) * joined(factors)
        }
        false => {
            let plain = linear(x.clone(), weights, None, Vec::new());
            let mut start = 0;
            let mut parts = Vec::new();
            for (p, weight) in weights.iter().enumerate() {
                let out = weight.dims()[0];
                let mut part = plain.clone().narrow(1, start, out);
                start += out;
                for (update, gain) in updates
                    .iter()
                    .zip(&gains)
                    .filter(|(u, _)| u.projection == p)
                {
                    let dropped = match &update.mask {
                        Some(mask) => x.clone() * mask.tensor(x.dims(), &x.device().inner()),
                        None => x.clone(),
                    };
                    let low = dropped.clone().matmul(update.a.clone().transpose());
                    let low = low
                        .mul_scalar(update.scale)
                        .matmul(update.b.clone().transpose());
                    part = part
                        + match gain {
                            Some(gain) => {
                                let weight = std::slice::from_ref(weight);
                                let product = linear(dropped, weight, None, Vec::new());
                                (product.clone() + low) * gain.clone() - product
                            }
                            None => low,
                        };
                }
                parts.push(part);
            }
            joined(parts)
        }
    };
    match bias {
        Some(bias) => scaled + bias,
        None => scaled,
    }
}

fn joined(mut parts: Vec<Tensor<2>>) -> Tensor<2> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 1),
    }
}
