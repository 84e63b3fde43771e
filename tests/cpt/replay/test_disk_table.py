"""A table on disk answers as a dict does, through all its growth."""

import errno
import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cpt.replay import disk_table
from cpt.replay.disk_table import DiskTable


def digest(number: int, size: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=size).digest()


@pytest.mark.parametrize(("key_size", "value_size"), [(16, 0), (8, 8)])
def test_it_answers_as_a_dict(key_size: int, value_size: int, tmp_path: Path) -> None:
    table, plain = DiskTable(key_size, value_size, tmp_path), dict[bytes, bytes]()
    draw = random.Random(0)
    for number in range(20_000):  # three times twice as large
        key = digest(draw.randrange(12_000), key_size)
        assert (key in table) == (key in plain)
        assert table.get(key) == plain.get(key)
        value = digest(number, 8)[:value_size]
        table.put(key, value)
        plain[key] = value
        assert len(table) == len(plain)
    assert all(table.get(key) == value for key, value in plain.items())
    assert not any(digest(number, key_size) in table for number in range(50_000, 51_000))
    assert [*tmp_path.iterdir()] == []  # the file has no name
    table.close()


def test_keys_that_want_one_slot_go_to_the_next(tmp_path: Path) -> None:
    table = DiskTable(16, 1, tmp_path)
    last = (disk_table.FIRST_SLOTS - 1).to_bytes(8, "little")  # and around the end
    keys = [last + number.to_bytes(8, "little") for number in range(3000)]
    for number, key in enumerate(keys):
        table.put(key, bytes([number % 256]))
    assert [table.get(key) for key in keys] == [bytes([n % 256]) for n in range(3000)]
    assert last + bytes(4) + b"\1" * 4 not in table


def test_a_key_of_zeros_is_a_key(tmp_path: Path) -> None:
    table = DiskTable(8, 1, tmp_path)
    assert bytes(8) not in table
    table.put(bytes(8), b"x")
    assert (table.get(bytes(8)), len(table)) == (b"x", 1)


def test_a_full_disk_is_an_error_and_not_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space is written before it is mapped."""
    table = DiskTable(16, folder=tmp_path)
    made = tempfile.TemporaryFile

    def full(**given: Any) -> Any:
        file = made(**given)

        class Full:
            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    def fill() -> None:
        for number in range(disk_table.FIRST_SLOTS):
            table.put(digest(number, 16))

    with pytest.raises(OSError, match="No space left"):
        fill()
