"""Direct preference optimisation against the reference that was declared."""

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.checkpoint import load_tokenizer
from cpt.errors import EdgeError, PlanError
from cpt.rows import explicit
from stages import kind_of
from stages.dpo import DPO
from tests.tiny_stages import TinyStages, Trained, difference, equal, first_rows, log_probabilities


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the reference on sample prompts, as stages do."""
    import stages.under_way as under_way

    monkeypatch.setattr(under_way, "NUM_SAMPLES", 3)


def log_likelihood(folder: Path, ids: list[int], start: int) -> float:
    """log p of the tokens from `start` on."""
    log_p = log_probabilities(folder, ids)
    return sum(float(log_p[place - 1, ids[place]]) for place in range(start, len(ids)))


@pytest.mark.parametrize("reference", ["base", "pretrain", "sft"])
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_loss_is_the_closed_form_against_the_declared_reference(
    reference: str, micro_batch: int, stages: TinyStages
) -> None:
    folder = {
        "base": stages.base,
        "pretrain": stages.pretrain.output,
        "sft": stages.sft.output,
    }[reference]
    job = stages.job("dpo", reference=folder, micro_batch=micro_batch, max_steps=1, beta=0.3)
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))

    def ids(chat: list[dict[str, str]], prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
        return list(tokenizer(text)["input_ids"])

    losses = []
    for row in first_rows(stages, job):
        start = len(ids(row["prompt"], True))
        ratios = []
        for end in (row["chosen"], row["rejected"]):
            whole = ids(row["prompt"] + end, False)
            ratios.append(
                log_likelihood(stages.sft.output, whole, start)
                - log_likelihood(folder, whole, start)
            )
        losses.append(log(1 + exp(-0.3 * (ratios[0] - ratios[1]))))
    expected = sum(losses) / len(losses)
    assert stages.train(job).log[0]["loss"] == pytest.approx(expected, rel=1e-5)
    if reference == "sft":
        assert expected == pytest.approx(log(2))


@pytest.mark.usefixtures("samples")
class TestReference:
    @pytest.mark.parametrize("hooks", [None, {"lora": {"rank": 2}}])
    def test_divergence_is_0_at_the_start_when_it_is_the_parent(
        self, hooks: Any, stages: TinyStages
    ) -> None:
        trained = stages.train(stages.job("dpo", hooks, max_steps=1))
        assert trained.manifest["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-6)
        assert trained.log[0]["loss"] == pytest.approx(log(2), rel=1e-6)

    def test_divergence_is_recorded_when_it_is_an_earlier_stage(self, stages: TinyStages) -> None:
        trained = stages.train(stages.job("dpo", reference=stages.base, max_steps=1))
        assert trained.manifest["checks"]["kl_to_reference_at_start"] > 0.01

    @pytest.mark.parametrize("hooks", [None, {"lora": {"rank": 2}}])
    def test_what_is_computed_of_it_beforehand_changes_nothing(
        self, hooks: Any, stages: TinyStages
    ) -> None:
        plain = stages.train(stages.job("dpo", hooks))
        before = stages.train(stages.job("dpo", hooks, precompute_ref_log_probs=True))
        assert before.manifest["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-6)
        assert difference(before.weights, plain.weights) < 1e-6

    def test_another_model_in_its_place_is_refused(
        self, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import cpt.checkpoint

        load = cpt.checkpoint.load_model

        def wrong(path: str, **options: Any) -> Any:
            return load(str(stages.base / "checkpoint"), **options)

        kind = DPO.trainer

        def trainer(self: DPO, material: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cpt.checkpoint, "load_model", wrong)
                return kind(self, material)

        monkeypatch.setattr(DPO, "trainer", trainer)
        with pytest.raises(EdgeError, match=r"another model was loaded"):
            stages.train(stages.job("dpo"))
        job = stages.job("dpo", reference=stages.pretrain.output)
        with pytest.raises(EdgeError, match=r"does not have the weights of"):
            stages.train(job)

    def test_below_an_adapter_is_refused_when_another_is_declared(self, stages: TinyStages) -> None:
        """As after a stage that kept its adapter apart: the reference would lack that stage."""
        parent = stages.train(stages.job("sft", {"lora": {"rank": 2, "after": "keep"}})).job
        with pytest.raises(EdgeError, match=r"the model below the adapter, .* is declared"):
            stages.train(stages.job("dpo", {"lora": {"rank": 2}}, parent=parent.output))
        with pytest.raises(EdgeError, match=r"the model below the adapter"):
            stages.train(stages.job("dpo", {"lora": {"rank": 2}}, reference=stages.base))

    def test_planning_refuses_an_adapter_with_a_named_reference(self, stages: TinyStages) -> None:
        spec = stages.job("dpo", {"lora": {"rank": 2}}).spec
        with pytest.raises(PlanError, match=r"with a lora hook the reference is the parent"):
            kind_of("dpo", "").check(spec.model_copy(update={"reference": "base"}), "dpo.yaml")
        kind_of("dpo", "").check(spec.model_copy(update={"reference": "previous"}), "dpo.yaml")


@pytest.mark.parametrize("train", [{}, {"loss_type": ["ipo"]}, {"loss_type": ["sigmoid", "sft"]}])
def test_a_beta_of_0_is_refused_since_it_compares_nothing(
    train: dict[str, Any], stages: TinyStages
) -> None:
    spec = stages.job("dpo", beta=0.0, **train).spec
    with pytest.raises(PlanError) as failed:
        kind_of("dpo", "").check(spec, "dpo.yaml")
    assert str(failed.value) == ("dpo.yaml: train.beta: 0 compares no answers; write more than 0")


def test_loss_mask_counts_the_positions_before_completion_tokens() -> None:
    completion = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
    mask = kind_of("dpo", "").loss_mask({"completion_mask": completion}, {})
    assert mask.tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]


def test_plain_texts_train_too(stages: TinyStages, tmp_path: Path) -> None:
    rows = '{"prompt": "2+2=", "chosen": "4", "rejected": "5"}\n' * 8
    (tmp_path / "plain.jsonl").write_text(rows)
    data = {"path": str(tmp_path / "plain.jsonl")}
    trained: Trained = stages.train(stages.job("dpo", data=data, max_steps=2))
    assert trained.log[1]["loss"] < trained.log[0]["loss"]


def test_pairs_with_an_implicit_prompt_train_like_explicit_ones(
    stages: TinyStages, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (stages.root / "pairs.jsonl").read_text().splitlines()]
    whole = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]
    (tmp_path / "whole.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    one = stages.train(stages.job("dpo", max_steps=1))
    data = {"path": str(tmp_path / "whole.jsonl")}
    assert equal(stages.train(stages.job("dpo", data=data, max_steps=1)).weights, one.weights)


def test_implicit_prompts_are_those_of_trl(stages: TinyStages) -> None:
    from trl import extract_prompt

    rows = [json.loads(line) for line in (stages.root / "pairs.jsonl").read_text().splitlines()]
    whole = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]
    for row in (
        *whole,
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "2+2=4", "rejected": "2+2=5"},
        {"chosen": "ab", "rejected": "abc"},
    ):
        assert explicit(row, as_chat=False) == extract_prompt(row)


def test_padding_token_does_not_matter(stages: TinyStages) -> None:
    """Chosen and rejected answers are padded to one length."""
    job = stages.job("dpo", {"kl": {"of": "base"}}, max_steps=1)
    one = stages.train(job)
    with pytest.MonkeyPatch.context() as patch:
        trainer = DPO.trainer

        def other(self: DPO, material: Any) -> Any:
            material.tokenizer.pad_token = "<|im_start|>"
            return trainer(self, material)

        patch.setattr(DPO, "trainer", other)
        two = stages.train(stages.job("dpo", {"kl": {"of": "base"}}, max_steps=1))
    assert equal(one.weights, two.weights)


def test_lengths_are_those_of_both_answers(stages: TinyStages) -> None:
    tokenizer = load_tokenizer(str(stages.base / "checkpoint"))
    row = {"prompt": "ab", "chosen": "c", "rejected": "def"}
    encoded = kind_of("dpo", "").encode([row], tokenizer, stages.job("dpo").spec)
    assert encoded.num_tokens == [3 + 5]
