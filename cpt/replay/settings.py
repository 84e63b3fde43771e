"""What a person can write under `buffer:` of a replay."""

from typing import Any, Literal

from pydantic import Field

from cpt.settings import Settings

Select = Literal["uniform", "herding", "kcenter", "kmeans", "difficult", "quality", "collateral"]
#: Selections that look at rows with an earlier stage's model.
BY_MODEL = ("herding", "kcenter", "kmeans", "difficult")


class BufferSpec(Settings):
    """How many old rows are rehearsed, and how they are shared out over the stages that left them.

    quota: equal parts; reservoir: as a uniform sample of all rows that the stages saw.
    """

    size: int = Field(ge=1)
    policy: Literal["quota", "reservoir"] = "quota"

    def content(self) -> dict[str, Any]:
        """What enters the content address of a stage."""
        return self.model_dump()
