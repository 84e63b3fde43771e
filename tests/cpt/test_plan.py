from collections.abc import Callable
from typing import Any

import pytest

from cpt.errors import PlanError
from cpt.plan_table import COLUMNS, table_of
from cpt.store import Store

Refused = Callable[..., str]


def parents(chain: Any, stage: str, *changes: str) -> dict[str, str]:
    plan = chain.plan(*changes)
    names = {node.id: node.name for node in plan.nodes}
    return {role: names[stage_id] for role, stage_id in plan.node(stage).parents.items()}


def test_a_stage_continues_the_one_before_unless_told_otherwise(chain: Any) -> None:
    assert parents(chain, "pretrain") == {"parent": "base"}
    assert parents(chain, "sft") == {"parent": "pretrain"}
    assert parents(chain, "dpo") == {"parent": "sft", "reference": "sft"}
    assert parents(chain, "dpo", "stages.dpo.from=base")["parent"] == "base"
    assert parents(chain, "dpo", "stages.dpo.from=[pretrain]")["parent"] == "pretrain"


def test_a_reference_is_the_parent_unless_named(chain: Any) -> None:
    assert parents(chain, "dpo", "stages.dpo.reference=base")["reference"] == "base"
    changes = ("stages.dpo.from=pretrain", "stages.dpo.reference=previous")
    assert parents(chain, "dpo", *changes) == {"parent": "pretrain", "reference": "pretrain"}
    assert parents(chain, "grpo") == {"parent": "dpo", "reference": "dpo"}
    assert parents(chain, "grpo", "stages.grpo.train.beta=0") == {"parent": "dpo"}


def test_the_naive_baseline_has_no_hooks_and_its_own_name(chain: Any) -> None:
    plan = chain.plan("baseline=naive")
    assert plan.name == "tiny-naive"
    assert not any(node.hooks for node in plan.nodes)
    assert [key for key, _ in chain.plan().node("sft").hooks] == ["kl", "replay"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["stages.dpo.from=[base, sft]"], ["dpo.yaml", "from: ", "one stage, not 2"]),
        (["stages.sft.hooks=[lora, lora]"], ["hooks: lora and lora both change what is trained"]),
        (["stages.sft.hooks=[ema, ema]"], ["hooks: ema is listed twice"]),
        (
            ["stages.sft.hooks=[{replay: {share: 0.5}}, {replay: {of: pretrain, share: 0.6}}]"],
            ["replay shares sum to 1.1"],
        ),
        (
            ["stages.sft.hooks=[replay, {replay: {unit: samples}}]"],
            ["replay entries count in different units"],
        ),
        (
            [
                "stages.sft.hooks=[{replay: {share: 0.5, schedule: {start: 0.9}}}, {replay: {share: 0.1}}]"
            ],
            ["replay shares sum to 1 and leave nothing"],
        ),
        (
            ["stages.sft.hooks=[{replay: {mode: batch}}, {replay: {unit: samples}}]"],
            ["replay entries act in batch and stream mode"],
        ),
        (
            [
                "stages.pretrain.hooks=[{replay: {source: {path: ./texts.jsonl}, mode: batch}}]",
            ],
            ["pretrain.yaml", "mode: batch counts rows of a batch", "use mode: stream"],
        ),
        (
            ["stages.sft.from=base", "stages.sft.hooks=[{replay: {mode: loss, of: base}}]"],
            ["hooks.replay: ", "the base model left no rows"],
        ),
        (["stages.sft.hygiene.probes=drop"], ["hygiene.probes: drop, and the chain has no probes"]),
        (["stages.sft.hygiene.probes=leave"], ["hygiene.probes: input should be 'keep', 'drop'"]),
        (["stages.sft.exemplars=0"], ["exemplars: input should be greater than or equal to 1"]),
        (["stages.sft.hooks=[{kl: {of: pretran}}]"], ["'pretran' is no stage", "'pretrain'?"]),
        (["stages.sft.hooks=[{kl: {of: dpo}}]"], ["'dpo' is no stage before this one"]),
        (
            ["stages.dpo.from=base", "stages.dpo.hooks=[{kl: {of: sft}}]"],
            ["'sft' is no stage before this one"],
        ),
        (["stages.pretrain.hooks=[replay]"], ["the base model left no rows", "source: "]),
        (["stages.pretrain.hooks=[{replay: {of: all}}]"], ["the base model left no rows"]),
        (
            ["stages.dpo.hooks=[{replay: {of: sft}}]"],
            ["hooks.replay: sft left messages rows, and a dpo stage trains on preference"],
        ),
        (
            ["stages.grpo.hooks=[{replay: {of: all}}]"],
            ["hooks.replay: pretrain left text rows, and a grpo stage trains on prompt"],
        ),
        (
            ["stages.grpo.reference=base", "stages.grpo.train.beta=0"],
            ["reference: 'base' is unused"],
        ),
        (["stages.grpo.train.num_generations=3"], ["train.batch_size", "num_generations (3)", "8"]),
        (
            ["stages.dpo.reference=base", "stages.dpo.train.beta=0"],
            ["train.beta: 0 compares no answers; write more than 0"],
        ),
        (
            ["stages.dpo.train.loss_type=[sft]"],
            ["train.loss_type: ['sft'] compares no answers", "kind: sft"],
        ),
        (
            ["stages.dpo.train={loss_type: [sigmoid, sft], loss_weights: [0, 1]}"],
            ["train.loss_type: ['sigmoid', 'sft'] compares no answers"],
        ),
        (
            ["stages.dpo.train={loss_type: [ipo], beta: 0}"],
            ["train.beta: 0 compares no answers"],
        ),
        (["stages.dpo.train.sync_ref_model=true"], ["train.sync_ref_model: belongs to the runner"]),
        (["stages.grpo.rewards=[]"], ["rewards is missing"]),
        (["stages.pretrain.train.packing=false"], ["train.packing: a pretrain stage always packs"]),
    ],
)
def test_conflicts_are_refused_with_a_way_out(
    chain: Any, refused: Refused, changes: list[str], parts: list[str]
) -> None:
    message = refused(chain.plan, *changes)
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message


