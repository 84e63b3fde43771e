"""Verifiable rewards by name, and a person's own by `module:function`.

A reward is called as TRL calls it: keyword arguments `prompts`, `completions`, `completion_ids` and every
column of the row, and returns one float per completion.
"""

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.errors import CptError, RecipeError
from cpt.settings import did_you_mean

Reward = Callable[..., list[float]]


def exact_match(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 when the completion, stripped of blanks and a final full stop, is the answer; else 0."""
    return [
        float(_plain(_text(completion)) == _plain(str(right)))
        for completion, right in zip(completions, answer, strict=True)
    ]


def number_match(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 when the last number in the completion equals the answer's; else 0."""
    return [
        float(_last_number(_text(completion)) == _last_number(str(right)) is not None)
        for completion, right in zip(completions, answer, strict=True)
    ]


def brevity(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """1 / (1 + tokens / 16): 1 for an empty answer, 0.5 at 16 tokens."""
    return [1 / (1 + len(tokens) / 16) for tokens in completion_ids]


REWARDS: dict[str, Reward] = {
    "exact_match": exact_match,
    "number_match": number_match,
    "brevity": brevity,
}


def _text(completion: Any) -> str:
    """A completion is text, or a list with the assistant's turn."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").strip()


def _last_number(text: str) -> float | None:
    found = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def check_reward(name: str, where: str) -> None:
    """Refuse an unknown name, or a module that cannot be found; the module is not run.

    Raises:
        RecipeError: with the nearest name.
    """
    if ":" not in name:
        if name not in REWARDS:
            raise RecipeError(
                f"{where}: rewards: no reward {name!r}{did_you_mean(name, REWARDS)}, or module:function"
            )
        return
    folder = Path(where.split(" with ")[0]).parent
    if _source(name, [folder]) is None:
        raise RecipeError(
            f"{where}: rewards: {name!r}: no module {name.partition(':')[0]!r} beside the recipe or installed"
        )


def reward_content(name: str, where: str) -> str:
    """What enters a stage's content address: the name, and the code of a person's own reward."""
    source = _source(name, [Path(where.split(" with ")[0]).parent]) if ":" in name else None
    return f"{name}@{ids.sha256_file(source)[:12]}" if source else name


def _source(name: str, folders: Sequence[Path]) -> Path | None:
    module = name.partition(":")[0]
    for folder in folders:
        file = folder.joinpath(*module.split(".")).with_suffix(".py")
        if file.is_file():
            return file
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found and found.origin else None


def load_reward(name: str, folders: Sequence[Path]) -> Reward:
    """The function of a name, wrapped so that a bad result stops the stage and shows the sample.

    Raises:
        RecipeError: the module has no such function.
    """
    if name in REWARDS:
        return _checked(name, REWARDS[name])
    module_name, _, attribute = name.partition(":")
    file = _source(name, folders)
    for folder in folders:
        if file and file.is_relative_to(folder) and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    function = getattr(importlib.import_module(module_name), attribute, None)
    if not callable(function):
        raise RecipeError(f"rewards: {name!r}: {module_name} has no function {attribute!r}")
    return _checked(name, function)


def _checked(name: str, function: Callable[..., Any]) -> Reward:
    @wraps(function)
    def reward(**given: Any) -> list[float]:
        completions = given["completions"]
        sample = repr(completions[0])[:200] if completions else "none"
        try:
            values = function(**given)
        except CptError:
            raise
        except Exception as error:
            raise CptError(
                f"reward {name} raised {type(error).__name__}: {error}; first completion: {sample}"
            ) from error
        if len(values) != len(completions):
            raise CptError(
                f"reward {name} gave {len(values)} values for {len(completions)} completions"
            )
        for value, completion in zip(values, completions, strict=True):
            if value is not None and math.isnan(value):
                raise CptError(f"reward {name} is not a number for the completion {completion!r}")
        return list(values)

    reward.__name__ = name.rpartition(":")[2]
    return reward
