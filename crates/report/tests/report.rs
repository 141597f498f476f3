//! From made-up records on disk to every file of a report.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;
use sharelora_report::number::thousands;
use sharelora_report::*;

const METHODS: [(&str, u64); 5] = [
    ("lora", 294_912),
    ("share_a", 159_744),
    ("share_a_qkv", 180_000),
    ("share_b", 159_744),
    ("share_ab", 24_576),
];

fn record(method: &str, seed: u64, trainable: u64, correct: u64, loss: f64) -> Record {
    let p = correct as f64 / 200.0;
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        pairs.collect()
    };
    let metric = Metric {
        value: p,
        stderr: Some((p * (1.0 - p) / 200.0).sqrt()),
        n: 200,
    };
    let seconds = [("load", 2.0), ("train", 100.0), ("evaluate", 30.5)];
    Record {
        schema: 1,
        experiment: "made-up".into(),
        run: format!("{method}-seed{seed}"),
        hash: "0123456789abcdef0123".into(),
        status: Status::Finished,
        message: None,
        model: "SmolLM2-135M".into(),
        method: method.into(),
        seed,
        backend: "flex".into(),
        axes: text(&[("adapter.method", method), ("seed", &seed.to_string())]),
        config: serde_json::json!({
            "adapter": {"method": method, "rank": 8},
            "train": {"batch_size": 4, "learning_rate": 2e-4, "warmup": null},
            "seed": seed,
        }),
        trainable_parameters: trainable,
        head_parameters: 0,
        adapter_bytes: trainable * 4,
        base_parameters: 134_515_008,
        steps: if trainable > 0 { 60 } else { 0 },
        train_loss: (trainable > 0).then_some(loss - 0.1),
        held_out_loss: Some(loss),
        held_out_loss_before: Some(2.5),
        best_step: (trainable > 0).then_some(60),
        metrics: BTreeMap::from([
            ("gsm8k/exact_match_strict".into(), metric.clone()),
            ("gsm8k/exact_match_strict/easy".into(), metric),
        ]),
        not_measured: BTreeMap::new(),
        truncated: BTreeMap::new(),
        data: text(&[("gsm8k", "feedc0ffee123456789")]),
        versions: text(&[("sharelora", "0.1.0")]),
        git_commit: Some("abc1234".into()),
        host: Host {
            cpu: "Some CPU".into(),
            cores: 2,
            memory_bytes: 8 << 30,
            os: "Linux".into(),
        },
        started_at: format!("2026-11-23T10:0{}:00Z", seed % 10),
        finished_at: format!("2026-11-23T11:0{}:00Z", seed % 10),
        seconds: seconds.map(|(key, value)| (key.into(), value)).into(),
        tokens_per_second: (trainable > 0).then_some(191.4),
        peak_memory_bytes: 1592 << 20,
    }
}

/// A falling curve with noise that is the same every time.
fn steps(record: &Record, count: u64) -> Vec<Step> {
    let end = record.held_out_loss.unwrap_or(2.0);
    let curve = |step: u64| end + (2.5 - end) * (-(step as f64) * 5.0 / count as f64).exp();
    let mut state = record.trainable_parameters * 31 + record.seed;
    (1..=count)
        .map(|step| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let noise = ((state >> 33) as f64 / f64::from(1u32 << 31) - 0.5) * 0.4;
            Step {
                step,
                loss: Some(curve(step) + noise),
                learning_rate: 2e-4,
                grad_norm: Some(0.5),
                tokens: 512,
                tokens_per_second: 190.0,
                memory_bytes: 1 << 30,
                held_out_loss: (step % (count / 6).max(1) == 0).then(|| curve(step)),
                metric: None,
            }
        })
        .collect()
}

fn store(results: &Path, record: &Record, steps: &[Step]) {
    let folder = results.join(&record.run);
    write_record(&folder.join("record.json"), record).unwrap();
    if steps.is_empty() {
        return;
    }
    let mut file = fs::File::create(folder.join("steps.jsonl")).unwrap();
    for step in steps {
        writeln!(file, "{}", serde_json::to_string(step).unwrap()).unwrap();
    }
}

/// Base and five methods, one seed.
fn experiment(results: &Path, count: u64) {
    store(results, &record("base", 0, 0, 4, 2.5), &[]);
    for (index, (method, trainable)) in METHODS.into_iter().enumerate() {
        let index = index as u64;
        let record = record(method, 0, trainable, 40 + index, 1.9 + 0.03 * index as f64);
        store(results, &record, &steps(&record, count));
    }
}

fn spec() -> ReportSpec {
    ReportSpec {
        title: "Made-up comparison".into(),
        description: "Numbers made up for a test.".into(),
        caveat: Some("This shows the pipeline and proves nothing.".into()),
        command: "sharelora sweep made-up".into(),
    }
}

