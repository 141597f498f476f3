//! Honest programs, and the edges of what a caller sees.

use std::num::NonZero;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sharelora_sandbox::{
    End, Error, Interpreter, Limits, Mechanism, Problem, Sample, Sandbox, Verdict, active, grade,
    grade_all, mechanisms, run, unconfined,
};

fn sandbox() -> Box<dyn Sandbox> {
    active(&Interpreter::find().unwrap()).unwrap()
}

fn problem(prompt: &str, test: &str) -> Problem {
    Problem {
        task_id: "test/0".to_string(),
        prompt: prompt.to_string(),
        test: test.to_string(),
        entry_point: "solve".to_string(),
    }
}

const PROMPT: &str = "def solve(x):\n    \"\"\"Solves x.\"\"\"\n";

fn verdict(completion: &str, test: &str) -> Verdict {
    grade(
        &*sandbox(),
        &problem(PROMPT, test),
        completion,
        &Limits::default(),
    )
    .unwrap()
}

/// Plain data comes back as it went, of the same types, to the last bit and at any size that a test has; not another value.
#[test]
fn plain_data_goes_through() {
    let test = r#"
import math
from decimal import Decimal
from fractions import Fraction
values = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 255, 256, 10**400, -(2**63), 0.1, -0.0, 1e308, 5e-324,
    math.inf, 1j, complex(-0.0, math.inf), "", "text", "\0\n", "\ud800", "\U0001F600", b"", b"\0\xff", [], [1, [2, [3]]],
    (), (1,), ((),), {}, {"a": [1], 2: None, (1, 2): {}}, set(), {1, "a"}, frozenset({1, (2,)}), Decimal("1.50"),
    Decimal("NaN"), Fraction(-1, 3), "x" * 100_000, list(range(10_000)),
]
def same(a, b):
    return type(a) is type(b) and repr(a) == repr(b)
def check(candidate):
    for value in values:
        assert same(candidate(value), value), value
    assert math.isnan(candidate(math.nan))
    assert same(candidate(bytearray(b"x")), b"x")
    assert candidate(x=5) == 5
    assert candidate(1) != 2
"#;
    assert_eq!(verdict("    return x\n", test), Verdict::Passed);
}

/// Subclasses come back as their bases; other objects as what is equal to nothing and as true as they were.
#[test]
fn other_objects_are_opaque() {
    let completion = r#"
    import collections, enum
    class Falsy:
        def __len__(self): return 0
    return {
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, {1: [2]}),
        "pair": collections.namedtuple("Pair", "a b")(1, 2),
        "enum": enum.IntEnum("E", "ONE").ONE,
        "deque": collections.deque([1]),
        "object": object(), "falsy": Falsy(), "function": print, "class": int, "range": range(3),
    }
"#;
    let test = r#"
def check(candidate):
    answer = candidate(0)
    assert answer["counter"] == {"a": 2, "b": 1} and type(answer["counter"]) is dict
    assert answer["default"] == {1: [2]} and answer["pair"] == (1, 2) and answer["enum"] == 1
    for name in ("deque", "object", "falsy", "function", "class", "range"):
        opaque = answer[name]
        assert opaque != opaque and not opaque == opaque and opaque not in (1, None, [1])
        assert bool(opaque) is (name != "falsy")
"#;
    assert_eq!(verdict(completion, test), Verdict::Passed);
}

/// A test sees the program's exceptions as those of Python, and the verdict names them.
#[test]
fn exceptions_are_raised_again() {
    let test = r#"
def check(candidate):
    for kind in (ValueError, KeyError, ZeroDivisionError, RecursionError, StopIteration):
        try:
            candidate(kind.__name__)
        except kind as error:
            assert "words" in str(error)
        else:
            assert False
    candidate("OSError")
"#;
    let completion = "    raise getattr(__import__('builtins'), x)('words')\n";
    let expected = Verdict::Failed("OSError: words".to_string());
    assert_eq!(verdict(completion, test), expected);
}

/// The worker keeps its state between calls, and what it does to its arguments stays with it.
#[test]
fn one_worker_answers_all_calls() {
    let completion = "    seen.append(x)\n    x.append(0)\n    return len(seen)\nseen = []\n";
    let test = "def check(candidate):\n    x = [1]\n    assert [candidate(x), candidate(x)] == [1, 2] and x == [1]\n";
    assert_eq!(verdict(completion, test), Verdict::Passed);
}

