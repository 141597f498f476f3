//! Writes an adapter with random `A` and `B` for PEFT, and beside it the logits that it gives here.
//!
//! `cargo run --release -p sharelora-model --example peft_export -- MODEL OUT METHOD [TARGETS] [SEED]`
//!
//! METHOD: a built-in method, or initial values, which are LoRA's then (`pissa`). MODEL: a Hugging Face folder of a model that generates, or of a classifier, which gets another head beside the adapter.
//! TARGETS: projections, divided by commas. OUT gets `adapter_config.json`, `adapter_model.safetensors` and
//! `expected.safetensors` (input_ids [B, T] i64, logits [B, T, V] or [B, labels] f32) for `scripts/peft_roundtrip.py check`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use sharelora_adapters::{
    AdapterConfig, Bank, Init, Layout, Method, PeftInfo, Scaling, export_peft,
};
use sharelora_model::weights::Checkpoint;
use sharelora_model::{Adapter, Classifier, Input, Labels, Model, ModelConfig, Storage};

const ROWS: usize = 2;
const LENGTH: usize = 12;
/// Ids below may be special: transformers counts no position for RoBERTa's padding token.
const LOWEST_ID: u32 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, method, rest @ ..] = args.as_slice() else {
        return Err("usage: peft_export MODEL OUT METHOD [TARGETS] [SEED]".into());
    };
    let targets = rest.first().map_or("all_linear", String::as_str);
    let seed: u64 = rest.get(1).map_or(Ok(0), |s| s.parse())?;
    let (model, out) = (Path::new(model), Path::new(out));
    let init = Init::named(method);
    let method = Method::named(init.map_or(method, |_| "lora"))?;
    let sharing = method.sharing().ok_or("this method has no adapter")?;

    let device = Device::flex();
    let json = std::fs::read_to_string(model.join("config.json"))?;
    let config = ModelConfig::from_json(&json)?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    let labels = json["id2label"]
        .as_object()
        .map(|labels| match labels.len() {
            1 => Labels::Number,
            n => Labels::Classes(n),
        });
    let labels = labels.filter(|_| !config.is_causal());
    let checkpoint = Checkpoint::open(&[model.join("model.safetensors")])?;
    let base_model = Model::load(config, &checkpoint, Storage::F32, &device)?;

    let adapter = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        dropout: if init == Some(Init::Pissa) { 0.0 } else { 0.1 },
        targets: targets.split(',').map(String::from).collect(),
        scaling: Scaling::Standard,
        init: init.unwrap_or_default(),
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
        .map(|_| rng.random_range(LOWEST_ID..base_model.config.vocab_size() as u32))
        .collect();
    let rows: Vec<&[u32]> = ids.chunks(LENGTH).collect();
    let adapter = Adapter {
        bank: &bank,
        dropout: None,
    };
    let input = Input::packed(&rows);
    let hidden = base_model.hidden(&input, Some(adapter), None);
    let head = labels.map(|labels| Classifier::init(&base_model.config, labels, seed, &device));
    let logits = match &head {
        Some(head) => head.scores(&base_model, hidden, &input),
        None => base_model.logits(hidden),
    };
    let width = logits.dims()[1];
    let logits = logits.try_into_vec_as::<f32>()?;

    let info = PeftInfo {
        task_type: match head {
            Some(_) => "SEQ_CLS".into(),
            None => "CAUSAL_LM".into(),
        },
        base_model_name_or_path: "base".into(),
        fan_in_fan_out: base_model.config.fan_in_fan_out(),
        modules: base_model.config.modules(),
    };
    let modules = head.map_or(Vec::new(), |head| head.modules());
    export_peft(&bank, &modules, &info, out)?;
    let ids: Vec<u8> = ids
        .iter()
        .flat_map(|&id| i64::from(id).to_le_bytes())
        .collect();
    let logits: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = match labels {
        Some(_) => vec![ROWS, width],
        None => vec![ROWS, LENGTH, width],
    };
    let expected = [
        (
            "input_ids",
            TensorView::new(Dtype::I64, vec![ROWS, LENGTH], &ids)?,
        ),
        ("logits", TensorView::new(Dtype::F32, shape, &logits)?),
    ];
    let bytes = safetensors::serialize(expected, None)?;
    std::fs::write(out.join("expected.safetensors"), bytes)?;
    Ok(())
}
