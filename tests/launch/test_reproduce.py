"""The commands that make a stage again, and what is said of what is not as it was; nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt import manifest
from cpt.checkpoint import digests
from cpt.determinism import VARIABLES
from cpt.errors import RecipeError, StoreError
from cpt.manifest import Manifest
from launch import made as made_before
from launch import record, reproduce
from launch.cli import main
from launch.differences import differences
from launch.opening import Chain, open_chain
from launch.stage_files import files_that_differ
from stages.provenance import provenance

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke" / "chain.yaml"


def make(chain: Chain, *names: str, how: dict[str, Any] | None = None) -> None:
    """Stage folders as far as these tests read them."""
    for name in names:
        node = chain.plan.node(name)
        folder = chain.store.stage(node.id)
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "model.safetensors").write_text(name)
        Manifest(
            id=node.id,
            kind=node.kind,
            name=name,
            parents=dict(node.parents),
            inputs=json.loads(json.dumps(node.inputs, default=str)),
            files=digests(folder / "checkpoint"),
            **provenance(record.how(chain) if how is None else how, {}),
        ).write(folder)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    found = open_chain(SMOKE, ["stages.sft.train.learning_rate=3e-6"], tmp_path / "runs")
    make(found, "base", "pretrain", "sft")
    return found


def sft(chain: Chain) -> Path:
    return chain.store.stage(chain.plan.node("sft").id)


def edit(chain: Chain, **changes: Any) -> None:
    replace(manifest.read(sft(chain)), **changes).write(sft(chain))


def test_the_command_is_the_one_that_made_it(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", str(sft(chain)), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    shown = SMOKE.relative_to(Path.cwd()) if SMOKE.is_relative_to(Path.cwd()) else SMOKE
    line = f"cpt run {shown} stages.sft.train.learning_rate=3e-6 --until sft --runs"
    assert f"\n{line} {tmp_path / 'runs'}-again\n" in said
    assert f"cpt reproduce {sft(chain).name} " in said
    assert "warning" not in said
    assert "pip install" not in said


def test_every_difference_is_told(chain: Chain, tmp_path: Path) -> None:
    entry = manifest.read(sft(chain))
    versions = {**entry.packages, "torch": "0.1", "gone-package": "3"}
    where = {**entry.machine, "cpu": "Z80", "gpus": [{"name": "H200", "memory": 1}]}
    variables = {**entry.environment, "OMP_NUM_THREADS": "64"}
    code = {"commit": "0" * 40, "dirty": False}
    edit(chain, packages=versions, machine=where, environment=variables, code=code)
    said = reproduce.told(made_before.find(sft(chain).name, tmp_path / "runs"), tmp_path / "runs")
    for words in (
        "# warning: package torch: made with 0.1, here is",
        "# warning: package gone-package: made with 3, here is none",
        "# warning: machine cpu: made with Z80, here is",
        "# warning: machine gpus: made with",
        "# warning: environment OMP_NUM_THREADS: made with 64, here is",
        "# warning: code: made with 000000000000, here is",
        f"git checkout {'0' * 40}",
        "pip install --no-deps gone-package==3 torch==0.1",
    ):
        assert words in said


def test_a_recipe_that_gives_another_stage_now_is_not_shown_as_the_command(
    chain: Chain, tmp_path: Path
) -> None:
    command = f"cpt run {SMOKE} stages.sft.train.learning_rate=4e-6"
    edit(chain, how={**manifest.read(sft(chain)).how, "command": command})
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    said = reproduce.told(made, tmp_path / "runs")
    assert "different are train.learning_rate" in said
    assert "\ncpt run" not in said
    # What the manifest keeps still gives it.
    found, line = made_before.planned(made, tmp_path / "runs", tmp_path / "new" / "recipe.yaml")
    assert found.plan.node("sft").id == made.entry.id
    assert line == f"cpt run {tmp_path / 'new' / 'recipe.yaml'} --launch single --until sft"


def test_a_stage_of_an_earlier_version_is_known_by_its_chain(chain: Chain, tmp_path: Path) -> None:
    edit(chain, how={}, version=1)
    with pytest.raises(StoreError, match="no chain beside it has the stage"):
        made_before.find(sft(chain).name, tmp_path / "runs")
    record.link(chain)
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    assert "learning_rate=3e-6" in made.command
    assert made_before.planned(made, tmp_path / "runs")[0].plan.node("sft").id == made.entry.id


def test_a_stage_by_hand_has_its_command(chain: Chain, tmp_path: Path) -> None:
    command = "python -m launch.stage sft.yaml parent=a output=b"
    edit(chain, how={"command": command})
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    assert reproduce.told(made, tmp_path / "runs").endswith(f"\n{command}")
    with pytest.raises(StoreError, match="was made by hand; run this with another output"):
        reproduce.reproduce(made, tmp_path / "new", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["cpt run chain.yaml --gone-option 3", "cpt run 'chain.yaml"])
def test_a_command_that_is_none_any_more_gives_way_to_the_kept_recipe(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    edit(chain, how={**manifest.read(sft(chain)).how, "command": command})
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    file = tmp_path / "recipe.yaml"
    found, again = made_before.planned(made, tmp_path / "runs", file)
    assert found.plan.node("sft").id == made.entry.id
    assert str(file) in again
    assert f"# made with: {command}" in reproduce.told(made, tmp_path / "runs")
    assert capsys.readouterr().err == ""


def test_what_is_not_there_is_named(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no finished stage 'stf-1'"):
        made_before.find("stf-1", tmp_path / "runs")
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    with pytest.raises(RecipeError, match="is the stage's own store"):
        reproduce.reproduce(made, tmp_path / "runs", None)  # type: ignore[arg-type]
    parent = chain.store.stage(chain.plan.node("pretrain").id)
    parent.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="the stage needs pretrain, which is gone"):
        reproduce.reproduce(made, tmp_path / "new", None)  # type: ignore[arg-type]


def test_parents_are_linked_once_they_are_verified(chain: Chain, tmp_path: Path) -> None:
    from cpt.store import Store

    target, node = Store(tmp_path / "new"), chain.plan.node("pretrain")
    reproduce._seed(chain.store, target, node)
    place = "checkpoint/model.safetensors"
    one, other = chain.store.stage(node.id) / place, target.stage(node.id) / place
    assert one.stat().st_ino == other.stat().st_ino
    (target.stage(node.id) / "probes").mkdir()
    assert not (chain.store.stage(node.id) / "probes").exists()
    (sft(chain) / place).write_text("damaged")
    with pytest.raises(StoreError, match="is damaged"):
        reproduce._seed(chain.store, target, chain.plan.node("sft"))


def test_which_tensor_differs_and_by_how_much(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from cpt.ids import sha256_file

    for name, value in (("one", 1.0), ("other", 1.5)):
        folder = tmp_path / name / "checkpoint"
        folder.mkdir(parents=True)
        save_file({"a": torch.ones(3), "b": torch.full((2,), value)}, folder / "model.safetensors")
        (tmp_path / name / "exemplars.jsonl").write_text("{}\n")
        (tmp_path / name / "log.txt").write_text(name)
    one, other = tmp_path / "one", tmp_path / "other"
    assert files_that_differ(one, one, sha256_file) == []
    assert files_that_differ(one, other, sha256_file) == [
        "checkpoint/model.safetensors: other bytes: 1 of 2 tensors differ, b by up to 0.5"
    ]
    (other / "exemplars.jsonl").unlink()
    assert f"exemplars.jsonl: is in {one} only" in files_that_differ(one, other, sha256_file)


def test_what_a_launcher_sets_is_no_difference(chain: Chain, tmp_path: Path) -> None:
    entry = manifest.read(sft(chain))
    more = {"CUDA_VISIBLE_DEVICES": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}
    variables = {**entry.environment, **more, "SLURM_JOB_ID": "7", "NCCL_ALGO": "Ring"}
    edit(chain, environment=variables, how={**entry.how, "launch": "ddp"})
    found = differences(manifest.read(sft(chain)))
    others = [line for line in found if "CUDA_VISIBLE_DEVICES" not in line]  # another test set it
    assert others == ["environment NCCL_ALGO: made with Ring, here is none"]


def test_a_deterministic_stage_is_made_again_in_that_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")  # what opening sets ends with this test
        monkeypatch.delenv(name)
    chain = open_chain(SMOKE, [], tmp_path / "runs", deterministic=True)
    make(chain, "base", "pretrain", "sft")
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    found, line = made_before.planned(made, tmp_path / "runs")
    assert found.plan.recipe.deterministic
    assert line.endswith("--deterministic --until sft")
    # The command is another one now: the recipe that the manifest keeps still says how it was.
    how = manifest.read(sft(chain)).how
    edit(chain, how={**how, "command": how["command"].replace(" --deterministic", "")})
    made = made_before.find(sft(chain).name, tmp_path / "runs")
    with pytest.raises(
        StoreError, match="makes it in the other of two modes, deterministic or not"
    ):
        made_before.planned(made, tmp_path / "runs")
    found, line = made_before.planned(made, tmp_path / "runs", tmp_path / "new" / "recipe.yaml")
    assert found.plan.recipe.deterministic
