"""The benchmark of scaling finds what it plants, and says what it misses."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.scale import BLOCK, MEASURES, blocks, changed, main, markdown, problems, same


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_planted_is_found(name: str, tmp_path: Path) -> None:
    told = MEASURES[name](2 * BLOCK, tmp_path)
    assert problems(name, told) == []
    assert told["rows"] == 2 * BLOCK
    assert told["us_a_row"] > 0
    assert [*tmp_path.iterdir()] == []


def test_a_tenth_of_the_rows_are_copies_of_earlier_ones() -> None:
    found = [row["text"] for rows, _ in blocks(2500, same) for row in rows]
    assert len(found) == 2500
    assert len(set(found)) == 2250
    first = next(rows for rows, copies in blocks(10, changed) if copies == 1)
    *earlier, copy = [row["text"].split() for row in first]
    assert any(copy[:-1] == text[:-1] for text in earlier)
    assert copy not in earlier


def test_what_is_missed_or_grows_is_told() -> None:
    good: dict[str, Any] = {
        "rows": 100_000,
        "planted": 1000,
        "found": 1000,
        "growth_bytes_a_row": 1,
    }
    assert problems("exact", good) == []
    assert problems("exact", {**good, "found": 999}) == ["exact: found 999 of 1000"]
    assert problems("near", {**good, "found": 999}) == []
    assert problems("near", {**good, "found": 1001}) == ["near: found 1001 of 1000"]
    assert problems("mixing", {**good, "found": 0.25}) == ["mixing: found 0.25 of 1000"]
    grown = {**good, "growth_bytes_a_row": 61}
    assert problems("exact", grown) == ["exact: memory grows by 61 bytes a row"]
    assert problems("exact", {**grown, "rows": 1000}) == []


def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["scale", "--rows", str(10**15), "--folder", str(tmp_path), "--result", str(tmp_path)]
    monkeypatch.setattr("sys.argv", given)
    assert main() == 2
    assert "GB of disk; name another --folder" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == []


def test_the_stored_result_is_what_its_table_shows() -> None:
    folder = Path(__file__).parent / "results"
    result = json.loads((folder / "scale.json").read_text())
    assert markdown(result) == (folder / "scale.md").read_text()
    assert [
        line for name, told in result["measures"].items() for line in problems(name, told)
    ] == []
