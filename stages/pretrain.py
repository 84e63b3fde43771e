"""Continual pretraining: packed language modelling on raw text."""

from typing import ClassVar

from cpt.errors import RecipeError
from cpt.hooks.card import Card
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
    card: ClassVar = Card(
        family="objective",
        formula="""loss = - mean_t log p(x_t | x_<t) over every token of the step
rows of max_length tokens, filled with whole documents, each ended by EOS; no attention across documents""",
        when="To teach a domain, a language or a code base from raw text. Warm up again over 0.5 "
        "to 2 % of the steps, to 0.1 to 0.5 of the peak learning rate of the base model, cosine "
        "down to a tenth of that, with 0.05 to 0.3 general replay.",
        cost="One forward and one backward; every position of a row trains.",
        state="0",
        fails="On an aligned model it wears off format, safety and the habit of stopping: "
        "pretrain its base and add the instruction delta back (rebase), or follow with sft. "
        "Warming up to the full peak makes the largest gap.",
        evidence="production-validated",
        sources=(
            "Gururangan et al. 2020, arXiv:2004.10964",
            "Ibrahim et al. 2024, arXiv:2403.08763",
            "methods.md A20, P083",
        ),
    )

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
