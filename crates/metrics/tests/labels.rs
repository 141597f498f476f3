//! Scores of labels against scikit-learn and SciPy, and properties that hold for any input.
//! `scripts/glue_metrics.py` made the fixture.

use proptest::prelude::*;
use serde::Deserialize;
use sharelora_metrics::classification::{accuracy, f1, matthews};
use sharelora_metrics::correlation::{pearson, spearman};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Fixture {
    classification: Vec<Classification>,
    correlation: Vec<Correlation>,
}

#[derive(Deserialize)]
struct Classification {
    name: String,
    truth: String,
    predicted: String,
    accuracy: Option<f64>,
    f1: Option<f64>,
    matthews: Option<f64>,
}

#[derive(Deserialize)]
struct Correlation {
    name: String,
    x: String,
    y: String,
    pearson: Option<f64>,
    spearman: Option<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/labels.json")).unwrap()
}

fn pairs<T: std::str::FromStr<Err: std::fmt::Debug>>(a: &str, b: &str) -> Vec<(T, T)> {
    let numbers = |text: &str| -> Vec<T> {
        text.split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect()
    };
    let (a, b) = (numbers(a), numbers(b));
    assert_eq!(a.len(), b.len());
    a.into_iter().zip(b).collect()
}

fn assert_close(what: &str, found: Option<f64>, wanted: Option<f64>) {
    let close = match (found, wanted) {
        (Some(found), Some(wanted)) => (found - wanted).abs() < TOLERANCE,
        (None, None) => true,
        _ => false,
    };
    assert!(close, "{what}: {found:?} instead of {wanted:?}");
}

/// The scores in tables are those that GLUE's users compute, degenerate inputs included.
#[test]
fn classification_is_scikit_learns() {
    for case in fixture().classification {
        let pairs = pairs(&case.truth, &case.predicted);
        let name = &case.name;
        assert_close(
            &format!("{name}, accuracy"),
            accuracy(&pairs),
            case.accuracy,
        );
        assert_close(&format!("{name}, f1"), f1(&pairs, 1), case.f1);
        assert_close(
            &format!("{name}, matthews"),
            matthews(&pairs),
            case.matthews,
        );
    }
}

/// As above, and a correlation that is not defined is never a number.
#[test]
fn correlation_is_scipys() {
    for case in fixture().correlation {
        let pairs = pairs(&case.x, &case.y);
        let name = &case.name;
        assert_close(&format!("{name}, pearson"), pearson(&pairs), case.pearson);
        assert_close(
            &format!("{name}, spearman"),
            spearman(&pairs),
            case.spearman,
        );
    }
}

/// Sums of squares without a first pass for the mean would lose every digit here.
#[test]
fn pearson_far_from_zero() {
    let near: Vec<(f64, f64)> = [(0.0, 1.0), (1.0, 0.0), (2.0, 4.0), (4.0, 3.0)].into();
    let far: Vec<(f64, f64)> = near.iter().map(|(x, y)| (x + 1e12, y - 1e12)).collect();
    assert_close("far", pearson(&far), pearson(&near));
}

/// More examples than any dataset has: counts are squared and multiplied.
#[test]
fn matthews_of_a_million() {
    let pairs: Vec<(usize, usize)> = (0..1_000_000)
        .map(|i| (i % 2, usize::from(i % 4 > 1)))
        .collect();
    assert_close("chance", matthews(&pairs), Some(0.0));
    let right: Vec<(usize, usize)> = pairs.iter().map(|(truth, _)| (*truth, *truth)).collect();
    assert_close("all right", matthews(&right), Some(1.0));
}

fn classes(count: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0..count, 0..count), 1..60)
}

fn numbers() -> impl Strategy<Value = Vec<(f64, f64)>> {
    // Few distinct values, so that ties are common.
    proptest::collection::vec((-8i32..8, -8i32..8), 0..40).prop_map(|pairs| {
        pairs
            .into_iter()
            .map(|(x, y)| (f64::from(x) / 4.0, f64::from(y) / 4.0))
            .collect()
    })
}

proptest! {
    /// Of two classes, both scores have their textbook forms in the four counts.
    #[test]
    fn two_classes_by_their_counts(pairs in classes(2)) {
        let count = |cell| pairs.iter().filter(|pair| **pair == cell).count() as f64;
        let (tp, tn, fp, fn_) = (count((1, 1)), count((0, 0)), count((0, 1)), count((1, 0)));
        let quotient = |a: f64, b: f64| Some(if b == 0.0 { 0.0 } else { a / b });
        let root = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
        assert_close("matthews", matthews(&pairs), quotient(tp * tn - fp * fn_, root));
        let (precision, recall) = (quotient(tp, tp + fp).unwrap(), quotient(tp, tp + fn_).unwrap());
        assert_close("f1", f1(&pairs, 1), quotient(2.0 * precision * recall, precision + recall));
    }

    /// Neither the order of examples nor the classes' numbers matter; a perfect prediction is the best score.
    #[test]
    fn classes_are_only_names(pairs in classes(4)) {
        let mut other: Vec<(usize, usize)> = pairs.iter().map(|(a, b)| (7 - a, 7 - b)).collect();
        other.reverse();
        prop_assert_eq!(accuracy(&pairs), accuracy(&other));
        prop_assert_eq!(f1(&pairs, 1), f1(&other, 6));
        prop_assert_eq!(matthews(&pairs), matthews(&other));
        let score = matthews(&pairs).unwrap();
        prop_assert!((-1.0..=1.0 + TOLERANCE).contains(&score), "{score}");
        let right: Vec<(usize, usize)> = pairs.iter().map(|(truth, _)| (*truth, *truth)).collect();
        prop_assert_eq!(accuracy(&right), Some(1.0));
    }

    /// Shifting, stretching and swapping the series keeps both; a monotone curve keeps Spearman.
    #[test]
    fn correlations_ignore_scale(pairs in numbers(), shift in -100f64..100.0, stretch in 0.1f64..10.0) {
        let moved: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (*y, x * stretch + shift)).collect();
        let bent: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (x.exp(), y.powi(3))).collect();
        let negated: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (*x, -y)).collect();
        assert_close("pearson", pearson(&moved), pearson(&pairs));
        assert_close("spearman", spearman(&moved), spearman(&pairs));
        assert_close("spearman, bent", spearman(&bent), spearman(&pairs));
        assert_close("pearson, negated", pearson(&negated), pearson(&pairs).map(|r| -r));
        for score in [pearson(&pairs), spearman(&pairs)].into_iter().flatten() {
            prop_assert!((-1.0..=1.0).contains(&score), "{score}");
        }
    }
}
