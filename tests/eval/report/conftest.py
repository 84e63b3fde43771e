"""A chain folder as the runner leaves it, with made-up numbers: base and four stages."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SUITE, SUITE_HASH = "quickstart", "5d2e91ab"
STAGES = ("base", "pretrain", "sft", "dpo", "grpo")
# probe: group, metric, higher is better, items, the level after each stage with hooks, and naive.
PROBES: dict[str, tuple[str, str, bool, int, list[float], list[float]]] = {
    "python_qa": (
        "domain",
        "acc",
        True,
        160,
        [0.28, 0.36, 0.52, 0.56, 0.57],
        [0.28, 0.38, 0.54, 0.57, 0.58],
    ),
    "python_docs": (
        "domain",
        "bits_per_byte",
        False,
        120,
        [1.12, 0.98, 1.0, 1.01, 1.01],
        [1.12, 0.95, 0.99, 1.0, 1.01],
    ),
    "world_facts": (
        "knowledge",
        "acc",
        True,
        150,
        [0.47, 0.46, 0.45, 0.46, 0.46],
        [0.47, 0.42, 0.33, 0.31, 0.3],
    ),
    "arithmetic": (
        "reasoning",
        "exact_match",
        True,
        140,
        [0.31, 0.3, 0.29, 0.3, 0.33],
        [0.31, 0.24, 0.17, 0.16, 0.2],
    ),
    "english": (
        "language",
        "acc",
        True,
        160,
        [0.74, 0.74, 0.73, 0.73, 0.74],
        [0.74, 0.72, 0.68, 0.67, 0.67],
    ),
    "general_text": (
        "language",
        "bits_per_byte",
        False,
        130,
        [0.96, 0.962, 0.966, 0.968, 0.968],
        [0.96, 1.02, 1.09, 1.11, 1.12],
    ),
    "output_format": (
        "instruction",
        "exact_match",
        True,
        120,
        [0.4, 0.33, 0.41, 0.43, 0.45],
        [0.4, 0.21, 0.26, 0.27, 0.33],
    ),
    "code_basics": (
        "code",
        "acc",
        True,
        110,
        [0.35, 0.37, 0.39, 0.39, 0.4],
        [0.35, 0.38, 0.4, 0.4, 0.41],
    ),
}
KINDS = {
    "base": [],
    "pretrain": ["replay", "ema"],
    "sft": ["replay", "kl"],
    "dpo": ["kl", "interpolate"],
    "grpo": ["ema"],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "replay": {"source": "general", "share": 0.2},
    "ema": {"decay": 0.99},
    "kl": {"beta": 0.05, "of": "base"},
    "interpolate": {"weight": 0.6},
}


@dataclass(frozen=True)
class Fake:
    """Where the made-up chain lies."""

    chain: Path
    stages: Path


FakeChain = Callable[..., Fake]


def make_chain(
    runs: Path,
    name: str = "quickstart",
    probed: int = 5,
    trained: int | None = None,
    running: bool = False,
    probes: tuple[str, ...] = tuple(PROBES),
    answer: str = "",
    naive: bool = False,
    watched: bool = False,
) -> Fake:
    """Write a chain.

    Args:
        probed: how many rows the matrix has.
        trained: how many stages are finished; as many as are probed unless told.
        running: the stage after them has a `.partial` folder with a log.
        answer: a text that stands in every question, answer, hook setting and note.
        watched: stages were looked at while they trained.
    """
    trained = probed if trained is None else trained
    stages = runs / "stages"
    ids = {stage: f"{stage}-{_digest(stage, naive)}" for stage in STAGES}
    for index, stage in enumerate(STAGES):
        folder = stages / ids[stage]
        if index < trained:
            _write(folder / "manifest.json", _manifest(stage, ids, naive, answer))
            _metrics(folder / "metrics.jsonl", stage, naive)
            if watched and index:
                write_looks(folder, answer)
        elif index == trained and running:
            _metrics(folder.with_name(f"{folder.name}.partial") / "metrics.jsonl", stage, naive)
        if index < probed:
            result = _result(stage, ids[stage], index, probes, answer, naive)
            _write(folder / "probes" / f"{SUITE}-{SUITE_HASH}.json", result)
    chain = runs / "chains" / name
    _write(chain / "chain.json", _chain(name, ids, probes, naive))
    return Fake(chain, stages)


@pytest.fixture
def fake_chain(tmp_path: Path) -> FakeChain:
    """`make_chain` into this test's folder."""

    def make(**settings: Any) -> Fake:
        return make_chain(tmp_path / "runs", **settings)

    return make


