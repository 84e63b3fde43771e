"""Peaks of memory, with made-up readings of an accelerator."""

from typing import Any

from cpt.world import World
from stages.memory import peaks


class Two(World):
    """The second of two ranks, whose other one had 5 bytes."""

    def agree(self, value: Any) -> Any:
        return 5

    def sum_(self, value: Any) -> Any:
        value[0] += 5
        return value


def test_the_largest_of_all_ranks() -> None:
    assert peaks(World(), lambda: 7)["accelerator"] == 7
    assert peaks(Two(rank=1, size=2), lambda: 3)["accelerator"] == 5
    assert peaks(Two(rank=1, size=2), lambda: 9)["accelerator"] == 9


def test_without_an_accelerator_there_is_the_host_alone() -> None:
    found = peaks(World(), lambda: None)
    assert list(found) == ["peak"]
    assert found["peak"] > 2**20
