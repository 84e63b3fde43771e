"""No secret of the environment is in anything that a chain writes or says, however it ends."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"
CANARIES = {
    name: f"canary-{name.lower()}-0123456789"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY")
}
# A library that puts everything it knows into what it says, in every way that a stage has.
TALKATIVE = f"""
import os, warnings
os.environ.update({CANARIES!r})
import stages.quantised_start
opened = stages.quantised_start.open_model

def open_model(*given):
    warnings.warn("environment: " + repr(dict(os.environ)))
    return opened(*given)

stages.quantised_start.open_model = open_model
"""
FAILS = """
def eos_rate(*given):
    address = "https://me:" + os.environ["HF_TOKEN"] + "@hub"
    raise {kind}("cannot reach " + address + ", environment " + repr(os.environ))

import stages.training
from cpt.errors import StoreError
stages.training.eos_rate = eos_rate
"""


def assert_silent(runs: Path, output: str) -> None:
    """Neither files nor output hold a canary; files of weights are read too."""
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert len(files) > 20
    for name, canary in CANARIES.items():
        assert canary not in output, name
        for path in files:
            assert canary.encode() not in path.read_bytes(), (name, path)
    assert not (Path.home() / ".deepspeed_env").exists()


def test_of_a_chain_that_ends_well(finished: Any, processes: Any, tmp_path: Path) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    ended = processes.smoke(runs, "-v", "--until", "sft", code=TALKATIVE)
    assert ended.code == 0, ended.output
    assert_silent(runs, ended.output)
    log = (runs / "stages" / finished.ids["sft"] / "log.txt").read_text()
    assert "[redacted:HF_TOKEN]" in log
    finished.assert_equal(runs, "sft")


@pytest.mark.parametrize(("kind", "options"), [("StoreError", ["-v"]), ("ValueError", [])])
def test_of_a_chain_that_fails(
    finished: Any, processes: Any, tmp_path: Path, kind: str, options: list[str]
) -> None:
    runs = finished.copy(tmp_path / "runs", until="pretrain")
    code = TALKATIVE + FAILS.format(kind=kind)
    ended = processes.smoke(runs, *options, "--until", "sft", code=code)
    assert ended.code == 1, ended.output
    assert "cannot reach https://[redacted" in ended.output
    assert "Traceback" in ended.output
    assert_silent(runs, ended.output)


def test_a_recipe_that_holds_one_is_refused(processes: Any, tmp_path: Path) -> None:
    code = f"import os; os.environ.update({CANARIES!r})"
    change = f"stages.sft.train.run_name={CANARIES['HF_TOKEN']}"
    ended = processes.smoke(tmp_path / "runs", change, code=code)
    assert ended.code == 2, ended.output
    assert CANARIES["HF_TOKEN"] not in ended.output
    assert not (tmp_path / "runs").exists()
