"""What the gate says of a stage that is made and measured, and what it then puts in its place.

A verdict is a function of results in the store. `gate/<suite>-<rules>.json` in the stage's folder keeps it,
beside the results and not in the manifest: a stage is published once, and chains that share it may judge it
by other rules. Where a result has changed since, the verdict is made anew.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.actions import REMEDIES, Action
from cpt.errors import PlanError, RecipeError
from cpt.hooks.lora import stays_apart
from cpt.plan import Node
from cpt.recipe import Recipe
from cpt.remedy import Judgement, Remedy
from cpt.settings import did_you_mean
from cpt.store import Store
from eval.gate import LEVEL, VERSION, Verdict, judge, reported
from eval.matrix import read_matrix
from eval.probe import result_path
from eval.suite import Suite
from stages.candidates import has_candidates


@dataclass(frozen=True)
class Rules:
    """The gate's settings, resolved for every probe of the suite."""

    margins: Mapping[str, float]
    actions: Mapping[str, Action]

    def content(self) -> dict[str, Any]:
        """What of them enters the id of what a gate makes."""
        return {"margins": dict(self.margins), "actions": dict(self.actions), "level": LEVEL}


@dataclass(frozen=True)
class Gate:
    """The gate of a chain: recipe, suite and store."""

    recipe: Recipe
    suite: Suite | None
    store: Store

    @cached_property
    def rules(self) -> Rules:
        """See `Rules`; empty without a suite."""
        spec, probes = self.recipe.gate, self.suite.probes if self.suite else {}
        return Rules(
            {name: spec.margin_of(name, probe.margin) for name, probe in probes.items()},
            {name: spec.action(name) for name in probes},
        )

    def may(self, *actions: Action) -> bool:
        """Whether a regression of some probe can lead to one of these."""
        return not set(actions).isdisjoint(self.rules.actions.values())

    def judgement(self, node: Node) -> Judgement:
        """What planning is told of a stage; see `cpt.remedy`."""
        self.check_stage(node)
        if self.suite is None or not self.may(*REMEDIES):
            return Judgement()
        if not all(self._is_measured(stage_id) for stage_id in (self._base_id, node.id)):
            return Judgement(is_known=False)
        kind = self._action(node)
        if kind == "rollback" or kind == "repair":
            return Judgement(remedy=Remedy(kind, self._inputs(kind, node)))
        return Judgement()

    def check_stage(self, node: Node) -> None:
        """Refuse a remedy that the stage cannot have.

        Raises:
            PlanError: says what to write instead.
        """
        if not self.may(*REMEDIES) or node.spec is None:
            return
        where = f"{node.spec.file}: gate.on_regression"
        action = "repair" if self.may("repair") else "rollback"
        if stays_apart([hook for _, hook in node.hooks]):
            raise PlanError(
                f"{where}: {action}: {node.name} keeps its adapter apart, and later stages start below it, "
                f"so there is nothing to go back to; write on_regression: stop or warn, or "
                f"lora: {{after: merge}}"
            )
        if self.may("repair") and node.spec.model and node.spec.model.add_tokens:
            raise PlanError(
                f"{where}: repair: {node.name} adds tokens (model: add_tokens), and embeddings that its "
                f"parent lacks have no average with it; add them in the chain's model config, or write "
                f"on_regression: rollback"
            )

    def warnings(self, nodes: Sequence[Node]) -> list[str]:
        """Where a rollback knows nothing between a stage's parent and its result."""
        spec = self.recipe.gate
        if not self.may("rollback") or not spec.candidates:
            return []
        found = []
        for node in nodes:
            if node.spec is None or node.spec.merge is not None or self.store.is_done(node.id):
                continue
            why = ""
            if not has_candidates(node.spec, [hook for _, hook in node.hooks]):
                why = "its weights on the way are no checkpoint that opens alone"
            elif not (node.spec.checkpoint_every or self.recipe.checkpoint_every):
                why = "set checkpoint_every for candidates within the stage"
            found += [f"{node.name}: rollback knows its parent alone: {why}"] if why else []
        return found

    def verdict(self, node: Node) -> Verdict:
        """The gate's word on a stage that is measured, or on what a gate made."""
        return self.verdict_on(node.name, self.result(node.id), bool(node.stands_for))

    def verdict_on(self, name: str, result: Path, is_remedy: bool = False) -> Verdict:
        """The gate's word on the checkpoint with this result; see `eval.gate.judge`."""
        assert self.suite is not None
        gate = self.recipe.gate
        rows = [("base", self._base_id, self.result(self._base_id)), (name, name, result)]
        return judge(
            reported(read_matrix(rows, self.suite.name, self.suite.hash), self.rules.margins),
            name,
            gate.margin,
            gate.on_regression,
            actions=self.rules.actions,
            is_remedy=is_remedy,
        )

    def result(self, stage_id: str) -> Path:
        """The suite's result on a stage."""
        assert self.suite is not None
        return result_path(self.store.stage(stage_id), self.suite)

    def file(self, stage_id: str) -> Path:
        """Where the verdict on a stage is kept."""
        assert self.suite is not None
        key = {"suite": self.suite.hash, "version": VERSION, **self.rules.content()}
        name = f"{self.suite.name}-{ids.short_hash(key)}.json"
        return self.store.stage(stage_id) / "gate" / name

    def record(self, node: Node, verdict: Verdict) -> dict[str, Any]:
        """Keep a verdict, and return it as JSON."""
        assert self.suite is not None
        told = {
            "version": VERSION,
            "stage": node.name,
            "id": node.id,
            "suite": f"{self.suite.name}-{self.suite.hash}",
            **self.rules.content(),
            **{key: value for key, value in asdict(verdict).items() if key != "stage"},
            "results": self._digests(node.id),
        }
        text = json.dumps(told, indent=1) + "\n"
        file = self.file(node.id)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            ids.atomic_write(file, text)
        return told

    def new_skill(self, stage: str) -> list[str]:
        """The probes of what a stage is to learn: those that say so, else those of the domain."""
        assert self.suite is not None
        probes = self.suite.probes.items()
        own = [name for name, probe in probes if getattr(probe, "owner", "") == stage]
        return own or [name for name, probe in probes if probe.group == "domain"]

    @property
    def _base_id(self) -> str:
        return self.recipe.model.id()

    def _is_measured(self, stage_id: str) -> bool:
        return self.store.is_done(stage_id) and self.result(stage_id).is_file()

    def _action(self, node: Node) -> str:
        """The action that was recorded for these very results; else judged now."""
        try:
            known = json.loads(self.file(node.id).read_text(encoding="utf-8"))
            if known["results"] == self._digests(node.id):
                return str(known["action"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is damaged: it can be made again
        return self.verdict(node).action

    def _digests(self, stage_id: str) -> dict[str, str]:
        return {each: ids.sha256_file(self.result(each)) for each in (self._base_id, stage_id)}

    def _inputs(self, kind: str, node: Node) -> dict[str, Any]:
        """What the id of what a gate makes hashes."""
        assert self.suite is not None
        spec = self.recipe.gate
        inputs = {
            "kind": kind,
            "version": VERSION,
            "result": node.id,
            "suite": self.suite.hash,
            "skill": self.new_skill(node.name),
            **self.rules.content(),
        }
        if kind == "repair":
            return {**inputs, "attempts": spec.attempts}
        left = manifest.read(self.store.stage(node.id)).checks.get("candidates", [])
        return {**inputs, "candidates": list(left) if spec.candidates else []}


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
    problems = [
        f"{where}.probes: {suite.path} has no {name!r}{did_you_mean(name, suite.probes)}"
        for name in gate.probes
        if name not in suite.probes
    ]
    if problems:
        raise RecipeError("\n".join(problems))
