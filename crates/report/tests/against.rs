//! Two runs, or two sweeps, against each other.

mod made_up;

use std::path::Path;

use insta::assert_snapshot;
use made_up::{MadeUp, experiment};
use sharelora_report::against::{Against, Side, against};
use sharelora_report::record::read_run;
use sharelora_report::{against_text, compare, read_experiment};

fn side(name: &str, results: &Path, runs: &[&MadeUp]) -> Side {
    let runs = runs.iter().map(|run| read_run(run.store(results)).unwrap());
    Side {
        name: name.into(),
        runs: runs.collect(),
    }
}

fn by_method(results: &Path, runs: &[MadeUp], samples: usize) -> Against {
    let of = |method: &str| {
        runs.iter()
            .filter(|run| run.method == method)
            .collect::<Vec<_>>()
    };
    let a = side("made-up/lora", results, &of("lora"));
    let b = side("made-up/share_a", results, &of("share_a"));
    against(&a, &b, samples).unwrap()
}

/// The differences are those of the report on the same runs, by the same estimates and tests.
#[test]
fn the_numbers_are_those_of_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let runs = experiment("made-up", 8);
    let found = by_method(folder.path(), &runs, 0);
    let report = compare(
        "",
        &read_experiment(&folder.path().join("made-up")).unwrap(),
    );
    let metric = "gsm8k/exact_match_strict";
    let pair = &found.pairs[0];
    let measure = &pair.metrics[metric];
    assert_eq!(measure.a.as_ref(), report.rows[0].metrics.get(metric));
    assert_eq!(measure.b.as_ref(), report.rows[1].metrics.get(metric));
    assert_eq!(measure.difference, report.pairs[metric].difference(1, 0));
    assert_eq!(measure.counts, Some(true));
    assert_eq!(
        pair.held_out_loss.difference,
        report.loss_pairs().difference(1, 0)
    );
    assert_eq!(pair.held_out_loss.a, report.rows[0].held_out_loss);
}

/// Plain text: what a reader sees where the output is piped.
#[test]
fn a_comparison_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let found = by_method(folder.path(), &experiment("made-up", 8), 1);
    let text = against_text::render(&found, false);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}') && !text.contains('\r'));
    assert_snapshot!(text, @r"
    A  made-up/lora: made-up/lora-seed0, made-up/lora-seed1
    B  made-up/share_a: made-up/share_a-seed0, made-up/share_a-seed1

    Settings that differ

    Key     A     B
    ---------------------
    method  lora  share_a

    ShareA (B) against LoRA (A)

    Measure                                                        A                                   B                                    B − A  Counts
    -----------------------------------------------------------------------------------------------------------------------------------------------------
    Runs                                                  2 finished                          2 finished                                        -  -
    Trainable parameters                                     327,680                             196,608                       −131,072 (−40.0 %)  -
    Held-out loss                 1.5100 ± 0.0141 (1.3829 to 1.6371)  1.6150 ± 0.0212 (1.4244 to 1.8056)  +0.1050 (−0.1241 to 0.3341), not paired  no
    gsm8k/exact_match_strict (%)           62.5 ± 8.0 (46.3 to 76.7)           27.5 ± 7.5 (14.6 to 44.3)        −35.0 (−51.1 to −18.9), p < 0.001  yes
    Tokens/s                                                    50.5                                50.5                                      0.0  -
    Peak memory (MiB)                                          1,592                               1,592                                        0  -

    gsm8k/exact_match_strict: paired, on the same 40 questions; p by a paired bootstrap of 10,000 resamples of the questions, Holm-corrected. It counts where the 95 % interval leaves out 0 and p is below 0.05.
    Held-out loss: ± is the standard deviation over seeds; the difference is one of independent results.

    gsm8k/exact_match_strict: A is graded higher on 16 questions, B on 0, both the same on 24.

    Question 0: A 1, B 0
        What is 0 and one?
      Reference
        1
      A lora-seed0 (exact_match_strict 1)
        It is 1.
      A lora-seed1 (exact_match_strict 1)
        It is 1.
      B share_a-seed0 (exact_match_strict 0)
        No idea. �[2Jgone��
      B share_a-seed1 (exact_match_strict 0)
        No idea. �[2Jgone��
    ");
    let coloured = against_text::render(&found, true);
    assert!(coloured.contains("\u{1b}[1mSettings") || coloured.contains("\u{1b}[1mKey"));
}

/// Sweeps are matched by method; what one alone has is named, and only the keys that differ are listed.
#[test]
fn sweeps_are_matched_by_method() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (experiment("small", 8), experiment("large", 16));
    let a = side("small", folder.path(), &small.iter().collect::<Vec<_>>());
    let b = side(
        "large",
        folder.path(),
        &large[..2].iter().collect::<Vec<_>>(),
    );
    let found = against(&a, &b, 0).unwrap();
    // A single setting is compared with each of the other side.
    let labels: Vec<(&str, &str)> = found
        .pairs
        .iter()
        .map(|pair| (&*pair.labels.a, &*pair.labels.b))
        .collect();
    assert_eq!(labels, [("LoRA", "LoRA"), ("ShareA", "LoRA")]);
    let b = side("large", folder.path(), &large.iter().collect::<Vec<_>>());
    let found = against(&a, &b, 0).unwrap();
    let labels: Vec<(&str, &str)> = found
        .pairs
        .iter()
        .map(|pair| (&*pair.labels.a, &*pair.labels.b))
        .collect();
    assert_eq!(labels, [("LoRA", "LoRA"), ("ShareA", "ShareA")]);
    assert!(found.only_a.is_empty() && found.only_b.is_empty());
    let settings: Vec<(&str, String, String)> = found
        .settings
        .iter()
        .map(|s| (&*s.key, s.a.join(","), s.b.join(",")))
        .collect();
    assert_eq!(settings, [("adapter.rank", "8".into(), "16".into())]);
    // The same answers: nothing differs, and that is said with a p-value of 1.
    let measure = &found.pairs[0].metrics["gsm8k/exact_match_strict"];
    assert_eq!(measure.counts, Some(false));
    assert_eq!(found.pairs[0].graded[0].same, made_up::QUESTIONS as usize);
}

/// A run has nothing to say against itself.
#[test]
fn a_run_against_itself_is_no_pair() {
    let folder = tempfile::tempdir().unwrap();
    let runs = experiment("made-up", 8);
    let one = side("made-up/lora-seed0", folder.path(), &[&runs[0]]);
    let found = against(&one, &one, 3).unwrap();
    assert!(found.pairs.is_empty() && found.settings.is_empty());
}

/// The questions that differ most come first, with the answers of every seed.
#[test]
fn answers_that_differ_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let found = by_method(folder.path(), &experiment("made-up", 8), 2);
    let graded = &found.pairs[0].graded[0];
    assert_eq!((graded.higher_a, graded.higher_b, graded.same), (16, 0, 24));
    let ids: Vec<&str> = graded.shown.iter().map(|question| &*question.id).collect();
    assert_eq!(ids, ["0", "1"]);
    let question = &graded.shown[0];
    assert_eq!((question.grade.a, question.grade.b), (1.0, 0.0));
    assert_eq!(question.answers.a.len() + question.answers.b.len(), 4);
    assert_eq!(question.answers.a[0].text, "It is 1.");
}
