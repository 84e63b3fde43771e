"""A hook of another package, found through its entry point: planned, trained, and listed."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import RecipeError
from cpt.hooks import table
from launch.methods import method, methods
from launch.methods_text import card_text, table_text
from launch.schema import stage_schema
from tests.tiny_stages import TinyStages, equal, weights_of

EXAMPLE = Path(__file__).parents[2] / "example_package" / "centralise.py"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays a package on sys.path as pip does: its modules, and a dist-info with entry points."""

    def installed(package: str, entries: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {place}\n" for name, place in entries.items())
        (info / "entry_points.txt").write_text(f"[cpt.hooks]\n{lines}")
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
            monkeypatch.delitem(sys.modules, name, raising=False)
        _forget()

    monkeypatch.syspath_prepend(tmp_path)
    yield installed
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    table.others.cache_clear()
    table.names.cache_clear()


@pytest.fixture
def example(install: Install, tmp_path: Path) -> None:
    install("my-hooks", {"centralise": "centralise:Centralise"})
    shutil.copy(EXAMPLE, tmp_path)
    sys.modules.pop("centralise", None)


@pytest.mark.usefixtures("example")
def test_it_is_planned_under_its_name_and_as_strictly(chain: Any) -> None:
    plan = chain.plan("stages.sft.hooks=[{centralise: {share: 0.5}}]")
    ((key, hook),) = plan.node("sft").hooks
    assert (key, table.settings_of(hook)) == ("centralise", {"share": 0.5})
    with pytest.raises(RecipeError, match=r"there is no 'shar'; did you mean 'share'\?"):
        table.build("centralise", {"shar": 1.0}, "sft.yaml")
    with pytest.raises(RecipeError, match=r"no hook 'centralize'; did you mean 'centralise'\?"):
        table.build("centralize", {}, "sft.yaml")
    names = stage_schema()["properties"]["hooks"]["items"]["anyOf"][0]["enum"]
    assert "centralise" in names


@pytest.mark.usefixtures("example")
def test_it_trains(stages: TinyStages) -> None:
    import torch

    train: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 1}
    trained = stages.train(stages.job("sft", {"centralise": {}}, **train))
    plain = stages.train(stages.job("sft", **train))
    off = stages.train(stages.job("sft", {"centralise": {"share": 0.0}}, **train))
    assert equal(off.weights, plain.weights)
    assert [hook["name"] for hook in trained.manifest["hooks"]] == ["centralise"]
    before = weights_of(stages.sft.output / "checkpoint")
    name = "model.layers.0.mlp.down_proj.weight"
    step = trained.weights[name] - before[name]
    assert float(step.abs().max()) > 1e-5
    torch.testing.assert_close(step.mean(dim=1), torch.zeros(len(step)), atol=1e-7, rtol=0)
    assert float((plain.weights[name] - before[name]).mean(dim=1).abs().max()) > 1e-6


@pytest.mark.usefixtures("example")
def test_it_is_listed_with_what_its_class_says() -> None:
    found = method("centralise")
    assert (found.package, found.acts_at, found.card) == ("my-hooks", ("project",), None)
    assert found.backends == ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")
    assert "centralise (my-hooks)" in table_text(methods())
    text = card_text(found)
    assert "share: 1.0  (number)" in text
    assert "It has no card" in text


BROKEN = {
    "absent": ("no_such_module:Hook", "does not load: ModuleNotFoundError: "),
    "raises": ("broken_hooks:Other", "does not load: AttributeError: "),
    "plain": ("plain_hooks:Plain", "is no hook; make it a dataclass that subclasses"),
    "alias": ("plain_hooks:Alias", "calls itself 'other'; write name: ClassVar[str] = 'alias'"),
    "kl": ("plain_hooks:Alias", "is not used: cpt has a hook of that name"),
}
PLAIN = """
from dataclasses import dataclass
from cpt.hooks.base import Hook

class Plain:
    pass

@dataclass
class Alias(Hook):
    name = "other"
"""


def test_a_broken_one_is_one_line_and_breaks_nothing_else(install: Install) -> None:
    places = {name: place for name, (place, _) in BROKEN.items()}
    install("bad-hooks", places, broken_hooks="", plain_hooks=PLAIN)
    lines = table_text(methods()).splitlines()
    for name, (place, words) in BROKEN.items():
        (line,) = [line for line in lines if line.startswith(f"{name}: {place} of bad-hooks ")]
        assert words in line
        if name != "kl":
            with pytest.raises(RecipeError, match=rf"^sft\.yaml: hooks\.{name}: {place} of bad-h"):
                table.build(name, {}, "sft.yaml")
    assert method("kl").package == "cpt"
    assert "does not load" in card_text(method("absent"))
    names = stage_schema()["properties"]["hooks"]["items"]["anyOf"][0]["enum"]
    assert names == sorted(table.TABLE)
