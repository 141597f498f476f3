"""Reference values of bitsandbytes' NF4 and of PEFT's training beside a base that is quantised with it.

    pip install torch==2.9.0 transformers==5.23.0 peft==0.21.2 safetensors bitsandbytes==0.50.2
    python scripts/nf4_reference.py crates/model/tests/fixtures/nf4.safetensors crates/runner/tests/fixtures/nf4

The first argument is a file of matrices, each beside what `dequantize_4bit(quantize_nf4(matrix, compress_statistics=True))` gives for it in
f32, `NAME.nf4`: two groups of blocks of bf16 values that groups cut inside rows; f32 values whose quotients are the middles between two
codes and their neighbours; rows of one block with zeros, denormal numbers and one huge value; nothing but zeros; a matrix of one block.

The second is a folder as `sharelora parity` reads it. The base is saved as it was before quantisation, in bf16; the outputs and PEFT's eight
AdamW steps of LoRA and of LoRA with the A of layer 0 at every layer are those of a model in f32 whose linear layers in blocks have their
dequantised values (embedding and norms are bf16 values as they are). PyTorch runs on one thread: the mean of the block maxima is a sum.
"""

import json
import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_nf4
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, ROWS, LENGTH, MASKED = 8, 3, 10, 3
RANK, ALPHA, RATE, DECAY = 2, 4, 5e-3, 0.01
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def kept(values: torch.Tensor) -> torch.Tensor:
    packed, state = quantize_nf4(values.float(), blocksize=64, compress_statistics=True)
    return dequantize_4bit(packed, state)


def write_matrices(path: Path) -> None:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(shape, generator=generator)

    spread = torch.exp(torch.randn((30, 1), generator=generator))
    code = get_4bit_type("nf4", device="cpu")
    middles = (code[:-1] + code[1:]) / 2
    around = [middles, torch.nextafter(middles, torch.ones(15)), torch.nextafter(middles, -torch.ones(15))]
    row = torch.cat([*around, code, torch.tensor([0.999, -0.999, 1.0])])
    single = normal(6, 64)
    single[1] = 0.0
    single[2] = torch.linspace(-1e-39, 1e-39, 64)
    single[3, 17] = -3e38
    single[4] = -0.25
    matrices = {
        "groups": (normal(30, 640) * spread).bfloat16(),
        "middles": torch.stack([row, -row, 3 * row, row / 7]),
        "single": single,
        "zeros": torch.zeros(2, 128),
        "one": normal(1, 64),
    }
    values = {f"{name}.nf4": kept(matrix) for name, matrix in matrices.items()}
    save_file({**matrices, **values}, path)
    print({name: (value != 0).sum().item() for name, value in values.items()})


def base() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    torch.manual_seed(20241124)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            parameter.copy_(parameter.bfloat16().float())
    return model


def quantised() -> LlamaForCausalLM:
    model = base()
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] in TARGETS:
                module.weight.copy_(kept(module.weight))
    return model


def adapted(strategy: str):
    """The model with drawn matrices, and these by their names, each once."""
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS)
    model = get_peft_model(quantised(), lora)
    generator = torch.Generator().manual_seed(23)
    found, first = {}, {}
    for name, module in model.named_modules():
        if len(getattr(module, "lora_A", {})) == 0:
            continue
        path = name.removeprefix("base_model.model.")
        a, b = module.lora_A["default"], module.lora_B["default"]
        with torch.no_grad():
            for matrix in (a.weight, b.weight):
                matrix.copy_(0.2 * torch.randn(matrix.shape, generator=generator))
        projection = path.rsplit(".", 1)[-1]
        if strategy == "share_a" and projection in first:
            a.weight = first[projection]
        else:
            first[projection] = a.weight
            found[f"{path}.a"] = a.weight
        found[f"{path}.b"] = b.weight
    return model, found


def write_training(out: Path) -> None:
    base().bfloat16().save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    plain = quantised()
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 40, (2, LENGTH), generator=generator)
    with torch.no_grad():
        found = plain(input_ids=ids, output_hidden_states=True)
        greedy = plain.generate(ids[:1], max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    io = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "logits": found.logits,
        "last_hidden_state": found.hidden_states[-1],
        "greedy_20": greedy,
    }
    save_file({name: value.contiguous() for name, value in io.items()}, out / "io.safetensors")

    batches = torch.randint(0, 40, (STEPS, ROWS, LENGTH), generator=generator)
    labels = batches.clone()
    labels[:, :, :MASKED] = -100
    losses = {}
    for strategy in ["lora", "share_a"]:
        model, matrices = adapted(strategy)
        tensors = {"batches": batches, "labels": labels}
        tensors |= {f"{name}_init": value.detach().clone() for name, value in matrices.items()}
        optimizer = torch.optim.AdamW(matrices.values(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        model.train()
        losses[strategy] = []
        for rows, targets in zip(batches, labels):
            loss = model(input_ids=rows, labels=targets).loss
            loss.backward()
            losses[strategy].append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        tensors |= {f"{name}_final": value.detach().clone() for name, value in matrices.items()}
        save_file(tensors, out / f"train_{strategy}.safetensors")
        print(strategy, [round(v, 4) for v in losses[strategy]])
    train = {
        "rank": RANK,
        "alpha": ALPHA,
        "lr": RATE,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": DECAY,
        "targets": TARGETS,
        "losses": losses,
    }
    (out / "train.json").write_text(json.dumps(train, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in out.iterdir())} bytes in {out}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_matrices(Path(sys.argv[1]))
    write_training(Path(sys.argv[2]))
