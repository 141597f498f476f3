//! The scores of the E2E challenge against those of its official tool and against hand-computed values; bad input.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use sharelora_metrics::e2e::meteor::{self, Java};
use sharelora_metrics::e2e::{Corpus, Scores, scores, statistics};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/e2e");
const PAIRS: [(&str, &str, &str); 3] = [
    ("several", "system.txt", "references.txt"),
    ("single", "system.txt", "single.txt"),
    ("tables", "system.tsv", "references.csv"),
];

fn fixture(system: &str, references: &str) -> Corpus {
    let folder = Path::new(FIXTURES);
    Corpus::read(&folder.join(system), &folder.join(references)).unwrap()
}

fn expected() -> HashMap<String, HashMap<String, f64>> {
    let text = std::fs::read_to_string(Path::new(FIXTURES).join("scores.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `../shared/NAME` beside the repository, or `None` with a printed line.
fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no folder {}", folder.display());
    None
}

/// METEOR's program in the mirror of public files, or `None` with a printed line.
fn program() -> Option<Java> {
    let mirror = std::env::var_os("SHARELORA_MIRROR").map(PathBuf::from);
    let folder = mirror
        .or_else(|| shared("hub"))?
        .join("pypi/pycocoevalcap-1.2/pycocoevalcap/meteor");
    if folder.is_dir() {
        let command = "java".into();
        let limit = Duration::from_secs(600);
        return Some(Java {
            command,
            folder,
            limit,
        });
    }
    println!("skipped: no folder {}", folder.display());
    None
}

fn corpus(segments: &[(&str, &[&str])]) -> Corpus {
    let system = segments
        .iter()
        .map(|(system, _)| system.to_string())
        .collect();
    let texts = |references: &[&str]| references.iter().map(|text| text.to_string()).collect();
    let references = segments
        .iter()
        .map(|(_, references)| texts(references))
        .collect();
    Corpus::new(system, references).unwrap()
}

fn close(found: f64, expected: f64, within: f64) {
    assert!(
        (found - expected).abs() < within,
        "{found} in place of {expected}"
    );
}

/// The numbers of a paper can be compared with: the official tool's, on the system output that has been scored by it.
#[test]
fn the_reference_system_has_the_official_scores() {
    let Some(folder) = shared("reference/e2e_metrics") else {
        return;
    };
    let corpus = Corpus::read(&folder.join("system.txt"), &folder.join("references.txt")).unwrap();
    let mut found = scores_by_name(&scores(&corpus));
    if let Some(java) = program() {
        found.insert("METEOR", meteor_twice(&corpus, &java));
    }
    let official = std::fs::read_to_string(folder.join("scores.txt")).unwrap();
    for line in official.lines().filter(|line| !line.is_empty()) {
        let (name, score) = line.split_once(": ").unwrap();
        if let Some(found) = found.get(name) {
            assert_eq!(format!("{found:.4}"), score, "{name}");
        }
    }
}

fn scores_by_name(scores: &Scores) -> HashMap<&'static str, f64> {
    HashMap::from([
        ("BLEU", scores.bleu),
        ("NIST", scores.nist),
        ("ROUGE_L", scores.rouge_l),
        ("CIDEr", scores.cider),
    ])
}

/// The same on what real files rarely have: signs, quotes, abbreviations, empty outputs, one reference, tables.
#[test]
fn hard_texts_have_the_official_scores() {
    for (name, system, references) in PAIRS {
        let expected = &expected()[name];
        let found = scores(&fixture(system, references));
        close(found.bleu, expected["bleu"], 1e-9);
        close(found.nist, expected["nist"], 1e-9);
        close(found.rouge_l, expected["rouge_l"], 1e-9);
        close(found.cider, expected["cider"], 1e-9);
    }
}

/// The program's own score; the sum of its counts has the same, as resampling needs.
fn meteor_twice(corpus: &Corpus, java: &Java) -> f64 {
    let found = meteor::score(corpus, java).unwrap();
    let mut sum = meteor::Counts::default();
    found.segments.iter().for_each(|counts| sum += *counts);
    close(sum.score(), found.score, 1e-9);
    found.score
}

#[test]
fn hard_texts_have_the_official_meteor() {
    let Some(java) = program() else { return };
    for (name, system, references) in PAIRS {
        let found = meteor_twice(&fixture(system, references), &java);
        close(found, expected()[name]["meteor"], 1e-9);
    }
}

#[test]
fn bleu_is_the_geometric_mean_of_four_precisions() {
    // 4/5, 3/4, 2/3, 1/2.
    let found = scores(&corpus(&[("a b c d e", &["a b c d f"])]));
    close(found.bleu, 0.2f64.powf(0.25), 1e-12);
}

#[test]
fn bleu_takes_the_closest_length_and_punishes_brevity() {
    // 4 words against 6, not 9.
    let found = scores(&corpus(&[(
        "a b c d",
        &["a b c d e f g h i", "a b c d e f"],
    )]));
    close(found.bleu, (1.0 - 6.0 / 4.0f64).exp(), 1e-12);
    // Against 4, of 4 and 6: equally far from 5, the shorter counts.
    let found = scores(&corpus(&[("a b c d e", &["a b c d e f", "a b c d"])]));
    close(found.bleu, 1.0, 1e-12);
}

/// A word counts only as often as one reference has it.
#[test]
fn matches_are_clipped() {
    let found = scores(&corpus(&[(
        "the the the the",
        &["the cat and the dog", "the end"],
    )]));
    // 2/4, 1e-15/3 (no bigram), 1e-15/2, 1e-15/1; 4 words against 5.
    let precisions = 2.0 / 4.0 * 1e-15 / 3.0 * 1e-15 / 2.0 * 1e-15;
    close(
        found.bleu.ln(),
        f64::powf(precisions, 0.25).ln() + 1.0 - 5.0 / 4.0,
        1e-9,
    );
}

#[test]
fn nist_weighs_by_information() {
    // Two words of 1 bit each, and a bigram that is certain; 3, 4 and 5 words do not occur.
    let found = scores(&corpus(&[("a b", &["a b"])]));
    close(found.nist, 1.0, 1e-12);
    // Half as long as the mean of 2 and 6 words. a: 3 of 8 words. The penalty is 1/2 at 2/3.
    let found = scores(&corpus(&[("a c", &["a b", "a b d a e f"])]));
    let penalty = (-(0.5f64.ln() / 1.5f64.ln()).powi(2) * 2.0f64.ln()).exp();
    close(found.nist, (8.0f64 / 3.0).log2() / 2.0 * penalty, 1e-12);
}

/// Best precision and best recall may be of different references.
#[test]
fn rouge_l_takes_the_best_of_each() {
    // Against the first 2/3 and 2/3, against the second 3/3 and 3/6.
    let found = scores(&corpus(&[("a b c", &["a x b", "a b c d e f"])]));
    let (precision, recall, beta2) = (1.0, 2.0 / 3.0, 1.44);
    close(
        found.rouge_l,
        (1.0 + beta2) * precision * recall / (recall + beta2 * precision),
        1e-12,
    );
}

/// An n-gram of every segment weighs nothing; where one is different, the outputs that have it are at the top.
#[test]
fn cider_weighs_by_inverse_document_frequency() {
    let same = corpus(&[("a b c d", &["a b c d"]), ("a b c d", &["a b c d"])]);
    assert_eq!(scores(&same).cider, 0.0);
    let different = corpus(&[("a b c d", &["a b c d"]), ("e f g h", &["e f g h"])]);
    close(scores(&different).cider, 10.0, 1e-12);
    // Two bigrams more: e^(-2²/72) of the cosine, which is sqrt(4/6), sqrt(3/5), sqrt(2/4), sqrt(1/3).
    let longer = corpus(&[("a b c d", &["a b c d x y"]), ("e", &["e f g h"])]);
    let cosines: f64 = [4.0 / 6.0, 3.0 / 5.0, 2.0 / 4.0, 1.0 / 3.0f64]
        .map(f64::sqrt)
        .iter()
        .sum();
    let first = 10.0 * cosines / 4.0 * (-4.0 / 72.0f64).exp();
    let second = 10.0 * (0.25f64).sqrt() / 4.0 * (-9.0 / 72.0f64).exp();
    close(scores(&longer).cider, (first + second) / 2.0, 1e-12);
}

/// An output without words is an answer like any other: it lowers every score.
#[test]
fn an_empty_output_counts() {
    let (first, second) = ("a b c d e f g h", "i j k l m n o p");
    let full = scores(&corpus(&[(first, &[first]), (second, &[second])]));
    let half = scores(&corpus(&[(first, &[first]), ("", &[second])]));
    assert!(half.bleu < full.bleu && half.nist < full.nist);
    close(half.rouge_l, full.rouge_l / 2.0, 1e-12);
    close(half.cider, full.cider / 2.0, 1e-12);
}

const WORDS: &[&str] = &[
    "the",
    "pub",
    "Café",
    "is",
    "near",
    "£20",
    "family-friendly",
    "it's",
    "5",
    "Bell",
];

fn text() -> impl Strategy<Value = String> {
    let words = prop::collection::vec(prop::sample::select(WORDS), 4..12);
    words.prop_map(|words| words.join(" "))
}

fn segments() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    prop::collection::vec((text(), prop::collection::vec(text(), 1..4)), 1..6)
}

