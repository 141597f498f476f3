//! Writes an adapter with random `A` and `B` for PEFT, and beside it the logits that it gives here.
//!
//! `cargo run --release -p sharelora-model --example peft_export -- MODEL OUT METHOD [SEED]`
//!
//! MODEL: a Hugging Face folder of a LLaMA. OUT gets `adapter_config.json`, `adapter_model.safetensors` and
//! `expected.safetensors` (input_ids [B, T] i64, logits [B, T, V] f32) for `scripts/peft_roundtrip.py check`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use sharelora_adapters::{AdapterConfig, Bank, Layout, Method, PeftInfo, Scaling, export_peft};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Adapter, Input, Model, ModelConfig, Storage};

const ROWS: usize = 2;
const LENGTH: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, method, rest @ ..] = args.as_slice() else {
        return Err("usage: peft_export MODEL OUT METHOD [SEED]".into());
    };
    let seed: u64 = rest.first().map_or(Ok(0), |s| s.parse())?;
    let (model, out) = (Path::new(model), Path::new(out));
    let method = Method::named(method)?;
    let sharing = method.sharing().ok_or("this method has no adapter")?;

    let device = Device::flex();
    let config = ModelConfig::from_json(&std::fs::read_to_string(model.join("config.json"))?)?;
    let checkpoint = Checkpoint::open(&[model.join("model.safetensors")])?;
    let base_model = Model::load(config, &checkpoint, Storage::F32, &device)?;

    let adapter = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        targets: vec!["all_linear".into()],
        scaling: Scaling::Standard,
    };
    let layout = Arc::new(Layout::new(&base_model.config.sites(), sharing, &adapter)?);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = layout
        .matrices()
        .map(|m| {
            let n = m.shape[0] * m.shape[1];
            (0..n).map(|_| rng.random_range(-0.3..0.3)).collect()
        })
        .collect();
    let bank = Bank::from_values(layout, values, &device)?;

    let ids: Vec<u32> = (0..ROWS * LENGTH)
        .map(|_| rng.random_range(0..base_model.config.vocab_size() as u32))
        .collect();
    let rows: Vec<&[u32]> = ids.chunks(LENGTH).collect();
    let adapter = Adapter {
        bank: &bank,
        dropout: None,
    };
    let hidden = base_model.hidden(&Input::packed(&rows), Some(adapter), None);
    let logits = base_model.logits(hidden).try_into_vec_as::<f32>()?;

    let info = PeftInfo {
        task_type: "CAUSAL_LM".into(),
        base_model_name_or_path: "base".into(),
        fan_in_fan_out: base_model.config.fan_in_fan_out(),
        modules: base_model.config.modules(),
    };
    export_peft(&bank, &[], &info, out)?;
    let ids: Vec<u8> = ids
        .iter()
        .flat_map(|&id| i64::from(id).to_le_bytes())
        .collect();
    let logits: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let vocabulary = base_model.config.vocab_size();
    let expected = [
        (
            "input_ids",
            TensorView::new(Dtype::I64, vec![ROWS, LENGTH], &ids)?,
        ),
        (
            "logits",
            TensorView::new(Dtype::F32, vec![ROWS, LENGTH, vocabulary], &logits)?,
        ),
    ];
    let bytes = safetensors::serialize(expected, None)?;
    std::fs::write(out.join("expected.safetensors"), bytes)?;
    Ok(())
}