fn run(record: Record) -> Run {
    Run {
        steps: steps(&record, 60),
        record,
        torn: None,
        grades: BTreeMap::new(),
        resampled: BTreeMap::new(),
        spectrum: None,
        dir: "run".into(),
    }
}

/// Runs of several tasks are one row a method with the tasks as columns: a score of one is no score of another. An axis whose
/// values share a score has rows.
#[test]
fn tasks_are_columns() {
    let of = |tasks: [&str; 2]| {
        let mut runs = Vec::new();
        for (method, trainable) in &METHODS[..2] {
            for (seed, task) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let mut record = record(method, seed, *trainable, 50 + 10 * seed, 1.0);
                let score = record.metrics["gsm8k/exact_match_strict"].clone();
                record.metrics = [(format!("{}/score", tasks[task]), score)].into();
                let value = ["first", "second"][task];
                record.axes.insert("train.task".into(), value.into());
                runs.push(run(record));
            }
        }
        compare("Tasks", &runs)
    };
    let columns = of(["cola", "rte"]);
    assert_eq!((columns.axes.len(), columns.rows.len()), (0, 2));
    assert_eq!(columns.metrics, ["cola/score", "rte/score"]);
    for row in &columns.rows {
        let seeds = columns.metrics.iter().map(|m| row.metrics[m].seeds);
        assert_eq!(seeds.collect::<Vec<_>>(), [2, 2]);
        assert_eq!(row.ended[0], 4);
    }
    let rows = of(["cola", "cola"]);
    assert_eq!((rows.axes.len(), rows.rows.len()), (1, 4));
}

/// Two ranks and two seeds, one of them diverged.
fn ranks() -> Vec<Run> {
    let mut runs = Vec::new();
    for rank in [16u64, 8] {
        for (method, correct) in [("lora", 100), ("share_a", 40)] {
            for seed in [0, 1] {
                let factor = if method == "lora" { 36_864 } else { 20_000 };
                let loss = 1.5 + 0.01 * seed as f64;
                let mut record = record(method, seed, rank * factor, correct + seed, loss);
                record.run = format!("{method}-r{rank}-seed{seed}");
                record.axes.insert("adapter.rank".into(), rank.to_string());
                if rank == 16 && method == "share_a" && seed == 1 {
                    record.status = Status::Diverged;
                    record.message = Some("the loss is NaN at step 12".into());
                    record.held_out_loss = Some(f64::NAN);
                    record.steps = 12;
                }
                runs.push(run(record));
            }
        }
    }
    runs
}

