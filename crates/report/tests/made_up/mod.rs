//! Results on disk with made-up numbers, for the tests of what reads them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use sharelora_report::{Record, write_record};

/// One run to be made up.
#[derive(Clone)]
pub struct MadeUp {
    pub experiment: &'static str,
    pub method: &'static str,
    pub seed: u64,
    pub rank: u64,
    pub parameters: u64,
    /// Questions 0, 1, 2, ... of 40 that are answered right.
    pub right: Vec<u64>,
    pub loss: f64,
}

/// Questions of every run.
pub const QUESTIONS: u64 = 40;

/// What a model may answer to take a terminal over.
pub const HOSTILE: &str = "\u{1b}[2Jgone\u{7}\r";

impl MadeUp {
    pub fn label(&self) -> String {
        format!("{}-seed{}", self.method, self.seed)
    }

    fn record(&self) -> Record {
        let p = self.right.len() as f64 / QUESTIONS as f64;
        let record = json!({
            "schema": 1, "experiment": self.experiment, "run": self.label(), "hash": format!("{:064x}", self.seed + 16 * self.rank),
            "status": "finished", "message": null, "model": "SmolLM2-135M", "method": self.method, "seed": self.seed,
            "backend": "flex", "axes": {"method": self.method, "seed": self.seed.to_string()},
            "config": {
                "experiment": self.experiment, "axes": {"method": self.method}, "method": self.method, "seed": self.seed,
                "model": {"config": "hf:HuggingFaceTB/SmolLM2-135M-Instruct:config.json", "dtype": "f32"},
                "adapter": {"rank": self.rank, "alpha": 16.0, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "scaling": "standard"},
                "train": {
                    "task": "gsm8k", "batch_size": 4, "accumulation": 2, "learning_rate": 1e-3, "weight_decay": 0.0,
                    "betas": [0.9, 0.999], "epsilon": 1e-8, "schedule": "linear", "max_source": 256, "max_target": 128,
                    "evaluate_every": 2,
                },
                "evaluate": [{"task": "gsm8k", "options": {"limit": QUESTIONS, "max_new_tokens": 64}, "batch_size": 20}],
                "tasks": {"gsm8k/zero_shot": {"version": 1, "dataset": "gsm8k"}},
            },
            "trainable_parameters": self.parameters, "adapter_bytes": self.parameters * 4, "base_parameters": 134_515_008,
            "steps": 4, "train_loss": self.loss - 0.1, "held_out_loss": self.loss, "held_out_loss_before": 2.5, "best_step": null,
            "metrics": {"gsm8k/exact_match_strict": {"value": p, "stderr": (p * (1.0 - p) / QUESTIONS as f64).sqrt(), "n": QUESTIONS}},
            "data": {"gsm8k": "feedc0ffee123456789"}, "versions": {"sharelora": "0.1.0"}, "git_commit": "abc1234",
            "host": {"cpu": "Some CPU", "cores": 2, "memory_bytes": 8u64 << 30, "os": "Linux"},
            "started_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:01:00Z",
            "seconds": {"load": 2.0, "steps": 8.0, "train": 10.0}, "tokens_per_second": 50.0 + self.seed as f64,
            "peak_memory_bytes": 1592u64 << 20,
        });
        serde_json::from_value(record).unwrap()
    }

    /// Writes record, five steps and graded answers into `results/EXPERIMENT/LABEL-HASH8`.
    pub fn store(&self, results: &Path) -> PathBuf {
        let name = format!("{}-{:08x}", self.label(), self.seed + 16 * self.rank);
        let folder = results.join(self.experiment).join(name);
        write_record(&folder.join("record.json"), &self.record()).unwrap();
        let steps = (0..5u64).map(|step| {
            let line = json!({
                "step": step, "loss": (step > 0).then(|| self.loss + 1.0 / step as f64),
                "learning_rate": if step > 0 { 1e-3 } else { 0.0 }, "grad_norm": (step > 0).then_some(0.5),
                "tokens": 100 * step, "tokens_per_second": if step > 0 { 50.0 } else { 0.0 },
                "memory_bytes": (1u64 << 30) + step, "held_out_loss": step.is_multiple_of(2).then_some(self.loss),
            });
            line.to_string() + "\n"
        });
        fs::write(folder.join("steps.jsonl"), steps.collect::<String>()).unwrap();
        let lines = (0..QUESTIONS).map(|id| {
            let right = self.right.contains(&id);
            let answer = if right { format!("It is {}.", id + 1) } else { format!("No idea. {HOSTILE}") };
            let line = json!({
                "id": id.to_string(), "prompt": format!("What is {id} and one?"), "reference": (id + 1).to_string(), "group": null,
                "answer": {"text": answer}, "tokens": 5, "grades": {"exact_match_strict": if right { 1.0 } else { 0.0 }},
            });
            line.to_string() + "\n"
        });
        fs::write(
            folder.join("samples-gsm8k.jsonl"),
            lines.collect::<String>(),
        )
        .unwrap();
        folder
    }
}

/// LoRA and ShareA with two seeds each.
pub fn experiment(experiment: &'static str, rank: u64) -> Vec<MadeUp> {
    let one = |method, seed, parameters, right: std::ops::Range<u64>, loss| MadeUp {
        experiment,
        method,
        seed,
        rank,
        parameters,
        right: right.collect(),
        loss,
    };
    vec![
        one("lora", 0, 40_960 * rank, 0..24, 1.50),
        one("lora", 1, 40_960 * rank, 0..26, 1.52),
        one("share_a", 0, 24_576 * rank, 2..12, 1.60),
        one("share_a", 1, 24_576 * rank, 2..14, 1.63),
    ]
}
