"""The two sides of the throughput benchmark: our stages without hooks, and TRL's trainers called by hand."""

import json
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

LENGTH, ROWS = 256, 8
#: Tokens of an answer that GRPO samples: all of one length, or the sides would do other work.
ANSWER = 32
#: Case -> stage kind and what its `train:` adds.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("pretrain", {}),  # always packed
    "sft": ("sft", {}),
    "sft, packed": ("sft", {"packing": True}),
    "dpo": ("dpo", {}),
    "grpo": (
        "grpo",
        {
            "num_generations": 4,
            "max_completion_length": ANSWER,
            "beta": 0.04,
            "generation_kwargs": {"min_new_tokens": ANSWER},
        },
    ),
}


class _Done(Exception):  # noqa: N818 - no error
    """The last step is timed: what a stage does behind it is no part of this."""


def job_of(task: dict[str, Any]) -> Any:
    """The case as a stage."""
    from cpt.read_recipe import check_stage
    from stages.base import Job

    folder = Path(task["folder"])
    kind, added = CASES[task["case"]]
    on_gpu = task["device"] == "cuda"
    tree: dict[str, Any] = {
        "kind": kind,
        "data": {"path": str(folder / f"{kind}.jsonl")},
        "train": {
            "max_steps": task["steps"],
            "batch_size": ROWS,
            "learning_rate": 1e-6,
            "logging_steps": 1,
            "bf16": on_gpu,
            "activation_checkpointing": bool(task.get("checkpointing")),
            **({} if kind == "grpo" else {"max_length": LENGTH}),
            **added,
        },
        "micro_batch": ROWS,
        "hooks": task["hooks"],
        "hygiene": {"duplicates": "keep", "probes": "keep"},
    }
    if kind == "grpo":
        tree["rewards"] = ["exact_match"]
    parent = folder / "stages" / "pretrain-0"
    output = folder / "stages" / f"{task['note'].replace(', ', '-')}"
    return Job(
        name=kind,
        id=output.name,
        spec=check_stage(tree, str(folder / f"{kind}.yaml")),
        seed=1,
        parent=str(parent),
        roles={"reference": str(parent)} if kind in ("dpo", "grpo") else {},
        output=output,
        inputs={},
        parents={"parent": "pretrain-0"},
        load={"dtype": task.get("dtype", "float32")},
        store=folder / "store",
    )


def measure(task: dict[str, Any]) -> None:
    """Train one side in this process, and note tokens per second and peak memory."""
    import shutil

    import torch

    from cpt.memory import keep_freed_memory
    from stages.memory import host_peak

    if task["device"] == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device")
    if task["device"] == "cpu":
        keep_freed_memory()
    job, times = job_of(task), list[float]()
    rows = _watch(times, task["steps"])
    shutil.rmtree(job.partial, ignore_errors=True)
    with suppress(_Done):
        (_ours if task["side"] == "ours" else _plain)(job, task)
    # Behind the second step: the first ones fill caches and allocators.
    seconds = times[-1] - times[1]
    tokens = sum(rows[2 * len(rows) // task["steps"] :])
    steps = [after - before for before, after in pairwise(times[1:])]
    found = {
        "tokens_per_second": tokens / seconds,
        "seconds_per_step": sorted(steps)[len(steps) // 2],
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else host_peak(),
    }
    shutil.rmtree(job.partial, ignore_errors=True)
    (Path(task["folder"]) / f"{task['note']}.json").write_text(json.dumps(found))


def _watch(times: list[float], steps: int) -> list[int]:
    """Let every trainer of this process note when a step ended and how many tokens each forward took in.

    Returns: tokens of each micro-batch, which grow as it trains.
    """
    import torch
    from transformers import Trainer, TrainerCallback

    rows: list[int] = []

    class Times(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            if state.global_step == steps:
                raise _Done

    build, step = Trainer.__init__, Trainer.training_step

    def built(trainer: Any, *args: Any, **kwargs: Any) -> None:
        build(trainer, *args, **kwargs)
        trainer.add_callback(Times())

    def stepped(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(_count(inputs))
        return step(trainer, model, inputs, *args, **kwargs)

    Trainer.__init__, Trainer.training_step = built, stepped
    return rows


def _count(inputs: Any) -> int:
    """Tokens of a batch as the data path gives it, padding apart; of GRPO's those that it samples."""
    if isinstance(inputs, list):
        return len(inputs) * ANSWER
    if inputs.get("attention_mask") is not None:
        return int(inputs["attention_mask"].sum())
    return int(inputs["input_ids"].numel())


def _ours(job: Any, task: dict[str, Any]) -> None:
    from stages.run import run

    run(job, lambda line: None)


def _plain(job: Any, task: dict[str, Any]) -> None:
    """As a person would call it, on the rows of our data path."""
    import torch
    import trl
    from transformers import set_seed

    from cpt.checkpoint import load_model, load_tokenizer
    from stages import kind_of
    from stages.trl_args import batch_layout
    from tests.bench.by_hand import exact_match

    kind = kind_of(job.spec.kind, "")
    start = str(Path(job.parent) / "checkpoint")
    tokenizer = load_tokenizer(start)
    rows = _rows(job, kind, tokenizer)
    per_device, accumulation = batch_layout(ROWS, 1, ROWS)
    common = {
        "output_dir": str(job.partial / "plain"),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "max_steps": task["steps"],
        "learning_rate": 1e-6,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 1,
        "use_cpu": task["device"] == "cpu",
        "bf16": task["device"] == "cuda",
        "activation_checkpointing": bool(task.get("checkpointing")),
        "dataloader_pin_memory": task["device"] == "cuda",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }
    set_seed(1)
    model = load_model(start, task.get("dtype", "float32"))
    if torch.cuda.is_available():
        model.to("cuda")
    trainer: Any
    if kind.config == "SFTConfig":
        common |= {
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "padding_free": "seq_lengths" in rows.column_names,
            "max_length": None,
        }
        trainer = trl.SFTTrainer(
            model, trl.SFTConfig(**common), train_dataset=rows, processing_class=tokenizer
        )
    elif kind.config == "DPOConfig":
        reference = load_model(start, task.get("dtype", "float32"))
        trainer = trl.DPOTrainer(
            model,
            reference,
            args=trl.DPOConfig(**common, max_length=LENGTH),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    else:
        added = CASES[task["case"]][1]
        trainer = trl.GRPOTrainer(
            model,
            reward_funcs=exact_match,
            args=trl.GRPOConfig(**{**common, **added, "shuffle_dataset": False}),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    trainer.train()


def _rows(job: Any, kind: Any, tokenizer: Any) -> Any:
    """The stream of the stage: the very tokens that our side trains on."""
    import tempfile

    from datasets import Dataset

    from cpt.hooks.context import StageContext
    from cpt.hooks.stack import HookStack
    from cpt.world import World
    from stages.material import supply

    ctx = StageContext(job.name, kind.name, kind.formats, job.seed, World(), "")
    with tempfile.TemporaryDirectory() as folder:
        found = supply(kind, job.spec, job.seed, HookStack([], ctx), tokenizer, Path(folder)).train
        return Dataset.from_list(list(found))
