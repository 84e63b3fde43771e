"""From a parsed YAML tree to a checked pydantic object; errors name the nearest right word."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from cpt.errors import CptError, RecipeError

T = TypeVar("T")


class Settings(BaseModel):
    """Base of everything a person writes in YAML: unknown keys are errors, values never change.

    Types are strict, since YAML says what is a number and what is text: `seed: true` is not 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


def _stays(revision: str) -> str:
    if revision in ("main", "master", "HEAD") or revision.startswith("refs/"):
        raise ValueError(
            f"{revision!r} moves, and an id would not tell what was trained on; write the commit's "
            f"40 hex digits (the hub page of the files shows them under History), or a tag"
        )
    return revision


#: A commit or a tag on the hub; a branch would give other files tomorrow under the same id.
Revision = Annotated[str, AfterValidator(_stays)]


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
        lines = "\n".join(lines).splitlines()
        raise error("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def _explain(kind: Any, problem: Any) -> str:
    location, owner = _walk(kind, problem["loc"])
    path = ".".join(location)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        word = str(problem["loc"][-1])
        known = [] if owner is None else list(_fields(owner))
        return f"{f'{path} has' if path else 'there is'} no {word!r}{did_you_mean(word, known)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path} is missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = f"{path}.{problem['ctx']['discriminator']}".replace("'", "")
        known = re.findall(r"'([^']*)'", str(problem["ctx"].get("expected_tags", "")))
        tag = problem["ctx"].get("tag")
        return f"{key}: no {tag!r}{did_you_mean(tag, known)}" if known else f"{key} is missing"
    message = str(problem["msg"])
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":  # our own words, which say the value themselves
        message = message.removeprefix("value error, ")
        return f"{path}: {message}" if path else message
    hint = ""
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
        hint = did_you_mean(problem["input"], choices)
        hint = "" if hint.startswith("; known") else hint
    return f"{path}: {message}, not {_brief(problem['input'])}{hint}".removeprefix(": ")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _walk(kind: Any, location: Sequence[Any]) -> tuple[list[str], Any]:
    """The parts of a location that a person wrote, and the model or dataclass that the last lies in.

    Pydantic also names the branch of a union that it tried (`str`, `list[str]`, a model's name, or the word
    by which a model of several was chosen).
    """
    here, path = _branches(kind), []
    for part in location:
        below: list[Any] = []
        for branch in here:
            arguments = get_args(branch)
            origin = get_origin(branch)
            if _fields(branch):
                below += _branches(_fields(branch).get(part)) if part in _fields(branch) else []
            elif isinstance(part, int) and origin in (list, tuple):
                below += _branches(arguments[0])
            elif isinstance(part, str) and origin in (dict, Mapping):
                below += _branches(arguments[1])
        if below:
            here = below
            path.append(str(part))
        elif chosen := [branch for branch in here if part in _tags(branch)]:
            here = chosen
    owners = [branch for branch in here if _fields(branch)]
    return path, owners[0] if owners else None


def _branches(kind: Any) -> list[Any]:
    """The members of a union, without `Annotated` and `None`; of another type, itself."""
    if hasattr(kind, "__metadata__"):
        return _branches(kind.__origin__)
    if get_origin(kind) in (None, list, tuple, dict, Mapping):
        return [kind]
    return [branch for member in get_args(kind) for branch in _branches(member)] or [kind]


def _tags(kind: Any) -> list[Any]:
    """The words by which a model is chosen among several."""
    literals = [field for field in _fields(kind).values() if get_origin(field) is Literal]
    return [word for field in literals for word in get_args(field)]


def _fields(kind: Any) -> dict[Any, Any]:
    """Key as a person writes it -> type, of a model or a dataclass."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            field.alias or name: field.annotation
            for name, field in kind.model_fields.items()
            if not field.exclude
        }
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind) if field.init}
    return {}
