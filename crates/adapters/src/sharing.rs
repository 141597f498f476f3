//! Which layers use one matrix, and which matrices are trained: the whole space of ShareLoRA's methods, their ablations and
//! the baselines of a sharing study.
//!
//! At a site with weight `W [out, in]` and no bias
//!
//! | Method | Output | Trained | Source |
//! |---|---|---|---|
//! | `lora` | `x W^T + s (x A^T) B^T`, `s = alpha / r` | A, B | arXiv 2106.09685, section 4.1 |
//! | `lora_fa` | the same, A at its initial value | B | arXiv 2308.03303, section 3 |
//! | `share_a_frozen` | the same, one A for all layers at its initial value | B | ShareA, arXiv 2406.10785, with A as in LoRA-FA |
//! | `vera` | `x W^T + b ∘ ((d ∘ (x A^T)) B^T)`, one random A and B for all sites | d, b | arXiv 2310.11454, section 3 |
//! | `rslora` | `lora` with `s = alpha / sqrt(r)` | A, B | arXiv 2312.03732 |
//! | `dora` | `m / norm(W + s B A) ∘ (x W^T + s (x A^T) B^T)`, norms of rows, constants of the gradient | A, B, m | arXiv 2402.09353, sections 4.1 and 4.3 |
//!
//! Deviations. LoRA-FA's optimizer is plain AdamW: the projection of B's gradient that PEFT's `create_lorafa_optimizer` adds is
//! not made. VeRA's `d` is 0.1 and its `b` 0 at first, and A and B are cut to the widths of a site, as PEFT does it; it has no
//! factor, so `alpha` and `scaling` mean nothing to it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdapterConfig, AdapterError, Init, Scaling};

/// The layers that one matrix serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A matrix for each layer, as in LoRA.
    PerLayer,
    /// One matrix for all layers.
    AllLayers,
    /// One matrix for all layers and all projections, as wide as the widest of them; a site uses its first rows or columns.
    AllSites,
    /// One matrix for each group of this many consecutive layers.
    Groups(usize),
}

impl Scope {
    /// The number of the group that `layer` belongs to.
    pub fn group(self, layer: usize) -> usize {
        match self {
            Scope::PerLayer => layer,
            Scope::AllLayers | Scope::AllSites => 0,
            Scope::Groups(n) => layer / n,
        }
    }
}

/// A scope, limited to some projections or not; the projections that are left out keep a matrix per layer.
///
/// In TOML: `"per_layer"`, `"all_layers"`, `"all_sites"`, `{ groups = 4 }`, or any of these with `projections` or `frozen`:
/// `{ scope = "all_layers", projections = ["q_proj", "k_proj"] }`, `{ groups = 4, frozen = true }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Share {
    pub scope: Scope,
    /// `None`: every projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projections: Option<Vec<String>>,
    /// The matrices of every projection keep their initial values.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
}

impl Share {
    /// The scope that holds for `projection`.
    pub fn scope_of(&self, projection: &str) -> Scope {
        match &self.projections {
            Some(names) if !names.iter().any(|n| n == projection) => Scope::PerLayer,
            _ => self.scope,
        }
    }
}

impl From<Scope> for Share {
    fn from(scope: Scope) -> Self {
        Share {
            scope,
            projections: None,
            frozen: false,
        }
    }
}

const SHARE_FORMS: &str = "\"per_layer\", \"all_layers\", \"all_sites\", { groups = N }, or \
                           { scope = ..., projections = [...], frozen = true }";

impl TryFrom<Value> for Share {
    type Error = AdapterError;

