"""The rate of PyTorch's f32 products on the shapes of a training step of SmolLM2-135M with 512 tokens.

    pip install -r scripts/peer_requirements.txt
    python scripts/peer_products.py [THREADS]

For x (N, K) and a weight W (M, K): x W^T as in the forward pass, dy W as in the backward pass; medians of 15 after 2.
"""

import statistics
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)


def rate(product, operations):
    seconds = []
    for _ in range(17):
        begun = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - begun)
    return operations / statistics.median(seconds[2:]) / 1e9


for n, k, m in [(512, 576, 960), (512, 576, 3072), (512, 1536, 576), (512, 576, 576), (512, 576, 49152)]:
    x, w, dy = torch.randn(n, k), torch.randn(m, k), torch.randn(n, m)
    forward = rate(lambda: torch.mm(x, w.t()), 2 * n * k * m)
    backward = rate(lambda: torch.mm(dy, w), 2 * n * k * m)
    print(f"{n} x {k} by {m}: x W^T {forward:.0f}, dy W {backward:.0f} GFLOP/s")
