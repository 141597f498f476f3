//! What a sweep asks of Slurm: the `[slurm]` section of an experiment, over a profile file with the same keys.
//!
//! A profile says what a cluster wants (partition, account, modules), an experiment what its runs need (time, memory).
//! Where both have a key the experiment's counts, and `--set slurm.KEY=VALUE` above both. Nothing of it decides a
//! result, so nothing of it is hashed.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Experiment;
use crate::experiment::{ExperimentError, lay_over, read_section, read_toml};

const SECTION: &str = "[slurm]";

/// Keys of `[slurm]`. What is absent is left to the cluster's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmSpec {
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// Time limit of a task as sbatch takes it: `90` minutes, `4:00:00`, `1-12:00:00`.
    pub time: Option<String>,
    /// GPUs of a task.
    pub gpus: Option<u32>,
    /// CPUs of a task, and the threads it computes with.
    pub cpus: Option<u32>,
    /// Memory of a task as sbatch takes it: `8000` MiB, `16G`.
    pub memory: Option<String>,
    /// Runs that one task does, one after the other.
    pub runs_per_task: usize,
    /// Seconds before the time limit at which a task is told to stop at a checkpoint.
    pub stop_before: u32,
    /// How often a task that came to its time limit goes back to the queue by itself.
    pub restarts: u32,
    /// Most tasks that the user may have in the queue at once, where the cluster does not say it by `sacctmgr`.
    pub max_submit: Option<usize>,
    /// Shell lines before the program: `module load cuda`.
    pub setup: Vec<String>,
    /// Further options, each as after `#SBATCH`.
    pub extra: Vec<String>,
}

impl Default for SlurmSpec {
    fn default() -> Self {
        SlurmSpec {
            partition: None,
            account: None,
            qos: None,
            time: None,
            gpus: None,
            cpus: None,
            memory: None,
            runs_per_task: 1,
            stop_before: 120,
            restarts: 3,
            max_submit: None,
            setup: Vec::new(),
            extra: Vec::new(),
        }
    }
}

impl SlurmSpec {
    /// What `experiment` asks for, over the keys of a profile file.
    ///
    /// # Errors
    /// The profile cannot be read, or a key or value that is wrong, by its file.
    pub fn resolve(
        experiment: &Experiment,
        profile: Option<&Path>,
    ) -> Result<Self, ExperimentError> {
        let mut whole = Value::Object(serde_json::Map::new());
        if let Some(path) = profile {
            let text = std::fs::read_to_string(path).map_err(|source| ExperimentError::Io {
                path: path.to_owned(),
                source,
            })?;
            let file = path.display().to_string();
            whole = read_toml(&file, &text)?;
            Self::read(&file, "the profile:", &whole)?;
        }
        if let Some(section) = experiment.document().get("slurm") {
            lay_over(&mut whole, section.clone());
        }
        Self::read(&experiment.file, SECTION, &whole)
    }

    /// Checks the section of an experiment, where there is one.
    ///
    /// # Errors
    /// The key that is unknown or out of range.
    pub fn check(experiment: &Experiment) -> Result<(), ExperimentError> {
        match experiment.document().get("slurm") {
            Some(section) => Self::read(&experiment.file, SECTION, section).map(|_| ()),
            None => Ok(()),
        }
    }

    fn read(file: &str, section: &str, value: &Value) -> Result<Self, ExperimentError> {
        let spec: SlurmSpec = read_section(file, section, value)?;
        spec.wrong().map_or(Ok(()), |(key, reason)| {
            Err(ExperimentError::Value {
                file: file.into(),
                section: section.into(),
                key: key.into(),
                reason,
            })
        })?;
        Ok(spec)
    }

    /// The key that is out of range, and what is expected of it.
    fn wrong(&self) -> Option<(&'static str, String)> {
        let names = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("qos", &self.qos),
        ];
        for (key, value) in names {
            let bad = |c: char| c.is_whitespace() || c.is_control() || "\"'\\".contains(c);
            if let Some(value) = value.as_ref().filter(|v| v.is_empty() || v.contains(bad)) {
                let reason = format!("`{}` is no name", value.escape_debug());
                return Some((key, reason));
            }
        }
        let numbers = [
            ("runs_per_task", self.runs_per_task),
            ("max_submit", self.max_submit.unwrap_or(1)),
            ("cpus", self.cpus.unwrap_or(1) as usize),
        ];
        if let Some((key, _)) = numbers.into_iter().find(|(_, value)| *value == 0) {
            let reason = "0 is out of range: a whole number of at least 1".to_owned();
            return Some((key, reason));
        }
        if let Some(time) = &self.time {
            match seconds(time) {
                None => {
                    let reason = format!(
                        "`{}` is no time: minutes, H:M:S, D-H or D-H:M:S",
                        time.escape_debug()
                    );
                    return Some(("time", reason));
                }
                Some(limit) if u64::from(self.stop_before) >= limit => {
                    let reason = format!(
                        "{} is not below the {limit} seconds of `time`",
                        self.stop_before
                    );
                    return Some(("stop_before", reason));
                }
                Some(_) => {}
            }
        }
        // sbatch keeps this number in 16 bits.
        if self.stop_before > u32::from(u16::MAX) {
            let reason = format!("{} is out of range: at most {}", self.stop_before, u16::MAX);
            return Some(("stop_before", reason));
        }
        if let Some(memory) = self.memory.as_ref().filter(|m| !is_memory(m)) {
            let reason = format!(
                "`{}` is no memory: a number of MiB, or with K, M, G or T",
                memory.escape_debug()
            );
            return Some(("memory", reason));
        }
        for (key, lines) in [("setup", &self.setup), ("extra", &self.extra)] {
            if let Some(line) = lines.iter().find(|line| line.contains(char::is_control)) {
                let reason = format!("`{}` is more than one line", line.escape_debug());
                return Some((key, reason));
            }
        }
        let is_option = |line: &&String| !line.starts_with('-');
        if let Some(line) = self.extra.iter().find(is_option) {
            let reason =
                format!("`{line}` is no option: write it as after #SBATCH, --nice=100 say");
            return Some(("extra", reason));
        }
        None
    }
}

