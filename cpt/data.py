"""Data configs -> rows. Bad rows are counted, reported, and refused beyond a limit."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from cpt import ids
from cpt.errors import DataError
from cpt.settings import Settings, did_you_mean
from cpt.yaml12 import nearest_file

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
RowFormat = Literal["text", "messages", "preference", "prompt"]

#: What a row of each format must hold, in TRL's words. `prompt` rows may carry more columns for rewards.
REQUIRED: dict[RowFormat, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
}


class Validation(Settings):
    """Where the held-out rows are: another split or view, or a share of the rows."""

    split: str | None = None
    view: str | None = None
    fraction: float | None = Field(default=None, gt=0, lt=1)
    limit: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _one(self) -> "Validation":
        if sum(part is not None for part in (self.split, self.view, self.fraction)) != 1:
            raise ValueError("name one of split, view, fraction")
        return self


class DataSpec(Settings):
    """One data set: where it is, which columns it has, how much of it is taken."""

    path: str | list[str] | None = Field(
        default=None, description="hub id, or local files (globs too)"
    )
    builder: str | None = Field(default=None, description="a corpus made from what is installed")
    source: str | None = Field(
        default=None, description="builder's source: stdlib, a package, a folder"
    )
    view: str | None = None
    name: str | None = Field(default=None, description="configuration of a hub data set")
    revision: str | None = Field(
        default=None, description="commit of a hub data set; needed for its id"
    )
    split: str = "train"
    format: Literal["json", "parquet", "text"] | None = None
    columns: dict[str, str] = Field(default_factory=dict, description="our column: theirs")
    limit: int | None = Field(default=None, ge=1)
    validation: Validation | None = None
    streaming: bool = False
    weight: float = Field(default=1.0, gt=0)
    max_bad: float = Field(
        default=0.01, ge=0, le=1, description="share of bad rows that is tolerated"
    )
    licence: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "DataSpec":
        if (self.path is None) == (self.builder is None):
            raise ValueError("name either path or builder")
        if self.builder:
            from cpt.corpora import BUILDERS, view_names

            if self.builder not in BUILDERS:
                raise ValueError(
                    f"builder: no {self.builder!r}{did_you_mean(self.builder, BUILDERS)}"
                )
            views = [self.view] + ([self.validation.view] if self.validation else [])
            for view in views:
                if view is not None and view not in view_names(self.builder):
                    raise ValueError(
                        f"view: {self.builder} has no {view!r}{did_you_mean(view, view_names(self.builder))}"
                    )
            if self.view is None:
                raise ValueError(f"view is missing{did_you_mean('', view_names(self.builder))}")
        elif not self.files and not self.revision and not self.is_local:
            raise ValueError(
                f"path {self.path!r} is a hub data set; name its revision, so that ids need no network"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether `path` names local files rather than a hub data set."""
        return isinstance(self.path, list) or (self.path or "").startswith(("/", "~", "."))

    @property
    def files(self) -> list[Path]:
        """The local files that `path` names; globs and folders are followed."""
        if not self.is_local:
            return []
        found: list[Path] = []
        for name in self.path if isinstance(self.path, list) else [str(self.path)]:
            path = Path(name)
            if path.is_dir():
                found += sorted(p for p in path.rglob("*") if p.is_file() and _format_of(p))
            elif any(sign in name for sign in "*?["):
                found += sorted(path.parent.glob(path.name))
            elif path.is_file():
                found.append(path)
        return found

    @property
    def label(self) -> str:
        """A short name for plans and logs."""
        if self.builder:
            return (
                f"{self.builder}({self.source}).{self.view}"
                if self.source
                else f"{self.builder}.{self.view}"
            )
        if isinstance(self.path, list):
            return f"{Path(self.path[0]).name} and {len(self.path) - 1} more"
        return Path(str(self.path)).name if self.is_local else str(self.path)

    def content(self) -> dict[str, Any]:
        """What enters the content address of a stage that uses these rows.

        Raises:
            DataError: the files or the builder's source are missing.
        """
        keep = {
            "view",
            "name",
            "split",
            "columns",
            "limit",
            "validation",
            "streaming",
            "weight",
            "max_bad",
        }
        inputs: dict[str, Any] = self.model_dump(include=keep, exclude_none=True)
        if self.builder:
            from cpt.corpora import fingerprint_of

            return inputs | {
                "builder": self.builder,
                "content": fingerprint_of(self.builder, self.source),
            }
        if self.is_local:
            return inputs | {"content": ids.fingerprint(self.existing_files())}
        return inputs | {"hub": self.path, "revision": self.revision}

    def existing_files(self) -> list[Path]:
        """`files`, of which there must be one at least.

        Raises:
            DataError: nothing is there.
        """
        if not self.files:
            first = self.path[0] if isinstance(self.path, list) else str(self.path)
            raise DataError(f"data: {first}: no such file{nearest_file(Path(first))}")
        return self.files


@dataclass(frozen=True)
class Rows:
    """Rows of one source with the count of what was left out."""

    spec: DataSpec
    rows: "list[Row]"
    format: RowFormat
    num_bad: int
    examples_of_bad: tuple[str, ...] = ()


def format_of(row: Row) -> RowFormat | None:
    """Which of TRL's formats a row has, by its columns."""
    for name in ("preference", "messages", "prompt", "text"):
        if all(column in row for column in REQUIRED[name]):  # type: ignore[index]
            return name  # type: ignore[return-value]
    return None


