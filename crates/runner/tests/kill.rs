//! Workers of a sweep are killed at random: every run ends once, with the bits of a sweep that was left alone.
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{
    Project, bits, children, command, ended, leftovers, lines, output, run_dirs, signal, start,
    wait_for,
};

/// What a sweep went through.
struct Killed {
    kills: usize,
    /// Workers that had a run when they died.
    replaced: usize,
    /// Runs that went on from a checkpoint.
    resumed: usize,
}

/// Does the sweep that `command` starts, which writes to `experiment`, and kills a random worker whenever up to `apart` more
/// steps are done, `kills` times.
fn disturbed(mut command: Command, experiment: &Path, kills: usize, apart: usize) -> Killed {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut child = start(&mut command);
    let parent = child.id();
    let mut done = 0;
    while done < kills {
        let at = lines(experiment) + rng.random_range(1..=apart);
        let over = wait_for("steps", || {
            let over = child.try_wait().unwrap().is_some();
            (over || lines(experiment) >= at).then_some(over)
        });
        if over {
            break;
        }
        let workers = children(parent);
        if !workers.is_empty() {
            let worker = workers[rng.random_range(0..workers.len())];
            signal("KILL", i64::from(worker));
            done += 1;
        }
    }
    let output = ended(child);
    assert_eq!(output.code, Some(0), "{}{}", output.out, output.err);
    Killed {
        kills: done,
        replaced: output.err.matches("another one goes on").count(),
        resumed: output.err.matches("goes on from its checkpoint").count(),
    }
}

/// Every run of `alone` is in `killed`, with the same bits and nothing half-written beside it.
fn same(alone: &Path, killed: &Path) -> usize {
    let (wanted, found) = (run_dirs(alone), run_dirs(killed));
    assert!(wanted.keys().eq(found.keys()));
    for (label, dir) in &found {
        assert_eq!(bits(dir), bits(&wanted[label]), "{label}");
        assert!(!dir.join("answers-pocket.log.zst").exists(), "{label}");
    }
    assert_eq!(leftovers(killed), Vec::<PathBuf>::new());
    found.len()
}

#[test]
fn killed_workers_leave_no_trace() {
    let project = Project::new();
    let arguments = |results: &'static str, jobs: &'static str| {
        let sets = ["axes.seed=[0, 1, 2]", "train.steps=40"];
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        let fixed = ["sweep", "tiny", "--results", results, "--jobs", jobs];
        fixed.into_iter().chain(sets).collect::<Vec<_>>()
    };
    project.succeed(&arguments("alone", "1"));
    let killed = project.path("killed/tiny");
    let command = project.command(&arguments("killed", "3"));
    let found = disturbed(command, &killed, 6, 30);
    let Killed {
        kills,
        replaced,
        resumed,
    } = found;
    println!("{kills} kills, {replaced} workers replaced, {resumed} runs resumed");
    assert!(replaced >= 3, "{replaced}: give the runs more steps");
    assert_eq!(same(&project.path("alone/tiny"), &killed), 7);
}

/// 60 runs of the pocket model on 3 workers, 30 kills; some minutes:
/// `cargo test --release -p sharelora --test kill -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn sixty_runs_survive_thirty_kills() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !root.join("models/pocket/model.safetensors").is_file() {
        println!("skipped: no models/pocket (made by `sharelora pretrain-pocket`)");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let seeds: Vec<String> = (0..15).map(|seed| seed.to_string()).collect();
    let sets = [
        "axes.method=[\"lora\", \"share_a\", \"share_b\", \"share_ab\"]".to_owned(),
        format!("axes.seed=[{}]", seeds.join(", ")),
        "train.steps=12".into(),
        "train.warmup_steps=2".into(),
        "train.rows=200".into(),
        "train.held_out=16".into(),
        "train.evaluate_every=4".into(),
        "train.checkpoint_every=3".into(),
        "evaluate.0.options.limit=20".into(),
        "evaluate.0.options.max_new_tokens=12".into(),
    ];
    let sweep = |results: &str, jobs: &str| {
        let folder = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let (results, reports) = (folder(results), folder("reports"));
        let mut arguments = vec!["sweep", "quickstart", "--results", &results];
        arguments.extend(["--reports", &reports, "--jobs", jobs]);
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        command(&root, home.path(), &arguments)
    };
    let alone = output(&mut sweep("alone", "3"));
    assert_eq!(alone.code, Some(0), "{}{}", alone.out, alone.err);
    let killed = home.path().join("killed/quickstart");
    let found = disturbed(sweep("killed", "3"), &killed, 30, 36);
    let runs = same(&home.path().join("alone/quickstart"), &killed);
    let Killed {
        kills,
        replaced,
        resumed,
    } = found;
    println!("{runs} runs, {kills} kills, {replaced} workers replaced, {resumed} runs resumed");
    assert_eq!((runs, kills), (60, 30));
}
