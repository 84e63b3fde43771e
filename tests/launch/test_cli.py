"""What a person types, and what comes back: texts, exit codes, and no heavy import."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpt.manifest import Manifest
from cpt.store import Store
from launch import cli
from launch.parser import EXAMPLES

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "smoke" / "chain.yaml")
VERBS = (
    *("plan", "run", "slurm", "probe", "compare", "report", "ls", "diff", "adapters"),
    *("verify", "gc", "export", "schema", "methods"),
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Runs `cpt` in this process, in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPT_RUNS", raising=False)
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def stage(runs: Path, stage_id: str, **more: object) -> Path:
    store = Store(runs)
    folder = store.partial(stage_id)
    folder.mkdir(parents=True)
    kind = stage_id.partition("-")[0]
    Manifest(id=stage_id, kind=kind, name=kind, **more).write(folder)  # type: ignore[arg-type]
    return store.publish(stage_id)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert "examples:\n" in out
    assert re.search(rf"^  cpt {verb}\b", out, re.MULTILINE)


def test_the_help_lists_the_verbs(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for verb in VERBS:
        assert re.search(rf"^ +{verb} ", out, re.MULTILINE)
    assert "cpt run recipes/" in out


def test_examples_name_files_that_are_there() -> None:
    for text in EXAMPLES.values():
        for path in re.findall(r"\b(?:recipes|configs)/\S+", text):
            assert (ROOT / path).is_file(), path


@pytest.mark.parametrize(
    "arguments", [[], ["pln"], ["plan"], ["plan", SMOKE, "--nope"], ["ls", "a=b"]]
)
def test_a_wrong_command_line_is_bad_input(call: Call, arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "usage: cpt" in err


# plan


def test_the_smoke_chain_is_planned(call: Call) -> None:
    code, out, err = call("plan", SMOKE)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith(
        "chain smoke   seed 17   4 stages, 5 x 3 probes   single   runs/chains/smoke"
    )
    assert [line.split()[1] for line in lines[2:7]] == ["base", "pretrain", "sft", "dpo", "grpo"]
    assert all(line.endswith("to do") for line in lines[2:7])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "recipes").glob("*/chain.yaml")), ids=lambda p: p.parent.name
)
def test_every_shipped_recipe_is_planned(call: Call, recipe: Path) -> None:
    code, out, err = call("plan", str(recipe))
    assert (code, err) == (0, "")
    assert out.startswith(f"chain {recipe.parent.name} ")


def test_overrides_stand_anywhere(call: Call) -> None:
    for arguments in (
        ["plan", SMOKE, "seed=18", "baseline=naive"],
        ["plan", SMOKE, "--launch", "single", "seed=18", "baseline=naive"],
        ["plan", SMOKE, "seed=18", "--launch", "single", "baseline=naive"],
        ["plan", "--launch", "single", SMOKE, "seed=18", "baseline=naive"],
    ):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        assert out.startswith("chain smoke-naive   seed 18 ")


def test_the_stores_place_is_an_option_or_a_variable(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "   other/chains/smoke\n" in call("plan", SMOKE, "--runs", "other")[1]
    monkeypatch.setenv("CPT_RUNS", "third")
    assert "   third/chains/smoke\n" in call("plan", SMOKE)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.yaml"], "cpt: no.yaml: no such file"),
        ([SMOKE, "sed=1"], "cpt: sed=1: a recipe has no 'sed'; did you mean 'seed'?"),
        ([SMOKE, "seed"], "cpt: seed: an override is written path=value"),
        (
            [SMOKE, "stages.sf.train.learning_rate=3e-6"],
            "cpt: stages.sf.train.learning_rate=3e-6: stages has no 'sf'; did you mean 'sft'?",
        ),
        ([SMOKE, "stages.sft.kind=stf"], "no stage kind 'stf'; did you mean 'sft'?"),
        ([SMOKE, "--launch", "dpp"], "'dpp'"),
        ([SMOKE, "stages.sft.train.learning_rat=1"], "SFTConfig has no 'learning_rat'"),
        (
            [
                SMOKE,
                "stages.sft.data={builder: python_code, source: no_such_package, view: questions}",
            ],
            "no_such_package",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_bad_input_is_one_message_and_exit_code_2(
    call: Call, verb: str, arguments: list[str], message: str
) -> None:
    code, out, err = call(verb, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("cpt: ")
    assert "Traceback" not in err
    assert not Path("runs", "stages").exists()


def test_what_is_not_installed_is_a_warning_of_plan_and_refused_by_run(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.installed.is_installed", lambda package: False)
    change = "stages.sft.train.optim=adamw_8bit"
    sentence = "train.optim: adamw_8bit needs bitsandbytes, which is not installed here"
    code, out, err = call("plan", SMOKE, change)
    assert (code, err) == (0, "")
    assert f"{sentence}; run: make install; until then" in out
    code, out, err = call("run", SMOKE, change)
    assert (code, out) == (2, "")
    assert sentence in err
    assert not Path("runs", "stages").exists()


# ls, report, diff


def test_nothing_there_says_how_to_begin(call: Call) -> None:
    code, out, _ = call("ls")
    assert code == 0
    assert out.startswith("runs: nothing here yet; cpt run recipes/")
    code, _, err = call("report", "quickstart")
    assert code == 2
    assert "runs/chains: no chain 'quickstart'; " in err
    code, _, err = call("diff", "sft-1", "sft-2")
    assert code == 2
    assert "no finished stage 'sft-1'; there are none yet" in err


def test_ls_shows_chains_with_their_stages_and_loose_ones(call: Call, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for stage_id in ("base-1", "sft-1", "sft-2"):
        stage(runs, stage_id)
    (runs / "stages" / "dpo-1.partial").mkdir()
    (runs / "stages" / "dpo-2.partial").mkdir()
    nodes = [{"name": name, "id": f"{name}-1", "hooks": ["kl"]} for name in ("base", "sft", "dpo")]
    head = {"name": "a", "seed": 3, "recipe_path": "r.yaml"}
    Store(runs).link_chain("a", nodes, head)
    code, out, _ = call("ls")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "a  (seed 3, r.yaml)"
    assert [line.split() for line in lines[1:4]] == [
        ["0", "base", "base-1", "done", "kl"],
        ["1", "sft", "sft-1", "done", "kl"],
        ["2", "dpo", "dpo-1", "interrupted", "kl"],
    ]
    assert lines[4:] == ["in no chain:", "    dpo-2.partial", "    sft-2"]
    code, _, err = call("report", "aa")
    assert code == 2
    assert "no chain 'aa'" in err


def test_ls_says_who_makes_a_stage_now(call: Call, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.partial("sft-1").mkdir(parents=True)
    nodes: list[dict[str, Any]] = [{"name": "sft", "id": "sft-1", "hooks": []}]
    store.link_chain("a", nodes, {"name": "a", "seed": 3, "recipe_path": "r.yaml"})
    with store.lock("sft-1", pytest.fail):
        assert f"under way: process {os.getpid()} on " in call("ls")[1]
    assert "sft-1                  interrupted" in call("ls")[1]


DAMAGES = {
    "": "it is empty",
    "[]": "it is no mapping",
    "null": "it is no mapping",
    '{"nodes": [': "it is not whole JSON",
    '{"name": "a"}': "is missing",
    '{"name": 1, "seed": 1, "recipe_path": "", "nodes": [], "suite": {}, "gate": {}}': "name is 1",
    '{"name": "a", "seed": 1, "recipe_path": "", "nodes": [{}], "suite": {}, "gate": {}}': "nodes.0.name",
}


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_chain_is_named_and_the_others_are_listed(
    call: Call, tmp_path: Path, text: str
) -> None:
    for name in ("a", "b", "c"):
        head = {"name": name, "seed": 3, "recipe_path": "r.yaml"}
        Store(tmp_path / "runs").link_chain(name, [], head)
    file = tmp_path / "runs" / "chains" / "b" / "chain.json"
    file.write_text(text)
    code, out, err = call("ls")
    assert (code, out) == (1, "a  (seed 3, r.yaml)\nb  (damaged)\nc  (seed 3, r.yaml)\n")
    assert err.startswith(f"cpt: {file}: is damaged (")
    assert DAMAGES[text] in err
    assert err.count("\n") == 1
    for arguments in (["report", "b"], ["report", str(file.parent)]):
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert err.startswith(f"cpt: {file}: is damaged (")
        assert err.count("\n") == 1


def test_dangling_links_are_marked(call: Call, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made = stage(runs, "sft-1")
    nodes: list[dict[str, Any]] = [{"name": "sft", "id": "sft-1", "hooks": []}]
    folder = Store(runs).link_chain("a", nodes, {"name": "a", "seed": 3, "recipe_path": "r.yaml"})
    (runs / "chains" / "b").symlink_to("nowhere")
    made.rename(tmp_path / "away")
    code, out, err = call("ls")
    assert code == 1
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["0", "sft", "sft-1", "gone,", "to", "be", "made", "anew"],
        ["b", "(damaged)"],
    ]
    assert "chains/b/chain.json: no such file" in err
    code, _, err = call("diff", str(folder / "0-sft"), "sft-2")
    assert code == 2
    assert err.startswith(f"cpt: {folder / '0-sft'}: links to ../../stages/sft-1, which is gone")
    assert err.count("\n") == 1


def whole_chain() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Nodes and description of a chain with all that a report reads."""
    nodes: list[dict[str, Any]] = [
        {"name": n, "kind": n, "id": f"{n}-1", "hooks": []} for n in ("base", "sft")
    ]
    gate = {"margin": 0.1, "on_regression": "warn"}
    head = {"name": "a", "seed": 3, "recipe_path": "r.yaml", "gate": gate}
    return nodes, {**head, "suite": {"name": "s", "hash": "1"}}


