"""How fast merges are: a linear one against `cp`, TIES and DARE against mergekit.

    python tests/bench/merging.py [--layers 30] [--repeats 3] [--output merging.json] [--without-mergekit]

Three checkpoints of SmolLM2-135M's shapes are written: a base, and two models near it. A linear merge
reads two of them and writes one; `cp` copies a file as large. Speeds are bytes read and written in a
second, the best of the repeats; nothing is flushed to the disk on either side. mergekit runs in this
process too, its import not counted, with the same method, the same density and trimming per tensor (it
has no other); of ours the paper's, over the whole model, is told as well. Repeats of all methods
alternate, so that a slower minute of the machine is nobody's.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cpt.memory import keep_freed_memory
from cpt.merging.merge import Folders, merge
from cpt.merging.spec import Dare, Method, Slerp, Soup, TaskArithmetic, Ties

#: SmolLM2-135M's config.json, as far as shapes go.
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
DENSITY = 0.2
OURS: dict[str, Method] = {
    "linear": Soup(method="soup"),
    "slerp": Slerp(method="slerp"),
    "task_arithmetic": TaskArithmetic(method="task_arithmetic", base="base", weights=[1, 1]),
    "ties": Ties(method="ties", base="base", density=DENSITY, scope="tensor"),
    "ties over the whole model": Ties(method="ties", base="base", density=DENSITY),
    "dare_linear": Dare(method="dare_linear", base="base", drop=1 - DENSITY),
    "dare_ties": Dare(method="dare_ties", base="base", drop=1 - DENSITY),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--without-mergekit", action="store_true")
    parser.add_argument("--output", type=Path, default=None)
    given = parser.parse_args()
    keep_freed_memory()  # as every stage does
    folder = Path(tempfile.mkdtemp(prefix="cpt-merging-"))
    try:
        result = _measured(folder, given)
    finally:
        shutil.rmtree(folder)
    text = json.dumps(result, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n")


def _measured(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    models = _models(folder, given.layers, given.dtype)
    size = (models["base"] / "model.safetensors").stat().st_size
    theirs = not given.without_mergekit and find_spec("mergekit") is not None
    works: dict[str, Callable[[Path], object]] = {"cp": lambda out: _cp(models["a"], out)}
    for name, method in OURS.items():
        works[f"ours: {name}"] = _ours(models, method)
        if theirs and name != "ties over the whole model":
            works[f"mergekit: {name}"] = _mergekit(models, name, given.dtype)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(given.repeats + 1):
        for name, work in works.items():
            out = folder / "out"
            out.mkdir()
            since = time.perf_counter()
            work(out)
            if repeat:  # the first reads into the page cache, and imports
                seconds[name].append(time.perf_counter() - since)
            shutil.rmtree(out)
    best = {name: min(times) for name, times in seconds.items()}
    # cp reads one and writes one; a linear merge reads two and writes one.
    speeds = {"cp": 2 * size / best["cp"], "linear": 3 * size / best["ours: linear"]}
    ratios = {
        name: round(best[f"ours: {name}"] / best[f"mergekit: {name}"], 3)
        for name in OURS
        if f"mergekit: {name}" in best
    }
    return {
        "bytes_of_a_checkpoint": size,
        "dtype": given.dtype,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "seconds": {name: [round(each, 3) for each in times] for name, times in seconds.items()},
        "bytes_per_second": {name: round(speed) for name, speed in speeds.items()},
        "linear_to_cp": round(speeds["linear"] / speeds["cp"], 3),
        "seconds_to_mergekits": ratios or "mergekit is not installed",
        "targets": "linear_to_cp >= 0.5; ties, dare_linear and dare_ties at most 1.0 of mergekit's",
    }


def _models(folder: Path, num_layers: int, dtype: str) -> dict[str, Path]:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    made = {}
    config = LlamaConfig(**{**CONFIG, "num_hidden_layers": num_layers})
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        if name != "base":
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((0.01 * noise).to(parameter.dtype))
        made[name] = folder / name
        model.save_pretrained(made[name])
    return made


def _cp(source: Path, out: Path) -> None:
    # In blocks, as cp does without reflinks: shutil.copyfile would let the file system share them.
    with (source / "model.safetensors").open("rb") as one, (out / "copy").open("wb") as other:
        shutil.copyfileobj(one, other, 1 << 20)


def _ours(models: dict[str, Path], method: Method) -> Callable[[Path], object]:
    folders = Folders((("a", models["a"]), ("b", models["b"])), ("base", models["base"]))
    if isinstance(method, Soup | Slerp):
        folders = Folders(folders.models)
    return lambda out: merge(folders, method, 0, out)


def _mergekit(models: dict[str, Path], method: str, dtype: str) -> Callable[[Path], object]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    entries = [
        {"model": str(models[name]), "parameters": {"weight": 0.5, "density": DENSITY}}
        for name in ("a", "b")
    ]
    tree: dict[str, Any] = {"merge_method": method, "dtype": dtype, "models": entries}
    if method != "linear":
        tree["base_model"] = str(models["a" if method == "slerp" else "base"])
    if method == "slerp":
        tree["parameters"] = {"t": 0.5}
    config = MergeConfiguration.model_validate(tree)
    options = MergeOptions(
        device="cpu",
        copy_tokenizer=False,
        lazy_unpickle=True,
        write_model_card=False,
        quiet=True,
        random_seed=0,
    )
    return lambda out: run_merge(config, out_path=str(out), options=options)


if __name__ == "__main__":
    main()
