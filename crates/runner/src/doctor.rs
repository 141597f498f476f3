//! `doctor`: this machine, the caches, and which experiments can run now without the network.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use sharelora_hub::{Hub, Source};

use crate::base::shards;
use crate::commands::{self, Wanted};
use crate::device::BACKENDS;
use crate::estimate::bytes;
use crate::{Context, Experiment, ResolvedRun, experiment, host};

/// How long the hub may take to answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// Prints everything; what is missing is said with the next step. Never fails because something is missing.
///
/// # Errors
/// Standard output cannot be written.
pub fn doctor(context: &Context) -> Result<u8> {
    let mut lines: Vec<String> = Vec::new();
    let mut say = |key: &str, value: String| lines.push(format!("{key:<14}{value}"));
    let host = host::host();
    say("sharelora", env!("CARGO_PKG_VERSION").into());
    say(
        "backends",
        format!("{} (in use: {})", BACKENDS.join(", "), context.backend),
    );
    say("system", host.os);
    say("processor", format!("{}, {} cores", host.cpu, host.cores));
    say(
        "memory",
        format!(
            "{}, {} free",
            bytes(host.memory_bytes),
            bytes(host::meminfo("MemAvailable"))
        ),
    );
    say(
        "disk",
        free_disk(&context.root).map_or("unknown".into(), |n| {
            format!("{} free in {}", bytes(n), context.root.display())
        }),
    );

    let hub = &context.hub;
    for (key, value) in libtorch(&hub.cache) {
        say(key, value);
    }
    say("python", answer(&hub.python, &["--version"]).unwrap_or_else(|| {
        format!("`{}` cannot be run: wheels (pypi: sources) cannot be fetched; install Python 3 or set SHARELORA_PYTHON", hub.python)
    }));
    say(
        "pip",
        answer(&hub.python, &["-m", "pip", "--version"]).map_or_else(
            || format!("absent; next: {} -m ensurepip", hub.python),
            // Behind the version pip names its own folder.
            |text| text.split(" from ").next().unwrap_or_default().to_owned(),
        ),
    );
    for (key, value) in sandbox() {
        say(key, value);
    }
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "SHARELORA_MIRROR",
        "SHARELORA_CACHE",
    ] {
        if let Ok(value) = std::env::var(name) {
            say(name, format!(" {value}"));
        }
    }
    say(
        "HF token",
        if hub.hf_token.is_some() {
            "set"
        } else {
            "not set (only gated repositories need one)"
        }
        .into(),
    );
    say(
        "network",
        match hub.reachable(PATIENCE) {
            _ if hub.offline => "off: HF_HUB_OFFLINE is set".into(),
            Ok(()) => format!("{} answers", hub.hf_endpoint),
            Err(reason) => format!(
                "{} does not answer ({reason}): files of `hf:` have to be in the mirror or the cache",
                hub.hf_endpoint
            ),
        },
    );
    say(
        "mirror",
        match &hub.mirror {
            Some(dir) if dir.is_dir() => dir.display().to_string(),
            Some(dir) => format!("{}: no such folder", dir.display()),
            None => "none (SHARELORA_MIRROR or --mirror)".into(),
        },
    );
    let own = [hub.cache.join("hub"), hub.cache.join("tokens")];
    for (name, dir) in [
        ("HF cache", &hub.hf_cache),
        ("own files", &own[0]),
        ("token cache", &own[1]),
    ] {
        say(
            name,
            format!(
                "{}, {}",
                dir.display(),
                if dir.is_dir() {
                    bytes(size(dir))
                } else {
                    "empty".into()
                }
            ),
        );
    }
    lines.push(String::new());
    match experiment::list(&context.root) {
        Ok(names) => {
            lines.push("Experiments that can run without the network:".into());
            let width = names.iter().map(String::len).max().unwrap_or(0);
            let line = |name: &String| format!("  {name:<width$}  {}", readiness(context, name));
            lines.extend(names.iter().map(line));
        }
        Err(_) => {
            lines.push("No project here: no folder `experiments` upward from this one.".into())
        }
    }
    commands::print(&lines.join("\n"))?;
    Ok(0)
}

/// What confines programs that a model wrote, and what it stops.
fn sandbox() -> Vec<(&'static str, String)> {
    let python = match sharelora_sandbox::Interpreter::find() {
        Ok(python) => python,
        Err(e) => return vec![("sandbox", format!("none: {e}"))],
    };
    let active = match sharelora_sandbox::active(&python) {
        Ok(active) => active,
        Err(e) => {
            let text = format!("none: {e}; HumanEval is not run without --unsafe-no-sandbox");
            return vec![("sandbox", text)];
        }
    };
    let name = format!("{}, with Python {}", active.name(), python.version);
    let mut lines = vec![("sandbox", name)];
    for stop in active.stops() {
        let verb = if stop.stopped {
            "stops"
        } else {
            "does not stop"
        };
        lines.push(("", format!("{verb} {}: {}", stop.threat, stop.how)));
    }
    lines
}

/// libtorch: where it is, whether this build has it, and whether it computes.
#[cfg(feature = "libtorch")]
fn libtorch(_cache: &Path) -> Vec<(&'static str, String)> {
    use tch::{Cuda, Device};
    // As the loader found it, which may be elsewhere than where it was at build time.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = |library: &str| {
        let line = maps.lines().find(|line| line.ends_with(library))?;
        line.find('/').map(|at| line[at..].to_owned())
    };
    let cuda = match (Cuda::device_count(), loaded("/libtorch_cuda.so")) {
        (0, None) => "this is the CPU's part alone; next: just setup-libtorch cuda, then just build-libtorch cuda".into(),
        (0, Some(_)) => "no device found; next: check nvidia-smi".into(),
        (n, _) => (0..n as usize)
            .map(|i| format!("device {i}: {}", product(Device::Cuda(i))))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let cpu = product(Device::Cpu);
    let place = loaded("/libtorch_cpu.so").unwrap_or_default();
    vec![
        ("libtorch", format!("CPU: {cpu}; {place}")),
        ("libtorch-cuda", cuda),
    ]
}

