"""The peer of `sharelora bench train`: LoRA and its shared forms with PyTorch, transformers and PEFT.

    pip install -r scripts/peer_requirements.txt
    python scripts/peer_train.py --gguf FILE [--strategy lora|share_a|share_b|share_ab] [--rank 8]
        [--targets q_proj,v_proj|all] [--batch 4] [--seq 128] [--steps 12] [--threads 2] [--device cpu|cuda]
        [--dtype f32|bf16] [--config config.json] [--gsm8k train.parquet]

Prints one JSON object: median milliseconds of an optimizer step, tokens per second, seconds from the start of the script
to the end of the first step, peak resident memory, trainable parameters.

--gsm8k takes real batches in the order of the file instead of random dense ones: `Question: {q}\\nAnswer:` without labels,
then ` {answer}` and the end-of-text token, padded to the longest of the batch; tokens per second then count real tokens.
--config instead of --gguf makes a model of that configuration with random weights.
"""

import time

START = time.perf_counter()

import argparse
import json
import os
import resource
import statistics

parser = argparse.ArgumentParser()
parser.add_argument("--gguf")
parser.add_argument("--config")
parser.add_argument("--strategy", default="lora", choices=["lora", "share_a", "share_b", "share_ab"])
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--targets", default="q_proj,v_proj")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq", type=int, default=128)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
parser.add_argument("--attn", default="sdpa")
parser.add_argument("--gsm8k")
args = parser.parse_args()

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100
LOWEST_ID = 5
WARM_UP = 2


def load_model():
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    if args.gguf:
        folder, file = os.path.split(args.gguf)
        model = AutoModelForCausalLM.from_pretrained(
            folder or ".", gguf_file=file, dtype=dtype, attn_implementation=args.attn
        )
    else:
        with torch.device(args.device):
            torch.set_default_dtype(dtype)
            config = AutoConfig.from_pretrained(args.config)
            model = AutoModelForCausalLM.from_config(config, attn_implementation=args.attn)
    return model.to(args.device)


def add_adapter(model):
    config = peft.LoraConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        lora_dropout=0.0,
        target_modules=ALL_LINEAR if args.targets == "all" else args.targets.split(","),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def share(model):
    """Ties the matrices of every layer to those of the first, projection by projection."""
    first = {}
    for name, module in model.named_modules():
        if not (hasattr(module, "lora_A") and "default" in module.lora_A):
            continue
        projection = name.split(".")[-1]
        a, b = module.lora_A["default"], module.lora_B["default"]
        if projection not in first:
            first[projection] = (a.weight, b.weight)
            continue
        if args.strategy in ("share_a", "share_ab"):
            a.weight = first[projection][0]
        if args.strategy in ("share_b", "share_ab"):
            b.weight = first[projection][1]


def dense_batches(vocabulary):
    batches = torch.randint(LOWEST_ID, vocabulary, (args.steps, args.batch, args.seq))
    return [(ids, torch.ones_like(ids), ids) for ids in batches]


def real_batches():
    import pyarrow.parquet
    from transformers import AutoTokenizer

    folder, file = os.path.split(args.gguf)
    tokenizer = AutoTokenizer.from_pretrained(folder or ".", gguf_file=file)
    eos = tokenizer.eos_token_id
    rows = pyarrow.parquet.read_table(args.gsm8k).slice(0, args.steps * args.batch).to_pylist()
    batches = []
    for step in range(args.steps):
        sequences = []
        for row in rows[step * args.batch : (step + 1) * args.batch]:
            source = tokenizer(f"Question: {row['question']}\nAnswer:", add_special_tokens=False).input_ids
            target = tokenizer(" " + row["answer"], add_special_tokens=False).input_ids + [eos]
            sequences.append((source + target, [IGNORED] * len(source) + target))
        longest = max(len(ids) for ids, _ in sequences)
        ids = [ids + [eos] * (longest - len(ids)) for ids, _ in sequences]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in sequences]
        labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in sequences]
        batches.append((torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)))
    return batches


transformers.logging.set_verbosity_error()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
model = add_adapter(load_model())
share(model)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
model.train()
batches = real_batches() if args.gsm8k else dense_batches(model.config.vocab_size)

seconds = []
losses = []
real = []
first_step = None
for batch in batches:
    begun = time.perf_counter()
    ids, mask, labels = (tensor.to(args.device) for tensor in batch)
    real.append(int(mask.sum()))
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    if args.device == "cuda":
        torch.cuda.synchronize()
    ended = time.perf_counter()
    first_step = first_step or ended - START
    seconds.append(ended - begun)

counted = seconds[WARM_UP:]
median = statistics.median(counted)
speed = sum(real[WARM_UP:]) / sum(counted) if args.gsm8k else args.batch * args.seq / median
fields = {
    "peer": f"peft {peft.__version__} / transformers {transformers.__version__} / torch {torch.__version__}",
    "strategy": args.strategy,
    "trainable": sum(parameter.numel() for parameter in trained),
    "ms_per_step": round(1e3 * median, 1),
    "ms_min": round(1e3 * min(counted), 1),
    "tokens_per_s": round(speed, 1),
    "real_tokens": sum(real),
    "start_to_first_step_s": round(first_step, 2),
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "cuda_peak_mib": torch.cuda.max_memory_allocated() // 2**20 if args.device == "cuda" else None,
    "loss_first_last": [round(losses[0], 4), round(losses[-1], 4)],
}
print(json.dumps(fields))
