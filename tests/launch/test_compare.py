"""`cpt compare` over stored results: models, chains, suites and files, at once and without torch."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.known import packages_of
from launch import cli
from tests.probe_results import chain, flip, result, right, stage, write

Call = Callable[..., tuple[int, str, str]]
FACTS, SUMS = right(0.5), right(0.7, seed=1)
BASE = result({"facts": FACTS, "sums": SUMS})
WORSE = result({"facts": flip(FACTS, 60, 4), "sums": SUMS})
BETTER = result({"facts": flip(FACTS, 0, 40), "sums": flip(SUMS, 3, 3)})
ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPT_RUNS", raising=False)
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(["compare", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two chains over one base."""
    folder = tmp_path / "runs"
    stage(folder, "base-1", BASE)
    stage(folder, "sft-1", WORSE)
    stage(folder, "dpo-1", BETTER)
    stage(folder, "sft-2", BASE)
    chain(folder, "a", "base-1", "sft-1", "dpo-1")
    chain(folder, "b", "base-1", "sft-2")
    return folder


def told(call: Call, *arguments: str) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json")
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_models_are_compared_with_the_first_or_the_one_that_is_named(
    call: Call, runs: Path
) -> None:
    tree = told(call, "base-1", "sft-1", "dpo-1")
    assert [model["name"] for model in tree["models"]] == ["base-1", "sft-1", "dpo-1"]
    assert tree["suite"] == {"name": "small", "hash": "5d2e91ab"}
    facts = [model["changes"].get("facts") for model in tree["models"]]
    assert facts[0] is None
    assert [round(change["delta"], 9) for change in facts[1:]] == [-0.14, 0.1]
    assert [change["word"] for change in facts[1:]] == ["regressed", "improved"]
    assert tree["models"][1]["scores"]["facts"]["value"] == 0.36
    against = told(call, "base-1", "sft-1", "--against", "sft-1")
    assert against["reference"] == "sft-1"
    assert round(against["models"][0]["changes"]["facts"]["delta"], 9) == 0.14
    added = told(call, "base-1", "dpo-1", "--against", "sft-1")
    assert [model["name"] for model in added["models"]] == ["sft-1", "base-1", "dpo-1"]


def test_the_terminal_says_it_in_a_table(call: Call, runs: Path) -> None:
    code, out, err = call("runs/chains/a/0-base", "runs/chains/a/1-sft")
    assert (code, err) == (0, "")
    assert "suite small-5d2e91ab   differences are to base-1" in out
    assert "facts  50.0 +- 2.5  36.0 +- 2.4" in out
    assert "-14.0 [" in out
    assert "sft-1: 1 regressed (facts), 1 held (sums)" in out
    assert "after Holm over 2 differences" in " ".join(out.split())


def test_a_chain_is_its_last_stage_or_all_of_them(call: Call, runs: Path) -> None:
    assert [m["name"] for m in told(call, "a", "b")["models"]] == ["a/dpo", "b/sft"]
    every = told(call, "a", "runs/chains/b", "--stages")
    assert [model["name"] for model in every["models"]] == ["a/base", "a/sft", "a/dpo", "b/sft"]
    assert every["num_tests"] == 6
    assert told(call, "a", "--stages")["reference"] == "a/base"


def test_a_chain_under_way_is_its_last_finished_stage(call: Call, runs: Path) -> None:
    chain(runs, "c", "base-1", "sft-1", "dpo-9")
    assert [m["name"] for m in told(call, "base-1", "c")["models"]] == ["base-1", "c/sft"]
    chain(runs, "d", "base-9")
    code, out, err = call("base-1", "d")
    assert (code, out) == (2, "")
    assert "has no finished stage yet" in err


def test_files_stand_for_models(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "old" / "result.json", BASE)
    write(tmp_path / "new" / "result.json", WORSE)
    tree = told(call, "old/result.json", "new/result.json")
    assert [model["name"] for model in tree["models"]] == ["old/result", "new/result"]
    assert tree["models"][1]["changes"]["facts"]["verdict"] == "regressed"


