//! Spectrum against forgetting, from stored results: a sequence of tasks by two methods and three seeds, with made-up numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;
use sharelora_report::forgetting::section;
use sharelora_report::front::Front;
use sharelora_report::paper::{Studies, Study};
use sharelora_report::stored_spectrum::{self, StoredChange, StoredSite, StoredSpectrum};
use sharelora_report::{
    Block, ReportSpec, Run, markdown, read_experiment, write_record, write_report,
};

const SEQUENCE: [&str; 4] = ["alpaca", "gsm8k", "codealpaca", "alpaca"];

/// Of each chain, stage by stage from the second: the norm of the change, and what is forgotten in 128ths of a nat. LoRA's three
/// seeds, then ShareA's.
const NORMS: [[u32; 3]; 6] = [
    [4, 6, 5],
    [5, 7, 5],
    [3, 6, 4],
    [2, 3, 2],
    [3, 3, 1],
    [2, 4, 3],
];
const FORGOTTEN: [[i32; 3]; 6] = [
    [30, 12, 21],
    [38, 10, 24],
    [25, 16, 19],
    [20, 6, 15],
    [22, 9, 11],
    [18, 11, 17],
];

/// Writes one chain into `results`. Of the earlier tasks' losses the first rises by one more than the mean, the last by one less.
fn store(results: &Path, chain: usize, rank: Option<u64>) {
    let (method, seed) = (["lora", "share_a"][chain / 3], chain % 3);
    let mut losses: BTreeMap<&str, i32> = SEQUENCE.map(|task| (task, 512)).into();
    for stage in 1..=SEQUENCE.len() {
        let path = SEQUENCE[..stage].join("+");
        let task = SEQUENCE[stage - 1];
        let hash = |stages: usize| format!("{chain:032x}{stages:032x}");
        let mut earlier: Vec<&str> = SEQUENCE[..stage - 1].to_vec();
        earlier.retain(|other| *other != task);
        earlier.sort_unstable();
        earlier.dedup();
        let last = earlier.len().saturating_sub(1);
        for (place, other) in earlier.iter().enumerate() {
            let more = i32::from(place == 0) - i32::from(place == last);
            *losses.get_mut(other).unwrap() += FORGOTTEN[chain][stage - 2] + more;
        }
        *losses.get_mut(task).unwrap() -= 64;
        let metrics = losses.iter().map(|(task, loss)| {
            let metric = json!({"value": f64::from(*loss) / 128.0, "stderr": 0.1, "n": 24});
            (format!("{task}/held_out_loss"), metric)
        });
        let mut axes = json!({"method": method, "seed": seed.to_string(), "stages": path});
        if let Some(rank) = rank {
            axes["adapter.rank"] = rank.to_string().into();
        }
        let record = json!({
            "schema": 1, "experiment": "made-up", "run": format!("{method}-seed{seed}-{path}"), "hash": hash(stage),
            "status": "finished", "message": null, "model": "m", "method": method, "seed": seed, "backend": "flex", "axes": axes,
            "config": {"method": method, "adapter": {"rank": rank.unwrap_or(8)}, "train": {"task": task}},
            "trainable_parameters": 100, "adapter_bytes": 400, "base_parameters": 1000, "steps": 4, "train_loss": 1.0,
            "held_out_loss": 1.0, "held_out_loss_before": 2.0, "best_step": null, "metrics": metrics.collect::<BTreeMap<_, _>>(),
            "data": {}, "versions": {}, "git_commit": null,
            "host": {"cpu": "c", "cores": 2, "memory_bytes": 1, "os": "o"},
            "started_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:01:00Z", "seconds": {}, "tokens_per_second": 5.0,
            "peak_memory_bytes": 1u64 << 30,
        });
        let folder = results.join(format!("{chain}-{stage}"));
        let record = serde_json::from_value(record).unwrap();
        write_record(&folder.join("record.json"), &record).unwrap();
        let width = rank.unwrap_or(1) as usize;
        let change = |norm: u32, layer: usize| StoredChange {
            // As many equal values as the rank, of a whole square root: effective rank and norm are exact.
            values: vec![norm as f32 / (width as f32).sqrt(); width],
            output_overlap: (layer == 0).then_some(0.25),
            input_overlap: Some(0.125 * (1 + (chain + stage) % 5) as f32),
        };
        let site = |layer: usize| StoredSite {
            layer,
            projection: "q_proj".into(),
            shape: [8, 8],
            weight_norm: Some(16.0),
            values: vec![1.0],
            change: (stage > 1).then(|| change(NORMS[chain][stage - 2], layer)),
        };
        let spectrum = StoredSpectrum {
            schema: stored_spectrum::SCHEMA,
            from: (stage > 1).then(|| hash(stage - 1)),
            sites: vec![site(0), site(1)],
        };
        stored_spectrum::write(&folder, &spectrum).unwrap();
    }
}

