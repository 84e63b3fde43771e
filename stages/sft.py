"""Supervised fine-tuning on chats and completions; the loss is on what is answered unless told otherwise."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cpt.errors import RecipeError
from cpt.hooks.card import Card
from cpt.recipe import StageSpec
from cpt.rows import Row, RowFormat, format_of
from stages.base import Encoded, Material, StageKind
from stages.encode import encode_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class SFT(StageKind):
    """TRL's SFTTrainer over rows that are already tokenised.

    Text rows may be mixed in, for replay of a pretrain stage: all their tokens are labels. Rows of prompt and
    completion, texts or chats, have labels in the completion only.
    """

    name: ClassVar[str] = "sft"
    config: ClassVar[str] = "SFTConfig"
    formats: ClassVar[tuple[RowFormat, ...]] = ("messages", "completion", "text")
    joins: ClassVar[bool] = True
    max_length: ClassVar[int] = 1024
    card: ClassVar = Card(
        family="objective",
        formula="""loss = - mean_t log p(y_t | x, y_<t) over the answers' tokens of the whole step
x the prompt, without loss; of text rows every token counts""",
        when="To teach tasks, format and style from answers that are right. Few epochs (at most "
        "2) at a low rate: 1e-5 for all weights, 1e-4 with a lora hook.",
        cost="One forward and one backward.",
        state="0",
        fails="Narrow data at a high rate undo what the base could do; answers beyond what the "
        "model knows teach it to make things up.",
        evidence="production-validated",
        sources=(
            "Ouyang et al. 2022, arXiv:2203.02155, section 3.5",
            "methods.md A21, B06",
        ),
    )

    def length(self, spec: StageSpec) -> int:
        """Longest sequence, in tokens."""
        return int(spec.train.get("max_length") or self.max_length)

    def check(self, spec: StageSpec, where: str) -> None:
        """Refuse what only TRL's own preparation of rows would use."""
        for field in ("dataset_num_proc", "truncation_mode"):
            if field in spec.train:
                raise RecipeError(f"{where}: train.{field}: has no effect here; remove it")
        if "max_length" in spec.train and spec.train["max_length"] is None:
            raise RecipeError(f"{where}: train.max_length: write a number of tokens, not null")

    def pack(self, spec: StageSpec) -> tuple[int, bool] | None:
        """Whole conversations share a row when `packing: true`."""
        return (self.length(spec), False) if spec.train.get("packing") else None

    def encode(
        self, rows: list[Row], tokenizer: "PreTrainedTokenizerBase", spec: StageSpec
    ) -> Encoded:
        """Chats, completions and texts, each under its own format."""
        return encode_rows(
            rows, tokenizer, self.length(spec), bool(spec.train.get("assistant_only_loss", True))
        )

    def trainer(self, material: Material) -> Any:
        """SFTTrainer; it neither tokenises nor packs nor shuffles, since the stream is made."""
        from trl import SFTTrainer

        from cpt.hooks.trainer import hooked

        config = material.config
        config.dataset_kwargs = {"skip_prepare_dataset": True}
        config.padding_free = "seq_lengths" in material.train.column_names
        config.packing = False
        config.max_length = None  # the rows are cut already
        config.assistant_only_loss = False
        return hooked(SFTTrainer)(
            model=material.model,
            args=config,
            train_dataset=material.train,
            eval_dataset=material.held_out,
            processing_class=material.tokenizer,
        )

    def loss_mask(self, inputs: Mapping[str, Any], forward: Mapping[str, Any]) -> "Tensor":
        """Position t counts when token t+1 is a label."""
        import torch

        return torch.nn.functional.pad((inputs["labels"][:, 1:] != -100).float(), (0, 1))

    def prompts(self, rows: list[Row], tokenizer: Any, most: int) -> list[list[int]]:
        """The conversations up to the last turn of the assistant, and the prompts of completions."""
        found = []
        for row in rows:
            if len(chat := row.get("messages") or ()) > 1:
                found.append(_prompt(chat[:-1], tokenizer))
            elif format_of(row, self.formats) == "completion":
                found.append(_prompt(row["prompt"], tokenizer))
        return found[:most]


def _prompt(prompt: Any, tokenizer: Any) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt)["input_ids"]  # with BOS, as it is trained
        return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    return list(
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    )
