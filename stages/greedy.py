"""Greedy soup: which of several models make a better average, by a score that somebody else measures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpt.merging.merge import Folders, merge
from cpt.merging.spec import Soup
from stages.trials import Trials

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


def chosen(folders: Folders, soup: Soup, trials: Trials) -> Choice:
    """The greedy soup of models on disk; `soup` says how averages are written."""

    def score(places: Places) -> float:
        some = folders.only(places)
        label = " + ".join(name for name, _ in some.models)
        key = " ".join(map(str, places))
        if len(places) == 1:
            return trials.of(key, label, some.models[0][1])

        def write(folder: Path) -> None:
            merge(some, soup, 0, folder)

        return trials.of(key, label, write)

    return greedy(len(folders.models), score)
