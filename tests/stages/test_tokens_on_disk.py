"""Tokens go to disk and come back as they were, whatever the order."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from stages.tokens_on_disk import RowFile, TokenFile, as_dataset, write_rows, write_tokens


def row(*ids: int) -> dict[str, list[int]]:
    return {"input_ids": [*ids], "labels": [-100, *ids[1:]]}


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    tokens = TokenFile(tmp_path)
    tokens.extend([row(1, 2, 3), row(70_000)])
    tokens.extend([row(4, 5)])
    return tokens


def test_rows_come_back_whole_or_in_part(file: TokenFile) -> None:
    assert len(file) == 3
    assert [[*map(int, part)] for part in file.read(0, 0, 3)] == [[1, 2, 3], [-100, 2, 3]]
    assert [[*map(int, part)] for part in file.read(1, 0, 1)] == [[70_000], [-100]]
    assert [[*map(int, part)] for part in file.read(0, 1, 2)] == [[2], [2]]


def test_the_file_has_no_name_that_a_killed_process_could_leave(tmp_path: Path, file: Any) -> None:
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_a_table_of_tokens_is_the_same_in_any_batches(
    tmp_path: Path, file: TokenFile, most: int
) -> None:
    path = tmp_path / "a.arrow"
    write_tokens(path, [[(file, 2, 0, 2)], [(file, 0, 0, 3)], [(file, 2, 0, 2)]], False, most)
    assert Dataset.from_file(str(path)).to_list() == [row(4, 5), row(1, 2, 3), row(4, 5)]
    write_tokens(path, [[(file, 0, 1, 3), (file, 1, 0, 1)], [(file, 2, 0, 1)]], True, most)
    assert Dataset.from_file(str(path)).to_list() == [
        {"input_ids": [2, 3, 70_000], "labels": [2, 3, -100], "seq_lengths": [2, 1]},
        {"input_ids": [4], "labels": [-100], "seq_lengths": [1]},
    ]


def test_a_table_has_the_columns_that_any_row_has(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": 2}, {"a": 3, "c": 4}]
    assert as_dataset(rows).to_dict() == {"a": [1, 3], "b": [2, None], "c": [None, 4]}
    write_rows(tmp_path / "a.arrow", rows)
    assert Dataset.from_file(str(tmp_path / "a.arrow")).to_dict() == as_dataset(rows).to_dict()


def test_rows_of_chats_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}?"}], "answer": None if n < 1500 else "x"}
        for n in range(2500)
    ]
    write_rows(tmp_path / "a.arrow", rows)
    assert Dataset.from_file(str(tmp_path / "a.arrow")).to_list() == rows


def test_rows_that_arrived_come_back_as_exemplars_are_written(tmp_path: Path) -> None:
    """What JSON has no word for is text; a character's half stays what it was."""
    rows: list[Any] = [
        {"text": "\ud83d", "raw": b"\xff", "at": datetime(2024, 2, 3)},
        {},
        {"n": [1, None]},
    ]
    written = [json.loads(json.dumps(row, default=str)) for row in rows]
    assert written[0] == {"text": "\ud83d", "raw": "b'\\xff'", "at": "2024-02-03 00:00:00"}
    file = RowFile(tmp_path)
    file.extend(rows[:1])
    assert file[0] == written[0]
    file.extend(rows[1:])
    assert [file[n] for n in (2, 0, 1)] == [written[2], written[0], written[1]]
    assert list(tmp_path.iterdir()) == []
