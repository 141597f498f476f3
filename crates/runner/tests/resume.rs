//! A run that was killed, or whose checkpoint is damaged, ends with the bits of one that was left alone.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sharelora::samples::{self, Answered, Log};
use sharelora_tasks::Answer;
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
            "samples-pocket.jsonl.zst",
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

/// An evaluation that was killed asks only what has no answer yet, and ends with the answers of one that was left alone.
#[test]
fn an_evaluation_goes_on_from_its_answers() {
    let project = Project::new();
    project.succeed(&["run", "tiny", LABEL]);
    let dir = &run_dirs(&project.path("results/tiny"))[LABEL];
    let wanted = bits(dir);
    let file = dir.join("samples-pocket.jsonl.zst");
    let samples = samples::read(&file).unwrap();
    let prompts = wanted.record["data"].as_object().unwrap();
    let (_, prompts) = prompts
        .iter()
        .find(|(k, _)| k.ends_with(" prompts"))
        .unwrap();
    let again = |change: &dyn Fn(usize, Answer) -> Answer| {
        for name in [
            "record.json",
            "adapter/adapter.safetensors",
            "samples-pocket.jsonl.zst",
        ] {
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        let log = dir.join("answers-pocket.log.zst");
        let (mut log, _) = Log::open(&log, prompts.as_str().unwrap()).unwrap();
        for (request, sample) in samples.iter().enumerate().step_by(2) {
            let answer = change(request, sample.answer.clone());
            let tokens = sample.tokens;
            log.push(&Answered {
                request,
                answer,
                tokens,
            })
            .unwrap();
        }
        log.flush().unwrap();
        project.succeed(&["run", "tiny", LABEL]);
        assert!(!dir.join("answers-pocket.log.zst").exists());
        samples::read(&file).unwrap()
    };
    again(&|_, answer| answer);
    assert_eq!(bits(dir), wanted);
    // What the log says is not asked again.
    let changed = again(&|request, answer| match request {
        2 => Answer::Text("from the log".into()),
        _ => answer,
    });
    for (request, (found, sample)) in changed.iter().zip(&samples).enumerate() {
        match request {
            2 => assert_eq!(found.answer, Answer::Text("from the log".into())),
            _ => assert_eq!(found, sample),
        }
    }
}
