//! The value of a sharing for one model: which site uses which matrix. No tensors here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AdapterError, Scope, Sharing, Site, select_sites};

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

/// A trainable matrix of the bank. `A` is `[rank, in]`, `B` is `[out, rank]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Unique name, `layers.0.q_proj.a`, `layers.4-7.q_proj.a` or `shared.q_proj.a`.
    pub name: String,
    pub shape: [usize; 2],
    /// Index of the first site that uses it: its initial values are that site's.
    pub owner: usize,
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
    /// For each site its matrices.
    pub slots: Vec<Slot>,
    index: BTreeMap<(usize, String), usize>,
}

impl Layout {
    /// Lays `sharing` out over the sites of a model that the configuration targets.
    ///
    /// # Errors
    /// A target that the model lacks, a number out of range, or a sharing that names a projection that is
    /// not adapted or joins sites of different shapes.
    pub fn new(
        all_sites: &[Site],
        sharing: &Sharing,
        config: &AdapterConfig,
    ) -> Result<Self, AdapterError> {
        config.check()?;
        let sites = select_sites(all_sites, &config.targets)?;
        let layers = sites
            .iter()
            .map(|s| s.layer.saturating_add(1))
            .max()
            .unwrap_or(0);
        let mut a: Vec<Matrix> = Vec::new();
        let mut b: Vec<Matrix> = Vec::new();
        let mut by_group: BTreeMap<(bool, String, usize), usize> = BTreeMap::new();
        let mut slots = Vec::with_capacity(sites.len());
        for (owner, site) in sites.iter().enumerate() {
            let mut place = |is_a: bool| -> Result<usize, AdapterError> {
                let (share, list, shape) = if is_a {
                    (&sharing.a, &mut a, [config.rank, site.in_features])
                } else {
                    (&sharing.b, &mut b, [site.out_features, config.rank])
                };
                let scope = share.scope_of(&site.projection);
                let group = scope.group(site.layer);
                let key = (is_a, site.projection.clone(), group);
                let i = *by_group.entry(key).or_insert_with(|| {
                    let letter = if is_a { 'a' } else { 'b' };
                    let place = match scope {
                        Scope::PerLayer => format!("layers.{group}"),
                        Scope::AllLayers => "shared".into(),
                        Scope::Groups(n) => {
                            let end = (group + 1).saturating_mul(n).min(layers);
                            format!("layers.{}-{}", group * n, end - 1)
                        }
                    };
                    list.push(Matrix {
                        name: format!("{place}.{}.{letter}", site.projection),
                        shape,
                        owner,
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
        let index = sites
            .iter()
            .enumerate()
            .map(|(i, s)| ((s.layer, s.projection.clone()), i))
            .collect();
        Ok(Layout {
            config: config.clone(),
            sharing: sharing.clone(),
            sites,
            a,
            b,
            slots,
            index,
        })
    }

    /// Index of the adapted site at `layer` and `projection`, if it is adapted.
    pub fn find(&self, layer: usize, projection: &str) -> Option<usize> {
        // A borrowed key would need a hand-written map; the name is a few bytes.
        self.index.get(&(layer, projection.to_owned())).copied()
    }

    /// All matrices, those of `A` first: the order of every list of a bank's matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.a.iter().chain(&self.b)
    }

    /// Number of trainable parameters: every matrix once, however many sites it serves.
    pub fn trainable_parameters(&self) -> u64 {
        self.matrices()
            .map(|m| (m.shape[0] * m.shape[1]) as u64)
            .sum()
    }

    /// Bytes of the matrices in f32, each once, as the native format keeps them.
    pub fn adapter_bytes(&self) -> u64 {
        4 * self.trainable_parameters()
    }
}
