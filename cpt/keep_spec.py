"""`keep:` of a chain: what of it stays on disk."""

from typing import Literal

from pydantic import Field

from cpt.settings import Settings
from cpt.store import KEPT_CHECKPOINTS


class KeepSpec(Settings):
    """What of a chain stays on disk; no id depends on it.

    Of a stage whose weights go, all else stays: manifest, probes, exemplars, adapter, what hooks kept. Its
    weights go once nothing that is still to be made reads them, and it is made again where something does.
    """

    trainer_checkpoints: int = Field(
        default=KEPT_CHECKPOINTS,
        ge=1,
        description="of a stage while it trains; more than 1 survive a damaged one",
    )
    stages: Literal["all", "last"] | list[str] = Field(
        default="all", description="whose weights stay: all, last, or [names]; the base model's do"
    )
