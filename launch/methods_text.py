"""`cpt methods` as text: the table of all, or one card."""

import textwrap
from collections.abc import Sequence

from launch.methods import Cost, Method
from launch.setting_text import Setting

WIDTH = 100
LEGEND = """state: bytes per trained parameter beyond weights, gradients and optimizer
step, memory: time of an optimizer step and peak memory, measured, relative to no hook; - is not measured
evidence: of deployment, not of quality; academic: not production-validated; research: papers only
cpt methods NAME prints the card: formula, settings, when to use it, how it fails"""


def table_text(methods: Sequence[Method]) -> str:
    """Hooks, then stage kinds, then what cannot be used."""
    hooks = [each for each in methods if each.what == "hook" and not each.problem]
    kinds = [each for each in methods if each.what == "stage kind"]
    broken = [f"{each.name}: {each.problem}" for each in methods if each.problem]
    # A stage that merges has no hooks, and neither do rows that it would train on.
    all_kinds = tuple(each.name for each in kinds if each.acts_at)
    tail = ("backends", "state", "step", "memory", "evidence")
    # One table, so that the columns of both parts stand below one another.
    rows: list[tuple[str, ...]] = [("hook", "family", "acts at", "stages", *tail)]
    rows += [
        _row(each, "all" if each.stages == all_kinds else " ".join(each.stages)) for each in hooks
    ]
    rows += [("",) * 9, ("stage kind", "family", "trains on", "roles", *tail)]
    rows += [_row(each, " ".join(each.stages) or "-") for each in kinds]
    widths = [max(len(row[column]) for row in rows) for column in range(9)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *(["", *broken] if broken else []), "", LEGEND])


def _row(method: Method, stages: str) -> tuple[str, ...]:
    card = method.card
    name = method.name if method.package == "cpt" else f"{method.name} ({method.package})"
    return (
        name,
        card.family if card else "-",
        " ".join(method.acts_at) or "-",
        stages,
        " ".join(method.backends) or "-",
        card.state.partition(" (")[0] if card else "-",
        "-" if method.step is None else f"{method.step:.2f}",
        "-" if method.memory is None else f"{method.memory:.2f}",
        card.evidence if card else "-",
    )


def card_text(method: Method) -> str:
    """One card, with all that is known of a method."""
    whose = "" if method.package == "cpt" else f" of {method.package}"
    head = f"{method.name}: {method.what}{whose}"
    if method.problem:
        return f"{head}\n\n{method.problem}"
    is_hook = method.what == "hook"
    card = method.card
    lines = [f"{head}, {card.family}" if card else head, *_wrapped(method.summary, ""), ""]
    if card:
        lines += ["formula", *textwrap.indent(card.formula, "  ").splitlines(), ""]
    facts = {
        "acts at" if is_hook else "trains on": " ".join(method.acts_at) or "nothing",
        "stages" if is_hook else "roles": " ".join(method.stages) or "none",
        "backends": " ".join(method.backends) or "none",
    }
    lines += [f"{name:<11}{value}" for name, value in facts.items()]
    lines += ["", _where_settings_go(method)]
    lines += [line for setting in method.settings for line in _setting(setting)] or ["  none"]
    lines += [f"  {method.more_settings}"] if method.more_settings else []
    if card is None:
        return "\n".join(
            [*lines, "", "It has no card: its package says nothing of use, cost and failure."]
        )
    parts = {
        "when to use it": card.when,
        "what it costs": f"{card.cost} {_measured(method)}",
        "state": f"{card.state} bytes per trained parameter"
        if "(" not in card.state
        else card.state.replace(" (", " bytes per trained parameter (", 1),
        "how it fails": card.fails,
    }
    for title, words in parts.items():
        lines += ["", title, *_wrapped(words, "  ")]
    lines += ["", f"evidence: {card.evidence}"]
    lines += [line for source in card.sources for line in _wrapped(source, "  ")]
    return "\n".join(lines)


def _where_settings_go(method: Method) -> str:
    if method.what == "hook":
        return "settings"
    return "settings in train:" if method.more_settings else "settings in merge:, by method"


def _measured(method: Method) -> str:
    parts: list[tuple[str, Method | Cost]] = [("relative to no hook", method)]
    parts += [
        (f"{cost.variant}, relative to {cost.relative_to or 'no hook'}", cost)
        for cost in method.variants
    ]
    told = []
    for title, cost in parts:
        measured = {"step time": cost.step, "peak memory": cost.memory}
        said = [f"{name} {value:.2f}" for name, value in measured.items() if value is not None]
        told += [f"{title}: {', '.join(said)}"] if said else []
    return f"Measured, {'; '.join(told)}." if told else "Not measured yet."


def _setting(setting: Setting) -> list[str]:
    head = f"{setting.name}: {setting.default}  ({setting.type})"
    return [f"  {head}", *_wrapped(setting.help, "      ")]


def _wrapped(words: str, indent: str) -> list[str]:
    return textwrap.wrap(
        words, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )
