//! The files of an evaluation, in the forms that `measure_scores.py` reads; [`super::Corpus::read`] describes them.
//!
//! Deviations: blank lines at the end of references do not count, and an empty cell that ends a row is an empty text;
//! the official tool fails on both. Where it fails without a reason, here is a message.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::E2eError;

/// How the header of a column of inputs may begin.
const INPUT: &[&str] = &[
    "mr",
    "src",
    "source",
    "meaning",
    "da",
    "dialog act",
    "dialogue act",
];
/// Of the system's texts.
const OUTPUT: &[&str] = &["out", "ref", "sys"];
/// Of the references.
const REFERENCE: &[&str] = &["trg", "tgt", "target", "ref", "human"];

/// Outputs and, for each, its references.
pub fn read(system: &Path, references: &Path) -> Result<(Vec<String>, Vec<Vec<String>>), E2eError> {
    let (inputs, outputs) = if is_table(system) {
        table(system, OUTPUT)?.into_iter().unzip()
    } else {
        let lines: Vec<_> = text(system)?.lines().map(String::from).collect();
        (Vec::new(), lines)
    };
    let groups = if !is_table(references) {
        blocks(references)?
    } else if inputs.iter().any(|input| !input.is_empty()) {
        of_inputs(&inputs, references)?
    } else {
        successive(references)?
    };
    Ok((outputs, groups))
}

fn is_table(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| matches!(extension.to_lowercase().as_str(), "csv" | "tsv"))
}

fn text(path: &Path) -> Result<String, E2eError> {
    let text = fs::read_to_string(path).map_err(|source| E2eError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(text.trim_start_matches('\u{feff}').to_string())
}

fn problem(path: &Path, problem: String) -> E2eError {
    E2eError::Format {
        path: path.to_path_buf(),
        problem,
    }
}

/// Successive lines; a blank line ends a segment. Without a blank line each line is a segment.
fn blocks(path: &Path) -> Result<Vec<Vec<String>>, E2eError> {
    let text = text(path)?;
    let mut blocks = vec![Vec::new()];
    for (line, number) in text.trim_end().lines().zip(1..) {
        let block = blocks.last_mut().expect("starts with one");
        match (line.trim().is_empty(), block.is_empty()) {
            (false, _) => block.push(line.to_string()),
            (true, false) => blocks.push(Vec::new()),
            (true, true) => {
                let what = format!("line {number}: a blank line with no reference before it");
                return Err(problem(path, what));
            }
        }
    }
    Ok(match &mut blocks[..] {
        [lines] => lines.drain(..).map(|line| vec![line]).collect(),
        _ => blocks,
    })
}

/// For each input, the texts of all rows that have it.
fn of_inputs(inputs: &[String], path: &Path) -> Result<Vec<Vec<String>>, E2eError> {
    let mut groups: HashMap<String, Vec<String>> = HashMap::new();
    for (input, text) in table(path, REFERENCE)? {
        groups.entry(input).or_default().push(text);
    }
    let group = |input: &String| {
        let missing = || format!("no reference for the system's input `{input}`");
        let found = groups.get(input).cloned();
        found.ok_or_else(|| problem(path, missing()))
    };
    inputs.iter().map(group).collect()
}

/// Successive rows with the same input.
fn successive(path: &Path) -> Result<Vec<Vec<String>>, E2eError> {
    let rows = table(path, REFERENCE)?;
    let groups = rows.chunk_by(|a, b| a.0 == b.0);
    let texts = groups.map(|rows| rows.iter().map(|(_, text)| text.clone()).collect());
    Ok(texts.collect())
}

/// Pairs of an input and a text, from the columns whose headers begin with one of `INPUT` and of `texts`.
fn table(path: &Path, texts: &[&str]) -> Result<Vec<(String, String)>, E2eError> {
    let text = repaired(&text(path)?);
    let header = text.lines().next().unwrap_or_default();
    let delimiter = if header.contains('\t') { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let error = |error: csv::Error| problem(path, error.to_string());
    let headers = reader.headers().map_err(error)?.clone();
    let column = |names: &[&str]| {
        let named = |header: &str| {
            let header = header.trim().to_lowercase().replace(['_', '.', '-'], " ");
            names.iter().any(|name| header.starts_with(name))
        };
        let mut found = (0..headers.len()).filter(|&i| named(&headers[i]));
        match (found.next(), found.next()) {
            (Some(column), None) => Ok(column),
            _ => {
                let names = names.join(", ");
                let headers = headers.iter().collect::<Vec<_>>().join(", ");
                let what = format!(
                    "exactly one column whose header begins with one of {names} is needed, there are {headers}"
                );
                Err(problem(path, what))
            }
        }
    };
    let (input, text) = (column(INPUT)?, column(texts)?);
    let rows = reader.records().map(|row| {
        let row = row.map_err(error)?;
        Ok((row[input].to_string(), row[text].to_string()))
    });
    rows.collect()
}

/// Characters that were read in the wrong encoding once: the published tables of the challenge have them.
fn repaired(text: &str) -> String {
    let wrong = [("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é")];
    wrong
        .into_iter()
        .fold(text.to_string(), |text, (wrong, right)| {
            text.replace(wrong, right)
        })
}
