"""What a gate's verdict does to a plan, from results written by hand: no model is loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import PlanError, ProbeError, RecipeError
from cpt.estimate import Estimate, _num_candidates, estimate
from cpt.gate_spec import ProbeGate
from cpt.manifest import Manifest
from cpt.model_size import of_config
from eval.probe import result_path
from eval.suite import load_suite
from eval.template import hashed
from launch.backend import ROOT
from launch.gate_rules import check_gate, rules_of, without_effect
from launch.opening import Chain, _plan, open_chain, show
from launch.verdicts import Gate
from stages.workload import workload

SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"
Open = Callable[..., Chain]
SIZE = of_config(
    {
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
)


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def chain(*changes: str) -> Chain:
        return open_chain(SMOKE, changes, tmp_path / "runs")

    return chain


def cell(right: int, total: int = 400) -> dict[str, Any]:
    items = [
        {"id": str(i), "value": float(i < right), "weight": 1.0, "text": "", "answer": ""}
        for i in range(total)
    ]
    head = {"metric": "acc", "group": "code", "higher_is_better": True, "margin": 0.05}
    return {**head, "value": right / total, "stderr": 0.02, "fingerprint": "a", "items": items}


def make(chain: Chain, stage: str, checks: dict[str, Any] | None = None, **right: int) -> None:
    """A stage as if it were trained and measured; 200 of 400 are right where nothing is said."""
    assert chain.suite
    node = chain.plan.node(stage)
    folder = chain.store.stage(node.id)
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(id=node.id, kind=node.kind, name=stage, checks=checks or {}).write(folder)
    for step in (checks or {}).get("candidates", []):
        (folder / "candidates" / f"step-{step}").mkdir(parents=True, exist_ok=True)
    head = {"suite": chain.suite.name, "suite_hash": chain.suite.hash, "seconds": 2.5}
    probes = {name: cell(right.get(name, 200)) for name in chain.suite.probes}
    file = result_path(folder, chain.suite)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**head, "probes": probes}))


def ids(chain: Chain) -> dict[str, str]:
    return {node.name: node.id for node in chain.plan.nodes}


REPAIR, ROLLBACK = "gate.on_regression=repair", "gate.on_regression=rollback"
ORDER = ["base", "pretrain", "sft", "dpo", "grpo"]


def damaged(opened: Open, *changes: str, **right: int) -> Chain:
    """The smoke chain with base, pretrain and an sft whose prose fell from 200 to 100 of 400."""
    chain = opened(*changes)
    make(chain, "base")
    make(chain, "pretrain")
    make(chain, "sft", {"candidates": [2, 4]}, **(right or {"prose": 100}))
    return opened(*changes)


def test_what_the_gate_makes_takes_the_stages_place(opened: Open) -> None:
    before = ids(opened(REPAIR))
    assert [*before] == ORDER
    chain = damaged(opened, REPAIR)
    after = ids(chain)
    assert [*after] == ["base", "pretrain", "sft", "sft.repair", "dpo", "grpo"]
    assert after["sft.repair"].startswith("repair-")
    node = chain.plan.node("sft.repair")
    assert node.merged == (after["sft"], after["pretrain"])
    # Parent, reference, and what hooks recall by the stage's name.
    assert chain.plan.node("dpo").parents == dict.fromkeys(("parent", "reference"), node.id)
    assert chain.plan.node("grpo").parents["reference"] == node.id  # recipes/smoke: reference: sft
    same = [name for name in before if before[name] == after[name]]
    assert same == ["base", "pretrain", "sft"]


def test_named_and_previous_recalls_hash_the_gates_node(opened: Open) -> None:
    for of in ("sft", "previous"):
        hooks = f"stages.dpo.hooks=[{{l2_sp: {{of: {of}}}}}]"
        chain = damaged(opened, ROLLBACK, hooks)
        (hook,) = chain.plan.node("dpo").inputs["hooks"]
        made = chain.plan.node("sft.rollback").id
        assert hook["recalls"] == [made if of == "sft" else "previous"]
        assert chain.plan.node("dpo").inputs["parents"]["parent"] == made


def test_the_id_is_of_result_rules_and_what_is_chosen_among(opened: Open) -> None:
    repaired = ids(damaged(opened, REPAIR))["sft.repair"]
    assert ids(opened(REPAIR))["sft.repair"] == repaired
    assert ids(opened(REPAIR, "gate.candidates=1"))["sft.repair"] == repaired
    for change in ("gate.attempts=4", "gate.probes={prose: {margin: 0.1}}"):
        assert ids(opened(REPAIR, change))["sft.repair"] != repaired, change
    back = ids(opened(ROLLBACK))["sft.rollback"]
    assert ids(opened(ROLLBACK, "gate.attempts=4"))["sft.rollback"] == back
    assert ids(opened(ROLLBACK, "gate.candidates=2"))["sft.rollback"] == back
    assert ids(opened(ROLLBACK, "gate.candidates=0"))["sft.rollback"] != back
    assert opened(ROLLBACK).plan.node("sft.rollback").inputs["candidates"] == [2, 4]


def test_only_a_regression_acts(opened: Open) -> None:
    """200 to 190 of 400 is undecided at a margin of 5 points."""
    assert [*ids(damaged(opened, REPAIR, prose=190))] == ORDER
    for change in ("gate.on_regression=warn", "gate.on_regression=stop"):
        assert [*ids(damaged(opened, change))] == ORDER


def test_probes_have_rules_of_their_own(opened: Open) -> None:
    damaged(opened, REPAIR)
    assert [*ids(opened(REPAIR, "gate.probes={prose: {on_regression: warn}}"))] == ORDER
    assert [*ids(opened(REPAIR, "gate.probes={prose: {margin: 0.5}}"))] == ORDER
    own = ids(opened("gate.probes={prose: {on_regression: rollback}}"))
    assert "sft.rollback" in own


def test_of_several_regressions_the_strictest_action_is_taken(opened: Open) -> None:
    both = {"prose": 100, "format": 100}
    rules = "gate.probes={prose: {on_regression: rollback}}"
    assert "sft.rollback" in ids(damaged(opened, REPAIR, rules, **both))
    rules = "gate.probes={prose: {on_regression: stop}}"
    assert [*ids(opened(REPAIR, rules))] == ORDER  # the run stops; nothing takes its place


def test_a_recorded_verdict_holds_for_its_results_alone(opened: Open) -> None:
    chain = damaged(opened, REPAIR)
    node = chain.plan.node("sft")
    told = chain.gate.record(node, chain.gate.verdict(node))
    file = chain.gate.file(node.id)
    assert file.parent == chain.store.stage(node.id) / "gate"
    assert told["action"] == "repair"
    assert told["margins"]["prose"] == 0.02  # the suite's, not the one in the result
    (change,) = told["regressed"]
    assert (change["probe"], change["delta"]) == ("prose", -0.25)
    file.write_text(json.dumps({**told, "action": "pass"}))
    assert [*ids(opened(REPAIR))] == ORDER  # read, not judged again
    make(chain, "sft", {"candidates": [2, 4]}, prose=99)
    assert "sft.repair" in ids(opened(REPAIR))
    file.write_text("{")
    assert "sft.repair" in ids(opened(REPAIR))


def test_what_a_gate_made_is_judged_too_and_can_only_stop(opened: Open) -> None:
    chain = damaged(opened, REPAIR)
    make(chain, "sft.repair", prose=100)
    again = opened(REPAIR)
    assert [*ids(again)].count("sft.repair") == 1
    assert not any(name.startswith("sft.repair.") for name in ids(again))
    assert again.gate.verdict(again.plan.node("sft.repair")).action == "stop"


def test_two_stages_that_regress_have_a_node_each(opened: Open) -> None:
    chain = damaged(opened, ROLLBACK)
    make(chain, "sft.rollback")
    make(chain, "dpo", format=100)
    chain = opened(ROLLBACK)
    names = ["base", "pretrain", "sft", "sft.rollback", "dpo", "dpo.rollback", "grpo"]
    assert [*ids(chain)] == names
    assert chain.plan.node("dpo.rollback").merged[1] == chain.plan.node("sft.rollback").id


def test_the_plan_says_which_ids_hang_on_a_verdict(opened: Open) -> None:
    text = show(opened(REPAIR))
    assert "ids of sft, dpo, grpo: if the gate passes pretrain" in text
    chain = damaged(opened, REPAIR)
    assert chain.plan.awaits == ("dpo", "grpo")
    text = show(chain)
    assert "ids of grpo: if the gate passes dpo" in text
    lines = [line.split() for line in text.splitlines()]
    assert [line[:2] for line in lines if line[1:2] == ["sft.repair"]] == [["2", "sft.repair"]]
    assert [line[:2] for line in lines if line[1:2] == ["dpo"]] == [["3", "dpo"]]
    assert "if the gate" not in show(opened("gate.on_regression=stop"))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["gate.probes={proes: {margin: 0.1}}"], ["gate.probes", "'proes'", "mean 'prose'?"]),
        (["gate.probes.prose.on_regression=repare"], ["on_regression", "'repare'", "'repair'?"]),
        ([REPAIR, "probes=null"], ["gate: on_regression: repair", "name a suite under `probes:`"]),
        (["probes=null", "gate.probes={prose: {margin: 1}}"], ["gate: probes: the chain measures"]),
        (["gate.attempts=0"], ["gate.attempts", "greater than or equal to 1"]),
        (
            [REPAIR, "stages.dpo.hooks=[{lora: {after: keep}}]"],
            ["dpo keeps its adapter apart", "on_regression: stop or warn"],
        ),
        (
            ["gate.probes={prose: {on_regression: rollback}}", "stages.dpo.hooks=[{lora: {after: keep}}]"],
            ["rollback: dpo keeps its adapter apart"],
        ),
        (
            [REPAIR, "stages.sft.model={add_tokens: [<a>]}", "stages.sft.hooks=[]"],
            ["repair: sft adds tokens", "on_regression: rollback"],
        ),
    ],
)  # fmt: skip
def test_what_a_gate_cannot_do_is_refused_when_planning(
    opened: Open, changes: list[str], parts: list[str]
) -> None:
    with pytest.raises((PlanError, RecipeError)) as refused:
        opened(*changes)
    for part in parts:
        assert part in str(refused.value)


def test_a_suite_whose_backend_takes_no_model_in_memory_cannot_choose(opened: Open) -> None:
    recipe = opened(REPAIR).plan.recipe
    suite = load_suite(Path(str(recipe.probes)), "vllm")
    with pytest.raises(RecipeError, match="has backend: vllm; write backend: hf there, or on_reg"):
        check_gate(recipe, suite)
    check_gate(opened("gate.on_regression=stop").plan.recipe, suite)


def test_the_plan_warns_where_rollback_knows_the_parent_alone(opened: Open) -> None:
    assert not opened(ROLLBACK).plan.warnings
    told = opened(ROLLBACK, "checkpoint_every=null", "stages.sft.checkpoint_every=2").plan.warnings
    alone = "rollback knows its parent alone: set checkpoint_every for candidates within the stage"
    assert told == tuple(f"{name}: {alone}" for name in ("pretrain", "dpo", "grpo"))
    assert not opened(REPAIR, "checkpoint_every=null").plan.warnings
    assert not opened(ROLLBACK, "checkpoint_every=null", "gate.candidates=0").plan.warnings


def test_what_the_gate_will_take_is_estimated(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt costs what the probes cost: 2.5 s; checkpoints on the way cost their disk."""
    monkeypatch.setattr("cpt.estimate.size_of", lambda *given: SIZE)
    monkeypatch.setattr("cpt.seconds.of_folder", lambda *given: SIZE)

    def needs(chain: Chain) -> Estimate:
        assert chain.suite
        file = result_path(Path(), chain.suite).name
        return estimate(chain.plan, chain.store, "single", 1, workload, file)

    chain = damaged(opened, REPAIR, "gate.attempts=5")
    made = needs(chain).stages["sft.repair"]
    assert (made.load, made.probing) == (None, 0.0)
    assert made.making == pytest.approx(12.5)
    made = needs(opened(ROLLBACK)).stages["sft.rollback"]
    assert made.making == pytest.approx(5.0)  # two candidates


