"""Terms over k + 1 outcomes against sums over whole vocabularies."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cpt.tokens import Direction, token_kl
from cpt.topk import Outcomes, most_likely, topk_kl, topk_mse

V, N = 37, 9
DIRECTIONS: list[Direction] = ["reverse", "forward", "js"]


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """The student's [1, N, V], the reference's [N, V], weights [1, N]; all positions count."""
    torch.manual_seed(2)
    weight = torch.rand(1, N) + 0.1
    return torch.randn(1, N, V, requires_grad=True), torch.randn(N, V), weight


def stored(reference: Tensor, k: int, temperature: float = 1.0) -> Outcomes:
    """The outcomes before fp16 rounds them."""
    made = most_likely(reference, k, temperature)
    logs = (reference / temperature).log_softmax(-1).gather(-1, made.tokens.long())
    return replace(made, logs=logs)


def lumped(logits: Tensor, tokens: Tensor) -> Tensor:
    """[N, V] -> probabilities [N, k + 1], by summing them."""
    p = logits.softmax(-1)
    kept = p.gather(-1, tokens)
    return torch.cat([kept, (p.sum(-1) - kept.sum(-1))[:, None]], -1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunk", [4, 256])
def test_value_and_gradient_are_those_of_the_direct_sum(
    logits: tuple[Tensor, Tensor, Tensor], direction: Direction, temperature: float, chunk: int
) -> None:
    student, reference, weight = logits
    kept = stored(reference, 8, temperature)
    value = topk_kl(student, nn.Identity(), kept, weight, direction, temperature, chunk)
    (gradient,) = torch.autograd.grad(value, student)
    exact = student.detach().double().requires_grad_()
    q = lumped(exact[0] / temperature, kept.tokens.long())
    r = lumped(reference.double() / temperature, kept.tokens.long())
    m = (q + r) / 2
    each = {
        "reverse": (q * (q / r).log()).sum(-1),
        "forward": (r * (r / q).log()).sum(-1),
        "js": ((q * (q / m).log()).sum(-1) + (r * (r / m).log()).sum(-1)) / 2,
    }[direction]
    total = temperature**2 * (each * weight[0]).sum()
    (direct,) = torch.autograd.grad(total, exact)
    assert value.item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), direct, rtol=1e-4, atol=1e-6)


def test_the_forward_gradient_of_the_logits_is_the_closed_form(
    logits: tuple[Tensor, Tensor, Tensor],
) -> None:
    """q_v - r_v for a kept token, q_v - r_rest q_v / q_rest for the others."""
    student, reference, weight = logits
    kept = stored(reference, 8)
    value = topk_kl(student, nn.Identity(), kept, weight, "forward")
    (gradient,) = torch.autograd.grad(value, student)
    q, r = student.detach()[0].softmax(-1), reference.softmax(-1)
    is_kept = torch.zeros(N, V).scatter(-1, kept.tokens.long(), 1.0).bool()
    q_rest, r_rest = ((p * ~is_kept).sum(-1, keepdim=True) for p in (q, r))
    closed = torch.where(is_kept, q - r, q - r_rest * q / q_rest)
    torch.testing.assert_close(gradient[0], closed * weight[0, :, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_all_tokens_kept_is_the_exact_term(
    logits: tuple[Tensor, Tensor, Tensor], direction: Direction, temperature: float
) -> None:
    student, reference, weight = logits
    head = nn.Identity()
    exact = token_kl(
        student, head, reference[None], head, weight, direction, temperature=temperature
    )
    (wanted,) = torch.autograd.grad(exact, student)
    for kept, close in (
        (stored(reference, V, temperature), 1e-5),
        (most_likely(reference, V, temperature), 2e-3),  # fp16 rounds
    ):
        value = topk_kl(student, head, kept, weight, direction, temperature)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(exact.item(), rel=close)
        assert float((gradient - wanted).norm() / wanted.norm()) < close


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_fewer_outcomes_are_never_more_than_the_exact_term(
    logits: tuple[Tensor, Tensor, Tensor], direction: Direction
) -> None:
    student, reference, weight = logits
    head = nn.Identity()
    exact = token_kl(student, head, reference[None], head, weight, direction).item()
    values = [
        topk_kl(student, head, stored(reference, k), weight, direction).item()
        for k in (1, 8, 20, V)
    ]
    assert values == sorted(values)
    assert values[1] < exact * (1 - 1e-3)
    assert values[-1] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_model_itself_is_at_no_distance(direction: Direction) -> None:
    torch.manual_seed(1)
    student = (3 * torch.randn(1, N, V)).requires_grad_()
    weight = torch.ones(1, N) / N
    kept = most_likely(student.detach()[0], 8)
    value = topk_kl(student, nn.Identity(), kept, weight, direction)
    (gradient,) = torch.autograd.grad(value, student)
    assert 0 <= value.item() + 1e-7 < 1e-5
    assert float(gradient.abs().max()) < 1e-3 / N


def test_positions_that_are_left_out_count_for_nothing(
    logits: tuple[Tensor, Tensor, Tensor],
) -> None:
    student, reference, weight = logits
    kept = torch.tensor([1.0, 0.0, 1.0] * 3)
    some = replace(stored(reference, 8), kept=kept)
    value = topk_kl(student, nn.Identity(), some, weight, "forward", 2.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[0, kept == 0].eq(0).all()
    which = torch.arange(N)[kept == 1]
    fewer = topk_kl(
        student[:, which],
        nn.Identity(),
        stored(reference[which], 8, 1.0),
        weight[:, which],
        "forward",
        2.0,
    )
    assert value.item() == pytest.approx(fewer.item(), rel=1e-5)


def test_what_is_kept_takes_6_k_and_4_bytes() -> None:
    made = most_likely(torch.randn(N, V), 8)
    parts = (made.tokens, made.logs, made.rest)
    assert sum(part.element_size() * part.numel() for part in parts) == N * (6 * 8 + 4)
    assert len(made) == N


def test_the_rest_of_a_sure_reference_is_no_difference_of_ones() -> None:
    made = most_likely(torch.tensor([[100.0, 0.0, 0.0, 0.0]]), 1)
    assert made.rest.item() == pytest.approx(-100 + torch.tensor(3.0).log().item(), rel=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tokens_that_the_reference_rules_out_make_no_nan(direction: Direction) -> None:
    reference = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]])
    student = torch.randn(1, 1, 4, requires_grad=True)
    for k in (2, 3, 4):
        kept = most_likely(reference, k)
        value = topk_kl(student, nn.Identity(), kept, torch.ones(1, 1), direction)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()


class TestSquaredDistance:
    def test_gradient_of_a_linear_model_is_the_closed_form(self) -> None:
        """2 / n X^T (X w - z), where the logits of both are centred already."""
        torch.manual_seed(4)
        n, width = 11, 5
        x, w = torch.randn(1, n, width), torch.randn(V, width)
        w -= w.mean(0)
        z = torch.randn(n, V)
        z -= z.mean(-1, keepdim=True)
        head = nn.Linear(width, V, bias=False)
        head.weight.data = w.clone()
        value = topk_mse(x, head, stored(z, V), torch.full((1, n), 1 / n))
        (gradient,) = torch.autograd.grad(value, head.weight)
        closed = 2 / n * (x[0] @ w.T - z).T @ x[0]
        torch.testing.assert_close(gradient, closed, rtol=1e-4, atol=1e-5)
        assert value.item() == pytest.approx(float((x[0] @ w.T - z).square().sum() / n), rel=1e-4)

    @pytest.mark.parametrize("k", [2, 8, V])
    def test_a_shift_of_all_logits_changes_nothing(
        self, k: int, logits: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        student, reference, weight = logits
        shift = torch.randn(1, N, 1) * 10
        plain = topk_mse(student, nn.Identity(), stored(reference, k), weight)
        for other in (
            topk_mse(student + shift, nn.Identity(), stored(reference, k), weight),
            topk_mse(student, nn.Identity(), stored(reference + shift[0], k), weight),
        ):
            assert other.item() == pytest.approx(plain.item(), rel=1e-4)

    def test_gradient_is_that_of_the_direct_sum(
        self, logits: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        student, reference, weight = logits
        kept = stored(reference, 8)
        value = topk_mse(student, nn.Identity(), kept, weight, chunk=4)
        (gradient,) = torch.autograd.grad(value, student)
        tokens = kept.tokens.long()
        s, z = student[0].gather(-1, tokens), reference.gather(-1, tokens)
        apart = s - s.mean(-1, keepdim=True) - z + z.mean(-1, keepdim=True)
        direct = (apart.square().sum(-1) * weight[0]).sum()
        (wanted,) = torch.autograd.grad(direct, student)
        assert value.item() == pytest.approx(direct.item(), rel=1e-5)
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
