"""Numbers and other people's text as a report prints them: rounded alike, no control characters."""

import math
import re

# Controls, bidirectional overrides and lone surrogates: they break terminals, files or trust.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ufffe\uffff\ud800-\udfff]"
)
_MISSING = "-"


def clean(text: object) -> str:
    """`text` without characters that a UTF-8 file, a browser or a terminal must not see."""
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))


def shorten(text: object, length: int, ellipsis: str = "...") -> str:
    """`text` cleaned, on one line, at most `length` characters; a cut ends in `ellipsis`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= length else line[: length - len(ellipsis)].rstrip() + ellipsis


def decimal_places(*values: float) -> int:
    """Digits after the point such that scores of this size show about four digits."""
    size = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0


def number(value: float | None, places: int = 3) -> str:
    """A fixed-point number, `-` where there is none; never `-0.000`."""
    if value is None or not math.isfinite(value):
        return _MISSING if value is None else str(value)
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float, places: int = 3) -> str:
    """A number with its sign, `+0.120`; zero has none."""
    text = number(value, places)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def compact(value: float) -> str:
    """A number for an axis or a setting, in few characters: 2000, 0.05, 1e-05."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """`8.1 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def listing(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def scalar(value: object) -> str:
    """One setting's value as YAML would have it: true, null, 1e-05, text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return compact(value) if float(compact(value)) == value else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {scalar(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar(part) for part in value) + "]"
    return clean(value)


def settings(values: dict[str, object]) -> str:
    """`beta 0.05, of previous`: the settings of a hook in one line."""
    return ", ".join(f"{clean(key)} {scalar(value)}" for key, value in values.items())
