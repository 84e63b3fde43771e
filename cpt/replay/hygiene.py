"""Rows that are in the data twice, or that a probe asks for.

Words are runs of letters and digits of the text in NFKC and without case; two texts are the same when their
words are, whatever stands between them.
"""

import hashlib
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cpt.replay.disk_table import DiskTable
from cpt.replay.near_index import NearIndex
from cpt.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Of one n-gram that a row and a probe share: as in GPT-3 (Brown et al. 2020, arXiv:2005.14165, app. C).
NGRAM = 13
#: Shorter texts of probes, such as the answer "yes", tell nothing when a row holds them too.
FEWEST_WORDS = 5
SHINGLE = 5
SIMILARITY = 0.8
#: 128 permutations in 16 bands of 8: a pair of similarity 0.8 is missed with probability 0.05, one of 0.9
#: with 8e-5; a pair of 0.5 becomes a candidate with 0.06, which the true similarity then refuses.
BANDS, ROWS_OF_A_BAND = 16, 8
_PRIME = (1 << 61) - 1

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Its words, normalised."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def texts_of(row: Row) -> list[str]:
    """The texts that a row trains on: what each turn says, prompt, answers, or the text itself."""
    found: list[str] = []
    for column in ("text", "messages", "prompt", "completion", "chosen", "rejected"):
        value = row.get(column)
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            found += [str(turn.get("content") or "") for turn in value if isinstance(turn, dict)]
    return found


def words_of(row: Row) -> list[list[str]]:
    """The words of each of its texts."""
    return [words(text) for text in texts_of(row)]


class Duplicates:
    """Tells whether a row was seen before, in this source or an earlier one.

    The similarity of two rows is the Jaccard index of their sets of 5 words in a row. Candidates come from
    MinHash in bands and are verified: a row is a near duplicate when its true similarity to an earlier one
    is at least 0.8. What is remembered lies on disk: 27 to 53 bytes a row; for near ones also some 600, and 8
    a word, with 8 bytes of memory a row.

    Args:
        near: also near ones.
        folder: where that lies, without a name; the system's place for such files unless said.

    Source: Broder 1997, doi:10.1109/SEQUEN.1997.666900; bands as in Leskovec et al., Mining of Massive
    Datasets, 3.4; `methods.md` B05.
    """

    def __init__(self, near: bool, folder: Path | None = None) -> None:
        self._seen = DiskTable(16, folder=folder)
        self._near = NearIndex(BANDS, folder) if near else None

    def kind_of(self, row: Row) -> str | None:
        """`exact`, `near`, or None for a row that is new, which is then known."""
        return self.kind_of_words(words_of(row))

    def kind_of_words(self, found: Sequence[Sequence[str]]) -> str | None:
        """As `kind_of`, for the words of a row's texts."""
        text = " \0 ".join(map(" ".join, found))
        key = _digest(text)
        if key in self._seen:
            return "exact"
        if self._near is not None and self._is_near(self._near, text.replace("\0", " ").split()):
            return "near"
        self._seen.put(key)
        return None

    @staticmethod
    def _is_near(index: NearIndex, found: Sequence[str]) -> bool:
        import numpy as np

        shingles = np.unique(np.fromiter(_hashes(found, min(SHINGLE, len(found))), np.uint64))
        if not len(shingles):
            return False
        bands = _bands(shingles)
        for other in map(index.shingles, index.candidates(bands)):
            both = len(np.intersect1d(shingles, other, assume_unique=True))
            if both >= SIMILARITY * (len(shingles) + len(other) - both):
                return True
        index.add(bands, shingles)
        return False


class ProbeItems:
    """The texts that probes ask or score, as hashes: of their n-grams of 13 words, and of short ones whole.

    A row holds an item when it shares an n-gram with one, or when one of its texts is a short item, word for
    word. Shorter items than 5 words are not looked for, nor short ones within longer rows.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._ngrams: set[int] = set()
        self._ends: set[tuple[str, str]] = (
            set()
        )  # their first and last words: few others are hashed
        self._short: set[bytes] = set()
        for text in texts:
            found = words(text)
            if len(found) >= NGRAM:
                self._ngrams.update(_hashes(found, NGRAM))
                self._ends.update(zip(found, found[NGRAM - 1 :], strict=False))
            elif len(found) >= FEWEST_WORDS:
                self._short.add(_digest(" ".join(found)))

    def __len__(self) -> int:
        return len(self._ngrams) + len(self._short)

    def are_in(self, row: Row) -> bool:
        """Whether a row holds one."""
        return self.are_in_words(words_of(row))

    def are_in_words(self, texts: Iterable[Sequence[str]]) -> bool:
        """As `are_in`, for the words of a row's texts."""
        for found in texts:
            if FEWEST_WORDS <= len(found) < NGRAM and _digest(" ".join(found)) in self._short:
                return True
            for start, ends in enumerate(zip(found, found[NGRAM - 1 :], strict=False)):
                if ends in self._ends:
                    (gram,) = _hashes(found[start : start + NGRAM], NGRAM)
                    if gram in self._ngrams:
                        return True
        return False


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _hashes(found: Sequence[str], length: int) -> Iterator[int]:
    """64-bit hashes of every `length` words in a row; the same in every process."""
    for start in range(len(found) - length + 1):
        gram = " ".join(found[start : start + length]).encode()
        yield int.from_bytes(hashlib.blake2b(gram, digest_size=8).digest(), "little")


def _bands(shingles: "NDArray[np.uint64]") -> list[bytes]:
    """MinHash of a set [S], in bands: the least of (a * x + b) mod p over it, for 128 pairs (a, b)."""
    import numpy as np

    a, b = _permutations()
    low = shingles & np.uint64(0xFFFFFFFF)  # a * x then stays below 2^63
    least = np.full(len(a), _PRIME, dtype=np.uint64)
    for start in range(0, len(low), 4096):
        values = (a[:, None] * low[None, start : start + 4096] + b[:, None]) % np.uint64(_PRIME)
        np.minimum(least, values.min(1), out=least)
    return [band.tobytes() for band in least.reshape(BANDS, ROWS_OF_A_BAND)]


@cache
def _permutations() -> "tuple[NDArray[np.uint64], NDArray[np.uint64]]":
    import numpy as np

    draw = random.Random("minhash")
    number = BANDS * ROWS_OF_A_BAND
    a = [draw.randrange(1, 1 << 31) for _ in range(number)]
    b = [draw.randrange(_PRIME) for _ in range(number)]
    return np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64)
