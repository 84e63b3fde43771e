"""One LoRA adapter per stage."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need, StageContext
from cpt.hooks.card import Card

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Lora(Hook):
    """Train W + (alpha / rank) B A with W frozen; A [rank, d_in] random, B [d_out, rank] zero.

    The stage's `checkpoint/` holds the merged weights, so it opens alone; `adapter/` beside it holds A and B.

    Settings:
        rank, alpha, dropout: of the adapter.
        targets: module names, or `all-linear`. A name that matches nothing is an error.
        after: `merge`: later stages start from the merged weights; `keep`: they start from the weights below
            the adapter, which stays apart (one adapter per task on a shared base).

    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; `methods.md` A13.
    """

    name: ClassVar[str] = "lora"
    needs: ClassVar[frozenset[Need]] = frozenset({"adapter"})
    card: ClassVar = Card(
        family="isolation",
        formula="""y = W x + (alpha / rank) B A x
A [rank, d_in] random, B [d_out, rank] zero; only A and B train""",
        when="When the optimizer's state does not fit, or the weights below must stay as they "
        "are. Rank 16 to 64 and a learning rate 10 times that of full training (1e-4 to 2e-4).",
        cost="A step is cheaper than full training: no gradient and no optimizer state for W. The "
        "merge at the end reads the weights once.",
        state="0 (A and B are what trains: 0.1 to 2 % of the weights)",
        fails="It forgets less because it learns less: with the adapter on, or merged, old tasks "
        "change too. Targets that are too few or a rank that is too low look like a method that "
        "works.",
        evidence="production-validated",
        sources=(
            "Hu et al. 2021, arXiv:2106.09685, eq. 3",
            "Biderman et al. 2024, arXiv:2405.09673 (learns less and forgets less)",
            "methods.md A13, B06",
        ),
    )
    order: ClassVar[int] = 1

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = field(default="all-linear")
    after: Literal["merge", "keep"] = "merge"

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Wrap the model; only the adapter trains.

        Raises:
            HookError: a target is no linear layer, or the output head.
        """
        from peft import LoraConfig, get_peft_model

        targets = self.targets
        if targets != "all-linear":
            # PEFT takes a text as a regular expression, a list as names.
            targets = [targets] if isinstance(targets, str) else targets
            _check_targets(model, targets)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """W + (alpha / rank) B A, and an ordinary model again."""
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True, adapter_names=["default"])
        return merged


def _check_targets(model: "PreTrainedModel", targets: list[str]) -> None:
    """Refuse what PEFT would match with nothing, or with a layer that cannot carry an adapter."""
    from torch import nn

    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    linear = sorted(
        {
            name.rpartition(".")[2]
            for name, module in modules.items()
            if isinstance(module, nn.Linear) and module is not head
        }
    )
    for target in targets:
        found = [
            module for name, module in modules.items() if f".{name}".endswith(f".{target}") and name
        ]
        if not found:
            problem = "matches no module"
        elif any(module is head for module in found):
            problem = "is the output head, which cannot carry an adapter below a fused loss"
        elif not all(isinstance(module, nn.Linear) for module in found):
            problem = f"is no linear layer but a {type(found[0]).__name__}"
        else:
            continue
        raise HookError(f"lora: targets: {target!r} {problem}; the model has: {', '.join(linear)}")
