"""Every hook on every backend that may run it, against one process."""

import os
import shutil

import pytest

from tests.cpt.hooks.test_two_processes import OFFLINE, Pair, _stages
from tests.tiny_stages import TinyStages, difference, read
from tests.two_processes import run_on_two

pytestmark = pytest.mark.backends

ROUNDING = 2e-6
BACKENDS = os.environ.get("CPT_TEST_BACKENDS", "fsdp2 zero1 zero2 zero3").split()
NAMES = os.environ.get("CPT_TEST_STAGES", "").split(",")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pairs(
    backend: str, stages: TinyStages, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Pair]:
    wanted = {
        name: w for name, w in _stages(stages).items() if name in (NAMES if NAMES[0] else OFFLINE)
    }
    jobs = {
        name: stages.job(kind, hooks, num_processes=2, backend=backend, micro_batch=2, **settings)
        for name, (kind, hooks, settings) in wanted.items()
    }
    ranks = run_on_two(list(jobs.values()), tmp_path_factory.mktemp("two"), name=backend)
    cache = next(iter(jobs.values())).output.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    return {
        name: Pair(
            stages.train(stages.job(kind, hooks, micro_batch=4, **settings)), read(jobs[name]), said
        )
        for (name, (kind, hooks, settings)), said in zip(wanted.items(), ranks, strict=True)
    }


def test_two_processes_train_what_one_trains(pairs: dict[str, Pair], backend: str) -> None:
    for name, pair in pairs.items():
        assert difference(pair.one.weights, pair.two.weights) < ROUNDING, name


def test_hooks_and_losses_log_the_same(pairs: dict[str, Pair]) -> None:
    for name, pair in pairs.items():
        for one, two in zip(pair.one.log, pair.two.log, strict=True):
            for key in one:
                if key in two and (key == "loss" or key.startswith("hook/")):
                    assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), (name, key)
