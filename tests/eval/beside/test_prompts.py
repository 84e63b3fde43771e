"""Prompts from JSON Lines: each once, in order; bad rows are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import DataError
from eval.beside.prompts import read_prompts

SYSTEM = {"role": "system", "content": "be brief"}
ASK = {"role": "user", "content": "why?"}
SAID = {"role": "assistant", "content": "because"}


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_texts_and_messages_are_prompts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.jsonl",
        {"prompt": "why?"},
        {"messages": [SYSTEM, ASK, SAID]},
        {"prompt": [ASK], "completion": [SAID]},
        {"prompt": "how?"},
    )
    found = read_prompts(file)
    assert [prompt.text for prompt in found] == ["why?", "system: be brief\n\nuser: why?", "how?"]
    assert found[1].messages == (SYSTEM, ASK)
    assert len({prompt.id for prompt in found}) == 3
    assert read_prompts(file, 2) == found[:2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "why?"}, "row 2: has neither `prompt` nor `messages`; it holds text"),
        ({"prompt": "  "}, "row 2: asks nothing"),
        ({"messages": [SAID]}, "row 2: asks nothing"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "row 2: .*is no message"),
        ({"messages": ["why?"]}, "row 2: .*is no message"),
        (["why?"], "row 2: not a JSON object"),
    ],
)
def test_a_row_that_asks_nothing_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_prompts(write(tmp_path / "p.jsonl", {"prompt": "why?"}, row))


def test_no_file_and_no_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(write(tmp_path / "p.jsonl"))
