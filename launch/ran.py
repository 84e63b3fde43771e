"""What of each backend was really run, and where; the README's table says the same, and a test compares."""

from collections.abc import Mapping
from dataclasses import dataclass

NEVER = "never run on real hardware"


@dataclass(frozen=True)
class Ran:
    """Where chains or stages of a backend ran.

    Attributes:
        tested: on the processes of a CPU, by a test.
        hardware: on what it is made for; empty where it never was.
    """

    tested: str = ""
    hardware: str = ""

    @property
    def told(self) -> str:
        """As the README has it."""
        return "; ".join(part for part in (self.tested, self.hardware or NEVER) if part)


RAN: Mapping[str, Ran] = {
    "single": Ran(hardware="whole chains on CPUs, never on a GPU"),
    "ddp": Ran("chains on two CPU processes"),
    "ddp-nodes": Ran("two launchers on one machine equal `ddp`"),
    "zero2": Ran("stages on two CPU processes"),
    "zero2-nodes": Ran("two launchers on one machine equal `ddp`"),
}


def ran(backend: str) -> Ran:
    """What was run of a backend."""
    return RAN.get(backend, Ran())
