"""Group-relative policy optimisation: its reference, its batches, its refusals."""

from typing import Any

import pytest
import torch

from cpt.errors import EdgeError, PlanError, RecipeError
from stages import kind_of
from stages.grpo import GRPO
from tests.tiny_stages import TinyStages, equal, weights_of


def watch_trainer(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The reference weights of every trainer that is built."""
    seen: list[Any] = []
    build = GRPO.trainer

    def trainer(self: GRPO, material: Any) -> Any:
        made = build(self, material)
        reference = made.ref_model
        seen.append(None if reference is None else dict(reference.state_dict()))
        return made

    monkeypatch.setattr(GRPO, "trainer", trainer)
    return seen


@pytest.mark.parametrize("reference", ["base", "parent"])
def test_reference_is_loaded_from_the_declared_folder(
    reference: str, stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_trainer(monkeypatch)
    folder = stages.base if reference == "base" else stages.sft.output
    trained = stages.train(stages.job("grpo", reference=folder, max_steps=1))
    assert equal(seen[0], weights_of(folder / "checkpoint"))
    start = trained.log[0]["kl"]
    assert start > 1e-3 if reference == "base" else start == pytest.approx(0, abs=1e-6)


def test_beta_0_has_no_reference(stages: TinyStages, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_trainer(monkeypatch)
    trained = stages.train(stages.job("grpo", beta=0.0, max_steps=1))
    assert seen == [None]
    assert "kl" not in trained.log[0]


def test_divergence_at_the_start_is_checked(
    stages: TinyStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.under_way as under_way

    monkeypatch.setattr(under_way, "NUM_SAMPLES", 3)
    for hooks in (None, {"lora": {"rank": 2}}):
        trained = stages.train(stages.job("grpo", hooks, max_steps=1))
        assert trained.manifest["checks"]["kl_to_reference_at_start"] == pytest.approx(0, abs=1e-6)
    trained = stages.train(stages.job("grpo", reference=stages.base, max_steps=1))
    assert trained.manifest["checks"]["kl_to_reference_at_start"] > 0.01


def test_the_checkpoint_does_not_remember_the_reference(stages: TinyStages) -> None:
    """TRL reloads a reference from `_name_or_path`; what it was set to is no property of the result."""
    trained = stages.train(stages.job("grpo", reference=stages.base, max_steps=1))
    assert trained.model.config._name_or_path == str(stages.sft.output / "checkpoint")


def test_below_an_adapter_another_reference_is_refused(stages: TinyStages) -> None:
    job = stages.job("grpo", {"lora": {"rank": 2}}, reference=stages.base)
    with pytest.raises(EdgeError, match=r"the model below the adapter"):
        stages.train(job)
    # Without a reference there is nothing to mistake.
    stages.train(
        stages.job("grpo", {"lora": {"rank": 2}}, reference=stages.base, beta=0.0, max_steps=1)
    )


@pytest.mark.parametrize("settings", [{}, {"num_iterations": 2}, {"generation_batch_size": 16}])
def test_a_stage_takes_the_steps_that_it_says(settings: dict[str, Any], stages: TinyStages) -> None:
    trained = stages.train(stages.job("grpo", max_steps=4, **settings))
    assert trained.manifest["num_steps"] == 4
    assert [row["step"] for row in trained.log if "loss" in row] == [1, 2, 3, 4]


def test_loss_mask_counts_the_positions_before_completion_tokens() -> None:
    """Prompts are padded on the left, completions on the right."""
    inputs = {"completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    mask = kind_of("grpo", "").loss_mask(inputs, {"input_ids": torch.zeros(2, 7, dtype=torch.long)})
    assert mask.tolist() == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0]]


def test_a_step_takes_one_prompt_for_each_group(stages: TinyStages) -> None:
    assert kind_of("grpo", "").rows_per_step(stages.job("grpo").spec) == 2


class TestRefusals:
    def check(self, stages: TinyStages, **changes: Any) -> None:
        train = changes.pop("train", {})
        spec = stages.job("grpo", changes.pop("hooks", None), **train).spec
        kind_of("grpo", "").check(spec.model_copy(update=changes), "grpo.yaml")

    def test_no_reward(self, stages: TinyStages) -> None:
        with pytest.raises(RecipeError, match=r"grpo.yaml: rewards is missing"):
            self.check(stages, rewards=[])

    def test_a_reward_that_is_not_there(self, stages: TinyStages) -> None:
        with pytest.raises(RecipeError, match=r"exact_mach.*did you mean 'exact_match'"):
            self.check(stages, rewards=["exact_mach"])

    def test_a_reference_that_is_not_used(self, stages: TinyStages) -> None:
        with pytest.raises(PlanError, match=r"'base' is unused while train.beta is 0"):
            self.check(stages, reference="base", rewards=["brevity"], train={"beta": 0.0})

    def test_an_adapter_with_a_named_reference(self, stages: TinyStages) -> None:
        with pytest.raises(PlanError, match=r"with a lora hook the reference is the parent"):
            self.check(stages, reference="base", rewards=["brevity"], hooks={"lora": {"rank": 2}})

    def test_groups_that_do_not_divide_the_batch(self, stages: TinyStages) -> None:
        with pytest.raises(PlanError, match=r"must be a multiple of num_generations\s+3, not 8"):
            self.check(stages, rewards=["brevity"], train={"num_generations": 3})
