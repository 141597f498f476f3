//! The spectrum of an update for any shape and rank: equal to the dense one, and a property of the update, not of its factors.

use faer::Mat;
use proptest::prelude::*;
use sharelora_spectrum::{Factors, SpectrumError, Subspace, Update, measure, singular_values};

/// The update's factors, row-major.
#[derive(Debug, Clone)]
struct Case {
    rank: usize,
    shape: [usize; 2],
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f64,
}

impl Case {
    fn factors(&self) -> Factors<'_> {
        Factors::new(&self.a, &self.b, self.rank, self.shape, self.scale).unwrap()
    }

    fn a(&self) -> Mat<f64> {
        let inputs = self.shape[1];
        Mat::from_fn(self.rank, inputs, |i, j| f64::from(self.a[i * inputs + j]))
    }

    fn b(&self) -> Mat<f64> {
        Mat::from_fn(self.shape[0], self.rank, |i, j| {
            f64::from(self.b[i * self.rank + j])
        })
    }

    /// Singular values of the dense `s B A`, all of them.
    fn dense(&self) -> Vec<f64> {
        let dense = self.b() * self.a() * faer::Scale(self.scale);
        dense.singular_values().unwrap()
    }

    /// The size of values that are rounding alone.
    fn rounding(&self) -> f64 {
        1e-13 * (1.0 + self.scale.abs() * self.b().norm_l2() * self.a().norm_l2())
    }
}

/// Factors of any kind: plain, with a `B` of zeros, with columns that repeat, and with equal singular values.
fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..24, 1usize..24, 1usize..12, 0usize..4, -3f64..3.0);
    sizes.prop_flat_map(|(outputs, inputs, rank, kind, scale)| {
        let values = |n| prop::collection::vec(-1f32..1.0, n);
        (values(rank * inputs), values(outputs * rank)).prop_map(move |(mut a, mut b)| {
            match kind {
                1 => b.fill(0.0),
                2 => b.chunks_exact_mut(rank).for_each(|row| row.fill(row[0])),
                3 => {
                    let unit = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
                    a = (0..rank * inputs)
                        .map(|n| unit(n / inputs, n % inputs))
                        .collect();
                    b = (0..outputs * rank)
                        .map(|n| unit(n / rank, n % rank))
                        .collect();
                }
                _ => {}
            }
            Case {
                rank,
                shape: [outputs, inputs],
                a,
                b,
                scale,
            }
        })
    })
}

/// An orthogonal matrix, the Q of whatever comes.
fn orthogonal(n: usize, seed: &[f32]) -> Mat<f64> {
    Mat::from_fn(n, n, |i, j| {
        f64::from(seed[(i * n + j) % seed.len()]) + f64::from(i == j) * 3.0
    })
    .qr()
    .compute_Q()
}

