//! A run as a result of PEFT's `method_comparison/MetaMathQA`: `run_info`, `train_info`, `meta_info`.
//!
//! The layout is that of `log_results` in its `utils.py` and of the files in its `results/`, which its `processing.py` reads. What a run
//! does not store is null, and `notes` lists those keys. Deviations: a CPU has no accelerator, so its memory is the resident memory of the
//! process; `train time` is that of the steps; "valid accuracy" is there only where the best step was chosen by a score; "valid loss" is
//! added; `peft_type` is `LORA` for every adapter, since PEFT has no name for shared matrices, and `sharelora_method` says which it is.

use serde_json::{Map, Value, json};

use crate::comparison::is_headline;
use crate::lm_eval::unix_seconds;
use crate::record::{Record, Status, Step};
use crate::tensorboard::elapsed;

/// Metrics that PEFT's "test accuracy" stands for, the first that a run has. Its own takes the number behind `####`, as the strict match does.
const ACCURACY: [&str; 4] = [
    "/exact_match_strict",
    "/exact_match",
    "/accuracy",
    "/pass@1",
];

/// The result of a run; its content is a function of `record` and `steps` alone.
pub fn method_comparison(record: &Record, steps: &[Step]) -> Value {
    let mut value = json!({
        "run_info": run_info(record),
        "train_info": train_info(record, steps),
        "meta_info": meta_info(record),
    });
    let mut missing = Vec::new();
    nulls("", &value, &mut missing);
    value["notes"] = json!([
        "Written by sharelora from a stored run; see sharelora_method for the adapter's sharing.",
        "accelerator_memory_* is resident memory of the process: the run used no accelerator.",
        format!("Not stored, so null: {}", missing.join(", ")),
    ]);
    value
}

/// The file's name, by PEFT's rule.
pub fn file_name(record: &Record) -> String {
    format!("{}.json", experiment_name(record).replace('/', "--"))
}

fn experiment_name(record: &Record) -> String {
    format!("{}/{}-{}", record.method, record.experiment, record.run)
}

/// A value of the resolved configuration; null where it is left out.
fn setting(record: &Record, pointer: &str) -> Value {
    record.config.pointer(pointer).cloned().unwrap_or_default()
}

fn run_info(record: &Record) -> Value {
    let of = |pointer: &str| setting(record, pointer);
    let or = |pointer: &str, default: Value| match of(pointer) {
        Value::Null => default,
        value => value,
    };
    let whole = |pointer: &str| of(pointer).as_u64();
    let trained = of("/train").is_object();
    let dtype = match of("/model/dtype").as_str() {
        Some("f32") => json!("float32"),
        Some("bf16") => json!("bfloat16"),
        Some("f16") => json!("float16"),
        _ => Value::Null,
    };
    let length = whole("/train/max_source").zip(whole("/train/max_target"));
    let schedule = match of("/train/schedule") {
        Value::String(name) if name == "constant" => Value::Null,
        name => name,
    };
    let optimizer = json!({
        "lr": of("/train/learning_rate"),
        "weight_decay": of("/train/weight_decay"),
        "betas": of("/train/betas"),
        "eps": of("/train/epsilon"),
    });
    let total = unix_seconds(&record.finished_at)
        .zip(unix_seconds(&record.started_at))
        .map(|(end, start)| end - start);
    json!({
        "created_at": record.started_at.replace('Z', "+00:00"),
        "total_time": total,
        "experiment_name": experiment_name(record),
        "peft_branch": null,
        "train_config": {
            "model_id": model_id(record),
            "dtype": dtype,
            "max_seq_length": length.map(|(source, target)| source + target),
            "batch_size": rows_of_a_step(record),
            "batch_size_eval": of("/evaluate/0/batch_size"),
            "max_steps": if trained { json!(record.steps) } else { Value::Null },
            "eval_steps": of("/train/evaluate_every"),
            "compile": false,
            "use_gc": or("/train/gradient_checkpointing", json!(false)),
            "query_template": null,
            "seed": record.seed,
            // 0 stands for no clipping there.
            "grad_norm_clip": or("/train/clip_norm", json!(0.0)),
            "optimizer_type": if trained { json!("AdamW") } else { Value::Null },
            "optimizer_kwargs": if trained { optimizer } else { Value::Null },
            "lr_scheduler": schedule,
            "use_amp": false,
            "autocast_adapter_dtype": true,
            "generation_kwargs": {"max_new_tokens": of("/evaluate/0/options/max_new_tokens")},
            "attn_implementation": null,
            "init_kv_cache_prefix": null,
        },
        "peft_config": peft_config(record),
        "error_msg": record.message.clone().unwrap_or_default(),
    })
}

/// `OWNER/NAME` of the Hub, or what the experiment calls the model.
fn model_id(record: &Record) -> String {
    let source = setting(record, "/model/config");
    let of_hub = source.as_str().and_then(|text| text.strip_prefix("hf:"));
    let repo = of_hub.and_then(|text| text.split(':').next());
    repo.map_or_else(|| record.model.clone(), str::to_owned)
}

/// Rows of one optimizer step, where the batches have a fixed number.
fn rows_of_a_step(record: &Record) -> Option<u64> {
    let rows = setting(record, "/train/batch_size").as_u64()?;
    Some(rows * setting(record, "/train/accumulation").as_u64().unwrap_or(1))
}