#[test]
fn the_report_of_an_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let (results, out) = (folder.path().join("results"), folder.path().join("reports"));
    experiment(&results, 60);
    let paths = write_report(&results, &out, &spec()).unwrap();
    assert_snapshot!(fs::read_to_string(&paths.report).unwrap(), @r#"
# Made-up comparison

Numbers made up for a test.

> **Note.** This shows the pipeline and proves nothing.

## What ran

- Model: SmolLM2-135M, 134,515,008 parameters
- Data: gsm8k `feedc0ffee12`
- Optimizer steps: 60
- Batch: `train.batch_size = 4`
- Backend: flex
- Host: Some CPU, 2 cores, 8 GiB memory, Linux
- Dates: 2026-11-23T10:00:00Z to 2026-11-23T11:00:00Z
- Commit: `abc1234`
- Versions: sharelora 0.1.0

## Results

| Method | Trainable parameters | of LoRA (%) | Held-out loss | gsm8k/exact\_match\_strict (%, n = 200) | Tokens/s | Peak memory (MiB) | Runs |
| :-- | --: | --: | --: | --: | --: | --: | :-- |
| Base | 0 | - | 2.5000 | 2.0 ± 1.0 (0.8 to 5.0) | - | 1,592 | 1 finished |
| LoRA | 294,912 | 100.0 | 1.9000 | 20.0 ± 2.8 (15.0 to 26.1) | 191 | 1,592 | 1 finished |
| ShareA | 159,744 | 54.2 | 1.9300 | 20.5 ± 2.9 (15.5 to 26.6) | 191 | 1,592 | 1 finished |
| ShareA\_qkv | 180,000 | 61.0 | 1.9600 | 21.0 ± 2.9 (15.9 to 27.2) | 191 | 1,592 | 1 finished |
| ShareB | 159,744 | 54.2 | 1.9900 | 21.5 ± 2.9 (16.4 to 27.7) | 191 | 1,592 | 1 finished |
| ShareAB | 24,576 | 8.3 | 2.0200 | 22.0 ± 2.9 (16.8 to 28.2) | 191 | 1,592 | 1 finished |

- Held-out loss: a setting with one seed has no interval, so differences cannot be told from the seed's noise.
- gsm8k/exact\_match\_strict: among the trained methods no difference counts.
- Not paired, for want of samples of the same questions: gsm8k/exact\_match\_strict. A difference there counts where it is larger than the 95 % interval of a difference of independent results.
- ± of a metric is its standard error, in brackets stands the 95 % interval.

Held-out loss, before to after training: Base 2.5000; LoRA 2.5000 to 1.9000; ShareA 2.5000 to 1.9300; ShareA\_qkv 2.5000 to 1.9600; ShareB 2.5000 to 1.9900; ShareAB 2.5000 to 2.0200. Differences in held-out loss have no interval, because at least one side has a single seed: they are no finding.

gsm8k/exact\_match\_strict: Base 2.0 % (95 % interval 0.8 to 5.0); LoRA 20.0 % (95 % interval 15.0 to 26.1); ShareA 20.5 % (95 % interval 15.5 to 26.6); ShareA\_qkv 21.0 % (95 % interval 15.9 to 27.2); ShareB 21.5 % (95 % interval 16.4 to 27.7); ShareAB 22.0 % (95 % interval 16.8 to 28.2). In gsm8k/exact\_match\_strict these differences count: ShareAB over Base; ShareB over Base; ShareA\_qkv over Base; ShareA over Base; LoRA over Base. Among the trained methods no difference counts.

Intervals of proportions are Wilson's, of other means of grades a percentile bootstrap's of the questions, of scores of a whole corpus the same, or else from their bootstrapped standard error. Without common questions, and for losses, a difference counts when it is larger than the 95 % interval of a difference of independent results, one pair at a time.

![Loss curves](loss.svg)

Training loss: the faint line is every step, the strong one the mean of the last twentieth of the run (at least 3 steps); values beyond the axis are drawn at its edge. Held-out loss or score: every evaluation.

![Score by trainable parameters](accuracy.svg)

Bars are 95 % intervals; markers with nearly the same number of parameters are moved apart sideways.

Files: [table.csv](table.csv), [table.tex](table.tex), [records.parquet](records.parquet), [loss.png](loss.png), [accuracy.png](accuracy.png).

## Convergence

![Held-out loss or score against steps, tokens and seconds](convergence.svg)

Means over seeds; the band is their standard deviation. Tokens and seconds are those of the optimizer steps alone.

## Quality against size and memory

![Quality against trained parameters and against memory, with the Pareto front](pareto.svg)

Means with 95 % intervals. The dashed line joins the settings that no other is better than in both directions, by their means.

## Differences from LoRA

![Differences from LoRA with their 95 % intervals](differences.svg)

Each setting less LoRA with the same other settings, with the 95 % interval; an interval that crosses the dashed line holds no difference.

## Settings

| Setting | Value |
| :-- | :-- |
| adapter.rank | 8 |
| seed | 0 |
| train.batch\_size | 4 |
| train.learning\_rate | 0.0002 |

Different from run to run: `adapter.method`; each run's record.json has its values.

## Runs

| Run | Hash | Ended | Steps | Best step | Adapter (bytes) | Seconds |
| :-- | :-- | :-- | --: | --: | --: | --: |
| base-seed0 | 0123456789ab | finished | 0 | - | 0 | 133 |
| lora-seed0 | 0123456789ab | finished | 60 | 60 | 1,179,648 | 133 |
| share\_a-seed0 | 0123456789ab | finished | 60 | 60 | 638,976 | 133 |
| share\_a\_qkv-seed0 | 0123456789ab | finished | 60 | 60 | 720,000 | 133 |
| share\_b-seed0 | 0123456789ab | finished | 60 | 60 | 638,976 | 133 |
| share\_ab-seed0 | 0123456789ab | finished | 60 | 60 | 98,304 | 133 |

## Reproduce

```sh
sharelora sweep made-up
```
"#);
}

#[test]
fn the_same_results_give_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    experiment(&results, 60);
    let files = |name: &str| -> BTreeMap<String, Vec<u8>> {
        let out = folder.path().join(name);
        write_report(&results, &out, &spec()).unwrap();
        let entries = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, fs::read(entry.path()).unwrap())
            })
            .collect()
    };
    let (first, second) = (files("first"), files("second"));
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    // No temporary file stays behind.
    assert_eq!(
        names,
        [
            "accuracy.png",
            "accuracy.svg",
            "convergence.png",
            "convergence.svg",
            "differences.png",
            "differences.svg",
            "loss.png",
            "loss.svg",
            "pareto.png",
            "pareto.svg",
            "records.parquet",
            "report.html",
            "report.md",
            "table.csv",
            "table.tex"
        ]
    );
    assert!(first == second, "a report depends on more than its results");
}

