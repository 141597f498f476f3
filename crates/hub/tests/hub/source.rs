//! A source is a name that people write and that records keep: text and value must agree.

use proptest::prelude::*;
use sharelora_hub::{RepoKind, Source};

fn sources() -> impl Strategy<Value = Source> {
    let word = || "[a-zA-Z0-9][a-zA-Z0-9._-]{0,8}";
    let repo = move || (word(), word()).prop_map(|(owner, name)| format!("{owner}/{name}"));
    let not_datasets = move || repo().prop_filter("reserved", |r| !r.starts_with("datasets/"));
    let revision = || {
        prop_oneof![
            Just("main".to_owned()),
            "[a-f0-9]{40}",
            "refs/pr/[0-9]{1,3}"
        ]
    };
    let file = || "[a-zA-Z0-9_@: +=-][a-zA-Z0-9_@:. -]{0,9}(/[a-zA-Z0-9é][a-z.:@]{0,6}){0,2}";
    prop_oneof![
        (any::<bool>(), not_datasets(), revision(), file()).prop_map(
            |(data, repo, revision, file)| {
                let kind = if data {
                    RepoKind::Dataset
                } else {
                    RepoKind::Model
                };
                Source::Hf {
                    kind,
                    repo,
                    revision,
                    file,
                }
            }
        ),
        (repo(), revision(), file()).prop_map(|(repo, revision, file)| Source::Github {
            repo,
            revision,
            file
        }),
        (word(), "[0-9][0-9a-z.+!]{0,6}", file()).prop_map(|(package, version, member)| {
            Source::Pypi {
                package,
                version,
                member,
            }
        }),
        "[^\\x00-\\x1f\\x7f-\\x9f]{1,20}".prop_map(|path| Source::File(path.into())),
    ]
}

proptest! {
    /// What is printed is read back as the same source, also through serde.
    #[test]
    fn text_round_trip(source in sources()) {
        let text = source.to_string();
        prop_assert_eq!(&text.parse::<Source>().unwrap(), &source);
        let json = serde_json::to_string(&source).unwrap();
        prop_assert_eq!(&serde_json::to_string(&text).unwrap(), &json);
        prop_assert_eq!(&serde_json::from_str::<Source>(&json).unwrap(), &source);
    }

    /// No text makes the parser panic, and what it accepts stays inside its folder.
    #[test]
    fn any_text(text in "(hf:|github:|pypi:)?[a-z./:@=\\\\%\\-]{0,30}") {
        match text.parse::<Source>() {
            Ok(Source::File(_)) => {}
            Ok(source) => prop_assert!(!source.file().split('/').any(|part| part == "..")),
            Err(error) => prop_assert!(error.to_string().contains("hf:ORG/NAME")),
        }
    }
}

#[test]
fn revision_defaults_to_main() {
    let short: Source = "hf:datasets/openai/gsm8k:main/train.parquet"
        .parse()
        .unwrap();
    let long: Source = "hf:datasets/openai/gsm8k@main:main/train.parquet"
        .parse()
        .unwrap();
    assert_eq!(short, long);
    assert_eq!(
        long.to_string(),
        "hf:datasets/openai/gsm8k:main/train.parquet"
    );
}

/// Each message names the text, the reason and the valid forms; nothing escapes its folder.
#[test]
fn bad_sources() {
    for (text, reason) in [
        ("config.json", "no scheme"),
        ("s3:bucket/key", "`s3` is not a scheme"),
        ("hf:org/name", "names no file"),
        ("hf:name:config.json", "OWNER/NAME"),
        ("hf:../name:config.json", "`..` is not a repository owner"),
        ("hf:org/name:../../secret", "not a file name"),
        ("hf:org/name:/etc/passwd", "not a file name"),
        ("hf:org/name@:config.json", "not a revision"),
        ("hf:org/name@../..:config.json", "not a revision"),
        ("github:org/name:", "not a file name"),
        ("pypi:numpy:numpy/version.py", "PACKAGE==VERSION"),
        ("pypi:--index-url==1:x", "not a package name"),
        ("file:", "the path is empty"),
    ] {
        let message = text.parse::<Source>().unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("`{text}` is not a source")),
            "{message}"
        );
        assert!(message.contains(reason), "{text}: {message}");
        assert!(
            message.contains("pypi:PACKAGE==VERSION:MEMBER"),
            "{message}"
        );
    }
}

#[test]
fn siblings_share_the_folder() {
    for (source, name, sibling) in [
        (
            "hf:o/n@v1:model.safetensors",
            "config.json",
            "hf:o/n@v1:config.json",
        ),
        (
            "hf:o/n:sub/a.index.json",
            "a-1.safetensors",
            "hf:o/n:sub/a-1.safetensors",
        ),
        (
            "pypi:p==1:pkg/a.jar",
            "data/b.gz",
            "pypi:p==1:pkg/data/b.gz",
        ),
        ("file:x/y.json", "z.json", "file:x/z.json"),
    ] {
        let source: Source = source.parse().unwrap();
        assert_eq!(source.sibling(name).to_string(), sibling);
    }
}
