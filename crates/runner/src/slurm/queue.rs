//! What Slurm's programs print, read without trust: a line that is none of theirs is left out.

/// The columns of `squeue` that [`squeue`] reads: name, array job, place in the array, state, reason.
pub const FORMAT: &str = "%j|%F|%K|%T|%r";

/// States in which a job has ended for good; in all others it is in the queue or on a node, or goes back there.
/// (squeue(1), JOB STATE CODES)
const ENDED: [&str; 10] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
];

/// One task as Slurm sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    /// Number of the job array.
    pub job: u64,
    /// Place in the array; `None` where Slurm speaks of the array as a whole.
    pub index: Option<usize>,
    pub state: String,
    pub reason: String,
}

impl Row {
    pub fn is_live(&self) -> bool {
        !ENDED.contains(&self.state.as_str())
    }

    pub fn is_running(&self) -> bool {
        ["RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT"].contains(&self.state.as_str())
    }

    /// Whether the record of a failed run may be that of this task: it ended by itself, or nobody knows how.
    pub fn may_have_a_record(&self) -> bool {
        self.is_live() || ["COMPLETED", "FAILED"].contains(&self.state.as_str())
    }

    /// The state, and the reason where Slurm gives one.
    pub fn text(&self) -> String {
        match self.reason.as_str() {
            "" | "None" | "none" => self.state.clone(),
            reason => format!("{}, {reason}", self.state),
        }
    }
}

/// Rows of `squeue --noheader --array --format=FORMAT`.
pub fn squeue(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            // A name is ours and has no bar; a reason may.
            let mut parts = line.trim_start().splitn(5, '|');
            let mut next = || parts.next().map(str::trim);
            let (name, job, index, state) = (next()?, next()?, next()?, next()?);
            Some(Row {
                name: name.into(),
                job: job.parse().ok()?,
                index: index.parse().ok(),
                state: state.into(),
                reason: next()?.trim_matches(['(', ')']).into(),
            })
        })
        .collect()
}

/// Rows of `sacct --noheader --parsable2 --allocations --format=JobName,JobID,State`. The state "CANCELLED by 1000" is CANCELLED.
pub fn sacct(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.trim().split('|');
            let (name, id, state) = (parts.next()?, parts.next()?, parts.next()?);
            let (job, index) = id.split_once('_').unwrap_or((id, ""));
            Some(Row {
                name: name.into(),
                job: job.parse().ok()?,
                index: index.parse().ok(),
                state: state.split_whitespace().next()?.into(),
                reason: String::new(),
            })
        })
        .collect()
}

/// `MaxArraySize` in the output of `scontrol show config`.
pub fn max_array_size(text: &str) -> Option<usize> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "MaxArraySize").then(|| value.trim().parse().ok())?
    })
}

/// The least of the limits that `sacctmgr --noheader --parsable2 show associations format=MaxSubmitJobs` lists.
pub fn max_submit(text: &str) -> Option<usize> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .min()
}

/// The number in the output of `sbatch --parsable`, `JOB` or `JOB;CLUSTER`, behind whatever else the site prints.
pub fn submitted(text: &str) -> Option<u64> {
    text.lines()
        .rev()
        .find_map(|line| line.trim().split(';').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines of Slurm 22.05, among them one of an array that is not taken apart.
    #[test]
    fn rows_of_squeue() {
        let text = "\
            sharelora-quickstart-1f2e|12|2|PENDING|JobArrayTaskLimit\n\
            sharelora-quickstart-1f2e|12|0|RUNNING|None\n\
            sharelora-quickstart-1f2e|12|1|FAILED|NonZeroExitCode\n\
            sharelora-quickstart-1f2e|12|3-8%2|PENDING|(Nodes required | reserved)\n\
            slurm_load_jobs error: Unable to contact slurm controller\n";
        let rows = squeue(text);
        let read: Vec<_> = rows
            .iter()
            .map(|r| (r.index, r.is_live(), r.is_running(), r.text()))
            .collect();
        let pending = |reason: &str| format!("PENDING, {reason}");
        assert_eq!(
            read,
            [
                (Some(2), true, false, pending("JobArrayTaskLimit")),
                (Some(0), true, true, "RUNNING".into()),
                (Some(1), false, false, "FAILED, NonZeroExitCode".into()),
                (None, true, false, pending("Nodes required | reserved")),
            ]
        );
        assert!(
            rows.iter()
                .all(|r| r.job == 12 && r.name == "sharelora-quickstart-1f2e")
        );
    }

    #[test]
    fn rows_of_sacct() {
        let text = "a|12_0|COMPLETED\na|12_1|CANCELLED by 1000\na|12_[2-4]|PENDING\nSlurm accounting storage is disabled\n";
        let read: Vec<_> = sacct(text)
            .into_iter()
            .map(|r| (r.job, r.index, r.state))
            .collect();
        assert_eq!(
            read,
            [
                (12, Some(0), "COMPLETED".into()),
                (12, Some(1), "CANCELLED".into()),
                (12, None, "PENDING".into())
            ]
        );
    }

    #[test]
    fn single_numbers() {
        let config = "MaxJobCount             = 10000\nMaxArraySize            = 1001\n";
        assert_eq!(max_array_size(config), Some(1001));
        assert_eq!(max_array_size("MaxArraySize = many"), None);
        assert_eq!(max_submit("500\n\n200\n"), Some(200));
        assert_eq!(max_submit("\n"), None);
        assert_eq!(submitted("12\n"), Some(12));
        assert_eq!(submitted("Welcome to the cluster\n12;north\n"), Some(12));
        assert_eq!(submitted("Submitted"), None);
    }

    proptest! {
        /// No output of a foreign program panics, and each line is one row at most.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), line in "[a-z0-9|_;= \\[\\]\n-]{0,80}") {
            let text = String::from_utf8_lossy(&bytes).into_owned() + &line;
            prop_assert!(squeue(&text).len() <= text.lines().count());
            prop_assert!(sacct(&text).len() <= text.lines().count());
            max_array_size(&text);
            max_submit(&text);
            submitted(&text);
        }

        /// What Slurm prints of a task comes out again.
        #[test]
        fn rows_round_trip(job in any::<u64>(), index in any::<usize>(), state in "[A-Z_]{1,16}", reason in "[A-Za-z]{1,16}") {
            let name = "sharelora-x-0";
            let rows = squeue(&format!("{name}|{job}|{index}|{state}|{reason}\n"));
            prop_assert_eq!(rows, [Row { name: name.into(), job, index: Some(index), state: state.clone(), reason }]);
            let rows = sacct(&format!("{name}|{job}_{index}|{state}\n"));
            prop_assert_eq!((rows[0].job, rows[0].index, &rows[0].state), (job, Some(index), &state));
        }
    }
}
