//! Programs that mean harm, each in `attacks/`. The first line of a file says what would be a breach.
//!
//! A program calls `breach` when it has got what it should not have. It is run twice under every mechanism of this machine:
//! by itself, where its output is seen, and as a solution, where it must fail. What it can do without knowing, the test
//! looks for: files left or changed, processes left.

use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use sharelora_sandbox::{
    End, Interpreter, Limits, Mechanism, Problem, Sample, Sandbox, Verdict, active, grade_all,
    mechanisms, run, unconfined,
};

/// What the programs use. `attempt` and `attempt_call` take an action that has to fail.
const PRELUDE: &str = r#"
SECRET = "@SECRET@"
X86 = __import__("os").uname().machine == "x86_64"
def breach(what):
    print("BREACH", what, flush=True)
def attempted():
    print("ATTEMPTED", flush=True)
def attempt(name, action):
    try:
        result = action()
    except Exception:
        return
    breach((name, result))
def attempt_call(name, number, *arguments):
    import ctypes
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if X86 and call(ctypes.c_long(number), *longs) >= 0:
        breach(name)
"#;

/// Squares, for which every program gives a lie, or nothing.
const PROMPT: &str = "def solve(x):\n    \"\"\"x squared\"\"\"\n";
const TEST: &str = "
def check(candidate):
    assert candidate(3) == 9
    assert abs(candidate(1.5) - 2.25) < 1e-6
    assert candidate(12) == 144, 'a large one'
    assert not candidate(0)
";

struct Attack {
    name: String,
    program: String,
    /// What ends it when it is run by itself; `None` for anything.
    end: Option<End>,
}

fn attacks(secret: &Path) -> Vec<Attack> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("# Breach: "), "{}", path.display());
        let end = text.lines().find_map(|line| line.strip_prefix("# End: "));
        let prelude = PRELUDE.replace("@SECRET@", secret.to_str().unwrap());
        Attack {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            program: format!(
                "    pass\n{prelude}\n{text}\nattempted()\nif __name__ == '__main__':\n    solve(3)\n"
            ),
            end: match end {
                None => Some(End::Exited(0)),
                Some("timed out") => Some(End::TimedOut),
                Some("too much output") => Some(End::TooMuchOutput),
                Some("any") => None,
                Some(other) => panic!("{}: no such end: {other}", path.display()),
            },
        }
    };
    paths.iter().map(read).collect()
}

/// All files below, with their modes and contents.
fn listing(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        all.push((path.clone(), mode, std::fs::read(&path).unwrap_or_default()));
        if path.is_dir() {
            all.extend(listing(&path));
        }
    }
    all.sort();
    all
}

/// Processes that run one of our drivers, after some looks: a killed namespace is taken down behind its first process.
fn left_over() -> Vec<String> {
    let mut looks = (0..100).map(|_| drivers());
    looks.find(Vec::is_empty).unwrap_or_else(drivers)
}

fn drivers() -> Vec<String> {
    let start = include_str!("../src/python/start.py")
        .lines()
        .next()
        .unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    let command = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path().join("cmdline");
        let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
        text.contains(start).then_some(text)
    };
    processes.filter_map(command).collect()
}

/// Calls a function for every item, on some threads, since most attacks wait.
fn on_threads<T: Sync>(items: &[T], action: impl Fn(&T) + Sync) {
    let next = Mutex::new(items.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let item = next.lock().unwrap().next();
                    let Some(item) = item else { return };
                    action(item);
                }
            });
        }
    });
}

fn solution(completion: &str) -> String {
    format!("{PROMPT}{completion}")
}

