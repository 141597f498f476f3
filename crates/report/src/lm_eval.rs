//! A run as lm-evaluation-harness writes one: `results_DATE.json` and `samples_TASK_DATE.jsonl`.
//!
//! The layout is that of lm_eval 0.4.13: `result_schema.py`, `evaluator.py` (`simple_evaluate`, `evaluate`) and
//! `loggers/evaluation_tracker.py`. Deviations: what a run does not store is left out, or where a reader needs the key,
//! empty. So `doc` has the question's id and group instead of the dataset's row, `filtered_resps` the answer before the
//! task's filter, `versions` the versions of this program's tasks, `n-samples` no `original` where a limit was set, and
//! there is no information on transformers. `date` is the start of the run, not of an evaluation. A metric that lm_eval's
//! task does not have keeps its name and gets the filter `none`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::comparison::lower_is_better;
use crate::error::{Error, Result};
use crate::file;
use crate::record::Record;
use crate::samples::{self, Sample, question};

/// A run's answers by the name of their samples file: a task, or a task and its split.
pub type Samples = BTreeMap<String, Vec<Sample>>;

/// Task, metric or grade here; metric and filter of lm_eval's task.
const METRICS: [(&str, &str, &str, &str); 9] = [
    ("gsm8k", "exact_match_strict", "exact_match", "strict-match"),
    (
        "gsm8k",
        "exact_match_flexible",
        "exact_match",
        "flexible-extract",
    ),
    ("humaneval", "pass@1", "pass@1", "create_test"),
    ("humaneval", "passed", "pass@1", "create_test"),
    // Any task.
    ("", "accuracy", "acc", "none"),
    ("", "correct", "acc", "none"),
    ("", "accuracy_macro", "acc_macro", "none"),
    ("", "f1", "f1", "none"),
    ("", "matthews", "mcc", "none"),
];

/// lm_eval's metric and filter of this program's metric or grade `name` of `task`.
pub fn metric_and_filter<'a>(task: &str, name: &'a str) -> (&'a str, &'static str) {
    METRICS
        .iter()
        .find(|(of, here, ..)| (of.is_empty() || *of == task) && *here == name)
        .map_or((name, "none"), |(_, _, metric, filter)| (metric, filter))
}

