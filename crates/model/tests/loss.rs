//! The cross-entropy that never shows the vocabulary to autodiff equals the one that does, and both equal the
//! formula in double precision.

mod common;

use burn::tensor::{Int, Tensor, TensorData, activation};
use common::{distance, random, tensor, values};
use proptest::prelude::*;
use sharelora_kernels::matrix::Matrix;
use sharelora_model::{Smoothing, Weight, cross_entropy, log_likelihoods};

struct Case {
    hidden: Vec<f32>,
    head: Vec<f32>,
    targets: Vec<u32>,
    n: usize,
    c: usize,
    v: usize,
}

impl Case {
    fn new(n: usize, c: usize, v: usize, seed: u64) -> Self {
        let targets = random(n, seed + 2)
            .iter()
            .map(|x| ((x + 1.0) / 2.0 * v as f32) as u32)
            .collect();
        Case {
            hidden: random(n * c, seed),
            head: random(v * c, seed + 1).iter().map(|x| 2.0 * x).collect(),
            targets,
            n,
            c,
            v,
        }
    }

    fn hidden(&self) -> Tensor<2> {
        tensor(self.hidden.clone(), [self.n, self.c])
            .autodiff()
            .require_grad()
    }

    fn head(&self) -> Tensor<2> {
        tensor(self.head.clone(), [self.v, self.c])
    }

    /// The head as a frozen base has it on this backend, and as a tensor.
    fn frozen(&self) -> [Weight; 2] {
        let matrix = Matrix::from_f32(self.v, self.c, self.head.clone());
        [Weight::Host(matrix), Weight::Tensor(self.head())]
    }

    /// The sum, and its gradients with respect to `hidden` and `head`: `(softmax(h W^T) - onehot) W` and
    /// `(softmax(h W^T) - onehot)^T h`.
    fn reference(&self) -> (f64, Vec<f32>, Vec<f32>) {
        let (c, v) = (self.c, self.v);
        let at = |list: &[f32], i: usize, j: usize| f64::from(list[i * c + j]);
        let mut sum = 0.0;
        let mut to_hidden = vec![0f64; self.n * c];
        let mut to_head = vec![0f64; v * c];
        for (i, &target) in self.targets.iter().enumerate() {
            let logits: Vec<f64> = (0..v)
                .map(|k| {
                    (0..c)
                        .map(|j| at(&self.hidden, i, j) * at(&self.head, k, j))
                        .sum()
                })
                .collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
            sum += total.ln() + largest - logits[target as usize];
            for (k, logit) in logits.iter().enumerate() {
                let d = (logit - largest).exp() / total - f64::from(k == target as usize);
                for j in 0..c {
                    to_hidden[i * c + j] += d * at(&self.head, k, j);
                    to_head[k * c + j] += d * at(&self.hidden, i, j);
                }
            }
        }
        let single = |list: Vec<f64>| list.into_iter().map(|x| x as f32).collect();
        (sum, single(to_hidden), single(to_head))
    }

    /// The sum and the gradient through the operations that a framework composes it from.
    fn composed(&self) -> (f64, Vec<f32>) {
        let hidden = self.hidden();
        let logits = hidden.clone().matmul(self.head().transpose());
        let ids: Vec<i64> = self.targets.iter().map(|&t| i64::from(t)).collect();
        let index = Tensor::<2, Int>::from_data(
            TensorData::new(ids, [self.n, 1]),
            &hidden.device().inner(),
        );
        let loss = activation::log_softmax(logits, 1)
            .gather(1, index)
            .neg()
            .sum();
        let sum = f64::from(values(&loss)[0]);
        let grads = loss.backward();
        (sum, values(&hidden.grad(&grads).unwrap()))
    }
}

fn times(list: &[f32], factor: f64) -> Vec<f32> {
    list.iter()
        .map(|v| (f64::from(*v) * factor) as f32)
        .collect()
}

/// Within 1e-5 of what is expected.
fn close(found: f64, expected: f64) -> bool {
    found.is_finite() && (found - expected).abs() <= 1e-5 * expected.abs().max(1.0)
}

