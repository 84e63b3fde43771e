"""Continual pretraining: packed language modelling on raw text."""

from typing import ClassVar

from cpt.errors import RecipeError
from cpt.recipe import StageSpec
from cpt.rows import RowFormat
from stages.sft import SFT


class Pretrain(SFT):
    """Language modelling on documents, each ended by EOS and packed into full rows.

    Rows are filled in stream order and documents are cut at a row's end, so every row has `max_length`
    tokens and no token is lost; attention and positions stop at document boundaries.
    """

    name: ClassVar[str] = "pretrain"
    formats: ClassVar[tuple[RowFormat, ...]] = ("text", "messages", "completion")
    checks_eos: ClassVar[bool] = False

    def check(self, spec: StageSpec, where: str) -> None:
        """Packing cannot be turned off."""
        super().check(spec, where)
        for field in ("packing", "assistant_only_loss", "packing_strategy"):
            if field in spec.train and not (field == "packing" and spec.train[field] is True):
                raise RecipeError(
                    f"{where}: train.{field}: a pretrain stage always packs whole documents; remove it"
                )

    def pack(self, spec: StageSpec) -> tuple[int, bool]:
        """Rows of `max_length` tokens; documents are cut."""
        return self.length(spec), True

    def encode(self, rows, tokenizer, spec):  # type: ignore[no-untyped-def]
        """Whole documents; packing cuts them."""
        from stages.encode import encode_rows

        return encode_rows(rows, tokenizer, None, assistant_only=False)
