"""Rows read again by where they lie: equal to those of a pass over the file, whatever it looks like."""

import datetime
import gzip
import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from cpt import row_table
from cpt.data import load_rows
from cpt.data_spec import DataSpec
from cpt.errors import DataError
from cpt.files import is_json_lines, read_file, read_json
from cpt.row_table import JsonLines, RowTable, Spool
from cpt.rows import BROKEN, Row
from cpt.settings import validate

TEXTS = [{"text": f"row {n} \u00e9"} for n in range(50)]


def write(path: Path, rows: list[Row], end: str = "\n", start: str = "") -> Path:
    text = start + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    path.write_bytes(text.encode())
    return path


def table(path: Path, **more: Any) -> Any:
    spec = validate(DataSpec, {"path": str(path), **more}, "d.yaml")
    return load_rows(spec, ("text", "prompt"))


def test_it_is_a_sequence(tmp_path: Path) -> None:
    rows = table(write(tmp_path / "a.jsonl", TEXTS)).rows
    assert isinstance(rows, RowTable)
    assert len(rows) == 50
    assert rows == TEXTS
    assert rows != TEXTS[1:]
    assert rows != [*TEXTS[1:], TEXTS[0]]
    assert (rows[3], rows[-1], rows[10:12]) == (TEXTS[3], TEXTS[-1], TEXTS[10:12])
    assert [*rows] == TEXTS
    assert rows.take(array("q", [7, 2])) == [TEXTS[7], TEXTS[2]]
    with pytest.raises(IndexError):
        rows[50]


@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\u2028\n", "\n\u00a0\n"])
def test_lines_are_those_of_text(start: str, end: str, tmp_path: Path) -> None:
    """Where lines end, what is blank and what is bad: as when the file is opened as text."""
    file = write(tmp_path / "a.jsonl", [*TEXTS[:4], {"text": "a\u2028b"}], end, start)
    with file.open("ab") as stream:
        stream.write(b'{"text": 1\n[1, 2]\n{"text": "last"}')
    expected: list[Row] = []
    with file.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if line.strip():
                try:
                    row = json.loads(line)
                    expected.append(row if isinstance(row, dict) else {BROKEN: "not a JSON object"})
                except json.JSONDecodeError as error:
                    expected.append({BROKEN: f"not JSON ({error.msg})"})
    assert [*read_json(file)] == expected
    found = JsonLines([file])
    places = [found.place for _ in found]
    assert [found.read(place) for place in reversed(places)] == expected[::-1]


def test_bad_rows_columns_and_held_out_ones_are_passed_over(tmp_path: Path) -> None:
    raw = [{"body": f"row {n}"} if n % 7 else {"body": ""} for n in range(40)]
    more = {"columns": {"text": "body"}, "max_bad": 0.5, "validation": {"fraction": 0.25}}
    found = table(write(tmp_path / "a.jsonl", raw), **more)
    wanted = [n for n in range(40) if n % 7 and (n + 1) % 4]
    assert [row["text"] for row in found.rows] == [f"row {n}" for n in wanted]
    assert [*found.numbers] == [n + 1 for n in wanted]


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "_MOST_OPEN", 2)
    for n in range(5):
        write(tmp_path / f"{n}.jsonl", TEXTS[10 * n : 10 * n + 10] if n != 2 else [])
    rows = table(tmp_path).rows
    expected = [row for n, row in enumerate(TEXTS) if n // 10 != 2]
    assert [rows[n] for n in range(39, -1, -1)] == expected[::-1]
    assert len(rows._read.args[0]._open) == 2


@pytest.mark.parametrize("packed", ["list.json", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_files_that_have_no_lines_of_json_are_written_down(packed: str, tmp_path: Path) -> None:
    file = tmp_path / packed
    if packed == "list.json":
        file.write_text(json.dumps(TEXTS))
    elif packed == "a.txt":
        file.write_text("\n\n".join(row["text"] for row in TEXTS), encoding="utf-8")
    elif packed == "a.parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(TEXTS), file)
    else:
        with gzip.open(file, "wt", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in TEXTS))
    assert not is_json_lines(file, None)
    assert [*read_file(file, None)] == TEXTS
    rows = table(file).rows
    assert isinstance(rows, RowTable)
    assert [rows[n] for n in (49, 0, 25)] == [TEXTS[n] for n in (49, 0, 25)]
    assert rows == TEXTS


def test_what_json_has_no_word_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "IN_MEMORY", 100)
    spool = Spool()
    rows = [
        {"text": f"{n}", "day": datetime.date(2020, 1, n + 1), "raw": b"\xff"} for n in range(9)
    ]
    places = [spool.add(row) for row in rows]
    assert spool._file._rolled  # type: ignore[attr-defined]
    assert [spool.read(place) for place in reversed(places)] == rows[::-1]
    assert spool.read(spool.add({"a": 1})) == {"a": 1}


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", TEXTS)
    before, after = table(file).rows, table(file).rows
    assert after[0] == TEXTS[0]  # open already
    write(file, TEXTS[::-1])
    os.utime(file, (1, 1))
    for rows in (before, after):
        with pytest.raises(DataError, match=r"a\.jsonl: changed while the stage read it"):
            rows[5]
    gone = table(file).rows
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        gone[5]


GROWTH = """
import sys
from cpt.data import load_rows
from cpt.data_spec import DataSpec
from cpt.settings import validate

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def load(name):
    return load_rows(validate(DataSpec, {"path": name}, "d.yaml"), ("text",)).rows

few = load(sys.argv[1])
before = anonymous()
many = load(sys.argv[2])
print(anonymous() - before, len(many), sum(len(row["text"]) for row in many[:10]))
"""


def test_memory_is_some_bytes_a_row(tmp_path: Path) -> None:
    """As dicts, 200,000 rows of 200 letters took 100 MB."""
    line = json.dumps({"text": "x" * 200}) + "\n"
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    few.write_text(line)
    with many.open("w") as file:
        file.writelines(line for _ in range(200_000))
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(few), str(many)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, number, letters = map(int, done.stdout.split())
    assert (number, letters) == (200_000, 2000)
    assert grown < 60 * 200_000
