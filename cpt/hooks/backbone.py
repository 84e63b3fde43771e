"""Hidden states: the policy's, seen during the trainer's own forward, and a frozen reference's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cpt.errors import HookError
from cpt.spread import own_part, spread_like
from cpt.tokens import OutputHead

if TYPE_CHECKING:
    from torch import Tensor

#: What the backbone is called with and a reference must be called with too.
_FORWARD = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "inputs_embeds")


def bare_model(model: Any) -> Any:
    """The language model inside DDP and PEFT wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class BackboneTap:
    """Last hidden states of the trainer's own forward, so that no hook pays for a second one.

    TRL's fused head makes no logits, but it calls the backbone as a module, where a forward hook sees it.
    """

    def __init__(self, model: Any) -> None:
        self.seen: list[tuple[dict[str, Any], Tensor]] = []
        self.is_trainers_turn = True
        bare_model(model).base_model.register_forward_hook(self._look, with_kwargs=True)

    def _look(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        import torch

        if self.is_trainers_turn and torch.is_grad_enabled() and module.training:
            named = dict(zip(("input_ids",), args, strict=False)) | kwargs
            kept = {
                key: value for key, value in named.items() if value is not None and _is_forward(key)
            }
            self.seen.append((kept, output.last_hidden_state))

    def take(self) -> tuple[dict[str, Any], "Tensor"]:
        """The one forward since the last `clear`; until the next one, forwards are those of hooks.

        Raises:
            HookError: the trainer made none or several; a penalty would belong to another batch.
        """
        if len(self.seen) != 1:
            raise HookError(
                f"the trainer made {len(self.seen)} forward passes in one step where hooks expect one"
            )
        self.is_trainers_turn = False
        return self.seen.pop()

    def clear(self) -> None:
        """Forget, and look at the next forward."""
        self.seen.clear()
        self.is_trainers_turn = True


def _is_forward(key: str) -> bool:
    return key in _FORWARD or key.startswith(("cu_seq_lens", "max_length_", "seq_idx"))


class FrozenReference:
    """An earlier stage, loaded from its folder and frozen; see `cpt.hooks.context.Reference`.

    Under FSDP2 and ZeRO-3 it is spread like the model that is trained; then every process must ask it as
    often as the others.

    Args:
        model: the earlier stage's, whole.
        trained: the model that is trained, as the backend has prepared it.
    """

    def __init__(self, model: Any, trained: Any = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.head = OutputHead(model)
        self.spread = None if trained is None else spread_like(model, trained)
        if self.spread is not None:
            self.head.group = model

    def hidden(self, forward: Mapping[str, Any]) -> "Tensor":
        """Last hidden states [B, T, H]."""
        if self.spread is not None:
            return self.spread(forward)
        states: Tensor = self.model.base_model(**forward, use_cache=False).last_hidden_state
        return states


def check_apart(reference: Any, model: Any, where: str) -> None:
    """Refuse a frozen reference that shares weights with the model that is trained: it would move with it.

    What lies below an adapter is shared and does not move.

    Raises:
        HookError: they share weights.
    """
    if not isinstance(reference, FrozenReference):
        return
    own = {p.data_ptr() for p in map(own_part, model.parameters()) if p.numel()}
    theirs = map(own_part, reference.model.parameters())
    if any(p.data_ptr() in own for p in theirs if p.numel()):
        raise HookError(
            f"{where}: the reference is the model that is trained, or shares weights with it, and would "
            f"move with it; load it from a stage's folder"
        )


class AdapterOff:
    """The weights below the stage's adapter: exact when the reference is what the stage started from."""

    def __init__(self, peft_model: Any) -> None:
        self.peft_model = peft_model
        self.head = OutputHead(bare_model(peft_model))

    def hidden(self, forward: Mapping[str, Any]) -> "Tensor":
        """Last hidden states [B, T, H] with the adapter disabled and dropout off."""
        model = bare_model(self.peft_model)
        training = model.training
        model.eval()
        try:
            with self.peft_model.disable_adapter():
                states: Tensor = model.base_model(**forward, use_cache=False).last_hidden_state
        finally:
            model.train(training)
        return states
