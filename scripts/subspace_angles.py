"""What scipy and numpy give for the spectra of low-rank updates and for principal angles: the fixture of crates/spectrum.

With Python 3.11, in an environment of its own:

    pip install numpy==2.4.6 scipy==1.17.1 mpmath==1.3.0
    python scripts/subspace_angles.py crates/spectrum/tests/fixtures/scipy.json

Singular values are those of the dense `s B A` by numpy.linalg.svd, ranks and entropies follow from them by scipy.stats.entropy,
angles are scipy.linalg.subspace_angles of the column spaces and of the row spaces of two updates. Factors are rounded to f32.

Where some angles are below 45 degrees and others above, scipy 1.17.1 takes small ones from their cosines (its mask is in the order
of the cosines, its angles are in the other) and is 1e-8 off. For a tiny angle beside wide ones the reference is mpmath's, 50 digits.
"""

import json
import sys

import mpmath
import numpy as np
from scipy.linalg import subspace_angles
from scipy.stats import entropy


def factors(rng, outputs, inputs, rank, kind):
    a = rng.standard_normal((rank, inputs)) / np.sqrt(inputs)
    b = rng.standard_normal((outputs, rank))
    if kind == "decaying":
        b *= 0.3 ** np.arange(rank)
    if kind == "deficient":
        b[:, -1] = 0
    if kind == "zero":
        b[:] = 0
    return a.astype(np.float32), b.astype(np.float32)


def update(a, b, scale):
    return scale * b.astype(np.float64) @ a.astype(np.float64)


def spaces(matrix, rank):
    """Bases of the column and of the row space, of as many dimensions as `matrix` has."""
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank], vt[:rank].T


def exact_angles(x, y):
    """Principal angles by their cosines, which 50 digits can afford."""
    with mpmath.workdps(50):
        qx, _ = mpmath.qr(mpmath.matrix(x.tolist()), mode="skinny")
        qy, _ = mpmath.qr(mpmath.matrix(y.tolist()), mode="skinny")
        cosines = mpmath.svd_r(qx.T * qy, compute_uv=False)
        return sorted(float(mpmath.acos(min(c, mpmath.mpf(1)))) for c in cosines)


def main(path):
    rng = np.random.default_rng(7)
    cases = []
    shapes = [(24, 16, 4), (16, 24, 3), (10, 6, 8), (12, 12, 1)]
    for kind in ["plain", "decaying", "deficient", "zero"]:
        for outputs, inputs, rank in shapes:
            scale = 2.0
            a, b = factors(rng, outputs, inputs, rank, kind)
            # The second is a small change of the first, so that some angles are small.
            a2 = (a + 1e-3 * rng.standard_normal(a.shape)).astype(np.float32)
            b2 = (b + 1e-3 * rng.standard_normal(b.shape)).astype(np.float32)
            dense, dense2 = update(a, b, scale), update(a2, b2, scale)
            values = np.linalg.svd(dense, compute_uv=False)[: min(rank, outputs, inputs)]
            case = {
                "kind": kind, "outputs": outputs, "inputs": inputs, "rank": rank, "scale": scale,
                "a": a.ravel().tolist(), "b": b.ravel().tolist(), "a2": a2.ravel().tolist(), "b2": b2.ravel().tolist(),
                "values": values.tolist(), "frobenius": float(np.linalg.norm(dense)),
            }
            if dense.any():
                dims, dims2 = np.linalg.matrix_rank(dense), np.linalg.matrix_rank(dense2)
                (columns, rows), (columns2, rows2) = spaces(dense, dims), spaces(dense2, dims2)
                case |= {
                    "effective_rank": float(np.exp(entropy(values))),
                    "stable_rank": float(np.linalg.norm(dense) ** 2 / np.linalg.norm(dense, 2) ** 2),
                    "columns": subspace_angles(columns, columns2)[::-1].tolist(),
                    "rows": subspace_angles(rows, rows2)[::-1].tolist(),
                }
            cases.append(case)
    angles = []
    for n, k, l in [(8, 2, 3), (20, 5, 5), (7, 4, 5)]:
        x, y = rng.standard_normal((n, k)), rng.standard_normal((n, l))
        y[:, 0] = x[:, 0] + 1e-9 * y[:, 0]
        angles.append({
            "n": n, "k": k, "l": l, "x": x.ravel().tolist(), "y": y.ravel().tolist(),
            "angles": exact_angles(x, y),
        })
    with open(path, "w") as file:
        json.dump({"updates": cases, "subspaces": angles}, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