fn score(segments: &[(String, Vec<String>)]) -> Scores {
    let (system, references) = segments.iter().cloned().unzip();
    scores(&Corpus::new(system, references).unwrap())
}

fn same(a: Scores, b: Scores) {
    close(a.bleu, b.bleu, 1e-12);
    close(a.nist, b.nist, 1e-9);
    close(a.rouge_l, b.rouge_l, 1e-12);
    close(a.cider, b.cider, 1e-9);
}

proptest! {
    #[test]
    fn scores_are_in_their_bounds(segments in segments()) {
        let found = score(&segments);
        prop_assert!((0.0..=1.0).contains(&found.bleu));
        prop_assert!((0.0..).contains(&found.nist));
        prop_assert!((0.0..=1.0).contains(&found.rouge_l));
        prop_assert!((0.0..10.0 + 1e-9).contains(&found.cider));
    }

    /// Nothing is better than a reference itself.
    #[test]
    fn a_reference_scores_one(segments in segments()) {
        let own = segments.iter().map(|(_, references)| (references[0].clone(), references.clone()));
        let found = score(&own.collect::<Vec<_>>());
        close(found.bleu, 1.0, 1e-12);
        close(found.rouge_l, 1.0, 1e-12);
    }

    #[test]
    fn the_order_of_references_is_no_matter(segments in segments()) {
        let mut turned = segments.clone();
        turned.iter_mut().for_each(|(_, references)| references.reverse());
        same(score(&segments), score(&turned));
    }

    #[test]
    fn the_order_of_segments_is_no_matter(segments in segments()) {
        let mut turned = segments.clone();
        turned.reverse();
        same(score(&segments), score(&turned));
    }

    /// What a bootstrap does: the same segments several times over are the same system.
    #[test]
    fn segments_can_be_repeated(segments in segments()) {
        // With matches of every length: what BLEU takes in place of none does not double.
        let near = segments.into_iter().map(|(_, references)| (references[0].clone() + " pub", references));
        let (system, references) = near.unzip();
        let corpus = Corpus::new(system, references).unwrap();
        let statistics = statistics(&corpus);
        let twice = statistics.iter().chain(statistics.iter().rev());
        same(Scores::of(twice), scores(&corpus));
    }
}