def test_half_a_manifest_is_named(call: Call, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for stage_id in ("base-1", "sft-1"):
        stage(runs, stage_id)
    nodes, head = whole_chain()
    Store(runs).link_chain("a", nodes, head)
    file = runs / "stages" / "sft-1" / "manifest.json"
    file.write_text(file.read_text()[:100])
    code, out, err = call("ls")
    assert code == 1
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["done", "damaged"]
    for arguments in (["ls"], ["report", "a"], ["diff", "base-1", "sft-1"]):
        code, _, err = call(*arguments)
        assert code == 1
        assert err.startswith(f"cpt: {file}: is damaged (")
        assert err.count("\n") == 1


def test_a_chain_whose_stages_are_gone_has_a_report_that_says_so(
    call: Call, tmp_path: Path
) -> None:
    nodes, head = whole_chain()
    folder = Store(tmp_path / "runs").link_chain("a", nodes, head)
    code, _, err = call("report", "a")
    assert (code, err) == (0, "")
    assert "to do" in (folder / "report.md").read_text()


def test_diff_shows_what_went_in_otherwise(call: Call, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    stage(
        runs, "sft-1", inputs={"train": {"learning_rate": 1e-5, "batch_size": 8}}, seconds={"a": 1}
    )
    stage(
        runs, "sft-2", inputs={"train": {"learning_rate": 2e-5, "batch_size": 8}}, seconds={"a": 2}
    )
    code, out, _ = call("diff", "sft-1", str(runs / "stages" / "sft-2"))
    assert code == 0
    assert "inputs.train.learning_rate\n  - 1e-05\n  + 2e-05\n" in out
    assert "batch_size" not in out
    assert "seconds" not in out
    code, out, _ = call("diff", "sft-1", "sft-1")
    assert (code, out) == (0, "")
    code, _, err = call("diff", "sft-1", "sft-3")
    assert code == 2
    assert "no finished stage 'sft-3'; did you mean 'sft-1'?" in err or "'sft-2'?" in err


def test_schemas_are_json(call: Call) -> None:
    for arguments in (["schema"], ["schema", "--stage"]):
        code, out, _ = call(*arguments)
        assert code == 0
        assert "$schema" in json.loads(out)


# Without torch, and fast.

WATCHED = """
import sys
from launch.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = {"torch", "transformers", "trl", "datasets", "lm_eval", "peft", "accelerate", "numpy"}
sys.exit(f"imported: {sorted(heavy & set(sys.modules))}" if heavy & set(sys.modules) else code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["plan", SMOKE], 0),
        (["plan", SMOKE, "stages.sft.hooks.kl.bta=1"], 2),
        (["ls"], 0),
        (["report", "none"], 2),
        (["diff", "a", "b"], 2),
        (["adapters", SMOKE], 2),
        (["schema"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_reading_verbs_import_nothing_heavy(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
