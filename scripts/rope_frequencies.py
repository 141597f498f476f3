"""Makes crates/model/tests/fixtures/rope_frequencies.json: RoPE's inverse frequencies as transformers computes them.

    pip install torch==2.9.0 transformers==5.23.0
    python scripts/rope_frequencies.py crates/model/tests/fixtures/rope_frequencies.json

Each case is a `config.json` in the form of transformers 5 and the frequencies that belong to it.
"""

import json
import sys

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
CASES = {
    "LLaMA-3.1-8B": (4096, 32, LLAMA3 | {"factor": 8.0}),
    "LLaMA-3.2-1B": (2048, 32, LLAMA3 | {"factor": 32.0}),
    "linear": (256, 8, {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    "default": (576, 9, {"rope_type": "default", "rope_theta": 100000.0}),
}


def main() -> None:
    cases = []
    for name, (hidden, heads, rope) in CASES.items():
        shape = {
            "vocab_size": 32,
            "hidden_size": hidden,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": heads,
            "max_position_embeddings": 131072,
        }
        embedding = LlamaRotaryEmbedding(LlamaConfig(**shape, rope_parameters=dict(rope)))
        cases.append(
            {
                "name": name,
                "config": {"model_type": "llama", **shape, "rope_parameters": rope},
                "inverse_frequencies": embedding.inv_freq.double().tolist(),
            }
        )
    with open(sys.argv[1], "w") as file:
        json.dump(cases, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
