//! Transfers: what arrives is whole and in the right place, or nothing appears.

use crate::server::{Answer, Request, Server};
use crate::{files, hub, sha256};
use sharelora_hub::{Error, Fetched, Hub, Origin, Progress, Source};
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| ((i * i) >> 7) as u8).collect()
}

/// The Hub's answer for a small file.
fn small(request: &Request, content: &[u8]) -> Answer {
    Answer::file(request, content)
        .with("x-repo-commit", COMMIT)
        .with("etag", "\"0f0f\"")
}

fn fetch(hub: &Hub, text: &str) -> Result<Fetched, Error> {
    hub.fetch(&text.parse().unwrap(), None, Progress::Quiet)
}

/// Fetched once, a file lies in the cache as huggingface_hub would have put it, and is not asked for again.
#[test]
fn small_file() {
    let server = Server::start(|request, _| small(request, b"{}"));
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), &(server.url() + "/"));
    let fetched = fetch(&hub, "hf:o/n:sub/a b.json").unwrap();
    assert_eq!(fetched.origin, Origin::Download);
    assert_eq!(fetched.sha256, Some(sha256(b"{}")));
    assert_eq!(fs::read(&fetched.path).unwrap(), b"{}");
    let repo = hub.hf_cache.join("models--o--n");
    assert_eq!(
        fetched.path,
        repo.join("snapshots").join(COMMIT).join("sub/a b.json")
    );
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(repo.join("blobs/0f0f")).unwrap(), b"{}");
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&fetched.path).unwrap(),
        Path::new("../../../blobs/0f0f")
    );
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|r| r.path == "/o/n/resolve/main/sub/a%20b.json")
    );
    assert!(seen.iter().all(|r| r.header("authorization").is_none()));

    hub.offline = true;
    let again = fetch(&hub, "hf:o/n:sub/a b.json").unwrap();
    assert_eq!((again.path, again.origin), (fetched.path, Origin::Cache));
    assert_eq!(server.seen().len(), seen.len());
}

/// Datasets have their own route and folder; a revision with a slash is one segment of the address.
#[test]
fn dataset_at_a_revision() {
    let server = Server::start(|request, _| small(request, b"rows"));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let fetched = fetch(&hub, "hf:datasets/o/n@refs/pr/5:train.parquet").unwrap();
    assert!(
        fetched
            .path
            .starts_with(hub.hf_cache.join("datasets--o--n/snapshots"))
    );
    let reference = hub.hf_cache.join("datasets--o--n/refs/refs/pr/5");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    assert_eq!(
        server.gets()[0].path,
        "/datasets/o/n/resolve/refs%2Fpr%2F5/train.parquet"
    );
}

/// A Hub that sends its large files from another host, and the storage host itself.
fn with_storage(linked: String) -> (Server, Server) {
    let storage = Server::start(|request, _| Answer::file(request, &content()));
    let to = storage.url() + "/signed?key=1";
    let server = Server::start(move |_, _| {
        Answer::status(302)
            .with("x-repo-commit", COMMIT)
            .with("x-linked-etag", &format!("\"{linked}\""))
            .with("x-linked-size", &content().len().to_string())
            .with("location", &to)
    });
    (server, storage)
}

/// The token goes to the Hub and never to the storage host.
#[test]
fn large_file_with_token() {
    let sum = sha256(&content());
    let (server, storage) = with_storage(sum.clone());
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), &server.url());
    hub.hf_token = Some("hf_secret".to_owned());
    let fetched = fetch(&hub, "hf:o/n:model.safetensors").unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content());
    assert!(hub.hf_cache.join("models--o--n/blobs").join(sum).is_file());
    for request in server.seen() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"));
    }
    assert_eq!(storage.seen().len(), 1);
    assert_eq!(storage.seen()[0].path, "/signed?key=1");
    assert_eq!(storage.seen()[0].header("authorization"), None);
}

/// The Hub names the checksum of a large file: content that differs is refused without being asked to check.
#[test]
fn storage_sends_something_else() {
    let (server, _storage) = with_storage(sha256(b"something else"));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let error = fetch(&hub, "hf:o/n:model.safetensors").unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(files(&hub.hf_cache), [""; 0]);
}

