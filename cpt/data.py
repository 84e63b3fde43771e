"""Data configs -> rows. Bad rows are counted, reported, and refused beyond a limit."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

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
    as_chat: bool = Field(default=False, description="make a text prompt the user's turn")
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
        self._refuse_unused()
        if self.builder:
            from cpt.corpora import BUILDERS, view_names

            if self.builder not in BUILDERS:
                raise ValueError(
                    f"builder: no {self.builder!r}{did_you_mean(self.builder, BUILDERS)}"
                )
            views = [self.view] + ([self.validation.view] if self.validation else [])
            for view in views:
                if view is not None and view not in view_names(self.builder):
                    hint = did_you_mean(view, view_names(self.builder))
                    raise ValueError(f"view: {self.builder} has no {view!r}{hint}")
            if self.view is None:
                raise ValueError(f"view is missing{did_you_mean('', view_names(self.builder))}")
        elif not self.revision and not self.is_local:
            raise ValueError(
                f"path {self.path!r} is a hub data set; name its revision, so that ids need no "
                f"network (a folder here is written ./{self.path})"
            )
        return self

    def _refuse_unused(self) -> None:
        """What has no effect on this kind of data is a mistake, not a wish."""
        kind = "a builder" if self.builder else "local files" if self.is_local else "a hub data set"
        unused = {
            "a builder": ("name", "revision", "split", "streaming", "format"),
            "local files": ("name", "revision", "split", "streaming", "source", "view"),
            "a hub data set": ("format", "source", "view"),
        }
        for key in unused[kind]:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: has no meaning for {kind}; remove it")
        if self.validation is not None:
            wrong = {"a builder": "split", "local files": "split view", "a hub data set": "view"}
            for key in wrong[kind].split():
                if getattr(self.validation, key) is not None:
                    instead = "view or fraction" if self.builder else "fraction"
                    instead = instead if kind != "a hub data set" else "split or fraction"
                    raise ValueError(f"validation.{key}: {kind} has no {key}s; name {instead}")

    @property
    def is_local(self) -> bool:
        """Whether `path` names local files rather than a hub data set."""
        return isinstance(self.path, list) or (self.path or "").startswith(("/", "~", "."))

    @property
    def files(self) -> list[Path]:
        """The local files that `path` names; globs and folders are followed."""
        if not self.is_local:
            return []
        return [file for name in self._names for file in _local_files(name)]

    @property
    def _names(self) -> list[str]:
        return self.path if isinstance(self.path, list) else [str(self.path)]

    @property
    def label(self) -> str:
        """A short name for plans and logs, the same wherever the files lie."""
        if self.builder:
            of = f"({Path(self.source).name})" if self.source else ""
            return f"{self.builder}{of}.{self.view}"
        first = Path(self._names[0]).name if self.is_local else str(self.path)
        more = len(self._names) - 1
        return f"{first} and {more} more" if more else first

    def content(self) -> dict[str, Any]:
        """What enters the content address of a stage that uses these rows.

        Raises:
            DataError: the files or the builder's source are missing.
        """
        keep = {
            "view",
            "name",
            "split",
            "format",
            "columns",
            "limit",
            "validation",
            "streaming",
            "weight",
            "max_bad",
            "as_chat",
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
        """`files`, of which each name must give one at least.

        Raises:
            DataError: nothing is there.
        """
        for name in self._names:
            if not _local_files(name):
                what = "no data files in this folder" if Path(name).is_dir() else "no such file"
                raise DataError(f"data: {name}: {what}{nearest_file(Path(name))}")
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
    order: tuple[RowFormat, ...] = ("preference", "messages", "prompt", "text")
    for name in order:
        if all(column in row for column in REQUIRED[name]):
            return name
    return None


def load_rows(
    spec: DataSpec,
    formats: tuple[RowFormat, ...],
    part: Literal["train", "validation"] = "train",
    most_characters: int | None = None,
) -> Rows:
    """Read the rows of one part of a data set.

    Args:
        spec: the data set.
        formats: what the stage can train on.
        part: training rows or the held-out ones.
        most_characters: end a streamed data set once its texts are so long.

    Raises:
        DataError: missing or empty data, a format that the stage does not take, too many bad rows.
    """
    good: list[Row] = []
    bad: list[str] = []
    found: RowFormat | None = None
    characters = 0
    seen: dict[str, None] = {}
    limit = spec.limit if part == "train" else spec.validation and spec.validation.limit
    for number, raw in _part(spec, part):
        seen |= dict.fromkeys(raw)
        row = {key: value for key, value in raw.items() if key not in spec.columns.values()}
        row |= {ours: raw.get(theirs) for ours, theirs in spec.columns.items()}
        row = _conversational(row, spec.as_chat)
        found = found or format_of(row)
        reason = _fault(row, found)
        if reason is None:
            good.append(row)
            characters += len(str(row[REQUIRED[found or "text"][0]]))
        else:
            bad.append(f"row {number}: {reason}")
        if limit and len(good) >= limit:
            break
        if spec.streaming and most_characters is not None and characters >= most_characters:
            break
    total = len(good) + len(bad)
    if total == 0:
        raise DataError(f"data {spec.label}: has no rows ({part})")
    if found is None or not good:
        columns = ", ".join(map(repr, seen.keys() - {_BROKEN})) or "none"
        raise DataError(
            f"data {spec.label}: no usable row of {total}; {bad[0]}; its columns are {columns}; "
            f"map them with columns: {{ours: theirs}}"
        )
    if found not in formats:
        raise DataError(
            f"data {spec.label}: rows have the format {found!r} ({', '.join(REQUIRED[found])}); "
            f"this stage takes {' or '.join(formats)}"
        )
    if len(bad) > spec.max_bad * total:
        raise DataError(
            f"data {spec.label}: {len(bad)} of {total} rows are bad, more than max_bad "
            f"{spec.max_bad:g} allows; {'; '.join(bad[:3])}"
        )
    return Rows(spec, good, found, len(bad), tuple(bad[:3]))


def _conversational(row: Row, as_chat: bool) -> Row:
    """Bring pairs of whole conversations into TRL's explicit form, and text prompts into a chat's.

    Pairs as UltraFeedback has them hold the prompt in both conversations and, besides, as text.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if (
        isinstance(chosen, list)
        and isinstance(rejected, list)
        and all(len(conversation) > 1 for conversation in (chosen, rejected))
        and chosen[:-1] == rejected[:-1]
    ):
        row = {**row, "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    if as_chat and isinstance(row.get("prompt"), str):
        row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        for name in ("chosen", "rejected"):
            if isinstance(row.get(name), str):
                row[name] = [{"role": "assistant", "content": row[name]}]
    return row


def _part(spec: DataSpec, part: str) -> Iterator[tuple[int, Row]]:
    """(row number from 1, row) of one part."""
    held_out = spec.validation
    rows = enumerate(_raw(spec, part), start=1)
    if held_out is None or held_out.fraction is None:
        return rows
    # A share of the rows: every k-th one, so that a longer file keeps its split.
    every = max(2, round(1 / held_out.fraction))
    wanted = part == "validation"
    return ((number, row) for number, row in rows if (number % every == 0) == wanted)


def _raw(spec: DataSpec, part: str) -> Iterator[Row]:
    held_out = spec.validation if part == "validation" else None
    if spec.builder:
        from cpt.corpora import views

        view = held_out.view if held_out and held_out.view else spec.view
        return _read_json(views(spec.builder, spec.source) / f"{view}.jsonl")
    if spec.is_local:
        return (row for file in spec.existing_files() for row in _read(file, spec))
    return _hub(spec, held_out.split if held_out and held_out.split else spec.split)


def _hub(spec: DataSpec, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        yield from load_dataset(
            str(spec.path), spec.name, revision=spec.revision, split=split, streaming=spec.streaming
        )
    except (OSError, ValueError) as error:  # no network, no such data set, no such split
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"data {spec.label}: cannot be read from the hub: {first}") from error


def _local_files(name: str) -> list[Path]:
    """The files that a path, a folder or a glob names."""
    path = Path(name)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file() and _format_of(p))
    if path.is_file():
        return [path]
    return sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())


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


