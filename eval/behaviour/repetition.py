"""How much an answer repeats itself.

Units are words, and single characters in scripts that are written without spaces.
Source: methods card P083; rep-n: Welleck et al. 2020, arXiv:1908.04319; distinct-n: Li et al. 2016,
arXiv:1510.03055, per answer here (they take all answers together, which grows with their number).
"""

import re
from collections import Counter

#: Kana, Han and Thai letters stand alone; other letters and digits make words.
_UNIT = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|[^\\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]+(?:['\u2019][^\\W_]+)*"
)
LOOP_UNITS = 8
LOOP_TIMES = 3


def units(text: str) -> list[str]:
    """Words in lower case, an apostrophe inside one belonging to it; characters where there are no spaces."""
    return _UNIT.findall(text.lower())


def has_loop(text: str) -> bool:
    """Whether any run of 8 units occurs at least 3 times."""
    counts = Counter(_grams(text, LOOP_UNITS))
    return bool(counts) and max(counts.values()) >= LOOP_TIMES


def repeated(text: str, n: int) -> float:
    """rep-n: 1 - (number of different n-grams) / (number of n-grams); 0 for a text without any."""
    grams = _grams(text, n)
    return 1 - len({*grams}) / len(grams) if grams else 0.0


def distinct(text: str, n: int) -> float:
    """distinct-n: (number of different n-grams) / (number of n-grams) = 1 - rep-n."""
    return 1 - repeated(text, n)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    found = units(text)
    return [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]
