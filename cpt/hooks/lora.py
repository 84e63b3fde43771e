"""One LoRA adapter per stage."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook, Need, StageContext

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
    evidence: ClassVar = "production-validated"
    order: ClassVar[int] = 1

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = field(default="all-linear")
    after: Literal["merge", "keep"] = "merge"

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Wrap the model; only the adapter trains.

        Raises:
            HookError: the targets match no module, or the output head.
        """
        from peft import LoraConfig, get_peft_model

        if self.targets != "all-linear":
            names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
            targets = [self.targets] if isinstance(self.targets, str) else self.targets
            missing = [target for target in targets if target.rpartition(".")[2] not in names]
            if missing or "lm_head" in targets:
                word = missing[0] if missing else "lm_head"
                reason = (
                    "matches no module" if missing else "cannot carry an adapter with a fused loss"
                )
                raise HookError(
                    f"lora: target {word!r} {reason}; the model has: {', '.join(sorted(names)[:30])}"
                )
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.targets,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)  # type: ignore[return-value]

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """W + (alpha / rank) B A, and an ordinary model again."""
        merged: PreTrainedModel = model.merge_and_unload(  # type: ignore[operator]
            safe_merge=True, adapter_names=["default"]
        )
        return merged