/// The aggregated results of a run, the content of `results_DATE.json`. `samples` gives the hashes of the tasks and may be
/// empty.
pub fn lm_eval(record: &Record, samples: &Samples) -> Value {
    let mut results: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut higher: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut subtasks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, metric) in &record.metrics {
        let Some((task, name)) = key.split_once('/') else {
            continue;
        };
        // `mmlu/accuracy/law` is the task `mmlu_law` of the group `mmlu`.
        let (name, group) = match name.split_once('/') {
            Some((name, group)) => (name, Some(group)),
            None => (name, None),
        };
        let of = group.map_or_else(|| task.to_owned(), |group| format!("{task}_{group}"));
        if group.is_some() {
            let members = subtasks.entry(task).or_default();
            if !members.contains(&of) {
                members.push(of.clone());
            }
        }
        let (metric_name, filter) = metric_and_filter(task, name);
        let number = |value: f64| {
            if value.is_finite() {
                json!(value)
            } else {
                json!("N/A")
            }
        };
        let fields = results.entry(of.clone()).or_insert_with(|| {
            let alias = group.map_or_else(|| of.clone(), |group| group.replace('_', " "));
            Map::from_iter([
                ("name".to_owned(), json!(of)),
                ("alias".to_owned(), json!(alias)),
            ])
        });
        fields.insert(format!("{metric_name},{filter}"), number(metric.value));
        fields.insert(
            format!("{metric_name}_stderr,{filter}"),
            metric.stderr.map_or_else(|| json!("N/A"), number),
        );
        higher
            .entry(of.clone())
            .or_default()
            .insert(metric_name.to_owned(), json!(!lower_is_better(name)));
        // A macro average counts groups, the others questions.
        let n = counted.entry(of).or_default();
        *n = metric.n.max(*n);
    }
    for (task, n) in &counted {
        if let Some(fields) = results.get_mut(task) {
            fields.insert("sample_len".to_owned(), json!(n));
        }
    }

    let asked: BTreeMap<&str, &Value> = record
        .config
        .get("evaluate")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|spec| Some((spec.get("task")?.as_str()?, spec)))
        .collect();
    let option = |task: &str, key: &str| -> Option<Value> {
        let value = asked.get(task)?.get("options")?.get(key)?;
        (!value.is_null()).then(|| value.clone())
    };
    let task_of = |name: &str| -> String {
        let members = subtasks
            .iter()
            .find(|(_, members)| members.iter().any(|m| m == name));
        members.map_or(name, |(task, _)| task).to_owned()
    };
    let names: Vec<&String> = results.keys().collect();
    let by_task = |value: &dyn Fn(&str) -> Option<Value>| -> Map<String, Value> {
        let found = names
            .iter()
            .filter_map(|name| Some(((*name).clone(), value(name)?)));
        found.collect()
    };
    let shots = by_task(&|name| option(&task_of(name), "shots"));
    let versions = by_task(&|name| {
        let task = task_of(name);
        let version = variant_and_version(record, &task).map(|(_, version)| version);
        version.map(|v| v.parse::<u64>().map_or_else(|_| json!(v), |n| json!(n)))
    });
    let configs = by_task(&|name| {
        let task = task_of(name);
        Some(json!({
            "task": name,
            "dataset_path": option(&task, "dataset"),
            "variant": variant_and_version(record, &task).map(|(variant, _)| variant),
            "num_fewshot": option(&task, "shots"),
            "metadata": asked.get(task.as_str()),
        }))
    });
    let n_samples = by_task(&|name| {
        let n = counted.get(name)?;
        Some(if option(&task_of(name), "limit").is_some() {
            json!({ "effective": n })
        } else {
            json!({ "original": n, "effective": n })
        })
    });
    let task_hashes: Map<String, Value> = samples
        .iter()
        .map(|(name, samples)| {
            let mut all = String::new();
            for line in lm_eval_samples(name, samples) {
                for key in ["doc_hash", "prompt_hash", "target_hash"] {
                    all += line.get(key).and_then(Value::as_str).unwrap_or_default();
                }
            }
            (name.clone(), json!(sha256(&all)))
        })
        .collect();
    let model_name = format!("{}/{}", record.model, record.run);
    let first = asked.values().next();
    let limit = first
        .and_then(|spec| spec.pointer("/options/limit"))
        .cloned();
    let batch_size = first
        .and_then(|spec| spec.get("batch_size"))
        .map(Value::to_string);
    let seconds = record.seconds.get("evaluate").map(f64::to_string);
    // One group is one `groups` entry of lm_eval; its own aggregate is also among the results.
    let groups: Map<String, Value> = subtasks
        .keys()
        .filter_map(|task| Some(((*task).to_owned(), json!(results.get(*task)?))))
        .collect();

    let mut value = json!({
        "results": results,
        "group_subtasks": subtasks,
        "configs": configs,
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": higher,
        "n-samples": n_samples,
        "config": {
            "model": "sharelora",
            "model_args": {
                "pretrained": record.model,
                "method": record.method,
                "run": record.run,
                "hash": record.hash,
                "trainable_parameters": record.trainable_parameters,
            },
            "model_num_parameters": record.base_parameters,
            "batch_size": batch_size,
            "batch_sizes": [],
            "device": record.backend,
            "use_cache": null,
            "limit": limit,
            "bootstrap_iters": 0,
            "gen_kwargs": null,
            "random_seed": record.seed,
            "numpy_seed": record.seed,
            "torch_seed": record.seed,
            "fewshot_seed": record.seed,
        },
        "git_hash": record.git_commit,
        "date": unix_seconds(&record.started_at),
        "task_hashes": task_hashes,
        "model_source": "sharelora",
        "model_name": model_name,
        "model_name_sanitized": model_name.replace('/', "__"),
        "system_instruction": null,
        "system_instruction_sha": null,
        "fewshot_as_multiturn": false,
        "chat_template": null,
        "chat_template_sha": null,
        "total_evaluation_time_seconds": seconds,
    });
    if let (false, Some(fields)) = (groups.is_empty(), value.as_object_mut()) {
        fields.insert("groups".to_owned(), Value::Object(groups));
    }
    value
}

/// The protocol of a task and its version, from the record's `task gsm8k/zero_shot`.
fn variant_and_version<'a>(record: &'a Record, task: &str) -> Option<(&'a str, &'a str)> {
    record.versions.iter().find_map(|(key, version)| {
        let (of, variant) = key.strip_prefix("task ")?.split_once('/')?;
        (of == task).then_some((variant, version.as_str()))
    })
}

/// The lines of `samples_TASK_DATE.jsonl` for the samples file `name`: one a filter and answer, filter by filter.
pub fn lm_eval_samples(name: &str, samples: &[Sample]) -> Vec<Value> {
    let task = name.split('-').next().unwrap_or(name);
    let mut filters: Vec<&str> = samples
        .iter()
        .flat_map(|sample| sample.grades.keys())
        .map(|grade| metric_and_filter(task, grade).1)
        .collect();
    filters.sort_unstable();
    filters.dedup();
    let line = |sample: &Sample, filter: &str, place: usize| {
        let grades: Map<String, Value> = sample
            .grades
            .iter()
            .map(|(grade, value)| (metric_and_filter(task, grade), json!(value)))
            .filter(|((_, of), _)| *of == filter)
            .map(|((metric, _), value)| (metric.to_owned(), value))
            .collect();
        let (arguments, resps, filtered) = responses(sample);
        let doc = json!({ "id": sample.id, "group": sample.group });
        // As Python's `json.dumps(doc, indent=2)` lays it out.
        let doc_text = serde_json::to_string_pretty(&doc).unwrap_or_default();
        let mut line = json!({
            "doc_id": question(&sample.id).parse::<usize>().unwrap_or(place),
            "doc": doc,
            "target": sample.reference,
            "arguments": arguments,
            "resps": resps,
            "filtered_resps": filtered,
            "filter": filter,
            "metrics": grades.keys().collect::<Vec<_>>(),
            "doc_hash": sha256(&doc_text),
            "prompt_hash": sha256(&sample.prompt),
            "target_hash": sha256(&sample.reference),
        });
        if let Some(fields) = line.as_object_mut() {
            fields.extend(grades);
        }
        line
    };
    filters
        .into_iter()
        .flat_map(|filter| {
            (0..)
                .zip(samples)
                .map(move |(place, sample)| (filter, place, sample))
        })
        .map(|(filter, place, sample)| line(sample, filter, place))
        .collect()
}

