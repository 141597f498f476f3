"""Reference values of PEFT for the adapters beside LoRA and ShareLoRA: eight AdamW steps of each on one tiny LLaMA.

    pip install torch==2.9.0 transformers==5.23.0 peft==0.21.2 safetensors
    python scripts/adapter_reference.py crates/runner/tests/fixtures/adapters

OUT gets a folder as `sharelora parity` reads it: the base as transformers saves it, `io.safetensors` (input_ids, attention_mask
[B, T] i64, the base's logits, last_hidden_state and greedy tokens), `train.json` (settings, the loss of every step) and for each strategy
`train_STRATEGY.safetensors`: initial and final matrices, `PATH.KIND_init` and `PATH.KIND_final` under the path of the first module that
uses them, batches [steps, B, T] i64 and labels, -100 where a token has none.

- `lora_fa`: PEFT's LoRA with `requires_grad` of every `lora_A` False, plain AdamW. PEFT's `create_lorafa_optimizer` is not taken: it
  projects the gradient of B, which arXiv 2308.03303, section 3, does not.
- `share_a_frozen`: the same with the A of layer 0 at every layer.
- `vera`: PEFT's VeRA with its own A, B and d; b is drawn, so that every gradient is nonzero from the first step.
- `rslora`, `dora`: PEFT's `use_rslora`, `use_dora`. A and B are drawn; the magnitudes are PEFT's, from before that.
- `lora_plus`: LoRA with PEFT's `create_loraplus_optimizer`, B's rate 16 times that of A. A and B are drawn.
- `orthogonal`, `pissa`: PEFT's `init_lora_weights`, their matrices as they come.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, VeraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, ROWS, LENGTH, MASKED = 8, 3, 10, 3
RANK, ALPHA, RATE, DECAY = 4, 8, 5e-3, 0.01
B_RATIO = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STRATEGIES = ["lora_fa", "share_a_frozen", "vera", "rslora", "dora", "lora_plus", "orthogonal", "pissa"]


def base(config: LlamaConfig) -> LlamaForCausalLM:
    torch.manual_seed(20241124)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def adapted(config: LlamaConfig, strategy: str):
    torch.manual_seed(5)
    if strategy == "vera":
        return get_peft_model(base(config), VeraConfig(r=RANK, target_modules=TARGETS, projection_prng_key=3))
    init = strategy if strategy in ("orthogonal", "pissa") else True
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=TARGETS,
        init_lora_weights=init,
        use_rslora=strategy == "rslora",
        use_dora=strategy == "dora",
    )
    return get_peft_model(base(config), lora)


def matrices(model) -> dict[str, dict[str, torch.nn.Parameter]]:
    """Every adapted module's path and its matrices by their kinds."""
    found = {}
    for name, module in model.named_modules():
        path = name.removeprefix("base_model.model.")
        if len(getattr(module, "vera_lambda_d", {})) > 0:
            found[path] = {
                "lambda_d": module.vera_lambda_d["default"],
                "lambda_b": module.vera_lambda_b["default"],
                "a": module.vera_A["default"],
                "b": module.vera_B["default"],
            }
        elif len(getattr(module, "lora_A", {})) > 0:
            found[path] = {"a": module.lora_A["default"].weight, "b": module.lora_B["default"].weight}
            if "default" in module.lora_magnitude_vector:
                found[path]["magnitude"] = module.lora_magnitude_vector["default"].weight
    return found


def start(model, strategy: str) -> None:
    """Draws what PEFT leaves at zero, and freezes what is frozen."""
    generator = torch.Generator().manual_seed(23)
    drawn = {"vera": ["lambda_b"], "orthogonal": [], "pissa": []}.get(strategy, ["a", "b"])
    first = {}
    for path, kinds in matrices(model).items():
        with torch.no_grad():
            for kind in drawn:
                kinds[kind].copy_(0.2 * torch.randn(kinds[kind].shape, generator=generator))
        if strategy == "share_a_frozen":
            a = first.setdefault(path.rsplit(".", 1)[-1], kinds["a"])
            model.get_submodule(f"base_model.model.{path}").lora_A["default"].weight = a
        if strategy in ("lora_fa", "share_a_frozen"):
            model.get_submodule(f"base_model.model.{path}").lora_A["default"].weight.requires_grad = False


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    plain = base(config)
    plain.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, config.vocab_size, (2, LENGTH), generator=generator)
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

    batches = torch.randint(0, config.vocab_size, (STEPS, ROWS, LENGTH), generator=generator)
    labels = batches.clone()
    labels[:, :, :MASKED] = -100
    losses = {}
    for strategy in STRATEGIES:
        model = adapted(config, strategy)
        start(model, strategy)
        tensors = {"batches": batches, "labels": labels}

        def keep(which: str) -> None:
            for path, kinds in matrices(model).items():
                for kind, value in kinds.items():
                    # VeRA's A and B are those of all modules, and of the first one's name.
                    shared = strategy == "vera" and kind in "ab"
                    if not shared or path == next(iter(matrices(model))):
                        tensors[f"{path}.{kind}_{which}"] = value.detach().clone().contiguous()

        keep("init")
        if strategy == "pissa":
            for name in [n for n in tensors if n.endswith(("a_init", "b_init"))]:
                # What was taken from the weight stays what it was.
                for which in ("init", "final"):
                    tensors[f"{name.removesuffix('_init')}_start_{which}"] = tensors[name].clone()
        trained = {id(p): p for p in model.parameters() if p.requires_grad}
        settings = {"lr": RATE, "betas": (0.9, 0.999), "eps": 1e-8}
        if strategy == "lora_plus":
            optimizer = create_loraplus_optimizer(
                model, torch.optim.AdamW, loraplus_lr_ratio=B_RATIO, loraplus_weight_decay=DECAY, **settings
            )
        else:
            optimizer = torch.optim.AdamW(trained.values(), weight_decay=DECAY, **settings)
        model.train()
        losses[strategy] = []
        for rows, targets in zip(batches, labels):
            loss = model(input_ids=rows, labels=targets).loss
            loss.backward()
            losses[strategy].append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        keep("final")
        save_file(tensors, out / f"train_{strategy}.safetensors")
        print(strategy, sum(p.numel() for p in trained.values()), [round(v, 4) for v in losses[strategy]])
    train = {
        "rank": RANK,
        "alpha": ALPHA,
        "lr": RATE,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": DECAY,
        "targets": TARGETS,
        "b_learning_rate_ratios": {"lora_plus": B_RATIO},
        "losses": losses,
    }
    (out / "train.json").write_text(json.dumps(train, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in out.iterdir())} bytes in {out}")


if __name__ == "__main__":
    main()