#[test]
fn tables_of_ranks_and_seeds() {
    let table = compare("Ranks & seeds", &ranks()).table;
    assert_snapshot!(table.render(Format::Markdown), @r#"
| Method | rank | Trainable parameters | of LoRA (%) | Held-out loss | gsm8k/exact\_match\_strict (%, n = 200) | Tokens/s | Peak memory (MiB) | Runs |
| :-- | --: | --: | --: | --: | --: | --: | --: | :-- |
| LoRA | 8 | 294,912 | 100.0 | 1.5050 ± 0.0071 (1.4415 to 1.5685) | 50.2 ± 3.5 (43.4 to 57.1) | 191 | 1,592 | 2 finished |
| LoRA | 16 | 589,824 | 100.0 | 1.5050 ± 0.0071 (1.4415 to 1.5685) | 50.2 ± 3.5 (43.4 to 57.1) | 191 | 1,592 | 2 finished |
| ShareA | 8 | 160,000 | 54.3 | 1.5050 ± 0.0071 (1.4415 to 1.5685) | 20.2 ± 2.9 (15.2 to 26.4) | 191 | 1,592 | 2 finished |
| ShareA | 16 | 320,000 | 54.3 | 1.5000 | 20.0 ± 2.8 (15.0 to 26.1) | 191 | 1,592 | 1 finished, 1 diverged |

- Held-out loss: a setting with one seed has no interval, so differences cannot be told from the seed's noise.
- Not paired, for want of samples of the same questions: gsm8k/exact\_match\_strict. A difference there counts where it is larger than the 95 % interval of a difference of independent results.
- ± of a metric is its standard error, in brackets stands the 95 % interval.
- Values are means over seeds; ± of the held-out loss is the standard deviation over seeds.
- share\_a-r16-seed1 diverged after 12 steps and is in no mean: the loss is NaN at step 12.
"#);
    assert_snapshot!(table.render(Format::Csv), @r#"
Method,rank,Trainable parameters,of LoRA (%),Held-out loss,Held-out loss ±,Held-out loss low,Held-out loss high,"gsm8k/exact_match_strict (%, n = 200)","gsm8k/exact_match_strict (%, n = 200) ±","gsm8k/exact_match_strict (%, n = 200) low","gsm8k/exact_match_strict (%, n = 200) high",Tokens/s,Peak memory (MiB),Runs
LoRA,8,294912,100,1.505,0.0070710678,1.44147,1.56853,50.25,3.5442735493,43.3640033955,57.1265978596,191.4,1592,2 finished
LoRA,16,589824,100,1.505,0.0070710678,1.44147,1.56853,50.25,3.5442735493,43.3640033955,57.1265978596,191.4,1592,2 finished
ShareA,8,160000,54.2534722222,1.505,0.0070710678,1.44147,1.56853,20.25,2.8524907931,15.2415028851,26.3753974824,191.4,1592,2 finished
ShareA,16,320000,54.2534722222,1.5,,,,20,2.8284271247,15.0452009261,26.0855186565,191.4,1592,"1 finished, 1 diverged"
"#);
    assert_snapshot!(table.render(Format::Latex), @r#"
% \usepackage{booktabs}
\begin{table}
  \centering
  \caption{Ranks \& seeds}
  \begin{tabular}{lrrrrrrrl}
    \toprule
    Method & rank & Trainable parameters & of LoRA (\%) & Held-out loss & gsm8k/exact\_match\_strict (\%, n = 200) & Tokens/s & Peak memory (MiB) & Runs \\
    \midrule
    LoRA & 8 & 294,912 & 100.0 & 1.5050 $\pm$ 0.0071 (1.4415 to 1.5685) & 50.2 $\pm$ 3.5 (43.4 to 57.1) & 191 & 1,592 & 2 finished \\
    LoRA & 16 & 589,824 & 100.0 & 1.5050 $\pm$ 0.0071 (1.4415 to 1.5685) & 50.2 $\pm$ 3.5 (43.4 to 57.1) & 191 & 1,592 & 2 finished \\
    ShareA & 8 & 160,000 & 54.3 & 1.5050 $\pm$ 0.0071 (1.4415 to 1.5685) & 20.2 $\pm$ 2.9 (15.2 to 26.4) & 191 & 1,592 & 2 finished \\
    ShareA & 16 & 320,000 & 54.3 & 1.5000 & 20.0 $\pm$ 2.8 (15.0 to 26.1) & 191 & 1,592 & 1 finished, 1 diverged \\
    \bottomrule
  \end{tabular}

  \smallskip\footnotesize Held-out loss: a setting with one seed has no interval, so differences cannot be told from the seed's noise.

  \smallskip\footnotesize Not paired, for want of samples of the same questions: gsm8k/exact\_match\_strict. A difference there counts where it is larger than the 95 \% interval of a difference of independent results.

  \smallskip\footnotesize $\pm$ of a metric is its standard error, in brackets stands the 95 \% interval.

  \smallskip\footnotesize Values are means over seeds; $\pm$ of the held-out loss is the standard deviation over seeds.

  \smallskip\footnotesize share\_a-r16-seed1 diverged after 12 steps and is in no mean: the loss is NaN at step 12.
\end{table}
"#);
    assert_snapshot!(terminal::render(&table, false), @r#"
Ranks & seeds

Method  rank  Trainable parameters  of LoRA (%)                       Held-out loss  gsm8k/exact_match_strict (%, n = 200)  Tokens/s  Peak memory (MiB)  Runs
-------------------------------------------------------------------------------------------------------------------------------------------------------------------------------
LoRA       8               294,912        100.0  1.5050 ± 0.0071 (1.4415 to 1.5685)              50.2 ± 3.5 (43.4 to 57.1)       191              1,592  2 finished
LoRA      16               589,824        100.0  1.5050 ± 0.0071 (1.4415 to 1.5685)              50.2 ± 3.5 (43.4 to 57.1)       191              1,592  2 finished
ShareA     8               160,000         54.3  1.5050 ± 0.0071 (1.4415 to 1.5685)              20.2 ± 2.9 (15.2 to 26.4)       191              1,592  2 finished
ShareA    16               320,000         54.3                              1.5000              20.0 ± 2.8 (15.0 to 26.1)       191              1,592  1 finished, 1 diverged

Held-out loss: a setting with one seed has no interval, so differences cannot be told from the seed's noise.
Not paired, for want of samples of the same questions: gsm8k/exact_match_strict. A difference there counts where it is larger than the 95 % interval of a difference of independent results.
± of a metric is its standard error, in brackets stands the 95 % interval.
Values are means over seeds; ± of the held-out loss is the standard deviation over seeds.
share_a-r16-seed1 diverged after 12 steps and is in no mean: the loss is NaN at step 12.
"#);
}

#[test]
fn colour_is_asked_for() {
    let table = compare("", &ranks()).table;
    assert!(!terminal::render(&table, false).contains('\u{1b}'));
    assert!(terminal::render(&table, true).contains("\u{1b}[1mMethod\u{1b}[0m"));
}

#[test]
fn bold_is_only_for_a_difference_above_its_interval() {
    let near = [
        run(record("lora", 0, 10, 100, 1.0)),
        run(record("share_a", 0, 5, 105, 1.0)),
    ];
    let near = compare("", &near);
    assert!(near.table.rows.iter().flatten().all(|cell| !cell.bold));
    let note = "gsm8k/exact_match_strict: no difference counts.";
    assert!(
        near.table.notes.iter().any(|n| n == note),
        "{:?}",
        near.table.notes
    );

    let far = [
        run(record("lora", 0, 10, 100, 1.0)),
        run(record("share_a", 0, 5, 150, 1.0)),
    ];
    let far = compare("", &far);
    let bold: Vec<_> = far
        .table
        .rows
        .iter()
        .map(|r| r.iter().any(|c| c.bold))
        .collect();
    assert_eq!(bold, [false, true]);
}

#[test]
fn methods_stand_in_their_fixed_order() {
    let names = [
        "zeta",
        "share_ab",
        "alpha",
        "share_b",
        "lora",
        "base",
        "share_a_qkv",
        "full",
        "share_a",
    ];
    let folder = tempfile::tempdir().unwrap();
    for seed in [1, 0] {
        for name in names {
            store(folder.path(), &record(name, seed, 10, 10, 1.0), &[]);
        }
    }
    let runs = read_experiment(folder.path()).unwrap();
    let order: Vec<_> = runs
        .iter()
        .map(|r| (r.record.method.as_str(), r.record.seed))
        .collect();
    let methods = [
        "base",
        "full",
        "lora",
        "share_a",
        "share_a_qkv",
        "share_b",
        "share_ab",
        "alpha",
        "zeta",
    ];
    let expected: Vec<_> = methods.into_iter().flat_map(|m| [(m, 0), (m, 1)]).collect();
    assert_eq!(order, expected);
}

#[test]
fn a_torn_last_line_is_dropped_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let record = record("lora", 0, 10, 10, 1.0);
    store(folder.path(), &record, &steps(&record, 3));
    let path = folder.path().join("lora-seed0/steps.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"step\": 4, \"lo").unwrap();
    let runs = read_experiment(folder.path()).unwrap();
    assert_eq!(runs[0].steps.len(), 3);
    assert!(runs[0].torn.as_deref().unwrap().contains("line 4"));
    assert!(
        compare("", &runs)
            .table
            .notes
            .iter()
            .any(|note| note.contains("line 4"))
    );

    // The same piece in the middle is no crash but a wrong file.
    file.write_all(b"\n{}\n").unwrap();
    let error = read_steps(&path).unwrap_err().to_string();
    assert!(error.contains("steps.jsonl:4"), "{error}");
}

#[test]
fn a_wrong_record_names_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/record.json");
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(&path, "{\n  \"schema\": 1,\n  \"experiment\": 3\n}\n").unwrap();
    let error = read_experiment(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("record.json:3") && error.contains("expected a string"),
        "{error}"
    );

    fs::write(&path, "{\"schema\": 99}").unwrap();
    let error = read_experiment(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("record.json") && error.contains("99"),
        "{error}"
    );
}

#[test]
fn an_experiment_without_records_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_report(folder.path(), &folder.path().join("out"), &spec()).unwrap_err();
    assert!(
        error.to_string().contains("run the experiment first"),
        "{error}"
    );
}

#[test]
fn runs_without_a_single_finite_number_still_give_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    for method in ["lora", "share_a"] {
        let mut record = record(method, 0, 10, 0, f64::NAN);
        record.status = Status::Diverged;
        record.tokens_per_second = Some(f64::INFINITY);
        record.metrics.insert(
            "x/y".into(),
            Metric {
                value: f64::NAN,
                stderr: None,
                n: 0,
            },
        );
        let mut steps = steps(&record, 5);
        for step in &mut steps {
            step.loss = None;
            step.grad_norm = Some(f64::NAN);
            step.tokens_per_second = f64::INFINITY;
            step.held_out_loss = None;
        }
        store(&results, &record, &steps);
    }
    fs::create_dir(results.join("share_b-seed0")).unwrap();
    fs::write(results.join("share_b-seed0/steps.jsonl"), "").unwrap();
    let paths = write_report(&results, &folder.path().join("out"), &spec()).unwrap();
    let text = fs::read_to_string(paths.report).unwrap();
    assert!(
        text.contains("No run has finished") && !text.contains("NaN"),
        "{text}"
    );
    assert!(
        text.contains("`share_b-seed0`"),
        "the unfinished run is not named"
    );
    let names: Vec<_> = paths
        .figures
        .iter()
        .map(|(svg, _)| svg.file_name())
        .collect();
    assert_eq!(names, [Some("loss.svg".as_ref())]);
}

