"""Content addresses: canonical JSON -> short hash, and file fingerprints that cost a `stat`."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and one spelling per number: 1, 1.0 and 1e0 are the same text."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {str(key): plain(item[key]) for key in item}
        if isinstance(item, list | tuple):
            return [plain(part) for part in item]
        if isinstance(item, set | frozenset):
            return sorted(plain(part) for part in item)
        if isinstance(item, Path):
            return str(item)
        if isinstance(item, float) and math.isfinite(item) and item.is_integer():
            return int(item)
        return item

    return json.dumps(plain(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def short_hash(value: Any, length: int = 8) -> str:
    """First `length` hex digits of the sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def cache_dir() -> Path:
    """Folder for derived files that outlive a run: `$CPT_CACHE`, else `~/.cache/cpt`."""
    root = os.environ.get("CPT_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cpt"
    )
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_file(path: Path) -> str:
    """Sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: list[Path], root: Path | None = None) -> str:
    """Sha256 over names (relative to `root`) and contents of files, cached by their `stat`.

    The cache key is (path, inode, size, mtime, ctime), so a second call reads no file. No program can set a
    ctime: a file that was changed and given its old time back (rsync -t, cp -p) is read again.
    """
    entries = []
    for path in sorted(paths):
        status = path.stat()
        looks = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entries.append([os.path.abspath(path), *looks])
    key = hashlib.sha256(canonical(entries).encode()).hexdigest()
    known = cache_dir() / "fingerprints" / key
    if known.is_file() and (text := known.read_text()):
        return text
    digest = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(root) if root else path.name
        digest.update(f"{name}\0{sha256_file(path)}\n".encode())
    known.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(known, digest.hexdigest())
    return digest.hexdigest()


def atomic_write(path: Path, text: str) -> None:
    """Write a text file so that readers see the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines, or two containers, on one file system may have a process of the same number.
    own = f"{os.getpid()}-{os.urandom(4).hex()}"
    partial = path.with_name(f".{path.name}.{own}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
