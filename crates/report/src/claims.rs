//! The paper's published claims beside what was measured here, and the verdict: by rules, from numbers, never written by hand.
//!
//! - A count is reproduced where it is less than one unit of the last published digit away: papers round and cut off.
//! - A difference in the claim's own setting is reproduced where it counts ([`differs`]), has the claimed sign, and its interval reaches the
//!   published value; not reproduced where its interval stays below that; else it is not testable: the interval holds both.
//! - What is from another setting is shown and decides nothing. A claim with nothing else, or that has not run, is not testable here.

use serde::Deserialize;

use crate::comparison::p_value;
use crate::difference::{Difference, differs};
use crate::error::{Error, Result};
use crate::number::{fixed, signed};
use crate::paper::{Axes, NOT_RUN, Studies, Study};
use crate::statistics;
use crate::style::method_name;
use crate::table::{Cell, Column, Table};

/// The claims of a paper, as their file has them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Heading.
    pub title: String,
    /// Where the claims are from; plain text.
    pub description: String,
    /// The claims.
    pub claims: Vec<Claim>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is claimed, in words.
    pub claim: String,
    /// The published number, in `unit`.
    pub published: f64,
    /// Its decimals as published.
    #[serde(default)]
    pub decimals: usize,
    /// `%`, `points` or `GB`.
    pub unit: String,
    /// What can be set beside it here.
    pub evidence: Vec<Evidence>,
}

/// One thing that is counted or measured here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How its setting differs from the claim's; absent: it is the claim's own.
    pub differs: Option<String>,
    /// Where its number is from.
    pub from: Source,
}

/// Where a number of an [`Evidence`] is from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From a model's configuration and an experiment's settings, without running anything.
    Count(Count),
    /// The difference of a method from LoRA in a metric, paired, in points.
    Difference(Measured),
    /// How much less memory a method's runs took at their peak than LoRA's, in GB (10^9 bytes).
    Memory(Measured),
}

/// A number that a method has less of than LoRA, from configurations alone.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Name of a model's shape.
    pub shape: String,
    /// The experiment with the settings.
    pub experiment: String,
    /// The method.
    pub method: String,
    /// What is counted.
    pub what: What,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Trained parameters, in percent of LoRA's.
    Parameters,
    /// The estimate of memory, in GB (10^9 bytes).
    Memory,
}

/// A method in an experiment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The experiment.
    pub experiment: String,
    /// The method.
    pub method: String,
    /// The metric; only of a difference.
    #[serde(default)]
    pub metric: String,
    /// Values of axes.
    #[serde(default, rename = "where")]
    pub axes: Axes,
}

/// What is said of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Reproduced,
    NotReproduced,
    NotTestable,
}

impl Verdict {
    /// For readers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::NotTestable => "not testable here",
        }
    }
}

/// The rule for counts.
pub fn judge_count(published: f64, decimals: usize, counted: f64) -> Verdict {
    let unit = 0.1f64.powi(i32::try_from(decimals).unwrap_or(0));
    match (counted - published).abs() < unit {
        true => Verdict::Reproduced,
        false => Verdict::NotReproduced,
    }
}

/// The rule for differences in the claim's own setting, all in one unit.
pub fn judge_difference(published: f64, difference: &Difference) -> Verdict {
    let Some((_, high)) = difference.interval else {
        return Verdict::NotTestable;
    };
    if high < published {
        Verdict::NotReproduced
    } else if differs(difference) == Some(true) && difference.value > 0.0 {
        Verdict::Reproduced
    } else {
        Verdict::NotTestable
    }
}

impl Claims {
    /// Every experiment whose results are asked for.
    pub fn experiments(&self) -> impl Iterator<Item = &str> {
        let evidence = self.claims.iter().flat_map(|claim| &claim.evidence);
        evidence.filter_map(|evidence| match &evidence.from {
            Source::Count(_) => None,
            Source::Difference(of) | Source::Memory(of) => Some(of.experiment.as_str()),
        })
    }

    /// Every count that is asked for, in order; [`Claims::table`] takes their values.
    pub fn counts(&self) -> impl Iterator<Item = &Count> {
        let evidence = self.claims.iter().flat_map(|claim| &claim.evidence);
        evidence.filter_map(|evidence| match &evidence.from {
            Source::Count(count) => Some(count),
            _ => None,
        })
    }

