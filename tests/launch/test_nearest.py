"""Whatever a backend refuses, it says why, and the way out that it names plans."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from cpt.conflicts import check_hooks
from cpt.errors import CptError, PlanError
from cpt.hooks import table
from cpt.hooks.stack import in_order
from cpt.read_recipe import check_stage
from launch.backend import BACKENDS, Backend, backend
from launch.checks import asked
from launch.nearest import Asked, check_stages, nearest, refused
from stages import KINDS, kind_of

TRAINED = [name for name in KINDS if kind_of(name, "").trains]
# What a person may set that backends care for.
TRAINS: list[dict[str, Any]] = [
    {},
    {"fp16": True},
    {"max_grad_norm": 0.0},
    {"activation_checkpointing": False},
]
#: Nobody reads it here; a plan only looks whether it is there.
DATA = {"path": __file__, "format": "json"}
#: Where the defaults would hold what several stages left.
ONE_STAGE = {"gem": {"of": "old"}, "agem": {"of": "old"}, "online_ewc": {"of": "old"}}
#: Other ways to set a hook that backends may see differently.
OTHERWISE: list[tuple[str, dict[str, Any]]] = [
    ("agem", {"of": "old", "space": "update"}),
    ("l2_sp", {"style": "proximal"}),
    ("o_lora", {"projection": "hard"}),
    ("replay", {"source": DATA, "mode": "loss"}),
    ("lora", {"after": "keep"}),
]
EVERY = [(name, ONE_STAGE.get(name, {})) for name in table.TABLE] + OTHERWISE


def wishes(hooks: list[tuple[str, dict[str, Any]]]) -> Iterator[Asked]:
    """What stages of every kind ask with these hooks, where the kind can have them."""
    built = [table.build(name, settings, "") for name, settings in hooks]
    for name, train in itertools.product(TRAINED, TRAINS):
        kind = kind_of(name, "")
        spec = check_stage({"kind": name, "data": DATA, "train": train}, f"{name}.yaml")
        try:
            check_hooks(built, spec, kind, f"{name}.yaml", [])
        except CptError:
            continue  # no backend is asked
        yield asked(spec, in_order(built))


@functools.cache
def every_wish() -> list[Asked]:
    """Of every hook alone and with an adapter, in every kind of stage."""
    pairs = itertools.product(EVERY, ([], [("lora", {})]))
    return [stage for hook, second in pairs for stage in wishes([hook, *second])]


def check(chosen: Backend, stages: list[Asked]) -> Backend | None:
    """Assert that a refusal gives its reasons and a way that plans; returns that way."""
    reasons = [each.reason for stage in stages for each in refused(chosen, stage)]
    if not reasons:
        check_stages(chosen, stages)
        return None
    with pytest.raises(PlanError) as failed:
        check_stages(chosen, stages)
    message = str(failed.value)
    assert all(reason in message for reason in reasons)
    other = nearest(chosen, stages)
    if other is None:
        assert "no other backend runs" in message
        assert all(any(refused(each, stage) for stage in stages) for each in BACKENDS.values())
        return None
    assert f"use launch: {other.name}" in message
    assert other.name != chosen.name
    check_stages(other, stages)
    return other


@pytest.mark.parametrize("chosen", BACKENDS.values(), ids=lambda chosen: chosen.name)
def test_every_hook_plans_or_is_refused_with_a_way_that_plans(chosen: Backend) -> None:
    assert len(every_wish()) > 200
    for stage in every_wish():
        other = check(chosen, [stage])
        # Machines are there or they are not: the way out is on as many.
        assert other is None or other.nodes == chosen.nodes


def test_a_way_for_every_stage_of_a_chain_at_once() -> None:
    """Each stage alone has its own way out, and the chain has one backend."""
    whole = Asked("a.yaml", frozenset(), frozenset({"osf"}))
    again = Asked("b.yaml", frozenset(), frozenset({"second_forward", "adapter", "checkpointing"}))
    for chosen in BACKENDS.values():
        check(chosen, [whole, again])
    with pytest.raises(PlanError) as failed:
        check_stages(backend("zero3"), [whole, again, whole])
    lines = str(failed.value).splitlines()
    if not backend("zero3").unfinished:
        assert lines[0].startswith("a.yaml: launch: zero3: it needs whole weights")
        assert "b.yaml: launch: zero3: DeepSpeed reduces" in lines[1]
        assert lines[1].endswith("; set train.activation_checkpointing: false")
    assert lines[-1].partition("use launch: ")[2].startswith("zero2")
    assert len(lines) == len(set(lines))


def test_the_nearest_keeps_machines_then_host_memory_then_what_is_spread() -> None:
    stale = Asked("a.yaml", frozenset(), frozenset({"edits_gradients", "clips"}))

    def way(name: str) -> str:
        other = nearest(backend(name), [stale])
        assert other is not None
        return other.name

    ready = not backend("zero3").unfinished
    assert way("zero2-offload") == ("zero3-offload" if ready else "zero2")
    later = Asked("a.yaml", frozenset(), frozenset({"freezes_later"}))
    for name in ("zero1-nodes", "zero2-nodes"):
        assert nearest(backend(name), [later]) is backend("ddp-nodes")
    assert nearest(backend("zero1"), [later]) is backend("ddp")


def test_what_no_backend_does_is_said() -> None:
    scaled = Asked("a.yaml", frozenset(), frozenset({"fp16", "edits_gradients"}))
    with pytest.raises(PlanError) as failed:
        check_stages(backend("ddp"), [scaled])
    assert str(failed.value).splitlines() == [
        "a.yaml: launch: ddp: fp16 scales the gradients that a hook edits; use bf16",
        "no other backend runs it either",
    ]


def test_a_backend_that_does_not_give_what_a_hook_needs_is_refused() -> None:
    poor = Backend("ddp", gives=frozenset({"adapter"}))
    stage = Asked("a.yaml", frozenset({("kl", "logits"), ("lora", "adapter")}), frozenset())
    assert [each.where + each.reason for each in refused(poor, stage)] == [
        "a.yaml: hooks.kl: does not give 'logits'"
    ]


def test_a_way_must_suit_the_processes_too() -> None:
    later = Asked("a.yaml", frozenset(), frozenset({"freezes_later"}))
    chosen = nearest(backend("zero2"), [later], lambda other: other.name == "single")
    assert chosen is backend("single")
