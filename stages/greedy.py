"""Greedy soup: which of several models make a better average, by a score that somebody else measures."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpt import ids
from cpt.merging.merge import Folders, merge
from cpt.merging.spec import Soup
from cpt.store import replacing

#: A checkpoint folder -> a number; higher is better.
Score = Callable[[Path], float]
Places = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What was chosen: places in `from`, and the score of every average that was tried."""

    places: Places
    scores: dict[Places, float]


def greedy(number: int, score: Callable[[Places], float]) -> Choice:
    """Best first, each further one kept where the average with it scores no less than without it.

    Args:
        number: of models.
        score: of the uniform average of the models in these places, sorted; asked once for each.

    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1.
    """
    scores: dict[Places, float] = {(place,): score((place,)) for place in range(number)}
    order = sorted(range(number), key=lambda place: (-scores[(place,)], place))
    kept: Places = (order[0],)
    for place in order[1:]:
        more = tuple(sorted((*kept, place)))
        scores[more] = score(more)
        if scores[more] >= scores[kept]:
            kept = more
    return Choice(kept, scores)


def chosen(
    folders: Folders,
    soup: Soup,
    score: Score,
    candidate: Path,
    known: Path,
    stage_id: str,
    say: Callable[[str], None],
) -> Choice:
    """The greedy soup of models on disk; an interrupted one measures nothing twice.

    Args:
        folders: the models.
        soup: how averages are written.
        score: measures a checkpoint.
        candidate: where averages are written to be measured, one at a time.
        known: file of the scores so far, and of which stage they are.
        stage_id: of this one.
        say: told each score.
    """
    kept = json.loads(known.read_text()) if known.is_file() else {}
    found: dict[str, float] = kept["scores"] if kept.get("id") == stage_id else {}

    def of(places: Places) -> float:
        key = " ".join(map(str, places))
        if key not in found:
            folder = folders.models[places[0]][1]
            if len(places) > 1:
                with replacing(candidate) as folder:
                    merge(folders.only(places), soup, 0, folder)
                folder = candidate
            found[key] = score(folder)
            ids.atomic_write(known, json.dumps({"id": stage_id, "scores": found}))
            shutil.rmtree(candidate, ignore_errors=True)
        names = " + ".join(folders.models[place][0] for place in places)
        say(f"{names}: {found[key]:.4f}")
        return found[key]

    return greedy(len(folders.models), of)
