"""What `train:` may say: a stage's settings checked against TRL's fields, without importing TRL.

The fields, their types and choices come from trl_fields.json (see trl_table.py), what is ours about
them from trl_rules.py.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from cpt.errors import RecipeError
from cpt.settings import did_you_mean
from stages.trl_rules import (
    BOUNDS,
    FORMER,
    MIN_LR_SCHEDULES,
    OURS,
    ROLLOUT_CONFIGS,
    RUNNER_OWNED,
)


@functools.cache
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("trl_fields.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@functools.cache
def fields(config: str) -> dict[str, dict[str, Any]]:
    """Every field of one TRL config, and ours: name -> {type, choices, default, help}."""
    return {**_table()["common"], **_table()["configs"][config], **OURS}


def own_fields(config: str) -> dict[str, dict[str, Any]]:
    """The fields that not every TRL config has, without those that the runner owns."""
    everywhere = set.intersection(*(set(fields(each)) for each in _table()["configs"]))
    hidden = everywhere | RUNNER_OWNED.keys()
    return {name: entry for name, entry in fields(config).items() if name not in hidden}


def check_train(config: str, train: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the `train:` of one stage and give it the types that TRL expects.

    Args:
        config: a TRL config by name, such as `SFTConfig`.
        train: field -> value as read from YAML.
        where: the file, for the messages.

    Returns: the same fields, `batch_size` filled in, a whole number as float where TRL wants one.
    Raises:
        RecipeError: one line per problem.
    """
    problems: list[str] = []
    checked: dict[str, Any] = {"batch_size": OURS["batch_size"]["default"]}
    for name, value in train.items():
        try:
            checked[name] = _checked(config, name, value)
        except RecipeError as problem:
            problems.append(str(problem))
    problems += [] if problems else _contradictions(config, checked)
    if problems:
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))
    return checked


def train_schema(config: str) -> dict[str, Any]:
    """JSON schema of `train:` for one kind of stage, without the fields that the runner owns."""
    properties = {}
    for name, entry in sorted(fields(config).items()):
        if name not in RUNNER_OWNED:
            kinds = [_SCHEMA[kind] for kind in entry["type"]]
            if "choices" in entry:
                kinds = [_with_choices(kind, entry["choices"]) for kind in kinds]
            properties[name] = {
                **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}),
                "default": entry["default"],
                "description": entry.get("help", ""),
            }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _checked(config: str, name: str, value: Any) -> Any:
    known = fields(config)
    if name in RUNNER_OWNED:
        raise RecipeError(f"train.{name}: belongs to the runner; {RUNNER_OWNED[name]}")
    if name not in known:
        raise RecipeError(f"train: {config} has no {name!r}{_nearest(name, known)}")
    entry = known[name]
    value = _typed(name, entry["type"], value)
    for word in value if isinstance(value, list) else [value]:
        if "choices" in entry and isinstance(word, str) and word not in entry["choices"]:
            hint = did_you_mean(word, entry["choices"])
            raise RecipeError(f"train.{name}: has no choice {word!r}{hint}")
    interval = BOUNDS.get(f"{config}.{name}", BOUNDS.get(name))
    if interval and isinstance(value, int | float) and not _inside(value, interval):
        raise RecipeError(f"train.{name}: must lie in {interval}, not {value}")
    if name == "max_steps" and value < 1 and value != -1:
        raise RecipeError(f"train.max_steps: must be positive, or -1 for all epochs, not {value}")
    return value


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    if name in FORMER:
        return f" any more; write {FORMER[name]}"
    hint = did_you_mean(name, known.keys() - RUNNER_OWNED.keys())
    return "; `cpt schema` lists what it has" if hint.startswith("; known") else hint


def _typed(name: str, kinds: list[str], value: Any) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind.startswith("list")):
        fits, convert = _KINDS[kind]
        if fits(value):
            return convert(value)
    wanted = " or ".join(_WORDS[kind] for kind in sorted(kinds, key=lambda kind: kind == "null"))
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    raise RecipeError(f"train.{name}: must be {wanted}, not {shown}")