def test_a_loss_on_old_rows_needs_no_rows_of_the_stages_own_format(chain: Any) -> None:
    loss = "hooks=[{replay: {of: all, mode: loss}}]"
    plan = chain.plan(f"stages.dpo.{loss}", f"stages.grpo.{loss}")
    assert [key for key, _ in plan.node("grpo").hooks] == ["replay"]
    assert "replay" in table_of(plan, Store(chain.folder / "runs"), None, 0, "single")


def test_prompts_are_no_rows_for_a_loss(chain: Any, refused: Refused) -> None:
    chain.stages["more"] = chain.stages["dpo"] | {
        "hooks": [{"replay": {"of": "grpo", "mode": "loss"}}]
    }
    chain.chain["stages"]["more"] = "more.yaml"
    assert "hooks.replay: grpo left no row with an answer" in refused(chain.plan)


TOKEN: dict[str, Any] = {"add_tokens": ["<tool>"]}


class TestShapes:
    """A vocabulary that grows between a stage and one that it compares itself with."""

    @pytest.mark.parametrize("hook", ["kl", "interpolate"])
    @pytest.mark.parametrize(
        ("grows", "of"), [("dpo", "sft"), ("sft", "pretrain"), ("dpo", "base")]
    )
    def test_a_comparison_across_the_growth_is_refused(
        self, hook: str, grows: str, of: str, chain: Any, refused: Refused
    ) -> None:
        chain.stages["sft"]["hooks"] = []
        chain.stages[grows]["model"] = TOKEN
        chain.stages["grpo"]["hooks"] = [{hook: {"of": of}}]
        (line,) = [
            line
            for line in refused(chain.plan).splitlines()
            if f"grpo.yaml: hooks.{hook}: " in line
        ]
        assert f"{of} and this stage differ in '<tool>' (model: add_tokens)" in line
        assert "add the tokens in the chain's model config" in line

    @pytest.mark.parametrize("hook", ["kl", "interpolate"])
    def test_the_stage_that_grows_is_refused_too(
        self, hook: str, chain: Any, refused: Refused
    ) -> None:
        chain.stages["sft"] |= {"model": TOKEN, "hooks": [hook]}
        (line,) = refused(chain.plan).splitlines()
        assert f"sft.yaml: hooks.{hook}: pretrain and this stage differ in '<tool>'" in line

    def test_stages_on_one_side_of_the_growth_compare(self, chain: Any) -> None:
        chain.stages["sft"]["model"] = TOKEN
        chain.stages["sft"]["hooks"] = [{"kl": {"beta": 0}}, {"interpolate": {"alpha": 1}}]
        chain.stages["dpo"]["hooks"] = ["kl", "interpolate"]
        chain.stages["grpo"]["hooks"] = [{"kl": {"of": "sft"}}]
        assert all("add_tokens" not in warning for warning in chain.plan().warnings)

    def test_tokens_that_the_model_has_change_nothing(self, chain: Any) -> None:
        chain.chain["model"]["add_tokens"] = ["<tool>"]
        chain.stages["sft"]["model"] = {"add_tokens": ["<tool>", "<|im_end|>"]}
        chain.plan("stages.grpo.hooks=[{kl: {of: base}}]")

    @pytest.mark.parametrize(("rows", "fits"), [(11, False), (12, True)])
    def test_tokens_that_fit_into_padding_change_nothing(
        self, rows: int, fits: bool, chain: Any, refused: Refused
    ) -> None:
        folder = chain.folder / "padded"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(f'{{"vocab_size": {rows}}}')
        words = ", ".join(f'"{letter}": {n}' for n, letter in enumerate("abcdefghij"))
        special = '{"content": "<end>"}'
        text = f'{{"model": {{"vocab": {{{words}}}}}, "added_tokens": [{special}]}}'
        (folder / "tokenizer.json").write_text(text)
        (folder / "model.safetensors").write_text("")
        chain.chain["model"] = {"path": str(folder)}
        chain.stages["sft"] |= {"model": TOKEN, "hooks": ["interpolate"]}
        if fits:
            chain.plan()
        else:
            assert "pretrain and this stage differ in '<tool>'" in refused(chain.plan)

    def test_a_model_that_is_not_here_warns(self, chain: Any) -> None:
        chain.chain["model"] = {"path": "some/model", "revision": "0" * 40}
        chain.stages["sft"] |= {"model": TOKEN, "hooks": ["kl"]}
        (warning,) = chain.plan().warnings
        assert "sft.yaml: hooks.kl: pretrain lacks '<tool>'" in warning

    def test_below_an_adapter_the_start_has_the_new_tokens(
        self, chain: Any, refused: Refused
    ) -> None:
        chain.stages["sft"] |= {"model": TOKEN, "hooks": ["lora", "kl"]}
        chain.plan()
        chain.stages["sft"]["hooks"] = ["lora", "interpolate"]
        assert "hooks.interpolate: pretrain and this stage" in refused(chain.plan)
        chain.stages["sft"]["hooks"] = ["lora", {"kl": {"of": "base"}}]
        chain.stages["pretrain"]["hooks"] = [{"lora": {"after": "keep"}}]
        chain.plan()  # the base model is what lies below both adapters

    def test_a_reference_without_the_new_tokens_is_refused(
        self, chain: Any, refused: Refused
    ) -> None:
        chain.stages["dpo"]["model"] = TOKEN
        (line,) = refused(chain.plan).splitlines()
        assert "dpo.yaml: reference: sft and this stage differ in '<tool>'" in line
        chain.stages["dpo"]["hooks"] = ["lora"]
        chain.plan()


