"""`cpt methods`: every hook and stage kind has a whole card, and what its class says is read from it."""

import inspect
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import RecipeError, StoreError
from cpt.hooks import table
from cpt.hooks.base import POINTS
from launch import cli
from launch.methods import Method, method, methods
from launch.methods_text import card_text, table_text
from stages import KINDS, kind_of
from stages.trl_fields import fields as trl_fields
from stages.trl_rules import RUNNER_OWNED

#: `methods.md` section 9 and the column Ev of section 2; of several members the weakest.
EVIDENCE = {
    "replay": "production-validated",  # A06, A24
    "kl": "production-validated",  # A23
    "lora": "production-validated",  # A13
    "ema": "production-validated",  # B10
    "interpolate": "production-validated",  # B11
    "l2_sp": "academic",  # the baseline of A03
    "ewc": "academic",  # A03
    "online_ewc": "academic",  # A30
    "si": "academic",  # A04
    "mas": "academic",  # A05
    "agem": "academic",  # A08
    "gem": "academic",  # A07
    "lwf": "research",  # A15
    "der": "research",  # A10
    "o_lora": "research",  # A14
    "osf": "research",  # named in A14
    "freeze": "research",  # P027, P034
    "pretrain": "production-validated",  # A20
    "sft": "production-validated",  # A21
    "dpo": "production-validated",  # A23, B15
    "grpo": "production-validated",  # A23, B15
    "merge": "newer",  # B08, B09, B11 are P; B12, B13 are p
}
FAMILIES = {
    *("replay", "output space", "parameter space", "gradient space", "isolation"),
    *("weight averaging", "objective"),
}
OURS = [*table.TABLE, *KINDS]


@pytest.fixture(autouse=True)
def _ours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.methods.metadata.entry_points", lambda group: [])


@pytest.mark.parametrize("name", OURS)
def test_every_card_is_whole_and_its_label_is_the_catalogues(name: str) -> None:
    card = method(name).card
    assert card is not None
    for part, words in asdict(card).items():
        assert words, f"{name}: {part} is empty"
        assert "".join(words).isascii()
    assert card.family in FAMILIES
    assert card.state[0].isdigit()
    for sentence in (card.when, card.cost, card.fails):
        assert sentence == " ".join(sentence.split())
        assert sentence.endswith(".")
    assert all(len(line) <= 110 for line in card.formula.splitlines())
    assert any(source.startswith("methods.md ") for source in card.sources)
    assert any("arXiv:" in source or "doi:" in source for source in card.sources)
    assert card.evidence == EVIDENCE[name]


@pytest.mark.parametrize("name", table.TABLE)
def test_every_setting_of_a_hook_is_explained(name: str) -> None:
    found = method(name)
    kind = table.hook_class(name, "")
    assert [each.name for each in found.settings] == [
        each.name
        for each in fields(kind)  # type: ignore[arg-type]
        if each.init
    ]
    for setting in found.settings:
        assert setting.help, f"{name}.{setting.name} is missing in Settings: of {kind.__name__}"
        assert setting.type


#: Where the defaults would hold what several stages left.
ONE_STAGE = {"gem": {"of": "old"}, "agem": {"of": "old"}, "online_ewc": {"of": "old"}}
#: `cpt.trained` counts the beginnings of factors with the weights: test_footprint.py.
WITH_THE_WEIGHTS = {"osf": 4.0}


@pytest.mark.parametrize("name", table.TABLE)
def test_the_card_tells_the_state_that_the_plan_counts(name: str) -> None:
    hook = table.build(name, ONE_STAGE.get(name, {}), "")
    card = table.hook_class(name, "").card
    assert card is not None
    held = hook.bytes_per_weight() + 2 * len(hook.models_held()) + WITH_THE_WEIGHTS.get(name, 0.0)
    assert held == float(card.state.split()[0])


@pytest.mark.parametrize(
    ("name", "settings", "held"),
    [
        ("gem", {"of": ["a", "b", "c"]}, 12),
        ("agem", {"space": "update"}, 8),
        ("si", {"of": "old"}, 24),
        ("ewc", {"strength": 0.0}, 0),
        ("l2_sp", {"strength": 0.0}, 0),
    ],
)
def test_what_else_the_card_says_of_its_state_is_counted(
    name: str, settings: dict[str, Any], held: float
) -> None:
    assert table.build(name, settings, "").bytes_per_weight() == held


@pytest.mark.parametrize("name", OURS)
def test_the_label_stands_in_the_card_alone(name: str) -> None:
    kind = table.hook_class(name, "") if name in table.TABLE else type(kind_of(name, ""))
    assert not hasattr(kind, "evidence")
    assert "validated" not in (inspect.getdoc(kind) or "")


def test_what_the_class_says_is_read_from_it() -> None:
    ema = method("ema")
    trained = tuple(name for name in KINDS if kind_of(name, "").trains)
    assert (ema.acts_at, ema.stages) == (("track", "merge"), trained)
    assert ema.backends == ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")
    assert method("osf").backends == ("single", "ddp")  # moves weights, and needs them whole
    assert method("kl").acts_at == ("recall", "penalty")
    assert (method("dpo").acts_at, method("dpo").stages) == (("preference",), ("reference",))
    assert {point for each in methods() if each.what == "hook" for point in each.acts_at} <= {
        *POINTS
    }


