//! Event files, read back by TensorBoard itself.

mod made_up;

use std::path::Path;
use std::process::Command;

use made_up::experiment;
use serde_json::Value;
use sharelora_report::record::read_run;
use sharelora_report::tensorboard::{FILE, events, write};

/// What the real package reads of an event file: tag to `[[wall time, step, value], ...]`; `None` with a printed line where there is none.
fn read_back(path: &Path) -> Option<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/tensorboard_scalars.py");
    let python = std::env::var("SHARELORA_PYTHON").unwrap_or_else(|_| "python3".into());
    let Ok(output) = Command::new(python).arg(script).arg(path).output() else {
        println!("skipped: no python3");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if said.starts_with("skipped") {
        println!("{said}");
        return None;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    Some(serde_json::from_str(&said).unwrap())
}

/// Every stored value comes back at its step, and the wall times are those of the run, not of this moment.
#[test]
fn tensorboard_reads_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let run = read_run(experiment("made-up", 8)[0].store(folder.path())).unwrap();
    let path = folder.path().join("tensorboard").join(FILE);
    assert!(write(&path, &events(&run.steps, Some(&run.record))).unwrap());
    let Some(found) = read_back(&path) else {
        return;
    };
    let tags: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(
        tags,
        [
            "held_out/loss",
            "score/gsm8k/exact_match_strict",
            "train/gradient_norm",
            "train/learning_rate",
            "train/loss",
            "train/memory_bytes",
            "train/tokens_per_second",
        ]
    );
    // 2026-11-23T10:00:00Z, two seconds of loading, then two seconds a step.
    let start = 1_795_428_000.0 + 2.0;
    let losses = found["train/loss"].as_array().unwrap();
    assert_eq!(losses.len(), 4);
    for (event, step) in losses.iter().zip(run.steps.iter().skip(1)) {
        assert_eq!(event[0].as_f64(), Some(start + 2.0 * step.step as f64));
        assert_eq!(event[1].as_u64(), Some(step.step));
        assert_eq!(
            event[2].as_f64(),
            step.loss.map(|loss| f64::from(loss as f32))
        );
    }
    assert_eq!(found["held_out/loss"].as_array().unwrap().len(), 3);
    let score = &found["score/gsm8k/exact_match_strict"][0];
    assert_eq!(
        (score[1].as_u64(), score[2].as_f64()),
        (Some(4), Some(f64::from(0.6f32)))
    );
}
