//! Initial values of the matrices.
//!
//! | Name | A | B | Source |
//! |---|---|---|---|
//! | `kaiming` | `U(-1/sqrt(in), 1/sqrt(in))` | 0 | PEFT's `reset_lora_parameters`: Kaiming uniform, a = sqrt 5 |
//! | `gaussian` | `N(0, 1/r^2)` | 0 | PEFT's `init_lora_weights="gaussian"` |
//! | `orthogonal` | `(X Q_odd)^T / 10` | `Y^T Q_even / 10` | PEFT's `orthogonal_init`; X `[in, r/2]`, Y `[r/2, out]` normal, Q `[r, r]` orthogonal, its odd and even rows; so `B A = 0` |
//! | `pissa` | `sqrt(S_r / s) V_r^T` | `U_r sqrt(S_r / s)` | arXiv 2404.02948, section 3, and PEFT's `pissa_init`: `W = U S V^T`, `s B A` is its best approximation of rank r |
//!
//! Where vectors are trained (VeRA, arXiv 2310.11454) A and B are drawn as PEFT's `_kaiming_init` draws them, `U(-sqrt(6/n), sqrt(6/n))` with
//! n their columns; d is 0.1 and b is 0. DoRA's magnitudes are the norms of the rows of W, which every initialisation leaves
//! as it is (arXiv 2402.09353, section 4.1).
//!
//! Deviations. `orthogonal`: one Q for the whole adapter instead of one for each site, so that `B A = 0` however A and B are
//! shared. `pissa`: the weight itself stays, and `s B_0 A_0` is taken from the site's output; the exact singular value
//! decomposition alone, in f64.

use faer::Mat;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bank::generator;
use crate::{Extra, Layout, Matrix, Site};

/// How the matrices start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    #[default]
    Kaiming,
    Gaussian,
    Orthogonal,
    Pissa,
}

impl Init {
    /// As in an experiment's file.
    pub fn name(self) -> &'static str {
        match self {
            Init::Kaiming => "kaiming",
            Init::Gaussian => "gaussian",
            Init::Orthogonal => "orthogonal",
            Init::Pissa => "pissa",
        }
    }

    /// The initialisation of this name.
    pub fn named(name: &str) -> Option<Self> {
        use Init::{Gaussian, Kaiming, Orthogonal, Pissa};
        let all = [Kaiming, Gaussian, Orthogonal, Pissa];
        all.into_iter().find(|init| init.name() == name)
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Init::default()
    }
}

/// What VeRA's `d` starts as: PEFT's `d_initial`.
pub(crate) const D_INITIAL: f32 = 0.1;
/// What PEFT's `orthogonal_init` divides by.
const ORTHOGONAL_DIVISOR: f64 = 10.0;

/// Values of every matrix of the layout, in its order. A matrix takes the values that its first site would have alone, so a
/// shared `A` starts as layer 0's. `weight` gives the base's weight of a site, [out, in], where its values are needed.
pub(crate) fn values(
    layout: &Layout,
    seed: u64,
    weight: &(dyn Fn(&Site) -> Vec<f32> + Sync),
) -> Vec<Vec<f32>> {
    let (a, b) = match layout.config.init {
        Init::Pissa => singular(layout, weight),
        init => drawn(layout, init, seed),
    };
    let extras: Vec<Vec<f32>> = (layout.extras.par_iter().enumerate())
        .map(|(i, matrix)| {
            let slot = layout.slots[matrix.owner];
            match layout.kinds[i % layout.kinds.len()] {
                Extra::LambdaD => vec![D_INITIAL; matrix.shape[0]],
                Extra::LambdaB => vec![0.0; matrix.shape[0]],
                Extra::Magnitude => {
                    let site = &layout.sites[matrix.owner];
                    let norm = |row: &[f32]| {
                        row.iter()
                            .map(|v| f64::from(*v).powi(2))
                            .sum::<f64>()
                            .sqrt() as f32
                    };
                    weight(site)
                        .chunks_exact(site.in_features)
                        .map(norm)
                        .collect()
                }
                Extra::StartA => a[slot.a].clone(),
                Extra::StartB => b[slot.b].clone(),
            }
        })
        .collect();
    a.into_iter().chain(b).chain(extras).collect()
}

type Values = Vec<Vec<f32>>;