fn stored(chains: &[usize], rank: fn(usize) -> Option<u64>) -> (tempfile::TempDir, Vec<Run>) {
    let results = tempfile::tempdir().unwrap();
    for chain in chains {
        store(results.path(), *chain, rank(*chain));
    }
    let runs = read_experiment(results.path()).unwrap();
    (results, runs)
}

fn text(runs: &[Run]) -> String {
    section("Made up", runs).map_or_else(String::new, |found| markdown::section(&found))
}

/// The whole section. The correlations with the norm are SciPy's 1.17.1 (scipy.stats.spearmanr; `within` is of both arrays less their means
/// over axis 0): X = NORMS, Y = FORGOTTEN, spearmanr(X.ravel(), Y.ravel()) = 0.0998, spearmanr((X - X.mean(0)).ravel(), (Y - Y.mean(0)).ravel())
/// = 0.7998. A measure that is the same everywhere has no correlation.
#[test]
fn a_section_says_what_goes_with_forgetting() {
    let (_results, runs) = stored(&[0, 1, 2, 3, 4, 5], |_| None);
    assert_snapshot!(text(&runs), @r"
## Spectrum and forgetting

Does what a stage forgets go with the singular values of the change that it makes to the weights? Forgetting is the mean, over the tasks that were learnt earlier and are not the stage's own, of what the held-out loss rose (nats per token) from before the stage to behind it.

| Measure of the change | All stages | Within stages | Stages | Chains |
| :-- | --: | --: | --: | --: |
| Effective rank | - | - | - | - |
| Stable rank | - | - | - | - |
| Energy in the largest singular value | - | - | - | - |
| Norm against the frozen weight's | +0.10 (−0.48 to +0.25) | +0.80 (+0.52 to +0.95) | 18 | 6 |
| Output overlap with the earlier update | - | - | - | - |
| Input overlap with the earlier update | −0.06 (−0.41 to +0.28) | +0.06 (−0.52 to +0.60) | 18 | 6 |

- Spearman's rho, in brackets its 95 % interval: above 0, more is forgotten where the measure is larger. Measures are means over the sites of the change in the weight, not of the whole update. Within stages: of both, the mean of the stages with the same place and task is taken off first.
- Overlap is the mean squared cosine of the angles between the earlier update's space, of k dimensions, and that of the change's k largest singular values.
- Methods stand together: where they differ in both, that difference is in the correlation, and says nothing of cause.
- Intervals are percentiles of 10,000 resamples of whole chains, the stages that build on one first stage, one correlation at a time: nothing is corrected for their number.
- Of fewer than 20 chains such intervals tend to be too narrow.
- Resamples in which all values are equal have no correlation and are left out, at most 23 of an interval.

Over all stages: every interval holds 0, so no measure is shown to go with forgetting.

Within stages: the interval leaves out 0 for norm against the frozen weight's, rho +0.80 (+0.52 to +0.95).

![Forgetting against the effective rank of each stage's change](forgetting.svg)

A point is a stage of one chain; the effective rank of its change is the mean over the sites. The first panel has all stages, the others those of one place and task, each on its own scale of forgetting.
");
}

/// Where ranks vary, the correlation within one method is said too; three chains of one have no interval. SciPy, as above, LoRA's rows:
/// spearmanr(X[:3].ravel(), Y[:3].ravel()) = -0.7096.
#[test]
fn ranks_are_judged_within_a_method() {
    let (_results, runs) = stored(&[0, 1, 2, 3, 4, 5], |chain| Some([4, 16, 64][chain % 3]));
    let text = text(&runs);
    let row = text
        .lines()
        .find(|line| line.contains("Norm") && line.contains("LoRA"));
    assert_snapshot!(row.unwrap_or(&text), @"| Norm against the frozen weight's | LoRA | −0.71 | +0.49 | 9 | 3 |");
    assert!(
        text.contains("fewer than 5 chains there is no interval"),
        "{text}"
    );
    assert!(text.contains("the smallest rank is the darkest"), "{text}");
}

/// Of too few stages nothing is claimed, and where nothing is stored nothing is said; a spectrum whose change is from another run than the
/// stage before is no observation.
#[test]
fn too_little_is_said_plainly() {
    let (results, runs) = stored(&[0], |_| None);
    assert_snapshot!(text(&runs), @r"
## Spectrum and forgetting

Of 3 stages of 1 chain the change's singular values and what was forgotten are stored: too few to say whether the two go together, for which there have to be 5 stages of 2 chains.
");
    let mut none = runs.clone();
    none.iter_mut().for_each(|run| run.spectrum = None);
    assert_eq!(text(&none), "");
    let mut other = runs.clone();
    for run in &mut other {
        let from = run
            .spectrum
            .as_mut()
            .and_then(|spectrum| spectrum.from.as_mut());
        from.into_iter().for_each(|hash| hash.push('0'));
    }
    assert_eq!(text(&other), "");

    // A file that was cut off ends reading, by its name.
    let path = results.path().join("0-2").join(stored_spectrum::FILE);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let message = read_experiment(results.path()).unwrap_err().to_string();
    assert!(
        message.contains("0-2/spectrum.json.zst: not a valid spectrum"),
        "{message}"
    );
}

/// Report and page have the section with its figure, the same bytes each time.
#[test]
fn report_and_page_have_it() {
    let (results, _) = stored(&[0, 1, 2, 3, 4, 5], |_| None);
    let spec = ReportSpec {
        title: "Made up".into(),
        command: "sharelora sweep made-up".into(),
        ..ReportSpec::default()
    };
    let mut last = None;
    for _ in 0..2 {
        let out = tempfile::tempdir().unwrap();
        let paths = write_report(results.path(), out.path(), &spec).unwrap();
        let read = |name: &str| fs::read(out.path().join(name)).unwrap();
        let report = String::from_utf8(read("report.md")).unwrap();
        assert!(report.contains("## Spectrum and forgetting"), "{report}");
        let page = fs::read_to_string(&paths.page).unwrap();
        assert!(page.contains("id=\"figure-forgetting\""));
        let files = [
            read("report.md"),
            read("forgetting.svg"),
            read("forgetting.png"),
        ];
        assert!(last.is_none_or(|last| last == files));
        last = Some(files);
    }
}

/// A panel for all stages and one for each, on one axis, with every stage of every chain.
#[test]
fn the_figure_shows_every_stage() {
    let (_results, runs) = stored(&[0, 1, 2, 3, 4, 5], |chain| Some([4, 16, 64][chain % 3]));
    let found = section("Made up", &runs).unwrap();
    let figure = found.blocks.iter().find_map(|block| match block {
        Block::Figure(picture) => Some(&picture.figure),
        _ => None,
    });
    let figure = figure.unwrap();
    let titles: Vec<&str> = figure.panels.iter().map(|p| p.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "All stages",
            "Stage 2: gsm8k",
            "Stage 3: codealpaca",
            "Stage 4: alpaca"
        ]
    );
    let marks: Vec<usize> = figure.panels.iter().map(|p| p.marks.len()).collect();
    assert_eq!(marks, [18, 6, 6, 6]);
    let labels: Vec<&str> = figure.legend.iter().map(|e| e.label.as_str()).collect();
    assert_eq!(
        labels[..3],
        ["LoRA, rank 4", "LoRA, rank 16", "LoRA, rank 64"]
    );
}

/// The front page cites a correlation by name, over all methods or within one, and refuses a name that means nothing.
#[test]
fn the_front_page_cites_a_correlation() {
    let (_results, runs) = stored(&[0, 1, 2, 3, 4, 5], |_| None);
    let studies = Studies::from([("made-up".to_owned(), Study::new("Made up", runs))]);
    let page = |value: &str, methods: &[&str]| {
        let front = json!({
            "title": "T", "line": "l", "introduction": "i", "experiments": [], "paper": [], "links": [],
            "numbers": [{"question": "Spectrum against forgetting", "experiment": "made-up", "value": value, "methods": methods}],
        });
        let front: Front = serde_json::from_value(front).unwrap();
        front.page(&studies, &Default::default(), &[], &[])
    };
    let rows = |page: String| -> String {
        let rows = page
            .lines()
            .filter(|line| line.contains("| rho") || line.contains("not run |"));
        rows.collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(rows(page("forgetting_within_stages/norm", &[]).unwrap()), @"| Spectrum against forgetting | all | - | rho +0.80 (+0.52 to +0.95), 18 stages of 6 chains | - |");
    assert_snapshot!(rows(page("forgetting/norm", &["lora", "share_b"]).unwrap()), @r"
| Spectrum against forgetting | LoRA | - | rho −0.71, 9 stages of 3 chains | - |
|  | ShareB | - | not run | - |
");
    let wrong = page("forgetting/rank", &[]).unwrap_err();
    assert_snapshot!(wrong, @r#"numbers: Spectrum against forgetting: `value` = "forgetting/rank": after the `/` stands one of effective_rank, stable_rank, energy, norm, output_overlap, input_overlap"#);
}

/// The report has the singular values of the last stage's updates alone: a rank-1 update of value 1 at weights of norm 16.
#[test]
fn a_report_has_the_last_stages_spectra() {
    let (_results, runs) = stored(&[0, 1, 2, 3, 4, 5], |_| None);
    let found = sharelora_report::spectrum_section::section("Made up", &runs).unwrap();
    let Block::Table(table) = &found.blocks[0] else {
        panic!()
    };
    let rows: Vec<Vec<&str>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.text.as_str()).collect())
        .collect();
    let numbers = [
        "3",
        "1.000 ± 0.000",
        "1.00 ± 0.00",
        "1.00 ± 0.00",
        "100.0 ± 0.0",
        "6.25 ± 0.00",
    ];
    for (row, method) in rows.iter().zip(["LoRA", "ShareA"]) {
        assert_eq!(row[..], [&[method], &numbers[..]].concat());
    }
    let Block::Figure(picture) = &found.blocks[1] else {
        panic!()
    };
    assert_eq!(picture.figure.legend.len(), 2);
}
