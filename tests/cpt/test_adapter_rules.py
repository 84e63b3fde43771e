"""What planning refuses of adapters that build on earlier ones."""

from collections.abc import Callable
from typing import Any

import pytest

Refused = Callable[..., str]
KEEP = {"lora": {"rank": 4, "after": "keep"}}
CONTINUE = {"lora": {"rank": 4, "after": "continue"}}

SOURCE: dict[str, dict[str, Any]] = {
    "ewc": {"source": {"path": "general.jsonl"}},
    "mas": {"source": {"path": "general.jsonl"}},
    "l2_sp": {},
}


def hooks(chain: Any, **of: list[Any]) -> None:
    for stage, listed in of.items():
        chain.stages[stage]["hooks"] = listed


def test_an_adapter_is_continued_over_several_stages(chain: Any) -> None:
    hooks(chain, pretrain=[KEEP], sft=[CONTINUE], dpo=[CONTINUE], grpo=[{"lora": {"rank": 8}}])
    chain.plan()


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ([], "pretrain trained no adapter (lora); say after: keep or merge here"),
        (["ema"], "pretrain trained no adapter"),
        (
            [{"lora": {"rank": 4}}],
            "pretrain merged its adapter into the weights; write lora: {after",
        ),
        ([{"o_lora": {"rank": 4}}], "pretrain trained no adapter (lora)"),
        ([{"lora": {"rank": 8, "after": "keep"}}], "an adapter of rank 8, not 4"),
        ([{"lora": {"rank": 4, "alpha": 8, "after": "keep"}}], "an adapter of alpha 8.0, not 32.0"),
        (
            [{"lora": {"rank": 4, "targets": ["q_proj"], "after": "keep"}}],
            "an adapter of targets ['q_proj'], not all-linear",
        ),
        ([KEEP, "interpolate"], "pretrain blended its weights (interpolate)"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    parent: list[Any], message: str, chain: Any, refused: Refused
) -> None:
    hooks(chain, pretrain=parent, sft=[CONTINUE])
    (line,) = refused(chain.plan).splitlines()
    assert "sft.yaml: hooks.lora: after: continue: " in line
    assert message in line


def test_the_base_has_no_adapter(chain: Any, refused: Refused) -> None:
    hooks(chain, pretrain=[CONTINUE])
    assert "base trained no adapter" in refused(chain.plan)


def test_nothing_is_said_of_a_stage_that_could_not_be_planned(chain: Any, refused: Refused) -> None:
    hooks(chain, pretrain=[{"lora": {"rank": 0}}], sft=[CONTINUE])
    chain.stages["dpo"]["hooks"] = [{"o_lora": {"of": "pretrain"}}]
    (line,) = refused(chain.plan).splitlines()
    assert "rank: input should be greater" in line


def test_orthogonal_to_earlier_adapters_of_the_same_modules(chain: Any) -> None:
    hooks(chain, pretrain=["o_lora"], sft=[{"lora": {"rank": 4}}], dpo=["o_lora"])
    chain.plan()
    hooks(chain, pretrain=[], sft=["lora"], dpo=[{"o_lora": {"of": ["sft"]}}])
    chain.plan()
    hooks(chain, sft=[], dpo=[{"o_lora": {"of": []}}])
    chain.plan()


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ([], "sft trained no adapter; name the stages that did: of: [...]"),
        ([KEEP], "the weights lack the adapter of sft, which it keeps apart"),
        (
            [{"lora": {"targets": ["q_proj"]}}],
            "sft trained an adapter on ['q_proj'], and this stage on all-linear",
        ),
    ],
)
def test_o_lora_refuses_stages_without_such_adapters(
    earlier: list[Any], message: str, chain: Any, refused: Refused
) -> None:
    hooks(chain, pretrain=["o_lora"], sft=earlier, dpo=["o_lora"])
    (line,) = refused(chain.plan).splitlines()
    assert f"dpo.yaml: hooks.o_lora: {message}" in line


def test_a_hook_that_freezes_has_no_adapter_below_which_a_reference_lies(
    chain: Any, refused: Refused
) -> None:
    """Its reference is a second model, which then lacks the new tokens."""
    chain.stages["dpo"] |= {"model": {"add_tokens": ["<tool>"]}, "hooks": ["freeze"]}
    assert "dpo.yaml: reference: sft and this stage differ" in refused(chain.plan)


def test_two_hooks_that_change_what_is_trained_are_refused(chain: Any, refused: Refused) -> None:
    for pair in (["lora", "freeze"], ["osf", "o_lora"]):
        hooks(chain, sft=pair)
        assert f"{' and '.join(pair)} both change what is trained" in refused(chain.plan)


@pytest.mark.parametrize("hook", ["lora", "o_lora", "osf"])
def test_with_an_adapter_a_named_reference_is_refused(
    hook: str, chain: Any, refused: Refused
) -> None:
    chain.stages["dpo"] |= {
        "reference": "base",
        "hooks": [{hook: {"of": []} if hook == "o_lora" else {}}],
    }
    assert f"with a {hook} hook the reference is the parent" in refused(chain.plan)


@pytest.mark.parametrize("name", ["ewc", "l2_sp", "mas"])
def test_what_is_held_beside_a_continued_adapter_is_an_adapter(
    name: str, chain: Any, refused: Refused
) -> None:
    hooks(
        chain, pretrain=[KEEP], sft=[CONTINUE], dpo=[CONTINUE, {name: {"of": ["pretrain", "sft"]}}]
    )
    chain.plan()
    hooks(
        chain,
        pretrain=[KEEP],
        sft=[CONTINUE],
        dpo=[CONTINUE, {name: {"of": "base", **SOURCE[name]}}],
    )
    (line,) = refused(chain.plan).splitlines()
    assert f"dpo.yaml: hooks.{name}: of: base left no adapter of this form" in line
    hooks(chain, dpo=[CONTINUE, {"l2_sp": {"of": "base", "strength": 0.0}}])
    chain.plan()
