"""What scipy and statsmodels give for the statistics of reports, and what lm-evaluation-harness reads of an exported run.

With Python 3.11, in an environment of its own:

    pip install numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
    pip install lm-eval==0.4.13 --no-deps && pip install pytablewriter requests pyyaml jinja2

The fixture, closed forms with all digits and the bootstrap by many more resamples than a report draws:

    python scripts/statistics_reference.py fixture crates/report/tests/fixtures/statistics.json

The table that lm_eval itself prints of a folder written by `sharelora export RUN --format lm-eval --out FOLDER`, and checks of
its samples by lm_eval's functions. Neither needs torch:

    python scripts/statistics_reference.py lm-eval FOLDER
"""

import argparse
import json
from pathlib import Path


def newcombe_paired(both, first, second, neither):
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10; the Wilson intervals are statsmodels'."""
    import numpy as np
    from statsmodels.stats.proportion import proportion_confint

    n = both + first + second + neither
    p1, p2 = (both + first) / n, (both + second) / n
    l1, u1 = proportion_confint(both + first, n, method="wilson")
    l2, u2 = proportion_confint(both + second, n, method="wilson")
    product = float(both + first) * (second + neither) * (both + second) * (first + neither)
    covariance = both * neither - first * second
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    phi = covariance / np.sqrt(product) if product else 0.0
    lower = p1 - p2 - np.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    upper = p1 - p2 + np.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return [float(lower), float(upper)]


def fixture(path):
    import numpy as np
    from scipy import stats
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    wilson = [
        {"count": k, "n": n, "interval": [float(x) for x in proportion_confint(k, n, method="wilson")]}
        for k, n in [(0, 100), (1, 7), (2, 100), (81, 263), (150, 300), (660, 1319), (1319, 1319)]
    ]
    discordant = [(0, 0), (1, 0), (0, 5), (6, 5), (3, 12), (40, 40), (10, 35), (150, 100), (700, 619), (3000, 4000)]
    exact = []
    for b, c in discordant:
        p = float(mcnemar([[10, b], [c, 10]], exact=True).pvalue) if b + c else 1.0
        if b + c:
            assert abs(p - stats.binomtest(b, b + c, 0.5).pvalue) < 1e-9
        exact.append({"first": b, "second": c, "p": p})
    tables = [(36, 12, 2, 0), (1, 1, 7, 12), (0, 0, 0, 50), (20, 0, 0, 80), (2, 3, 1, 294), (300, 150, 90, 779), (0, 5, 9, 0)]
    paired = [{"table": list(table), "interval": newcombe_paired(*table)} for table in tables]
    holm = [
        {"p": p, "corrected": [float(x) for x in multipletests(p, method="holm")[1]]}
        for p in [[0.01], [0.04, 0.01, 0.03], [0.5, 0.9, 0.02, 0.02], [0.001, 1.0, 0.049, 0.012, 0.3]]
    ]

    random = np.random.default_rng(0)
    first = np.round(random.beta(2, 3, 200), 3)
    second = np.round(np.clip(first + random.normal(-0.02, 0.15, 200), 0, 1), 3)
    mean = stats.bootstrap((first,), np.mean, n_resamples=100_000, method="percentile", rng=1)
    difference = stats.bootstrap((first - second,), np.mean, n_resamples=100_000, method="percentile", rng=2)
    resampled = difference.bootstrap_distribution
    tail = min((resampled <= 0).mean(), (resampled >= 0).mean())
    bootstrap = {
        "first": first.tolist(),
        "second": second.tolist(),
        "mean": [float(x) for x in mean.confidence_interval],
        "difference": [float(x) for x in difference.confidence_interval],
        "p": float(2 * tail),
    }
    found = {"wilson": wilson, "mcnemar": exact, "newcombe_paired": paired, "holm": holm, "bootstrap": bootstrap}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in found.items())
    path.write_text(f"{{\n{lines}\n}}\n")


def lm_eval(folder):
    from lm_eval.utils import (
        get_file_datetime,
        get_file_task_name,
        get_latest_filename,
        get_results_filenames,
        get_sample_results_filenames,
        hash_string,
        make_table,
        sanitize_model_name,
    )

    for model in sorted({path.parent for path in folder.rglob("results_*.json")}):
        files = [str(path) for path in sorted(model.iterdir())]
        path = get_latest_filename(get_results_filenames(files))
        results = json.loads(Path(path).read_text())
        assert sanitize_model_name(results["model_name"]) == results["model_name_sanitized"] == Path(path).parent.name
        print(make_table(results))
        if "groups" in results:
            print(make_table(results, "groups"))
        for path in get_sample_results_filenames(files):
            task = get_file_task_name(Path(path).name)
            assert get_file_datetime(Path(path).name)
            samples = [json.loads(line) for line in Path(path).read_text().split("\n") if line]
            assert all(hash_string(s["target"]) == s["target_hash"] for s in samples)
            assert all(hash_string(s["arguments"]["gen_args_0"]["arg_0"]) == s["prompt_hash"] for s in samples)
            assert all(hash_string(json.dumps(s["doc"], indent=2, ensure_ascii=False)) == s["doc_hash"] for s in samples)
            hashes = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
            assert hash_string(hashes) == results["task_hashes"][task]
            print(f"{task}: {len(samples)} samples")
            for name in sorted({s["filter"] for s in samples}):
                for metric in sorted({m for s in samples if s["filter"] == name for m in s["metrics"]}):
                    values = [s[metric] for s in samples if s["filter"] == name]
                    mean = sum(values) / len(values)
                    stored = results["results"].get(task, {}).get(f"{metric},{name}")
                    print(f"  {metric},{name}: mean of samples {mean:.6f}, results {stored}")
                    assert stored is None or abs(stored - mean) < 1e-9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fixture").add_argument("path", type=Path)
    commands.add_parser("lm-eval").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "fixture":
        fixture(arguments.path)
    else:
        lm_eval(arguments.folder)


if __name__ == "__main__":
    main()
