"""The gate's settings for every probe, and what of them a chain or a stage cannot have; all when planning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpt import manifest
from cpt.actions import REMEDIES, Action
from cpt.errors import PlanError, RecipeError
from cpt.hooks.lora import stays_apart
from cpt.plan import Node
from cpt.recipe import Recipe
from cpt.settings import did_you_mean
from cpt.store import Store
from eval.gate import LEVEL, margins_of
from eval.suite import Suite
from stages.candidates import has_candidates


@dataclass(frozen=True)
class Rules:
    """The gate's settings, resolved for every probe of the suite.

    Attributes:
        margins: none for a probe of which neither direction is better and that has none of its own.
        actions: all of them `warn` in a baseline, which shows what happens without a gate.
        num_stages: of the recipe, which share the level: none of their probes may seem to have regressed by
            chance, more often than that.
    """

    margins: Mapping[str, float]
    actions: Mapping[str, Action]
    num_stages: int = 1

    def content(self) -> dict[str, Any]:
        """What of them decides which checkpoint is chosen, and so enters the id of what a gate makes.

        The choice is made by point estimates: neither the level nor the number of stages that share it
        changes it, and a stage that is appended to a recipe moves no such id.
        """
        return {"margins": dict(self.margins), "actions": dict(self.actions)}

    def tests(self) -> dict[str, Any]:
        """What of them decides about a verdict, beside the content."""
        return {"level": LEVEL, "num_stages": self.num_stages}

    def may(self, *actions: Action) -> bool:
        """Whether a regression of some probe can lead to one of these."""
        return not set(actions).isdisjoint(self.actions.values())


def rules_of(recipe: Recipe, suite: Suite | None) -> Rules:
    """The gate's settings for a suite; empty without one."""
    gate, probes = recipe.gate, suite.probes if suite else {}
    own = {name: probe.margin for name, probe in gate.probes.items() if probe.margin is not None}
    return Rules(
        margins_of(probes.values(), gate.margin, own),
        {name: "warn" if recipe.baseline else gate.action(name) for name in probes},
        len(recipe.stages),
    )


def check_gate(recipe: Recipe, suite: Suite | None) -> None:
    """Refuse rules for probes that are not there.

    Raises:
        RecipeError: names the nearest right word.
    """
    gate, where = recipe.gate, f"{recipe.file}: gate"
    if suite is None:
        needs = bool(gate.probes) or gate.on_regression in REMEDIES
        if needs and recipe.probes is None:
            raise RecipeError(
                f"{where}: {'probes' if gate.probes else f'on_regression: {gate.on_regression}'}: "
                f"the chain measures nothing; name a suite under `probes:`"
            )
        return
    if suite.backend != "hf" and rules_of(recipe, suite).may(*REMEDIES):
        raise RecipeError(
            f"{where}.on_regression: rollback and repair measure checkpoints in memory, and suite "
            f"{suite.name} has backend: {suite.backend}; write backend: hf there, or on_regression: stop"
        )
    if gate.noise and suite.backend != "hf":
        raise RecipeError(
            f"{where}: noise: the base model is measured twice in memory, and {suite.path} has backend: "
            f"{suite.backend}; remove one of them"
        )
    problems = [
        f"{where}.probes: {suite.path} has no {name!r}{did_you_mean(name, suite.probes)}"
        for name in gate.probes
        if name not in suite.probes
    ]
    if problems:
        raise RecipeError("\n".join(problems))


def check_stage(node: Node, rules: Rules) -> None:
    """Refuse a remedy that the stage cannot have.

    Raises:
        PlanError: says what to write instead.
    """
    if not rules.may(*REMEDIES) or node.spec is None:
        return
    where = f"{node.spec.file}: gate.on_regression"
    action = "repair" if rules.may("repair") else "rollback"
    if stays_apart([hook for _, hook in node.hooks]):
        raise PlanError(
            f"{where}: {action}: {node.name} keeps its adapter apart, and later stages start below it, "
            f"so there is nothing to go back to; write on_regression: stop or warn, or "
            f"lora: {{after: merge}}"
        )
    if rules.may("repair") and node.spec.model and node.spec.model.add_tokens:
        raise PlanError(
            f"{where}: repair: {node.name} adds tokens (model: add_tokens), and embeddings that its "
            f"parent lacks have no average with it; add them in the chain's model config, or write "
            f"on_regression: rollback"
        )


