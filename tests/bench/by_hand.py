"""One stage with a plain TRL trainer, as a person would write it without this project; for the benchmark.

python tests/bench/by_hand.py KIND MODEL ROWS HELD_OUT OUTPUT SETTINGS
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def convert(wheel_file: str, output: str) -> None:
    """The base model from its GGUF file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = Path(wheel_file)
    options: dict[str, Any] = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype="float32", quantization_config=GgufConfig(dequantize=True), **options
    )
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(output)


def exact_match(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """The reward of the recipe."""
    texts = [completion[-1]["content"].strip().removesuffix(".") for completion in completions]
    return [float(text.strip() == right) for text, right in zip(texts, answer, strict=True)]


def train(kind: str, model: str, rows: str, held_out: str, output: str, settings: str) -> None:
    """Train one stage and save it."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    common = {
        **json.loads(settings),
        "output_dir": f"{output}-trainer",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 17,
        "dataloader_pin_memory": False,
    }
    train_rows = load_dataset("json", data_files=rows, split="train")
    evaluation = (
        {"eval_dataset": load_dataset("json", data_files=held_out, split="train")}
        if held_out
        else {}
    )
    if held_out:
        common |= {"eval_strategy": "epoch", "eval_on_start": True}
    trainer: Any
    if kind == "pretrain":
        trainer = SFTTrainer(
            model, SFTConfig(**common, packing=True), train_dataset=train_rows, **evaluation
        )
    elif kind == "sft":
        trainer = SFTTrainer(model, SFTConfig(**common), train_dataset=train_rows, **evaluation)
    elif kind == "dpo":
        trainer = DPOTrainer(
            model, args=DPOConfig(**common), train_dataset=train_rows, **evaluation
        )
    else:
        trainer = GRPOTrainer(
            model, reward_funcs=exact_match, args=GRPOConfig(**common), train_dataset=train_rows
        )
    trainer.train()
    trainer.save_model(output)


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(*sys.argv[2:])
    else:
        train(*sys.argv[1:])