def write_looks(folder: Path, answer: str = "") -> None:
    """Looks in which of 20 facts 18, 8 and 17 are right, and prose rises by 0.3 bits on the way."""
    rows = []
    for step, kl, rise, right, prose in [
        (0, 0.0, 0.0, 18, 1.0),
        (10, 0.5, 0.2, 8, 1.3),
        (120, 0.8, 0.1, 17, 1.1),
    ]:
        facts = [float(number < right) for number in range(20)]
        values = {
            f"facts{answer}": ("acc", True, facts),
            "prose": ("bits_per_byte", False, [prose + 0.01 * number for number in range(-5, 6)]),
        }
        cells = {name: _watched(name, *of, answer) for name, of in values.items()}
        result = {"suite_hash": "ab", "probes": cells}
        _write(folder / "watch" / "small-ab" / f"step-{step:06d}.json", result)
        means = {f"probe/{name}": cell["value"] for name, cell in cells.items()}
        drift = {"kl": kl, "general_loss": 2 + rise, "general_loss_rise": rise}
        rows.append({"step": step, **drift, **means})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "watch" / "watch.jsonl").write_text(lines)


def _watched(
    name: str, metric: str, higher: bool, values: list[float], answer: str
) -> dict[str, Any]:
    items = [
        {"id": f"{name}{n}", "value": value, "weight": 1.0, "text": answer, "answer": answer}
        for n, value in enumerate(values)
    ]
    return {
        "metric": metric,
        "group": "knowledge",
        "higher_is_better": higher,
        "margin": None,
        "value": sum(values) / len(values),
        "stderr": 0.1,
        "items": items,
        "fingerprint": name,
    }


def _digest(stage: str, naive: bool) -> str:
    shared = stage == "base"
    return f"{random.Random(f'{stage}{naive and not shared}').getrandbits(32):08x}"


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _chain(name: str, ids: dict[str, str], probes: tuple[str, ...], naive: bool) -> dict[str, Any]:
    nodes = [
        {
            "name": stage,
            "kind": stage,
            "id": ids[stage],
            "parents": [STAGES[index - 1]] if index else [],
            "reference": {"dpo": "sft", "grpo": "dpo"}.get(stage),
            "hooks": [] if naive else KINDS[stage],
        }
        for index, stage in enumerate(STAGES)
    ]
    declared = {
        probe: {
            "group": PROBES[probe][0],
            "metric": PROBES[probe][1],
            "task": probe,
            "margin": None,
        }
        for probe in probes
    }
    recipe = {
        "name": name,
        "model": "../../configs/models/smollm2-135m-instruct.yaml",
        "seed": 17,
        "gate": {"margin": 0.02, "on_regression": "warn"},
        "stages": {
            stage: {
                "kind": stage,
                "data": f"../../configs/data/stdlib-{stage}.yaml",
                "train": {"learning_rate": 1e-5, "max_steps": 120, "batch_size": 8},
                "hooks": [] if naive else [{hook: SETTINGS[hook]} for hook in KINDS[stage]],
            }
            for stage in STAGES[1:]
        },
    }
    return {
        "version": 1,
        "name": name,
        "seed": 17,
        "baseline": "naive" if naive else None,
        "recipe": recipe,
        "recipe_path": "recipes/quickstart/chain.yaml",
        "suite": {"name": SUITE, "hash": SUITE_HASH, "probes": declared},
        "gate": {"margin": 0.02, "on_regression": "warn"},
        "nodes": nodes,
    }


def _manifest(stage: str, ids: dict[str, str], naive: bool, answer: str) -> dict[str, Any]:
    if stage == "base":
        return {
            "version": 1,
            "id": ids[stage],
            "kind": "base",
            "name": stage,
            "seconds": {"load": 4.2, "save": 1.1},
            "packages": {"torch": "2.13.0"},
            "finished": "2026-03-01T10:00:05Z",
        }
    hooks = [] if naive else KINDS[stage]
    return {
        "version": 1,
        "id": ids[stage],
        "kind": stage,
        "name": stage,
        "parents": {"parent": ids[STAGES[STAGES.index(stage) - 1]]},
        "hooks": [
            {"name": hook, "settings": {**SETTINGS[hook], **({"note": answer} if answer else {})}}
            for hook in hooks
        ],
        "data": [
            {
                "builder": "python_code",
                "source": "stdlib",
                "view": stage,
                "rows": 2412,
                "bad_rows": 3,
                "tokens": 61440,
                "sha256": "ab",
            }
        ],
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "code": {"commit": "4f1c0e2b9a77d1", "dirty": False},
        "world": {"backend": "single", "size": 1, "device": "cpu"},
        "seconds": {
            "load": 2.2,
            "train": 148.0 + 9 * len(stage),
            "merge": 0.9 if hooks else 0.0,
            "save": 1.3,
        },
        "num_steps": 120,
        "finished": f"2026-03-01T10:{4 * STAGES.index(stage):02d}:30Z",
        "notes": [f"3 bad rows were left out {answer}".strip()],
    }