def _contradictions(config: str, train: dict[str, Any]) -> list[str]:
    """Settings that are each fine and cannot stand together."""
    found = []
    if train.get("bf16") and train.get("fp16"):
        found.append("train: bf16 and fp16 cannot both be true")
    if {"gradient_checkpointing", "activation_checkpointing"} <= train.keys():
        found.append(
            "train.gradient_checkpointing: is a former name of activation_checkpointing; give one"
        )
    if train.get("loss_weights") is not None:
        losses = train.get("loss_type", fields(config)["loss_type"]["default"])
        if len(losses) != len(train["loss_weights"]):
            found.append(f"train.loss_weights: must have one number for each of {losses}")
    found += _schedule_faults(train)
    if config in ROLLOUT_CONFIGS:
        group = train.get("num_generations", fields(config)["num_generations"]["default"])
        rollout = rollout_size(train)
        if rollout % train["batch_size"]:
            found.append(
                f"train.generation_batch_size: must be a multiple of batch_size "
                f"({train['batch_size']}), not {rollout}"
            )
        if group is None or rollout % group:
            key = "generation_batch_size" if train.get("generation_batch_size") else "batch_size"
            found.append(
                f"train.{key}: counts completions, in whole groups of num_generations ({group}), "
                f"so it cannot be {rollout}"
            )
    return found


def _schedule_faults(train: Mapping[str, Any]) -> list[str]:
    """What transformers would find out when the weights are loaded, of the schedules that end above 0."""
    schedule, given = train.get("lr_scheduler_type"), train.get("lr_scheduler_kwargs")
    if schedule not in MIN_LR_SCHEDULES or isinstance(given, str):
        return []
    known, given = MIN_LR_SCHEDULES[schedule], given or {}
    found = [
        f"train.lr_scheduler_kwargs: {schedule} has no {name!r}{did_you_mean(str(name), known)}"
        for name in given.keys() - known
    ]
    if len({"min_lr", "min_lr_rate"} & given.keys()) != 1:
        found.append(
            f"train.lr_scheduler_kwargs: {schedule} needs min_lr, or min_lr_rate as a share of "
            f"learning_rate; write one, such as {{min_lr_rate: 0.1}}"
        )
    return found


def rollout_size(train: Mapping[str, Any]) -> int:
    """Completions sampled at once: `generation_batch_size`, by default one step's batch."""
    return int(train.get("generation_batch_size") or train["batch_size"])


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _is_int(value: Any) -> bool:
    whole = isinstance(value, float) and value.is_integer()
    return whole or (isinstance(value, int) and not isinstance(value, bool))


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(fits(part) for part in value)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _floats(value: Any) -> list[float]:
    return [float(part) for part in value]


_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "null": (lambda value: value is None, lambda value: None),
    "bool": (lambda value: isinstance(value, bool), bool),
    "int": (_is_int, int),
    "float": (_is_float, float),
    "str": (_is_str, str),
    "dict": (lambda value: isinstance(value, dict), dict),
    # TRL takes one word for a list of one; recipes may too.
    "list[str]": (
        lambda value: _is_str(value) or _is_list(_is_str)(value),
        lambda value: [value] if isinstance(value, str) else list(value),
    ),
    "list[float]": (_is_list(_is_float), _floats),
    "pair[float]": (lambda value: _is_list(_is_float)(value) and len(value) == 2, _floats),
    "other": (lambda value: False, lambda value: value),
}
_WORDS = {
    "null": "null",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "dict": "a mapping",
    "list[str]": "a list of texts",
    "list[float]": "a list of numbers",
    "pair[float]": "a list of two numbers",
    "other": "left out",
}
_SCHEMA: dict[str, dict[str, Any]] = {
    "null": {"type": "null"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "dict": {"type": "object"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "list[float]": {"type": "array", "items": {"type": "number"}},
    "pair[float]": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "other": {"not": {}},
}


def _with_choices(kind: dict[str, Any], choices: list[str]) -> dict[str, Any]:
    if kind["type"] == "string":
        return {"enum": choices}
    if kind["type"] == "array":
        return cast(dict[str, Any], {"type": "array", "items": {"enum": choices}})
    return kind
