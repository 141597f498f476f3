//! Spectra and principal angles against scipy, numpy and mpmath, which work on the dense update (`scripts/subspace_angles.py`).

use serde_json::Value;
use sharelora_spectrum::{Factors, Subspace, Update, measure, singular_values};

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/scipy.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap().iter();
    list.map(|v| v.as_f64().unwrap()).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    floats(value).into_iter().map(|v| v as f32).collect()
}

#[track_caller]
fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(
        found.len(),
        expected.len(),
        "{what}: {found:?} {expected:?}"
    );
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "{what}: {found:?} {expected:?}");
    }
}

/// Values and measures are those of the dense matrix: also where the rank is above a dimension, or `B` is zero.
#[test]
fn spectra_are_those_of_the_dense_update() {
    for case in fixture()["updates"].as_array().unwrap() {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (rank, shape) = (size("rank"), [size("outputs"), size("inputs")]);
        let scale = case["scale"].as_f64().unwrap();
        let name = format!("{} {shape:?} {rank}", case["kind"]);
        let (a, b) = (singles(&case["a"]), singles(&case["b"]));
        let (a2, b2) = (singles(&case["a2"]), singles(&case["b2"]));
        let factors = Factors::new(&a, &b, rank, shape, scale).unwrap();
        let update = Update::new(&factors).unwrap();
        let expected = floats(&case["values"]);
        let largest = expected[0].max(1.0);
        near(&name, &update.values, &expected, 1e-13 * largest);
        near(
            &name,
            &singular_values(&factors).unwrap(),
            &expected,
            1e-13 * largest,
        );
        let norm = case["frobenius"].as_f64().unwrap();
        near(
            &name,
            &[measure::frobenius(&update.values)],
            &[norm],
            1e-13 * largest,
        );
        let Some(effective) = case["effective_rank"].as_f64() else {
            assert_eq!(measure::effective_rank(&update.values), None, "{name}");
            continue;
        };
        let stable = case["stable_rank"].as_f64().unwrap();
        let found = [
            measure::effective_rank(&update.values).unwrap(),
            measure::stable_rank(&update.values).unwrap(),
        ];
        near(&name, &found, &[effective, stable], 1e-11);
        let other = Update::new(&Factors::new(&a2, &b2, rank, shape, scale).unwrap()).unwrap();
        let columns = update.columns.angles(&other.columns).unwrap();
        near(&name, &columns, &floats(&case["columns"]), 1e-11);
        let rows = update.rows.angles(&other.rows).unwrap();
        near(&name, &rows, &floats(&case["rows"]), 1e-11);
    }
}

/// Angles of 1e-9, which a cosine in f64 cannot tell from 0, beside wide ones, and subspaces that share a dimension because they
/// must; the reference has 50 digits.
#[test]
fn small_angles_keep_their_digits() {
    for case in fixture()["subspaces"].as_array().unwrap() {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let x = Subspace::spanned_by(&floats(&case["x"]), [size("n"), size("k")]).unwrap();
        let y = Subspace::spanned_by(&floats(&case["y"]), [size("n"), size("l")]).unwrap();
        let expected = floats(&case["angles"]);
        near("angles", &x.angles(&y).unwrap(), &expected, 1e-14);
        near(
            "angles the other way",
            &y.angles(&x).unwrap(),
            &expected,
            1e-14,
        );
    }
}
