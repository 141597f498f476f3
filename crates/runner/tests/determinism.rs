//! One seed, one result: to the last bit, whatever ran before it or beside it.

mod support;

use std::collections::BTreeMap;

use support::{Bits, Project, bits, output, run_dirs};

fn all(project: &Project, results: &str) -> BTreeMap<String, Bits> {
    run_dirs(&project.path(results).join("tiny"))
        .into_iter()
        .map(|(label, dir)| (label, bits(&dir)))
        .collect()
}

#[test]
fn a_seed_decides_every_bit() {
    let project = Project::new();
    project.succeed(&["sweep", "tiny", "--results", "one"]);
    let one = all(&project, "one");
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        ["base", "lora-seed0", "share_a-seed0"]
    );
    assert_eq!(one["lora-seed0"].steps.len(), 9);

    // Other runs before it, and another number of threads.
    let reversed = "axes.method=[\"share_a\", \"lora\", \"base\"]";
    let mut command = project.command(&["sweep", "tiny", "--results", "two", "--set", reversed]);
    let two = output(command.env("RAYON_NUM_THREADS", "1"));
    assert_eq!(two.code, Some(0), "{}", two.err);
    assert_eq!(all(&project, "two"), one);

    project.succeed(&["run", "tiny", "share_a-seed0", "--results", "alone"]);
    assert_eq!(
        all(&project, "alone")["share_a-seed0"],
        one["share_a-seed0"]
    );
}

/// A seed that is read nowhere would pass the test above.
#[test]
fn another_seed_is_another_run() {
    let project = Project::new();
    project.succeed(&[
        "sweep",
        "tiny",
        "--only",
        "lora",
        "--set",
        "axes.seed=[0, 1]",
    ]);
    let all = all(&project, "results");
    let (zero, one) = (&all["lora-seed0"], &all["lora-seed1"]);
    assert_ne!(zero.adapter, one.adapter);
    // The held-out loss of step 0 is the base's: alike. Every loss behind it differs.
    assert_eq!(zero.steps[0], one.steps[0]);
    for (a, b) in zero.steps.iter().zip(&one.steps).skip(1) {
        assert_ne!(a["loss"], b["loss"]);
    }
    assert_eq!(zero.record["data"], one.record["data"]);
}
