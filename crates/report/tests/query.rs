//! SQL over stored results.

mod made_up;

use std::fs;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use made_up::experiment;
use sharelora_report::query::{as_csv, as_json, for_readers, query, write_parquet};
use sharelora_report::{Error, terminal};

fn store(results: &Path) -> Vec<PathBuf> {
    experiment("made-up", 8)
        .iter()
        .map(|run| run.store(results))
        .collect()
}

/// Each table answers, and the shape of the answer is that of the question.
#[test]
fn the_tables_answer() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = store(folder.path());
    let mut found = query(
        "SELECT method, COUNT(*) AS runs, AVG(\"metric:gsm8k/exact_match_strict\") AS score FROM records \
         GROUP BY method ORDER BY method",
        &dirs,
    )
    .unwrap();
    let text = terminal::render(&for_readers(&found), false);
    assert_snapshot!(text, @r"
    method   runs  score
    --------------------
    lora        2  0.625
    share_a     2  0.275
    ");
    assert_snapshot!(as_csv(&mut found).unwrap(), @r"
    method,runs,score
    lora,2,0.625
    share_a,2,0.275
    ");
    let path = folder.path().join("out").join("found.parquet");
    write_parquet(&mut found, &path).unwrap();
    assert!(fs::read(&path).unwrap().starts_with(b"PAR1"));

    let found = query(
        "SELECT run, MAX(step) AS last, MAX(seconds) AS seconds FROM steps WHERE loss IS NOT NULL GROUP BY run ORDER BY run LIMIT 1",
        &dirs,
    );
    let json = as_json(&found.unwrap()).to_string();
    assert_snapshot!(json, @r#"[{"run":"lora-seed0","last":4,"seconds":8.0}]"#);
    // The grades of the samples have the scores of the records as their means.
    let found = query(
        "SELECT s.run, AVG(s.value) AS mean, MAX(r.\"metric:gsm8k/exact_match_strict\") AS score FROM samples s JOIN records r \
         ON s.hash = r.hash AND s.run = r.run GROUP BY s.run ORDER BY s.run",
        &dirs,
    )
    .unwrap();
    let rows = as_json(&found);
    for row in rows.as_array().unwrap() {
        let (mean, score) = (
            row["mean"].as_f64().unwrap(),
            row["score"].as_f64().unwrap(),
        );
        assert!((mean - score).abs() < 1e-12, "{row}");
    }
    assert_eq!(rows.as_array().unwrap().len(), 4);
}

/// Samples are most of the bytes: a query that does not name them does not read them.
#[test]
fn samples_are_read_only_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = store(folder.path());
    fs::write(dirs[0].join("samples-gsm8k.jsonl"), "{").unwrap();
    assert_eq!(query("SELECT run FROM records", &dirs).unwrap().height(), 4);
    let error = query("SELECT COUNT(*) FROM samples", &dirs).unwrap_err();
    assert!(
        error.to_string().contains("samples-gsm8k.jsonl:1"),
        "{error}"
    );
}

/// What is wrong is said once, with the columns that there are.
#[test]
fn a_wrong_query_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = store(folder.path());
    let error = |sql: &str| match query(sql, &dirs) {
        Err(Error::Query { message, columns }) => (message, columns),
        other => panic!("{other:?}"),
    };
    let (message, columns) = error("SELECT metod FROM records");
    assert!(
        message.contains("metod") && !message.contains('\n'),
        "{message}"
    );
    assert_eq!(columns[0].0, "records");
    assert!(columns[0].1.contains(&"method".to_owned()));
    let (message, _) = error("SELECT * FROM record");
    assert!(message.contains("record"), "{message}");
    let (message, _) = error("SELEC run FROM records");
    assert!(!message.is_empty());
    let (message, _) = error("SELECT run FROM records; SELECT 1");
    assert!(!message.is_empty());
}
