"""What the official tool of the E2E NLG challenge gives: scores, words, and its time beside this program's.

TOOL is a checkout of github.com/tuetschek/e2e-metrics (commit 1b9c4d8), which runs as it is. Where its large files are
missing, `meteor-1.5.jar`, `data/paraphrase-en.gz` and `stanford-corenlp-3.4.1.jar` are the same bytes in the wheel
pycocoevalcap==1.2, in folders of the same names. It needs Java (17 here) and, with Python 3.11:

    pip install future==1.0.0 numpy==2.4.6 matplotlib==3.11.2 scikit-image==0.26.0

The fixture: the scores of the texts that lie in the folder, and the words of each text of its `words.jsonl`. A new text
there needs no more than `{"text": "..."}`.

    python scripts/e2e_reference.py fixtures TOOL crates/metrics/tests/fixtures/e2e

Scores of any two files, as `measure_scores.py -p` reads and computes them, with all digits:

    python scripts/e2e_reference.py scores TOOL REFERENCES SYSTEM

Time of the whole process without METEOR, in turns with this program's on the same files:

    cargo build --release -p sharelora-metrics --example e2e
    python scripts/e2e_reference.py time TOOL REFERENCES SYSTEM -- target/release/examples/e2e SYSTEM REFERENCES
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

NAMES = {"BLEU": "bleu", "NIST": "nist", "METEOR": "meteor", "ROUGE_L": "rouge_l", "CIDEr": "cider"}
RUNS = 3


class NoMeteor:
    """In METEOR's place where it is not wanted."""

    def compute_score(self, references, _):
        return 0.0, [0.0] * len(references)

    def method(self):
        return "no METEOR"


def load(tool: Path):
    """The tool's main module. Every other module of it is found from there."""
    sys.path.insert(0, str(tool))
    import measure_scores

    return measure_scores


def scores(tool: Path, references: Path, system: Path, meteor: bool = True) -> dict:
    measure = load(tool)
    import pycocoevalcap.eval

    if not meteor:
        pycocoevalcap.eval.Meteor = NoMeteor
    _, data_references, data_system = measure.load_data(str(references), str(system))
    found = dict(measure.run_coco_eval(data_references, data_system).eval)
    found.update(measure.run_pymteval(data_references, data_system))
    return {name: float(found[key]) for key, name in NAMES.items() if meteor or key != "METEOR"}


def words(tool: Path, lines: list[str]) -> list[dict]:
    """Words of each line alone, as BLEU and NIST (`mteval`) and the other scores (`treebank`) see them."""
    load(tool)
    from metrics.pymteval import BLEUScore
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # The tokenizer looks beyond the end of a line; it finds nothing in a line that is between.
    texts = [text for line in lines for text in (line, "§")]
    treebank = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    mteval = BLEUScore()
    return [
        {
            "text": line,
            "mteval": " ".join(mteval.tokenize(line)).lower(),
            "treebank": treebank[2 * i][0],
        }
        for i, line in enumerate(lines)
    ]


def fixtures(tool: Path, folder: Path) -> None:
    pairs = {
        "several": ("references.txt", "system.txt"),
        "single": ("single.txt", "system.txt"),
        "tables": ("references.csv", "system.tsv"),
    }
    found = {name: scores(tool, folder / references, folder / system) for name, (references, system) in pairs.items()}
    (folder / "scores.json").write_text(json.dumps(found, indent=2) + "\n")
    cases = folder / "words.jsonl"
    lines = [json.loads(line)["text"] for line in cases.read_text(encoding="utf-8").split("\n") if line]
    cut = [json.dumps(case, ensure_ascii=False) + "\n" for case in words(tool, lines)]
    cases.write_text("".join(cut), encoding="utf-8")


def compare_time(tool: Path, references: Path, system: Path, ours: list[str]) -> None:
    theirs = [sys.executable, __file__, "scores", "--without-meteor", tool, references, system]
    seconds = {"official": [], "ours": []}
    for _ in range(RUNS):
        for name, command in (("official", theirs), ("ours", ours)):
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds[name].append(time.perf_counter() - start)
            print(f"{name:8} {seconds[name][-1]:8.3f} s  {' '.join(done.stdout.split())}")
    official, own = (statistics.median(times) for times in seconds.values())
    print(f"median   {official:.3f} s and {own:.3f} s: {official / own:.0f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fixtures")
    command.add_argument("tool", type=Path)
    command.add_argument("folder", type=Path)
    command = commands.add_parser("scores")
    command.add_argument("--without-meteor", action="store_true")
    command.add_argument("tool", type=Path)
    command.add_argument("references", type=Path)
    command.add_argument("system", type=Path)
    command = commands.add_parser("time")
    command.add_argument("tool", type=Path)
    command.add_argument("references", type=Path)
    command.add_argument("system", type=Path)
    command.add_argument("ours", nargs="+")
    arguments = parser.parse_args()
    tool = arguments.tool.resolve()
    # The tool speaks on both channels.
    with contextlib.redirect_stdout(sys.stderr):
        if arguments.command == "fixtures":
            fixtures(tool, arguments.folder)
        elif arguments.command == "scores":
            found = scores(tool, arguments.references, arguments.system, not arguments.without_meteor)
    if arguments.command == "scores":
        print(json.dumps(found))
    elif arguments.command == "time":
        compare_time(tool, arguments.references, arguments.system, arguments.ours)


if __name__ == "__main__":
    main()
