//! `sweep --executor slurm`: against programs that stand in for Slurm's everywhere, and against a real Slurm where there is one:
//! `eval "$(scripts/slurm_one_node.sh start)"` sets what the second half needs.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Bits, Output, Project, bits, leftovers, output, run_dirs};

/// Time that anything may take before something is wrong.
const DEADLINE: Duration = Duration::from_secs(900);

const SWEEP: [&str; 4] = ["sweep", "tiny", "--executor", "slurm"];

/// A project and a folder of programs that answer as Slurm's do.
struct Pretended {
    project: Project,
}

impl Pretended {
    /// sbatch takes every script and counts jobs from 7; squeue prints the file `queue`, with $NAME for the name of job 7.
    fn new() -> Self {
        let pretended = Pretended {
            project: Project::new(),
        };
        pretended.program(
            "sbatch",
            "n=$(ls scripts 2>/dev/null | wc -l)\nmkdir -p scripts\ncat >scripts/$n\necho $((n + 7))",
        );
        pretended.program(
            "squeue",
            "[[ $* == *--me* ]] && exit\nname=$(sed -n 's/^#SBATCH --job-name=//p' scripts/0)\nsed \"s/NAME/$name/\" queue",
        );
        pretended
    }

    fn program(&self, name: &str, body: &str) {
        use std::os::unix::fs::PermissionsExt;
        let text = format!(
            "#!/bin/bash\ncd '{}'\n{body}\n",
            self.project.root().display()
        );
        self.project.write(&format!("bin/{name}"), text);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.project.path(&format!("bin/{name}")), mode).unwrap();
    }

    /// `sweep tiny --executor slurm` where nothing else is called Slurm.
    fn sweep(&self, more: &[&str]) -> Output {
        let arguments: Vec<&str> = SWEEP.iter().chain(more).copied().collect();
        let mut command = self.project.command(&arguments);
        let bin = self.project.path("bin");
        output(command.env("PATH", format!("{}:/usr/bin:/bin", bin.display())))
    }

    /// The scripts that were submitted, but for what no test decides.
    fn scripts(&self) -> Vec<String> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(self.project.path("scripts"))
            .map_or(Vec::new(), |dir| dir.map(|e| e.unwrap().path()).collect());
        paths.sort();
        let read = |path: &PathBuf| self.plain(&std::fs::read_to_string(path).unwrap());
        paths.iter().map(read).collect()
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&self.project.root().display().to_string(), "ROOT")
            .replace(env!("CARGO_BIN_EXE_sharelora"), "sharelora")
    }
}

/// The lines that say which run is which task's.
fn runs(script: &str) -> Vec<&str> {
    let lines = script.lines();
    lines.filter(|line| line.contains(") runs=(")).collect()
}

#[test]
fn a_dry_run_prints_the_script() {
    let pretended = Pretended::new();
    let output = pretended.sweep(&[
        "--dry-run",
        "--jobs",
        "2",
        "--set",
        "slurm.time=\"1:00:00\"",
    ]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    insta::assert_snapshot!(pretended.plain(&output.out), @r##"
    # <job 1.1 of this sweep>
    #!/bin/bash
    #SBATCH --job-name=sharelora-tiny
    #SBATCH --array=0-2%2
    #SBATCH --chdir=ROOT
    #SBATCH --output=ROOT/results/tiny/.slurm/logs/%A_%a.log
    #SBATCH --open-mode=append
    #SBATCH --requeue
    #SBATCH --signal=B:USR1@120
    #SBATCH --time=1:00:00

    # The runs of each task, in order.
    case $SLURM_ARRAY_TASK_ID in
    0) runs=(base) ;;
    1) runs=(lora-seed0) ;;
    2) runs=(share_a-seed0) ;;
    esac

    # Cancelled or preempted: the program has this signal too, and stops at a checkpoint.
    trap : TERM
    # Near the time limit this script alone is told.
    trap 'at_limit=1; kill -TERM "$program"' USR1
    sharelora run tiny "${runs[@]}" --backend flex --results ROOT/results --set 'slurm.time="1:00:00"' &
    program=$!
    while kill -0 "$program" 2>/dev/null; do wait "$program"; done
    wait "$program"
    code=$?
    if [[ $at_limit && $code -ne 0 && ${SLURM_RESTART_COUNT:-0} -lt 3 ]]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
    "##);
    assert!(!pretended.project.path("results").exists());
}