/// Every tag closed in order, no stray `<` or `&`.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag that ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().unwrap());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        for entity in text.split('&').skip(1) {
            let name = entity.split(';').next().unwrap();
            assert!(
                ["amp", "lt", "gt", "quot", "apos"].contains(&name),
                "&{name}"
            );
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn figures_are_whole_and_name_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    experiment(&results, 60);
    let mut spec = spec();
    spec.title = "A <b> & \"c\"".into();
    let paths = write_report(&results, &folder.path().join("out"), &spec).unwrap();
    let runs = read_experiment(&results).unwrap();
    let comparison = compare(&spec.title, &runs);
    let loss = loss_curves::loss_curves(&spec.title, &runs).unwrap();
    let accuracy = accuracy::accuracy_by_parameters(&spec.title, &comparison).unwrap();
    for ((svg, png), figure) in [(&paths.figures[0], loss), (&paths.figures[1], accuracy)] {
        let svg = fs::read_to_string(svg).unwrap();
        assert_well_formed(&svg);
        let (width, height) = figure.size();
        assert!(svg.contains(&format!("viewBox=\"0 0 {width} {height}\"")));
        assert!(svg.contains(&format!(
            "width=\"{}\" height=\"{}\"",
            width / 2,
            height / 2
        )));
        for name in ["LoRA", "ShareA", "ShareA_qkv", "ShareB", "ShareAB"] {
            let found = svg.lines().any(|line| line.trim() == name);
            assert!(found, "{name} is not in the legend");
        }
        let decoder = png::Decoder::new(fs::File::open(png).unwrap());
        let mut reader = decoder.read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), (width, height));
        let mut pixels = vec![0; reader.output_buffer_size()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(&pixels[..3], [255; 3], "the background is white");
        let ink = pixels.iter().filter(|byte| **byte < 128).count();
        assert!(ink > 10_000, "an empty figure");
    }
}