@pytest.mark.parametrize(
    ("steps", "every", "number"), [(6, 2, 2), (4, 2, 1), (2, 2, 0), (None, 2, 3), (9, None, 0)]
)
def test_candidates_are_counted_before_they_are_there(
    opened: Open, steps: int | None, every: int | None, number: int
) -> None:
    gate = opened(ROLLBACK).plan.recipe.gate
    assert _num_candidates(gate, steps, every) == number
    assert _num_candidates(opened(REPAIR).plan.recipe.gate, steps, every) == 0


def test_a_stage_that_adds_tokens_can_be_rolled_back(opened: Open) -> None:
    changes = ["stages.sft.model={add_tokens: [<a>]}", "stages.sft.hooks=[]"]
    assert opened(ROLLBACK, *changes, "stages.grpo.reference=dpo")


def test_a_stage_is_judged_across_the_template_that_it_declares_and_no_other(
    opened: Open, tmp_path: Path
) -> None:
    file = tmp_path / "other.jinja"
    file.write_text("{{ messages }}")
    chain = opened(f"stages.sft.model={{chat_template: {file}}}")
    assert chain.gate.templates == {hashed("{{ messages }}")}
    make(chain, "base")
    make(chain, "sft", prose=100)

    def ask_in(stage: str, template: str) -> None:
        result = chain.gate.result(chain.plan.node(stage).id)
        tree = json.loads(result.read_text())
        for found in tree["probes"].values():
            found["parts"] = {"template": template}
        result.write_text(json.dumps(tree))

    ask_in("base", "that of the model")
    ask_in("sft", hashed("{{ messages }}"))
    verdict = chain.gate.verdict(chain.plan.node("sft"))
    assert [change.probe for change in verdict.regressed] == ["prose"]
    ask_in("sft", "another")
    with pytest.raises(ProbeError, match="template: that of the model, not another"):
        chain.gate.verdict(chain.plan.node("sft"))


