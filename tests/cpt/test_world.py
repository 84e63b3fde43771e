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
    with world.main_first():
        pass


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


@pytest.mark.parametrize("raises", [False, True])
def test_the_main_process_goes_first_and_lets_the_others_go(
    raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its block fails: else the others would wait for ever."""
    events: list[str] = []
    for rank in (0, 1):
        monkeypatch.setattr(World, "barrier", lambda self: events.append(f"barrier {self.rank}"))
        try:
            with World(rank=rank, size=2).main_first():
                events.append(f"block {rank}")
                if raises and rank == 0:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert events == ["block 0", "barrier 0", "barrier 1", "block 1"]