fn read(files: [(&str, &str); 2]) -> Result<Corpus, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let [system, references] = files.map(|(name, _)| folder.path().join(name));
    let place = format!("{}/", folder.path().display());
    Corpus::read(&system, &references).map_err(|error| error.to_string().replace(&place, ""))
}

fn references(corpus: &Corpus) -> Vec<Vec<&str>> {
    let segments = corpus.segments().iter();
    let texts = segments.map(|segment| segment.references.iter().map(String::as_str).collect());
    texts.collect()
}

/// References belong to the segments that the official tool puts them to.
#[test]
fn references_are_grouped_by_blank_lines() {
    let read = |system, text| read([("out.txt", system), ("ref.txt", text)]).unwrap();
    let two = read("x\ny\n", "a\nb\n\nc\n");
    assert_eq!(references(&two), [vec!["a", "b"], vec!["c"]]);
    // Line ends of Windows, a byte order mark, spaces on the blank line, blank lines at the end.
    let same = read("\u{feff}x\r\ny", "\u{feff}a\r\nb\r\n \t\r\n c \r\n\r\n\r\n");
    assert_eq!(same, two);
    // Without a blank line there is one reference for each segment.
    let single = read("x\ny\n", "a\nb\n");
    assert_eq!(references(&single), [vec!["a"], vec!["b"]]);
    // An empty output keeps its place.
    let empty = read("\ny\n", "a\n\nb\n");
    assert_eq!(empty.segments()[0].system, "");
}