def test_settings_have_their_types_bounds_and_defaults() -> None:
    kl = {each.name: each for each in method("kl").settings}
    assert (kl["beta"].type, kl["beta"].default) == ("number, >= 0", "0.05")
    assert (kl["direction"].type, kl["direction"].default) == (
        "reverse or forward or js",
        "reverse",
    )
    assert kl["beta"].help == "weight; 0 changes nothing and loads nothing."
    replay = {each.name: each for each in method("replay").settings}
    assert replay["source"].type == "data config or null"
    assert replay["of"].type == "text or list of text or null"
    assert replay["share"].type == "number or null, >= 0, < 1"


def test_a_kind_lists_the_fields_of_train_that_not_every_kind_has() -> None:
    names = {each.name for each in method("dpo").settings}
    assert {"beta", "loss_type"} <= names
    assert not names & RUNNER_OWNED.keys()
    assert names < trl_fields("DPOConfig").keys()
    assert "learning_rate" not in names
    assert "DPOConfig" in method("dpo").more_settings


def test_a_stage_that_merges_lists_the_settings_of_each_method() -> None:
    found = {each.name: each for each in method("merge").settings}
    assert found["task_arithmetic: onto"].default == "null"
    assert found["ties: density"].type == "number, > 0, <= 1"
    assert found["dare_linear or dare_ties: drop"].default == "0.9"
    assert [name for name in found if name.endswith(": unrelated")] == ["every method: unrelated"]
    assert "trains on  nothing" in card_text(method("merge"))


def test_measured_costs_are_shown_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.methods.COSTS", tmp_path / "costs.json")
    row = next(line for line in table_text(methods()).splitlines() if line.startswith("kl "))
    assert row.split()[-3:-1] == ["-", "-"]
    assert "Not measured yet." in card_text(method("kl"))
    off = {"step": 1.101, "memory": 1.0, "once_seconds": 0.2, "relative_to": "lora"}
    costs = {
        "none": {"step": 1.0, "memory": 1.0},
        "kl": {"step": 1.284, "memory": 1.5},
        "kl (adapter off)": off,
        "ema": {"step": 1.02},
        "ewc (proximal)": {"step": 1.03, "memory": 1.2},
    }
    text = json.dumps({"machine": "m", "command": "c", "costs": costs})
    (tmp_path / "costs.json").write_text(text)
    row = next(line for line in table_text(methods()).splitlines() if line.startswith("kl "))
    assert row.split()[-3:-1] == ["1.28", "1.50"]
    row = next(line for line in table_text(methods()).splitlines() if line.startswith("ema "))
    assert row.split()[-3:-1] == ["1.02", "-"]
    card = " ".join(card_text(method("kl")).split())
    assert (
        "Measured, relative to no hook: step time 1.28, peak memory 1.50; adapter off, relative to lora: "
        "step time 1.10, peak memory 1.00."
    ) in card
    # A variant does not stand for the hook in the table.
    row = next(line for line in table_text(methods()).splitlines() if line.startswith("ewc "))
    assert row.split()[-3:-1] == ["-", "-"]
    card = " ".join(card_text(method("ewc")).split())
    assert "Measured, proximal, relative to no hook: step time 1.03, peak memory 1.20." in card
    assert method("kl").content()["variants"][0]["relative_to"] == "lora"
    for damaged in ("{", '{"costs": {"kl": 3}}', "[]", "{}"):
        (tmp_path / "costs.json").write_text(damaged)
        with pytest.raises(StoreError, match=r"costs\.json: is no file of measured costs"):
            methods()


def test_a_typo_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no hook or stage kind 'emma'; did you mean 'ema'\?"):
        method("emma")


def test_the_command_prints_table_card_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert cli.main(["methods", *arguments]) == 0
        return capsys.readouterr().out

    shown = said()
    assert all(any(line.startswith(f"{name} ") for line in shown.splitlines()) for name in OURS)
    card = said("kl")
    kl = method("kl").card
    assert kl is not None
    for line in kl.formula.splitlines():
        assert f"  {line}\n" in card
    assert "beta: 0.05  (number, >= 0)" in card
    assert "evidence: production-validated" in card
    assert [each["name"] for each in json.loads(said("--json"))] == OURS
    assert json.loads(said("kl", "--json"))["card"]["state"] == kl.state
    assert cli.main(["methods", "klx"]) == 2
    assert "did you mean 'kl'?" in capsys.readouterr().err


def test_a_hook_without_a_card_is_shown_with_what_can_be_derived() -> None:
    bare = Method("bare", "hook", "pack", acts_at=("mix",), stages=("sft",), backends=("single",))
    assert "bare (pack)  -" in table_text([bare])
    assert "acts at    mix" in card_text(bare)
    assert "It has no card" in card_text(bare)