def test_a_stage_that_is_appended_moves_no_remedy(opened: Open) -> None:
    """Only the verdict is made anew, at its part of the level; the choice needs no level."""
    for change in (REPAIR, ROLLBACK):
        chain = damaged(opened, change)
        recipe = chain.plan.recipe
        stages = {**recipe.stages, "more": recipe.stages["dpo"]}
        longer = recipe.model_copy(update={"stages": stages})
        found = _plan(longer, chain.suite, chain.store)
        assert [node.id for node in found.nodes][:-1] == [node.id for node in chain.plan.nodes]
        sft = chain.plan.node("sft").id
        assert Gate(longer, chain.suite, chain.store).file(sft) != chain.gate.file(sft)


def test_candidates_that_are_gone_are_not_promised(opened: Open) -> None:
    """Another chain's verdict removed them; they are said to be gone, and the id is that of the parent."""
    chain = damaged(opened, ROLLBACK)
    made = chain.plan.node("sft.rollback")
    assert made.inputs["candidates"] == [2, 4]
    assert not chain.plan.warnings
    shutil.rmtree(chain.store.stage(chain.plan.node("sft").id) / "candidates")
    later = opened(ROLLBACK)
    assert later.plan.node("sft.rollback").inputs["candidates"] == []
    (told,) = later.plan.warnings
    assert told.startswith(
        "sft: rollback knows its parent alone: its candidates were removed after"
    )
    Manifest(id=made.id, kind="rollback", name="sft").write(chain.store.stage(made.id))
    again = opened(ROLLBACK)  # made with them, before they were removed
    assert again.plan.node("sft.rollback").id == made.id
    assert not again.plan.warnings or "sft: rollback knows" not in "".join(again.plan.warnings)