#[test]
fn references_in_a_table_are_grouped_by_input() {
    let table = "ref,mr\n\"a, a\",1\nb,1\nc,2\nd,1\n";
    let plain = read([("out.txt", "x\ny\nz\n"), ("ref.csv", table)]).unwrap();
    assert_eq!(
        references(&plain),
        [vec!["a, a", "b"], vec!["c"], vec!["d"]]
    );
    let tables = read([("out.tsv", "MR\tOutput\n2\ty\n1\tx\n"), ("ref.csv", table)]).unwrap();
    assert_eq!(references(&tables), [vec!["c"], vec!["a, a", "b", "d"]]);
}

#[test]
fn bad_files_are_told_by_name_and_line() {
    let error = |system: (&'static str, &'static str), references: (&'static str, &'static str)| {
        read([system, references]).unwrap_err()
    };
    let out = ("out.txt", "x\ny\n");
    assert_eq!(
        error(out, ("ref.txt", "a\n\nb\n\nc\n")),
        "out.txt, ref.txt: the system has 2 outputs, but there are references for 3 segments"
    );
    assert_eq!(
        error(out, ("ref.txt", "a\n\n\nb\n")),
        "ref.txt: line 3: a blank line with no reference before it"
    );
    assert_eq!(
        error(("out.txt", ""), ("ref.txt", "")),
        "out.txt, ref.txt: nothing to score: there is no output of the system"
    );
    assert_eq!(
        error(out, ("ref.csv", "a,b\n1,2\n")),
        "ref.csv: exactly one column whose header begins with one of mr, src, source, meaning, da, dialog act, \
         dialogue act is needed, there are a, b"
    );
    assert_eq!(
        error(
            ("out.tsv", "mr\toutput\n3\tx\n"),
            ("ref.csv", "mr,ref\n1,a\n")
        ),
        "ref.csv: no reference for the system's input `3`"
    );
    let ragged = error(out, ("ref.csv", "mr,ref\n1,a,b\n"));
    assert!(
        ragged.starts_with("ref.csv: CSV error: record 1 (line: 2"),
        "{ragged}"
    );
    let missing = Corpus::read(Path::new("nowhere.txt"), Path::new("ref.txt")).unwrap_err();
    assert!(
        missing.to_string().starts_with("nowhere.txt: "),
        "{missing}"
    );
}

#[test]
fn bad_texts_are_told_by_segment() {
    let new = |system: &[&str], references: &[&[&str]]| {
        let own = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.to_string())
                .collect::<Vec<_>>()
        };
        let references = references.iter().map(|texts| own(texts)).collect();
        Corpus::new(own(system), references)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        new(&["x", "y"], &[&["a"], &[]]),
        "segment 2 has no reference"
    );
    assert_eq!(
        new(&["x"], &[&["a", " "]]),
        "segment 1: reference 2 is empty"
    );
}

