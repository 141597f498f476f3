//! Files that need no network: the mirror folder, plain paths, and the reading of the environment.

use crate::{hub, sha256};
use sharelora_hub::{Error, Hub, Origin, Progress, Source, sha256_file};
use std::fs;
use std::path::{Path, PathBuf};

/// Nothing listens here: a test that wrongly goes to the network fails.
const NOWHERE: &str = "http://127.0.0.1:9";

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The mirror comes first, in the layout that the documentation promises, and stands for `main` alone.
#[test]
fn mirror_layout() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), NOWHERE);
    let mirror = folder.path().join("mirror");
    hub.mirror = Some(mirror.clone());
    for (text, place) in [
        ("hf:o/n:a/b.json", "models/o/n/a/b.json"),
        ("hf:datasets/o/n:d.parquet", "datasets/o/n/d.parquet"),
        ("github:o/r:src/x.py", "github/o/r/src/x.py"),
        ("pypi:pkg==1.2:pkg/m.jar", "pypi/pkg-1.2/pkg/m.jar"),
    ] {
        let source: Source = text.parse().unwrap();
        assert_eq!(hub.locate(&source), None, "{text}");
        put(&mirror.join(place), text);
        assert_eq!(
            hub.locate(&source),
            Some((mirror.join(place), Origin::Mirror))
        );
        let fetched = hub
            .fetch(&source, Some(&sha256(text.as_bytes())), Progress::Quiet)
            .unwrap();
        assert_eq!(fetched.origin, Origin::Mirror);
        assert_eq!(fetched.sha256, Some(sha256(text.as_bytes())));
    }
    let other: Source = "hf:o/n@v2:a/b.json".parse().unwrap();
    assert_eq!(hub.locate(&other), None);
}

/// A wrong file in the mirror is reported with both checksums, and is left alone. A remembered
/// checksum is not used for changed content.
#[test]
fn mirror_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), NOWHERE);
    hub.mirror = Some(folder.path().to_owned());
    let path = folder.path().join("models/o/n/f");
    put(&path, "right");
    let source: Source = "hf:o/n:f".parse().unwrap();
    let right = sha256(b"right");
    for _ in 0..2 {
        hub.fetch(&source, Some(&right.to_uppercase()), Progress::Quiet)
            .unwrap();
    }
    put(&path, "wrong!");
    let error = hub
        .fetch(&source, Some(&right), Progress::Quiet)
        .unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }));
    let message = error.to_string();
    assert!(
        message.contains(&right) && message.contains(&sha256(b"wrong!")),
        "{message}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "wrong!");
    assert_eq!(
        hub.fetch(&source, None, Progress::Quiet).unwrap().sha256,
        None
    );
    let malformed = hub
        .fetch(&source, Some("abc"), Progress::Quiet)
        .unwrap_err();
    assert!(matches!(malformed, Error::ChecksumFormat { .. }));
}

/// Relative paths start from the root, not from the folder the program runs in.
#[test]
fn plain_files() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), NOWHERE);
    let path = folder.path().join("data/x.csv");
    put(&path, "1,2");
    for text in [
        "file:data/x.csv".to_owned(),
        format!("file:{}", path.display()),
    ] {
        let fetched = hub
            .fetch(&text.parse().unwrap(), None, Progress::Quiet)
            .unwrap();
        assert_eq!((fetched.path, fetched.origin), (path.clone(), Origin::File));
    }
    let absent: Source = "file:data/y.csv".parse().unwrap();
    let message = hub
        .fetch(&absent, None, Progress::Quiet)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("file:data/y.csv") && message.contains("there is no file"),
        "{message}"
    );
    assert_eq!(sha256_file(&path).unwrap(), sha256(b"1,2"));
}

/// A source that was put together instead of parsed cannot leave its folder either.
#[test]
fn built_sources_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), NOWHERE);
    hub.mirror = Some(folder.path().to_owned());
    put(&folder.path().join("models/secret"), "x");
    let index: Source = "hf:o/n:model.safetensors.index.json".parse().unwrap();
    let source = hub.sibling(&index, "../../secret");
    assert_eq!(hub.locate(&source), None);
    let error = hub.fetch(&source, None, Progress::Quiet).unwrap_err();
    assert!(matches!(error, Error::Parse { .. }));
}