/// Programs can import what comes with Python, extension modules with libraries of the system among it.
#[test]
fn standard_library_is_there() {
    let completion = r#"
    import collections, copy, ctypes, datetime, decimal, fractions, functools, hashlib, heapq, itertools, json, math, random
    import re, sqlite3, statistics, string, typing, zlib, bisect, operator, array, struct, textwrap, unicodedata, lzma, bz2
    return hashlib.md5(zlib.decompress(zlib.compress(x))).hexdigest()
"#;
    let test =
        "def check(candidate):\n    assert candidate(b'a') == '0cc175b9c0f1b6a831c399e269772661'\n";
    assert_eq!(verdict(completion, test), Verdict::Passed);
}

/// The same in every run: order of sets, and the random numbers of a test.
#[test]
fn runs_are_alike() {
    let test = r#"
import random
def check(candidate):
    assert False, (candidate(0), random.random())
"#;
    let completion = "    return list({'a', 'b', 'c', 'd', 'e', 'f', 'g'})\n";
    assert_eq!(verdict(completion, test), verdict(completion, test));
}

/// A problem that does not run is the caller's error, not the program's failure, and says which and why.
#[test]
fn broken_problems_are_errors() {
    let sandbox = sandbox();
    for (prompt, test) in [
        ("def solve(:\n", "def check(candidate): pass\n"),
        (PROMPT, "def check(candidate) pass\n"),
        (PROMPT, "def another(candidate): pass\n"),
        (
            PROMPT,
            "import nothing_of_this_name\ndef check(candidate): pass\n",
        ),
    ] {
        let problem = problem(prompt, test);
        let result = grade(&*sandbox, &problem, "    return 1\n", &Limits::default());
        let Err(Error::Problem { task_id, reason }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(task_id, "test/0");
        assert!(!reason.is_empty());
        let samples = [Sample {
            problem: &problem,
            completion: "",
        }; 3];
        let workers = NonZero::new(2).unwrap();
        assert!(grade_all(&*sandbox, &samples, &Limits::default(), workers, &|_| ()).is_err());
    }
}

/// Verdicts are in the order of the samples, and progress counts each once, whatever the number of workers.
#[test]
fn many_are_graded_in_order() {
    let (sandbox, problem) = (
        sandbox(),
        problem(PROMPT, "def check(c):\n    assert c(1)\n"),
    );
    let completion = |index: usize| {
        if index.is_multiple_of(3) {
            "    return 0\n"
        } else {
            "    return 1\n"
        }
    };
    let samples: Vec<Sample> = (0..10)
        .map(|index| Sample {
            problem: &problem,
            completion: completion(index),
        })
        .collect();
    for workers in [1, 3, 100] {
        let seen = Mutex::new(Vec::new());
        let progress = |done| seen.lock().unwrap().push(done);
        let workers = NonZero::new(workers).unwrap();
        let verdicts =
            grade_all(&*sandbox, &samples, &Limits::default(), workers, &progress).unwrap();
        let passed: Vec<bool> = verdicts.iter().map(|it| *it == Verdict::Passed).collect();
        assert_eq!(
            passed,
            (0..10).map(|index| index % 3 != 0).collect::<Vec<_>>()
        );
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    }
    let none = grade_all(
        &*sandbox,
        &[],
        &Limits::default(),
        NonZero::<usize>::MIN,
        &|_| (),
    );
    assert_eq!(none.unwrap(), []);
}

/// A program's time in the processor is over before its time on the clock where that is longer.
#[test]
fn processor_time_is_limited() {
    let limits = Limits {
        wall: Duration::from_secs(60),
        cpu_seconds: 1,
        ..Limits::default()
    };
    let problem = problem(PROMPT, "def check(c):\n    c(1)\n");
    let graded = grade(&*sandbox(), &problem, "    while True: pass\n", &limits).unwrap();
    assert_eq!(graded, Verdict::TimedOut);
}

/// A program run by itself is a script: output, errors and code are its own, and at most so much output is kept.
#[test]
fn programs_run_as_scripts() {
    let sandbox = sandbox();
    let program = r#"
import sys
if __name__ == "__main__":
    print("ä")
    print("no", file=sys.stderr)
    sys.exit(7)
"#;
    let output = run(&*sandbox, program, &Limits::default()).unwrap();
    assert_eq!(output.end, End::Exited(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ä\n");
    assert_eq!(output.stderr, b"no\n");
    let limits = Limits {
        output: 10,
        ..Limits::default()
    };
    let output = run(&*sandbox, "print('x' * 1000)", &limits).unwrap();
    assert_eq!((output.end, output.stdout.len()), (End::TooMuchOutput, 10));
}

/// The private folder can be written to, wherever its size can be bounded, and it is empty at the start of each program.
#[test]
fn private_folder_is_fresh() {
    let sandbox = sandbox();
    if sandbox
        .stops()
        .iter()
        .any(|stop| stop.how.contains("cannot be written"))
    {
        println!("skipped: no folder can be written to here");
        return;
    }
    let program = r#"
import os
assert os.listdir() == []
os.makedirs("folder/inner")
with open("folder/file", "w") as file:
    file.write("text")
os.rename("folder/file", "file")
print(open("file").read())
"#;
    for _ in 0..2 {
        let output = run(&*sandbox, program, &Limits::default()).unwrap();
        assert_eq!(
            output.stdout,
            b"text\n",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Whatever bytes a program sends to its judge before it is gone: it fails, and the judge says so.
#[test]
fn any_answers_fail() {
    let sandbox = sandbox();
    let problem = problem(
        PROMPT,
        "def check(candidate):\n    assert candidate(1) == 7\n",
    );
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    // Some begin as a frame does, or as an answer.
    let begun = prop::sample::select(vec![
        None,
        Some(&b""[..]),
        Some(b"t\x02\0\0\0s\x05\0\0\0value"),
    ]);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(begun, bytes), |(begun, bytes)| {
            let mut frame = begun.unwrap_or_default().to_vec();
            frame.extend(bytes);
            if begun.is_some() {
                frame.splice(0..0, (frame.len() as u32).to_le_bytes());
            }
            let program = format!(
                "    pass\nimport os\nfor fd in range(3, 64):\n    try: os.write(fd, bytes({frame:?}))\n    \
                 except OSError: pass\nos._exit(0)\n"
            );
            let verdict = grade(&*sandbox, &problem, &program, &Limits::default()).unwrap();
            prop_assert!(matches!(verdict, Verdict::Failed(_)), "{:?}", verdict);
            Ok(())
        })
        .unwrap();
}

/// Every mechanism says what it stops; the one that is chosen is the first that works; none of them stops flaws of the kernel.
#[test]
fn mechanisms_say_what_they_stop() {
    let interpreter = Interpreter::find().unwrap();
    let all = mechanisms(&interpreter);
    let mut working = all.iter().filter_map(|it| it.sandbox.as_ref().ok());
    let first = working.next().unwrap();
    assert_eq!(first.name(), active(&interpreter).unwrap().name());
    for Mechanism { name, sandbox } in &all {
        match sandbox {
            Err(error) => assert!(error.to_string().starts_with(name)),
            Ok(sandbox) => {
                let stops = sandbox.stops();
                assert!(
                    stops
                        .iter()
                        .any(|stop| !stop.stopped && stop.threat.contains("kernel"))
                );
                assert!(
                    stops
                        .iter()
                        .any(|stop| stop.stopped && stop.threat.contains("network"))
                );
            }
        }
    }
}

/// Without a sandbox, if one insists: verdicts and limits, and it says that little is stopped.
#[test]
fn unconfined_is_a_choice() {
    let sandbox = unconfined(&Interpreter::find().unwrap()).unwrap();
    assert_eq!(sandbox.name(), "none");
    assert!(sandbox.stops().iter().filter(|stop| stop.stopped).count() < 3);
    let problem = problem(PROMPT, "def check(c):\n    assert c(2) == 4\n");
    let limits = Limits {
        wall: Duration::from_secs(1),
        ..Limits::default()
    };
    let graded = |completion| grade(&*sandbox, &problem, completion, &limits).unwrap();
    assert_eq!(graded("    return x * x\n"), Verdict::Passed);
    assert!(matches!(graded("    return x\n"), Verdict::Failed(_)));
    assert_eq!(graded("    while True: pass\n"), Verdict::TimedOut);
}
