"""How much each weight matters to what a model does: diagonal Fisher information, and MAS.

Both are means over examples of something non-linear in an example's own gradient, so every example has its
own backward pass: no batch size can change them. Legend: N positions, V vocabulary; fp32 sums.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from cpt.chunked import Score, chunked
from cpt.errors import HookError
from cpt.params import bare_name
from cpt.past import PastStage
from cpt.rehearsal import Batch, Example, collate, hidden_states
from cpt.tokens import OutputHead
from cpt.world import World

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: Raised by hand when the same arguments would give other numbers; part of the cache's key.
VERSION = 1
SECONDS_BETWEEN_LINES = 30.0
Labels = Literal["sample", "data", "argmax"]


def key(
    what: str,
    stage: PastStage,
    weights: "Mapping[str, Tensor]",
    examples: Sequence[Example],
    seed: int,
) -> list[Any]:
    """Everything that an importance depends on."""
    rows = [[example.input_ids, example.labels] for example in examples]
    shapes = {name: list(value.shape) for name, value in weights.items()}
    return [what, VERSION, stage.identity, shapes, rows, seed]


def progress(ctx: Any, what: str, total: int) -> Callable[[int], None]:
    """Tells every 30 seconds, in the main process, how far a measurement is."""
    last = time.monotonic()
    own = -(-total // ctx.world.size)

    def told(done: int) -> None:
        nonlocal last
        if ctx.world.is_main and time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            ctx.say(f"{what}: {done} of {own} rows")

    return told


def diagonal_fisher(
    model: Any,
    names: Sequence[str],
    examples: Sequence[Example],
    world: World,
    seed: int,
    labels: Labels = "sample",
    unit: Literal["example", "token"] = "example",
    progress: Callable[[int], None] = lambda done: None,
) -> "dict[str, Tensor]":
    """F_i = mean over examples x of E_y (d log p(y | x) / d w_i)^2.

    log p is the sum over an example's label positions, each behind the data's own tokens (teacher forcing);
    with `unit: token` it is one position of each example, drawn evenly. The labels y are drawn from the
    model (`sample`: the true Fisher), are the data's (`data`: the empirical one), or the likeliest ones
    (`argmax`: biased towards 0 where the model is sure).

    Args:
        model: bare language model, at the anchor's weights.
        names: bare names of the weights that matter.
        examples: rows with labels.
        world: the processes share the examples; every one gets the result.
        seed: of the drawn labels and positions, per example.
        labels, unit: see above.
        progress: told how many examples of this process are done.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3; Kunstner et al. 2019, arXiv:1905.12558, on
    the three kinds of labels.
    """
    import torch

    def term(batch: Batch, generator: "Generator") -> "Tensor":
        weight = batch.weight
        if unit == "token":
            places = weight.nonzero()
            kept = int(torch.randint(len(places), (), generator=generator))
            weight = torch.zeros_like(weight).index_put(
                tuple(places[kept]), torch.ones(()).to(weight)
            )
        chosen = weight != 0
        target = batch.labels.roll(-1, dims=1)[chosen]

        def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
            logs = torch.log_softmax(logits, dim=-1)
            gradient = logs.exp()
            if labels == "sample":
                # On the CPU, where a seed means the same on every machine.
                label = torch.multinomial(gradient.cpu(), 1, generator=generator).to(logs.device)
            elif labels == "argmax":
                label = logs.argmax(-1, keepdim=True)
            else:
                label = target[piece, None]
            gradient.scatter_add_(1, label, gradient.new_full(label.shape, -1.0))
            return -logs.gather(1, label)[:, 0], gradient

        return _term(model, batch, weight, score)

    return _mean_over_examples(
        model, names, examples, world, seed, term, lambda g: g.square(), progress
    )


def memory_aware_synapses(
    model: Any,
    names: Sequence[str],
    examples: Sequence[Example],
    world: World,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    centred: bool = True,
) -> "dict[str, Tensor]":
    """O_i = mean over examples of | d f(x) / d w_i |, f the mean over positions of ||logits - mean logit||^2.

    Needs no labels: every position that predicts a token counts. Centred, since adding a constant to all
    logits changes nothing that the model does; else f is of the logits as they are.

    Source: Aljundi et al. 2018, arXiv:1711.09601, eq. 2 and 3; `methods.md` A05.
    """

    def score(logits: "Tensor", piece: slice) -> "tuple[Tensor, Tensor]":
        norm_of = logits - logits.mean(-1, keepdim=True) if centred else logits
        return norm_of.square().sum(-1), norm_of * 2

    def term(batch: Batch, generator: "Generator") -> "Tensor":
        weight = batch.predictions()
        return _term(model, batch, weight / weight.sum(), score)

    return _mean_over_examples(
        model, names, examples, world, seed, term, lambda g: g.abs(), progress
    )


def _term(model: Any, batch: Batch, weight: "Tensor", score: Score) -> "Tensor":
    chosen = weight != 0
    hidden = hidden_states(model, batch.forward)[chosen]
    return chunked(hidden, OutputHead(model), weight[chosen], score)[0]


def _mean_over_examples(
    model: Any,
    names: Sequence[str],
    examples: Sequence[Example],
    world: World,
    seed: int,
    term: "Callable[[Batch, Generator], Tensor]",
    power: "Callable[[Tensor], Tensor]",
    progress: Callable[[int], None],
) -> "dict[str, Tensor]":
    import torch

    named = parameters_of(model, names)
    parameters = list(named.values())
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    with measuring(model, named), torch.enable_grad():
        for done, number in enumerate(range(world.rank, len(examples), world.size)):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            batch = collate([examples[number]], parameters[0].device)
            made = torch.autograd.grad(term(batch, generator), parameters, materialize_grads=True)
            for sum_, gradient in zip(sums, made, strict=True):
                sum_ += power(gradient.float())
            progress(done + 1)
    for sum_ in sums:
        world.sum_(sum_).div_(len(examples))
    return dict(zip(named, sums, strict=True))


def parameters_of(model: Any, names: Sequence[str]) -> "dict[str, Any]":
    """A model's parameters by bare name, in the order of `names`.

    Raises:
        HookError: the model lacks one of them.
    """
    own = {bare_name(name): parameter for name, parameter in model.named_parameters()}
    lacking = [name for name in names if name not in own]
    if lacking:
        raise HookError(
            f"{len(lacking)} of {len(names)} protected weights are not in the earlier model, such as "
            f"{lacking[0]!r}"
        )
    return {name: own[name] for name in names}


@contextmanager
def measuring(model: Any, named: Mapping[str, Any]) -> Iterator[None]:
    """Without dropout and with gradients for these weights alone; afterwards everything is as it was."""
    training = model.training
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    own = {id(parameter) for parameter in named.values()}
    for parameter, _ in learns:
        parameter.requires_grad_(id(parameter) in own)
    try:
        yield
    finally:
        for parameter, before in learns:
            parameter.requires_grad_(before)
        model.train(training)
