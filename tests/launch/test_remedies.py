"""A gate that acts, on tiny checkpoints: what is measured is a made-up function of their weights."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt import manifest, past
from cpt.checkpoint import digests, verify_stage
from cpt.errors import GateStopped, StoreError
from cpt.manifest import Ancestor, Manifest
from eval.probe import result_path
from launch import attempts, remedies
from launch import chain as chains
from launch.backend import ROOT
from launch.by_hand import job_by_hand
from launch.console import Console
from launch.listing import listing
from launch.opening import Chain, open_chain
from launch.verdicts import Gate
from tests.tiny_stages import equal, weights_of

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
REPAIR, ROLLBACK = "gate.on_regression=repair", "gate.on_regression=rollback"
TOTAL = 400


class Heard(Console):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def cell(right: float) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {"id": str(i), "value": float(i < right), "weight": 1.0, "text": "", "answer": ""}
        for i in range(TOTAL)
    ]
    value = sum(item["value"] for item in items) / TOTAL
    head = {"metric": "acc", "group": "code", "higher_is_better": True, "margin": None}
    return {**head, "value": value, "stderr": 0.02, "fingerprint": "a", "items": items}


def measured(shares: dict[str, float], suite: Any) -> dict[str, Any]:
    """What embeddings learned costs prose, 32 of 400 items for all of it; what all learned is new skill."""
    right = {"prose": 200 - 32 * shares["embed_tokens"], "format": 200.0}
    right["code_skill"] = 100 + 30 * sum(shares.values())
    probes = {name: cell(round(right[name])) for name in suite.probes}
    head = {"suite": suite.name, "suite_hash": suite.hash, "seconds": 1.0}
    return {**head, "probes": probes}


PARTS = ("embed_tokens", "layers.0.", "layers.1.", "lm_head")


class Folders:
    """A runs folder in which base, pretrain and a damaged sft are made: sft = pretrain + 1."""

    def __init__(self, runs: Path, model: Any, folder: Path) -> None:
        self.runs, self.model, self.folder = runs, model, folder
        self.measured: list[dict[str, float]] = []

    def open(self, *changes: str) -> Chain:
        return open_chain(SMOKE, changes, self.runs)

    def make(self, *changes: str, candidates: dict[int, float] | None = None) -> Chain:
        """The stages, and candidates at these shares of the way."""
        chain = self.open(*changes)
        for name, share in (("base", 0.0), ("pretrain", 0.0), ("sft", 1.0)):
            node = chain.plan.node(name)
            folder = chain.store.stage(node.id)
            self.write(folder / "checkpoint", share)
            checks = {}
            if name == "sft":
                (folder / past.EXEMPLARS).write_text('{"text": "a row of sft"}\n')
                checks = {"candidates": list(candidates)} if candidates else {}
                for step, own in (candidates or {}).items():
                    self.write(folder / "candidates" / f"step-{step}", own)
                    for file in (folder / "candidates" / f"step-{step}").iterdir():
                        if file.suffix != ".safetensors":
                            file.unlink()
            before = [chain.plan.node(other) for other in ("base", "pretrain") if other != name]
            ancestors = [Ancestor(n.name, n.id, n.kind, f"../{n.id}") for n in before]
            Manifest(
                id=node.id,
                kind=node.kind,
                name=name,
                parents=dict(node.parents),
                past=tuple(ancestors) if name == "sft" else (),
                files=digests(folder / "checkpoint"),
                checks=checks,
            ).write(folder)
            assert chain.suite
            file = result_path(folder, chain.suite)
            file.parent.mkdir()
            file.write_text(json.dumps(measured(dict.fromkeys(PARTS, share), chain.suite)))
        return self.open(*changes)

    def write(self, folder: Path, share: float) -> None:
        """A checkpoint this far from pretrain to sft."""
        import copy

        import torch
        from transformers import AutoTokenizer

        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for weight in model.parameters():
                weight += share
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(self.folder).save_pretrained(folder)

    def probe(self, model: Any, tokenizer: Any, suite: Any, **settings: Any) -> dict[str, Any]:
        """Stands for `probe_model`: reads from the weights how far they went."""
        before = dict(self.model.named_parameters())
        shares = {}
        for part in PARTS:
            name = next(name for name in before if part in name and name.endswith("weight"))
            moved = (model.get_parameter(name) - before[name]).detach().mean()
            shares[part] = round(float(moved), 4)
        self.measured.append(shares)
        return measured(shares, suite)

    def run(self, *changes: str) -> Heard:
        """`cpt run ... --until sft`, which trains nothing."""
        console = Heard()
        assert chains.run(self.open(*changes), console, until="sft") == 0
        return console

    def stage(self, chain: Chain, name: str) -> Path:
        return chain.store.stage(chain.plan.node(name).id)


@pytest.fixture
def runs(
    tmp_path: Path, tiny_model: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Folders:
    found = Folders(tmp_path / "runs", tiny_model, tiny_folder)
    monkeypatch.setattr(attempts, "probe_model", found.probe)
    return found


def gate_of(folder: Path) -> dict[str, Any]:
    return dict(manifest.read(folder).checks["gate"])


def test_rollback_without_candidates_ends_at_the_parents_weights(runs: Folders) -> None:
    runs.make(ROLLBACK)
    said = "\n".join(runs.run(ROLLBACK).said)
    assert "the gate acts after sft: rollback" in said
    assert "prose fell by 8.0 points" in said
    chain = runs.open(ROLLBACK)
    node, parent = (runs.stage(chain, name) for name in ("sft.rollback", "pretrain"))
    assert equal(weights_of(node / "checkpoint"), weights_of(parent / "checkpoint"))
    one, other = (folder / "checkpoint" / "model.safetensors" for folder in (node, parent))
    assert one.samefile(other)  # no new bytes
    verify_stage(node)
    assert gate_of(node)["chosen"] == "the parent, pretrain"
    assert gate_of(node)["verdict"]["action"] == "rollback"
    assert runs.measured == []
    # It stands for the stage: under its name, with its rows, on the same past.
    entry, before = manifest.read(node), past.of_folder(node)
    assert [stage.name for stage in before] == ["base", "pretrain", "sft"]
    assert (before[-1].id, entry.kind) == (chain.plan.node("sft.rollback").id, "rollback")
    assert before[-1].rows() == [{"text": "a row of sft"}]
    assert entry.parents["result"] == chain.plan.node("sft").id
    # A stage by hand is the chain's own.
    given = [str(SMOKE.with_name("dpo.yaml")), f"parent={node}", f"output={runs.runs / 'dpo'}"]
    assert job_by_hand(given).id == chain.plan.node("dpo").id
    # The whole of it is linked, listed, reported, and found done.
    links = sorted(path.name for path in chain.store.chain("smoke").iterdir() if path.is_symlink())
    assert links == ["0-base", "1-pretrain", "2-sft", "2-sft.rollback"]
    text, problems = listing(runs.runs)
    assert problems == []
    assert "  2 sft.rollback rollback-" in text
    assert "  3 dpo" in text
    report = (chain.store.chain("smoke") / "report.md").read_text()
    assert "taken: the parent, pretrain; 0 attempts" in report
    assert any("nothing to do" in line for line in runs.run(ROLLBACK).said)


def test_rollback_takes_the_candidate_with_the_most_new_skill_that_passes(runs: Folders) -> None:
    runs.make(ROLLBACK, candidates={2: 0.1, 4: 0.2, 6: 0.5})
    said = "\n".join(runs.run(ROLLBACK).said)
    assert "attempt 3 of 3: step 6: beyond: prose fell by 4.0 points" in said
    chain = runs.open(ROLLBACK)
    node = runs.stage(chain, "sft.rollback")
    assert [shares["lm_head"] for shares in runs.measured] == [0.1, 0.2, 0.5]
    found = gate_of(node)
    assert (found["step"], found["chosen"]) == (4, "step 4 of sft")
    assert [attempt["step"] for attempt in found["attempts"]] == [2, 4, 6]
    assert [attempt["is_within"] for attempt in found["attempts"]] == [True, True, False]
    old, new = (weights_of(runs.stage(chain, name) / "checkpoint") for name in ("pretrain", "sft"))
    own = weights_of(node / "checkpoint")["lm_head.weight"]
    assert (own - old["lm_head.weight"] - 0.2).abs().max() < 1e-5
    assert not equal(weights_of(node / "checkpoint"), new)
    verify_stage(node)
    assert not (runs.stage(chain, "sft") / "candidates").exists()  # the verdict is known
    assert not (node / "attempts").exists()
    # By other rules it would choose anew, and they are gone: it goes back to the parent, and says so.
    said = "\n".join(runs.run(ROLLBACK, "gate.probes={format: {margin: 0.3}}").said)
    assert "sft.rollback: nothing is left between it and sft; pretrain is taken" in said
    report = (chain.store.chain("smoke") / "report.md").read_text()
    assert f"attempts on the same result by other rules before: {node.name} 3" in report


def test_candidates_go_when_their_stage_passes_and_stay_when_the_chain_stops(runs: Folders) -> None:
    stop = "gate.probes={prose: {on_regression: stop}, format: {on_regression: rollback}}"
    runs.make(stop, candidates={2: 0.1})
    for _ in range(2):
        with pytest.raises(GateStopped, match="the gate stopped the chain after sft") as stopped:
            runs.run(stop)
        assert str(stopped.value).endswith("and those on the way to it in its candidates/")
    sft = runs.stage(runs.open(), "sft")
    assert (sft / "candidates").is_dir()
    runs.run("gate.on_regression=rollback", "gate.probes={prose: {margin: 0.2}}")
    report = (runs.open().store.chain("smoke") / "report.md").read_text()
    assert "Gate: **pass**" in report  # by the rules of now, not by those it was measured under
    assert "regressed (" not in report
    assert not (sft / "candidates").exists()


def test_repair_keeps_every_margin_and_what_does_no_harm(runs: Folders) -> None:
    """A quarter of the embeddings is within 2 points of prose; the other groups cost nothing."""
    runs.make(REPAIR)
    said = runs.run(REPAIR).said
    chain = runs.open(REPAIR)
    node = runs.stage(chain, "sft.repair")
    found = gate_of(node)
    assert found["shares"] == [0.25, 1.0, 1.0]
    assert found["chosen"] == "0.25/1/1 of sft"
    shares = [attempt["shares"][0] for attempt in found["attempts"]]
    assert shares == [0.75, 0.5, 0.25, 0.375, 0.3125, 1.0, 0.25, 0.25]
    assert len([line for line in said if "attempt" in line and "of 8" in line]) == 8
    own, old = (
        weights_of(folder / "checkpoint") for folder in (node, runs.stage(chain, "pretrain"))
    )
    for name, share in (("model.embed_tokens.weight", 0.25), ("lm_head.weight", 1.0)):
        assert (own[name] - old[name] - share).abs().max() < 1e-5, name
    verify_stage(node)
    assert chain.gate.verdict(chain.plan.node("sft.repair")).action == "pass"
    report = (chain.store.chain("smoke") / "report.md").read_text()
    assert "attempt 8: 0.25/1/1 of the result" in report
    assert "taken: 0.25/1/1 of sft; 8 attempts, chosen on the items that are reported" in report
    assert "gate repairs" in (chain.store.chain("smoke") / "report.html").read_text()


def test_a_repair_that_finds_nothing_takes_the_parent(runs: Folders) -> None:
    changes = [REPAIR, "gate.attempts=2", "gate.probes={prose: {margin: 0}}"]
    runs.make(*changes)
    runs.run(*changes)
    chain = runs.open(*changes)
    node = runs.stage(chain, "sft.repair")
    assert gate_of(node)["chosen"] == "the parent, pretrain"
    assert len(gate_of(node)["attempts"]) == 2
    own, parent = (weights_of(f / "checkpoint") for f in (node, runs.stage(chain, "pretrain")))
    assert equal(own, parent)


@pytest.mark.parametrize("part", ["finish", "take"])
def test_an_interrupted_gate_measures_nothing_twice(
    runs: Folders, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    runs.make(REPAIR, "gate.attempts=3")

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(remedies, part, killed)
        with pytest.raises(KeyboardInterrupt):
            runs.run(REPAIR, "gate.attempts=3")
    assert len(runs.measured) == 3
    runs.run(REPAIR, "gate.attempts=3")
    assert len(runs.measured) == 3
    chain = runs.open(REPAIR, "gate.attempts=3")
    node = runs.stage(chain, "sft.repair")
    assert len(gate_of(node)["attempts"]) == 3
    assert {path.name for path in node.iterdir()} == {
        "checkpoint",
        "exemplars.jsonl",
        "gate",
        "manifest.json",
        "probes",
    }


def test_a_repair_that_fails_stops_the_chain_each_time_and_is_not_tried_again(
    runs: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen on dev items regresses on the others."""
    probe: Callable[..., dict[str, Any]] = runs.probe

    def split(model: Any, tokenizer: Any, suite: Any, **settings: Any) -> dict[str, Any]:
        result = probe(model, tokenizer, suite)
        for number, item in enumerate(result["probes"]["prose"]["items"]):
            item["split"] = "dev" if number >= 200 else "test"
            item["value"] = 0.0 if number < 150 else item["value"]
        return result

    monkeypatch.setattr(attempts, "probe_model", split)
    chain = runs.make(REPAIR, "gate.attempts=1")
    for name in ("base", "pretrain", "sft"):
        assert chain.suite
        file = result_path(runs.stage(chain, name), chain.suite)
        result = json.loads(file.read_text())
        for number, item in enumerate(result["probes"]["prose"]["items"]):
            item["split"] = "dev" if number >= 200 else "test"
        file.write_text(json.dumps(result))
    for _ in range(2):
        with pytest.raises(GateStopped) as stopped:
            runs.run(REPAIR, "gate.attempts=1")
        text = str(stopped.value)
        assert "the repair of sft failed, and the gate stopped the chain:\n  prose fell by" in text
        assert "the checkpoints are kept in" in text
        assert "repair-" in text
        assert stopped.value.exit_code == 3
    assert len(runs.measured) == 1
    again = runs.open(REPAIR, "gate.attempts=1")
    assert gate_of(runs.stage(again, "sft.repair"))["chosen_on"] == "dev"
    assert "gate stops" in (again.store.chain("smoke") / "report.html").read_text()


