//! Sweeps by several workers, sweeps that share runs, and Ctrl-C.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::{
    Project, bits, children, ended, leftovers, lines, run_dirs, signal, start, wait_for,
};

fn record(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("record.json")).unwrap()).unwrap()
}

/// How many workers there are decides no bit; what they do is told in plain lines.
#[test]
fn workers_decide_nothing() {
    let project = Project::new();
    project.succeed(&["sweep", "tiny", "--results", "one"]);
    let three = project.succeed(&["sweep", "tiny", "--results", "three", "--jobs", "3"]);
    let (one, dirs) = (
        run_dirs(&project.path("one/tiny")),
        run_dirs(&project.path("three/tiny")),
    );
    assert_eq!(dirs.len(), 3);
    for (label, dir) in &dirs {
        assert_eq!(bits(dir), bits(&one[label]), "{label}");
    }
    assert_eq!(
        leftovers(&project.path("three")),
        Vec::<std::path::PathBuf>::new()
    );
    for part in [
        "[1/3] base\n",
        "[2/3] lora-seed0: train 8 steps, held-out loss ",
    ] {
        assert!(three.err.contains(part), "{part}: {}", three.err);
    }
    assert!(!three.err.contains('\u{1b}'), "{}", three.err);
    let again = project.succeed(&[
        "sweep",
        "tiny",
        "--results",
        "three",
        "--jobs",
        "3",
        "--quiet",
    ]);
    assert_eq!(again.err, "");
}

/// A run of an experiment of two seeds, the second from the adapter of the first.
fn chain(project: &Project) {
    let text = "extends = \"tiny\"\n[axes]\nmethod = [\"lora\", \"share_a\"]\nseed = [0, 1]\n\
                [[override]]\nwhen = { seed = 1 }\nset = { \"train.init_from\" = { seed = 0 } }\n";
    project.write("experiments/chain.toml", text);
}

/// A run that starts from another's adapter begins when that is done.
#[test]
fn workers_wait_for_what_a_run_starts_from() {
    let project = Project::new();
    chain(&project);
    project.succeed(&["sweep", "chain", "--results", "one"]);
    project.succeed(&["sweep", "chain", "--results", "four", "--jobs", "4"]);
    let (one, four) = (
        run_dirs(&project.path("one/chain")),
        run_dirs(&project.path("four/chain")),
    );
    for (label, dir) in &four {
        assert_eq!(bits(dir), bits(&one[label]), "{label}");
    }
    assert_eq!(four.len(), 4);
}

/// Where there is no adapter to start from, that is the reason which is recorded; all else is done.
#[test]
fn what_cannot_begin_says_why() {
    let project = Project::new();
    chain(&project);
    let text = "[[override]]\nwhen = { seed = 0, method = \"lora\" }\nset = { \"train.learning_rate\" = 1e30 }\n";
    let chain = String::from_utf8(project.read("experiments/chain.toml")).unwrap();
    project.write("experiments/chain.toml", chain + text);
    for (results, jobs) in [("one", "1"), ("two", "2")] {
        let output = project.run(&["sweep", "chain", "--results", results, "--jobs", jobs]);
        assert_eq!(output.code, Some(1), "{}", output.err);
        let dirs = run_dirs(&project.path(results).join("chain"));
        let found: Vec<(String, Value)> = dirs
            .iter()
            .map(|(label, dir)| (label.clone(), record(dir)["status"].clone()))
            .collect();
        let wanted = [
            ("lora-seed0", "diverged"),
            ("lora-seed1", "failed"),
            ("share_a-seed0", "finished"),
            ("share_a-seed1", "finished"),
        ];
        assert_eq!(
            found,
            wanted.map(|(label, status)| (label.to_owned(), status.into()))
        );
        let reason = "it starts from the adapter of `lora-seed0`, which diverged";
        assert_eq!(record(&dirs["lora-seed1"])["message"], reason);
        assert!(output.err.contains(reason), "{}", output.err);
    }
}

/// A run that kills every worker is given up; the others are done.
#[test]
fn a_run_that_kills_its_workers_is_given_up() {
    let project = Project::new();
    let arguments = [
        "sweep",
        "tiny",
        "--jobs",
        "2",
        "--set",
        "train.steps=100000",
    ];
    let only = ["--only", "base|lora", "--set", "train.evaluate_every=0"];
    let mut command = project.command(&[&arguments[..], &only[..]].concat());
    let mut child = start(&mut command);
    let parent = child.id();
    wait_for("the sweep's end", || {
        let over = child.try_wait().unwrap().is_some();
        let dirs = std::fs::read_dir(project.path("results/tiny"))
            .into_iter()
            .flatten();
        let locks = dirs.flatten().map(|d| d.path().join("lock"));
        for lock in locks.filter(|l| l.to_string_lossy().contains("lora-seed0")) {
            let who = std::fs::read_to_string(lock).unwrap_or_default();
            let worker = who
                .split_whitespace()
                .nth(1)
                .and_then(|pid| pid.parse().ok());
            if let Some(worker) = worker.filter(|pid| children(parent).contains(pid)) {
                signal("KILL", i64::from(worker));
            }
        }
        over.then_some(())
    });
    let output = ended(child);
    assert_eq!(output.code, Some(1), "{}", output.err);
    let dirs = run_dirs(&project.path("results/tiny"));
    let found = record(&dirs["lora-seed0"]);
    let message = found["message"].as_str().unwrap();
    assert!(
        message.contains("5 workers died") && message.contains("SIGKILL"),
        "{message}"
    );
    assert_eq!(record(&dirs["base"])["status"], "finished");
    assert!(
        output.err.matches("another one goes on").count() >= 4,
        "{}",
        output.err
    );
}

