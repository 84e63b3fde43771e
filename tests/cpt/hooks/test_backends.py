"""Hooks on every backend that shards, on two CPU processes, against one process.

A launch costs seconds, so `make test` runs two stages on each backend; `make test-backends` runs all.
"""

import os
import shutil
from typing import Any

import pytest

from tests.cpt.hooks.test_two_processes import ROUNDING, Pair, Wanted, wanted_stages
from tests.tiny_stages import TinyStages, difference, equal, read
from tests.two_processes import run_on_two

pytestmark = pytest.mark.chain

ALL = bool(os.environ.get("CPT_TEST_BACKENDS"))
BACKENDS = (os.environ.get("CPT_TEST_BACKENDS") or "fsdp2 zero1 zero2 zero3").split()
SHORT = ("sft", "penalties")
#: peft's OSF is refused on all of them.
REFUSED = ("subspace",)
#: Weights in 4 bits are not spread; under ZeRO-1 and ZeRO-2 they are whole.
WHOLE = ("four bits",)
AGAIN = "sft again"


def _on(backend: str, stages: TinyStages) -> dict[str, Wanted]:
    """The stages that a backend does not refuse; under ZeRO no hook moves weights behind the step."""
    found = {}
    for name, (kind, hooks, settings) in wanted_stages(stages).items():
        if name in REFUSED or (name not in (*SHORT, AGAIN) and not ALL):
            continue
        if name in WHOLE and backend in ("fsdp2", "zero3"):
            continue
        if backend.startswith("zero"):
            hooks = [{key: _settled(of) for key, of in hook.items()} for hook in hooks]
        found[name] = kind, hooks, settings
    return found


def _settled(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if (key, value) != ("style", "proximal")}


@pytest.fixture(scope="module", params=BACKENDS)
def pairs(
    request: pytest.FixtureRequest, stages: TinyStages, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pair]:
    wanted = _on(request.param, stages)
    jobs = {
        name: stages.job(
            kind, hooks, num_processes=2, backend=request.param, micro_batch=2, **settings
        )
        for name, (kind, hooks, settings) in wanted.items()
    }
    again = [job for name, job in jobs.items() if name.endswith(" again")]
    folder = tmp_path_factory.mktemp(request.param)
    ranks = run_on_two(list(jobs.values()), folder, again, request.param)
    # Else one process would read what two have measured.
    shutil.rmtree(jobs["sft"].output.parent / "cache", ignore_errors=True)
    pairs = {}
    for (name, (kind, hooks, settings)), said in zip(wanted.items(), ranks, strict=True):
        two = one = read(jobs[name])
        if name != "grpo" and not name.endswith(" again"):
            one = stages.train(stages.job(kind, hooks, micro_batch=4, **settings))
        pairs[name] = Pair(one, two, said)
    return pairs


def test_two_processes_train_what_one_trains(pairs: dict[str, Pair]) -> None:
    far = {name: difference(pair.one.weights, pair.two.weights) for name, pair in pairs.items()}
    assert max(far.values()) < ROUNDING, far


def test_hooks_and_losses_log_the_same(pairs: dict[str, Pair]) -> None:
    for name, pair in pairs.items():
        assert len(pair.one.log) == len(pair.two.log)
        for one, two in zip(pair.one.log, pair.two.log, strict=True):
            # A term's own gradient is a backward pass of its own, which sharded gradients would add up.
            keys = {key for key in one if not key.endswith("grad_norm")} & {
                key for key in one if key == "loss" or key.startswith("hook/")
            }
            assert keys <= two.keys()
            for key in keys:
                assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), (name, key)


def test_ranks_leave_the_same_model(pairs: dict[str, Pair]) -> None:
    for pair in pairs.values():
        first, second = pair.ranks
        assert {first["rank"], second["rank"]} == {0, 1}
        assert first["weights"] == second["weights"]
        assert pair.two.manifest["world"]["size"] == 2


def test_only_one_process_has_seen_the_whole_model(
    pairs: dict[str, Pair], request: pytest.FixtureRequest
) -> None:
    """Where weights are spread: the others neither merge nor load the result."""
    spreads = request.node.callspec.params["pairs"] in ("fsdp2", "zero3")
    for pair in pairs.values():
        assert [rank["is_whole"] for rank in pair.ranks] == [not spreads] * 2
        assert sum("loading" in said for said in pair.ranks[0]["said"]) >= 2
        if spreads:
            assert sum("loading" in said for said in pair.ranks[1]["said"]) < sum(
                "loading" in said for said in pair.ranks[0]["said"]
            )


def test_interrupted_equals_uninterrupted(pairs: dict[str, Pair]) -> None:
    """2 + 2 steps on two processes equal 4, bit for bit."""
    whole, broken = pairs["sft"], pairs[AGAIN]
    assert any("continuing at step 2 of 4" in sentence for sentence in broken.ranks[0]["said"])
    assert equal(broken.two.weights, whole.two.weights)
