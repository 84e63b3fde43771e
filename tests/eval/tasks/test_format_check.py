"""The checks of the format probe accept what was asked for and nothing else."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

TASKS = Path(__file__).parents[3] / "eval" / "tasks"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("format_check", TASKS / "format_check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "answer", "reply", "good"),
    [
        ("copy", "My watch stopped.", "My watch stopped.", True),
        ("copy", "My watch stopped.", ' "My watch stopped." ', True),
        ("copy", "My watch stopped.", "My watch has stopped.", False),
        ("copy", "My watch stopped.", "My watch stopped. Good.", False),
        ("beginning", "One day", "One day a fox came", True),
        ("beginning", "One day", '"One day, a fox', True),
        ("beginning", "One day", "One days", False),
        ("beginning", "One day", "It was one day", False),
        ("greeting", "Anna", "Hello, Anna! How", True),
        ("greeting", "Anna", "Hello, welcome", False),
        ("greeting", "Anna", "Anna, welcome", False),
        ("greeting", "Anna", "Hello Annabel", False),
        ("yes or no", "", "No, a garden", True),
        ("yes or no", "", "yes", True),
        ("yes or no", "", "Not at all", False),
        ("numbered", "", "1. Plant", True),
        ("numbered", "", "1) Plant", True),
        ("numbered", "", "10 things", False),
        ("one word", "", "Cold.", True),
        ("one word", "", "It is cold", False),
        ("one word", "", "", False),
    ],
)
def test_a_reply_is_checked(kind: str, answer: str, reply: str, good: bool) -> None:
    module = load()
    assert module.follows(kind, answer, reply) is good
    doc = {"kind": kind, "answer": answer}
    assert module.process_results(doc, [reply]) == {"acc": float(good)}


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="rhyme"):
        load().follows("rhyme", "", "")