#[test]
fn parquet_has_a_column_for_every_key() {
    let mut second = record("share_a", 0, 5, 20, 2.0);
    second.metrics.clear();
    second.axes.insert("rank".into(), "8".into());
    let first = record("lora", 0, 10, 20, f64::NAN);
    let frame = collect::frame(&[&first, &second]).unwrap();
    assert_eq!(frame.height(), 2);
    let column = |name: &str| frame.column(name).unwrap().as_materialized_series().clone();
    let metric = column("metric:gsm8k/exact_match_strict");
    assert_eq!(metric.f64().unwrap().get(0), Some(0.1));
    assert_eq!(metric.f64().unwrap().get(1), None);
    assert_eq!(
        column("n:gsm8k/exact_match_strict").u64().unwrap().get(0),
        Some(200)
    );
    assert_eq!(column("axis:rank").str().unwrap().get(1), Some("8"));
    assert_eq!(column("seconds:train").f64().unwrap().get(1), Some(100.0));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.parquet");
    collect::write_parquet(&path, &[&first, &second]).unwrap();
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

/// Draws the figures into the folder named by `SHARELORA_FIGURES`, for eyes.
#[test]
fn figures_for_eyes() {
    let Some(out) = std::env::var_os("SHARELORA_FIGURES") else {
        println!("skipped: SHARELORA_FIGURES names no folder");
        return;
    };
    let out = Path::new(&out);
    let folder = tempfile::tempdir().unwrap();
    experiment(folder.path(), 400);
    write_report(folder.path(), out, &spec()).unwrap();
    let ranks = ranks();
    let loss = loss_curves::loss_curves("Ranks: loss", &ranks).unwrap();
    figure::write_png(&out.join("ranks-loss.png"), &loss).unwrap();
    let comparison = compare("", &ranks);
    let title =
        "A long title that a single panel has to make smaller before it fits: score against size";
    let accuracy = accuracy::accuracy_by_parameters(title, &comparison).unwrap();
    figure::write_png(&out.join("ranks-accuracy.png"), &accuracy).unwrap();
}

proptest! {
    #[test]
    fn markdown_leaves_no_special_raw(text in ".*") {
        let escaped = markdown::escape(&text);
        let mut characters = escaped.chars();
        while let Some(character) = characters.next() {
            if character == '\\' {
                let next = characters.next();
                prop_assert!(next.is_some_and(|next| markdown::SPECIAL.contains(&next)));
            } else {
                prop_assert!(!markdown::SPECIAL.contains(&character) && character != '\n');
            }
        }
    }

    #[test]
    fn latex_leaves_no_special_raw(text in "[ -~±×\n]*") {
        let mut rest = latex::escape(&text);
        // What escaping may write; nothing special is left without it.
        for written in [
            r"\textasciitilde{}", r"\textasciicircum{}", r"\textbackslash{}", r"\textless{}", r"\textgreater{}",
            r"\textbar{}", r"$\pm$", r"$\times$", r"\%", r"\_", r"\&", r"\#", r"\$", r"\{", r"\}",
        ] {
            rest = rest.replace(written, " ");
        }
        prop_assert!(!rest.contains(['%', '_', '&', '#', '$', '{', '}', '~', '^', '\\', '\n']), "{}", rest);
    }

    #[test]
    fn thousands_keeps_the_digits_in_threes(number: u64) {
        let text = thousands(number);
        prop_assert_eq!(text.replace(',', "").parse::<u64>().unwrap(), number);
        let groups: Vec<_> = text.split(',').collect();
        prop_assert!((1..=3).contains(&groups[0].len()));
        prop_assert!(groups[1..].iter().all(|group| group.len() == 3));
    }

    #[test]
    fn ticks_are_inside_and_rise(low in -1e6f64..1e6, span in 1e-6f64..1e6) {
        let (ticks, _) = figure::ticks((low, low + span), 6);
        prop_assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]));
        let room = 1e-9 * (low.abs() + span);
        prop_assert!(ticks.iter().all(|tick| *tick >= low - room && *tick <= low + span + room));
        prop_assert!((2..=8).contains(&ticks.len()), "{:?}", ticks);
    }

    #[test]
    fn wilson_holds_the_estimate(correct in 0u64..=500, more in 0u64..500) {
        let n = correct + more;
        prop_assume!(n > 0);
        let p = correct as f64 / n as f64;
        let (low, high) = statistics::wilson(p, n);
        prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0 && low < high);
    }
}

