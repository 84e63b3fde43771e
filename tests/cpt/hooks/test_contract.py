"""What every hook of the table promises. A hook that is added to the table needs an entry in CASES."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.stack import HookStack
from tests.tiny_stages import Interrupted, TinyStages, Trained, difference, equal

HOOKS = sorted(table.TABLE)
# Sums in another order, over 4 steps in fp32.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Case:
    """A hook's settings in an sft stage, where they change the weights, and the ones that do nothing."""

    on: dict[str, Any]
    off: dict[str, Any] | None
    on_pairs: dict[str, Any] | None = None
    first_stage_refuses: str | None = None


CASES = {
    "replay": Case(
        {"of": "pretrain", "share": 0.25},
        {"of": "pretrain", "share": 0.0},
        on_pairs={"source": "duels", "share": 0.25},
        first_stage_refuses="replay: base left no rows",
    ),
    "kl": Case({"of": "base", "beta": 0.5}, {"of": "base", "beta": 0.0}),
    "lwf": Case(
        {"of": "base", "rows_of": "pretrain", "beta": 0.5},
        {"of": "base", "rows_of": "pretrain", "beta": 0.0},
        first_stage_refuses="lwf: base left no rows",
    ),
    # Both weights 0 are refused.
    "der": Case(
        {"of": "pretrain", "alpha": 1.0, "beta": 0.5},
        None,
        first_stage_refuses="der: base left no rows",
    ),
    "lora": Case({"rank": 2}, None),  # test_lora.py: a fresh adapter changes nothing
    "o_lora": Case({"rank": 2, "of": []}, None),  # test_o_lora.py: with earlier adapters
    "osf": Case({"effective_rank": 0.5}, None),
    "freeze": Case(
        {"train": "attn_proj"},
        {"train": ["attn_proj", "mlp", "norms", "embeddings", "lm_head"]},
    ),
    "ema": Case({"decay": 0.5}, {"decay": 0.0}),
    "l2_sp": Case({"of": "base", "strength": 0.1}, {"of": "base", "strength": 0.0}),
    "ewc": Case(
        {"of": "pretrain", "strength": 0.002, "samples": 8},
        {"strength": 0.0},
        first_stage_refuses="ewc: base left no rows",
    ),
    "online_ewc": Case(
        {"strength": 0.002, "samples": 8},
        {"strength": 0.0},
        first_stage_refuses="online_ewc: base left no rows",
    ),
    "mas": Case(
        {"of": "pretrain", "strength": 0.002, "samples": 8},
        {"strength": 0.0},
        first_stage_refuses="mas: base left no rows",
    ),
    # The sft stage, which is the parent, lists it.
    "si": Case({"of": "previous", "strength": 0.002}, {"of": "previous", "strength": 0.0}),
    "interpolate": Case({"of": "base", "alpha": 0.5}, {"of": "base", "alpha": 1.0}),
    # Without a conflict they do nothing: test_agem.py, test_gem.py.
    "agem": Case({"source": "general"}, None, first_stage_refuses="agem: base left no rows"),
    "gem": Case({"source": "general"}, None, first_stage_refuses="gem: base left no rows"),
}

Train = Callable[..., Trained]


@pytest.fixture(scope="session")
def train(stages: TinyStages) -> Train:
    """Train a stage, or take what was trained from the same arguments before."""
    done: dict[str, Trained] = {}

    def once(kind: str, hooks: list[dict[str, Any]] | None = None, **settings: Any) -> Trained:
        key = json.dumps([kind, hooks, settings], sort_keys=True, default=str)
        if key not in done:
            done[key] = stages.train(stages.job(kind, hooks, **settings))
        return done[key]

    return once


def active(stages: TinyStages, hook: str, kind: str = "sft") -> list[dict[str, Any]]:
    """The hook as a stage of this kind lists it."""
    case = CASES[hook]
    settings = dict((case.on_pairs if kind == "dpo" else None) or case.on)
    if "source" in settings:
        settings["source"] = stages.data(settings["source"])
    return [{hook: settings}]


def terms(trained: Trained) -> list[dict[str, float]]:
    """What the hooks logged, step by step."""
    return [
        {name: value for name, value in row.items() if name.startswith("hook/")}
        for row in trained.log
    ]


