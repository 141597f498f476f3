//! Runs in the layout of PEFT's method_comparison.

mod made_up;

use std::collections::BTreeSet;

use insta::assert_snapshot;
use made_up::experiment;
use serde_json::{Value, json};
use sharelora_report::method_comparison::{file_name, method_comparison};
use sharelora_report::record::read_run;

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The keys are those that PEFT's `log_results` writes and its `processing.py` reads; beside them stand `notes`, `sharelora_method`,
/// `valid loss`, `test scores` and the packages of this program.
#[test]
fn the_layout_is_that_of_peft() {
    let folder = tempfile::tempdir().unwrap();
    let run = read_run(experiment("made-up", 8)[1].store(folder.path())).unwrap();
    assert_eq!(file_name(&run.record), "lora--made-up-lora-seed1.json");
    let found = method_comparison(&run.record, &run.steps);
    let wanted = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(
        keys(&found),
        wanted(&["run_info", "train_info", "meta_info", "notes"])
    );
    let run_info = &found["run_info"];
    assert_eq!(
        keys(run_info),
        wanted(&[
            "created_at",
            "total_time",
            "experiment_name",
            "peft_branch",
            "train_config",
            "peft_config",
            "error_msg"
        ])
    );
    assert_eq!(
        keys(&run_info["train_config"]),
        wanted(&[
            "model_id",
            "dtype",
            "max_seq_length",
            "batch_size",
            "batch_size_eval",
            "max_steps",
            "eval_steps",
            "compile",
            "use_gc",
            "query_template",
            "seed",
            "grad_norm_clip",
            "optimizer_type",
            "optimizer_kwargs",
            "lr_scheduler",
            "use_amp",
            "autocast_adapter_dtype",
            "generation_kwargs",
            "attn_implementation",
            "init_kv_cache_prefix"
        ])
    );
    let train_info = &found["train_info"];
    assert_eq!(
        keys(train_info),
        wanted(&[
            "accelerator_memory_reserved_avg",
            "accelerator_memory_max",
            "accelerator_memory_reserved_99th",
            "train_time",
            "file_size",
            "num_trainable_params",
            "num_total_params",
            "status",
            "metrics"
        ])
    );
    assert_eq!(
        keys(&found["meta_info"]),
        wanted(&[
            "model_info",
            "dataset_info",
            "package_info",
            "system_info",
            "pytorch_info"
        ])
    );
    // What a run has is there.
    assert_eq!(run_info["created_at"], "2026-11-23T10:00:00+00:00");
    assert_eq!(run_info["total_time"], 60.0);
    assert_eq!(
        run_info["train_config"]["model_id"],
        "HuggingFaceTB/SmolLM2-135M-Instruct"
    );
    assert_eq!(run_info["train_config"]["batch_size"], 8);
    assert_eq!(run_info["train_config"]["max_seq_length"], 384);
    assert_eq!(
        run_info["peft_config"]["target_modules"],
        json!(["q_proj", "v_proj"])
    );
    assert_eq!(train_info["train_time"], 8.0);
    assert_eq!(train_info["num_total_params"], 134_515_008 + 40_960 * 8);
    let metrics = train_info["metrics"].as_array().unwrap();
    assert_eq!(metrics.len(), 3);
    assert_eq!(
        metrics[0],
        json!({
            "step": 2, "valid accuracy": null, "valid loss": 1.52, "train loss": 1.52 + 0.75, "train samples": 16, "train time": 4.0,
            "eval time": null, "tokens / sec": 50.0, "mem allocated avg": null, "mem reserved avg": (1u64 << 30) as f64 + 1.5,
            "elapsed time": null,
        })
    );
    let test = &metrics[2];
    assert_eq!(test["test accuracy"], 26.0 / 40.0);
    assert_eq!(test["train total tokens"], 400);
    // And what it has not is null and named.
    let missing = found["notes"][2].as_str().unwrap().replace(", ", "\n");
    assert_snapshot!(missing, @r"
    Not stored
    so null: run_info.peft_branch
    run_info.train_config.query_template
    run_info.train_config.attn_implementation
    run_info.train_config.init_kv_cache_prefix
    train_info.metrics[].valid accuracy
    train_info.metrics[].eval time
    train_info.metrics[].mem allocated avg
    train_info.metrics[].elapsed time
    train_info.metrics[].forgetting
    meta_info.model_info.sha
    meta_info.model_info.created_at
    meta_info.dataset_info.gsm8k.sha
    meta_info.dataset_info.gsm8k.created_at
    meta_info.package_info.transformers-version
    meta_info.package_info.transformers-commit-hash
    meta_info.package_info.peft-version
    meta_info.package_info.peft-commit-hash
    meta_info.package_info.datasets-version
    meta_info.package_info.datasets-commit-hash
    meta_info.package_info.bitsandbytes-version
    meta_info.package_info.bitsandbytes-commit-hash
    meta_info.package_info.torch-version
    meta_info.package_info.torch-commit-hash
    meta_info.system_info.system
    meta_info.system_info.release
    meta_info.system_info.machine
    meta_info.system_info.accelerator
    meta_info.pytorch_info
    ");
}

/// The untouched model has neither steps nor an adapter; a failed run says why.
#[test]
fn runs_without_training_have_a_result_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = read_run(experiment("made-up", 8)[0].store(folder.path())).unwrap();
    let config = run.record.config.as_object_mut().unwrap();
    config.remove("adapter");
    config.remove("train");
    run.record.status = sharelora_report::Status::Failed;
    run.record.message = Some("out of luck".into());
    let found = method_comparison(&run.record, &[]);
    assert_eq!(found["run_info"]["peft_config"], Value::Null);
    assert_eq!(found["run_info"]["error_msg"], "out of luck");
    assert_eq!(found["train_info"]["status"], "failed");
    assert_eq!(found["train_info"]["metrics"].as_array().unwrap().len(), 1);
    assert_eq!(found["train_info"]["accelerator_memory_max"], 1592u64 << 20);
}
