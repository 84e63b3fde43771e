"""Text, questions and probes that every installation makes for itself, offline, always the same.

A builder turns a source into views, one JSONL file each. Views are built once into the cache.
"""

import functools
import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Protocol, cast

from cpt.corpora.shares import Row
from cpt.errors import DataError
from cpt.ids import cache_dir, fingerprint, short_hash
from cpt.settings import did_you_mean

BUILDERS: dict[str, str] = {
    "general": "cpt.corpora.general",
    "python_code": "cpt.corpora.python_code",
}
_DEFAULT_SOURCE: dict[str, str | None] = {"general": None, "python_code": "stdlib"}


class Builder(Protocol):
    """What the module of a builder offers."""

    VERSION: int
    VIEWS: tuple[str, ...]

    def sources(self, source: str | None) -> tuple[list[Path], Path]:
        """Files that the views are made from, and the folder that their names are relative to."""

    def build(self, source: str | None) -> dict[str, list[Row]]:
        """View name -> rows."""


def view_names(builder: str) -> tuple[str, ...]:
    """Names of a builder's views; builds nothing."""
    return _builder(builder).VIEWS


@functools.cache
def fingerprint_of(builder: str, source: str | None = None) -> str:
    """Hash of the builder's version and of the files it reads: equal hashes, equal views.

    Asked for once a process, so that a plan sees one state of the files.
    """
    module = _builder(builder)
    files, root = module.sources(_source(builder, source))
    return short_hash([builder, module.VERSION, fingerprint(files, root)], 16)


def views(builder: str, source: str | None = None) -> Path:
    """The folder with one `<view>.jsonl` per view, built when it is not in the cache.

    Two processes may build at once: each builds into its own folder, the first rename wins.

    Raises:
        DataError: no such builder, or a source that cannot be used.
    """
    # The code's own hash is in the folder's name, not in ids: editing a comment retrains nothing.
    here = Path(__file__).parent
    code = fingerprint(sorted(here.glob("*.py")), here)
    name = f"{builder}-{short_hash([fingerprint_of(builder, source), code], 16)}"
    folder = cache_dir() / "corpora" / name
    if folder.is_dir():
        return folder
    rows = _builder(builder).build(_source(builder, source))
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for view, items in rows.items():
            lines = "".join(json.dumps(item, ensure_ascii=True) + "\n" for item in items)
            (partial / f"{view}.jsonl").write_text(lines, encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise DataError(f"builder {builder}: cannot write {partial}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _builder(name: str) -> Builder:
    if name not in BUILDERS:
        raise DataError(f"there is no builder {name!r}{did_you_mean(name, BUILDERS)}")
    return cast(Builder, importlib.import_module(BUILDERS[name]))


def _source(builder: str, source: str | None) -> str | None:
    default = _DEFAULT_SOURCE[builder]
    if default is None and source is not None:
        raise DataError(f"builder {builder} takes no source, not {source!r}")
    return source or default
