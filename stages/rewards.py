"""Verifiable rewards by name, and a person's own by `module:function`.

A person's own is code that runs. So it lies beside the recipe, or in an installed package that offers its
module to recipes, as in its pyproject.toml:

    [project.entry-points."cpt.rewards"]
    exams = "my_package.exams"

Any other module that happens to be importable, such as `os`, is refused.

A reward is called as TRL calls it: keyword arguments `prompts`, `completions`, `completion_ids` and every
column of the row, and returns one float per completion.
"""

import ast
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from cpt import ids
from cpt.errors import CptError, RecipeError
from cpt.recipe import folder_of
from cpt.settings import did_you_mean

Reward = Callable[..., Sequence[float | None]]


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
    """Refuse an unknown name, or a function that is nowhere; the module is read and not run.

    Raises:
        RecipeError: with the nearest name.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in REWARDS:
            hint = did_you_mean(name, REWARDS)
            raise RecipeError(f"{where}: rewards: no reward {name!r}{hint}, or module:function")
        return
    file = _source(name, [folder_of(where)])
    if file is None:
        raise RecipeError(f"{where}: rewards: {name!r}: {_missing(module)}")
    known = _names_in(file)
    if known is not None and function not in known:
        hint = did_you_mean(function, (word for word in known if not word.startswith("_")))
        raise RecipeError(f"{where}: rewards: {name!r}: {file} has no {function!r}{hint}")


def _names_in(file: Path) -> set[str] | None:
    """What a module defines or imports; None where `import *` hides it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"{file}: is not Python: {error}") from None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if "*" in names else names


def reward_content(name: str, where: str) -> str:
    """What enters a stage's content address: the name, and the code of a person's own reward."""
    source = _source(name, [folder_of(where)]) if ":" in name else None
    return f"{name}@{ids.sha256_file(source)[:12]}" if source else name


def _source(name: str, folders: Sequence[Path]) -> Path | None:
    module = name.partition(":")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        return None  # nothing that Python could import: a path, say
    for folder in folders:
        file = folder.joinpath(*module.split(".")).with_suffix(".py")
        if file.is_file():
            return file
    if not any(module == known or module.startswith(f"{known}.") for known in offered()):
        return None
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(found.origin or "") if found else Path()
    return origin if origin.suffix == ".py" and origin.is_file() else None


def offered() -> tuple[str, ...]:
    """Modules of installed packages that recipes may name, with what is below them."""
    return tuple(entry.module for entry in metadata.entry_points(group="cpt.rewards"))


def _missing(module: str) -> str:
    """Why a module is not taken, and what is."""
    others = f"; packages offer {', '.join(sorted(offered()))}" if offered() else ""
    return (
        f"no module {module!r} beside the recipe, and no installed package offers it under the "
        f"entry-point group cpt.rewards{others}; put {module.rpartition('.')[2]}.py beside the recipe"
    )


def load_reward(name: str, folders: Sequence[Path]) -> Reward:
    """The function of a name, wrapped so that a bad result stops the stage and shows the sample.

    Raises:
        RecipeError: the module has no such function.
    """
    if name in REWARDS:
        return _checked(name, REWARDS[name])
    module_name, _, attribute = name.partition(":")
    file = _source(name, folders)
    if file is None:
        raise RecipeError(f"rewards: {name!r}: {_missing(module_name)}")
    function = getattr(_module(module_name, file, folders), attribute, None)
    if not callable(function):
        raise RecipeError(f"rewards: {name!r}: {file} has no function {attribute!r}")
    return _checked(name, function)


def _module(name: str, file: Path, folders: Sequence[Path]) -> ModuleType:
    """Import a module from `file`, even where another recipe's module of that name was imported."""
    for folder in folders:
        if file.is_relative_to(folder) and str(folder.absolute()) not in sys.path:
            sys.path.append(str(folder.absolute()))
    module = sys.modules.get(name)
    if module is not None and Path(str(module.__file__)).resolve() == file.resolve():
        return module
    if "." in name:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _checked(name: str, function: Callable[..., Any]) -> Reward:
    @wraps(function)
    def reward(**given: Any) -> list[float | None]:
        completions = given["completions"]
        sample = repr(completions[0])[:200] if completions else "none"
        try:
            values = list(function(**given))
        except CptError:
            raise
        except Exception as error:
            raise CptError(
                f"reward {name} raised {type(error).__name__}: {error}; first completion: {sample}"
            ) from error
        if len(values) != len(completions):
            raise CptError(
                f"reward {name} gave {len(values)} values for {len(completions)} completions; "
                f"first completion: {sample}"
            )
        for value, completion in zip(values, completions, strict=True):
            if value is not None and not _is_finite(value):
                raise CptError(
                    f"reward {name} gave {value!r}, not a finite number, for the completion "
                    f"{repr(completion)[:200]}"
                )
        return [None if value is None else float(value) for value in values]

    reward.__name__ = name.rpartition(":")[2]
    return reward


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False