fn check(case: &Case, weight: f64) -> Result<(), TestCaseError> {
    let (sum, to_hidden, to_head) = case.reference();
    let (composed_sum, composed) = case.composed();

    // A frozen head.
    for head in case.frozen() {
        let hidden = case.hidden();
        let loss = cross_entropy(&hidden, &head, &case.targets, Some(weight), None);
        prop_assert_eq!(loss.count, case.n);
        prop_assert!(close(loss.sum, sum), "{} {}", loss.sum, sum);
        prop_assert!(
            close(loss.sum, composed_sum),
            "{} {}",
            loss.sum,
            composed_sum
        );
        let grads = loss.surrogate.unwrap().backward();
        let found = values(&hidden.grad(&grads).unwrap());
        prop_assert!(distance(&times(&composed, weight), &found) < 1e-5);
        prop_assert!(distance(&times(&to_hidden, weight), &found) < 1e-5);
    }

    // A head that is trained too, on the same values.
    let (hidden, head) = (case.hidden(), case.head().autodiff().require_grad());
    let trained = Weight::Tensor(head.clone());
    let loss = cross_entropy(&hidden, &trained, &case.targets, Some(weight), None);
    prop_assert!(close(loss.sum, sum), "{} {}", loss.sum, sum);
    let grads = loss.surrogate.unwrap().backward();
    prop_assert!(
        distance(
            &times(&to_hidden, weight),
            &values(&hidden.grad(&grads).unwrap())
        ) < 1e-5
    );
    prop_assert!(
        distance(
            &times(&to_head, weight),
            &values(&head.grad(&grads).unwrap())
        ) < 1e-5
    );

    // Evaluation.
    let [host, tensor] = case.frozen();
    for head in [host, tensor, trained] {
        let loss = cross_entropy(&case.hidden(), &head, &case.targets, None, None);
        prop_assert!(close(loss.sum, sum), "{} {}", loss.sum, sum);
        prop_assert!(loss.surrogate.is_none());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn value_and_gradient_are_the_composed_ones(
        n in 1usize..300,
        c in 1usize..20,
        v in 1usize..40,
        weight in 0.001f64..3.0,
        seed in 0u64..1000,
    ) {
        check(&Case::new(n, c, v, seed), weight)?;
    }
}

/// Label smoothing, `(1 - x) nll + x mean(-log p)`, through the composed operations.
fn smoothed(case: &Case, amount: f64) -> (f64, Vec<f32>) {
    let hidden = case.hidden();
    let logits = hidden.clone().matmul(case.head().transpose());
    let ids: Vec<i64> = case.targets.iter().map(|&t| i64::from(t)).collect();
    let ids = TensorData::new(ids, [case.n, 1]);
    let index = Tensor::<2, Int>::from_data(ids, &hidden.device().inner());
    let log_probs = activation::log_softmax(logits, 1);
    let picked = log_probs.clone().gather(1, index).mul_scalar(1.0 - amount);
    let loss = (picked + log_probs.mean_dim(1).mul_scalar(amount))
        .neg()
        .sum();
    let sum = f64::from(values(&loss)[0]);
    let grads = loss.backward();
    (sum, values(&hidden.grad(&grads).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The E2E recipe trains on smoothed labels: one product with the head's mean row has to be the mean over the
    /// vocabulary, beside a frozen head as under one that is trained.
    #[test]
    fn smoothed_labels_are_the_composed_ones(n in 1usize..60, c in 1usize..20, v in 1usize..40, amount in 0.0f64..0.9, seed in 0u64..1000) {
        let case = Case::new(n, c, v, seed);
        let (sum, gradient) = smoothed(&case, amount);
        let trained = Weight::Tensor(case.head().autodiff().require_grad());
        for head in case.frozen().into_iter().chain([trained]) {
            let smoothing = Smoothing::new(amount, &head, &case.hidden().device().inner());
            let hidden = case.hidden();
            let loss = cross_entropy(&hidden, &head, &case.targets, Some(0.5), Some(&smoothing));
            prop_assert!(close(loss.sum, sum), "{} {}", loss.sum, sum);
            let grads = loss.surrogate.unwrap().backward();
            let found = values(&hidden.grad(&grads).unwrap());
            prop_assert!(distance(&times(&gradient, 0.5), &found) < 1e-5);
        }
    }
}

/// Rows are computed some at a time: counts at the boundaries of the chunks.
#[test]
fn chunks_do_not_show() {
    for n in [63, 64, 65, 127, 128, 129, 256, 300] {
        check(&Case::new(n, 7, 30, n as u64), 0.5).unwrap();
    }
}

/// Logits of some thousands overflow an exponential that does not subtract the largest. The values are such
/// that their products are exact in f32.
#[test]
fn large_logits_stay_finite() {
    let mut case = Case::new(140, 8, 20, 3);
    case.hidden
        .iter_mut()
        .for_each(|h| *h = (*h * 8.0).round() * 128.0);
    case.head
        .iter_mut()
        .for_each(|w| *w = (*w * 4.0).round() / 4.0);
    assert!(case.reference().0 > 140.0 * 1000.0);
    check(&case, 1.0).unwrap();
}

/// The likelihood of each token, for scoring choices, is the same quantity before it is summed.
#[test]
fn likelihoods_of_tokens_sum_to_the_loss() {
    let case = Case::new(150, 6, 25, 4);
    let [head, tensor] = case.frozen();
    let list = log_likelihoods(&case.hidden(), &head, &case.targets);
    let same = log_likelihoods(&case.hidden(), &tensor, &case.targets);
    assert!(list.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-5));
    assert_eq!(list.len(), 150);
    assert!(close(-list.iter().sum::<f64>(), case.reference().0));
    // Row by row: each as a case of its own.
    for i in [0, 77, 149] {
        let one = Case {
            hidden: case.hidden[i * 6..(i + 1) * 6].to_vec(),
            head: case.head.clone(),
            targets: vec![case.targets[i]],
            n: 1,
            ..case
        };
        assert!(close(-list[i], one.reference().0), "{i}");
    }
}

#[test]
fn no_labels_are_no_loss() {
    let case = Case::new(0, 4, 5, 1);
    let hidden = tensor(Vec::new(), [0, 4]);
    for (head, weight) in case.frozen().iter().zip([None, Some(1.0)]) {
        let loss = cross_entropy(&hidden, head, &[], weight, None);
        assert_eq!((loss.sum, loss.count), (0.0, 0));
        assert!(loss.surrogate.is_none());
    }
}