    fn try_from(value: Value) -> Result<Self, AdapterError> {
        let bad = |what: String| AdapterError::Sharing(format!("{what}: write {SHARE_FORMS}"));
        let name = |text: &str| match text {
            "per_layer" => Ok(Scope::PerLayer),
            "all_layers" => Ok(Scope::AllLayers),
            "all_sites" => Ok(Scope::AllSites),
            other => Err(bad(format!("unknown scope `{other}`"))),
        };
        let groups = |n: &Value| match n.as_u64() {
            Some(n) if n > 0 => Ok(Scope::Groups(n as usize)),
            _ => Err(bad(format!(
                "`groups` = {n} is not a positive number of layers"
            ))),
        };
        match &value {
            Value::String(text) => Ok(name(text)?.into()),
            Value::Object(map) => {
                if let Some(key) = map
                    .keys()
                    .find(|k| !["scope", "groups", "projections", "frozen"].contains(&k.as_str()))
                {
                    return Err(bad(format!("unknown key `{key}`")));
                }
                let scope = match (map.get("scope"), map.get("groups")) {
                    (Some(Value::String(text)), None) => name(text)?,
                    // The form that this type serialises to.
                    (Some(Value::Object(inner)), None)
                        if inner.len() == 1 && inner.contains_key("groups") =>
                    {
                        groups(&inner["groups"])?
                    }
                    (None, Some(n)) => groups(n)?,
                    _ => return Err(bad("a table needs either `scope` or `groups`".into())),
                };
                let projections = match map.get("projections") {
                    None | Some(Value::Null) => None,
                    Some(list) => Some(
                        serde_json::from_value::<Vec<String>>(list.clone())
                            .map_err(|_| bad("`projections` is not a list of names".into()))?,
                    ),
                };
                let frozen = match map.get("frozen") {
                    None => false,
                    Some(Value::Bool(frozen)) => *frozen,
                    Some(_) => return Err(bad("`frozen` is neither true nor false".into())),
                };
                Ok(Share {
                    scope,
                    projections,
                    frozen,
                })
            }
            other => Err(bad(format!("{other} is no sharing"))),
        }
    }
}

/// What is shared and what is trained: a scope for `A` and one for `B`, and what a site has beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    pub a: Share,
    pub b: Share,
    /// VeRA's: each site has trained vectors `d [r]` and `b [out]`, which scale the rows of its A and B.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vectors: bool,
    /// DoRA's: each site has a trained norm for each row of its merged weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub magnitude: bool,
    /// Takes the place of the `scaling` of the adapter's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

impl Sharing {
    /// Matrices with these scopes, both trained, and nothing beside them.
    pub fn new(a: impl Into<Share>, b: impl Into<Share>) -> Self {
        Sharing {
            a: a.into(),
            b: b.into(),
            vectors: false,
            magnitude: false,
            scaling: None,
        }
    }

    /// What needs no model to be refused: [`Layout::new`](crate::Layout::new) asks it too.
    ///
    /// # Errors
    /// [`AdapterError::Sharing`] where nothing is trained, [`AdapterError::Combination`] names two settings that exclude each
    /// other.
    pub fn check(&self, config: &AdapterConfig) -> Result<(), AdapterError> {
        if self.a.frozen && self.b.frozen && !self.vectors && !self.magnitude {
            return Err(AdapterError::Sharing(
                "`a` and `b` are frozen, and there are neither `vectors` nor a `magnitude`: nothing is trained".into(),
            ));
        }
        let init = |init: Init| format!("`adapter.init` = \"{}\"", init.name());
        let refused = |second: &str, reason: &str| {
            Err(AdapterError::Combination {
                first: init(config.init),
                second: second.into(),
                reason: reason.into(),
            })
        };
        let starts_at_zero = matches!(config.init, Init::Kaiming | Init::Gaussian);
        if self.b.frozen && starts_at_zero && !self.vectors {
            return refused(
                "a `method` with a frozen `b`",
                "B would stay 0 and the update with it",
            );
        }
        if self.vectors && config.init != Init::Kaiming {
            return refused(
                "a `method` with `vectors` (VeRA)",
                "its A and B have initial values of their own; leave `adapter.init` out for it",
            );
        }
        if config.init == Init::Orthogonal && !config.rank.is_multiple_of(2) {
            return refused(
                &format!("`adapter.rank` = {}", config.rank),
                "half of the rank is A's and half is B's, so it has to be even",
            );
        }
        if config.init == Init::Pissa {
            for (letter, share) in [("a", &self.a), ("b", &self.b)] {
                if share.scope != Scope::PerLayer {
                    return refused(
                        &format!("a `method` that shares `{letter}`"),
                        "the singular vectors are those of one layer's weight; PiSSA is for methods with both matrices \
                         per layer",
                    );
                }
            }
            if config.dropout > 0.0 {
                return refused(
                    &format!("`adapter.dropout` = {}", config.dropout),
                    "what was taken out of the weight would be dropped as well; set `adapter.dropout` to 0",
                );
            }
        }
        Ok(())
    }
}

