"""`cpt adapters`: a chain's adapters in one folder, from its recipe or from its run."""

import json
from pathlib import Path

import pytest

from cpt.errors import RecipeError, StoreError
from cpt.manifest import Manifest
from cpt.store import Store
from launch.adapters import adapters

KEPT = {"name": "lora", "settings": {"after": "keep"}}
MERGED = {"name": "lora", "settings": {"after": "merge"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A chain: base, two stages that kept their adapters, one that merged, one that is not done."""
    store = Store(tmp_path / "runs")
    (store.stage("base-0") / "checkpoint").mkdir(parents=True)
    (store.stage("base-0") / "checkpoint" / "config.json").write_text("{}")
    nodes = [{"name": "base", "id": "base-0"}]
    for name, hook in (("law", KEPT), ("code", KEPT), ("chat", MERGED)):
        folder = store.stage(f"sft-{name}")
        (folder / "adapter").mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / "adapter" / file).write_text(name)
        start = "../base-0/checkpoint" if hook is KEPT else "checkpoint"
        entry = Manifest(id=f"sft-{name}", kind="sft", name=name, hooks=(hook,), start=start)
        entry.write(folder)
        nodes.append({"name": name, "id": f"sft-{name}"})
    nodes.append({"name": "art", "id": "sft-art"})
    store.chain("tasks").mkdir(parents=True)
    tree = {"name": "tasks", "seed": 1, "recipe_path": "chain.yaml", "nodes": nodes}
    (store.chain("tasks") / "chain.json").write_text(json.dumps(tree))
    return store


def test_what_finished_stages_kept_is_collected(store: Store) -> None:
    chain = store.chain("tasks")
    told = adapters(Path("tasks"), chain, store.root, None)
    assert told.splitlines()[:2] == ["law   sft-law", "code  sft-code"]
    tree = json.loads((chain / "adapters" / "registry.json").read_text())
    assert list(tree["adapters"]) == ["law", "code"]
    assert tree["base"]["folder"] == "../../../stages/base-0/checkpoint"
    assert (chain / "adapters" / "code" / "adapter_model.safetensors").read_text() == "code"
    # Once more, after another stage.
    adapters(Path("tasks"), chain, store.root, None)


def test_into_a_folder_of_ones_own(store: Store, tmp_path: Path) -> None:
    adapters(Path("tasks"), store.chain("tasks"), store.root, tmp_path / "served")
    assert (tmp_path / "served" / "law").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(StoreError, match=r"holds other files"):
        adapters(Path("tasks"), store.chain("tasks"), store.root, tmp_path / "mine")


def test_without_any_it_says_how_to_keep_one(store: Store) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "smoke" / "chain.yaml"
    with pytest.raises(RecipeError, match=r"smoke: no finished stage keeps its adapter apart"):
        adapters(recipe, None, store.root, None)
