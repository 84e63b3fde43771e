"""Every row of the table of combinations, and what is refused of the past and of backends."""

from typing import Any

import pytest

from cpt.combinations import ROWS, check_combinations
from cpt.errors import PlanError
from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.replay import Replay
from cpt.recipe import StageSpec


def hook(name: str, **settings: Any) -> Hook:
    return table.build(name, settings, "sft.yaml")


class Another(Hook):
    """An edit of the gradient from another package."""

    name = "ogd"

    def project(self, view: Any, ctx: Any) -> None:
        """Nothing."""


class Kind:
    """A stage kind, with or without a KL of its own."""

    name = "sft"

    def __init__(self, uses: bool = False) -> None:
        self.is_used = uses

    def uses(self, role: str, spec: Any) -> bool:
        return self.is_used


def spec(**train: Any) -> StageSpec:
    return StageSpec(kind="sft", data=[{"path": "./x.jsonl"}], train=train)  # type: ignore[list-item]


def check(*hooks: Hook, uses: bool = False, **train: Any) -> list[str]:
    """The warnings, without where they are about."""
    found: list[str] = []
    kind: Any = Kind(uses)
    check_combinations(hooks, spec(**train), kind, "sft.yaml", found)
    return [warning.removeprefix("sft.yaml: ") for warning in found]


def lora(after: str = "merge") -> Hook:
    return hook("lora", after=after)