/// How a model is fine-tuned.
///
/// In TOML a built-in name (see [`NAMED_METHODS`]) or a table `{ name = "...", a = SHARE, b = SHARE }`, to which
/// `vectors = true`, `magnitude = true` and `scaling = "rslora"` may be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Method {
    /// The untouched base model: evaluated, never trained.
    Base,
    /// Every weight of the base is trained: the tables' baseline.
    Full,
    /// Low-rank adapters with this sharing.
    Adapter { name: String, sharing: Sharing },
}

/// The names that need no table.
pub const NAMED_METHODS: [&str; 12] = [
    "lora",
    "share_a",
    "share_b",
    "share_ab",
    "share_a_qkv",
    "lora_fa",
    "share_a_frozen",
    "vera",
    "rslora",
    "dora",
    "full",
    "base",
];

/// The query, key and value projections under the names of every architecture.
const QKV: [&str; 9] = [
    "q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v",
];

impl Method {
    /// A built-in method.
    ///
    /// # Errors
    /// [`AdapterError::UnknownMethod`] with the nearest name and the choices.
    pub fn named(name: &str) -> Result<Self, AdapterError> {
        use Scope::{AllLayers, AllSites, PerLayer};
        let frozen = |scope: Scope| Share {
            frozen: true,
            ..scope.into()
        };
        let lora = Sharing::new(PerLayer, PerLayer);
        let sharing = match name {
            "base" => return Ok(Method::Base),
            "full" => return Ok(Method::Full),
            "lora" => lora,
            "share_a" => Sharing::new(AllLayers, PerLayer),
            "share_b" => Sharing::new(PerLayer, AllLayers),
            "share_ab" => Sharing::new(AllLayers, AllLayers),
            "share_a_qkv" => {
                let qkv = Share {
                    projections: Some(QKV.map(String::from).to_vec()),
                    ..AllLayers.into()
                };
                Sharing::new(qkv, PerLayer)
            }
            "lora_fa" => Sharing::new(frozen(PerLayer), PerLayer),
            "share_a_frozen" => Sharing::new(frozen(AllLayers), PerLayer),
            "vera" => Sharing {
                vectors: true,
                ..Sharing::new(frozen(AllSites), frozen(AllSites))
            },
            "rslora" => Sharing {
                scaling: Some(Scaling::Rslora),
                ..lora
            },
            "dora" => Sharing {
                magnitude: true,
                ..lora
            },
            other => {
                let near = NAMED_METHODS
                    .iter()
                    .map(|m| (strsim::damerau_levenshtein(other, m), m))
                    .min()
                    .filter(|(distance, _)| *distance <= 3)
                    .map(|(_, m)| format!(" (did you mean `{m}`?)"))
                    .unwrap_or_default();
                return Err(AdapterError::UnknownMethod {
                    name: other.into(),
                    near,
                    choices: NAMED_METHODS.join(", "),
                });
            }
        };
        Ok(Method::Adapter {
            name: name.into(),
            sharing,
        })
    }

    pub fn name(&self) -> &str {
        match self {
            Method::Base => "base",
            Method::Full => "full",
            Method::Adapter { name, .. } => name,
        }
    }

    /// The sharing, where there is an adapter.
    pub fn sharing(&self) -> Option<&Sharing> {
        match self {
            Method::Adapter { sharing, .. } => Some(sharing),
            _ => None,
        }
    }
}

impl TryFrom<Value> for Method {
    type Error = AdapterError;