def test_without_a_suite_the_common_one_is_taken(call: Call, runs: Path) -> None:
    general = {"suite": "general", "suite_hash": "11111111"}
    stage(runs, "base-2", BASE, result({"facts": FACTS}, **general))
    stage(runs, "sft-3", WORSE, result({"facts": FACTS}, **general))
    assert told(call, "base-1", "base-2")["suite"]["name"] == "small"
    code, out, err = call("base-2", "sft-3")
    assert (code, out) == (2, "")
    assert "general-11111111, small-5d2e91ab: all have these; --suite NAME says which" in err
    for name in ("general", "general-11111111"):
        assert told(call, "base-2", "sft-3", "--suite", name)["suite"]["name"] == "general"
    code, _, err = call("base-1", "sft-3", "--suite", "general")
    assert code == 2
    assert "not all have results of suite general: base-1 has small-5d2e91ab; sft-3 has gene" in err


def test_what_a_gate_may_have_chosen_by_is_not_shown(call: Call, runs: Path) -> None:
    """200 of the items are for choosing; the others are shown."""
    values = []
    for name, found in (("base-3", BASE), ("sft-3", WORSE)):
        parts = copy.deepcopy(found)
        items = parts["probes"]["facts"]["items"]
        for number, item in enumerate(items):
            item["split"] = "dev" if number < 200 else "test"
        values.append(sum(item["value"] for item in items[200:]) / 200)
        stage(runs, name, parts)
    facts = [model["scores"]["facts"] for model in told(call, "base-3", "sft-3")["models"]]
    assert [score["num_items"] for score in facts] == [200, 200]
    assert [score["value"] for score in facts] == values


def test_a_second_measurement_is_the_noise_floor(call: Call, runs: Path) -> None:
    quiet = told(call, "base-1", "sft-1")["models"][1]["changes"]["facts"]
    again = result({"facts": flip(FACTS, 30, 10), "sums": SUMS})
    write(runs / "stages" / "base-1" / "probes" / "small-5d2e91ab.again.json", again)
    loud = told(call, "base-1", "sft-1")["models"][1]["changes"]["facts"]
    assert loud["delta"] == quiet["delta"]
    assert loud["stderr"] > 1.2 * quiet["stderr"]


def test_a_changed_suite_is_not_compared(call: Call, runs: Path) -> None:
    stage(runs, "sft-3", result({"facts": FACTS, "sums": SUMS}, suite_hash="22222222"))
    code, out, err = call("base-1", "sft-3")
    assert (code, out) == (2, "")
    assert "base-1 has small-5d2e91ab; sft-3 has small-22222222" in err
    assert "its hash differs" in err


def test_probes_that_were_measured_differently_are_refused(call: Call, runs: Path) -> None:
    other = result({"facts": FACTS, "sums": SUMS})
    other["probes"]["sums"]["fingerprint"] = "g"
    stage(runs, "sft-3", other)
    code, out, err = call("base-1", "sft-3")
    assert (code, out) == (1, "")
    assert "probe sums was measured differently for base-1" in err


def test_a_probe_that_is_missing_is_no_gap_in_the_table(call: Call, runs: Path) -> None:
    stage(runs, "sft-3", result({"facts": FACTS}))
    for pair in (("base-1", "sft-3"), ("sft-3", "base-1")):
        code, out, err = call(*pair)
        assert (code, out) == (1, "")
        assert "sft-3 has no score for sums, which others have" in err