fn row_major(matrix: &Mat<f64>) -> Vec<f32> {
    let rows = (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| (i, j)));
    rows.map(|(i, j)| matrix[(i, j)] as f32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// From the factors as from the dense matrix, within 1e-5 relative (here 1e-9); what the dense matrix has beyond is rounding.
    #[test]
    fn the_spectrum_is_the_dense_one(case in case()) {
        let (found, dense) = (singular_values(&case.factors()).unwrap(), case.dense());
        prop_assert_eq!(found.len(), case.rank.min(case.shape[0]).min(case.shape[1]));
        for (i, expected) in dense.iter().enumerate() {
            let value = found.get(i).copied().unwrap_or(0.0);
            prop_assert!((value - expected).abs() <= 1e-9 * expected + case.rounding(), "{found:?} {dense:?}");
        }
        let update = Update::new(&case.factors()).unwrap();
        for (value, alone) in update.values.iter().zip(&found) {
            prop_assert!((value - alone).abs() <= 1e-12 * alone + case.rounding());
        }
        prop_assert!(update.values.windows(2).all(|w| w[0] >= w[1]), "{:?}", update.values);
    }

    /// `B R` and `R^T A` are the same update for an orthogonal R: spectrum and subspaces stay.
    #[test]
    fn a_change_of_basis_between_the_factors_changes_nothing(case in case()) {
        let turn = orthogonal(case.rank, &case.a);
        let turned = Case {
            a: row_major(&(turn.transpose() * case.a())),
            b: row_major(&(case.b() * &turn)),
            ..case.clone()
        };
        let (first, second) = (Update::new(&case.factors()).unwrap(), Update::new(&turned.factors()).unwrap());
        // The turned factors are rounded to f32.
        let rounding = 1e7 * case.rounding();
        for (a, b) in first.values.iter().zip(&second.values) {
            prop_assert!((a - b).abs() <= rounding, "{:?} {:?}", first.values, second.values);
        }
    }

    /// An orthogonal change of basis of the outputs or of the inputs keeps the singular values: they know no basis.
    #[test]
    fn a_change_of_basis_around_the_update_keeps_the_spectrum(case in case()) {
        let [outputs, inputs] = case.shape;
        let turned = Case {
            a: row_major(&(case.a() * orthogonal(inputs, &case.a))),
            b: row_major(&(orthogonal(outputs, &case.a) * case.b())),
            ..case.clone()
        };
        let rounding = 1e7 * case.rounding();
        let (first, second) = (singular_values(&case.factors()).unwrap(), singular_values(&turned.factors()).unwrap());
        for (a, b) in first.iter().zip(&second) {
            prop_assert!((a - b).abs() <= rounding, "{first:?} {second:?}");
        }
    }

    /// A change is the dense difference of the two updates, within f64's rounding of what cancels.
    #[test]
    fn a_change_is_the_dense_difference((before, after) in (case(), case()), part in 0f32..1.0) {
        // Of one weight, and near each other, as two stages are.
        let near = |own: &[f32], other: &[f32]| -> Vec<f32> {
            own.iter().enumerate().map(|(i, v)| v + part * other.get(i).copied().unwrap_or(0.0)).collect()
        };
        let after = Case { a: near(&before.a, &after.a), b: near(&before.b, &after.b), scale: after.scale, ..before.clone() };
        let change = Update::change(&before.factors(), &after.factors()).unwrap();
        let dense = after.b() * after.a() * faer::Scale(after.scale) - before.b() * before.a() * faer::Scale(before.scale);
        let rounding = 100.0 * (before.rounding() + after.rounding());
        for (i, expected) in dense.singular_values().unwrap().iter().enumerate() {
            let value = change.values.get(i).copied().unwrap_or(0.0);
            prop_assert!((value - expected).abs() <= 1e-9 * expected + rounding, "{:?}", change.values);
        }
        for overlap in change.overlap(&Update::new(&before.factors()).unwrap()).unwrap().into_iter().flatten() {
            prop_assert!((0.0..=1.0 + 1e-12).contains(&overlap), "{overlap}");
        }
    }

    /// From an adapter that is zero the change is the update itself, and overlaps with nothing; from the same adapter there is none.
    #[test]
    fn a_change_from_nothing_is_all_and_from_the_same_none(case in case()) {
        let zero = Case { b: vec![0.0; case.b.len()], ..case.clone() };
        let (update, nothing) = (Update::new(&case.factors()).unwrap(), Update::new(&zero.factors()).unwrap());
        let all = Update::change(&zero.factors(), &case.factors()).unwrap();
        for (i, value) in all.values.iter().enumerate() {
            let expected = update.values.get(i).copied().unwrap_or(0.0);
            prop_assert!((value - expected).abs() <= 1e-9 * expected + 100.0 * case.rounding());
        }
        prop_assert_eq!(all.overlap(&nothing).unwrap(), [None, None]);
        let none = Update::change(&case.factors(), &case.factors()).unwrap();
        prop_assert!(none.values.iter().all(|v| *v == 0.0), "{:?}", none.values);
        prop_assert_eq!((none.columns.dimension(), none.rows.dimension()), (0, 0));
        prop_assert_eq!(measure::effective_rank(&none.values), None);
        prop_assert_eq!(none.overlap(&update).unwrap(), [None, None]);
    }

    /// Measures stay within their bounds, and the update's norm is that of the dense matrix.
    #[test]
    fn measures_are_within_their_bounds(case in case()) {
        let values = Update::new(&case.factors()).unwrap().values;
        let dense = (case.b() * case.a() * faer::Scale(case.scale)).norm_l2();
        prop_assert!((measure::frobenius(&values) - dense).abs() <= 1e-12 * dense + case.rounding());
        let most = values.len() as f64 + 1e-9;
        if let (Some(effective), Some(stable)) = (measure::effective_rank(&values), measure::stable_rank(&values)) {
            prop_assert!((1.0 - 1e-9..=most).contains(&effective), "{effective}");
            prop_assert!((1.0 - 1e-9..=most).contains(&stable), "{stable}");
            let energies: Vec<f64> = (0..=values.len()).filter_map(|k| measure::energy(&values, k)).collect();
            prop_assert!(energies.windows(2).all(|w| w[0] <= w[1] + 1e-12), "{energies:?}");
            prop_assert!((energies[values.len()] - 1.0).abs() < 1e-12);
        }
    }

    /// The same update has angle 0 to itself, both ways of asking agree, and every angle is between 0 and 90 degrees.
    #[test]
    fn angles_are_symmetric_and_zero_to_oneself(case in case(), other in case()) {
        let first = Update::new(&case.factors()).unwrap().rows;
        for angle in first.angles(&first).unwrap() {
            prop_assert!(angle.abs() < 1e-12, "{angle}");
        }
        let second = Update::new(&other.factors()).unwrap().rows;
        if case.shape[1] != other.shape[1] {
            let refused = first.angles(&second);
            prop_assert_eq!(refused, Err(SpectrumError::Dimensions(case.shape[1], other.shape[1])));
            return Ok(());
        }
        let (there, back) = (first.angles(&second).unwrap(), second.angles(&first).unwrap());
        prop_assert_eq!(there.len(), first.dimension().min(second.dimension()));
        for (a, b) in there.iter().zip(&back) {
            prop_assert!((a - b).abs() < 1e-7 && (0.0..=std::f64::consts::FRAC_PI_2 + 1e-12).contains(a));
        }
    }
}