@pytest.mark.parametrize(
    ("stage", "changes", "is_used"),
    [
        ("dpo", [], True),
        ("dpo", ["train.loss_type=[ipo, sft]"], True),
        ("grpo", [], True),
        ("grpo", ["train.beta=0.0"], False),
        ("grpo", ["train={num_generations: 4}"], False),
        ("sft", [], False),
    ],
)
def test_the_kind_says_whether_its_reference_is_used(
    stage: str, changes: list[str], is_used: bool, chain: Any
) -> None:
    from stages import kind_of

    plan = chain.plan(*(f"stages.{stage}.{change}" for change in changes))
    node = plan.node(stage)
    assert kind_of(node.kind, "").uses("reference", node.spec) == is_used
    assert ("reference" in node.parents) == is_used


def test_a_reference_that_the_kind_does_not_use_is_refused(chain: Any, refused: Refused) -> None:
    from cpt.roles import roles_of
    from stages.dpo import DPO

    class Bare(DPO):
        name = "bare"

        def uses(self, role: str, spec: Any) -> bool:
            return False

    spec = chain.load("stages.dpo.reference=base").stages["dpo"]
    assert refused(roles_of, spec, Bare(), "x") == (
        "x: reference: 'base' is unused as train: is set; remove reference, or change train:"
    )
    assert roles_of(chain.load().stages["dpo"], Bare(), "x") == {}


