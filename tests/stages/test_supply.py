"""A supply is made once, by the main process; the others open it, or fail as it failed."""

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import DataError, StoreError
from cpt.world import World
from stages.supply import HELD_OUT, REST, TRAIN, Supply, supply_once
from stages.tokens_on_disk import write_rows


@dataclass(frozen=True)
class Launched(World):
    """Two processes of one launch, without a process group."""

    launch: str = "this launch"

    def agree(self, value: Any) -> Any:
        return self.launch


MAIN, OTHER = Launched(0, 2), Launched(1, 2)


class Make:
    """Writes a supply, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        write_rows(folder / TRAIN, [{"a": n} for n in range(5)])
        rest = {"num_steps": 3, "exemplars": [{"text": "\u00e9"}], "description": [], "notes": []}
        (folder / REST).write_text(json.dumps(rest))


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def never(folder: Path) -> None:
    raise AssertionError("only the main process makes it")


def content(supply: Supply) -> Any:
    assert supply.train.cache_files, "mapped, not in memory"
    return supply.train.to_list(), supply.held_out, supply.num_steps, supply.exemplars


EXPECTED = ([{"a": n} for n in range(5)], None, 3, [{"text": "\u00e9"}])


def test_what_was_made_is_opened_again_and_not_made(folder: Path, make: Make) -> None:
    for _ in range(2):
        assert content(supply_once(folder, "k", World(), make)) == EXPECTED
    assert make.times == 1
    supply_once(folder, "another key", World(), make)
    assert make.times == 2


@pytest.mark.parametrize("harm", ["cut", "gone", "no mark", "garbage", "half written"])
def test_what_is_not_whole_is_made_again(folder: Path, make: Make, harm: str) -> None:
    supply_once(folder, "k", World(), make)
    if harm == "cut":
        (folder / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-8])
    elif harm == "gone":
        (folder / TRAIN).unlink()
    elif harm == "no mark":
        (folder / "made.json").unlink()
    elif harm == "garbage":
        (folder / REST).write_bytes(b"{" * (folder / REST).stat().st_size)
    else:
        folder.rename(folder.with_name("data.partial"))
        (folder.with_name("data.partial") / HELD_OUT).write_text("stale")
    assert content(supply_once(folder, "k", World(), make)) == EXPECTED
    assert make.times == 2
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def waiting(folder: Path) -> tuple[threading.Thread, list[Any]]:
    """Another process's turn, in a thread, and what came of it."""
    found: list[Any] = []

    def turn() -> None:
        try:
            found.append(content(supply_once(folder, "k", OTHER, never)))
        except (DataError, StoreError) as error:
            found.append(error)

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    time.sleep(0.15)
    return thread, found


def test_the_others_wait_until_it_is_whole(folder: Path, make: Make) -> None:
    thread, found = waiting(folder)

    def slowly(partial: Path) -> None:
        make(partial)
        time.sleep(0.15)
        assert found == []

    supply_once(folder, "k", MAIN, slowly)
    thread.join(5)
    assert found == [EXPECTED]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("data a: is empty"), DataError("data a: is empty")),
        (OSError(28, "No space left"), StoreError("OSError: [Errno 28] No space left")),
        (MemoryError(), StoreError("MemoryError")),
        (KeyboardInterrupt(), StoreError("KeyboardInterrupt")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_others_fail_as_the_main_process_fails(
    folder: Path, error: BaseException, told: Exception
) -> None:
    thread, found = waiting(folder)

    def fail(partial: Path) -> None:
        (partial / TRAIN).write_text("half")
        raise error

    with pytest.raises(type(error)):
        supply_once(folder, "k", MAIN, fail)
    thread.join(5)
    assert type(found[0]) is type(told)
    assert str(told) in str(found[0])
    assert not folder.exists()


def test_the_word_of_an_earlier_launch_is_not_heard(folder: Path, make: Make) -> None:
    def fail(partial: Path) -> None:
        raise DataError("it failed once")

    with pytest.raises(DataError):
        supply_once(folder, "k", Launched(0, 2, launch="an earlier launch"), fail)
    thread, found = waiting(folder)
    assert found == []
    supply_once(folder, "k", MAIN, make)
    thread.join(5)
    assert found == [EXPECTED]


def test_a_process_alone_leaves_no_word(folder: Path, make: Make) -> None:
    supply_once(folder, "k", World(), make)
    assert [path.name for path in folder.parent.iterdir()] == ["data"]
