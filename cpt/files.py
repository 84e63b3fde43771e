"""Local files -> raw rows: JSON Lines, JSON, Parquet and plain text, compressed or not."""

import glob
import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cpt.errors import DataError
from cpt.rows import BROKEN, Row


def local_files(name: str) -> list[Path]:
    """The files that a path, a folder or a glob names."""
    path = Path(name)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file() and kind_of_file(p))
    if path.is_file():
        return [path]
    return sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())


def kind_of_file(path: Path) -> str | None:
    """json, parquet or text, by a file's name; None for anything else."""
    name = path.name.removesuffix(".gz")
    for ending, kind in (
        ("jsonl", "json"),
        ("json", "json"),
        ("parquet", "parquet"),
        ("txt", "text"),
    ):
        if name.endswith("." + ending):
            return kind
    return None


def read_file(file: Path, kind: str | None) -> Iterator[Row]:
    """The rows of one file; `kind` where its name does not say it.

    Raises:
        DataError: unknown, unreadable or damaged.
    """
    kind = kind or kind_of_file(file)
    if kind == "json":
        return read_json(file)
    if kind == "parquet":
        return _read_parquet(file)
    if kind == "text":
        return _read_text(file)
    raise DataError(f"data: {file}: unknown file type; name it with format: json, parquet or text")


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"data: {file}: cannot be read: {error}") from None


def _read_text(file: Path) -> Iterator[Row]:
    """One row per paragraph: paragraphs are apart by a blank line."""
    with _opened(file) as stream:
        for paragraph in stream.read().split("\n\n"):
            if paragraph.strip():
                yield {"text": paragraph.strip()}


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    """A text file, packed or not; what goes wrong while it is read is a DataError.

    A byte order mark is skipped.
    """
    with _guarded(file):
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8-sig") as stream:
                yield stream
        else:
            with file.open(encoding="utf-8-sig") as stream:
                yield stream


@contextmanager
def _guarded(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"data: {file}: cannot be read: {error}") from None


def read_json(file: Path) -> Iterator[Row]:
    """JSON Lines, or one JSON list. What is no JSON object is a bad row, not an end."""
    if is_json_lines(file, "json"):
        yield from (row for _, row in json_lines(file))
        return
    with _opened(file) as stream:
        start = stream.read(4096).lstrip()[:1]
        stream.seek(0)
        if start == "[":
            try:
                items = json.load(stream)
            except json.JSONDecodeError as error:
                raise DataError(f"data: {file}: cannot be read: {error}") from None
            yield from map(_object, items)
            return
        for line in stream:
            if line.strip():
                yield _line(line)


def is_json_lines(file: Path, kind: str | None) -> bool:
    """Whether a file is JSON Lines and not packed: its rows can be read by where their lines begin.

    Raises:
        DataError: it cannot be read.
    """
    if (kind or kind_of_file(file)) != "json" or file.suffix == ".gz":
        return False
    with _guarded(file), file.open("rb") as stream:
        return stream.read(4096).decode("utf-8-sig", errors="replace").lstrip()[:1] != "["


def json_lines(file: Path) -> Iterator[tuple[int, Row]]:
    """(where its line begins, row) of each row of a JSON Lines file that is not packed.

    Raises:
        DataError: it cannot be read.
    """
    with _guarded(file), file.open("rb") as stream:
        place = len(BOM_UTF8) if stream.read(len(BOM_UTF8)) == BOM_UTF8 else 0
        stream.seek(place)
        for line in stream:
            # Of text, a carriage return alone ends a line as well.
            for part in line.splitlines(keepends=True) if b"\r" in line[:-2] else (line,):
                if (row := json_line(part)) is not None:
                    yield place, row
                place += len(part)


def json_line(line: bytes) -> Row | None:
    """The row of a line; None where it is blank."""
    text = line.decode()
    return _line(text) if text.strip() else None


def _line(text: str) -> Row:
    try:
        return _object(json.loads(text))
    except json.JSONDecodeError as error:
        return {BROKEN: f"not JSON ({error.msg})"}


def _object(item: Any) -> Row:
    return item if isinstance(item, dict) else {BROKEN: "not a JSON object"}
