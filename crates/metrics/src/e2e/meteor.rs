//! METEOR 1.5, by its own program.
//!
//! Source: Denkowski and Lavie 2014; e2e-metrics' `pycocoevalcap/meteor/meteor.py`, which runs
//! `java -jar meteor-1.5.jar - - -stdio -l en -norm` on the Penn Treebank words of each text. The program finds what
//! matches, by word, stem, synonym and paraphrase. It answers a line `SCORE ||| reference ||| ... ||| system` with the
//! counts of a segment, against the reference that fits best, and a line `EVAL ||| counts ||| counts ...` with the score
//! of each and, last, that of the whole. [`Counts::score`] is the same formula, for resampling.
//!
//! The folder needs `meteor-1.5.jar` and beside it `data/paraphrase-en.gz`. Both are in the wheel `pycocoevalcap==1.2`,
//! under `pycocoevalcap/meteor/`.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::ops::AddAssign;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Corpus, Segment};

const JAR: &str = "meteor-1.5.jar";
const PARAPHRASES: &str = "data/paraphrase-en.gz";

/// Why METEOR is not measured.
#[derive(Debug, Error)]
pub enum MeteorError {
    #[error("METEOR needs Java, and `{command}` does not start: {source}")]
    Java { command: String, source: io::Error },
    #[error("METEOR's program is not there: no file {}", path.display())]
    Missing { path: PathBuf },
    #[error("METEOR's program ended with {status}: {message}")]
    Ended { status: String, message: String },
    #[error("METEOR's program answered `{answer}`, where {expected} was expected")]
    Answer {
        answer: String,
        expected: &'static str,
    },
    #[error("METEOR's program had not answered after {} s, and was ended", limit.as_secs())]
    Late { limit: Duration },
    #[error("METEOR's program: {0}")]
    Pipe(#[from] io::Error),
}

/// How METEOR's program is started.
#[derive(Debug, Clone)]
pub struct Java {
    /// A name on the path, or a path.
    pub command: String,
    /// The folder of `meteor-1.5.jar`.
    pub folder: PathBuf,
    /// How long it may take; a program that hangs should not hold up what waits for its score.
    pub limit: Duration,
}

/// METEOR of a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct Meteor {
    /// Of the whole, in 0..=1.
    pub score: f64,
    /// In the corpus's order.
    pub segments: Vec<Counts>,
}

/// Runs METEOR's program over a corpus.
pub fn score(corpus: &Corpus, java: &Java) -> Result<Meteor, MeteorError> {
    for file in [JAR, PARAPHRASES] {
        let path = java.folder.join(file);
        if !path.is_file() {
            return Err(MeteorError::Missing { path });
        }
    }
    let mut child = start(java)?;
    let mut stderr = child.stderr.take().expect("piped");
    // Read beside the answers: a program that cannot write its complaints stands still.
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).into_owned()
    });
    let stdin = child.stdin.take().expect("piped");
    let stdout = child.stdout.take().expect("piped");
    let texts = corpus.treebank();
    let (enough, told) = channel::<()>();
    let (meteor, late) = thread::scope(|scope| {
        let child = &mut child;
        // Ends the program at its limit, or when it is told that nobody listens any more.
        let watch = scope.spawn(move || {
            let told = told.recv_timeout(java.limit);
            if told != Err(RecvTimeoutError::Disconnected) {
                child.kill().ok();
            }
            told == Err(RecvTimeoutError::Timeout)
        });
        let meteor = converse(stdin, stdout, &texts, &enough);
        if meteor.is_err() {
            enough.send(()).ok();
        }
        drop(enough);
        (meteor, watch.join().unwrap_or(false))
    });
    let status = child.wait()?;
    let complaints = complaints.join().unwrap_or_default();
    if late {
        return Err(MeteorError::Late { limit: java.limit });
    }
    match meteor? {
        Some(meteor) if status.success() => Ok(meteor),
        _ => Err(MeteorError::Ended {
            status: status.to_string(),
            message: last_message(&complaints),
        }),
    }
}

fn start(java: &Java) -> Result<Child, MeteorError> {
    let mut command = Command::new(&java.command);
    // It reads numbers as the language of the machine writes them.
    command.args([
        "-Duser.language=en",
        "-Duser.country=US",
        "-Dfile.encoding=UTF-8",
    ]);
    command.args([
        "-Xmx2G", "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-norm",
    ]);
    command.current_dir(&java.folder);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().map_err(|source| MeteorError::Java {
        command: java.command.clone(),
        source,
    })
}

/// `None` if the program ended before its last answer. Tells `enough` when the program has to end for the questions to.
fn converse(
    stdin: ChildStdin,
    stdout: ChildStdout,
    corpus: &[Segment],
    enough: &Sender<()>,
) -> Result<Option<Meteor>, MeteorError> {
    let mut answers = BufReader::new(stdout).lines();
    // Both ways at once: a pipe holds only so much.
    let (counts, stdin) = thread::scope(|scope| {
        let questions = scope.spawn(|| ask_counts(stdin, corpus));
        let counts = read_counts(&mut answers, corpus.len());
        if counts.is_err() {
            // It may be asked still, and would not read on while its answers are not read.
            enough.send(()).ok();
        }
        (counts, questions.join().expect("does not panic"))
    });
    let (Some(segments), Ok(stdin)) = (counts?, stdin) else {
        return Ok(None);
    };
    if ask_score(stdin, &segments).is_err() {
        return Ok(None);
    }
    let score = read_score(&mut answers, corpus.len())?;
    Ok(score.map(|score| Meteor { score, segments }))
}

