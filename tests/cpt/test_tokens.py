"""KL over the vocabulary, exact, in chunks that nobody keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpt.tokens import Direction, OutputHead, token_kl, token_nll

DIRECTIONS: list[Direction] = ["reverse", "forward", "js"]
WIDTH, VOCABULARY = 5, 37


@pytest.fixture
def given() -> dict[str, Any]:
    """Hidden states of two models of unlike width, their heads, and weights with holes; float64."""
    torch.manual_seed(1)
    weight = torch.rand(3, 11, dtype=torch.float64)
    weight[0, :4] = 0
    weight[2] = 0
    return {
        "student_hidden": torch.randn(3, 11, WIDTH, dtype=torch.float64, requires_grad=True),
        "student_head": nn.Linear(WIDTH, VOCABULARY, bias=False).double(),
        "reference_hidden": torch.randn(3, 11, WIDTH + 2, dtype=torch.float64),
        "reference_head": nn.Linear(WIDTH + 2, VOCABULARY, bias=False).double(),
        "weight": weight,
    }


def direct(given: dict[str, Any], direction: Direction) -> Tensor:
    """sum_bt weight * KL from whole [B, T, V] probabilities."""
    p = torch.softmax(given["student_head"](given["student_hidden"]), dim=-1)
    q = torch.softmax(given["reference_head"](given["reference_hidden"]).detach(), dim=-1)
    if direction == "forward":
        p, q = q, p
    each = (p * (p / q).log()).sum(-1)
    if direction == "js":
        m = (p + q) / 2
        each = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
    value: Tensor = (each * given["weight"]).sum()
    return value


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chunk", [1, 6, 18, 19, 256])
def test_equals_the_direct_sum(given: dict[str, Any], direction: Direction, chunk: int) -> None:
    # 18 positions count: chunks that end before, at and behind the last one.
    assert int((given["weight"] != 0).sum()) == 18
    value = token_kl(**given, direction=direction, chunk=chunk)
    # Log-probabilities are fp32 inside.
    assert value.item() == pytest.approx(direct(given, direction).item(), rel=2e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradient_equals_autograd_of_the_direct_sum(
    given: dict[str, Any], direction: Direction
) -> None:
    of = [given["student_hidden"], given["student_head"].weight]
    exact = torch.autograd.grad(direct(given, direction), of)
    chunked = torch.autograd.grad(token_kl(**given, direction=direction, chunk=7), of)
    for one, other in zip(exact, chunked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert given["reference_head"].weight.grad is None


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_gradient_of_the_logits_is_the_closed_form(
    given: dict[str, Any], direction: Direction
) -> None:
    """forward: w (p - q); reverse: w p (log p - log q - KL)."""
    logits = torch.randn(1, 4, VOCABULARY, dtype=torch.float64, requires_grad=True)
    other = torch.randn(1, 4, VOCABULARY, dtype=torch.float64)
    weight = torch.tensor([[0.5, 1.0, 0.25, 2.0]], dtype=torch.float64)
    value = token_kl(logits, nn.Identity(), other, nn.Identity(), weight, direction)
    (gradient,) = torch.autograd.grad(value, logits)
    p, q = logits.detach().softmax(-1), other.softmax(-1)
    ratio = p.log() - q.log()
    closed = p - q if direction == "forward" else p * (ratio - (p * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient, closed * weight[..., None], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_models_have_no_divergence_and_no_gradient(direction: Direction) -> None:
    hidden = torch.randn(2, 5, WIDTH, requires_grad=True)
    head = nn.Linear(WIDTH, VOCABULARY)
    value = token_kl(hidden, head, hidden.detach(), head, torch.ones(2, 5), direction)
    (gradient,) = torch.autograd.grad(value, hidden)
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6


def test_positions_of_weight_zero_cost_nothing_and_get_nothing(given: dict[str, Any]) -> None:
    before = token_kl(**given, direction="reverse")
    (gradient,) = torch.autograd.grad(before, given["student_hidden"])
    ignored = given["weight"] == 0
    assert gradient[ignored].eq(0).all()
    assert gradient[~ignored].ne(0).any(-1).all()
    changed = {**given, "student_hidden": given["student_hidden"].detach().clone()}
    changed["student_hidden"][ignored] = float("nan")
    assert torch.equal(token_kl(**changed, direction="reverse"), before)


def test_no_weight_at_all_is_zero(given: dict[str, Any]) -> None:
    nothing = {**given, "weight": torch.zeros(3, 11)}
    assert token_kl(**nothing, direction="reverse").item() == 0.0


def test_in_fp16_the_gradient_does_not_vanish_before_the_scaler_is_met(
    given: dict[str, Any],
) -> None:
    """Weights of 1e-7, below what fp16 holds, and a scale of 1e7 from above."""
    half = {
        **given,
        "student_hidden": given["student_hidden"].detach().half().requires_grad_(),
        "student_head": given["student_head"].half(),
        "reference_hidden": given["reference_hidden"].half(),
        "reference_head": given["reference_head"].half(),
        "weight": given["weight"].float() * 1e-7,
    }
    of = [half["student_hidden"], half["student_head"].weight]
    scaled = torch.autograd.grad(token_kl(**half, direction="reverse") * 1e7, of)
    plain = {**half, "weight": given["weight"].float()}
    for one, other in zip(
        scaled, torch.autograd.grad(token_kl(**plain, direction="reverse"), of), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_without_gradients_only_the_value_is_made(given: dict[str, Any]) -> None:
    with torch.no_grad():
        value = token_kl(**given, direction="reverse")
    assert not value.requires_grad
    assert torch.equal(value, token_kl(**given, direction="reverse"))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_memory_is_bounded_by_a_chunk(direction: Direction) -> None:
    """Nothing with the vocabulary's width is kept for the backward pass, but for the heads."""
    positions, vocabulary, chunk = 300, 1000, 32
    student = torch.randn(1, positions, WIDTH, requires_grad=True)
    heads = [nn.Linear(WIDTH, vocabulary, bias=False) for _ in range(2)]
    kept: list[tuple[int, ...]] = []
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Watch():
        value = token_kl(
            student,
            heads[0],
            torch.randn(1, positions, WIDTH),
            heads[1],
            torch.full((1, positions), 1 / positions),
            direction,
            chunk,
        )
        torch.autograd.backward(value)
    assert student.grad is not None
    assert not [shape for shape in kept if shape[-1:] == (vocabulary,) and shape[0] > chunk]
    assert largest == chunk * vocabulary


