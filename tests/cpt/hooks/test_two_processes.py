"""Every hook on two processes (DDP over gloo) against one; a launch costs seconds, so there is one."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cpt.hooks.table import TABLE
from tests.tiny_stages import TinyStages, Trained, difference, equal, read
from tests.two_processes import run_on_two

pytestmark = pytest.mark.chain

# Gradients are summed in another order; 4 steps of plain gradient descent in fp32.
ROUNDING = 2e-6

OFFLINE = [
    "sft",
    "pretrain",
    "dpo with an adapter",
    "dpo",
    "penalties",
    "replays",
    "orthogonal",
    "null space",
    "updates",
    "subspace",
    "a part",
    "four bits",
]
#: Interrupted behind their first checkpoint, and continued.
AGAIN = ["sft again", "dpo with an adapter again", "penalties again"]


@dataclass(frozen=True)
class Pair:
    """A stage that was trained on one process and on two."""

    one: Trained
    two: Trained
    ranks: list[dict[str, Any]]


Wanted = tuple[str, list[dict[str, Any]], dict[str, Any]]


def _adapted(stages: TinyStages) -> Path:
    """A stage with an adapter that a later one avoids; made once."""
    folder = stages.root / "stages" / "adapted"
    if not folder.is_dir():
        job = stages.job("sft", {"lora": {"rank": 2}})
        stages.train(replace(job, name="adapted", output=folder))
    return folder


def wanted_stages(stages: TinyStages) -> dict[str, Wanted]:
    replay = {"replay": {"of": "pretrain", "share": 0.25}}
    kl = {"kl": {"of": "base", "beta": 0.5}}
    general = {"replay": {"source": stages.data("general"), "share": 0.25}}
    blend = {"interpolate": {"of": "base", "alpha": 0.5}}
    # 3 rows a step for 4 micro-batches of all processes: one has none.
    loss = {"of": "all", "mode": "loss", "batch_size": 3, "coefficient": 0.5}
    rehearsed = {"replay": {**loss, "select": "collateral"}}
    chosen = {"share": 0.25, "mode": "batch", "select": "herding", "buffer": {"size": 8}}
    replays: Wanted = (
        "sft",
        [
            {"replay": {**loss, "schedule": {"start": 1.0, "tau": 0.5}}},
            {"replay": {"of": "pretrain", **chosen}},
        ],
        {},
    )
    measured = {"strength": 0.001, "samples": 7}
    penalties: list[dict[str, Any]] = [
        {"l2_sp": {"of": ["base", "sft"], "strength": 0.05}},
        {"ewc": {"of": ["pretrain", "sft"], **measured}},
        {"online_ewc": measured},
        {"mas": {"of": "pretrain", "style": "proximal", **measured}},
        {"si": {"of": "sft", "strength": 0.001}},
    ]
    # Rows that do not divide by 2, and fewer than there are micro-batches.
    lwf = {"lwf": {"of": "base", "rows_of": "pretrain", "beta": 0.2, "batch_size": 5}}
    der = {"der": {"of": "pretrain", "alpha": 0.3, "beta": 0.2, "batch_size": 3}}
    kept = {"lwf": {"of": "base", "rows_of": "sft", "cache": 250, "batch_size": 3}}
    sft: Wanted = ("sft", [replay, kl, {"ema": {"decay": 0.5}}, lwf, der], {"checkpoint_every": 2})
    # On by default, and refused under ZeRO-3 with an adapter and a second forward pass.
    off = {"activation_checkpointing": False}
    adapter: Wanted = (
        "dpo",
        [{"lora": {"rank": 2}}, kl, kept],
        {"checkpoint_every": 2, "learning_rate": 0.1, **off},
    )
    # Its parent was trained here, with an adapter that it avoids.
    avoids: dict[str, Any] = {"rank": 2, "of": ["adapted"]}
    after = {"parent": _adapted(stages), "learning_rate": 0.1}
    return {
        "sft": sft,
        "orthogonal": ("sft", [{"o_lora": avoids}], after),
        "null space": ("sft", [{"o_lora": {**avoids, "projection": "hard"}}], after),
        "updates": (
            "pretrain",
            [{"agem": {"of": "sft", "space": "update", "every": 2, "per_layer": True}}],
            {},
        ),
        "subspace": ("sft", [{"osf": {}}], {"learning_rate": 0.1}),
        "a part": ("sft", [{"freeze": {"train": "attn_proj"}}], {}),
        "four bits": (
            "sft",
            [{"lora": {"rank": 2, "quantise": "nf4", "compute": "float32"}}],
            {"learning_rate": 0.1},
        ),
        "pretrain": ("pretrain", [general, {"agem": {"of": "sft"}}], {}),
        "dpo with an adapter": adapter,
        "dpo": ("dpo", [kl, blend, rehearsed, lwf, {"gem": {"of": ["pretrain", "sft"]}}], {}),
        "penalties": ("sft", penalties, {"checkpoint_every": 2}),
        "replays": replays,
        "grpo": ("grpo", [kl], {}),  # every process samples its own completions
        "penalties again": ("sft", penalties, {"checkpoint_every": 2}),
        "sft again": sft,
        "dpo with an adapter again": adapter,
    }


@pytest.fixture(scope="module")
def pairs(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    wanted = wanted_stages(stages)
    jobs = {
        name: stages.job(kind, hooks, num_processes=2, micro_batch=2, **settings)
        for name, (kind, hooks, settings) in wanted.items()
    }
    again = [jobs[name] for name in AGAIN]
    ranks = run_on_two(list(jobs.values()), tmp_path_factory.mktemp("two"), again)
    # Else one process would read what two have measured.
    shutil.rmtree(jobs["sft"].output.parent / "cache")
    one = {
        name: stages.train(stages.job(kind, hooks, micro_batch=4, **settings))
        for name, (kind, hooks, settings) in wanted.items()
        if name in OFFLINE
    }
    return {
        name: Pair(one.get(name, read(job)), read(job), said)
        for (name, job), said in zip(jobs.items(), ranks, strict=True)
    }


def test_every_hook_is_here(stages: TinyStages) -> None:
    """A new hook is held to what it promises on two processes as well."""
    used = {
        name for _, hooks, _ in wanted_stages(stages).values() for hook in hooks for name in hook
    }
    assert used == set(TABLE)


@pytest.mark.parametrize("name", [*OFFLINE, *AGAIN, "grpo"])
def test_ranks_stay_equal_to_the_bit(name: str, pairs: dict[str, Pair]) -> None:
    first, second = pairs[name].ranks
    assert {first["rank"], second["rank"]} == {0, 1}
    assert first["weights"] == second["weights"]
    assert pairs[name].two.manifest["world"]["size"] == 2


@pytest.mark.parametrize("name", OFFLINE)
def test_two_processes_train_what_one_trains(name: str, pairs: dict[str, Pair]) -> None:
    pair = pairs[name]
    assert difference(pair.one.weights, pair.two.weights) < ROUNDING


@pytest.mark.parametrize("name", OFFLINE)
def test_hooks_and_losses_log_the_same(name: str, pairs: dict[str, Pair]) -> None:
    pair = pairs[name]
    for one, two in zip(pair.one.log, pair.two.log, strict=True):
        for key in one:
            if key == "loss" or key.startswith("hook/"):
                # Small terms are differences of near numbers.
                assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key


@pytest.mark.parametrize("name", AGAIN)
def test_interrupted_equals_uninterrupted(name: str, pairs: dict[str, Pair]) -> None:
    """2 + 2 steps on two processes equal 4, bit for bit."""
    whole, broken = pairs[name.removesuffix(" again")], pairs[name]
    assert any("continuing at step 2 of 4" in sentence for sentence in broken.ranks[0]["said"])
    assert not any("continuing" in sentence for sentence in whole.ranks[0]["said"])
    assert broken.ranks[0]["weights"] == whole.ranks[0]["weights"]
    assert equal(broken.two.weights, whole.two.weights)


def test_the_stream_does_not_depend_on_the_number_of_processes(pairs: dict[str, Pair]) -> None:
    for name in OFFLINE:
        assert pairs[name].one.manifest["data"] == pairs[name].two.manifest["data"]


def test_terms_of_sampled_completions_are_finite(pairs: dict[str, Pair]) -> None:
    log = pairs["grpo"].two.log
    assert len(log) == 4
    assert all(0 < row["hook/kl"] < 10 for row in log)


def test_the_adapter_of_two_processes_is_kept(pairs: dict[str, Pair]) -> None:
    folder: Path = pairs["dpo with an adapter"].two.job.output / "adapter"
    assert (folder / "adapter_model.safetensors").is_file()
