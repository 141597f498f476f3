//! A run that was killed, or whose checkpoint is damaged, ends with the bits of one that was left alone.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Project, bits, leftovers, run_dirs};

/// Time that a child may take before something is wrong.
const DEADLINE: Duration = Duration::from_secs(600);

const LABEL: &str = "share_a-seed0";

fn lines(steps: &Path) -> usize {
    std::fs::read_to_string(steps).map_or(0, |text| text.matches('\n').count())
}

/// Starts the sweep and kills it once `steps` has `at` lines. False where it ended before.
fn kill_at(project: &Project, arguments: &[&str], steps: &Path, at: usize) -> bool {
    let mut child = project
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && lines(steps) < at {
        assert!(begun.elapsed() < DEADLINE, "{at} lines were not reached");
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
fn kills_leave_no_trace() {
    let project = Project::new();
    let steps = 24;
    let set = format!("train.steps={steps}");
    let arguments = |results: &'static str| {
        [
            "run",
            "tiny",
            LABEL,
            "--results",
            results,
            "--set",
            set.as_str(),
            "--set",
            "train.checkpoint_every=3",
        ]
    };
    project.succeed(&arguments("alone"));
    let alone = &run_dirs(&project.path("alone/tiny"))[LABEL];

    let killed = project.path("killed/tiny").join(alone.file_name().unwrap());
    let log = killed.join("steps.jsonl");
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut kills = 0;
    for _ in 0..5 {
        // At least one line more than the last attempt left, so that each gets further.
        let at = (lines(&log) + rng.random_range(1..=5)).min(steps);
        kills += usize::from(kill_at(&project, &arguments("killed"), &log, at));
    }
    // Once more when training is over, in the last checkpoint or the evaluation.
    kills += usize::from(kill_at(&project, &arguments("killed"), &log, steps + 1));
    println!("{kills} of 6 kills came before the end");
    assert!(
        kills >= 3,
        "only {kills} kills came before the end: give the run more steps"
    );

    let last = project.succeed(&arguments("killed"));
    if kills == 6 {
        assert!(
            last.err.contains("goes on from its checkpoint"),
            "{}",
            last.err
        );
    }
    assert_eq!(bits(&killed), bits(alone));
    assert_eq!(leftovers(&killed), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_damaged_checkpoint_starts_training_again() {
    let project = Project::new();
    project.succeed(&["run", "tiny", LABEL]);
    let dir = &run_dirs(&project.path("results/tiny"))[LABEL];
    let wanted = bits(dir);
    let checkpoint = std::fs::read_dir(dir.join("checkpoint"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&checkpoint).unwrap();
    let log = std::fs::read(dir.join("steps.jsonl")).unwrap();
    let again = || {
        for file in [
            "record.json",
            "adapter/adapter.safetensors",
            "samples-pocket.jsonl",
        ] {
            std::fs::remove_file(dir.join(file)).unwrap();
        }
        project.succeed(&["run", "tiny", LABEL]).err
    };

    // Undamaged: no step is done again, not even the times in the log change.
    let said = again();
    assert!(!said.contains("starts again"), "{said}");
    assert_eq!(bits(dir), wanted);
    assert_eq!(std::fs::read(dir.join("steps.jsonl")).unwrap(), log);

    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damage = [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("the header's length", flipped(0)),
        ("a letter of the header", flipped(100)),
        ("a matrix", flipped(whole.len() / 2)),
        ("the last byte", flipped(whole.len() - 1)),
    ];
    for (what, bytes) in damage {
        std::fs::write(&checkpoint, bytes).unwrap();
        let said = again();
        assert!(
            said.contains("training starts again")
                && said.contains(&checkpoint.display().to_string()),
            "{what}: {said}"
        );
        assert_eq!(bits(dir), wanted, "{what}");
    }
}
