"""Adapters cross the border to Hugging Face PEFT in both directions: checks one, makes the fixture of the other.

    pip install torch==2.9.0 transformers==5.23.0 peft==0.21.2 safetensors

Ours to PEFT. The program writes an adapter folder and its own logits, plain PEFT has to give the same:

    for method in lora share_a share_b share_ab lora_fa vera rslora dora pissa; do
        cargo run --release -p sharelora-model --example peft_export -- MODEL OUT/$method $method
        python scripts/peft_roundtrip.py check MODEL OUT/$method
    done

MODEL is a Hugging Face folder (`config.json`, `model.safetensors`). An error above 1e-4 ends with status 1. Behind the method,
`peft_export` takes projections: `q,v` of a GPT-2 become one adapter of `c_attn`, `query,value` of a RoBERTa classifier have a
head trained beside them.

PEFT to ours. A LoRA adapter with random A and B, made and saved by PEFT, its tiny base and the logits; the test
`a_lora_adapter_saved_by_peft_gives_its_logits` of crates/model reads them:

    python scripts/peft_roundtrip.py fixture crates/adapters/tests/fixtures/peft_lora
"""

import argparse
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-4


def check(model_dir: Path, adapter_dir: Path) -> int:
    """Logits of plain PEFT against `expected.safetensors` (input_ids [B, T] i64, logits [B, T, V] or [B, labels])."""
    expected = load_file(adapter_dir / "expected.safetensors")
    architecture = (AutoConfig.from_pretrained(model_dir).architectures or [""])[0]
    classifies = architecture.endswith("ForSequenceClassification")
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    base = kind.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        plain = base(input_ids=expected["input_ids"]).logits
        model = PeftModel.from_pretrained(base, adapter_dir).eval()
        logits = model(input_ids=expected["input_ids"]).logits
    error = (logits - expected["logits"]).abs().max().item()
    effect = (logits - plain).abs().max().item()
    matrices = sum("lora_" in name or "vera_" in name for name, _ in model.named_parameters())
    print(f"{adapter_dir.name}: {matrices} matrices, largest error {error:.2e}, effect of the adapter {effect:.2e}")
    # An adapter that changes nothing would agree with anything.
    return 0 if error <= TOLERANCE and effect > 100 * TOLERANCE else 1


def fixture(out: Path) -> int:
    torch.manual_seed(20241124)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    base = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    base.save_pretrained(out / "base")
    # The generation settings are not read.
    (out / "base" / "generation_config.json").unlink(missing_ok=True)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(
        base, LoraConfig(r=3, lora_alpha=12, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        ids = torch.randint(0, config.vocab_size, (2, 9))
        logits = model(input_ids=ids).logits
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    save_file({"input_ids": ids, "logits": logits.contiguous()}, out / "expected.safetensors")
    print(f"{sum(f.stat().st_size for f in out.rglob('*') if f.is_file())} bytes in {out}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check")
    command.add_argument("model", type=Path)
    command.add_argument("adapter", type=Path)
    command = commands.add_parser("fixture")
    command.add_argument("out", type=Path)
    args = parser.parse_args()
    return check(args.model, args.adapter) if args.command == "check" else fixture(args.out)


if __name__ == "__main__":
    sys.exit(main())
