"""Estimates of a chain: from synthetic manifests to exact seconds and bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt.estimate import Estimate, estimate
from cpt.manifest import Manifest
from cpt.model_size import of_config
from cpt.store import MARK, Store
from stages.workload import workload

SUITE = "general-12ab.json"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
N = 300 * 8 + 8 + 2 * (2 * 8 + 4 * 8 * 8 + 3 * 8 * 16)
SFT = {"max_steps": 10, "batch_size": 4, "max_length": 50, "learning_rate": 1e-4}


@pytest.fixture
def small(chain: Any) -> Any:
    """The chain `base -> sft`, of a model whose size is known."""
    chain.chain["model"]["random"]["config"] = CONFIG
    chain.chain["stages"] = {"sft": "sft.yaml"}
    chain.stages = {"sft": {"kind": "sft", "data": "chats.jsonl", "train": SFT}}
    return chain


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def finish(
    store: Store, stage_id: str, kind: str, seconds: float = 0.0, probing: float | None = None
) -> None:
    """A finished stage of 5 steps of 4 x 50 tokens."""
    folder = store.stage(stage_id)
    (folder / "checkpoint").mkdir(parents=True)
    config = {**CONFIG, "vocab_size": 300}
    (folder / "checkpoint" / "config.json").write_text(json.dumps(config))
    Manifest(
        id=stage_id,
        kind=kind,
        name=kind,
        inputs={"train": SFT},
        seconds={"train": seconds},
        num_steps=5,
        world={"backend": "single", "size": 1},
    ).write(folder)
    if probing is not None:
        (folder / "probes").mkdir()
        (folder / "probes" / SUITE).write_text(json.dumps({"seconds": probing}))


def of(chain: Any, store: Store, *changes: str, world: int = 1, suite: str = "") -> Estimate:
    backend = "single" if world == 1 else "ddp"
    return estimate(chain.plan(*changes), store, backend, world, workload, suite)


def test_a_random_model_has_a_size_before_it_is_made(small: Any, store: Store) -> None:
    found = of(small, store)
    assert found.size == of_config({**CONFIG, "vocab_size": 300})
    assert found.size is not None
    assert found.size.num_parameters == N
    assert found.base_bytes == 4 * N
    footprint = found.stages["sft"].footprint
    assert footprint is not None
    assert (footprint.kept, footprint.passing) == (4 * N, 0)
    saving = of(small, store, "checkpoint_every=2").stages["sft"].footprint
    assert saving is not None
    assert saving.passing == 3 * 12 * N


def test_without_a_size_there_are_no_bytes_and_no_time(small: Any, store: Store) -> None:
    finish(store, "sft-0", "sft", seconds=7.0)
    small.chain["model"] = {"path": "org/some-8B", "revision": "0" * 40}
    found = of(small, store)
    assert (found.size, found.base_bytes) == (None, 0)
    assert (found.stages["sft"].footprint, found.stages["sft"].making) == (None, None)
    assert found.unknown_size == "unknown until the base model is there"


def test_without_a_measurement_there_is_no_time(small: Any, store: Store) -> None:
    found = of(small, store, suite=SUITE)
    assert not found.has_rate
    assert (found.stages["sft"].making, found.stages["sft"].probing) == (None, None)
    assert (found.stages["base"].making, found.stages["base"].probing) == (0, None)


def test_time_is_scaled_by_tokens_and_processes(small: Any, store: Store) -> None:
    finish(store, "sft-0", "sft", seconds=7.0, probing=3.0)
    # 10 steps of 4 x 50 tokens against 5 steps, of the same model.
    found = of(small, store, suite=SUITE)
    assert found.has_rate
    assert found.stages["sft"].making == pytest.approx(2 * 7.0)
    assert found.stages["sft"].probing == pytest.approx(3.0)
    assert found.stages["base"].probing == pytest.approx(3.0)
    assert of(small, store).stages["sft"].probing == 0
    longer = of(small, store, "stages.sft.train.max_length=100")
    assert longer.stages["sft"].making == pytest.approx(4 * 7.0)
    assert of(small, store, world=2).stages["sft"].making == pytest.approx(7.0)


def test_a_stage_whose_steps_the_data_decides_has_no_time(small: Any, store: Store) -> None:
    finish(store, "sft-0", "sft", seconds=7.0)
    assert of(small, store, "stages.sft.train.max_steps=-1").stages["sft"].making is None


def test_a_finished_stage_shows_what_it_took(small: Any, store: Store) -> None:
    own = small.ids()["sft"]
    finish(store, "sft-0", "sft", seconds=700.0, probing=300.0)
    finish(store, own, "sft", seconds=9.0, probing=4.0)
    stage = of(small, store, suite=SUITE).stages["sft"]
    assert (stage.making, stage.probing) == (9.0, 4.0)
    assert stage.is_done
    assert stage.is_probed


def test_an_interrupted_stage_has_the_rest_left(small: Any, store: Store) -> None:
    finish(store, "sft-0", "sft", seconds=7.0)
    partial = store.partial(small.ids()["sft"])
    checkpoint = partial / "trainer" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    assert of(small, store).stages["sft"].making == pytest.approx(14.0)
    (checkpoint / MARK).touch()
    assert of(small, store).stages["sft"].making == pytest.approx(14.0 * 6 / 10)
    (partial / "trained").mkdir()
    assert of(small, store).stages["sft"].making == 0


def test_a_model_that_is_linked_takes_no_place(small: Any, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 300}))
    (folder / "model.safetensors").write_bytes(b"")
    small.chain["model"] = {"path": str(folder)}
    assert of(small, store).unknown_size.startswith("unknown, the model's folder has no header")
    (folder / "model.safetensors").unlink()
    (folder / "x.safetensors").write_bytes(b"")
    found = of(small, store)
    assert found.size is not None
    assert found.base_bytes == 0