fn contained(sandbox: &dyn Sandbox, attacks: &[Attack], limits: &Limits) -> Vec<String> {
    let breaches = Mutex::new(Vec::new());
    on_threads(attacks, |attack| {
        let output = run(sandbox, &solution(&attack.program), limits).unwrap();
        let text = [&output.stdout[..], &output.stderr[..]]
            .map(String::from_utf8_lossy)
            .concat();
        let mut found: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("BREACH"))
            .collect();
        if !text.contains("ATTEMPTED") {
            found.push("was not attempted");
        }
        // Its lie may raise; all that matters is that it ended by itself.
        let by_itself = matches!(output.end, End::Exited(_)) && attack.end == Some(End::Exited(0));
        if !by_itself && attack.end.is_some_and(|end| end != output.end) {
            found.push("ended otherwise");
        }
        if !found.is_empty() {
            let tail: String = text.chars().take(2000).collect();
            let line = format!("{} ({:?}): {found:?}\n{tail}", attack.name, output.end);
            breaches.lock().unwrap().push(line);
        }
    });
    breaches.into_inner().unwrap()
}

/// No attack gets what it wants, none passes as a solution, none makes the honest solutions beside it fail, and nothing is left
/// of any: no process, no file, no change of a file that every user may write to.
#[test]
fn attacks_are_contained_and_fail() {
    let base = tempfile::tempdir().unwrap();
    let all = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (folder, secret) = (base.path().join("folder"), base.path().join("secret"));
    for path in [&folder, &secret, &secret.join("folder")] {
        std::fs::create_dir(path).unwrap();
    }
    for name in ["secret.txt", "evil.py"] {
        std::fs::write(secret.join(name), "print('BREACH: read')\n").unwrap();
        all(&secret.join(name), 0o666);
    }
    all(base.path(), 0o755);
    all(&secret, 0o777);
    tempfile::env::override_temp_dir(Box::leak(folder.clone().into_boxed_path())).unwrap();
    let before = listing(&secret);

    let attacks = attacks(&secret);
    assert!(attacks.len() >= 40);
    let problem = Problem {
        task_id: "squares".to_string(),
        prompt: PROMPT.to_string(),
        test: TEST.to_string(),
        entry_point: "solve".to_string(),
    };
    let mut samples = Vec::new();
    for attack in &attacks {
        for completion in [attack.program.as_str(), "    return x * x\n"] {
            samples.push(Sample {
                problem: &problem,
                completion,
            });
        }
    }
    let limits = Limits {
        wall: Duration::from_secs(3),
        memory: 512 << 20,
        ..Limits::default()
    };
    let workers = NonZero::new(4).unwrap();
    let interpreter = Interpreter::find().unwrap();
    assert!(active(&interpreter).is_ok());
    for Mechanism { name, sandbox } in mechanisms(&interpreter) {
        let sandbox = match sandbox {
            Ok(sandbox) => sandbox,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let breaches = contained(&*sandbox, &attacks, &limits);
        assert!(breaches.is_empty(), "{name}:\n{}", breaches.join("\n"));

        let verdicts = grade_all(&*sandbox, &samples, &limits, workers, &|_| ()).unwrap();
        for (attack, pair) in attacks.iter().zip(verdicts.chunks(2)) {
            assert_ne!(pair[0], Verdict::Passed, "{name}: {}", attack.name);
            assert_eq!(pair[1], Verdict::Passed, "{name}: beside {}", attack.name);
        }
        assert_eq!(listing(&secret), before, "{name}");
        assert_eq!(listing(&folder), [], "{name}");
        assert_eq!(left_over(), Vec::<String>::new(), "{name}");
        println!("{name}: {} attacks", attacks.len());
    }

    // The same programs see a breach where there is one. Only those that do no harm, since nothing confines them here.
    let unconfined = unconfined(&interpreter).unwrap();
    let harmless = [
        "read_system_files",
        "read_results",
        "other_sandboxes",
        "subprocess",
        "socket_local",
        "threads",
    ];
    for attack in attacks
        .iter()
        .filter(|attack| harmless.contains(&attack.name.as_str()))
    {
        let output = run(&*unconfined, &solution(&attack.program), &limits).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("BREACH"), "{}: {text}", attack.name);
    }
}
