"""Views of weights that are spread over processes: by PyTorch's fully_shard, and by DeepSpeed's ZeRO.

Each shows a process its own parts, as flat or smaller tensors that belong together: weights, gradient, and
whatever a hook holds per weight, once `cut`. What a hook leaves for later is made `whole` again, so that the
next stage may run anywhere.

Source: the attributes that DeepSpeed 0.19 keeps on parameters (`deepspeed/utils/tensor_fragment.py`), and
DTensor of torch 2.13.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpt.params import View, trainable
from cpt.spread import stay_whole, whole

if TYPE_CHECKING:
    from torch import Tensor


def view_of(trainer: Any, world: Any) -> View:
    """What this process holds of a trainer's model, behind `accelerator.prepare`."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind == "FSDP":
        return FullyShardedView(model, world)
    if kind == "DEEPSPEED":
        engine = accelerator.deepspeed_engine_wrapped.engine
        stage = engine.zero_optimization_stage()
        return (Zero3View if stage == 3 else ZeroView)(model, world, engine)
    return View(model, world)


@dataclass(frozen=True)
class _Sharded(View):
    def sum_(self, value: "Tensor") -> "Tensor":
        """Sum over the shards of all processes, in place."""
        return self.world.sum_(value)

    def second_gradient(self, losses: "Iterable[Callable[[], Tensor]]") -> "list[Tensor]":
        """As in `View`, by backward passes into buffers that are put back afterwards."""
        import torch

        kept = [g.clone() for g in self._gradients()]
        sums = [
            torch.zeros_like(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in kept
        ]
        for loss in losses:
            self._clear()
            with self._open():
                self._backward(loss())
            for sum_, part in zip(sums, self._gradients(), strict=True):
                # Every backend averages over processes.
                sum_.add_(part, alpha=self.world.size)
        self._restore(kept)
        return sums

    def _open(self) -> AbstractContextManager[None]:
        """Around a further forward and backward pass."""
        return nullcontext()

    @abstractmethod
    def _gradients(self) -> "list[Tensor]":
        """This process's parts of the gradient, in the order of `shards`; zeros where there is none."""
        ...

    @abstractmethod
    def _clear(self) -> None:
        """Set them to zero."""
        ...

    @abstractmethod
    def _backward(self, loss: "Tensor") -> None:
        """Backward pass and reduction."""
        ...

    @abstractmethod
    def _restore(self, gradients: "list[Tensor]") -> None:
        """Put back what `_gradients` gave."""
        ...


@dataclass(frozen=True)
class FullyShardedView(_Sharded):
    """FSDP2: every parameter is a DTensor, cut along its first dimension."""

    def shards(self, with_gradient: bool = False) -> "Iterator[tuple[str, Tensor, Tensor | None]]":
        """(bare name, rows of the weights, of the gradient); writing into either changes the model's."""
        import torch

        for name, parameter in trainable(self.model):
            if with_gradient and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            spread: Any = parameter.detach()
            slope: Any = parameter.grad
            yield name, spread.to_local(), None if slope is None else slope.to_local()

    def cut(self, name: str, whole: "Tensor") -> "Tensor | None":
        """The rows that this process holds."""
        from torch.distributed.tensor import distribute_tensor

        like = self._named[name]
        # Every process has the whole, so nothing is sent.
        part: Tensor = distribute_tensor(
            whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        ).to_local()
        return part.clone()

    def whole(self, name: str, part: "Tensor | None") -> "Tensor":
        """All rows; a collective."""
        from torch.distributed.tensor import DTensor

        like = self._named[name]
        assert part is not None
        spread = DTensor.from_local(
            part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )
        whole: Tensor = spread.full_tensor()
        return whole

    @property
    def _named(self) -> "dict[str, Any]":
        return dict(trainable(self.model))

    def _gradients(self) -> "list[Tensor]":
        return [
            gradient for _, _, gradient in self.shards(with_gradient=True) if gradient is not None
        ]

    def _clear(self) -> None:
        for gradient in self._gradients():
            gradient.zero_()

    def _backward(self, loss: "Tensor") -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        stay_whole(self.model)()  # else their gradients were those of whole weights

    def _open(self) -> AbstractContextManager[None]:
        """Fetch what no layer holds: the model's own forward pass would, and hooks run the backbone alone."""
        return whole(self.model)

    def _restore(self, gradients: "list[Tensor]") -> None:
        for own, before in zip(self._gradients(), gradients, strict=True):
            own.copy_(before)


@dataclass(frozen=True)
class _Zero(_Sharded):
    engine: Any = None

    def _backward(self, loss: "Tensor") -> None:
        # Not the accelerator's: that one takes the optimizer's step as well.
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.backward(loss, scale_wrt_gas=False)


@dataclass(frozen=True)
class ZeroView(_Zero):
    """ZeRO-1 and ZeRO-2: each process holds the fp32 master weights and gradients of a part of the numbers.

    A parameter of which a process holds nothing is not among its shards. Writing into weights would not
    reach the model, so hooks that do are refused when planning.
    """

    def shards(self, with_gradient: bool = False) -> "Iterator[tuple[str, Tensor, Tensor | None]]":
        """(bare name, master weights [n], gradient [n]), gradients only between backward and step."""
        for name, parameter in self._held():
            yield name, parameter._hp_mapping.hp_fragment.detach(), _fragment(parameter)

    def cut(self, name: str, whole: "Tensor") -> "Tensor | None":
        """The numbers that this process holds."""
        for own, parameter in self._held():
            if own == name:
                address = parameter._hp_mapping.lp_fragment_address
                part = whole.reshape(-1)[address.start : address.start + address.numel]
                return part.to(parameter.device, copy=True)
        return None

    def whole(self, name: str, part: "Tensor | None") -> "Tensor":
        """All numbers, in the shape of the parameter; a collective."""
        import torch

        parameter: Any = dict(trainable(self.model))[name]
        flat = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        if part is not None:
            address = parameter._hp_mapping.lp_fragment_address
            flat[address.start : address.start + address.numel] = part.to(flat)
        return self.world.sum_(flat).view(parameter.shape)

    def _held(self) -> "Iterator[tuple[str, Any]]":
        for name, parameter in trainable(self.model):
            if getattr(parameter, "_hp_mapping", None) is not None:
                yield name, parameter

    def _gradients(self) -> "list[Tensor]":
        found = [_fragment(parameter) for _, parameter in self._held()]
        assert all(gradient is not None for gradient in found), "between backward and step"
        return [gradient for gradient in found if gradient is not None]

    def _clear(self) -> None:
        for gradient in self._gradients():
            gradient.zero_()

    def _restore(self, gradients: "list[Tensor]") -> None:
        for own, before in zip(self._gradients(), gradients, strict=True):
            own.copy_(before)


def _fragment(parameter: Any) -> "Tensor | None":
    try:
        found = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
    except ValueError:  # so DeepSpeed says that there is none now
        return None
    gradient: Tensor = found.view(-1)
    return gradient


@dataclass(frozen=True)
class Zero3View(_Zero):
    """ZeRO-3: each process holds an equal part of every parameter's numbers, the last one padded with zeros.

    DeepSpeed hands out copies of gradients: `fetch` and `push` are around every edit.
    """

    copies: "dict[str, Tensor]" = field(default_factory=dict)

    def shards(self, with_gradient: bool = False) -> "Iterator[tuple[str, Tensor, Tensor | None]]":
        """(bare name, master weights [n], gradient [n])."""
        from deepspeed.utils import safe_get_local_fp32_param

        for name, parameter in trainable(self.model):
            yield name, safe_get_local_fp32_param(parameter).view(-1), self.copies.get(name)

    def fetch(self) -> None:
        """Copy the gradients; behind backward."""
        for (name, _), gradient in zip(trainable(self.model), self._gradients(), strict=True):
            self.copies[name] = gradient.clone()

    def push(self) -> None:
        """Write the gradients back."""
        self._restore(list(self.copies.values()))

    def cut(self, name: str, whole: "Tensor") -> "Tensor | None":
        """The numbers that this process holds, with the padding."""
        import torch

        parameter: Any = dict(trainable(self.model))[name]
        size, flat = parameter.ds_tensor.numel(), whole.reshape(-1)
        padded = torch.nn.functional.pad(flat, (0, size * self.world.size - flat.numel()))
        part = padded[self.world.rank * size : (self.world.rank + 1) * size]
        return part.to(parameter.device, copy=True)

    def whole(self, name: str, part: "Tensor | None") -> "Tensor":
        """All numbers, in the shape of the parameter; a collective."""
        import torch

        parameter: Any = dict(trainable(self.model))[name]
        assert part is not None
        size = parameter.ds_tensor.numel()
        flat = torch.zeros(size * self.world.size, dtype=torch.float32, device=part.device)
        flat[self.world.rank * size : (self.world.rank + 1) * size] = part
        return self.world.sum_(flat)[: parameter.ds_numel].view(parameter.ds_shape)

    def _gradients(self) -> "list[Tensor]":
        from deepspeed.utils import safe_get_local_grad

        return [safe_get_local_grad(parameter).view(-1) for _, parameter in trainable(self.model)]

    def _clear(self) -> None:
        from deepspeed.utils import safe_set_local_grad

        for (_, parameter), gradient in zip(trainable(self.model), self._gradients(), strict=True):
            safe_set_local_grad(parameter, gradient.zero_())

    def _restore(self, gradients: "list[Tensor]") -> None:
        from deepspeed.utils import safe_set_local_grad

        for (_, parameter), before in zip(trainable(self.model), gradients, strict=True):
            safe_set_local_grad(parameter, before)
