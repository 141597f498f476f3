//! Tables across experiments, claims and the front page, from made-up results.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use polars::prelude::*;
use sharelora_report::claims::{Claims, What};
use sharelora_report::figures;
use sharelora_report::front::{Front, Made, Progress};
use sharelora_report::paper::{Studies, Study, TableSpec};
use sharelora_report::*;

/// A run that answered 100 questions, of which it has the first `right` right.
fn run(method: &str, seed: u64, trained: u64, right: usize, loss: f64) -> Run {
    let questions: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    let grade = |n: usize| f64::from(u8::from(n < right));
    let graded: BTreeMap<String, f64> = (questions.iter().cloned().enumerate())
        .map(|(n, id)| (id, grade(n)))
        .collect();
    let p = right as f64 / 100.0;
    let metric = Metric {
        value: p,
        stderr: Some((p * (1.0 - p) / 100.0).sqrt()),
        n: 100,
    };
    let step = |step: u64| Step {
        step,
        loss: Some(loss),
        learning_rate: 1e-3,
        grad_norm: None,
        tokens: 1000 * step,
        tokens_per_second: 500.0,
        memory_bytes: 1 << 30,
        held_out_loss: step.is_multiple_of(5).then(|| loss + 1.0 / step as f64),
        metric: None,
    };
    let axes = [("method", method.to_owned()), ("seed", seed.to_string())];
    let record = Record {
        schema: 1,
        experiment: "small".into(),
        run: format!("{method}-seed{seed}"),
        hash: "00".into(),
        status: Status::Finished,
        message: None,
        model: "tiny".into(),
        method: method.into(),
        seed,
        backend: "flex".into(),
        axes: axes.map(|(key, value)| (key.to_owned(), value)).into(),
        config: serde_json::json!({"train": {"task": "t"}}),
        trainable_parameters: trained,
        head_parameters: 0,
        adapter_bytes: 4 * trained,
        base_parameters: 1_000_000,
        steps: 20,
        train_loss: Some(loss),
        held_out_loss: (trained > 0).then_some(loss),
        held_out_loss_before: Some(4.0),
        best_step: None,
        metrics: BTreeMap::from([("t/accuracy".to_owned(), metric)]),
        not_measured: BTreeMap::from([("t".to_owned(), "no Java".to_owned())]),
        truncated: BTreeMap::new(),
        data: BTreeMap::new(),
        versions: BTreeMap::new(),
        git_commit: None,
        host: Host {
            cpu: "a".into(),
            cores: 1,
            memory_bytes: 1,
            os: "b".into(),
        },
        started_at: String::new(),
        finished_at: String::new(),
        seconds: BTreeMap::from([("train".to_owned(), 100.0 + seed as f64)]),
        tokens_per_second: Some(500.0),
        peak_memory_bytes: (100 + trained / 10_000) << 20,
    };
    let grades = Grades {
        questions: questions.into_iter().map(|id| (id, 0)).collect(),
        answers: 100,
        by_name: BTreeMap::from([("correct".to_owned(), graded)]),
    };
    Run {
        record,
        steps: if trained > 0 {
            (1..=20).map(step).collect()
        } else {
            Vec::new()
        },
        torn: None,
        grades: BTreeMap::from([("t".to_owned(), grades)]),
        resampled: BTreeMap::new(),
        spectrum: None,
        dir: "run".into(),
    }
}

fn runs() -> Vec<Run> {
    vec![
        run("base", 0, 0, 20, 4.0),
        run("lora", 0, 200_000, 50, 2.0),
        run("share_a", 0, 100_000, 48, 2.1),
        run("share_ab", 0, 10_000, 30, 2.5),
    ]
}

fn studies() -> Studies {
    Studies::from([("small".to_owned(), Study::new("Small", runs()))])
}

