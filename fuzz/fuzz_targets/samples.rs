//! Any bytes as a file of completions in human-eval's format: samples, or a reason that names the line.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sharelora_tasks::Row;
use sharelora_tasks::completions::parse_samples;

fuzz_target!(|data: &[u8]| {
    let texts = ["task_id", "prompt", "canonical_solution", "test", "entry_point"];
    let problem = Row::of_texts(texts.map(|name| (name, format!("{name}/0"))));
    if let Ok(samples) = parse_samples(Path::new("fuzz.jsonl"), data, &[problem]) {
        assert!(!samples.is_empty(), "a file without samples lacks a problem");
    }
});
