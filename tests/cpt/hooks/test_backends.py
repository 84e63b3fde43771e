"""Hooks on every backend that shards, on two CPU processes, against one process.

A launch costs seconds, so `make test` runs the most telling stages; `make test-backends` runs all, on DDP
too, and writes down what it found (`tests/bench/backends.py`).
"""

import os
import shutil
import time
from typing import Any

import pytest

from cpt.errors import PlanError
from cpt.hooks.stack import in_order
from cpt.world import SPREADING
from launch.backend import backend
from launch.checks import asked
from launch.nearest import check_stages
from stages.opening import build_hooks
from tests.bench.backends import Cell, write
from tests.cpt.hooks.test_two_processes import ROUNDING, Pair, Wanted, wanted_stages
from tests.tiny_stages import TinyStages, Trained, difference, equal, read
from tests.two_processes import run_on_two

SHARDED = ("fsdp2", "zero1", "zero2", "zero3")
ALL = bool(os.environ.get("CPT_TEST_BACKENDS"))
#: Each way to hold shards once: rows of a matrix, numbers of a flat buffer, padded parts of every tensor.
SHORT = {"fsdp2": ("sft", "sft again"), "zero2": ("penalties",), "zero3": ("sft",)}
BACKENDS = (os.environ.get("CPT_TEST_BACKENDS") or " ".join(SHORT)).split()
#: Small terms are differences of near numbers.
RELATIVE, ABSOLUTE = 1e-5, 1e-6


def _is_refused(stages: TinyStages, wanted: Wanted, name: str) -> bool:
    kind, hooks, settings = wanted
    job = stages.job(kind, hooks, num_processes=2, backend=name, micro_batch=2, **settings)
    try:
        check_stages(backend(name), [asked(job.spec, in_order(build_hooks(job)))])
    except PlanError:
        return True
    return False


def _wanted(stages: TinyStages, name: str) -> dict[str, Wanted]:
    """The stages that a backend does not refuse; under ZeRO no hook moves weights behind the step."""
    found = {}
    for stage, (kind, hooks, settings) in wanted_stages(stages).items():
        if not ALL and stage not in SHORT[name]:
            continue
        if name.startswith("zero"):
            hooks = [{key: _settled(of) for key, of in hook.items()} for hook in hooks]
        if not _is_refused(stages, (kind, hooks, settings), name):
            found[stage] = kind, hooks, settings
    return found


def _settled(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if (key, value) != ("style", "proximal")}


