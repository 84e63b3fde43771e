"""The world of one process, and the refusal of processes that do not talk."""

import pytest
import torch

from cpt.errors import PlanError
from cpt.world import World, current


def test_a_world_of_one_gives_back_what_it_is_given() -> None:
    world = World()
    value = torch.tensor([1.0, 2.0])
    assert world.is_main
    assert world.sum_(value) is value
    assert world.agree({"port": 1}) == {"port": 1}
    world.barrier()


def test_only_the_first_rank_is_main() -> None:
    assert World(rank=0, size=2).is_main
    assert not World(rank=1, size=2).is_main


def test_processes_that_do_not_find_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import accelerate

    class Alone:
        num_processes = 1
        process_index = 0

        def __init__(self, **settings: object) -> None:
            self.settings = settings

    monkeypatch.setattr(accelerate, "PartialState", Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match="2 processes were started and 1 found each other"):
        current()


def test_without_a_launcher_the_world_is_one() -> None:
    world = current()
    assert (world.rank, world.size) == (0, 1)
