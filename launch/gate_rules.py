"""The gate's settings for every probe, and what of them a chain or a stage cannot have; all when planning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpt.actions import REMEDIES, Action
from cpt.errors import PlanError, RecipeError
from cpt.hooks.lora import stays_apart
from cpt.plan import Node
from cpt.recipe import Recipe
from cpt.settings import did_you_mean
from cpt.store import Store
from eval.gate import LEVEL
from eval.suite import Suite
from stages.candidates import has_candidates


@dataclass(frozen=True)
class Rules:
    """The gate's settings, resolved for every probe of the suite.

    Attributes:
        margins: none for a probe of which neither direction is better and that has none of its own.
        num_stages: of the recipe, which share the level: none of their probes may seem to have regressed by
            chance, more often than that.
    """

    margins: Mapping[str, float]
    actions: Mapping[str, Action]
    num_stages: int = 1

    def content(self) -> dict[str, Any]:
        """What of them enters the id of what a gate makes."""
        return {
            "margins": dict(self.margins),
            "actions": dict(self.actions),
            "level": LEVEL,
            "num_stages": self.num_stages,
        }

    def may(self, *actions: Action) -> bool:
        """Whether a regression of some probe can lead to one of these."""
        return not set(actions).isdisjoint(self.actions.values())


def rules_of(recipe: Recipe, suite: Suite | None) -> Rules:
    """The gate's settings for a suite; empty without one."""
    gate, probes = recipe.gate, suite.probes if suite else {}
    own = {name for name, probe in gate.probes.items() if probe.margin is not None}
    return Rules(
        {
            name: gate.margin_of(name, probe.margin)
            for name, probe in probes.items()
            if probe.direction != "none" or probe.margin is not None or name in own
        },
        {name: gate.action(name) for name in probes},
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


def warnings(nodes: Sequence[Node], recipe: Recipe, rules: Rules, store: Store) -> list[str]:
    """Where a rollback knows nothing between a stage's parent and its result."""
    if not rules.may("rollback") or not recipe.gate.candidates:
        return []
    found = []
    for node in nodes:
        if node.spec is None or node.spec.merge is not None or store.is_done(node.id):
            continue
        why = ""
        if not has_candidates(node.spec, [hook for _, hook in node.hooks]):
            why = "its weights on the way are no checkpoint that opens alone"
        elif not (node.spec.checkpoint_every or recipe.checkpoint_every):
            why = "set checkpoint_every for candidates within the stage"
        found += [f"{node.name}: rollback knows its parent alone: {why}"] if why else []
    return found
