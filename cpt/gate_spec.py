"""`gate:` of a chain: what counts as a regression, and what is done about one."""

from pydantic import Field

from cpt.actions import MARGIN, Action
from cpt.settings import Settings


class ProbeGate(Settings):
    """What differs for one probe."""

    margin: float | None = Field(
        default=None, ge=0, description="in place of the suite's and the chain's"
    )
    on_regression: Action | None = None


class GateSpec(Settings):
    """What counts as a regression and what then happens.

    warn: it is told. stop: the chain ends with exit code 3. rollback: the next stage starts from the best
    checkpoint within the stage that passes, else from the stage's parent. repair: it starts from an average
    of parent and result that keeps every probe within its margin.
    """

    margin: float = Field(
        default=MARGIN,
        ge=0,
        description="fall that is tolerated, in the probe's unit; of probes without a margin of their own",
    )
    on_regression: Action = "warn"
    probes: dict[str, ProbeGate] = Field(
        default_factory=dict, description="probes of the suite that have rules of their own"
    )
    candidates: int = Field(
        default=3, ge=0, description="most checkpoints within a stage that rollback chooses among"
    )
    noise: bool | None = Field(
        default=None,
        description="measure the base model twice, so that verdicts know how far equal weights lie apart; "
        "unless said, where an accelerator computes",
    )
    attempts: int = Field(default=8, ge=1, description="most averages that repair measures")

    def action(self, probe: str) -> Action:
        """What a regression of a probe leads to."""
        own = self.probes.get(probe)
        return own.on_regression if own and own.on_regression else self.on_regression
