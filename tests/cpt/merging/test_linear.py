import pytest
import torch

from cpt.merging.linear import average


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_soup_is_the_average() -> None:
    made = average([torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 2, 0])], [0.5, 0.5])
    assert made.tolist() == [0.5, 1, 0]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.3, 0.7], [1 / 3] * 3, [0.1] * 10])
def test_equal_models_give_themselves_bit_for_bit(weights: list[float]) -> None:
    model = random(1000)
    assert average([model] * len(weights), weights).equal(model)


@pytest.mark.parametrize("place", range(3))
def test_a_model_of_weight_one_is_returned_bit_for_bit(place: int) -> None:
    models = [random(100, seed=seed) for seed in range(3)]
    models[(place + 1) % 3][0] = torch.inf  # times 0 is no number
    weights = [0.0, 0.0, 0.0]
    weights[place] = 1.0
    assert average(models, weights).equal(models[place])


def test_three_models_are_weighed() -> None:
    models = [random(1000, seed=seed) for seed in range(3)]
    weights = [0.2, 0.3, 0.5]
    exact = sum(w * m.double() for w, m in zip(weights, models, strict=True))
    torch.testing.assert_close(average(models, weights).double(), exact, rtol=0, atol=5e-7)


def test_the_models_are_left_as_they_are() -> None:
    models = [random(10, seed=seed) for seed in range(3)]
    before = [model.clone() for model in models]
    average(models, [0.2, 0.3, 0.5])
    assert all(one.equal(other) for one, other in zip(models, before, strict=True))
