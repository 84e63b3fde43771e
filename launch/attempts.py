"""What a gate tries in a stage's place: checkpoints, each measured once and kept as soon as it is."""

import gc
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.plan import Node
from cpt.store import replacing
from eval.choice import Chooser, Look
from eval.matrix import Row, read_row
from eval.probe import probe_model
from launch import attempt_files
from launch.console import Console
from launch.in_memory import load
from launch.opening import Chain

CANDIDATE = "candidate"
#: Of an attempt, beside its probe result: seconds that its weights took.
MERGING = "merging"


@dataclass
class Attempts:
    """The attempts of one gate's node.

    Attributes:
        partial: where the node is made.
        made: what the manifest says of each.
    """

    chain: Chain
    node: Node
    partial: Path
    load: dict[str, Any]
    console: Console
    made: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """What writing and measuring them took."""
        return {"merge": self._sum(MERGING), "probe attempts": self._sum("seconds")}

    @property
    def suite(self) -> Any:
        """The chain's."""
        assert self.chain.suite is not None
        return self.chain.suite

    @cached_property
    def chooser(self) -> Chooser:
        """Judges them against the base model and the parent."""
        rules = self.chain.gate.rules
        compared = self.chain.plan.nodes[0].id, self.node.merged[1]
        base, parent = (self._row(stage, self.chain.gate.result(stage)) for stage in compared)
        return Chooser(base, parent, rules.margins, rules.actions, self.node.inputs["skill"])

    def measure(
        self, key: str, label: str, what: dict[str, Any], write: Callable[[Path], None]
    ) -> Look:
        """Measure a checkpoint, unless that was done before an interruption."""
        file = self.file(key)
        if not file.is_file():
            since = time.monotonic()
            with replacing(self.partial / CANDIDATE) as empty:
                write(empty)
            merging = round(time.monotonic() - since, 2)
            result = self._measured(self.partial / CANDIDATE, label) | {MERGING: merging}
            ids.atomic_write(file, json.dumps(result, ensure_ascii=False, allow_nan=False))
            shutil.rmtree(self.partial / CANDIDATE)
        look = self.chooser.look(self._row(key, file))
        result = json.loads(file.read_text(encoding="utf-8"))
        took = {"seconds": result["seconds"], MERGING: result.get(MERGING, 0.0)}
        self.made.append({**what, **look.told(), **took})
        verdict = "within every margin" if look.is_within else f"beyond: {', '.join(look.beyond)}"
        self.console.say(
            f"{self.node.name}: {label}: {verdict}; new skill {look.skill:+.2f} margins"
        )
        return look

    def earlier(self) -> dict[str, int]:
        """Attempts of other gates on the same result, by node."""
        stage_id = self.chain.plan.node(self.node.stands_for).id
        return attempt_files.earlier(self.chain.store.stages, stage_id, self.partial)

    def file(self, key: str) -> Path:
        """The result of an attempt."""
        return self.partial / attempt_files.FOLDER / f"{key}.json"

    def _measured(self, folder: Path, label: str) -> dict[str, Any]:
        import torch

        model, tokenizer = load(str(folder), self.load)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        result = probe_model(
            model,
            tokenizer,
            self.suite,
            cache=self.chain.store.cache,
            stage_id=self.node.id,
            progress=self.console.progress(f"{self.node.name}: {label.partition(':')[0]}: "),
            verbose=self.console.verbose,
        )
        del model
        gc.collect()
        return result

    def _row(self, name: str, file: Path) -> Row:
        row = read_row(name, name, file, self.suite.hash)
        return replace(row, templates=self.chain.gate.templates)

    def _sum(self, what: str) -> float:
        return round(sum(float(attempt[what]) for attempt in self.made), 2)