/// Null without an adapter.
fn peft_config(record: &Record) -> Value {
    let adapter = setting(record, "/adapter");
    if !adapter.is_object() {
        return Value::Null;
    }
    json!({
        "peft_type": "LORA",
        "sharelora_method": record.method,
        "task_type": if record.head_parameters > 0 { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": model_id(record),
        "r": adapter["rank"],
        "lora_alpha": adapter["alpha"],
        "lora_dropout": adapter["dropout"],
        "target_modules": adapter["targets"],
        "use_rslora": adapter["scaling"] == "rslora",
        "bias": "none",
    })
}

fn train_info(record: &Record, steps: &[Step]) -> Value {
    let memory: Vec<f64> = steps.iter().map(|step| step.memory_bytes as f64).collect();
    let whole = |value: f64| json!(value as u64);
    let peak = json!(record.peak_memory_bytes);
    let seconds = |part: &str| record.seconds.get(part).copied();
    json!({
        // Without steps the peak is all that is known.
        "accelerator_memory_reserved_avg": crate::statistics::mean(&memory).map_or(peak.clone(), whole),
        "accelerator_memory_max": peak,
        "accelerator_memory_reserved_99th": percentile99(memory).map_or(peak.clone(), whole),
        "train_time": seconds("steps").or(seconds("train")).unwrap_or(0.0),
        "file_size": record.adapter_bytes,
        "num_trainable_params": record.trainable_parameters + record.head_parameters,
        "num_total_params": record.base_parameters + record.trainable_parameters + record.head_parameters,
        "status": if record.status == Status::Finished { "success" } else { "failed" },
        "metrics": metrics(record, steps),
    })
}

/// The 99th percentile by linear interpolation, as numpy's.
fn percentile99(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = 0.99 * values.len().checked_sub(1)? as f64;
    let low = *values.get(place.floor() as usize)?;
    let high = *values.get(place.ceil() as usize)?;
    Some(low + (high - low) * place.fract())
}

/// An entry for each evaluation during training, then the test's.
fn metrics(record: &Record, steps: &[Step]) -> Vec<Value> {
    let rows = rows_of_a_step(record);
    let samples = |step: u64| rows.map(|rows| rows * step);
    let times = elapsed(steps);
    let mut all = Vec::new();
    let mut since = 0;
    let mut train_loss = Value::Null;
    for (place, step) in steps.iter().enumerate() {
        if step.step == 0 {
            since = place + 1;
            continue;
        }
        if step.held_out_loss.is_none() && step.metric.is_none() {
            continue;
        }
        let part = &steps[since..=place];
        let losses: Option<Vec<f64>> = part.iter().map(|step| step.loss).collect();
        train_loss = json!(losses.and_then(|losses| crate::statistics::mean(&losses)));
        let before = |of: &dyn Fn(usize) -> f64| since.checked_sub(1).map_or(0.0, of);
        let time = times[place] - before(&|at| times[at]);
        let tokens = step.tokens as f64 - before(&|at| steps[at].tokens as f64);
        let memory: Vec<f64> = part.iter().map(|step| step.memory_bytes as f64).collect();
        all.push(json!({
            "step": step.step,
            "valid accuracy": step.metric,
            "valid loss": step.held_out_loss,
            "train loss": train_loss,
            "train samples": samples(step.step),
            "train time": time,
            "eval time": null,
            "tokens / sec": tokens / time,
            "mem allocated avg": null,
            "mem reserved avg": crate::statistics::mean(&memory),
            "elapsed time": null,
        }));
        since = place + 1;
    }
    let scores = record.metrics.iter().filter(|(key, _)| is_headline(key));
    let accuracy = ACCURACY.iter().find_map(|name| {
        let mut found = scores.clone().filter(|(key, _)| key.ends_with(name));
        Some(found.next()?.1.value)
    });
    let all_scores: Map<String, Value> = scores
        .map(|(key, metric)| (key.clone(), json!(metric.value)))
        .collect();
    all.push(json!({
        "step": record.steps,
        "test accuracy": accuracy,
        "train loss": if train_loss.is_null() { json!(record.train_loss) } else { train_loss },
        "train samples": samples(record.steps).unwrap_or(0),
        "train total tokens": steps.last().map_or(0, |step| step.tokens),
        "forgetting": null,
        "test scores": all_scores,
    }));
    all
}

fn meta_info(record: &Record) -> Value {
    // Hashes of files are stored, and no commits of the Hub.
    let unknown = json!({"sha": null, "created_at": null});
    let tasks = setting(record, "/tasks");
    let datasets = tasks.as_object().into_iter().flat_map(Map::values);
    let datasets: Map<String, Value> = datasets
        .filter_map(|task| Some((task.get("dataset")?.as_str()?.to_owned(), unknown.clone())))
        .collect();
    let mut packages = Map::new();
    for name in ["transformers", "peft", "datasets", "bitsandbytes", "torch"] {
        packages.insert(format!("{name}-version"), Value::Null);
        packages.insert(format!("{name}-commit-hash"), Value::Null);
    }
    packages.insert(
        "sharelora-version".into(),
        json!(record.versions.get("sharelora")),
    );
    packages.insert("sharelora-commit-hash".into(), json!(record.git_commit));
    json!({
        "model_info": unknown,
        "dataset_info": datasets,
        "package_info": packages,
        "system_info": {
            "system": null,
            "release": null,
            "version": record.host.os,
            "machine": null,
            "processor": record.host.cpu,
            "accelerator": null,
        },
        "pytorch_info": null,
    })
}

/// Dotted keys whose value is null; of several entries of a list each key once, with `[]`.
fn nulls(prefix: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null if !found.iter().any(|key| key == prefix) => found.push(prefix.to_owned()),
        Value::Object(map) => {
            for (key, value) in map {
                let dotted = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                nulls(&dotted, value, found);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| nulls(&format!("{prefix}[]"), value, found)),
        _ => {}
    }
}