def _metrics(path: Path, stage: str, naive: bool) -> None:
    draw = random.Random(f"{stage}{naive}")
    lines = []
    for step in range(2, 122, 2):
        fade = math.exp(-step / 40)
        entry: dict[str, float] = {
            "step": step,
            "loss": 1.7 + 0.9 * fade + draw.gauss(0, 0.05),
            "learning_rate": 1e-5 * (1 - step / 122),
            "grad_norm": 1 + 0.5 * fade + abs(draw.gauss(0, 0.2)),
        }
        if "kl" in KINDS[stage] and not naive:
            entry["hook/kl"] = 0.03 * (1 - fade) + abs(draw.gauss(0, 0.002))
        if stage == "dpo":
            entry |= {
                "rewards/chosen": 0.4 * (1 - fade) + draw.gauss(0, 0.03),
                "rewards/rejected": -0.7 * (1 - fade) + draw.gauss(0, 0.03),
                "rewards/accuracies": 0.5 + 0.35 * (1 - fade) + draw.gauss(0, 0.04),
            }
        if stage == "grpo":
            entry |= {
                "reward": 0.3 + 0.35 * (1 - fade) + draw.gauss(0, 0.05),
                "rewards/right_answer/mean": 0.2 + 0.3 * (1 - fade) + draw.gauss(0, 0.05),
                "rewards/format/mean": 0.5 + 0.4 * (1 - fade) + draw.gauss(0, 0.03),
                "kl": 0.05 * (1 - fade) + abs(draw.gauss(0, 0.003)),
                "completions/mean_length": 28 - 8 * (1 - fade) + draw.gauss(0, 1),
                "entropy": 1.2 * fade + 0.6 + draw.gauss(0, 0.03),
            }
        lines.append(json.dumps(entry))
        if step % 20 == 0 and stage in ("pretrain", "sft"):
            lines.append(json.dumps({"step": step, "eval_loss": 1.9 + 0.6 * fade}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + '\n{"step": 12', encoding="utf-8")


def _result(
    stage: str, stage_id: str, index: int, probes: tuple[str, ...], answer: str, naive: bool
) -> dict[str, Any]:
    cells = {probe: _cell(probe, index, answer, naive) for probe in probes}
    return {
        "version": 1,
        "suite": SUITE,
        "suite_hash": SUITE_HASH,
        "stage": stage_id,
        "seconds": 31.4,
        "packages": {"lm_eval": "0.4.13"},
        "probes": cells,
    }


def _cell(probe: str, index: int, answer: str, naive: bool) -> dict[str, Any]:
    group, metric, higher, num_items, with_hooks, without = PROBES[probe]
    level = (without if naive else with_hooks)[index]
    items: list[dict[str, Any]] = []
    for item in range(num_items):
        own = random.Random(f"{probe}{item}")
        luck, size = own.random(), own.randint(80, 600)
        noise = random.Random(f"{probe}{item}{index}{naive}").gauss(0, 1) * (index > 0)
        bits = metric == "bits_per_byte"
        value = (
            level + 0.4 * (luck - 0.5) + 0.02 * noise
            if bits
            else float(luck + 0.09 * noise < level)
        )
        said = f"{'B' if luck < 0.5 else 'A'}: the module that {'parses' if value else 'opens'} it"
        items.append(
            {
                "id": f"{probe}-{item}",
                "value": value,
                "weight": float(size) if bits else 1.0,
                "text": f"Question {item} of {probe}: which module is it? {answer}".strip(),
                "answer": f"{said} {answer}".strip(),
            }
        )
    total = sum(item["weight"] for item in items)
    mean = sum(item["weight"] * item["value"] for item in items) / total
    spread = sum((item["weight"] * (item["value"] - mean) / total) ** 2 for item in items)
    return {
        "task": probe,
        "task_version": "1.0",
        "metric": metric,
        "group": group,
        "higher_is_better": higher,
        "margin": None,
        "value": mean,
        "stderr": math.sqrt(spread),
        "num_items": num_items,
        "shots": 0,
        "chat": False,
        "fingerprint": f"fp-{probe}",
        "seconds": 3.0,
        "items": items,
    }
