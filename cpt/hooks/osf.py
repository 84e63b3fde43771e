"""peft's orthogonal subspace fine-tuning: the strongest directions of each weight stay as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.hooks.lora import target_modules

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cpt.params import View

#: Buffers of peft's layer that a checkpoint of the trainer lacks (tuners/osf/layer.py).
_BEGUN = ("_osf_U_low_init", "_osf_S_low_init", "_osf_V_low_init")


@dataclass
class OSF(Hook):
    """W = U_high S_high V_high + U_low S_low V_low, split behind the k largest singular values.

    The lower part trains. The columns of U_low stay orthogonal to U_high and the rows of V_low to V_high, so
    that no change of W reaches the directions of the k largest singular values. peft projects the gradient
    only, which AdamW's scaling undoes (28 to 37 % of the change leaked); here the change itself is projected
    after every optimizer step:

        U_low <- U_0 + (I - U_high U_high^T)(U_low - U_0), and V_low likewise.

    The stage's `checkpoint/` is an ordinary model; there is no `adapter/`, since the factors are of these
    weights only.

    Settings:
        effective_rank: k, or the share of the smaller side of each weight that is protected.
        targets: module names, or `all-linear`.

    Source: Nayak et al. 2025, arXiv:2504.07097; peft 0.21, tuners/osf; `methods.md` A14.
    """

    name: ClassVar[str] = "osf"
    needs: ClassVar[frozenset[Need]] = frozenset({"adapter", "parameters"})
    facts: ClassVar[frozenset[str]] = frozenset({"osf", "moves_weights"})
    card: ClassVar = Card(
        family="isolation",
        formula="""W = U_high S_high V_high + U_low S_low V_low    (svd; high: the k largest singular values)
train U_low, S_low, V_low; after each step
U_low <- U_0 + (I - U_high U_high^T)(U_low - U_0), V_low <- V_0 + (V_low - V_0)(I - V_high^T V_high)""",
        when="To compare with O-LoRA where no earlier adapter is at hand: it needs the weights only. "
        "Protect half of each weight (effective_rank 0.5).",
        cost="One SVD of each weight at the start; a step multiplies by three factors and their "
        "beginnings beside the weight, and projects twice.",
        state="4 (the factors' beginnings; up to 3 more for U_high or V_high where a weight is not square)",
        fails="Large singular values are not what a task needs: what lies in small ones is free to be "
        "overwritten. Under FSDP2 and ZeRO-3 peft's projection is lost or fails.",
        evidence="research",
        sources=(
            "Nayak et al. 2025, arXiv:2504.07097",
            "peft 0.21, OSFConfig (tuners/osf)",
            "methods.md A14",
        ),
    )
    order: ClassVar[int] = 1
    #: What it forbids holds behind every other move.
    track_order: ClassVar[int] = 1

    effective_rank: int | float = 0.5
    targets: str | list[str] = field(default="all-linear")
    layers: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        k = self.effective_rank
        if not (k >= 1 if isinstance(k, int) else 0 < k < 1):
            raise ValueError(
                f"effective_rank: {k} is neither a number of directions (1 or more) nor a share below 1"
            )

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Split the targets; only the lower parts train.

        Raises:
            HookError: a target is no linear layer; nothing of one would be protected, or nothing trained;
                the weights are in 16 bits, where singular vectors are not orthogonal.
        """
        import torch
        from peft import OSFConfig, get_peft_model
        from peft.tuners.osf.layer import OSFLayer

        from cpt.params import bare_name

        if model.dtype != torch.float32:
            raise HookError(
                f"osf: singular vectors in {str(model.dtype).removeprefix('torch.')} are not orthogonal; "
                f"set the model's dtype: float32 (train.bf16 may stay on)"
            )
        targets = target_modules(model, self.name, self.targets)
        config = OSFConfig(
            effective_rank=self.effective_rank, target_modules=targets, task_type="CAUSAL_LM"
        )
        try:
            adapted: Any = get_peft_model(model, config)
        except ValueError as error:  # of a rank that rounds to 0
            raise HookError(f"osf: effective_rank: {self.effective_rank}: {error}") from None
        self.layers = {
            bare_name(name): module
            for name, module in adapted.named_modules()
            if isinstance(module, OSFLayer)
        }
        for name, layer in self.layers.items():
            if layer.osf_svd_params["default"]["S_low"].numel() == 0:
                raise HookError(
                    f"osf: effective_rank: {self.effective_rank} protects all of {name}, of shape "
                    f"{tuple(layer.get_base_layer().weight.shape)}, and leaves nothing to train"
                )
        return adapted

    def track(self, view: "View", ctx: StageContext) -> None:
        """Take what an optimizer step put into the protected directions back out."""
        self._project()

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """W with the trained factors, and an ordinary model again."""
        self._project()  # a moving average saw the weights before `track`
        merged: Any = model
        merged = merged.merge_and_unload(safe_merge=True, adapter_names=["default"])
        self.layers = {}
        return merged

    def _project(self) -> None:
        import torch

        with torch.no_grad():
            for layer in self.layers.values():
                factors = layer.osf_svd_params["default"]
                for factor, first, change in (
                    ("U_low", layer._osf_U_low_init["default"], _beyond_u),
                    ("V_low", layer._osf_V_low_init["default"], _beyond_v),
                ):
                    own = factors[factor].data
                    own.copy_(first + change(layer, own - first))

    def state_dict(self) -> "dict[str, Tensor]":
        """The factors that training began with: another SVD of the same weight may turn them."""
        return {
            f"{name}.{buffer}": getattr(layer, buffer)["default"]
            for name, layer in self.layers.items()
            for buffer in _BEGUN
        }

    def load_state_dict(self, state: "Mapping[str, Tensor]") -> None:
        """Take them back."""
        for name, layer in self.layers.items():
            for buffer in _BEGUN:
                getattr(layer, buffer)["default"].copy_(state[f"{name}.{buffer}"])


def _beyond_u(layer: Any, change: "Tensor") -> "Tensor":
    """(I - U_high U_high^T) change, for columns; peft keeps U_high only where U_low does not tell it."""
    if "default" in layer._osf_U_high:
        high: Tensor = layer._osf_U_high["default"]
        return change - high @ (high.T @ change)
    low: Tensor = layer._osf_U_low_init["default"]
    return low @ (low.T @ change)


def _beyond_v(layer: Any, change: "Tensor") -> "Tensor":
    """change (I - V_high^T V_high), for rows."""
    if "default" in layer._osf_V_high:
        high: Tensor = layer._osf_V_high["default"]
        return change - (change @ high.T) @ high
    low: Tensor = layer._osf_V_low_init["default"]
    return (change @ low.T) @ low