def test_one_stages_mistake_makes_none_in_later_stages(chain: Any, refused: Refused) -> None:
    chain.stages["dpo"]["hooks"] = [{"kl": {"of": "pretrain"}}, {"kl": {"of": "sft"}}]
    chain.stages["dpo"]["from"] = "sft"
    chain.stages["grpo"]["hooks"] = [{"kl": {"of": "pretrain"}}]
    lines = refused(chain.plan, "stages.sft.kind=stf").splitlines()
    assert len(lines) == 1
    assert "no stage kind 'stf'" in lines[0]


def test_a_kl_beside_the_stages_own_warns(chain: Any) -> None:
    chain.stages["dpo"]["hooks"] = ["kl"]
    (warning,) = chain.plan().warnings
    assert warning.startswith(f"{chain.folder / 'dpo.yaml'}: kl and dpo's own beta ")
    assert chain.plan("stages.grpo.train.beta=0", "stages.dpo.hooks=[]").warnings == ()


def test_the_table_shows_ids_hooks_and_status(chain: Any) -> None:
    plan = chain.plan("stages.sft.hooks=[ema, kl, replay, lora]")
    store = Store(chain.folder / "runs")
    store.partial(plan.node("sft").id).mkdir(parents=True)
    lines = table_of(plan, store, None, 3, "ddp x 2").splitlines()
    assert lines[0].split("   ")[:5] == [
        "chain tiny",
        "seed 17",
        "4 stages, 5 x 3 probes",
        "ddp x 2",
        str(store.chain("tiny")),
    ]
    assert lines[1].split() == ["stage", "id", *COLUMNS, "status"]
    assert lines[4].split() == [
        "2",
        "sft",
        plan.node("sft").id,
        "replay",
        "lora",
        "kl",
        "ema",
        "lora",
        "interrupted",
    ]
    assert lines[5].endswith("to do")


def test_pretraining_stays_below_the_peak_of_the_base_model_where_it_is_known(chain: Any) -> None:
    at_peak = "stages.pretrain.train.learning_rate=3e-4"
    above = "stages.pretrain.train.learning_rate=4e-4"
    assert chain.plan(above).nodes  # not known
    chain.chain["model"]["peak_learning_rate"] = 3e-4
    same = chain.plan(at_peak).node("base").id
    with pytest.raises(
        PlanError, match=r"0\.0004 is above the peak .* 0\.0003; warm up to 0\.1 to"
    ):
        chain.plan(above)
    # Answers are taught at rates of their own; and what is known of the model does not change it.
    assert chain.plan("stages.sft.train.learning_rate=1e-3").nodes
    del chain.chain["model"]["peak_learning_rate"]
    assert chain.plan().node("base").id == same
