"""Adapters on one base: nobody disturbs another, and what is deleted is gone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.adapters import BASE, Registry, collect, open_registry, weights
from cpt.checkpoint import load_model
from cpt.errors import StoreError
from cpt.hooks.context import StageContext
from cpt.hooks.lora import Lora
from cpt.manifest import Manifest
from cpt.params import trainable
from cpt.world import World

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")
IDS = torch.arange(10, 40)[None]


def logits(model: Any) -> torch.Tensor:
    """Of one sequence."""
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


@pytest.fixture
def store(tmp_path: Path, tiny_folder: Path) -> Path:
    """Stages with a base, and two that kept their adapters."""
    folder = tmp_path / "stages"
    shutil.copytree(tiny_folder, folder / "base-0" / "checkpoint")
    for number, name in enumerate(("one", "two", "three")):
        stage(folder, name, number)
    return folder


def stage(folder: Path, name: str, seed: int, base: str = "base-0", start: str = "") -> Path:
    """A stage folder with an adapter that has learnt something."""
    torch.manual_seed(seed)
    adapted: Any = Lora(rank=2 + seed).adapt(load_model(str(folder / base / "checkpoint")), CTX)
    for _, parameter in trainable(adapted):
        torch.nn.init.normal_(parameter, std=0.1)
    place = folder / f"sft-{name}"
    adapted.save_pretrained(place / "adapter")
    Manifest(id=f"sft-{name}", kind="sft", name=name, start=start or f"../{base}/checkpoint").write(
        place
    )
    return place


def collected(store: Path, *names: str) -> Path:
    folder = store.parent / "registry"
    collect([(name, store / f"sft-{name}") for name in names], folder)
    return folder


def test_names_are_those_that_a_stage_trains(store: Path, tiny_model: Any) -> None:
    adapted = Lora(rank=2).adapt(tiny_model, CTX)
    own = {name: p.shape for name, p in trainable(adapted)}
    found = weights(store / "sft-one" / "adapter")
    assert {name: value.shape for name, value in found.items()} == own


def test_each_adapter_gives_what_it_gives_alone(store: Path) -> None:
    alone = open_registry(collected(store, "one"))
    one, off = logits(alone.activate("one")), logits(alone.off())
    both = open_registry(collected(store, "one", "two"))
    assert both.active == BASE
    assert logits(both.model).equal(off)
    assert logits(both.activate("one")).equal(one)
    assert not logits(both.activate("two")).equal(one)
    assert logits(both.off()).equal(off)
    assert logits(load_model(str(store / "base-0" / "checkpoint"))).equal(off)


def test_training_the_second_leaves_the_first_to_the_bit(store: Path) -> None:
    registry = open_registry(collected(store, "one"))
    one, off = logits(registry.activate("one")), logits(registry.off())
    registry.add("two", store / "sft-two")
    assert registry.active == BASE
    two = logits(registry.activate("two"))
    registry.model.set_adapter("two")  # to train
    own = [p for p in registry.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=0.1, weight_decay=0.1)
    for _ in range(2):
        registry.model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert not logits(registry.activate("two")).equal(two)
    assert logits(registry.activate("one")).equal(one)
    assert logits(registry.off()).equal(off)


def test_merged_it_is_an_ordinary_model_of_its_own(store: Path) -> None:
    registry = open_registry(collected(store, "one", "two"))
    merged = registry.merged("two")
    assert not hasattr(merged, "peft_config")
    two = logits(registry.activate("two"))
    torch.testing.assert_close(logits(merged), two, rtol=0, atol=1e-5)
    assert not logits(registry.activate("one")).equal(two)


class TestDelete:
    def test_all_of_it_is_gone(self, store: Path) -> None:
        folder = collected(store, "one", "two")
        registry = open_registry(folder)
        two = logits(registry.activate("two"))
        registry.activate("one")
        registry.delete("one")
        assert registry.active == BASE
        assert not [name for name in registry.model.state_dict() if ".one." in name]
        assert not (folder / "one").exists()
        assert "one" not in (folder / "registry.json").read_text()
        assert logits(registry.activate("two")).equal(two)
        assert set(Registry(folder).adapters) == {"two"}

    def test_the_last_leaves_the_base(self, store: Path) -> None:
        registry = open_registry(collected(store, "one"))
        off = logits(registry.model)
        registry.activate("one")
        registry.delete("one")
        assert not [name for name in registry.model.state_dict() if "lora" in name]
        assert logits(registry.model).equal(off)
        registry.add("two", store / "sft-two")
        assert not logits(registry.activate("two")).equal(off)


def test_a_task_is_served_by_its_name(store: Path) -> None:
    registry = open_registry(collected(store, "one", "two"))
    one = logits(registry.activate("one"))
    with registry.route("two") as model:
        assert registry.active == "two"
        assert not logits(model).equal(one)
        with registry.route(BASE) as model:
            assert not logits(model).equal(one)
    assert logits(registry.model).equal(one)
    with pytest.raises(StoreError, match=r"no adapter 'tow'.*'two'"), registry.route("tow"):
        pass
    assert registry.active == "one"


def test_it_says_where_each_comes_from(store: Path) -> None:
    folder = collected(store, "one", "three")
    tree = json.loads((folder / "registry.json").read_text())
    assert tree["base"]["folder"] == "../stages/base-0/checkpoint"
    assert tree["adapters"]["three"] == {
        "folder": "three",
        "base": tree["base"]["fingerprint"],
        "stage": "sft-three",
    }
    # Moved as a whole, it opens all the same.
    moved = store.parent.with_name("moved")
    shutil.move(str(store.parent), moved)
    assert set(open_registry(moved / "registry").adapters) == {"one", "three"}


class TestRefusals:
    def test_adapters_of_different_bases(self, store: Path) -> None:
        other = load_model(str(store / "base-0" / "checkpoint"))
        with torch.no_grad():
            other.get_input_embeddings().weight[3] += 1
        other.save_pretrained(store / "base-1" / "checkpoint")
        stage(store, "other", 0, base="base-1")
        with pytest.raises(StoreError, match=r"adapters of one registry share one base"):
            collected(store, "one", "other")
        assert not (store.parent / "registry").exists()

    def test_a_base_that_was_changed(self, store: Path) -> None:
        folder = collected(store, "one")
        file = store / "base-0" / "checkpoint" / "config.json"
        file.write_text(file.read_text() + "\n")
        with pytest.raises(StoreError, match=r"is not the base that the adapters of"):
            open_registry(folder)

    def test_a_stage_that_merged(self, store: Path) -> None:
        stage(store, "merged", 0, start="checkpoint")
        with pytest.raises(StoreError, match=r"keeps no adapter apart; train it with lora"):
            collected(store, "merged")

    def test_nothing_to_collect(self, store: Path) -> None:
        with pytest.raises(StoreError, match=r"no finished stage keeps its adapter apart"):
            collected(store)

    def test_a_folder_with_other_files(self, store: Path) -> None:
        (store.parent / "registry").mkdir()
        (store.parent / "registry" / "thesis.txt").write_text("")
        with pytest.raises(StoreError, match=r"holds other files; name a new folder"):
            collected(store, "one")
        assert (store.parent / "registry" / "thesis.txt").exists()

    @pytest.mark.parametrize("name", ["one", BASE, "a.b"])
    def test_names(self, name: str, store: Path) -> None:
        registry = open_registry(collected(store, "one"))
        with pytest.raises(StoreError, match=r"the name .* (is taken|has a dot)"):
            registry.add(name, store / "sft-two")

    def test_no_registry(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"holds no registry of adapters"):
            open_registry(tmp_path)
