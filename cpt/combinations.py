"""Which hooks go together in one stage: a table, with a row for each that is refused or warned of."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cpt.errors import PlanError
from cpt.hooks.agem import AGEM
from cpt.hooks.base import Hook, points
from cpt.hooks.kl import KL
from cpt.hooks.lora import is_adapter
from cpt.hooks.replay import Replay
from cpt.recipe import StageSpec

if TYPE_CHECKING:
    from cpt.interfaces import Kind


class Stage(NamedTuple):
    """What a row is asked about."""

    hooks: Sequence[Hook]
    spec: StageSpec
    kind: "Kind"


#: A stage -> the names of the hooks that make a combination; none, where it is not there.
Finds = Callable[[Stage], Sequence[str]]


@dataclass(frozen=True)
class Row:
    """A combination, and what is said of it; `{names}`, `{kind}` and `{share}` are filled in."""

    finds: Finds
    says: str
    is_refused: bool = True


def _acting(point: str) -> Finds:
    """Two or more hooks that act at a point."""
    return lambda stage: _several([h.name for h in stage.hooks if point in points(h)])


def _twice(stage: Stage) -> Sequence[str]:
    """The first hook with one result that is listed twice."""
    names = [hook.name for hook in stage.hooks if hook.is_single]
    return next(([name] for name in names if names.count(name) > 1), ())


def _several(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) > 1 else ()


def _mixing(stage: Stage) -> list[Replay]:
    """Rows in the stream or in batches; a loss on old rows mixes nothing."""
    return [h for h in stage.hooks if isinstance(h, Replay) and "mix" in points(h)]


def _share(stage: Stage) -> float:
    return sum(hook.value.highest for hook in _mixing(stage))


def _only_old(stage: Stage) -> Sequence[str]:
    return ["replay"] if _share(stage) >= 1 else ()


def _units(stage: Stage) -> Sequence[str]:
    return _several(sorted({str(hook.unit) for hook in _mixing(stage)}))


def _modes(stage: Stage) -> Sequence[str]:
    return _several(sorted({hook.mode for hook in _mixing(stage)}))


def _packed_batches(stage: Stage) -> Sequence[str]:
    in_batches = any(hook.mode == "batch" for hook in _mixing(stage))
    return ["replay"] if in_batches and stage.kind.pack(stage.spec) is not None else ()


def _importance_of_frozen(stage: Stage) -> Sequence[str]:
    """An adapter that a stage continues is what the stage before trained."""
    held = _importances(stage)
    adapters = [
        hook.name
        for hook in stage.hooks
        if is_adapter(hook) and getattr(hook, "after", None) != "continue"
    ]
    return [*held, *adapters] if held and adapters else ()


def _importance_of_codes(stage: Stage) -> Sequence[str]:
    """What holds weights measures them as they lie on the disk."""
    held = _importances(stage)
    quantised = [hook.name for hook in stage.hooks if hook.quantisation() is not None]
    return [*held, *quantised] if held and quantised else ()


def _two_importances(stage: Stage) -> Sequence[str]:
    return _several(sorted({*_importances(stage)}))


def _importances(stage: Stage) -> list[str]:
    """Those that hold anything: not si where it only measures."""
    return [hook.name for hook in stage.hooks if hook.holds_weights() and hook.recalls()]


def _same_term(stage: Stage) -> Sequence[str]:
    """The first term that is there twice with the same stages or data."""
    terms = [h for h in stage.hooks if {"penalty", "pull"} & {*points(h)} and h.recalls()]
    keys = [(hook.name, hook.recalls(), getattr(hook, "source", None)) for hook in terms]
    return next(([key[0]] for key in keys if keys.count(key) > 1), ())


def _own_beta(stage: Stage) -> Sequence[str]:
    held = any(isinstance(hook, KL) and "penalty" in points(hook) for hook in stage.hooks)
    return ["kl"] if held and stage.kind.uses("reference", stage.spec) else ()


def _stale(stage: Stage) -> Sequence[str]:
    return [hook.name for hook in stage.hooks if isinstance(hook, AGEM) and hook.every > 1][:1]


def _rehearsed_twice(stage: Stage) -> Sequence[str]:
    """A `replay` and an edit of the gradient that share an earlier stage."""
    replayed = {n for h in stage.hooks if isinstance(h, Replay) for n in h.recalls()}
    for hook in stage.hooks:
        of = {*hook.rehearses()} if "project" in points(hook) else set()
        if replayed and of and (of & replayed or "all" in of | replayed):
            return ["replay", hook.name]
    return ()


def _reentrant(stage: Stage) -> Sequence[str]:
    given = stage.spec.train.get("activation_checkpointing_kwargs") or {}
    given = json.loads(given) if isinstance(given, str) else given
    if not given.get("use_reentrant"):
        return ()
    return [
        h.name
        for h in stage.hooks
        if "penalty" in points(h) or "second_gradient" in h.facts_as_set()
    ]


ROWS = (
    Row(_acting("adapt"), "hooks: {names} both change what is trained; keep one"),
    Row(
        _acting("project"),
        "hooks: {names} both edit the gradient, and the later edit breaks what the earlier one promises; "
        "keep one",
    ),
    Row(_twice, "hooks: {names} is listed twice; it has one result"),
    Row(
        _importance_of_frozen,
        "hooks: {names}: the weights that are held are frozen, and the penalty is always 0; continue the "
        "adapter of the stage before (lora: {{after: continue}}), or keep one of them",
    ),
    Row(
        _importance_of_codes,
        "hooks: {names}: weights in 4 bits carry no importance and are held by nothing; remove quantise, or "
        "protect the stage with another hook, such as kl or replay",
    ),
    Row(_only_old, "hooks: replay shares sum to {share} and leave nothing for new data"),
    Row(_modes, "hooks: replay entries act in {names} mode; use one mode for all"),
    Row(
        _packed_batches,
        "hooks.replay: mode: batch counts rows of a batch, and this stage packs pieces of several sources "
        "into each; use mode: stream",
    ),
    Row(_units, "hooks: replay entries count in different units; use {names}, one for all"),
    Row(
        _reentrant,
        "hooks: {names} take a gradient of their own, which reentrant checkpoints do not allow; remove "
        "use_reentrant from train.activation_checkpointing_kwargs",
    ),
    Row(_own_beta, "kl and {kind}'s own beta both hold the model to an earlier stage", False),
    Row(
        _two_importances,
        "{names} each hold the same weights where they were: their strengths add up",
        False,
    ),
    Row(
        _same_term,
        "{names} is listed twice for the same stages: its strengths add up; list one",
        False,
    ),
    Row(
        _stale,
        "agem: every: above 1, a step is compared with the old rows' gradient at earlier weights, which may "
        "let through what it should stop; every: 1 is exact",
        False,
    ),
    Row(_rehearsed_twice, "{names} rehearse the same stages: their old rows count twice", False),
)


def check_combinations(
    hooks: Sequence[Hook], spec: StageSpec, kind: "Kind", where: str, warnings: list[str]
) -> None:
    """Refuse hooks that do not go together in one stage.

    Raises:
        PlanError: names them and a way out.
    """
    stage = Stage(hooks, spec, kind)
    for row in ROWS:
        names = row.finds(stage)
        if not names:
            continue
        share = f"{_share(stage):g}"
        told = row.says.format(names=" and ".join(names), kind=kind.name, share=share)
        if row.is_refused:
            raise PlanError(f"{where}: {told}")
        warnings.append(f"{where}: {told}")