#: The only column of a row that could not be read; it says why.
_BROKEN = "__broken__"


def _read(file: Path, spec: DataSpec) -> Iterator[Row]:
    kind = spec.format or _format_of(file)
    if kind == "json":
        return _read_json(file)
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
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8-sig") as stream:
                yield stream
        else:
            with file.open(encoding="utf-8-sig") as stream:
                yield stream
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"data: {file}: cannot be read: {error}") from None


def _read_json(file: Path) -> Iterator[Row]:
    """JSON Lines, or one JSON list. What is no JSON object is a bad row, not an end."""
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
                try:
                    yield _object(json.loads(line))
                except json.JSONDecodeError as error:
                    yield {_BROKEN: f"not JSON ({error.msg})"}


def _object(item: Any) -> Row:
    return item if isinstance(item, dict) else {_BROKEN: "not a JSON object"}


def _fault(row: Row, kind: RowFormat | None) -> str | None:
    """Why a row cannot be trained on, or None."""
    if _BROKEN in row:
        return str(row[_BROKEN])
    if kind is None:
        return "no text, messages, prompt, chosen or rejected"
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
        if isinstance(value, list) != isinstance(row[REQUIRED[kind][0]], list):
            return f"{REQUIRED[kind][0]} and {column} are not both text or both chats"
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
