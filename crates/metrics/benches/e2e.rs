//! BLEU, NIST, ROUGE-L and CIDEr at the size of E2E's validation set (547 segments), on made-up text.

use criterion::{Criterion, criterion_group, criterion_main};
use sharelora_metrics::e2e::{Corpus, Scores, scores, statistics};
use std::hint::black_box;

const SEGMENTS: usize = 547;
const REFERENCES: usize = 9;
const WORDS: usize = 22;

/// Some words much more often than others, with the marks of running text.
fn text(state: &mut u32) -> String {
    let words = (0..WORDS).map(|_| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let draw = *state >> 16;
        match draw % 16 {
            0 => "it's".to_string(),
            1 => "family-friendly,".to_string(),
            2 => "£20-25.".to_string(),
            _ => format!("w{}", draw * draw % 65_521 % (draw % 400 + 1)),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn corpus() -> Corpus {
    let mut state = 1;
    let system = (0..SEGMENTS).map(|_| text(&mut state)).collect();
    let mut group = || (0..REFERENCES).map(|_| text(&mut state)).collect();
    Corpus::new(system, (0..SEGMENTS).map(|_| group()).collect()).unwrap()
}

fn e2e(criterion: &mut Criterion) {
    let corpus = corpus();
    criterion.bench_function("e2e/scores", |b| b.iter(|| scores(black_box(&corpus))));
    let statistics = statistics(&corpus);
    criterion.bench_function("e2e/resample", |b| {
        b.iter(|| Scores::of(black_box(&statistics)))
    });
}

criterion_group!(benches, e2e);
criterion_main!(benches);
