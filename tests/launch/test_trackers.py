"""The probe matrix reaches the trackers of `report_to`: each row once, and again where it changed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eval.probe import result_path
from launch.backend import ROOT
from launch.opening import Chain, open_chain
from launch.trackers import FILE, TRACKERS, tell_trackers
from tests.launch.test_record import make

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
NAMES = ("base", "pretrain", "sft", "dpo", "grpo")
Made = Callable[..., Chain]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def chain(*trackers: str) -> Chain:
        opened = open_chain(SMOKE, [f"trackers=[{', '.join(trackers)}]"], tmp_path / "runs")
        make(opened)
        opened.store.chain(opened.plan.name).mkdir(parents=True, exist_ok=True)
        return opened

    return chain


def folder(chain: Chain) -> Path:
    return chain.store.chain(chain.plan.name)


def scores(chain: Chain, stage: str) -> dict[str, float]:
    """What trackers are to have of a stage."""
    assert chain.suite
    file = result_path(chain.store.stage(chain.plan.node(stage).id), chain.suite)
    found = dict[str, float]()
    for name, cell in json.loads(file.read_text())["probes"].items():
        found |= {f"probe/{name}": cell["value"], f"probe/{name}/stderr": cell["stderr"]}
    return found


def change(chain: Chain, stage: str) -> None:
    """Another score of every probe, as of a suite that grew."""
    assert chain.suite
    file = result_path(chain.store.stage(chain.plan.node(stage).id), chain.suite)
    tree = json.loads(file.read_text())
    for cell in tree["probes"].values():
        cell["value"] += 0.125
    file.write_text(json.dumps(tree))


def tell(chain: Chain) -> list[str]:
    said = list[str]()
    tell_trackers(chain, said.append)
    return said


def test_tensorboard_reads_the_matrix(made: Made) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chain = made("tensorboard")
    assert tell(chain) == []
    events = folder(chain) / "tensorboard"
    seen = EventAccumulator(str(events)).Reload()
    expected = [scores(chain, name) for name in NAMES]
    assert {*seen.Tags()["scalars"]} == {*expected[0]}
    for key in expected[0]:
        line = [(event.step, event.value) for event in seen.Scalars(key)]
        assert line == [(n, pytest.approx(row[key])) for n, row in enumerate(expected)]
    before = sorted(events.iterdir())
    assert tell(chain) == []
    assert sorted(events.iterdir()) == before
    change(chain, "sft")
    tell(chain)
    (added,) = sorted({*events.iterdir()} - {*before})
    (event,) = EventAccumulator(str(added)).Reload().Scalars(next(iter(expected[0])))
    assert event.step == 2
    assert event.value == pytest.approx(scores(chain, "sft")[next(iter(expected[0]))])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What stand-ins for the three other trackers were called with."""
    calls: list[Any] = []

    class Opened:
        """A run of either."""

        def __init__(self, number: str) -> None:
            self.info = SimpleNamespace(run_id=number)

        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            calls.append(("end",))

        def define_metric(self, *names: str, **more: str) -> None:
            calls.append(("axis", *names, more))

        def log(self, row: dict[str, float], **more: Any) -> None:
            calls.append(("log", row, more))

        def finish(self) -> None:
            calls.append(("end",))

    def begin(**settings: Any) -> Opened:
        calls.append(("begin", settings))
        return Opened(settings.get("run_id", "0123abcd"))

    def stand_in(name: str, **parts: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    stand_in("wandb", init=begin, Settings=dict, Error=type("Error", (Exception,), {}))
    stand_in(
        "mlflow",
        start_run=begin,
        log_metrics=lambda metrics, step: calls.append(("log", metrics, {"step": step})),
        exceptions=SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {})),
    )
    trackio = Opened("")
    stand_in("trackio", init=begin, log=trackio.log, finish=trackio.finish)
    return calls


def logged(sent: list[Any]) -> list[tuple[Any, ...]]:
    return [call[1:] for call in sent if call[0] == "log"]


def test_wandb_gets_one_run_a_chain_with_the_stage_as_axis(made: Made, sent: list[Any]) -> None:
    chain = made("wandb")
    tell(chain)
    (_, settings), *axes = sent[:3]
    assert settings["name"] == settings["group"] == chain.plan.name
    assert settings["resume"] == "allow"
    assert settings["settings"] == {"disable_code": True, "disable_git": True}
    assert axes == [("axis", "stage", {}), ("axis", "probe/*", {"step_metric": "stage"})]
    assert logged(sent) == [
        ({"stage": n, **scores(chain, name)}, {}) for n, name in enumerate(NAMES)
    ]
    assert sent[-1] == ("end",)
    change(chain, "dpo")
    sent.clear()
    tell(chain)
    assert sent[0][1]["id"] == settings["id"]
    assert logged(sent) == [({"stage": 3, **scores(chain, "dpo")}, {})]


def test_mlflow_goes_on_in_the_run_that_its_server_named(made: Made, sent: list[Any]) -> None:
    chain = made("mlflow")
    tell(chain)
    assert sent[0] == ("begin", {"run_name": chain.plan.name})
    assert logged(sent) == [(scores(chain, name), {"step": n}) for n, name in enumerate(NAMES)]
    change(chain, "base")
    sent.clear()
    tell(chain)
    assert sent[0] == ("begin", {"run_id": "0123abcd"})
    assert logged(sent) == [(scores(chain, "base"), {"step": 0})]


def test_trackio_gets_the_stage_as_step(made: Made, sent: list[Any]) -> None:
    chain = made("trackio")
    tell(chain)
    ((_, settings),) = sent[:1]
    assert settings["group"] == chain.plan.name
    assert logged(sent) == [(scores(chain, name), {"step": n}) for n, name in enumerate(NAMES)]
    assert sent[-1] == ("end",)


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_away_stops_no_chain(
    made: Made, sent: list[Any], monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    chain = made(tracker, "trackio")
    module = sys.modules[tracker]
    kind = module.Error if tracker == "wandb" else module.exceptions.MlflowException

    def refuse(**_: Any) -> None:
        raise kind("no route to host\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(module, "init" if tracker == "wandb" else "start_run", refuse)
        assert tell(chain) == [
            f"{tracker}: has not got 5 rows of probes: no route to host; cpt run sends them again"
        ]
    assert len(logged(sent)) == 5  # the other has them
    sent.clear()
    assert tell(chain) == []
    assert len(logged(sent)) == 5
    assert {*json.loads((folder(chain) / FILE).read_text())} == {tracker, "trackio"}


def test_a_damaged_record_sends_all_again(made: Made, sent: list[Any]) -> None:
    chain = made("trackio")
    for text in ("{", "[]", '{"trackio": {}}'):
        (folder(chain) / FILE).write_text(text)
        sent.clear()
        tell(chain)
        assert len(logged(sent)) == 5


def test_trackers_that_take_no_matrix_are_left_alone(made: Made, sent: list[Any]) -> None:
    assert tell(made("clearml")) == []
    assert tell(made("none")) == []
    assert sent == []
    assert [*TRACKERS] == ["tensorboard", "wandb", "mlflow", "trackio"]