/// What is in the queue is not submitted again; what has left it without a record is.
#[test]
fn a_second_call_submits_what_is_missing() {
    let pretended = Pretended::new();
    let first = pretended.sweep(&["--no-wait"]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(
        first
            .err
            .contains("3 runs submitted as 3 tasks of job 7; `scancel 7` cancels them"),
        "{}",
        first.err
    );
    let all = [
        "0) runs=(base) ;;",
        "1) runs=(lora-seed0) ;;",
        "2) runs=(share_a-seed0) ;;",
    ];
    assert_eq!(runs(&pretended.scripts()[0]), all);

    pretended.project.write(
        "queue",
        "NAME|7|0|PENDING|Resources\nNAME|7|1|RUNNING|None\nNAME|7|2|CANCELLED|None\n",
    );
    let second = pretended.sweep(&["--no-wait"]);
    assert_eq!(second.code, Some(0), "{}", second.err);
    let scripts = pretended.scripts();
    assert_eq!(
        (scripts.len(), runs(&scripts[1])),
        (2, vec!["0) runs=(share_a-seed0) ;;"])
    );

    // Killed between the submission and the note of its number: the name finds it.
    let manifest = "results/tiny/.slurm/jobs.json";
    let text = String::from_utf8(pretended.project.read(manifest)).unwrap();
    pretended
        .project
        .write(manifest, text.replace("\"job\": 7,", ""));
    pretended
        .project
        .write("queue", "NAME|7|[0-2]|PENDING|Priority\n");
    let third = pretended.sweep(&["--no-wait"]);
    assert!(
        third.err.contains("3 runs are in the queue already"),
        "{}",
        third.err
    );
    assert_eq!(pretended.scripts().len(), 2);
}

/// What another experiment has done needs no job: it is taken over, and a dry run does not count it.
#[test]
fn what_another_experiment_has_done_is_not_submitted() {
    let pretended = Pretended::new();
    let other = "extends = \"tiny\"\ntitle = \"Other\"\n[axes]\nmethod = [\"lora\"]\nseed = [0]\n";
    pretended.project.write("experiments/other.toml", other);
    pretended.project.succeed(&["sweep", "other", "--quiet"]);
    let shown = pretended.sweep(&["--dry-run"]);
    assert_eq!(
        runs(&shown.out),
        ["0) runs=(base) ;;", "1) runs=(share_a-seed0) ;;"]
    );
    let said = pretended.sweep(&["--no-wait"]);
    assert!(
        said.err.contains("2 runs submitted as 2 tasks of job 7"),
        "{}",
        said.err
    );
    let plan = pretended.project.succeed(&["plan", "tiny"]).out;
    assert!(plan.contains("3 runs: 1 done, 2 to do."), "{plan}");
}

/// Arrays are no longer than the cluster allows, and tasks no more than the user may have in the queue.
#[test]
fn the_limits_of_a_cluster_hold() {
    let pretended = Pretended::new();
    pretended.program("scontrol", "echo 'MaxArraySize            = 2'");
    pretended.program("sacctmgr", "echo 500");
    let output = pretended.sweep(&["--no-wait"]);
    assert!(
        output.err.contains("3 tasks of job 7, 8;"),
        "{}",
        output.err
    );
    let scripts = pretended.scripts();
    let tasks: Vec<usize> = scripts.iter().map(|script| runs(script).len()).collect();
    assert_eq!(tasks, [2, 1]);

    let pretended = Pretended::new();
    pretended.program("scontrol", "exit 1");
    pretended.program("sacctmgr", "echo 2");
    let output = pretended.sweep(&["--no-wait"]);
    assert!(
        output
            .err
            .contains("1 runs are for a later call: the queue has no room for them"),
        "{}",
        output.err
    );
    assert_eq!(runs(&pretended.scripts()[0]).len(), 2);
}

#[test]
fn what_slurm_refuses_is_said_in_its_words() {
    let pretended = Pretended::new();
    pretended.program(
        "sbatch",
        "echo 'sbatch: error: invalid partition specified: nope' >&2\n\
         echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\nexit 1",
    );
    let refused = pretended.sweep(&[]);
    assert_eq!(refused.code, Some(1));
    let said = refused.err.lines().last().unwrap();
    insta::assert_snapshot!(said, @"error: sbatch refuses the job (--dry-run shows its script): invalid partition specified: nope; Batch job submission failed: Invalid partition name specified");
    let manifest = pretended.project.read("results/tiny/.slurm/jobs.json");
    assert_eq!(String::from_utf8_lossy(&manifest), "[]\n");

    pretended.program(
        "sbatch",
        "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2\nexit 1",
    );
    let said = pretended.sweep(&[]).err;
    assert!(said.contains("set `max_submit` in [slurm]"), "{said}");

    let mut command = pretended.project.command(&SWEEP);
    let none = output(command.env("PATH", pretended.project.path("models")));
    assert_eq!(none.code, Some(3));
    let said = none.err.lines().last().unwrap();
    insta::assert_snapshot!(said, @"error: there is no `sbatch` here: `--executor slurm` works on a machine that submits jobs to Slurm");

    let wrong = pretended.sweep(&["--slurm-profile", "nowhere.toml"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.err);
    assert!(wrong.err.contains("nowhere.toml"), "{}", wrong.err);
}

/// A project on the cluster that the environment names.
struct Cluster {
    project: Project,
    script: PathBuf,
}

impl Cluster {
    /// None, and a line that says so, where there is no cluster.
    fn new() -> Option<Self> {
        if std::env::var_os("SHARELORA_SLURM").is_none_or(|v| v != "1") {
            println!("skipped: no Slurm (eval \"$(scripts/slurm_one_node.sh start)\")");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/slurm_one_node.sh");
        Some(Cluster {
            project: Project::new(),
            script,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.project.command(arguments);
        command.env("SLURM_CONF", std::env::var_os("SLURM_CONF").unwrap());
        command
    }

    fn sweep(&self, more: &[&str]) -> Output {
        let arguments: Vec<&str> = SWEEP.iter().chain(more).copied().collect();
        output(&mut self.command(&arguments))
    }

    #[track_caller]
    fn succeed(&self, more: &[&str]) -> Output {
        let output = self.sweep(more);
        assert_eq!(output.code, Some(0), "{}{}", output.out, output.err);
        output
    }

    /// What a local sweep of the same runs ends with, by label.
    fn undisturbed(&self, more: &[&str]) -> BTreeMap<String, Bits> {
        let arguments: Vec<&str> = ["sweep", "tiny", "--results", "alone"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        self.project.succeed(&arguments);
        all_bits(&self.project.path("alone/tiny"))
    }

    fn bits(&self) -> BTreeMap<String, Bits> {
        all_bits(&self.project.path("results/tiny"))
    }

    fn node(&self, command: &str) {
        let status = Command::new(&self.script)
            .arg(command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "slurm_one_node.sh {command}");
    }

    /// `JOB_INDEX` of every task of this project in the queue, the running ones alone where `running`.
    fn tasks(&self, running: bool) -> Vec<String> {
        let states = if running {
            "--states=RUNNING"
        } else {
            "--states=PENDING,RUNNING"
        };
        let listed = Command::new("squeue")
            .args(["--noheader", "--array", states, "--format=%i|%Z"])
            .output()
            .unwrap();
        let root = self.project.root().display().to_string();
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.split_once('|'))
            .filter(|(_, folder)| *folder == root)
            .map(|(id, _)| id.to_owned())
            .collect()
    }
}

fn all_bits(experiment: &Path) -> BTreeMap<String, Bits> {
    let dirs = run_dirs(experiment).into_iter();
    dirs.map(|(label, dir)| (label, bits(&dir))).collect()
}

/// Submit, follow, collect: the records of a local sweep and a report; then a second call with nothing to do.
#[test]
fn a_sweep_by_slurm_is_a_local_one() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let first = cluster.succeed(&["--jobs", "2"]);
    assert!(
        first.err.contains("3 runs submitted as 3 tasks"),
        "{}",
        first.err
    );
    assert!(first.out.contains("report: "), "{}", first.out);
    assert!(cluster.project.path("reports/tiny/report.md").is_file());
    assert_eq!(cluster.bits(), cluster.undisturbed(&[]));
    let again = cluster.succeed(&[]);
    assert!(!again.err.contains("submitted"), "{}", again.err);
    // More runs, as many at a time as may be in the queue: the others are done already.
    let more = ["--set", "axes.seed=[0, 1, 2]"];
    let limited: Vec<&str> = more
        .iter()
        .copied()
        .chain(["--set", "slurm.max_submit=2"])
        .collect();
    let output = cluster.succeed(&limited);
    assert!(
        output.err.contains("2 runs submitted as 2 tasks"),
        "{}",
        output.err
    );
    let all = cluster.bits();
    assert_eq!(all.len(), 7);
    assert_eq!(all, cluster.undisturbed(&more));
}

/// Runs that start from others: a chain as one task, a fork as a second array that waits for the first.
#[test]
fn runs_come_behind_those_that_they_start_from() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let sets = [
        "--set",
        "axes.method=[\"lora\", \"share_a\"]",
        "--set",
        "axes.train.steps=[4, 6, 8]",
        "--set",
        "override=[{ when = { \"train.steps\" = 6 }, set = { \"train.init_from\" = { \"train.steps\" = 4 } } }, \
                  { when = { \"train.steps\" = 8, method = \"lora\" }, set = { \"train.init_from\" = { \"train.steps\" = 4 } } }]",
    ];
    let output = cluster.succeed(&sets);
    assert!(
        output.err.contains("6 runs submitted as 5 tasks of job"),
        "{}",
        output.err
    );
    assert_eq!(cluster.bits(), cluster.undisturbed(&sets));
}

/// Ctrl-C leaves the jobs alone; the same command follows them to the end and submits none.
#[test]
fn following_can_be_left() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let arguments: Vec<&str> = SWEEP
        .iter()
        .copied()
        .chain(["--set", "train.steps=40"])
        .collect();
    let child = cluster
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while cluster.tasks(false).is_empty() {
        assert!(begun.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }
    // The handler is set a moment after the submission.
    std::thread::sleep(Duration::from_millis(300));
    let interrupt = Command::new("kill")
        .arg("-INT")
        .arg(child.id().to_string())
        .status();
    assert!(interrupt.unwrap().success());
    let left = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&left.stderr);
    assert_eq!(left.status.code(), Some(130), "{said}");
    assert!(
        said.contains("the jobs go on without this program"),
        "{said}"
    );
    let output = cluster.succeed(&["--set", "train.steps=40"]);
    assert!(!output.err.contains("submitted as"), "{}", output.err);
    assert_eq!(
        cluster.bits(),
        cluster.undisturbed(&["--set", "train.steps=40"])
    );
}

/// Random tasks are cancelled and slurmd is killed while a sweep runs, again and again. At the end every run has one record,
/// which was never replaced, with the bits of an undisturbed sweep, and no file is half-written.
/// `SHARELORA_SLURM_RUNS`, `_CANCELS` and `_KILLS` make more of it.
#[test]
fn scancel_and_a_killed_node_change_no_bit() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let number = |name: &str, default: usize| {
        let value = std::env::var(name).ok();
        value.map_or(default, |v| v.parse().unwrap())
    };
    let runs = number("SHARELORA_SLURM_RUNS", 8);
    let cancels = number("SHARELORA_SLURM_CANCELS", 5);
    let kills = number("SHARELORA_SLURM_KILLS", 2);
    let seeds: Vec<String> = (0..runs.div_ceil(4)).map(|seed| seed.to_string()).collect();
    let seeds = format!("axes.seed=[{}]", seeds.join(", "));
    let sets = [
        "--set",
        "axes.method=[\"lora\", \"share_a\", \"share_b\", \"share_ab\"]",
        "--set",
        &seeds,
        "--set",
        "train.steps=60",
    ];
    let wanted = cluster.undisturbed(&sets);
    let arguments: Vec<&str> = SWEEP.iter().chain(&sets).copied().collect();
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let (mut cancelled, mut killed, mut calls) = (0, 0, 0);
    let mut records: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut look = || {
        for dir in run_dirs_now(&cluster.project.path("results/tiny")) {
            let path = dir.join("record.json");
            let Ok(bytes) = std::fs::read(&path) else {
                continue;
            };
            let first = records.entry(path).or_insert_with(|| bytes.clone());
            assert_eq!(*first, bytes, "a run ended twice");
        }
    };
    let begun = Instant::now();
    loop {
        let mut child = cluster
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        calls += 1;
        let code = loop {
            assert!(
                begun.elapsed() < DEADLINE,
                "{cancelled} cancelled, {killed} kills, {calls} calls"
            );
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            std::thread::sleep(Duration::from_millis(rng.random_range(100..600)));
            look();
            // A task that has begun has more to lose.
            let tasks = cluster.tasks(rng.random_bool(0.7));
            let Some(task) = tasks.choose(&mut rng) else {
                continue;
            };
            if killed < kills && rng.random_bool(0.2) {
                cluster.node("kill-node");
                std::thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
                cluster.node("start");
                killed += 1;
            } else if cancelled < cancels {
                let _ = Command::new("scancel").arg(task).status();
                cancelled += 1;
            }
        };
        look();
        match code {
            Some(0) => break,
            Some(1) => {}
            code => panic!("the sweep ended with {code:?}"),
        }
    }
    println!(
        "{} runs, {cancelled} tasks cancelled, slurmd killed {killed} times, {calls} calls, {} s",
        wanted.len(),
        begun.elapsed().as_secs()
    );
    assert!(
        calls > 1,
        "no task was cancelled before its end: give the runs more steps"
    );
    assert_eq!(records.len(), wanted.len());
    assert_eq!(cluster.bits(), wanted);
    assert_eq!(
        leftovers(&cluster.project.path("results")),
        Vec::<PathBuf>::new()
    );
}

/// The folders of runs while runs come and go.
fn run_dirs_now(experiment: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(experiment)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.join("run.json").is_file())
        .collect()
}
