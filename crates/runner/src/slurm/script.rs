//! The batch script of one job array.
//!
//! Slurm sends SIGTERM to every process of a task that is cancelled or preempted; near the time limit it tells the script
//! alone (`--signal=B:`), which passes it on. Either way the program has the time until SIGKILL to stop at a checkpoint.
//! A task that is requeued, by Slurm after a preemption or a lost node, or by the script at its time limit, runs the same
//! command again and goes on from there.

use std::fmt::Write as _;
use std::path::Path;

use super::spec::SlurmSpec;

/// What a script is made of.
#[derive(Debug)]
pub struct Script<'a> {
    pub name: &'a str,
    /// The project's folder.
    pub root: &'a Path,
    /// Folder of the tasks' output.
    pub logs: &'a Path,
    pub spec: &'a SlurmSpec,
    /// Labels of the runs of each task, in order.
    pub tasks: &'a [Vec<String>],
    /// Most tasks that run at once.
    pub jobs: Option<usize>,
    /// Jobs that have to end first.
    pub after: &'a [String],
    /// The program and its arguments up to the labels.
    pub command: &'a [String],
    /// Its arguments behind them.
    pub options: &'a [String],
}

impl Script<'_> {
    pub fn text(&self) -> String {
        let mut text = String::from("#!/bin/bash\n");
        for option in self.header() {
            let _ = writeln!(text, "#SBATCH {option}");
        }
        text.push_str("\n# The runs of each task, in order.\ncase $SLURM_ARRAY_TASK_ID in\n");
        for (i, task) in self.tasks.iter().enumerate() {
            let labels: Vec<String> = task.iter().map(|label| quoted(label)).collect();
            let _ = writeln!(text, "{i}) runs=({}) ;;", labels.join(" "));
        }
        text.push_str("esac\n");
        if let Some(cpus) = self.spec.cpus {
            let _ = writeln!(text, "export RAYON_NUM_THREADS={cpus}");
        }
        for line in &self.spec.setup {
            let _ = writeln!(text, "{line}");
        }
        let words = |words: &[String]| {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            words.join(" ")
        };
        let _ = write!(
            text,
            r#"
# Cancelled or preempted: the program has this signal too, and stops at a checkpoint.
trap : TERM
# Near the time limit this script alone is told.
trap 'at_limit=1; kill -TERM "$program"' USR1
{} "${{runs[@]}}" {} &
program=$!
while kill -0 "$program" 2>/dev/null; do wait "$program"; done
wait "$program"
code=$?
if [[ $at_limit && $code -ne 0 && ${{SLURM_RESTART_COUNT:-0}} -lt {} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"#,
            words(self.command),
            words(self.options),
            self.spec.restarts
        );
        text
    }

    fn header(&self) -> Vec<String> {
        let spec = self.spec;
        let at_once = self.jobs.map(|n| format!("%{n}")).unwrap_or_default();
        let mut options = vec![
            format!("--job-name={}", self.name),
            format!("--array=0-{}{at_once}", self.tasks.len().saturating_sub(1)),
            format!("--chdir={}", header_word(&self.root.to_string_lossy())),
            format!(
                "--output={}/%A_%a.log",
                header_word(&self.logs.to_string_lossy().replace('%', "%%"))
            ),
            "--open-mode=append".into(),
            "--requeue".into(),
            format!("--signal=B:USR1@{}", spec.stop_before),
        ];
        if !self.after.is_empty() {
            options.push(format!("--dependency=afterany:{}", self.after.join(":")));
        }
        let texts = [
            ("partition", &spec.partition),
            ("account", &spec.account),
            ("qos", &spec.qos),
            ("time", &spec.time),
            ("mem", &spec.memory),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)));
        let numbers = [("gpus", spec.gpus), ("cpus-per-task", spec.cpus)];
        let numbers = numbers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?.to_string())));
        options.extend(
            texts
                .chain(numbers)
                .map(|(name, value)| format!("--{name}={value}")),
        );
        options.extend(spec.extra.iter().cloned());
        options
    }
}