def without_effect(recipe: Recipe, suite: Suite | None) -> list[str]:
    """Settings of the gate that decide nothing."""
    gate, where = recipe.gate, f"{recipe.file}: gate"
    if suite is None:
        return []
    rules, found = rules_of(recipe, suite), list[str]()
    acts = {gate.on_regression, *(own.on_regression for own in gate.probes.values())}
    if recipe.baseline and acts - {"warn", None}:
        found.append(
            f"{where}: baseline {recipe.baseline}: regressions are told, and nothing is stopped or replaced"
        )
    own = [name for name, probe in gate.probes.items() if probe.margin is not None]
    if "margin" in gate.model_fields_set and all(
        suite.probes[name].margin is not None or name in own for name in rules.margins
    ):
        found.append(
            f"{where}.margin: has no effect: every probe of {suite.path} has a margin of its own, which goes "
            f"first; write gate.probes.<name>.margin"
        )
    return found + [
        f"{where}.probes.{name}.on_regression: has no effect: neither direction of {name} is better, and "
        f"it has no margin; write one beside it"
        for name, probe in gate.probes.items()
        if probe.on_regression is not None and name not in rules.margins
    ]


def warnings(nodes: Sequence[Node], recipe: Recipe, rules: Rules, store: Store) -> list[str]:
    """Where a rollback knows nothing between a stage's parent and its result, and what then still goes on."""
    found = _recalled_though_undone(nodes, store)
    if not rules.may("rollback") or not recipe.gate.candidates:
        return found
    for node, after in zip(nodes, [*nodes[1:], None], strict=True):
        if node.spec is None or node.spec.merge is not None:
            continue
        why = ""
        if store.is_done(node.id):
            if after is not None and after.kind == "rollback" and not store.is_done(after.id):
                why = "" if after.inputs["candidates"] else _why_none(node, store)
        elif not has_candidates(node.spec, [hook for _, hook in node.hooks]):
            why = "its weights on the way are no checkpoint that opens alone"
        elif not (node.spec.checkpoint_every or recipe.checkpoint_every):
            why = "set checkpoint_every for candidates within the stage"
        found += [f"{node.name}: rollback knows its parent alone: {why}"] if why else []
    return found


def _why_none(node: Node, store: Store) -> str:
    """Why a stage that is made has no candidates: chains with other gates share it."""
    folder = store.stage(node.id)
    why = "it was trained without candidates"
    if manifest.read(folder).checks.get("candidates"):
        why = "its candidates were removed after an earlier verdict"
    return f"{why}; move {folder} away, and it is trained anew with them"


def _recalled_though_undone(nodes: Sequence[Node], store: Store) -> list[str]:
    """Hooks that go on with rows or memory of a training of which the gate kept no weights."""
    found = []
    for number, made in enumerate(nodes):
        if not made.stands_for or not store.is_done(made.id):
            continue
        chosen = manifest.read(store.stage(made.id)).checks.get("gate", {})
        if chosen.get("step") is not None or chosen.get("shares"):
            continue
        for node in nodes[number + 1 :]:
            if node.spec is None or store.is_done(node.id):
                continue
            for name, hook in node.hooks:
                own, before = hook.recalls(), node.parents.get("parent") == made.id
                if {"all", made.stands_for} & {*own} or ("previous" in own and before):
                    found.append(
                        f"{node.name}: {name} recalls {made.stands_for}, whose training the gate undid: rows "
                        f"and memory are still those of {made.stands_for}; name other stages under `of`, if "
                        f"they are to go too"
                    )
    return found