def test_a_margin_goes_before_the_suites(call: Call, runs: Path) -> None:
    for margin, verdict in (("0.5", "held"), ("0", "regressed")):
        tree = told(call, "base-1", "sft-1", "--margin", margin)
        change = tree["models"][1]["changes"]["facts"]
        assert (change["verdict"], change["margin"]) == (verdict, float(margin))


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_it_is_written_too(call: Call, runs: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / "made" / f"beside.{ending}"
    code, out, _ = call("base-1", "sft-1", "--output", str(file))
    assert code == 0
    assert out.endswith(f"written: {file}\n")
    start = {"html": "<!doctype html>", "md": "# sft-1 against base-1", "json": "{"}[ending]
    assert file.read_text().startswith(start)
    assert call("base-1", "sft-1", "--markdown")[1].startswith("# sft-1 against base-1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base-1"], "base-1: is one model; name another one"),
        (["base-1", "runs/stages/base-1"], "is one model"),
        (["base-1", "nothing.json"], "nothing.json: no such file; cpt probe"),
        (["base-1", "broken.json"], "broken.json: is no probe result"),
        (["base-1", "./nothing"], "./nothing: no such folder"),
        (["base-1", "gone"], "gone: links to nowhere, which is gone"),
        (["base-1", "base.json", "--prompts", "asked.jsonl"], "only a model can answer"),
        (["base-1", "sft-1", "--suite", "no.yaml"], "no.yaml"),
        (
            ["base-1", "sft-1", "--suite", "other"],
            "not all have results of suite other: base-1 has",
        ),
        (["base-1", "sft-1", "--output", "a.pdf"], "its name ends in .html or .md or .json"),
        (["base-1", "sft-1", "--judge", "x"], "--judge compares answers; name --prompts"),
        (["base-1", "sft-1", "--prompts", "no.jsonl"], "no.jsonl: no such file"),
        (["base-1", "sft-1", "--margin", "-1"], "must be a number of at least 0"),
        (["base-1", "sft-1", "--json", "--markdown"], "not allowed with"),
        (["base-1", "sft-1", "--prompts", "p", "--num", "0"], "must be at least 1"),
        (["base-1", "sft-1", "--prompts", "p", "--judge", "http://x"], "which model there?"),
        (["base-1", "sft-1", "--backend", "vllm"], "--backend vllm: measures a suite; name its"),
        (["base-1", "sft-1", "--stages"], "--stages: none of base-1, sft-1 is a chain"),
        (["base-1", "sft-1", "--num", "3"], "--num says how prompts are answered; name --prompts"),
        (["base-1", "sft-1", "--max-new-tokens", "3"], "--max-new-tokens says how prompts are"),
        (["base-1", "sft-1", "--prompts", "p", "--seed", "3"], "greedy answers need none"),
        (["base-1", "sft-1", "--judge-model", "x"], "is a model behind an address"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    call: Call, runs: Path, arguments: list[str], message: str
) -> None:
    Path("broken.json").write_text("{}")
    write(Path("base.json"), BASE)
    Path("asked.jsonl").write_text('{"prompt": "why?"}')
    Path("gone").symlink_to("nowhere")
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


BLOCK = """
import importlib.abc, sys
HEAVY = ("torch", "transformers", "datasets", "lm_eval", "trl", "peft", "accelerate")
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from launch import cli
"""


def test_stored_results_need_no_torch(runs: Path, tmp_path: Path) -> None:
    commands = [
        ["compare", "a", "b", "base-1", "--output", str(tmp_path / "beside.html")],
        ["probe", "a", "--against", "base-1", "--suite", "small", "--junit", "j.xml"],
        ["compare", "--help"],
    ]
    lines = "".join(
        f"try:\n    assert cli.main({command!r}) == 0\nexcept SystemExit as stop:\n    assert not stop.code\n"
        for command in commands
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + lines],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_missing_is_measured_once_with_the_suites_settings(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def measured(given: Any, stage: Any, suite: Any, dtype: str, known: Any) -> dict[str, Any]:
        asked.append((given.model, given.revision, dtype))
        items = FACTS if given.model != "other" else flip(FACTS, 60, 4)
        made = result({"facts": items}, suite.name, suite.hash)
        return made | {"packages": packages_of(suite)}

    monkeypatch.setattr("launch.probing._measured", measured)
    monkeypatch.setattr("launch.probing._commit", lambda model, revision: f"{model} {revision}")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    suite = {"name": "own", "probes": {"facts": {"group": "knowledge", "margin": 0.01}}}
    (tmp_path / "own.yaml").write_text(json.dumps(suite))
    names = ["one", "other", "someone/tiny@v2"]
    for _ in range(2):
        tree = told(call, *names, "--suite", "own.yaml")
        assert [model["name"] for model in tree["models"]] == ["one", "other", "tiny"]
        words = [model["changes"]["facts"]["word"] for model in tree["models"][1:]]
        assert words[0] == "regressed"
        assert tree["models"][1]["changes"]["facts"]["margin"] == 0.01
    assert asked == [
        ("one", None, "auto"),
        ("other", None, "auto"),
        ("someone/tiny", "v2", "auto"),
    ]
    assert told(call, *names)["suite"]["name"] == "own"  # stored now: no suite needs to be named
    told(call, "one", "other", "--suite", "own.yaml", "--dtype", "bfloat16")
    assert asked[3:] == [("one", None, "bfloat16"), ("other", None, "bfloat16")]
