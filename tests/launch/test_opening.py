"""A recipe opened with a suite of one's own: where it lies, and the stages that own its probes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt import yaml12
from cpt.errors import CptError, PlanError, RecipeError
from launch.opening import open_chain
from tests.reading_suite import write_task

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke"


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Writes a recipe folder with its own suite and tasks beside the recipe, and returns the recipe."""

    def make(**probe: Any) -> Path:
        folder = tmp_path / "mine"
        write_task(folder / "tasks", "reads", ["one"])
        suite = {"name": "mine", "include": "tasks", "probes": {"reads": {"group": "code"} | probe}}
        (folder / "probes.yaml").write_text(yaml.safe_dump(suite))
        tree = yaml12.load(SMOKE / "chain.yaml") | {
            "probes": "probes.yaml",
            "model": str((SMOKE / "../../configs/models/tiny.yaml").resolve()),
            "stages": {"pretrain": str(SMOKE / "pretrain.yaml")},
        }
        (folder / "chain.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return folder / "chain.yaml"

    return make


def test_a_suite_and_its_tasks_lie_in_the_recipe_s_folder(recipe: Any, tmp_path: Path) -> None:
    file = recipe(owner="pretrain")
    suite = open_chain(file, [], tmp_path / "runs").suite
    assert suite is not None
    local = suite.probes["reads"].local
    assert local is not None
    assert local.path == file.parent / "tasks" / "reads.yaml"
    assert local.test_files == [file.parent / "tasks" / "reads.jsonl"]


def test_a_probe_s_owner_must_be_a_stage(recipe: Any, tmp_path: Path) -> None:
    message = r"probes\.reads\.owner: the chain has no stage 'pretran'; did you mean 'pretrain'\?"
    with pytest.raises(RecipeError, match=message):
        open_chain(recipe(owner="pretran"), [], tmp_path / "runs")


def test_all_that_a_backend_refuses_is_told_at_once_with_one_way_for_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpt.hooks.kl import KL

    monkeypatch.setattr(KL, "facts", frozenset({"freezes_later"}), raising=False)
    hooks = "hooks=[{kl: {beta: 0.1}}]"
    changes = [f"stages.{name}.{hooks}" for name in ("pretrain", "sft", "dpo")]
    changes += ["stages.grpo.hooks=[]", "num_processes=2", "stages.sft.train.batch_size=3"]
    with pytest.raises(PlanError) as failed:
        open_chain(SMOKE / "chain.yaml", changes, tmp_path, "zero2")
    lines = str(failed.value).splitlines()
    told = [line for line in lines if "launch: zero2: parameters are sharded and grouped" in line]
    assert [line.partition(".yaml")[0].rpartition("/")[2] for line in told] == [
        *("pretrain", "sft", "dpo")
    ]
    assert all(line.endswith("; freeze from the start") for line in told)
    assert any("batch_size 3 does not split over 2 processes" in line for line in lines)
    assert lines[-1] == "use launch: ddp, the nearest to zero2 that runs all of these stages"
    open_chain(SMOKE / "chain.yaml", changes[:-1], tmp_path, "ddp")


def test_a_backend_refuses_stages_of_a_chain_that_cannot_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpt.hooks.kl import KL

    monkeypatch.setattr(KL, "facts", frozenset({"freezes_later"}), raising=False)
    changes = ["stages.sft.hooks=[{kl: {beta: 0.1}}]", "stages.dpo.train.learning_rat=1"]
    changes += ["num_processes=2"]
    with pytest.raises(CptError) as failed:
        open_chain(SMOKE / "chain.yaml", changes, tmp_path, "zero2")
    message = str(failed.value)
    assert "did you mean 'learning_rate'" in message
    assert ": launch: zero2: parameters are sharded" in message
