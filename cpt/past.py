"""What a stage may recall of the stages before it: a pure function of their artifacts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cpt import ids, manifest
from cpt.checkpoint import fingerprint
from cpt.errors import HookError, StoreError
from cpt.settings import did_you_mean

EXEMPLARS = "exemplars.jsonl"
NUM_EXEMPLARS = 1000


@dataclass(frozen=True)
class PastStage:
    """One earlier stage. A bare checkpoint or hub id is one too, called base, with no rows."""

    name: str
    id: str
    kind: str
    folder: Path | None
    checkpoint: str

    @property
    def adapter(self) -> Path | None:
        """Folder of the stage's adapter, if it trained one."""
        folder = self.folder / "adapter" if self.folder else None
        return folder if folder and folder.is_dir() else None

    @property
    def identity(self) -> list[Any]:
        """What its weights and rows are, to the bit where it is a stage of ours or a local folder."""
        if self.folder is None:
            place = Path(self.checkpoint)
            # What lies in a folder can change under its name.
            return [fingerprint(place) if place.is_dir() else self.checkpoint]
        entry = manifest.read(self.folder)
        file = self.folder / EXEMPLARS
        return [self.id, entry.files, ids.sha256_file(file) if file.is_file() else ""]

    def memory(self, key: str) -> Path | None:
        """What a hook of the stage kept for later ones."""
        folder = self.folder / "memory" / key if self.folder else None
        return folder if folder and folder.is_dir() else None

    @property
    def num_seen(self) -> int:
        """Different rows of its own data that it trained on, of which the exemplars are a sample."""
        if self.folder is None:
            return 0
        return sum(
            entry.get("seen_rows", round(min(1.0, entry["epochs"]) * entry["rows"]))
            for entry in manifest.read(self.folder).data
            if not entry["replayed"]
        )

    def rows(self, most: int | None = None) -> list[dict[str, Any]]:
        """The stage's exemplars: a uniform sample of the rows that it trained on; the first `most` of them.

        Raises:
            StoreError: the file is damaged.
        """
        file = self.folder / EXEMPLARS if self.folder else None
        if file is None or not file.is_file():
            return []
        try:
            with file.open(encoding="utf-8") as lines:
                return [json.loads(line) for line in islice(lines, most)]
        except ValueError as error:
            raise StoreError(
                f"{file}: is damaged ({error}); move {file.parent} away and run again"
            ) from None


@dataclass(frozen=True)
class Past:
    """The stages before, oldest first; `past[0]` is the base model."""

    stages: tuple[PastStage, ...]

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[PastStage]:
        return iter(self.stages)

    def __getitem__(self, index: int) -> PastStage:
        return self.stages[index]

    def select(self, of: str | Sequence[str]) -> tuple[PastStage, ...]:
        """The stages that `of` names, each once: `previous`, `base`, `all` but the base, or names.

        Raises:
            HookError: no such stage.
        """
        if of == "all":
            return tuple(stage for stage in self.stages if stage.kind != "base") or self.stages
        chosen = []
        for name in [of] if isinstance(of, str) else of:
            if name == "previous":
                chosen.append(self.stages[-1])
                continue
            matches = [stage for stage in self.stages if stage.name == name]
            if not matches:
                hint = did_you_mean(name, [stage.name for stage in self.stages])
                raise HookError(f"of: no earlier stage {name!r}{hint}")
            chosen.append(matches[-1])
        return tuple(dict.fromkeys(chosen))


def of_folder(folder: Path) -> Past:
    """The past of a stage whose parent is in `folder`: the parent's ancestors and the parent.

    A folder without a manifest, such as a downloaded checkpoint, is a past of one.
    """
    if not (folder / "manifest.json").is_file():
        return of_checkpoint(str(folder))
    entry = manifest.read(folder)
    stages = []
    for ancestor in entry.past:
        place = (folder / ancestor.folder).resolve()
        stages.append(
            PastStage(ancestor.name, ancestor.id, ancestor.kind, place, str(place / "checkpoint"))
        )
    stages.append(PastStage(entry.name, entry.id, entry.kind, folder, str(folder / "checkpoint")))
    return Past(tuple(stages))


def union(pasts: Sequence[Past]) -> Past:
    """The stages of several pasts, each once and after its own ancestors; the last past's last stage
    is last."""
    stages = {stage.id: stage for past in pasts for stage in past}
    return Past(tuple(stages.values()))


def of_checkpoint(name: str) -> Past:
    """A past of one: a checkpoint folder or a hub id."""
    folder = Path(name)
    if folder.name == "checkpoint" and (folder.parent / "manifest.json").is_file():
        return of_folder(folder.parent)
    return Past((PastStage("base", name, "base", None, name),))
