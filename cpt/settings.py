"""From a parsed YAML tree to a checked pydantic object, with errors that name the nearest right word."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cpt.errors import CptError, RecipeError

T = TypeVar("T")


class Settings(BaseModel):
    """Base of everything a person writes in YAML: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=False)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, else the list of what is known."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def validate(kind: type[T], tree: Any, where: str, error: type[CptError] = RecipeError) -> T:
    """Check `tree` against a pydantic model, a dataclass or any type.

    Raises:
        error: one message with one line per problem: where, path, value, and the nearest right word.
    """
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as failed:
        lines = [_explain(kind, problem) for problem in failed.errors(include_url=False)]
        raise error("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def _explain(kind: Any, problem: Any) -> str:
    location = [part for part in problem["loc"] if not _is_noise(part)]
    path = ".".join(map(str, location))
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _owner(kind, location[:-1])
        inside = ".".join(map(str, location[:-1]))
        has = f"{inside} has no" if inside else "there is no"
        return f"{has} {str(location[-1])!r}{did_you_mean(str(location[-1]), _fields(owner))}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path or 'a key'} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _is_noise(part: Any) -> bool:
    """Union branches that pydantic writes into the location, such as `list[...]` or `str`."""
    return isinstance(part, str) and (
        "[" in part or part in {"str", "int", "float", "bool", "none"} or part[:1].isupper()
    )


def _fields(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return []


def _owner(kind: Any, location: list[Any]) -> Any:
    """The model or dataclass that `location` lies in, as far as type hints tell."""
    for part in location:
        for candidate in _models(kind):
            if isinstance(part, str) and part in _fields(candidate):
                kind = (
                    candidate.model_fields[part].annotation
                    if issubclass(candidate, BaseModel)
                    else candidate.__annotations__[part]
                )
                break
    models = _models(kind)
    return models[0] if models else kind


def _models(kind: Any) -> list[Any]:
    if get_origin(kind) is None:
        return [kind] if _fields(kind) else []
    return [model for argument in get_args(kind) for model in _models(argument)]