/// Gives the pipe back for the next question.
fn ask_counts(mut stdin: ChildStdin, corpus: &[Segment]) -> io::Result<ChildStdin> {
    for segment in corpus {
        // The order in which the program wants them.
        let texts = segment.references.iter().chain([&segment.system]);
        let texts: Vec<_> = texts.map(|line| line.replace("|||", "")).collect();
        stdin.write_all(format!("SCORE ||| {}\n", texts.join(" ||| ")).as_bytes())?;
    }
    stdin.flush()?;
    Ok(stdin)
}

type Answers = Lines<BufReader<ChildStdout>>;

fn read_counts(answers: &mut Answers, segments: usize) -> Result<Option<Vec<Counts>>, MeteorError> {
    let counts = answers.take(segments).map(|answer| Counts::parse(&answer?));
    let counts = counts.collect::<Result<Vec<_>, _>>()?;
    Ok((counts.len() == segments).then_some(counts))
}

fn ask_score(mut stdin: ChildStdin, segments: &[Counts]) -> io::Result<()> {
    let mut question = String::from("EVAL");
    for counts in segments {
        let counts = counts.0.map(|count| format!("{count:?}"));
        question += &format!(" ||| {}", counts.join(" "));
    }
    stdin.write_all((question + "\n").as_bytes())
}

/// The last of `segments + 1` answers; the others are of single segments.
fn read_score(answers: &mut Answers, segments: usize) -> Result<Option<f64>, MeteorError> {
    let Some(answer) = answers.nth(segments) else {
        return Ok(None);
    };
    let answer = answer?;
    let expected = "a score";
    let score = answer
        .trim()
        .parse()
        .map_err(|_| MeteorError::Answer { answer, expected })?;
    Ok(Some(score))
}

/// The last line that is no place in Java's code.
fn last_message(complaints: &str) -> String {
    let mut lines = complaints.lines().map(str::trim);
    let message = lines.rfind(|line| !line.is_empty() && !line.starts_with("at "));
    message.unwrap_or("no message").to_string()
}

const COUNTS: usize = 23;
const CHUNKS: usize = 20;
const SYSTEM_MATCHES: usize = 21;
const REFERENCE_MATCHES: usize = 22;
/// Of matches by word, stem, synonym and paraphrase.
const WEIGHTS: [f64; 4] = [1.0, 0.6, 0.8, 0.6];
const ALPHA: f64 = 0.85;
const BETA: f64 = 0.2;
const GAMMA: f64 = 0.6;
const DELTA: f64 = 0.75;

/// METEOR's counts of one segment or of several, in the program's order: words of system and reference; function words
/// of both; for each kind of match, content words of both and function words of both; chunks; matched words of both.
///
/// The sum over the segments of a corpus has the corpus's score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts([f64; COUNTS]);

impl Counts {
    fn parse(answer: &str) -> Result<Self, MeteorError> {
        let numbers: Result<Vec<f64>, _> = answer.split_whitespace().map(str::parse).collect();
        let counts = numbers.ok().and_then(|numbers| numbers.try_into().ok());
        counts.map(Self).ok_or_else(|| MeteorError::Answer {
            answer: answer.to_string(),
            expected: "a line of 23 counts",
        })
    }

    /// In 0..=1. A function word counts 1/3 of a content word; the parameters are those for English.
    pub fn score(&self) -> f64 {
        let matched = self.0[SYSTEM_MATCHES] + self.0[REFERENCE_MATCHES];
        if matched == 0.0 {
            return 0.0;
        }
        // Of the system's words for side 0, of the reference's for side 1.
        let share = |side: usize| {
            let [length, function] = [self.0[side], self.0[side + 2]];
            let kinds = self.0[4..CHUNKS].chunks_exact(4).zip(WEIGHTS);
            let matches = kinds.map(|(kind, weight)| {
                weight * (DELTA * kind[side] + (1.0 - DELTA) * kind[side + 2])
            });
            matches.sum::<f64>() / (DELTA * (length - function) + (1.0 - DELTA) * function)
        };
        let mean = 1.0 / ((1.0 - ALPHA) / share(0) + ALPHA / share(1));
        let fragmentation = self.chunks() / (matched / 2.0);
        mean * (1.0 - GAMMA * fragmentation.powf(BETA))
    }

    /// 0 where system and reference match from end to end, which is one chunk in the program's answer.
    fn chunks(&self) -> f64 {
        let whole = self.0[SYSTEM_MATCHES] == self.0[0] && self.0[REFERENCE_MATCHES] == self.0[1];
        if whole && self.0[CHUNKS] == 1.0 {
            return 0.0;
        }
        self.0[CHUNKS]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let chunks = self.chunks() + other.chunks();
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
        self.0[CHUNKS] = chunks;
    }
}