@pytest.fixture(scope="module")
def sampled(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The on-policy stage on DDP: each process samples its own answers, which backends must agree on."""
    kind, hooks, settings = wanted_stages(stages)["grpo"]
    job = stages.job(kind, hooks, num_processes=2, micro_batch=2, **settings)
    run_on_two([job], tmp_path_factory.mktemp("ddp-grpo"))
    return read(job)


@pytest.fixture(scope="module", params=BACKENDS)
def pairs(
    request: pytest.FixtureRequest, stages: TinyStages, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pair]:
    wanted = _wanted(stages, request.param)
    jobs = {
        name: stages.job(
            kind, hooks, num_processes=2, backend=request.param, micro_batch=2, **settings
        )
        for name, (kind, hooks, settings) in wanted.items()
    }
    again = [job for name, job in jobs.items() if name.endswith(" again")]
    start = time.monotonic()
    folder = tmp_path_factory.mktemp(request.param)
    ranks = run_on_two(list(jobs.values()), folder, again, request.param)
    seconds = time.monotonic() - start
    # Else one process would read what two have measured.
    shutil.rmtree(stages.root / "stages" / "cache", ignore_errors=True)
    pairs = {}
    for (name, (kind, hooks, settings)), said in zip(wanted.items(), ranks, strict=True):
        two = one = read(jobs[name])
        if name == "grpo":
            one = request.getfixturevalue("sampled")
        elif not name.endswith(" again"):
            one = stages.train(stages.job(kind, hooks, micro_batch=4, **settings))
        pairs[name] = Pair(one, two, said)
    if ALL:
        write(request.param, [_cell(name, wanted[name], pairs) for name in pairs], seconds)
    return pairs


def _cell(name: str, wanted: Wanted, pairs: dict[str, Pair]) -> Cell:
    kind, hooks, _ = wanted
    one, two = pairs[name].one, pairs[name].two
    whole = pairs.get(name.removesuffix(" again"))
    return Cell(
        stage=name,
        kind=kind,
        hooks=tuple(key for hook in hooks for key in hook),
        against="ddp on two processes" if name == "grpo" else "one process",
        weights=None if name.endswith(" again") else difference(one.weights, two.weights),
        terms=None if name.endswith(" again") else max(_apart(pairs[name]).values(), default=0.0),
        continued=(
            whole is not None and equal(two.weights, whole.two.weights)
            if name.endswith(" again")
            else None
        ),
    )


def _apart(pair: Pair) -> dict[str, float]:
    """By logged term, how far it is off: 1 is the most that is allowed."""
    assert len(pair.one.log) == len(pair.two.log)
    apart: dict[str, float] = {}
    spreads = pair.two.job.backend in SPREADING
    for one, two in zip(pair.one.log, pair.two.log, strict=True):
        for key in one:
            if spreads and key.endswith("/grad_norm") and key not in two:
                continue  # a backward pass of its own, through weights that are not there
            if key == "loss" or key.startswith("hook/"):
                allowed = max(RELATIVE * abs(one[key]), ABSOLUTE)
                apart[key] = max(apart.get(key, 0.0), abs(one[key] - two[key]) / allowed)
    return apart


pytestmark = pytest.mark.chain


def test_two_processes_train_what_one_trains(pairs: dict[str, Pair]) -> None:
    far = {name: difference(pair.one.weights, pair.two.weights) for name, pair in pairs.items()}
    assert max(far.values()) < ROUNDING, far


def test_hooks_and_losses_log_the_same(pairs: dict[str, Pair]) -> None:
    apart = {
        (name, key): far
        for name, pair in pairs.items()
        for key, far in _apart(pair).items()
        if far > 1
    }
    assert not apart


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
    spreads = request.node.callspec.params["pairs"] in SPREADING
    for pair in pairs.values():
        assert [rank["is_whole"] for rank in pair.ranks] == [not spreads] * 2
        loads = [sum("loading" in said for said in rank["said"]) for rank in pair.ranks]
        assert (loads[1] < loads[0]) == spreads


def test_interrupted_equals_uninterrupted(pairs: dict[str, Pair]) -> None:
    """2 + 2 steps on two processes equal 4, bit for bit."""
    for name, broken in pairs.items():
        if name.endswith(" again"):
            whole = pairs[name.removesuffix(" again")]
            said = broken.ranks[0]["said"]
            assert any("continuing at step 2 of 4" in sentence for sentence in said)
            assert equal(broken.two.weights, whole.two.weights), name


#: Stages that a plan refuses on a backend; all others are in the matrix.
REFUSED = {
    "fsdp2": {"subspace", "four bits"},
    "zero1": {"subspace", "updates", "null space"},
    "zero2": {"subspace", "updates", "null space"},
    "zero3": {"subspace", "four bits", "updates", "null space"},
}


@pytest.mark.parametrize("name", SHARDED)
def test_what_is_not_in_the_matrix_is_refused(stages: TinyStages, name: str) -> None:
    refused = {
        stage
        for stage, wanted in wanted_stages(stages).items()
        if _is_refused(stages, wanted, name)
    }
    moves = {"penalties", "penalties again"} if name.startswith("zero") else set()
    assert refused == REFUSED[name] | moves
    assert not [stage for stage in moves if stage not in wanted_stages(stages)]
