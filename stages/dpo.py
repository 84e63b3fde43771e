"""Direct preference optimisation against a declared reference."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpt.errors import EdgeError, PlanError
from cpt.hooks import table
from cpt.hooks.card import Card
from cpt.recipe import StageSpec
from cpt.rows import Row, RowFormat
from stages.base import Encoded, Material, StageKind

if TYPE_CHECKING:
    from torch import Tensor


class DPO(StageKind):
    """TRL's DPOTrainer. The reference is passed explicitly, never inferred from a path in a config."""

    name: ClassVar[str] = "dpo"
    config: ClassVar[str] = "DPOConfig"
    formats: ClassVar[tuple[RowFormat, ...]] = ("preference",)
    roles: ClassVar[frozenset[str]] = frozenset({"reference"})
    reduction: ClassVar[Literal["token", "sequence"]] = "sequence"
    sequences_per_row: ClassVar[int] = 2
    card: ClassVar = Card(
        family="objective",
        formula="""loss = - mean log sigmoid(beta * (r(chosen) - r(rejected)))
r(y) = log p(y | x) - log q(y | x), sums over y's tokens; p the policy, q the reference""",
        when="After sft, on pairs of answers to one prompt. beta 0.1, a learning rate a tenth of "
        "sft's or less, one epoch; the reference is the sft stage.",
        cost="Forward and backward over both answers, and the reference's forward over both.",
        state="2 (the reference in bf16; 4 in fp32; 0 with a lora hook, where it is the adapter "
        "turned off)",
        fails="Both answers may become less likely while the margin grows; long answers win. On "
        "full weights a rate that suits an adapter destroys what sft taught.",
        evidence="production-validated",
        sources=(
            "Rafailov et al. 2023, arXiv:2305.18290, eq. 7",
            "methods.md A23, B15",
        ),
    )

    def check(self, spec: StageSpec, where: str) -> None:
        """The loss compares answers against the reference; a named one is used."""
        losses = self.setting(spec, "loss_type")
        weights = self.setting(spec, "loss_weights") or [1.0] * len(losses)
        if all(loss == "sft" or not weight for loss, weight in zip(losses, weights, strict=True)):
            raise PlanError(
                f"{where}: train.loss_type: {losses} compares no answers and has no reference; "
                f"write kind: sft, or give a loss such as sigmoid a weight"
            )
        if not self.uses("reference", spec):
            raise PlanError(f"{where}: train.beta: 0 compares no answers; write more than 0")
        check_named_reference(self, spec, where)

    def uses(self, role: str, spec: StageSpec) -> bool:
        """Every loss but `sft` is a function of beta times the log ratios to the reference."""
        return super().uses(role, spec) and float(self.setting(spec, "beta")) != 0

    def encode(self, rows: list[Row], tokenizer: Any, spec: StageSpec) -> Encoded:
        """TRL tokenises pairs itself; here they are only measured."""
        from stages.encode import encode_chat

        kept = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
        lengths = []
        for row in kept:
            if isinstance(row["prompt"], str):
                both = row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]
                lengths.append(
                    sum(
                        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in both
                    )
                )
            else:
                ends = (row["chosen"], row["rejected"])
                lengths.append(
                    sum(len(encode_chat(tokenizer, row["prompt"] + end)[0]) for end in ends)
                )
        return Encoded(kept, lengths)

    def trainer(self, material: Material) -> Any:
        """DPOTrainer; its reference is loaded from the declared folder, or is the adapter as it began.

        TRL makes that a frozen copy of the adapter: of a new one, which does nothing, or of the parent's.
        """
        from peft import PeftModel
        from trl import DPOTrainer

        from cpt.checkpoint import load_model
        from cpt.hooks.trainer import hooked

        check_adapter(material)
        adapter = isinstance(material.model, PeftModel)
        reference = None if adapter else load_model(str(material.reference), **material.job.load)
        return hooked(DPOTrainer)(
            model=material.model,
            ref_model=reference,
            args=material.config,
            train_dataset=material.train,
            eval_dataset=material.held_out,
            processing_class=material.tokenizer,
        )

    def loss_mask(self, inputs: Mapping[str, Any], forward: Mapping[str, Any]) -> "Tensor":
        """Position t counts when token t+1 belongs to a completion; chosen and rejected alike."""
        import torch

        return torch.nn.functional.pad(inputs["completion_mask"][:, 1:].float(), (0, 1))

    def prompts(self, rows: list[Row], tokenizer: Any, most: int) -> list[list[int]]:
        """The prompts of the pairs."""
        return encode_prompts(rows, tokenizer, most)


def check_named_reference(kind: StageKind, spec: StageSpec, where: str) -> None:
    """A reference that is named is used, and with an adapter it is what the stage starts from.

    Raises:
        PlanError: names the reference and what to write instead.
    """
    if spec.reference is not None and not kind.uses("reference", spec):
        raise PlanError(
            f"{where}: reference: {spec.reference!r} is unused while train.beta is 0; set beta"
        )
    if spec.reference in (None, "previous"):
        return
    for hook in spec.hooks:
        if "adapter" in table.hook_class(hook.name, where).needs:
            raise PlanError(
                f"{where}: reference: with a {hook.name} hook the reference is the parent (the adapter as "
                f"it began); {spec.reference!r} would need a second model; remove {hook.name} or say "
                f"reference: previous"
            )


def check_adapter(material: Material) -> None:
    """With an adapter the reference is what the stage starts from, so that must be the declared one.

    Raises:
        EdgeError: it is not; such as after a stage that keeps its adapter apart.
    """
    if not hasattr(material.model, "peft_config"):
        return
    declared, first = (Path(str(name)).resolve() for name in (material.reference, material.start))
    if declared != first:
        raise EdgeError(
            f"{material.job.name}: reference: with an adapter the reference is what the stage starts "
            f"from, the model below the adapter, {material.start}, and {material.reference} is declared; "
            f"train without an adapter here, continue the adapter of the stage before (lora: {{after: "
            f"continue}}), or let that stage merge it (lora: {{after: merge}})"
        )


def encode_prompts(rows: list[Row], tokenizer: Any, most: int) -> list[list[int]]:
    """Token ids of `prompt` columns, with the template's generation prompt where they are chats.

    Raises:
        DataError: the prompts are chats and there is no template.
        RefusedRowError: it cannot write one of them.
    """
    from stages.encode import applying_template

    encoded = []
    for row in rows[:most]:
        if isinstance(row["prompt"], str):
            encoded.append(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"])
        else:
            with applying_template(tokenizer, row["prompt"]):
                encoded.append(
                    tokenizer.apply_chat_template(
                        row["prompt"], add_generation_prompt=True, return_dict=False
                    )
                )
    return encoded
