"""Which positions count, and how much: the weights of one optimizer step sum to 1."""

import math

import pytest
import torch

from cpt.positions import Positions, Sure, predictions, weight_at
from cpt.tokens import Tokens

IDS = torch.ones(2, 5, dtype=torch.long)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_a_prediction_is_of_a_token_that_is_no_padding() -> None:
    found = predictions({"input_ids": IDS, "attention_mask": MASK})
    assert found.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


def test_padding_on_the_left_is_none_either() -> None:
    found = predictions({"input_ids": IDS, "attention_mask": MASK.flip(1)})
    assert found.tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 0]]


def test_no_sequence_predicts_the_first_token_of_the_next_in_its_row() -> None:
    places = torch.tensor([[0, 1, 2, 0, 1]])
    found = predictions({"input_ids": IDS[:1], "position_ids": places, "attention_mask": None})
    assert found.tolist() == [[1, 1, 0, 1, 0]]


@pytest.mark.parametrize("positions", ["labels", "prompt", "all"])
def test_weights_of_a_step_sum_to_1_over_its_parts(positions: Positions) -> None:
    """10 predictions in two parts of unlike size, 4 of them labels."""
    labelled = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1, 0]])
    masks = MASK, torch.tensor([[1, 1, 1, 1, 1]])
    number = sum(float(predictions({"input_ids": m, "attention_mask": m}).sum()) for m in masks)
    assert number == 10
    total, places = 0.0, 0
    for label, mask in zip(labelled, masks, strict=True):
        forward = {"input_ids": mask, "attention_mask": mask}
        weight = weight_at(Tokens(label / 4, forward, None, (0, 1), 4, number), positions)
        total += float(weight.sum())
        places += int((weight != 0).sum())
        in_loss = (weight != 0) & (label == 1)
        assert in_loss.any() == (positions != "prompt")
    assert total == pytest.approx(1.0)
    assert places == {"labels": 4, "prompt": 6, "all": 10}[positions]


def test_who_is_sure_is_kept() -> None:
    """Two tokens of four alike have an entropy of log 2 and a probability of 1/2."""
    logits = torch.tensor([[0.0, 0, 0, 0], [50, 50, 0, 0], [50, 0, 0, 0], [0, -torch.inf, 0, 0]])
    assert Sure(max_entropy=math.log(2) + 1e-3)(logits).tolist() == [0, 1, 1, 0]
    assert Sure(max_entropy=math.log(3) + 1e-3)(logits).tolist() == [0, 1, 1, 1]
    assert Sure(min_probability=0.4)(logits).tolist() == [0, 1, 1, 0]
    assert Sure(max_entropy=1.0, min_probability=0.9)(logits).tolist() == [0, 0, 1, 0]
    assert Sure()(logits).tolist() == [1, 1, 1, 1]
