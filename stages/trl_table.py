"""Writes trl_fields.json, TRL's config fields: so a plan checks `train:` without importing TRL.

Run `python -m stages.trl_table` after the pinned TRL or transformers changed; a test compares.
An entry is `{"type": [names], "choices": [...], "default": ..., "help": "one sentence"}`; a name is
one of bool, int, float, str, null, dict, list[str], list[float], pair[float], other. Entries that
all configs share stand under "common".
"""

import dataclasses
import enum
import json
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

TABLE = Path(__file__).with_name("trl_fields.json")
CONFIGS = (
    "SFTConfig",
    "DPOConfig",
    "GRPOConfig",
    "RLOOConfig",
    "KTOConfig",
    "RewardConfig",
    "DistillationConfig",
)
# What TRL says in prose only and would find out in the middle of a run. The test checks each word
# against TRL's help.
PROSE_CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("DPOConfig", "loss_type"): (
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
        *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ),
    ("DPOConfig", "f_divergence_type"): (
        *("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    ),
    ("GRPOConfig", "loss_type"): (
        *("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    ),
    ("GRPOConfig", "importance_sampling_level"): ("token", "sequence"),
    ("GRPOConfig", "multi_objective_aggregation"): ("sum_then_normalize", "normalize_then_sum"),
    ("GRPOConfig", "scale_rewards"): ("group", "batch", "none"),
    ("GRPOConfig", "vllm_mode"): ("server", "colocate"),
    ("RLOOConfig", "vllm_mode"): ("server", "colocate"),
    ("DistillationConfig", "vllm_mode"): ("server", "colocate"),
}


def table() -> dict[str, Any]:
    """Introspect the installed TRL. Imports it, which takes about ten seconds."""
    import transformers
    import trl

    configs = {name: _fields(name, getattr(trl, name)) for name in CONFIGS}
    first, *others = configs.values()
    common = {
        name: entry
        for name, entry in first.items()
        if all(other.get(name) == entry for other in others)
    }
    return {
        "versions": {"transformers": transformers.__version__, "trl": trl.__version__},
        "common": common,
        "configs": {
            config: {name: entry for name, entry in fields.items() if name not in common}
            for config, fields in configs.items()
        },
    }


def text() -> str:
    """The table as JSON with one field per line, so that a new TRL reads well as a diff."""

    def lines(fields: dict[str, Any], indent: str) -> str:
        return ",\n".join(
            f"{indent}{json.dumps(name)}: {json.dumps(fields[name])}" for name in sorted(fields)
        )

    content = table()
    configs = ",\n".join(
        f"  {json.dumps(name)}: {{\n{lines(fields, '   ')}\n  }}"
        for name, fields in content["configs"].items()
    )
    return (
        f'{{\n "versions": {json.dumps(content["versions"])},\n'
        f' "common": {{\n{lines(content["common"], "  ")}\n }},\n'
        f' "configs": {{\n{configs}\n }}\n}}\n'
    )


def _fields(config: str, kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {
        field.name: _entry(config, field, hints[field.name])
        for field in dataclasses.fields(kind)
        if field.init
    }


def _entry(config: str, field: "dataclasses.Field[Any]", hint: Any) -> dict[str, Any]:
    names: list[str] = []
    choices = [str(choice) for choice in field.metadata.get("choices") or ()]
    for part in _parts(hint):
        if isinstance(part, type) and issubclass(part, enum.Enum):
            choices = [str(member.value) for member in part]
            part = str
        names.append(_name(part))
    choices = choices or list(PROSE_CHOICES.get((config, field.name), ()))
    entry: dict[str, Any] = {"type": sorted(set(names))}
    if choices:
        entry["choices"] = sorted(choices)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    entry["default"] = default.value if isinstance(default, enum.Enum) else default
    if help_text := str(field.metadata.get("help") or ""):
        entry["help"] = _first_sentence(help_text)
    return entry


def _parts(hint: Any) -> list[Any]:
    """The members of a union, or the hint alone."""
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _name(hint: Any) -> str:
    simple = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
    if hint in simple:
        return simple[hint]
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is Literal:  # the only one is Literal[False]
        return "bool"
    if origin is dict:
        return "dict"
    if origin is list:
        return f"list[{_name(arguments[0])}]" if arguments[0] in simple else "list[str]"
    if origin is tuple and arguments == (float, float):
        return "pair[float]"
    return "other"


def _first_sentence(words: str) -> str:
    flat = " ".join(words.replace("%%", "%").split())
    sentence = re.split(r"(?<=[.])\s+(?=[A-Z`'(])", flat, maxsplit=1)[0]
    return sentence.translate(_GREEK).encode("ascii", "replace").decode()


_GREEK = str.maketrans(
    {
        "\u03b1": "alpha",
        "\u03b2": "beta",
        "\u03bc": "mu",
        "\u03c1": "rho",
        "\u03c4": "tau",
        "\u2014": "-",
    }
)


if __name__ == "__main__":
    TABLE.write_text(text(), encoding="utf-8")
