"""The import graph is a ladder: cpt <- stages, eval <- launch. Nothing imports upwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "cpt": {"cpt"},
    "stages": {"cpt", "stages"},
    "eval": {"cpt", "eval"},
    "launch": {"cpt", "stages", "eval", "launch"},
}
TALKS_TO_OTHER_PROCESSES = {"torch.distributed", "accelerate", "deepspeed"}
MAY_TALK = {
    "cpt/world.py",
    "cpt/shards.py",
    "cpt/spread.py",
    "cpt/hooks/trainer.py",
    "eval/probe.py",
    "stages/ppo.py",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for layer in MAY_IMPORT:
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_layer_imports_a_higher_one() -> None:
    for name, tree in sources():
        allowed = MAY_IMPORT[name.partition("/")[0]]
        ours = {imported.partition(".")[0] for imported in imports(tree)} & MAY_IMPORT.keys()
        assert ours <= allowed, f"{name} imports {sorted(ours - allowed)}"


def test_only_few_modules_know_of_other_processes() -> None:
    for name, tree in sources():
        if name in MAY_TALK or name.startswith("launch/"):
            continue
        for imported in imports(tree):
            talks = {
                word for word in TALKS_TO_OTHER_PROCESSES if f"{imported}.".startswith(f"{word}.")
            }
            assert not talks, f"{name} imports {imported}"


def test_tests_are_no_packages() -> None:
    # `tests/stages/__init__.py` would be what `import stages` finds.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_code_is_ascii() -> None:
    for layer in (*MAY_IMPORT, "tests"):
        for path in (ROOT / layer).rglob("*.py"):
            assert path.read_bytes().isascii(), f"{path.relative_to(ROOT)} has non-ASCII characters"