def test_a_stage_that_was_trained_without_candidates_is_told(opened: Open) -> None:
    chain = opened(ROLLBACK)
    make(chain, "base")
    make(chain, "pretrain")
    make(chain, "sft", prose=100)
    (told,) = opened(ROLLBACK).plan.warnings
    assert "sft: rollback knows its parent alone: it was trained without candidates; move " in told


def test_later_stages_that_recall_what_the_gate_undid_are_told(opened: Open) -> None:
    changes = (ROLLBACK, "stages.dpo.hooks=[{l2_sp: {of: sft}}]")
    chain = damaged(opened, *changes)
    for checks, number in (({"step": None, "shares": []}, 1), ({"step": 4, "shares": []}, 0)):
        make(chain, "sft.rollback", {"gate": checks})
        told = [line for line in opened(*changes).plan.warnings if "the gate undid" in line]
        assert len(told) == number
        assert all(line.startswith("dpo: l2_sp recalls sft, whose training") for line in told)


def test_a_baseline_is_told_what_regressed_and_replaces_nothing(opened: Open) -> None:
    for change in (REPAIR, ROLLBACK, "gate.on_regression=stop"):
        chain = damaged(opened, change, "baseline=naive")
        assert [*ids(chain)] == ORDER
        assert chain.gate.verdict(chain.plan.node("sft")).action == "warn"
        (told,) = chain.plan.warnings
        assert "gate: baseline naive: regressions are told, and nothing is stopped" in told
    assert not opened("baseline=naive").plan.warnings


