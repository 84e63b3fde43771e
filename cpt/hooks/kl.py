"""KL to a frozen earlier stage, on the tokens that the stage trains."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from cpt.hooks.base import Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.past import Past
from cpt.tokens import Direction

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cpt.tokens import Tokens


@dataclass
class KL(Hook):
    """beta * mean over the step's tokens of KL between policy and reference.

    reverse: KL(policy || reference), mode-seeking, as in RL; forward: KL(reference || policy), as in LwF;
    js: the mean of both to their mixture, at most log 2. The mean runs over label tokens (pretrain, sft) or
    over sequences of their token means (dpo, grpo). Several entries, each with its `of` and beta, hold the
    policy to several references; their terms are logged apart (kl, kl.2, ...). The policy's hidden states are
    those of the trainer's own forward; the reference costs one forward, and logits exist for 256 tokens at a
    time.

    Settings:
        of: the earlier stage that is the reference.
        beta: weight; 0 changes nothing and loads nothing.
        direction: reverse, forward or js.

    Source: `methods.md` A23 and A15; Ziegler et al. 2019, arXiv:1909.08593; Li and Hoiem 2016,
    arXiv:1606.09282.
    """

    name: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    card: ClassVar = Card(
        family="output space",
        formula="""loss + beta * mean_t KL_t over the tokens that the stage trains
reverse: KL_t = sum_v p(v) (log p(v) - log q(v))    p the policy, q the reference
forward: KL_t = sum_v q(v) (log q(v) - log p(v))
js: KL_t = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2""",
        when="When old data cannot be had, or beside replay. reverse in dpo and grpo, where the "
        "policy must not leave the reference; forward in sft, to keep every answer that the "
        "reference gave.",
        cost="One forward of the reference per step, and the output head of both at the trained "
        "tokens: about a third of a step more.",
        state="2 (one frozen copy in bf16; 4 in fp32; 0 with a lora hook where the reference is "
        "the parent)",
        fails="It holds the model on the new prompts only, and says nothing of old tasks that "
        "those do not touch. Too large a beta in sft fights the new labels.",
        evidence="production-validated",
        sources=(
            "Ziegler et al. 2019, arXiv:1909.08593, eq. 2",
            "Ouyang et al. 2022, arXiv:2203.02155, eq. 2",
            "Li and Hoiem 2016, arXiv:1606.09282 (forward)",
            "methods.md A23, A15",
        ),
    )

    of: str = "previous"
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    direction: Direction = "reverse"
    earlier: Any = field(default=None, init=False, repr=False)
    reference: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.of == "all":
            raise ValueError("`of` names one earlier stage, and `all` names several")

    def idle(self) -> frozenset[str]:
        """With beta 0 it is not there."""
        return frozenset() if self.beta else frozenset({"penalty"})

    def recalls(self) -> tuple[str, ...]:
        """The reference."""
        return (self.of,)

    def compares(self) -> bool:
        """The reference has this stage's vocabulary."""
        return self.beta != 0

    def models_held(self) -> tuple[str, ...]:
        """The reference."""
        return self.compared()

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Remember where the reference is; it is loaded when the model is there.

        Raises:
            HookError: there is no such stage.
        """
        (self.earlier,) = past.select(self.of)

    def penalty(self, model: "nn.Module", tokens: "Tokens", ctx: StageContext) -> "Tensor | None":
        """This micro-batch's part of beta * mean KL."""
        if self.beta == 0:
            return None
        import torch

        from cpt.hooks.backbone import check_apart
        from cpt.tokens import OutputHead, token_kl

        head = OutputHead(model)
        if self.reference is None:
            assert self.earlier is not None
            assert ctx.reference is not None
            self.reference = ctx.reference(self.earlier)
            check_apart(self.reference, model, self.name)
        assert tokens.hidden is not None
        with torch.no_grad():
            reference_hidden = self.reference.hidden(tokens.forward)
        return self.beta * token_kl(
            tokens.hidden,
            head,
            reference_hidden,
            self.reference.head,
            tokens.weight,
            self.direction,
        )
