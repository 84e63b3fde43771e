"""Trainable parameters by bare name, as the shards that this process holds.

Parameter-space hooks see `View` only, so the same hook runs on every backend that can give one. Legend for
names: canonical names, without what DDP, torch.compile or PEFT put in front.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpt.world import World

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "module.", "base_model.model.")
_ADAPTED = ".base_layer."  # PEFT puts the frozen weights of an adapted layer one level deeper


def bare_name(name: str) -> str:
    """A parameter's name without what wrappers add: `module.norm.weight` -> `norm.weight`."""
    for wrapper in _WRAPPERS:
        while name.startswith(wrapper):
            name = name[len(wrapper) :]
        if wrapper != "base_model.model.":
            name = name.replace(f".{wrapper}", ".")
    return name.replace(_ADAPTED, ".")


def trainable(model: "nn.Module") -> Iterator[tuple[str, "nn.Parameter"]]:
    """(bare name, parameter) of what the stage trains; tied tensors once."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield bare_name(name), parameter


@dataclass(frozen=True)
class View:
    """What this process holds of each trainable parameter.

    One process and DDP hold all of it, and DDP has averaged the gradients already. `cpt.shards` has the views
    of backends that spread weights over processes.
    """

    model: "nn.Module"
    world: World

    def shards(self, with_gradient: bool = False) -> "Iterator[tuple[str, Tensor, Tensor | None]]":
        """(bare name, weights, gradient); writing into either changes the model's.

        Args:
            with_gradient: one of zeros where the loss gave none, as for an expert that no token went to.
        """
        for name, parameter in trainable(self.model):
            if with_gradient and parameter.grad is None:
                import torch

                parameter.grad = torch.zeros_like(parameter)
            yield name, parameter.detach(), parameter.grad

    def sum_(self, value: "Tensor") -> "Tensor":
        """Sum scalars over the shards of all processes; here every process holds everything."""
        return value

    def cut(self, name: str, whole: "Tensor") -> "Tensor | None":
        """This process's part of what belongs to a parameter's numbers one by one, or None if it has none.

        Args:
            name: of the parameter.
            whole: in its shape, the same on every process.
        """
        return whole

    def whole(self, name: str, part: "Tensor | None") -> "Tensor":
        """The inverse of `cut`, on every process; all of them must ask for it."""
        assert part is not None
        return part

    def second_gradient(self, losses: "Iterable[Callable[[], Tensor]]") -> "list[Tensor]":
        """The gradient of a sum of losses over all processes, beside the one that is there.

        Args:
            losses: this process's; as many as every other one's where weights are spread.

        Returns: this process's parts in at least fp32, in the order of `shards`.
        """
        import torch

        parameters = [parameter for _, parameter in trainable(self.model)]
        sums = [
            torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for p in parameters
        ]
        for loss in losses:
            made = torch.autograd.grad(loss(), parameters, materialize_grads=True)
            for sum_, gradient in zip(sums, made, strict=True):
                sum_ += gradient
        return [self.world.sum_(sum_) for sum_ in sums]

    def fetch(self) -> None:
        """Before hooks edit the gradient, where the backend gives copies of it."""
        return

    def push(self) -> None:
        """Behind them: write what was edited back."""
        return
