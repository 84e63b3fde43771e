"""What a gate puts in a stage's place, made: candidates or averages measured, one chosen, published.

In one process, as merges are, on whatever backend the chain runs. An interrupted gate measures no attempt
twice, and forgets none: `launch.attempts`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cpt import checkpoint, ids, manifest
from cpt.errors import StoreError
from cpt.plan import Node
from eval.choice import Look
from eval.probe import result_path
from launch import attempt_files
from launch.attempt_files import FOLDER
from launch.attempts import CANDIDATE, MERGING, Attempts
from launch.console import Console
from launch.opening import Chain, shown
from stages.candidates import kept, write_candidate
from stages.remedy import Place, finish, take, take_parent
from stages.repair import ROUNDING, Shares, num_groups, search, write_average


def make_remedy(chain: Chain, node: Node, load: dict[str, Any], console: Console) -> None:
    """Make what a gate puts in a stage's place, with its probe result, or continue where it was interrupted.

    Args:
        chain: whose gate it is.
        node: of the gate.
        load: dtype, attention and trust_remote_code.
        console: told what happens.

    Raises:
        StoreError: a checkpoint is damaged, or another chain removed candidates since the plan was made.
        EdgeError: parent and result cannot be averaged.
    """
    with chain.store.lock(node.id, console.say):
        if chain.is_finished(node):
            return
        _Remedy(chain, node, load, console).make()


@dataclass
class _Remedy:
    chain: Chain
    node: Node
    load: dict[str, Any]
    console: Console

    def make(self) -> None:
        """Choose, write, publish."""
        from cpt.memory import keep_freed_memory

        keep_freed_memory()
        place = self.place
        place.partial.mkdir(parents=True, exist_ok=True)
        attempt_files.begin(place.partial, self.stage.id)
        checkpoint.verify_stage(place.result)
        checkpoint.verify_stage(place.parent)
        gate, stage = self.chain.gate, self.stage
        verdict = gate.verdict(stage)
        regressed = verdict.messages[: len(verdict.regressed)]
        told = "".join(f"\n  {message}" for message in regressed)
        self.console.say(f"the gate acts after {stage.name}: {place.kind}{told}")
        chosen = self._rollback() if place.kind == "rollback" else self._repair()
        result = json.loads(chosen.result.read_text(encoding="utf-8"))
        # The seconds of its attempts are in the manifest.
        result |= {"stage": self.node.id, "seconds": 0.0}
        result.pop(MERGING, None)
        own = result_path(place.partial, self.attempts.suite)
        ids.atomic_write(own, json.dumps(result, ensure_ascii=False, allow_nan=False))
        made = {
            "verdict": gate.record(stage, verdict),
            "chosen_on": "dev" if self.attempts.chooser.is_split else "all",
            "without_dev": self.attempts.chooser.without_dev,
            "attempts": self.attempts.made,
            "earlier": self.attempts.earlier(),
            "chosen": chosen.what,
            "shares": list(chosen.shares),
            "step": chosen.step,
        }
        leftovers = (FOLDER, CANDIDATE, f"{CANDIDATE}.partial", "checkpoint.partial")
        note = f"{len(self.attempts.made)} attempts; taken: {chosen.what}"
        notes = [note]
        if chosen.is_parent:
            notes.append(
                f"rows, adapter and memory are still those of {stage.name}, whose weights are gone: later "
                f"stages that recall it rehearse what it was trained on"
            )
        if without := self.attempts.chooser.without_dev:
            notes.append(f"without dev items, chosen on what is reported: {', '.join(without)}")
        finish(place, self.node.inputs, made, notes, self.attempts.seconds, leftovers)
        self.console.say(f"{self.node.name}: {note}, in {shown(place.output)}")

    @cached_property
    def place(self) -> Place:
        store, (result, parent) = self.chain.store, self.node.merged
        return Place(
            self.node.id,
            "repair" if self.node.kind == "repair" else "rollback",
            store.stage(result),
            store.stage(parent),
            store.stage(self.node.id),
            self.load,
        )

    @property
    def stage(self) -> Node:
        """The one that regressed."""
        return self.chain.plan.node(self.node.stands_for)

    @cached_property
    def attempts(self) -> Attempts:
        """Those before an interruption count."""
        return Attempts(self.chain, self.node, self.place.partial, self.load, self.console)

    def _rollback(self) -> "_Chosen":
        """The candidate with the most new skill that passes, else the parent.

        It must keep every margin on the items for choosing, and pass the gate on those that are reported; and
        learn no less than the parent, whose new skill is 0.
        """
        there, result = self._candidates(), self.place.result / "checkpoint"
        start = self.place.start if there else ""

        def writes(step: int) -> Callable[[Path], None]:
            return lambda empty: write_candidate(there[step], result, start, empty, self.load)

        seen: dict[int, Look] = {}
        for number, step in enumerate(there, start=1):
            label = f"attempt {number} of {len(there)}: step {step}"
            seen[step] = self.attempts.measure(f"step-{step}", label, {"step": step}, writes(step))
        fit = [step for step, look in seen.items() if look.is_within and look.skill >= -ROUNDING]
        for step in sorted(fit, key=lambda step: (seen[step].skill, step), reverse=True):
            file = self.attempts.file(f"step-{step}")
            if self.chain.gate.verdict_on(f"step {step}", file).action in ("pass", "warn"):
                take(self.place, writes(step))
                return _Chosen(f"step {step} of {self.stage.name}", file, step=step)
        return self._parent()

    def _candidates(self) -> dict[int, Path]:
        """The checkpoints of the stage that the node's id promises to look at."""
        promised = self.node.inputs["candidates"]
        there = {
            step: folder for step, folder in kept(self.place.result).items() if step in promised
        }
        if lost := [step for step in promised if step not in there]:
            raise StoreError(
                f"{self.stage.name}: its candidates (step {', '.join(map(str, lost))}) were removed by "
                f"another chain's verdict meanwhile; run the same command again to go back to its parent, "
                f"or move {shown(self.place.result)} away first, and it is trained anew"
            )
        return there

    def _repair(self) -> "_Chosen":
        """The average of parent and result with the most new skill within every margin, else the parent."""
        result, parent = (
            folder / "checkpoint" for folder in (self.place.result, self.place.parent)
        )
        groups, most = num_groups(result, parent), int(self.node.inputs["attempts"])

        def writes(shares: Shares) -> Callable[[Path], None]:
            return lambda empty: write_average(result, parent, shares, empty)

        def see(shares: Shares) -> Look:
            label = f"attempt {len(self.attempts.made) + 1} of {most}: {_told(shares)} of {self.stage.name}"
            return self.attempts.measure(
                _key(shares), label, {"shares": list(shares)}, writes(shares)
            )

        best = search(see, groups, most)
        if best is None:
            return self._parent()
        take(self.place, writes(best))
        what = f"{_told(best)} of {self.stage.name}"
        return _Chosen(what, self.attempts.file(_key(best)), shares=best)

    def _parent(self) -> "_Chosen":
        take_parent(self.place)
        name = manifest.read(self.place.parent).name
        why = "none keeps every margin and learned something"
        if not self.attempts.made:
            why = f"nothing is left between it and {self.stage.name}"
        elif not any(attempt["is_within"] for attempt in self.attempts.made):
            why = "none keeps every margin"
        self.console.say(f"{self.node.name}: {why}; {name} is taken")
        result = self.chain.gate.result(self.node.merged[1])
        return _Chosen(f"the parent, {name}", result, is_parent=True)


@dataclass(frozen=True)
class _Chosen:
    """What is taken: in words, and the probe result that it has."""

    what: str
    result: Path
    shares: Shares = ()
    step: int | None = None
    is_parent: bool = False


def _told(shares: Shares) -> str:
    """Such as 0.625, or 0.625/0.625/1/0.625 from the embeddings up."""
    return "/".join(f"{share:g}" for share in (shares if len(set(shares)) > 1 else shares[:1]))


def _key(shares: Shares) -> str:
    return "shares-" + "-".join(f"{share:g}" for share in shares)