/// A word of the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+./=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A value behind `#SBATCH`, where sbatch takes quotation marks and backslashes as the shell does.
fn header_word(word: &str) -> String {
    if !word.contains([' ', '\t', '"', '\'', '\\']) {
        return word.into();
    }
    format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn with_nothing_asked_for() {
        let script = Script {
            name: "sharelora-quickstart-1f2e3d4c",
            root: Path::new("/work/project"),
            logs: Path::new("/work/project/results/quickstart/.slurm/logs"),
            spec: &SlurmSpec::default(),
            tasks: &[words(&["base"]), words(&["lora-seed0"])],
            jobs: None,
            after: &[],
            command: &words(&["/opt/sharelora", "run", "quickstart"]),
            options: &words(&["--results", "/work/project/results"]),
        };
        insta::assert_snapshot!(script.text(), @r#"
        #!/bin/bash
        #SBATCH --job-name=sharelora-quickstart-1f2e3d4c
        #SBATCH --array=0-1
        #SBATCH --chdir=/work/project
        #SBATCH --output=/work/project/results/quickstart/.slurm/logs/%A_%a.log
        #SBATCH --open-mode=append
        #SBATCH --requeue
        #SBATCH --signal=B:USR1@120

        # The runs of each task, in order.
        case $SLURM_ARRAY_TASK_ID in
        0) runs=(base) ;;
        1) runs=(lora-seed0) ;;
        esac

        # Cancelled or preempted: the program has this signal too, and stops at a checkpoint.
        trap : TERM
        # Near the time limit this script alone is told.
        trap 'at_limit=1; kill -TERM "$program"' USR1
        /opt/sharelora run quickstart "${runs[@]}" --results /work/project/results &
        program=$!
        while kill -0 "$program" 2>/dev/null; do wait "$program"; done
        wait "$program"
        code=$?
        if [[ $at_limit && $code -ne 0 && ${SLURM_RESTART_COUNT:-0} -lt 3 ]]; then
            scontrol requeue "$SLURM_JOB_ID"
        fi
        exit "$code"
        "#);
    }

    #[test]
    fn with_everything_asked_for() {
        let spec = SlurmSpec {
            partition: Some("gpu,long".into()),
            account: Some("lab".into()),
            qos: Some("normal".into()),
            time: Some("1-12:00:00".into()),
            gpus: Some(1),
            cpus: Some(8),
            memory: Some("16G".into()),
            restarts: 9,
            stop_before: 300,
            setup: words(&["module load cuda", "export HF_HUB_OFFLINE=1"]),
            extra: words(&["--constraint=a100"]),
            ..SlurmSpec::default()
        };
        let script = Script {
            name: "sharelora-a-1f2e3d4c",
            root: Path::new("/a project/100%"),
            logs: Path::new("/a project/100%/logs"),
            spec: &spec,
            tasks: &[words(&["lora-seed0", "share_a-seed0"])],
            jobs: Some(2),
            after: &words(&["12", "13"]),
            command: &words(&["/opt/sharelora", "run", "a"]),
            options: &words(&["--set", "train.task='pocket'"]),
        };
        let text = script.text();
        let head: Vec<&str> = text.lines().take(26).collect();
        insta::assert_snapshot!(head.join("\n"), @r#"
        #!/bin/bash
        #SBATCH --job-name=sharelora-a-1f2e3d4c
        #SBATCH --array=0-0%2
        #SBATCH --chdir="/a project/100%"
        #SBATCH --output="/a project/100%%/logs"/%A_%a.log
        #SBATCH --open-mode=append
        #SBATCH --requeue
        #SBATCH --signal=B:USR1@300
        #SBATCH --dependency=afterany:12:13
        #SBATCH --partition=gpu,long
        #SBATCH --account=lab
        #SBATCH --qos=normal
        #SBATCH --time=1-12:00:00
        #SBATCH --mem=16G
        #SBATCH --gpus=1
        #SBATCH --cpus-per-task=8
        #SBATCH --constraint=a100

        # The runs of each task, in order.
        case $SLURM_ARRAY_TASK_ID in
        0) runs=(lora-seed0 share_a-seed0) ;;
        esac
        export RAYON_NUM_THREADS=8
        module load cuda
        export HF_HUB_OFFLINE=1

        "#);
        assert!(
            text.contains(
                r#"/opt/sharelora run a "${runs[@]}" --set 'train.task='\''pocket'\''' &"#
            ),
            "{text}"
        );
    }

    proptest! {
        /// bash reads every word as it was, whatever stands in it.
        #[test]
        #[cfg(unix)]
        fn words_survive_the_shell(words in proptest::collection::vec("[^\0\r]{0,12}", 1..4)) {
            let script: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            let output = std::process::Command::new("bash")
                .arg("-c")
                .arg(format!(r"printf '%s\0' {}", script.join(" ")))
                .output();
            let Ok(output) = output else { return Ok(()) };
            let read = String::from_utf8(output.stdout).unwrap();
            let read: Vec<&str> = read.trim_end_matches('\0').split('\0').collect();
            let joined = words.join("\0");
            let wanted: Vec<&str> = joined.trim_end_matches('\0').split('\0').collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
