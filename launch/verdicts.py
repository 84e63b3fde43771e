"""What the gate says of a stage that is made and measured, and what it then puts in its place.

A verdict is a function of results in the store. `gate/<suite>-<rules>.json` in the stage's folder keeps it,
beside the results and not in the manifest: a stage is published once, and chains that share it may judge it
by other rules. Where a result has changed since, the verdict is made anew.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.actions import REMEDIES
from cpt.plan import Node
from cpt.recipe import Recipe
from cpt.remedy import Judgement, Remedy
from cpt.store import Store
from eval.gate import VERSION, Verdict, judge, reported
from eval.matrix import read_matrix
from eval.noise import read_noise, second_of
from eval.probe import result_path
from eval.suite import Suite
from eval.template import across, declared_by
from launch.gate_rules import Rules, check_stage, rules_of


@dataclass(frozen=True)
class Gate:
    """The gate of a chain: recipe, suite and store."""

    recipe: Recipe
    suite: Suite | None
    store: Store

    @cached_property
    def rules(self) -> Rules:
        """The settings, resolved."""
        return rules_of(self.recipe, self.suite)

    @cached_property
    def templates(self) -> frozenset[str]:
        """Chat templates that stages declare, across which they are compared; see `eval.template`."""
        changes = [stage.model for stage in self.recipe.stages.values()]
        return declared_by(change.content() for change in changes if change)

    def judgement(self, node: Node) -> Judgement:
        """What planning is told of a stage; see `cpt.remedy`."""
        check_stage(node, self.rules)
        if self.suite is None or not self.rules.may(*REMEDIES):
            return Judgement()
        if not all(self._is_measured(stage_id) for stage_id in (self._base_id, node.id)):
            return Judgement(is_known=False)
        match self._action(node):
            case "rollback":
                return Judgement(remedy=Remedy("rollback", self._inputs("rollback", node)))
            case "repair":
                return Judgement(remedy=Remedy("repair", self._inputs("repair", node)))
        return Judgement()

    def verdict(self, node: Node) -> Verdict:
        """The gate's word on a stage that is measured, or on what a gate made."""
        return self.verdict_on(node.name, self.result(node.id), bool(node.stands_for))

    def verdict_on(self, name: str, result: Path, is_remedy: bool = False) -> Verdict:
        """The gate's word on the checkpoint with this result; see `eval.gate.judge`."""
        assert self.suite is not None
        gate = self.recipe.gate
        rows = [("base", self._base_id, self.result(self._base_id)), (name, name, result)]
        matrix = across(read_matrix(rows, self.suite.name, self.suite.hash), self.templates)
        return judge(
            reported(matrix, self.rules.margins),
            name,
            gate.margin,
            gate.on_regression,
            self.rules.num_stages,
            read_noise(self.result(self._base_id), self.suite.hash),
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
        own = [name for name, probe in probes if probe.owner == stage]
        domain = [name for name, probe in probes if probe.group == "domain"]
        return own or [name for name in domain if self.suite.probes[name].direction != "none"]

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
        files = {each: self.result(each) for each in (self._base_id, stage_id)}
        second = second_of(files[self._base_id])
        files |= {"base again": second} if second.is_file() else {}
        return {name: ids.sha256_file(file) for name, file in files.items()}

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
