"""HTML and SVG elements as strings that escape by default: only `Markup` goes through as it is."""

import html
from collections.abc import Iterable

from eval.report.text import clean

_VOID = frozenset({"br", "hr", "meta", "wbr"})


class Markup(str):
    """Text that is HTML already; any other `str` is escaped as it becomes a child or attribute."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """`text` as HTML: escaped unless it is `Markup`, and without characters HTML does not allow."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(text), quote=True))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """All parts, each escaped unless it is `Markup`."""
    return Markup(escape(between).join(escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """One element.

    An attribute is written as a Python name: `class_` is `class`, `stroke_width` is `stroke-width`.
    None and False leave it out, True writes its name, a float gets two decimals.
    """
    written = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def breakable(name: str) -> Markup:
    """A name that may wrap after `_`, `/` and `-`."""
    text = escape(name)
    for mark in ("_", "/", "-"):
        text = Markup(text.replace(mark, f"{mark}<wbr>"))
    return text


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(value)