/// A folder with files of METEOR's names, and a program in its place.
fn meteor_folder(program: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for file in ["meteor-1.5.jar", "data/paraphrase-en.gz"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    std::fs::write(folder.path().join("program.sh"), program).unwrap();
    folder
}

/// With more segments than a pipe holds, in each direction.
fn meteor_of(folder: &Path, command: &str) -> Result<meteor::Meteor, String> {
    let segments = vec![("a b c d e f g h", &["a b c d", "e f g h"][..]); 3000];
    let java = Java {
        command: command.into(),
        folder: folder.to_path_buf(),
        limit: Duration::from_secs(600),
    };
    meteor::score(&corpus(&segments), &java).map_err(|error| error.to_string())
}

/// What stands in a report in METEOR's place says what is missing.
#[test]
fn why_meteor_is_not_measured() {
    let folder = meteor_folder("");
    let absent = meteor_of(folder.path(), "no-such-java").unwrap_err();
    assert!(
        absent.starts_with("METEOR needs Java, and `no-such-java` does not start: "),
        "{absent}"
    );
    let paraphrases = folder.path().join("data/paraphrase-en.gz");
    std::fs::remove_file(&paraphrases).unwrap();
    let missing = meteor_of(folder.path(), "java").unwrap_err();
    let expected = format!(
        "METEOR's program is not there: no file {}",
        paraphrases.display()
    );
    assert_eq!(missing, expected);
}

/// Runs the folder's own program.
#[cfg(unix)]
fn meteor_by(program: &str) -> Result<meteor::Meteor, String> {
    meteor_of(
        meteor_folder(program).path(),
        &format!("{FIXTURES}/java.sh"),
    )
}

#[cfg(unix)]
#[test]
fn a_program_that_fails_is_quoted() {
    let failed = meteor_by(
        "read -r line; echo 'Exception: no memory' >&2; echo '    at Meteor.main' >&2; exit 3",
    );
    assert_eq!(
        failed.unwrap_err(),
        "METEOR's program ended with exit status: 3: Exception: no memory"
    );
    assert_eq!(
        meteor_by("exit 0").unwrap_err(),
        "METEOR's program ended with exit status: 0: no message"
    );
}

/// A program that goes on with nonsense is not listened to for ever.
#[cfg(unix)]
#[test]
fn an_answer_that_is_none_is_an_error() {
    assert_eq!(
        meteor_by("while echo 1.0 2.0; do :; done").unwrap_err(),
        "METEOR's program answered `1.0 2.0`, where a line of 23 counts was expected"
    );
}

/// A program that hangs does not hold up what waits for its score.
#[cfg(unix)]
#[test]
fn a_program_that_hangs_is_ended() {
    let folder = meteor_folder("exec sleep 600");
    let java = Java {
        command: format!("{FIXTURES}/java.sh"),
        folder: folder.path().to_path_buf(),
        limit: Duration::from_millis(200),
    };
    let found = meteor::score(&corpus(&[("a", &["a"][..])]), &java);
    assert!(matches!(found, Err(meteor::MeteorError::Late { .. })));
}

/// The program answers while it is still asked, and complains: no pipe may be left unread.
#[cfg(unix)]
#[test]
fn a_talkative_program_is_heard_to_its_end() {
    let found = meteor_by(
        "complaint='so long that three thousand of them do not fit into a pipe'
        while read -r line; do
            case $line in
            SCORE*)
                echo 8.0 4.0 0.0 0.0 4.0 4.0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1.0 4.0 4.0
                echo $complaint >&2
                segments=$((segments + 1)) ;;
            EVAL*)
                while [ $segments -gt 0 ]; do echo 0.5; segments=$((segments - 1)); done
                echo 0.25 ;;
            esac
        done",
    );
    let found = found.unwrap();
    assert_eq!((found.score, found.segments.len()), (0.25, 3000));
}
