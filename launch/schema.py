"""JSON schemas of recipes and suites, so that editors complete them."""

from typing import Any

from cpt.errors import RecipeError
from cpt.hooks import table
from cpt.recipe import FILE, Recipe, StageSpec
from eval.suite_spec import GROUPS, SuiteSpec
from stages import KINDS, kind_of
from stages.trl_fields import train_schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


#: A data set as a person writes it: a config's name, or its settings.
DATA: list[dict[str, Any]] = [{"type": "string"}, {"$ref": "#/$defs/DataSpec"}]


def chain_schema() -> dict[str, Any]:
    """Schema of a chain.yaml; a stage is a file name or a stage."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    stage, more = _stage()
    definitions |= more | {"StageSpec": stage}
    properties = schema["properties"]
    properties.pop(FILE, None)
    either = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/StageSpec"}]}
    properties["stages"] = {"type": "object", "additionalProperties": either, "minProperties": 1}
    properties["model"] = {"anyOf": [{"type": "string"}, properties["model"]]}
    return {"$schema": DRAFT, **schema, "$defs": definitions}


def stage_schema() -> dict[str, Any]:
    """Schema of one stage file."""
    stage, definitions = _stage()
    return {"$schema": DRAFT, **stage, "$defs": definitions}


def suite_schema() -> dict[str, Any]:
    """Schema of a probe suite."""
    schema = SuiteSpec.model_json_schema()
    definitions = schema["$defs"]
    definitions["ProbeSpec"]["properties"]["group"]["enum"] = list(GROUPS)
    view = definitions["ViewSpec"]
    view["properties"]["use"] = {
        "type": "string",
        "description": "a data config whose builder and source these take",
    }
    view["required"] = ["view"]
    return {"$schema": DRAFT, **schema}


def _stage() -> tuple[dict[str, Any], dict[str, Any]]:
    stage = StageSpec.model_json_schema(by_alias=True)
    definitions = stage.pop("$defs", {})
    properties = stage["properties"]
    properties.pop(FILE, None)
    properties["kind"] = {"enum": sorted(KINDS)}
    properties["data"] = {
        "anyOf": [*DATA, {"type": "array", "items": {"anyOf": DATA}, "minItems": 1}]
    }
    properties["hooks"] = {"type": "array", "items": {"anyOf": [*_hooks(definitions)]}}
    definitions["WatchSpec"]["properties"]["text"] = {"anyOf": [*DATA, {"type": "null"}]}
    # Behind the hooks, whose definitions have a DataSpec too.
    definitions["DataSpec"]["properties"]["use"] = {
        "type": "string",
        "description": "a data config whose settings these change",
    }
    properties["train"] = {"type": "object"}
    stage["allOf"] = [
        {"if": {"properties": {"kind": {"const": name}}, **needed}, "then": then}
        for name in sorted(KINDS)
        for needed, then in [_of_kind(name)]
    ]
    return stage, definitions


def _of_kind(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a schema asks before it takes a stage for one of a kind, besides that, and what it then wants."""
    kind = kind_of(name, "schema")
    if not kind.trains:
        return {"required": ["kind"]}, {"required": ["merge"]}
    return {}, {"properties": {"train": train_schema(kind.config)}, "required": ["data"]}


def _hooks(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = [{"enum": sorted(table.names())}]
    for name in sorted(table.names()):
        try:
            kind = table.hook_class(name, "schema")
        except RecipeError:  # another package's, which no recipe can list; `cpt methods` says why
            choices[0]["enum"].remove(name)
            continue
        settings = table.schema(kind)
        definitions |= settings.pop("$defs", {})
        if "source" in settings["properties"]:
            settings["properties"]["source"] = {"anyOf": DATA}
        choices.append(
            {
                "type": "object",
                "properties": {name: {"anyOf": [settings, {"type": "null"}]}},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return choices
