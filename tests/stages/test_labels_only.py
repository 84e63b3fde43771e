"""Fewer positions are scored, and nothing else changes."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer import utils

from stages.labels_only import labels_only


@pytest.fixture
def scored(tiny_folder: Any) -> Any:
    """(labels, within) -> log probabilities, their gradient, and how many positions the head saw."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    utils.add_fused_lm_head(model)

    def score(labels: Any) -> tuple[Any, Any, list[int]]:
        seen: list[int] = []
        original = utils._ChunkedLogProbFunction.apply

        def look(hidden: Any, *rest: Any) -> Any:
            seen.append(len(hidden))
            return original(hidden, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils._ChunkedLogProbFunction, "apply", look)
            output = model(input_ids=torch.arange(12).view(2, 6), labels=labels, fused_lm_head=True)
        model.zero_grad()
        output.log_probs.sum().backward()
        return output.log_probs.detach(), model.get_input_embeddings().weight.grad.clone(), seen

    return score


def test_only_labels_are_scored_and_the_numbers_are_the_same(scored: Any) -> None:
    labels = torch.full((2, 6), -100)
    labels[0, 3:5] = torch.tensor([3, 4])
    labels[1, 5] = 11
    everywhere, gradient, all_positions = scored(labels)
    with labels_only():
        at_labels, same_gradient, few = scored(labels)
    assert (all_positions, few) == ([10], [3])
    torch.testing.assert_close(at_labels, everywhere, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(same_gradient, gradient, rtol=1e-5, atol=1e-6)
    assert scored(labels)[2] == [10], "it lasts longer than it says"


def test_a_batch_without_any_label_has_gradient_zero(scored: Any) -> None:
    with labels_only():
        log_probs, gradient, few = scored(torch.full((2, 6), -100))
    assert few == [0]
    assert not log_probs.any()
    assert not gradient.any()
