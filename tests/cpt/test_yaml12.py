from pathlib import Path
from typing import Any

import pytest

from cpt import yaml12
from cpt.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+.inf", float("inf")),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-3", -3),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-31", "2024-01-31"),
        ("'2e-5'", "2e-5"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1e", "1e"),
        ("e5", "e5"),
        ("[1e-3, no, {a: 0o7}]", [0.001, "no", {"a": 7}]),
        ("{<<: 1}", {"<<": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    parsed = yaml12.parse(text, "x")
    assert parsed == value
    assert type(parsed) is type(value)


def test_not_a_number_is_one() -> None:
    assert yaml12.parse(".nan", "x") != yaml12.parse(".nan", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml: line 3: 'a' is given twice"),
        ("a:\n  b: 1\n  c: {d: 1, d: 2}\n", "f.yaml: line 3: 'd' is given twice"),
        ("a: 1\n1: 2\n", "f.yaml: line 2: key 1 is not a string; put it in quotes"),
        ("a: 1\nno no: [\n", "f.yaml: line 3: "),
        ("a: 1\n\tb: 2\n", "f.yaml: line 2: "),
        ("a: b: c\n", "f.yaml: line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "f.yaml: line 2: "),
        ("a: !!python/name:os.system x\n", "f.yaml: line 1: "),
        ("a: *unknown\n", "f.yaml: line 1: "),
        ("a: !!int x\n", "f.yaml: "),
        ("a: \x01\n", "f.yaml: "),
    ],
)
def test_bad_yaml_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as failed:
        yaml12.parse(text, "f.yaml")
    assert str(failed.value).startswith(message)
    assert "\n" not in str(failed.value)


def test_the_documented_message_on_a_repeated_key(tmp_path: Path) -> None:
    file = tmp_path / "chain.yaml"
    file.write_text("name: x\nseed: 1\nmodel: m\nstages: {}\nseed: 2\n")
    with pytest.raises(RecipeError) as failed:
        yaml12.load(file)
    assert str(failed.value) == f"{file}: line 5: 'seed' is given twice"


def test_a_missing_file_is_compared_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text("{}")
    with pytest.raises(RecipeError) as failed:
        yaml12.load(tmp_path / "chian.yaml")
    neighbour = str(tmp_path / "chain.yaml")
    assert str(failed.value) == (
        f"{tmp_path / 'chian.yaml'}: no such file; did you mean {neighbour!r}?"
    )


def test_what_is_no_text_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path, reason in (
        (tmp_path / "latin.yaml", "UTF-8"),
        (tmp_path, "is a folder"),
        (tmp_path / "latin.yaml" / "x.yaml", "Not a directory"),
    ):
        with pytest.raises(RecipeError, match=reason) as failed:
            yaml12.load(path)
        assert str(failed.value).startswith(f"{path}: ")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert yaml12.load(tmp_path / "a.yaml") == {"name": "x"}
