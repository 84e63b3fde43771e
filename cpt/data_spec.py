"""Data configs: where rows are, which columns they have, how much of them is taken."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cpt import ids
from cpt.errors import DataError
from cpt.files import local_files
from cpt.settings import Revision, Settings, did_you_mean
from cpt.yaml12 import nearest_file

MAX_BAD = 0.01  # share of bad rows that is tolerated where nothing else is said


class Validation(Settings):
    """Where the held-out rows are: another split or view, or a share of the rows."""

    split: str | None = None
    view: str | None = None
    fraction: float | None = Field(default=None, gt=0, le=0.5)
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
    revision: Revision | None = Field(
        default=None, description="commit of a hub data set; needed for its id"
    )
    split: str = "train"
    format: Literal["json", "parquet", "text"] | None = None
    columns: dict[str, str] = Field(default_factory=dict, description="our column: theirs")
    as_chat: bool = Field(default=False, description="make a text prompt the user's turn")
    limit: int | None = Field(default=None, ge=1)
    validation: Validation | None = None
    streaming: bool = Field(
        default=False, description="read no more of a hub data set than the stage needs"
    )
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_bad: float = Field(
        default=MAX_BAD, ge=0, le=1, description="share of bad rows that is tolerated"
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
            for view in views:
                if view is not None and view.startswith("probe_"):
                    raise ValueError(f"view: {view!r} holds the items of a probe; train on another")
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
        return [file for name in self._names for file in local_files(name)]

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

        What only measures or refuses does not: of `validation` only a fraction takes rows from training.

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
            "streaming",
            "weight",
            "as_chat",
        }
        inputs: dict[str, Any] = self.model_dump(include=keep, exclude_none=True)
        if self.validation and self.validation.fraction is not None:
            inputs["held_out"] = self.validation.fraction
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
            if not local_files(name):
                what = "no data files in this folder" if Path(name).is_dir() else "no such file"
                raise DataError(f"data: {name}: {what}{nearest_file(Path(name))}")
        return self.files
