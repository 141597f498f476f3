//! `sharelora spectrum` on adapters that a sweep has left.

mod support;

use burn::tensor::Device;
use serde_json::Value;
use sharelora_adapters::{delta, load_native};
use support::{Project, files, run_dirs};

/// Norms are those of the dense update and of the frozen weight, a shared `A` has one row space, the bytes depend neither on
/// the time nor on the number of threads, and every way to name an adapter leads to it.
#[test]
fn adapters_of_a_sweep_are_analysed() {
    let project = Project::new();
    project.succeed(&["sweep", "tiny"]);
    let json = project
        .succeed(&["spectrum", "tiny", "--json", "--out", "one"])
        .out;
    let spectra: Value = serde_json::from_str(&json).unwrap();
    let adapters = spectra["adapters"].as_array().unwrap();
    let names: Vec<&str> = adapters
        .iter()
        .map(|a| a["run"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["lora-seed0", "share_a-seed0"]);

    let dirs = run_dirs(&project.path("results/tiny"));
    let file = dirs["lora-seed0"].join("adapter/adapter.safetensors");
    let (bank, _) = load_native(&file, &Device::flex()).unwrap();
    let sites = adapters[0]["sites"].as_array().unwrap();
    assert_eq!(sites.len(), bank.layout().sites.len());
    for (index, site) in sites.iter().enumerate() {
        let dense = delta(&bank, index).try_into_vec_as::<f32>().unwrap();
        let expected = dense
            .iter()
            .map(|v| f64::from(*v).powi(2))
            .sum::<f64>()
            .sqrt();
        let norm = site["norm"].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < 1e-5, "{norm} {expected}");
        // The model's weights are uniform with variance 1 / in, so that ||W||_F is the root of their rows, nearly.
        let weight = norm / site["relative_norm"].as_f64().unwrap();
        let rows = site["shape"][0].as_f64().unwrap().sqrt();
        assert!((weight / rows - 1.0).abs() < 0.1, "{weight} {rows}");
    }
    for pair in spectra["angles"].as_array().unwrap() {
        if pair["between"] == "layers" && pair["first"][0] == "share_a-seed0" {
            let overlap = pair["row_overlap"].as_f64().unwrap();
            assert!((overlap - 1.0).abs() < 1e-12, "{pair}");
        }
    }

    let mut command = project.command(&["spectrum", "tiny", "--json", "--out", "two"]);
    let output = support::output(command.env("RAYON_NUM_THREADS", "1"));
    assert_eq!(output.out, json, "{}", output.err);
    assert_eq!(files(&project.path("one")), files(&project.path("two")));

    let folder = dirs["lora-seed0"].to_string_lossy().into_owned();
    for name in ["tiny/lora-seed0", &folder, &file.to_string_lossy()] {
        let text = project.succeed(&["spectrum", name]).out;
        assert!(text.contains("q_proj      lora-seed0       3"), "{text}");
    }
    assert!(project.path("reports/tiny/spectrum/heat.png").is_file());
    let peft = project.path("peft").to_string_lossy().into_owned();
    project.succeed(&["export", &folder, "--format", "peft", "--out", &peft]);
    let text = project
        .succeed(&["spectrum", "peft", "--model-of", "tiny", "--layers"])
        .out;
    assert!(text.contains("q_proj      peft      2"), "{text}");
}

/// A wrong name says what there is instead, with the promised exit codes.
#[test]
fn what_cannot_be_analysed_is_refused() {
    let project = Project::new();
    let none = project.run(&["spectrum", "tiny/lora-seed0"]);
    assert_eq!(none.code, Some(3), "{}", none.err);
    project.succeed(&[
        "sweep",
        "tiny",
        "--set",
        "train.steps=1",
        "--set",
        "train.evaluate_every=1",
    ]);
    for (arguments, code, part) in [
        (
            &["spectrum", "tiny/nothing"] as &[&str],
            3,
            "there are: base, lora-seed0, share_a-seed0",
        ),
        (&["spectrum", "tiny/base"], 2, "`base` has no adapter"),
        (
            &["spectrum", "tiny", "tiny/lora-seed0"],
            2,
            "is named twice",
        ),
        (&["spectrum", "tiny", "--top", "0"], 2, "--top"),
        (&["spectrum", "experiments/tiny.toml"], 2, "tiny.toml"),
    ] {
        let output = project.run(arguments);
        assert_eq!(output.code, Some(code), "{arguments:?} {}", output.err);
        assert!(output.err.contains(part), "{arguments:?} {}", output.err);
        assert!(!output.err.contains("panicked"), "{}", output.err);
    }
}
