"""Near duplicates from disk: the same verdicts, row by row, as from memory."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpt.replay.hygiene import Duplicates
from cpt.replay.near_index import NearIndex
from tests.cpt.replay.in_memory import InMemory

WORDS = [f"w{n}" for n in range(3000)]


def rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of up to 60 words, a fifth of them exact copies and two fifths changed in some of their words."""
    draw = random.Random(seed)
    found: list[list[str]] = []
    for _ in range(number):
        kind = draw.random() if found else 1.0
        if kind < 0.2:
            found.append(draw.choice(found))
        elif kind < 0.6:
            text = list(draw.choice(found))
            for _ in range(draw.randint(1, 5)):
                text[draw.randrange(len(text))] = draw.choice(WORDS)
            found.append(text)
        else:
            found.append(draw.choices(WORDS, k=draw.randint(0, 60)))
            found[-1] = found[-1] or ["-"]
    return [{"text": " ".join(text)} for text in found]


@pytest.mark.parametrize("near", [False, True])
def test_verdicts_are_those_from_memory(near: bool, tmp_path: Path) -> None:
    on_disk, in_memory = Duplicates(near, tmp_path), InMemory(near)
    number = 20_000
    planted = rows(number)
    found = [on_disk.kind_of(row) for row in planted]
    assert found == [in_memory.kind_of(row) for row in planted]
    assert found.count("exact") > number // 10
    if near:
        assert found.count("near") > number // 50
        assert found.count(None) > number // 5


def test_candidates_share_a_band(tmp_path: Path) -> None:
    index = NearIndex(2, tmp_path)
    one, other = np.array([1, 2], dtype=np.uint64), np.array([], dtype=np.uint64)
    index.add([b"a", b"b"], one)
    index.add([b"a", b"a"], other)
    index.add([b"b", b"c"], one)
    assert index.candidates([b"a", b"c"]) == {0, 1, 2}
    assert index.candidates([b"b", b"b"]) == {0, 2}
    assert index.candidates([b"c", b"d"]) == set()
    assert [index.shingles(row).tolist() for row in range(3)] == [[1, 2], [], [1, 2]]
    assert len(index) == 3
    assert [*tmp_path.iterdir()] == []


GROWTH = """
import sys
from cpt.replay.hygiene import Duplicates

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

seen = Duplicates(False)
before = 0
for number in range(400_000):
    seen.kind_of_words([[str(number)]])
    if number == 200_000:
        before = anonymous()
print(anonymous() - before, len(seen._seen))
"""


def test_memory_does_not_grow_with_the_rows() -> None:
    """100 bytes a row were 20 MB more."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True
    )
    grown, known = map(int, done.stdout.split())
    assert known == 400_000
    assert grown < 2_000_000
