"""One LoRA adapter per stage, or one that several stages train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cpt import manifest
from cpt.errors import HookError
from cpt.hooks.base import LATER, Hook, Need
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.past import Past, PastStage
from cpt.quantised import Compute, Kind, Quantisation, check_settings, keep_adapter_whole
from cpt.safe_weights import check_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What `after` says where the adapter stays off the weights that later stages start from.
APART = ("keep", "continue")
#: What two stages must agree in to train one adapter, with what those before a setting had.
SHARED = {"rank": None, "alpha": None, "targets": None, "quantise": None, "double": True}


@dataclass
class Lora(Hook):
    """Train W + (alpha / rank) B A with W frozen; A [rank, d_in] random, B [d_out, rank] zero.

    The stage's `checkpoint/` holds the merged weights, so it opens alone; `adapter/` beside it holds A and B,
    as moving averages left them.

    Settings:
        rank, alpha, dropout: of the adapter.
        targets: module names, or `all-linear`. A name that matches nothing is an error.
        after: `merge`: later stages start from the merged weights; `keep`: they start from the weights below
            the adapter, which stays apart (one adapter per task on a shared base); `continue`: as `keep`, but
            the stage trains its parent's adapter on instead of a new one.
        quantise: hold W in 4 bits while the stage trains (QLoRA), `nf4` or `fp4`; it trains on W_q, what W
            becomes in them, and merges into W_q, which the KL of the merged model to the trained one proves.
            What is kept on the disk stays whole: later stages start from merged weights, or from W.
        double: hold the scales of the 4-bit blocks in 8 bits, too.
        compute: type in which 4-bit layers multiply.

    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3; Dettmers et al. 2023, arXiv:2305.14314; `methods.md` A13.
    """

    name: ClassVar[str] = "lora"
    needs: ClassVar[frozenset[Need]] = frozenset({"adapter"})
    card: ClassVar = Card(
        family="isolation",
        formula="""y = W x + (alpha / rank) B A x
