"""Having whole, for a while, what backends spread over processes: FSDP2, and DeepSpeed's ZeRO-3.

Hooks run parts of a model by themselves, where the backend's own forward pass fetches nothing for them.

Source: torch 2.13 (`torch/distributed/fsdp/_fully_shard`), DeepSpeed 0.19 (`runtime/zero`), accelerate 1.15.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cpt.errors import HookError

if TYPE_CHECKING:
    from torch import Tensor, nn


#: Last hidden states [B, T, H] for the arguments of a forward pass; a collective.
Ask = Callable[["Mapping[str, Any]"], "Tensor"]


def stay_whole(model: Any) -> "Callable[[], None]":
    """Under FSDP2, keep the last norm and the head whole between the backward passes of a step.

    accelerate makes them one group, whose forward ends with that of the whole model. Forward passes of hooks
    run the backbone alone: nobody would fetch the group again for the second backward pass through the norm,
    which would read freed memory.

    Returns: spreads them again; before the optimizer's step, and behind every further pass.
    """
    from torch.distributed.fsdp import FSDPModule

    from cpt.hooks.backbone import bare_model

    head = bare_model(model).get_output_embeddings()
    if not isinstance(head, FSDPModule):
        return lambda: None
    head.set_reshard_after_backward(False, recurse=False)
    return head.reshard


@contextmanager
def loaded_whole() -> "Iterator[None]":
    """Load models whole while ZeRO-3 trains: transformers would spread each over the processes as it loads.

    What is loaded on one process alone, or read outside of its own forward pass, cannot be spread.
    """
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


@contextmanager
def gathered(parameters: "Iterable[nn.Parameter]") -> "Iterator[None]":
    """Have whole what ZeRO-3 spreads, where it is read outside of its module's own forward pass."""
    theirs: list[Any] = [p for p in parameters if hasattr(p, "ds_id")]
    spread = {id(p): p for p in theirs if p.ds_status.name != "AVAILABLE"}
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(spread.values())):
        yield


@contextmanager
def gathered_head(head: Any) -> "Iterator[None]":
    """Have the weights of an output head whole, once for all chunks; a collective where they are spread.

    Args:
        head: a `cpt.tokens.OutputHead`, or any module.
    """
    if getattr(head, "group", None) is not None:
        with whole(head.group), gathered(head.parameters()):
            yield
        return
    layer: Any = getattr(head, "head", None)
    if not hasattr(layer, "unshard") or not hasattr(layer.weight, "full_tensor"):
        with gathered(head.parameters()):
            yield
        return
    layer.unshard()  # below an adapter FSDP2 has it in a group of its own
    try:
        yield
    finally:
        if not layer.weight.requires_grad:  # else it takes its gradient yet; see `stay_whole`
            layer.reshard()


@contextmanager
def whole(model: Any) -> "Iterator[None]":
    """Have whole what FSDP2 spreads with a model itself, and not with a layer: parts of it may run.

    Of TRL's references that is everything.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def spread_like(frozen: Any, model: Any) -> "Ask | None":
    """Spread a frozen model as the backend spreads the one that is trained, over the same processes.

    Weights keep the number type that they were loaded in, so that what is computed is what a whole copy
    computes. Every process must ask as often as the others.

    Args:
        frozen: whole, in the host's memory; shares go where the trained model's are.
        model: the trained model, as the backend has prepared it.

    Returns: gives last hidden states for the arguments of a forward pass; None where the trained model is
        whole, and the frozen one is left so.
    """
    parameters = list(model.parameters())
    if any(hasattr(parameter, "device_mesh") for parameter in parameters):
        _fully_shard(frozen, next(p for p in parameters if hasattr(p, "device_mesh")))
        return partial(_ask_fsdp, frozen)
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return partial(_ask_zero, _zero_engine(frozen))
    return None


def _fully_shard(frozen: Any, held: Any) -> None:
    """Spread a frozen model by FSDP2, layer by layer, like a parameter of the trained one.

    What is no layer (embeddings, last norm, head) is the model's own group: a tied weight lies in one. Layers
    are what `_no_split_modules` names, which accelerate wraps too.

    Source: torch 2.13, `fully_shard` and `register_fsdp_forward_method`.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    is_offloaded = held.to_local().device.type != held.device_mesh.device_type
    policy = CPUOffloadPolicy() if is_offloaded else OffloadPolicy()
    settings: Any = {"mesh": held.device_mesh, "offload_policy": policy}
    layers = set(frozen._no_split_modules or ())
    for module in [*frozen.modules()]:
        if type(module).__name__ in layers:
            fully_shard(module, reshard_after_forward=True, **settings)
    fully_shard(frozen, reshard_after_forward=True, **settings)
    # Its backbone runs by itself, with what the whole model's forward would have fetched.
    frozen.backbone_states = lambda **forward: frozen.base_model(**forward).last_hidden_state
    register_fsdp_forward_method(frozen, "backbone_states")


