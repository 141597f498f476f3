//! Which layers use one matrix: the whole space of ShareLoRA's methods and their ablations.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::AdapterError;

/// The layers that one matrix serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A matrix for each layer, as in LoRA.
    PerLayer,
    /// One matrix for all layers.
    AllLayers,
    /// One matrix for each group of this many consecutive layers.
    Groups(usize),
}

impl Scope {
    /// The number of the group that `layer` belongs to.
    pub fn group(self, layer: usize) -> usize {
        match self {
            Scope::PerLayer => layer,
            Scope::AllLayers => 0,
            Scope::Groups(n) => layer / n,
        }
    }
}

/// A scope, limited to some projections or not; the projections that are left out keep a matrix per layer.
///
/// In TOML: `"per_layer"`, `"all_layers"`, `{ groups = 4 }`, or any of these with `projections`:
/// `{ scope = "all_layers", projections = ["q_proj", "k_proj"] }`, `{ groups = 4, projections = ["v_proj"] }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct Share {
    pub scope: Scope,
    /// `None`: every projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projections: Option<Vec<String>>,
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
        }
    }
}

const SHARE_FORMS: &str =
    "\"per_layer\", \"all_layers\", { groups = N }, or { scope = ..., projections = [...] }";

impl TryFrom<Value> for Share {
    type Error = AdapterError;

    fn try_from(value: Value) -> Result<Self, AdapterError> {
        let bad = |what: String| AdapterError::Sharing(format!("{what}: write {SHARE_FORMS}"));
        let name = |text: &str| match text {
            "per_layer" => Ok(Scope::PerLayer),
            "all_layers" => Ok(Scope::AllLayers),
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
                    .find(|k| !["scope", "groups", "projections"].contains(&k.as_str()))
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
                Ok(Share { scope, projections })
            }
            other => Err(bad(format!("{other} is no sharing"))),
        }
    }
}

/// What is shared: a scope for `A` and one for `B`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    pub a: Share,
    pub b: Share,
}

/// How a model is fine-tuned.
///
/// In TOML a built-in name (see [`NAMED_METHODS`]) or a table `{ name = "...", a = SHARE, b = SHARE }`.
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
pub const NAMED_METHODS: [&str; 7] = [
    "lora",
    "share_a",
    "share_b",
    "share_ab",
    "share_a_qkv",
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
        use Scope::{AllLayers, PerLayer};
        let (a, b): (Share, Share) = match name {
            "base" => return Ok(Method::Base),
            "full" => return Ok(Method::Full),
            "lora" => (PerLayer.into(), PerLayer.into()),
            "share_a" => (AllLayers.into(), PerLayer.into()),
            "share_b" => (PerLayer.into(), AllLayers.into()),
            "share_ab" => (AllLayers.into(), AllLayers.into()),
            "share_a_qkv" => (
                Share {
                    scope: AllLayers,
                    projections: Some(QKV.map(String::from).to_vec()),
                },
                PerLayer.into(),
            ),
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
            sharing: Sharing { a, b },
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
                serde_json::json!({ "name": name, "a": sharing.a, "b": sharing.b })
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
        for method in all {
            let text = serde_json::to_string(&method).unwrap();
            assert_eq!(
                serde_json::from_str::<Method>(&text).unwrap(),
                method,
                "{text}"
            );
        }
    }

    #[test]
    fn a_misspelt_method_names_the_nearest() {
        let message = Method::named("sharea").unwrap_err().to_string();
        assert!(message.contains("did you mean `share_a`?"), "{message}");
        for bad in [
            serde_json::json!({"name": "x", "a": "per_layr", "b": "per_layer"}),
            serde_json::json!({"name": "x", "a": {"groups": 0}, "b": "per_layer"}),
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