/// A renamed repository: the redirect stays on the Hub, and so does the token.
#[test]
fn relative_redirect() {
    let server = Server::start(|request, _| match request.path.as_str() {
        "/old/n/resolve/main/f" => Answer::status(307)
            .with("x-repo-commit", COMMIT)
            .with("location", "/api/cache/new/n/f"),
        _ => Answer::file(request, b"moved").with("etag", "W/\"aa\""),
    });
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, _) = hub(folder.path(), &server.url());
    hub.hf_token = Some("hf_secret".to_owned());
    let fetched = fetch(&hub, "hf:old/n:f").unwrap();
    assert_eq!(fs::read(fetched.path).unwrap(), b"moved");
    assert!(
        server
            .seen()
            .iter()
            .all(|r| r.header("authorization").is_some())
    );
    assert!(hub.hf_cache.join("models--old--n/blobs/aa").is_file());
}

#[test]
fn redirects_end() {
    let server = Server::start(|_, _| Answer::status(302).with("location", "again"));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let error = fetch(&hub, "hf:o/n:f").unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

/// A connection cut halfway is continued from where it was cut.
#[test]
fn cut_and_resumed() {
    let half = content().len() / 2;
    let server = Server::start(move |request, before| match before {
        0 if request.is_get() => small(request, &content()).cut(half),
        _ => small(request, &content()),
    });
    let folder = tempfile::tempdir().unwrap();
    let (hub, waits) = hub(folder.path(), &server.url());
    let fetched = fetch(&hub, "hf:o/n:f").unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content());
    assert_eq!(fetched.sha256, Some(sha256(&content())));
    let gets = server.gets();
    assert_eq!(gets.len(), 2);
    assert_eq!(gets[0].header("range"), None);
    assert_eq!(gets[1].header("range"), Some(&*format!("bytes={half}-")));
    assert_eq!(waits.lock().unwrap().len(), 1);
}

/// When a run gives up, no file appears; the next run continues what is there.
#[test]
fn resumed_by_the_next_run() {
    let server = Server::start(|request, before| match before {
        1 if request.is_get() => small(request, &content()).cut(1000),
        0..6 if request.is_get() => Answer::status(503),
        _ => small(request, &content()),
    });
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, waits) = hub(folder.path(), &server.url());
    hub.retry.attempts = 3;
    let error = fetch(&hub, "github:o/r:dir/f").unwrap_err();
    assert!(matches!(error, Error::Transfer { .. }), "{error}");
    assert!(error.to_string().contains("503"), "{error}");
    // The cut brought something new, so it starts the count again.
    let seconds: Vec<u64> = waits.lock().unwrap().iter().map(|w| w.as_secs()).collect();
    assert_eq!(seconds, [1, 1, 2]);
    let left = files(&hub.cache);
    assert_eq!(left.len(), 1);
    assert!(left[0].ends_with("sharelora-part"), "{left:?}");
    assert_eq!(hub.locate(&"github:o/r:dir/f".parse().unwrap()), None);

    hub.retry.attempts = 10;
    let before = server.gets().len();
    let fetched = fetch(&hub, "github:o/r:dir/f").unwrap();
    assert_eq!(fs::read(fetched.path).unwrap(), content());
    assert_eq!(server.gets()[before].header("range"), Some("bytes=1000-"));
    assert_eq!(files(&hub.cache), ["hub/github/o/r/main/dir/f"]);
}

/// What an earlier run left: damaged content is fetched anew once, too much of it is dropped.
#[test]
fn damaged_part() {
    for left in [
        vec![0; 1000],
        vec![0; content().len() + 1],
        vec![0; content().len()],
    ] {
        let sum = sha256(&content());
        let (server, storage) = with_storage(sum.clone());
        let folder = tempfile::tempdir().unwrap();
        let (hub, _) = hub(folder.path(), &server.url());
        let blobs = hub.hf_cache.join("models--o--n/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{sum}.{sum}.sharelora-part")), left).unwrap();
        let fetched = fetch(&hub, "hf:o/n:f").unwrap();
        assert_eq!(fs::read(fetched.path).unwrap(), content());
        assert_eq!(storage.gets().last().unwrap().header("range"), None);
    }
}

