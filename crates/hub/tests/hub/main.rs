//! Fetching against a server on this machine that speaks the routes of the Hugging Face Hub and of
//! GitHub's raw host, a stand-in for pip, a mirror folder and plain files.

mod download;
mod local;
mod pypi;
mod server;
mod source;

use sharelora_hub::{Hub, Retry};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A hub that keeps everything under `folder`, asks `endpoint`, and notes its waits instead of waiting.
fn hub(folder: &Path, endpoint: &str) -> (Hub, Arc<Mutex<Vec<Duration>>>) {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let mut hub = Hub::from_vars(folder, |name| match name {
        "HOME" => Some(folder.display().to_string()),
        "HF_ENDPOINT" | "SHARELORA_GITHUB_ENDPOINT" => Some(endpoint.to_owned()),
        _ => None,
    });
    hub.retry = Retry {
        sleep: Arc::new({
            let waits = waits.clone();
            move |wait| waits.lock().unwrap().push(wait)
        }),
        ..Retry::default()
    };
    (hub, waits)
}

/// Every file under a folder whose name does not tell a lock, as paths relative to it.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|e| e != "sharelora-lock") {
                let name = path.strip_prefix(folder).unwrap();
                found.push(name.display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(bytes);
    sum.iter().map(|b| format!("{b:02x}")).collect()
}
