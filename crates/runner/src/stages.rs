//! `[[stage]]` and `[sequence]`: fine-tuning on one dataset after the other, and the orders in which that is done.
//!
//! A stage is a run of its own that starts from its predecessor's adapter. So sequences with a common beginning share its runs,
//! every stage's adapter is kept, and a stage is evaluated, resumed and scheduled as any run is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a stage takes from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// The adapter; AdamW begins anew.
    #[default]
    Adapter,
    /// The adapter and AdamW's moments.
    AdapterAndOptimizer,
    /// Neither: it starts as a first stage does.
    Nothing,
}

/// One stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `name`, or else the task's.
    pub name: String,
    pub carry: Carry,
    /// Keys of `[train]` that it replaces.
    pub train: Map<String, Value>,
}

/// Stages that build on one another, from one that starts at the base to the one that is this path's run.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(pub Vec<Stage>);

impl Path {
    /// The names of its stages, `alpaca+gsm8k`.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|stage| stage.name.as_str()).collect();
        names.join("+")
    }

    /// What its last stage builds on.
    pub fn before(&self) -> Option<Path> {
        let (_, before) = self.0.split_last()?;
        (!before.is_empty()).then(|| Path(before.to_vec()))
    }
}

/// More orders than this are no plan.
const MOST_STAGES: usize = 6;

/// The keys of `[sequence]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sequence {
    /// `given`, `all` or a list of lists of names.
    #[serde(default)]
    orders: Option<Value>,
    /// Whether every stage is also done alone: what intransigence is measured against.
    #[serde(default)]
    references: bool,
}

/// What is wrong with a stage or the sequence: the section, the key and the reason.
pub type Wrong = (String, String, String);

/// The stages of a document, in its order; empty where it has none.
///
/// # Errors
/// A stage that is no table, a `carry` that is unknown, two stages of one name that differ.
pub fn stages(document: &Value) -> Result<Vec<Stage>, Wrong> {
    let list = match document.get("stage") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong("[[stage]]", "stage", "is no list of tables")),
    };
    let mut stages: Vec<Stage> = Vec::new();
    for (number, value) in (1..).zip(list) {
        let section = format!("[[stage]] {number}:");
        let Value::Object(map) = value else {
            return Err(wrong(&section, "stage", "is no table"));
        };
        let mut train = map.clone();
        let carry = match train.remove("carry") {
            None => Carry::default(),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| {
                let reason = format!(
                    "unknown value {value}: choices: adapter, adapter_and_optimizer, nothing"
                );
                wrong(&section, "carry", &reason)
            })?,
        };
        let task = document.get("train").and_then(|train| train.get("task"));
        let name = match train.remove("name").or(map.get("task").or(task).cloned()) {
            Some(Value::String(name)) if !name.is_empty() && !name.contains('+') => name,
            other => {
                let reason = match other {
                    Some(value) => format!("{value} is no name: a text without `+`"),
                    None => "is missing: give `task`, or a `name`".into(),
                };
                return Err(wrong(&section, "name", &reason));
            }
        };
        let stage = Stage { name, carry, train };
        let differs = |other: &&Stage| other.name == stage.name && other.train != stage.train;
        if stages.iter().any(|other| differs(&other)) {
            let reason = format!(
                "`{}` names another stage too: give one a `name`",
                stage.name
            );
            return Err(wrong(&section, "name", &reason));
        }
        stages.push(stage);
    }
    Ok(stages)
}

/// The paths of all runs that a document's sequences need, each behind what it builds on and none twice.
///
/// # Errors
/// As [`stages`], and orders that cannot be.
pub fn paths(document: &Value) -> Result<Vec<Path>, Wrong> {
    let stages = stages(document)?;
    let sequence: Sequence = match document.get("sequence") {
        None => Sequence::default(),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|e| wrong("[sequence]", "sequence", &e.to_string()))?,
    };
    if stages.is_empty() {
        return match document.get("sequence") {
            None => Ok(Vec::new()),
            Some(_) => Err(wrong("[sequence]", "orders", "there is no [[stage]]")),
        };
    }
    let mut paths: Vec<Path> = Vec::new();
    let mut add = |path: Path| {
        if !paths.iter().any(|other| other.name() == path.name()) {
            paths.push(path);
        }
    };
    for order in orders(&stages, sequence.orders.as_ref())? {
        let mut path = Path(Vec::new());
        for place in order {
            let stage = stages[place].clone();
            if stage.carry == Carry::Nothing {
                path.0.clear();
            }
            path.0.push(stage);
            add(path.clone());
        }
    }
    if sequence.references {
        stages.into_iter().for_each(|stage| add(Path(vec![stage])));
    }
    Ok(paths)
}