/// A and B that need no weight.
fn drawn(layout: &Layout, init: Init, seed: u64) -> (Values, Values) {
    let rank = layout.config.rank;
    let stream = |purpose: &str, matrix: &Matrix| {
        generator(seed, purpose, &layout.sites[matrix.owner].place())
    };
    let uniform = |matrix: &Matrix, bound: f32, mut rng: ChaCha8Rng| -> Vec<f32> {
        let count = matrix.shape[0] * matrix.shape[1];
        (0..count)
            .map(|_| rng.random_range(-bound..bound))
            .collect()
    };
    let each =
        |list: &[Matrix], values: &dyn Fn(&Matrix) -> Vec<f32>| list.iter().map(values).collect();
    let zero = |matrix: &Matrix| vec![0.0; matrix.shape[0] * matrix.shape[1]];
    if layout.sharing.vectors {
        let random = |purpose| {
            move |m: &Matrix| uniform(m, (6.0 / m.shape[1] as f32).sqrt(), stream(purpose, m))
        };
        return (each(&layout.a, &random("A")), each(&layout.b, &random("B")));
    }
    match init {
        Init::Orthogonal => {
            let q = orthogonal(rank, &mut generator(seed, "Q", ""));
            // Both are [other, r/2] times half of the rows of Q, (r/2, r); A is kept transposed.
            let half = |m: &Matrix, purpose: &str, width: usize, first: usize| {
                let mut rng = stream(purpose, m);
                let x = Mat::from_fn(width, rank / 2, |_, _| normal(&mut rng, 1.0));
                let rows = Mat::from_fn(rank / 2, rank, |i, j| q[(2 * i + first, j)]);
                x * rows
            };
            let value = |v: f64| (v / ORTHOGONAL_DIVISOR) as f32;
            let a = |m: &Matrix| {
                let [_, width] = m.shape;
                let x = half(m, "A", width, 0);
                (0..rank * width)
                    .map(|i| value(x[(i % width, i / width)]))
                    .collect()
            };
            let b = |m: &Matrix| {
                let [width, _] = m.shape;
                let x = half(m, "B", width, 1);
                (0..width * rank)
                    .map(|i| value(x[(i / rank, i % rank)]))
                    .collect()
            };
            (each(&layout.a, &a), each(&layout.b, &b))
        }
        Init::Gaussian => {
            let a = |m: &Matrix| {
                let mut rng = stream("A", m);
                let count = m.shape[0] * m.shape[1];
                (0..count)
                    .map(|_| normal(&mut rng, 1.0 / rank as f64) as f32)
                    .collect()
            };
            (each(&layout.a, &a), each(&layout.b, &zero))
        }
        Init::Kaiming | Init::Pissa => {
            let a = |m: &Matrix| uniform(m, 1.0 / (m.shape[1] as f32).sqrt(), stream("A", m));
            (each(&layout.a, &a), each(&layout.b, &zero))
        }
    }
}

/// An orthogonal matrix from the QR decomposition of a normal one.
fn orthogonal(n: usize, rng: &mut ChaCha8Rng) -> Mat<f64> {
    let normal = Mat::from_fn(n, n, |_, _| normal(rng, 1.0));
    normal.qr().compute_Q()
}

/// A and B of the largest singular values of each site's weight; every site has its own.
fn singular(layout: &Layout, weight: &(dyn Fn(&Site) -> Vec<f32> + Sync)) -> (Values, Values) {
    let rank = layout.config.rank;
    let scale = layout.config.scale();
    layout
        .sites
        .par_iter()
        .map(|site| {
            let (rows, columns) = (site.out_features, site.in_features);
            let values = weight(site);
            let matrix = Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]));
            // It fails on values that are no numbers alone: then neither are these.
            let Ok(svd) = matrix.thin_svd() else {
                return (vec![f32::NAN; rank * columns], vec![f32::NAN; rows * rank]);
            };
            let root: Vec<f64> = (0..rank).map(|k| (svd.S()[k] / scale).sqrt()).collect();
            let (u, v) = (svd.U(), svd.V());
            let a = (0..rank * columns)
                .map(|i| (root[i / columns] * v[(i % columns, i / columns)]) as f32)
                .collect();
            let b = (0..rows * rank)
                .map(|i| (u[(i / rank, i % rank)] * root[i % rank]) as f32)
                .collect();
            (a, b)
        })
        .unzip()
}

/// A normal number of mean 0: Box and Muller's transform of two uniform ones.
pub fn normal(rng: &mut impl Rng, deviation: f64) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
