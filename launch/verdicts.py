"""What the gate says of a stage that is made and measured, and what it then puts in its place.

A verdict is a function of results in the store. `gate/<suite>-<rules>.json` in the stage's folder keeps it,
beside the results and not in the manifest: a stage is published once, and chains that share it may judge it
by other rules. Where a result has changed since, the verdict is made anew.

Its name hashes the rules, the level and the number of stages that share it: in a recipe that became longer a
stage is tested at a smaller part of the level, and one that fell barely further than its margin may then be
undecided. What a gate made hashes less (see `Gate._inputs`): where the verdict is the same, so is its id.
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
from eval.choice import Chooser
from eval.gate import VERSION, Verdict, judge, reported
from eval.matrix import read_matrix, read_row
from eval.noise import read_noise, second_of
from eval.probe import result_path
from eval.split import only
from eval.suite import Suite
from eval.template import across, declared_by
from launch.gate_rules import Rules, check_stage, rules_of
from stages.candidates import kept


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
        if len(set(node.merged)) > 1 and not all(map(self._is_measured, node.merged)):
            return Judgement(is_known=False)
        match self._action(node):
            case "rollback":
                return Judgement(remedy=self._rollback(node))
            case "repair":
                inputs = {**self._inputs("repair", node), "attempts": self.recipe.gate.attempts}
                return Judgement(remedy=Remedy("repair", inputs, self._parent(node)))
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
            "warn" if self.recipe.baseline else gate.on_regression,
            self.rules.num_stages,
            read_noise(self.result(self._base_id), self.suite.hash),
            actions=self.rules.actions,
            is_remedy=is_remedy,
        )

    def check_splits(self) -> None:
        """Refuse a suite that has a probe without items to report or, where the gate chooses, to choose on.

        Told once the base model is measured: later a stage would have been trained for nothing.

        Raises:
            ProbeError: which probe.
        """
        assert self.suite is not None
        row = read_row("base", self._base_id, self.result(self._base_id), self.suite.hash)
        only(row, "test")
        if self.rules.may(*REMEDIES):
            only(row, "dev")

    def result(self, stage_id: str) -> Path:
        """The suite's result on a stage."""
        assert self.suite is not None
        return result_path(self.store.stage(stage_id), self.suite)

    def file(self, stage_id: str) -> Path:
        """Where the verdict on a stage is kept."""
        assert self.suite is not None
        rules = {**self.rules.content(), **self.rules.tests()}
        key = {"suite": self.suite.hash, "version": VERSION, **rules}
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
            **self.rules.tests(),
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

    def _rollback(self, node: Node) -> Remedy:
        """Back to a candidate, of those that are there, or to the parent.

        Once it is made they are removed, and it stays the one whose id names them. A chain with other rules
        that comes later has none to choose among.
        """
        folder, parent = self.store.stage(node.id), self._parent(node)
        inputs = self._inputs("rollback", node)
        left = list(manifest.read(folder).checks.get("candidates", []))
        promised = left if self.recipe.gate.candidates else []
        remedy = Remedy("rollback", {**inputs, "candidates": promised}, parent)
        if self.store.is_done(remedy.id):
            return remedy
        there = [step for step in kept(folder) if step in promised]
        return Remedy("rollback", {**inputs, "candidates": there}, parent)

    def _inputs(self, kind: str, node: Node) -> dict[str, Any]:
        """What the id of what a gate makes hashes: all that its choice depends on."""
        assert self.suite is not None
        inputs = {
            "kind": kind,
            "version": VERSION,
            "result": node.id,
            "suite": self.suite.hash,
            "skill": self.new_skill(node.name),
            **self.rules.content(),
        }
        return {**inputs, "parent": self._parent(node)} if len(set(node.merged)) > 1 else inputs

    def _parent(self, node: Node) -> str:
        """What a stage goes back to.

        Of several that it merges the one with the fewest probes beyond their margins, then with the most new
        skill, then the first that it names.
        """
        several = list(dict.fromkeys(node.merged))
        if len(several) == 1:
            return several[0]
        assert self.suite is not None
        base, *rows = (
            read_row(each, each, self.result(each), self.suite.hash)
            for each in (self._base_id, *several)
        )
        rules, skill = self.rules, self.new_skill(node.name)
        chooser = Chooser(base, base, rules.margins, rules.actions, skill)
        looks = {row.id: chooser.look(row) for row in rows}
        return max(several, key=lambda each: (-len(looks[each].beyond), looks[each].skill))
