"""Duplicates told from memory alone: the verdicts that the tables on disk must repeat."""

from typing import Any

from cpt.replay.hygiene import SHINGLE, SIMILARITY, _bands, _digest, _hashes, texts_of, words


class InMemory:
    """A set of digests, a dict of bands, a list of shingles."""

    def __init__(self, near: bool) -> None:
        self.near = near
        self._seen: set[bytes] = set()
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._shingles: list[Any] = []

    def kind_of(self, row: dict[str, Any]) -> str | None:
        text = " \0 ".join(" ".join(words(part)) for part in texts_of(row))
        key = _digest(text)
        if key in self._seen:
            return "exact"
        if self.near and self._is_near(text.replace("\0", " ").split()):
            return "near"
        self._seen.add(key)
        return None

    def _is_near(self, found: list[str]) -> bool:
        import numpy as np

        shingles = np.unique(np.fromiter(_hashes(found, min(SHINGLE, len(found))), np.uint64))
        if not len(shingles):
            return False
        keys = list(enumerate(_bands(shingles)))
        for other in {other for key in keys for other in self._bands.get(key, ())}:
            both = len(np.intersect1d(shingles, self._shingles[other], assume_unique=True))
            if both >= SIMILARITY * (len(shingles) + len(self._shingles[other]) - both):
                return True
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)
        return False