    fn try_from(value: Value) -> Result<Self, AdapterError> {
        match value {
            Value::String(name) => Method::named(&name),
            Value::Object(mut map) => {
                let name = match map.remove("name") {
                    Some(Value::String(name)) if !name.is_empty() => name,
                    _ => {
                        return Err(AdapterError::Sharing(
                            "a method's table needs a `name`".into(),
                        ));
                    }
                };
                if NAMED_METHODS.contains(&name.as_str())
                    && Method::named(&name)?.sharing().is_none()
                {
                    return Err(AdapterError::Sharing(format!(
                        "`{name}` is a built-in method without adapters: give the table another name"
                    )));
                }
                let sharing = serde_json::from_value(Value::Object(map))
                    .map_err(|e| AdapterError::Sharing(format!("method `{name}`: {e}")))?;
                Ok(Method::Adapter { name, sharing })
            }
            other => Err(AdapterError::Sharing(format!(
                "{other} is no method: give a name ({}) or a table {{ name, a, b }}",
                NAMED_METHODS.join(", ")
            ))),
        }
    }
}

impl From<Method> for Value {
    /// The name where it says everything, else the table: two spellings of one method serialise alike.
    fn from(method: Method) -> Value {
        if Method::named(method.name()).is_ok_and(|m| m == method) {
            return Value::String(method.name().into());
        }
        match method {
            Method::Adapter { name, sharing } => {
                let mut table = serde_json::json!({ "name": name });
                if let (Value::Object(table), Ok(Value::Object(sharing))) =
                    (&mut table, serde_json::to_value(&sharing))
                {
                    table.extend(sharing);
                }
                table
            }
            other => Value::String(other.name().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method that is written to a record and read back must be the same method.
    #[test]
    fn methods_survive_serialisation() {
        let custom: Method = serde_json::from_value(serde_json::json!({
            "name": "groups", "a": {"groups": 4, "projections": ["q_proj"]}, "b": "per_layer"
        }))
        .unwrap();
        let mut all: Vec<Method> = NAMED_METHODS
            .iter()
            .map(|n| Method::named(n).unwrap())
            .collect();
        all.push(custom);
        all.push(
            serde_json::from_value(serde_json::json!({
                "name": "dvora", "a": {"scope": "all_sites", "frozen": true}, "b": {"groups": 2, "frozen": true},
                "vectors": true, "magnitude": true, "scaling": "rslora"
            }))
            .unwrap(),
        );
        for method in all {
            let text = serde_json::to_string(&method).unwrap();
            assert_eq!(
                serde_json::from_str::<Method>(&text).unwrap(),
                method,
                "{text}"
            );
        }
    }

    /// Hashes of stored runs are made of these texts: a new kind of method must not change an old one's.
    #[test]
    fn a_table_of_two_scopes_is_written_as_ever() {
        let text = r#"{"name":"groups","a":{"scope":{"groups":4},"projections":["q_proj"]},"b":{"scope":"all_layers"}}"#;
        let method: Method = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&method).unwrap(), text);
    }

    #[test]
    fn a_misspelt_method_names_the_nearest() {
        let message = Method::named("sharea").unwrap_err().to_string();
        assert!(message.contains("did you mean `share_a`?"), "{message}");
        for bad in [
            serde_json::json!({"name": "x", "a": "per_layr", "b": "per_layer"}),
            serde_json::json!({"name": "x", "a": {"groups": 0}, "b": "per_layer"}),
            serde_json::json!({"name": "x", "a": {"scope": "per_layer", "frozen": 1}, "b": "per_layer"}),
            serde_json::json!({"name": "x", "a": "per_layer", "b": "per_layer", "vector": true}),
            serde_json::json!({"name": "x", "a": "per_layer"}),
            serde_json::json!({"name": "full", "a": "per_layer", "b": "per_layer"}),
            serde_json::json!(3),
        ] {
            assert!(
                serde_json::from_value::<Method>(bad.clone()).is_err(),
                "{bad}"
            );
        }
    }
}
