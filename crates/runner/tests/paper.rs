//! `sharelora paper` as a shell sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const EXPERIMENT: &str = r#"
title = "Small"
[model]
name = "tiny"
config = "file:tiny/config.json"
tokenizer = "file:tiny/tokenizer.json"
weights = ["file:tiny/model.safetensors"]
[adapter]
rank = 4
alpha = 8
targets = ["all_linear"]
[train]
task = "pocket"
steps = 2
batch_size = 2
learning_rate = 1e-3
[[evaluate]]
task = "pocket"
[axes]
method = ["base", "lora", "share_a"]
"#;

const SHAPES: &str = r#"
[scaling]
title = "Scaling"
description = "Counted."
experiment = "small"
methods = ["lora", "share_a"]
shapes = ["tiny"]
drawn = ["tiny"]
[rows]
[[shapes]]
name = "tiny"
source = "file:tiny/config.json"
config = { model_type = "llama", vocab_size = 64, hidden_size = 16, intermediate_size = 32, num_hidden_layers = 3, num_attention_heads = 2 }
"#;

const CLAIMS: &str = r#"
title = "Claims"
description = "Published."
[[claims]]
claim = "Fewer"
published = 31
unit = "%"
[[claims.evidence]]
from.count = { shape = "tiny", experiment = "small", method = "share_a", what = "parameters" }
"#;

const FRONT: &str = r#"
title = "Found"
line = "One line."
introduction = "Words."
numbers = [{ question = "Right?", experiment = "small", value = "pocket/exact_match", methods = ["lora"] }]
experiments = []
paper = [{ name = "small", answers = "All.", waits = "Nobody asked." }]
links = []
"#;

const TABLE: &str = r#"
title = "Table"
description = "One number."
[[rows]]
name = "tiny"
experiment = "small"
methods = ["lora", "share_a"]
[[columns]]
name = "Parameters"
value = "parameters"
"#;

fn project() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("experiments/small.toml", EXPERIMENT),
        ("reports/shapes.toml", SHAPES),
        ("reports/reference.toml", CLAIMS),
        ("reports/front.toml", FRONT),
        ("reports/paper/one.toml", TABLE),
    ] {
        write(root.path(), name, text);
    }
    root
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn sharelora(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sharelora"))
        .args(arguments)
        .current_dir(root)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", root)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Without any result the whole paper can be made, says that nothing has run, and the check holds until a file is changed,
/// which it names.
#[test]
fn what_is_made_is_checked() {
    let root = project();
    let missing = sharelora(root.path(), &["paper", "--check"]);
    assert_eq!(missing.status.code(), Some(1), "{}", err(&missing));
    assert!(
        out(&missing).contains("reports/README.md: is missing"),
        "{}",
        out(&missing)
    );

    let made = sharelora(root.path(), &["paper"]);
    assert_eq!(made.status.code(), Some(0), "{}", err(&made));
    let read =
        |name: &str| std::fs::read_to_string(root.path().join("reports").join(name)).unwrap();
    assert!(read("paper/one.md").contains("| tiny | ShareA | not run |"));
    // Three layers of rank 4: four projections 16 to 16, two 16 to 32, one 32 to 16.
    assert!(
        read("paper/scaling.csv").contains("tiny,LoRA,3264,100,"),
        "{}",
        read("paper/scaling.csv")
    );
    assert!(
        read("paper/claims.md").contains("**reproduced**"),
        "{}",
        read("paper/claims.md")
    );
    assert!(read("README.md").contains("| small | 0 of 3 | Nobody asked. |"));

    let held = sharelora(root.path(), &["paper", "--check"]);
    assert_eq!(held.status.code(), Some(0), "{}{}", out(&held), err(&held));
    write(root.path(), "reports/paper/one.csv", "other\n");
    write(root.path(), "reports/paper/old.md", "left over\n");
    let output = sharelora(root.path(), &["paper", "--check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    assert!(
        text.contains("reports/paper/one.csv: differs")
            && text.contains("reports/paper/old.md: nothing makes it"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");
}

/// What the paper's experiments need is known without a model or a network.
#[test]
fn the_paper_is_planned() {
    let root = project();
    let output = sharelora(root.path(), &["paper", "--dry-run", "--tflops", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("ShareA") && text.contains("3 runs"), "{text}");
}

/// A slip in a file of data is the user's to mend: the message names the file and the choices.
#[test]
fn slips_name_their_file() {
    let root = project();
    let fails = |name: &str, from: &str, to: &str| {
        let path = root.path().join("reports").join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let output = sharelora(root.path(), &["paper"]);
        assert_eq!(output.status.code(), Some(2), "{}", err(&output));
        std::fs::write(&path, text).unwrap();
        err(&output)
    };
    let text = fails("paper/one.toml", "\"parameters\"", "\"parametres\"");
    assert!(
        text.contains("reports/paper/one.toml") && text.contains("held_out_loss, parameters"),
        "{text}"
    );
    let text = fails("paper/one.toml", "\"small\"", "\"smal\"");
    assert!(
        text.contains("reports/paper/one.toml names the experiment `smal`")
            && text.contains("did you mean `small`"),
        "{text}"
    );
    let text = fails("reference.toml", "shape = \"tiny\"", "shape = \"huge\"");
    assert!(
        text.contains("reports/reference.toml") && text.contains("no shape `huge`: choices: tiny"),
        "{text}"
    );
    let text = fails("front.toml", "line =", "lines =");
    assert!(
        text.contains("reports/front.toml") && text.contains("lines"),
        "{text}"
    );
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every experiment that the project's own files of data name exists and can be planned, the paper's offline from their shapes; and the
/// counts are those that the paper's table has.
#[test]
fn the_projects_own_paper_is_whole() {
    let root = repository();
    let output = sharelora(&root, &["paper", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    for (experiment, method, count) in [
        ("glue-roberta-base", "ShareA", "159,744"),
        ("glue-roberta-large", "ShareAB", "32,768"),
        ("e2e-gpt2-medium", "ShareB", "204,800"),
        ("e2e-gpt2-large", "LoRA", "737,280"),
        ("llama7b", "ShareA", "89,309,184"),
        ("llama13b", "ShareAB", "6,258,688"),
        ("llama3-8b", "ShareA", "11,010,048"),
    ] {
        let mut lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert!(
            lines.any(|line| line.first() == Some(&experiment)
                && line.get(1) == Some(&method)
                && line.contains(&count)),
            "{experiment} {method} {count}: {text}"
        );
    }
}
