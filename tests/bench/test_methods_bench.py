"""The benchmark of methods: targets that can fail, methods that can be built, notes of what was measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import CptError
from tests.bench import methods, protocols, toy
from tests.bench.method_list import GENERAL_AND_SKILL, TASK_TABLES
from tests.bench.protocols import Method, checked_hooks
from tests.bench.targets import TARGETS, judged


def ta(method: str, old: float, half: float = 0.02, first: float | None = None) -> dict[str, Any]:
    return {
        "method": method,
        "old": [old, half],
        "old_over_naive": [old - 0.06, half],
        "first": [old if first is None else first, half],
        "new": [1.0, 0.0],
        "reference": {},
    }


def tb(method: str, task: float, general: float) -> dict[str, Any]:
    return {
        "method": method,
        "task": [task, 0.0],
        "general": [general, 0.05],
        "reference": {},
    }


GOOD_TA = [
    ta("naive", 0.06),
    ta("joint", 0.96),
    ta("replay 0.2, all items", 0.79),
    ta("replay 0.2, 48 items in all", 0.5, first=0.43),
    ta("lwf on old prompts", 0.92),
    ta("si 1", 0.075),
    ta("l2_sp 1", 0.5),
]
GOOD_TB = [
    tb("naive", 1.0, 0.7),
    tb("ewc 0.1, general text", 0.96, 0.068),
    tb("ewc 10, general text", 0.90, 0.01),
]


def verdicts(name: str, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], int]:
    told, missed = judged(name, rows)
    return {row["method"]: row["target"] for row in told}, len(missed)


def test_rows_that_hold_and_rows_without_a_target() -> None:
    kept = ("replay 0.2, all items", "replay 0.2, 48 items in all", "lwf on old prompts", "si 1")
    held = dict.fromkeys(kept, "held")
    nothing = dict.fromkeys(("naive", "joint", "l2_sp 1"))
    assert verdicts("ta", GOOD_TA) == (held | nothing, 0)


@pytest.mark.parametrize(
    ("method", "old", "first"),
    [
        ("replay 0.2, all items", 0.06 + 0.79 * 0.9, None),
        ("replay 0.2, 48 items in all", 0.5, 0.42),  # the second task: 0.58
        ("lwf on old prompts", 0.06 + 0.94 * 0.9, None),
        ("si 1", 0.09, None),  # a control may neither help
        ("si 1", 0.03, None),  # nor harm
    ],
)
def test_each_target_of_ta_can_be_missed(method: str, old: float, first: float | None) -> None:
    rows = [ta(method, old, first=first) if row["method"] == method else row for row in GOOD_TA]
    told, missed = verdicts("ta", rows)
    assert (told.pop(method), missed) == ("missed", 1)
    assert "missed" not in told.values()


def test_one_strength_of_ewc_is_enough() -> None:
    told, missed = verdicts("tb", GOOD_TB)
    assert (told["ewc 0.1, general text"], told["ewc 10, general text"]) == ("held", "missed")
    assert missed == 0
    for task, general in ((0.94, 0.068), (0.96, 0.072)):
        changed = [GOOD_TB[0], tb("ewc 0.1, general text", task, general), GOOD_TB[2]]
        assert verdicts("tb", changed)[1] == 1


def test_what_cannot_be_told_is_not_judged() -> None:
    alone = [GOOD_TA[2], GOOD_TA[4]]
    assert verdicts("ta", alone)[0] == {row["method"]: None for row in alone}
    # One seed has no interval.
    assert verdicts("ta", [ta("naive", 0.06, 0.0), ta("si 1", 0.5)])[0]["si 1"] is None


def test_targets_are_of_methods_that_are_measured() -> None:
    for name, listed in (("ta", TASK_TABLES), ("tb", GENERAL_AND_SKILL)):
        known = {method.name for method, _ in listed}
        assert {m for target in TARGETS[name] for m in target.methods} <= known
        assert len(known) == len(listed)


def test_finished_calls_become_one_table_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(good: bool) -> int:
        replay = ta("replay 0.2, all items", 0.79 if good else 0.5)
        results = {"ta": [*GOOD_TA[:2], replay], "tb": GOOD_TB}
        files = []
        for name, rows in results.items():
            files.append(tmp_path / f"{name}.json")
            content = {"command": "c", "seeds": 3, "machine": {}, "tables": {name: rows}}
            files[-1].write_text(json.dumps(content))
        arguments = ["methods", "--results", str(tmp_path), "--judge", *map(str, files)]
        monkeypatch.setattr("sys.argv", arguments)
        return methods.main()

    assert call(good=True) == 0
    written = json.loads((tmp_path / "methods.json").read_text())
    assert written["missed"] == []
    assert [row["target"] for row in written["tables"]["tb"]] == [None, "held", "missed"]
    assert call(good=False) == 1
    shown = capsys.readouterr()
    assert "missed: ta: replay 0.2 of all items recovers 80 %" in shown.err
    line = next(line for line in shown.out.splitlines()[::-1] if line.startswith("| replay"))
    assert line.endswith("| missed |")


def test_every_methods_hooks_can_be_built() -> None:
    methods.check_methods()


def test_a_method_whose_settings_do_not_go_together_is_refused_before_any_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = Method("bad", [{"agem": {"of": "base", "source": {"path": "{general}"}}}])
    with pytest.raises(CptError, match=r"bad: hooks\.agem: name either"):
        checked_hooks(bad.hooks, None, "sft", "bad")
    with pytest.raises(CptError, match="learning_rat"):
        checked_hooks([], {"learning_rat": 1.0}, "sft", "bad")
    protocol, listed, columns = methods.PROTOCOLS["tb"]
    monkeypatch.setitem(methods.PROTOCOLS, "tb", (protocol, [*listed, (bad, {})], columns))
    monkeypatch.setattr(methods, "_measured", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr("sys.argv", ["methods", "--folder", str(tmp_path), "--seeds", "1"])
    with pytest.raises(CptError, match=r"bad: hooks\.agem"):
        methods.main()


def test_other_settings_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        calls = 0

        def __init__(self, folder: Path, seed: int) -> None: ...

        def measure(self, method: Method) -> dict[str, float]:
            Counted.calls += 1
            return {"old": float(Counted.calls)}

    monkeypatch.setitem(methods.PROTOCOLS, "ta", (Counted, [], ("old",)))
    first = Method("m", [{"ewc": {"strength": 1.0}}])
    others = [
        replace(first, hooks=[{"ewc": {"strength": 2.0}}]),
        replace(first, train={"learning_rate": 1.0}),
        replace(first, first=["si"]),
    ]
    for count, method in enumerate([first, *others], 1):
        for _ in range(2):
            assert methods._measured(tmp_path, 0, "ta", method) == {"old": count}
    monkeypatch.setitem(protocols.TRAIN, "learning_rate", 0.5)
    assert methods._measured(tmp_path, 0, "ta", first) == {"old": 5}


def test_a_stage_that_was_left_is_taken_for_what_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def run(job: Any, say: Any) -> None:
        trained.append(job.output)
        job.output.mkdir()
        (job.output / "manifest.json").write_text("{}")

    monkeypatch.setattr("stages.run.run", run)
    monkeypatch.setattr(protocols.Protocol, "_base", lambda self: tmp_path / "base")
    protocol = protocols.Protocol(tmp_path, 0)
    data = toy.write_rows(tmp_path / "rows.jsonl", [])
    for strength in (1.0, 2.0, 1.0):
        hooks = [{"l2_sp": {"strength": strength}}]
        protocol.train("sft", "sft", protocol.base, data, 5, hooks)
    assert len(trained) == len(set(trained)) == 2
