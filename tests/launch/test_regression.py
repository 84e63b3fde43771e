"""`cpt probe MODEL --against BASE`: what CI sees, from results that are there."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from eval.suite import load_suite
from launch import cli
from tests.probe_results import cell, flip, result, right, stage, write
from tests.reading_suite import write_task

Call = Callable[..., tuple[int, str, str]]
FACTS, SUMS = right(0.5), right(0.7, seed=1)
BASE = result({"facts": FACTS, "sums": SUMS})
WORSE = result({"facts": flip(FACTS, 60, 4), "sums": flip(SUMS, 12, 12)})


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPT_RUNS", raising=False)
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    stage(tmp_path / "runs", "base-1", BASE)
    stage(tmp_path / "runs", "sft-1", WORSE)
    stage(tmp_path / "runs", "sft-2", BASE)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(["probe", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


SMALL = ("--against", "base-1", "--suite", "small")


def test_a_regression_exits_3_and_says_which(call: Call) -> None:
    code, out, err = call("sft-1", *SMALL)
    assert (code, err) == (3, "")
    assert (
        "  v facts fell by 14.0 points (+-1.9), more than its margin of 2.0; p < 0.001 after" in out
    )
    assert "  ? sums did not change (+-1.2): 400 items cannot tell" in out
    last = out.splitlines()[-1]
    assert last.startswith("regressed: facts (2 probes; exit code 3); 1 undecided, which is no")


def test_no_regression_exits_0(call: Call) -> None:
    code, out, err = call("sft-2", *SMALL)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "no regression in 2 probes"
    assert call("sft-1", *SMALL, "--margin", "0.3")[0] == 0


def test_junit_and_json_have_the_verdicts(call: Call) -> None:
    code, out, _ = call("sft-1", *SMALL, "--junit", "made/probes.xml", "--json")
    assert code == 3
    tree = json.loads(out)
    assert (tree["verdict"], tree["regressed"], tree["against"]) == (
        "regressed",
        ["facts"],
        "base-1",
    )
    assert [probe["verdict"] for probe in tree["probes"]] == ["regressed", "undecided"]
    root = ElementTree.parse("made/probes.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("time")) == ("2", "1", "3.000")
    assert call("sft-2", *SMALL, "--junit", "made/probes.xml")[0] == 0
    assert ElementTree.parse("made/probes.xml").getroot().get("failures") == "0"


def test_a_base_can_be_a_file_in_the_repository(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "base.json", BASE)
    assert call("sft-1", "--against", "base.json", "--suite", "small")[0] == 3
    code, _, _ = call("sft-1", "--against", "base.json", "--suite", "small", "--output", "new.json")
    assert code == 3
    assert json.loads(Path("new.json").read_text()) == WORSE
    assert call("new.json", "--against", "base.json", "--suite", "small")[0] == 3


def test_a_suites_file_gives_hash_and_margins(call: Call, tmp_path: Path) -> None:
    """Margins are those of the file as it is now: a result keeps the one that it was measured with."""
    write_task(tmp_path / "tasks", "facts", ["a"], "acc")
    for margin, code in ((0.01, 3), (0.4, 0)):
        probes = {"facts": {"group": "knowledge", "metric": "acc", "margin": margin}}
        suite = {"name": "own", "include": "tasks", "probes": probes}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(suite))
        found = load_suite(tmp_path / "own.yaml")
        for name, items in (("base", FACTS), ("new", flip(FACTS, 60, 4))):
            told = result({"facts": items}, "own", found.hash)
            write(tmp_path / f"{name}.json", told)
        assert call("new.json", "--against", "base.json", "--suite", "own.yaml")[0] == code
    stage(tmp_path / "runs", "sft-9", result({"facts": FACTS}, "own", found.hash))
    code, out, _ = call("sft-9", "--suite", "own.yaml", "--json")
    (cell,) = json.loads(out)["probes"].values()
    assert (code, cell["value"], "items" in cell) == (0, 0.5, False)
    other = result({"facts": FACTS}, "own", "00000000")
    write(tmp_path / "base.json", other)
    code, out, err = call("new.json", "--against", "base.json", "--suite", "own.yaml")
    assert (code, out) == (2, "")
    assert "base.json: was measured with suite own-00000000, not with own-" in err


def drifting(tmp_path: Path, **more: float) -> None:
    """A suite of one probe without a better direction, whose answers grew from 60 to 64 words."""
    write_task(tmp_path / "tasks", "length", ["a"], "words")
    probe = {"group": "instruction", "metric": "words", "direction": "none", **more}
    suite = {"name": "drifts", "include": "tasks", "probes": {"length": probe}}
    (tmp_path / "drifts.yaml").write_text(yaml.safe_dump(suite))
    found = load_suite(tmp_path / "drifts.yaml")
    head = {"metric": "words", "is_drift": True, "margin": more.get("margin")}
    for name, grown in (("base", 0.0), ("new", 4.0)):
        items = cell(
            [60 + number % 5 + grown * (1 + 0.1 * (number % 3)) for number in range(400)], **head
        )
        write(tmp_path / f"{name}.json", result({"length": items}, "drifts", found.hash))


@pytest.mark.parametrize("more", [(), ("--margin", "0.02")])
@pytest.mark.parametrize("suite", ["drifts", "drifts.yaml"])
def test_a_drift_without_a_margin_is_judged_by_none(
    call: Call, tmp_path: Path, suite: str, more: tuple[str, ...]
) -> None:
    """Neither the usual margin nor the one that is given is in its unit."""
    drifting(tmp_path)
    asked = ("new.json", "--against", "base.json", "--suite", suite, "--junit", "x.xml", *more)
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("not judged, as neither direction is better: length")
    root = ElementTree.parse("x.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("0", "0")


def test_a_drift_with_a_margin_of_its_own_is_judged(call: Call, tmp_path: Path) -> None:
    for margin, code in ((0.5, 3), (30.0, 0)):
        drifting(tmp_path, margin=margin)
        for suite in ("drifts", "drifts.yaml"):
            assert call("new.json", "--against", "base.json", "--suite", suite)[0] == code


def test_the_junit_property_reproduces_the_run(call: Call) -> None:
    write(Path("base.json"), BASE)
    write(Path("new.json"), WORSE)
    against = ("--against", "base.json", "--suite", "small")
    call("new.json", *against, "--margin", "0.03", "--dtype", "float32", "--junit", "x.xml")
    properties = {
        p.get("name"): p.get("value") for p in ElementTree.parse("x.xml").iter("property")
    }
    asked = "cpt probe new.json --against base.json --suite small --margin 0.03 --dtype float32"
    assert properties["command"] == asked


def test_an_old_junit_file_does_not_outlive_a_failure(call: Call) -> None:
    Path("x.xml").write_text("<testsuites/>")
    assert call("sft-1", "--against", "no.json", "--suite", "small", "--junit", "x.xml")[0] == 2
    assert not Path("x.xml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sft-1", "--against", "sft-1", "--suite", "small"], "is compared with itself"),
        (["base.json", "--against", "./base.json", "--suite", "small"], "is compared with itself"),
        (["sft-1", "--against", "no.json", "--suite", "small"], "no.json: no such file"),
        (["sft-1", "--against", "base-1", "--suite", "no.yaml"], "no.yaml"),
        (
            ["sft-1", "--against", "base-1", "--suite", "other"],
            "not all have results of suite other: base-1 has small",
        ),
        (["sft-1", "--suite", "small", "--junit", "x.xml"], "name --against MODEL too"),
        (["sft-1", "--against", "base-1"], "the following arguments are required: --suite"),
    ],
)
def test_bad_input_exits_2(call: Call, arguments: list[str], message: str) -> None:
    write(Path("base.json"), BASE)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("x.xml").exists()


def test_models_with_other_chat_templates_are_compared_where_that_is_asked_for(
    call: Call, tmp_path: Path
) -> None:
    for name, template in (("base-3", "a1"), ("sft-3", "b2")):
        chats = cell(FACTS, chat=True, parts={"template": template})
        stage(tmp_path / "runs", name, result({"facts": chats, "sums": SUMS}))
    given = ("sft-3", "--against", "base-3", "--suite", "small")
    code, _, err = call(*given)
    assert code == 1
    assert "facts was measured differently for base-3 and sft-3 (template: a1, not b2)" in err
    assert "--any-template" in err
    code, out, err = call(*given, "--any-template")
    assert (code, out.splitlines()[-1][:13]) == (0, "no regression")
    assert err.startswith("cpt: note: sft-3: asked in another chat template than base-3;")
    code, _, err = call("sft-3", "--suite", "small.yaml", "--any-template")
    assert (code, "name --against MODEL too" in err) == (2, True)
