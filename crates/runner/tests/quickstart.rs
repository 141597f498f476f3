//! The first command that a reader tries, shortened, on the model that ships.

mod support;

use std::path::{Path, PathBuf};

use support::{Output, command, files, leftovers, output, run_dirs};

const SETS: [&str; 8] = [
    "train.steps=8",
    "train.warmup_steps=2",
    "train.rows=200",
    "train.held_out=16",
    "train.evaluate_every=4",
    "train.checkpoint_every=4",
    "evaluate.0.options.limit=8",
    "evaluate.0.options.max_new_tokens=12",
];

struct Quickstart {
    home: tempfile::TempDir,
    root: PathBuf,
}

impl Quickstart {
    /// None, and a line that says so, where the pocket model has not been made.
    fn new() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .canonicalize()
            .unwrap();
        if !root.join("models/pocket/model.safetensors").is_file() {
            println!("skipped: no models/pocket (made by `sharelora pretrain-pocket`)");
            return None;
        }
        Some(Quickstart {
            home: tempfile::tempdir().unwrap(),
            root,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `COMMAND quickstart` with the shortening settings, its output kept out of the repository.
    fn named(&self, name: &str, more: &[&str]) -> Output {
        let sets = SETS.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = [name, "quickstart"]
            .into_iter()
            .chain(sets)
            .chain(more.iter().copied())
            .collect();
        self.succeed(&arguments)
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> Output {
        let output = output(
            command(&self.root, self.home.path(), arguments)
                .args(["--results".as_ref(), self.path("results").as_os_str()])
                .args(["--reports".as_ref(), self.path("reports").as_os_str()]),
        );
        assert_eq!(
            output.code,
            Some(0),
            "{arguments:?}\n{}{}",
            output.out,
            output.err
        );
        for text in [&output.out, &output.err] {
            assert!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
        }
        output
    }
}

#[test]
fn from_nothing_to_a_report() {
    let Some(quick) = Quickstart::new() else {
        return;
    };
    let dry = quick.named("sweep", &["--dry-run"]);
    assert!(dry.out.contains("5 runs: 0 done, 5 to do"), "{}", dry.out);
    let written: Vec<PathBuf> = files(quick.home.path()).into_keys().collect();
    assert!(written.is_empty(), "a dry run wrote {written:?}");

    quick.named("sweep", &["--only", "share_a-"]);
    let results = quick.path("results/quickstart");
    assert_eq!(
        run_dirs(&results).keys().collect::<Vec<_>>(),
        ["share_a-seed0"]
    );
    let first = files(&results);

    let sweep = quick.named("sweep", &[]);
    let labels = [
        "base",
        "lora-seed0",
        "share_a-seed0",
        "share_ab-seed0",
        "share_b-seed0",
    ];
    assert_eq!(run_dirs(&results).keys().collect::<Vec<_>>(), labels);
    for method in ["Base", "LoRA", "ShareA", "ShareB", "ShareAB"] {
        let row = |line: &str| line.split_whitespace().next() == Some(method);
        assert!(sweep.out.lines().any(row), "no row {method}: {}", sweep.out);
    }
    for (name, count) in [("report: ", 1), ("page: ", 1), ("figure: ", 6)] {
        let paths: Vec<&str> = sweep
            .out
            .lines()
            .filter_map(|l| l.strip_prefix(name))
            .collect();
        assert_eq!(paths.len(), count, "{}", sweep.out);
        for path in paths {
            assert!(
                Path::new(path).starts_with(quick.path("reports/quickstart")),
                "{path}"
            );
            assert!(std::fs::metadata(path).unwrap().len() > 0, "{path}");
        }
    }
    let report = std::fs::read_to_string(quick.path("reports/quickstart/report.md")).unwrap();
    assert!(
        report.contains("proves nothing"),
        "the caveat is in the report"
    );
    assert!(
        report.contains("--set 'train.steps=8'"),
        "the report says which command made it"
    );
    for (label, dir) in run_dirs(&results) {
        assert_eq!(
            dir.join("adapter/adapter.safetensors").is_file(),
            label != "base",
            "{label}"
        );
        assert!(dir.join("samples-pocket.jsonl.zst").is_file(), "{label}");
    }

    // What is done is not touched, by --only's sweep or by this one.
    let before = files(&results);
    assert!(
        first
            .iter()
            .all(|(path, bytes)| before.get(path) == Some(bytes))
    );
    let time = |dir: &Path| {
        std::fs::metadata(dir.join("record.json"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let times: Vec<_> = run_dirs(&results).values().map(|dir| time(dir)).collect();
    let again = quick.named("sweep", &[]);
    assert!(
        again.out.contains("5 runs: 5 done, 0 to do"),
        "{}",
        again.out
    );
    assert_eq!(files(&results), before);
    assert_eq!(
        run_dirs(&results)
            .values()
            .map(|dir| time(dir))
            .collect::<Vec<_>>(),
        times
    );

    let old = files(&quick.path("reports"));
    std::fs::remove_dir_all(quick.path("reports")).unwrap();
    quick.named("report", &[]);
    assert_eq!(
        files(&quick.path("reports")),
        old,
        "a report is a function of the results"
    );

    let dir = run_dirs(&results)["share_a-seed0"].display().to_string();
    let score = quick.succeed(&[
        "score",
        &format!("{dir}/samples-pocket.jsonl.zst"),
        "--task",
        "pocket",
    ]);
    assert!(score.out.contains("0 of 8 grades differ"), "{}", score.out);

    let (peft, native) = (quick.path("peft"), quick.path("native"));
    quick.succeed(&[
        "export",
        &dir,
        "--format",
        "peft",
        "--out",
        &peft.to_string_lossy(),
    ]);
    let text = std::fs::read_to_string(peft.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["r"]),
        (&"LORA".into(), &8.into()),
        "{text}"
    );
    assert!(peft.join("adapter_model.safetensors").is_file());
    quick.succeed(&[
        "export",
        &dir,
        "--format",
        "native",
        "--out",
        &native.to_string_lossy(),
    ]);
    let adapter = |dir: &Path| std::fs::read(dir.join("adapter.safetensors")).unwrap();
    assert_eq!(adapter(&native), adapter(&Path::new(&dir).join("adapter")));
    assert_eq!(leftovers(&quick.path("results")), Vec::<PathBuf>::new());
}
