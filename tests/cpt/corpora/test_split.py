"""Nothing that is probed stands in training data."""

import re
from typing import Any

import pytest

from cpt.corpora.signatures import Function, functions
from cpt.corpora.source import find, split

Views = dict[str, list[dict[str, Any]]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str, length: int = 13) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + length]) for i in range(len(found) - length + 1)}


def texts(row: dict[str, Any]) -> str:
    if "text" in row:
        return str(row["text"])
    parts = [row.get(key, []) for key in ("messages", "prompt", "chosen", "rejected")]
    return "\n".join(message["content"] for part in parts for message in part)


def test_files_are_used_once() -> None:
    source = find("stdlib")
    parts = split(source)
    together = [*parts.train, *parts.validation, *parts.probe]
    assert sorted(together) == sorted(source.files)
    assert len(set(together)) == len(together)
    assert len(parts.train) > 200


@pytest.mark.parametrize("fixture", ["package", "stdlib"])
def test_no_probed_question_or_text_is_trained_on(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    views: Views = request.getfixturevalue(fixture)
    questions = {row["question"] for row in views["probe_skill"]}
    signatures = {question.partition("\n")[0] for question in questions}
    forbidden = set().union(*(runs(row["text"]) for row in views["probe_text"]))
    assert forbidden
    for view in ("questions", "preferences", "prompts"):
        for name in (view, f"{view}_validation"):
            asked = {texts(row).partition("\n")[0] for row in views.get(name, [])}
            assert asked.isdisjoint(signatures), name
    for name in ("documents", "documents_validation"):
        for row in views[name][:1000]:
            assert forbidden.isdisjoint(runs(row["text"]))
            assert not any(f"    {s}:" in row["text"] for s in list(signatures)[:50])


def test_the_stages_learn_from_different_functions(stdlib: Views) -> None:
    asked = [
        {texts(row).partition("\n")[0] for row in stdlib[view]}
        for view in ("questions", "preferences", "prompts", "questions_validation")
    ]
    for place, one in enumerate(asked[:3]):
        for other in asked[place + 1 : 3]:
            assert one.isdisjoint(other)


def test_general_probes_share_nothing_with_what_is_rehearsed(general: Views) -> None:
    rehearsed = "\n".join(
        texts(row) for view in ("chat", "chat_validation") for row in general[view]
    )
    for view in ("probe_arithmetic", "probe_commonsense", "probe_facts"):
        for row in general[view]:
            assert row["question"] not in rehearsed
    for row in general["probe_english"]:
        assert f"{row['question']} {row['choices'][row['answer']]}" not in rehearsed
    for row in general["probe_facts"]:
        question, answer = row["question"], row["choices"][row["answer"]]
        if question.endswith(" is the capital of"):
            assert f"capital of {answer}" not in rehearsed
        elif question.endswith(" is a country in"):
            assert f"continent is {question.removesuffix(' is a country in')}" not in rehearsed
        else:
            city = question.removeprefix("The city of ").removesuffix(" is in")
            assert f"{city} is in" not in rehearsed
    for row in general["probe_format"]:
        assert row["question"] not in rehearsed
    prose = set().union(*(runs(row["text"]) for row in general["probe_prose"]))
    for view in ("documents", "documents_validation", "chat", "chat_validation"):
        for row in general[view]:
            assert prose.isdisjoint(runs(texts(row))), row


def test_validation_rows_are_held_out(general: Views, stdlib: Views) -> None:
    for views in (general, stdlib):
        for name in views:
            if name.endswith("_validation"):
                train = {str(row) for row in views[name.removesuffix("_validation")]}
                assert train.isdisjoint(str(row) for row in views[name]), name


def test_signatures_are_read_without_annotations() -> None:
    code = (
        "class A:\n"
        "    async def f(self, a: int, b: str = 'x', *rest: int, c: bool = True, d, **more) -> int:\n"
        "        '''Adds up all of it.'''\n"
        "def none(): ...\n"
    )
    assert list(functions(code)) == [
        Function(
            name="f",
            signature="def f(self, a, b='x', *rest, c=True, d, **more)",
            parameters=("self", "a", "b", "c", "d"),
            defaults=(("b", "'x'"), ("c", "True")),
            summary="Adds up all of it.",
        )
    ]
    assert list(functions("def broken(:")) == []