class TestOutputHead:
    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            ("llama", {}),
            ("gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
            ("cohere", {"logit_scale": 0.25}),
            ("granite", {"logits_scaling": 4.0}),
        ],
    )
    def test_gives_the_logits_of_the_models_own_forward(
        self, family: str, settings: dict[str, Any]
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family,
            vocab_size=50,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **settings,
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        model.get_output_embeddings().weight.data.normal_()
        ids = torch.tensor([[3, 4, 5, 6]])
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state
            torch.testing.assert_close(OutputHead(model)(hidden), model(input_ids=ids).logits)

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize(
        "settings",
        [{}, {"logit_scale": 0.25}, {"final_logit_softcapping": 0.7}],
        ids=["plain", "scale", "softcap"],
    )
    def test_its_gradient_in_closed_form_is_that_of_autograd(
        self, settings: dict[str, Any], bias: bool
    ) -> None:
        head = OutputHead(_model(bias, **settings))
        assert head.is_linear
        hidden = torch.randn(6, WIDTH, dtype=torch.float64, requires_grad=True)
        logits = head(hidden)
        gradient = torch.randn_like(logits)
        wanted = torch.autograd.grad(logits, [hidden, *head.parameters()], gradient)
        made = head.gradients(hidden.detach(), logits.detach(), gradient.clone())
        assert len(made) == 2 + bias
        for one, other in zip(made, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize(
        "settings", [{}, {"logit_scale": 0.25, "final_logit_softcapping": 0.7}]
    )
    def test_terms_take_it(
        self, settings: dict[str, Any], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And a term makes no backward pass while it is made: backends would take it for the step's."""
        head = OutputHead(_model(True, **settings))
        given = {**given, "student_head": head}
        of = [given["student_hidden"], *head.parameters()]
        wanted = torch.autograd.grad(direct(given, "reverse"), of)
        value = token_kl(**given, direction="reverse", chunk=7)
        seen = []
        monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: seen.append(args))
        token_kl(**given, direction="reverse", chunk=7)
        monkeypatch.undo()
        assert not seen
        for one, other in zip(torch.autograd.grad(value, of), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_what_is_frozen_has_none(self) -> None:
        head = OutputHead(_model(True))
        head.head.weight.requires_grad_(False)
        hidden = torch.randn(6, WIDTH, dtype=torch.float64)
        logits = head(hidden).detach()
        made = head.gradients(hidden, logits, torch.ones_like(logits))
        assert [tuple(value.shape) for value in made] == [(6, WIDTH), (VOCABULARY,)]

    def test_a_layer_with_a_forward_pass_of_its_own_has_none_in_closed_form(self) -> None:
        class Adapted(nn.Linear):
            def forward(self, hidden: Tensor) -> Tensor:
                return 2 * super().forward(hidden)

        class Derived(nn.Linear):
            """As fully_shard derives one."""

        model = _model(False)
        for kind, is_linear in ((Adapted, False), (Derived, True)):
            model.head = kind(WIDTH, VOCABULARY, bias=False).double()
            assert OutputHead(model).is_linear == is_linear
        hidden = torch.randn(1, 6, WIDTH, dtype=torch.float64, requires_grad=True)
        model.head = Adapted(WIDTH, VOCABULARY, bias=False).double()
        labels, weight = torch.randint(VOCABULARY, (1, 6)), torch.ones(1, 6) / 5
        weight[0, -1] = 0
        value, _ = token_nll(hidden, OutputHead(model), labels, weight)
        logs = model.head(hidden)[0, :-1].log_softmax(-1)
        exact = -logs.gather(1, labels[0, 1:, None]).mean()
        made, wanted = (torch.autograd.grad(v, model.head.weight)[0] for v in (value, exact))
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-6)


def _model(bias: bool, **settings: Any) -> Any:
    """As much of a model as its head needs, in float64."""
    from types import SimpleNamespace

    torch.manual_seed(2)
    config = SimpleNamespace(model_type="tiny", **settings)
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config, head=nn.Linear(WIDTH, VOCABULARY, bias=bias).double())
    model.get_output_embeddings = lambda: model.head
    return model


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_temperature_divides_the_logits_and_its_square_multiplies(
    given: dict[str, Any], direction: Direction, temperature: float
) -> None:
    of = [given["student_hidden"], given["student_head"].weight]
    value = token_kl(**given, direction=direction, temperature=temperature, chunk=7)
    made = torch.autograd.grad(value, of)
    cooler = {
        **given,
        "student_head": lambda hidden: given["student_head"](hidden) / temperature,
        "reference_head": lambda hidden: given["reference_head"](hidden) / temperature,
    }
    total = temperature**2 * direct(cooler, direction)
    assert value.item() == pytest.approx(total.item(), rel=1e-5)
    for one, other in zip(made, torch.autograd.grad(total, of), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_temperature_keeps_the_gradient_of_small_logits(direction: Direction) -> None:
    torch.manual_seed(6)
    student = (torch.randn(1, 8, VOCABULARY) / 100).requires_grad_()
    other, head = torch.randn(1, 8, VOCABULARY) / 100, nn.Identity()
    norms = []
    for temperature in (1.0, 2.0, 4.0):
        value = token_kl(
            student, head, other, head, torch.ones(1, 8), direction, temperature=temperature
        )
        norms.append(float(torch.autograd.grad(value, student)[0].norm()))
    assert norms == pytest.approx([norms[0]] * 3, rel=0.05)


def test_positions_that_the_reference_is_not_kept_at_count_for_nothing(
    given: dict[str, Any],
) -> None:
    def keep(logits: Tensor) -> Tensor:
        return (logits.argmax(-1) % 2).float()

    hidden = given["student_hidden"]
    value = token_kl(**given, direction="forward", keep=keep, temperature=2.0, chunk=5)
    (gradient,) = torch.autograd.grad(value, hidden)
    kept = keep(given["reference_head"](given["reference_hidden"]))
    assert 0 < kept.sum() < kept.numel()
    fewer = token_kl(
        **{**given, "weight": given["weight"] * kept}, direction="forward", temperature=2.0
    )
    (wanted,) = torch.autograd.grad(fewer, hidden)
    assert value.item() == pytest.approx(fewer.item(), rel=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)


def test_a_wrong_token_of_a_sure_student_has_its_whole_gradient() -> None:
    """log(softmax + 1e-8) would leave about 1e-8 of it (`methods.md` F29)."""
    student = torch.tensor([[[40.0, 0.0]]], requires_grad=True)
    reference, head = torch.tensor([[[0.0, 0.0]]]), nn.Identity()
    value = token_kl(student, head, reference, head, torch.ones(1, 1), "forward")
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient.flatten().tolist() == pytest.approx([0.5, -0.5])


def test_the_term_of_long_sequences_is_that_of_short_ones() -> None:
    """A mean over B of sums over T would grow with T (`methods.md` F28)."""
    torch.manual_seed(3)
    student, other, head = torch.randn(1, 4, 9), torch.randn(1, 4, 9), nn.Identity()
    short = token_kl(student, head, other, head, torch.full((1, 4), 1 / 4), "forward")
    long = token_kl(
        student.repeat(1, 32, 1),
        head,
        other.repeat(1, 32, 1),
        head,
        torch.full((1, 128), 1 / 128),
        "forward",
    )
    assert long.item() == pytest.approx(short.item(), rel=1e-5)


def test_a_small_step_costs_half_its_square_in_the_fisher_metric() -> None:
    """KL(z || z + d) = 1/2 d^T (diag(p) - p p^T) d within 1 % at ||d|| of 1e-2 (`methods.md` A23)."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(6, generator=generator, dtype=torch.float64)
    d = torch.randn(6, generator=generator, dtype=torch.float64)
    d *= 1e-2 / d.norm()
    p = z.softmax(0)
    expected = 0.5 * d @ (p.diag() - p[:, None] * p) @ d
    ones = torch.ones(1, 1, dtype=torch.float64)
    identity = nn.Identity()
    for direction in DIRECTIONS[:2]:
        kl = token_kl(z[None, None], identity, (z + d)[None, None], identity, ones, direction)
        # Inside it is fp32: 1e-5 against terms of 1.
        assert float(kl) == pytest.approx(float(expected), rel=1e-2, abs=2e-7)