A [rank, d_in] random, B [d_out, rank] zero; only A and B train
after: merge     the next stage starts from W + (alpha / rank) B A
after: keep      the next stage starts from W; one adapter per task
after: continue  trains the parent's A and B on; the next stage starts from W
quantise: nf4    W_q, W in 4 bits, in place of W: in training, and in the merge""",
        when="When the optimizer's state does not fit, or the weights below must stay as they "
        "are. Rank 16 to 64 and a learning rate 10 times that of full training (1e-4 to 2e-4).",
        cost="A step is cheaper than full training: no gradient and no optimizer state for W. The "
        "merge at the end reads the weights once. quantise: W takes 0.52 bytes a number instead of "
        "2 or 4, and every pass makes each layer whole anew.",
        state="0 (A and B are what trains: 0.1 to 2 % of the weights)",
        fails="It forgets less because it learns less: with the adapter on, or merged, old tasks "
        "change too. Nothing is forgotten only with keep, and only where the right adapter is "
        "active; continue forgets as training in sequence does. Targets that are too few or a rank "
        "that is too low look like a method that works. With quantise the reference that is the adapter "
        "turned off is W_q, not the stage before: the manifest tells both distances.",
        evidence="production-validated",
        sources=(
            "Hu et al. 2021, arXiv:2106.09685, eq. 3",
            "Biderman et al. 2024, arXiv:2405.09673 (learns less and forgets less)",
            "Dettmers et al. 2023, arXiv:2305.14314 (quantise)",
            "methods.md A13, B06",
        ),
    )
    order: ClassVar[int] = 1

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = field(default="all-linear")
    after: Literal["merge", "keep", "continue"] = "merge"
    quantise: Kind | None = field(default=None, metadata=LATER)
    double: bool = field(default=True, metadata=LATER)
    compute: Compute = field(default="bfloat16", metadata=LATER)
    parent: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self.quantise, self.double, self.compute)

    def quantisation(self) -> Quantisation | None:
        """As `quantise` says."""
        return Quantisation(self.quantise, self.double, self.compute) if self.quantise else None

    def facts_as_set(self) -> frozenset[str]:
        """4-bit weights cannot be spread."""
        return frozenset({"quantised"} if self.quantise else ())

    def recall(self, past: Past, ctx: StageContext) -> None:
        """Find the adapter that is continued.

        Raises:
            HookError: the parent has none, or none of this shape on the weights that the stage starts from.
        """
        if self.after != "continue":
            return
        self.parent = past[-1]
        if problem := self.differs(hooks_of(self.parent), self.parent.name):
            raise HookError(f"lora: after: continue: {problem}")

    def differs(self, theirs: Mapping[str, Mapping[str, Any]], parent: str) -> str:
        """Why this stage cannot train its parent's adapter on; empty where it can.

        Args:
            theirs: the parent's hooks and their settings.
            parent: its name.
        """
        settings = theirs.get("lora")
        if settings is None:
            return f"{parent} trained no adapter (lora); say after: keep or merge here"
        if settings["after"] not in APART:
            return (
                f"{parent} merged its adapter into the weights; write lora: {{after: keep}} there, or "
                f"after: merge here"
            )
        for name, former in SHARED.items():
            if (there := settings.get(name, former)) != (own := getattr(self, name)):
                return f"{parent} trained an adapter of {name} {there}, not {own}"
        if "interpolate" in theirs:
            return (
                f"{parent} blended its weights (interpolate), so they are not those of its adapter"
            )
        return ""

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Wrap the model; only the adapter trains.

        Raises:
            HookError: a target is no linear layer, or the output head; the parent's adapter on these weights
                does not give the parent's checkpoint.
        """
        if self.after != "continue":
            fresh = wrap(model, self.name, self.rank, self.alpha, self.dropout, self.targets)
            keep_adapter_whole(fresh)
            return fresh
        from peft import LoraConfig, PeftModel

        from cpt.hooks.continued import check_reproduces

        folder = check_adapter(str(self.parent.adapter))
        config = LoraConfig.from_pretrained(folder)
        config.lora_dropout = self.dropout
        config.base_model_name_or_path = ctx.start
        adapted: Any = PeftModel.from_pretrained(model, folder, is_trainable=True, config=config)
        keep_adapter_whole(adapted)
        check_reproduces(adapted, self.parent)
        return adapted

    def merge(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """W + (alpha / rank) B A, and an ordinary model again.

        Raises:
            HookError: merged into 4-bit weights it is not what was trained.
        """
        if self.quantise is None:
            return merged(model, ctx)
        from cpt.hooks.quantised_merge import merged_checked

        return merged_checked(model, self.compute, ctx)


def is_adapter(hook: Hook) -> bool:
    """Whether a hook trains what can be switched off, so that the weights below are there too."""
    return "adapter" in hook.needs


def stays_apart(hooks: Sequence[Hook]) -> bool:
    """Whether later stages start below the adapter that one of these hooks trains."""
    return any(getattr(hook, "after", None) in APART for hook in hooks)


def hooks_of(stage: PastStage) -> dict[str, Mapping[str, Any]]:
    """The hooks of a finished stage and their settings, by key; none where it is no stage of ours."""
    if stage.folder is None or stage.adapter is None:
        return {}
    return {str(hook["name"]): hook["settings"] for hook in manifest.read(stage.folder).hooks}


def wrap(
    model: "PreTrainedModel",
    hook: str,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | list[str],
) -> "PreTrainedModel":
    """A fresh adapter, called `default` as TRL wants it.

    Raises:
        HookError: a target is no linear layer, or the output head.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules(model, hook, targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def merged(model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
    """Save the adapter beside the checkpoint, and add it to the weights below."""
    ctx.save_adapter(model)
    plain: PreTrainedModel = model.merge_and_unload(safe_merge=True, adapter_names=["default"])
    return plain


def target_modules(
    model: "PreTrainedModel", hook: str, targets: str | list[str]
) -> str | list[str]:
    """What PEFT takes as targets. It takes a text as a regular expression, a list as names.

    Raises:
        HookError: PEFT would match a name with nothing, or with a layer that cannot carry an adapter.
    """
    if targets == "all-linear":
        return targets
    targets = [targets] if isinstance(targets, str) else targets
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
        raise HookError(
            f"{hook}: targets: {target!r} {problem}; the model has: {', '.join(linear)}"
        )
    return targets
