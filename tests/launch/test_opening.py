"""A recipe opened with a suite of one's own: where it lies, and the stages that own its probes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt import yaml12
from cpt.errors import RecipeError
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