EWC = hook("ewc", of="sft")
REFUSED: dict[str, tuple[list[Hook], str]] = {
    "two adapters": (
        [lora(), hook("o_lora")],
        "lora and o_lora both change what is trained",
    ),
    "an adapter and osf": ([lora(), hook("osf")], "lora and osf both change what is"),
    "o_lora and osf": ([hook("o_lora"), hook("osf")], "o_lora and osf both"),
    "an adapter and freezing": (
        [hook("freeze", bottom_layers=1), lora()],
        "freeze and lora both change",
    ),
    "two edits": ([hook("agem"), hook("gem")], "agem and gem both edit"),
    "one edit twice": ([hook("agem")] * 2, "agem and agem both edit the gradient"),
    "another's edit": ([Another(), hook("agem")], "ogd and agem both edit"),
    "two averages": ([hook("ema"), hook("ema")], "ema is listed twice; it has one result"),
    "two blends": ([hook("interpolate")] * 2, "interpolate is listed twice; it has one result"),
    "nothing new": (
        [Replay(share=0.5), Replay(share=0.6)],
        "replay shares sum to 1.1 and leave nothing for new data",
    ),
    "two units": (
        [Replay(unit="samples"), Replay(unit="tokens")],
        "replay entries count in different units; use samples and tokens, one for all",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("turn", [1, -1])
def test_what_does_not_go_together_is_refused(case: str, turn: int) -> None:
    hooks, message = REFUSED[case]
    names = [h.name for h in hooks]
    if turn < 0 and names[0] != names[1]:
        message = message.replace(f"{names[0]} and {names[1]}", f"{names[1]} and {names[0]}")
    with pytest.raises(PlanError, match=rf"^sft.yaml: hooks: .*{message}"):
        check(*hooks[::turn])


class TestImportanceAndAdapters:
    @pytest.mark.parametrize("importance", ["ewc", "online_ewc", "si", "mas", "l2_sp"])
    @pytest.mark.parametrize("adapter", ["lora", "o_lora", "osf"])
    def test_a_penalty_on_frozen_weights_is_refused(self, importance: str, adapter: str) -> None:
        words = (
            rf"hooks: {importance} and {adapter}: the weights that are held are frozen.*continue"
        )
        with pytest.raises(PlanError, match=words):
            check(hook(adapter), hook(importance, of="sft"))

    @pytest.mark.parametrize("after", ["merge", "keep"])
    def test_an_adapter_that_ends_with_its_stage_is_refused(self, after: str) -> None:
        with pytest.raises(PlanError, match=r"lora: \{after: continue\}"):
            check(EWC, lora(after))

    def test_an_adapter_that_is_continued_can_be_held(self) -> None:
        assert check(EWC, lora("continue")) == []

    @pytest.mark.parametrize("importance", ["ewc", "si", "mas", "l2_sp"])
    def test_weights_in_4_bits_are_held_by_nothing(self, importance: str) -> None:
        held = hook(importance, of="sft")
        four = hook("lora", after="continue", quantise="nf4")
        words = rf"hooks: {importance} and lora: weights in 4 bits .*; remove quantise, or protect"
        with pytest.raises(PlanError, match=words):
            check(held, four)
        assert check(hook("ema"), hook("kl", of="sft"), hook("interpolate"), four) == []

    def test_at_strength_0_nothing_is_held(self) -> None:
        off = [hook(name, of="sft", strength=0.0) for name in ("ewc", "si")]
        assert check(*off, lora()) == []

    def test_si_may_measure_an_adapter_for_those_who_continue_it(self) -> None:
        assert check(hook("si"), lora("keep")) == []

    def test_what_is_left_of_a_frozen_model_can_be_held(self) -> None:
        assert check(EWC, hook("freeze", bottom_layers=1)) == []


class TestWarnings:
    def test_two_importances(self) -> None:
        (warning,) = check(EWC, hook("si", of="sft"))
        assert (
            warning
            == "ewc and si each hold the same weights where they were: their strengths add up"
        )

    @pytest.mark.parametrize("name", ["der", "ewc"])
    def test_one_term_twice_for_the_same_stage(self, name: str) -> None:
        (warning,) = check(hook(name, of="sft"), hook(name, of="sft"))
        expected = f"{name} is listed twice for the same stages: its strengths add up"
        assert warning.startswith(expected)

    def test_one_term_for_two_stages_is_no_double(self) -> None:
        assert check(hook("ewc", of="sft"), hook("ewc", of="dpo")) == []
        apart = [hook("lwf", inputs="general", source={"path": path}) for path in ("./a", "./b")]
        assert check(*apart) == []

    def test_a_kl_beside_the_stages_own(self) -> None:
        kl = hook("kl")
        (warning,) = check(kl, uses=True)
        assert warning == "kl and sft's own beta both hold the model to an earlier stage"
        assert check(kl) == check(hook("kl", beta=0.0), uses=True) == []

    def test_a_stale_gradient(self) -> None:
        (warning,) = check(hook("agem", every=2))
        assert "every: 1 is exact" in warning
        assert check(hook("agem", every=1)) == []

    @pytest.mark.parametrize("edit", ["agem", "gem"])
    @pytest.mark.parametrize(("of", "told"), [("all", True), ("sft", True), ("dpo", False)])
    def test_old_rows_in_the_stream_and_as_a_constraint(
        self, edit: str, of: str, told: bool
    ) -> None:
        hooks = hook("replay", of="sft", share=0.1), hook(edit, of=of)
        expected = [f"replay and {edit} rehearse the same stages: their old rows count twice"]
        assert check(*hooks) == (expected if told else [])
        other = hook("replay", source={"path": "./x.jsonl"}, share=0.1)
        assert check(other, hooks[1]) == []


@pytest.mark.parametrize(
    "given", [{"use_reentrant": True}, '{"use_reentrant": true}', {"use_reentrant": False}, None]
)
def test_reentrant_checkpoints_allow_no_gradient_of_a_hooks_own(given: Any) -> None:
    for own in (hook("agem"), hook("kl")):
        if given and "rue" in str(given):
            with pytest.raises(PlanError, match=rf"hooks: {own.name} take a gradient of their own"):
                check(own, activation_checkpointing_kwargs=given)
        else:
            assert check(own, activation_checkpointing_kwargs=given) == []
    assert check(hook("ema"), activation_checkpointing_kwargs=given) == []


def test_what_goes_together_passes_in_silence() -> None:
    replay = [
        hook("replay", source={"path": path}, share=0.2, unit="tokens") for path in ("./a", "./b")
    ]
    held = [EWC, hook("kl"), hook("agem", every=1)]
    after = [hook("ema"), hook("interpolate")]
    assert check(*replay, *held, *after) == []
    assert check(hook("si"), hook("gem")) == []
    assert check() == []


def test_refusals_come_before_warnings() -> None:
    """A plan that fails does not warn of what it would have been."""
    kinds = [row.is_refused for row in ROWS]
    assert kinds == sorted(kinds, reverse=True)


class TestInAChain:
    """What only a whole plan can tell."""

    def test_a_base_model_was_not_measured_while_it_trained(self, chain: Any, refused: Any) -> None:
        message = refused(chain.plan, "stages.sft.hooks=[{si: {of: base}}]")
        assert "of: base was not trained here, and si measures while a stage trains" in message
        message = refused(chain.plan, "stages.sft.hooks=[{si: {of: pretrain}}]")
        assert "of: pretrain does not list si, " in message

    @pytest.mark.parametrize("edit", ["agem", "gem"])
    def test_a_base_model_left_nothing(self, edit: str, chain: Any, refused: Any) -> None:
        message = refused(chain.plan, f"stages.pretrain.hooks=[{edit}]")
        assert f"hooks.{edit}: " in message
        assert "the base model left no rows" in message
        assert f"{edit}: {{source: " in message
        message = refused(chain.plan, f"stages.sft.hooks=[{{{edit}: {{of: base}}}}]")
        assert f"hooks.{edit}: " in message
        assert "the base model left no rows" in message

    @pytest.mark.parametrize("edit", ["agem", "gem"])
    def test_rows_of_every_format_hold_every_kind(self, edit: str, chain: Any) -> None:
        for stage in ("sft", "dpo", "grpo"):
            chain.stages[stage]["hooks"] = [edit]
        plan = chain.plan()
        assert [key for key, _ in plan.node("grpo").hooks] == [edit]

    @pytest.mark.parametrize("edit", ["agem", "gem"])
    def test_prompts_alone_hold_nothing(self, edit: str, chain: Any, refused: Any) -> None:
        chain.chain["stages"]["last"] = "last.yaml"
        chain.stages["last"] = {**chain.stages["sft"], "hooks": [{edit: {"of": "grpo"}}]}
        message = refused(chain.plan)
        assert f"last.yaml: hooks.{edit}: grpo left no row with an answer" in message
        chain.stages["last"]["hooks"] = [edit]
        chain.plan()  # `all` has other rows

    def test_too_many_memories(self, chain: Any, refused: Any) -> None:
        for number in range(9):
            chain.chain["stages"][f"sft{number}"] = f"sft{number}.yaml"
            chain.stages[f"sft{number}"] = {**chain.stages["sft"], "hooks": []}
        chain.stages["sft8"]["hooks"] = ["gem"]
        message = refused(chain.plan)
        assert "sft8.yaml: hooks.gem: of: 12 stages" in message
        assert "name 10 at most, or list a hook that takes them as one, such as agem" in message

    @pytest.mark.parametrize(
        ("hook", "moves"),
        [("agem", "space: update"), ("l2_sp", "style: proximal")],
    )
    def test_weights_are_not_moved_behind_deepspeed(
        self, hook: str, moves: str, chain: Any
    ) -> None:
        """Its optimizer has weights of its own; the same hooks that edit the gradient are allowed."""
        from launch.backend import backend
        from launch.checks import asked
        from launch.nearest import check_stages

        moving = chain.plan(f"stages.sft.hooks=[{{{hook}: {{{moves}}}}}]").node("sft")
        plain = chain.plan(f"stages.sft.hooks=[{hook}]").node("sft")
        for name in ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3"):
            check_stages(backend(name), [asked(plain.spec, plain.hooks)])
            if not name.startswith("zero"):
                check_stages(backend(name), [asked(moving.spec, moving.hooks)])
                continue
            words = rf"launch: {name}: the optimizer's fp32 weights would not follow .* use style:"
            with pytest.raises(PlanError, match=words):
                check_stages(backend(name), [asked(moving.spec, moving.hooks)])

    @pytest.mark.parametrize("edit", ["agem", "gem"])
    def test_fp16_is_refused(self, edit: str, chain: Any) -> None:
        from launch.backend import backend
        from launch.checks import asked
        from launch.nearest import check_stages

        node = chain.plan(f"stages.sft.hooks=[{edit}]", "stages.sft.train.fp16=true").node("sft")
        with pytest.raises(
            PlanError, match="fp16 scales the gradients that a hook edits; use bf16"
        ):
            check_stages(backend("ddp"), [asked(node.spec, node.hooks)])

    @pytest.mark.parametrize("importance", ["ewc", "online_ewc", "mas", "l2_sp"])
    def test_real_penalties_and_an_adapter(self, importance: str, chain: Any, refused: Any) -> None:
        chain.stages["dpo"]["hooks"] = [importance, "lora"]
        assert f"dpo.yaml: hooks: {importance} and lora: the weights that" in refused(chain.plan)

    def test_real_penalties_add_up(self, chain: Any) -> None:
        chain.stages["dpo"]["hooks"] = ["ewc", "l2_sp"]
        assert "dpo.yaml: ewc and l2_sp each hold" in " ".join(chain.plan().warnings)

    def test_settings_enter_the_id(self, chain: Any) -> None:
        def sft(hooks: str) -> str:
            return str(chain.ids(f"stages.sft.hooks={hooks}")["sft"])

        ids = {
            sft(h)
            for h in ("[]", "[agem]", "[{agem: {of: pretrain}}]", "[gem]", "[{agem: {every: 2}}]")
        }
        assert len(ids) == 5
        assert sft("[{agem: {of: all}}]") == sft("[agem]")
