//! What grading costs beyond starting Python: 164 right solutions on 2 threads, and as many bare interpreters, by turns.
//!
//!     cargo run --release -p sharelora-sandbox --example overhead
//!
//! The solutions are those of the 41 problems of the tests' fixture, four times. A graded program is two interpreters, the
//! worker's and the judge's.

use std::num::NonZero;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;
use sharelora_sandbox::{
    Interpreter, Limits, Mechanism, Problem, Sample, Verdict, grade_all, mechanisms,
};

const PROGRAMS: usize = 164;
const THREADS: NonZero<usize> = NonZero::new(2).unwrap();
const ROUNDS: usize = 5;

fn main() {
    let fixture: Value =
        serde_json::from_str(include_str!("../tests/fixtures/humaneval.json")).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let problems: Vec<(Problem, String)> = fixture["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let problem = Problem {
                task_id: text(row, "task_id"),
                prompt: text(row, "prompt"),
                test: text(row, "test"),
                entry_point: text(row, "entry_point"),
            };
            (problem, text(row, "canonical_solution"))
        })
        .collect();
    let samples: Vec<Sample> = problems
        .iter()
        .cycle()
        .take(PROGRAMS)
        .map(|(problem, completion)| Sample {
            problem,
            completion,
        })
        .collect();

    let interpreter = Interpreter::find().unwrap();
    println!(
        "{} {}",
        interpreter.executable.display(),
        interpreter.version
    );
    for Mechanism { name, sandbox } in mechanisms(&interpreter) {
        let Ok(sandbox) = sandbox else {
            println!("{name}: not here");
            continue;
        };
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let start = Instant::now();
            bare(&interpreter);
            times[0].push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let verdicts =
                grade_all(&*sandbox, &samples, &Limits::default(), THREADS, &|_| ()).unwrap();
            times[1].push(start.elapsed().as_secs_f64());
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Passed));
        }
        let [bare, graded] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        let each = |seconds: f64| seconds * 1000.0 / PROGRAMS as f64;
        println!(
            "{name}: {PROGRAMS} programs in {graded:.2} s, bare interpreters in {bare:.2} s (medians of {ROUNDS}); \
             a program {:.1} ms, an interpreter {:.1} ms, beyond it {:.1} ms, ratio {:.2}",
            each(graded),
            each(bare),
            each(graded - bare),
            graded / bare
        );
    }
}

/// As many interpreters that do nothing, on as many threads.
fn bare(interpreter: &Interpreter) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.get() {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < PROGRAMS {
                    let status = Command::new(&interpreter.executable)
                        .args(["-I", "-S", "-B", "-c", "pass"])
                        .env_clear()
                        .stdin(Stdio::null())
                        .status();
                    assert!(status.unwrap().success());
                }
            });
        }
    });
}
