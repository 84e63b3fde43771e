"""Whose weights `keep.stages` removes, and which stages are made again since something reads them."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cpt.checkpoint import digests_of_stage, verify_stage
from cpt.errors import RecipeError, StoreError
from cpt.lock_owner import Owner
from cpt.manifest import Manifest, read
from cpt.reachable import pin
from cpt.removed_weights import FILE, removed_weights
from launch import chain as chains
from launch import cli, export, verify
from launch.backend import ROOT
from launch.console import Console
from launch.keeping import drop_weights, made_again, making_again
from launch.opening import Chain, open_chain, show
from launch.record import link
from tests.launch.test_record import make

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
NAMES = ("base", "pretrain", "sft", "dpo", "grpo")
Made = Callable[..., Chain]


def fill(folder: Path, text: str = "") -> None:
    """Weights and a config, as a trained stage has them."""
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint" / "model.safetensors").write_text(text or f"weights of {folder.name}")
    (folder / "checkpoint" / "config.json").write_text("{}")
    entry = read(folder)
    replace(entry, files=digests_of_stage(folder)).write(folder)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def chain(*changes: str) -> Chain:
        opened = open_chain(SMOKE, changes, tmp_path / "runs")
        make(opened)
        for node in opened.plan.nodes:
            if not removed_weights(opened.store.stage(node.id)):
                fill(opened.store.stage(node.id))
        link(opened)
        return opened

    return chain


def folder(chain: Chain, name: str) -> Path:
    return chain.store.stage(chain.plan.node(name).id)


def with_weights(chain: Chain) -> list[str]:
    return [
        name
        for name in NAMES
        if (folder(chain, name) / "checkpoint" / "model.safetensors").is_file()
    ]


def drop(chain: Chain) -> list[str]:
    said = list[str]()
    drop_weights(chain, said.append)
    return said


def again(chain: Chain) -> dict[str, str]:
    names = {node.id: node.name for node in chain.plan.nodes}
    return {names[key]: why for key, why in made_again(chain, chain.plan.nodes).items()}


def test_nothing_goes_unless_it_is_said(made: Made) -> None:
    chain = made()
    assert drop(chain) == []
    assert with_weights(chain) == [*NAMES]


def test_no_id_depends_on_what_is_kept(made: Made) -> None:
    ids = [
        [node.id for node in made(*changes).plan.nodes]
        for changes in ([], ["keep.stages=last"], ["keep.trainer_checkpoints=1"])
    ]
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.parametrize(
    ("policy", "kept"), [("last", ["base", "grpo"]), ("[sft]", ["base", "sft"])]
)
def test_weights_go_and_all_else_stays(made: Made, policy: str, kept: list[str]) -> None:
    chain = made(f"keep.stages={policy}")
    before = {path for path in folder(chain, "dpo").rglob("*") if path.is_file()}
    said = drop(chain)
    assert with_weights(chain) == kept
    assert len(said) == len(NAMES) - len(kept)
    assert said[0].startswith("pretrain: weights removed (keep.stages), ")
    after = {path for path in folder(chain, "dpo").rglob("*") if path.is_file()}
    assert {path.name for path in before - after} == {"model.safetensors"}
    assert {path.name for path in after - before} == {FILE}
    assert drop(chain) == []
    assert all(chain.is_finished(node) for node in chain.plan.nodes)
    assert again(chain) == {}
    assert chains.run(chain, Console()) == 0  # nothing to do, and it trains nothing


def test_a_stage_without_weights_says_so(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = made("keep.stages=last")
    drop(chain)
    stage = folder(chain, "dpo")
    assert show(chain).count("done, without weights, probed") == 3
    assert cli.main(["ls", "--runs", str(chain.store.root)]) == 0
    assert "done, without weights" in capsys.readouterr().out
    lines = list[str]()
    assert verify.verify([], chain.store.root, lines.append) == 0
    problem = rf"its weights were removed .* makes {stage.name} again"
    with pytest.raises(StoreError, match=problem):
        verify_stage(stage)
    with pytest.raises(StoreError, match=problem):
        export.write(stage, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    (stage / "checkpoint" / "config.json").write_text("other")
    assert verify.verify([], chain.store.root, lines.append) == 1


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (["stages.grpo.reference=previous"], ["base", "dpo"]),
        (["stages.grpo.reference=pretrain"], ["base", "pretrain", "dpo"]),
        (
            ["stages.grpo.reference=previous", "stages.grpo.hooks=[{l2_sp: {of: pretrain}}]"],
            ["base", "pretrain", "dpo"],
        ),
        (  # what lies below an adapter
            ["stages.grpo.reference=previous", "stages.dpo.hooks=[{lora: {after: keep}}]"],
            ["base", "sft", "dpo"],
        ),
    ],
)
def test_what_is_still_to_be_made_keeps_what_it_reads(
    made: Made, changes: list[str], kept: list[str]
) -> None:
    chain = made("keep.stages=last", *changes)
    shutil.rmtree(folder(chain, "grpo"))
    drop(chain)
    assert with_weights(chain) == kept


def test_another_chain_and_a_pin_protect(made: Made) -> None:
    chain = made("keep.stages=last", "name=other", "stages.dpo.seed=5")
    made()  # with another dpo, and another grpo
    drop(chain)
    assert with_weights(chain) == ["base", "pretrain", "sft", "grpo"]
    alone = made("keep.stages=last", "name=alone", "stages.pretrain.seed=6")
    pin(alone.store, [folder(alone, "sft").name], [])
    drop(alone)
    assert with_weights(alone) == ["base", "sft", "grpo"]


def test_who_is_at_work_keeps_them(made: Made) -> None:
    chain = made("keep.stages=last")
    with chain.store.lock(folder(chain, "sft").name, print):
        said = drop(chain)
    assert "sft" in with_weights(chain)
    assert any(line.startswith("sft: weights stay (keep.stages): ") for line in said)


def test_a_run_that_no_chain_names_yet_may_read_them(made: Made) -> None:
    chain = made("keep.stages=last")
    file = chain.store.root / "locks" / "dpo-99.owner"
    file.parent.mkdir(exist_ok=True)
    owner = Owner("abc", "far", "another boot", 12, "", time.time())
    file.write_text(json.dumps(asdict(owner)))
    (line,) = drop(chain)
    assert line.startswith("keep.stages: nothing is removed yet: process 12 on far")
    assert with_weights(chain) == [*NAMES]
    file.unlink()
    drop(chain)
    assert with_weights(chain) != [*NAMES]


def test_a_damaged_list_of_what_was_removed_is_named(made: Made) -> None:
    stage = folder(made(), "sft")
    for text in ('["checkpoint/mod', "7"):
        (stage / FILE).write_text(text)
        with pytest.raises(StoreError, match=rf"{FILE}: is damaged .*remove it, and cpt verify"):
            removed_weights(stage)


def test_a_damaged_chain_removes_nothing(made: Made) -> None:
    chain = made("keep.stages=last")
    other = chain.store.chain("other")
    other.mkdir(parents=True)
    (other / "chain.json").write_text("{")
    (line,) = drop(chain)
    assert line.startswith(f"keep.stages: nothing is removed: {other}")
    assert with_weights(chain) == [*NAMES]


def test_what_something_reads_is_made_again(made: Made) -> None:
    """And what that is made from, in its turn."""
    chain = made("keep.stages=last")
    drop(chain)
    shutil.rmtree(folder(chain, "grpo"))
    assert again(chain) == {"dpo": "grpo", "sft": "grpo", "pretrain": "sft"}
    assert "warning: dpo: its weights were removed, and grpo needs them; cpt run makes" in show(
        chain
    )
    chain = made("keep.stages=[dpo]")  # with grpo
    assert again(chain) == {"dpo": "keep.stages", "sft": "dpo", "pretrain": "sft"}


def test_a_stage_that_is_to_be_measured_anew_is_made_again(made: Made) -> None:
    chain = made("keep.stages=last")
    drop(chain)
    shutil.rmtree(folder(chain, "pretrain") / "probes")
    assert again(chain) == {"pretrain": "its probes"}


@pytest.mark.parametrize("is_same", [True, False])
def test_what_only_it_had_comes_back_with_the_same_weights(made: Made, is_same: bool) -> None:
    chain = made("keep.stages=last")
    drop(chain)
    stage, node = folder(chain, "dpo"), chain.plan.node("dpo")
    (stage / "gate").mkdir()
    (stage / "gate" / "core.json").write_text("[]")
    (stage / "probes" / "other.json").write_text("{}")
    said = list[str]()
    with making_again(chain, node, said.append):
        assert not chain.store.is_done(node.id)
        stage.mkdir()
        Manifest(id=node.id, kind="dpo", name="dpo").write(stage)
        fill(stage, "" if is_same else "of a machine that rounds otherwise")
    assert (stage / "gate" / "core.json").is_file() == is_same
    assert (stage / "probes" / "other.json").is_file() == is_same
    assert [line.partition(" with")[0] for line in said] == ([] if is_same else ["dpo: made again"])
    assert [path.name for path in chain.store.stages.glob("dpo-*")] == [stage.name]


def test_what_is_made_again_for_another_stays_until_that_is_made(made: Made) -> None:
    chain = made("keep.stages=last")
    drop(chain)
    shutil.rmtree(folder(chain, "grpo"))
    node, stage = chain.plan.node("pretrain"), folder(chain, "pretrain")
    with making_again(chain, node, print):
        stage.mkdir()
        Manifest(id=node.id, kind="pretrain", name="pretrain").write(stage)
        fill(stage)
    assert drop(chain) == []
    assert with_weights(chain) == ["base", "pretrain"]


def test_killed_on_the_way_it_is_made_and_then_has_its_own_back(made: Made) -> None:
    chain = made("keep.stages=last")
    drop(chain)
    stage, node = folder(chain, "dpo"), chain.plan.node("dpo")
    with pytest.raises(KeyboardInterrupt), making_again(chain, node, print):
        raise KeyboardInterrupt
    assert chain.store.status(node.id) == "to do"
    with making_again(chain, node, print):
        stage.mkdir()
        Manifest(id=node.id, kind="dpo", name="dpo").write(stage)
        fill(stage)
    assert json.loads(next((stage / "probes").iterdir()).read_text())["probes"]


def test_a_stage_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"keep\.stages: 'sfft' is no stage; did you mean 'sft'"):
        open_chain(SMOKE, ["keep.stages=[sfft]"], tmp_path)
    bad: Any = ["keep.trainer_checkpoints=0"]
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        open_chain(SMOKE, bad, tmp_path)