/// What every run of both experiments needs to have been done once.
fn done_once(project: &Project, experiments: &[&str]) {
    let mut seconds: BTreeMap<String, Value> = BTreeMap::new();
    for experiment in experiments {
        for (label, dir) in run_dirs(&project.path("results").join(experiment)) {
            let record = record(&dir);
            assert_eq!(record["experiment"], **experiment);
            assert_eq!(record["run"], label);
            assert_eq!(record["config"]["experiment"], **experiment);
            // No two executions take the same time to the nanosecond.
            let hash = record["hash"].as_str().unwrap().to_owned();
            let first = seconds
                .entry(hash)
                .or_insert_with(|| record["seconds"].clone());
            assert_eq!(*first, record["seconds"], "{experiment} {label}");
        }
    }
}

/// A second experiment takes over the runs that the first has finished, all that belongs to them included.
#[test]
fn finished_runs_of_another_experiment_are_taken_over() {
    let project = Project::new();
    let text = "extends = \"tiny\"\ntitle = \"Other\"\n[axes]\nmethod = [\"lora\", \"share_a\", \"share_b\"]\nseed = [0]\n\
                \"train.warmup_steps\" = [1]\n";
    project.write("experiments/other.toml", text);
    project.succeed(&["sweep", "tiny"]);
    let planned = project.succeed(&["plan", "other"]).out;
    assert!(
        planned.contains("3 runs: 0 done, 2 done in other experiments, 1 to do."),
        "{planned}"
    );
    assert!(planned.contains("done in tiny"), "{planned}");
    let output = project.succeed(&["sweep", "other"]);
    assert_eq!(
        output.err.matches("taken over from ").count(),
        2,
        "{}",
        output.err
    );
    done_once(&project, &["tiny", "other"]);
    let (tiny, other) = (
        run_dirs(&project.path("results/tiny")),
        run_dirs(&project.path("results/other")),
    );
    let taken = &other["lora-seed0-warmup_steps1"];
    assert_eq!(bits(taken), bits(&tiny["lora-seed0"]));
    assert_eq!(record(taken)["axes"]["train.warmup_steps"], "1");
    assert_eq!(leftovers(taken), Vec::<std::path::PathBuf>::new());
    let state = project.succeed(&["plan", "other"]).out;
    assert!(state.contains("3 done, 0 to do"), "{state}");
}

/// Two processes, two experiments, the same runs: whoever comes first does a run, the other leaves it and takes it over later.
#[test]
fn sweeps_at_the_same_time_do_no_run_twice() {
    let project = Project::new();
    project.write("experiments/other.toml", "extends = \"tiny\"\n");
    let sweep = |name: &'static str| {
        let seeds = ["--set", "axes.seed=[0, 1, 2]"];
        [&["sweep", name, "--jobs", "2"][..], &seeds[..]].concat()
    };
    let names = ["tiny", "other", "tiny"];
    let started = names.map(|name| start(&mut project.command(&sweep(name))));
    for (name, child) in names.iter().zip(started) {
        let output = ended(child);
        // One that found every run in use has nothing to report.
        assert!(matches!(output.code, Some(0 | 3)), "{name}: {}", output.err);
    }
    for name in ["tiny", "other"] {
        project.succeed(&sweep(name));
        assert_eq!(run_dirs(&project.path("results").join(name)).len(), 7);
    }
    done_once(&project, &["tiny", "other"]);
}

/// Ctrl-C at a terminal, which reaches every process: each run stops behind a checkpoint, and goes on as if nothing had been.
#[test]
fn the_first_ctrl_c_loses_nothing() {
    let project = Project::new();
    let arguments = |results: &'static str, jobs: &'static str| {
        let fixed = ["sweep", "tiny", "--results", results, "--jobs", jobs];
        let sets = [
            "train.steps=40",
            "train.checkpoint_every=0",
            "axes.method=[\"lora\", \"share_a\"]",
        ];
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        fixed.into_iter().chain(sets).collect::<Vec<_>>()
    };
    project.succeed(&arguments("alone", "1"));
    let wanted = run_dirs(&project.path("alone/tiny"));
    for (results, jobs) in [("one", "1"), ("two", "2")] {
        let experiment = project.path(results).join("tiny");
        let mut child = start(&mut project.command(&arguments(results, jobs)));
        wait_for("steps", || {
            assert!(child.try_wait().unwrap().is_none());
            (lines(&experiment) >= 9).then_some(())
        });
        signal("INT", -i64::from(child.id()));
        let output = ended(child);
        assert_eq!(output.code, Some(130), "{}", output.err);
        for part in [
            "stopping at the next step",
            "stopped; the same command goes on with: ",
        ] {
            assert!(output.err.contains(part), "{part}: {}", output.err);
        }
        let read = |dir: &Path| std::fs::read(dir.join("steps.jsonl")).unwrap();
        let stopped = run_dirs(&experiment);
        let before: Vec<_> = stopped.values().map(|dir| read(dir)).collect();
        assert_eq!(leftovers(&experiment), Vec::<std::path::PathBuf>::new());
        let again = project.succeed(&arguments(results, jobs));
        assert!(
            again.err.contains("goes on from its checkpoint"),
            "{}",
            again.err
        );
        for ((label, dir), before) in stopped.iter().zip(before) {
            assert_eq!(bits(dir), bits(&wanted[label]), "{label}");
            // Not even the speed of a step was measured again.
            assert!(
                read(dir).starts_with(&before),
                "{label}: steps were done twice"
            );
        }
    }
}

