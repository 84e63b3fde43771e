"""A model with the weights of an earlier stage, and tensors of it in this stage's shapes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import manifest
from cpt.errors import HookError
from cpt.hooks.context import StageContext
from cpt.past import PastStage

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def protected(model: "nn.Module") -> "dict[str, Tensor]":
    """The weights that the stage trains, by bare name."""
    from cpt.params import trainable

    return {name: parameter.detach() for name, parameter in trainable(model)}


@contextmanager
def at_anchor(
    stage: PastStage, model: "PreTrainedModel", ctx: StageContext
) -> Iterator[tuple[Any, "dict[str, Tensor]"]]:
    """A bare model with an earlier stage's weights, and of these the ones that this stage trains.

    The stage's own start is the model at hand. An adapter that is trained on gets the earlier stage's
    numbers until the block ends: what is to last is copied within it. Any other stage is loaded beside it,
    and let go afterwards.

    Raises:
        HookError: the earlier stage has other weights, or no adapter where one is trained.
    """
    from cpt.hooks.backbone import bare_model
    from cpt.importance import parameters_of

    own, bare = protected(model), bare_model(model)
    if hasattr(model, "peft_config"):
        before = {name: value.clone() for name, value in own.items()}
        _copy(_adapter_of(stage, own, ctx), own)
        try:
            yield bare, own
        finally:
            _copy(before, own)
    elif stage.checkpoint == ctx.start:
        yield bare, own
    else:
        assert ctx.load is not None
        earlier = ctx.load(stage)
        yield earlier, {name: p.detach() for name, p in parameters_of(earlier, list(own)).items()}


def _copy(source: "Mapping[str, Tensor]", into: "Mapping[str, Tensor]") -> None:
    for name, value in into.items():
        value.copy_(source[name].to(value))


def _adapter_of(
    stage: PastStage, own: "Mapping[str, Tensor]", ctx: StageContext
) -> "Mapping[str, Tensor]":
    from cpt.adapters import weights

    if stage.adapter is None:
        raise HookError(
            f"{stage.name} left no adapter, and this stage trains one: a penalty on it has no anchor there"
        )
    if not _lies_on(stage, ctx.start):
        raise HookError(
            f"the adapter of {stage.name} lies on other weights than this stage's: it was merged into "
            f"them, or they came later; protect a stage that kept its adapter on these (lora: {{after: "
            f"keep}} or continue)"
        )
    found = weights(stage.adapter)
    odd = sorted(own.keys() ^ found.keys()) or [n for n in own if own[n].shape != found[n].shape]
    if odd:
        raise HookError(f"the adapter of {stage.name} differs from this stage's in {odd[0]!r}")
    return found


def known_rows(
    importance: "Mapping[str, Tensor]",
    own: "Mapping[str, Tensor]",
    stage: PastStage,
    model: "PreTrainedModel",
    ctx: StageContext,
) -> "dict[str, Tensor]":
    """Importance where the weights are, 0 for embeddings of tokens that this stage itself has added."""
    found = {name: value.to(own[name].device) for name, value in importance.items()}
    if ctx.new_rows and stage.checkpoint == ctx.start:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        tables = {end.weight.data_ptr() for end in ends if end is not None}
        for name, value in found.items():
            if own[name].data_ptr() in tables:
                value[-ctx.new_rows :] = 0
    return found


def _lies_on(stage: PastStage, start: str) -> bool:
    """Whether a stage's adapter was trained on the weights in a folder, and was not merged into them."""
    assert stage.folder is not None
    below = manifest.read(stage.folder).start
    if below == "checkpoint":
        return False
    folder = (stage.folder / below).resolve()
    return folder == Path(start).resolve() if folder.is_dir() else below == start


def fitted(
    of_stage: "Mapping[str, Tensor]",
    own: "Mapping[str, Tensor]",
    fill: "Mapping[str, Tensor] | None",
) -> "dict[str, Tensor]":
    """An earlier stage's tensors in this stage's shapes: rows that were added since are `fill`'s, or 0.

    Raises:
        HookError: another difference of shapes.
    """
    import torch

    result = {}
    for name, value in own.items():
        there = of_stage[name]
        if there.shape == value.shape:
            result[name] = there
            continue
        if there.shape[1:] != value.shape[1:] or len(there) > len(value):
            raise HookError(
                f"{name!r} is {tuple(there.shape)} in the earlier stage and {tuple(value.shape)} here"
            )
        grown = torch.zeros_like(value, dtype=there.dtype) if fill is None else fill[name].clone()
        grown[: len(there)] = there.to(grown)
        result[name] = grown
    return result