    /// The table: a row for each piece of evidence. `counts` are the values of [`Claims::counts`].
    ///
    /// # Errors
    /// A method, metric or axis that does not fit its experiment.
    pub fn table(&self, counts: &[f64], studies: &Studies) -> Result<Table> {
        let mut counts = counts.iter();
        let mut rows = Vec::new();
        for claim in &self.claims {
            for (index, evidence) in claim.evidence.iter().enumerate() {
                let failed = |message: String| Error::Spec(format!("{}: {message}", claim.claim));
                let (here, measured, verdict) = match &evidence.from {
                    Source::Count(count) => {
                        let Some(&value) = counts.next() else {
                            return Err(failed("a count is missing".into()));
                        };
                        let what = match count.what {
                            What::Parameters => "counted",
                            What::Memory => "estimated",
                        };
                        let here =
                            format!("{}, {}: {what}", count.shape, method_name(&count.method));
                        let text = format!("{} {}", fixed(value, 1), claim.unit);
                        let verdict = judge_count(claim.published, claim.decimals, value);
                        (here, Cell::number(text, value), verdict)
                    }
                    Source::Difference(of) => {
                        let found = match studies.get(&of.experiment) {
                            Some(study) => {
                                difference(study, of).map_err(|e| failed(e.to_string()))?
                            }
                            None => None,
                        };
                        let verdict = found.as_ref().map_or(Verdict::NotTestable, |found| {
                            judge_difference(claim.published, found)
                        });
                        let shown =
                            found.map_or_else(|| Cell::text(NOT_RUN), |d| shown(&d, &claim.unit));
                        (of.here(), shown, verdict)
                    }
                    Source::Memory(of) => {
                        let found = match studies.get(&of.experiment) {
                            Some(study) => memory(study, of).map_err(|e| failed(e.to_string()))?,
                            None => None,
                        };
                        let shown = found.map_or_else(
                            || Cell::text(NOT_RUN),
                            |value| Cell::number(format!("{} GB", signed(value, 2)), value),
                        );
                        let verdict = found.map_or(Verdict::NotTestable, |value| {
                            judge_count(claim.published, claim.decimals, value)
                        });
                        (of.here(), shown, verdict)
                    }
                };
                // One verdict a claim: another setting has none, unless there is nothing else.
                let verdict = match (&evidence.differs, index) {
                    (None, _) => Some(verdict),
                    (Some(_), 0) => Some(Verdict::NotTestable),
                    (Some(_), _) => None,
                };
                let published =
                    format!("{} {}", fixed(claim.published, claim.decimals), claim.unit);
                rows.push(vec![
                    Cell::text(&claim.claim),
                    Cell::number(published, claim.published),
                    Cell::text(here),
                    measured,
                    verdict.map_or_else(Cell::none, |verdict| Cell {
                        bold: verdict != Verdict::NotTestable,
                        ..Cell::text(verdict.name())
                    }),
                    Cell::text(evidence.differs.as_deref().unwrap_or("the claim's own")),
                ]);
            }
        }
        let columns = vec![
            Column::left("Claim"),
            Column::right("Published"),
            Column::left("Here"),
            Column::right("Found"),
            Column::left("Verdict"),
            Column::left("Setting"),
        ];
        Ok(Table {
            title: self.title.clone(),
            columns,
            rows,
            notes: vec![
                "A count is reproduced where it is less than one unit of the last published digit away. A difference in the claim's own \
                 setting is reproduced where it counts, has the claimed sign and its 95 % interval reaches the published value, and not reproduced \
                 where the interval stays below that. What is from another setting is shown and decides nothing."
                    .into(),
            ],
        })
    }
}

impl Measured {
    fn here(&self) -> String {
        format!("{}, {}", self.experiment, method_name(&self.method))
    }
}

/// The paired difference from LoRA, in points.
fn difference(study: &Study, of: &Measured) -> Result<Option<Difference>> {
    let Some(row) = study.row(&of.method, &of.axes)? else {
        return Ok(None);
    };
    let found = study.comparison.against(&of.metric, row);
    Ok(found.map(|(_, difference)| Difference {
        value: 100.0 * difference.value,
        interval: difference
            .interval
            .map(|(low, high)| (100.0 * low, 100.0 * high)),
        ..difference
    }))
}

fn shown(difference: &Difference, unit: &str) -> Cell {
    let mut text = format!("{} {unit}", signed(difference.value, 1));
    if let Some((low, high)) = difference.interval {
        text += &format!(" ({} to {})", signed(low, 1), signed(high, 1));
    }
    if let Some(p) = difference.corrected {
        text += &format!(", {}", p_value(p));
    }
    Cell {
        value: Some(difference.value),
        interval: difference.interval,
        p: difference.corrected,
        ..Cell::text(text)
    }
}

/// How much less the peak of memory is than LoRA's with the same axes, the mean over seeds.
fn memory(study: &Study, of: &Measured) -> Result<Option<f64>> {
    let peak = |method: &str| -> Result<Option<f64>> {
        Ok(match study.row(method, &of.axes)? {
            Some(_) => statistics::mean(&study.peaks(method, &of.axes)),
            None => None,
        })
    };
    let (lora, other) = (peak("lora")?, peak(&of.method)?);
    Ok(lora.zip(other).map(|(lora, other)| (lora - other) / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::Test;

    fn difference(value: f64, low: f64, high: f64, p: f64) -> Difference {
        Difference {
            value,
            interval: Some((low, high)),
            p: Some(p),
            corrected: Some(p),
            test: Test::McNemar,
        }
    }

    /// A paper that says 96 of 96.9 has cut it off and is not refuted; one that says 44 of 47 is.
    #[test]
    fn counts_are_judged_by_the_last_published_digit() {
        assert_eq!(judge_count(44.0, 0, 44.15), Verdict::Reproduced);
        assert_eq!(judge_count(96.0, 0, 96.875), Verdict::Reproduced);
        assert_eq!(judge_count(44.0, 0, 47.0), Verdict::NotReproduced);
        assert_eq!(judge_count(6.3, 1, 6.38), Verdict::Reproduced);
        assert_eq!(judge_count(6.3, 1, 6.45), Verdict::NotReproduced);
    }

    /// Noise neither confirms nor refutes.
    #[test]
    fn differences_are_judged_by_their_intervals() {
        let judge = |d: Difference| judge_difference(1.2, &d);
        assert_eq!(judge(difference(1.5, 0.5, 2.5, 0.01)), Verdict::Reproduced);
        assert_eq!(
            judge(difference(0.1, -0.5, 0.8, 0.7)),
            Verdict::NotReproduced
        );
        assert_eq!(judge(difference(0.5, -1.0, 2.0, 0.4)), Verdict::NotTestable);
        // The interval leaves out 0, the corrected p does not: it does not count.
        assert_eq!(judge(difference(1.5, 0.1, 2.9, 0.2)), Verdict::NotTestable);
        let none = Difference {
            interval: None,
            ..difference(1.5, 0.0, 0.0, 0.01)
        };
        assert_eq!(judge(none), Verdict::NotTestable);
    }
}