def test_candidates_that_go_between_plan_and_making_are_told(runs: Folders) -> None:
    runs.make(ROLLBACK, candidates={2: 0.1})
    chain = runs.open(ROLLBACK)
    shutil.rmtree(runs.stage(chain, "sft") / "candidates")
    with pytest.raises(StoreError, match=r"step 2\) were removed by another chain's verdict"):
        chains.run(chain, Heard(), until="sft")
    runs.run(ROLLBACK)


def test_a_candidate_that_fails_on_the_reported_items_makes_way_for_the_next(
    runs: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make(ROLLBACK, candidates={2: 0.1, 4: 0.2})
    asked: list[str] = []

    def verdict(gate: Gate, name: str, result: Path, is_remedy: bool = False) -> Any:
        found = told(gate, name, result, is_remedy)
        if name.startswith("step "):
            asked.append(name)
        return replace(found, action="rollback") if name == "step 4" else found

    told = Gate.verdict_on
    monkeypatch.setattr(Gate, "verdict_on", verdict)
    runs.run(ROLLBACK)
    assert asked == ["step 4", "step 2"]  # the most new skill first
    assert gate_of(runs.stage(runs.open(ROLLBACK), "sft.rollback"))["step"] == 2


def test_the_parent_is_taken_where_all_that_is_within_learned_less_than_nothing(
    runs: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "new_skill", lambda gate, stage: ["prose"])  # of which sft costs some
    runs.make(ROLLBACK, candidates={2: 0.1})
    said = "\n".join(runs.run(ROLLBACK).said)
    assert "step 2: within every margin; new skill -0." in said
    assert "none keeps every margin and learned something; pretrain is taken" in said
    node = runs.stage(runs.open(ROLLBACK), "sft.rollback")
    assert gate_of(node)["chosen"] == "the parent, pretrain"
    assert any("memory are still those of sft" in note for note in manifest.read(node).notes)


@contextmanager
def taking_is_killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every attempt is measured, and what is chosen is never written."""

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for taking in ("take", "take_parent"):
            patched.setattr(remedies, taking, killed)
        yield


def test_attempts_of_a_gate_that_was_interrupted_or_begun_anew_are_counted(
    runs: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make(REPAIR, "gate.attempts=3")
    with taking_is_killed(monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            runs.run(REPAIR, "gate.attempts=3")
        with pytest.raises(KeyboardInterrupt):
            chains.run(runs.open(REPAIR, "gate.attempts=3"), Heard(), until="sft", restart=True)
    assert len(runs.measured) == 3
    first = runs.open(REPAIR, "gate.attempts=3").plan.node("sft.repair").id
    runs.run(REPAIR, "gate.attempts=2")
    chain = runs.open(REPAIR, "gate.attempts=2")
    assert gate_of(runs.stage(chain, "sft.repair"))["earlier"] == {first: 3}


def test_the_time_of_averaging_outlives_an_interruption(
    runs: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make(REPAIR, "gate.attempts=1")
    with taking_is_killed(monkeypatch), pytest.raises(KeyboardInterrupt):
        runs.run(REPAIR, "gate.attempts=1")
    chain = runs.open(REPAIR, "gate.attempts=1")
    (file,) = (chain.store.partial(chain.plan.node("sft.repair").id) / "attempts").glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"merging": 7.5}))
    runs.run(REPAIR, "gate.attempts=1")
    assert manifest.read(runs.stage(chain, "sft.repair")).seconds["merge"] == 7.5