def test_settings_that_decide_nothing_are_told(opened: Open) -> None:
    (told,) = opened("gate.margin=0.2").plan.warnings
    assert "gate.margin: has no effect: every probe of" in told


def test_a_drift_without_margin_has_no_action(tmp_path: Path, opened: Open) -> None:
    chain = opened()
    assert chain.suite
    probe = replace(chain.suite.probes["prose"], name="length", direction="none", margin=None)
    suite = replace(chain.suite, probes={**chain.suite.probes, "length": probe})
    own = {"length": ProbeGate(on_regression="stop")}
    gate = chain.plan.recipe.gate.model_copy(update={"probes": own})
    recipe = chain.plan.recipe.model_copy(update={"gate": gate})
    (told,) = without_effect(recipe, suite)
    assert "gate.probes.length.on_regression: has no effect: neither direction of length" in told
    assert "length" not in rules_of(recipe, suite).margins
    own["length"] = ProbeGate(margin=20.0, on_regression="stop")
    assert without_effect(recipe, suite) == []
    assert rules_of(recipe, suite).margins["length"] == 20.0


def test_of_several_parents_the_one_within_its_margins_is_taken(opened: Open) -> None:
    """Whichever stands first under `from`."""
    chain = damaged(opened, ROLLBACK)
    sft, pretrain = chain.plan.node("sft"), chain.plan.node("pretrain")
    make(chain, "grpo", prose=100)  # in place of a merge: it is measured, and fell
    for first, second in ((sft.id, pretrain.id), (pretrain.id, sft.id)):
        node = replace(chain.plan.node("grpo"), parents={"parent": first, "parent.2": second})
        remedy = chain.gate.judgement(node).remedy
        assert remedy is not None
        assert remedy.parent == pretrain.id  # sft has lost its prose
        assert remedy.inputs["parent"] == pretrain.id
    chain.gate.result(sft.id).unlink()
    assert not chain.gate.judgement(node).is_known


def test_a_suite_without_items_to_choose_on_is_refused_at_the_base(opened: Open) -> None:
    chain = opened(REPAIR)
    make(chain, "base")
    chain.gate.check_splits()
    file = chain.gate.result(chain.plan.node("base").id)
    tree = json.loads(file.read_text())
    for item in tree["probes"]["prose"]["items"]:
        item["split"] = "test"
    file.write_text(json.dumps(tree))
    with pytest.raises(ProbeError, match="probe prose: none of its 400 items is in the dev split"):
        chain.gate.check_splits()
    opened().gate.check_splits()  # which only warns: it chooses nothing
