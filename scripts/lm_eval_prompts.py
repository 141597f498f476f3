"""Makes crates/tasks/tests/fixtures/lm_eval_prompts.json: SHA-256 of prompts as lm-evaluation-harness builds them.

    pip install --no-deps lm-eval==0.4.13 evaluate==0.4.6
    pip install datasets jinja2 more_itertools numpy pyarrow pyyaml requests sacrebleu tqdm word2number
    python scripts/lm_eval_prompts.py MIRROR crates/tasks/tests/fixtures/lm_eval_prompts.json

Nothing is rendered here: the package's own `ConfigurableTask` reads its own task files and builds every prompt, and its own
filters extract every answer. Only the loading of data is replaced, by the files under MIRROR, and the metric `code_eval`,
which HumanEval's task file loads from the network and which no prompt needs. MMLU-Pro's validation split is not in the
mirror: for its prompts with worked examples the last five rows of each category stand in, with a made-up `cot_content`.
"""

import hashlib
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

import datasets

sys.modules["evaluate"] = types.SimpleNamespace(
    load=lambda name: types.SimpleNamespace(compute=lambda **_: None)
)
import lm_eval.tasks  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402

TASKS = Path(lm_eval.tasks.__file__).parent
QUESTIONS = 50
PER_CATEGORY = 4
# What a model may write under MMLU-Pro: the filter takes the first match.
ANSWERS = [
    "So the answer is (B).",
    "the answer is B",
    "The answer is (C), not the answer is (D).",
    "answer is (K). The answer is (J)",
    "The answer is: A",
    "The answer is (a)",
    "answer is Because",
    "the answer is  C",
    "the\nanswer is I\n",
    "The answer is (10)",
    "The answer is ((A))",
    "",
]


def rows(mirror, file):
    return datasets.load_dataset("parquet", data_files=str(mirror / "datasets" / file), split="train")


def built(yaml, splits):
    """The task of a task file, over these splits."""

    class Mirrored(ConfigurableTask):
        def download(self, *_args, **_kwargs):
            self.dataset = splits

    config = load_yaml(TASKS / yaml, resolve_func=True)
    for key in ["tag", "group", "task_alias", "include"]:
        config.pop(key, None)
    return Mirrored(config=config)


def entry(task, shots, docs):
    """Hashes of the prompts of `docs`, (id, row), and the first prompt as it is."""
    prompts = {str(name): task.fewshot_context(doc, shots) for name, doc in docs}
    kwargs = task.config.generation_kwargs or {}
    return {
        "shots": shots,
        "stop": kwargs.get("until"),
        "max_gen_toks": kwargs.get("max_gen_toks"),
        "choices": task.doc_to_choice(docs[0][1]) if task.config.doc_to_choice else None,
        "first": [next(iter(prompts)), next(iter(prompts.values()))],
        "sha256": {k: hashlib.sha256(v.encode()).hexdigest() for k, v in prompts.items()},
    }


def mmlu(mirror):
    """One question of every subject, and the area of each subject."""
    files = {split: rows(mirror, f"cais/mmlu/all/{split}-00000-of-00001.parquet") for split in ["dev", "test"]}
    indices = {}
    for index, subject in enumerate(files["test"]["subject"]):
        indices.setdefault(subject, index)
    prompts, areas = None, {}
    for subject, index in indices.items():
        of_subject = {
            split: table.filter(lambda row: row["subject"] == subject) for split, table in files.items()
        }
        yaml = f"mmlu/default/mmlu_{subject}.yaml"
        areas[subject] = load_yaml(TASKS / yaml, resolve_func=False)["tag"].removeprefix("mmlu_").removesuffix("_tasks")
        one = entry(built(yaml, of_subject), 5, [(index, files["test"][index])])
        if prompts is None:
            prompts = one
        prompts["sha256"] |= one["sha256"]
    return prompts, areas


def mmlu_pro(mirror):
    """The first questions of every category without and with five worked examples, and what the filter extracts."""
    test = rows(mirror, "TIGER-Lab/MMLU-Pro/data/test-00000-of-00001.parquet")
    made_up = lambda row: {"cot_content": f"A: Let's think step by step. Made up. The answer is ({row['answer']})."}
    by_shots = {}
    for category in sorted(set(test["category"])):
        of_category = test.filter(lambda row: row["category"] == category)
        validation = of_category.select(range(len(of_category) - 5, len(of_category))).map(made_up)
        task = built(
            f"mmlu_pro/mmlu_pro_{category.replace(' ', '_')}.yaml",
            {"test": of_category, "validation": validation},
        )
        docs = [(doc["question_id"], doc) for doc in of_category.select(range(PER_CATEGORY))]
        for shots in [0, 5]:
            one = entry(task, shots, docs)
            by_shots.setdefault(shots, one)["sha256"] |= one["sha256"]
    pick = next(iter(task._filters[0].filters))()
    extracted = pick.apply([ANSWERS], [{}])
    return by_shots, list(zip(ANSWERS, next(iter(extracted))))


def main(mirror, out):
    gsm8k = {
        split: rows(mirror, f"openai/gsm8k/main/{split}-00000-of-00001.parquet") for split in ["train", "test"]
    }
    humaneval = {"test": rows(mirror, "openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet")}
    questions = list(enumerate(gsm8k["test"].select(range(QUESTIONS))))
    problems = [(doc["task_id"], doc) for doc in humaneval["test"].select(range(QUESTIONS))]
    of_mmlu, areas = mmlu(mirror)
    of_mmlu_pro, extracted = mmlu_pro(mirror)
    found = {
        "lm_eval": version("lm_eval"),
        "prompts": {
            "gsm8k": entry(built("gsm8k/gsm8k.yaml", gsm8k), 0, questions),
            "gsm8k_cot": entry(built("gsm8k/gsm8k-cot.yaml", gsm8k), 8, questions),
            "humaneval": entry(built("humaneval/humaneval.yaml", humaneval), 0, problems),
            "mmlu": of_mmlu,
            "mmlu_pro": of_mmlu_pro[0],
            "mmlu_pro_5_shot": of_mmlu_pro[5],
        },
        "mmlu_areas": areas,
        "mmlu_pro_extracted": extracted,
    }
    Path(out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


main(Path(sys.argv[1]), sys.argv[2])