/// Seconds of a time limit: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`; `None` for anything else and for 0.
pub fn seconds(text: &str) -> Option<u64> {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok().map(u64::from))?
    };
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts = rest.split(':').map(number).collect::<Option<Vec<u64>>>()?;
    let total = match (days, parts.as_slice()) {
        (None, [m]) => m * 60,
        (None, [m, s]) => m * 60 + s,
        (Some(d), [h]) => d * 86_400 + h * 3600,
        (Some(d), [h, m]) => d * 86_400 + h * 3600 + m * 60,
        (d, [h, m, s]) => d.unwrap_or(0) * 86_400 + h * 3600 + m * 60 + s,
        _ => return None,
    };
    (total > 0).then_some(total)
}

fn is_memory(text: &str) -> bool {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    text.len() - digits.len() <= 1
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::{SMALL, parse};
    use crate::plan::tests::planned;
    use proptest::prelude::*;

    fn resolved(sets: &[&str], profile: &str) -> Result<SlurmSpec, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.toml");
        std::fs::write(&path, profile).unwrap();
        let experiment = parse(SMALL, sets).map_err(|e| e.to_string())?;
        SlurmSpec::resolve(&experiment, Some(&path)).map_err(|e| {
            e.to_string()
                .replace(&path.display().to_string(), "site.toml")
        })
    }

    /// The profile under the experiment's section, key by key, and no hash that knows of either.
    #[test]
    fn the_experiment_counts_above_the_profile() {
        let profile = "partition = \"gpu\"\ntime = \"1:00:00\"\nextra = [\"--nice=10\"]";
        let sets = ["slurm.time=\"2-0\"", "slurm.cpus=8"];
        let spec = resolved(&sets, profile).unwrap();
        let wanted = SlurmSpec {
            partition: Some("gpu".into()),
            time: Some("2-0".into()),
            cpus: Some(8),
            extra: vec!["--nice=10".into()],
            ..SlurmSpec::default()
        };
        assert_eq!(spec, wanted);
        let hash = |sets: &[&str]| planned(SMALL, sets).unwrap().runs[0].hash();
        assert_eq!(hash(&sets), hash(&[]));
    }

    /// What a user reads of a slip, in a profile and in an experiment.
    #[test]
    fn errors_name_the_file_and_the_key() {
        let of = |sets: &[&str], profile: &str| resolved(sets, profile).unwrap_err();
        insta::assert_snapshot!(of(&[], "partiton = \"gpu\""), @"site.toml: the profile: unknown key `partiton` (did you mean `partition`?): choices: partition, account, qos, time, gpus, cpus, memory, runs_per_task, stop_before, restarts, max_submit, setup, extra");
        insta::assert_snapshot!(of(&[], "gpus = \"two\""), @r#"site.toml: the profile: `gpus`: invalid type: string "two", expected a whole number of at least 0"#);
        insta::assert_snapshot!(of(&[], "time = \"two hours\""), @"site.toml: the profile: `time`: `two hours` is no time: minutes, H:M:S, D-H or D-H:M:S");
        insta::assert_snapshot!(of(&["slurm.memory=\"16 GB\""], ""), @"experiments/x.toml: [slurm] `memory`: `16 GB` is no memory: a number of MiB, or with K, M, G or T");
        insta::assert_snapshot!(of(&["slurm.time=\"2\""], ""), @"experiments/x.toml: [slurm] `stop_before`: 120 is not below the 120 seconds of `time`");
        insta::assert_snapshot!(of(&["slurm.extra=[\"nice=3\"]"], ""), @"experiments/x.toml: [slurm] `extra`: `nice=3` is no option: write it as after #SBATCH, --nice=100 say");
        insta::assert_snapshot!(of(&["slurm.extra=[\"--nice=3\\nrm -r x\"]"], ""), @r"experiments/x.toml: [slurm] `extra`: `--nice=3\nrm -r x` is more than one line");
        insta::assert_snapshot!(of(&["slurm.account=\"a b\""], ""), @"experiments/x.toml: [slurm] `account`: `a b` is no name");
        insta::assert_snapshot!(of(&["slurm.runs_per_task=0"], ""), @"experiments/x.toml: [slurm] `runs_per_task`: 0 is out of range: a whole number of at least 1");
        insta::assert_snapshot!(of(&["slurm=3"], ""), @"experiments/x.toml: [slurm] is missing, or no table");
        insta::assert_snapshot!(of(&["axes.slurm.time=[\"1:00:00\"]"], ""), @r#"experiments/x.toml: [axes] unknown key `slurm.time`: choices: method, seed, or a dotted key of model, adapter, train or evaluate, "adapter.rank" say"#);
    }

    #[test]
    fn times() {
        let cases = [
            ("90", Some(5400)),
            ("1:30", Some(90)),
            ("4:00:00", Some(14_400)),
            ("1-12", Some(129_600)),
            ("1-0:30", Some(88_200)),
            ("1-12:00:30", Some(129_630)),
            ("0", None),
            ("", None),
            ("1-", None),
            ("+5", None),
            ("1:2:3:4", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }

    proptest! {
        /// A profile is any text that a user wrote.
        #[test]
        fn no_text_panics(text in "[0-9:KMGT-]{0,40}|\\PC{0,40}") {
            seconds(&text);
            is_memory(&text);
        }
    }
}