/// Two planes of four dimensions, turned by known angles in two planes that do not meet.
#[test]
fn known_angles_are_found() {
    for (first, second) in [
        (1e-12f64, 0.3f64),
        (0.7, 0.8),
        (0.0, std::f64::consts::FRAC_PI_2),
        (0.785, 0.786),
    ] {
        let x = Subspace::spanned_by(&[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [4, 2]).unwrap();
        let (s, c, s2, c2) = (first.sin(), first.cos(), second.sin(), second.cos());
        let y = Subspace::spanned_by(&[c, 0.0, s, 0.0, 0.0, c2, 0.0, s2], [4, 2]).unwrap();
        let found = x.angles(&y).unwrap();
        assert!((found[0] - first).abs() < 1e-15, "{found:?} {first}");
        assert!((found[1] - second).abs() < 1e-15, "{found:?} {second}");
    }
}

/// Singular values that are chosen come out again, tiny beside large ones, to f32's digits of the factors.
#[test]
fn chosen_values_come_out() {
    let chosen = [1e3, 1.0, 1e-3];
    let a: Vec<f32> = (0..9).map(|n| if n % 4 == 0 { 1.0 } else { 0.0 }).collect();
    let mut b = vec![0f32; 15];
    for (i, value) in chosen.iter().enumerate() {
        b[i * 3 + i] = *value as f32;
    }
    let factors = Factors::new(&a, &b, 3, [5, 3], 2.0).unwrap();
    for (found, value) in singular_values(&factors).unwrap().iter().zip(chosen) {
        assert!(
            (found / (2.0 * value) - 1.0).abs() < 1e-7,
            "{found} {value}"
        );
    }
    assert_eq!(Update::new(&factors).unwrap().columns.dimension(), 3);
}

/// A stage that leaves A and adds to B in new outputs reads what was read and writes elsewhere; all of the change's directions would
/// say that it overlaps with the earlier update in both.
#[test]
fn a_change_overlaps_by_its_leading_directions() {
    let a = [1.0, 0.0, 0.0, 0.0];
    let before = Factors::new(&a, &[1.0, 0.0, 0.0], 1, [3, 4], 1.0).unwrap();
    let after = Factors::new(&a, &[1.0, 2.0, 0.0], 1, [3, 4], 1.0).unwrap();
    let change = Update::change(&before, &after).unwrap();
    assert!((change.values[0] - 2.0).abs() < 1e-12 && change.values[1] == 0.0);
    let [outputs, inputs] = change.overlap(&Update::new(&before).unwrap()).unwrap();
    assert!(outputs.unwrap() < 1e-12 && (inputs.unwrap() - 1.0).abs() < 1e-12);
    // The second direction lies where the first update was: it is small, and counts for nothing.
    let after = Factors::new(
        &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        &[1.0, 0.1, 2.0, 0.0, 0.0, 0.0],
        2,
        [3, 4],
        1.0,
    )
    .unwrap();
    let change = Update::change(&before, &after).unwrap();
    assert_eq!(change.columns.dimension(), 2);
    assert!(change.overlap(&Update::new(&before).unwrap()).unwrap()[0].unwrap() < 0.01);
    let other = Factors::new(&a, &[1.0; 2], 1, [2, 4], 1.0).unwrap();
    let refused = Update::change(&before, &other).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "updates of weights 3 x 4 and 2 x 4 have no difference"
    );
}

/// What training cannot have left is refused by name, without a panic.
#[test]
fn wrong_factors_are_refused() {
    let short = Factors::new(&[1.0; 5], &[1.0; 4], 2, [2, 3], 1.0).unwrap_err();
    assert_eq!(short.to_string(), "`A` is 2 x 3, but 5 values are given");
    let infinite = Factors::new(&[1.0; 6], &[1.0, f32::NAN, 0.0, 0.0], 2, [2, 3], 1.0);
    assert_eq!(
        infinite.unwrap_err(),
        SpectrumError::NotFinite { matrix: "B" }
    );
    let huge = Factors::new(&[f32::MAX; 6], &[f32::MAX; 4], 2, [2, 3], f64::MAX).unwrap();
    assert_eq!(Update::new(&huge).err(), Some(SpectrumError::NoConvergence));
}
