"""The part of the throughput benchmark that needs an accelerator: real sizes in bf16, and every hook."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.costs import BESIDE
from tests.bench.costs import CASES as HOOKS
from tests.bench.throughput_rows import SIZES, prepare

Run = Callable[[dict[str, Any]], dict[str, Any]]
#: Dense bf16 TFLOP/s, by a part of the device's name. Source: NVIDIA's data sheets of each.
PEAKS = {"H200": 989.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
#: Bytes a parameter of training in bf16 with AdamW: weights, gradient, two moments; and room for the rest.
BYTES, ROOM = 2 + 2 + 4, 1.2


def num_parameters(size: str) -> int:
    """Of a Llama model of that shape, tied embeddings once."""
    shape = SIZES[size]
    h, wide = shape["hidden_size"], shape["intermediate_size"]
    kv = h * shape["num_key_value_heads"] // shape["num_attention_heads"]
    block = 2 * h * h + 2 * h * kv + 3 * h * wide + 2 * h
    tables = 1 if shape["tie_word_embeddings"] else 2
    return int(shape["num_hidden_layers"] * block + tables * shape["vocab_size"] * h + h)


def largest(bytes_there: float) -> str:
    """The largest shape whose training fits; the smallest of all where none does."""
    fit = [size for size in SIZES if num_parameters(size) * BYTES * ROOM < bytes_there]
    return max(fit, key=num_parameters, default="toy")


def peak_of(device: str, given: float | None) -> float | None:
    """FLOP/s of a device, as given or by its name; none where it is not known."""
    known = next((value for name, value in PEAKS.items() if name in device), None)
    found = given or known
    return found * 1e12 if found else None


def on_accelerator(folder: Path, steps: int, peak: float | None, run: Run) -> dict[str, Any]:
    """Tokens per second, share of the peak and memory of two sizes, and what each hook costs."""
    import torch

    flops = peak_of(torch.cuda.get_device_name(), peak)
    whole = torch.cuda.get_device_properties(0).total_memory
    found: dict[str, Any] = {"peak_flops": flops, "models": {}, "hooks": {}}
    for size in dict.fromkeys(("smollm2-135m", largest(whole))):
        place = folder / size
        prepare(place, size, "bfloat16")
        row = run(_task(place, steps, [], "alone", is_large=size != "smollm2-135m"))
        share = 6 * num_parameters(size) * row["tokens_per_second"] / flops if flops else None
        found["models"][size] = {**row, "parameters": num_parameters(size), "share": share}
    place = folder / "smollm2-135m"
    rows = {case: run(_task(place, steps, hooks, case)) for case, hooks in HOOKS.items()}
    for case, row in rows.items():
        beside = rows[BESIDE.get(case, "none")]
        found["hooks"][case] = {
            "step": row["seconds_per_step"] / beside["seconds_per_step"],
            "memory": row["peak"] / beside["peak"],
        }
    return found


def _task(
    folder: Path, steps: int, hooks: list[Any], note: str, is_large: bool = False
) -> dict[str, Any]:
    return {
        "case": "sft, packed",
        "side": "ours",
        "steps": steps,
        "device": "cuda",
        "dtype": "bfloat16",
        "checkpointing": is_large,
        "folder": str(folder),
        "hooks": [{hook: {}} if isinstance(hook, str) else hook for hook in hooks],
        "note": note,
    }