def load_rows(
    spec: DataSpec, formats: tuple[RowFormat, ...], part: Literal["train", "validation"] = "train"
) -> Rows:
    """Read the rows of one part of a data set.

    Args:
        spec: the data set.
        formats: what the stage can train on.
        part: training rows or the held-out ones.

    Raises:
        DataError: missing or empty data, a format that the stage does not take, too many bad rows.
    """
    good: list[Row] = []
    bad: list[str] = []
    found: RowFormat | None = None
    for number, raw in enumerate(_part(spec, part), start=1):
        row = {ours: raw.get(theirs) for ours, theirs in spec.columns.items()}
        row |= {key: value for key, value in raw.items() if key not in spec.columns.values()}
        found = found or format_of(row)
        reason = _fault(row, found) if found else "no text, messages, prompt, chosen or rejected"
        if reason is None:
            good.append(row)
        else:
            bad.append(f"row {number}: {reason}")
        if spec.limit and len(good) >= spec.limit and part == "train" and not _needs_all(spec):
            break
    total = len(good) + len(bad)
    if total == 0:
        raise DataError(f"data {spec.label}: has no rows ({part})")
    if found is None or not good:
        raise DataError(
            f"data {spec.label}: no usable row of {total}; {bad[0]}; map its columns with `columns:`"
        )
    if found not in formats:
        raise DataError(
            f"data {spec.label}: rows have the format {found!r} ({', '.join(REQUIRED[found])}); "
            f"this stage takes {' or '.join(formats)}"
        )
    if len(bad) > spec.max_bad * total:
        raise DataError(
            f"data {spec.label}: {len(bad)} of {total} rows are bad, more than max_bad {spec.max_bad:g} allows; "
            f"{'; '.join(bad[:3])}"
        )
    return Rows(spec, good, found, len(bad), tuple(bad[:3]))


def _needs_all(spec: DataSpec) -> bool:
    return spec.validation is not None and spec.validation.fraction is not None


def _part(spec: DataSpec, part: str) -> Iterator[Row]:
    held_out = spec.validation
    if held_out is None or held_out.fraction is None:
        yield from _raw(spec, part)
        return
    # A share of the rows: every k-th one, so that a longer file keeps its split.
    every = max(2, round(1 / held_out.fraction))
    taken = 0
    limit = held_out.limit if part == "validation" else spec.limit
    for number, row in enumerate(_raw(spec, "train")):
        if (number % every == every - 1) == (part == "validation"):
            yield row
            taken += 1
            if limit and taken >= limit:
                return


def _raw(spec: DataSpec, part: str) -> Iterator[Row]:
    held_out = spec.validation if part == "validation" else None
    if spec.builder:
        from cpt.corpora import views

        view = held_out.view if held_out and held_out.view else spec.view
        rows = _read_json(views(spec.builder, spec.source) / f"{view}.jsonl")
    elif spec.is_local and not (held_out and held_out.split):
        rows = (row for file in spec.existing_files() for row in _read(file, spec))
    else:
        rows = _hub(spec, held_out.split if held_out and held_out.split else spec.split)
    for number, row in enumerate(rows):
        if held_out and number >= held_out.limit:
            return
        yield row


def _hub(spec: DataSpec, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    if spec.is_local:
        folder = str(spec.path if isinstance(spec.path, str) else Path(spec.path[0]).parent)  # type: ignore[index]
        return iter(load_dataset(folder, split=split))
    return iter(
        load_dataset(
            str(spec.path), spec.name, revision=spec.revision, split=split, streaming=spec.streaming
        )
    )


def _format_of(path: Path) -> str | None:
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


def _read(file: Path, spec: DataSpec) -> Iterator[Row]:
    kind = spec.format or _format_of(file)
    if kind == "json":
        yield from _read_json(file)
    elif kind == "parquet":
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    elif kind == "text":
        with _open(file) as stream:
            for paragraph in stream.read().split("\n\n"):
                if paragraph.strip():
                    yield {"text": paragraph.strip()}
    else:
        raise DataError(
            f"data: {file}: unknown file type; name it with format: json, parquet or text"
        )


def _open(file: Path) -> Any:
    return (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else file.open(encoding="utf-8")
    )


def _read_json(file: Path) -> Iterator[Row]:
    """JSON Lines, or one JSON list. A line that is no JSON object is a bad row, not an end."""
    try:
        with _open(file) as stream:
            start = stream.read(1)
            stream.seek(0)
            if start == "[":
                yield from json.load(stream)
                return
            for line in stream:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    row = {"__broken__": f"not JSON ({error.msg})"}
                yield row if isinstance(row, dict) else {"__broken__": "not a JSON object"}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"data: {file}: cannot be read: {error}") from None


def _fault(row: Row, kind: RowFormat) -> str | None:
    """Why a row cannot be trained on, or None."""
    if "__broken__" in row:
        return str(row["__broken__"])
    for column in REQUIRED[kind]:
        value = row.get(column)
        if value is None or value == "" or value == []:
            return f"{column} is missing or empty"
        if isinstance(value, list):
            reason = _message_fault(value)
            if reason:
                return f"{column}: {reason}"
        elif not isinstance(value, str):
            return f"{column} is a {type(value).__name__}, not text"
    if kind == "messages" and (
        not isinstance(row["messages"], list)
        or all(m["role"] != "assistant" for m in row["messages"])
    ):
        return "messages: no turn of the assistant"
    if kind == "text" and not str(row["text"]).strip():
        return "text is blank"
    return None


def _message_fault(messages: list[Any]) -> str | None:
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return "a turn has no role"
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            return "a turn has no content"
    return None


def as_dataset(rows: list[Row]) -> "Dataset":
    """Rows as an Arrow table with the columns that every row has."""
    from datasets import Dataset

    shared = set(rows[0]).intersection(*rows[1:])
    return Dataset.from_list([{key: row[key] for key in row if key in shared} for row in rows])
