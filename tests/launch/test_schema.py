"""The JSON schemas accept every shipped recipe as it is written, and point at mistakes."""

import operator
from pathlib import Path
from typing import Any

import pytest

from cpt import yaml12
from launch.schema import chain_schema, stage_schema, suite_schema

ROOT = Path(__file__).parents[2]
CHAINS = sorted((ROOT / "recipes").glob("*/chain.yaml"))
SUITES = sorted((ROOT / "configs" / "probes").glob("*.yaml"))
STAGES = sorted(set((ROOT / "recipes").glob("*/*.yaml")) - set(CHAINS))

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, schema: Any, root: Any, path: str = "") -> list[str]:
    """Where a value breaks the part of JSON Schema that our schemas use."""
    if schema is True or schema is False:
        return [] if schema else [f"{path}: not allowed"]
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return faults(value, root["$defs"][name], root, path)
    found: list[str] = []
    if "anyOf" in schema:
        branches = [faults(value, branch, root, path) for branch in schema["anyOf"]]
        if all(branches):
            found += sorted(branches, key=len)[0]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fits = [
        k
        for k in kinds
        if isinstance(value, TYPES[k]) and (k == "boolean") == isinstance(value, bool)
    ]
    if kinds and not fits:
        return [*found, f"{path}: {value!r} is no {'/'.join(kinds)}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{path}: {value!r} is not {schema['const']!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        broken = {
            "minimum": operator.lt,
            "exclusiveMinimum": operator.le,
            "maximum": operator.gt,
            "exclusiveMaximum": operator.ge,
        }
        for bound, breaks in broken.items():
            if bound in schema and breaks(value, schema[bound]):
                found.append(f"{path}: {value} breaks {bound} {schema[bound]}")
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            found += faults(item, schema["items"], root, f"{path}.{number}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for key, item in value.items():
            below = known.get(key, schema.get("additionalProperties", True))
            found += faults(item, below, root, f"{path}.{key}".removeprefix("."))
        found += [
            f"{path}: {key} is missing" for key in schema.get("required", ()) if key not in value
        ]
    for part in schema.get("allOf", ()):
        if "if" in part and not faults(value, part["if"], root, path):
            found += faults(value, part["then"], root, path)
        elif "if" not in part:
            found += faults(value, part, root, path)
    return found


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.parent.name)
def test_shipped_chains_fit(path: Path) -> None:
    schema = chain_schema()
    assert faults(yaml12.load(path), schema, schema) == []


@pytest.mark.parametrize("path", STAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_stages_fit(path: Path) -> None:
    schema = stage_schema()
    assert faults(yaml12.load(path), schema, schema) == []


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites_fit(path: Path) -> None:
    schema = suite_schema()
    assert faults(yaml12.load(path), schema, schema) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"group": "knowlege"}, "probes.facts.group: 'knowlege' is none of"),
        ({"facet": "may"}, "'may'"),
        ({"direction": "up"}, "'up'"),
        ({"dev": 1.5}, "1.5"),
        ({"chatt": True}, "probes.facts.chatt: not allowed"),
        ({"data": {"use": "x.yaml", "view": "v"}}, None),
    ],
)
def test_mistakes_in_a_suite_are_found(change: dict[str, Any], part: str | None) -> None:
    schema = suite_schema()
    tree = {"name": "small", "probes": {"facts": {"group": "knowledge", **change}}}
    found = faults(tree, schema, schema)
    assert (found == []) is (part is None)
    assert part is None or part in "\n".join(found)


def test_a_stage_may_stand_in_its_chain() -> None:
    tree = yaml12.load(CHAINS[0])
    tree["stages"] = {
        path.stem: yaml12.load(path) for path in STAGES if path.parent == CHAINS[0].parent
    }
    schema = chain_schema()
    assert faults(tree, schema, schema) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"kind": "stf"}, "'stf'"),
        ({"hoks": []}, "hoks: not allowed"),
        ({"train": {"learning_rat": 1}}, "train.learning_rat: not allowed"),
        ({"train": {"output_dir": "x"}}, "train.output_dir: not allowed"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate: 'fast'"),
        ({"hooks": ["kk"]}, "'kk'"),
        ({"hooks": [{"kl": {"bta": 1}}]}, "hooks.0"),
        ({"data": {"path": "a", "limt": 3}}, "data"),
        ({"data": []}, None),
        ({"file": "x"}, "file: not allowed"),
        ({"<file>": "x"}, "<file>: not allowed"),
        ({"from": ["base", "sft"], "reference": "base"}, None),
        ({"watch": False}, None),
        ({"watch": {"every": 3, "text": "general.yaml", "suite": "small.yaml"}}, None),
        ({"watch": {"evry": 3}}, "watch"),
    ],
)
def test_mistakes_in_a_stage_are_found(change: dict[str, Any], part: str | None) -> None:
    schema = stage_schema()
    tree = {"kind": "sft", "data": "a.jsonl", "train": {"learning_rate": 1e-5}, **change}
    found = faults(tree, schema, schema)
    assert (found == []) is (part is None)
    assert part is None or part in "\n".join(found)


def test_a_stage_must_have_kind_and_data() -> None:
    schema = stage_schema()
    assert faults({}, schema, schema)[:2] == [": kind is missing", ": data is missing"]


def test_train_has_the_fields_of_the_stages_own_kind() -> None:
    schema = stage_schema()
    beta = {"data": "a.jsonl", "train": {"beta": 0.1}}
    assert faults({"kind": "dpo", **beta}, schema, schema) == []
    assert faults({"kind": "sft", **beta}, schema, schema) == ["train.beta: not allowed"]


def test_every_reference_in_a_schema_has_its_target() -> None:
    for schema in (chain_schema(), stage_schema(), suite_schema()):
        names: set[str] = set()

        def walk(part: Any, names: set[str] = names) -> None:
            if isinstance(part, dict):
                names |= {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
                for below in part.values():
                    walk(below)
            elif isinstance(part, list):
                for below in part:
                    walk(below)

        walk(schema)
        assert names <= {f"#/$defs/{name}" for name in schema["$defs"]}
