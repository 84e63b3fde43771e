"""Rates come from finished stages of the store, by exact numbers."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import RecipeError
from cpt.manifest import Manifest
from cpt.seconds import measured, probing_rate, rate
from cpt.store import Store
from cpt.workload import Workload

SUITE = "general-12ab.json"


def load_of(kind: str, train: Mapping[str, Any]) -> Workload:
    if kind == "gone":
        raise RecipeError("no such kind")
    size = (train["batch_size"], train["max_length"])
    return Workload(1, size[1], True, size[0], None, False, False, "adamw_torch", False, True)


def write(
    store: Store,
    stage_id: str,
    *,
    seconds: float = 0.0,
    steps: int = 10,
    probing: float | None = None,
    world: tuple[str, int] = ("single", 1),
    parameters: int = 1000,
    hooks: tuple[str, ...] = (),
) -> Path:
    """A finished stage of 100 tokens a step."""
    folder = store.stage(stage_id)
    (folder / "checkpoint").mkdir(parents=True)
    header = json.dumps({"embed_tokens.weight": {"dtype": "F32", "shape": [parameters // 10, 10]}})
    weights = folder / "checkpoint" / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    kind = stage_id.partition("-")[0]
    Manifest(
        id=stage_id,
        kind=kind,
        name=kind,
        inputs={} if kind == "base" else {"train": {"batch_size": 4, "max_length": 25}},
        world={"backend": world[0], "size": world[1]} if seconds else {},
        seconds={"load": seconds * 0.25, "train": seconds * 0.75} if seconds else {},
        num_steps=steps,
        hooks=tuple({"name": name, "settings": {}} for name in hooks),
    ).write(folder)
    if probing is not None:
        (folder / "probes").mkdir()
        (folder / "probes" / SUITE).write_text(json.dumps({"seconds": probing}))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def rate_of(store: Store, kind: str, world: tuple[str, int] = ("single", 1)) -> float | None:
    return rate(measured(store, SUITE, load_of), kind, world)


def test_nothing_made_is_nothing_known(store: Store) -> None:
    write(store, "base-1")
    assert rate_of(store, "sft") is None
    assert probing_rate(measured(store, SUITE, load_of)) is None


def test_a_rate_is_seconds_over_parameters_times_tokens(store: Store) -> None:
    write(store, "sft-1", seconds=20.0, steps=10)
    assert rate_of(store, "sft") == 20 / (1000 * 10 * 100)
    write(store, "sft-2", seconds=40.0, steps=30, parameters=2000)
    assert rate_of(store, "sft") == (20 + 40) / (1000 * 10 * 100 + 2000 * 30 * 100)


def test_a_stages_own_kind_and_processes_go_first(store: Store) -> None:
    write(store, "sft-1", seconds=20.0)
    write(store, "dpo-1", seconds=80.0)
    write(store, "dpo-2", seconds=30.0, world=("ddp", 2))
    one = 1000 * 10 * 100
    assert rate_of(store, "sft") == 20 / one
    assert rate_of(store, "dpo") == 80 / one
    assert rate_of(store, "dpo", ("ddp", 2)) == 2 * 30 / one
    assert rate_of(store, "sft", ("ddp", 2)) == 20 / one
    assert rate_of(store, "grpo") == (20 + 80 + 2 * 30) / (3 * one)


def test_the_same_hooks_go_before_others(store: Store) -> None:
    """A stage that asks a reference at every step says little of one without."""
    write(store, "sft-1", seconds=20.0)
    write(store, "sft-2", seconds=50.0, hooks=("kl", "replay"))
    found, here = measured(store, SUITE, load_of), ("single", 1)
    assert rate(found, "sft", here) == 20 / (1000 * 10 * 100)
    assert rate(found, "sft", here, frozenset({"replay", "kl"})) == 50 / (1000 * 10 * 100)
    assert rate(found, "sft", here, frozenset({"kl"})) == 70 / (2 * 1000 * 10 * 100)


def test_what_is_damaged_or_unknown_is_left_out(store: Store) -> None:
    write(store, "sft-1", seconds=20.0)
    (write(store, "sft-2", seconds=1.0) / "manifest.json").write_text("{")
    (write(store, "sft-3", seconds=1.0) / "checkpoint" / "model.safetensors").write_bytes(b"")
    write(store, "gone-1", seconds=1.0)
    assert rate_of(store, "sft") == 20 / (1000 * 10 * 100)


def test_a_store_of_many_stages_is_read_in_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpt.seconds.MOST_STAGES", 2)
    for number in range(3):
        write(store, f"sft-{number}", seconds=10.0)
        os.utime(store.stage(f"sft-{number}"), (number, number))
    assert {stage.id for stage in measured(store, SUITE, load_of)} == {"sft-1", "sft-2"}
    assert len(measured(store, SUITE, load_of, own=["sft-0"])) == 3


def test_probes_cost_by_parameter(store: Store) -> None:
    write(store, "base-1", probing=5.0)
    write(store, "sft-1", seconds=1.0, probing=7.0, parameters=2000)
    write(store, "sft-2", seconds=1.0)
    assert probing_rate(measured(store, SUITE, load_of)) == 12 / 3000
