"""Stage folders by content. A folder that is not finished says so in its name; publishing is one rename."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.checkpoint import sync
from cpt.errors import StoreError
from cpt.lock_owner import Owner, read_owner
from cpt.locks import locked
from cpt.removed_weights import removed_weights


class Store:
    """`runs/`: `stages/<id>`, `chains/<name>`, `cache/`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def stages(self) -> Path:
        """Folder of all stages."""
        return self.root / "stages"

    @property
    def cache(self) -> Path:
        """Derived files, safe to delete."""
        return self.root / "cache"

    def stage(self, stage_id: str) -> Path:
        """Folder of a finished stage."""
        return self.stages / stage_id

    def partial(self, stage_id: str) -> Path:
        """Folder of a stage under way."""
        return self.stages / f"{stage_id}.partial"

    def is_done(self, stage_id: str) -> bool:
        """Whether the stage was published."""
        return (self.stage(stage_id) / "manifest.json").is_file()

    def chain(self, name: str) -> Path:
        """Folder of a chain's report and links."""
        return self.root / "chains" / name

    def status(self, stage_id: str) -> str:
        """done (with or without weights), interrupted at step N, interrupted, or to do; for people."""
        if self.is_done(stage_id):
            return "done, without weights" if removed_weights(self.stage(stage_id)) else "done"
        partial = self.partial(stage_id)
        if not partial.is_dir():
            return "to do"
        if (partial / "trained").is_dir() or (partial / "checkpoint").is_dir():
            return "trained, to be published"
        steps = [step for step, _ in complete_checkpoints(partial / "trainer")]
        return f"interrupted at step {max(steps)}" if steps else "interrupted"

    def publish(self, stage_id: str) -> Path:
        """See `publish`."""
        return publish(self.partial(stage_id), self.stage(stage_id))

    @contextmanager
    def lock(self, stage_id: str, waiting: Callable[[str], None]) -> Iterator[int]:
        """Hold a stage for this process; a second run of the same stage waits here.

        Args:
            stage_id: which stage.
            waiting: told whom it waits for; see `cpt.locks.locked`.

        Yields: the lock's descriptor; a child that inherits it holds the lock too.
        """
        with locked(self._lock(stage_id), stage_id, waiting) as descriptor:
            yield descriptor

    def holder(self, stage_id: str) -> Owner | None:
        """Who says that it makes a stage now, and has not ended as far as one can tell."""
        owner = read_owner(self._lock(stage_id))
        return None if owner is None or owner.has_ended else owner

    def holders(self) -> dict[str, Owner]:
        """Stage (or `chain-<name>`) -> who holds its lock now, but for this process itself."""
        found = {}
        for file in sorted((self.root / "locks").glob("*.owner")):
            owner = self.holder(name := file.name.removesuffix(".owner"))
            if owner is not None and not owner.is_this_process:
                found[name] = owner
        return found

    def _lock(self, stage_id: str) -> Path:
        return self.root / "locks" / stage_id

    @contextmanager
    def chain_lock(self, name: str) -> Iterator[None]:
        """Hold a chain's links and report for this process; two runs write them one after the other."""
        with locked(self._lock(f"chain-{name}"), name, lambda text: None):
            yield

    def link_chain(
        self, name: str, nodes: list[dict[str, Any]], description: dict[str, Any]
    ) -> Path:
        """Write `chain.json`, which the code reads, and numbered links to the stages, which people read.

        The caller holds `chain_lock`.
        """
        folder = self.chain(name)
        folder.mkdir(parents=True, exist_ok=True)
        ids.atomic_write(
            folder / "chain.json", json.dumps({**description, "nodes": nodes}, indent=1) + "\n"
        )
        wanted = {
            label: Path("..", "..", "stages", node["id"])
            for label, node in zip(labels(nodes), nodes, strict=True)
            if self.is_done(node["id"])
        }
        for link in folder.iterdir():
            if link.is_symlink() and (
                wanted.get(link.name) is None or Path(os.readlink(link)) != wanted[link.name]
            ):
                link.unlink()
        for label, target in wanted.items():
            if not (folder / label).is_symlink():
                (folder / label).symlink_to(target, target_is_directory=True)
        return folder


