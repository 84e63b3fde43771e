"""C13: hooks together are the sum of their parts, whatever their order; each is in the log under its name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tiny_stages import TinyStages, equal, weights_of

RATE = 0.05
#: One step of plain gradient descent, unclipped: the weights tell the gradient.
ONCE: dict[str, Any] = {"max_steps": 1, "learning_rate": RATE, "max_grad_norm": 1e6}

# A term with the trainer's own forward, twice; closed-form gradients; old rows in the stream.
KL = {"kl": {"of": "base", "beta": 2.0}}
FORWARD = {"kl": {"of": "pretrain", "beta": 1.0, "direction": "forward"}}
L2 = {"l2_sp": {"of": "base", "strength": 0.1}}
EWC = {"ewc": {"of": "pretrain", "strength": 0.02, "samples": 8}}
MAS = {"mas": {"of": "pretrain", "strength": 0.02, "samples": 8}}
REPLAY = {"replay": {"of": "pretrain", "share": 0.25}}
#: By their names in the log: two of a kind are numbered in the order of their settings.
TERMS = {"kl": FORWARD, "kl.2": KL, "l2_sp": L2, "ewc": EWC, "mas": MAS}

Hooks = list[dict[str, Any]]
Gradient = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def gradient(stages: TinyStages) -> Callable[..., tuple[Gradient, dict[str, float]]]:
    """The gradient of a stage's first step, after its hooks, and what the step logged."""
    done: dict[str, tuple[Gradient, dict[str, float]]] = {}
    start = weights_of(stages.sft.output / "checkpoint")

    def measured(hooks: Hooks, kind: str = "sft") -> tuple[Gradient, dict[str, float]]:
        key = f"{kind} {hooks}"
        if key not in done:
            trained = stages.train(stages.job(kind, hooks, micro_batch=4, **ONCE))
            moved = {n: (start[n].double() - w.double()) / RATE for n, w in trained.weights.items()}
            done[key] = moved, trained.log[0]
        return done[key]

    return measured


def flat(gradient: Gradient) -> torch.Tensor:
    return torch.cat([gradient[name].reshape(-1) for name in sorted(gradient)])


def test_a_combinations_gradient_is_the_sum_of_its_parts(gradient: Any) -> None:
    """On a stream with old rows in it, which all of them share."""
    task = flat(gradient([REPLAY])[0])
    parts = [flat(gradient([REPLAY, hook])[0]) - task for hook in TERMS.values()]
    together = flat(gradient([REPLAY, *TERMS.values()])[0]) - task
    for part in parts:
        assert float(part.norm()) > 0.01 * float(task.norm()), (
            "a part that is nothing tests nothing"
        )
    # What is read off weights is rounded as they are.
    bound = 1e-4 * float(together.norm())
    assert float((together - sum(parts)).norm()) < bound
    assert float((together - sum(parts[1:])).norm()) > 100 * bound


def test_old_rows_in_the_stream_change_the_tasks_own_gradient(gradient: Any) -> None:
    assert float((flat(gradient([REPLAY])[0]) - flat(gradient([])[0])).norm()) > 1e-3


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_term_has_its_value_and_its_gradients_norm_in_the_log(
    kind: str, gradient: Any
) -> None:
    task, before = gradient([], kind)
    together = gradient(list(TERMS.values()), kind)[1]
    names = {name for name in together if name.startswith("hook/")}
    wanted = {f"hook/{key}" for key in TERMS} | {f"hook/{key}/grad_norm" for key in TERMS}
    assert names == wanted
    rise = 0.0
    for key, hook in TERMS.items():
        alone, log = gradient([hook], kind)
        name = key.partition(".")[0]
        assert together[f"hook/{key}"] == pytest.approx(log[f"hook/{name}"], rel=1e-4)
        norm = float((flat(alone) - flat(task)).norm())
        assert together[f"hook/{key}/grad_norm"] == pytest.approx(norm, rel=1e-2)
        # Closed-form gradients are no part of the loss.
        rise += together[f"hook/{key}"] if name == "kl" else 0
    assert together["loss"] - before["loss"] == pytest.approx(rise, rel=1e-3)


ALL: Hooks = [
    REPLAY,
    *TERMS.values(),
    {"agem": {"of": "all"}},
    {"ema": {"decay": 0.5}},
    {"interpolate": {"of": "base", "alpha": 0.7}},
]


def test_order_changes_no_bit(stages: TinyStages) -> None:
    trained = [
        stages.train(stages.job("sft", hooks, micro_batch=4, max_steps=2))
        for hooks in (ALL, ALL[::-1], ALL[3:] + ALL[:3])
    ]
    for other in trained[1:]:
        assert equal(trained[0].weights, other.weights)
        assert trained[0].log == other.log


OFF: Hooks = [
    {"kl": {"of": "base", "beta": 0.0}},
    {"l2_sp": {"of": "base", "strength": 0.0}},
    {"ewc": {"strength": 0.0}},
    {"mas": {"strength": 0.0}},
    {"lwf": {"rows_of": "pretrain", "beta": 0.0}},
    {"online_ewc": {"strength": 0.0}},
    {"si": {"of": "sft", "strength": 0.0}},
    {"ema": {"decay": 0.0}},
    {"interpolate": {"of": "base", "alpha": 1.0}},
    {"replay": {"of": "sft", "share": 0.0}},
    {"replay": {"of": "sft", "mode": "loss", "coefficient": 0.0}},
]


@pytest.mark.parametrize("off", OFF, ids=lambda hook: "-".join([*hook, *next(iter(hook.values()))]))
def test_a_hook_that_is_off_is_one_that_is_not_listed(
    off: dict[str, Any], stages: TinyStages
) -> None:
    """Beside others that act, to the bit; the logs of the others too."""
    others: Hooks = [FORWARD, {"si": {}}, {"agem": {"source": stages.data("general")}}]
    settings: dict[str, Any] = {"micro_batch": 4, "max_steps": 2}
    without = stages.train(stages.job("sft", others, **settings))
    with_it = stages.train(stages.job("sft", [off, *others], **settings))
    assert equal(without.weights, with_it.weights)
    kept = [{n: v for n, v in row.items() if n.startswith("hook/")} for row in with_it.log]
    for row, other in zip(kept, without.log, strict=True):
        # Two of a kind are kl and kl.2, in the order of their settings.
        values = sorted(value for name, value in other.items() if name.startswith("hook/"))
        assert sorted(row.values()) == values


def test_the_edit_sees_the_gradient_of_everything(stages: TinyStages, gradient: Any) -> None:
    """Terms and pulls first, the projection last: what is left is orthogonal to the old rows' gradient."""
    agem = {"agem": {"source": stages.data("general"), "batch_size": 6}}
    weak = {"kl": {"of": "base", "beta": 0.1}}, {"l2_sp": {"of": "base", "strength": 0.01}}
    hooks = [*weak, {"replay": {"of": "sft", "share": 0.25}}]
    whole = flat(gradient(hooks)[0])
    edited, log = gradient([*hooks, agem])
    assert log["hook/agem/violated"] == 1, "the data must conflict"
    taken = whole - flat(edited)
    cosine, norm = log["hook/agem/cosine"], float(whole.norm())
    assert float(taken.norm()) == pytest.approx(-cosine * norm, rel=1e-3)
    assert float(taken @ flat(edited)) == pytest.approx(0, abs=1e-3 * norm * float(taken.norm()))
