//! The value of a sharing for one model: which site uses which matrix. No tensors here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AdapterError, Init, Scope, Share, Sharing, Site, select_sites};

/// What `s` is in `y = x W^T + s (x A^T) B^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `alpha / r` (LoRA, arXiv 2106.09685, section 4.1).
    #[default]
    Standard,
    /// `alpha / sqrt(r)` (rsLoRA, arXiv 2312.03732).
    Rslora,
}

/// The adapter's hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// `r`: rows of `A` and columns of `B`.
    pub rank: usize,
    pub alpha: f64,
    /// Probability that an entry of the adapter's input is dropped while training.
    #[serde(default)]
    pub dropout: f64,
    /// Projections that get an adapter, or `["all_linear"]`.
    pub targets: Vec<String>,
    #[serde(default)]
    pub scaling: Scaling,
    #[serde(default, skip_serializing_if = "Init::is_default")]
    pub init: Init,
}

impl AdapterConfig {
    /// The factor of the update.
    pub fn scale(&self) -> f64 {
        match self.scaling {
            Scaling::Standard => self.alpha / self.rank as f64,
            Scaling::Rslora => self.alpha / (self.rank as f64).sqrt(),
        }
    }

    /// # Errors
    /// [`AdapterError::Range`] names the key that is out of range.
    pub fn check(&self) -> Result<(), AdapterError> {
        let range = |key, value: String, expected| {
            Err(AdapterError::Range {
                key,
                value,
                expected,
            })
        };
        if self.rank == 0 {
            return range(
                "rank",
                self.rank.to_string(),
                "a whole number of at least 1",
            );
        }
        // Wider than any model: a slip, and memory that is not to be had.
        if self.rank > 1 << 16 {
            return range(
                "rank",
                self.rank.to_string(),
                "a whole number of at most 65536",
            );
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return range("alpha", self.alpha.to_string(), "a positive number");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return range(
                "dropout",
                self.dropout.to_string(),
                "at least 0 and below 1",
            );
        }
        if self.targets.is_empty() {
            return range(
                "targets",
                "[]".into(),
                "at least one projection, or [\"all_linear\"]",
            );
        }
        Ok(())
    }
}

/// A matrix of the bank. `A` is `[rank, in]`, `B` is `[out, rank]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Unique name, `layers.0.q_proj.a`, `layers.4-7.q_proj.a` or `shared.q_proj.a`.
    pub name: String,
    pub shape: [usize; 2],
    /// Index of the first site that uses it: its initial values are that site's.
    pub owner: usize,
    /// `false`: it keeps its initial values.
    pub trained: bool,
}

/// A matrix that each site has of its own beside `A` and `B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// VeRA's `d`, [rank, 1].
    LambdaD,
    /// VeRA's `b`, [out, 1].
    LambdaB,
    /// DoRA's norms of the rows, [1, out].
    Magnitude,
    /// PiSSA's first `A`, [rank, in], frozen: what the weight is without.
    StartA,
    /// PiSSA's first `B`, [out, rank], frozen.
    StartB,
}

impl Extra {
    /// What the sites of an adapter have.
    fn all(sharing: &Sharing, init: Init) -> Vec<Extra> {
        let mut all = Vec::new();
        if sharing.vectors {
            all.extend([Extra::LambdaD, Extra::LambdaB]);
        }
        if sharing.magnitude {
            all.push(Extra::Magnitude);
        }
        if init == Init::Pissa {
            all.extend([Extra::StartA, Extra::StartB]);
        }
        all
    }

    /// As it ends the names of matrices.
    pub fn name(self) -> &'static str {
        match self {
            Extra::LambdaD => "lambda_d",
            Extra::LambdaB => "lambda_b",
            Extra::Magnitude => "magnitude",
            Extra::StartA => "a_start",
            Extra::StartB => "b_start",
        }
    }

    fn shape(self, rank: usize, site: &Site) -> [usize; 2] {
        match self {
            Extra::LambdaD => [rank, 1],
            Extra::LambdaB => [site.out_features, 1],
            Extra::Magnitude => [1, site.out_features],
            Extra::StartA => [rank, site.in_features],
            Extra::StartB => [site.out_features, rank],
        }
    }

    fn is_trained(self) -> bool {
        !matches!(self, Extra::StartA | Extra::StartB)
    }
}

/// The matrices of one site: indices into [`Layout::a`] and [`Layout::b`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub a: usize,
    pub b: usize,
}

/// Sites, the matrices that serve them, and the map between the two.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub config: AdapterConfig,
    pub sharing: Sharing,
    pub sites: Vec<Site>,
    pub a: Vec<Matrix>,
    pub b: Vec<Matrix>,
    /// What each site has beside them, and these matrices, site by site.
    pub kinds: Vec<Extra>,
    pub extras: Vec<Matrix>,
    /// For each site its matrices.
    pub slots: Vec<Slot>,
    index: BTreeMap<(usize, String), usize>,
}