/// Offline, the message names the source, where it was looked for, and where to put the file.
#[test]
fn offline() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), NOWHERE);
    hub.offline = true;
    for mirror in [None, Some(folder.path().join("mirror"))] {
        hub.mirror = mirror.clone();
        for text in ["hf:o/n:f.json", "github:o/r:f.json", "pypi:p==1:f.json"] {
            let source: Source = text.parse().unwrap();
            let message = hub
                .fetch(&source, None, Progress::Quiet)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(text) && message.contains("unset HF_HUB_OFFLINE"),
                "{message}"
            );
            assert!(message.contains(".cache"), "{message}");
            // The file is found where the message says to put it.
            let place = message.split("put the file at ").nth(1).unwrap();
            assert_eq!(mirror.is_some(), place.contains("mirror"), "{message}");
            put(Path::new(place), text);
            let path = hub.fetch(&source, None, Progress::Quiet).unwrap().path;
            assert_eq!(path, PathBuf::from(place));
            fs::remove_file(place).unwrap();
        }
    }
}

/// The cache as Python's huggingface_hub leaves it: a branch with its reference, a commit without one.
#[test]
fn files_fetched_by_python() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), NOWHERE);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repo = folder.path().join(".cache/huggingface/hub/models--o--n");
    let path = repo.join("snapshots").join(commit).join("sub/f.json");
    put(&path, "{}");
    put(&repo.join("refs/main"), commit);
    for text in [
        "hf:o/n:sub/f.json".to_owned(),
        format!("hf:o/n@{commit}:sub/f.json"),
    ] {
        assert_eq!(
            hub.locate(&text.parse().unwrap()),
            Some((path.clone(), Origin::Cache))
        );
    }
    assert_eq!(hub.locate(&"hf:o/n:absent".parse().unwrap()), None);
    assert_eq!(
        hub.locate(&"hf:datasets/o/n:sub/f.json".parse().unwrap()),
        None
    );
}

#[test]
fn environment() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().display().to_string();
    let plain = Hub::from_vars(Path::new("root"), |n| (n == "HOME").then(|| home.clone()));
    assert_eq!(plain.hf_cache, folder.path().join(".cache/huggingface/hub"));
    assert_eq!(plain.cache, folder.path().join(".cache/sharelora"));
    assert_eq!(plain.hf_endpoint, "https://huggingface.co");
    assert_eq!(
        (plain.mirror, plain.hf_token, plain.offline),
        (None, None, false)
    );

    put(&folder.path().join("token"), " from-file\n");
    let set = |name: &str| {
        Some(match name {
            "HF_HOME" | "SHARELORA_MIRROR" => home.clone(),
            "SHARELORA_CACHE" => "own".to_owned(),
            "HF_HUB_OFFLINE" => "1".to_owned(),
            "SHARELORA_PYTHON" => "python3.12".to_owned(),
            "HF_ENDPOINT" => String::new(),
            _ => return None,
        })
    };
    let hub = Hub::from_vars(Path::new("root"), set);
    assert_eq!(hub.hf_cache, folder.path().join("hub"));
    assert_eq!(hub.mirror, Some(folder.path().to_owned()));
    assert_eq!((hub.cache, hub.offline), (PathBuf::from("own"), true));
    assert_eq!(hub.hf_token.as_deref(), Some("from-file"));
    assert_eq!(hub.python, "python3.12");
    // An empty variable is an unset one.
    assert_eq!(hub.hf_endpoint, "https://huggingface.co");
    let hub = Hub::from_vars(Path::new("root"), |n| match n {
        "HF_TOKEN" => Some("from-variable".to_owned()),
        _ => set(n),
    });
    assert_eq!(hub.hf_token.as_deref(), Some("from-variable"));
}

/// The development mirror, if this machine has one.
#[test]
fn real_mirror() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/hub");
    let mirror = std::env::var("SHARELORA_MIRROR").unwrap_or(beside.to_owned());
    if !Path::new(&mirror).is_dir() {
        println!("skipped: no mirror folder {mirror}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), NOWHERE);
    hub.mirror = Some(mirror.into());
    for text in [
        "hf:FacebookAI/roberta-base:tokenizer.json",
        "hf:datasets/sahil2801/CodeAlpaca-20k:code_alpaca_20k.json",
    ] {
        let fetched = hub
            .fetch(&text.parse().unwrap(), None, Progress::Quiet)
            .unwrap();
        assert_eq!(fetched.origin, Origin::Mirror);
    }
}