/// The orders of the stages, by their places.
fn orders(stages: &[Stage], orders: Option<&Value>) -> Result<Vec<Vec<usize>>, Wrong> {
    let bad = |reason: &str| wrong("[sequence]", "orders", reason);
    let given: Vec<usize> = (0..stages.len()).collect();
    let list = match orders {
        None => return Ok(vec![given]),
        Some(Value::String(text)) if text == "given" => return Ok(vec![given]),
        Some(Value::String(text)) if text == "all" && stages.len() > MOST_STAGES => {
            return Err(bad(&format!(
                "\"all\" orders of {} stages are too many: at most {MOST_STAGES}, or list those that are wanted",
                stages.len()
            )));
        }
        Some(Value::String(text)) if text == "all" => return Ok(permutations(&given)),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => {
            return Err(bad(&format!(
                "{other}: choices: \"given\", \"all\", or a list of lists of names"
            )));
        }
    };
    let names: BTreeSet<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let place = |name: &Value| {
        let found = stages.iter().position(|stage| *name == stage.name.as_str());
        found.ok_or_else(|| {
            let choices: Vec<&str> = names.iter().copied().collect();
            bad(&format!(
                "{name} is no stage: choices: {}",
                choices.join(", ")
            ))
        })
    };
    list.iter()
        .map(|order| match order {
            Value::Array(order) if !order.is_empty() => order.iter().map(place).collect(),
            other => Err(bad(&format!("{other} is no list of names"))),
        })
        .collect()
}

/// All orders of `places`, in lexicographic order.
fn permutations(places: &[usize]) -> Vec<Vec<usize>> {
    if places.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, &first) in places.iter().enumerate() {
        let rest: Vec<usize> = [&places[..at], &places[at + 1..]].concat();
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

fn wrong(section: &str, key: &str, reason: &str) -> Wrong {
    (section.into(), key.into(), reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(document: Value) -> Result<Vec<String>, String> {
        match paths(&document) {
            Ok(paths) => Ok(paths.iter().map(Path::name).collect()),
            Err((section, key, reason)) => Err(format!("{section} `{key}`: {reason}")),
        }
    }

    fn three(sequence: Value) -> Value {
        json!({ "stage": [{ "task": "a" }, { "task": "b" }, { "task": "c" }], "sequence": sequence })
    }

    /// A prefix is a run, and one that two orders have in common is one run.
    #[test]
    fn orders_share_their_beginnings() {
        assert_eq!(named(json!({})).unwrap(), Vec::<String>::new());
        assert_eq!(named(three(json!({}))).unwrap(), ["a", "a+b", "a+b+c"]);
        let all = named(three(json!({ "orders": "all" }))).unwrap();
        // 3 first stages, 6 second and 6 third ones.
        assert_eq!(all.len(), 3 + 6 + 6);
        assert_eq!(all[..4], ["a", "a+b", "a+b+c", "a+c"]);
        let listed = json!({ "orders": [["c", "a"], ["c", "b", "c"]] });
        assert_eq!(named(three(listed)).unwrap(), ["c", "c+a", "c+b", "c+b+c"]);
        let alone = named(three(json!({ "references": true }))).unwrap();
        assert_eq!(alone, ["a", "a+b", "a+b+c", "b", "c"]);
    }

    /// A stage that carries nothing is the run that its task alone would be.
    #[test]
    fn a_stage_that_carries_nothing_starts_a_path() {
        let stages = json!([{ "task": "a" }, { "task": "b", "carry": "nothing" }, { "task": "c" }]);
        assert_eq!(
            named(json!({ "stage": stages })).unwrap(),
            ["a", "b", "b+c"]
        );
    }

    #[test]
    fn wrong_sequences_name_their_choices() {
        insta::assert_snapshot!(named(three(json!({ "orders": "some" }))).unwrap_err(), @r#"[sequence] `orders`: "some": choices: "given", "all", or a list of lists of names"#);
        insta::assert_snapshot!(named(three(json!({ "orders": [["d"]] }))).unwrap_err(), @r#"[sequence] `orders`: "d" is no stage: choices: a, b, c"#);
        insta::assert_snapshot!(named(three(json!({ "order": 1 }))).unwrap_err(), @"[sequence] `sequence`: unknown field `order`, expected `orders` or `references`");
        insta::assert_snapshot!(named(json!({ "sequence": {} })).unwrap_err(), @"[sequence] `orders`: there is no [[stage]]");
        let twice = json!({ "stage": [{ "task": "a" }, { "task": "a", "steps": 3 }] });
        insta::assert_snapshot!(named(twice).unwrap_err(), @"[[stage]] 2: `name`: `a` names another stage too: give one a `name`");
        let carry = json!({ "stage": [{ "task": "a", "carry": "all" }] });
        insta::assert_snapshot!(named(carry).unwrap_err(), @r#"[[stage]] 1: `carry`: unknown value "all": choices: adapter, adapter_and_optimizer, nothing"#);
        insta::assert_snapshot!(named(json!({ "stage": [{}] })).unwrap_err(), @"[[stage]] 1: `name`: is missing: give `task`, or a `name`");
    }
}
