"""Candidates of a merge, written and scored one at a time; an interrupted stage scores none twice."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpt import ids
from cpt.store import replacing

#: A checkpoint folder -> a number; higher is better.
Score = Callable[[Path], float]


@dataclass(frozen=True)
class Trials:
    """Scores of candidates.

    Attributes:
        score: measures a checkpoint.
        candidate: where one is written to be measured, if it is not there already.
        known: file of the scores so far, and of which stage they are.
        stage_id: of this one.
        say: told each score.
    """

    score: Score
    candidate: Path
    known: Path
    stage_id: str
    say: Callable[[str], None]

    def of(self, key: str, label: str, made: Path | Callable[[Path], object]) -> float:
        """The score of a candidate.

        Args:
            key: what it is, among the candidates of this stage.
            label: what to call it.
            made: its folder, or what writes it into an empty one.
        """
        found = self._read()
        if key not in found:
            if isinstance(made, Path):
                found[key] = self.score(made)
            else:
                with replacing(self.candidate) as folder:
                    made(folder)
                found[key] = self.score(self.candidate)
            ids.atomic_write(self.known, json.dumps({"id": self.stage_id, "scores": found}))
            shutil.rmtree(self.candidate, ignore_errors=True)
        self.say(f"{label}: {found[key]:.4f}")
        return found[key]

    def _read(self) -> dict[str, float]:
        kept = json.loads(self.known.read_text()) if self.known.is_file() else {}
        return dict(kept["scores"]) if kept.get("id") == self.stage_id else {}
