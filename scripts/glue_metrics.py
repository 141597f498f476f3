"""Makes crates/metrics/tests/fixtures/labels.json: scores of classes and correlations, as scikit-learn and SciPy give them.

    pip install scikit-learn==1.9.1 scipy==1.17.1
    python scripts/glue_metrics.py crates/metrics/tests/fixtures/labels.json

Series are texts of numbers between spaces, so that `nan` and `inf` can stand in them. A score is null where the
library raises an error or gives NaN. F1 is that of class 1.
"""

import json
import math
import sys
import warnings

import numpy as np
from scipy import stats
from sklearn import metrics


def scored(function, *arguments):
    """The score, or None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = float(function(*arguments))
        except ValueError:
            return None
    return None if math.isnan(value) else value


def f1(truth, predicted):
    return metrics.f1_score(np.array(truth) == 1, np.array(predicted) == 1)


def classification(random):
    def drawn(count, classes, predicted):
        return (
            random.choice(len(classes), count, p=classes).tolist(),
            random.choice(len(predicted), count, p=predicted).tolist(),
        )

    def noisy(count, classes, right):
        truth = random.integers(classes, size=count)
        kept = random.random(count) < right
        return truth.tolist(), np.where(kept, truth, random.integers(classes, size=count)).tolist()

    cases = {
        "two classes, chance": drawn(40, [0.5, 0.5], [0.5, 0.5]),
        "two classes, mostly right": noisy(60, 2, 0.7),
        "two classes, unbalanced": drawn(50, [0.9, 0.1], [0.95, 0.05]),
        "three classes": noisy(60, 3, 0.6),
        "six classes": noisy(60, 6, 0.4),
        "class 2 never predicted": drawn(40, [0.3, 0.3, 0.4], [0.5, 0.5]),
        "class 2 never true": drawn(40, [0.5, 0.5], [0.3, 0.3, 0.4]),
        "all wrong": ([0, 1, 0, 1, 1], [1, 0, 1, 0, 0]),
        "all right": ([0, 1, 2, 1, 1], [0, 1, 2, 1, 1]),
        "only class 0, right": ([0, 0, 0], [0, 0, 0]),
        "only class 1, right": ([1, 1, 1], [1, 1, 1]),
        "only class 1, wrong": ([1, 1, 1], [0, 0, 0]),
        "only class 1, half right": ([1, 1, 1, 1], [0, 1, 0, 1]),
        "constant prediction 0": ([0, 1, 1, 0, 1], [0, 0, 0, 0, 0]),
        "constant prediction 1": ([0, 1, 1, 0, 1], [1, 1, 1, 1, 1]),
        "constant prediction of no true class": ([0, 1, 1, 0, 1], [2, 2, 2, 2, 2]),
        "two examples, right": ([0, 1], [0, 1]),
        "two examples, wrong": ([0, 1], [1, 0]),
        "two examples, half right": ([0, 1], [1, 1]),
        "one example, right": ([1], [1]),
        "one example, wrong": ([1], [0]),
        "none": ([], []),
    }
    for name, (truth, predicted) in cases.items():
        yield {
            "name": name,
            "truth": " ".join(map(str, truth)),
            "predicted": " ".join(map(str, predicted)),
            "accuracy": scored(metrics.accuracy_score, truth, predicted),
            "f1": scored(f1, truth, predicted),
            "matthews": scored(metrics.matthews_corrcoef, truth, predicted),
        }


def correlation(random):
    x = random.normal(size=30).round(3)
    noise = random.normal(size=30).round(3)
    ties = random.integers(4, size=30)
    cases = {
        "independent": (x, noise),
        "related": (x, x + noise),
        "opposed": (x, -3 * x + noise),
        "far from zero": (1e6 + x, 1e6 + x + noise),
        "ties in one": (ties, ties + noise),
        "ties in both": (ties, (ties + noise).round()),
        "line": (x, 2 * x + 1),
        "monotone, no line": (x, np.exp(5 * x)),
        "huge": (x * 1e200, noise + x),
        "tiny": (x * 1e-200, noise + x),
        "nearly constant": ([1.0, 1.0, 1.0 + 1e-9], [1, 2, 3]),
        "zero and minus zero": ([0.0, -0.0, 1.0, 2.0], [3, 1, 2, 4]),
        "constant x": ([2, 2, 2], [1, 2, 3]),
        "constant y": ([1, 2, 3], [0.1, 0.1, 0.1]),
        "two pairs, rising": ([1, 2], [5, 9]),
        "two pairs, falling": ([1, 2], [9, 5]),
        "two pairs, equal": ([1, 1], [9, 5]),
        "one pair": ([1], [1]),
        "none": ([], []),
        "nan": ([1, math.nan, 3], [1, 2, 3]),
        "infinite": ([1, math.inf, 3, -math.inf], [1, 2, 5, 0]),
    }
    for name, (x, y) in cases.items():
        x, y = np.asarray(x, float), np.asarray(y, float)
        yield {
            "name": name,
            "x": " ".join(map(repr, x.tolist())),
            "y": " ".join(map(repr, y.tolist())),
            "pearson": scored(lambda: stats.pearsonr(x, y).statistic),
            "spearman": scored(lambda: stats.spearmanr(x, y).statistic),
        }


def main() -> None:
    random = np.random.default_rng(0)
    cases = {
        "classification": list(classification(random)),
        "correlation": list(correlation(random)),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(cases, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
