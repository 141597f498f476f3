//! The samples files of openai/human-eval: JSON lines of `task_id` and `completion`, gzipped where the name ends in `.gz`.
//!
//! Source: `human_eval/data.py` and `evaluation.py`. As there, blank lines are skipped, other keys are ignored, a problem
//! may have several lines, an unknown one is an error, and so is a problem without a line.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::humaneval::problem;
use crate::table::Row;
use crate::task::{Answer, Sample};
use crate::{Error, Result, repeats};

/// Problems that an error names.
const NAMED: usize = 5;

#[derive(Serialize, Deserialize)]
struct Line {
    task_id: String,
    completion: String,
}

/// The samples of a file over `problems`, the rows of HumanEval: `HumanEval/0#3` is the fourth of its problem in the file.
/// They have no grade yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Samples`] names file and line of what is no sample or of no problem, and the problems that
/// have none.
pub fn read_samples(path: &Path, problems: &[Row]) -> Result<Vec<Sample>> {
    let mut bytes = std::fs::read(path).map_err(Error::io(path))?;
    if zipped(path) {
        let packed = std::mem::take(&mut bytes);
        MultiGzDecoder::new(packed.as_slice())
            .read_to_end(&mut bytes)
            .map_err(Error::io(path))?;
    }
    parse_samples(path, &bytes, problems)
}

/// As [`read_samples`], of the file's bytes; `path` is named in errors.
pub fn parse_samples(path: &Path, bytes: &[u8], problems: &[Row]) -> Result<Vec<Sample>> {
    let known: Vec<(String, String, String)> =
        problems.iter().map(problem).collect::<Result<_>>()?;
    let places: HashMap<&str, usize> = known
        .iter()
        .enumerate()
        .map(|(place, (name, _, _))| (name.as_str(), place))
        .collect();
    let mut counts = vec![0; known.len()];
    let mut samples = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let fail = |reason: String| Error::Samples {
            place: format!("{}:{}", path.display(), index + 1),
            reason,
        };
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| fail(format!("no object with `task_id` and `completion`: {e}")))?;
        let place = *places.get(line.task_id.as_str()).ok_or_else(|| {
            fail(format!(
                "unknown task id `{}`; the {} problems are {} to {}",
                line.task_id,
                known.len(),
                known.first().map_or("none", |first| &first.0),
                known.last().map_or("none", |last| &last.0),
            ))
        })?;
        let (name, prompt, reference) = &known[place];
        samples.push(Sample {
            id: repeats::id(name, counts[place]),
            prompt: prompt.clone(),
            reference: reference.clone(),
            group: None,
            answer: Answer::Text(line.completion),
            tokens: 0,
            grades: BTreeMap::new(),
        });
        counts[place] += 1;
    }
    let missing: Vec<&str> = known
        .iter()
        .zip(&counts)
        .filter(|(_, count)| **count == 0)
        .map(|((name, _, _), _)| name.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(samples);
    }
    let more = missing.len().saturating_sub(NAMED);
    let named = missing[..missing.len() - more].join(", ");
    let rest = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Error::Samples {
        place: path.display().to_string(),
        reason: format!("no sample of {named}{rest}; every problem has to be attempted"),
    })
}

/// Writes the answers of HumanEval's samples as the official tool reads them, in their order; whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_samples(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut bytes = Vec::new();
    for sample in samples {
        let line = Line {
            task_id: repeats::question(&sample.id).0.to_owned(),
            completion: sample.answer.text().to_owned(),
        };
        // Two texts always serialise.
        bytes.extend(serde_json::to_vec(&line).unwrap_or_default());
        bytes.push(b'\n');
    }
    if zipped(path) {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&bytes).map_err(Error::io(path))?;
        bytes = packed.finish().map_err(Error::io(path))?;
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(folder))?;
    file.write_all(&bytes).map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

fn zipped(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problems(count: usize) -> Vec<Row> {
        let row = |index| {
            Row::of_texts([
                ("task_id", format!("HumanEval/{index}")),
                ("prompt", "def f():\n".into()),
                ("test", "def check(c): pass\n".into()),
                ("entry_point", "f".into()),
            ])
        };
        (0..count).map(row).collect()
    }

    fn parse(text: &str, count: usize) -> Result<Vec<Sample>> {
        parse_samples(Path::new("x.jsonl"), text.as_bytes(), &problems(count))
    }

    /// As human-eval reads them: blank lines skipped, its own results file is a samples file too.
    #[test]
    fn official_files() {
        let text = "{\"task_id\": \"HumanEval/1\", \"completion\": \"    return 1\\n\"}\r\n \n\
                    {\"task_id\": \"HumanEval/0\", \"completion\": \"\", \"result\": \"passed\", \"passed\": true}\n\
                    {\"task_id\": \"HumanEval/1\", \"completion\": \"\\u00e9\"}";
        let samples = parse(text, 2).unwrap();
        let found: Vec<(&str, &str)> = samples
            .iter()
            .map(|sample| (sample.id.as_str(), sample.answer.text()))
            .collect();
        assert_eq!(
            found,
            [
                ("HumanEval/1#0", "    return 1\n"),
                ("HumanEval/0#0", ""),
                ("HumanEval/1#1", "é")
            ]
        );
        assert!(samples.iter().all(|sample| sample.grades.is_empty()));
    }

    #[test]
    fn errors_name_file_line_and_problem() {
        let good = r#"{"task_id": "HumanEval/0", "completion": ""}"#;
        for (text, count, wanted) in [
            (format!("{good}\n\n{{\"task_id\": 1}}"), 1, "x.jsonl:3: "),
            (
                format!("{good}\n{{\"task_id\": \"HumanEval/0\"}}"),
                1,
                "`completion`",
            ),
            (
                good.replace("/0", "/7"),
                1,
                "x.jsonl:1: unknown task id `HumanEval/7`",
            ),
            (good.to_owned(), 2, "x.jsonl: no sample of HumanEval/1;"),
            (String::new(), 9, "HumanEval/3, HumanEval/4 and 4 more"),
        ] {
            let message = parse(&text, count).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        let absent = read_samples(Path::new("no/such.jsonl"), &problems(1)).unwrap_err();
        assert!(absent.to_string().contains("no/such.jsonl"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is written is read back, packed or not, and any bytes are samples or an error.
        #[test]
        fn round_trip(texts in proptest::collection::vec(any::<String>(), 1..6), packed: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(if packed { "x.jsonl.gz" } else { "x.jsonl" });
            let lines: Vec<String> = texts
                .iter()
                .map(|text| serde_json::json!({"task_id": "HumanEval/0", "completion": text}).to_string())
                .collect();
            let samples = parse(&lines.join("\n"), 1).unwrap();
            write_samples(&path, &samples).unwrap();
            prop_assert_eq!(read_samples(&path, &problems(1)).unwrap(), samples);
        }

        #[test]
        fn foreign_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), packed: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(if packed { "x.jsonl.gz" } else { "x.jsonl" });
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(read_samples(&path, &problems(1)).is_err());
        }

        /// Damage inside a file that is nearly right reaches further than noise.
        #[test]
        fn damaged_lines(at in 0usize..46, byte: u8) {
            let mut bytes = br#"{"task_id": "HumanEval/0", "completion": "ab"}"#.to_vec();
            bytes[at] = byte;
            if let Ok(samples) = parse_samples(Path::new("x"), &bytes, &problems(1)) {
                prop_assert_eq!(samples.len(), 1);
            }
        }
    }
}
