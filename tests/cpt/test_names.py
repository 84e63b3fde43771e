from pathlib import Path
from typing import Any

import pytest

from cpt import past
from cpt.chain_file import LISTED, read_chain
from cpt.errors import RecipeError, StoreError
from cpt.manifest import Ancestor, Manifest
from cpt.names import below, check_part, is_hub_id, is_part
from cpt.past import PastStage

GOOD = ("sft", "sft-91be04e7", "replay.2", "a_b", "model-00001-of-00002.safetensors", "_x", "9")
BAD: tuple[Any, ...] = (
    *("", ".", "..", "...", "a/b", "../a", "a/..", "/etc", "/", "~", "~root", "a\\b", "C:\\x"),
    *(
        "-rf",
        ".hidden",
        "a\0b",
        "a\nb",
        "a b",
        "a.",
        "caf\u00e9",
        "\u2025",
        "%2e%2e",
        "$HOME",
        "a:b",
    ),
    *("x" * 201, None, 3, ["a"]),
)


@pytest.mark.parametrize("name", GOOD)
def test_a_plain_name_is_taken(name: str, tmp_path: Path) -> None:
    assert check_part(name, "here") == name
    assert below(tmp_path, f"sub/{name}", "here") == tmp_path / "sub" / name


@pytest.mark.parametrize("name", BAD)
def test_any_other_name_is_refused_with_its_place(name: Any, tmp_path: Path) -> None:
    assert not is_part(name)
    with pytest.raises(RecipeError, match=r"^here: .* is no plain name"):
        check_part(name, "here", RecipeError)
    if name != "a/b":  # two plain names
        with pytest.raises(StoreError, match="does not stay below"):
            below(tmp_path, name, "here")


def test_hub_ids() -> None:
    assert is_hub_id("gpt2")
    assert is_hub_id("HuggingFaceTB/SmolLM2-135M")
    assert not is_hub_id("a/b/c")
    for name in ("../b", "/etc", "a/../b", "a/", ".a/b", "a/b c", "a..b/c", ""):
        assert not is_hub_id(name)


@pytest.mark.parametrize("name", [name for name in BAD if isinstance(name, str)])
@pytest.mark.parametrize("key", ["id", "name", "chain"])
def test_a_chain_file_names_no_other_place(tmp_path: Path, name: str, key: str) -> None:
    import json

    node = {"name": "sft", "id": "sft-1"}
    tree = {"name": "a", "seed": 1, "recipe_path": "x", "nodes": [node]}
    (tree if key == "chain" else node)["name" if key == "chain" else key] = name
    (tmp_path / "chain.json").write_text(json.dumps(tree))
    with pytest.raises(StoreError, match="is damaged"):
        read_chain(tmp_path / "chain.json", LISTED)


@pytest.mark.parametrize("key", ["..", "../../../home", "/etc", ""])
def test_a_memory_lies_in_its_stage(tmp_path: Path, key: str) -> None:
    stage = PastStage("sft", "sft-1", "sft", tmp_path, "")
    with pytest.raises(StoreError, match="is no plain name"):
        stage.memory(key)


def test_an_ancestor_is_the_stage_that_the_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "exemplars.jsonl").write_text("{}\n")
    Manifest(id="base-1", kind="base", name="base").write(tmp_path / "base-1")
    for place in ("../secret", "../base-1", str(tmp_path / "base-2")):
        ancestor = Ancestor("base", "base-2", "base", place)
        Manifest(id="sft-1", kind="sft", name="sft", past=(ancestor,)).write(tmp_path / "sft-1")
        with pytest.raises(StoreError, match=r"no manifest\.json|is not the folder of base-2"):
            past.of_folder(tmp_path / "sft-1")