def values(trained: Trained) -> list[dict[str, float]]:
    """The terms themselves, one name a hook."""
    return [
        {name: value for name, value in row.items() if name.count("/") == 1}
        for row in terms(trained)
    ]


def test_every_hook_of_the_table_has_a_case() -> None:
    assert sorted(CASES) == HOOKS


#: What a coefficient is called; 0 of each is what `baseline: naive` must equal.
COEFFICIENTS = ("beta", "share", "strength", "coefficient")


def test_every_coefficient_0_together_is_the_naive_baseline_to_the_bit(
    stages: TinyStages, train: Train
) -> None:
    off = [
        {name: case.off}
        for name, case in CASES.items()
        if any((case.off or {}).get(each) == 0 for each in COEFFICIENTS)
    ]
    assert {"replay", "kl"} <= {name for hook in off for name in hook}
    without, together = train("sft", micro_batch=8), train("sft", off, micro_batch=8)
    assert equal(without.weights, together.weights)
    assert [row["loss"] for row in without.log] == [row["loss"] for row in together.log]


@pytest.mark.parametrize("hook", HOOKS)
class TestEveryHook:
    def test_unknown_setting_is_refused(self, hook: str) -> None:
        with pytest.raises(RecipeError, match=rf"sft.yaml: hooks.{hook}: there is no 'strenght_'"):
            table.build(hook, {**CASES[hook].on, "strenght_": 1}, "sft.yaml")

    def test_first_stage_trains_or_is_refused_clearly(self, hook: str, stages: TinyStages) -> None:
        job = stages.job("sft", [hook], parent=stages.base, max_steps=1)
        refusal = CASES[hook].first_stage_refuses
        if refusal:
            with pytest.raises(HookError, match=refusal):
                stages.train(job)
        else:
            assert stages.train(job).log

    @pytest.mark.parametrize("kind", ["sft", "dpo"])
    def test_accumulation_does_not_change_its_strength(
        self, hook: str, kind: str, stages: TinyStages, train: Train
    ) -> None:
        hooks = active(stages, hook, kind)
        whole = train(kind, hooks, micro_batch=8)
        pieces = train(kind, hooks, micro_batch=1)
        assert difference(whole.weights, pieces.weights) < ROUNDING
        for one, other in zip(terms(whole), terms(pieces), strict=True):
            assert one == pytest.approx(other, rel=1e-5)

    @pytest.mark.parametrize("kind", ["sft", "dpo"])
    def test_it_changes_the_weights(
        self, hook: str, kind: str, stages: TinyStages, train: Train
    ) -> None:
        with_it = train(kind, active(stages, hook, kind), micro_batch=8)
        without = train(kind, micro_batch=8)
        assert difference(with_it.weights, without.weights) > 1e-4

    def test_strength_zero_is_no_hook_to_the_bit(
        self, hook: str, stages: TinyStages, train: Train
    ) -> None:
        settings = CASES[hook].off
        if settings is None:
            pytest.skip("has no setting of no strength; its own tests say when it is a no-op")
        without, off = train("sft", micro_batch=8), train("sft", [{hook: settings}], micro_batch=8)
        assert equal(without.weights, off.weights)
        assert [row["loss"] for row in without.log] == [row["loss"] for row in off.log]

    def test_interrupted_equals_uninterrupted(
        self, hook: str, stages: TinyStages, train: Train
    ) -> None:
        hooks = active(stages, hook)
        whole = train("sft", hooks, micro_batch=8)
        job = stages.job("sft", hooks, micro_batch=8, checkpoint_every=2)
        with pytest.raises(Interrupted):
            stages.train(job, interrupt_at=3)
        assert (job.partial / "trainer" / "checkpoint-2" / "hooks.json").is_file()
        continued = stages.train(job)
        assert equal(whole.weights, continued.weights)
        assert terms(whole) == terms(continued)

    def test_interrupted_before_the_merge_equals_uninterrupted(
        self, hook: str, stages: TinyStages, train: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hooks = active(stages, hook)
        job = stages.job("sft", hooks, micro_batch=8)
        with monkeypatch.context() as patch:
            patch.setattr(HookStack, "merge", _interrupt)
            with pytest.raises(Interrupted):
                stages.train(job)
        assert not (job.partial / "checkpoint").exists()
        continued = stages.train(job)
        assert equal(train("sft", hooks, micro_batch=8).weights, continued.weights)

    def test_same_seed_same_weights_to_the_bit(
        self, hook: str, stages: TinyStages, train: Train
    ) -> None:
        hooks = active(stages, hook)
        again = stages.train(stages.job("sft", hooks, micro_batch=8))
        assert equal(train("sft", hooks, micro_batch=8).weights, again.weights)
        other = stages.train(stages.job("sft", hooks, micro_batch=8, seed=6))
        assert not equal(again.weights, other.weights)

    def test_the_padding_token_does_not_matter(
        self, hook: str, stages: TinyStages, train: Train
    ) -> None:
        parent = _with_other_padding(stages)
        hooks = active(stages, hook)
        other = train("sft", hooks, micro_batch=8, parent=parent)
        assert equal(train("sft", hooks, micro_batch=8).weights, other.weights)

    def test_state_survives_a_round_trip(self, hook: str, stages: TinyStages) -> None:
        import torch

        from cpt.hooks.context import StageContext
        from cpt.params import View
        from cpt.world import World

        ctx = StageContext("sft", "sft", ("messages", "text"), 5, World(), "")
        model = torch.nn.Linear(3, 2)
        ((_, settings),) = active(stages, hook)[0].items()
        full, empty = (table.build(hook, dict(settings), "sft.yaml") for _ in range(2))
        full.track(View(model, World()), ctx)
        empty.load_state_dict(full.state_dict())
        one, other = full.state_dict(), empty.state_dict()
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
        # What was loaded is the hook's own: it goes on alone.
        full.track(View(model, World()), ctx)
        assert all(other[name].equal(empty.state_dict()[name]) for name in other)


def _interrupt(self: HookStack, model: Any) -> Any:
    raise Interrupted


def _with_other_padding(stages: TinyStages) -> Any:
    """The sft stage with another padding token in its tokenizer."""
    from dataclasses import replace

    from cpt import checkpoint, manifest

    folder = stages.sft.output.with_name("sft-other-padding")
    if not folder.exists():
        shutil.copytree(stages.sft.output, folder)
        tokenizer = checkpoint.load_tokenizer(str(folder / "checkpoint"))
        assert tokenizer.pad_token == "<|endoftext|>"
        tokenizer.pad_token = "<|im_start|>"
        tokenizer.save_pretrained(folder / "checkpoint")
        entry = manifest.read(folder)
        files = checkpoint.digests(folder / "checkpoint")
        replace(entry, files=files, checks={}).write(folder)
    return folder


ALL = [
    {"replay": {"of": "pretrain", "share": 0.2}},
    {"kl": {"of": "base", "beta": 0.3}},
    {"kl": {"of": "pretrain", "beta": 0.2, "direction": "forward"}},
    {"lora": {"rank": 2}},
    {"ema": {"decay": 0.5}},
    {"interpolate": {"of": "base", "alpha": 0.5}},
]


def test_order_in_the_recipe_never_matters(stages: TinyStages, train: Train) -> None:
    more = [*ALL, {"replay": {"source": stages.data("talks"), "share": 0.1}}]
    one, other = train("sft", more), train("sft", more[::-1])
    assert equal(one.weights, other.weights)
    assert one.log == other.log
    assert one.manifest["hooks"] == other.manifest["hooks"]
    assert [hook["name"] for hook in one.manifest["hooks"]] == [
        "ema",
        "kl",
        "kl.2",
        "replay",
        "replay.2",
        "lora",
        "interpolate",
    ]


@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo", "pretrain"])
def test_logged_terms_sum_to_the_difference_of_the_loss(
    kind: str, micro_batch: int, train: Train
) -> None:
    hooks = [
        {"kl": {"of": "base", "beta": 2.0}},
        {"kl": {"of": "pretrain", "beta": 1.0, "direction": "forward"}},
    ]
    with_them = train(kind, hooks, micro_batch=micro_batch)
    without = train(kind, micro_batch=micro_batch)
    logged = values(with_them)[0]
    assert logged.keys() == {"hook/kl", "hook/kl.2"}
    assert all(value > 1e-3 for value in logged.values())
    rise = with_them.log[0]["loss"] - without.log[0]["loss"]
    assert sum(logged.values()) == pytest.approx(rise, rel=1e-4, abs=2e-6)