/// A server without ranges sends the whole file again: it must not be appended to the first half.
#[test]
fn server_without_ranges() {
    let server = Server::start(|request, before| {
        let mut plain = request.clone();
        plain.headers.remove("range");
        match before {
            0 if request.is_get() => small(&plain, &content()).cut(5000),
            _ => small(&plain, &content()),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let fetched = fetch(&hub, "hf:o/n:f").unwrap();
    assert_eq!(fs::read(fetched.path).unwrap(), content());
    assert_eq!(server.gets().len(), 2);
}

#[test]
fn wrong_checksum() {
    let server = Server::start(|request, _| small(request, b"content"));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let expected = sha256(b"other content");
    for text in ["hf:o/n:f", "github:o/r:f"] {
        let source: Source = text.parse().unwrap();
        let error = hub
            .fetch(&source, Some(&expected), Progress::Quiet)
            .unwrap_err();
        assert!(matches!(error, Error::Checksum { .. }));
        let message = error.to_string();
        assert!(
            message.contains(&expected) && message.contains(&sha256(b"content")),
            "{message}"
        );
        assert_eq!(hub.locate(&source), None);
    }
    assert_eq!(files(folder.path()), [""; 0]);
}

/// Each refusal says what to do, and none is tried again.
#[test]
fn refusals() {
    for (status, text, parts) in [
        (401, "hf:o/n:f", &["HF_TOKEN", "licence", "/o/n"][..]),
        (
            403,
            "hf:datasets/o/n:f",
            &["HF_TOKEN", "/datasets/o/n", "(gated)"],
        ),
        (
            404,
            "hf:o/n:f",
            &["repository", "revision", "file name", "/o/n/resolve/main/f"],
        ),
        (
            404,
            "github:o/r@v1:f",
            &["check the repository", "/o/r/v1/f"],
        ),
        (418, "hf:o/n:f", &["status 418"]),
    ] {
        let server =
            Server::start(move |_, _| Answer::status(status).with("x-error-message", "gated"));
        let folder = tempfile::tempdir().unwrap();
        let (hub, waits) = hub(folder.path(), &server.url());
        let message = fetch(&hub, text).unwrap_err().to_string();
        for part in parts.iter().chain(&[text]) {
            assert!(message.contains(part), "{status} {part}: {message}");
        }
        assert_eq!(server.seen().len(), 1);
        assert!(waits.lock().unwrap().is_empty());
        assert_eq!(files(folder.path()), [""; 0]);
    }
}

/// A server that names its wait is obeyed; one that names a wait out of bounds is reported.
#[test]
fn rate_limit() {
    let server = Server::start(|request, before| match before {
        0 => Answer::status(429).with("retry-after", "7"),
        _ => small(request, b"{}"),
    });
    let folder = tempfile::tempdir().unwrap();
    let (hub, waits) = hub(folder.path(), &server.url());
    fetch(&hub, "hf:o/n:f").unwrap();
    // Once for the question, once for the content.
    assert_eq!(*waits.lock().unwrap(), [Duration::from_secs(7); 2]);

    let server = Server::start(|_, _| Answer::status(429).with("retry-after", "3600"));
    let (hub, waits) = crate::hub(folder.path(), &server.url());
    let error = fetch(&hub, "hf:o/n:g").unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }));
    assert!(error.to_string().contains("wait 3600 s"), "{error}");
    assert!(waits.lock().unwrap().is_empty());
}

/// The build has TLS: with a server that does not speak it, the handshake is cut, which is tried again.
/// Without TLS no connection would be made and nothing tried again.
#[test]
fn tls() {
    let server = Server::start(|_, _| Answer::status(200));
    let folder = tempfile::tempdir().unwrap();
    let (hub, waits) = hub(folder.path(), &server.url().replace("http:", "https:"));
    let error = fetch(&hub, "hf:o/n:f").unwrap_err();
    assert!(matches!(error, Error::Transfer { .. }));
    assert_eq!(waits.lock().unwrap().len(), 4);
}

#[test]
fn server_errors_are_bounded() {
    let server = Server::start(|_, _| Answer::status(500));
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, waits) = hub(folder.path(), &server.url());
    hub.retry.attempts = 4;
    hub.retry.max_wait = Duration::from_secs(3);
    fetch(&hub, "hf:o/n:f").unwrap_err();
    assert_eq!(server.seen().len(), 4);
    let seconds: Vec<u64> = waits.lock().unwrap().iter().map(|w| w.as_secs()).collect();
    assert_eq!(seconds, [1, 2, 3]);
}

/// A server that is no Hub, or an evil one: its names must not become paths.
#[test]
fn foreign_names() {
    for (commit, etag) in [("", "\"a\""), (COMMIT, "\"../../x\""), ("../..", "\"a\"")] {
        let server = Server::start(move |request, _| {
            Answer::file(request, b"{}")
                .with("x-repo-commit", commit)
                .with("etag", etag)
        });
        let folder = tempfile::tempdir().unwrap();
        let (hub, _) = hub(folder.path(), &server.url());
        let error = fetch(&hub, "hf:o/n:f").unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
        assert_eq!(files(folder.path()), [""; 0]);
    }
}

