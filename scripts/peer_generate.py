"""The peer of `sharelora bench generate`: Hugging Face `generate`, greedy, in one batch, padded on the left.

    pip install -r scripts/peer_requirements.txt
    python scripts/peer_generate.py --gguf FILE --prompts test.parquet [--n 32] [--new 64] [--threads 2]

The prompts are `Question: {q}\\nAnswer:` of the first n rows; every sequence gets exactly `new` tokens. Prints one JSON
object.
"""

import argparse
import json
import os
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("--gguf", required=True)
parser.add_argument("--prompts", required=True)
parser.add_argument("--n", type=int, default=32)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

os.environ["HF_HUB_OFFLINE"] = "1"

import pyarrow.parquet
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(args.threads)
folder, file = os.path.split(args.gguf)
tokenizer = AutoTokenizer.from_pretrained(folder or ".", gguf_file=file, padding_side="left")
tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=file, dtype=torch.float32).eval()
rows = pyarrow.parquet.read_table(args.prompts).slice(0, args.n).to_pylist()
prompts = [f"Question: {row['question']}\nAnswer:" for row in rows]
batch = tokenizer(prompts, return_tensors="pt", padding=True)

begun = time.perf_counter()
with torch.no_grad():
    model.generate(
        **batch,
        max_new_tokens=args.new,
        min_new_tokens=args.new,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
seconds = time.perf_counter() - begun

fields = {
    "peer": f"transformers {transformers.__version__} / torch {torch.__version__}",
    "prompts": args.n,
    "prompt_tokens": int(batch.attention_mask.sum()),
    "new_tokens": args.n * args.new,
    "seconds": round(seconds, 2),
    "new_tokens_per_s": round(args.n * args.new / seconds, 1),
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}
print(json.dumps(fields))