/// libtorch: where it is, and how this build would get it.
#[cfg(not(feature = "libtorch"))]
fn libtorch(cache: &Path) -> Vec<(&'static str, String)> {
    let named = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from);
    let text = match libtorch_folder(named, cache) {
        Some((path, version)) => {
            let cuda = path.join("lib/libtorch_cuda.so").is_file();
            let kind = if cuda { " cuda" } else { "" };
            let path = path.display();
            format!("not in this build; {version} is in {path}; next: just build-libtorch{kind}")
        }
        None => "not in this build; next: just setup-libtorch, then just build-libtorch".to_owned(),
    };
    vec![("libtorch", text)]
}

/// The folder of libtorch and its version: the one that `LIBTORCH` names, else one that `just setup-libtorch` made.
#[cfg(any(test, not(feature = "libtorch")))]
fn libtorch_folder(
    named: Option<std::path::PathBuf>,
    cache: &Path,
) -> Option<(std::path::PathBuf, String)> {
    let own = ["libtorch-2.9.0-cuda", "libtorch-2.9.0"].map(|name| cache.join(name).join("torch"));
    let mut places = named.into_iter().chain(own);
    places.find_map(|path| {
        let version = std::fs::read_to_string(path.join("build-version")).ok()?;
        Some((path, version.trim().to_owned()))
    })
}

/// Whether a product of two small matrices on a device is right, in words.
#[cfg(feature = "libtorch")]
fn product(device: tch::Device) -> String {
    let compute = || -> Result<Vec<f64>, tch::TchError> {
        let x = tch::Tensor::f_from_slice(&[1f32, 2.0, 3.0, 4.0])?;
        let x = x.f_to_device(device)?.f_reshape([2, 2])?;
        let y = x.f_mm(&x)?.f_to_device(tch::Device::Cpu)?.f_reshape([4])?;
        Vec::try_from(y.f_to_kind(tch::Kind::Double)?)
    };
    match compute() {
        Ok(y) if y == [7.0, 10.0, 15.0, 22.0] => "works".into(),
        Ok(y) => format!("computes wrongly, {y:?} for a product of [7, 10, 15, 22]"),
        // The rest is advice to C++ programmers and a trace of their calls.
        Err(e) => format!(
            "fails: {}",
            e.to_string().split(['\n', '.']).next().unwrap_or_default()
        ),
    }
}

/// Whether an experiment can run offline, or what to do about it.
fn readiness(context: &Context, name: &str) -> String {
    let plan = Experiment::load(&context.root, name, &[])
        .and_then(|experiment| crate::plan::plan(&context.root, experiment, &context.backend));
    let plan = match plan {
        Ok(plan) => plan,
        Err(e) => return format!("no: {e}"),
    };
    let runs: Vec<&ResolvedRun> = plan.runs.iter().collect();
    let missing = match commands::wanted(context, &runs) {
        Ok(wanted) => missing(&context.hub, wanted),
        Err(e) => return format!("no: {e}"),
    };
    let Some(first) = missing.first() else {
        return "yes".into();
    };
    let more = if missing.len() > 1 {
        format!(" and {} more", missing.len() - 1)
    } else {
        String::new()
    };
    let next = match first {
        Source::File(path) if path.to_string_lossy().starts_with("models/pocket") => {
            "sharelora pretrain-pocket".to_owned()
        }
        Source::File(_) => "put the file there".to_owned(),
        _ => format!("sharelora fetch {name}"),
    };
    format!("no: lacks {first}{more}; next: {next}")
}

fn missing(hub: &Hub, wanted: Vec<Wanted>) -> Vec<Source> {
    let mut queue: Vec<Source> = wanted.into_iter().map(|w| w.source).rev().collect();
    let mut out = Vec::new();
    while let Some(source) = queue.pop() {
        if hub.locate(&source).is_none() {
            out.push(source);
        } else {
            // A damaged index is told by the commands that need it.
            queue.extend(shards(hub, &source).unwrap_or_default());
        }
    }
    out
}

/// What a command prints first, if it runs at all.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()?
        .trim()
        .to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Free bytes of the file system that `dir` is on, as POSIX `df -Pk` tells them.
fn free_disk(dir: &Path) -> Option<u64> {
    let output = Command::new("df")
        .arg("-Pk")
        .arg(dir)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kibibytes: u64 = text
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    Some(kibibytes * 1024)
}

/// Bytes of all files below `dir`. Links are not followed: the cache of the Hugging Face Hub has one per file.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some(if meta.is_dir() {
                size(&entry.path())
            } else if meta.is_file() {
                meta.len()
            } else {
                0
            })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the set-up script makes is found, and `LIBTORCH` goes before it.
    #[test]
    fn libtorch_is_looked_for_where_it_is_made() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(libtorch_folder(None, cache.path()), None);
        let make = |name: &str, version: &str| {
            let folder = cache.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("build-version"), version).unwrap();
            folder
        };
        let own = make("libtorch-2.9.0/torch", "2.9.0\n");
        let found = libtorch_folder(Some(cache.path().join("absent")), cache.path());
        assert_eq!(found, Some((own, "2.9.0".into())));
        let other = make("other", "2.9.0+cu128\n");
        let found = libtorch_folder(Some(other.clone()), cache.path());
        assert_eq!(found, Some((other, "2.9.0+cu128".into())));
    }
}
