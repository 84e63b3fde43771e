"""Stage kinds: thin modules over TRL's trainers, and one that merges what they made."""

from importlib import import_module
from typing import TYPE_CHECKING

from cpt.errors import RecipeError
from cpt.settings import did_you_mean

if TYPE_CHECKING:
    from stages.base import StageKind

KINDS: dict[str, str] = {
    "pretrain": "stages.pretrain:Pretrain",
    "sft": "stages.sft:SFT",
    "dpo": "stages.dpo:DPO",
    "grpo": "stages.grpo:GRPO",
    "merge": "stages.merge:Merge",
}


def kind_of(name: str, where: str) -> "StageKind":
    """The stage kind of a name.

    Raises:
        RecipeError: no such kind; names the nearest.
    """
    if name not in KINDS:
        raise RecipeError(f"{where}: kind: no stage kind {name!r}{did_you_mean(name, KINDS)}")
    module, _, attribute = KINDS[name].partition(":")
    kind: StageKind = getattr(import_module(module), attribute)()
    return kind