/// `arguments`, `resps` and `filtered_resps`: of a generated text one request, of a choice one a continuation, of which only the
/// log-probability is known.
fn responses(sample: &Sample) -> (Value, Value, Value) {
    let numbers = ["/choice/log_probs", "/scores"]
        .into_iter()
        .find_map(|place| sample.answer.pointer(place)?.as_array());
    let Some(numbers) = numbers else {
        let text = sample
            .answer
            .get("text")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let arguments = json!({ "gen_args_0": { "arg_0": sample.prompt } });
        return (arguments, json!([[text]]), json!([text]));
    };
    let text = |number: &Value| number.as_f64().map_or("nan".to_owned(), |n| n.to_string());
    let numbers: Vec<String> = numbers.iter().map(text).collect();
    let arguments: Map<String, Value> = (0..numbers.len())
        .map(|place| {
            (
                format!("gen_args_{place}"),
                json!({ "arg_0": sample.prompt }),
            )
        })
        .collect();
    let resps: Vec<Value> = numbers.iter().map(|number| json!([[number]])).collect();
    let filtered: Vec<Value> = numbers.iter().map(|number| json!([number])).collect();
    (Value::Object(arguments), json!(resps), json!(filtered))
}

/// Writes the results and samples of a run's folder into `out`, a folder as lm_eval's `--output_path` names one: all files go to
/// `MODEL__RUN/` in it. Returns them, the results first.
///
/// # Errors
/// A samples file is damaged, or a file cannot be written.
pub fn write_lm_eval(record: &Record, run_dir: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let samples: Samples = samples::files(run_dir)?
        .into_iter()
        .map(|(name, path)| Ok((name, samples::read_samples(&path)?)))
        .collect::<Result<_>>()?;
    let results = lm_eval(record, &samples);
    let model = results.get("model_name_sanitized").and_then(Value::as_str);
    let folder = out.join(model.unwrap_or_default());
    let date = record.started_at.trim_end_matches('Z').replace(':', "-");
    let json_error = |path: &Path, cause: serde_json::Error| Error::Parse {
        what: "value of JSON",
        path: path.to_owned(),
        line: 0,
        message: cause.to_string(),
    };
    let path = folder.join(format!("results_{date}.json"));
    let text = serde_json::to_string_pretty(&results).map_err(|cause| json_error(&path, cause))?;
    file::write(&path, text.as_bytes())?;
    let mut written = vec![path];
    for (name, samples) in &samples {
        let path = folder.join(format!("samples_{name}_{date}.jsonl"));
        let mut text = String::new();
        for line in lm_eval_samples(name, samples) {
            text += &line.to_string();
            text.push('\n');
        }
        file::write(&path, text.as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

fn sha256(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970 of a time in UTC as records have it, `2026-11-23T21:40:27Z`; `null` of another text. Days by the civil
/// calendar, years from March (H. Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn unix_seconds(time: &str) -> Option<f64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let fields = |text: &str, by: char| -> Option<[f64; 3]> {
        let numbers: Option<Vec<f64>> = text.split(by).map(|part| part.parse().ok()).collect();
        numbers?.try_into().ok()
    };
    let [year, month, day] = fields(date, '-')?;
    let [hour, minute, second] = fields(clock, ':')?;
    let year = if month <= 2.0 { year - 1.0 } else { year };
    let era = (year / 400.0).floor();
    let year_of_era = year - era * 400.0;
    let day_of_year = ((153.0 * ((month + 9.0) % 12.0) + 2.0) / 5.0).floor() + day - 1.0;
    let day_of_era = year_of_era * 365.0 + (year_of_era / 4.0).floor()
        - (year_of_era / 100.0).floor()
        + day_of_year;
    let days = era * 146_097.0 + day_of_era - 719_468.0;
    Some(days * 86_400.0 + hour * 3_600.0 + minute * 60.0 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The date of an exported run is the record's: values of `date -u -d ... +%s`.
    #[test]
    fn seconds_of_a_date() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(unix_seconds("2026-11-23T21:40:27Z"), Some(1_795_470_027.0));
        assert_eq!(unix_seconds("2024-02-29T12:00:00Z"), Some(1_709_208_000.0));
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
