"""Continual pretraining: packed language modelling on raw text."""

from collections.abc import Sequence
from typing import Any, ClassVar

from cpt.errors import DataError, RecipeError
from cpt.hooks.card import Card
from cpt.recipe import StageSpec
from cpt.rows import Row, RowFormat
from stages.base import Encoded
from stages.encode import encode_rows
from stages.sft import SFT

#: Share of a batch of texts that may hold the marks of a chat template: there are texts about them.
MAX_TEMPLATED = 0.1


class Pretrain(SFT):
    """Language modelling on documents, each ended by EOS and packed into full rows.

    Rows are filled in stream order and documents are cut at a row's end, so every row has `max_length`
    tokens and no token is lost; attention and positions stop at document boundaries. Its own data are texts;
    replay may bring chats, which are documents in the template's words.
    """

    name: ClassVar[str] = "pretrain"
    formats: ClassVar[tuple[RowFormat, ...]] = ("text", "messages", "completion")
    data_formats: ClassVar[tuple[RowFormat, ...] | None] = ("text",)
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

    def encode(self, rows: list[Row], tokenizer: Any, spec: StageSpec) -> Encoded:
        """Whole documents; packing cuts them.

        Raises:
            DataError: texts that a chat template wrote, or no EOS to end documents with.
        """
        if tokenizer.eos_token_id is None:
            raise DataError(
                "the tokenizer has no EOS, and packed documents would run into one another; use a "
                "tokenizer that has one"
            )
        # A row that has a text is one, whatever else it holds.
        rows = [{"text": row["text"]} if row.get("text") else row for row in rows]
        _refuse_templated([row["text"] for row in rows if "text" in row], tokenizer)
        return encode_rows(rows, tokenizer, None, assistant_only=False)


def _refuse_templated(texts: Sequence[str], tokenizer: Any) -> None:
    """Refuse texts with the marks of the chat template: raw text would teach turns that nobody masks."""
    template = tokenizer.chat_template
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks = sorted(mark for mark in special if isinstance(template, str) and mark in template)
    found = [next((mark for mark in marks if mark in text), "") for text in texts]
    num_found = sum(map(bool, found))
    if num_found > MAX_TEMPLATED * len(texts):
        raise DataError(
            f"{num_found} of {len(texts)} texts hold marks of the chat template, such as {max(found)}: these "
            f"are chats; give them as messages to kind: sft, or as replay"
        )