def _zero_engine(frozen: Any) -> Any:
    """DeepSpeed's engine of a frozen model, whose weights it spreads as TRL's reference models.

    DeepSpeed would turn the weights into the number type of the training, and send for some too early.
    """
    from accelerate.state import AcceleratorState
    from trl.models import prepare_deepspeed

    settings: Any = AcceleratorState().deepspeed_plugin.deepspeed_config
    zero = {**settings["zero_optimization"], "stage3_prefetch_bucket_size": 0}
    off = {"enabled": False}
    settings = {**settings, "zero_optimization": zero, "bf16": off, "fp16": off}
    plugin = SimpleNamespace(deepspeed_config=settings)
    state: Any = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    return prepare_deepspeed(frozen, state)


def _ask_zero(engine: Any, forward: "Mapping[str, Any]") -> "Tensor":
    import torch

    # As DeepSpeed does where the whole model's forward begins: else its trace grows with every step.
    engine.optimizer.get_param_coordinator().reset_step()
    with torch.no_grad():
        states: Tensor = engine.module.base_model(**forward, use_cache=False).last_hidden_state
    return states


def _ask_fsdp(frozen: Any, forward: "Mapping[str, Any]") -> "Tensor":
    import torch

    with torch.no_grad():
        states: Tensor = frozen.backbone_states(**forward, use_cache=False)
    # FSDP2 keeps a list of the groups that ran for a backward pass, which never comes.
    frozen.reset_iter_state()
    return states


def own_part(parameter: Any) -> Any:
    """What of a parameter's numbers this process holds, where it is spread; else all."""
    if hasattr(parameter, "ds_id") and parameter.ds_status.name != "AVAILABLE":
        return parameter.ds_tensor
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def fetch(parameters: "Iterable[nn.Parameter]") -> None:
    """Have whole what ZeRO-3 spreads until the optimizer's step, in the backward pass; a collective.

    A parameter takes its gradient in its own shape. DeepSpeed fetches it for the backward pass of the module
    that it belongs to, which `cpt.chunked` does not call.
    """
    spread = [p for p in parameters if hasattr(p, "ds_id")]
    if spread:
        held: Any = spread[0]
        held.all_gather(param_list=spread)


def check_head(model: Any, where: str) -> None:
    """Refuse to spread an output head whose gradient is not known in closed form.

    Raises:
        HookError: hooks would run it as a module, as often as this process has chunks of tokens, and other
            processes would wait.
    """
    from cpt.hooks.backbone import bare_model
    from cpt.tokens import OutputHead

    head = OutputHead(bare_model(model))
    if not head.is_linear:
        raise HookError(
            f"{where}: the model's output head is a {type(head.head).__name__}, and hooks on backends that "
            f"spread weights need a plain linear layer there; use launch: ddp or zero2"
        )
