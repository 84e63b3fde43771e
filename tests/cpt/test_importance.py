"""Fisher information and MAS against closed forms; legend as in the module."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpt.errors import HookError
from cpt.importance import diagonal_fisher, memory_aware_synapses, parameters_of
from cpt.rehearsal import IGNORED, Example
from cpt.world import World


class Table(nn.Module):
    """hidden state of a token = its row of a table."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(rows), rows.shape[1], _weight=rows)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(last_hidden_state=self.dropout(self.table(input_ids)))


class Toy(nn.Module):
    """logits = head(table[token]): a language model that looks at one token."""

    def __init__(self, rows: list[list[float]], head: list[list[float]]) -> None:
        super().__init__()
        self.base_model = Table(torch.tensor(rows))
        self.head = nn.Linear(len(rows[0]), len(head), bias=False)
        self.head.weight.data = torch.tensor(head)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="toy"))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def fisher(toy: Toy, examples: list[Example], **settings: Any) -> Tensor:
    return diagonal_fisher(toy, ["head.weight"], examples, World(), 3, **settings)["head.weight"]


def whole(*ids: int) -> Example:
    return Example(list(ids), list(ids))


X = [[1.0, -2.0], [0.5, 3.0], [2.0, 0.0]]


@pytest.mark.parametrize("labels", ["sample", "data", "argmax"])
def test_logistic_regression_at_0(labels: Any) -> None:
    """F = 0.25 E[x^2] whatever the labels: (p - y)^2 is 0.25."""
    toy = Toy(X, [[0.0, 0.0], [0.0, 0.0]])
    examples = [whole(0, 1), whole(1, 0), whole(2, 1)]
    expected = 0.25 * torch.tensor(X).square().mean(0)
    torch.testing.assert_close(fisher(toy, examples, labels=labels), expected.expand(2, 2))


def test_squares_of_examples_and_not_of_a_batch() -> None:
    """Two examples with opposite gradients: their mean's square is 0 (pitfalls F1, F2, F49)."""
    toy = Toy([[1.0], [1.0]], [[0.0], [0.0]])
    both = fisher(toy, [whole(0, 1), whole(1, 0)], labels="data")
    assert both.flatten().tolist() == pytest.approx([0.25, 0.25])


def test_an_example_is_its_sum_of_log_likelihoods() -> None:
    """Two positions with the same gradient g give (2 g)^2; with `unit: token` g^2."""
    toy = Toy([[1.0], [1.0]], [[0.0], [0.0]])
    example = whole(0, 1, 1)
    assert fisher(toy, [example], labels="data").flatten().tolist() == pytest.approx([1.0, 1.0])
    token = fisher(toy, [example], labels="data", unit="token")
    assert token.flatten().tolist() == pytest.approx([0.25, 0.25])


def test_only_label_positions_count() -> None:
    toy = Toy(X, [[0.3, 0.1], [0.0, -0.2], [0.5, 0.5]])
    masked = Example([0, 1, 2], [IGNORED, IGNORED, 2])
    torch.testing.assert_close(
        fisher(toy, [masked], labels="data"), fisher(toy, [whole(1, 2)], labels="data")
    )


def test_sampled_labels_give_the_true_fisher_of_a_categorical() -> None:
    """diag(p) - p p^T has p (1 - p) on its diagonal."""
    logits = [[0.2], [-1.0], [0.7]]
    p = torch.tensor(logits).flatten().softmax(0)
    found = fisher(Toy([[1.0]], logits), [whole(0, 0)] * 4000).flatten()
    error = (p * (1 - p) / 4000).sqrt()
    assert ((found - p * (1 - p)).abs() < 4 * error).all()


def test_labels_of_the_model_and_of_the_data_differ_where_the_model_is_sure() -> None:
    toy = Toy([[1.0]], [[5.0], [0.0]])
    surprised = whole(0, 0, 0)
    surprised = Example([0, 0, 0], [0, 1, 1])
    argmax = fisher(toy, [surprised], labels="argmax").sum()
    data = fisher(toy, [surprised], labels="data").sum()
    assert argmax < 1e-3 * data  # pitfall F3


def test_the_model_is_as_it_was() -> None:
    toy = Toy(X, [[0.3, 0.1], [0.0, -0.2]])
    toy.train()
    toy.base_model.table.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    fisher(toy, [whole(0, 1)])
    assert toy.training
    assert toy.base_model.dropout.training  # pitfall F6
    assert not toy.base_model.table.weight.requires_grad
    assert toy.head.weight.requires_grad
    assert toy.head.weight.grad is None
    assert all(value.equal(before[name]) for name, value in toy.state_dict().items())


def test_the_same_seed_gives_the_same_and_another_one_other_labels() -> None:
    toy = Toy(X, [[0.3, 0.1], [0.0, -0.2], [0.5, 0.5]])
    examples = [whole(0, 1, 2), whole(2, 0)]
    one = diagonal_fisher(toy, ["head.weight"], examples, World(), 3)["head.weight"]
    again = diagonal_fisher(toy, ["head.weight"], examples, World(), 3)["head.weight"]
    other = diagonal_fisher(toy, ["head.weight"], examples, World(), 4)["head.weight"]
    assert one.equal(again)
    assert not one.equal(other)


def test_weights_that_are_not_there_are_named() -> None:
    with pytest.raises(HookError, match=r"1 of 2 protected weights .* 'nothing.weight'"):
        parameters_of(Toy(X, [[0.0, 0.0]]), ["head.weight", "nothing.weight"])


def synapses(toy: Toy, examples: list[Example], centred: bool = True) -> Tensor:
    found = memory_aware_synapses(toy, ["head.weight"], examples, World(), 3, centred=centred)
    return found["head.weight"]


def test_gradient_of_the_squared_norm_of_a_linear_map() -> None:
    """W = [[1, 2], [0, -1]], x = (3, -1): d ||Wx||^2 / dW = [[6, -2], [6, -2]]."""
    toy = Toy([[3.0, -1.0]], [[1.0, 2.0], [0.0, -1.0]])
    assert synapses(toy, [whole(0, 0)], centred=False).tolist() == [[6.0, 2.0], [6.0, 2.0]]


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    head = torch.tensor([[1.0, 2.0], [0.0, -1.0], [0.5, 0.25]])
    one = synapses(Toy(X, head.tolist()), [whole(0, 1, 2)])
    other = synapses(Toy(X, (head + torch.tensor([3.0, -4.0])).tolist()), [whole(0, 1, 2)])
    torch.testing.assert_close(one, other)


def test_prompts_without_answers_are_enough_for_synapses() -> None:
    toy = Toy(X, [[1.0, 2.0], [0.0, -1.0]])
    prompt = Example([0, 1, 2], [IGNORED] * 3)
    torch.testing.assert_close(synapses(toy, [prompt]), synapses(toy, [whole(0, 1, 2)]))
    assert synapses(toy, [prompt]).sum() > 0


def test_examples_do_not_disturb_one_another() -> None:
    """A mean over examples of absolute values, one backward pass each."""
    toy = Toy([[1.0], [-1.0]], [[1.0], [0.5]])
    one, other = synapses(toy, [whole(0, 0)]), synapses(toy, [whole(1, 1)])
    torch.testing.assert_close(synapses(toy, [whole(0, 0), whole(1, 1)]), (one + other) / 2)