impl Layout {
    /// Lays `sharing` out over the sites of a model that the configuration targets.
    ///
    /// # Errors
    /// A target that the model lacks, a number out of range, settings that exclude each other, or a sharing that joins
    /// sites of different shapes.
    pub fn new(
        all_sites: &[Site],
        sharing: &Sharing,
        config: &AdapterConfig,
    ) -> Result<Self, AdapterError> {
        config.check()?;
        sharing.check(config)?;
        let sites = select_sites(all_sites, &config.targets)?;
        let layers = sites
            .iter()
            .map(|s| s.layer.saturating_add(1))
            .max()
            .unwrap_or(0);
        let mut a: Vec<Matrix> = Vec::new();
        let mut b: Vec<Matrix> = Vec::new();
        let widest = |width: fn(&Site) -> usize, share: &Share| {
            let sites = sites
                .iter()
                .filter(|s| share.scope_of(&s.projection) == Scope::AllSites);
            sites.map(width).max().unwrap_or(0)
        };
        let inputs = widest(|s| s.in_features, &sharing.a);
        let outputs = widest(|s| s.out_features, &sharing.b);
        let mut by_group: BTreeMap<(bool, String, usize), usize> = BTreeMap::new();
        let mut slots = Vec::with_capacity(sites.len());
        for (owner, site) in sites.iter().enumerate() {
            let mut place = |is_a: bool| -> Result<usize, AdapterError> {
                let share = if is_a { &sharing.a } else { &sharing.b };
                let scope = share.scope_of(&site.projection);
                let all = scope == Scope::AllSites;
                let (list, shape) = if is_a {
                    let width = if all { inputs } else { site.in_features };
                    (&mut a, [config.rank, width])
                } else {
                    let width = if all { outputs } else { site.out_features };
                    (&mut b, [width, config.rank])
                };
                let group = scope.group(site.layer);
                // No projection has an empty name.
                let projection = if all {
                    String::new()
                } else {
                    site.projection.clone()
                };
                let key = (is_a, projection, group);
                let i = *by_group.entry(key).or_insert_with(|| {
                    let letter = if is_a { 'a' } else { 'b' };
                    let place = match scope {
                        Scope::PerLayer => format!("layers.{group}.{}", site.projection),
                        Scope::AllLayers => format!("shared.{}", site.projection),
                        Scope::AllSites => "shared".into(),
                        Scope::Groups(n) => {
                            let end = (group + 1).saturating_mul(n).min(layers);
                            format!("layers.{}-{}.{}", group * n, end - 1, site.projection)
                        }
                    };
                    list.push(Matrix {
                        name: format!("{place}.{letter}"),
                        shape,
                        owner,
                        trained: !share.frozen,
                    });
                    list.len() - 1
                });
                if list[i].shape != shape {
                    return Err(AdapterError::Sharing(format!(
                        "`{}` would join {} {:?} and {} {:?}: sites of different widths cannot share",
                        list[i].name, sites[list[i].owner].path, list[i].shape, site.path, shape
                    )));
                }
                Ok(i)
            };
            slots.push(Slot {
                a: place(true)?,
                b: place(false)?,
            });
        }
        let kinds = Extra::all(sharing, config.init);
        let mut extras = Vec::with_capacity(sites.len() * kinds.len());
        for (owner, site) in sites.iter().enumerate() {
            for kind in &kinds {
                extras.push(Matrix {
                    name: format!("layers.{}.{}.{}", site.layer, site.projection, kind.name()),
                    shape: kind.shape(config.rank, site),
                    owner,
                    trained: kind.is_trained(),
                });
            }
            let most = site.in_features.min(site.out_features);
            if config.init == Init::Pissa && config.rank > most {
                return Err(AdapterError::Combination {
                    first: "`adapter.init` = \"pissa\"".into(),
                    second: format!("`adapter.rank` = {}", config.rank),
                    reason: format!(
                        "the weight of `{}` has {most} singular values",
                        site.place()
                    ),
                });
            }
        }
        let index = sites
            .iter()
            .enumerate()
            .map(|(i, s)| ((s.layer, s.projection.clone()), i))
            .collect();
        Ok(Layout {
            config: AdapterConfig {
                scaling: sharing.scaling.unwrap_or(config.scaling),
                ..config.clone()
            },
            sharing: sharing.clone(),
            sites,
            a,
            b,
            kinds,
            extras,
            slots,
            index,
        })
    }

    /// Index of the adapted site at `layer` and `projection`, if it is adapted.
    pub fn find(&self, layer: usize, projection: &str) -> Option<usize> {
        // A borrowed key would need a hand-written map; the name is a few bytes.
        self.index.get(&(layer, projection.to_owned())).copied()
    }

    /// All matrices, those of `A` first, then those of `B`, then what each site has beside them: the order of every list of a
    /// bank's matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.a.iter().chain(&self.b).chain(&self.extras)
    }

    /// Index in [`matrices`](Self::matrices) of what a site has beside `A` and `B`, if it has it.
    pub fn extra(&self, site: usize, kind: Extra) -> Option<usize> {
        let at = self.kinds.iter().position(|k| *k == kind)?;
        Some(self.a.len() + self.b.len() + site * self.kinds.len() + at)
    }

    /// The factor of the update: 1 where vectors are trained (VeRA), which take its place.
    pub fn scale(&self) -> f64 {
        match self.sharing.vectors {
            true => 1.0,
            false => self.config.scale(),
        }
    }

    /// Columns of the `B` that computes a site's update: twice the rank behind PiSSA, whose first matrices are taken away.
    pub fn update_rank(&self) -> usize {
        match self.config.init {
            Init::Pissa => 2 * self.config.rank,
            _ => self.config.rank,
        }
    }

    /// Number of trainable parameters: every trained matrix once, however many sites it serves.
    pub fn trainable_parameters(&self) -> u64 {
        self.matrices().filter(|m| m.trained).map(size).sum()
    }

    /// Bytes of the matrices in f32, each once, frozen ones too, as the native format keeps them.
    pub fn adapter_bytes(&self) -> u64 {
        4 * self.matrices().map(size).sum::<u64>()
    }
}

fn size(matrix: &Matrix) -> u64 {
    (matrix.shape[0] * matrix.shape[1]) as u64
}