#[test]
fn statistics_match_published_values() {
    // Newcombe 1998, Statistics in Medicine 17:857, table I: 81/263 by the score method.
    let (low, high) = statistics::wilson(81.0 / 263.0, 263);
    assert!(
        (low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5,
        "{low} {high}"
    );
    // Newcombe 1998, 17:873, table II: 56/70 and 48/80 differ by 0.0524 to 0.3339 (method 10).
    let proportion = |correct: f64, n: u64| {
        let p = correct / n as f64;
        let error = (p * (1.0 - p) / n as f64).sqrt();
        statistics::metric(&[(p, Some(error), n)], None).unwrap()
    };
    let (a, b) = (proportion(56.0, 70), proportion(48.0, 80));
    let difference = difference::unpaired(&a, &b);
    let (low, high) = difference.interval.unwrap();
    assert!(
        (low - 0.0524).abs() < 5e-5 && (high - 0.3339).abs() < 5e-5,
        "{low} {high}"
    );
    assert_eq!(differs(&difference), Some(true));
    assert_eq!(differs(&difference::unpaired(&b, &a)), Some(true));
    // Five seeds of 1..5: mean 3, deviation sqrt 2.5, t = 2.776.
    let loss = statistics::loss(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    assert!((loss.spread.unwrap() - 2.5f64.sqrt()).abs() < 1e-12);
    assert!((loss.interval.unwrap().1 - (3.0 + 2.776 * (0.5f64).sqrt())).abs() < 1e-9);
    // One seed has no interval.
    let single = statistics::loss(&[9.0]).unwrap();
    assert_eq!(differs(&difference::unpaired(&loss, &single)), None);
}

/// Losses of the held-out rows of two datasets say nothing of each other, whatever their intervals.
#[test]
fn losses_of_other_rows_are_not_compared() {
    let of = |tasks: [&str; 2]| {
        let mut runs = Vec::new();
        for (method, loss) in [("lora", 1.0), ("share_a", 1.5)] {
            for (place, task) in tasks.iter().enumerate() {
                for seed in 0..3 {
                    let loss = loss + 5.0 * place as f64 + 0.001 * seed as f64;
                    let mut record = record(method, seed, 1000, 50, loss);
                    record.axes.insert("train.steps".into(), place.to_string());
                    record.config["train"]["task"] = (*task).into();
                    runs.push(run(record));
                }
            }
        }
        comparison::compare("Made up", &runs).judge_loss()
    };
    let pairs = |tasks| of(tasks).pairs.len();
    assert_eq!(
        (pairs(["gsm8k", "gsm8k"]), pairs(["gsm8k", "alpaca"])),
        (6, 2)
    );
    let apart = of(["gsm8k", "alpaca"]);
    assert!(
        apart.judged
            && apart
                .pairs
                .iter()
                .all(|pair| *pair == (0, 2) || *pair == (1, 3))
    );
}

/// The matrix of transfer: a panel a method, a cell for what was trained on and what was measured, and less loss is better.
#[test]
fn transfer_is_a_matrix() {
    let metric = |value: f64| Metric {
        value,
        stderr: None,
        n: 10,
    };
    let mut runs = Vec::new();
    let measured = |record: &mut Record, a: f64, b: f64| {
        record.metrics = BTreeMap::from([
            ("a/held_out_loss".into(), metric(a)),
            ("b/held_out_loss".into(), metric(b)),
        ]);
    };
    let mut base = record("base", 0, 0, 4, 2.5);
    measured(&mut base, 3.0, 4.0);
    runs.push(run(base));
    for method in ["lora", "share_a"] {
        for (task, a, b) in [("a", 1.0, 4.5), ("b", 2.5, 2.0)] {
            let mut record = record(method, 0, 1000, 4, 2.5);
            record.config["train"]["task"] = task.into();
            record.axes.insert("train.task".into(), task.into());
            measured(&mut record, a, b);
            runs.push(run(record));
        }
    }
    let figure = transfer::figure("Made up", &runs).unwrap();
    let panel = &figure.panels[1];
    assert_eq!((figure.panels.len(), panel.title.as_str()), (2, "ShareA"));
    let cells: Vec<String> = (panel.words.iter().zip(&panel.areas))
        .map(|(words, area)| {
            let named = |names: &[(f64, String)], at: f64| {
                names
                    .iter()
                    .find(|(place, _)| *place == at)
                    .unwrap()
                    .1
                    .clone()
            };
            let better = figure.legend[0].colour == area.colour;
            let (x, y) = words.at;
            format!(
                "{} on {}: {} {better} {:.2}",
                named(&panel.y_names, y),
                named(&panel.x_names, x),
                words.text,
                area.opacity
            )
        })
        .collect();
    assert_snapshot!(cells.join("\n"), @r"
    a on a: −2.000 true 0.60
    a on b: +0.500 false 0.15
    b on a: −0.500 true 0.15
    b on b: −2.000 true 0.60
    ");
    runs.truncate(2);
    assert_eq!(transfer::figure("Made up", &runs), None);
}