fn spec() -> TableSpec {
    let spec = serde_json::json!({
        "title": "Small & large",
        "description": "Made up.",
        "rows": [
            {"name": "tiny", "experiment": "small", "methods": ["base", "lora", "share_a", "share_b", "share_ab"]},
            {"name": "large_model", "experiment": "never", "methods": ["lora"]},
        ],
        "columns": [
            {"name": "Trained", "value": "parameters", "best": "low"},
            {"name": "Accuracy (%)", "value": "t/accuracy", "percent": true, "decimals": 1},
            {"name": "F1", "value": "t/f1"},
            {"name": "Other", "value": "u/accuracy"},
            {"name": "Loss", "value": "held_out_loss", "decimals": 2},
            {"name": "Training (s)", "value": "training_seconds"},
        ],
    });
    serde_json::from_value(spec).unwrap()
}

/// What a reader of the paper's tables relies on: nothing that has not run has a number, the best of a block is bold, and a mark
/// stands only where the paired test of the comparison says so.
#[test]
fn a_table_is_filled_from_results_alone() {
    let table = spec().fill(&studies()).unwrap();
    assert_snapshot!(table.render(Format::Markdown), @r#"
| Model | Method | Trained | Accuracy (%) | F1 | Other | Loss | Training (s) |
| :-- | :-- | --: | --: | --: | --: | --: | --: |
| tiny | Base | - | 20.0\* | not measured | not run | - | - |
| tiny | LoRA | 200,000 | **50.0** | not measured | not run | **2.00** | 100 |
| tiny | ShareA | 100,000 | 48.0 | not measured | not run | 2.10 | 100 |
| tiny | ShareB | not run | not run | not run | not run | not run | not run |
| tiny | ShareAB | **10,000** | 30.0\* | not measured | not run | 2.50 | 100 |
| large\_model | LoRA | not run | not run | not run | not run | not run | not run |

- From small with 1 seed. Means over seeds ± their standard deviation.
- Bold: the best mean of its block, which alone is no finding.
- \*: differs from LoRA in the same setting by the paired test of the experiment's report (its 95 % interval leaves out 0 and its Holm-corrected p is below 0.05; numbers of sequences: the interval over seeds alone).
- Not measured: the runs' records say why.
- Not run: no finished run of it is stored.
"#);
    for row in table
        .rows
        .iter()
        .filter(|row| row.iter().any(|cell| cell.text == "not run"))
    {
        let waiting = row.iter().filter(|cell| cell.text == "not run");
        assert!(
            waiting
                .into_iter()
                .all(|cell| cell.value.is_none() && !cell.bold)
        );
    }
    // The mark is the verdict of the one rule, on the differences of the comparison.
    let study = &studies()["small"];
    for (place, row) in study.comparison.rows.iter().enumerate() {
        let counts = study.comparison.against("t/accuracy", place);
        let counts = counts.and_then(|(_, difference)| differs(&difference)) == Some(true);
        let mut shown = table.rows.iter().filter(|cells| {
            cells[0].text == "tiny"
                && cells[1].text == sharelora_report::style::method_name(&row.method)
        });
        assert_eq!(
            shown.next().unwrap()[3].text.ends_with('*'),
            counts,
            "{}",
            row.label
        );
    }
}

/// Two seeds are shown as their mean and spread, an average seed by seed.
#[test]
fn seeds_are_averaged() {
    let runs = vec![run("lora", 0, 10, 50, 2.0), run("lora", 1, 10, 54, 2.2)];
    let studies = Studies::from([("small".to_owned(), Study::new("Small", runs))]);
    let mut spec = spec();
    spec.rows.truncate(1);
    spec.rows[0].methods = vec!["lora".into()];
    spec.columns
        .retain(|column| ["Accuracy (%)", "Loss"].contains(&column.name.as_str()));
    let average =
        serde_json::json!({"name": "Average", "value": "average", "percent": true, "decimals": 2});
    spec.columns.push(serde_json::from_value(average).unwrap());
    let table = spec.fill(&studies).unwrap();
    let texts: Vec<&str> = table.rows[0]
        .iter()
        .map(|cell| cell.text.as_str())
        .collect();
    assert_eq!(
        texts,
        ["tiny", "LoRA", "52.0 ± 2.8", "2.10 ± 0.14", "52.00 ± 2.83"]
    );
}

/// A slip in a file of data is told with its place and what could stand there.
#[test]
fn slips_are_named() {
    let value = |text: &str| {
        let column = serde_json::json!({"name": "x", "value": text});
        let column: std::result::Result<sharelora_report::paper::ColumnSpec, _> =
            serde_json::from_value(column);
        column.unwrap_err().to_string()
    };
    assert_snapshot!(value("parametres"), @r#"no value `parametres`: choices: a metric (gsm8k/exact_match_flexible, say), held_out_loss, parameters, adapter_mib, peak_memory_mib, training_seconds, tokens_per_second, average, continual.losses.NUMBER and continual.scores.NUMBER with NUMBER one of average, backward_transfer, forward_transfer, forgetting, intransigence"#);
    let mut spec = spec();
    spec.rows[0].experiment = None;
    assert_snapshot!(spec.fill(&studies()).unwrap_err(), @r#"column `Trained`, tiny base: neither the rows nor the column name an experiment"#);
    let mut two = runs();
    for (run, rank) in two.iter_mut().zip(["4", "8", "8", "8"]) {
        run.record.method = "lora".into();
        run.record.axes.insert("adapter.rank".into(), rank.into());
    }
    let studies = Studies::from([("small".to_owned(), Study::new("Small", two))]);
    assert_snapshot!(self::spec().fill(&studies).unwrap_err(), @r#"column `Trained`, tiny lora: 2 fit: LoRA, rank 4; LoRA, rank 8; name the axes in `where`: adapter.rank"#);
}

/// The three other forms say the same as the Markdown.
#[test]
fn csv_and_parquet_hold_the_same_numbers() {
    let table = spec().fill(&studies()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    parquet::write(&path, &table).unwrap();
    let frame = ParquetReader::new(std::fs::File::open(&path).unwrap())
        .finish()
        .unwrap();
    let csv = table.render(Format::Csv);
    let header = csv.lines().next().unwrap();
    let names: Vec<String> = frame
        .get_column_names()
        .iter()
        .map(|name| name.to_string())
        .collect();
    assert_eq!(names.join(","), header);
    let trained = frame.column("Trained").unwrap().f64().unwrap();
    let trained: Vec<Option<f64>> = (0..trained.len()).map(|row| trained.get(row)).collect();
    let expected = [
        None,
        Some(200_000.0),
        Some(100_000.0),
        None,
        Some(10_000.0),
        None,
    ];
    assert_eq!(trained, expected);
    assert_eq!(
        csv.lines().nth(2).unwrap().split(',').nth(2),
        Some("200000")
    );
}

/// A table that does not compile is found by the journal, not by us. Needs pdflatex with booktabs.
#[test]
fn the_latex_compiles() {
    let table = spec().fill(&studies()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let document = format!(
        "\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{}\n\\end{{document}}\n",
        table.render(Format::Latex)
    );
    std::fs::write(folder.path().join("t.tex"), document).unwrap();
    let run = Command::new("pdflatex")
        .args(["-interaction=nonstopmode", "-halt-on-error", "t.tex"])
        .current_dir(folder.path())
        .output();
    let Ok(output) = run else {
        println!("skipped: no pdflatex");
        return;
    };
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    if log.contains("booktabs.sty' not found") {
        println!("skipped: no booktabs");
        return;
    }
    assert!(output.status.success(), "{log}");
    assert!(folder.path().join("t.pdf").is_file());
}

fn claims() -> Claims {
    let of = |metric: &str| serde_json::json!({"experiment": "small", "method": "share_ab", "metric": metric});
    let claims = serde_json::json!({
        "title": "Claims",
        "description": "Made up.",
        "claims": [
            {"claim": "Half the parameters", "published": 50, "unit": "%", "evidence": [
                {"from": {"count": {"shape": "s", "experiment": "small", "method": "share_a", "what": "parameters"}}},
                {"differs": "another model", "from": {"count": {"shape": "t", "experiment": "small", "method": "share_a", "what": "parameters"}}},
            ]},
            {"claim": "Five points more", "published": 5, "unit": "points", "evidence": [
                {"from": {"difference": of("t/accuracy")}},
            ]},
            {"claim": "One point more elsewhere", "published": 1, "unit": "points", "evidence": [
                {"differs": "tiny", "from": {"difference": of("t/accuracy")}},
            ]},
            {"claim": "Never run", "published": 1, "unit": "points", "evidence": [
                {"from": {"difference": {"experiment": "never", "method": "share_a", "metric": "x/y"}}},
            ]},
            {"claim": "Less memory", "published": 6.3, "decimals": 1, "unit": "GB", "evidence": [
                {"differs": "tiny", "from": {"memory": {"experiment": "small", "method": "share_ab"}}},
            ]},
        ],
    });
    serde_json::from_value(claims).unwrap()
}

/// A verdict follows from numbers in the claim's own setting; nothing else confirms or refutes.
#[test]
fn claims_are_judged_by_their_rules() {
    let claims = claims();
    assert!(claims.counts().all(|count| count.what == What::Parameters));
    let table = claims.table(&[50.4, 70.0], &studies()).unwrap();
    assert_snapshot!(table.render(Format::Markdown), @r#"
| Claim | Published | Here | Found | Verdict | Setting |
| :-- | --: | :-- | --: | :-- | :-- |
| Half the parameters | 50 % | s, ShareA: counted | 50.4 % | **reproduced** | the claim's own |
| Half the parameters | 50 % | t, ShareA: counted | 70.0 % | - | another model |
| Five points more | 5 points | small, ShareAB | −20.0 points (−27.7 to −11.8), p \< 0.001 | **not reproduced** | the claim's own |
| One point more elsewhere | 1 points | small, ShareAB | −20.0 points (−27.7 to −11.8), p \< 0.001 | not testable here | tiny |
| Never run | 1 points | never, ShareA | not run | not testable here | the claim's own |
| Less memory | 6.3 GB | small, ShareAB | +0.02 GB | not testable here | tiny |

- A count is reproduced where it is less than one unit of the last published digit away. A difference in the claim's own setting is reproduced where it counts, has the claimed sign and its 95 % interval reaches the published value, and not reproduced where the interval stays below that. What is from another setting is shown and decides nothing.
"#);
}

/// The page is data and results alone, and links to every report that exists.
#[test]
fn the_front_page_says_what_is_there_and_what_is_not() {
    let front = serde_json::json!({
        "title": "Found",
        "line": "One *line*.",
        "introduction": "Words.",
        "numbers": [
            {"question": "Right?", "experiment": "small", "value": "t/accuracy", "methods": ["base", "lora", "share_ab", "share_b"]},
            {"question": "Loss?", "experiment": "small", "value": "held_out_loss", "methods": ["base", "share_a"]},
            {"question": "Better?", "experiment": "small", "value": "t/accuracy", "methods": ["lora"], "against": "share_ab"},
        ],
        "experiments": [{"name": "small", "answers": "A question.", "waits": "Time."}],
        "paper": [{"name": "never", "answers": "Another.", "waits": "A GPU."}],
        "links": [{"path": "performance/README.md", "text": "speed"}],
    });
    let front: Front = serde_json::from_value(front).unwrap();
    let progress = |name: &str, done, planned| Progress {
        name: name.into(),
        title: format!("Title of {name}"),
        done,
        planned,
    };
    let studies = studies();
    let table = spec().fill(&studies).unwrap();
    let made = Made::new("paper/t".into(), &table);
    let claims = claims().table(&[50.4, 70.0], &studies).unwrap();
    let progress = [progress("small", 4, 5), progress("never", 0, 3)];
    let page = front.page(&studies, &claims, &[made], &progress).unwrap();
    let without_claims: String = page
        .split("## What the paper claims")
        .next()
        .unwrap()
        .into();
    let rest = page.split("## The paper's tables").nth(1).unwrap();
    assert_snapshot!(without_claims + rest, @r#"
# Found

One *line*.

Words.

## What was found

| Question | Method | Trained parameters | Found (95 % interval) | Against LoRA, or as named |
| :-- | :-- | --: | --: | :-- |
| Right? | Base | - | 20.0 % (13.3 to 28.9) | −30.0 points (−38.7 to −20.5), p \< 0.001: counts |
|  | LoRA | 200,000 | 50.0 % (40.4 to 59.6) | - |
|  | ShareAB | 10,000 | 30.0 % (21.9 to 39.6) | −20.0 points (−27.7 to −11.8), p \< 0.001: counts |
|  | ShareB | - | not run | - |
| Loss? | Base | - | - | - |
|  | ShareA | 100,000 | 2.1000 | +0.1000: one seed, cannot be judged |
| Better? | LoRA | 200,000 | 50.0 % (40.4 to 59.6) | against ShareAB: +20.0 points (+11.8 to +27.7), p \< 0.001: counts |

- Means over seeds. A difference counts when its 95 % interval leaves out 0 and, where the same questions are compared in pairs, its Holm-corrected p is below 0.05; each report says by which test.



- Small \& large (13 numbers, 16 cells not run): [paper/t.md](paper/t.md)

## Reports

- Title of small (4 of 5 runs). A question. [small/report.md](small/report.md), as a page [small/report.html](small/report.html)
- [performance/README.md](performance/README.md): speed

## What has not run

| Experiment | Runs done | Why |
| :-- | --: | :-- |
| small | 4 of 5 | Time. |
| never | 0 of 3 | A GPU. |

## Where this page is from

This page, the reports and all tables are made of `results/` and of the files of data beside them, byte for byte the same each time:

```sh
sharelora paper            # makes them
sharelora paper --check    # names what does not follow from its results
sharelora paper --dry-run  # plans every experiment in the paper's own settings
```
"#);
}

/// Figures are there only where their data are, and a report has them as sections.
#[test]
fn figures_need_their_data() {
    let runs = runs();
    let comparison = compare("Small", &runs);
    let titles = |runs: &[Run], comparison: &Comparison| -> Vec<String> {
        figures::sections("Small", runs, comparison)
            .into_iter()
            .map(|section| section.title)
            .collect()
    };
    let expected = [
        "Convergence",
        "Quality against size and memory",
        "Differences from LoRA",
    ];
    assert_eq!(titles(&runs, &comparison), expected);
    let base = &runs[..1];
    assert!(titles(base, &compare("Base", base)).is_empty());
    let mut ranks = self::runs();
    for (run, rank) in ranks.iter_mut().zip(["-", "4", "8", "8"]) {
        run.record.axes.insert("adapter.rank".into(), rank.into());
    }
    let ranks: Vec<Run> = ranks.into_iter().skip(1).collect();
    let found = titles(&ranks, &compare("Ranks", &ranks));
    assert!(found.contains(&"By rank".to_owned()), "{found:?}");
    // Drawn without a fault, both ways.
    let folder = tempfile::tempdir().unwrap();
    for section in figures::sections("Small", &runs, &comparison) {
        let Some(Block::Figure(picture)) = section.blocks.first() else {
            panic!()
        };
        let path = |extension: &str| folder.path().join(format!("{}.{extension}", picture.name));
        sharelora_report::figure::write_svg(&path("svg"), &picture.figure).unwrap();
        sharelora_report::figure::write_png(&path("png"), &picture.figure).unwrap();
        assert!(Path::new(&path("png")).metadata().unwrap().len() > 1000);
    }
}