/// Stopped in an evaluation, a run keeps its answers.
#[test]
fn ctrl_c_keeps_the_answers_of_an_evaluation() {
    let project = Project::new();
    let sets = "evaluate.0.options.limit=8,evaluate.0.options.max_new_tokens=100";
    let arguments = |results: &'static str| {
        let mut all = vec!["run", "tiny", "base", "--results", results];
        sets.split(',').for_each(|set| all.extend(["--set", set]));
        all.extend(["--set", "evaluate.0.batch_size=1"]);
        all
    };
    project.succeed(&arguments("alone"));
    let experiment = project.path("stopped/tiny");
    let child = start(&mut project.command(&arguments("stopped")));
    let log = wait_for("the answers' log", || {
        let dir = std::fs::read_dir(&experiment).ok()?.next()?.ok()?;
        let log = dir.path().join("answers-pocket.log.zst");
        log.is_file().then_some(log)
    });
    signal("TERM", i64::from(child.id()));
    let output = ended(child);
    // The evaluation may have been quicker.
    if output.code != Some(0) {
        assert_eq!(output.code, Some(130), "{}", output.err);
        assert!(log.is_file() && !log.with_file_name("record.json").exists());
    }
    project.succeed(&arguments("stopped"));
    let of = |results: &str| bits(&run_dirs(&project.path(results).join("tiny"))["base"]);
    assert_eq!(of("stopped"), of("alone"));
}

/// A second Ctrl-C, or the parent's death, leaves no worker behind, and the same command ends the sweep.
#[test]
fn no_worker_outlives_its_sweep() {
    let project = Project::new();
    let arguments = ["sweep", "tiny", "--jobs", "2", "--set", "train.steps=40"];
    let experiment = project.path("results/tiny");
    for signals in [&["TERM", "TERM"][..], &["KILL"]] {
        let before = lines(&experiment);
        let child = start(&mut project.command(&arguments));
        wait_for("steps", || (lines(&experiment) > before).then_some(()));
        let workers = children(child.id());
        signals
            .iter()
            .for_each(|name| signal(name, i64::from(child.id())));
        let output = ended(child);
        if signals.len() == 2 {
            assert_eq!(output.code, Some(130), "{}", output.err);
        }
        let gone = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        wait_for("the workers' end", || {
            workers.iter().all(gone).then_some(())
        });
    }
    project.succeed(&arguments);
    assert_eq!(leftovers(&experiment), Vec::<std::path::PathBuf>::new());
}

/// Prints what a sweep costs beside its runs: `cargo test --release -p sharelora --test pool -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn scheduling_costs() {
    let project = Project::new();
    let runs = 200;
    let seeds: Vec<String> = (0..runs).map(|seed| seed.to_string()).collect();
    let seeds = format!("axes.seed=[{}]", seeds.join(", "));
    for jobs in ["1", "2"] {
        let mut arguments = vec![
            "sweep",
            "tiny",
            "--quiet",
            "--results",
            jobs,
            "--jobs",
            jobs,
        ];
        for set in [
            "axes.method=[\"lora\"]",
            &seeds,
            "train.steps=1",
            "train.warmup_steps=0",
        ] {
            arguments.extend(["--set", set]);
        }
        let begun = Instant::now();
        project.succeed(&arguments);
        let all = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        project.succeed(&arguments);
        // Planning, looking at what is done, and the report.
        let around = begun.elapsed().as_secs_f64();
        let inside = |dir: &std::path::PathBuf| -> f64 {
            let seconds = &record(dir)["seconds"];
            ["load", "data", "train", "evaluate"]
                .map(|part| seconds[part].as_f64().unwrap_or(0.0))
                .iter()
                .sum()
        };
        let dirs = run_dirs(&project.path(jobs).join("tiny"));
        let inside: f64 = dirs.values().map(inside).sum();
        let workers: f64 = jobs.parse().unwrap();
        let cost = ((all - around) * workers - inside) / f64::from(runs) * 1e3;
        println!(
            "--jobs {jobs}: {all:.2} s, of which {around:.2} s plan and report; the runs themselves {inside:.2} s on {jobs} workers: \
             {cost:.1} ms a run"
        );
    }
}