/// Nobody listens: the error names the address, after the waits.
#[test]
fn no_server() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, waits) = hub(folder.path(), "http://127.0.0.1:9");
    let error = fetch(&hub, "hf:o/n:f").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("http://127.0.0.1:9/o/n/resolve/main/f"),
        "{error}"
    );
    assert_eq!(waits.lock().unwrap().len(), 4);
}

/// Four at once: one downloads, all get the same whole file. The first answer is held back until all
/// four have asked about the file, so that they do meet.
#[test]
fn four_at_once() {
    for text in ["hf:o/n:f", "github:o/r:f"] {
        let held = Arc::new(OnceLock::<()>::new());
        let server = Server::start(move |request, before| {
            if request.is_get() {
                if text.starts_with("hf:") {
                    held.wait();
                }
            } else if before == 3 {
                held.set(()).unwrap();
            }
            small(request, &content())
        });
        let folder = tempfile::tempdir().unwrap();
        let (hub, _) = hub(folder.path(), &server.url());
        let fetched: Vec<Fetched> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| fetch(&hub, text).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(fetched.iter().all(|f| f.path == fetched[0].path));
        assert_eq!(fs::read(&fetched[0].path).unwrap(), content());
        assert_eq!(server.gets().len(), 1);
        let downloads = fetched.iter().filter(|f| f.origin == Origin::Download);
        assert_eq!(downloads.count(), 1);
    }
}

/// Another revision with the same content costs a question, not a download.
#[test]
fn same_blob() {
    let server = Server::start(|request, _| small(request, b"{}"));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    fetch(&hub, "hf:o/n:f").unwrap();
    let fetched = fetch(&hub, "hf:o/n:g").unwrap();
    assert_eq!(fetched.origin, Origin::Cache);
    assert_eq!(fs::read(fetched.path).unwrap(), b"{}");
    assert_eq!(server.gets().len(), 1);
    // A checksum that does not fit: what the message says to remove is the content, not the link.
    let expected = sha256(b"other");
    let source: Source = "hf:o/n:g".parse().unwrap();
    let error = hub
        .fetch(&source, Some(&expected), Progress::Quiet)
        .unwrap_err();
    assert!(
        error.to_string().contains("blobs/0f0f has SHA-256"),
        "{error}"
    );
    // A link whose blob was cleaned away is mended.
    fs::remove_file(hub.hf_cache.join("models--o--n/blobs/0f0f")).unwrap();
    assert_eq!(fetch(&hub, "hf:o/n:f").unwrap().origin, Origin::Download);
}

/// A file of no bytes is a file.
#[test]
fn empty_file() {
    let server = Server::start(|request, _| small(request, b""));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let fetched = fetch(&hub, "github:o/r:f").unwrap();
    assert_eq!(fetched.sha256, Some(sha256(b"")));
    assert_eq!(fs::read(fetched.path).unwrap(), b"");
}

/// A full disk is named with its folder and what is missing. `/dev/full` stands in for the part file.
#[cfg(target_os = "linux")]
#[test]
fn disk_full() {
    let server = Server::start(|request, _| small(request, &content()));
    let folder = tempfile::tempdir().unwrap();
    let (hub, _) = hub(folder.path(), &server.url());
    let place = hub.cache.join("hub/github/o/r/main");
    fs::create_dir_all(&place).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.join("f.0f0f.sharelora-part")).unwrap();
    let error = fetch(&hub, "github:o/r:f").unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&place.display().to_string()), "{message}");
    assert!(message.contains("300000 more bytes"), "{message}");
    assert!(!place.join("f").exists());
}

/// `doctor` tells a hub that answers, even with an error, from one that is not there, and asks nothing offline.
#[test]
fn whether_the_hub_answers() {
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(5);
    let server = Server::start(|_, _| Answer::status(404));
    let (mut there, _) = hub(folder.path(), &server.url());
    assert_eq!(there.reachable(patience), Ok(()));
    assert_eq!(server.seen().len(), 1);
    there.offline = true;
    assert!(there.reachable(patience).is_err());
    assert_eq!(server.seen().len(), 1);

    // A port that was free a moment ago and that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (absent, _) = hub(folder.path(), &format!("http://{address}"));
    assert!(absent.reachable(patience).is_err());
}
