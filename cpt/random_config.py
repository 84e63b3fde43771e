"""The config of a random model, checked when planning: transformers' own source is read, not imported.

transformers keeps a name that it does not know as an attribute and says nothing, so a typo gives the default
size; and sizes that do not fit are found in the first forward pass, if at all.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cpt.settings import did_you_mean

# `_random` in cpt/model_source.py sets them.
_OF_THE_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
# Older spellings that transformers 5 still takes (modeling_rope_utils.py).
_OLDER = ("rope_theta", "rope_scaling", "partial_rotary_factor")
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "head_dim"),
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "bool": bool,
    "str": str,
    "float": (int, float),
}


@dataclass(frozen=True)
class Fields:
    """What an architecture's config has: field -> (annotation, default), and other names for fields."""

    types: Mapping[str, str]
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str]

    def own(self, name: str) -> str:
        """The architecture's own word: gpt2 calls `hidden_size` `n_embd`."""
        return self.aliases.get(name, name)


def faults(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with a config, a line each; what only transformers can know is left to it."""
    architecture = config.get("model_type")
    known = architectures()
    if architecture is None:
        return ["model_type is missing; write llama, say"]
    if known and architecture not in known:
        return [f"model_type: there is no {architecture!r}{did_you_mean(str(architecture), known)}"]
    found = [
        f"{name}: it is the tokenizer's; remove it" for name in _OF_THE_TOKENIZER if name in config
    ]
    fields = fields_of(str(architecture))
    if found or fields is None:
        return found
    for name, value in config.items():
        own = fields.own(name)
        if own not in fields.types and own not in ("model_type", *_OLDER):
            names = [*fields.types, *fields.aliases]
            found.append(f"there is no {name!r} in {architecture}{did_you_mean(name, names)}")
            continue
        kind = _TYPES.get(fields.types.get(own, ""))
        if kind and (not isinstance(value, kind) or (kind is not bool and value is True)):
            found.append(f"{name}: should be {fields.types[own]}, not {value!r}")
    return found or _misfits(config, fields)


def _misfits(config: Mapping[str, Any], fields: Fields) -> list[str]:
    """Sizes that cannot be, or do not fit one another; defaults count."""
    given = {fields.own(name): value for name, value in config.items()}

    def size(name: str) -> int | None:
        value = given.get(fields.own(name), fields.defaults.get(fields.own(name)))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    found = [
        f"{fields.own(name)}: should be 1 or more, not {value}"
        for name in _SIZES
        if (value := size(name)) is not None and value < 1
    ]
    width, heads = size("hidden_size"), size("num_attention_heads")
    if found or width is None or heads is None:
        return found
    groups, head = size("num_key_value_heads"), size("head_dim")
    hidden, attention = fields.own("hidden_size"), fields.own("num_attention_heads")
    if head is None and width % heads and not given.keys().isdisjoint((hidden, attention)):
        found.append(f"{hidden}: {width} is no multiple of {attention}, which is {heads}")
    elif "rope_parameters" in fields.types and (head or width // heads) % 2 and not found:
        what = "head_dim" if head else f"{hidden} / {attention}"
        if not any(name.startswith(("partial_", "rope_")) for name in given):
            found.append(
                f"{what}: {head or width // heads} is odd, and rotary positions need pairs"
            )
    if groups and heads % groups:
        found.append(
            f"{attention}: {heads} is no multiple of num_key_value_heads, which is {groups}"
        )
    return found


@cache
def architectures() -> frozenset[str]:
    """`model_type` of every causal language model that the installed transformers has."""
    text = _source("models/auto/modeling_auto.py")
    _, _, after = text.partition("\nMODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(")
    return frozenset(re.findall(r'\(\s*"([^"]+)",', after.partition("\n)\n")[0]))


@cache
def fields_of(architecture: str) -> Fields | None:
    """The fields of an architecture's config; None where they are not plain to see."""
    folder = architecture.replace("-", "_")
    text = _source(f"models/{folder}/configuration_{folder}.py")
    base = _classes(_source("configuration_utils.py")).get("PreTrainedConfig")
    for node in _classes(text).values():
        names = [parent.id for parent in node.bases if isinstance(parent, ast.Name)]
        values = _assigned(node)
        if values.get("model_type") == architecture and names == ["PreTrainedConfig"] and base:
            types, defaults = _annotated(base)
            more, values_of = _annotated(node)
            if not more:
                return None
            aliases = values.get("attribute_map") or {}
            return Fields(types | more, defaults | values_of, aliases)
    return None


def _source(name: str) -> str:
    spec = find_spec("transformers")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, name)
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""


def _classes(text: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def _annotated(node: ast.ClassDef) -> tuple[dict[str, str], dict[str, Any]]:
    """Annotations as text, and defaults where they are literals."""
    types, defaults = {}, {}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            kind = ast.unparse(part.annotation)
            if kind.startswith("ClassVar"):
                continue
            types[part.target.id] = kind
            if isinstance(part.value, ast.Constant):
                defaults[part.target.id] = part.value.value
    return types, defaults


def _assigned(node: ast.ClassDef) -> dict[str, Any]:
    """Literals that a class assigns without an annotation."""
    found = {}
    for part in node.body:
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            try:
                found[part.targets[0].id] = ast.literal_eval(part.value)
            except ValueError:
                continue
    return found
