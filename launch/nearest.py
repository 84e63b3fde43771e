"""What a backend cannot honour of a chain's stages, and the backend nearest to it that can.

One function says whether a stage runs on a backend: plans, stages by hand and `cpt methods` ask it, so that
none of them names a way out that another one refuses.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cpt.errors import PlanError
from launch.backend import BACKENDS, Backend

# How much of a training each base spreads; the nearest is the least step away on it.
_STEP = {"single": 0, "ddp": 1, "zero1": 2, "zero2": 3, "zero3": 4, "fsdp2": 4}


@dataclass(frozen=True)
class Asked:
    """What a stage asks of a backend.

    Attributes:
        where: its file.
        needs: (key of a hook, what it needs).
        facts: those of `launch.refusals` that hold of it.
    """

    where: str
    needs: frozenset[tuple[str, str]]
    facts: frozenset[str]


@dataclass(frozen=True)
class Refused:
    """One thing that a backend cannot honour: where it stands, why, and what else to set, if anything."""

    where: str
    reason: str
    instead: str = ""


def refused(chosen: Backend, stage: Asked) -> list[Refused]:
    """All that a backend cannot honour of a stage."""
    if chosen.unfinished:
        return [Refused("", chosen.unfinished)]
    lines = [
        Refused(f"{stage.where}: hooks.{key}: ", f"does not give {need!r}")
        for key, need in sorted(stage.needs)
        if need not in chosen.gives
    ]
    return lines + [
        Refused(f"{stage.where}: ", refusal.reason, refusal.instead)
        for refusal in chosen.refusals(stage.facts)
    ]


def nearest(
    chosen: Backend, stages: Sequence[Asked], fits: Callable[[Backend], bool] = lambda _: True
) -> Backend | None:
    """The backend nearest to `chosen` that honours all of every stage; None if there is none.

    Nearest: on as many machines before all, then with its states where they were, then the least step
    between what is spread; of two equally far the one that spreads more, since memory is why one spreads.

    Args:
        fits: whether the number of processes and the batches suit a backend.
    """

    def distance(other: Backend) -> tuple[bool, bool, int, int]:
        step = _STEP[other.base] - _STEP[chosen.base]
        return (
            other.nodes != chosen.nodes,
            other.offloads != chosen.offloads,
            abs(step),
            -step,
        )

    others = [other for other in BACKENDS.values() if other.name != chosen.name]
    for other in sorted(others, key=distance):
        if not any(refused(other, stage) for stage in stages) and fits(other):
            return other
    return None


def check_stages(
    chosen: Backend, stages: Sequence[Asked], fits: Callable[[Backend], bool] = lambda _: True
) -> None:
    """Refuse stages that a backend would train wrongly or not at all, all of them at once.

    Raises:
        PlanError: one line for each refusal, with the reason, and the nearest backend that plans them all.
    """
    found = list(dict.fromkeys(each for stage in stages for each in refused(chosen, stage)))
    if not found:
        return
    other = nearest(chosen, stages, fits)
    way = f"use launch: {other.name}" if other else ""
    lines = []
    for each in found:
        ways = [each.instead, way] if len(found) == 1 else [each.instead]
        told = ", or ".join(word for word in ways if word)
        lines.append(
            f"{each.where}launch: {chosen.name}: {each.reason}{f'; {told}' if told else ''}"
        )
    if not other:
        lines.append(f"no other backend runs {_these(found)}")
    elif len(found) > 1:
        lines.append(f"{way}, the nearest to {chosen.name} that runs all of these stages")
    raise PlanError("\n".join(lines))


def _these(found: Collection[Refused]) -> str:
    return "it either" if len(found) == 1 else "all of these stages either"
