"""What the main process does alone, while the others wait for its word."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import EdgeError, StoreError
from cpt.world import World
from stages.alone import alone


class Group:
    """Two ranks in two threads."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2, timeout=20)
        self.said: Any = None

    def world(self, rank: int) -> World:
        group = self

        class Rank(World):
            def barrier(self) -> None:
                if self.size > 1:
                    group.both.wait()

            def agree(self, value: Any) -> Any:
                if self.size == 1:
                    return value
                if self.is_main:
                    group.said = value
                group.both.wait()
                return group.said

        return Rank(rank, 2, SimpleNamespace(device="cpu"), spreads=True)


def run(partial: Path, work: Any) -> list[Any]:
    """What each rank raised."""
    group, raised = Group(), list[Any]([None, None])

    def rank(number: int) -> None:
        try:
            alone(group.world(number), partial, work)
        except Exception as error:
            raised[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_one_process_works_and_the_others_wait(tmp_path: Path) -> None:
    partial, seen = tmp_path / "sft-1.partial", list[Any]()
    partial.mkdir()

    def work(world: World) -> None:
        seen.append((world.rank, world.size, world.spreads))
        partial.rename(tmp_path / "sft-1")  # as a stage that is published

    assert run(partial, work) == [None, None]
    assert seen == [(0, 1, False)]
    assert [path.name for path in tmp_path.iterdir()] == ["sft-1"]


def test_all_raise_what_it_could_not_do(tmp_path: Path) -> None:
    partial = tmp_path / "sft-1.partial"
    # The word of a launch before is not that of this one.
    (tmp_path / ".sft-1.alone.json").write_text(json.dumps({"launch": "another"}))

    def work(world: World) -> None:
        raise EdgeError("another model was loaded")

    for error in run(partial, work):
        assert type(error) is EdgeError
        assert str(error) == "another model was loaded"

    def breaks(world: World) -> None:
        raise RuntimeError("out of memory")

    first, second = run(partial, breaks)
    assert type(first) is RuntimeError
    assert type(second) is StoreError
    assert "RuntimeError: out of memory" in str(second)


@pytest.mark.parametrize("spreads", [True, False])
def test_that_it_is_alone_does_not_change_its_device(spreads: bool, tmp_path: Path) -> None:
    found: list[Any] = []
    world = World(0, 1, SimpleNamespace(device="cuda:3"), spreads)
    alone(world, tmp_path / "a.partial", lambda main: found.append(main.device))
    assert found == ["cuda:3"]
