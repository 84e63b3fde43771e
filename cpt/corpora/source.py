"""Where Python code comes from: the standard library, an installed package, or a folder.

The files are split into train, validation and probe by the hash of their relative path, so that no
function of a probe's module is ever trained on, and adding a file moves few others.
"""

import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import DataError

# Folders that hold tests, other people's code, or tables rather than code.
_SKIPPED = (
    "__pycache__ _bundled dist-packages encodings idlelib lib-dynload lib2to3 node_modules "
    "pydoc_data site-packages test tests turtledemo venv"
)
_PROBE_SHARE = 0.12
_SMALL, _SMALL_PROBE_SHARE = 1_500_000, 0.3  # below so many bytes the probes need more
_VALIDATION_SHARE = 0.05
_FEWEST_FILES = 4


@dataclass(frozen=True)
class Source:
    """Python files below one root."""

    name: str
    root: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Split:
    """Files of a source by use; the three share none."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    probe: tuple[Path, ...]


def find(name: str) -> Source:
    """Find the Python files that `name` means: `stdlib`, an installed package, or a folder.

    Raises:
        DataError: nothing of that name, or too few Python files to split.
    """
    if name == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
    elif _is_path(name):
        root = Path(name).expanduser()
        if not root.is_dir():
            what = "is a file" if root.exists() else "no such folder"
            raise DataError(f"source {name!r}: {what}; name a folder of Python files")
        root = root.resolve()
    else:
        root = _package(name)
    files = tuple(_python_files(root))
    if len(files) < _FEWEST_FILES:
        raise DataError(
            f"source {name!r}: {len(files)} Python files in {root}, and training, validation and "
            f"probes need different ones; name a source with at least {_FEWEST_FILES}"
        )
    return Source(name, root, files)


def split(source: Source) -> Split:
    """Share out the files by the order of their hashes: probe, then validation, then train."""
    weights = {path: path.stat().st_size for path in source.files}
    total = sum(weights.values())
    parts: dict[str, list[Path]] = {"probe": [], "validation": [], "train": []}
    shares = {
        "probe": _PROBE_SHARE if total > _SMALL else _SMALL_PROBE_SHARE,
        "validation": _VALIDATION_SHARE,
    }
    used = dict.fromkeys(shares, 0)
    for path in sorted(source.files, key=lambda path: _hash(path.relative_to(source.root))):
        part = next(
            (
                name
                for name, share in shares.items()
                if not parts[name] or used[name] + weights[path] <= share * total
            ),
            "train",
        )
        parts[part].append(path)
        if part in used:
            used[part] += weights[path]
    return Split(**{name: tuple(paths) for name, paths in parts.items()})


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or "/" in name or os.sep in name


def _package(name: str) -> Path:
    """The folder of an installed package or subpackage; imports nothing."""
    top, _, inner = name.partition(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None:
        if Path(name).is_dir():
            return Path(name).resolve()
        raise DataError(f"source {name!r}: no installed package or folder{_suggestion(name)}")
    if not spec.submodule_search_locations:
        raise DataError(
            f"source {name!r}: a single module, not a package of several files; "
            f"name a package, a folder, or stdlib"
        )
    root = Path(next(iter(spec.submodule_search_locations)), *inner.split(".") if inner else ())
    if not root.is_dir():
        raise DataError(f"source {name!r}: {top} has no package {inner!r}")
    return root


def _suggestion(name: str) -> str:
    """The import name of a distribution called `name`, else the most similar import name."""
    imports = importlib.metadata.packages_distributions()
    for package, distributions in sorted(imports.items(), reverse=True):
        if name.lower() in {distribution.lower() for distribution in distributions}:
            return f"; {name} installs the package {package!r}, use that name"
    close = difflib.get_close_matches(name, [*imports, "stdlib"], n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else "; use stdlib, a package or a folder"


def _python_files(root: Path) -> list[Path]:
    found: list[Path] = []
    skipped = frozenset(_SKIPPED.split())
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in skipped and not name.startswith((".", "config-"))
        )
        found += [
            Path(folder, name)
            for name in sorted(names)
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return found


def _hash(path: Path) -> str:
    # The forms of the questions were chosen on the files that another salt keeps for probes.
    return hashlib.sha256(f"split 2\0{path.as_posix()}".encode()).hexdigest()