def labels(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of a chain's links: `0-base`, `1-sft`, `1-sft.repair`, `2-dpo`.

    What a gate made has the number of the stage that it stands for: the numbers of later ones stay.
    """
    found, number = [], -1
    for node in nodes:
        number += not node.get("stands_for")
        found.append(f"{number}-{node['name']}")
    return found


def publish(partial: Path, final: Path) -> Path:
    """Rename a finished partial folder to its final name; a broken one of that name is moved aside.

    All that it holds is on disk before it has that name.

    Raises:
        StoreError: the partial folder has no manifest.
    """
    if not (partial / "manifest.json").is_file():
        raise StoreError(f"{partial}: has no manifest.json yet")
    sync(partial)
    if final.is_dir() and any(final.iterdir()):
        final.rename(final.with_name(f"{final.name}.broken-{time.time_ns()}"))
    partial.rename(final)
    sync_folder(final.parent)
    return final


MARK = "COMPLETE"
#: Of the trainer: the newest, and one more should that be damaged.
KEPT_CHECKPOINTS = 2


def mark_complete(folder: Path) -> None:
    """Mark a trainer's checkpoint as whole, once all that the mark vouches for is on disk.

    The mark holds size and sha256 of every file. They are read back while the disk is still at work on them:
    from memory, and on other cores.
    """
    files = _files(folder)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda name: ids.sha256_file(folder / name), files)
        sync(folder)
        mark = {name: [files[name], digest] for name, digest in zip(files, digests, strict=True)}
    ids.atomic_write(folder / MARK, json.dumps(mark))
    sync_folder(folder)
    sync_folder(folder.parent)


def damaged_files(checkpoint: Path) -> list[Path]:
    """Files of a marked trainer checkpoint whose bytes are not those that the mark vouches for.

    Marks of earlier versions hold sizes only.
    """
    try:
        marked = dict(json.loads((checkpoint / MARK).read_text() or "{}").items())
        return [checkpoint / name for name in marked if not _is_as_marked(checkpoint, name, marked)]
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return [checkpoint / MARK]


def _is_as_marked(checkpoint: Path, name: str, marked: Mapping[str, Any]) -> bool:
    path, size, digest = checkpoint / name, _size(marked[name]), marked[name]
    if not path.is_file() or path.stat().st_size != size:
        return False
    return isinstance(digest, int) or ids.sha256_file(path) == digest[1]


def _size(entry: Any) -> int:
    """A file's size in a mark: a number, or of late the first of two."""
    return int(entry if isinstance(entry, int) else entry[0])


def complete_checkpoints(trainer: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the trainer's checkpoints that bear our mark, oldest first.

    transformers writes a checkpoint in place, file by file; only the mark says that all of it is there. One
    that has lost files or parts of them since is not among them.
    """
    found = []
    for folder in trainer.glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if step.isdigit() and (folder / MARK).is_file() and _is_whole(folder):
            found.append((int(step), folder))
    return sorted(found)


def _files(folder: Path) -> dict[str, int]:
    """Name -> size of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_whole(folder: Path) -> bool:
    """Whether every file has the size that the mark holds; see `damaged_files` for its bytes."""
    try:
        marked = json.loads((folder / MARK).read_text() or "{}")  # empty: an earlier version's
        found = _files(folder)
        return all(found.get(name) == _size(entry) for name, entry in marked.items())
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return False  # removed meanwhile by the run that it belongs to, or damaged


def sync_folder(folder: Path) -> None:
    """Make names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, safe from a power cut, when the block ends well."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    sync(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_folder(folder.parent)
