"""Train a part of the model: chosen roles or modules, or all but the bottom."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from cpt.errors import HookError
from cpt.hooks.base import Hook
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.hooks.roles import ROLES, blocks_below, matching, select, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What is trained where nothing is said.
DEFAULT = ("attn_proj",)


@dataclass
class Freeze(Hook):
    """Only the selected weights require a gradient, from before the trainer is built.

    The optimizer never sees the others, so that neither weight decay nor momentum moves them.

    Settings:
        train: roles or module names; `attn_proj` where neither this nor `bottom_layers` is given. Roles:
            attn_proj (query, key, value, output), attn_qkv, mlp_gate_up (down frozen), mlp, norms,
            embeddings, lm_head. A module's name may leave out its first words and hold `*`: `layers.0`,
            `layers.*.mlp`.
        bottom_layers: freeze the embeddings and the first n blocks; all other weights train, or those of
            `train`.

    Source: Zheng et al. 2025, arXiv:2501.13453 (bottom layers); `methods.md` P027, P034.
    """

    name: ClassVar[str] = "freeze"
    card: ClassVar = Card(
        family="isolation",
        formula="""w moves only where it is selected:
train          roles (attn_proj, attn_qkv, mlp_gate_up, mlp, norms, embeddings, lm_head) or module names
bottom_layers  n: embeddings and blocks 0 to n - 1 stay as they are""",
        when="attn_proj where a narrow task must not cost general ability; bottom_layers 3 of 32 blocks on "
        "chains of instructions, 6 to 9 on safety, from the second stage on.",
        cost="Less than full training: no gradient and no optimizer state for what is frozen.",
        state="0 (and less optimizer state)",
        fails="Too little is trained to learn what is new; freezing deep blocks most of all. Where "
        "embeddings are tied to the output head, freezing one freezes the other.",
        evidence="research",
        sources=(
            "Zheng et al. 2025, arXiv:2501.13453 (bottom layers)",
            "methods.md P027, P034, F19, F48",
        ),
    )

    train: str | list[str] | None = None
    bottom_layers: Annotated[int, Field(ge=0)] = 0

    def adapt(self, model: "PreTrainedModel", ctx: StageContext) -> "PreTrainedModel":
        """Set `requires_grad`.

        Raises:
            HookError: a selection matches nothing, or half of a tied tensor; nothing is left to train; the
                architecture's roles are not known.
        """
        config = model.config.get_text_config()
        shapes = shapes_of(model)
        chosen = self.selected(
            shapes, config.model_type, config.hidden_size, config.num_hidden_layers
        )
        names: dict[int, set[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), set()).add(name)
        for parameter in model.parameters():
            own = names[id(parameter)]
            selected = own & chosen
            if selected and selected != own and self.train is not None:
                raise HookError(
                    f"freeze: {' and '.join(sorted(own))} are one tensor, and only "
                    f"{' and '.join(sorted(selected))} is to be trained; select both or neither"
                )
            # Where only bottom layers are named, a head stays with the embeddings that it is tied to.
            parameter.requires_grad_(selected == own)
        return model

    def selected(
        self, shapes: Mapping[str, tuple[int, ...]], model_type: str, width: int, num_blocks: int
    ) -> set[str]:
        """Names of what is trained.

        Args:
            shapes: of all parameters.
            width: H.
            num_blocks: of the model.

        Raises:
            HookError: a selection matches nothing, or nothing is left.
        """
        names = list(shapes)
        wanted = [self.train] if isinstance(self.train, str) else self.train
        if wanted is None:
            wanted = [] if self.bottom_layers else list(DEFAULT)
        chosen = set() if wanted else set(names)
        for one in wanted:
            if one in ROLES:
                found = select(one, model_type, shapes, width, num_blocks)
            else:
                found = matching(one, names)
            if not found:
                raise HookError(
                    f"freeze: train: {one!r} matches nothing; roles: {', '.join(ROLES)}; modules such as: "
                    f"{_some(names)}"
                )
            chosen |= found
        if self.bottom_layers:
            if self.bottom_layers >= num_blocks:
                raise HookError(
                    f"freeze: bottom_layers: {self.bottom_layers} leaves none of {num_blocks} blocks to train"
                )
            chosen -= blocks_below(model_type, self.bottom_layers, names)
            chosen -= select("embeddings", model_type, shapes, width, num_blocks)
        if not chosen:
            raise HookError("freeze: bottom_layers freezes all that train selects; nothing is left")
        return chosen


def _some(names: Collection[str]) -> str:
    """Modules of the first block that carries weights."""
    modules = [name.rpartition(".")[0] for name in names]
    return ", ".join(list(dict.fromkeys(modules))[:6])
